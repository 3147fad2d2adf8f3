"""A message with what belongs to it: who sent it, what it claims, where it came in.

It never decides; what makes a client the same one again is said here once. RFC 2131, 4.2; RFC 2132,
9.14 (61); RFC 3046 (82), 5107 (82.11).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.classes import classify
from netboot.client import (
    CIRCUIT_ID,
    SERVER_ID_OVERRIDE,
    Facts,
    facts_of,
    sub_option,
    uuid_of,
)
from netboot.dhcp_config import DhcpConfig
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code
from netboot.errors import PeerError
from netboot.leases import Client, Lease, LeaseTable
from netboot.links import Place
from netboot.network import Identify

_NO_CLASSES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Where a packet came in: the interface's name and the source address of the datagram."""

    interface: str
    source: IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message with what belongs to it: who sent it, what it claims, where and when it came in.

    `server_id` and `wanted` are options 54 and 50; `override` is sub-option 11 of 82.
    """

    message: Message
    client: Client
    facts: Facts
    arrival: Arrival
    now: float
    server_id: IPv4Address | None
    wanted: IPv4Address | None
    override: IPv4Address | None

    def names(self, server_ids: frozenset[IPv4Address]) -> bool:
        """Tell whether option 54 is ours: an address of the link, or one of `server_ids`."""
        server_id = self.server_id
        if server_id is None:
            return False
        if server_id == self.override or server_id in server_ids:
            return True
        networks = self.client.place.link.networks
        return any(server_id == network.plan.appliance for network in networks)

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
    client_id = message.options.get(Code.CLIENT_ID) or b""
    if len(client_id) < 2:
        client_id = b""  # RFC 2132, 9.14: two bytes at least
    mac = message.mac
    if client_id and (identify is Identify.CLIENT_ID or not any(message.chaddr)):
        return b"client-id:" + client_id
    if mac is not None:
        return mac
    if message.chaddr:
        return b"hardware:" + bytes((message.htype,)) + message.chaddr
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

    key = key_of(message, config.identify)
    options = message.options
    agent = options.get(Code.RELAY_AGENT)
    reservation = None
    if config.reservations:
        identities = _identities(message, agent)
        reservation = table.reservation(key, identities, place.link)
    facts = facts_of(message, known=reservation is not None)
    classes = _NO_CLASSES
    if config.classes:
        found = classify(facts, config.classes)
        classes = frozenset(known.name for known in found)
    override = sub_option(agent, SERVER_ID_OVERRIDE) if agent else None
    return Request(
        message=message,
        client=Client(
            key=key,
            mac=message.mac,
            place=place,
            client_id=options.get(Code.CLIENT_ID),
            reservation=reservation,
            classes=classes,
        ),
        facts=facts,
        arrival=arrival,
        now=now,
        server_id=options.address(Code.SERVER_ID),
        wanted=options.address(Code.REQUESTED_ADDRESS),
        override=IPv4Address(override) if override and len(override) == 4 else None,
    )


def _identities(message: Message, agent: bytes | None) -> tuple[bytes, ...]:
    """Give all that a reservation could know the client by, in the order in which they count."""
    mac, uuid = message.mac, uuid_of(message.options)
    circuit = sub_option(agent, CIRCUIT_ID) if agent else None
    client_id = message.options.get(Code.CLIENT_ID)
    found = ((b"m", mac), (b"u", uuid), (b"r", circuit), (b"c", client_id))
    return tuple(letter + data for letter, data in found if data is not None)
