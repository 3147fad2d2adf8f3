"""Which events are told and which are not: once a minute for each client and kind.

A flood of made-up clients must neither fill the event log nor cost more than a look here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from netboot.events import Event, EventKind

DAMPING_SECONDS = 60.0
DAMPING_ENTRIES = 4096
"""More clients than this in a minute are a flood, and are told of as one event."""
_FLOOD = (EventKind.FLOOD, b"")


class Damping:
    """What was told of lately."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[EventKind, bytes], float] = OrderedDict()

    def tick(self, now: float) -> None:
        """Forget what was told more than a minute ago."""
        while self._until:
            key, until = next(iter(self._until.items()))
            if now < until <= now + DAMPING_SECONDS:
                break  # insertion order is the order of time, unless the clock was set back
            del self._until[key]

    def tell(
        self, kind: EventKind, key: bytes, now: float, event: Callable[[], Event]
    ) -> tuple[Event, ...]:
        """Give the event, made only if it is told; beyond the limit, one FLOOD for all."""
        if (kind, key) in self._until:
            return ()
        if len(self._until) < DAMPING_ENTRIES:
            self._until[kind, key] = now + DAMPING_SECONDS
            return (event(),)
        if _FLOOD in self._until:
            return ()
        self._until[_FLOOD] = now + DAMPING_SECONDS
        return (Event(at=now, kind=EventKind.FLOOD),)
