"""Master-file text as records: plain lines are read here, everything else by dnspython.

Most lines of a large zone are a name with an address or another name; reading these alone is ten
times as fast. Whatever is not plain (directives, quotes, comments, more lines, other types, an
owner left out) goes to dnspython with all that the lines before it said. RFC 1035, 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.tokenizer
import dns.zonefile

from netboot.names import MAX_LABEL, MAX_NAME, Labels, is_at_or_below, read_wire, text, wire
from netboot.rdata import NEVER_HELD, Rtype, name_of
from netboot.zone_build import ZoneBuilder, ZoneRecord

MAX_TTL = 0x7FFFFFFF
"""RFC 2181, 8."""
_DIRECTIVES = ("$ORIGIN", "$TTL", "$GENERATE")
_ALONE = frozenset({Rtype.SOA, Rtype.CNAME, Rtype.DNAME})
_BESIDE_CNAME = frozenset({Rtype.CNAME, Rtype.RRSIG, Rtype.NSEC})
_NAME = r"@|[\w*-]+(?:\.[\w*-]+)*\.?"
_PLAIN = re.compile(
    rf"({_NAME})[ \t]+(?:(\d{{1,9}})[ \t]+)?(?:IN[ \t]+)?"
    rf"(?:(A)[ \t]+([\d.]+)|(AAAA)[ \t]+([\da-f:.]+)|(NS|CNAME|PTR)[ \t]+({_NAME}))[ \t]*\r?",
    re.ASCII | re.IGNORECASE,
)
"""Owner, TTL, and one of: A, AAAA, or a type whose data is a name."""
_TYPES = {one.name: one for one in (Rtype.A, Rtype.AAAA, Rtype.NS, Rtype.CNAME, Rtype.PTR)}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|;.*')


class BrokenError(Exception):
    """Text that is no zone, and at which line, from 1, that was seen."""

    def __init__(self, line: int, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.line = line


def read_text(content: str, origin: Labels, *, is_signed: bool = False) -> ZoneBuilder:
    """Read the text of a zone; BrokenError."""
    reading = _Reading(origin, is_signed=is_signed)
    reading.read(content)
    return reading.builder


def read_by_dnspython(content: str, origin: Labels) -> ZoneBuilder:
    """Read the text of a zone without the shorter way; BrokenError."""
    reading = _Reading(origin, is_signed=False)
    reading.read_chunk(content.split("\n"), 1)
    return reading.builder


class _Reading:
    """A zone while it is read: where dnspython's reader puts records, and what it knows so far."""

    def __init__(self, origin: Labels, *, is_signed: bool) -> None:
        self.builder = ZoneBuilder(origin, None, 0, is_signed=is_signed)
        self.manager = self
        self._zone = dns.name.from_text(text(origin))
        self._reader: Any = dns.zonefile.Reader(
            dns.tokenizer.Tokenizer(""),
            dns.rdataclass.IN,
            cast(Any, self),
            allow_directives=_DIRECTIVES,
        )
        self._origin = origin
        self._last: Labels | None = None
        self._has_ttl = False

    # what the reader asks of a transaction

    def origin_information(self) -> tuple[dns.name.Name, bool, dns.name.Name]:
        """Tell the reader below what relative names are."""
        return self._zone, False, self._zone

    def check_put_rdataset(self, check: object) -> None:
        """Leave the reader's own checks out: they look at every set of a name."""

    def _set_origin(self, origin: dns.name.Name) -> None:
        """Leave $ORIGIN to the reader."""

    def add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        """Take one record of the reader."""
        owner = read_wire(name.to_wire() or b"\0")[0]
        self._take(owner, ttl, int(rdata.rdtype), bytes(rdata.to_digestable()))

    def _take(self, owner: Labels, ttl: int, rtype: int, data: bytes) -> None:
        """Take one record; ValueError for what RFC 1034, 3.6.2 and RFC 2181, 10.1 forbid."""
        if rtype in NEVER_HELD:
            raise ValueError("a record of this type is in no zone")
        if ttl > MAX_TTL:
            raise ValueError(f"its TTL is above {MAX_TTL}")
        if rtype == Rtype.SOA and owner != self.builder.origin:
            raise ValueError("a SOA is at the zone's own name alone")
        self.builder.add(ZoneRecord(owner=owner, rtype=rtype, ttl=ttl, rdata=data))
        beside = self.builder.sets_of(owner)
        if rtype in _ALONE and len(beside[rtype].rdatas) > 1:
            raise ValueError(f"there is another {name_of(rtype)} of this name")
        if Rtype.CNAME in beside and not _BESIDE_CNAME.issuperset(beside):
            raise ValueError("a CNAME stands alone")

    # lines

    def read(self, content: str) -> None:
        """Read everything; BrokenError."""
        waiting: list[str] = []
        begun, depth = 1, 0
        for number, line in enumerate(content.split("\n"), 1):
            plain = None if depth > 0 else _PLAIN.fullmatch(line)
            if plain is not None:
                self.read_chunk(waiting, begun)
                waiting = []
                if self._read_plain(plain, number):
                    continue
            if not waiting:
                begun = number
            waiting.append(line)
            bare = _QUOTED.sub("", line)
            depth += bare.count("(") - bare.count(")")
            if depth <= 0 and line[:7].upper() == "$ORIGIN":
                self.read_chunk(waiting, begun)
                waiting = []
        self.read_chunk(waiting, begun)

    def read_chunk(self, lines: Sequence[str], begun: int) -> None:
        """Have dnspython read lines, the first of which is number `begun`; BrokenError."""
        if not any(lines):
            return
        reader = self._reader
        if self._last is not None:
            reader.last_name = dns.name.Name([*self._last, b""])
        reader.tok = tokens = dns.tokenizer.Tokenizer("\n".join(lines) + "\n", "")
        try:
            reader.read()
        except (dns.exception.DNSException, ValueError, RecursionError) as error:
            line = tokens.where()[1]
            said = str(error).removeprefix(f":{line}: ")[:200]
            raise BrokenError(begun + line - 1, said or type(error).__name__) from None
        self._last = None
        if not reader.current_origin.is_absolute():  # dnspython before 2.9 (RFC 1035, 5.1)
            origin = dns.name.Name([*self._origin, b""])
            reader.current_origin = reader.current_origin.derelativize(origin)
        self._origin = read_wire(reader.current_origin.to_wire() or b"\0")[0]
        self._has_ttl = self._has_ttl or any(line[:4].upper() == "$TTL" for line in lines)

    def _read_plain(self, line: re.Match[str], number: int) -> bool:
        """Read a plain line; False where dnspython must: it says what is wrong, or knows the TTL.

        BrokenError.
        """
        name, ttl, *found = line.groups()
        owner = self._name(name)
        at = next(at for at in (0, 2, 4) if found[at])
        rtype = _TYPES[found[at].upper()]
        data = self._data(rtype, found[at + 1])
        if owner is None or data is None or (ttl is None and not self._has_ttl):
            return False
        self._last = owner
        if ttl is not None:
            self._reader.last_ttl, self._reader.last_ttl_known = int(ttl), True
        if is_at_or_below(owner, self.builder.origin):
            try:
                self._take(
                    owner, self._reader.default_ttl if ttl is None else int(ttl), rtype, data
                )
            except ValueError as error:
                raise BrokenError(number, str(error)) from None
        return True

    def _name(self, written: str) -> Labels | None:
        """Read a name of plain characters; None when it is too long."""
        if written == "@":
            return self._origin
        parts = tuple(written.lower().encode().removesuffix(b".").split(b"."))
        name = parts if written.endswith(".") else (*parts, *self._origin)
        is_short = max(map(len, parts)) <= MAX_LABEL and len(wire(name)) <= MAX_NAME
        return name if is_short else None

    def _data(self, rtype: int, written: str) -> bytes | None:
        if rtype in (Rtype.A, Rtype.AAAA):
            try:
                return (IPv4Address if rtype == Rtype.A else IPv6Address)(written).packed
            except AddressValueError:
                return None
        name = self._name(written)
        return None if name is None else wire(name)
