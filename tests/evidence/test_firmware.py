"""The firmware of machines that nobody here built: known by its values, and by its events alone."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from attest import eventlog
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.eventlog import EventLog
from attest.evidence import Outcome
from attest.firmware import Measured, check_firmware, extended
from attest.firmwarefile import GATED, check_entry
from attest.replay import replay

pytestmark = pytest.mark.evidence

MACHINE = Machine(vendor="V", model="M", version="1")


def machines(evidence: Path) -> dict[str, EventLog]:
    expected = tomllib.loads((evidence / "eventlogs" / "expected.toml").read_text())
    found = {
        name: eventlog.decode((evidence / "eventlogs" / entry["file"]).read_bytes())
        for name, entry in expected.items()
    }
    boots = sorted((evidence / "boots").glob("*.bin"))
    logs = [path for path in boots if not path.name.endswith(".ima.bin")]
    return found | {path.stem: eventlog.decode(path.read_bytes()) for path in logs}


def measured(log: EventLog) -> Measured:
    values = {
        bank.name: {index: replay(log, bank.name)[index] for index in GATED} for bank in log.banks
    }
    return Measured(values=values, log=log, keys=frozenset())


def by_values(log: EventLog) -> FirmwareEntry:
    return check_entry(FirmwareEntry(machine=MACHINE, values=measured(log).values), "log")


def by_events(log: EventLog) -> FirmwareEntry:
    events = {
        bank.name: {index: frozenset(extended(log, bank.name, index).digests) for index in GATED}
        for bank in log.banks
    }
    return check_entry(FirmwareEntry(machine=MACHINE, events=events), "log")


def outcomes(log: EventLog, *entries: FirmwareEntry) -> set[Outcome]:
    found = check_firmware(
        measured(log), baseline=Baseline(entries=entries), machine=MACHINE, indices=GATED
    )
    assert bool(found.findings) == (Outcome.UNKNOWN in found.outcomes.values())
    return set(found.outcomes.values())


def whole(evidence: Path) -> dict[str, EventLog]:
    """Leave out the fragment of a log, in which nothing was measured."""
    return {
        name: log
        for name, log in machines(evidence).items()
        if any(event.type != eventlog.EventType.NO_ACTION for event in log.events)
    }


def test_every_machine_is_known_by_its_values_and_by_its_events(evidence: Path) -> None:
    for name, log in whole(evidence).items():
        assert outcomes(log, by_values(log)) == {Outcome.BASELINE}, name
        again = {
            index
            for bank in log.banks
            for index in GATED
            if index != 2 and len(set(part := extended(log, bank.name, index).digests)) < len(part)
        }
        wanted = {Outcome.BASELINE, Outcome.UNKNOWN} if again else {Outcome.BASELINE}
        assert outcomes(log, by_events(log)) == wanted, name
    assert len(whole(evidence)) > 10


def test_no_machine_passes_by_the_firmware_of_another(evidence: Path) -> None:
    logs = whole(evidence)
    pairs = 0
    for name, log in logs.items():
        for other, their in logs.items():
            if their.banks != log.banks or measured(their).values == measured(log).values:
                continue
            pairs += 1
            entries = by_values(their), by_events(their)
            assert Outcome.UNKNOWN in outcomes(log, *entries), (name, other)
            apart = [replace(entry, machine=replace(MACHINE, version="2")) for entry in entries]
            assert outcomes(log, *apart) == {Outcome.UNKNOWN}
    assert pairs > 10
