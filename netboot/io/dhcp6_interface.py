"""The DHCPv6 server's socket on one interface: port 547, joined to ff02::1:2.

SO_BINDTODEVICE, so that a reply leaves where the request came in. RFC 8415, 7.2.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address

from netboot.dhcp6_message import ALL_SERVERS, SERVER_PORT6
from netboot.dhcp6_reply import Arrival6, Send6
from netboot.errors import SiteError

_RECEIVE_BUFFER = 8 << 20
"""Bytes; two hundred boxes that power on together are one burst, and a small packet takes 2 KiB."""
_SO_RCVBUFFORCE = 33
_LONGEST = 65535
_ARRIVALS_KEPT = 1024
_MULTICAST = b"\xff"
"""The first byte of such an address (RFC 4291, 2.7)."""


class Dhcp6Interface:
    """The socket of one interface; opening it needs NET_BIND_SERVICE."""

    def __init__(self, name: str) -> None:
        """Bind port 547 there; SiteError."""
        self.name = name
        self.trouble: str | None = None
        self.is_closed = False
        self._arrivals: dict[tuple[str, int, bytes], Arrival6] = {}
        try:
            self._index = socket.if_nametoindex(name)
        except OSError as error:
            raise SiteError(f"interface {name}: {error.strerror}") from error
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._bind()
        except OSError as error:
            self.close()
            raise SiteError(f"interface {name}, port {SERVER_PORT6}: {error.strerror}") from error

    def _bind(self) -> None:
        level = socket.IPPROTO_IPV6
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # without NET_ADMIN as much as the machine's limit allows
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.name.encode())
        self.socket.setsockopt(level, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(level, socket.IPV6_RECVPKTINFO, 1)
        self.socket.bind(("::", SERVER_PORT6))
        group = ALL_SERVERS.packed + struct.pack("@I", self._index)
        self.socket.setsockopt(level, socket.IPV6_JOIN_GROUP, group)

    def receive(self) -> tuple[bytes, Arrival6] | None:
        """Take one datagram; None when there is none, or the interface went down."""
        try:
            data, ancillary, _, peer = self.socket.recvmsg(_LONGEST, 128)
        except OSError:
            return None
        targets = [value for _, kind, value in ancillary if kind == socket.IPV6_PKTINFO]
        target = targets[0][:16] if targets else b""
        is_multicast = target[:1] == _MULTICAST
        known = peer[0], peer[1], target
        arrival = self._arrivals.get(known)
        if arrival is None:
            if len(self._arrivals) >= _ARRIVALS_KEPT:
                self._arrivals.clear()
            arrival = self._arrivals[known] = Arrival6(
                interface=self.name,
                source=IPv6Address(peer[0].partition("%")[0]),
                port=peer[1],
                multicast=is_multicast,
                asked=IPv6Address(target) if target and not is_multicast else None,
            )
        return data, arrival

    def send(self, reply: Send6) -> None:
        """Send a reply; what cannot leave is trouble, and the client asks again.

        Who asked one of our addresses is answered from it: a firewall between knows no other.
        """
        scope = self._index if reply.destination.is_link_local else 0
        target = (str(reply.destination), reply.port, 0, scope)
        pin: list[tuple[int, int, bytes]] = []
        if reply.source is not None:
            info = reply.source.packed + struct.pack("@I", self._index)
            pin = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
        try:
            self.socket.sendmsg([reply.data], pin, 0, target)
        except OSError as error:
            self.trouble = f"interface {self.name}: cannot send: {error.strerror}"
        else:
            self.trouble = None

    def close(self) -> None:
        """Close the socket."""
        self.is_closed = True
        self.socket.close()
