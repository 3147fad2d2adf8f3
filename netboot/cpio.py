"""The cpio archives that Linux unpacks as its initial root file system ("newc" and its CRC form).

Linux Documentation/driver-api/early-userspace/buffer-format.rst. The same entries always give the
same bytes: sorted, inode numbers by position, owner and times zero. It never compresses and never
reads a file.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netboot.errors import PeerError

_NEWC, _CRC = b"070701", b"070702"
_HEADER = 110
_TRAILER = "TRAILER!!!"
_MAX_NAME = 4096


class CpioError(PeerError):
    """These bytes are not a cpio archive of the two forms we know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One file, directory, link or device; `mode` has the type bits, `data` a link's target.

    `name` is relative, without a leading slash; `device` is (major, minor) of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file_entry(name: str, data: bytes, *, executable: bool = False) -> CpioEntry:
    """Make a regular file, readable by all, of mode 0444 or 0555."""
    return CpioEntry(name=name, mode=stat.S_IFREG | (0o555 if executable else 0o444), data=data)


def directory_entry(name: str) -> CpioEntry:
    """Make a directory of mode 0755."""
    return CpioEntry(name=name, mode=stat.S_IFDIR | 0o755)


def link_entry(name: str, target: str) -> CpioEntry:
    """Make a symbolic link."""
    return CpioEntry(name=name, mode=stat.S_IFLNK | 0o777, data=target.encode())


def with_parents(entries: Iterable[CpioEntry]) -> list[CpioEntry]:
    """Add the directories that are missing above the entries."""
    known = {entry.name: entry for entry in entries}
    for name in list(known):
        while "/" in name:
            name = name.rpartition("/")[0]
            known.setdefault(name, directory_entry(name))
    return list(known.values())


def encode_cpio(entries: Iterable[CpioEntry], *, checksums: bool = False) -> bytes:
    """Write an archive, sorted by name; with `checksums` in the form whose sums Linux checks."""
    output = bytearray()
    ordered = sorted(entries, key=lambda entry: entry.name)
    for number, entry in enumerate(ordered, start=1):
        output += _encode_entry(entry, number, checksums)
    output += _encode_entry(CpioEntry(name=_TRAILER, mode=0), 0, checksums)
    output += bytes(-len(output) % 512)
    return bytes(output)


def decode_cpio(data: bytes) -> tuple[CpioEntry, ...]:
    """Read an archive of either form up to its trailer; CpioError when it is malformed."""
    return tuple(_decode(data))


def _encode_entry(entry: CpioEntry, number: int, checksums: bool) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    checked = checksums and stat.S_ISREG(entry.mode)
    check = sum(entry.data) & 0xFFFFFFFF if checked else 0
    size = len(entry.data)
    fields = (number, entry.mode, 0, 0, links, 0, size, 0, 0, *entry.device, len(name), check)
    header = (_CRC if checksums else _NEWC) + b"".join(b"%08x" % value for value in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _decode(data: bytes) -> Iterator[CpioEntry]:
    at = 0
    while True:
        fields, checksums = _decode_header(data[at : at + _HEADER])
        _, mode, _, _, _, _, size, _, _, major, minor, name_size, check = fields
        start = at + _HEADER
        name = _decode_name(data[start : start + name_size], name_size)
        body = start + name_size + -(start + name_size) % 4
        content = data[body : body + size]
        if len(content) != size:
            raise CpioError(f"cpio: {name!r} is cut off")
        if checksums and stat.S_ISREG(mode) and sum(content) & 0xFFFFFFFF != check:
            raise CpioError(f"cpio: the checksum of {name!r} is wrong")
        if name == _TRAILER:
            return
        yield CpioEntry(name=name, mode=mode, data=content, device=(major, minor))
        at = body + size + -size % 4


def _decode_header(header: bytes) -> tuple[list[int], bool]:
    digits = header[6:]
    if len(header) != _HEADER or header[:6] not in (_NEWC, _CRC):
        raise CpioError("cpio: no header where one must be")
    if not all(digit in b"0123456789abcdefABCDEF" for digit in digits):
        raise CpioError("cpio: a header field is not hexadecimal")
    fields = [int(digits[i : i + 8], 16) for i in range(0, 104, 8)]
    return fields, header[:6] == _CRC


def _decode_name(raw: bytes, size: int) -> str:
    if not 1 < size <= _MAX_NAME or len(raw) != size or not raw.endswith(b"\0"):
        raise CpioError("cpio: a name is malformed")
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError as error:
        raise CpioError("cpio: a name is not UTF-8") from error
