"""The site's zones as immutable values: records of the plan, names of leases, and the reverse.

Built anew as a whole whenever plan or leases change, so forward and reverse always agree. It never
decides how a packet looks. RFC 1034, 2308, 8020; special names: RFC 6303 and 6761.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from netboot.plan import Plan, Record, RecordType

Labels = tuple[bytes, ...]
"""A name as its labels in lower case, the root left out."""

SOA_TTL = 3600
NEGATIVE_TTL = 30
"""SOA MINIMUM: how long a resolver may believe that a name is not there; leases bring names."""
LEASE_TTL = 60
NS_TTL = 3600
MAX_CHAIN = 8
"""CNAMEs followed for one question."""


class Rtype(IntEnum):
    """Types that the zones hold, with their numbers of RFC 1035, 2782 and 3596."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    SRV = 33


class Rcode(IntEnum):
    """RFC 1035, 4.1.1 and RFC 6891, 9."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RRset:
    """The records of one owner name and type; `values` in the form of a zone file."""

    owner: Labels
    rtype: Rtype
    ttl: int
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the zones say; `soa` is there when something is not."""

    rcode: Rcode
    answers: tuple[RRset, ...] = ()
    soa: RRset | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseName:
    """A name that a lease brings: a label below the domain."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One zone; `names` holds every name that exists, empty non-terminals too."""

    origin: Labels
    names: Mapping[Labels, Mapping[Rtype, RRset]] = field(default_factory=dict)


def labels(name: str) -> Labels:
    """Split a name, with or without its last dot."""
    name = name.removesuffix(".").lower()
    return tuple(name.encode().split(b".")) if name else ()


def text(name: Labels) -> str:
    """Join labels, with a last dot."""
    return ".".join(label.decode("latin-1") for label in name) + "."


def reverse_name(address: IPv4Address) -> Labels:
    """Give the owner name of an address's PTR."""
    return labels(address.reverse_pointer)


