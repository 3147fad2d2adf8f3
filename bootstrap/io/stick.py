"""What somebody brought: a file, a directory, a mounted stick, a tar file; none of it is trusted.

Links are not followed, pipes and devices not opened, names and sizes bounded; nothing is unpacked
by a name that a tar file gives. It never writes and never says what a file is for.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bootstrap.errors import PeerError, SiteError

MAX_NAMES, MAX_DEPTH = 4096, 3
MAX_MEMBERS = 1024
_BLOCK = 512
_NAME = 80


class Source(Protocol):
    """Files beside a document: those of its directory, or of the tar file that it is in."""

    @property
    def name(self) -> str:
        """Name it for people."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Read a file of at most `limit` bytes; None where there is none, PeerError otherwise."""

    def open(self, name: str) -> BinaryIO | None:
        """Open a file to be read once; None where there is none."""

    def size(self, name: str) -> int | None:
        """Give the size of a file in bytes; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One name in a directory; `problem` says why its content is not looked at.

    `size` in bytes, as the directory says it.
    """

    folder: Folder
    name: str
    problem: str | None = None
    size: int = 0

    @property
    def shown(self) -> str:
        """Name it for people, below what was given."""
        return f"{self.folder.name}/{shown(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A directory that is read by its path; its names are not believed."""

    path: Path
    name: str

    def read(self, name: str, limit: int) -> bytes | None:
        """Read a file whole."""
        with self._opened(name) as file:
            if file is None:
                return None
            return _bounded(file, f"{self.name}/{shown(name)}", limit)

    def start(self, name: str, size: int) -> bytes:
        """Read the first bytes of a file."""
        with self._opened(name) as file:
            if file is None:
                return b""
            try:
                return file.read(size)
            except OSError as error:
                raise PeerError(f"{shown(name)}: {_why(error)}: copy it again") from error

    def open(self, name: str) -> BinaryIO | None:
        """Open a file."""
        return self._open(name)

    def size(self, name: str) -> int | None:
        """Give a file's size."""
        with self._opened(name) as file:
            return None if file is None else os.fstat(file.fileno()).st_size

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO | None]:
        file = self._open(name)
        try:
            yield file
        finally:
            if file is not None:
                file.close()

    def _open(self, name: str) -> BinaryIO | None:
        """Open a regular file; a link, a pipe or a device is the bringer's fault."""
        if "/" in name or name in ("", ".", ".."):
            return None
        where = f"{self.name}/{shown(name)}"
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path / name, flags)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PeerError(f"{where}: {_why(error)}: put the file itself there") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PeerError(f"{where} is no file: put the document itself there")
        return os.fdopen(descriptor, "rb")


