"""The HTTP server of boot files: many connections, one loop, and helpers that only push data.

It never decides what is sent and serves nothing but the file map. A slow or silent client costs
one of a bounded number of connections; when all are taken, whoever holds most of them loses some.
TLS ends in nginx, which hands requests on by a UNIX socket: from its user alone, and only there, a
header says whom it asks for.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address

from netboot.errors import SiteError
from netboot.files import Address, Assignments, FileMap, Missing, ServeRecord, Transport
from netboot.http_message import (
    END,
    MAX_HEAD,
    Method,
    Request,
    RequestError,
    Response,
    decode_request,
    encode_date,
    refuse,
    send_file,
)
from netboot.io.files import FileStore, Told
from netboot.io.http_connection import Connection, Sending
from netboot.io.listen import (
    Relay,
    address_of,
    listen_tcp,
    listen_unix,
    most_descriptors,
    unread,
    user_of,
)
from netboot.io.senders import Senders

PORT = 80
MAX_CONNECTIONS = 4096
HEAD_SECONDS = 10.0
IDLE_SECONDS = 30.0
STALL_SECONDS = 20.0
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that our answer is not lost to a reset."""
_LAST_ACK = 256 * 1024
"""Bytes at a file's end that a loader may leave unacknowledged, as many as iPXE takes in one go: it
runs what it loaded by then."""
_SWEEP_SECONDS = 0.25
_ACCEPTED = 64
_EVICTED = 64

