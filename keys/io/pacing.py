"""Watches the pace of the TPM's clock while the process runs (`keys.witness` judges it)."""

from __future__ import annotations

import time
from collections.abc import Callable

from keys.io.ring import Ring
from keys.io.store import Event, Store
from keys.io.tpm_ring import TpmRing
from keys.witness import Reading, following, pace


class Pacing:
    """Remembers one reading, and what the last comparison said."""

    def __init__(
        self, store: Store, ring: Ring, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with the first look; `monotonic` gives seconds."""
        self._store, self._ring, self._monotonic = store, ring, monotonic
        self._first: Reading | None = None
        self.sentence: str | None = None

    def look(self, now: float) -> None:
        """Compare when it is time; a clock that is off is an event, once for each span."""
        if not isinstance(self._ring, TpmRing):
            return
        last = Reading(tpm=self._ring.counters(), monotonic=self._monotonic())
        first = self._first or last
        found = pace(first, last)
        self._first = following(first, last)
        if found is None:
            return
        self.sentence = found.sentence if found.is_off else None
        if found.is_off:
            with self._store.transaction():
                event = Event(kind="tpm-clock-off", detail={"rate": round(found.rate, 4)})
                self._store.record(now, "keys", event)
