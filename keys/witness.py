"""Does the TPM's clock run as this machine's does? A slowed one would stretch every lease.

Whoever has the owner's password can slow a TPM's clock (TPM2_ClockRateAdjust, Part 3, 29.3), and
nobody can speed up the monotonic clock of a running kernel. Pure: what both say is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from keys.lease import Counters

SPAN = timedelta(minutes=10)
"""What is compared at least: a late turn of the loop is far below the limit then."""
LIMIT = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What both clocks said at one moment; `monotonic` in seconds."""

    tpm: Counters
    monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the TPM's clock did over a span, in parts of what the monotonic clock did."""

    rate: float

    @property
    def is_off(self) -> bool:
        """Tell a rate that no crystal has."""
        return abs(self.rate - 1) > LIMIT

    @property
    def sentence(self) -> str:
        """Say it for a person."""
        percent = round(abs(self.rate - 1) * 100)
        how = "behind" if self.rate < 1 else "ahead of"
        return (
            f"the clock of this controller's TPM ran {percent} % {how} the machine's: somebody "
            "set it or changed its rate, and leases are counted by it. Ask headquarters to end them"
        )


def pace(first: Reading, last: Reading) -> Pace | None:
    """Compare two readings; None when they say nothing: too near, or a reset lies between."""
    passed = last.monotonic - first.monotonic
    if passed < SPAN.total_seconds() or _boot(first) != _boot(last):
        return None
    return Pace(rate=(last.tpm.clock - first.tpm.clock) / 1000 / passed)


def following(first: Reading, last: Reading) -> Reading:
    """Give the reading to compare the next one with: a new one after a span or a reset."""
    is_over = last.monotonic - first.monotonic >= SPAN.total_seconds()
    return last if is_over or _boot(first) != _boot(last) else first


def _boot(one: Reading) -> tuple[int, int]:
    return one.tpm.reset_count, one.tpm.restart_count
