"""One question to an upstream and its answer, over TLS or plainly; there is no way between the two.

Connections are kept for a few seconds and reused. A certificate must fit the name, or the key one
of the pins; everything else is "unreachable". RFC 7858 (DNS over TLS), 8310 (profiles), 7766 (TCP),
5452, 9.2 (a port of its own for each plain question).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from netboot.resolver import Transport, UnreachableError, Upstream
from netboot.upstream import is_reply

IDLE_SECONDS = 8.0
MAX_IDLE = 8
"""Connections kept for one upstream."""
_TC = 0x02


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    used: float


class Exchange:
    """Asks upstreams; called by several threads at once."""

    def __init__(self, ca_file: str | None = None) -> None:
        """Trust the system's authorities, or those of a file, for upstreams without pins."""
        self._context = ssl.create_default_context(cafile=ca_file)
        self._pinned = ssl.create_default_context()
        self._pinned.check_hostname = False
        self._pinned.verify_mode = ssl.CERT_NONE  # the key itself is compared instead
        for context in (self._context, self._pinned):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._idle: dict[Upstream, list[_Connection]] = {}
        self._lock = threading.Lock()

    def __call__(self, upstream: Upstream, data: bytes, seconds: float) -> bytes:
        """Ask and wait at most `seconds`; UnreachableError says why there is no answer."""
        deadline = time.monotonic() + seconds
        try:
            if upstream.transport is Transport.TLS:
                return self._over_tls(upstream, data, deadline)
            return _plainly(upstream, data, deadline)
        except (OSError, EOFError, ValueError) as error:
            said = str(error) or type(error).__name__
            raise UnreachableError(f"{upstream}: {said}") from None

    def _over_tls(self, upstream: Upstream, data: bytes, deadline: float) -> bytes:
        kept = self._take(upstream)
        if kept is not None:
            try:
                return self._ask(upstream, kept, data, deadline)
            except (OSError, EOFError):
                if time.monotonic() >= deadline:
                    raise  # it was not the connection's age
        return self._ask(upstream, self._connect(upstream, deadline), data, deadline)

    def _ask(
        self, upstream: Upstream, connection: _Connection, data: bytes, deadline: float
    ) -> bytes:
        try:
            answer = _ask_stream(connection.sock, data, deadline)
        except BaseException:
            connection.sock.close()
            raise
        connection.used = time.monotonic()
        with self._lock:
            idle = self._idle.setdefault(upstream, [])
            idle.append(connection)
            for old in idle[:-MAX_IDLE]:
                old.sock.close()
            del idle[:-MAX_IDLE]
        return answer

    def _take(self, upstream: Upstream) -> _Connection | None:
        with self._lock:
            idle = self._idle.get(upstream, [])
            while idle:
                connection = idle.pop()
                if time.monotonic() - connection.used < IDLE_SECONDS:
                    return connection
                connection.sock.close()
        return None

    def _connect(self, upstream: Upstream, deadline: float) -> _Connection:
        plain = socket.create_connection((upstream.address, upstream.port), _left(deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(_left(deadline))
            context = self._pinned if upstream.pins else self._context
            sock = context.wrap_socket(plain, server_hostname=upstream.name or upstream.address)
        except BaseException:
            plain.close()
            raise
        if upstream.pins and _pin(sock) not in upstream.pins:
            sock.close()
            raise ValueError("its key is none of those that the site file names")
        return _Connection(sock=sock, used=time.monotonic())

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for idle in self._idle.values():
                for connection in idle:
                    connection.sock.close()
            self._idle.clear()


def _pin(sock: ssl.SSLSocket) -> bytes:
    """Hash the peer's public key (RFC 7858, 4.2)."""
    certificate = x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"")
    key = certificate.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _ask_stream(sock: socket.socket, data: bytes, deadline: float) -> bytes:
    sock.settimeout(_left(deadline))
    sock.sendall(struct.pack("!H", len(data)) + data)
    while True:
        size = int.from_bytes(_read(sock, 2, deadline))
        answer = _read(sock, size, deadline)
        if is_reply(answer, data):  # another may be the late answer to a question given up
            return answer


def _read(sock: socket.socket, size: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        sock.settimeout(_left(deadline))
        piece = sock.recv(size - len(found))
        if not piece:
            raise EOFError("the connection was closed")
        found += piece
    return bytes(found)


def _plainly(upstream: Upstream, data: bytes, deadline: float) -> bytes:
    """Ask by UDP from a new port, then by TCP when the answer was cut off."""
    family = socket.AF_INET6 if ":" in upstream.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((upstream.address, upstream.port))  # nobody else's datagrams are heard
        sock.send(data)
        while True:
            sock.settimeout(_left(deadline))
            answer = sock.recv(65535)
            if is_reply(answer, data):
                break
    if not answer[2] & _TC:
        return answer
    address = (upstream.address, upstream.port)
    with contextlib.closing(socket.create_connection(address, _left(deadline))) as stream:
        return _ask_stream(stream, data, deadline)
