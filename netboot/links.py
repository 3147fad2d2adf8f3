"""Links: subnets that share a wire or a relay, and which of them a message came from.

It never decides who gets an address. RFC 2131, 4.3.1 (giaddr), 3046 and 3527 (82), 3011 (118).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address
from itertools import pairwise

from netboot.client import LINK_SELECTION, sub_option
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.errors import SiteError
from netboot.network import Pool, Reservation, SubnetPlan
from netboot.pools import PoolState

POOL_LIMIT = 1_048_576
"""Addresses in one subnet's pools."""
_RELAY_AGENT, _SUBNET_SELECTION = int(Code.RELAY_AGENT), int(Code.SUBNET_SELECTION)
SHORTEST_LEASE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A subnet as the engine uses it: addresses are whole numbers, `low` and `high` its ends."""

    plan: SubnetPlan
    low: int
    high: int
    pools: tuple[PoolState[Pool], ...]

    def __contains__(self, address: int) -> bool:
        return self.low <= address <= self.high

    def pool_of(self, address: int) -> PoolState[Pool] | None:
        """Find the pool that lends an address."""
        for pool in self.pools:
            if address in pool:
                return pool
        return None

    def range_of(self, address: int) -> PoolState[Pool] | None:
        """Find the pool whose range holds an address, though it may be reserved in it."""
        for pool in self.pools:
            if pool.first <= address <= pool.last:
                return pool
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Link:
    """Subnets whose clients hear each other; a client has one address on a link."""

    name: str
    networks: tuple[Network, ...]
    server_ids: frozenset[bytes]

    def network_of(self, address: int) -> Network | None:
        """Find the subnet that an address belongs to."""
        for network in self.networks:
            if network.low <= address <= network.high:
                return network
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """Where a client is: its link, and the subnet to try first."""

    link: Link
    network: Network

    @property
    def in_order(self) -> tuple[Network, ...]:
        """Give the link's subnets, the one to try first before the others."""
        networks = self.link.networks
        if networks[0] is self.network:
            return networks
        others = (network for network in networks if network is not self.network)
        return (self.network, *others)


class Links:
    """All links that are served, found by interface, relay or address."""

    def __init__(
        self, subnets: Iterable[SubnetPlan], reservations: Iterable[Reservation] = ()
    ) -> None:
        """Build from a plan that `check_plan` found right."""
        served = [subnet for subnet in subnets if subnet.dhcp == "server"]
        reserved = frozenset(int(entry.address) for entry in reservations if entry.address)
        members: dict[str, list[Network]] = defaultdict(list)
        for subnet in served:
            members[_link_name(subnet)].append(_network(subnet, reserved))
        self.all = tuple(
            Link(
                name=name,
                networks=tuple(networks),
                server_ids=frozenset(network.plan.appliance.packed for network in networks),
            )
            for name, networks in members.items()
        )
        self._places = {
            network.plan.name: Place(link=link, network=network)
            for link in self.all
            for network in link.networks
        }
        self._sorted = sorted(
            (place for place in self._places.values()), key=lambda place: place.network.low
        )
        self._lows = [place.network.low for place in self._sorted]
        self._by_interface: dict[str, Place] = {}
        self._by_relay: dict[int, Place] = {}
        for place in self._places.values():
            plan = place.network.plan
            if not plan.relayed:
                self._by_interface.setdefault(plan.interface, place)
            for relay in plan.relays:
                self._by_relay.setdefault(int(relay), place)

    def name_of(self, subnet: str) -> str:
        """Name the link of a subnet; one that is served no more is a link of its own."""
        place = self._places.get(subnet)
        return place.link.name if place is not None else f"gone {subnet}"

    def at(self, address: int) -> Place | None:
        """Find where an address belongs."""
        found = bisect_right(self._lows, address) - 1
        if found < 0 or address not in self._sorted[found].network:
            return None
        return self._sorted[found]

    def place_of(self, message: Message, interface: str) -> Place | None:
        """Find where a client is; None where we serve nobody.

        Behind a relay: the link that option 82.5, else option 118, else giaddr names. Otherwise
        the interface's, where 118 may choose a subnet of it, or one that only relays reach; so
        may ciaddr, because a client behind a relay renews past it (in a DISCOVER it means nothing:
        old ROMs fill it).
        """
        relay = int(message.giaddr)
        if relay:
            said = message.options.by_code
            if _RELAY_AGENT in said or _SUBNET_SELECTION in said:
                named = _link_selection(message) or _address(message, Code.SUBNET_SELECTION)
                relay = named or relay
            return self._by_relay.get(relay) or self.at(relay)
        local = self._by_interface.get(interface)
        if _SUBNET_SELECTION in message.options.by_code:
            chosen = _address(message, Code.SUBNET_SELECTION)
            return self._reachable(chosen, local) or local
        ciaddr = int(message.ciaddr)
        if not ciaddr or message.options.message_type is MessageType.DISCOVER:
            return local
        return self._reachable(ciaddr, local) or local

    def _reachable(self, address: int, local: Place | None) -> Place | None:
        place = self.at(address)
        if place is None or place.network.plan.relayed:
            return place
        return place if local is not None and place.link is local.link else None


