"""The HTTP server of boot files: many connections, one thread, one selector.

It never decides what is sent and serves nothing but the file map. A slow or silent client costs
one of a bounded number of connections, and the nearest to its end goes when all are taken.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Any

from netboot.errors import SiteError
from netboot.events import Event
from netboot.files import Entry, FileMap, Missing, ServeRecord, Transport
from netboot.http_message import (
    END,
    MAX_HEAD,
    Method,
    Request,
    RequestError,
    Response,
    decode_request,
    refuse,
    send_file,
)
from netboot.io.files import FileStore, StoredFile, Told

PORT = 80
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_EACH = 32
"""Connections of one client address."""
HEAD_SECONDS = 10.0
IDLE_SECONDS = 30.0
STALL_SECONDS = 20.0
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that our answer is not lost to a reset."""
_CHUNK = 1 << 20
"""Bytes for one connection in one turn."""
_IP_FREEBIND = 15

_STATUS = {
    Missing.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Missing.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Missing.NOT_HERE: HTTPStatus.FORBIDDEN,
    Missing.LOST: HTTPStatus.SERVICE_UNAVAILABLE,
}


@dataclass(slots=True)
class _Sending:
    """A file on its way: what is left of it, and what to tell when it ends."""

    file: StoredFile
    entry: Entry
    offset: int
    left: int
    sent: int = 0


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    peer: IPv4Address
    local: IPv4Address
    deadline: float
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytes = b""
    body: _Sending | None = None
    keep: bool = True
    is_answering: bool = False
    is_lingering: bool = False


