"""DNS messages as bytes: one question in, an answer out; nothing in a length is trusted.

It knows no zone and never asks anybody. RFC 1035, 4.1; RFC 6891 (EDNS); RFC 7873 (the shape of a
cookie); RFC 8914 (extended errors); RFC 9619 (one question).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from netboot.errors import PeerError
from netboot.names import Labels, wire
from netboot.rdata import Rtype
from netboot.zone import Rcode, RRset

HEADER = struct.Struct("!HHHHHH")
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODES = 0x7800
QUERY, NOTIFY, UPDATE = 0, 4, 5
IN, CHAOS = 1, 3
UDP_SIZE = 1232
"""What passes unbroken everywhere; also the most that is sent by UDP."""
PLAIN_SIZE = 512
TCP_SIZE = 65535
_RECORD = struct.Struct("!HHIH")
_MAX_RECORDS = 16
"""Records behind a question: OPT, TSIG, the SOA of an IXFR."""
_DO = 0x8000
_OWNER = b"\xc0\x0c"
"""A pointer to the question's name."""
_COOKIE, _EXTENDED_ERROR = 10, 15
_COOKIE_SIZES = (8, *range(16, 41))


class FormatError(PeerError):
    """The message is not as RFC 1035 has it; the answer is FORMERR."""


class ExtendedError(IntEnum):
    """Codes of RFC 8914, 4 that we send."""

    STALE = 3
    DNSSEC_BOGUS = 6
    SIGNATURE_EXPIRED = 7
    DNSSEC_INDETERMINATE = 5
    CACHED_ERROR = 13
    BLOCKED = 15
    PROHIBITED = 18
    STALE_NXDOMAIN = 19
    NOT_AUTHORITATIVE = 20
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23
    SYNTHESIZED = 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Edns:
    """What an OPT record asks: UDP payload size, version, the DO flag, a cookie or nothing."""

    size: int
    version: int
    do: bool
    cookie: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question: `question` as it came, `name` as labels in lower case.

    `question` is empty where only a cookie is asked for (RFC 7873, 5.4).
    """

    number: int
    flags: int
    question: bytes
    name: Labels
    qtype: int
    qclass: int
    edns: Edns | None

    @property
    def wants_signatures(self) -> bool:
        """Tell whether the DO flag is set (RFC 3225)."""
        return self.edns is not None and self.edns.do


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes into a reply; `flags` are AA, RA, AD and CD, `said` the text of `error`."""

    rcode: Rcode
    flags: int = 0
    answers: tuple[RRset, ...] = ()
    authority: tuple[RRset, ...] = ()
    additional: tuple[RRset, ...] = ()
    error: ExtendedError | None = None
    said: str = ""
    cookie: bytes = b""


def decode_query(data: bytes) -> Query:
    """Read a message with opcode QUERY; FormatError."""
    number, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if questions > 1 or answers or authorities + additionals > _MAX_RECORDS:
        raise FormatError("not one question alone")
    name, qtype, qclass, position = _read_question(data) if questions else _NO_QUESTION
    begin, edns = position, None
    for record in range(authorities + additionals):
        record_type, position, opt = _read_record(data, position)
        if record_type == Rtype.OPT:
            if edns is not None or opt is None or record < authorities:
                raise FormatError("OPT is misplaced")
            edns = opt
    if position != len(data):
        raise FormatError("there is more than the message says")
    if not questions and (edns is None or not edns.cookie):
        raise FormatError("not one question alone")
    return Query(
        number=number,
        flags=flags,
        question=data[HEADER.size : begin],
        name=tuple(label.lower() for label in name),
        qtype=qtype,
        qclass=qclass,
        edns=edns,
    )


_NO_QUESTION: tuple[Labels, int, int, int] = ((), Rtype.OPT, IN, HEADER.size)


def _read_question(data: bytes) -> tuple[Labels, int, int, int]:
    """Read name, type and class of the question, and give where it ends."""
    name, end = _read_name(data, HEADER.size)
    if end + 4 > len(data):
        raise FormatError("the question is cut off")
    return name, *struct.unpack_from("!HH", data, end), end + 4


def _read_name(data: bytes, position: int) -> tuple[Labels, int]:
    """Read a name that is not compressed: nothing before it could be pointed to."""
    labels: list[bytes] = []
    length = 0
    while position < len(data):
        size = data[position]
        position += 1
        if size == 0:
            return tuple(labels), position
        length += size + 1
        if size > 63 or length > 254 or position + size > len(data):
            break
        labels.append(data[position : position + size])
        position += size
    raise FormatError("a name is malformed")


