"""Which number, name and address a box gets: the lowest number that was never given.

Pure: the role, the delivery note's wish and all that is taken are arguments. It never frees a
number: what a revoked box had stays taken until `replace`. design.md, "Names and addresses".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import count

from bootstrap.errors import SiteError
from bootstrap.site import Role, Site

Address = IPv4Address | IPv6Address

MAX_NUMBER = 9999
"""Enough for one role of one site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one box has or had, whatever its stage; a revoked box counts too."""

    role: str
    number: int | None
    hostname: str
    address: Address | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What a box gets. `address` None: the one it has; `number` None: the note named it."""

    number: int | None
    hostname: str
    address: Address | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    numbers: Collection[int]
    hostnames: Collection[str]
    addresses: Collection[Address]


def choose(
    site: Site,
    role: Role,
    given: Sequence[Given],
    *,
    wish: str | None = None,
    present: Address | None = None,
) -> Naming:
    """Choose for a new box; SiteError when the role has no number left or the name is taken.

    `wish` is the name on the delivery note, `present` the address from which the box phoned home.
    Roles number IPv4 addresses: a box that phones home by IPv6 has a number too, and keeps its own.
    """
    taken = _taken(site, role, given)
    number = role.hostname.number(wish) if wish is not None else None
    if wish is not None:
        if wish in taken.hostnames:
            raise SiteError(
                f"delivery note: the name {wish} is already given: choose another and sign again"
            )
        if number is None and role.addresses is None:
            return Naming(number=None, hostname=wish, address=_keep(present, taken))
    if number is None:
        number = _lowest_free(role, taken, named=wish is None)
    if role.addresses is None or isinstance(present, IPv6Address):
        address = _keep(present, taken)
        return Naming(number=number, hostname=wish or role.hostname.name(number), address=address)
    address = _address(role, number)
    if address is None or address in taken.addresses:
        raise SiteError(
            f"delivery note: {wish} stands for an address that is taken or outside the range of "
            f"role {role.name}: choose another name and sign again"
        )
    return Naming(number=number, hostname=wish or role.hostname.name(number), address=address)


def _lowest_free(role: Role, taken: _Taken, *, named: bool) -> int:
    for number in count(1):
        address = _address(role, number)
        if number > MAX_NUMBER or (role.addresses is not None and address is None):
            raise _exhausted(role)
        if number in taken.numbers or address in taken.addresses:
            continue
        if named and role.hostname.name(number) in taken.hostnames:
            continue
        return number
    raise AssertionError


def _address(role: Role, number: int) -> IPv4Address | None:
    """Give the address of a number; None when the role has no range, or it is not in it."""
    if role.addresses is None or not 1 <= number <= len(role.addresses):
        return None
    return role.addresses.first + (number - 1)


def _keep(present: Address | None, taken: _Taken) -> Address | None:
    return None if present in taken.addresses else present


def _taken(site: Site, role: Role, given: Sequence[Given]) -> _Taken:
    own: set[Address] = {one.address for one in site.reservations if one.address is not None}
    own |= {one.address for one in site.reservations6 if one.address is not None}
    own |= {one.appliance for one in site.subnets6}
    for subnet in site.subnets:
        own.add(subnet.appliance)
        own |= {subnet.network.network_address, subnet.network.broadcast_address}
        if subnet.gateway is not None:
            own.add(subnet.gateway)
    return _Taken(
        numbers={one.number for one in given if one.role == role.name and one.number is not None},
        hostnames={one.hostname for one in given}
        | {one.name for one in site.reservations if one.name is not None}
        | {one.name for one in site.reservations6 if one.name is not None}
        | {"appliance"},
        addresses=own | {one.address for one in given if one.address is not None},
    )


def _exhausted(role: Role) -> SiteError:
    return SiteError(
        f"site.toml: role.{role.name}.addresses: no free number is left for {role.name}: "
        "widen the range"
    )
