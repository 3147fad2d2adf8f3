"""The DHCP server's sockets on one interface: a UDP socket on port 67 and one for whole frames.

SO_BINDTODEVICE, so that a reply leaves where the request came in; never SO_REUSEPORT, which would
deliver a broadcast to every socket. A client that has no address yet is sent a frame: an ordinary
datagram would only make the kernel ask for it by ARP (RFC 2131, 4.1).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.dhcp import Arrival
from netboot.dhcp_message import CLIENT_PORT, SERVER_PORT
from netboot.dhcp_reply import Send, Via
from netboot.errors import SiteError
from netboot.io.frame import BROADCAST_MAC, interface_mac, udp_frame

_RECEIVE_BUFFER = 8 << 20
"""Bytes; two hundred boxes that power on together are one burst, and a small packet takes 2 KiB."""
_LARGEST = 4096
_IP_PKTINFO = 8
"""Linux's number; the socket module has no name for it before Python 3.14."""
_SO_RCVBUFFORCE = 33
_ARRIVALS_KEPT = 1024
_EVERYBODY = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request came in; `asked` is the address of ours that it was sent to, if to one."""

    interface: DhcpInterface
    asked: IPv4Address | None


class DhcpInterface:
    """The sockets of one interface; opening them needs NET_BIND_SERVICE and NET_RAW."""

    def __init__(self, name: str) -> None:
        """Open both; SiteError when there is no such interface, or the port is taken."""
        self.name = name
        self.mac = interface_mac(name)
        self.trouble: str | None = None
        self.is_closed = False
        self._arrivals: dict[tuple[str, int], Arrival] = {}
        self._origins: dict[bytes, Origin] = {}
        self._pins: dict[IPv4Address, list[tuple[int, int, bytes]]] = {}
        self._broadcast = Origin(interface=self, asked=None)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._index = socket.if_nametoindex(name)
            self.raw.bind((name, 0))
            self._bind()
        except OSError as error:
            self.close()
            raise SiteError(f"interface {name}, port {SERVER_PORT}: {error.strerror}") from error

    def _bind(self) -> None:
        level = socket.SOL_SOCKET
        self.udp.setsockopt(level, socket.SO_REUSEADDR, 1)
        self.udp.setsockopt(level, socket.SO_BROADCAST, 1)
        try:
            self.udp.setsockopt(level, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # without NET_ADMIN as much as the machine's limit allows
            self.udp.setsockopt(level, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self.udp.setsockopt(level, socket.SO_BINDTODEVICE, self.name.encode())
        self.udp.bind(("0.0.0.0", SERVER_PORT))

    @property
    def is_current(self) -> bool:
        """Tell whether the interface of this name is still the one that was opened."""
        try:
            return socket.if_nametoindex(self.name) == self._index and (
                interface_mac(self.name) == self.mac
            )
        except (OSError, SiteError):
            return False

    def receive(self) -> tuple[bytes, Arrival, Origin] | None:
        """Take one datagram; None when there is none, or the interface went down."""
        try:
            data, ancillary, _, peer = self.udp.recvmsg(_LARGEST, 64)
        except OSError:
            return None
        arrival = self._arrivals.get(peer)
        if arrival is None:
            if len(self._arrivals) >= _ARRIVALS_KEPT:
                self._arrivals.clear()
            source, port = peer
            arrival = Arrival(interface=self.name, source=IPv4Address(source), port=port)
            self._arrivals[peer] = arrival
        info = ancillary[0][2] if ancillary else b""
        origin = self._broadcast
        if info[4:8] == info[8:12]:  # ipi_spec_dst, ipi_addr: of a broadcast they differ
            origin = self._origins.get(info[4:8]) or self._origin(info[4:8])
        return data, arrival, origin

    def _origin(self, address: bytes) -> Origin:
        if len(address) != 4:
            return self._broadcast
        origin = Origin(interface=self, asked=IPv4Address(address))
        self._origins[address] = origin
        return origin

    def send(self, reply: Send, asked: IPv4Address | None) -> None:
        """Send a reply; what cannot leave as it should goes out as broadcast. Never raises.

        A relay or client that asked one of our addresses is answered from it (RFC 1122, 4.1.3.5);
        otherwise the source is what option 54 names.
        """
        try:
            if reply.via is Via.FRAME and reply.mac is not None:
                self._frame(reply, reply.mac)
            elif reply.via is Via.UNICAST:
                address = socket.inet_ntoa(reply.destination.packed)
                self._datagram(reply, address, reply.port, asked or reply.source)
            else:
                self._datagram(reply, "255.255.255.255", CLIENT_PORT, reply.source)
        except OSError as error:
            self._send_somehow(reply, error)
        else:
            self.trouble = None

    def _send_somehow(self, reply: Send, reason: OSError) -> None:
        """Try the next best: to a relay from any address, to a client by a frame to everybody."""
        try:
            if reply.via is Via.UNICAST:
                self.udp.sendto(reply.data, (str(reply.destination), reply.port))
            else:
                self._frame(reply, BROADCAST_MAC)
        except OSError:
            self.trouble = f"interface {self.name}: cannot send: {reason.strerror}"

    def _frame(self, reply: Send, mac: bytes) -> None:
        self.raw.send(
            udp_frame(
                macs=(self.mac, mac),
                addresses=(reply.source, _EVERYBODY if mac == BROADCAST_MAC else reply.destination),
                ports=(SERVER_PORT, CLIENT_PORT if mac == BROADCAST_MAC else reply.port),
                payload=reply.data,
            )
        )

    def _datagram(self, reply: Send, address: str, port: int, source: IPv4Address) -> None:
        """Send by UDP from an address of ours (IP_PKTINFO, ip(7))."""
        pin = self._pins.get(source)
        if pin is None:
            info = struct.pack("=I4s4s", 0, source.packed, b"\0\0\0\0")
            pin = self._pins[source] = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
        self.udp.sendmsg([reply.data], pin, 0, (address, port))

    def close(self) -> None:
        """Close both sockets."""
        self.is_closed = True
        self.udp.close()
        self.raw.close()
