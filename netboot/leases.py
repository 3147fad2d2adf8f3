"""Who holds which address: subnets, reservations, offers and leases as one pure table.

It never offers an address that another client was offered or holds, and never reads a clock or a
file: what must be durable it returns as writes. RFC 2131, 3.1 and 4.3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Address
from itertools import chain, pairwise

from netboot.errors import SiteError
from netboot.network import Reservation, SubnetPlan

OFFER_SECONDS = 30.0
"""How long an offer is held: OVMF requests 3.3 to 4.6 s after DISCOVER, repeats after 16 s."""
QUARANTINE_SECONDS = 3600.0
"""How long a declined address rests: until a wrong cable is found, not until tomorrow."""
MEMORY_SECONDS = 86400.0
"""How long after its lease a box's address is kept from strangers."""
STRANGERS = 4
"""With this many open offers, addresses younger than MEMORY_SECONDS are kept (a flood of MACs)."""
POOL_LIMIT = 16384
"""Addresses in one subnet's pools; choosing walks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks: `key` is the MAC on Ethernet, else a longer text of hardware address or client-id.

    On Ethernet never the client-id: firmware, loader, installer and system each send another one.
    """

    key: bytes
    mac: bytes | None


class LeaseState(StrEnum):
    """What a row of the lease table says."""

    BOUND = "bound"
    RELEASED = "released"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One address and its last holder; `expires` in unix seconds, of the quarantine if declined."""

    subnet: str
    address: IPv4Address
    key: bytes
    mac: bytes | None
    state: LeaseState
    expires: float
    name: str | None

    def blocks(self, now: float) -> bool:
        """Tell whether the address is taken, by its holder or by quarantine."""
        return self.state is not LeaseState.RELEASED and self.expires > now

    def is_bound(self, now: float) -> bool:
        """Tell whether the holder may use the address now."""
        return self.state is LeaseState.BOUND and self.expires > now


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWrite:
    """A row to make durable: the lease of this address from now on, None to remove it."""

    address: IPv4Address
    lease: Lease | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    subnet: str
    key: bytes
    until: float


def check_plan(subnets: Iterable[SubnetPlan], reservations: Iterable[Reservation]) -> None:
    """Refuse a plan that would give one address twice or from another network; SiteError."""
    subnets = tuple(subnets)
    for subnet in subnets:
        _check_subnet(subnet)
    served = [subnet for subnet in subnets if subnet.dhcp == "server"]
    if len({subnet.interface for subnet in served}) != len(served):
        raise SiteError('two subnets with dhcp = "server" share one interface')
    for one, two in pairwise(sorted(subnets, key=lambda subnet: subnet.network)):
        if one.network.overlaps(two.network):
            raise SiteError(f"subnets {one.name} and {two.name} overlap")
    addresses: set[IPv4Address] = {subnet.appliance for subnet in subnets}
    for reservation in reservations:
        if reservation.address is None:
            continue
        if reservation.address in addresses:
            raise SiteError(f"reservation {reservation.address}: the address is given twice")
        addresses.add(reservation.address)


def _check_subnet(subnet: SubnetPlan) -> None:
    if subnet.appliance not in subnet.network:
        raise SiteError(f"subnet {subnet.name}: appliance is outside {subnet.network}")
    if subnet.lease < timedelta(minutes=1):
        raise SiteError(f"subnet {subnet.name}: lease is shorter than a minute")
    size = 0
    for pool in subnet.pools:
        first, last = pool.first, pool.last
        if first > last or first not in subnet.network or last not in subnet.network:
            raise SiteError(f"subnet {subnet.name}: pool {first}-{last} is not in {subnet.network}")
        size += int(last) - int(first) + 1
    if size > POOL_LIMIT:
        raise SiteError(f"subnet {subnet.name}: pools hold {size} addresses, at most {POOL_LIMIT}")


def _pool(subnet: SubnetPlan) -> dict[IPv4Address, None]:
    """List the addresses to give, in order, without ours, the gateway's and the two ends."""
    taken = {
        subnet.appliance,
        subnet.gateway,
        subnet.network.network_address,
        subnet.network.broadcast_address,
    }
    ranges = (range(int(pool.first), int(pool.last) + 1) for pool in subnet.pools)
    addresses = (IPv4Address(number) for number in chain.from_iterable(ranges))
    return dict.fromkeys(address for address in addresses if address not in taken)


