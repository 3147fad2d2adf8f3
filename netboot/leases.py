"""Who holds which address: reservations, offers and leases as one pure table.

It never offers an address that another client was offered or holds, and never reads a clock or a
file: what must be durable it returns as writes. RFC 2131, 3.1 and 4.3.1.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.links import Link, Links, Network, Place, check_plan, identity_of
from netboot.network import Pool, Reservation, SubnetPlan, swapped_uuid

OFFER_SECONDS = 30.0
"""How long an offer is held: OVMF requests 3.3 to 4.6 s after DISCOVER, repeats after 16 s."""
OFFERS_LIMIT = 65_536
"""More open offers than this are a flood; the oldest go."""
MEMORY_SECONDS = 86400.0
"""How long after its lease a box's address is kept from strangers."""
STRANGERS = 4
"""With this many open offers on a link, addresses younger than MEMORY_SECONDS are kept: a flood."""
PROBE_SECONDS = 600.0
"""How long the silence of an address that was asked by ARP counts."""
PROBES_KEPT = 4096


class LeaseState(StrEnum):
    """What a row of the lease table says."""

    BOUND = "bound"
    RELEASED = "released"
    DECLINED = "declined"


_BOUND, _RELEASED, _DECLINED = LeaseState
"""By names of our own: looking up a member of an enum costs 0.3 us in Python 3.11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One address and its last holder; `expires` in unix seconds, of the quarantine if declined.

    `key` is what identifies the holder, empty for an address that was found in use. `client_id` is
    option 61 of its last REQUEST, `identity` what its reservation knew it by: both must be kept,
    because a system neither sends its firmware's UUID nor, past a relay, its circuit.
    """

    subnet: str
    address: IPv4Address
    key: bytes
    mac: bytes | None
    state: LeaseState
    expires: float
    name: str | None
    client_id: bytes | None = None
    identity: bytes | None = None

    def blocks(self, now: float) -> bool:
        """Tell whether the address is taken, by its holder or by quarantine."""
        return self.expires > now and self.state is not _RELEASED

    def is_bound(self, now: float) -> bool:
        """Tell whether the holder may use the address now."""
        return self.expires > now and self.state is _BOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWrite:
    """A row to make durable: the lease of this address from now on, None to remove it."""

    address: IPv4Address
    lease: Lease | None


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """Who asks, where, and what the plan says of it; not frozen, being made for each packet.

    `key` is the MAC on Ethernet, else a longer text; `classes` are names; `bootp` is true for one
    that keeps what it is given for ever.
    """

    key: bytes
    mac: bytes | None
    place: Place
    client_id: bytes | None = None
    reservation: Reservation | None = None
    classes: frozenset[str] = frozenset()
    bootp: bool = False

    @property
    def link(self) -> Link:
        """The link that it is on."""
        return self.place.link


