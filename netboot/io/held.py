"""Replies that promise something: held while the disk is slow, sent by the thread that receives.

Both families of DHCP hold theirs here, and packets that may wait. Nothing is sent of what the disk
refused: the clients ask again. It never decides what is promised.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from netboot.dhcp_outcome import Sighting
from netboot.events import Event
from netboot.io.leases import NetbootStore
from netboot.io.writer import Write

HELD = 8192
"""Replies that wait for the disk, or for their delay; clients of others ask again."""
BACKLOG = 4096
"""Packets that wait their turn; then the oldest goes."""
STALE_SECONDS = 1.0
"""What waited so long was sent again, or its box took another offer."""

Reply = TypeVar("Reply")
Packet = TypeVar("Packet")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Released(Generic[Reply]):
    replies: tuple[Reply, ...]
    is_durable: bool
    may_rename: bool


class HeldReplies(Generic[Reply]):
    """What was promised and is not durable yet; `woken` is readable when some of it is."""

    def __init__(
        self, store: NetbootStore, send: Callable[[Reply], None], on_names: Callable[[], None]
    ) -> None:
        """Send by `send`; `on_names` is told that names of leases may have changed."""
        self._store, self._dispatch, self._on_names = store, send, on_names
        self.woken, self._waker = socket.socketpair()
        for end in (self.woken, self._waker):
            end.setblocking(False)
        self._released: deque[_Released[Reply]] = deque()
        self._waiting = 0

    def submit(
        self,
        writes: Sequence[Write],
        events: Sequence[Event],
        sightings: Sequence[Sighting],
        replies: Sequence[Reply],
    ) -> None:
        """Have it made durable, and hold the replies that promise it until it is."""
        if self._waiting >= HELD:
            replies = ()  # the disk is far behind: these clients ask again
        self._waiting += len(replies)
        may_rename = any(write.lease is None or write.lease.name for write in writes)
        done = partial(self._release, tuple(replies), may_rename)
        self._store.submit(writes, events, sightings, done)

    def _release(
        self, replies: tuple[Reply, ...], may_rename: bool, error: sqlite3.Error | None
    ) -> None:
        """Pass on what the disk said; in the writer's thread."""
        self._released.append(
            _Released(replies=replies, is_durable=error is None, may_rename=may_rename)
        )
        self.wake()

    def wake(self) -> None:
        """Make `woken` readable; from any thread."""
        with contextlib.suppress(OSError):  # full: it wakes anyhow; closed: nobody is there
            self._waker.send(b"\0")

    def send(self) -> None:
        """Send what is durable. After a refusal nothing leaves, and the clients ask again."""
        may_rename = False
        while self._released:
            released = self._released.popleft()
            self._waiting -= len(released.replies)
            may_rename |= released.may_rename
            if released.is_durable:
                for reply in released.replies:
                    self._dispatch(reply)
        if may_rename:
            self._on_names()

    def close(self) -> None:
        """What waits is not sent any more."""
        self.woken.close()
        self._waker.close()


class Backlog(Generic[Packet]):
    """Packets of clients that are new: they wait behind all others, and not for long."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Packet]] = deque(maxlen=BACKLOG)
        self._unanswered = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, packet: Packet, now: float) -> None:
        """Let it wait; `now` in seconds, of any one clock."""
        self._unanswered += len(self._waiting) == BACKLOG  # the oldest goes
        self._waiting.append((now, packet))

    def take(self, most: int, now: float) -> list[Packet]:
        """Give the oldest that still wait for an answer."""
        packets: list[Packet] = []
        while self._waiting and len(packets) < most:
            came, packet = self._waiting.popleft()
            if came <= now < came + STALE_SECONDS:
                packets.append(packet)
            else:
                self._unanswered += 1
        return packets

    def unanswered(self) -> int:
        """Count those that got no answer since this was asked last."""
        count, self._unanswered = self._unanswered, 0
        return count
