"""Makers' reference integrity manifests: which tags and logs become an entry, and which do not."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import make_firmware_vectors as make
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.baseline import FirmwareEntry, Machine
from attest.errors import AttestSiteError
from attest.eventlog import EventType
from attest.rim import MAX_FILES, MAX_TAG, SupportFile, decode_tag, entry_from_rim

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha256"
HASH_384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
HASH_512 = "http://www.w3.org/2001/04/xmlenc#sha512"
WHO = (
    ' rim:platformManufacturerStr="Dell Inc." rim:platformModel="PowerEdge R250"'
    ' rim:firmwareVersion="1.3.0"'
)
LOG = make.log_of(make.GOOD, ("sha1", "sha256"))


def file(
    data: bytes, name: str = "R250.rimel", *, size: int | None = None, hashes: str = ""
) -> str:
    given = hashes or f'h:hash="{hashlib.sha256(data).hexdigest()}"'
    return f'<File xmlns:h="{HASH}" {given} name="{name}" size="{size or len(data)}"/>'


def tag(files: str = "", *, root: str = "", meta: str = WHO, before: str = "") -> bytes:
    """Give a base RIM as makers' tools write it."""
    return (
        f'<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n{before}'
        f'<SoftwareIdentity xmlns="{SWID}" corpus="false" tagId="94f6b457"{root}>\n'
        '  <Entity name="Dell Inc." role="softwareCreator tagCreator"/><!-- signed below -->\n'
        '  <Meta xmlns:rim="https://trustedcomputinggroup.org/wp-content/uploads/TCG_RIM_Model"'
        f' rim:bindingSpec="PC Client RIM"{meta}/>\n'
        f'  <Payload><Directory name="rim">{files or file(LOG)}</Directory></Payload>\n'
        '  <Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/>\n'
        "</SoftwareIdentity>\n"
    ).encode()


def entry(*logs: bytes, files: str = "") -> FirmwareEntry:
    base = decode_tag(
        tag(files or "".join(file(log, f"{n}") for n, log in enumerate(logs))), "base"
    )
    supports = [(f"support {number}", log) for number, log in enumerate(logs)]
    return entry_from_rim(base, supports, make.MACHINE, "base")


def refusal(data: bytes) -> str:
    with pytest.raises(AttestSiteError) as found:
        decode_tag(data, "there")
    return str(found.value)


def test_a_tag_says_which_machine_it_is_of_and_names_its_logs() -> None:
    found = decode_tag(tag(), "base")
    assert (found.vendor, found.model, found.version) == ("Dell Inc.", "PowerEdge R250", "1.3.0")
    assert found.tag_id == "94f6b457"
    assert found.sha256 == hashlib.sha256(tag()).digest()
    digest = hashlib.sha256(LOG).digest()
    assert found.files == (
        SupportFile(name="R250.rimel", size=len(LOG), digests={"sha256": digest}),
    )


def test_namespaces_may_have_any_prefix_and_a_byte_order_mark_may_stand_first() -> None:
    text = tag().decode().replace(f'xmlns="{SWID}"', f'xmlns:ns2="{SWID}"')
    for name in ("SoftwareIdentity", "Entity", "Meta", "Payload", "Directory", "File"):
        text = text.replace(f"<{name} ", f"<ns2:{name} ").replace(f"<{name}>", f"<ns2:{name}>")
        text = text.replace(f"</{name}>", f"</ns2:{name}>")
    found = decode_tag(b"\xef\xbb\xbf" + text.encode(), "base")
    assert found.files == decode_tag(tag(), "base").files
    assert found.model == "PowerEdge R250"


def test_what_a_tag_does_not_say_is_empty() -> None:
    found = decode_tag(tag(meta=' rim:platformModel=" R250\t"'), "base")
    assert (found.vendor, found.model, found.version) == ("", "R250", "")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "there: it is no XML"),
        (b"\xff", "there: it is no XML in UTF-8"),
        (tag().decode().encode("utf-16"), "there: it is no XML in UTF-8"),
        (tag()[:-9], "there: it is no XML"),
        (b"<a/>", "there: it is no SWID tag"),
        (tag(root=' supplemental="true"'), "there: it is a supplemental tag: give the base RIM"),
        (tag(root=' patch="1"'), "there: it is a patch tag"),
        (tag("<Nothing/>"), "there: it names no support RIM"),
        (tag(file(LOG) * (MAX_FILES + 1)), "there: it names no support RIM, or more than 64"),
        (tag(file(LOG, hashes='size2="1"')), "there: R250.rimel has no SHA-256, SHA-384"),
        (tag(file(LOG, hashes='h:other="ab"')), "there: R250.rimel has no SHA-256"),
        (tag(file(LOG, hashes='hash="ab"')), "there: R250.rimel has no SHA-256"),
        (tag(file(LOG, hashes='h:hash="xy"')), "there: a hash is not hexadecimal"),
        (tag(before='<!DOCTYPE a [<!ENTITY b "c">]>'), "there: it declares a document type"),
        (tag(before="<!DOCTYPE a>"), "there: it declares a document type"),
        (tag(before="<!-- <!ENTITY -->"), "there: it declares a document type"),
        (tag() + b" " * MAX_TAG, "there: it is larger than"),
    ],
)  # fmt: skip
def test_a_tag_that_is_wrong_is_refused(data: bytes, told: str) -> None:
    assert told in refusal(data)


