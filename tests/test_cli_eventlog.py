"""`doorstep eventlog`: what it says of a boot log, offline, and its exit codes."""

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from eventlog_forge import agile, encode, header, legacy, with_events
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.eventlog import Event, EventType
from attest.uefi import EFI_GLOBAL, Variable
from bootstrap.cli.main import main

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "boots.toml").read_text())
HEADER = header([(0x000B, 32)])
KEYS = {
    "pcrs",
    "secure_boot",
    "workarounds",
    "events",
    "format",
    "banks",
    "bank",
    "startup_locality",
    "pcr_5_with_exit_events",
    "facts",
    "findings",
    "not_checked",
}


def run(*arguments: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["eventlog", *map(str, arguments)], input=data)


def told(data: bytes, *more: str, code: int = 0) -> dict:
    done = run("-", "--json", *more, data=data)
    assert done.exit_code == code, done.output
    return json.loads(done.output)


def log_of(*events: Event) -> bytes:
    return encode(with_events(eventlog.decode(HEADER), events))


def event(pcr: int, kind: int, data: bytes) -> Event:
    return Event(pcr=pcr, type=kind, digests={"sha256": hashlib.sha256(data).digest()}, data=data)


def codes(document: dict) -> set[str]:
    return {finding["reason"] for finding in document["findings"]}


@pytest.mark.parametrize("name", [name for name, boot in BOOTS.items() if "log" in boot])
def test_a_log_of_a_boot_gives_what_the_tpm_held(name: str) -> None:
    boot = BOOTS[name]
    done = run(VECTORS / boot["log"], "--json")
    document = json.loads(done.output)
    assert (done.exit_code, document["findings"]) == (0, [])
    assert set(document) == KEYS
    assert done.output.count("\n") == 1
    values = document["pcrs"]["sha256"]
    assert {pcr: values[pcr] for pcr in boot["pcrs"]} == boot["pcrs"]
    assert list(values) == [str(pcr) for pcr in range(24)]
    assert document["secure_boot"] == ("on" if boot["secure_boot"] else "off")
    assert document["workarounds"] == ["VARIABLE_BOOT digest over the value alone"]
    assert (document["format"], document["bank"]) == ("crypto-agile", "sha256")
    assert document["startup_locality"] is None
    assert document["pcr_5_with_exit_events"] == {}
    assert len(document["not_checked"]) == 2


def test_events_are_told_in_their_order() -> None:
    document = told((VECTORS / "debian13-tftp.bin").read_bytes())
    events = document["events"]
    assert [one["number"] for one in events] == list(range(49))
    assert set(events[0]) == {
        "number",
        "pcr",
        "type",
        "digests",
        "size",
        "text",
        "proven",
        "claim",
    }
    assert (events[0]["type"], events[0]["digests"]["sha1"]) == ("EV_NO_ACTION", "00" * 20)
    commands = [one for one in events if one["pcr"] == 8]
    assert all(one["proven"] and one["text"] and one["claim"] is None for one in commands)
    assert "kernel_cmdline" not in commands[-1]["text"]
    programs = [one for one in events if one["type"] == "EV_EFI_BOOT_SERVICES_APPLICATION"]
    assert all(not one["proven"] and one["text"] is None for one in programs)
    assert programs[1]["claim"] == "File(grubx64.efi)"
    facts = document["facts"]
    assert [one["event"] for one in facts["programs"]] == [one["number"] for one in programs]
    assert facts["databases"][2]["certificates"][0]["subject"].endswith(
        "Windows Production PCA 2011"
    )
    assert facts["authorities"][0]["certificate"] in facts["databases"][2]["certificates"]
    assert facts["authorities"][1]["certificate"] is None


def test_every_bank_is_replayed_and_the_events_are_read_by_the_one_asked_for() -> None:
    both = header([(0x0004, 20), (0x000B, 32)])
    data = b"grub_cmd: set a=1\0"
    digests = [(4, bytes(20)), (11, hashlib.sha256(b"set a=1").digest())]
    log = both + agile(8, EventType.IPL, digests, data)
    document = told(log, code=1)
    assert set(document["pcrs"]) == {"sha1", "sha256"}
    assert (document["bank"], document["events"][1]["text"]) == ("sha256", "set a=1")
    other = told(log, "--bank", "sha1", code=1)
    assert (other["bank"], other["events"][1]["text"]) == ("sha1", None)
    assert other["facts"]["commands"][0]["proven"] is False
    assert other["pcrs"] == document["pcrs"]


def test_a_bank_that_the_log_lacks_is_wrong_usage() -> None:
    done = run("-", "--bank", "sha384", data=HEADER)
    assert done.exit_code == 2
    assert done.output.strip() == (
        "Error: the log has no sha384 digests: choose of sha256 with --bank"
    )


def test_a_bank_that_nobody_computes_leaves_claims() -> None:
    log = header([(0x0012, 32)]) + agile(8, EventType.IPL, [(0x0012, bytes(32))], b"text\0")
    document = told(log)
    assert (document["bank"], document["pcrs"], document["facts"]) == (None, {}, None)
    assert document["secure_boot"] == "unknown"
    assert document["events"][1]["claim"] == "text"
    assert run("-", data=log).exit_code == 0


