"""The sockets of router advertisements: one raw ICMPv6 socket for each interface.

It never decides what is said. RFC 4861 (hop limit 255 both ways), 3542 (ancillary data).
"""

from __future__ import annotations

import random
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import IPv6Address

from netboot.dhcp6_config import Dhcp6Config
from netboot.errors import PeerError, SiteError
from netboot.io.frame import interface_mac
from netboot.io.tftp import interface_mtu
from netboot.ra import (
    ALL_ROUTERS,
    HOP_LIMIT,
    PAUSE_SECONDS,
    SOLICITATION,
    RaEngine,
    RaSend,
    advertisement,
)

_ICMP6_FILTER = 1
_DRAIN = 64


class RaInterface:
    """One interface with its engine; opening it needs NET_RAW."""

    def __init__(self, name: str, config: Dhcp6Config, now: float) -> None:
        """Advertise what the configuration serves there; SiteError."""
        self.name = name
        try:
            self._index = socket.if_nametoindex(name)
            self.socket = socket.socket(
                socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6
            )
        except OSError as error:
            raise SiteError(f"interface {name}: {error.strerror}") from error
        self._engine: RaEngine | None = None
        self.trouble: str | None = None
        try:
            self._prepare()
        except OSError as error:
            self.close()
            raise SiteError(f"interface {name}, ICMPv6: {error.strerror}") from error
        self.replace(config, now)

    def _prepare(self) -> None:
        level = socket.IPPROTO_IPV6
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.name.encode())
        blocked = [0xFFFFFFFF] * 8
        blocked[SOLICITATION >> 5] &= ~(1 << (SOLICITATION & 31))
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("8I", *blocked))
        for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
            self.socket.setsockopt(level, option, HOP_LIMIT)
        self.socket.setsockopt(level, socket.IPV6_RECVHOPLIMIT, 1)
        self.socket.setsockopt(level, socket.IPV6_MULTICAST_IF, self._index)
        self.socket.setsockopt(level, socket.IPV6_MULTICAST_LOOP, 0)
        group = ALL_ROUTERS.packed + struct.pack("@I", self._index)
        self.socket.setsockopt(level, socket.IPV6_JOIN_GROUP, group)

    def replace(self, config: Dhcp6Config, now: float) -> None:
        """Advertise another configuration, beginning now (`now` is monotonic)."""
        said = advertisement(
            config.subnets,
            self.name,
            domain=config.domain,
            mtu=interface_mtu(self.name),
            mac=interface_mac(self.name),
        )
        self._engine = None if said is None else RaEngine(said, now)

    def on_readable(self, now: float) -> None:
        """Answer the solicitations that have come."""
        for _ in range(_DRAIN):
            try:
                data, ancillary, _, (source, *_) = self.socket.recvmsg(2048, 64)
            except OSError:
                return
            if self._engine is None:
                continue
            hops = [
                int.from_bytes(value[:4], sys.byteorder)
                for _, kind, value in ancillary
                if kind == socket.IPV6_HOPLIMIT
            ]
            address = IPv6Address(source.partition("%")[0])
            try:
                replies = self._engine.receive(data, address, hops[0] if hops else 0, now)
            except PeerError:
                continue  # RFC 4861, 6.1.1: drop silently
            self._send(replies)

    def escort(self, destination: IPv6Address, now: float) -> None:
        """Give firmware that boots from us a route; see the engine."""
        if self._engine is not None:
            self._send((self._engine.escort(destination, now),))

    def tick(self, now: float) -> None:
        """Advertise when that is due."""
        if self._engine is None:
            return
        self._send(self._engine.tick(now, random.random()))
        if self.trouble is not None and self._engine.deadline() > now + PAUSE_SECONDS:
            self._engine.postpone(now)

    def deadline(self) -> float | None:
        """When `tick` is next due, monotonic; None for never."""
        return None if self._engine is None else self._engine.deadline()

    def _send(self, sends: Iterable[RaSend]) -> None:
        for send in sends:
            try:
                self.socket.sendto(send.data, (str(send.destination), 0, 0, self._index))
            except OSError as error:
                self.trouble = f"interface {self.name}: cannot advertise: {error.strerror}"
            else:
                self.trouble = None

    def close(self) -> None:
        """Take leave as a router, and close the socket."""
        if self._engine is not None:
            self._send(self._engine.farewell())
        self.socket.close()
