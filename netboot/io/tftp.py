"""The TFTP server's sockets: datagrams to the engine and what it answers back.

It never decides what is sent. One socket on port 69 for each of our addresses, so that a reply
leaves from the address that was asked, and one for each transfer (its TID; RFC 1350, 4).
"""

from __future__ import annotations

import fcntl
import selectors
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from netboot.errors import SiteError
from netboot.files import FileMap
from netboot.io.files import FileStore, Told
from netboot.tftp import Outcome, TftpEngine

PORT = 69
_DRAIN = 64
_LONGEST = 65535
_HEADERS = 32
"""Bytes of IPv4, UDP and TFTP headers before a block."""
_USUAL_MTU = 1500
_SIOCGIFMTU = 0x8921
_IP_FREEBIND = 15
"""Linux's number; the socket module has no name for it."""


def interface_mtu(name: str) -> int:
    """Read what an interface carries in one packet; 1500 when it cannot be asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFMTU, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return _USUAL_MTU
    return int(struct.unpack_from("i", answer, 16)[0])


def listen_udp(address: IPv4Address, port: int) -> socket.socket:
    """Bind a UDP socket to one of our addresses, even while its interface is down; SiteError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        raise SiteError(f"{address}, UDP port {port}: {error.strerror}") from error
    return sock


class TftpRunner:
    """The engine with its sockets; `turn` is one turn of its thread's loop."""

    def __init__(self, store: FileStore, tell: Told, port: int = PORT) -> None:
        """Serve nothing yet; `replace` says what and where."""
        self._port = port
        self._engine = TftpEngine(FileMap({}), store.open, _USUAL_MTU - _HEADERS)
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[IPv4Address, socket.socket] = {}
        self._transfers: dict[int, socket.socket] = {}

    def replace(self, files: FileMap, addresses: Iterable[IPv4Address], mtu: int) -> None:
        """Serve other files on these addresses; SiteError, and the old ones stay."""
        wanted = tuple(addresses)
        opened = {one: listen_udp(one, self._port) for one in wanted if one not in self._listeners}
        for address in set(self._listeners) - set(wanted):
            self._close(self._listeners.pop(address))
        for address, sock in opened.items():
            self._selector.register(sock, selectors.EVENT_READ, address)
        self._listeners |= opened
        self._engine.replace(files, mtu - _HEADERS)

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and repeat what is due."""
        deadline = self._engine.deadline()
        if deadline is not None:
            timeout = min(timeout, max(0.0, deadline - time.monotonic()))
        for key, _ in self._selector.select(timeout):
            sock: Any = key.fileobj
            if isinstance(key.data, int):
                self._on_transfer(key.data, sock)
            else:
                self._on_listener(key.data, sock)
        self._release(self._engine.tick(time.monotonic()), None)

    def _on_listener(self, local: IPv4Address, sock: socket.socket) -> None:
        for _ in range(_DRAIN):
            try:
                data, peer = sock.recvfrom(_LONGEST)
            except OSError:
                return
            self._release(self._engine.receive(data, peer, local, time.monotonic()), local)

    def _on_transfer(self, number: int, sock: socket.socket) -> None:
        for _ in range(_DRAIN):
            if number not in self._transfers:
                return
            try:
                data, peer = sock.recvfrom(_LONGEST)
            except OSError:
                return
            self._release(self._engine.receive_on(number, data, peer, time.monotonic()), None)

    def _release(self, outcome: Outcome, local: IPv4Address | None) -> None:
        for send in outcome.sends:
            sock = self._socket(send.transfer, local)
            if sock is None:
                continue
            try:
                sock.sendto(send.data, send.peer)
            except OSError:
                continue  # no route, or a full queue: the timer repeats it
        if outcome.events:
            offset = time.time() - time.monotonic()
            self._tell(replace(event, at=event.at + offset) for event in outcome.events)
        for number in outcome.closed:
            if number in self._transfers:
                self._close(self._transfers.pop(number))

    def _socket(self, transfer: int | None, local: IPv4Address | None) -> socket.socket | None:
        """Find the socket to send from; a new transfer gets one on the address that was asked."""
        if transfer is None:
            return self._listeners[local] if local is not None else None
        known = self._transfers.get(transfer)
        if known is not None or local is None:
            return known
        try:
            sock = listen_udp(local, 0)
        except SiteError:
            return None  # out of descriptors: the engine forgets the transfer by itself
        self._transfers[transfer] = sock
        self._selector.register(sock, selectors.EVENT_READ, transfer)
        return sock

    def _close(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self._listeners.values(), *self._transfers.values()):
            self._close(sock)
        self._listeners.clear()
        self._transfers.clear()
        self._selector.close()
