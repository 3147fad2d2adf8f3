"""Does a boot log explain what the TPM signed, in every quoted bank?

Only then may the log name what differed or prove key databases. Event types and texts stay claims.
It never says whether the boot was a good one. TCG PFP 1.06, 3.3.2 (separators), 10.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from attest.errors import EvidenceError
from attest.eventlog import EventLog, EventType, decode
from attest.quote import Values
from attest.reasons import Finding, Reason
from attest.replay import extend, replay

# PCR 10 belongs to the running kernel (IMA), which has a log of its own.
REPLAYED_PCRS = tuple(index for index in range(16) if index != 10)
_FIRMWARE_PCRS = range(8)
_SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff")
_EXIT = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLog:
    """A log with what was found; `log` is None unless it replays to the quoted values."""

    log: EventLog | None
    findings: tuple[Finding, ...]
    workarounds: tuple[str, ...] = ()


def check_log(data: bytes, values: Values) -> CheckedLog:
    """Decode and replay a log against quoted values."""
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
        try:
            replayed = replay(log, bank)
        except EvidenceError as error:
            findings.append(Finding(reason=Reason.LOG_REPLAY, detail=str(error)))
            continue
        findings += _compare(replayed, values, bank, workarounds)
        findings += _separators(log, bank)
    usable = not any(finding.reason is Reason.LOG_REPLAY for finding in findings)
    return CheckedLog(
        log=log if usable else None, findings=tuple(findings), workarounds=tuple(workarounds)
    )


def check_banks(values: Values, *, sha1_alone: bool = False) -> Iterator[Finding]:
    """Find banks that prove nothing: left empty by the firmware, or SHA-1 alone.

    `sha1_alone`: the policy takes SHA-1 for want of better.
    """
    if set(values) == {"sha1"} and not sha1_alone:
        yield Finding(reason=Reason.BANK_SHA1_ONLY)
    for bank, given in sorted(values.items()):
        empty = [index for index in _FIRMWARE_PCRS if index in given and not any(given[index])]
        if empty:
            detail = f"{bank}: PCR {', '.join(map(str, empty))} never extended"
            yield Finding(reason=Reason.BANK_UNEXTENDED, detail=detail)


def _compare(
    replayed: dict[int, bytes], values: Values, bank: str, workarounds: list[str]
) -> Iterator[Finding]:
    given = values[bank]
    differing = [
        index for index in REPLAYED_PCRS if index in given and replayed[index] != given[index]
    ]
    if 5 in differing and _with_exit_events(replayed[5], bank) == given[5]:
        # Kernels without the final events table, and some firmware, do not log these two.
        differing.remove(5)
        workarounds.append(f"{bank}: the log lacks the exit boot services events of PCR 5")
    if differing:
        detail = f"{bank}: PCR {', '.join(map(str, differing))}"
        yield Finding(reason=Reason.LOG_REPLAY, detail=detail)


def _with_exit_events(value: bytes, bank: str) -> bytes:
    for text in _EXIT:
        value = extend(value, hashlib.new(bank, text).digest(), bank)
    return value


def _separators(log: EventLog, bank: str) -> Iterator[Finding]:
    """Every PCR of the firmware ends with a separator, or the operating system wrote it."""
    allowed = {hashlib.new(bank, content).digest() for content in _SEPARATORS}
    closed = {
        event.pcr
        for event in log.events
        if event.type == EventType.SEPARATOR and event.digests.get(bank) in allowed
    }
    missing = [index for index in _FIRMWARE_PCRS if index not in closed]
    if missing:
        detail = f"{bank}: PCR {', '.join(map(str, missing))} without separator"
        yield Finding(reason=Reason.BANK_UNEXTENDED, detail=detail)
