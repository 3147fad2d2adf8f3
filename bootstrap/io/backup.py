"""Makes a backup: a stream, never whole in memory and never on the disk in the clear.

What is here of secrets was encrypted inside keys. Databases are copied by their owners
(`as_owner`), files are read without following links: their owners must not lead root elsewhere.
bootstrap.backup says what a backup is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bootstrap.backup import TAR_END, Form, front, tar_head, tar_pad
from bootstrap.errors import SiteError
from bootstrap.io.as_owner import as_owner, copy_database
from bootstrap.io.backup_file import CHUNK, Pull, Sink, new_file
from keys.envelope import b64u, unb64u
from keys.io.age import encrypt_stream
from keys.io.layout import Layout
from keys.io.rpc import RpcError
from keys.parcel import Header

TRIES = 3
DATABASES = (
    ("site", "site.db", "control"),
    ("netboot", "netboot.db", "netboot"),
    ("watch", "watch.db", "watch"),
    ("sync", "sync.db", "sync"),
    ("keys", "keys.db", "keys"),
)
"""Directory below STATE, file, owner; control's first: its cursors must not be ahead of others."""
BOOT_FILES = "state/bootsets/files"
PRIVATE = (b"PRIVATE KEY-----", b"AGE-SECRET-KEY-")
SECONDS = 120.0

Ask = Callable[[str, Mapping[str, Any]], Any]
"""Calls a method of keys with its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a backup holds; `left` names what was left out, each with the reason."""

    header: Header
    size: int
    files: int
    left: tuple[str, ...]


@dataclass(slots=True)
class _Work:
    """One backup as it is made."""

    layout: Layout
    header: Header
    ask: Ask
    stage: Path
    with_boot_sets: bool
    with_evidence: bool
    files: int = 0
    left: list[str] = field(default_factory=list)

    def members(self) -> Iterator[bytes]:
        """Give the tar, piece by piece."""
        yield from self._data("header.json", self.header.encode())
        yield from self._databases()
        yield from self._secrets()
        yield from self._tree(self.layout.site, "site")
        yield from self._boot_sets()
        for name, wanted in (("plan", True), ("evidence", self.with_evidence)):
            if wanted:
                yield from self._tree(self.layout.state / name, f"state/{name}")
        yield TAR_END

    def _data(self, name: str, data: bytes) -> Iterator[bytes]:
        self.files += 1
        yield tar_head(name, len(data)) + data + tar_pad(len(data))

    def _databases(self) -> Iterator[bytes]:
        for directory, name, user in DATABASES:
            source = self.layout.state / directory / name
            uid = self.layout.users.get(user)
            if uid is None or not source.exists():
                continue
            own = self.stage / directory
            own.mkdir(mode=0o700)
            os.chown(own, uid, -1)
            try:
                as_owner(uid, _copying(source, own / name))
            except SiteError as error:
                raise SiteError(f"{source}: {error}") from None
            yield from self._file(f"db/{name}", _open(own / name))
            shutil.rmtree(own)

    def _secrets(self) -> Iterator[bytes]:
        number, first = 1, 0
        header = self.header.encode().decode()
        while True:
            params = {"header": header, "number": number, "first": first}
            answer = self.ask("backup_secrets", params)
            self.left += [f"secret {name}: it does not open" for name in answer["left"]]
            yield from self._data(f"secrets/{number:06}.age", unb64u(answer["part"]))
            if answer["next"] is None:
                return
            number, first = number + 1, answer["next"]

    def _boot_sets(self) -> Iterator[bytes]:
        base = self.layout.state / "bootsets"
        yield from self._tree(base / "sets", "state/bootsets/sets")
        with contextlib.suppress(FileNotFoundError):
            yield from self._file("state/bootsets/published.json", _open(base / "published.json"))
        if self.with_boot_sets:
            yield from self._tree(base / "files", BOOT_FILES)

    def _tree(self, top: Path, prefix: str) -> Iterator[bytes]:
        """Give every file below a directory; links, sockets and offline keys are left out."""
        walk = os.fwalk(top, follow_symlinks=False) if top.is_dir() else ()
        for directory, subdirectories, names, handle in walk:
            below = Path(directory).relative_to(top)
            if prefix == "site" and below == Path():
                with contextlib.suppress(ValueError):
                    subdirectories.remove("offline")
            subdirectories.sort()
            for name in sorted(names):
                inside = f"{prefix}/{below / name}"
                try:
                    opened = _open(name, handle)
                except OSError as error:
                    if error.errno == errno.ENOENT:
                        continue  # removed meanwhile
                    self.left.append(f"{inside}: a link, or no file")
                    continue
                if prefix == "site" and _is_private(opened):
                    opened.close()
                    self.left.append(f"{inside}: a private key is in it, and belongs elsewhere")
                    continue
                yield from self._file(inside, opened)

    def _file(self, name: str, opened: IO[bytes]) -> Iterator[bytes]:
        with opened:
            size = left = os.fstat(opened.fileno()).st_size
            self.files += 1
            yield tar_head(name, size)
            while left:
                data = opened.read(min(CHUNK, left))
                if not data:
                    raise SiteError(f"{name} was changed while it was read: make the backup again")
                left -= len(data)
                yield data
            yield tar_pad(size)


def make(
    layout: Layout,
    ask: Ask,
    out: Path,
    *,
    with_boot_sets: bool = False,
    with_evidence: bool = False,
) -> Made:
    """Write a backup of a running appliance, whole or not at all; SiteError says what is missing.

    A secret that is put meanwhile begins it anew, three times at most.
    """
    if os.geteuid() != 0:
        raise SiteError("a backup is made by root: use sudo")
    for attempt in range(1, TRIES + 1):
        try:
            return _make(layout, ask, out, with_boot_sets, with_evidence)
        except RpcError as error:
            if error.code != "BACKUP-CHANGED" or attempt == TRIES:
                raise
    raise AssertionError("a backup was made or it was not")


def _make(layout: Layout, ask: Ask, out: Path, with_boot_sets: bool, with_evidence: bool) -> Made:
    header = Header.decode(ask("backup_begin", {})["header"].encode())
    for old in layout.state.glob(".backup-*"):
        shutil.rmtree(old)  # of one that was cut
    stage = Path(tempfile.mkdtemp(dir=layout.state, prefix=".backup-"))
    stage.chmod(0o711)
    work = _Work(layout, header, ask, stage, with_boot_sets, with_evidence)
    try:
        with new_file(out) as file:
            sink = Sink(file)
            sink.write(front(Form.BACKUP, header))
            encrypt_stream(Pull(work.members()).read, sink.write, header.recipient)
            params = {"header": header.encode().decode(), "digest": b64u(sink.digest())}
            signed = ask("backup_sign", params)["signed"]
            file.write(b"\n" + signed.encode() + b"\n")
            size = file.tell()
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Made(header=header, size=size, files=work.files, left=tuple(work.left))


def _copying(source: Path, target: Path) -> Callable[[], Mapping[str, Any]]:
    return lambda: copy_database(source, target)


def _open(path: Path | str, directory: int | None = None) -> IO[bytes]:
    """Open a regular file and nothing else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no file")
    return os.fdopen(handle, "rb")


def _is_private(opened: IO[bytes]) -> bool:
    begin = opened.read(1 << 16)
    opened.seek(0)
    return any(word in begin for word in PRIVATE)
