"""A rehearsal's record: what it stands for, and what of a measured boot contradicts it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.bootfacts import FileFacts
from attest.predict import Transport
from attest.replay import replay
from bootstrap.rehearsal.record import (
    RehearsalError,
    RehearsalRecord,
    check_measured,
    check_record,
    core_digest,
    decode_record,
)
from netboot.bootset import BootFile, BootSetManifest, Role

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOT = tomllib.loads((VECTORS / "boots.toml").read_text())["debian13-tftp"]
LOG = (VECTORS / BOOT["log"]).read_bytes()
FACTS = FileFacts.from_json((VECTORS / BOOT["facts"]).read_text())
PCRS = {"sha256": {int(index): bytes.fromhex(text) for index, text in BOOT["pcrs"].items()}}
MANIFEST = BootSetManifest(
    name="enrol",
    version=1,
    created=0,
    release="test",
    roles={
        role: BootFile(name=f"{role.value}.bin", sha256=bytes([number]) * 32, size=1)
        for number, role in enumerate(Role)
    },
)
RECORD = RehearsalRecord(
    core=core_digest(MANIFEST), at=1_790_000_000, bank="sha256", pcrs={"iso": {4: b"4" * 32}}
)


def with_file(role: Role, **changes: object) -> BootSetManifest:
    file = replace(MANIFEST.roles[role], **changes)
    return replace(MANIFEST, roles={**MANIFEST.roles, role: file})


def test_a_record_survives_its_file() -> None:
    assert decode_record(RECORD.encode()) == RECORD


def test_a_record_stands_for_every_anchor() -> None:
    check_record(RECORD, MANIFEST)
    check_record(RECORD, with_file(Role.ANCHOR, sha256=b"a" * 32))
    check_record(RECORD, replace(MANIFEST, version=2, name="other"))


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ANCHOR])
def test_a_record_does_not_stand_for_another_file(role: Role) -> None:
    for changes in ({"sha256": b"x" * 32}, {"name": "other.bin"}):
        with pytest.raises(RehearsalError, match="other files"):
            check_record(RECORD, with_file(role, **changes))


def test_a_record_does_not_stand_for_another_configuration() -> None:
    for changes in ({"command_line": "quiet"}, {"grub_cfg": "boot\n"}):
        with pytest.raises(RehearsalError):
            check_record(RECORD, replace(MANIFEST, **changes))
    roles = {role: file for role, file in MANIFEST.roles.items() if role is not Role.CDGRUB}
    with pytest.raises(RehearsalError):
        check_record(RECORD, replace(MANIFEST, roles=roles))


@pytest.mark.parametrize(
    "changes",
    [{"type": "doorstep/rehearsal/v2"}, {"core": "x"}, {"at": "soon"}, {"pcrs": []}, {"pcrs": None}]
    + [{"pcrs": {"iso": {"x": ""}}}, {"pcrs": {"iso": {"1": 5}}}, {"at": None}],
)
def test_records_that_are_none(changes: dict) -> None:
    document = json.loads(RECORD.encode()) | changes
    with pytest.raises(RehearsalError):
        decode_record(json.dumps(document).encode())


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=80)
    | st.recursive(st.none() | st.floats(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(RehearsalError):
        decode_record(data)


def check(log: bytes = LOG, server: str = BOOT["server"], **changes: object) -> None:
    values = {bank: {**given, **changes.get("pcrs", {})} for bank, given in PCRS.items()}
    check_measured(
        log, values, changes.get("facts", FACTS), transport=Transport.TFTP, server=server
    )


def test_a_boot_that_measured_what_was_predicted() -> None:
    check()


@pytest.mark.parametrize("index", [4, 5, 7, 8, 9, 11, 12, 13, 14, 15])
def test_every_predicted_pcr_counts(index: int) -> None:
    with pytest.raises(RehearsalError, match=f"PCR {index} "):
        check(pcrs={index: b"x" * 32})


def test_a_pcr_that_was_not_measured_is_no_agreement() -> None:
    values = {"sha256": {index: value for index, value in PCRS["sha256"].items() if index != 9}}
    with pytest.raises(RehearsalError, match="PCR 9 "):
        check_measured(LOG, values, FACTS, transport=Transport.TFTP, server=BOOT["server"])


def test_what_differs_is_named() -> None:
    other = replace(FACTS, initrd_loaded={bank: bytes(64) for bank in FACTS.initrd_loaded})
    with pytest.raises(RehearsalError, match="the initrd differs"):
        check(facts=other)
    with pytest.raises(RehearsalError, match="PCR 8"):
        check(server="10.9.9.9")


def test_a_log_that_cannot_be_read() -> None:
    with pytest.raises(RehearsalError, match="cannot be judged"):
        check(log=b"none")


def test_the_captured_values_are_those_of_the_log() -> None:
    replayed = replay(eventlog.decode(LOG), "sha256")
    assert all(replayed[index] == PCRS["sha256"][index] for index in (4, 7, 8, 9))
