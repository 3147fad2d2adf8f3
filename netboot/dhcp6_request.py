"""A DHCPv6 message with what belongs to it: who sent it, what it claims, on which link.

It never decides. RFC 8415, 11 (DUID) and 16 (what is discarded); 6939 (79); 4291, A (EUI-64).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

from netboot.client import Facts
from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import Association, Code6, Status, StatusCode
from netboot.dhcp6_reply import Arrival6
from netboot.errors import PeerError
from netboot.leases6 import Client6
from netboot.links6 import Link
from netboot.network import ClientClass, Reservation6, Subnet6Plan

MAX_ASSOCIATIONS = 16
"""IAs in one message; a box has one for each NIC."""
TO_US = frozenset({Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE})
"""Messages that must name their server (RFC 8415, 16)."""
_TO_ALL = frozenset({Kind6.SOLICIT, Kind6.CONFIRM, Kind6.REBIND})
"""Messages that must name none."""
_NOWHERE = IPv6Address(0)
_ETHERNET = b"\x00\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request6:
    """A message with what belongs to it; `reservation` is the client's on this link."""

    packet: Packet6
    client: Client6
    facts: Facts
    classes: tuple[ClientClass, ...]
    reservation: Reservation6 | None
    link: Link
    arrival: Arrival6
    now: float
    associations: tuple[Association, ...]

    @property
    def message(self) -> Message6:
        """The client's own message."""
        return self.packet.message

    def others(self, iaid: int) -> frozenset[int]:
        """The IAIDs beside one in this message."""
        return frozenset(one.iaid for one in self.associations) - {iaid}


def eui64_mac(address: IPv6Address) -> bytes | None:
    """Read the Ethernet address in a link-local address made of it; None for every other."""
    raw = address.packed
    if not address.is_link_local or raw[11:13] != b"\xff\xfe":
        return None
    return bytes((raw[8] ^ 2,)) + raw[9:11] + raw[13:]


def client_of6(packet: Packet6, source: IPv6Address) -> Client6:
    """Say who asks; PeerError when there is no DUID. The NIC is what relay or address tell.

    A client that only asks for settings need not have a DUID (18.2.6): its address stands for one.
    """
    duid = packet.message.options.client_id
    if duid is None and packet.message.kind is not Kind6.INFORMATION_REQUEST:
        raise PeerError("no client identifier")
    near = packet.relays[-1] if packet.relays else None
    duid = duid or b"\0\0" + source.packed
    if near is None:
        return Client6(duid=duid, mac=eui64_mac(source))
    told = near.options.get(Code6.LINK_LAYER_ADDRESS)
    is_told = told is not None and told[:2] == _ETHERNET and len(told) == 8
    remote = near.options.get(Code6.REMOTE_ID)
    return Client6(
        duid=duid,
        mac=told[2:] if told is not None and is_told else eui64_mac(near.peer),
        circuit_id=near.options.get(Code6.INTERFACE_ID),
        remote_id=None if remote is None else remote[4:],  # after its enterprise number (RFC 4649)
    )


def associations_of(message: Message6) -> tuple[Association, ...]:
    """Read the IAs; PeerError when there are more than any box has."""
    found = message.options.associations
    if len(found) > MAX_ASSOCIATIONS:
        raise PeerError(f"more than {MAX_ASSOCIATIONS} IAs")
    return found


def is_for(message: Message6, duid: bytes) -> bool:
    """Discard what names another server, or names one where it must not (RFC 8415, 16)."""
    server = message.options.get(Code6.SERVER_ID)
    if message.kind in _TO_ALL:
        return server is None
    if message.kind in TO_US:
        return server == duid
    return server is None or server == duid


def link_of(packet: Packet6, arrival: Arrival6, subnets: Iterable[Subnet6Plan]) -> Link:
    """Find the served subnets of the client's link: the relay next to it says (RFC 8415, 13.1).

    Its Interface-Id goes before its link address, where a subnet names it.
    """
    served = [subnet for subnet in subnets if subnet.dhcp != "off"]
    named = (relay.link for relay in reversed(packet.relays))
    link = next((one for one in named if one != _NOWHERE and not one.is_link_local), None)
    circuit = packet.relays[-1].options.get(Code6.INTERFACE_ID) if packet.relays else None
    by_circuit = [one for one in served if circuit in one.circuits]
    if by_circuit:
        on_link = by_circuit
    elif link is not None:
        on_link = [one for one in served if link in one.network or link in one.relays]
    else:
        on_link = [one for one in served if one.interface == arrival.interface and not one.relayed]
    shared = {one.shared for one in on_link if one.shared is not None}
    return tuple(one for one in served if one in on_link or one.shared in shared)


def is_planned(packet: Packet6, subnets: Iterable[Subnet6Plan]) -> bool:
    """Tell whether a relay named a link of the plan, served or not."""
    links = [relay.link for relay in packet.relays]
    return any(link in one.network or link in one.relays for one in subnets for link in links)


def denied(asked: Association, code: StatusCode, text: str) -> Association:
    """Write a refusal into an IA."""
    return Association(iaid=asked.iaid, status=Status(code=code, text=text))


def refused_others(message: Message6, code: StatusCode) -> list[tuple[int, bytes]]:
    """Refuse prefixes and temporary addresses: this server gives none (RFC 8415, 18.3)."""
    refused = []
    for kind, size in ((Code6.IA_PD, 12), (Code6.IA_TA, 4)):
        is_new = code is StatusCode.NO_PREFIX
        said = StatusCode.NO_ADDRESSES if kind is Code6.IA_TA and is_new else code
        status = Status(code=said).encode()
        option = int(Code6.STATUS).to_bytes(2, "big") + len(status).to_bytes(2, "big") + status
        for data in message.options.all(kind)[:MAX_ASSOCIATIONS]:
            if len(data) < size:
                raise PeerError(f"option {kind} has {len(data)} bytes")
            refused.append((int(kind), data[:4] + bytes(size - 4) + option))
    return refused
