"""Files of this process alone: written at once or not at all, and on the disk when it returns."""

from __future__ import annotations

import os
from pathlib import Path

from keys.errors import SiteError
from keys.secret import Secret

KEY_SIZE = 32


def read_or_draw(path: Path) -> Secret:
    """Read a key file of 32 bytes, or make it (0600) before anything is encrypted with it."""
    try:
        if not path.exists():
            write_file(path, os.urandom(KEY_SIZE), 0o600)
        value = path.read_bytes()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    if len(value) != KEY_SIZE:
        raise SiteError(f"{path} has not {KEY_SIZE} bytes: it is damaged")
    return Secret(value)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Replace a file at once; its group is what the directory gives (setgid)."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
