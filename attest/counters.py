"""What a TPM's counters say has happened since they were last accepted.

A reboot, a suspend, a power cut, a cleared TPM and evidence that is older than it claims are told
apart. It compares and keeps nothing; control keeps the counters of each box.
TPM 2.0 Library, Part 1, 36 (clock, resetCount, restartCount, safe).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from attest.reasons import Finding, Reason
from attest.wire import ClockInfo

CLOCK_LOSS_MS = 1 << 22
"""How far a TPM clock may fall in a power cut (Part 1, 36.3: saved every 2^22 ms at most)."""


class Since(Enum):
    """What happened between two attestations of one TPM."""

    FIRST = "seen for the first time"
    SAME_BOOT = "the same boot"
    RESUMED = "resumed from a suspend"
    REBOOT = "started again"
    POWER_CUT = "started again after a power cut"
    CLEARED = "the TPM was cleared"
    BACK = "a counter went back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Counters and clock (ms) that were last accepted of a box."""

    reset_count: int
    restart_count: int
    clock: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What happened, and the finding where that is worth one."""

    since: Since
    findings: tuple[Finding, ...] = ()


def compare_counters(known: Known | None, clock: ClockInfo) -> Progress:
    """Compare signed counters with those that were last accepted."""
    if known is None:
        return Progress(since=Since.FIRST)
    fallen = known.clock - clock.clock
    if clock.reset_count < known.reset_count:
        return _reset_fell(known, clock, fallen)
    if clock.reset_count == known.reset_count:
        return _same_reset(known, clock, fallen)
    # restartCount falls to 0 in a reboot after a suspend: that is as it should be.
    if fallen <= 0:
        return Progress(since=Since.REBOOT)
    if fallen <= CLOCK_LOSS_MS and not clock.safe:
        detail = f"the clock fell by {fallen} ms"
        return _progress(Since.POWER_CUT, Reason.POWER_CUT, detail)
    detail = f"the clock fell by {fallen} ms, safe={int(clock.safe)}"
    return _progress(Since.BACK, Reason.COUNTER_BACK, detail)


def _reset_fell(known: Known, clock: ClockInfo, fallen: int) -> Progress:
    """TPM2_Clear sets all of them to zero at once (Part 3, 24.6); an old quote has only some."""
    detail = f"resetCount {clock.reset_count} after {known.reset_count}"
    if fallen > 0 and clock.restart_count <= known.restart_count:
        return _progress(Since.CLEARED, Reason.TPM_CLEARED, detail)
    return _progress(Since.BACK, Reason.COUNTER_BACK, detail)


def _same_reset(known: Known, clock: ClockInfo, fallen: int) -> Progress:
    if fallen > 0:
        detail = f"clock {clock.clock} after {known.clock} in one boot"
        return _progress(Since.BACK, Reason.COUNTER_BACK, detail)
    if clock.restart_count < known.restart_count:
        detail = f"restartCount {clock.restart_count} after {known.restart_count} in one boot"
        return _progress(Since.BACK, Reason.COUNTER_BACK, detail)
    resumed = clock.restart_count > known.restart_count
    return Progress(since=Since.RESUMED if resumed else Since.SAME_BOOT)


def _progress(since: Since, reason: Reason, detail: str) -> Progress:
    return Progress(since=since, findings=(Finding(reason=reason, detail=detail),))
