"""Zones from the plan, from the names of leases and from master files, made anew as a whole.

So forward and reverse always agree (N22). It never answers a question. RFC 1034, 3.6; special
names: RFC 6303 and 6761.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from netboot.names import Labels, labels, reverse_name, reverse_origins, wire
from netboot.plan import Plan, Record
from netboot.rdata import Rtype, encode, number_of
from netboot.zone import RRset, Zone, Zones

SOA_TTL = 3600
NEGATIVE_TTL = 30
"""SOA MINIMUM: how long a resolver may believe that a name is not there; leases bring names."""
LEASE_TTL = 60
NS_TTL = 3600

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseName:
    """A name that a lease brings: a label below the domain."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRecord:
    """One record as it goes into a zone; `rdata` in wire form."""

    owner: Labels
    rtype: int
    ttl: int
    rdata: bytes


def build(
    plan: Plan, leases: Iterable[LeaseName], serial: int, files: Iterable[Zone] = ()
) -> Zones:
    """Make the zones of a plan with the names that leases bring now, and those of master files.

    A master file's zone is served as it is: nothing of plan or leases goes into it.
    """
    domain = labels(plan.domain)
    networks: list[Network] = [subnet.network for subnet in plan.subnets]
    networks += [subnet.network for subnet in plan.subnets6]
    origins = {origin for network in networks for origin in reverse_origins(network)}
    records = [_record(one) for one in plan.records]
    records += _lease_records(domain, records, leases)
    records += _reverse_records(records, networks)
    records += _localhost()
    server = (b"appliance", *domain)
    builders = {
        origin: ZoneBuilder(origin, server, serial) for origin in (*_EMPTY, *sorted(origins))
    }
    builders[domain] = ZoneBuilder(domain, server, serial, is_signed=True)
    for origin in origins:
        builders[origin].is_signed = True
    for record in records:
        found = (record.owner[at:] for at in range(len(record.owner)))
        for origin in (one for one in found if one in builders):
            builders[origin].add(record)
            break
    made = {zone.origin: zone.zone() for zone in builders.values()}
    return Zones((made | {zone.origin: zone for zone in files}).values())


def _record(record: Record) -> ZoneRecord:
    rtype = number_of(record.type)
    return ZoneRecord(
        owner=labels(record.name), rtype=rtype, ttl=record.ttl, rdata=plan_rdata(record)
    )


def plan_rdata(record: Record) -> bytes:
    """Give a plan record's data in wire form: TXT is the text itself; PeerError."""
    if record.type == "TXT":
        raw = record.value.encode()
        pieces = [raw[at : at + 255] for at in range(0, len(raw), 255)] or [b""]
        return b"".join(bytes((len(piece),)) + piece for piece in pieces)
    return encode(number_of(record.type), record.value)


def _address_record(owner: Labels, address: Address, ttl: int) -> ZoneRecord:
    rtype = Rtype.A if address.version == 4 else Rtype.AAAA
    return ZoneRecord(owner=owner, rtype=rtype, ttl=ttl, rdata=address.packed)


def _lease_records(
    domain: Labels, records: Iterable[ZoneRecord], leases: Iterable[LeaseName]
) -> Iterator[ZoneRecord]:
    """Give address records for leases whose name the plan does not hold itself."""
    planned = {record.owner for record in records}
    for lease in leases:
        owner = (*labels(lease.name), *domain)
        if owner not in planned:
            yield _address_record(owner, lease.address, LEASE_TTL)


def _reverse_records(records: list[ZoneRecord], networks: list[Network]) -> list[ZoneRecord]:
    """Give a PTR for the first name of each address, where the plan holds none."""
    pointers: dict[Labels, ZoneRecord] = {}
    planned = {record.owner for record in records if record.rtype == Rtype.PTR}
    for record in records:
        if record.rtype not in (Rtype.A, Rtype.AAAA):
            continue
        address = ip_address(record.rdata)
        owner = reverse_name(address)
        if owner in planned or owner in pointers or not any(address in one for one in networks):
            continue
        pointers[owner] = ZoneRecord(
            owner=owner, rtype=Rtype.PTR, ttl=record.ttl, rdata=wire(record.owner)
        )
    return list(pointers.values())


