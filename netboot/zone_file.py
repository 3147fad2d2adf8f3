"""Zones as standard master files: text in, a zone out, and back.

`netboot.zone_text` reads the text (RFC 1035, 5; `$TTL` of RFC 2308; `$GENERATE`; unknown types of
RFC 3597); `$INCLUDE` is refused, because a zone is one file that was checked as one. It never opens
a file.
"""

from __future__ import annotations

from netboot.errors import SiteError
from netboot.names import Labels, order, text
from netboot.rdata import Rtype, name_of, show
from netboot.zone import Zone
from netboot.zone_text import BrokenError, read_text

MAX_FILE = 64 << 20


def decode_zone(data: bytes, origin: Labels, file: str, *, is_signed: bool = False) -> Zone:
    """Read a master file; SiteError names the file, the line and what is wrong.

    There must be a SOA and a NS at the origin and nothing beside a CNAME; what is outside of the
    zone is left out.
    """
    if len(data) > MAX_FILE:
        raise SiteError(f"{file}: is larger than {MAX_FILE >> 20} MiB")
    try:
        zone = read_text(data.decode("utf-8"), origin, is_signed=is_signed).zone()
    except UnicodeDecodeError:
        raise SiteError(f"{file}: is not UTF-8: save it as UTF-8") from None
    except BrokenError as error:
        line = _line_of(data, error.line, origin)
        raise SiteError(f"{file}:{line}: {error}: correct that line") from None
    apex = zone.names.get(origin, {})
    for rtype in (Rtype.SOA, Rtype.NS):
        if rtype not in apex:
            raise SiteError(f"{file}: there is no {rtype.name} at {text(origin)}: add one")
    return zone


def _line_of(data: bytes, line: int, origin: Labels) -> int:
    """Say which line is wrong: the reader is one ahead when it needed the end of it."""
    before = b"\n".join(data.split(b"\n")[: line - 1])
    try:
        read_text(before.decode(), origin)
    except BrokenError:
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
