"""A directory on a small disk of its own, which can be filled and made read-only."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def mounted(place: Path, kept: Path, size: str) -> Iterator[None]:
    """Put a directory with what it holds on a disk of that size; afterwards it is as it became.

    `kept` is a path that is not there yet. Nothing may hold a file of it open before or after.
    """
    shutil.copytree(place, kept)
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "doorstep-test", place)
    try:
        shutil.copytree(kept, place, dirs_exist_ok=True)
        yield
        shutil.rmtree(kept)
        shutil.copytree(place, kept)
    finally:
        run("umount", "-l", place)
    shutil.rmtree(place)
    kept.rename(place)


def fill(path: Path) -> None:
    """Write a file until there is no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def run(*command: str | Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
