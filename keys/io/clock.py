"""The time that this process judges secrets by: the machine's clock, held against what is known.

It never goes behind what was seen before. A clock that leapt ahead counts at once, so that nothing
outlives its lease by it, but moves the mark only when a signed time or a day in step bears it out:
a dead battery that says 2099 must not end everything for good. architecture.md, "Time".
"""

from __future__ import annotations

import time
from collections.abc import Callable

from keys import rules

STEP_SECONDS = 60.0
"""A clock that was corrected by more is another clock: its day in step begins again."""


class Clock:
    """A wall clock and a monotonic one; both are given, in seconds."""

    def __init__(
        self,
        mark: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Continue at the stored high-water mark; 0 when this site has none yet."""
        self._wall, self._monotonic = wall, monotonic
        self.mark = mark or wall()
        self._since = monotonic()
        self._leap: tuple[float, float] | None = None
        self.suspect = False
        self.now()

    def now(self) -> float:
        """Give the time; a wall clock that leapt ahead counts, but moves no mark."""
        wall, monotonic = self._wall(), self._monotonic()
        elapsed = monotonic - self._since
        is_ahead = rules.leapt(wall, self.mark, elapsed)
        self.suspect = is_ahead and not self._in_step(wall, monotonic)
        now = rules.judged_now(wall, self.mark + elapsed)
        if not is_ahead:
            self._leap = None
        if not self.suspect:
            self.mark, self._since = now, monotonic
        return now

    def believed(self) -> float:
        """Give the time without a leap, for what begins now and must not last too long."""
        now = self.now()
        return self.mark + self._monotonic() - self._since if self.suspect else now

    def confirm(self, signed: float) -> None:
        """Take a signed time: it was not earlier than that."""
        now = self.mark + self._monotonic() - self._since
        if signed > now:
            self.mark, self._since = signed, self._monotonic()

    def _in_step(self, wall: float, monotonic: float) -> bool:
        """Tell whether a clock that leapt has run evenly for as long as it may leap."""
        offset = wall - monotonic
        if self._leap is None or abs(offset - self._leap[0]) > STEP_SECONDS:
            self._leap = offset, monotonic
        return monotonic - self._leap[1] >= rules.CLOCK_LEAP.total_seconds()
