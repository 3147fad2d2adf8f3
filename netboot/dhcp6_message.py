"""DHCPv6 messages as values, to and from bytes: of clients and servers, and as relays wrap them.

Any bytes give a message or PeerError. It knows the layout (RFC 8415, 8 and 9) and nothing of
states, addresses to give, or sockets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv6Address

from netboot.dhcp6_options import Code6, Options6, decode_options, encode_options
from netboot.errors import PeerError

SERVER_PORT6 = 547
CLIENT_PORT6 = 546
ALL_SERVERS = IPv6Address("ff02::1:2")
"""All_DHCP_Relay_Agents_and_Servers (RFC 8415, 7.1)."""
HOP_LIMIT = 8
"""Relays that a message may pass (HOP_COUNT_LIMIT, RFC 8415, 7.6)."""

_RELAY = struct.Struct("!BB16s16s")


class Kind6(IntEnum):
    """Message types (RFC 8415, 7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11
    RELAY_FORWARD = 12
    RELAY_REPLY = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Message6:
    """A message between client and server; `transaction` has 24 bits."""

    kind: Kind6
    transaction: int
    options: Options6 = field(default_factory=Options6)

    def encode(self) -> bytes:
        """Write it; ValueError when an option is too long."""
        head = bytes((self.kind,)) + self.transaction.to_bytes(3, "big")
        return head + encode_options(self.options.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay6:
    """What one relay put around a message; its options are without the relayed message (9)."""

    kind: Kind6
    hops: int
    link: IPv6Address
    peer: IPv6Address
    options: Options6 = field(default_factory=Options6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet6:
    """A datagram: the message and its relays, from the one that sent it to us to the client's."""

    message: Message6
    relays: tuple[Relay6, ...] = ()

    @classmethod
    def decode(cls, data: bytes) -> Packet6:
        """Read a datagram; PeerError when it, or a message within, is malformed."""
        relays: list[Relay6] = []
        while data[:1] and data[0] in (Kind6.RELAY_FORWARD, Kind6.RELAY_REPLY):
            if len(relays) == HOP_LIMIT:
                raise PeerError(f"more than {HOP_LIMIT} relays")
            relay, data = _decode_relay(data)
            relays.append(relay)
        return cls(message=_decode_message(data), relays=tuple(relays))

    def encode(self) -> bytes:
        """Write it; ValueError when it does not fit."""
        data = self.message.encode()
        for relay in reversed(self.relays):
            head = _RELAY.pack(relay.kind, relay.hops, relay.link.packed, relay.peer.packed)
            items = (*relay.options.items, (Code6.RELAY_MESSAGE, data))
            data = head + encode_options(items)
        return data


def _decode_relay(data: bytes) -> tuple[Relay6, bytes]:
    if len(data) < _RELAY.size:
        raise PeerError(f"{len(data)} bytes are no relay message")
    kind, hops, link, peer = _RELAY.unpack_from(data)
    options = decode_options(data[_RELAY.size :])
    inner = options.get(Code6.RELAY_MESSAGE)
    if inner is None:
        raise PeerError("a relay message without a message")
    others = tuple(item for item in options.items if item[0] != Code6.RELAY_MESSAGE)
    relay = Relay6(
        kind=Kind6(kind),
        hops=hops,
        link=IPv6Address(link),
        peer=IPv6Address(peer),
        options=Options6(items=others),
    )
    return relay, inner


def _decode_message(data: bytes) -> Message6:
    if len(data) < 4:
        raise PeerError(f"{len(data)} bytes are no DHCPv6 message")
    try:
        kind = Kind6(data[0])
    except ValueError:
        raise PeerError(f"message type {data[0]}") from None
    transaction = int.from_bytes(data[1:4], "big")
    return Message6(kind=kind, transaction=transaction, options=decode_options(data[4:]))


def answer_relays(relays: Sequence[Relay6]) -> tuple[Relay6, ...]:
    """Make what goes around a reply for each relay of a request (RFC 8415, 19.3).

    Interface-Id and the relay's port return as they came (RFC 8357), and what a relay asked back by
    option 43 (RFC 4994).
    """
    return tuple(
        Relay6(
            kind=Kind6.RELAY_REPLY,
            hops=relay.hops,
            link=relay.link,
            peer=relay.peer,
            options=Options6(items=_echoed(relay.options)),
        )
        for relay in relays
    )


def _echoed(options: Options6) -> tuple[tuple[int, bytes], ...]:
    always = (int(Code6.INTERFACE_ID), int(Code6.RELAY_PORT))
    wanted = {*always, *options.numbers(Code6.ECHO_REQUEST)}
    return tuple(item for item in options.items if item[0] in wanted)
