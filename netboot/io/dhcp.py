"""The DHCP server's sockets: packets to the engine, one commit, then the replies.

It never decides who gets what. One socket on port 67 for each interface (SO_BINDTODEVICE, so that a
reply leaves where the request came in; SO_REUSEPORT would deliver a broadcast to every socket), and
one packet socket for clients that have no address yet: RFC 2131, 4.1; RFC 791, 768 for the frame.
"""

from __future__ import annotations

import fcntl
import socket
import sqlite3
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from netboot.dhcp import Arrival, DhcpConfig, DhcpEngine, Outcome, check_config
from netboot.dhcp_message import CLIENT_PORT, SERVER_PORT
from netboot.dhcp_reply import Send, Via
from netboot.errors import SiteError
from netboot.io.leases import NetbootStore

_DRAIN = 256
"""Packets taken in one turn, and committed together; others wait their turn."""
_RECEIVE_BUFFER = 4 << 20
"""Bytes; fifty boxes that power on together are one burst."""
_SIOCGIFHWADDR = 0x8927
_ETHERTYPE_IPV4 = 0x0800
_TTL = 64
_IP_PKTINFO = 8
"""Linux's number; the socket module has no name for it before Python 3.14."""


def interface_mac(name: str) -> bytes:
    """Read an interface's Ethernet address; SiteError when there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFHWADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            raise SiteError(f"interface {name}: {error.strerror}") from error
    return answer[18:24]


def checksum(data: bytes) -> int:
    """Compute the internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(
    *,
    macs: tuple[bytes, bytes],
    addresses: tuple[IPv4Address, IPv4Address],
    ports: tuple[int, int],
    payload: bytes,
) -> bytes:
    """Build an Ethernet frame with IPv4 and UDP, both checksummed; each pair is source, target."""
    source, target = addresses
    length = 8 + len(payload)
    ports_and_length = struct.pack("!HHH", *ports, length)
    pseudo = source.packed + target.packed + struct.pack("!BBH", 0, socket.IPPROTO_UDP, length)
    udp_sum = checksum(pseudo + ports_and_length + b"\0\0" + payload) or 0xFFFF
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + length,
        0,
        0x4000,
        _TTL,
        socket.IPPROTO_UDP,
        0,
        source.packed,
        target.packed,
    )
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    ethernet = macs[1] + macs[0] + struct.pack("!H", _ETHERTYPE_IPV4)
    return ethernet + header + ports_and_length + struct.pack("!H", udp_sum) + payload