class TarFolder:
    """The regular files of a tar file by the last part of their names; others do not exist.

    POSIX.1-1988 (ustar): headers of 512 bytes. Long names and other extensions are passed over
    without being read: no document of a boot set needs one.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """List the members; PeerError when it is damaged, or has too many."""
        self._file, self._name = file, name
        self._members: dict[str, tuple[int, int]] = {}
        end, at = os.fstat(file.fileno()).st_size, 0
        for _ in range(MAX_MEMBERS):
            file.seek(at)
            header = file.read(_BLOCK)
            if header == bytes(_BLOCK):
                return
            size = self._add(header, at, end)
            at += _BLOCK + -(-size // _BLOCK) * _BLOCK
        raise PeerError(f"{name}: more than {MAX_MEMBERS} members: it is no boot set")

    def _add(self, header: bytes, at: int, end: int) -> int:
        """Note one member if it is a file; gives the size of its content."""
        try:
            said, size = (
                int(header[148:156].strip(b"\0 "), 8),
                int(header[124:136].strip(b"\0 "), 8),
            )
        except ValueError:
            said, size = -1, 0
        counted = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
        if len(header) < _BLOCK or said != counted or not 0 <= size <= end - at - _BLOCK:
            raise PeerError(f"{self._name}: it is damaged or cut off: copy it again")
        own = header[:100].split(b"\0", 1)[0].rpartition(b"/")[2].decode(errors="replace")
        if header[156:157] in (b"0", b"\0") and own:
            if own in self._members:
                raise PeerError(f"{self._name}: two members are named {shown(own)}: make it again")
            self._members[own] = (at + _BLOCK, size)
        return size

    @property
    def name(self) -> str:
        """Name it for people."""
        return self._name

    def read(self, name: str, limit: int) -> bytes | None:
        """Read a member whole."""
        file = self.open(name)
        return None if file is None else _bounded(file, f"{self._name}: {shown(name)}", limit)

    def open(self, name: str) -> BinaryIO | None:
        """Open a member, as long as the tar file is open."""
        if name not in self._members:
            return None
        return io.BufferedReader(_Member(self._file, *self._members[name]))

    def size(self, name: str) -> int | None:
        """Give the size of a member."""
        return self._members[name][1] if name in self._members else None


def _octal(field: bytes) -> int:
    """Read a number of a header; -1 for none."""
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else -1


class _Member(io.RawIOBase):
    """The bytes of one member of a tar file."""

    def __init__(self, file: BinaryIO, at: int, size: int) -> None:
        self._file, self._at, self._left = file, at, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._at)
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._at += len(data)
        self._left -= len(data)
        return len(data)


def folder_of(path: Path) -> tuple[Folder, str]:
    """Give the directory of a file that was named, and the name in it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
    return Folder(path=path.parent, name=str(path.parent)), path.name


def walk(folder: Folder, depth: int = 0, budget: list[int] | None = None) -> Iterator[Found]:
    """Give the files below a directory, sorted; what is not looked at with the reason.

    Names that begin with a dot are passed over: systems leave them on sticks.
    """
    budget = [MAX_NAMES] if budget is None else budget
    inside: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder.path) as entries:
            for entry in entries:
                if budget[0] == 0:
                    told = f"more than {MAX_NAMES} names: give a directory with less in it"
                    yield Found(folder=folder, name="…", problem=told)
                    break
                budget[0] -= 1
                if not entry.name.startswith("."):
                    inside.append(entry)
    except OSError as error:
        raise SiteError(f"{folder.name}: {_why(error)}") from error
    for entry in sorted(inside, key=lambda one: one.name):
        yield from _entry(folder, entry, depth, budget)


def _entry(
    folder: Folder, entry: os.DirEntry[str], depth: int, budget: list[int]
) -> Iterator[Found]:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        yield Found(folder=folder, name=entry.name, problem=f"{_why(error)}")
        return
    mode = status.st_mode
    if stat.S_ISREG(mode):
        yield Found(folder=folder, name=entry.name, size=status.st_size)
    elif stat.S_ISDIR(mode):
        inner = Folder(path=Path(entry.path), name=f"{folder.name}/{shown(entry.name)}")
        if depth < MAX_DEPTH:
            yield from walk(inner, depth + 1, budget)
        else:
            told = "a directory too deep to be looked into: give it by itself"
            yield Found(folder=folder, name=entry.name, problem=told)
    else:
        what = "a link" if stat.S_ISLNK(mode) else "a device or a pipe"
        told = f"{what}, which is not opened: put the file itself there"
        yield Found(folder=folder, name=entry.name, problem=told)


def shown(name: str) -> str:
    """Write a name that a stranger gave: no control characters, no bytes of another encoding."""
    text = "".join(char if char.isprintable() else "?" for char in name)
    return text if len(text) <= _NAME else f"{text[:_NAME]}…"


def _bounded(file: BinaryIO, where: str, limit: int) -> bytes:
    try:
        data = file.read(limit + 1)
    except OSError as error:
        raise PeerError(f"{where} cannot be read to its end: copy it again") from error
    if len(data) > limit:
        raise PeerError(f"{where} is larger than {limit} bytes, which nothing of its kind is")
    return data


def _why(error: OSError) -> str:
    return error.strerror or "it cannot be read"