def test_neither_false_nor_nought_makes_a_supplement() -> None:
    for value in ("false", "0"):
        assert decode_tag(tag(root=f' supplemental="{value}" patch="{value}"'), "base").files


def test_a_tag_and_its_log_give_values_and_option_roms() -> None:
    found = entry(LOG)
    both = ("sha1", "sha256")
    assert found.values == make.entry(banks=both).values
    assert found.events == make.events_of((make.ROM, make.ROM_2), both)
    assert found.machine == make.MACHINE
    assert found.source == (
        "maker's RIM 94f6b457 (signature not checked, headquarters signs for it)"
    )


def test_a_log_without_separators_gives_events() -> None:
    found = entry(make.log_of(make.STEPS))
    assert found.values == {}
    assert found.events == make.events_of(make.STEPS)


def test_a_pcr_in_which_nothing_but_its_separator_is_measured_has_no_events() -> None:
    found = entry(make.log_of(make.ends()))
    assert set(found.values["sha256"]) == {0, 2, 3, 6}
    assert found.events == {}


def test_a_tag_without_an_id_is_called_by_its_file() -> None:
    base = decode_tag(tag().replace(b'tagId="94f6b457"', b""), "base")
    found = entry_from_rim(base, [("log", LOG)], make.MACHINE, "R250.swidtag")
    assert found.source.startswith("maker's RIM R250.swidtag (")


def test_several_logs_each_speak_of_their_own_pcrs() -> None:
    def part(*indices: int) -> bytes:
        return make.log_of([step for step in make.GOOD if step[0] in indices])

    apart = make.log_of((make.CRTM,)), make.log_of((make.VOLUME,))
    assert entry(part(0, 2), part(3, 6)).values == make.entry().values
    for again in ((part(0), part(0, 2)), (part(2), make.log_of((make.ROM,))), apart):
        with pytest.raises(
            AttestSiteError, match="support 1: two support RIMs speak of sha256 PCR"
        ):
            entry(*again)


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_every_hash_that_a_tag_gives_must_fit(name: str) -> None:
    namespaces = {"sha256": HASH, "sha384": HASH_384, "sha512": HASH_512}
    good = hashlib.new(name, LOG).hexdigest()
    one = f'xmlns:k="{namespaces[name]}" k:hash="{good}"'
    assert entry(LOG, files=file(LOG, hashes=one)).values
    sha256 = f'h:hash="{hashlib.sha256(LOG).hexdigest()}"'
    wrong = f'xmlns:k="{HASH_512}" k:hash="{"00" * 64}"'
    with pytest.raises(AttestSiteError, match="support 0: it is no support RIM of this tag"):
        entry(LOG, files=file(LOG, hashes=f"{sha256} {wrong}"))


def test_the_size_must_fit_where_it_is_one() -> None:
    with pytest.raises(AttestSiteError, match="it is no support RIM of this tag"):
        entry(LOG, files=file(LOG, size=len(LOG) + 1))
    for odd in ("", "-1", "\u0661", "9" * 20):
        named = file(LOG).replace(f'size="{len(LOG)}"', f'size="{odd}"')
        assert entry(LOG, files=named).values


def test_all_support_rims_are_wanted_and_no_other() -> None:
    files = file(LOG, "first") + file(b"other", "second")
    with pytest.raises(AttestSiteError, match="base: give its support RIMs too: second$"):
        entry(LOG, files=files)
    with pytest.raises(AttestSiteError, match="support 1: it is no support RIM of this tag"):
        entry(LOG, b"strange", files=file(LOG))


def test_a_support_rim_is_a_log_that_measures_firmware() -> None:
    with pytest.raises(AttestSiteError, match="support 0: it is no event log"):
        entry(b"no log")
    short = make.forge.header([(0x4, 20), (0xB, 32)])
    short += make.forge.agile(0, EventType.POST_CODE, [(0xB, bytes(32))], b"")
    with pytest.raises(AttestSiteError, match="support 0: it is no event log: .* lacks its sha1"):
        entry(short)
    other = make.log_of([(4, EventType.POST_CODE, b"x")])
    with pytest.raises(AttestSiteError, match="base: it has neither values nor events"):
        entry(other)


def test_banks_that_no_entry_knows_are_left_out() -> None:
    digests = [(0xB, hashlib.sha256(b"x").digest()), (0x27, hashlib.sha3_256(b"x").digest())]
    log = make.forge.header([(0xB, 32), (0x27, 32)])
    log += make.forge.agile(0, EventType.POST_CODE, digests, b"x")
    assert set(entry(log).events) == {"sha256"}


def test_the_machine_is_the_one_that_is_given() -> None:
    base = decode_tag(tag(), "base")
    machine = replace(make.MACHINE, model="0XYZ12")
    assert entry_from_rim(base, [("log", LOG)], machine, "base").machine == machine
    with pytest.raises(AttestSiteError, match="base: version: write the text"):
        entry_from_rim(
            base, [("log", LOG)], Machine(vendor="V", model="M", version=""), "base"
        )  # fmt: skip


@given(
    st.binary(max_size=300)
    | st.text("<>/!=\"' abFileSoftwareIdentityhash&;x#", max_size=300).map(str.encode)
    | st.text(max_size=60).map(lambda text: tag(text))
    | st.text(max_size=60).map(lambda text: tag(root=" " + text))
)
def test_any_bytes_are_a_tag_or_refused(data: bytes) -> None:
    try:
        found = decode_tag(data, "there")
    except AttestSiteError as error:
        assert str(error).startswith("there: ")  # noqa: PT017
    else:
        assert found.files
