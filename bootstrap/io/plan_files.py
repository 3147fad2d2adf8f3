"""The operator's own boot files: a directory beside the site file, copied by digest for netboot.

A copy, so that what is served under a digest never changes under it. Nothing outside of the
directory is read: no links are followed. docs/netboot.md, "Files of your own".
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bootstrap.errors import SiteError
from netboot.files import normal_path

MAX_FILES = 4096
_CHUNK = 1 << 20

Stamp = tuple[str, int, int, int]
"""A file as it was looked at: path, modification time, inode, size."""


class PlanFiles:
    """The store of one state directory; each file is read again only when it changed."""

    def __init__(self, store: Path) -> None:
        """Keep copies in `store`, named by SHA-256."""
        self._store = store
        self._known: dict[Stamp, bytes] = {}

    def take(self, source: Path | None) -> dict[str, bytes]:
        """Copy what is new below `source`; give each path with its SHA-256. SiteError."""
        if source is None:
            return {}
        found: dict[str, bytes] = {}
        known: dict[Stamp, bytes] = {}
        for stamp in stamps(source):
            digest = self._known.get(stamp)
            if digest is None or not (self._store / digest.hex()).is_file():
                digest = self._copy(source / stamp[0])
            known[stamp] = found[f"/{stamp[0]}"] = digest
        self._known = known
        return found

    @staticmethod
    def look(source: Path | None) -> dict[str, bytes]:
        """Give each path below `source` with its SHA-256, and copy nothing. SiteError."""
        if source is None:
            return {}
        return {f"/{stamp[0]}": _sha256(source / stamp[0]) for stamp in stamps(source)}

    def add(self, data: bytes) -> bytes:
        """Keep these bytes; gives their SHA-256. SiteError."""
        digest = hashlib.sha256(data).digest()
        path = self._store / digest.hex()
        if path.is_file():
            return digest
        try:
            self._store.mkdir(parents=True, exist_ok=True)
            temporary = self._store / f".new-{digest.hex()}"
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.rename(path)
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}: correct it") from error
        return digest

    def has(self, digest: bytes) -> bool:
        """Tell whether there is a copy."""
        return (self._store / digest.hex()).is_file()

    def keep_only(self, digests: Iterable[bytes]) -> None:
        """Remove copies that no plan names any more."""
        wanted = {digest.hex() for digest in digests}
        if self._store.is_dir():
            for path in self._store.iterdir():
                if path.name not in wanted:
                    path.unlink(missing_ok=True)

    def _copy(self, path: Path) -> bytes:
        try:
            self._store.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._store, prefix=".new-")
            try:
                hasher = hashlib.sha256()
                with os.fdopen(handle, "wb") as target, path.open("rb") as source:
                    while chunk := source.read(_CHUNK):
                        hasher.update(chunk)
                        target.write(chunk)
                    target.flush()
                    os.fsync(target.fileno())
                Path(temporary).chmod(0o644)
                Path(temporary).rename(self._store / hasher.hexdigest())
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}: correct it, or take it away") from error
        return hasher.digest()


def _sha256(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}: correct it, or take it away") from error


def stamps(source: Path) -> tuple[Stamp, ...]:
    """List the files below a directory as they are now; SiteError for a name no client can ask."""
    try:
        found = sorted(_walk(source, ""))
    except OSError as error:
        raise SiteError(f"{error.filename}: {error.strerror}: correct boot.files") from error
    if len(found) > MAX_FILES:
        raise SiteError(f"{source}: more than {MAX_FILES} files: take another directory")
    for name, *_ in found:
        if normal_path(name) != f"/{name}":
            raise SiteError(f"{source / name}: no client can ask for this name: rename it")
    return tuple(found)


def _walk(directory: Path, prefix: str) -> Iterator[Stamp]:
    """Give regular files; links and what begins with a dot are left out."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name, info = prefix + entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                yield from _walk(Path(entry.path), f"{name}/")
            elif stat.S_ISREG(info.st_mode):
                yield name, info.st_mtime_ns, info.st_ino, info.st_size
