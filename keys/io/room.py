"""Room on the disk: a full one must not end the hand-overs of boxes that are expected.

Some megabytes are held by a file from the first start. When the disk is full the file goes, and
what is needed to serve and to audit fits in its place; what only adds to the cache is refused until
somebody has made room. It never removes anything else.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE = 16 << 20
"""Bytes; a hand-over takes about 20 kB with its audit, the write-ahead log up to 4 MB."""
LOW = 8 << 20
FULL = (
    "the disk of this controller is full: boxes are still served from a reserve of some hundred "
    "hand-overs, new secrets are refused. Make room"
)


class Room:
    """The reserve of one directory, and whether it is used up."""

    def __init__(self, directory: Path) -> None:
        """Hold the reserve, if there is room."""
        self._directory, self._path = directory, directory / "reserve"
        self.sentence: str | None = None
        self.look()

    def look(self) -> None:
        """Give the reserve up on a full disk, and take it back when there is room."""
        try:
            room = os.statvfs(self._directory)
            free = room.f_bavail * room.f_frsize
            has_reserve = self._path.exists()
            if has_reserve and free < LOW:
                self._path.unlink()
            elif not has_reserve and free >= RESERVE + 2 * LOW:
                self._hold()
            self.sentence = None if self._path.exists() else FULL
        except OSError:
            self.sentence = FULL

    def _hold(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise
        finally:
            os.close(descriptor)