def _link_name(subnet: SubnetPlan) -> str:
    return f"subnet {subnet.name}" if subnet.shared is None else f"shared {subnet.shared}"


def _network(subnet: SubnetPlan, reserved: frozenset[int]) -> Network:
    """Leave out of the pools our address, the gateway's, the two ends and what is reserved."""
    low, high = int(subnet.network.network_address), int(subnet.network.broadcast_address)
    never = {int(subnet.appliance), low, high}
    if subnet.gateway is not None:
        never.add(int(subnet.gateway))
    within = frozenset(address for address in reserved | never if low <= address <= high)
    pools = tuple(PoolState(pool, within) for pool in subnet.pools)
    return Network(plan=subnet, low=low, high=high, pools=pools)


def _address(message: Message, code: Code) -> int:
    address = message.options.address(code)
    return int(address) if address is not None else 0


def _link_selection(message: Message) -> int:
    agent = message.options.get(Code.RELAY_AGENT)
    data = sub_option(agent, LINK_SELECTION) if agent else None
    return int.from_bytes(data, "big") if data is not None and len(data) == 4 else 0


def check_plan(subnets: Iterable[SubnetPlan], reservations: Iterable[Reservation]) -> None:
    """Refuse a plan that would give one address twice or from another network; SiteError."""
    subnets = tuple(subnets)
    for subnet in subnets:
        _check_subnet(subnet)
    _check_interfaces(subnets)
    for one, two in pairwise(sorted(subnets, key=lambda subnet: subnet.network)):
        if one.network.overlaps(two.network):
            raise SiteError(f"subnets {one.name} and {two.name} overlap")
    _check_reservations(subnets, tuple(reservations))


def _check_subnet(subnet: SubnetPlan) -> None:
    if subnet.appliance not in subnet.network and not subnet.relayed:
        raise SiteError(f"subnet {subnet.name}: appliance is outside {subnet.network}")
    if subnet.lease < SHORTEST_LEASE:
        raise SiteError(f"subnet {subnet.name}: lease is shorter than a second")
    size = 0
    for pool in subnet.pools:
        first, last = pool.first, pool.last
        if first > last or first not in subnet.network or last not in subnet.network:
            raise SiteError(f"subnet {subnet.name}: pool {first}-{last} is not in {subnet.network}")
        size += int(last) - int(first) + 1
    if size > POOL_LIMIT:
        raise SiteError(f"subnet {subnet.name}: pools hold {size} addresses, at most {POOL_LIMIT}")
    for one, two in pairwise(sorted(subnet.pools, key=lambda pool: pool.first)):
        if two.first <= one.last:
            raise SiteError(
                f"subnet {subnet.name}: pools that begin at {one.first} and {two.first} overlap"
            )


def _check_interfaces(subnets: tuple[SubnetPlan, ...]) -> None:
    """An interface is one link: a client there may be given an address of any of its subnets."""
    links: dict[str, str] = {}
    for subnet in subnets:
        if subnet.dhcp != "server" or subnet.relayed:
            continue
        name = _link_name(subnet)
        if links.setdefault(subnet.interface, name) != name:
            raise SiteError(
                f'two subnets with dhcp = "server" share one interface ({subnet.interface}) '
                "and are not the same shared network"
            )


def identity_of(entry: Reservation) -> bytes:
    """Name who a reservation is for: a letter for the kind, then the bytes."""
    who = (entry.mac, entry.uuid, entry.client_id, entry.circuit_id, entry.remote_id)
    for letter, data in zip(b"mucrs", who, strict=True):
        if data is not None:
            return bytes((letter,)) + data
    raise SiteError(f"reservation {entry.address or entry.name}: it names no client")


def _check_reservations(
    subnets: tuple[SubnetPlan, ...], reservations: tuple[Reservation, ...]
) -> None:
    addresses: set[IPv4Address] = {subnet.appliance for subnet in subnets}
    known: set[tuple[bytes, str | None]] = set()
    links = Links(subnets)
    for entry in reservations:
        if entry.address is not None and entry.address in addresses:
            raise SiteError(f"reservation {entry.address}: the address is given twice")
        place = links.at(int(entry.address)) if entry.address is not None else None
        where = place.network.plan.name if place is not None else str(entry.address)
        identity = identity_of(entry), where
        if identity in known:
            raise SiteError(
                f"reservation {entry.address or entry.name}: its client has another one in {where}"
            )
        known.add(identity)
        if entry.address is not None:
            addresses.add(entry.address)
