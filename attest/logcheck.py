"""Does a boot log explain what the TPM signed, in every quoted bank?

Only then may the log name what differed or prove key databases. Event types and texts stay claims
(see `attest.logrules` for what the events must be like).
It never says whether the boot was a good one. TCG PFP 1.06, 3.3.2 (separators), 10.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attest.errors import EvidenceError
from attest.eventlog import EventLog, EventType, LogFormat, decode
from attest.logrules import FIRMWARE_PCRS, check_events, check_separators
from attest.quote import Values
from attest.reasons import Finding, Reason
from attest.replay import MISSING_EXIT_EVENTS, replay, values_with_exit_events

# PCR 10 belongs to the running kernel (IMA), which has a log of its own.
REPLAYED_PCRS = tuple(index for index in range(16) if index != 10)
_NO_ACTION = int(EventType.NO_ACTION)
_DISPROVED = frozenset(
    {
        Reason.LOG_SHA1,
        Reason.LOG_BANK,
        Reason.LOG_EVENT,
        Reason.LOG_REPLAY,
        Reason.PCR_UNEXPLAINED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLog:
    """A log with what was found; `log` is None unless it may serve as proof.

    That is: it replays to the quoted values, leaves none of them open and holds no event that
    cannot stand there.
    """

    log: EventLog | None
    findings: tuple[Finding, ...]
    workarounds: tuple[str, ...] = ()


def check_log(data: bytes, values: Values) -> CheckedLog:
    """Decode a log, replay it against quoted values, hold its events against the rules."""
    if not data.strip(b"\0\xff"):
        return CheckedLog(log=None, findings=(Finding(reason=Reason.LOG_MISSING),))
    try:
        log = decode(data)
    except EvidenceError as error:
        finding = Finding(reason=Reason.LOG_MALFORMED, detail=str(error))
        return CheckedLog(log=None, findings=(finding,))
    findings: list[Finding] = []
    workarounds: list[str] = []
    for bank in sorted(values):
        findings += _check_bank(log, bank, values, workarounds)
    checked = check_events(log, sorted(values))
    findings += checked.findings
    proves = _DISPROVED.isdisjoint(finding.reason for finding in findings)
    return CheckedLog(
        log=log if proves else None,
        findings=tuple(findings),
        workarounds=tuple(dict.fromkeys((*workarounds, *checked.workarounds))),
    )


def _has(log: EventLog, bank: str) -> bool:
    return any(known.name == bank for known in log.banks)


def _check_bank(
    log: EventLog, bank: str, values: Values, workarounds: list[str]
) -> Iterator[Finding]:
    """Replay one quoted bank."""
    if not _has(log, bank):
        old = log.format is LogFormat.SHA1
        yield Finding(
            reason=Reason.LOG_SHA1 if old else Reason.LOG_BANK,
            detail=f"the event log has no {bank} digests",
        )
        return
    try:
        replayed = replay(log, bank)
    except EvidenceError as error:
        yield Finding(reason=Reason.LOG_BANK, detail=str(error))
        return
    yield from _compare(log, replayed, values, bank, workarounds)
    yield from check_separators(log, bank)


def check_banks(values: Values, *, sha1_alone: bool = False) -> Iterator[Finding]:
    """Find banks that prove nothing: left empty by the firmware, or SHA-1 alone.

    `sha1_alone`: the policy takes SHA-1 for want of better.
    """
    if set(values) == {"sha1"} and not sha1_alone:
        yield Finding(reason=Reason.BANK_SHA1_ONLY)
    for bank, given in sorted(values.items()):
        empty = [index for index in FIRMWARE_PCRS if index in given and not any(given[index])]
        if empty:
            detail = f"{bank}: PCR {', '.join(map(str, empty))} never extended"
            yield Finding(reason=Reason.BANK_UNEXTENDED, detail=detail)


def _compare(
    log: EventLog,
    replayed: dict[int, bytes],
    values: Values,
    bank: str,
    workarounds: list[str],
) -> Iterator[Finding]:
    given = values[bank]
    differing = [
        index for index in REPLAYED_PCRS if index in given and replayed[index] != given[index]
    ]
    if 5 in differing and given[5] in values_with_exit_events(replayed[5], bank):
        differing.remove(5)
        workarounds.append(MISSING_EXIT_EVENTS)
    told = {event.pcr for event in log.events if event.type != _NO_ACTION}
    silent = [index for index in differing if index not in told]
    differing = [index for index in differing if index not in silent]
    if differing:
        detail = f"{bank}: PCR {', '.join(map(str, differing))}"
        yield Finding(reason=Reason.LOG_REPLAY, detail=detail)
    if silent:
        detail = f"{bank}: PCR {', '.join(map(str, silent))}"
        yield Finding(reason=Reason.PCR_UNEXPLAINED, detail=detail)
