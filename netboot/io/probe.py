"""Look for another DHCP server before serving beside it.

Sends DISCOVERs as an ordinary client and lists who answers; it never requests an address, and never
listens longer than it was told. A server that pings first answers after 3 s, hence the 5 s.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netboot.dhcp_message import (
    BOOTREPLY,
    BOOTREQUEST,
    BROADCAST_FLAG,
    CLIENT_PORT,
    SERVER_PORT,
    Message,
)
from netboot.dhcp_options import Code, MessageType, Options
from netboot.errors import PeerError, SiteError
from netboot.io.frame import interface_mac, udp_frame

PROBE_SECONDS = 5.0
_REPEAT_SECONDS = 1.0
_BROADCAST_MAC = b"\xff" * 6
_ETHERTYPE_IPV4 = 0x0800
_UDP = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignServer:
    """A server that answered: the address it names itself by (54) or sends from, and its MAC."""

    interface: str
    address: IPv4Address | IPv6Address
    mac: bytes


def probe(interfaces: Iterable[str], seconds: float = PROBE_SECONDS) -> tuple[ForeignServer, ...]:
    """Ask on all interfaces at once for `seconds`; SiteError when one cannot be used."""
    xid = secrets.randbits(32)
    found: dict[ForeignServer, None] = {}
    with selectors.DefaultSelector() as selector:
        try:
            discovers = {name: _discover(interface_mac(name), xid) for name in interfaces}
            for name in discovers:
                selector.register(_listen(name), selectors.EVENT_READ, name)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                for key in selector.get_map().values():
                    _send(key.fileobj, discovers[key.data])
                found |= dict.fromkeys(_collect(selector, xid, min(left, _REPEAT_SECONDS)))
        finally:
            for key in tuple(selector.get_map().values()):
                _socket(key.fileobj).close()
    return tuple(found)


def refuse_foreign(found: Iterable[ForeignServer]) -> None:
    """Refuse to serve beside others; SiteError names address and MAC of each."""
    sentences = [
        f"another DHCP server answers on {server.interface}: "
        f"{server.address} ({server.mac.hex(':')})"
        for server in found
    ]
    if sentences:
        raise SiteError(
            "; ".join(sentences) + '. Turn it off there, or set dhcp = "off" for the subnet'
        )


def read_offer(frame: bytes, xid: int) -> tuple[IPv4Address, bytes] | None:
    """Read an Ethernet frame as the answer to our DISCOVER: (server, its MAC), or None.

    UDP checksums are not looked at: inside virtual machines they are left to the hardware.
    """
    if len(frame) < 42 or frame[12:14] != struct.pack("!H", _ETHERTYPE_IPV4):
        return None
    udp = 14 + 4 * (frame[14] & 0x0F)
    if frame[14] >> 4 != 4 or frame[23] != _UDP or frame[udp + 2 : udp + 4] != b"\x00\x44":
        return None
    try:
        message = Message.decode(frame[udp + 8 :])
        kind = message.options.message_type
        server = message.options.address(Code.SERVER_ID)
    except PeerError:
        return None
    if (message.op, message.xid, kind) != (BOOTREPLY, xid, MessageType.OFFER):
        return None
    return server or IPv4Address(frame[26:30]), frame[6:12]


def _discover(mac: bytes, xid: int) -> bytes:
    message = Message(
        op=BOOTREQUEST,
        xid=xid,
        chaddr=mac,
        flags=BROADCAST_FLAG,
        options=Options(
            items=(
                (Code.MESSAGE_TYPE, bytes((MessageType.DISCOVER,))),
                (Code.PARAMETER_LIST, bytes((Code.SUBNET_MASK, Code.ROUTER))),
            )
        ),
    )
    return udp_frame(
        macs=(mac, _BROADCAST_MAC),
        addresses=(IPv4Address(0), IPv4Address("255.255.255.255")),
        ports=(CLIENT_PORT, SERVER_PORT),
        payload=message.encode(),
    )


def _listen(name: str) -> socket.socket:
    listener = socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETHERTYPE_IPV4)
    )
    try:
        listener.bind((name, _ETHERTYPE_IPV4))
    except OSError as error:
        listener.close()
        raise SiteError(f"interface {name}: {error.strerror}") from error
    return listener


def _socket(file: object) -> socket.socket:
    if not isinstance(file, socket.socket):
        raise TypeError("the selector holds sockets only")
    return file


def _send(file: object, frame: bytes) -> None:
    """Send, or not: on an interface that is down nobody answers."""
    with contextlib.suppress(OSError):
        _socket(file).send(frame)


def _collect(selector: selectors.BaseSelector, xid: int, seconds: float) -> Iterable[ForeignServer]:
    """Give the servers that answer within `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            try:
                frame, address = _socket(key.fileobj).recvfrom(65535)
            except OSError:
                continue
            offer = None if address[2] == socket.PACKET_OUTGOING else read_offer(frame, xid)
            if offer is not None:
                yield ForeignServer(interface=key.data, address=offer[0], mac=offer[1])