class DhcpInterface:
    """The sockets of one interface; opening them needs NET_BIND_SERVICE and NET_RAW."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mac = interface_mac(name)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.raw.bind((name, 0))
            self._bind()
        except OSError as error:
            self.close()
            raise SiteError(f"interface {name}, port {SERVER_PORT}: {error.strerror}") from error

    def _bind(self) -> None:
        level = socket.SOL_SOCKET
        self.udp.setsockopt(level, socket.SO_REUSEADDR, 1)
        self.udp.setsockopt(level, socket.SO_BROADCAST, 1)
        self.udp.setsockopt(level, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.udp.setsockopt(level, socket.SO_BINDTODEVICE, self.name.encode())
        self.udp.bind(("0.0.0.0", SERVER_PORT))

    def receive(self) -> tuple[bytes, Arrival] | None:
        """Take one datagram; None when there is none, or the interface went down."""
        try:
            data, (source, _) = self.udp.recvfrom(65535)
        except OSError:
            return None
        return data, Arrival(interface=self.name, source=IPv4Address(source))

    def send(self, reply: Send) -> None:
        """Send a reply from our address; a frame that cannot leave goes out as broadcast."""
        if reply.via is Via.FRAME and reply.mac is not None:
            frame = udp_frame(
                macs=(self.mac, reply.mac),
                addresses=(reply.source, reply.destination),
                ports=(SERVER_PORT, reply.port),
                payload=reply.data,
            )
            try:
                self.raw.send(frame)
                return
            except OSError:
                self._datagram(reply, "255.255.255.255", CLIENT_PORT)
                return
        self._datagram(reply, str(reply.destination), reply.port)

    def _datagram(self, reply: Send, address: str, port: int) -> None:
        """Send by UDP with the source that option 54 names (IP_PKTINFO, ip(7))."""
        info = struct.pack("=I4s4s", 0, reply.source.packed, b"\0\0\0\0")
        ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
        self.udp.sendmsg([reply.data], ancillary, 0, (address, port))

    def close(self) -> None:
        """Close both sockets."""
        self.udp.close()
        self.raw.close()


class DhcpRunner:
    """The engine with its sockets and store, for one thread's selector loop.

    `trouble` is a sentence while replies are held back, because the disk or the network refused.
    """

    def __init__(
        self,
        engine: DhcpEngine,
        store: NetbootStore,
        config: DhcpConfig,
    ) -> None:
        self._engine = engine
        self._store = store
        self._interfaces: dict[int, DhcpInterface] = {}
        self.trouble: str | None = None
        self._open(config)

    def sockets(self) -> tuple[socket.socket, ...]:
        """Give the sockets to select for reading; changes only in `replace`."""
        return tuple(interface.udp for interface in self._interfaces.values())

    def replace(self, config: DhcpConfig, now: float) -> None:
        """Run another configuration; SiteError, and the old one stays. Select `sockets()` anew."""
        check_config(config)
        self._open(config)
        self._engine.replace(config, now)

    def _open(self, config: DhcpConfig) -> None:
        """Open what is missing before anything is closed."""
        wanted = {subnet.interface for subnet in config.subnets if subnet.dhcp == "server"}
        there = {interface.name for interface in self._interfaces.values()}
        opened = [DhcpInterface(name) for name in sorted(wanted - there)]
        for number, interface in tuple(self._interfaces.items()):
            if interface.name not in wanted:
                del self._interfaces[number]
                interface.close()
        self._interfaces |= {interface.udp.fileno(): interface for interface in opened}

    def on_readable(self, ready: socket.socket, now: float) -> None:
        """Drain one socket: all its packets to the engine, one commit, then the replies."""
        interface = self._interfaces[ready.fileno()]
        outcomes = []
        for _ in range(_DRAIN):
            packet = interface.receive()
            if packet is None:
                break
            outcomes.append(self._engine.receive(*packet, now))
        self._release(interface, outcomes)

    def _release(self, interface: DhcpInterface, outcomes: Iterable[Outcome]) -> None:
        outcomes = tuple(outcomes)
        is_durable = self._commit(outcomes)
        for outcome in outcomes:
            for reply in outcome.sends:
                if is_durable or not reply.promises:
                    self._send(interface, reply)

    def _commit(self, outcomes: tuple[Outcome, ...]) -> bool:
        """Make leases durable; on a full or broken disk no ACK leaves, and clients ask again."""
        writes = [write for outcome in outcomes for write in outcome.writes]
        events = [event for outcome in outcomes for event in outcome.events]
        sightings = [sighting for outcome in outcomes for sighting in outcome.sightings]
        if not (writes or events or sightings):
            return True
        try:
            self._store.commit(writes, events, sightings)
        except sqlite3.Error as error:
            self.trouble = f"no lease is given: netboot.db cannot be written: {error}"
            return False
        self.trouble = None
        return True

    def _send(self, interface: DhcpInterface, reply: Send) -> None:
        try:
            interface.send(reply)
        except OSError as error:
            self.trouble = f"interface {interface.name}: cannot send: {error.strerror}"

    def tick(self, now: float) -> None:
        """Let the engine forget what is over; on every turn."""
        self._engine.tick(now)

    def deadline(self) -> float | None:
        """When `tick` is next due, in unix seconds; None for never."""
        return self._engine.deadline()

    def close(self) -> None:
        """Close all sockets."""
        for interface in self._interfaces.values():
            interface.close()
        self._interfaces.clear()
