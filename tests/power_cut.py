"""A disk that remembers what was flushed: a file system of one file, spoken to by the kernel.

A loop device on that file, and ext4 on it, are what a real disk and its file system are. Every
write and every flush of the disk comes here (FUSE, linux/fuse.h, version 7), in order; a power cut
keeps what was flushed, and of what came after it anything or nothing, torn at sectors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SIZE = 192 << 20
SECTOR = 512
_LARGEST = 1 << 20
_HEADER = struct.Struct("<IIQQIIIHH")
_FILE, _ROOT = 2, 1
_FOREVER = 1 << 30
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE = 1, 2, 3, 4, 14, 15, 16
STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, INTERRUPT = 17, 18, 20, 25, 26, 27, 36
RELEASEDIR, DESTROY, BATCH_FORGET = 29, 38, 42
_SILENT = {FORGET, BATCH_FORGET, INTERRUPT}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that the disk took into its cache."""

    offset: int
    data: bytes


FLUSHED = None
Entry = Written | None


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout.strip()


class Disk:
    """The disk with its journal: what was written and flushed, in the order it came."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.journal: list[Entry] = []
        self._blank, self._live = place / "blank.img", place / "live.img"
        with self._blank.open("wb") as file:
            file.truncate(SIZE)
        lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", "-E", lazy, self._blank)
        run("cp", "--sparse=always", self._blank, self._live)
        self._image = os.open(self._live, os.O_RDWR)
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount ext4 on a loop device on this disk; gives where."""
        glass, root = self.place / "fuse", self.place / "root"
        glass.mkdir()
        root.mkdir()
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        assert _libc.mount(b"disk", bytes(glass), b"fuse", 0, options) == 0, os.strerror(
            ctypes.get_errno()
        )
        self._thread.start()
        loop = ""
        try:
            loop = run("losetup", "--find", "--show", glass / "disk.img")
            run("mount", "-t", "ext4", loop, root)
            yield root
        finally:
            # Each needs the one before to be over; what is busy goes when it is not any more.
            for command in (("umount", root), ("losetup", "-d", loop), ("umount", glass)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(command, check=False, capture_output=True, timeout=20)
            subprocess.run(("umount", "-l", glass), check=False, capture_output=True)
            self._thread.join(10)
            os.close(self._fuse)
            os.close(self._image)

    # What the kernel asks

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, _LARGEST + 4096)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return  # ENODEV: unmounted
            _, code, unique, node, *_ = _HEADER.unpack_from(request)
            if code in _SILENT:
                continue
            answer = self._answer(code, node, request[_HEADER.size :])
            failed, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
            with contextlib.suppress(OSError):
                os.write(self._fuse, struct.pack("<IiQ", 16 + len(body), failed, unique) + body)
            if code == DESTROY:
                return

    def _answer(self, code: int, node: int, body: bytes) -> bytes | int:
        """Give the answer's body, or an error number."""
        if code == WRITE:
            offset, size = struct.unpack_from("<QI", body, 8)
            data = body[40 : 40 + size]
            os.pwrite(self._image, data, offset)
            self.journal.append(Written(offset, data))
            return struct.pack("<II", size, 0)
        if code == FSYNC:
            self.journal.append(FLUSHED)
            return b""
        if code == READ:
            offset, size = struct.unpack_from("<QI", body, 8)
            return os.pread(self._image, size, offset)
        if code == INIT:
            _, _, ahead = struct.unpack_from("<III", body)
            big_writes, max_pages = 1 << 5, 1 << 22
            fields = (7, 31, ahead, big_writes | max_pages, 16, 12, _LARGEST, 1, _LARGEST >> 12, 0)
            return struct.pack("<IIIIHHIIHH", *fields) + bytes(32)
        return self._look(code, node, body)

    def _look(self, code: int, node: int, body: bytes) -> bytes | int:
        if code == LOOKUP:
            if body != b"disk.img\0":
                return errno.ENOENT
            return struct.pack("<QQQQII", _FILE, 0, _FOREVER, _FOREVER, 0, 0) + _attributes(_FILE)
        if code in (GETATTR, SETATTR):
            return struct.pack("<QII", _FOREVER, 0, 0) + _attributes(node)
        if code in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if code in (FLUSH, RELEASE, RELEASEDIR, DESTROY):
            return b""
        if code == STATFS:
            return struct.pack("<QQQQQIIII", SIZE >> 12, 0, 0, 1, 0, 4096, 255, 4096, 0) + bytes(24)
        return errno.ENOSYS

    # Power cuts

    def cuts(self, first: int, chance: random.Random, most: int) -> Iterator[tuple[int, Path]]:
        """Give (how much of the journal had come, the disk) for cuts of the power.

        From entry `first` on, at flushes and between them; about `most` of them.
        """
        flushed = self.place / "flushed.img"
        run("cp", "--sparse=always", self._blank, flushed)
        image = os.open(flushed, os.O_RDWR)
        boundaries = [at for at, one in enumerate(self.journal) if one is FLUSHED and at >= first]
        chosen = set(chance.sample(boundaries, min(most // 2, len(boundaries))))
        cache: list[Written] = []
        for at, entry in enumerate(self.journal):
            if isinstance(entry, Written):
                cache.append(entry)
                continue
            if at in chosen:
                # Just before this flush was done: what it was to save is in part there.
                yield at, self._cut(flushed, cache, chance)
            for written in cache:
                os.pwrite(image, written.data, written.offset)
            cache.clear()
            if at in chosen:
                yield at + 1, self._cut(flushed, [], chance)
        os.close(image)

    def _cut(self, flushed: Path, cache: list[Written], chance: random.Random) -> Path:
        """Make the disk as a power cut may leave it."""
        cut = self.place / "cut.img"
        # A new file: a loop device that somebody still holds has the last one's blocks in memory.
        cut.unlink(missing_ok=True)
        run("cp", "--sparse=always", flushed, cut)
        share = chance.choice((0.0, 0.3, 0.7, 0.95))
        with cut.open("r+b") as image:
            for written in cache:
                if chance.random() >= share:
                    continue
                data = written.data
                if chance.random() < 0.3:
                    data = data[: SECTOR * chance.randrange(1 + len(data) // SECTOR)]
                image.seek(written.offset)
                image.write(data)
        return cut


def _attributes(node: int) -> bytes:
    is_file = node == _FILE
    size, mode = (SIZE, 0o100600) if is_file else (0, 0o040700)
    numbers = struct.pack("<QQQQQQ", node, size, size // SECTOR, 0, 0, 0)
    return numbers + struct.pack("<10I", 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def files_of(disk: Path, place: Path) -> Path:
    """Start the machine again: mount, which replays ext4's journal, and copy all files out."""
    root, copy = place / "again", place / "copy"
    root.mkdir(exist_ok=True)
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    run("mount", "-t", "ext4", "-o", "loop", disk, root)
    try:
        for file in root.iterdir():
            if file.is_file():
                shutil.copy(file, copy / file.name)
    finally:
        run("umount", root)
    return copy
