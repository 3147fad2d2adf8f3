"""Threat 42: the pace of the TPM's clock, and what the process keeps out of swap and dumps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_lab import HOUR, NOW, Controller
from test_lease_service import LeasedSite

from keys.io.hardening import SWAPPED, shortfall
from keys.io.pacing import Pacing
from keys.io.tpm import Tpm
from keys.lease import Counters
from keys.witness import LIMIT, SPAN, Reading, following, pace

SECONDS = SPAN.total_seconds()


def reading(clock: float, monotonic: float, resets: int = 1, restarts: int = 0) -> Reading:
    counters = Counters(clock=int(clock * 1000), reset_count=resets, restart_count=restarts)
    return Reading(tpm=counters, monotonic=monotonic)


@pytest.mark.parametrize(
    ("rate", "is_off"),
    [(1.0, False), (1 - LIMIT + 0.001, False), (1 + LIMIT - 0.001, False)]
    + [(0.857, True), (1 - LIMIT - 0.001, True), (1 + LIMIT + 0.001, True), (0.0, True)],
)
def test_a_clock_more_than_two_percent_off_is_told(rate: float, is_off: bool) -> None:
    found = pace(reading(50, 1000), reading(50 + rate * SECONDS, 1000 + SECONDS))
    assert found is not None
    assert found.is_off is is_off
    assert ("behind" in found.sentence) is (rate < 1)


def test_a_short_span_and_a_reset_say_nothing() -> None:
    first = reading(50, 1000)
    soon, reset = reading(50, 1000 + SECONDS - 1), reading(0, 1000 + SECONDS, resets=2)
    suspended = reading(50, 1000 + SECONDS, restarts=1)
    assert pace(first, soon) is None
    assert following(first, soon) == first
    at_once = reading(0, 1001, resets=2)
    assert following(first, at_once) == at_once
    for later in (reset, suspended):
        assert pace(first, later) is None
        assert following(first, later) == later
    assert following(first, reading(650, 1000 + SECONDS)) != first


@pytest.mark.parametrize(
    ("swaps", "locked", "said"),
    [("Filename\n", "0 kB", None), ("Filename\n/dev/sda2 partition\n", "51200 kB", None)]
    + [("Filename\n/dev/sda2 partition\n", "0 kB", SWAPPED)],
)
def test_memory_that_may_be_swapped_is_told(
    tmp_path: Path, swaps: str, locked: str, said: str | None
) -> None:
    (tmp_path / "swaps").write_text(swaps)
    (tmp_path / "status").write_text(f"VmPeak:\t 1 kB\nVmLck:\t {locked}\nVmPin:\t 0 kB\n")
    assert shortfall(tmp_path, tmp_path / "swaps") == said
    assert shortfall(tmp_path, tmp_path / "hidden") is None


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


def test_the_process_locks_its_memory_where_it_may(site: LeasedSite) -> None:
    site.ready()
    limits = Path(f"/proc/{site.child}/limits").read_text()
    soft = next(line.split()[3] for line in limits.splitlines() if "locked memory" in line)
    status = Path(f"/proc/{site.child}/status").read_text()
    assert (status.partition("VmLck:")[2].split()[0] != "0") is (soft == "unlimited")
    core = next(line for line in limits.splitlines() if "core file" in line)
    assert core.split()[4:6] == ["0", "0"]


def test_a_clock_that_is_off_is_an_event_and_a_sentence(tmp_path: Path) -> None:
    """The watcher with a TPM whose clock an hour was added to; only the span is shortened."""
    controller = Controller(tmp_path)
    monotonic = iter((0.0, SECONDS, 2 * SECONDS))
    try:
        with controller.started() as (store, ring, _):
            pacing = Pacing(store, ring, monotonic=lambda: next(monotonic))
            pacing.look(NOW)
            assert pacing.sentence is None
            with Tpm(controller.tpm.tcti, storage_name=ring.storage_name) as tpm:
                tpm.advance_clock(controller.counters().clock + HOUR)
            pacing.look(NOW)
            assert "ahead of" in (pacing.sentence or "")
            pacing.look(NOW)  # the clock of a test stands still beside ten minutes
            assert "behind" in (pacing.sentence or "")
            kinds = [one["kind"] for one in store.events(0, 10)]
            assert kinds == ["tpm-clock-off", "tpm-clock-off"]
    finally:
        controller.close()
