"""The TFTP server's sockets: datagrams to the engine and what it answers back.

It never decides what is sent. One socket on port 69 for each of our addresses, so that a reply
leaves from the address that was asked, and one for each transfer (its TID; RFC 1350, 4). A client
that goes on gets a second one on that port, connected to it: the kernel then knows the way and
whose packets these are, and the first is left to strangers.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from netboot.errors import SiteError
from netboot.events import Event
from netboot.files import Assignments, FileMap
from netboot.io.files import FileStore, Told
from netboot.io.listen import most_descriptors
from netboot.tftp import MAX_TRANSFERS, Outcome, TftpEngine
from netboot.tftp_transfer import Peer, Transfer

Address = IPv4Address | IPv6Address

PORT = 69
_DRAIN = 64
"""Requests in one turn: transfers under way are not kept waiting by a flood of them."""
_LOOKS = 40
"""About 50 microseconds."""
_CROWDED_SECONDS, _CROWDED_FOR_SECONDS = 0.001, 0.1
"""When looking takes so long, others want the processor: for a while, do as they do and sleep."""
_LONGEST = 2048
"""Bytes of a packet that are read; a client sends 512 at most."""
_HEAD = 8
"""Bytes of a packet in a transfer that are read: an ACK has 4, and an ERROR's text is not used."""
_LARGEST_SEND = 65000
_DESCRIPTORS = 4 * MAX_TRANSFERS
"""Two for each transfer, and as many again for the rest of the process."""
_MOST_SEGMENTS = 64
"""What the kernel cuts in one call (udp(7), UDP_SEGMENT)."""
_USUAL_MTU = 1500
_SIOCGIFMTU = 0x8921
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_FREEBIND = 10, 0, 15
_IPV6_FREEBIND = 78
_UDP_SEGMENT = 103
"""Linux's numbers; the socket module has no names for them."""


