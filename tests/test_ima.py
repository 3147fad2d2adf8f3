"""The kernel's measurement list: decoding, replay, and each rule by its vector."""

from __future__ import annotations

import contextlib
import tomllib
from dataclasses import replace
from pathlib import Path

import ima_forge as forge
import make_ima_vectors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import EvidenceError
from attest.evidence import Outcome
from attest.ima import CheckedIma, check_ima, replay_ima
from attest.imalog import MAX_ENTRIES, MAX_LIST, ImaEntry, ImaForm, ImaLog, decode_ima
from attest.quote import Values
from attest.reasons import Reason

VECTORS = Path(__file__).parent / "vectors" / "ima"
PATHS = sorted(VECTORS.glob("*.toml"))
GOOD = make_ima_vectors.GOOD
FIRST = GOOD[0]
DIGEST, NAME = b"sha256:\0" + bytes(32), b"/x.ko\0"


def quoted(vector: dict) -> Values:
    return {
        bank: {int(index): bytes.fromhex(value) for index, value in held.items()}
        for bank, held in vector["pcrs"].items()
    }


def judge(vector: dict) -> CheckedIma:
    return check_ima(
        (VECTORS / vector["list"]).read_bytes() if vector["list"] else None,
        quoted(vector),
        tuple(
            {bank: bytes.fromhex(digest) for bank, digest in module.items()}
            for module in vector["modules"]
        ),
        secure_boot=vector["secure_boot"],
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_list_is_judged_as_its_vector_says(path: Path) -> None:
    vector = tomllib.loads(path.read_text())
    found = judge(vector)
    assert [each.reason.code for each in found.findings] == [vector["expect"]] * bool(
        vector["expect"]
    ), found.findings
    if vector["expect"]:
        assert vector["says"] in found.findings[0].detail
        unjudged = vector["expect"] == Reason.IMA_MISSING.code
        assert found.outcome is (Outcome.UNCHECKED if unjudged else Outcome.DIFFERS)
    else:
        assert list(found.workarounds) == vector["workarounds"]
        assert found.proved == vector["proved"]
        assert found.outcome is (Outcome.EQUAL if vector["list"] else Outcome.UNCHECKED)


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert make_ima_vectors.files() == {path.name: path.read_bytes() for path in VECTORS.iterdir()}


def test_every_reason_and_every_line_of_the_checklist_has_a_vector() -> None:
    loaded = [tomllib.loads(path.read_text()) for path in PATHS]
    assert {vector["expect"] for vector in loaded} == {
        "",
        "IMA-MISSING",
        "IMA-MALFORMED",
        "IMA-REPLAY",
        "IMA-VIOLATION",
        "MODULE-UNKNOWN",
    }
    assert {line for vector in loaded for line in vector["lines"]} == {47, 48}


def told(name: str) -> str:
    return judge(tomllib.loads((VECTORS / f"{name}.toml").read_text())).findings[0].sentence


def test_sentences_fit_the_case() -> None:
    assert told("kexec-command-line").startswith("The box was about to start another kernel")
    assert "build it again" in told("set-without-module-list")
    assert told("measured-nothing-under-secure-boot").startswith("The kernel of the box measured")
    assert told("list-missing-under-secure-boot") == told("measured-nothing-under-secure-boot")
    assert told("list-missing") == Reason.IMA_MISSING.sentence
    assert told("module-unknown") == Reason.MODULE_UNKNOWN.sentence


def check(entries: list[ImaEntry]) -> CheckedIma:
    values = forge.extended(make_ima_vectors.PCRS, entries)
    known = tuple(forge.digests(data) for data in forge.MODULES.values())
    return check_ima(forge.encode(forge.make_list(entries)), values, known, secure_boot=True)


def test_all_that_is_wrong_is_found_at_once() -> None:
    kexec = forge.make_entry(b"k" * 32, "kexec-cmdline", "ima-buf", rest=[b"quiet"])
    strange = forge.make_entry(b"s" * 32, "/strange.ko")
    broken = replace(strange, violation=True)
    found = check([*GOOD[1:], kexec, strange, broken])
    assert [each.reason for each in found.findings] == [
        Reason.IMA_REPLAY,
        Reason.IMA_VIOLATION,
        Reason.MODULE_UNKNOWN,
        Reason.MODULE_UNKNOWN,
    ]
    assert "kexec" not in found.findings[3].detail
    assert found.findings[3].detail == (
        f"sha256 {b's'.hex() * 32}; the box calls it '/strange.ko' (unproven)"
    )


def test_many_strange_entries_make_one_short_finding() -> None:
    many = [forge.make_entry(bytes([n]) * 32, f"/{'x' * 4000}{n}") for n in range(200)]
    (finding,) = check([FIRST, *many]).findings
    assert finding.detail.endswith("and 197 more")
    assert len(finding.detail) < 1000
    (finding,) = check([FIRST, *many[:3]]).findings
    assert finding.detail.endswith("(unproven)")
    (finding,) = check([FIRST, forge.unknown_entry("x" * 255, b"")]).findings
    assert len(finding.detail) < 200


def test_a_name_cannot_forge_a_line_of_the_log() -> None:
    (finding,) = check([FIRST, forge.make_entry(b"s" * 32, "/a\nb\x1b[31m")]).findings
    assert "'/a\\nb\\x1b[31m'" in finding.detail


def test_replay_gives_each_prefix() -> None:
    log = forge.make_list(GOOD)
    values = list(replay_ima(log, "sha256"))
    assert len(values) == 1 + len(GOOD)
    assert values[0] == bytes(32)
    for count, value in enumerate(values):
        pcrs = forge.extended(make_ima_vectors.PCRS, GOOD[:count])
        assert pcrs["sha256"][10] == value


def test_a_violation_extends_ones_over_the_whole_bank() -> None:
    entries = [replace(FIRST, violation=True)]
    for padded in (False, True):
        values = list(replay_ima(forge.make_list(entries), "sha384", padded=padded))
        assert values[1] == forge.extended({"sha384": {}}, entries)["sha384"][10]


def test_templates_give_digest_and_name() -> None:
    for entry in (
        *forge.modules("failover", template="ima", algorithm="sha1"),
        *forge.modules("failover", template="ima-ng", algorithm="sha512"),
        *forge.modules("failover", template="ima-sigv2", kind="verity"),
        *forge.modules("failover", template="ima-modsig"),
        forge.make_entry(b"buffer".ljust(32), ".ima", "ima-buf", rest=[b"key"]),
        forge.make_entry(b"other", "/x", algorithm="streebog256"),
        forge.make_entry(bytes(32), "/x", "ima-modsig", rest=[b"sig", DIGEST, b"\x30\0"]),
    ):
        for form in ImaForm:
            log = replace(forge.make_list([entry]), form=form)
            assert decode_ima(forge.encode(log)) == log


def test_an_empty_list_is_one() -> None:
    assert decode_ima(b"") == forge.make_list([])


def fields(*parts: bytes) -> ImaEntry:
    return forge.unknown_entry("ima-sig", b"".join(forge.sized(part) for part in parts))


V2 = replace(fields(b"ima:" + DIGEST, NAME), template="ima-ngv2")
BAD_ENTRIES = [
    ("cut off", replace(FIRST, data=FIRST.data[:50])),
    ("cut off", fields(DIGEST)),
    ("not the size of their fields", fields(DIGEST, NAME, b"", b"")),
    ("not the size of their fields", replace(FIRST, data=FIRST.data + b"\0")),
    ("not the size of their fields", replace(FIRST, data=FIRST.data[:-4] + b"\1\0\0\0")),
    ("does not end", fields(DIGEST, b"/x.ko", b"")),
    ("does not end", fields(DIGEST, b"", b"")),
    ("an end in its middle", fields(DIGEST, b"/x\0.ko\0", b"")),
    ("has a wrong size", fields(bytes(32), NAME, b"")),
    ("has a wrong size", fields(b"sm3-256:\0", NAME, b"")),
    ("has a wrong size", fields(b"sha256:\0", NAME, b"")),
    ("is malformed", fields(b"ima:" + DIGEST, NAME, b"")),
    ("is malformed", replace(V2, data=forge.sized(DIGEST) + forge.sized(NAME))),
    ("has a wrong size", fields(DIGEST + b"\0", NAME, b"")),
    ("has a wrong size", fields(b"sha1:\0" + bytes(32), NAME, b"")),
    ("no template name", replace(FIRST, template="ima sig")),
    ("no template name", replace(FIRST, template="x" * 256)),
]


@pytest.mark.parametrize(("text", "entry"), BAD_ENTRIES)
def test_a_bad_entry_is_refused(text: str, entry: ImaEntry) -> None:
    with pytest.raises(EvidenceError, match=text):
        decode_ima(forge.encode(forge.make_list([FIRST, entry])))
    if entry.template == V2.template:
        assert decode_ima(forge.encode(forge.make_list([V2])))


def test_a_long_template_name_is_kept() -> None:
    entry = forge.unknown_entry("x" * 255, b"")
    for log in (forge.make_list([entry]), forge.make_list([FIRST, entry])):
        assert decode_ima(forge.encode(log)) == log


def test_the_old_template_is_read_strictly() -> None:
    (good,) = forge.modules("failover", template="ima", algorithm="sha1")
    data = forge.encode(forge.make_list([good]))
    for cut in range(1, len(data)):
        with pytest.raises(EvidenceError):
            decode_ima(data[:cut])
    for size, accepted in ((255, True), (256, False)):
        entry = forge.make_entry(bytes(20), "n" * size, "ima", algorithm="sha1")
        with contextlib.nullcontext() if accepted else pytest.raises(EvidenceError, match="long"):
            assert decode_ima(forge.encode(forge.make_list([entry])))
    inner = replace(good, data=good.data[:22] + b"\0" + good.data[23:])
    with pytest.raises(EvidenceError, match="an end in its middle"):
        decode_ima(forge.encode(forge.make_list([inner])))


def test_every_cut_of_a_list_is_refused_or_shorter() -> None:
    # The data of a violation are covered by no digest.
    entries = [*GOOD, replace(forge.unknown_entry("site-own", b"whatever"), violation=True)]
    data = forge.encode(forge.make_list(entries))
    counts = range(len(entries) + 1)
    ends = {len(forge.encode(forge.make_list(entries[:count]))) for count in counts}
    for cut in range(len(data)):
        if cut in ends:
            assert decode_ima(data[:cut])
        else:
            with pytest.raises(EvidenceError):
                decode_ima(data[:cut])


TEXT = forge.encode(ImaLog(form=ImaForm.TEXT, bank="sha1", entries=tuple(GOOD)))
LINE = TEXT.split(b"\n")[0]
OLD_LINE = b"10 " + b"00" * 20 + b" ima "
BAD_TEXTS = [
    ("in its last line", TEXT[:-1]),
    ("does not begin with PCR", TEXT + b"\n"),
    ("does not begin with PCR", b"ten" + LINE[2:] + b"\n"),
    ("does not begin with PCR", b"010" + LINE[2:] + b"\n"),
    ("does not begin with PCR", b"\xb2" + LINE[2:] + b"\n"),
    ("does not begin with PCR", LINE[:3] + b"00" + LINE[3:] + b"\n"),
    ("entry for PCR 9", b" 9" + LINE[2:] + b"\n"),
    ("hexadecimal", LINE[:3] + b"g" + LINE[4:] + b"\n"),
    ("hexadecimal", LINE + b"a\n"),
    ("hexadecimal", LINE + b"AA\n"),
    ("no template known", LINE.replace(b"ima-sig", b"site-own") + b"\n"),
    ("no template known", LINE + b" \n"),
    ("no template known", LINE.rstrip() + b"\n"),
    ("no template known", OLD_LINE + b"\n"),
    ("no template known", LINE.replace(b"ima-sig", b"ima-s\xffg") + b"\n"),
    ("digest of an ima entry has a wrong size", OLD_LINE + b"00 /x\n"),
    ("digest of IMA entry 1", LINE + b"\n" + LINE.replace(b"boot_", b"root_") + b"\n"),
    ("digest of IMA entry 0", LINE.replace(b"sha256:", b"") + b"\n"),
]


@pytest.mark.parametrize(("text", "data"), BAD_TEXTS)
def test_a_bad_text_is_refused(text: str, data: bytes) -> None:
    with pytest.raises(EvidenceError, match=text):
        decode_ima(data)


def test_sizes_are_bounded() -> None:
    with pytest.raises(EvidenceError, match="larger than"):
        decode_ima(bytes(MAX_LIST + 1))
    one = forge.encode(forge.make_list([forge.unknown_entry("x", b"")]))
    assert len(decode_ima(one * MAX_ENTRIES).entries) == MAX_ENTRIES
    with pytest.raises(EvidenceError, match="more than 65536 entries"):
        decode_ima(one * (MAX_ENTRIES + 1))
    huge = b"\x0a\0\0\0" + bytes(20) + forge.sized(b"ima-sig") + b"\xff" * 4
    with pytest.raises(EvidenceError, match="cut off"):
        decode_ima(huge)


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255), st.booleans())
@settings(max_examples=200)
def test_any_bytes_give_a_list_or_our_error(junk: bytes, at: int, value: int, text: bool) -> None:
    changed = bytearray(TEXT if text else forge.encode(forge.make_list(GOOD)))
    changed[at % len(changed)] = value
    for data in (junk, b"10 " + junk + b"\n", bytes(changed)):
        with contextlib.suppress(EvidenceError):
            log = decode_ima(data)
            assert decode_ima(forge.encode(log)) == log


