"""Event logs of machines that nobody here built, against the PCR values that those really had."""

import tomllib
from pathlib import Path

import pytest

from attest import eventlog
from attest.compare import proven_text
from attest.errors import EvidenceError
from attest.eventlog import EventType, LogFormat
from attest.replay import pcr_5_with_exit_events, replay
from attest.uefi import ImageLoad, device_path_text
from attest.variables import variables_from_log

pytestmark = pytest.mark.evidence


def expected(evidence: Path) -> dict:
    return tomllib.loads((evidence / "eventlogs" / "expected.toml").read_text())


def logs(evidence: Path) -> dict[str, eventlog.EventLog]:
    return {
        name: eventlog.decode((evidence / "eventlogs" / entry["file"]).read_bytes())
        for name, entry in expected(evidence).items()
    }


def test_every_log_replays_to_the_recorded_values(evidence: Path) -> None:
    checked = 0
    for name, log in logs(evidence).items():
        for bank in log.banks:
            recorded = expected(evidence)[name].get(f"pcr_{bank.name}", {})
            values = replay(log, bank.name)
            for pcr, value in recorded.items():
                assert values[int(pcr)].hex() == value, (name, bank.name, pcr)
                checked += 1
    assert checked > 60


def test_both_forms_and_the_startup_locality_are_seen(evidence: Path) -> None:
    found = logs(evidence)
    assert found["debian-10"].format is LogFormat.SHA1
    assert found["rhel8-uefi"].format is LogFormat.CRYPTO_AGILE
    assert found["short_no_action_eventlog"].startup_locality == 3
    assert replay(found["short_no_action_eventlog"], "sha1")[0] == bytes(19) + b"\3"


def test_missing_exit_events_have_their_own_workaround(evidence: Path) -> None:
    found = logs(evidence)
    missing = found["ebs_event_missing_eventlog"]
    value = pcr_5_with_exit_events(missing, "sha1")
    assert value is not None
    assert value != replay(missing, "sha1")[5]
    assert pcr_5_with_exit_events(found["rhel8-uefi"], "sha256") is None


def test_the_secure_boot_state_is_what_is_known_of_each_machine(evidence: Path) -> None:
    states = {"on": True, "off": False}
    for name, log in logs(evidence).items():
        wanted = expected(evidence)[name].get("secure_boot")
        bank = log.banks[-1].name
        if wanted in states:
            assert variables_from_log(log, bank).secure_boot is states[wanted], name
        elif wanted == "unknown":
            with pytest.raises(EvidenceError):
                variables_from_log(log, bank)


def test_each_text_and_path_reads_or_is_left_out(evidence: Path) -> None:
    texts, paths = 0, 0
    for log in logs(evidence).values():
        for event in log.events:
            texts += proven_text(event, log.banks[0].name) is not None
            if event.type == EventType.EFI_BOOT_SERVICES_APPLICATION:
                paths += bool(device_path_text(ImageLoad.decode(event.data).path))
    assert texts > 50
    assert paths > 5
