"""Puts a seed directory in its place as a whole, and wipes what must not be left.

A reader that opens the directory has the old or the new one, never a mixture and never nothing.
renameat2(2); it knows nothing of what a seed holds but where its secrets are.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

SECRET = ("secrets", "ssh")
"""Directories of a seed that hold what nobody else may have."""
_AT_FDCWD, _EXCHANGE = -100, 2


def put(fresh: Path, directory: Path) -> None:
    """Put a directory into the place of another one, which is wiped; OSError when it cannot."""
    if not directory.exists():
        fresh.rename(directory)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(fresh), os.fsencode(directory))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(directory))
    wipe(fresh)
    shutil.rmtree(fresh, ignore_errors=True)


def wipe(directory: Path) -> int:
    """Overwrite and remove the secrets of a seed; gives how many files those were."""
    found = 0
    for path in _secret_files(directory):
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        found += 1
    return found


def _secret_files(directory: Path) -> Iterator[Path]:
    for name in SECRET:
        part = directory / name
        if part.is_dir():
            yield from (path for path in sorted(part.iterdir()) if path.is_file())
