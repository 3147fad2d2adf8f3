"""Zones as standard master files: text in, a zone out, and back.

dnspython reads the text (RFC 1035, 5; `$TTL` of RFC 2308; `$GENERATE`; unknown types of RFC 3597);
`$INCLUDE` is refused, because a zone is one file that was checked as one. It never opens a file.
"""

from __future__ import annotations

from collections.abc import Iterator

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdataset
import dns.tokenizer
import dns.zone
import dns.zonefile

from netboot.errors import SiteError
from netboot.names import Labels, order, read_wire, text
from netboot.rdata import NEVER_HELD, Rtype, name_of, show
from netboot.zone import Zone
from netboot.zone_build import ZoneBuilder, ZoneRecord

MAX_FILE = 64 << 20
MAX_TTL = 0x7FFFFFFF
"""RFC 2181, 8."""


def decode_zone(data: bytes, origin: Labels, file: str, *, is_signed: bool = False) -> Zone:
    """Read a master file; SiteError names the file, the line and what is wrong.

    There must be one SOA and one NS at the origin, nothing outside it, and nothing beside a CNAME.
    """
    if len(data) > MAX_FILE:
        raise SiteError(f"{file}: is larger than {MAX_FILE >> 20} MiB")
    try:
        found = _read(data.decode("utf-8"), origin)
    except UnicodeDecodeError:
        raise SiteError(f"{file}: is not UTF-8: save it as UTF-8") from None
    except dns.zone.NoSOA:
        raise SiteError(f"{file}: there is no SOA at {text(origin)}: add one") from None
    except dns.zone.NoNS:
        raise SiteError(f"{file}: there is no NS at {text(origin)}: add one") from None
    except _BrokenError as error:
        line = _line_of(data, error.line, origin)
        raise SiteError(f"{file}:{line}: {error}: correct that line") from None
    builder = ZoneBuilder(origin, None, 0, is_signed=is_signed)
    for record in _records(found, file):
        builder.add(record)
    zone = builder.zone()
    _check(zone, file)
    return zone


class _BrokenError(Exception):
    """Text that is no zone, and how many lines were read when that was seen."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _read(content: str, origin: Labels) -> dns.zone.Zone:
    """Read text; _BrokenError, dns.zone.NoSOA or NoNS."""
    zone = dns.zone.Zone(dns.name.from_text(text(origin)), relativize=False)
    tokens = dns.tokenizer.Tokenizer(content, "")
    try:
        with zone.writer(True) as writer:
            dns.zonefile.Reader(tokens, dns.rdataclass.IN, writer).read()
    except (dns.exception.DNSException, ValueError, RecursionError) as error:
        line = tokens.where()[1]
        said = str(error).removeprefix(f":{line}: ")[:200]
        raise _BrokenError(line, said or type(error).__name__) from None
    zone.check_origin()
    return zone


def _line_of(data: bytes, line: int, origin: Labels) -> int:
    """Say which line is wrong: the reader is one ahead when it needed the end of it."""
    before = b"\n".join(data.split(b"\n")[: line - 1])
    try:
        _read(before.decode(), origin)
    except _BrokenError:
        return line - 1
    except (dns.zone.NoSOA, dns.zone.NoNS):
        pass
    return line


def _records(found: dns.zone.Zone, file: str) -> Iterator[ZoneRecord]:
    for name, ttl, rdata in found.iterate_rdatas():
        owner = read_wire(name.to_wire() or b"\0")[0]
        rtype = int(rdata.rdtype)
        if rtype in NEVER_HELD or rdata.rdclass != dns.rdataclass.IN:
            raise SiteError(f"{file}: {name}: a record of this type or class is in no zone")
        if ttl > MAX_TTL:
            raise SiteError(f"{file}: {name}: its TTL is above {MAX_TTL}")
        yield ZoneRecord(owner=owner, rtype=rtype, ttl=ttl, rdata=bytes(rdata.to_digestable()))


_BESIDE_CNAME = frozenset({Rtype.CNAME, Rtype.RRSIG, Rtype.NSEC})


def _check(zone: Zone, file: str) -> None:
    """Refuse what RFC 1034, 3.6.2 and RFC 2181, 10.1 forbid."""
    for owner, sets in zone.names.items():
        alias = sets.get(Rtype.CNAME)
        if alias is not None and (len(alias.rdatas) > 1 or set(sets) - _BESIDE_CNAME):
            raise SiteError(f"{file}: {text(owner)}: a CNAME stands alone: remove the others")


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
