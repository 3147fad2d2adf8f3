"""The site's DNS server as an engine: a message in, a message out.

It answers for its own zones alone, never asks anybody, and looks at bytes before it trusts a length
in them. RFC 1034, 1035, 6891 (EDNS), 8482 (ANY), 8906 (the battery), 9619 (one question).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netboot.errors import PeerError
from netboot.names import Labels, wire
from netboot.rdata import Rtype
from netboot.zone import Found, Rcode, RRset, Zones

UDP_SIZE = 1232
"""What passes unbroken everywhere; also the most that is sent by UDP."""
PLAIN_SIZE = 512
TCP_SIZE = 65535
SOFTWARE = "Doorstep"
MAX_CACHED = 4096
MAX_CACHED_QUERY = 300
_MAX_RECORDS = 16
"""Records behind a question: OPT, TSIG, the SOA of an IXFR."""

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_QR, _AA, _TC, _RD = 0x8000, 0x0400, 0x0200, 0x0100
_QUERY, _NOTIFY, _UPDATE = 0, 4, 5
_IN, _CHAOS = 1, 3
_OPT, _IXFR, _AXFR = 41, 251, 252
_DO = 0x8000
_OWNER = b"\xc0\x0c"
"""A pointer to the question's name."""


class FormatError(PeerError):
    """The message is not as RFC 1035 has it; the answer is FORMERR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edns:
    """What an OPT record asks: UDP payload size, version, the DO flag."""

    size: int
    version: int
    do: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question: `question` as it came, `name` as labels in lower case."""

    question: bytes
    name: Labels
    qtype: int
    qclass: int
    edns: Edns | None


def decode_query(data: bytes) -> Query:
    """Read a message with opcode QUERY; FormatError."""
    _, _, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if questions != 1 or answers or authorities + additionals > _MAX_RECORDS:
        raise FormatError("not one question alone")
    name, end = _read_name(data, _HEADER.size)
    if end + 4 > len(data):
        raise FormatError("the question is cut off")
    qtype, qclass = struct.unpack_from("!HH", data, end)
    position, edns = end + 4, None
    for number in range(authorities + additionals):
        record_type, position, opt = _read_record(data, position)
        if record_type == _OPT:
            if edns is not None or opt is None or number < authorities:
                raise FormatError("OPT is misplaced")
            edns = opt
    if position != len(data):
        raise FormatError("there is more than the message says")
    question = data[_HEADER.size : end + 4]
    lower = tuple(label.lower() for label in name)
    return Query(question=question, name=lower, qtype=qtype, qclass=qclass, edns=edns)


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
    if rtype != _OPT or data[start]:
        return rtype, end, None
    while position < end:
        if position + 4 > end:
            raise FormatError("an EDNS option is cut off")
        position += 4 + int(struct.unpack_from("!H", data, position + 2)[0])
    if position != end:
        raise FormatError("an EDNS option is cut off")
    return rtype, end, Edns(size=rclass, version=ttl >> 16 & 0xFF, do=bool(ttl & _DO))


