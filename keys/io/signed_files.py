"""A signed document on the disk: read with its signature, replaced so that one of both is whole.

Two files cannot be renamed at once. The signature of what is to come is put beside that of what is
there (`.minisig.next`); then the document is renamed, which is the moment of the change; then its
signature takes its place. A reader tries both signatures, so that after a cut at any moment the old
or the new document verifies. What was there before is kept as `.previous`.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from keys.errors import PeerError, SiteError
from keys.manifest import MAX_FILE
from keys.signed import size_text

PREVIOUS, NEXT, SIGNATURE = ".previous", ".next", ".minisig"


class Disk(Protocol):
    """The four things that an import does to the disk, each on it when it returns."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole new file under this name, which is nobody's yet or a leftover."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what has it."""

    def remove(self, path: Path) -> None:
        """Remove a file; nothing where there is none."""

    def read(self, path: Path, limit: int) -> bytes | None:
        """Read a file; None where there is none."""


class RealDisk:
    """The disk; SiteError names the file that could not be written."""

    def write(self, path: Path, data: bytes) -> None:
        """Write and flush it, readable for all."""
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                Path(temporary).rename(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename within a directory, and flush that."""
        with _named(target):
            source.rename(target)
            _sync(target.parent)

    def remove(self, path: Path) -> None:
        """Remove it."""
        with _named(path):
            path.unlink(missing_ok=True)
            _sync(path.parent)

    def read(self, path: Path, limit: int) -> bytes | None:
        """Read a regular file of at most `limit` bytes; PeerError when it is another or larger."""
        return read_bounded(path, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFile:
    """A document with the signatures that lie beside it: its own, or after a cut one of two."""

    data: bytes
    signatures: tuple[bytes, ...]


def signature_of(path: Path) -> Path:
    """Name the signature of a document."""
    return path.with_name(path.name + SIGNATURE)


def beside(path: Path) -> tuple[Path, ...]:
    """Name all files that say what a document is: itself and its signatures."""
    signature = signature_of(path)
    return path, signature, signature.with_name(signature.name + NEXT)


def read_signed(path: Path, limit: int, disk: Disk | None = None) -> SignedFile | None:
    """Read a document and its signatures; None where there is no document."""
    disk = disk or RealDisk()
    document, *signatures = beside(path)
    data = disk.read(document, limit)
    if data is None:
        return None
    found = (disk.read(one, MAX_FILE) for one in signatures)
    return SignedFile(data=data, signatures=tuple(one for one in found if one is not None))


def previous_of(path: Path) -> Path:
    """Name what was there before a document."""
    return path.with_name(path.name + PREVIOUS)


def replace_signed(path: Path, data: bytes, signature: bytes, before: SignedFile | None) -> None:
    """Put a document and its signature in place of those of before, which are kept."""
    replace_on(RealDisk(), path, data, signature, before)


def replace_on(
    disk: Disk, path: Path, data: bytes, signature: bytes, before: SignedFile | None
) -> None:
    """Do it on a disk; `before` is what lies there, None where nothing does.

    `before.signatures` begins with the one that verified, if one did.
    """
    _, own, following = beside(path)
    if before is not None:
        kept = previous_of(path)
        disk.remove(signature_of(kept))
        disk.write(kept, before.data)
        if before.signatures:
            disk.write(signature_of(kept), before.signatures[0])
            # After a cut the one that verifies may be the following one, whose place is needed.
            if disk.read(own, MAX_FILE) != before.signatures[0]:
                disk.write(own, before.signatures[0])
    disk.write(following, signature)
    disk.write(path, data)
    disk.rename(following, own)


def read_bounded(path: Path, limit: int) -> bytes | None:
    """Read a regular file of at most `limit` bytes; None where there is none.

    Nothing is waited for: a pipe or a device is not opened. PeerError when it is no file or larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PeerError(f"{path} is no file: put the document itself there")
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise PeerError(f"{path} is larger than {size_text(limit)}")
    return data


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or "it cannot be written"
        raise SiteError(f"{path}: {what}: what was there before is kept") from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
