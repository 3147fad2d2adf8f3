"""Domain names as labels in lower case: text, wire form, canonical order, reverse names.

RFC 1034, 3.1; RFC 1035, 3.1 and 5.1; RFC 4034, 6.1 and 6.2; RFC 1035, 3.5 and RFC 3596, 2.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netboot.errors import PeerError

Labels = tuple[bytes, ...]
"""A name as its labels in lower case, the root left out."""

MAX_LABEL = 63
MAX_NAME = 255
"""Bytes of a name on the wire, its last NUL included."""


def labels(name: str) -> Labels:
    r"""Split a name, with or without its last dot; `\.` and `\065` as in zone files; PeerError."""
    found: list[bytearray] = [bytearray()]
    at, data = 0, name.lower().encode("latin-1", "replace")
    while at < len(data):
        byte = data[at : at + 1]
        if byte == b".":
            found.append(bytearray())
        elif byte == b"\\":
            digits = data[at + 1 : at + 4]
            is_number = len(digits) == 3 and digits.isdigit()
            if not digits or (is_number and int(digits) > 255):
                raise PeerError(f"name {name[:80]!r}: a \\ has nothing to stand for")
            found[-1] += bytes((int(digits),)) if is_number else digits[:1]
            at += 3 if is_number else 1
        else:
            found[-1] += byte
        at += 1
    if not found[-1]:
        found.pop()
    if not all(0 < len(one) <= MAX_LABEL for one in found) or _size(found) > MAX_NAME:
        raise PeerError(f"name {name[:80]!r}: labels have 1 to 63 bytes, the whole at most 255")
    return tuple(bytes(one) for one in found)


def _size(parts: Iterable[bytes | bytearray]) -> int:
    return sum(len(one) + 1 for one in parts) + 1


def text(name: Labels) -> str:
    """Join labels, with a last dot; what is no plain character as in zone files."""
    return ".".join("".join(map(_plain, label)) for label in name) + "."


def _plain(byte: int) -> str:
    if chr(byte) in '."();@$\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x21 <= byte < 0x7F else f"\\{byte:03}"


def wire(name: Labels) -> bytes:
    """Write a name without compression."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def read_wire(data: bytes, at: int = 0) -> tuple[Labels, int]:
    """Read a name without compression, in lower case, and give where it ends; PeerError."""
    found: list[bytes] = []
    start = at
    while at < len(data):
        size = data[at]
        at += 1
        if size == 0:
            return tuple(found), at
        if size > MAX_LABEL or at + size > len(data) or at + size - start >= MAX_NAME:
            break
        found.append(data[at : at + size].lower())
        at += size
    raise PeerError("a name is malformed")


def renamed(name: Labels, owner: Labels, target: Labels) -> Labels | None:
    """Give what a DNAME makes of a name below it (RFC 6672, 2.2); None when that is too long."""
    found = (*name[: len(name) - len(owner)], *target)
    return found if _size(found) <= MAX_NAME else None


def is_at_or_below(name: Labels, zone: Labels) -> bool:
    """Tell whether a name is a zone's own or below it."""
    return name[len(name) - len(zone) :] == zone


def order(name: Labels) -> Labels:
    """Give what names are sorted by (RFC 4034, 6.1)."""
    return name[::-1]


def reverse_name(address: IPv4Address | IPv6Address) -> Labels:
    """Give the owner name of an address's PTR."""
    if address.version == 4:
        return (*(b"%d" % byte for byte in reversed(address.packed)), b"in-addr", b"arpa")
    return (*(digit.encode() for digit in reversed(address.packed.hex())), b"ip6", b"arpa")


def reverse_origins(network: IPv4Network | IPv6Network) -> tuple[Labels, ...]:
    """Give the reverse zones that hold a network: on whole bytes or nibbles, the next longer ones.

    Of IPv4 at least one byte and at most three, so that a zone holds more than one name.
    """
    unit = 8 if network.version == 4 else 4
    most = (network.max_prefixlen - unit) // unit
    count = max(1, min(most, -(-network.prefixlen // unit)))
    parts: Iterable[IPv4Network | IPv6Network]
    if network.prefixlen >= count * unit:
        parts = (network.supernet(new_prefix=count * unit),)
    else:
        parts = network.subnets(new_prefix=count * unit)
    skipped = network.max_prefixlen // unit - count
    return tuple(reverse_name(part.network_address)[skipped:] for part in parts)