def test_the_sha1_form_and_the_startup_locality_are_told() -> None:
    document = told(legacy(0, 3, bytes(20), b"StartupLocality\0\3"))
    assert (document["format"], document["banks"]) == ("sha1", ["sha1"])
    assert document["startup_locality"] == 3
    assert document["pcrs"]["sha1"]["0"] == "00" * 19 + "03"
    assert document["pcrs"]["sha1"]["17"] == "ff" * 20
    assert document["secure_boot"] == "unknown"
    assert list(document["pcr_5_with_exit_events"]) == ["sha1"]


def test_missing_exit_events_give_a_second_value_of_pcr_5() -> None:
    log = eventlog.decode((VECTORS / "debian13-tftp.bin").read_bytes())
    cut = with_events(log, [one for one in log.events[1:] if b"Exit Boot" not in one.data])
    document = told(encode(cut))
    held = BOOTS["debian13-tftp"]["pcrs"]["5"]
    assert document["pcr_5_with_exit_events"] == {"sha256": held}
    assert document["pcrs"]["sha256"]["5"] != held
    assert held in run("-", data=encode(cut)).output


@pytest.mark.parametrize(
    "data",
    [b"", b"\1\2", bytes(100), HEADER[:-1], b"\xff" * 99],
    ids=["empty", "short", "zeros", "cut off", "ones"],
)
def test_what_is_no_log_is_told_as_such(data: bytes) -> None:
    document = told(data, code=1)
    assert codes(document) == {"LOG-MALFORMED"}
    assert document["error"].startswith("The boot log of the box cannot be read.")
    assert {key: document[key] for key in ("pcrs", "secure_boot", "workarounds", "events")} == {
        "pcrs": {},
        "secure_boot": "unknown",
        "workarounds": [],
        "events": [],
    }
    done = run("-", data=data)
    assert (done.exit_code, done.output.strip()) == (1, document["error"])


def test_a_file_above_the_limit_is_no_log() -> None:
    assert "larger than" in told(HEADER + bytes(9 << 20), code=1)["error"]


def test_what_no_honest_log_holds_is_a_finding_beside_the_values() -> None:
    log = eventlog.decode((VECTORS / "debian13-tftp.bin").read_bytes())
    changed = [replace(one, type=EventType.IPL) if one.pcr == 4 else one for one in log.events[1:]]
    document = told(encode(with_events(log, changed)), code=1)
    assert "LOG-EVENT" in codes(document)
    assert document["pcrs"]["sha256"]["4"] == BOOTS["debian13-tftp"]["pcrs"]["4"]
    finding = next(one for one in document["findings"] if one["reason"] == "LOG-EVENT")
    assert set(finding) == {"reason", "sentence", "detail", "releasable_by", "gates"}
    assert finding["releasable_by"] == "nobody"
    done = run("-", data=encode(with_events(log, changed)))
    assert done.exit_code == 1
    assert "LOG-EVENT: The boot log" in done.output
    assert "nothing is against it" not in done.output


def test_missing_separators_are_told_once_something_was_measured() -> None:
    assert codes(told(log_of(event(0, EventType.S_CRTM_VERSION, b"v")), code=1)) == {
        "BANK-UNEXTENDED"
    }
    assert codes(told(HEADER)) == set()


def test_an_event_without_a_digest_is_told() -> None:
    log = header([(0x0004, 20), (0x000B, 32)]) + agile(0, 8, [(0x0004, bytes(20))], b"v")
    document = told(log, code=1)
    assert "LOG-BANK" in codes(document)
    assert set(document["pcrs"]) == {"sha1"}


def test_nothing_moves_the_terminal() -> None:
    name = Variable(guid=EFI_GLOBAL, name="\x1b[2Ja\u202e", data=b"").encode()
    log = log_of(
        event(8, EventType.IPL, b"grub_cmd: \x1b[2J\0"),
        event(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, name),
        event(8, EventType.IPL, b"kernel_cmdline: \x1b]0;x\x07\nline\0"),
    )
    output = run("-", data=log).output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "line" in output


def test_a_person_reads_what_the_document_says() -> None:
    output = run(VECTORS / "debian13-tftp.bin").output
    for line in (
        "Secure Boot   on",
        "workaround    VARIABLE_BOOT digest over the value alone",
        "program       File(grubx64.efi) (claimed)",
        "nothing is against it",
        "not checked: whether a TPM holds these values (no quote is given)",
    ):
        assert line in output.splitlines(), line
    assert BOOTS["debian13-tftp"]["pcrs"]["4"] in output
    assert any(line.endswith("hashes, 0 others") for line in output.splitlines())


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path / "none").exit_code == 2
    assert run(tmp_path).exit_code == 2
    assert run().exit_code == 2


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from([b"", HEADER]))
def test_any_bytes_give_a_document(data: bytes, start: bytes) -> None:
    done = run("-", "--json", data=start + data)
    document = json.loads(done.output)
    assert done.exit_code in (0, 1)
    assert ("error" in document) is ("format" not in document)
    assert (done.exit_code == 1) is any(one["gates"] for one in document["findings"])