def _localhost() -> Iterator[ZoneRecord]:
    """Give this machine its own name, both ways (RFC 6761, 6.3)."""
    name = (b"localhost",)
    for address in (IPv4Address("127.0.0.1"), IPv6Address("::1")):
        yield _address_record(name, address, SOA_TTL)
        owner = reverse_name(address)
        yield ZoneRecord(owner=owner, rtype=Rtype.PTR, ttl=SOA_TTL, rdata=wire(name))


class ZoneBuilder:
    """A zone while it is made; with `server` it begins with SOA and NS of ours."""

    def __init__(
        self, origin: Labels, server: Labels | None, serial: int, *, is_signed: bool = False
    ) -> None:
        """Begin a zone."""
        self.origin = origin
        self.is_signed = is_signed
        self._sets: dict[Labels, dict[int, RRset]] = {}
        if server is None:
            return
        master = wire(server)
        times = struct.pack("!5I", serial & 0xFFFFFFFF, 3600, 600, 604800, NEGATIVE_TTL)
        soa = master + wire((b"hostmaster", *server[1:])) + times
        for rtype, ttl, rdata in ((Rtype.SOA, SOA_TTL, soa), (Rtype.NS, NS_TTL, master)):
            self.add(ZoneRecord(owner=origin, rtype=rtype, ttl=ttl, rdata=rdata))

    def add(self, record: ZoneRecord) -> None:
        """Add one record; names between it and the origin exist from now on (RFC 8020)."""
        owner = record.owner
        for at in range(1, len(owner) - len(self.origin) + 1):
            self._sets.setdefault(owner[at:], {})
        sets = self._sets.setdefault(owner, {})
        known, ttl = sets.get(record.rtype), record.ttl
        rdatas: tuple[bytes, ...] = (record.rdata,)
        if known is not None:
            rdatas = tuple(sorted({*known.rdatas, record.rdata}))
            ttl = min(ttl, known.ttl)  # one TTL in an RRset: RFC 2181, 5.2
        sets[record.rtype] = RRset(owner=owner, rtype=record.rtype, ttl=ttl, rdatas=rdatas)

    def sets_of(self, owner: Labels) -> Mapping[int, RRset]:
        """Give what an owner has so far, and will have as more is added."""
        return self._sets.setdefault(owner, {})

    def zone(self) -> Zone:
        """Give the zone."""
        return Zone(origin=self.origin, names=self._sets, is_signed=self.is_signed)


_EMPTY = tuple(
    labels(name)
    for name in (
        "localhost",  # RFC 6761, 6.3
        "invalid",  # RFC 6761, 6.4
        "test",  # RFC 6761, 6.2
        "local",  # RFC 6762: by multicast alone
        "onion",  # RFC 7686
        "home.arpa",  # RFC 8375
        "internal",  # reserved by ICANN for private use
        *("0.in-addr.arpa", "127.in-addr.arpa", "10.in-addr.arpa"),  # RFC 6303, 4
        *("254.169.in-addr.arpa", "168.192.in-addr.arpa", "255.255.255.255.in-addr.arpa"),
        *("2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa"),
        *(f"{number}.172.in-addr.arpa" for number in range(16, 32)),
        *(f"{number}.100.in-addr.arpa" for number in range(64, 128)),  # RFC 7793
        f"{'0.' * 32}ip6.arpa",
        f"1.{'0.' * 31}ip6.arpa",
        "d.f.ip6.arpa",
        *(f"{digit}.e.f.ip6.arpa" for digit in "89ab"),
        "8.b.d.0.1.0.0.2.ip6.arpa",
    )
)
"""Zones without names, so that private questions end here and never leave the site."""
