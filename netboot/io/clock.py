"""Whether this machine's clock may judge the dates of signatures.

It may not while it shows a time before one that has certainly been; nor while the kernel was told
of no better clock and no signature of today was seen to fit. adjtimex(2).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

RELEASED = 1_793_491_200.0
"""1 November 2026: this release was made later."""
SLACK_SECONDS = 120.0
_UNSYNCHRONISED = 0x0040
_TIMESYNC = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd.service(8)."""


class _Timex(ctypes.Structure):
    """The beginning of struct timex, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def is_synchronised() -> bool:
    """Tell whether the kernel was told of a better clock; modes 0 changes nothing.

    Where a sandbox forbids to ask, what systemd-timesyncd left says so; else nobody did.
    """
    found = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(found)) < 0:
        return _TIMESYNC.exists()
    return not found.status & _UNSYNCHRONISED


class ClockTrust:
    """Knows of one time that has been; `validated` says that a signature of today fits."""

    def __init__(
        self,
        newest: float,
        wall: Callable[[], float] = time.time,
        is_synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        """Take the newest time that is known, in unix seconds."""
        self._newest = max(newest, RELEASED)
        self._wall, self._is_synchronised = wall, is_synchronised
        self._was_validated = False

    def validated(self) -> None:
        """Note that dates which others signed fit this clock."""
        self._was_validated = True

    def is_blind(self) -> bool:
        """Tell whether dates cannot be judged now."""
        if self._wall() < self._newest - SLACK_SECONDS:
            return True
        return not (self._was_validated or self._is_synchronised())
