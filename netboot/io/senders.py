"""A few threads that help one loop to hand data to the kernel: sendfile(2) on all processors.

The kernel does most of the work of serving files, and Python lets go of its lock meanwhile. A turn
of the loop ends when all of its answers were pushed, so nothing else is shared with these threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

_MOST = 4
"""Threads with the caller's; there are other services in the process."""


class Pushing(Protocol):
    """Something with data for the kernel."""

    def push(self) -> None:
        """Hand over what the kernel takes now; never wait, never raise."""


class Senders:
    """The threads; they start when there is something to do for two."""

    def __init__(self, threads: int | None = None) -> None:
        """Use so many with the caller's; else one for each processor that this process may use."""
        self._wanted = (threads or min(_MOST, len(os.sched_getaffinity(0)))) - 1
        self._helpers: list[_Helper] = []
        self._work: deque[Pushing] = deque()

    def push(self, work: Sequence[Pushing]) -> None:
        """Have each push once; all have when this returns."""
        if len(work) < 2:
            for one in work:
                one.push()
            return
        waiting = self._work
        waiting.extend(work)
        if len(self._helpers) < self._wanted:
            self._helpers += [_Helper(waiting) for _ in range(self._wanted)]
        helping = self._helpers[: len(work) - 1]
        for helper in helping:
            helper.begin.release()
        _push_all(waiting)
        for helper in helping:
            helper.end.acquire()
            if helper.is_ended:
                raise RuntimeError(f"{helper.name} has ended")

    def close(self) -> None:
        """End the threads."""
        for one in self._helpers:
            one.is_ended = True
            if one.begin.locked():  # else it was let go, and a fault here came before its end
                one.begin.release()
            one.join()
        self._helpers.clear()


def _push_all(work: deque[Pushing]) -> None:
    while True:
        try:
            one = work.popleft()
        except IndexError:
            return
        one.push()


class _Helper(threading.Thread):
    """Pushes from the same queue as the loop between `begin` and `end`."""

    def __init__(self, work: deque[Pushing]) -> None:
        super().__init__(name="http-sender", daemon=True)
        self._work = work
        self.begin, self.end = _held(), _held()
        self.is_ended = False
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.begin.acquire()
                if self.is_ended:
                    return
                _push_all(self._work)
                self.end.release()
        finally:
            self.is_ended = True
            self.end.release()


def _held() -> threading.Lock:
    """Make a lock that another thread's `release` opens: cheaper than a semaphore."""
    lock = threading.Lock()
    lock.acquire()
    return lock
