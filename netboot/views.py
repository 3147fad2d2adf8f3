"""Who may ask what: a view for each address that asks.

A convenience, never an access control: an address is no identity. A box that is not enrolled finds
what it needs to enrol; an address that is on none of our networks is answered for our zones alone,
and by an appliance never with more bytes than it sent. Names of others are never asked for it: who
forwards for everybody lends his cache and his line to attacks (RFC 5358).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from netboot.names import Labels

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class View(Enum):
    """What an address may ask."""

    FULL = "everything"
    ENROLMENT = "the names that it needs to enrol"
    ZONES = "the names of this site"
    STRANGER = "the names of this site, in small answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """`boxes` are networks where boxes are booted, `known` addresses there that are not boxes or
    are enrolled; `site` are all of our networks, and those that are allowed as much. `names` is
    what a box may ask before; `others` is the view of an address on none of these networks.
    """

    site: tuple[Network, ...] = ()
    boxes: tuple[Network, ...] = ()
    known: frozenset[Address] = frozenset()
    names: frozenset[Labels] = frozenset()
    others: View = View.STRANGER

    def of(self, peer: str) -> View:
        """Choose the view of an address; a link-local one is a neighbour's."""
        address = ip_address(peer.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_loopback or address in self.known:
            return View.FULL
        if _is_in(address, self.boxes):
            return View.ENROLMENT
        if _is_in(address, self.site):
            return View.FULL
        if self.others is View.STRANGER and address.is_link_local:
            return View.ENROLMENT
        return self.others


EVERYBODY = Views(site=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))
"""No difference between addresses: for tools and tests on a network of their own."""


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == one.version and address in one for one in networks)