class HttpRunner:
    """Listeners and connections; `turn` is one turn of its thread's loop."""

    def __init__(self, store: FileStore, tell: Told, port: int = PORT) -> None:
        """Serve nothing yet; `replace` says what and where."""
        self._port = port
        self._store = store
        self._tell = tell
        self._files = FileMap({})
        self._record = ServeRecord()
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[IPv4Address, socket.socket] = {}
        self._connections: dict[int, _Connection] = {}

    def replace(self, files: FileMap, addresses: Iterable[IPv4Address]) -> None:
        """Serve other files on these addresses; SiteError, and the old ones stay."""
        wanted = tuple(addresses)
        opened = {one: listen_tcp(one, self._port) for one in wanted if one not in self._listeners}
        for address in set(self._listeners) - set(wanted):
            sock = self._listeners.pop(address)
            self._selector.unregister(sock)
            sock.close()
        for sock in opened.values():
            self._selector.register(sock, selectors.EVENT_READ)
        self._listeners |= opened
        self._files = files

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do a bounded piece of it."""
        for key, mask in self._selector.select(timeout):
            sock: Any = key.fileobj
            if key.data is None:
                self._accept(sock)
            elif sock.fileno() >= 0:
                self._serve(key.data, mask)
        now = time.monotonic()
        for connection in [one for one in self._connections.values() if one.deadline <= now]:
            self._drop(connection)

    def _serve(self, connection: _Connection, mask: int) -> None:
        try:
            if not mask & selectors.EVENT_WRITE:
                self._read(connection)
            elif connection.is_answering:
                self._write(connection)
            else:
                self._want(connection, selectors.EVENT_READ)
                self._advance(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, (address, _) = listener.accept()
        except OSError:
            return  # gone again, or out of descriptors until a deadline passes
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer, local = IPv4Address(address), IPv4Address(sock.getsockname()[0])
        others = [one for one in self._connections.values() if one.peer == peer]
        if len(others) >= MAX_CONNECTIONS_EACH:
            self._drop(min(others, key=lambda one: one.deadline))
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(min(self._connections.values(), key=lambda one: one.deadline))
        connection = _Connection(sock, peer, local, time.monotonic() + HEAD_SECONDS)
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(MAX_HEAD)
        if not data:
            self._drop(connection)
        elif not connection.is_lingering:
            if not connection.inbound:
                connection.deadline = time.monotonic() + HEAD_SECONDS
            connection.inbound += data
            self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Take the next request from what was received, if it is whole."""
        while connection.inbound.startswith(b"\r\n"):
            del connection.inbound[:2]
        end = connection.inbound.find(END)
        if end < 0 and len(connection.inbound) <= MAX_HEAD:
            return
        connection.is_answering = True
        connection.deadline = time.monotonic() + STALL_SECONDS
        try:
            if not 0 <= end <= MAX_HEAD:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise RequestError(status, "the request is too large")
            request = decode_request(bytes(connection.inbound[:end]))
            del connection.inbound[: end + len(END)]
            response = self._respond(connection, request)
            connection.keep = request.keep
        except RequestError as error:
            response = refuse(error.status, str(error), keep=False)
            connection.keep = False
        connection.outbound = response.head
        self._write(connection)

    def _respond(self, connection: _Connection, request: Request) -> Response:
        found = self._files.find(request.path, connection.local)
        file = None if isinstance(found, Missing) else self._store.open(found)
        is_get = request.method is Method.GET
        now = time.time()
        if isinstance(found, Missing) or file is None:
            why = found if isinstance(found, Missing) else Missing.LOST
            self._tell(
                self._record.refused(Transport.HTTP, connection.peer, request.path, why, now)
            )
            return refuse(_STATUS[why], why.value, keep=request.keep, with_body=is_get)
        response = send_file(request, path=found.path, sha256=found.sha256, size=file.size)
        if is_get and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            connection.body = _Sending(file, found, response.offset, response.length)
            self._tell(self._record.start(Transport.HTTP, connection.peer, found, file.size, now))
        return response

    def _write(self, connection: _Connection) -> None:
        """Send what can be sent now; when all is sent, go on with the next request."""
        body = connection.body
        self._want(connection, selectors.EVENT_WRITE)
        if connection.outbound:
            more = socket.MSG_MORE if body is not None and body.left else 0
            sent = connection.sock.send(connection.outbound, more)
            connection.outbound = connection.outbound[sent:]
            connection.deadline = time.monotonic() + STALL_SECONDS
            if connection.outbound:
                return
        if body is not None and body.left:
            self._send_body(connection, body)
            if body.left:
                return
        self._finish(connection)

    def _send_body(self, connection: _Connection, body: _Sending) -> None:
        count = min(body.left, _CHUNK)
        sent = os.sendfile(connection.sock.fileno(), body.file.descriptor, body.offset, count)
        if not sent:
            raise BrokenPipeError("the file is shorter than it was")
        body.offset, body.left, body.sent = body.offset + sent, body.left - sent, body.sent + sent
        connection.deadline = time.monotonic() + STALL_SECONDS

    def _finish(self, connection: _Connection) -> None:
        self._told(connection)
        connection.is_answering = False
        self._want(connection, selectors.EVENT_READ)
        if not connection.keep:
            connection.sock.shutdown(socket.SHUT_WR)
            connection.is_lingering = True
            connection.deadline = time.monotonic() + LINGER_SECONDS
            return
        connection.deadline = time.monotonic() + IDLE_SECONDS
        if connection.inbound:  # pipelined: its turn comes after the others'
            connection.deadline = time.monotonic() + HEAD_SECONDS
            self._want(connection, selectors.EVENT_WRITE)

    def _told(self, connection: _Connection) -> None:
        """Tell how much of the file was sent."""
        body, connection.body = connection.body, None
        if body is None:
            return
        size = body.file.size
        events: tuple[Event, ...] = self._record.end(
            Transport.HTTP, connection.peer, body.entry, size, time.time(), sent=body.sent
        )
        self._tell(events)

    def _want(self, connection: _Connection, mask: int) -> None:
        self._selector.modify(connection.sock, mask, connection)

    def _drop(self, connection: _Connection) -> None:
        self._told(connection)
        self._selector.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def close(self) -> None:
        """Close everything."""
        for connection in tuple(self._connections.values()):
            self._drop(connection)
        for sock in self._listeners.values():
            sock.close()
        self._listeners.clear()
        self._selector.close()


def listen_tcp(address: IPv4Address, port: int) -> socket.socket:
    """Listen on one of our addresses, even while its interface is down; SiteError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((str(address), port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise SiteError(f"{address}, TCP port {port}: {error.strerror}") from error
    return sock
