"""The page's one look at control: asked at most once a second, however many phones look.

It keeps the last answer, so that a page can show old data as old when control is silent, and bounds
how many event streams are open. It never keeps anything on disk.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keys.errors import KeysError
from keys.io.rpc import call

POLL_SECONDS = 1.0
FULL_SECONDS = 5.0
"""Cards are asked for after an event, and this often in any case: a quiet stage has no event."""
ASK_SECONDS = 2.0
STREAM_SECONDS = 600.0
DAY_SECONDS = 86400
BEAT_SECONDS = 3.0
"""A phone that went away is noticed at the next beat."""
MAX_STREAMS = 32
"""Each open stream holds one thread of the page's 40; those beyond it are told to ask by turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the page shows: control's last answers, when they came, and since when it is silent.

    `mark` changes with everything but the mere passing of time. Times are unix seconds.
    """

    site: Mapping[str, Any]
    cards: Sequence[Mapping[str, Any]]
    services: Sequence[Mapping[str, Any]]
    notices: Sequence[str]
    autonomy: Mapping[str, Any] = field(default_factory=dict)
    as_of: float | None = None
    lost_since: float | None = None
    mark: str = ""


class Watch:
    """Looks at control for all phones; safe to call from every thread."""

    def __init__(self, control: Path) -> None:
        """Look through the socket at `control`; nothing is asked yet."""
        self._control = control
        self._lock = threading.Lock()
        self._view = View(site={}, cards=(), services=(), notices=())
        self._asked = self._full = float("-inf")
        self._last = -1
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)

    def view(self) -> View:
        """Return what control says now, or said last; at most one second old while it answers."""
        with self._lock:
            if time.monotonic() - self._asked >= POLL_SECONDS:
                self._view = self._look(self._view)
                self._asked = time.monotonic()
            return self._view

    def box(self, key: str) -> Mapping[str, Any]:
        """Ask for the details of one box; RpcError when there is none, else RpcUnavailableError."""
        answer: Mapping[str, Any] = call(self._control, "box", {"box": key}, timeout=ASK_SECONDS)
        return answer

    def open_stream(self) -> bool:
        """Take one of the places for streams; False when all are taken."""
        return self._streams.acquire(blocking=False)

    def close_stream(self) -> None:
        """Give the place back."""
        self._streams.release()

    def stream(self, seen: str) -> Iterator[str]:
        """Tell a browser each time that something changed since the mark it saw (WHATWG, SSE)."""
        ends = time.monotonic() + STREAM_SECONDS
        beat = 0.0
        yield "retry: 3000\n\n"
        while time.monotonic() < ends:
            mark = self.view().mark
            if mark != seen:
                seen, beat = mark, time.monotonic()
                yield f"id: {mark}\nevent: change\ndata: {{}}\n\n"
            elif time.monotonic() - beat >= BEAT_SECONDS:
                beat = time.monotonic()
                yield ":\n\n"
            time.sleep(POLL_SECONDS)

    def _look(self, old: View) -> View:
        now = time.time()
        try:
            last = int(self._call("events", {"after": -1})["last"])
            services = self._call("services")
            due = time.monotonic() - self._full >= FULL_SECONDS
            boxes = self._call("boxes") if due or last != self._last or old.lost_since else None
        except KeysError:
            return _marked(replace(old, lost_since=old.lost_since or now))
        self._last = last
        if boxes is not None:
            self._full = time.monotonic()
        return _marked(
            View(
                site=old.site if boxes is None else boxes["site"],
                cards=old.cards if boxes is None else boxes["cards"],
                services=services["services"],
                notices=services["notices"],
                autonomy=services["autonomy"],
                as_of=now,
            )
        )

    def _call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        return call(self._control, method, params, timeout=ASK_SECONDS)


def digest(value: object) -> str:
    """Name a JSON value by its content, shortly."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _marked(view: View) -> View:
    content = (view.site, view.cards, view.services, view.notices, view.lost_since)
    return replace(view, mark=digest((*content, first_ends(view.autonomy))))


def first_ends(autonomy: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Give what ends first by its day: what counts switched-on time moves with every second."""
    return [
        (one["kind"], one["name"], int(one["ends"] // DAY_SECONDS))
        for one in autonomy.get("first", ())
    ]
