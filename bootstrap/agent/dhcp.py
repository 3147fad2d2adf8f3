"""The box's own DHCP client as values: messages to send, a lease out of replies.

Pure: no socket, no clock; the transaction id is an argument. The lease stays the one that the
firmware had, because both are keyed by the MAC (no option 61). RFC 2131; RFC 8572 for option 143.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from netboot.dhcp_message import BOOTREPLY, BOOTREQUEST, BROADCAST_FLAG, Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.errors import PeerError

_WANTED = bytes((1, 3, 6, 12, 15, 51, 54, 143))
_VENDOR_CLASS = b"doorstep-agent"
_MAX_SIZE = 1472
_ANYWHERE = IPv4Address(0)
_EVERYBODY = IPv4Address("255.255.255.255")
_UDP = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a server gave; `url` is the first https URL of option 143."""

    address: IPv4Interface
    gateway: IPv4Address | None
    dns: tuple[IPv4Address, ...]
    server: IPv4Address
    seconds: int
    url: str | None


def discover(mac: bytes, xid: int) -> bytes:
    """Write a DISCOVER as an IP packet."""
    return _packet(_message(mac, xid, MessageType.DISCOVER))


def request(mac: bytes, xid: int, offer: Lease) -> bytes:
    """Write the REQUEST that takes an offer."""
    extra = (
        (int(Code.REQUESTED_ADDRESS), offer.address.ip.packed),
        (int(Code.SERVER_ID), offer.server.packed),
    )
    return _packet(_message(mac, xid, MessageType.REQUEST, extra))


def renew(mac: bytes, xid: int, lease: Lease) -> bytes:
    """Write a REQUEST that extends a lease, sent to everybody (RFC 2131, 4.3.2, REBINDING)."""
    return _packet(_message(mac, xid, MessageType.REQUEST, client=lease.address.ip))


def read_reply(packet: bytes, mac: bytes, xid: int) -> tuple[MessageType, Lease | None] | None:
    """Read an IP packet as a reply to us; None when it is something else.

    UDP checksums are not checked: between virtual machines they are often unfinished.
    """
    try:
        message = _reply(packet, mac, xid)
        kind = message.options.message_type
        if kind is None:
            return None
        if kind is MessageType.NAK:
            return kind, None
        return kind, _lease(message)
    except PeerError:
        return None


def read_site(packet: bytes, mac: bytes, xid: int) -> str | None:
    """Read the site that an OFFER without an address names: the appliance beside another server.

    None for every other packet.
    """
    try:
        message = _reply(packet, mac, xid)
        is_offer = message.options.message_type is MessageType.OFFER
        return _url(message) if is_offer and message.yiaddr == _ANYWHERE else None
    except PeerError:
        return None


def _reply(packet: bytes, mac: bytes, xid: int) -> Message:
    payload = _udp_payload(packet)
    if payload is None:
        raise PeerError("no UDP to our port")
    message = Message.decode(payload)
    if message.op != BOOTREPLY or message.xid != xid or message.mac != mac:
        raise PeerError("no reply to us")
    return message


def _url(message: Message) -> str | None:
    """Take the first https URL; it is shown on a console, so nothing unprintable is one."""
    fit = (url for url in message.options.uris if url.startswith("https://") and url.isprintable())
    return next(fit, None)


def _lease(message: Message) -> Lease:
    options = message.options
    server = options.address(Code.SERVER_ID)
    mask = options.address(Code.SUBNET_MASK)
    if server is None or message.yiaddr == _ANYWHERE:
        raise PeerError("a reply without server or address")
    try:
        address = IPv4Interface(f"{message.yiaddr}/{mask or '255.255.255.0'}")
    except ValueError:
        raise PeerError("a reply with a wrong netmask") from None
    gateways = options.addresses(Code.ROUTER)
    return Lease(
        address=address,
        gateway=gateways[0] if gateways else None,
        dns=options.addresses(Code.DNS_SERVER)[:3],
        server=server,
        seconds=options.number(Code.LEASE_TIME, 4) or 3600,
        url=_url(message),
    )


def _message(
    mac: bytes,
    xid: int,
    kind: MessageType,
    extra: tuple[tuple[int, bytes], ...] = (),
    client: IPv4Address = _ANYWHERE,
) -> bytes:
    options = (
        (int(Code.MESSAGE_TYPE), bytes((kind,))),
        (int(Code.MAX_SIZE), _MAX_SIZE.to_bytes(2, "big")),
        (int(Code.VENDOR_CLASS), _VENDOR_CLASS),
        *extra,
        (int(Code.PARAMETER_LIST), _WANTED),
    )
    return Message(
        op=BOOTREQUEST,
        xid=xid,
        chaddr=mac,
        flags=BROADCAST_FLAG,
        ciaddr=client,
        options=Options(items=options),
    ).encode()


def _packet(payload: bytes) -> bytes:
    """Put UDP 68 to 67 and an IPv4 header around a message; UDP without checksum (RFC 768)."""
    udp = struct.pack(">HHHH", 68, 67, 8 + len(payload), 0) + payload
    fields = (0x45, 0x10, 20 + len(udp), 0, 0, 64, _UDP)
    addresses = _ANYWHERE.packed + _EVERYBODY.packed
    head = struct.pack(">BBHHHBBH", *fields, 0) + addresses
    total = sum(struct.unpack(">10H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBHHHBBH", *fields, ~total & 0xFFFF) + addresses + udp


def _udp_payload(packet: bytes) -> bytes | None:
    """Give the payload of an unfragmented UDP packet to port 68."""
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return None
    start = 4 * (packet[0] & 15)
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    if start < 20 or len(packet) < start + 8 or fragment:
        return None
    port, size = struct.unpack_from(">HH", packet, start + 2)
    if port != 68 or size < 8 or start + size > len(packet):
        return None
    return packet[start + 8 : start + size]
