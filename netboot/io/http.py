"""The HTTP server of boot files: many connections, one thread, one selector.

It never decides what is sent and serves nothing but the file map. A slow or silent client costs
one of a bounded number of connections; when all are taken, whoever holds most of them loses some.
TLS ends in nginx, which hands requests on by a UNIX socket: from its user alone, and only there, a
header says whom it asks for.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from netboot.errors import SiteError
from netboot.files import Address, Assignments, Entry, FileMap, Missing, ServeRecord, Transport
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
from netboot.io.listen import (
    Relay,
    address_of,
    listen_tcp,
    listen_unix,
    most_descriptors,
    unread,
    user_of,
)

PORT = 80
MAX_CONNECTIONS = 4096
HEAD_SECONDS = 10.0
IDLE_SECONDS = 30.0
STALL_SECONDS = 20.0
LINGER_SECONDS = 2.0
_LAST_ACK = 256 * 1024
"""Bytes at a file's end that a loader may leave unacknowledged, as many as iPXE takes in one go: it
runs what it loaded by then."""
"""How long a refused client may go on sending, so that our answer is not lost to a reset."""
_SWEEP_SECONDS = 0.25
_CHUNK = 4 << 20
"""Bytes for one connection in one turn."""
_PIPELINED = 16
"""Requests of one connection in one turn."""
_ACCEPTED = 64
_EVICTED = 64

_STATUS = {
    Missing.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Missing.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Missing.NOT_HERE: HTTPStatus.FORBIDDEN,
    Missing.LOST: HTTPStatus.SERVICE_UNAVAILABLE,
}


@dataclass(slots=True, kw_only=True)
class _Sending:
    """A file on its way: what is left of it, and for whom.

    It stays until the client has all of it: the kernel holds the last megabytes, and a box that
    died there has not loaded its file.
    """

    file: StoredFile
    entry: Entry
    peer: Address
    start: int
    left: int
    sent: int = 0
    unread: int = 0


@dataclass(slots=True, kw_only=True)
class _Connection:
    """One client; `peer` and `local` are None where each request says them."""

    sock: socket.socket
    peer: Address | None
    local: Address | None
    deadline: float
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytes = b""
    body: _Sending | None = None
    mask: int = selectors.EVENT_READ
    keep: bool = True
    is_answering: bool = False
    is_lingering: bool = False


class HttpRunner:
    """Listeners and connections; `turn` is one turn of its thread's loop."""

    def __init__(
        self,
        store: FileStore,
        tell: Told,
        port: int = PORT,
        *,
        assignments: Assignments | None = None,
        relay: Relay | None = None,
    ) -> None:
        """Serve nothing yet; `replace` says what and where. SiteError without the relay's socket.

        `assignments` are those that DHCP fills.
        """
        self._port = port
        self._store = store
        self._tell = tell
        self._assignments = assignments or Assignments()
        self._files = FileMap()
        self._record = ServeRecord()
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[Address, socket.socket] = {}
        self._connections: dict[int, _Connection] = {}
        self._held: Counter[Address | None] = Counter()
        self._most = min(MAX_CONNECTIONS, most_descriptors(4 * MAX_CONNECTIONS) // 4)
        self._now = self._swept = time.monotonic()
        self._relay = None if relay is None else relay.uid
        self._relay_socket = None if relay is None else listen_unix(relay.path)
        if self._relay_socket is not None:
            self._selector.register(self._relay_socket, selectors.EVENT_READ)

    def replace(self, files: FileMap, addresses: Iterable[Address]) -> None:
        """Serve other files on these addresses; SiteError, and the old ones stay."""
        wanted = tuple(addresses)
        opened: dict[Address, socket.socket] = {}
        try:
            for one in wanted:
                if one not in self._listeners:
                    opened[one] = listen_tcp(one, self._port)
        except SiteError:
            for sock in opened.values():
                sock.close()
            raise
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
        ready = self._selector.select(timeout)
        self._now = time.monotonic()
        for key, _ in ready:
            sock: Any = key.fileobj
            if key.data is None:
                self._accept(sock)
            elif sock.fileno() >= 0:
                self._serve(key.data)
        if not 0 <= self._now - self._swept < _SWEEP_SECONDS:
            self._swept = self._now
            for one in tuple(self._connections.values()):
                if one.body is not None and not one.body.left:
                    self._drain(one, one.body)
                if one.deadline <= self._now:
                    self._drop(one)

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.mask == selectors.EVENT_READ:  # what is reported may be a hang-up
                self._read(connection)
            elif not connection.is_answering or self._write(connection):
                self._advance(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTED):
            try:
                sock, name = listener.accept()
            except OSError:
                return  # no more, gone again, or out of descriptors until a deadline passes
            sock.setblocking(False)
            if listener is not self._relay_socket:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._add(sock, address_of(name), address_of(sock.getsockname()))
            elif user_of(sock) == self._relay:
                self._add(sock, None, None)
            else:
                sock.close()

    def _add(self, sock: socket.socket, peer: Address | None, local: Address | None) -> None:
        if len(self._connections) >= self._most:
            self._make_room()
        deadline = self._now + HEAD_SECONDS
        connection = _Connection(sock=sock, peer=peer, local=local, deadline=deadline)
        self._connections[sock.fileno()] = connection
        self._held[peer] += 1
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _make_room(self) -> None:
        """Take from the client that holds most: what it does not use, else what is nearest its end.

        Many at a time, because this looks at all.
        """
        most = self._held.most_common(1)[0][0]
        held = sorted(
            (one for one in self._connections.values() if one.peer == most),
            key=lambda one: (one.is_answering, one.deadline),
        )
        idle = [one for one in held if not one.is_answering]
        for connection in idle[:_EVICTED] or held[:1]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._told(connection)
        self._selector.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        self._held[connection.peer] -= 1
        if not self._held[connection.peer]:
            del self._held[connection.peer]
        connection.sock.close()

    def _want(self, connection: _Connection, mask: int) -> None:
        if connection.mask != mask:
            connection.mask = mask
            self._selector.modify(connection.sock, mask, connection)

    # Requests

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(MAX_HEAD)
        if not data:
            self._drop(connection)
        elif not connection.is_lingering:
            if not connection.inbound:
                connection.deadline = self._now + HEAD_SECONDS
            connection.inbound += data
            self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Answer what was received whole; more of it after the others have had their turn."""
        for _ in range(_PIPELINED):
            if connection.is_lingering or not self._take(connection):
                self._want(connection, selectors.EVENT_READ)
                return
            if not self._write(connection):
                return
        self._want(connection, selectors.EVENT_WRITE)

    def _take(self, connection: _Connection) -> bool:
        """Begin the answer to the next request; False when there is none yet."""
        inbound = connection.inbound
        while inbound.startswith(b"\r\n"):
            del inbound[:2]
        end = inbound.find(END)
        if end < 0 and len(inbound) <= MAX_HEAD:
            return False
        self._told(connection)  # who asks for more has what was sent before
        connection.is_answering = True
        connection.deadline = self._now + STALL_SECONDS
        try:
            if not 0 <= end <= MAX_HEAD:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise RequestError(status, "the request is too large")
            request = decode_request(bytes(inbound[:end]))
            del inbound[: end + len(END)]
            response = self._respond(connection, request)
            connection.keep = request.keep
        except RequestError as error:
            response = refuse(error.status, str(error), keep=False)
            connection.keep = False
        connection.outbound = response.head
        return True

    def _respond(self, connection: _Connection, request: Request) -> Response:
        peer, local = connection.peer, connection.local
        if peer is None or local is None:
            peer, local = _relayed(request)
        found = self._assignments.find(self._files, request.path, local, peer)
        file = None if isinstance(found, Missing) else self._store.open(found)
        is_get = request.method is Method.GET
        now = time.time()
        if isinstance(found, Missing) or file is None:
            why = found if isinstance(found, Missing) else Missing.LOST
            self._tell(self._record.refused(Transport.HTTP, peer, request.path, why, now))
            return refuse(_STATUS[why], why.value, keep=request.keep, with_body=is_get)
        response = send_file(request, path=found.path, sha256=found.sha256, size=file.size)
        if is_get and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            connection.body = _Sending(
                file=file, entry=found, peer=peer, start=response.offset, left=response.length
            )
            if events := self._record.start(Transport.HTTP, peer, found, file.size, now):
                self._tell(events)
        return response

    # Answers

    def _write(self, connection: _Connection) -> bool:
        """Send what can be sent now; tell whether all of the answer is."""
        try:
            is_sent = self._send(connection)
        except BlockingIOError:
            is_sent = False
        if not is_sent:
            self._want(connection, selectors.EVENT_WRITE)
            return False
        connection.is_answering = False
        connection.deadline = self._now + (HEAD_SECONDS if connection.inbound else IDLE_SECONDS)
        if not connection.keep:
            connection.sock.shutdown(socket.SHUT_WR)
            connection.is_lingering = True
            connection.deadline = self._now + LINGER_SECONDS
        if connection.body is not None:
            connection.body.unread = connection.body.sent
            self._drain(connection, connection.body)
        return True

    def _drain(self, connection: _Connection, body: _Sending) -> None:
        """See how much of what was handed to the kernel has arrived; tell when all has."""
        waits = unread(connection.sock)
        if not waits:
            self._told(connection)
        elif waits < body.unread:
            body.unread = waits
            connection.deadline = max(connection.deadline, self._now + STALL_SECONDS)
            self._tell_progress(connection, body)

    def _send(self, connection: _Connection) -> bool:
        body = connection.body
        if connection.outbound:
            more = socket.MSG_MORE if body is not None and body.left else 0
            sent = connection.sock.send(connection.outbound, more)
            connection.outbound = connection.outbound[sent:]
            connection.deadline = self._now + STALL_SECONDS
            if connection.outbound:
                return False
        if body is None or not body.left:
            return True
        sent = os.sendfile(
            connection.sock.fileno(),
            body.file.descriptor,
            body.start + body.sent,
            min(body.left, _CHUNK),
        )
        if not sent:
            raise BrokenPipeError("the file is shorter than it was")
        body.left, body.sent = body.left - sent, body.sent + sent
        connection.deadline = self._now + STALL_SECONDS
        if body.left:
            self._tell_progress(connection, body)
        return not body.left

    def _tell_progress(self, connection: _Connection, body: _Sending) -> None:
        events = self._record.progress(
            Transport.HTTP,
            body.peer,
            body.entry,
            body.file.size,
            time.time(),
            sent=max(0, body.sent - unread(connection.sock)),
            offset=body.start,
        )
        if events:
            self._tell(events)

    def _told(self, connection: _Connection) -> None:
        """Tell how much of the file has arrived: all, when the client asked for more after it."""
        body, connection.body = connection.body, None
        if body is None:
            return
        waits = 0 if connection.inbound and not body.left else unread(connection.sock)
        if not body.left and waits <= min(_LAST_ACK, body.file.size // 2):
            waits = 0  # as the last ACK of TFTP (T10)
        events = self._record.end(
            Transport.HTTP,
            body.peer,
            body.entry,
            body.file.size,
            time.time(),
            sent=max(0, body.sent - waits),
            offset=body.start,
            broke=bool(body.left or waits),
        )
        if events:
            self._tell(events)

    def close(self) -> None:
        """Close everything."""
        for connection in tuple(self._connections.values()):
            self._drop(connection)
        for sock in self._listeners.values():
            sock.close()
        self._listeners.clear()
        if self._relay_socket is not None:
            self._relay_socket.close()
        self._selector.close()


def _relayed(request: Request) -> tuple[Address, Address]:
    """Read whom the TLS terminator asks for, and at which of our addresses it was asked."""
    try:
        return ip_address(request.relayed_peer or ""), ip_address(request.relayed_local or "")
    except ValueError:
        raise RequestError(HTTPStatus.BAD_REQUEST, "nobody is named to serve") from None
