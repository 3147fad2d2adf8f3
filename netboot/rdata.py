"""Record types and their data: zone-file text to wire form and back, of any type (RFC 3597).

dnspython reads and writes the text; what is kept and sent are bytes without compressed names, in
canonical form (RFC 4034, 6.2), so that equal data is equal bytes and can be signed as it is.
"""

from __future__ import annotations

from enum import IntEnum

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from netboot.errors import PeerError
from netboot.names import Labels, read_wire, text


class Rtype(IntEnum):
    """Types that the engine knows something about; every other one is bytes to it."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    MX = 15
    TXT = 16
    AAAA = 28
    SRV = 33
    NAPTR = 35
    DNAME = 39
    OPT = 41
    DS = 43
    SSHFP = 44
    RRSIG = 46
    NSEC = 47
    DNSKEY = 48
    NSEC3 = 50
    NSEC3PARAM = 51
    TLSA = 52
    CDS = 59
    CDNSKEY = 60
    SVCB = 64
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255
    CAA = 257


NEVER_HELD = frozenset({0, Rtype.OPT, Rtype.IXFR, Rtype.AXFR, 253, 254, Rtype.ANY, 249, 250})
"""Types of questions and of messages: none of them is in a zone."""


def number_of(name: str) -> int:
    """Give the number of a type's name (`A`, `TYPE65534`); PeerError when there is none."""
    try:
        found = int(dns.rdatatype.from_text(name))
    except (dns.exception.DNSException, ValueError):
        raise PeerError(f"type {name[:20]!r} is not known: write it as TYPE<number>") from None
    if found in NEVER_HELD:
        raise PeerError(f"type {name[:20]} is in no zone")
    return found


def name_of(rtype: int) -> str:
    """Give the name of a type."""
    return str(dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rtype)))


def encode(rtype: int, value: str, origin: Labels = ()) -> bytes:
    """Read data in zone-file form; names without a last dot are below `origin`; PeerError."""
    try:
        found = dns.rdata.from_text(
            dns.rdataclass.IN,
            dns.rdatatype.RdataType.make(rtype),
            value,
            origin=dns.name.from_text(text(origin)),
            relativize=False,
        )
        return bytes(found.to_digestable())
    except (dns.exception.DNSException, ValueError, OverflowError, IndexError) as error:
        said = str(error)[:120] or type(error).__name__
        raise PeerError(f"{name_of(rtype)} {value[:80]!r}: {said}") from None


def show(rtype: int, data: bytes) -> str:
    """Write data in zone-file form, as RFC 3597 has it where its type does not allow the bytes."""
    kind = dns.rdatatype.RdataType.make(rtype)
    try:
        found = dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data))
        return str(found.to_text())
    except (dns.exception.DNSException, ValueError, IndexError):
        return f"\\# {len(data)} {data.hex()}".rstrip()


def target(data: bytes) -> Labels:
    """Read the name that a CNAME, NS or PTR points to."""
    return read_wire(data)[0]
