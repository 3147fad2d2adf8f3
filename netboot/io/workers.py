"""The threads of the netboot process: one for each service, and one that writes down events.

A thread never dies quietly: the process sees it and ends, and is started again with its leases.
"""

from __future__ import annotations

import gc
import json
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from netboot.errors import NetbootError
from netboot.events import Event
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.leases6 import holder6

TURN_SECONDS = 0.5
RETRY_SECONDS = 5.0
"""After which a configuration that could not be taken is tried again: a link may have come."""
MAX_QUEUED = 10_000
"""Events that wait for the disk; more are counted and dropped."""
_BATCH = 500
_COLLECTIONS = (10_000, 20, 50)
"""For `gc.set_threshold`: Python's own would look at every lease again for a few thousand ACKs."""


class State(StrEnum):
    """What a service does, for `status`."""

    WAITING = "waiting"
    SERVING = "serving"
    TROUBLE = "trouble"
    OFF = "off"
    LOOKING = "looking"
    REFUSED = "refused"


class Worker:
    """One service's thread: jobs that configure it, and its turns between them."""

    def __init__(self, name: str, turn: Callable[[float], None]) -> None:
        """Give the thread a name and what to do in each turn; `start` begins."""
        self.name = name
        self._turn = turn
        self._jobs: queue.SimpleQueue[tuple[int, Callable[[], None]]] = queue.SimpleQueue()
        self._again: tuple[float, Callable[[], None]] | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.trouble: str | None = None
        self.generation = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def post(self, generation: int, configure: Callable[[], None]) -> None:
        """Configure the service between two turns; `generation` is then the one it runs."""
        self._jobs.put((generation, configure))

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End after the turn under way."""
        self._end.set()
        self._thread.join(2 * TURN_SECONDS + 1)

    def _run(self) -> None:
        while not self._end.is_set():
            self._configure()
            self._turn(TURN_SECONDS)

    def _configure(self) -> None:
        while not self._jobs.empty():
            generation, configure = self._jobs.get()
            self._try(configure)
            self.generation = generation
        if self._again is not None and self._again[0] <= time.monotonic():
            self._try(self._again[1])

    def _try(self, configure: Callable[[], None]) -> None:
        self._again = None
        try:
            configure()
        except NetbootError as error:
            self.trouble = f"{self.name}: {error}"
            self._again = time.monotonic() + RETRY_SECONDS, configure
        else:
            self.trouble = None


class Recorder:
    """Writes events of TFTP, HTTP and the process, and prints every event, DHCP's too.

    `tell` never blocks: the disk's pace is this thread's alone.
    """

    def __init__(self, store: NetbootStore) -> None:
        """Write into this store; `start` begins."""
        self._store = store
        self._log = EventLog(store)
        self._printed = self._log.last()
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.lost = 0
        self.trouble: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread.is_alive()

    def tell(self, events: Iterable[Event]) -> None:
        """Keep events, as soon as the disk allows."""
        for event in events:
            if self._queue.qsize() < MAX_QUEUED:
                self._queue.put(event)
            else:
                self.lost += 1

    def stop(self) -> None:
        """Write what waits, and end."""
        self._end.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            is_last = self._end.is_set()
            self._write(self._collect())
            self._print()
            if is_last and self._queue.empty():
                return

    def _collect(self) -> list[Event]:
        events: list[Event] = []
        try:
            events.append(self._queue.get(timeout=TURN_SECONDS / 2))
            while len(events) < _BATCH:
                events.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return events

    def _write(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._log.append(*(self._with_mac(event) for event in events))
        except sqlite3.Error as error:
            self.lost += len(events)
            self.trouble = f"netboot.db cannot be written: {error}"
        else:
            self.trouble = None

    def _with_mac(self, event: Event) -> Event:
        """Add whose lease the address is: one card for a box's DHCP and its boot files."""
        if event.mac is not None or event.address is None:
            return event
        if isinstance(event.address, IPv4Address):
            return replace(event, mac=self._store.holder(event.address, event.at))
        return replace(event, mac=holder6(self._store, event.address))

    def _print(self) -> None:
        try:
            events = self._log.after(self._printed)
        except sqlite3.Error as error:
            self.trouble = f"netboot.db cannot be read: {error}"
            return
        for event in events:
            self._printed = event["n"]
            say(line(event))


def spare_collector() -> None:
    """Have the garbage collector leave alone what lives now, and look at the rest less often.

    Called when the leases are loaded: they stay, and neither they nor packets refer in a circle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def say(text: str) -> None:
    """Write one line for the journal."""
    sys.stderr.write(f"netboot: {text}\n")
    sys.stderr.flush()


def line(event: Mapping[str, Any]) -> str:
    """Write an event as one line: its kind, which box, which reason, then the rest."""
    fields = {key: event[key] for key in ("mac", "address", "reason")} | dict(event["detail"])
    told = (f"{key}={_value(value)}" for key, value in fields.items() if value is not None)
    return " ".join((str(event["kind"]), *told))


def _value(value: object) -> str:
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return text if is_plain and text else json.dumps(text)
