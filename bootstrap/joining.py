"""Which network card an address leads to: how a session finds its lease, and a box its card.

Pure. An address proves nothing; what it leads to counts only if the box names that card too. RFC
4291, appendix A (an address that the box made of its MAC).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv6Address, ip_address

from bootstrap.rows import Sighting

MAX_ADDRESS = 64


def normal_address(text: str) -> str:
    """Give an address as it is written everywhere else (RFC 5952); other text cut short."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text[:MAX_ADDRESS]


def mac_at(
    address: str,
    leases: Mapping[str, str],
    sightings: Iterable[Sighting],
    named: Collection[str],
) -> str | None:
    """Find the MAC that an address leads to, among those that the box names; None for none.

    First what netboot has lent (MAC by address), then the address itself, where the box made it of
    its MAC; where netboot is silent, what it was last seen to give stands in.
    """
    found = (leases.get(address), _made_of(address))
    seen = (one.mac for one in sightings if one.address == address)
    return next((mac for mac in (*found, *seen) if mac is not None and mac in named), None)


def _made_of(address: str) -> str | None:
    try:
        raw = IPv6Address(address).packed
    except ValueError:
        return None
    if raw[11:13] != b"\xff\xfe":
        return None
    return (bytes((raw[8] ^ 2,)) + raw[9:11] + raw[13:]).hex(":")
