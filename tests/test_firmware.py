"""Firmware against the baseline or a release: each rule by its vector, and facts of every kind."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import make_firmware_vectors as make
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest import eventlog
from attest.baseline import Baseline, Machine
from attest.eventlog import EventType
from attest.evidence import Outcome
from attest.firmware import (
    MAX_CLAIM,
    MAX_FACTS,
    CheckedFirmware,
    Measured,
    check_firmware,
    extended,
    machine_of,
)
from attest.firmwarefile import decode_baseline

VECTORS = Path(__file__).parent / "vectors" / "firmware"
PATHS = sorted(VECTORS.glob("*.toml"))


def load(name: str) -> dict:
    return tomllib.loads((VECTORS / f"{name}.toml").read_text())


def judge(vector: dict, baseline: Baseline | None = None) -> CheckedFirmware:
    log = bytes.fromhex(vector["log"])
    measured = Measured(
        values={
            bank: {int(index): bytes.fromhex(value) for index, value in held.items()}
            for bank, held in vector.get("values", {}).items()
        },
        log=eventlog.decode(log) if log else None,
        keys=frozenset(map(bytes.fromhex, vector["keys"])),
    )
    return check_firmware(
        measured,
        baseline=baseline or decode_baseline(vector["baseline"].encode()),
        machine=machine_of(vector["facts"].encode()),
        indices=vector["indices"],
        released=bytes.fromhex(vector["released"]),
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_firmware_is_judged_as_its_vector_says(path: Path) -> None:
    vector = tomllib.loads(path.read_text())
    found = judge(vector)
    reasons = [each.reason.code for each in found.findings]
    assert reasons == [vector["expect"]] * bool(vector["expect"]), found.findings
    for finding in found.findings:
        assert vector["says"] in finding.detail, finding.detail
        assert finding.sentence == vector["told"]
    assert found.source == vector["source"]
    outcomes = {index: outcome.value for index, outcome in found.outcomes.items()}
    assert outcomes == dict(zip(vector["indices"], vector["outcomes"], strict=True))
    assert len(found.digest) == (32 if vector["indices"] else 0)


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert make.files() == {path.name: path.read_bytes() for path in VECTORS.iterdir()}


def test_a_box_that_is_released_by_the_digest_it_was_held_with_passes() -> None:
    vector = load("new-event")
    digest = judge(vector).digest
    found = judge({**vector, "released": digest.hex()})
    assert set(found.outcomes.values()) == {Outcome.RELEASED}
    other = {**vector, "keys": [], "released": digest.hex()}
    assert judge(other).findings


def test_no_pcr_counts_as_known_where_only_the_keys_are_not() -> None:
    assert set(judge(load("key-not-listed")).outcomes.values()) == {Outcome.UNKNOWN}


@pytest.mark.parametrize("name", ["one-value-differs", "new-event", "key-not-listed"])
def test_an_entry_is_said_to_lack_only_what_it_lacks(name: str) -> None:
    (finding,) = judge(load(name)).findings
    assert "has nothing for" not in finding.detail


def test_what_is_not_closed_is_taken_whole() -> None:
    log = eventlog.decode(make.log_of(make.STEPS))
    part = extended(log, "sha256", 0)
    assert not part.closed
    assert part.digests == tuple(make.sha256(step[2]).digest() for step in make.STEPS[:2])


def test_each_bank_has_its_own_separator_and_digests() -> None:
    log = eventlog.decode(make.log_of(make.GOOD, ("sha1", "sha256")))
    assert extended(log, "sha1", 0).closed
    assert {len(digest) for digest in extended(log, "sha1", 0).digests} == {20}
    assert [event.type for event in extended(log, "sha256", 0).events] == [
        EventType.S_CRTM_VERSION,
        EventType.EFI_PLATFORM_FIRMWARE_BLOB,
        EventType.SEPARATOR,
    ]


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        (EventType.POST_CODE, b"ACPI DATA", " (calls itself 'ACPI DATA')"),
        (EventType.POST_CODE, "Größe".encode(), ""),
        (EventType.POST_CODE, b"\x1b[2J", ""),
        (EventType.POST_CODE, b"\0\0", ""),
        (EventType.POST_CODE, b"A" * 1000, f" (calls itself '{'A' * MAX_CLAIM}')"),
        (EventType.EFI_BOOT_SERVICES_DRIVER, b"text, but no image load record at all", ""),
        (EventType.EFI_BOOT_SERVICES_APPLICATION, b"text, but no image load record at all", ""),
        (EventType.EFI_RUNTIME_SERVICES_DRIVER, b"text, but no image load record at all", ""),
    ],
)
def test_what_an_event_calls_itself_is_shown_only_where_it_is_text(kind, data, told) -> None:
    steps = (*make.STEPS, (6, kind, data), *make.ends())
    log = make.log_of(steps)
    values = make.values_of(log)
    measured = Measured(values=values, log=eventlog.decode(log), keys=make.KEYS)
    found = check_firmware(
        measured,
        baseline=Baseline(entries=(make.by_events(),)),
        machine=make.MACHINE,
        indices=make.INDICES,
    )
    (finding,) = found.findings
    assert finding.detail.endswith(make.sha256(data).hexdigest() + told)


# Facts


def facts(**changes: object) -> bytes:
    return json.dumps({"smbios": {**make.FACTS, **changes}}).encode()


def test_facts_name_a_machine() -> None:
    assert machine_of(facts()) == make.MACHINE


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"\xff",
        b"[]",
        b"7",
        b'{"smbios": []}',
        b'{"smbios": null}',
        b"{}",
        facts(sys_vendor=None),
        facts(product_name=""),
        facts(bios_version=" \t"),
        facts(bios_version=13),
        facts(bios_version=["1.3"]),
        b'{"smbios": {"sys_vendor": "a", "product_name": "b"}}',
        b"[" * 50_000,
        facts() + b" " * MAX_FACTS,
    ],
)
def test_facts_that_say_nothing_name_none(data: bytes | None) -> None:
    assert machine_of(data) is None


def test_what_a_box_calls_itself_cannot_move_a_terminal_or_fill_a_page() -> None:
    found = machine_of(facts(sys_vendor="\x1b[2JEvil\r\n\u202e", product_name="x" * 5_000))
    assert found == Machine(vendor="?[2JEvil ?", model="x" * 60, version="1.3.0")


@given(st.binary(max_size=200))
def test_any_facts_give_a_machine_or_none(data: bytes) -> None:
    found = machine_of(data)
    assert found is None or found.vendor


@given(st.dictionaries(st.sampled_from(sorted(make.FACTS)), st.text(max_size=90) | st.none()))
def test_any_texts_give_a_machine_in_the_one_form_or_none(texts: dict) -> None:
    found = machine_of(facts(**texts))
    for text in () if found is None else (found.vendor, found.model, found.version):
        assert text.isprintable()
        assert 0 < len(text) <= 60
        assert text == " ".join(text.split())