_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
_STATUS = {
    Missing.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Missing.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Missing.NOT_HERE: HTTPStatus.FORBIDDEN,
    Missing.LOST: HTTPStatus.SERVICE_UNAVAILABLE,
}


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
        self._poll = select.epoll()
        self._senders = Senders()
        self._listeners: dict[Address, socket.socket] = {}
        self._listening: dict[int, socket.socket] = {}
        self._connections: dict[int, Connection] = {}
        self._held: Counter[Address | None] = Counter()
        self._most = min(MAX_CONNECTIONS, most_descriptors(4 * MAX_CONNECTIONS) // 4)
        self._now = self._swept = time.monotonic()
        self._relay = None if relay is None else relay.uid
        self._relay_socket = None if relay is None else listen_unix(relay.path)
        if self._relay_socket is not None:
            self._listen(self._relay_socket)

    def _listen(self, sock: socket.socket) -> None:
        self._listening[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)

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
            del self._listening[sock.fileno()]
            sock.close()
        for sock in opened.values():
            self._listen(sock)
        self._listeners |= opened
        self._files = files

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do a bounded piece of it."""
        ready = self._poll.poll(timeout)
        self._now = time.monotonic()
        answering = []
        for descriptor, _ in ready:
            connection = self._connections.get(descriptor)
            if connection is not None and self._has_answer(connection):
                answering.append(connection)
        self._senders.push(answering)
        for connection in answering:
            self._pushed(connection)
        for descriptor, _ in ready:
            if descriptor in self._listening:
                self._accept(self._listening[descriptor])
        if not 0 <= self._now - self._swept < _SWEEP_SECONDS:
            self._sweep()

    def _sweep(self) -> None:
        self._swept = self._now
        for one in tuple(self._connections.values()):
            if one.body is not None:
                self._look(one, one.body)
            if one.deadline <= self._now:
                self._drop(one)

    def _has_answer(self, connection: Connection) -> bool:
        """Read what came, and tell whether there is something to be pushed."""
        if connection.mask == select.EPOLLIN:  # what is reported may be a hang-up
            try:
                data = connection.sock.recv(MAX_HEAD)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            if not data:
                self._drop(connection)
                return False
            if connection.is_lingering:
                return False
            if not connection.inbound:
                connection.deadline = self._now + HEAD_SECONDS
            connection.inbound += data
        return connection.is_answering or self._take(connection)

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
        connection = Connection(sock=sock, peer=peer, local=local, deadline=deadline)
        self._connections[sock.fileno()] = connection
        self._held[peer] += 1
        self._poll.register(sock, select.EPOLLIN)

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

    def _drop(self, connection: Connection) -> None:
        self._told(connection)
        del self._connections[connection.sock.fileno()]
        self._held[connection.peer] -= 1
        if not self._held[connection.peer]:
            del self._held[connection.peer]
        connection.sock.close()

    def _want(self, connection: Connection, mask: int) -> None:
        if connection.mask != mask:
            connection.mask = mask
            self._poll.modify(connection.sock, mask)

    # Requests

    def _take(self, connection: Connection) -> bool:
        """Begin the answer to the next request; False when there is none yet."""
        inbound = connection.inbound
        if empty := _EMPTY_LINES.match(inbound):
            inbound = inbound[empty.end() :]
        end = inbound.find(END)
        if end < 0 and len(inbound) <= MAX_HEAD:
            connection.inbound = inbound
            self._want(connection, select.EPOLLIN)
            return False
        self._told(connection)  # who asks for more has what was sent before
        connection.is_answering = True
        try:
            if not 0 <= end <= MAX_HEAD:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                raise RequestError(status, "the request is too large")
            request = decode_request(inbound[:end])
            inbound = inbound[end + len(END) :]
            response = self._respond(connection, request)
            connection.keep = request.keep
        except RequestError as error:
            date = encode_date(int(time.time()))
            response = refuse(error.status, str(error), keep=False, date=date)
            connection.keep = False
        connection.inbound = inbound
        connection.outbound = response.head
        return True

    def _respond(self, connection: Connection, request: Request) -> Response:
        peer, local = connection.peer, connection.local
        if peer is None or local is None:
            peer, local = _relayed(request)
        found = self._assignments.find(self._files, request.path, local, peer)
        file = None if isinstance(found, Missing) else self._store.open(found)
        is_get = request.method is Method.GET
        now = time.time()
        date = encode_date(int(now))
        if isinstance(found, Missing) or file is None:
            why = found if isinstance(found, Missing) else Missing.LOST
            self._tell(self._record.refused(Transport.HTTP, peer, request.path, why, now))
            return refuse(_STATUS[why], why.value, keep=request.keep, date=date, with_body=is_get)
        response = send_file(
            request, path=found.path, sha256=found.sha256, size=file.size, date=date
        )
        if is_get and response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            connection.body = Sending(
                file=file, entry=found, peer=peer, start=response.offset, left=response.length
            )
            if events := self._record.start(Transport.HTTP, peer, found, file.size, now):
                self._tell(events)
        return response

    # Answers

    def _pushed(self, connection: Connection) -> None:
        """Look at what became of an answer: go on when the client takes more, or it asks more."""
        if connection.has_moved:
            connection.has_moved = False
            connection.deadline = self._now + STALL_SECONDS
        if connection.is_sent and not connection.is_broken:
            self._end_answer(connection)
        if connection.is_broken:
            self._drop(connection)
            return
        has_more = connection.is_answering or (connection.inbound and connection.keep)
        self._want(connection, select.EPOLLOUT if has_more else select.EPOLLIN)

    def _end_answer(self, connection: Connection) -> None:
        connection.is_answering = False
        connection.deadline = self._now + (HEAD_SECONDS if connection.inbound else IDLE_SECONDS)
        if connection.body is not None:
            connection.body.unread = connection.body.sent
        if not connection.keep:
            connection.is_lingering = True
            connection.deadline = self._now + LINGER_SECONDS
            try:
                connection.sock.shutdown(socket.SHUT_WR)
            except OSError:
                connection.is_broken = True

    def _look(self, connection: Connection, body: Sending) -> None:
        """See how much of what was handed to the kernel has arrived; tell when all has."""
        waits = unread(connection.sock)
        if body.left:
            self._tell_progress(body, waits)
        elif not waits:
            self._told(connection)
        elif waits < body.unread:
            body.unread = waits
            connection.deadline = max(connection.deadline, self._now + STALL_SECONDS)
            self._tell_progress(body, waits)

    def _tell_progress(self, body: Sending, waits: int) -> None:
        events = self._record.progress(
            Transport.HTTP,
            body.peer,
            body.entry,
            body.file.size,
            time.time(),
            sent=max(0, body.sent - waits),
            offset=body.start,
        )
        if events:
            self._tell(events)

    def _told(self, connection: Connection) -> None:
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
        self._listening.clear()
        if self._relay_socket is not None:
            self._relay_socket.close()
        self._poll.close()
        self._senders.close()


def _relayed(request: Request) -> tuple[Address, Address]:
    """Read whom the TLS terminator asks for, and at which of our addresses it was asked."""
    try:
        return ip_address(request.relayed_peer or ""), ip_address(request.relayed_local or "")
    except ValueError:
        raise RequestError(HTTPStatus.BAD_REQUEST, "nobody is named to serve") from None
