"""The DNS server's sockets: UDP and TCP on port 53 of each of our addresses.

It never looks into a message. TCP: RFC 7766, two bytes of length before each message; answers are
written in the order of the questions, and a slow peer costs a connection alone.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from netboot.dns import DnsEngine
from netboot.io.listen import listen_tcp
from netboot.io.tftp import listen_udp
from netboot.zone import Zones

PORT = 53
MAX_CONNECTIONS = 128
MAX_CONNECTIONS_EACH = 16
IDLE_SECONDS = 10.0
_DRAIN = 256
_MAX_OUTBOUND = 256 * 1024
"""Bytes; a peer that does not read its answers is not read from."""


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    peer: str
    deadline: float
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytearray = field(default_factory=bytearray)


class DnsRunner:
    """The engine with its sockets; `turn` is one turn of its thread's loop."""

    def __init__(self, engine: DnsEngine, port: int = PORT) -> None:
        """Listen nowhere yet; `listen` says where."""
        self._engine = engine
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[IPv4Address, tuple[socket.socket, socket.socket]] = {}
        self._connections: dict[int, _Connection] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)

    def wake(self) -> None:
        """End the turn that waits; may be called from any thread."""
        os.eventfd_write(self._wake, 1)

    def _on_wake(self, descriptor: int) -> None:
        os.eventfd_read(descriptor)

    def replace(self, zones: Zones) -> None:
        """Answer from another generation of zones."""
        self._engine.replace(zones)

    def listen(self, addresses: Iterable[IPv4Address]) -> None:
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
            self._selector.register(udp, selectors.EVENT_READ, self._on_udp)
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

    def _on_udp(self, sock: socket.socket) -> None:
        receive = self._engine.receive
        for _ in range(_DRAIN):
            try:
                data, peer = sock.recvfrom(65535)
                reply = receive(data, is_tcp=False) if peer[1] else None
                if reply is not None:
                    sock.sendto(reply, peer)
            except OSError:
                return

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, (peer, _) = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        others = [one for one in self._connections.values() if one.peer == peer]
        if len(others) >= MAX_CONNECTIONS_EACH:
            self._drop(min(others, key=lambda one: one.deadline))
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(min(self._connections.values(), key=lambda one: one.deadline))
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
            reply = self._engine.receive(bytes(inbound[2:end]), is_tcp=True)
            del inbound[:end]
            connection.deadline = time.monotonic() + IDLE_SECONDS
            if reply is not None:
                connection.outbound += struct.pack("!H", len(reply)) + reply

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


def _has_message(inbound: bytearray) -> bool:
    return len(inbound) >= 2 and len(inbound) >= 2 + int.from_bytes(inbound[:2])
