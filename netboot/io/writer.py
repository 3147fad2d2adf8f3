"""The one writer of `netboot.db`: what came while the last commit was under way goes into the next.

So one fsync makes many leases durable, and nobody but this thread waits for the disk. What a disk
refused is kept and written when it works again; whoever waits for it is told no. It never decides
what is written, and never says that something is durable before the disk has said so.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import chain

from netboot.dhcp import Sighting
from netboot.errors import SiteError
from netboot.events import Event, EventKind
from netboot.leases import LeaseWrite
from netboot.leases6 import LeaseWrite6

Write = LeaseWrite | LeaseWrite6
"""A row of either family."""
Done = Callable[[sqlite3.Error | None], None]

PACE_SECONDS = 0.002
"""Between the beginnings of commits, at least: under load fewer, larger ones cost less."""
RETRY_SECONDS = 1.0
"""Between tries while the disk refuses."""
IDLE_SECONDS = 0.5
"""After which nobody waits, and the log is taken over into the tables."""
EVENTS_KEPT = 1000
"""Events that wait for a disk that refuses; older ones are lost."""
_NOT_THE_DISK = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one caller wants in one transaction.

    `done` is called in the writer's thread, with None once all of it is durable. `kept` asks that
    it be written even after a refusal, as soon as the disk works.
    """

    writes: Sequence[Write]
    events: Sequence[Event]
    sightings: Sequence[Sighting]
    done: Done
    kept: bool


Transact = Callable[[Iterable[Write], Sequence[Event], Sequence[Sighting]], None]


class GroupWriter:
    """A thread that commits in groups; `transact` is one transaction, durable when it returns."""

    def __init__(self, transact: Transact, tidy: Callable[[bool], None]) -> None:
        """Write by `transact`, and let `tidy` bound the log: True when nobody waits."""
        self._transact, self._tidy = transact, tidy
        self._waiting: list[Batch] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_ending = False
        self._is_tidy = True
        self._unsaved: dict[IPv4Address | IPv6Address, Write] = {}
        self._untold: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._since: float | None = None
        self._held_back = 0
        self.trouble: str | None = None

    def submit(self, batch: Batch) -> None:
        """Have it written as soon as the commit under way is over; never waits. SiteError."""
        self.check_alive()
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="store", daemon=True)
                thread.start()
                self._thread = thread  # not before it lives: `check_alive` takes no lock
            self._waiting.append(batch)
            self._changed.notify()

    def check_alive(self) -> None:
        """Raise SiteError when what is submitted will not be written: the process must end."""
        if self._thread is not None and not self._thread.is_alive():
            raise SiteError("the writer of netboot.db has ended unexpectedly: starting again")

    def close(self) -> None:
        """Write what waits, and end."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (batches := self._wait()) is not None:
            started = time.monotonic()
            if batches or self._unsaved or self._untold:
                self._write(batches)
            self._tidy(not batches)
            self._is_tidy = not batches
            rest = started + PACE_SECONDS - time.monotonic()
            if rest > 0:
                time.sleep(rest)

    def _wait(self) -> list[Batch] | None:
        """Wait for work, or for the time to tidy or try again; None to end."""
        with self._changed:
            if not self._waiting and not self._is_ending:
                self._changed.wait(self._patience())
            if self._is_ending and not self._waiting:
                return None
            batches, self._waiting = self._waiting, []
            return batches

    def _patience(self) -> float | None:
        """Give the seconds to wait for work; for ever, when there is nothing else to do."""
        if self._since is not None or self._unsaved or self._untold:
            return RETRY_SECONDS
        return None if self._is_tidy else IDLE_SECONDS

    def _write(self, batches: list[Batch]) -> None:
        error = self._try(batches)
        if isinstance(error, _NOT_THE_DISK) and len(batches) > 1:
            for batch in batches:  # one caller's bad row must not cost the others theirs
                self._write([batch])
            return
        if error is None:
            self._recovered()
        elif not isinstance(error, _NOT_THE_DISK):
            self._refused(batches, error)
        for batch in batches:
            batch.done(error)

    def _try(self, batches: list[Batch]) -> sqlite3.Error | None:
        writes = self._unsaved | {write.address: write for one in batches for write in one.writes}
        events = [*self._untold, *chain.from_iterable(one.events for one in batches)]
        sightings = [sighting for one in batches for sighting in one.sightings]
        try:
            self._transact(writes.values(), events, sightings)
        except sqlite3.Error as error:
            return error
        return None

    def _refused(self, batches: list[Batch], error: sqlite3.Error) -> None:
        """Keep what is to be kept, so that the table on disk says what memory says, later."""
        self.trouble = f"no lease is given: netboot.db cannot be written: {error}"
        if self._since is None:
            self._since = time.monotonic()
            self._untold.append(_event(EventKind.DISK_REFUSED, sentence=str(error)))
        for batch in batches:
            self._held_back += bool(batch.writes)
            if batch.kept:
                self._unsaved |= {write.address: write for write in batch.writes}
                self._untold.extend(batch.events)

    def _recovered(self) -> None:
        self._unsaved.clear()
        self._untold.clear()
        self.trouble = None
        if self._since is not None:
            seconds = round(time.monotonic() - self._since, 1)
            self._since = None
            self._untold.append(
                _event(EventKind.DISK_WORKS, seconds=seconds, held_back=self._held_back)
            )
            self._held_back = 0


def _event(kind: EventKind, **detail: str | float) -> Event:
    return Event(at=time.time(), kind=kind, detail=tuple(detail.items()))