class LeaseTable:
    """Offers, leases and quarantine of all subnets; `replace` changes the plan and keeps them.

    Addresses are whole numbers here: they are hashed and compared for every packet.
    """

    def __init__(
        self,
        subnets: Iterable[SubnetPlan],
        reservations: Iterable[Reservation],
        leases: Iterable[Lease] = (),
    ) -> None:
        self._leases: dict[int, Lease] = {int(lease.address): lease for lease in leases}
        self._held: dict[tuple[str, bytes], int] = {}
        # A plain dict walks over what was deleted before its first entry: a flood would be squared.
        self._offers: OrderedDict[int, tuple[str, bytes, float]] = OrderedDict()
        self._offered: dict[tuple[str, bytes], int] = {}
        self._open: defaultdict[str, int] = defaultdict(int)
        self._probed: OrderedDict[int, float] = OrderedDict()
        self.replace(subnets, reservations)

    def replace(self, subnets: Iterable[SubnetPlan], reservations: Iterable[Reservation]) -> None:
        """Take another plan and keep what was given; SiteError, and the old plan stays."""
        subnets, reservations = tuple(subnets), tuple(reservations)
        check_plan(subnets, reservations)
        self.links = Links(subnets, reservations)
        self._reserved = {int(entry.address): entry for entry in reservations if entry.address}
        self._by_identity: dict[bytes, list[Reservation]] = defaultdict(list)
        for entry in reservations:
            self._by_identity[identity_of(entry)].append(entry)
            if entry.uuid is not None:  # makers differ in the order of its first three fields
                self._by_identity[b"u" + swapped_uuid(entry.uuid)].append(entry)
        self._held.clear()
        self._offered.clear()
        self._open.clear()
        offers, self._offers = self._offers, OrderedDict()
        for number, (_, key, until) in offers.items():
            place = self.links.at(number)
            if place is not None:
                self._offers[number] = place.link.name, key, until
                self._offered[place.link.name, key] = number
                self._open[place.link.name] += 1
        # Where two links became one, the lease that ends last is the client's.
        for number, lease in sorted(self._leases.items(), key=lambda item: item[1].expires):
            self._index(number, lease)

    def _index(self, number: int, lease: Lease) -> None:
        place = self.links.at(number)
        if lease.state is not _DECLINED:
            link = place.link.name if place is not None else self.links.name_of(lease.subnet)
            self._held[link, lease.key] = number
        pool = place.network.pool_of(number) if place is not None else None
        if pool is not None:
            pool.note(number, lease.expires, self._leases)

    def leases(self) -> tuple[Lease, ...]:
        """Every row, bound or not."""
        return tuple(self._leases.values())

    def lease_at(self, address: int) -> Lease | None:
        """Find the row of an address."""
        return self._leases.get(address)

    def reserved_at(self, address: int) -> Reservation | None:
        """Find whose address this is by the plan."""
        return self._reserved.get(address)

    # Reservations

    def reservation(
        self, key: bytes, identities: tuple[bytes, ...], link: Link
    ) -> Reservation | None:
        """Find a client's reservation on its link, else one without an address.

        What the client does not say this time, its lease remembers; what it says otherwise counts.
        """
        if not self._by_identity:
            return None
        found = None
        for identity in (*identities, *self._remembered(key, identities, link)):
            for entry in self._by_identity.get(identity, ()):
                if entry.address is None:
                    found = found or entry
                elif link.network_of(int(entry.address)) is not None:
                    return entry
        return found

    def _remembered(
        self, key: bytes, identities: tuple[bytes, ...], link: Link
    ) -> tuple[bytes, ...]:
        number = self._held.get((link.name, key))
        identity = self._leases[number].identity if number is not None else None
        if identity is None or any(said[0] == identity[0] for said in identities):
            return ()
        return (identity,)

    # Reading

    def held(self, client: Client) -> Lease | None:
        """Find the row that the client holds or held last on its link."""
        number = self._held.get((client.place.link.name, client.key))
        return None if number is None else self._leases[number]

    def offered(self, client: Client) -> int | None:
        """Find the client's open offer; `expire` comes first."""
        return self._offered.get((client.place.link.name, client.key))

    def may_have(self, client: Client, address: int, now: float) -> bool:
        """Tell whether the plan allows the client this address and nobody else has it."""
        return self._allows(client, address, now) and self._is_free(client, address, now)

    def _allows(self, client: Client, address: int, now: float) -> bool:
        reserved = self._reserved.get(address)
        network = client.place.link.network_of(address)
        if reserved is not None or network is None:
            return reserved is client.reservation and network is not None
        pool = network.pool_of(address)
        if pool is None:
            return False
        if _lends(pool.plan, client):
            return True
        if client.bootp:
            return False
        # A box is in other classes as firmware than as a system, and keeps its address (D14).
        lease = self._leases.get(address)
        return lease is not None and lease.key == client.key and lease.is_bound(now)

    def _is_free(self, client: Client, address: int, now: float) -> bool:
        lease = self._leases.get(address)
        if lease is not None and lease.blocks(now):
            return lease.state is _BOUND and lease.key == client.key
        offer = self._offers.get(address)
        return offer is None or offer[1] == client.key

    # Choosing

    def choose(self, client: Client, wanted: int | None, now: float) -> int | None:
        """Choose reserved, offered, held before, wanted, fresh, longest unused; None when full."""
        for address in self._favourites(client, wanted, now):
            if self.may_have(client, address, now):
                return address
        networks = client.place.in_order
        return self._fresh(client, networks) or self._unused(client, networks, now)

    def _favourites(self, client: Client, wanted: int | None, now: float) -> Iterator[int]:
        if client.reservation is not None and client.reservation.address is not None:
            yield int(client.reservation.address)
        link = client.place.link.name, client.key
        offered = self._offered.get(link)
        if offered is not None:
            yield offered
        held = self._held.get(link)
        if held is not None:
            yield held
        if wanted is not None and not self._is_remembered(wanted, now):
            yield wanted

    def _is_remembered(self, address: int, now: float) -> bool:
        """Tell whether a box was here lately, so that a stranger should not ask for its address."""
        lease = self._leases.get(address)
        return lease is not None and lease.expires + MEMORY_SECONDS > now

    def _fresh(self, client: Client, networks: tuple[Network, ...]) -> int | None:
        for network in networks:
            for pool in network.pools:
                if _lends(pool.plan, client):
                    address = pool.fresh(self._is_taken)
                    if address is not None:
                        return address
        return None

    def _is_taken(self, address: int) -> bool:
        return address in self._leases or address in self._offers

    def _is_offered(self, address: int) -> bool:
        return address in self._offers

    def _unused(self, client: Client, networks: tuple[Network, ...], now: float) -> int | None:
        """Find the address whose lease ended first; under a flood only a forgotten one."""
        ended = (
            pool.oldest(self._leases, self._is_offered, now)
            for network in networks
            for pool in network.pools
            if _lends(pool.plan, client)
        )
        oldest = min((note for note in ended if note is not None), default=None)
        if oldest is None:
            return None
        is_flood = self._open[client.place.link.name] >= STRANGERS
        return None if is_flood and oldest[0] + MEMORY_SECONDS > now else oldest[1]

    # Offers

    def offer(self, client: Client, address: int, now: float) -> None:
        """Hold an address for a client that was offered it; its older offer ends."""
        link = client.place.link.name, client.key
        before = self._offered.get(link)
        if before is not None and before != address:
            self._end_offer(before)
        if address in self._offers:
            self._forget_offer(address)
        elif len(self._offers) >= OFFERS_LIMIT:
            self._end_offer(next(iter(self._offers)))
        self._offers[address] = (*link, now + OFFER_SECONDS)
        self._open[link[0]] += 1
        self._offered[link] = address

    def withdraw(self, client: Client) -> None:
        """End the client's offer, if there is one."""
        address = self._offered.get((client.place.link.name, client.key))
        if address is not None:
            self._end_offer(address)

    def _forget_offer(self, address: int) -> None:
        link, key, _ = self._offers.pop(address)
        self._open[link] -= 1
        self._offered.pop((link, key), None)

    def _end_offer(self, address: int) -> None:
        """Forget an offer and let its address have its turn again."""
        self._forget_offer(address)
        place = self.links.at(address)
        pool = place.network.pool_of(address) if place is not None else None
        if pool is None:
            return
        lease = self._leases.get(address)
        if lease is None:
            pool.give_back(address)
        else:
            pool.note(address, lease.expires, self._leases)

    def expire(self, now: float) -> None:
        """Forget offers whose time is over; insertion order is the order of time."""
        while self._offers:
            address, (_, _, until) = next(iter(self._offers.items()))
            if now < until <= now + OFFER_SECONDS:  # neither over nor was the clock set back
                return
            self._end_offer(address)

    def deadline(self) -> float | None:
        """When `expire` next has something to do, in seconds of unix time."""
        return next(iter(self._offers.values()))[2] if self._offers else None

    # Leases

    def bind(self, client: Client, typed: IPv4Address, until: float) -> tuple[LeaseWrite, ...]:
        """Give the address until then; the client's row before, if elsewhere, goes."""
        address = int(typed)
        link = client.place.link.name, client.key
        offered = self._offered.get(link)
        if offered is not None:
            (self._forget_offer if offered == address else self._end_offer)(offered)
        network = client.place.link.network_of(address)
        assert network is not None, "may_have comes before bind"
        reservation, is_own = client.reservation, False
        if reservation is not None:
            is_own = reservation.address is not None and int(reservation.address) == address
        lease = Lease(
            subnet=network.plan.name,
            address=typed,
            key=client.key,
            mac=client.mac,
            state=_BOUND,
            expires=until,
            name=reservation.name if reservation and (is_own or not reservation.address) else None,
            client_id=client.client_id,
            identity=identity_of(reservation) if reservation and is_own else None,
        )
        before = self._held.get(link)
        writes = [LeaseWrite(address=lease.address, lease=lease)]
        if before is not None and before != address:
            writes.insert(0, self._drop(before))
        self._store(address, lease, network)
        return tuple(writes)

    def _drop(self, address: int) -> LeaseWrite:
        lease = self._leases.pop(address)
        place = self.links.at(address)
        pool = place.network.pool_of(address) if place is not None else None
        if pool is not None and address not in self._offers:
            pool.give_back(address)
        return LeaseWrite(address=lease.address, lease=None)

    def release(self, address: int, now: float) -> tuple[LeaseWrite, ...]:
        """End a lease now; the row stays, so that its holder gets the same address again."""
        lease = self._leases[address]
        return self._write(replace(lease, state=_RELEASED, expires=now))

    def quarantine(
        self, address: int, until: float, *, key: bytes = b"", mac: bytes | None = None
    ) -> tuple[LeaseWrite, ...]:
        """Let nobody have the address until then; `key` and `mac` are who said why."""
        if address in self._offers:
            self._forget_offer(address)
        place = self.links.at(address)
        return self._write(
            Lease(
                subnet=place.network.plan.name if place is not None else "",
                address=IPv4Address(address),
                key=key,
                mac=mac,
                state=_DECLINED,
                expires=until,
                name=None,
            )
        )

    def _write(self, lease: Lease) -> tuple[LeaseWrite, ...]:
        place = self.links.at(int(lease.address))
        self._store(int(lease.address), lease, place.network if place is not None else None)
        return (LeaseWrite(address=lease.address, lease=lease),)

    def _store(self, address: int, lease: Lease, network: Network | None) -> None:
        """Put a row in; whoever held the address before holds it no more."""
        holder = self.links.name_of(lease.subnet), lease.key
        before = self._leases.get(address)
        if before is not None and before.key != lease.key:
            held = self.links.name_of(before.subnet), before.key
            if self._held.get(held) == address:
                del self._held[held]
        self._leases[address] = lease
        if lease.state is not _DECLINED:
            self._held[holder] = address
        elif self._held.get(holder) == address:
            del self._held[holder]
        pool = network.pool_of(address) if network is not None else None
        if pool is not None:
            pool.note(address, lease.expires, self._leases)

    # Probing

    def upcoming(self, wanted: int, now: float) -> Iterator[tuple[Network, int]]:
        """Give the addresses that the next strangers would get and that were not asked of late."""
        for link in self.links.all:
            for network in link.networks:
                if network.plan.relayed:
                    continue  # ARP does not reach them
                for pool in network.pools:
                    turn = pool.upcoming(wanted, self._leases, self._is_offered, now)
                    yield from ((network, n) for n in turn if not self._is_probed(n, now))

    def _is_probed(self, address: int, now: float) -> bool:
        at = self._probed.get(address)
        return at is not None and at <= now < at + PROBE_SECONDS

    def probed(self, address: int, now: float) -> None:
        """Take note that an address was asked by ARP and nobody answered."""
        self._probed.pop(address, None)
        self._probed[address] = now
        if len(self._probed) > PROBES_KEPT:
            self._probed.popitem(last=False)


def _lends(pool: Pool, client: Client) -> bool:
    """Tell whether a pool is for a client of these classes."""
    if client.bootp and not pool.bootp:
        return False
    return not pool.classes or not pool.classes.isdisjoint(client.classes)
