"""What an operator reads of the lease: how long still, how many starts, what waits, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from bootstrap.io.watch import first_ends
from bootstrap.lease_words import CLOSED, RENEW, shown_words

NOW = 1_795_000_000
DAY = 86_400


def shown(**changes: Any) -> dict[str, Any]:
    return {
        "closed": None,
        "lease": {"counter": 4},
        "left": {"powered_seconds": 10 * DAY, "starts": 3, "suspends": 1},
        "waiting": [],
        "counters": {"lease": 4, "epoch": 2, "reset_count": 7, "safe": True},
    } | changes


def left(days: int, starts: int) -> dict[str, Any]:
    return {"left": {"powered_seconds": days * DAY, "starts": starts, "suspends": 0}}


def test_hours_are_not_sold_as_a_day() -> None:
    said = shown_words(shown(), NOW)
    assert said == (
        "lease 4 runs: the cache is open",
        "it lasts 10 d more of being switched on: until 2026-11-28 11:06Z if this controller is "
        "never off, longer if it is",
        "3 starts more; the one after closes the cache; 1 suspend more",
        "the TPM counts leases to 4, revocations to 2, its starts to 7",
    )


@pytest.mark.parametrize(
    ("days", "starts", "is_due"), [(10, 3, False), (2, 3, True), (10, 0, True), (3, 1, False)]
)
def test_it_says_when_to_renew(days: int, starts: int, is_due: bool) -> None:
    assert (RENEW in shown_words(shown(**left(days, starts)), NOW)) is is_due


def test_no_start_left_is_said_so() -> None:
    assert any("the next restart" in line for line in shown_words(shown(**left(10, 0)), NOW))


def test_a_closed_cache_says_why_and_what_goes_on() -> None:
    closed = {"code": "LEASE-ENDED", "sentence": "its powered hours are used up"}
    said = shown_words(shown(closed=closed, lease=None, left=None), NOW)
    assert said[:2] == ("the cache is closed: its powered hours are used up", CLOSED)


def test_what_waits_and_what_the_tpm_went_through() -> None:
    counters = {"lease": 4, "epoch": 2, "reset_count": 7, "safe": False}
    said = shown_words(
        shown(waiting=[{"counter": 5, "pcrs": [4, 9]}, {"counter": 6, "pcrs": []}]), NOW
    )
    assert "lease 5 waits for other software (PCR 4, 9)" in said
    assert "lease 6 waits for other software (PCR none)" in said
    assert any("lost power" in line for line in shown_words(shown(counters=counters), NOW))


def test_a_phone_is_not_told_of_each_second_that_a_lease_runs() -> None:
    def page(ends: float) -> dict[str, Any]:
        return {"first": [{"kind": "lease", "name": "4", "ends": ends}]}

    noon = NOW // DAY * DAY + DAY // 2
    assert first_ends(page(noon)) == first_ends(page(noon + 5.5))
    assert first_ends(page(noon)) != first_ends(page(noon + DAY))
    assert first_ends({}) == []
