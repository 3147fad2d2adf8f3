"""Rules over boot event logs: each vector is judged as it says, and no rule stands without one."""

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path

import make_eventlog_vectors as made
import pytest
from eventlog_forge import Step, logged
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import EvidenceError
from attest.eventlog import EventType, decode
from attest.logcheck import CheckedLog, check_banks, check_log
from attest.logrules import (
    MAX_FINDINGS,
    EventChecks,
    banks_of,
    boot_value,
    check_events,
    check_separators,
    proves,
)
from attest.quote import Values
from attest.reasons import Reason
from attest.variables import SecureBootVariables, variables_from_log

VECTORS = Path(__file__).parent / "vectors" / "eventlog-rules"
BOOTS = Path(__file__).parent / "vectors" / "eventlog"
PATHS = sorted(VECTORS.glob("*.toml"))
_PROVING = {"", "BANK-UNEXTENDED", "FIRMWARE-DEBUG", "DMA-PROTECTION-OFF"}


def quoted(vector: dict) -> Values:
    return {
        bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
        for bank, values in vector["pcrs"].items()
    }


def judge(vector: dict) -> CheckedLog:
    return check_log((VECTORS / vector["log"]).read_bytes(), quoted(vector))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_log_is_judged_as_its_vector_says(path: Path) -> None:
    vector = tomllib.loads(path.read_text())
    checked = judge(vector)
    found = sorted(checked.findings, key=lambda finding: finding.reason.rank)
    told = [(finding.reason.code, finding.detail) for finding in found]
    assert (told or [("", "")])[0][0] == vector["expect"], told
    assert vector["says"] in (told[0][1] if told else ""), told
    assert list(checked.workarounds) == vector["workarounds"]
    proves = {finding.reason.code for finding in found} <= _PROVING
    assert (checked.log is not None) == proves


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({0: b"\1", 7: b"\1"}, []),
        ({0: b"\0", 4: b"\1", 5: b"\0", 8: b"\0"}, ["sha256: PCR 0, 5 never extended"]),
        ({8: b"\0"}, []),
    ],
)
def test_of_a_part_of_the_pcrs_those_left_empty_are_named(
    given: dict[int, bytes], told: list[str]
) -> None:
    values = {"sha256": {index: start * 32 for index, start in given.items()}}
    assert [finding.detail for finding in check_banks(values)] == told


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert made.files() == {path.name: path.read_bytes() for path in VECTORS.iterdir()}


def test_the_lines_of_the_checklist_about_logs_have_vectors() -> None:
    lines = {line for path in PATHS for line in tomllib.loads(path.read_text())["lines"]}
    assert lines >= set(range(36, 47))


def test_one_fault_gives_one_finding() -> None:
    for path in PATHS:
        vector = tomllib.loads(path.read_text())
        if vector["expect"] == "LOG-EVENT":
            codes = [finding.reason for finding in judge(vector).findings]
            assert codes == [Reason.LOG_EVENT], path.stem


def checked(steps: list[Step], banks: tuple[str, ...] = ("sha256",)) -> EventChecks:
    return check_events(decode(logged(steps, banks)), banks)


@pytest.mark.parametrize("path", sorted(BOOTS.glob("*.bin")), ids=lambda path: path.stem)
def test_boots_of_known_files_need_one_workaround_alone(path: Path) -> None:
    """That of OVMF's boot variables; a BIOS has none."""
    by_bios = path.stem.startswith("bios-")
    log = decode(path.read_bytes())
    found = check_events(log, banks_of(log))
    assert found.findings == ()
    needed = () if by_bios else ("VARIABLE_BOOT digest over the value alone",)
    assert found.workarounds == needed
    assert list(check_separators(log, "sha256")) == []


def test_only_the_banks_that_are_asked_for_are_looked_at() -> None:
    spoofed = replace(made.GPT, digests={"sha1": b"\1" * 20})
    log = decode(logged(made.instead(made.GPT, spoofed), ("sha1", "sha256")))
    assert check_events(log, ["sha256"]).findings == ()
    assert len(check_events(log, ["sha1"]).findings) == 1
    assert check_events(log, []).findings == ()


def test_a_hostile_log_makes_few_findings() -> None:
    odd = Step(pcr=4, kind=0xABCD, data=b"")
    assert len(checked([odd] * 1000).findings) == MAX_FINDINGS


def test_findings_name_the_event() -> None:
    odd = Step(pcr=7, kind=0xABCD, data=b"")
    assert [each.detail for each in checked([made.VERSION, odd]).findings] == [
        "event 2: 0x0000abcd in PCR 7"
    ]


def test_a_separator_counts_only_by_its_digest() -> None:
    relabelled = made.instead(made.LOADER, replace(made.LOADER, kind=EventType.SEPARATOR, pcr=3))
    without = [step for step in relabelled if step is not made.CLOSED[3]]
    log = decode(logged(without))
    assert [each.reason for each in check_separators(log, "sha256")] == [Reason.BANK_UNEXTENDED]


