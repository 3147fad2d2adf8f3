"""A file of metrics for node_exporter's textfile collector, put in its place as a whole."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bootstrap.errors import SiteError

METRICS_SECONDS = 15.0
"""Between two of them, while netboot runs alone: as often as they are collected."""


def write(path: Path, text: bytes) -> None:
    """Write a file that is never read half; SiteError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            Path(name).chmod(0o644)  # whoever collects is another user
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}: give a file that can be written") from error


class MetricsFile:
    """Writes what `read` gives, now and then; `trouble` says why the last time it could not."""

    def __init__(self, path: Path, read: Callable[[], bytes]) -> None:
        """Write nothing yet."""
        self._path, self._read = path, read
        self._again = 0.0
        self.trouble: str | None = None

    def turn(self) -> None:
        """Write where that is due."""
        now = time.monotonic()
        if now < self._again:
            return
        self._again = now + METRICS_SECONDS
        try:
            write(self._path, self._read())
        except SiteError as error:
            self.trouble = f"metrics are not written: {error}"
        else:
            self.trouble = None