def reverse_origins(network: IPv4Network) -> tuple[Labels, ...]:
    """Give the reverse zones that hold a network: on whole bytes, the next longer ones."""
    octets = max(1, min(3, -(-network.prefixlen // 8)))
    if network.prefixlen >= octets * 8:
        parts: Iterable[IPv4Network] = (network.supernet(new_prefix=octets * 8),)
    else:
        parts = network.subnets(new_prefix=octets * 8)
    return tuple(reverse_name(part.network_address)[4 - octets :] for part in parts)


class Zones:
    """All zones of one generation; `lookup` is the only question that they answer."""

    def __init__(self, zones: Iterable[Zone]) -> None:
        """Take zones; of nested ones the longest name is asked."""
        self._zones = {zone.origin: zone for zone in zones}

    def zone_of(self, name: Labels) -> Zone | None:
        """Find the zone a name is in."""
        for start in range(len(name) + 1):
            zone = self._zones.get(name[start:])
            if zone is not None:
                return zone
        return None

    def lookup(self, name: Labels, qtype: int) -> Found:
        """Answer a question for names in lower case; 255 is any type."""
        answers: list[RRset] = []
        for _ in range(MAX_CHAIN):
            zone = self.zone_of(name)
            if zone is None:
                rcode = Rcode.NOERROR if answers else Rcode.REFUSED
                return Found(rcode=rcode, answers=tuple(answers))
            sets = zone.names.get(name)
            found = None if sets is None else _pick(sets, qtype)
            if sets is None or found is None:
                soa = zone.names[zone.origin][Rtype.SOA]
                rcode = Rcode.NXDOMAIN if sets is None else Rcode.NOERROR
                return Found(rcode=rcode, answers=tuple(answers), soa=soa)
            if found in answers:
                break
            answers.append(found)
            if found.rtype is not Rtype.CNAME or qtype in (Rtype.CNAME, _ANY):
                break
            name = labels(found.values[0])
        return Found(rcode=Rcode.NOERROR, answers=tuple(answers))


_ANY = 255


def _pick(sets: Mapping[Rtype, RRset], qtype: int) -> RRset | None:
    """Find the RRset of a type, else the CNAME; of any type the first one (RFC 8482)."""
    if qtype == _ANY:
        return next(iter(sets.values()), None)
    found = next((one for rtype, one in sets.items() if rtype == qtype), None)
    return found or sets.get(Rtype.CNAME)


def build(plan: Plan, leases: Iterable[LeaseName], serial: int) -> Zones:
    """Make the zones of a plan with the names that leases bring now."""
    domain = labels(plan.domain)
    networks = [subnet.network for subnet in plan.subnets]
    origins = {origin for network in networks for origin in reverse_origins(network)}
    records = [*plan.records, *_lease_records(plan, leases)]
    records += _reverse_records(records, networks)
    server = (b"appliance", *domain)
    zones = [_Builder(origin, server, serial) for origin in (*_EMPTY, domain, *sorted(origins))]
    by_origin = {zone.origin: zone for zone in zones}
    for record in records:
        owner = labels(record.name)
        zone = next(
            (by_origin[owner[at:]] for at in range(len(owner)) if owner[at:] in by_origin), None
        )
        if zone is not None:
            zone.add(owner, Rtype[record.type], record.ttl, record.value)
    local = by_origin[(b"localhost",)]
    local.add(local.origin, Rtype.A, SOA_TTL, "127.0.0.1")
    local.add(local.origin, Rtype.AAAA, SOA_TTL, "::1")
    return Zones(zone.zone() for zone in by_origin.values())


def _lease_records(plan: Plan, leases: Iterable[LeaseName]) -> Iterator[Record]:
    """Give A records for leases whose name the plan does not hold itself."""
    planned = {record.name.removesuffix(".").lower() for record in plan.records}
    for lease in leases:
        name = f"{lease.name}.{plan.domain}".lower()
        if name not in planned:
            yield Record(name=name, type=RecordType.A, ttl=LEASE_TTL, value=str(lease.address))


def _reverse_records(records: list[Record], networks: list[IPv4Network]) -> list[Record]:
    """Give a PTR for the first name of each address, where the plan holds none."""
    pointers: dict[str, Record] = {}
    planned = {record.name.lower() for record in records if record.type is RecordType.PTR}
    for record in records:
        if record.type is not RecordType.A:
            continue
        address = IPv4Address(record.value)
        name = address.reverse_pointer
        if name in planned or name in pointers or not any(address in one for one in networks):
            continue
        pointers[name] = Record(
            name=name, type=RecordType.PTR, ttl=record.ttl, value=record.name.removesuffix(".")
        )
    return list(pointers.values())


class _Builder:
    """A zone while it is made."""

    def __init__(self, origin: Labels, server: Labels, serial: int) -> None:
        self.origin = origin
        self._sets: dict[Labels, dict[Rtype, RRset]] = {}
        master, mailbox = text(server), text((b"hostmaster", *server[1:]))
        soa = f"{master} {mailbox} {serial & 0xFFFFFFFF} 3600 600 604800 {NEGATIVE_TTL}"
        self.add(origin, Rtype.SOA, SOA_TTL, soa)
        self.add(origin, Rtype.NS, NS_TTL, master)

    def add(self, owner: Labels, rtype: Rtype, ttl: int, value: str) -> None:
        """Add one record; names between it and the origin exist from now on (RFC 8020)."""
        for at in range(1, len(owner) - len(self.origin) + 1):
            self._sets.setdefault(owner[at:], {})
        sets = self._sets.setdefault(owner, {})
        known = sets.get(rtype)
        values = (value,) if known is None else tuple(dict.fromkeys((*known.values, value)))
        if known is not None:
            ttl = min(ttl, known.ttl)  # one TTL in an RRset: RFC 2181, 5.2
        sets[rtype] = RRset(owner=owner, rtype=rtype, ttl=ttl, values=values)

    def zone(self) -> Zone:
        return Zone(origin=self.origin, names=self._sets)


_EMPTY = tuple(
    labels(name)
    for name in (
        "localhost",  # RFC 6761, 6.3
        "invalid",  # RFC 6761, 6.4
        "local",  # RFC 6762: by multicast alone
        "onion",  # RFC 7686
        *("0.in-addr.arpa", "127.in-addr.arpa", "10.in-addr.arpa"),  # RFC 6303, 4
        *("254.169.in-addr.arpa", "168.192.in-addr.arpa", "255.255.255.255.in-addr.arpa"),
        *(f"{number}.172.in-addr.arpa" for number in range(16, 32)),
    )
)
"""Zones without names, so that private questions end here and never leave the site."""