def test_banks_that_are_not_computed_here_are_left_out() -> None:
    log = decode(logged(made.HONEST, ("sha1", "sha256", "sha512")))
    assert banks_of(log) == ("sha1", "sha256", "sha512")
    other = tuple(replace(bank, name="sm3_256") for bank in log.banks[:1])
    assert banks_of(replace(log, banks=(*other, log.banks[1]))) == ("sha256",)


def test_a_digest_proves_one_content_alone() -> None:
    log = decode(logged([made.COMMAND]))
    event = log.events[1]
    assert proves(event, "sha256", b"boot")
    assert not proves(event, "sha256", event.data)
    assert not proves(event, "sha384", b"boot")
    assert boot_value(event) is None


def test_a_bank_is_named_once_where_several_events_need_a_workaround() -> None:
    boot = Step(pcr=1, kind=EventType.EFI_VARIABLE_BOOT, data=made.record("Boot0000", b"path"))
    steps = made.behind(made.ORDER, *[replace(boot, content=b"path")] * 3)
    assert checked(steps, ("sha1", "sha256")).workarounds == (
        "VARIABLE_BOOT digest over the value alone",
    )


def test_the_same_workaround_in_two_banks_is_named_once() -> None:
    steps = [*made.BEFORE, *made.AFTER, *(replace(step, silent=True) for step in made.EXIT)]
    banks = ("sha1", "sha256")
    found = check_log(logged(steps, banks), made.held(steps, banks))
    assert found.workarounds == ("missing ExitBootServices events in PCR 5",)
    assert found.findings == ()


def variables(*steps: Step) -> SecureBootVariables:
    log = decode(logged([*steps, *made.CONFIGS, made.CLOSED[7], made.DB]))
    return variables_from_log(log, "sha256")


REMARKS = {
    "debug mode": made.action(7, "UEFI Debug Mode"),
    "device policy": Step(pcr=7, kind=EventType.EFI_SPDM_DEVICE_POLICY, data=b"policy"),
    "device authority": Step(pcr=7, kind=EventType.EFI_SPDM_DEVICE_AUTHORITY, data=b"authority"),
}


@pytest.mark.parametrize("name", REMARKS)
def test_what_firmware_remarks_in_pcr_7_leaves_the_keys_readable(name: str) -> None:
    step = REMARKS[name]
    found = variables(step)
    assert found.secure_boot
    assert found.before == (step.data, *(config.data for config in made.CONFIGS))
    assert replace(found, before=()) == variables()
    with pytest.raises(EvidenceError, match="PCR 7 holds an event of type"):
        variables(replace(step, content=b"something else"))
    with pytest.raises(EvidenceError, match="PCR 7 holds an event of type EV_IPL"):
        variables(replace(step, kind=EventType.IPL))


def test_a_padded_separator_of_pcr_7_is_one() -> None:
    log = decode((VECTORS / "accepted.bin").read_bytes())
    at = next(n for n, event in enumerate(log.events) if event.pcr == 7 and event.type == 4)
    wanted = variables_from_log(log, "sha256")

    def with_separator(**changes: object) -> SecureBootVariables:
        changed = replace(log.events[at], **changes)
        events = (*log.events[:at], changed, *log.events[at + 1 :])
        return variables_from_log(replace(log, events=events), "sha256")

    assert with_separator(data=bytes(50)) == wanted
    for changes in ({"data": b"\0\0\0\0\1"}, {"digests": {"sha256": bytes(32)}}):
        with pytest.raises(EvidenceError, match="exactly one plain separator"):
            with_separator(**changes)


events = st.builds(
    Step,
    pcr=st.sampled_from([0, 1, 4, 5, 7, 12]),
    kind=st.sampled_from(
        [3, 4, 5, 0xD, 0x80000001, 0x80000002, 0x80000003, 0x80000007, 0x800000E0]
    ),
    data=st.one_of(
        st.binary(max_size=60),
        st.sampled_from([made.SECURE_BOOT.data, made.DB.data, bytes(4), made.CALL.data]),
    ),
    content=st.one_of(st.none(), st.binary(max_size=4)),
)


@settings(max_examples=100)
@given(st.lists(events, max_size=8))
def test_any_events_give_findings_and_no_error(steps: list[Step]) -> None:
    data = logged(steps)
    found = check_log(data, made.held(steps))
    assert all(isinstance(each.reason, Reason) for each in found.findings)
    odd = [step for step in steps if step.pcr in (4, 7) and step.kind == 0xD]
    assert bool(odd) <= bool(found.findings)


@settings(max_examples=50)
@given(st.integers(0, len(made.HONEST) - 1), st.binary(min_size=1, max_size=40))
def test_other_data_is_found_wherever_it_must_hash(place: int, data: bytes) -> None:
    step = made.HONEST[place]
    content = step.data if step.content is None else step.content
    steps = [*made.HONEST]
    steps[place] = replace(step, data=data, content=content)
    found = checked(steps).findings
    hashed = step.kind in (4, 0x80000001, 0x80000006, 0x80000007, 0x800000E0)
    assert bool(found) == (hashed and data != content)


def test_a_digest_of_the_vectors_is_what_the_tpm_got() -> None:
    assert made.LOADER.digest("sha256") == hashlib.sha256(b"loader").digest()