def interface_mtu(name: str) -> int:
    """Read what an interface carries in one packet; 1500 when it cannot be asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFMTU, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return _USUAL_MTU
    return int(struct.unpack_from("i", answer, 16)[0])


def listen_udp(address: Address, port: int) -> socket.socket:
    """Bind a UDP socket to one of our addresses, even while its interface is down; SiteError."""
    sock = _udp_socket(address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        raise SiteError(f"{address}, UDP port {port}: {error.strerror}") from error
    return sock


def _udp_socket(address: Address) -> socket.socket:
    is_v4 = isinstance(address, IPv4Address)
    family = socket.AF_INET if is_v4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if is_v4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        # A router with a smaller MTU may cut our blocks: firmware has no other way to get them.
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


@dataclass(slots=True, kw_only=True)
class _Flight:
    """A transfer with its socket, and the one that is connected to its client."""

    transfer: Transfer
    sock: socket.socket
    direct: socket.socket | None = None


class TftpRunner:
    """The engine with its sockets; `turn` is one turn of its thread's loop."""

    def __init__(
        self,
        store: FileStore,
        tell: Told,
        port: int = PORT,
        assignments: Assignments | None = None,
    ) -> None:
        """Serve nothing yet; `replace` says what and where."""
        self._port = port
        self._engine = TftpEngine(FileMap({}), store.open, _USUAL_MTU, assignments)
        self._tell = tell
        self._poll = select.epoll()
        self._is_busy = False
        self._crowded_until = 0.0
        self._listeners: dict[Address, socket.socket] = {}
        self._locals: dict[int, Address] = {}
        self._transfers: dict[int, _Flight] = {}
        self._flights: dict[int, _Flight] = {}
        self._direct: dict[int, tuple[socket.socket, Transfer]] = {}
        most_descriptors(_DESCRIPTORS)

    def replace(self, files: FileMap, addresses: Iterable[Address], mtu: int) -> None:
        """Serve other files on these addresses; SiteError, and the old ones stay."""
        wanted = tuple(addresses)
        opened: dict[Address, socket.socket] = {}
        try:
            for one in wanted:
                if one not in self._listeners:
                    opened[one] = listen_udp(one, self._port)
        except SiteError:
            for sock in opened.values():
                sock.close()
            raise
        for address in set(self._listeners) - set(wanted):
            old = self._listeners.pop(address)
            del self._locals[old.fileno()]
            old.close()
        for address, sock in opened.items():
            self._listeners[address] = sock
            self._locals[sock.fileno()] = address
            self._poll.register(sock, select.EPOLLIN)
        self._engine.replace(files, mtu)

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and repeat what is due."""
        deadline = self._engine.deadline()
        if deadline is not None:
            timeout = min(timeout, max(0.0, deadline - time.monotonic()))
        ready = self._soon() or self._poll.poll(timeout)
        now = time.monotonic()
        usual = self._receive(ready, now)
        # All at once: whoever is woken by the first finds the others on their way.
        for sock, transfer in usual:
            _send(sock, transfer.ready, None, transfer.segment)
        for _, transfer in usual:
            events = self._engine.follow(transfer, now)
            if events:
                self._publish(events)
        for descriptor, _ in ready:
            if descriptor in self._locals:
                self._on_listener(self._locals[descriptor], now)
        self._is_busy = bool(ready)
        self._release(self._engine.tick(now), None)

    def _soon(self) -> list[tuple[int, int]]:
        """Look a few times before sleeping, while files flow: to be woken costs more than an ACK.

        Others who want the processor have it in between.
        """
        ready: list[tuple[int, int]] = []
        if not self._is_busy or not self._transfers:
            return ready
        began = time.monotonic()
        if began < self._crowded_until:
            return ready
        for _ in range(_LOOKS):
            ready = self._poll.poll(0)
            if ready:
                break
            os.sched_yield()
        if time.monotonic() - began > _CROWDED_SECONDS:
            self._crowded_until = began + _CROWDED_FOR_SECONDS
        return ready

    def _on_listener(self, local: Address, now: float) -> None:
        sock = self._listeners[local]
        for _ in range(_DRAIN):
            try:
                data, peer = sock.recvfrom(_LONGEST)
            except OSError:
                return
            self._release(self._engine.receive(data, peer, local, now), local)

    def _receive(
        self, ready: list[tuple[int, int]], now: float
    ) -> list[tuple[socket.socket, Transfer]]:
        """Take one packet of each transfer; give back those whose usual ACK that was.

        One, for there is seldom a second, and the next turn comes soon.
        """
        usual, direct = [], self._direct
        for descriptor, _ in ready:
            known = direct.get(descriptor)
            if known is None:
                self._receive_first(descriptor, now)
                continue
            sock, transfer = known
            try:
                data = sock.recv(_HEAD)
            except OSError:
                continue
            if data == transfer.usual:
                usual.append(known)
            else:
                outcome = self._engine.receive_on(transfer.number, data, transfer.peer, now)
                self._release(outcome, None)
        return usual

    def _receive_first(self, descriptor: int, now: float) -> None:
        """Take a packet from a socket that is connected to nobody."""
        flight = self._flights.get(descriptor)
        if flight is None:
            return
        try:
            data, peer = flight.sock.recvfrom(_HEAD)
        except OSError:
            return
        if data == flight.transfer.usual and peer == flight.transfer.peer:
            self._connect(flight)
        self._release(self._engine.receive_on(flight.transfer.number, data, peer, now), None)

    def _connect(self, flight: _Flight) -> None:
        """Give a client that goes on a socket of its own, where there are descriptors for it."""
        if flight.direct is not None:
            return
        name = flight.sock.getsockname()
        try:
            sock = _udp_socket(ip_address(str(name[0]).partition("%")[0]))
        except OSError:
            return
        try:
            # Only now, or the kernel might have chosen a port of another transfer.
            for one in (flight.sock, sock):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(name)
            sock.connect(flight.transfer.peer)
        except OSError:
            sock.close()
            return
        flight.direct = sock
        self._direct[sock.fileno()] = sock, flight.transfer
        self._poll.register(sock, select.EPOLLIN)

    def _release(self, outcome: Outcome, local: Address | None) -> None:
        for send in outcome.sends:
            sock = self._socket(send.transfer, local)
            if sock is not None:
                _send(sock, send.data, send.peer, send.segment)
        if outcome.events:
            self._publish(outcome.events)
        for number in outcome.closed:
            flight = self._transfers.pop(number, None)
            if flight is not None:
                self._close(flight)

    def _close(self, flight: _Flight) -> None:
        del self._flights[flight.sock.fileno()]
        flight.sock.close()
        if flight.direct is not None:
            del self._direct[flight.direct.fileno()]
            flight.direct.close()

    def _publish(self, events: Iterable[Event]) -> None:
        offset = time.time() - time.monotonic()
        self._tell(replace(event, at=event.at + offset) for event in events)

    def _socket(self, transfer: int | None, local: Address | None) -> socket.socket | None:
        """Find the socket to send from; a new transfer gets one on the address that was asked."""
        if transfer is None:
            return self._listeners[local] if local is not None else None
        known = self._transfers.get(transfer)
        if known is not None or local is None:
            return None if known is None else known.sock
        begun = self._engine.transfer(transfer)
        if begun is None:
            return self._listeners[local]  # it ended with its first packet, an ERROR
        try:
            sock = _udp_socket(local)
            sock.bind((str(local), 0))
        except OSError:
            return None  # out of descriptors: the engine forgets the transfer by itself
        flight = _Flight(transfer=begun, sock=sock)
        self._transfers[transfer] = self._flights[sock.fileno()] = flight
        self._poll.register(sock, select.EPOLLIN)
        return sock

    def close(self) -> None:
        """Close all sockets."""
        for flight in self._transfers.values():
            self._close(flight)
        for sock in self._listeners.values():
            sock.close()
        for known in (self._listeners, self._locals, self._transfers):
            known.clear()
        self._poll.close()


def _send(sock: socket.socket, data: bytes, peer: Peer | None, segment: int) -> None:
    """Send packets, to nobody else than whom the socket is connected to where `peer` is None.

    What is lost here (no route, a full queue) the timer repeats.
    """
    try:
        if len(data) > segment:
            _send_window(sock, data, peer, segment)
        elif peer is None:
            sock.send(data)
        else:
            sock.sendto(data, peer)
    except OSError:
        return


def _send_window(sock: socket.socket, data: bytes, peer: Peer | None, segment: int) -> None:
    """Let the kernel cut a window into packets: one call instead of one for each."""
    option = (socket.SOL_UDP, _UDP_SEGMENT, struct.pack("@H", segment))
    size = max(1, min(_MOST_SEGMENTS, _LARGEST_SEND // segment)) * segment
    for start in range(0, len(data), size):
        part = data[start : start + size]
        try:
            sock.sendmsg([part], [option], 0, peer)
        except BlockingIOError:
            raise
        except OSError:
            # An old kernel, or a route on which each packet is cut once more.
            for at in range(0, len(part), segment):
                _send(sock, part[at : at + segment], peer, segment)
