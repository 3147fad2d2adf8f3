"""The firmware baseline and its signed file: what is read, what is refused, in which words."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import make_firmware_vectors as make
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attest.baseline import Baseline, FirmwareEntry, Machine, firmware_digest, machine_text
from attest.errors import AttestSiteError
from attest.firmwarefile import (
    BANKS,
    CONTEXT,
    INDICES,
    MAX_BASELINE,
    MAX_ENTRIES,
    SignedBaseline,
    check_entry,
    decode_baseline,
    encode_baseline,
    entry_id,
    entry_text,
    verify_baseline,
)
from keys.manifest import PublicKey, sign
from keys.note import CONTEXT as NOTE
from keys.signed import Floor

KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
PUBLIC = PublicKey.of(KEY.public_key()).encode()
ENTRY = make.entry()
FILE = encode_baseline(Baseline(entries=(ENTRY, make.by_events())))
HEAD = 'type = "doorstep/firmware/v1"\n'
WHO = 'vendor = "V"\nmodel = "M"\nversion = "1"\n'
ONE = f"{HEAD}[[firmware]]\n{WHO}"
HEX = "ab" * 32


def signature(
    data: bytes,
    comment: str = "firmware counter=7",
    key: Ed25519PrivateKey = KEY,
    to: str = CONTEXT,
) -> bytes:
    return sign(key, data, trusted_comment=comment, context=to)


def verify(data: bytes, signed: bytes | None = None, floor: Floor | None = None) -> SignedBaseline:
    return verify_baseline(
        data, signature(data) if signed is None else signed, public_key=PUBLIC, floor=floor
    )


def refusal(data: bytes) -> str:
    with pytest.raises(AttestSiteError) as found:
        decode_baseline(data, "there.toml")
    return str(found.value)


# The signed file


def test_a_signed_file_becomes_a_baseline() -> None:
    found = verify(FILE)
    assert found.baseline.entries == (ENTRY, make.by_events())
    assert found.signed.floor == Floor(counter=7, digest=sha256(FILE).digest())


@pytest.mark.parametrize(
    ("signed", "told"),
    [
        (signature(FILE + b"\n"), "the document is not what was signed"),
        (signature(FILE, key=Ed25519PrivateKey.from_private_bytes(b"\2" * 32)), "another key"),
        (signature(FILE, to=NOTE), "another purpose"),
        (signature(FILE, "counter=7"), r"its trusted comment is not `site=\* counter=…`"),
        (signature(FILE, "firmware counter=7 site=a"), "its trusted comment is not"),
        (signature(FILE, "site=shop-0417 counter=7"), "is for site shop-0417, it must be for all"),
        (signature(FILE, "firmware counter=-1"), "its trusted comment is not"),
        (b"", "a signature file has four lines"),
    ],
)
def test_a_file_that_headquarters_did_not_sign_counts_nowhere(signed: bytes, told: str) -> None:
    with pytest.raises(AttestSiteError, match=told):
        verify(FILE, signed)


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(AttestSiteError, match=r"^trust/firmware.toml: .*`doorstep firmware sign`"):
        verify(FILE, b"")


def test_a_signed_file_must_still_be_read() -> None:
    with pytest.raises(AttestSiteError, match="trust/firmware.toml: it is no TOML"):
        verify(b"\xff")


def test_only_a_newer_baseline_follows() -> None:
    seen = verify(FILE).signed.floor
    assert verify(FILE, floor=seen) == verify(FILE)
    other = encode_baseline(Baseline(entries=(ENTRY,)))
    with pytest.raises(AttestSiteError, match="another firmware baseline with counter 7"):
        verify(other, floor=seen)
    with pytest.raises(AttestSiteError, match="has counter 6, this site has seen 7"):
        verify(other, signature(other, "firmware counter=6"), seen)
    with pytest.raises(AttestSiteError, match="has counter 6, this site has seen 7"):
        verify(FILE, signature(FILE, "firmware counter=6"), seen)
    assert verify(other, signature(other, "firmware counter=8"), seen).counter == 8


# The form


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", 'type: write type = "doorstep/firmware/v1"'),
        ('type = "doorstep/policy/v1"', "type: write"),
        ("type = ", "it is no TOML in UTF-8"),
        ("a = " + "[" * 5000, "it is no TOML in UTF-8"),
        (HEAD + "firmwares = []", "firmwares: there is no such key"),
        (HEAD + "firmware = {}", "firmware: write at most 4096"),
        (HEAD + "firmware = [" + "1," * (MAX_ENTRIES + 1) + "]", "firmware: write at most 4096"),
        (HEAD + "firmware = [1]", "firmware 1: write a [[firmware]] table"),
        (HEAD + "[[firmware]]\n", "firmware 1: vendor: write the text that the box shows"),
        (f'{HEAD}[[firmware]]\nvendor = "V"\nmodel = 7', "firmware 1: model: write the text"),
        (
            f'{HEAD}[[firmware]]\nvendor = "V"\nmodel = "M"\nversion = ""',
            "firmware 1: version: write the text",
        ),
        (f'{HEAD}[[firmware]]\nvendor = " V"', "firmware 1: vendor: write the text"),
        (f'{HEAD}[[firmware]]\nvendor = "{"V" * 61}"', "at most 60 characters"),
        (ONE, "firmware 1: it has neither values nor events"),
        (ONE + "events = {}\nvalues = {}", "firmware 1: it has neither values nor events"),
        (ONE + "size = 7", "firmware 1: size: there is no such key"),
        (ONE + "source = 7", "firmware 1: source: write one line"),
        (f'{ONE}source = "{"s" * 201}"', "firmware 1: source: write one line of at most 200"),
        (ONE + 'source = "a\\nb"', "firmware 1: source: write one line"),
        (ONE + "keys = {}", "firmware 1: keys: write a list of digests"),
        (ONE + 'keys = ["ab"]', "firmware 1: keys: write 64 hexadecimal digits"),
        (ONE + "values = []", "firmware 1: values: write a table"),
        (ONE + "[firmware.values.sha3]\n", "firmware 1: values.sha3: known banks are sha1, sha256"),
        (ONE + "[firmware.values]\nsha256 = []", "firmware 1: values.sha256: write a table"),
        (ONE + "[firmware.values.sha256]\n", "firmware 1: values.sha256: it is empty"),
        (
            f'{ONE}[firmware.values.sha256]\n4 = "{HEX}"',
            "sha256.4: firmware is measured into PCR 0",
        ),
        (f'{ONE}[firmware.values.sha256]\n00 = "{HEX}"', "sha256.00: firmware is measured"),
        (ONE + "[firmware.values.sha256]\n0 = 7", "sha256.0: write 64 hexadecimal digits"),
        (f'{ONE}[firmware.values.sha256]\n0 = "{HEX[2:]}"', "sha256.0: write 64 hexadecimal"),
        (f'{ONE}[firmware.values.sha256]\n0 = "{HEX.upper()}"', "lower case"),
        (f'{ONE}[firmware.values.sha1]\n0 = "{HEX}"', "sha1.0: write 40 hexadecimal digits"),
        (f'{ONE}[firmware.values.sha256]\n0 = "{"0" * 64}"', "it is zero: nothing was measured"),
        (f'{ONE}[firmware.events.sha256]\n2 = "{HEX}"', "sha256.2: write a list of digests"),
        (f'{ONE}[firmware.events.sha256]\n2 = ["{HEX}", 7]', "sha256.2: write 64 hexadecimal"),
    ],
)
def test_what_is_wrong_is_named(text: str, told: str) -> None:
    sentence = refusal(text.encode())
    assert sentence.startswith("there.toml: ")
    assert told in sentence


def test_a_file_that_is_too_large_or_says_a_thing_twice_is_refused() -> None:
    assert "larger than" in refusal(FILE + b"#" * MAX_BASELINE)
    twice = encode_baseline(Baseline(entries=(ENTRY, ENTRY)))
    assert "the same entry stands there twice" in refusal(twice)


def test_no_entry_is_a_baseline_too() -> None:
    assert decode_baseline(encode_baseline(Baseline())) == Baseline()


def test_strange_text_does_not_come_back_at_length() -> None:
    assert len(refusal(f'{HEAD}"{"k" * 9_000}" = 1'.encode())) < 200
    assert len(refusal(b"\xff" * 9_000)) < 400


DIGESTS = {
    name: st.binary(min_size=size - 1, max_size=size - 1).map(lambda rest: b"\1" + rest)
    for name, size in BANKS.items()
}
TEXTS = st.text(max_size=80).map(lambda text: machine_text(f"a{text}"))


def banks(of: object) -> st.SearchStrategy:
    tables = {
        bank: st.dictionaries(st.sampled_from(INDICES), of(bank), min_size=1, max_size=2)
        for bank in BANKS
    }
    return st.fixed_dictionaries({}, optional=tables)


ENTRIES = st.builds(
    FirmwareEntry,
    machine=st.builds(Machine, vendor=TEXTS, model=TEXTS, version=TEXTS),
    values=banks(DIGESTS.get).filter(bool),
    events=banks(lambda bank: st.frozensets(DIGESTS[bank], max_size=3)),
    keys=st.frozensets(DIGESTS["sha256"], max_size=3),
    source=st.text(max_size=60).map(lambda text: text if text.isprintable() else ""),
)


@given(st.lists(ENTRIES, max_size=2, unique_by=entry_id))
def test_what_is_written_is_read_again(entries: list[FirmwareEntry]) -> None:
    baseline = Baseline(entries=tuple(entries))
    data = encode_baseline(baseline)
    assert decode_baseline(data) == baseline
    assert encode_baseline(decode_baseline(data)) == data
    assert Baseline.from_plain(baseline.plain()) == baseline


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (ONE + text).encode()))
def test_any_bytes_are_a_baseline_or_refused(data: bytes) -> None:
    try:
        found = decode_baseline(data)
    except AttestSiteError:
        return
    assert decode_baseline(encode_baseline(found)) == found


# Entries


def test_an_entry_is_checked_by_the_rules_of_the_file() -> None:
    assert check_entry(ENTRY, "here") == ENTRY
    for changed, told in (
        (replace(ENTRY, source="\x7f"), "here: source"),
        (replace(ENTRY, machine=replace(make.MACHINE, vendor=" x")), "here: vendor"),
        (replace(ENTRY, values={}), "here: it has neither"),
        (replace(ENTRY, values={"sha256": {0: b"\1"}}), "here: values.sha256.0"),
    ):
        with pytest.raises(AttestSiteError, match=told):
            check_entry(changed, "here")


def test_an_entry_has_a_name_of_its_content() -> None:
    assert len(entry_id(ENTRY)) == 16
    assert entry_id(ENTRY) != entry_id(replace(ENTRY, keys=frozenset()))
    assert entry_text(ENTRY) in FILE.decode()


def test_a_model_has_its_own_part_of_the_baseline() -> None:
    other = replace(ENTRY, machine=replace(make.MACHINE, model="other"))
    maker = replace(ENTRY, machine=replace(make.MACHINE, vendor="other"))
    baseline = Baseline(entries=(other, ENTRY, maker, make.version("1.2.0")))
    found = baseline.of_model(make.MACHINE)
    assert found.entries == (ENTRY, make.version("1.2.0"))
    assert baseline.of_model(None) == Baseline()


def test_a_release_is_bound_to_banks_pcrs_values_and_keys() -> None:
    values = {"sha256": {0: b"0", 2: b"2", 7: b"7"}, "sha1": {0: b"1"}}
    digest = firmware_digest(values, (0, 2), frozenset({b"k"}))
    same = {"sha1": {0: b"1"}, "sha256": {2: b"2", 0: b"0"}}
    assert firmware_digest(same, (2, 0, 3), frozenset({b"k"})) == digest
    others = [
        firmware_digest(values, (0,), frozenset({b"k"})),
        firmware_digest(values, (0, 2, 7), frozenset({b"k"})),
        firmware_digest(values, (0, 2), frozenset()),
        firmware_digest(values, (0, 2), frozenset({b"k", b"l"})),
        firmware_digest({"sha256": values["sha256"]}, (0, 2), frozenset({b"k"})),
        firmware_digest({**values, "sha1": {0: b"2"}}, (0, 2), frozenset({b"k"})),
    ]
    assert len({digest, *others}) == len(others) + 1
