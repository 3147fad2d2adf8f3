"""Event logs of machines that nobody here built, against the PCR values that those really had."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from attest import eventlog
from attest.compare import proven_text
from attest.errors import EvidenceError
from attest.eventlog import EventType, LogFormat
from attest.logcheck import check_log
from attest.replay import pcr_5_with_exit_events, replay
from attest.typed import extract
from attest.uefi import ImageLoad, device_path_text
from attest.variables import variables_from_log
from bootstrap.cli.main import main

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


def all_logs(evidence: Path) -> dict[str, bytes]:
    """Give every boot log there is, ours and those of others; IMA lists are none."""
    paths = [*(evidence / "eventlogs").glob("*.bin"), *(evidence / "boots").glob("*.bin")]
    return {path.stem: path.read_bytes() for path in paths if ".ima" not in path.name}


def values_of(data: bytes) -> dict[str, dict[int, bytes]]:
    log = eventlog.decode(data)
    return {bank.name: replay(log, bank.name) for bank in log.banks}


def test_no_honest_log_breaks_a_rule(evidence: Path) -> None:
    events, digests = 0, 0
    used: set[str] = set()
    for name, data in all_logs(evidence).items():
        log = eventlog.decode(data)
        checked = check_log(data, values_of(data))
        told = [each for each in checked.findings if each.reason.code.startswith(("LOG", "PCR"))]
        assert told == [], name
        assert checked.log is not None, name
        used |= set(checked.workarounds)
        events += len(log.events)
        digests += sum(len(event.digests) for event in log.events)
    assert len(all_logs(evidence)) >= 28
    assert events > 1200
    assert digests > 4000
    assert used == {
        "VARIABLE_BOOT digest over the value alone",
        "shim AUTHORITY without its last byte",
        "a program in PCR 4 without the Calling EFI Application action before it",
    }


def test_the_command_says_what_is_known_of_each_machine(evidence: Path) -> None:
    compared = 0
    for name, entry in expected(evidence).items():
        path = evidence / "eventlogs" / entry["file"]
        done = CliRunner().invoke(main, ["eventlog", str(path), "--json"])
        assert done.exit_code == 0, (name, done.output[:300])
        document = json.loads(done.output)
        assert document["findings"] == []
        if "secure_boot" in entry:
            assert document["secure_boot"] == entry["secure_boot"], name
        for bank in ("sha1", "sha256"):
            for pcr, value in entry.get(f"pcr_{bank}", {}).items():
                assert document["pcrs"][bank][pcr] == value, (name, bank, pcr)
                compared += 1
    assert compared > 60


def test_every_command_line_of_a_machine_is_proven(evidence: Path) -> None:
    lines, commands = 0, 0
    for name, data in all_logs(evidence).items():
        log = eventlog.decode(data)
        facts = extract(log, log.banks[-1].name)
        grub = [one for one in facts.command_lines if one.pcr == 8]
        assert all(one.proven for one in (*grub, *facts.commands)), name
        lines += len(grub)
        commands += len(facts.commands)
        assert all(one.proven for one in (*facts.databases, *facts.authorities)), name
        assert all(one.proven for one in facts.sections), name
    assert lines >= 18
    assert commands > 200
