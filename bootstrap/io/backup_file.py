"""A backup as a file: written whole or not at all, read as a stream whose end is believed last.

It never judges a signature: see `bootstrap.backup`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO, Self

from bootstrap.backup import MAX_MEMBERS, MAX_TRAILER, check_name, read_front, read_trailer
from bootstrap.errors import PeerError, SiteError
from keys.errors import PeerError as KeysPeerError
from keys.io.age import decrypt_stream
from keys.parcel import Header
from keys.secret import Secret

CHUNK = 1 << 18

Take = Callable[[str, int, IO[bytes]], None]
"""Takes a file inside: its name, its size, and what reads it."""


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears when it is whole; SiteError says why it could not be."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync(path.parent)
    except OSError as error:
        text = f"{error.filename or path}: {error.strerror or error}: nothing was written"
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise SiteError(text + (", make room there" if is_full else "")) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


class Sink:
    """Writes on and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begin."""
        self._file, self._hash = file, sha256()

    def write(self, data: bytes) -> None:
        """Write all of it."""
        self._file.write(data)
        self._hash.update(data)

    def digest(self) -> bytes:
        """Give the SHA-256 of everything so far."""
        return self._hash.digest()


class Pull:
    """Lets somebody read what is made piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """Make nothing yet."""
        self._pieces, self._held = pieces, bytearray()

    def read(self, size: int = -1) -> bytes:
        """Give up to so many bytes; none at the end."""
        while len(self._held) < max(1, size):
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
        data = bytes(self._held[:size])
        del self._held[:size]
        return data


class Pipe:
    """Lets what writes run in a thread of its own, while its other end is read.

    What the writer raises is raised at the end, before anything that was read may count.
    """

    def __init__(self, write_all: Callable[[Callable[[bytes], object]], None]) -> None:
        """Run nothing yet."""
        self._write_all = write_all
        self._failed: list[BaseException] = []

    def __enter__(self) -> Self:
        """Begin to write."""
        reader, writer = os.pipe()
        self.source: IO[bytes] = os.fdopen(reader, "rb", buffering=CHUNK)
        self._thread = threading.Thread(target=self._run, args=(writer,), name="decrypt")
        self._thread.start()
        return self

    def _run(self, writer: int) -> None:
        try:
            with os.fdopen(writer, "wb", buffering=CHUNK) as sink:
                self._write_all(sink.write)
        except BaseException as error:  # noqa: BLE001 - raised again by who reads
            self._failed.append(error)

    def read(self, size: int) -> bytes:
        """Give up to so many bytes; at the end, raise what the writer raised."""
        data = self.source.read(size)
        if not data:
            self.drain()
        return data

    def drain(self) -> None:
        """Read to the end and wait for the writer; raises what it raised."""
        while self.source.read(CHUNK):
            pass
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End both; the writer's own error counts where the reader has none."""
        try:
            if kind is None:
                self.drain()
        finally:
            self.source.close()  # a writer that still writes ends by it
            self._thread.join()


class BackupFile:
    """A file as it lies there: its front, its last line, and what is between."""

    def __init__(self, path: Path) -> None:
        """Open it; PeerError when it is no backup, SiteError when it cannot be read."""
        self.path = path
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
            self.front = read_front(self._file.read(MAX_TRAILER))
            self._file.seek(max(0, self.size - MAX_TRAILER - 2))
            self.trailer = read_trailer(self._file.read())
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        self._end = self.size - len(self.trailer) - 2
        if self._end <= self.front.size:
            raise PeerError("there is nothing between its first and its last line: it was cut off")
        self._hash = sha256()

    @property
    def header(self) -> Header:
        """What it says of itself; believed when its signature was checked."""
        return self.front.header

    def digest(self) -> bytes:
        """Hash everything but the last line."""
        self._rewind(0)
        while self._read(CHUNK):
            pass
        return self._hash.digest()

    def open(self, identity: Secret, write: Callable[[bytes], object], digest: bytes) -> None:
        """Decrypt it into `write`; PeerError when it is not what was hashed before, or not for us.

        Whoever holds the stick may have changed the file meanwhile: act on nothing before the end.
        """
        self._rewind(0)
        self._read(self.front.size)
        try:
            decrypt_stream(self._read, write, identity)
        except KeysPeerError as error:
            raise PeerError(str(error)) from None
        if self._hash.digest() != digest:
            raise PeerError("the file was changed while it was read: copy it again")

    def unpack(self, identity: Secret, digest: bytes, take: Take) -> None:
        """Decrypt it and give each file inside, with name and size; as `open` raises."""
        with Pipe(lambda write: self.open(identity, write, digest)) as pipe:
            try:
                _each(pipe.source, take)
            except (tarfile.TarError, EOFError):
                pipe.drain()  # a file that is not whole has a better sentence than tar's
                raise PeerError("what is inside is no backup: make another") from None

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _rewind(self, at: int) -> None:
        self._file.seek(at)
        self._hash = sha256()

    def _read(self, size: int) -> bytes:
        left = self._end - self._file.tell()
        data = self._file.read(max(0, min(size, left)))
        self._hash.update(data)
        return data


def _each(source: IO[bytes], take: Take) -> None:
    with tarfile.open(fileobj=source, mode="r|", bufsize=1 << 16) as tar:
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS or not member.isreg():
                raise PeerError("what is inside is no backup: make another")
            content = tar.extractfile(member)
            assert content is not None
            take(check_name(member.name), member.size, content)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
