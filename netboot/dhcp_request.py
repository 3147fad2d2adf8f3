"""A message with what belongs to it: who sent it, what it claims, where it came in.

It never decides; what makes a client the same one again is said here once. RFC 2131, 4.2; RFC 2132,
9.14 (61); RFC 3046 (82), 5107 (82.11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from netboot.classes import classify
from netboot.client import (
    CIRCUIT_ID,
    RELAY_PORT,
    REMOTE_ID,
    SERVER_ID_OVERRIDE,
    Facts,
    facts_of,
    sub_option,
    uuid_of,
)
from netboot.dhcp_config import DhcpConfig
from netboot.dhcp_message import ETHERNET, SERVER_PORT, Message
from netboot.dhcp_options import Code
from netboot.errors import PeerError
from netboot.leases import Client, Lease, LeaseTable
from netboot.links import Place
from netboot.network import Identify

_NO_MAC = bytes(6)
_BY_MAC = Identify.MAC
_OF_BOOTING = frozenset({Code.VENDOR_CLASS, Code.USER_CLASS, Code.ARCHITECTURE, Code.IPXE})
_RELAY_AGENT, _CLIENT_ID = int(Code.RELAY_AGENT), int(Code.CLIENT_ID)
_SERVER_ID, _REQUESTED_ADDRESS = int(Code.SERVER_ID), int(Code.REQUESTED_ADDRESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Where a packet came in: the interface's name, source address and port of the datagram."""

    interface: str
    source: IPv4Address
    port: int = SERVER_PORT


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A message with what belongs to it, made once for each packet; nobody changes it.

    `wanted` is option 50; `server_id` and `override` are option 54 and sub-option 11 of 82, 4 bytes
    as they came; `relay_port` is where the relay listens. Not frozen, its facts made when first
    asked for: that costs more than a reply.
    """

    message: Message
    client: Client
    arrival: Arrival
    now: float
    server_id: bytes | None
    wanted: IPv4Address | None
    override: bytes | None
    relay_port: int = SERVER_PORT
    known_facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        """What the message claims; PeerError where an option cannot be read."""
        if self.known_facts is None:
            self.known_facts = facts_of(self.message, known=self.client.reservation is not None)
        return self.known_facts

    @property
    def says_how_it_boots(self) -> bool:
        """Tell cheaply whether any option is there by which a client that boots is known."""
        return not _OF_BOOTING.isdisjoint(self.message.options.by_code)

    def names(self, server_ids: frozenset[bytes]) -> bool:
        """Tell whether option 54 is ours: an address of the link, or one of `server_ids`."""
        server_id = self.server_id
        if server_id is None:
            return False
        if server_id in self.client.place.link.server_ids:
            return True
        return server_id == self.override or server_id in server_ids

    def holds(self, lease: Lease | None) -> bool:
        """Tell whether a lease is the sender's: by client-id where there is one, else by key."""
        client = self.client
        if lease is None or not lease.is_bound(self.now):
            return False
        if lease.client_id is not None or client.client_id is not None:
            return lease.client_id == client.client_id
        return lease.key == client.key


def key_of(message: Message, identify: Identify) -> bytes:
    """Say what makes this client the same one again: its MAC, else a longer text.

    PeerError when there is neither a hardware address nor a client-id.
    """
    chaddr = message.chaddr
    is_mac = message.htype == ETHERNET and len(chaddr) == 6
    if is_mac and identify is _BY_MAC and chaddr != _NO_MAC:
        return chaddr
    client_id = message.options.get(Code.CLIENT_ID) or b""
    # RFC 2132, 9.14: two bytes at least.
    if len(client_id) > 1 and (identify is Identify.CLIENT_ID or not any(chaddr)):
        return b"client-id:" + client_id
    if is_mac:
        return chaddr
    if chaddr:
        return b"hardware:" + bytes((message.htype,)) + chaddr
    raise PeerError("neither a hardware address nor a client-id")


def read_request(
    message: Message,
    place: Place,
    arrival: Arrival,
    now: float,
    config: DhcpConfig,
    table: LeaseTable,
) -> Request:
    """Say who asks, and find what the plan says of it; PeerError when nobody could be told."""
    said = message.options.by_code
    agent = said.get(_RELAY_AGENT)
    client = Client(
        key=key_of(message, config.identify),
        mac=message.mac,
        place=place,
        client_id=said.get(_CLIENT_ID),
    )
    request = Request(
        message=message,
        client=client,
        arrival=arrival,
        now=now,
        server_id=_four(said, _SERVER_ID),
        wanted=_typed(_four(said, _REQUESTED_ADDRESS)),
        override=None,
    )
    if agent is not None:
        override = sub_option(agent, SERVER_ID_OVERRIDE)
        request.override = override if override is not None and len(override) == 4 else None
        if sub_option(agent, RELAY_PORT) is not None:
            request.relay_port = arrival.port
    if config.reservations:
        identities = _identities(message, agent)
        client.reservation = table.reservation(client.key, identities, place.link)
    if config.classes:
        found = classify(request.facts, config.classes)
        client.classes = frozenset(known.name for known in found)
        request.known_facts = replace(request.facts, classes=client.classes)
    return request


def _four(said: Mapping[int, bytes], code: int) -> bytes | None:
    data = said.get(code)
    if data is not None and len(data) != 4:
        raise PeerError(f"option {code} has {len(data)} bytes, not 4")
    return data


def _typed(data: bytes | None) -> IPv4Address | None:
    return None if data is None else IPv4Address(data)


def _identities(message: Message, agent: bytes | None) -> tuple[bytes, ...]:
    """Give all that a reservation could know the client by, in the order in which they count."""
    mac, uuid = message.mac, uuid_of(message.options)
    circuit = sub_option(agent, CIRCUIT_ID) if agent else None
    client_id = message.options.get(Code.CLIENT_ID)
    remote = sub_option(agent, REMOTE_ID) if agent else None
    found = ((b"m", mac), (b"u", uuid), (b"r", circuit), (b"s", remote), (b"c", client_id))
    return tuple(letter + data for letter, data in found if data is not None)
