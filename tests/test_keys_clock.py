"""Threats 1 to 3: set back, leapt ahead, no battery; every clock here is a number."""

from __future__ import annotations

from keys.io.clock import STEP_SECONDS, Clock

NOW = 1_795_000_000.0
DAY = 86_400.0


class Machine:
    """What a machine's clocks say."""

    def __init__(self, wall: float = NOW) -> None:
        self.wall, self.monotonic = wall, 5.0

    def start(self, mark: float) -> Clock:
        return Clock(mark, wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_a_clock_set_back_goes_on_from_the_mark() -> None:
    machine = Machine()
    clock = machine.start(NOW)
    for wrong in (NOW - 30 * DAY, 0.0):
        machine.wall = wrong
        machine.monotonic += 60
        assert clock.now() >= NOW + 60
        assert not clock.suspect
    assert machine.start(clock.mark).now() >= NOW + 120  # 1970 after a restart, too


def test_a_leap_counts_but_is_not_kept() -> None:
    machine = Machine()
    clock = machine.start(NOW)
    machine.wall = NOW + 3650 * DAY
    assert clock.now() == machine.wall
    assert clock.suspect
    again = machine.start(clock.mark)
    assert again.suspect
    machine.wall = NOW + 1
    assert again.now() == NOW + 1
    assert not again.suspect


def test_what_begins_in_a_leap_begins_at_the_time_that_is_believed() -> None:
    machine = Machine()
    clock = machine.start(NOW)
    assert clock.believed() == NOW
    machine.passes(60)
    clock.now()
    machine.wall += 365 * DAY
    assert clock.believed() == NOW + 60
    assert clock.now() == machine.wall


def test_a_leap_that_runs_evenly_for_a_day_is_kept() -> None:
    """A controller that lay in a store room for a month."""
    machine = Machine(NOW + 30 * DAY)
    clock = machine.start(NOW)
    machine.passes(DAY - 1)
    clock.now()
    assert clock.suspect
    machine.wall += STEP_SECONDS + 1  # somebody corrects it: the day begins again
    clock.now()
    machine.passes(DAY - 1)
    clock.now()
    assert clock.suspect
    machine.passes(1)
    assert clock.now() == clock.mark == machine.wall
    assert not clock.suspect


def test_a_signed_time_bears_a_leap_out_and_no_other() -> None:
    machine = Machine(NOW + 30 * DAY)
    clock = machine.start(NOW)
    clock.confirm(NOW - DAY)
    clock.now()
    assert clock.suspect
    clock.confirm(NOW + 30 * DAY - 3600)
    assert clock.now() == machine.wall
    assert not clock.suspect


def test_a_new_site_believes_its_clock() -> None:
    assert not Machine(3 * NOW).start(0.0).suspect