def _skip_name(data: bytes, position: int) -> int:
    """Pass over the owner name of a record, compressed or not."""
    while position < len(data):
        size = data[position]
        if size >= 0xC0:
            return position + 2
        if size == 0:
            return position + 1
        if size > 63:
            break
        position += size + 1
    raise FormatError("an owner name is malformed")


def _read_record(data: bytes, start: int) -> tuple[int, int, Edns | None]:
    """Pass over a record: its type, its end, and what it asks if it is an OPT at the root."""
    position = _skip_name(data, start)
    if position + _RECORD.size > len(data):
        raise FormatError("a record is cut off")
    rtype, rclass, ttl, length = _RECORD.unpack_from(data, position)
    position += _RECORD.size
    end = position + length
    if end > len(data):
        raise FormatError("a record is cut off")
    if rtype != Rtype.OPT or data[start]:
        return rtype, end, None
    cookie = _read_options(data, position, end)
    edns = Edns(size=rclass, version=ttl >> 16 & 0xFF, do=bool(ttl & _DO), cookie=cookie)
    return rtype, end, edns


def _read_options(data: bytes, position: int, end: int) -> bytes:
    """Walk EDNS options and give the first cookie; FormatError when one is cut off."""
    cookie = b""
    while position < end:
        if position + 4 > end:
            raise FormatError("an EDNS option is cut off")
        code, length = struct.unpack_from("!HH", data, position)
        position += 4 + length
        if position > end:
            raise FormatError("an EDNS option is cut off")
        if code == _COOKIE and not cookie:
            cookie = data[position - length : position]
            if length not in _COOKIE_SIZES:
                raise FormatError("a cookie has 8, or 16 to 40 bytes")  # RFC 7873, 4
    return cookie


def bare(data: bytes, rcode: Rcode) -> bytes:
    """Answer with a header alone, of the same opcode; RD is copied where it means something."""
    asked = int.from_bytes(data[2:4])
    flags = QR | asked & OPCODES | (0 if asked & OPCODES else asked & RD) | rcode
    return data[:2] + struct.pack("!HHHHH", flags, 0, 0, 0, 0)


def encode(query: Query, answer: Answer, size: int) -> bytes:
    """Write an answer of at most `size` bytes, or one that says that it was too long (TC).

    Question and OPT are always there (RFC 6891, 7); a record is never cut.
    """
    flags = QR | query.flags & RD | answer.flags | answer.rcode & 15
    opt = b"" if query.edns is None else _encode_opt(query.edns, answer)
    parts = [
        _encode_section(query, section)
        for section in (answer.answers, answer.authority, answer.additional)
    ]
    room = size - HEADER.size - len(query.question) - len(opt)
    if sum(len(record) for part in parts[:2] for record in part) > room:
        flags, parts = flags | TC, [[], [], []]
    elif sum(len(record) for part in parts for record in part) > room:
        parts[2] = []  # what was only meant to help may be left out (RFC 2181, 9)
    counts = [int(bool(query.question)), *map(len, parts)]
    counts[3] += bool(opt)
    head = HEADER.pack(query.number, flags, *counts)
    return b"".join((head, query.question, *parts[0], *parts[1], *parts[2], opt))


def _encode_section(query: Query, rrsets: Iterable[RRset]) -> list[bytes]:
    qclass = CHAOS if query.qclass == CHAOS else IN
    records = []
    for one in rrsets:
        owner = _OWNER if one.owner == query.name else wire(one.owner)
        records += [
            owner + _RECORD.pack(one.rtype, qclass, one.ttl, len(data)) + data
            for data in one.rdatas
        ]
    return records


def _encode_opt(edns: Edns, answer: Answer) -> bytes:
    options = b""
    if answer.cookie:
        options += struct.pack("!HH", _COOKIE, len(answer.cookie)) + answer.cookie
    if answer.error is not None:
        text = answer.said.encode()[:100]
        options += struct.pack("!HHH", _EXTENDED_ERROR, 2 + len(text), answer.error) + text
    flags = answer.rcode >> 4 << 24 | (_DO if edns.do else 0)
    return b"\0" + _RECORD.pack(Rtype.OPT, UDP_SIZE, flags, len(options)) + options


def encode_question(
    number: int, flags: int, name: Sequence[bytes], qtype: int, opt: bytes
) -> bytes:
    """Write a question of ours, `name` in the case that it is to have."""
    head = HEADER.pack(number, flags, 1, 0, 0, int(bool(opt)))
    return head + wire(tuple(name)) + struct.pack("!HH", qtype, IN) + opt


def encode_own_opt(*, do: bool, options: bytes = b"") -> bytes:
    """Write the OPT of a question of ours."""
    return b"\0" + _RECORD.pack(Rtype.OPT, UDP_SIZE, _DO if do else 0, len(options)) + options
