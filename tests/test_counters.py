"""What TPM counters say: reboot, suspend, power cut, clear and rollback are told apart."""

import pytest

from attest.counters import CLOCK_LOSS_MS, Known, Since, compare_counters
from attest.reasons import Reason
from attest.wire import ClockInfo

KNOWN = Known(reset_count=10, restart_count=3, clock=1_000_000_000)


def clock(reset: int, restart: int, milliseconds: int, *, safe: bool = True) -> ClockInfo:
    return ClockInfo(clock=milliseconds, reset_count=reset, restart_count=restart, safe=safe)


CASES = {
    "same boot": (clock(10, 3, 1_000_000_000), Since.SAME_BOOT, None),
    "later in the same boot": (clock(10, 3, 1_000_000_001), Since.SAME_BOOT, None),
    "resumed": (clock(10, 4, 1_000_000_001), Since.RESUMED, None),
    "rebooted": (clock(11, 3, 1_000_000_001), Since.REBOOT, None),
    "rebooted after a suspend": (clock(11, 0, 1_000_000_000), Since.REBOOT, None),
    "power cut, all that may be lost": (
        clock(11, 0, 1_000_000_000 - CLOCK_LOSS_MS, safe=False),
        Since.POWER_CUT,
        Reason.POWER_CUT,
    ),
    "clock fell by one more": (
        clock(11, 0, 1_000_000_000 - CLOCK_LOSS_MS - 1, safe=False),
        Since.BACK,
        Reason.COUNTER_BACK,
    ),
    "clock fell though it was safe": (
        clock(11, 0, 999_999_999),
        Since.BACK,
        Reason.COUNTER_BACK,
    ),
    "cleared": (clock(1, 0, 5_000), Since.CLEARED, Reason.TPM_CLEARED),
    "resetCount alone fell": (clock(9, 3, 1_000_000_000), Since.BACK, Reason.COUNTER_BACK),
    "resetCount and clock fell, restartCount grew": (
        clock(9, 4, 999_999_999),
        Since.BACK,
        Reason.COUNTER_BACK,
    ),
    "restartCount fell in one boot": (
        clock(10, 2, 1_000_000_001),
        Since.BACK,
        Reason.COUNTER_BACK,
    ),
    "clock fell in one boot": (clock(10, 3, 999_999_999), Since.BACK, Reason.COUNTER_BACK),
    "clock fell in one boot, unsafe": (
        clock(10, 3, 999_999_999, safe=False),
        Since.BACK,
        Reason.COUNTER_BACK,
    ),
    "clock fell over a resume": (clock(10, 4, 999_999_999), Since.BACK, Reason.COUNTER_BACK),
}


@pytest.mark.parametrize(("now", "since", "reason"), CASES.values(), ids=CASES)
def test_what_happened_is_told_apart(now: ClockInfo, since: Since, reason: Reason | None) -> None:
    found = compare_counters(KNOWN, now)
    assert found.since is since
    assert [each.reason for each in found.findings] == ([reason] if reason else [])


def test_the_first_attestation_has_nothing_to_compare_with() -> None:
    assert compare_counters(None, clock(1, 0, 5)).since is Since.FIRST
