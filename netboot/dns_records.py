"""Records of a message of somebody else, as bytes: names in full, nothing in a length is trusted.

A label may hold any byte. Pointers lead backwards alone and are counted by the length of the name
that they make. What is read is in the form that is kept and signed: names in lower case where
RFC 4034, 6.2 has them so. RFC 1035, 4.1.3 and 4.1.4; RFC 3597, 4 (which types hold names).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from netboot.errors import PeerError
from netboot.names import MAX_LABEL, MAX_NAME, Labels, wire
from netboot.rdata import Rtype

_HEAD = struct.Struct("!HHIH")
_POINTER = 0xC0


class RecordError(PeerError):
    """A record that is not as RFC 1035 has it; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record; `data` without compressed names."""

    owner: Labels
    rtype: int
    rclass: int
    ttl: int
    data: bytes


def read_records(message: bytes, at: int, count: int) -> tuple[list[Record], int]:
    """Read `count` records from `at` on, and give where they end; RecordError."""
    found = []
    for _ in range(count):
        owner, at = read_name(message, at)
        if at + _HEAD.size > len(message):
            raise RecordError("a record is cut off")
        rtype, rclass, ttl, size = _HEAD.unpack_from(message, at)
        at += _HEAD.size
        if at + size > len(message):
            raise RecordError("a record is cut off")
        data = _data(message, at, at + size, rtype)
        found.append(Record(owner=owner, rtype=rtype, rclass=rclass, ttl=ttl, data=data))
        at += size
    return found, at


def read_name(message: bytes, at: int) -> tuple[Labels, int]:
    """Read a name that may be compressed, in lower case, and give where it ends; RecordError."""
    name, end = _read_name(message, at)
    return tuple(label.lower() for label in name), end


def _read_name(message: bytes, at: int) -> tuple[Labels, int]:
    found: list[bytes] = []
    end, before, size = None, at, 1
    while at < len(message):
        length = message[at]
        if length >= _POINTER:
            target = int.from_bytes(message[at : at + 2], "big") & 0x3FFF
            end = at + 2 if end is None else end
            if end > len(message) or target >= before:
                break  # each pointer leads further back: there is no loop
            at = before = target
            continue
        at += 1
        if length == 0:
            return tuple(found), at if end is None else end
        size += length + 1
        if length > MAX_LABEL or size > MAX_NAME or at + length > len(message):
            break
        found.append(message[at : at + length])
        at += length
    raise RecordError("a name is malformed")


_NAME, _CASED, _TEXT, _REST = "name", "cased name", "text", "rest"
_Layout = tuple[int | str, ...]
_LAYOUTS: Mapping[int, _Layout] = {
    Rtype.A: (4,),
    Rtype.AAAA: (16,),
    **dict.fromkeys((2, 3, 4, 5, 7, 8, 9, 12, Rtype.DNAME), (_NAME,)),
    Rtype.SOA: (_NAME, _NAME, 20),
    14: (_NAME, _NAME),  # MINFO
    Rtype.MX: (2, _NAME),
    17: (_NAME, _NAME),  # RP
    18: (2, _NAME),  # AFSDB
    21: (2, _NAME),  # RT
    24: (18, _NAME, _REST),  # SIG
    26: (2, _NAME, _NAME),  # PX
    30: (_NAME, _REST),  # NXT
    Rtype.SRV: (6, _NAME),
    Rtype.NAPTR: (4, _TEXT, _TEXT, _TEXT, _NAME),
    36: (2, _NAME),  # KX
    Rtype.DS: (4, _REST),
    Rtype.RRSIG: (18, _NAME, _REST),
    Rtype.NSEC: (_CASED, _REST),  # RFC 6840, 5.1: not in lower case
    Rtype.DNSKEY: (4, _REST),
    Rtype.NSEC3: (6, _REST),
}
"""What the data of a type is made of: counts of bytes, names, texts with their length, the rest.

Types that are not here are bytes, which hold no compressed name.
"""


def _data(message: bytes, at: int, end: int, rtype: int) -> bytes:
    """Read data of a type that ends at `end`."""
    parts = []
    for part in _LAYOUTS.get(rtype, (_REST,)):
        begin = at
        if part in (_NAME, _CASED):
            name, at = (read_name if part is _NAME else _read_name)(message, at)
            parts.append(wire(name))
            continue
        at += _size(part, message[at:end])
        if at > end:
            break
        parts.append(message[begin:at])
    if at != end:
        raise RecordError("the data of a record has another length than its type")
    return b"".join(parts)


def _size(part: int | str, left: bytes) -> int:
    if isinstance(part, int):
        return part
    return len(left) if part is _REST else 1 + (left[0] if left else 0)
