"""The file store of boot files as TFTP and HTTP read it: open files by SHA-256.

It never writes, and never opens a name that came from a client.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from netboot.errors import SiteError
from netboot.events import Event
from netboot.files import Entry

RECENT = 16
Told = Callable[[Iterable[Event]], None]
"""Where events go; it must not block."""


class StoredFile:
    """An open file of the store, read by offset; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        """Open the file; OSError when there is none."""
        self._path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self.descriptor).st_size
        weakref.finalize(self, os.close, self.descriptor)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Give a part; SiteError when the disk fails."""
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise SiteError(f"{self._path.name}: {error.strerror}") from error
        if len(data) != min(length, max(0, self._size - offset)):
            raise SiteError(f"{self._path.name}: is shorter than it was")
        return data


class FileStore:
    """The files of boot sets and those of the plan, each open once while anybody reads it.

    The last few stay open, for clients that ask for one file piece by piece.
    """

    def __init__(self, *directories: Path) -> None:
        """Use directories of files named by SHA-256."""
        self._directories = directories
        self._recent: deque[StoredFile] = deque(maxlen=RECENT)
        self._open: weakref.WeakValueDictionary[bytes, StoredFile] = weakref.WeakValueDictionary()

    def open(self, entry: Entry) -> StoredFile | None:
        """Open the file of an entry; None when the store has lost it."""
        known = self._open.get(entry.sha256)
        if known is not None:
            return known
        opened = self._look_for(entry.sha256.hex())
        if opened is None:
            return None
        self._open[entry.sha256] = opened
        self._recent.append(opened)
        return opened

    def _look_for(self, name: str) -> StoredFile | None:
        for directory in self._directories:
            try:
                return StoredFile(directory / name)
            except OSError:
                continue
        return None

    def has(self, sha256: bytes) -> bool:
        """Tell whether a file is there and may be read."""
        return any(os.access(one / sha256.hex(), os.R_OK) for one in self._directories)
