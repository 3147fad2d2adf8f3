"""Zones as standard master files: text in, a zone out, and back.

dnspython reads the text (RFC 1035, 5; `$TTL` of RFC 2308; `$GENERATE`; unknown types of RFC 3597);
`$INCLUDE` is refused, because a zone is one file that was checked as one. It never opens a file.
"""

from __future__ import annotations

from typing import Any, cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.tokenizer
import dns.zonefile

from netboot.errors import SiteError
from netboot.names import Labels, order, read_wire, text
from netboot.rdata import NEVER_HELD, Rtype, name_of, show
from netboot.zone import Zone
from netboot.zone_build import ZoneBuilder, ZoneRecord

MAX_FILE = 64 << 20
MAX_TTL = 0x7FFFFFFF
"""RFC 2181, 8."""
_DIRECTIVES = ("$ORIGIN", "$TTL", "$GENERATE")


def decode_zone(data: bytes, origin: Labels, file: str, *, is_signed: bool = False) -> Zone:
    """Read a master file; SiteError names the file, the line and what is wrong.

    There must be a SOA and a NS at the origin and nothing beside a CNAME; what is outside of the
    zone is left out.
    """
    if len(data) > MAX_FILE:
        raise SiteError(f"{file}: is larger than {MAX_FILE >> 20} MiB")
    try:
        found = _read(data.decode("utf-8"), origin, is_signed=is_signed)
    except UnicodeDecodeError:
        raise SiteError(f"{file}: is not UTF-8: save it as UTF-8") from None
    except _BrokenError as error:
        line = _line_of(data, error.line, origin)
        raise SiteError(f"{file}:{line}: {error}: correct that line") from None
    zone = found.builder.zone()
    apex = zone.names.get(origin, {})
    for rtype in (Rtype.SOA, Rtype.NS):
        if rtype not in apex:
            raise SiteError(f"{file}: there is no {rtype.name} at {text(origin)}: add one")
    return zone


class _BrokenError(Exception):
    """Text that is no zone, and how many lines were read when that was seen."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Taken:
    """What dnspython's reader puts records into, where it expects its own zone: twice as fast.

    ValueError for what RFC 1034, 3.6.2 and RFC 2181, 10.1 forbid.
    """

    def __init__(self, origin: Labels, *, is_signed: bool) -> None:
        """Begin a zone."""
        self.manager = self
        self.builder = ZoneBuilder(origin, None, 0, is_signed=is_signed)
        self._origin = dns.name.from_text(text(origin))

    def origin_information(self) -> tuple[dns.name.Name, bool, dns.name.Name]:
        """Tell the reader below what relative names are."""
        return self._origin, False, self._origin

    def check_put_rdataset(self, check: object) -> None:
        """Leave the reader's own checks out: they look at every set of a name."""

    def _set_origin(self, origin: dns.name.Name) -> None:
        """Leave $ORIGIN to the reader."""

    def add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        """Take one record."""
        owner, rtype = read_wire(name.to_wire() or b"\0")[0], int(rdata.rdtype)
        if rtype in NEVER_HELD:
            raise ValueError("a record of this type is in no zone")
        if ttl > MAX_TTL:
            raise ValueError(f"its TTL is above {MAX_TTL}")
        if rtype == Rtype.SOA and owner != self.builder.origin:
            raise ValueError("a SOA is at the zone's own name alone")
        data = bytes(rdata.to_digestable())
        beside = self.builder.sets_of(owner)
        self.builder.add(ZoneRecord(owner=owner, rtype=rtype, ttl=ttl, rdata=data))
        if rtype in _ALONE and len(beside[rtype].rdatas) > 1:
            raise ValueError(f"there is another {name_of(rtype)} of this name")
        if Rtype.CNAME in beside and not _BESIDE_CNAME.issuperset(beside):
            raise ValueError("a CNAME stands alone")


_ALONE = frozenset({Rtype.SOA, Rtype.CNAME, Rtype.DNAME})
_BESIDE_CNAME = frozenset({Rtype.CNAME, Rtype.RRSIG, Rtype.NSEC})


def _read(content: str, origin: Labels, *, is_signed: bool = False) -> _Taken:
    """Read text; _BrokenError."""
    taken = _Taken(origin, is_signed=is_signed)
    tokens = dns.tokenizer.Tokenizer(content, "")
    reader = dns.zonefile.Reader(
        tokens, dns.rdataclass.IN, cast(Any, taken), allow_directives=_DIRECTIVES
    )
    try:
        reader.read()
    except (dns.exception.DNSException, ValueError, RecursionError) as error:
        line = tokens.where()[1]
        said = str(error).removeprefix(f":{line}: ")[:200]
        raise _BrokenError(line, said or type(error).__name__) from None
    return taken


def _line_of(data: bytes, line: int, origin: Labels) -> int:
    """Say which line is wrong: the reader is one ahead when it needed the end of it."""
    before = b"\n".join(data.split(b"\n")[: line - 1])
    try:
        _read(before.decode(), origin)
    except _BrokenError:
        return line - 1
    return line


def dump_zone(zone: Zone) -> str:
    """Write a zone as a master file, in canonical order, the SOA first."""
    lines = [f"$ORIGIN {text(zone.origin)}"]
    for owner in sorted(zone.names, key=order):
        sets = zone.names[owner]
        for rtype in sorted(sets, key=lambda one: (one != Rtype.SOA, one)):
            rrset = sets[rtype]
            kind = name_of(rtype)
            lines += [
                f"{text(owner)} {rrset.ttl} IN {kind} {show(rtype, data)}" for data in rrset.rdatas
            ]
    return "\n".join(lines) + "\n"
