"""Links of IPv6: subnets that share a wire or a relay, their pools, and what no plan may say.

It never decides who gets an address. RFC 8415, 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address
from itertools import pairwise

from netboot.dhcp6_options import swapped_uuid
from netboot.errors import SiteError
from netboot.network import Reservation6, Subnet6Plan

Link = Sequence[Subnet6Plan]
"""The subnets of one link, in the plan's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span6:
    """Addresses to lend from `first` to `last`, both included."""

    first: IPv6Address
    last: IPv6Address


def same_uuid(uuid: bytes | None) -> bytes | None:
    """Give one value for both byte orders of a UUID: firmware and systems differ."""
    if uuid is None:
        return None
    return min(uuid, swapped_uuid(uuid))


def subnet_of(address: IPv6Address, link: Link) -> Subnet6Plan | None:
    """Find the subnet of a link that an address is in."""
    return next((subnet for subnet in link if address in subnet.network), None)


def is_in_pools(address: IPv6Address, subnet: Subnet6Plan) -> bool:
    return any(first <= address <= last for first, last in subnet.pools)


def nth(subnet: Subnet6Plan, sizes: Sequence[int], number: int) -> IPv6Address:
    for (first, _), size in zip(subnet.pools, sizes, strict=True):
        if number < size:
            return IPv6Address(int(first) + number)
        number -= size
    raise ValueError("beyond the pools")


def identities(entry: Reservation6) -> tuple[bytes, ...]:
    """Name who a reservation is for: a letter for the kind, then the bytes."""
    told = (
        (b"d", entry.duid),
        (b"u", same_uuid(entry.uuid)),
        (b"m", entry.mac),
        (b"c", entry.circuit_id),
        (b"r", entry.remote_id),
    )
    return tuple(letter + name for letter, name in told if name is not None)


def check_plan6(subnets: Iterable[Subnet6Plan], reservations: Iterable[Reservation6]) -> None:
    """Refuse a plan that would give one address twice or from another network; SiteError."""
    subnets = tuple(subnets)
    for subnet in subnets:
        _check_subnet(subnet)
    for one, two in pairwise(sorted(subnets, key=lambda subnet: subnet.network)):
        if one.network.overlaps(two.network):
            raise SiteError(f"subnets {one.name} and {two.name} overlap")
    addresses = {subnet.appliance for subnet in subnets}
    for entry in reservations:
        if len(identities(entry)) != 1:
            who = entry.address or entry.name
            raise SiteError(f"reservation {who}: one of duid, uuid, mac, circuit_id, remote_id")
        if entry.address is None:
            continue
        if entry.address in addresses:
            raise SiteError(f"reservation {entry.address}: the address is given twice")
        if not any(entry.address in subnet.network for subnet in subnets):
            raise SiteError(f"reservation {entry.address} is in no subnet")
        addresses.add(entry.address)


def _check_subnet(subnet: Subnet6Plan) -> None:
    if not subnet.relayed and subnet.appliance not in subnet.network:
        raise SiteError(f"subnet {subnet.name}: appliance is outside {subnet.network}")
    if subnet.lease < timedelta(seconds=1):
        raise SiteError(f"subnet {subnet.name}: lease is shorter than a second")
    if subnet.preferred is not None and not timedelta(0) < subnet.preferred <= subnet.lease:
        raise SiteError(f"subnet {subnet.name}: preferred is longer than the lease, or nothing")
    if subnet.dhcp == "stateless" and not subnet.relayed and subnet.network.prefixlen != 64:
        raise SiteError(f"subnet {subnet.name}: clients make their own addresses in a /64 only")
    for first, last in subnet.pools:
        if first > last or first not in subnet.network or last not in subnet.network:
            raise SiteError(f"subnet {subnet.name}: pool {first}-{last} is not in {subnet.network}")
