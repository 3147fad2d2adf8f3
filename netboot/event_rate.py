"""How many events of one kind are told one by one, and what is told instead of the others.

A power cut of a whole site is a few thousand events and all are told; a flood is told as a number
for each second. Leases are not concerned: who has which address is in their table.
"""

from __future__ import annotations

from collections.abc import Iterable

from netboot.events import Event, EventKind

BURST = 2000
PER_SECOND = 100.0
SUMMARY_SECONDS = 1.0


class EventRate:
    """A bucket of `BURST` for each kind, refilled with `PER_SECOND`."""

    def __init__(self) -> None:
        """Begin with full buckets."""
        self._left: dict[EventKind, tuple[float, float]] = {}
        self._folded: dict[EventKind, int] = {}
        self._since = 0.0

    def fold(self, events: Iterable[Event], now: float) -> list[Event]:
        """Give the events to tell now, beside a summary that is due; `now` in unix seconds."""
        told = [event for event in events if self._may_tell(event.kind, now)]
        return [*told, *self.due(now)]

    def _may_tell(self, kind: EventKind, now: float) -> bool:
        at, left = self._left.get(kind, (now, float(BURST)))
        left = min(BURST, left + PER_SECOND * max(0.0, now - at))
        self._left[kind] = now, max(0.0, left - 1)
        if left >= 1:
            return True
        if not self._folded:
            self._since = now
        self._folded[kind] = self._folded.get(kind, 0) + 1
        return False

    def due(self, now: float) -> tuple[Event, ...]:
        """Give a summary of each kind once a second, or when the clock was set back."""
        if not self._folded or self._since <= now < self._since + SUMMARY_SECONDS:
            return ()
        folded, self._folded = self._folded, {}
        return tuple(
            Event(at=now, kind=EventKind.FLOOD, detail=(("kind", kind.value), ("count", count)))
            for kind, count in folded.items()
        )