class LeaseTable:
    """Offers, leases and quarantine of all subnets; `replace` changes the plan and keeps them."""

    def __init__(
        self,
        subnets: Iterable[SubnetPlan],
        reservations: Iterable[Reservation],
        leases: Iterable[Lease] = (),
    ) -> None:
        self._leases: dict[IPv4Address, Lease] = {}
        self._held: dict[tuple[str, bytes], IPv4Address] = {}
        self._offers: dict[IPv4Address, _Offer] = {}
        self._offered: dict[tuple[str, bytes], IPv4Address] = {}
        self.replace(subnets, reservations)
        for lease in leases:
            self._store(lease)

    def replace(self, subnets: Iterable[SubnetPlan], reservations: Iterable[Reservation]) -> None:
        """Take another plan and keep what was given; SiteError, and the old plan stays."""
        subnets, reservations = tuple(subnets), tuple(reservations)
        check_plan(subnets, reservations)
        self._pools = {subnet.name: _pool(subnet) for subnet in subnets}
        self._reserved = {
            entry.address: entry for entry in reservations if entry.address is not None
        }
        self._by_mac: dict[bytes, tuple[Reservation, ...]] = {}
        for reservation in reservations:
            if reservation.mac is not None:
                known = self._by_mac.get(reservation.mac, ())
                self._by_mac[reservation.mac] = (*known, reservation)

    def leases(self) -> tuple[Lease, ...]:
        """Every row, bound or not."""
        return tuple(self._leases.values())

    def reservation(self, client: Client, subnet: SubnetPlan) -> Reservation | None:
        """Find the client's reservation in this subnet."""
        known = self._by_mac.get(client.mac, ()) if client.mac else ()
        return next((entry for entry in known if entry.address in subnet.network), None)

    def held(self, client: Client, subnet: SubnetPlan) -> Lease | None:
        """Find the row that the client holds or held last in this subnet."""
        address = self._held.get((subnet.name, client.key))
        return None if address is None else self._leases[address]

    def offered(self, client: Client, subnet: SubnetPlan, now: float) -> IPv4Address | None:
        """Find the client's open offer."""
        address = self._offered.get((subnet.name, client.key))
        return address if address is not None and self._offers[address].until > now else None

    def may_have(
        self, client: Client, subnet: SubnetPlan, address: IPv4Address, now: float
    ) -> bool:
        """Tell whether the plan allows the client this address and nobody else has it."""
        return self._allows(client, subnet, address) and self._is_free(client, address, now)

    def _allows(self, client: Client, subnet: SubnetPlan, address: IPv4Address) -> bool:
        reserved = self._reserved.get(address)
        if reserved is not None:
            return reserved.mac == client.mac and address in subnet.network
        return address in self._pools[subnet.name]

    def _is_free(self, client: Client, address: IPv4Address, now: float) -> bool:
        lease = self._leases.get(address)
        if lease is not None and lease.blocks(now):
            return lease.state is LeaseState.BOUND and lease.key == client.key
        offer = self._offers.get(address)
        return offer is None or offer.until <= now or offer.key == client.key

    def choose(
        self, client: Client, subnet: SubnetPlan, wanted: IPv4Address | None, now: float
    ) -> IPv4Address | None:
        """Choose reserved, offered, held before, wanted, fresh, longest unused; None when full."""
        for address in self._favourites(client, subnet, wanted, now):
            if self.may_have(client, subnet, address, now):
                return address
        return self._fresh(client, subnet, now) or self._unused(client, subnet, now)

    def _favourites(
        self, client: Client, subnet: SubnetPlan, wanted: IPv4Address | None, now: float
    ) -> Iterator[IPv4Address]:
        reservation = self.reservation(client, subnet)
        if reservation is not None and reservation.address is not None:
            yield reservation.address
        offered = self.offered(client, subnet, now)
        if offered is not None:
            yield offered
        held = self.held(client, subnet)
        if held is not None:
            yield held.address
        if wanted is not None and not self._is_remembered(wanted, now):
            yield wanted

    def _is_remembered(self, address: IPv4Address, now: float) -> bool:
        """Tell whether a box was here lately, so that a stranger should not ask for its address."""
        lease = self._leases.get(address)
        return lease is not None and lease.expires + MEMORY_SECONDS > now

    def _fresh(self, client: Client, subnet: SubnetPlan, now: float) -> IPv4Address | None:
        return next(
            (
                address
                for address in self._pools[subnet.name]
                if address not in self._leases and self.may_have(client, subnet, address, now)
            ),
            None,
        )

    def _unused(self, client: Client, subnet: SubnetPlan, now: float) -> IPv4Address | None:
        """Find the address whose lease ended first; under a flood only a forgotten one."""
        open_offers = sum(1 for offer in self._offers.values() if offer.until > now)
        ended = sorted(
            (lease.expires, address)
            for address in self._pools[subnet.name]
            if (lease := self._leases.get(address)) is not None
            and self.may_have(client, subnet, address, now)
            and (open_offers < STRANGERS or not self._is_remembered(address, now))
        )
        return ended[0][1] if ended else None

    def offer(self, client: Client, subnet: SubnetPlan, address: IPv4Address, now: float) -> None:
        """Hold an address for a client that was offered it; its older offer ends."""
        self.withdraw(client, subnet)
        stale = self._offers.get(address)
        if stale is not None:
            self._offered.pop((stale.subnet, stale.key), None)
        until = now + OFFER_SECONDS
        self._offers[address] = _Offer(subnet=subnet.name, key=client.key, until=until)
        self._offered[subnet.name, client.key] = address

    def withdraw(self, client: Client, subnet: SubnetPlan) -> None:
        """End the client's offer, if there is one."""
        address = self._offered.pop((subnet.name, client.key), None)
        if address is not None:
            del self._offers[address]

    def bind(
        self, client: Client, subnet: SubnetPlan, address: IPv4Address, now: float
    ) -> tuple[LeaseWrite, ...]:
        """Give the address for the subnet's lease time; its row before, if elsewhere, goes."""
        reservation = self.reservation(client, subnet)
        lease = Lease(
            subnet=subnet.name,
            address=address,
            key=client.key,
            mac=client.mac,
            state=LeaseState.BOUND,
            expires=now + subnet.lease.total_seconds(),
            name=reservation.name if reservation and reservation.address == address else None,
        )
        self.withdraw(client, subnet)
        before = self._held.get((subnet.name, client.key))
        writes = [LeaseWrite(address=address, lease=lease)]
        if before is not None and before != address:
            del self._leases[before]
            writes.insert(0, LeaseWrite(address=before, lease=None))
        self._store(lease)
        return tuple(writes)

    def release(self, client: Client, subnet: SubnetPlan, now: float) -> tuple[LeaseWrite, ...]:
        """End the client's lease now; the row stays, so that it gets the same address again."""
        held = self.held(client, subnet)
        if held is None:
            return ()
        return self._write(replace(held, state=LeaseState.RELEASED, expires=now))

    def quarantine(
        self, client: Client, subnet: SubnetPlan, address: IPv4Address, now: float
    ) -> tuple[LeaseWrite, ...]:
        """Let nobody have the address for a while."""
        self.withdraw(client, subnet)
        return self._write(
            Lease(
                subnet=subnet.name,
                address=address,
                key=client.key,
                mac=client.mac,
                state=LeaseState.DECLINED,
                expires=now + QUARANTINE_SECONDS,
                name=None,
            )
        )

    def _write(self, lease: Lease) -> tuple[LeaseWrite, ...]:
        self._store(lease)
        return (LeaseWrite(address=lease.address, lease=lease),)

    def _store(self, lease: Lease) -> None:
        """Put a row in; whoever held the address before holds it no more."""
        before = self._leases.get(lease.address)
        if before is not None and self._held.get((before.subnet, before.key)) == lease.address:
            del self._held[before.subnet, before.key]
        self._leases[lease.address] = lease
        if lease.state is not LeaseState.DECLINED:
            self._held[lease.subnet, lease.key] = lease.address

    def expire(self, now: float) -> None:
        """Forget offers whose time is over."""
        for address, offer in tuple(self._offers.items()):
            if not now < offer.until <= now + OFFER_SECONDS:  # over, or the clock was set back
                del self._offers[address]
                self._offered.pop((offer.subnet, offer.key), None)

    def deadline(self) -> float | None:
        """When `expire` next has something to do, in seconds of unix time."""
        return min((offer.until for offer in self._offers.values()), default=None)