class DnsEngine:
    """Answers from one generation of zones; whole answers are kept until the next one."""

    def __init__(self, zones: Zones, host: str) -> None:
        """Answer for these zones; `host` is what CHAOS hostname.bind is told."""
        self._zones = zones
        self._host = host
        self._kept: dict[tuple[bytes, bool], bytes] = {}

    def replace(self, zones: Zones) -> None:
        """Take another generation; nothing of the old one is answered any more."""
        self._zones = zones
        self._kept = {}

    def receive(self, data: bytes, *, is_tcp: bool) -> bytes | None:
        """Answer one message; None for what must not be answered."""
        kept = self._kept.get((data[2:], is_tcp))
        if kept is not None:
            return data[:2] + kept
        if len(data) < _HEADER.size or data[2] & 0x80:
            return None
        opcode = data[2] >> 3 & 15
        if opcode != _QUERY:
            rcode = Rcode.REFUSED if opcode in (_NOTIFY, _UPDATE) else Rcode.NOTIMP
            return _bare(data, rcode)
        try:
            query = decode_query(data)
        except FormatError:
            return _bare(data, Rcode.FORMERR)
        reply, is_kept = self._answer(data, query, is_tcp)
        if is_kept and len(data) <= MAX_CACHED_QUERY:
            if len(self._kept) >= MAX_CACHED:
                self._kept = {}
            self._kept[data[2:], is_tcp] = reply[2:]
        return reply

    def _answer(self, data: bytes, query: Query, is_tcp: bool) -> tuple[bytes, bool]:
        if query.edns is not None and query.edns.version != 0:
            return _encode(data, query, Found(rcode=Rcode.BADVERS), TCP_SIZE, is_ours=False), False
        found = self._find(query)
        is_ours = found.is_authoritative and found.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN)
        size = TCP_SIZE if is_tcp else PLAIN_SIZE
        if not is_tcp and query.edns is not None:
            size = min(max(PLAIN_SIZE, query.edns.size), UDP_SIZE)
        return _encode(data, query, found, size, is_ours=is_ours), is_ours

    def _find(self, query: Query) -> Found:
        if query.qclass == _CHAOS:
            return self._find_chaos(query)
        if query.qclass != _IN or query.qtype in (_IXFR, _AXFR):
            return Found(rcode=Rcode.REFUSED)
        if query.qtype == _OPT:
            return Found(rcode=Rcode.FORMERR)
        return self._zones.lookup(query.name, query.qtype)

    def _find_chaos(self, query: Query) -> Found:
        texts = {
            (b"version", b"bind"): SOFTWARE,
            (b"version", b"server"): SOFTWARE,
            (b"hostname", b"bind"): self._host,
            (b"id", b"server"): self._host,
        }
        if query.name not in texts or query.qtype not in (Rtype.TXT, 255):
            return Found(rcode=Rcode.REFUSED)
        said = texts[query.name].encode()[:255]
        data = bytes((len(said),)) + said
        value = RRset(owner=query.name, rtype=Rtype.TXT, ttl=0, rdatas=(data,))
        return Found(rcode=Rcode.NOERROR, answers=(value,))


def _bare(data: bytes, rcode: Rcode) -> bytes:
    """Answer with a header alone; opcode and RD are the query's, everything else is ours."""
    flags = _QR | int.from_bytes(data[2:4]) & (0x7800 | _RD) | rcode
    return data[:2] + struct.pack("!HHHHH", flags, 0, 0, 0, 0)


def _encode(data: bytes, query: Query, found: Found, size: int, *, is_ours: bool) -> bytes:
    """Write an answer of at most `size` bytes, or one that says that it was too long (TC)."""
    flags = _QR | int.from_bytes(data[2:4]) & _RD | found.rcode & 15 | (_AA if is_ours else 0)
    opt = b"" if query.edns is None else _encode_opt(query.edns, found.rcode)
    parts = [
        [_encode_record(query, one, data) for one in section for data in one.rdatas]
        for section in (found.answers, found.authority, found.additional)
    ]
    body = b"".join(record for part in parts for record in part) + opt
    counts = (1, len(parts[0]), len(parts[1]), len(parts[2]) + bool(opt))
    if _HEADER.size + len(query.question) + len(body) > size:
        flags, body, counts = flags | _TC, opt, (1, 0, 0, int(bool(opt)))
    return data[:2] + struct.pack("!HHHHH", flags, *counts) + query.question + body


def _encode_opt(edns: Edns, rcode: Rcode) -> bytes:
    flags = _DO if edns.do else 0
    return b"\0" + _RECORD.pack(_OPT, UDP_SIZE, rcode >> 4 << 24 | flags, 0)


def _encode_record(query: Query, rrset: RRset, rdata: bytes) -> bytes:
    qclass = _CHAOS if query.qclass == _CHAOS else _IN
    owner = _OWNER if rrset.owner == query.name else wire(rrset.owner)
    return owner + _RECORD.pack(rrset.rtype, qclass, rrset.ttl, len(rdata)) + rdata