NAMES = st.text(st.characters(blacklist_characters=" \n\0", blacklist_categories=["Cs"]))
ENTRIES = st.one_of(
    st.builds(
        lambda digest, name, template, violation: forge.make_entry(
            digest, name, template, violation=violation
        ),
        st.binary(min_size=32, max_size=32),
        NAMES,
        st.sampled_from(sorted(forge.FIELDS)),
        st.booleans(),
    ),
    st.builds(
        lambda digest, name: forge.make_entry(digest, name, "ima", algorithm="sha1"),
        st.binary(min_size=20, max_size=20),
        st.text("abc/._", max_size=40),
    ),
)
UNKNOWN = st.builds(
    forge.unknown_entry,
    st.text("abc-|", min_size=1, max_size=20),
    st.binary(max_size=60),
)


@given(
    st.lists(st.one_of(ENTRIES, UNKNOWN), min_size=1, max_size=5),
    st.lists(ENTRIES, min_size=1, max_size=5),
    st.sampled_from(forge.BANKS),
)
@settings(max_examples=100)
def test_a_list_is_read_back_as_it_was(
    entries: list[ImaEntry], known: list[ImaEntry], bank: str
) -> None:
    binary = forge.make_list([replace(entry, violation=False) for entry in entries], bank)
    assert decode_ima(forge.encode(binary)) == binary
    text = replace(forge.make_list(known), form=ImaForm.TEXT)
    assert decode_ima(forge.encode(text)) == text
