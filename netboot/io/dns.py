"""The DNS server's sockets: UDP and TCP on port 53 of each of our addresses.

It never looks into a message. TCP: RFC 7766, two bytes of length before each message; what others
are asked comes out of order, and a slow peer costs a connection alone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

from netboot.dns import Ask, DnsEngine, Generation, Resolved
from netboot.io.datagrams import COUNT, Datagrams
from netboot.io.listen import listen_tcp
from netboot.io.tftp import listen_udp
from netboot.zone import Rcode

PORT = 53
MAX_CONNECTIONS = 256
"""By TCP, of all clients; who holds most of them gives one up for a new one."""
IDLE_SECONDS = 10.0
_BATCHES = 4
"""Of datagrams, in one turn of one address."""
_MAX_OUTBOUND = 256 * 1024
"""Bytes; a peer that does not read its answers is not read from."""


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    peer: str
    deadline: float
    has_asked: bool = False
    pending: int = 0
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytearray = field(default_factory=bytearray)


class Resolver(Protocol):
    """Who is asked for what is not ours."""

    def lookup(self, ask: Ask, now: float) -> Resolved | None:
        """Answer at once from what is known; None when others must be asked."""

    def ask(self, ask: Ask, done: Callable[[Resolved], None]) -> None:
        """Ask others, and call `done` once, from any thread."""


_Send = Callable[[bytes], None]


class DnsRunner:
    """The engine with its sockets; `turn` is one turn of its thread's loop."""

    def __init__(
        self, engine: DnsEngine, port: int = PORT, resolver: Resolver | None = None
    ) -> None:
        """Listen nowhere yet; `listen` says where."""
        self._engine = engine
        self._resolver = resolver
        self._resolved: queue.SimpleQueue[tuple[Ask, Resolved, _Send]] = queue.SimpleQueue()
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[IPv4Address | IPv6Address, tuple[socket.socket, socket.socket]] = {}
        self._connections: dict[int, _Connection] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)

    @property
    def connected(self) -> int:
        """How many clients are connected by TCP."""
        return len(self._connections)

    def wake(self) -> None:
        """End the turn that waits; may be called from any thread."""
        os.eventfd_write(self._wake, 1)

    def _on_wake(self, descriptor: int) -> None:
        os.eventfd_read(descriptor)
        while not self._resolved.empty():
            ask, resolved, send = self._resolved.get()
            send(self._engine.finish(ask, resolved))

    def replace(self, generation: Generation) -> None:
        """Answer from another generation."""
        self._engine.replace(generation)

    def _resolve(self, ask: Ask, now: float) -> bytes | None:
        """Answer from what is known of others; None when they must be asked."""
        if self._resolver is None:
            return self._engine.finish(ask, Resolved(rcode=Rcode.SERVFAIL))
        known = self._resolver.lookup(ask, now)
        return None if known is None else self._engine.finish(ask, known)

    def _hand_on(self, ask: Ask, data: bytes, peer: str, now: float, send: _Send) -> bytes | None:
        reply = self._resolve(ask, now)
        if reply is None:
            self._ask(ask, send)
        elif not ask.cookie:
            self._engine.keep(data, peer, reply)
        return reply

    def _ask(self, ask: Ask, send: _Send) -> None:
        if self._resolver is not None:
            self._resolver.ask(ask, partial(self._done, ask, send))

    def _done(self, ask: Ask, send: _Send, resolved: Resolved) -> None:
        self._resolved.put((ask, resolved, send))
        self.wake()

    def listen(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Listen on these addresses; SiteError, and the old ones stay."""
        wanted = tuple(addresses)
        opened = {}
        for address in wanted:
            if address not in self._listeners:
                opened[address] = (
                    listen_udp(address, self._port),
                    listen_tcp(address, self._port),
                )
        for address in set(self._listeners) - set(wanted):
            for sock in self._listeners.pop(address):
                self._selector.unregister(sock)
                sock.close()
        for udp, tcp in opened.values():
            on_udp = partial(self._on_udp, Datagrams(udp.family))
            self._selector.register(udp, selectors.EVENT_READ, on_udp)
            self._selector.register(tcp, selectors.EVENT_READ, self._accept)
        self._listeners |= opened

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for messages, and answer them."""
        for key, mask in self._selector.select(timeout):
            sock: Any = key.fileobj
            if not isinstance(key.data, _Connection):
                key.data(sock)
            elif key.data.sock.fileno() >= 0:
                self._serve(key.data, mask)
        now = time.monotonic()
        for connection in [one for one in self._connections.values() if one.deadline <= now]:
            self._drop(connection)

    def _on_udp(self, datagrams: Datagrams, sock: socket.socket) -> None:
        receive, now = self._engine.receive, time.time()
        for _ in range(_BATCHES):
            questions = datagrams.receive(sock)
            replies = []
            for data, name in questions:
                peer = datagrams.address(name)
                if peer is None:
                    continue
                reply = receive(data, peer, now, is_tcp=False)
                if isinstance(reply, Ask):
                    send = partial(_send_to, sock, datagrams.peer(name))
                    reply = self._hand_on(reply, data, peer, now, send)
                if reply is not None:
                    replies.append((reply, name))
            datagrams.send(sock, replies)
            if len(questions) < COUNT:
                return

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, (peer, *_) = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(_least(tuple(self._connections.values())))
        connection = _Connection(sock, peer, time.monotonic() + IDLE_SECONDS)
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                data = connection.sock.recv(65536)
                if not data:
                    self._drop(connection)
                    return
                connection.inbound += data
            self._answer(connection)
            self._write(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    def _answer(self, connection: _Connection) -> None:
        """Answer every whole message; a dribble of bytes does not put off the end."""
        inbound = connection.inbound
        while _has_message(inbound) and len(connection.outbound) < _MAX_OUTBOUND:
            end = 2 + int.from_bytes(inbound[:2])
            connection.has_asked = True
            reply = self._answer_one(bytes(inbound[2:end]), connection)
            del inbound[:end]
            connection.deadline = time.monotonic() + IDLE_SECONDS
            if reply is not None:
                connection.outbound += struct.pack("!H", len(reply)) + reply

    def _answer_one(self, data: bytes, connection: _Connection) -> bytes | None:
        """Answer now, or later and out of order."""
        now = time.time()
        reply = self._engine.receive(data, connection.peer, now, is_tcp=True)
        if not isinstance(reply, Ask):
            return reply
        known = self._resolve(reply, now)
        if known is None:
            connection.pending += 1
            self._ask(reply, partial(self._send_later, connection))
        return known

    def _send_later(self, connection: _Connection, reply: bytes) -> None:
        """Write what others answered, if the client is still there."""
        connection.pending -= 1
        if connection.sock.fileno() < 0 or len(connection.outbound) >= _MAX_OUTBOUND:
            return
        connection.outbound += struct.pack("!H", len(reply)) + reply
        connection.deadline = time.monotonic() + IDLE_SECONDS
        try:
            self._write(connection)
        except OSError:
            self._drop(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            while connection.outbound:
                sent = connection.sock.send(connection.outbound[:65536])
                del connection.outbound[:sent]
                connection.deadline = time.monotonic() + IDLE_SECONDS
        except BlockingIOError:
            pass
        wanted = selectors.EVENT_WRITE if connection.outbound else selectors.EVENT_READ
        if _has_message(connection.inbound):
            wanted |= selectors.EVENT_WRITE  # its turn comes after the others'
        self._selector.modify(connection.sock, wanted, connection)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def close(self) -> None:
        """Close everything."""
        for connection in tuple(self._connections.values()):
            self._drop(connection)
        for sock in (sock for pair in self._listeners.values() for sock in pair):
            sock.close()
        self._listeners.clear()
        self._selector.close()
        os.close(self._wake)


def _least(connections: Sequence[_Connection]) -> _Connection:
    """Choose what is given up, of the address that holds most: many clients may be behind one.

    First what never asked, then what waits for no answer, then what asked longest ago (RFC 7766,
    6.2.2 and 6.2.3).
    """
    counts = Counter(one.peer for one in connections)
    most = max(counts.values())
    return min(
        (one for one in connections if counts[one.peer] == most),
        key=lambda one: (one.has_asked, bool(one.pending or one.outbound), one.deadline),
    )


def _send_to(sock: socket.socket, peer: Any, reply: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.sendto(reply, peer)


def _has_message(inbound: bytearray) -> bool:
    return len(inbound) >= 2 and len(inbound) >= 2 + int.from_bytes(inbound[:2])
