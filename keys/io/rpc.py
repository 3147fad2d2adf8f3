"""Calls between our processes: bounded JSON lines over UNIX sockets, with peer credentials.

A request is one line `{"method": …, "params": {…}}`, an answer one line `{"ok": {…}}` or
`{"error": {"code": …, "message": …}}`. Who may call what is a table; the kernel says who calls
(SO_PEERCRED, unix(7)). It never authenticates by anything that the peer sends.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keys.errors import KeysError, PeerError, SiteError
from keys.io.layout import Layout

MAX_LINE = 12 * 1024 * 1024
MAX_CONNECTIONS = 64
IDLE_SECONDS = 30.0

Params = Mapping[str, Any]
Handler = Callable[[str, Params], Mapping[str, Any]]
"""Takes the caller's name and the parameters; PeerError becomes an error answer."""


class RpcError(KeysError):
    """The other process answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        """Keep code and sentence apart."""
        super().__init__(message)
        self.code = code


class RpcUnavailableError(KeysError):
    """The other process does not answer; it may be restarting."""


class Refusal(PeerError):  # noqa: N818 - it is an answer to the peer, not a fault of ours
    """Raise in a handler to answer with a code of its own."""

    def __init__(self, code: str, message: str) -> None:
        """Keep code and sentence apart."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Method:
    """One cell row of the socket table: what is called and by whom it may be."""

    handler: Handler
    users: frozenset[str]


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    user: str | None
    heard: float
    inbound: bytearray = field(default_factory=bytearray)
    outbound: bytearray = field(default_factory=bytearray)


class RpcServer:
    """One thread, one selector; a slow or silent peer costs a connection, never the service."""

    def __init__(self, layout: Layout, service: str, methods: Mapping[str, Method]) -> None:
        """Bind the service's socket; the directory must exist and belong to the service."""
        self._layout = layout
        self._methods = methods
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        path = layout.socket(service)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            self._listener.bind(str(path))
            path.chmod(0o666)
        except OSError as error:
            raise SiteError(f"cannot listen on {path}: {error.strerror}") from error
        self._listener.listen(MAX_CONNECTIONS)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do it."""
        for key, mask in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
                continue
            connection = self._connections[key.fd]
            if mask & selectors.EVENT_READ:
                self._read(connection)
            if mask & selectors.EVENT_WRITE and connection.sock.fileno() >= 0:
                self._write(connection)
        self._expire()

    def close(self) -> None:
        """Close everything; the path stays until the next start."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        user = self._layout.user_name(uid)
        self._connections[sock.fileno()] = _Connection(sock, user, time.monotonic())
        self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(connection.inbound) + len(data) > MAX_LINE:
            self._drop(connection)
            return
        connection.heard = time.monotonic()
        connection.inbound += data
        while connection.sock.fileno() >= 0 and (end := connection.inbound.find(b"\n")) >= 0:
            line = bytes(connection.inbound[:end])
            del connection.inbound[: end + 1]
            connection.outbound += _line(self._answer(connection.user, line))
            self._write(connection)

    def _answer(self, user: str | None, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            name, params = request["method"], request.get("params", {})
            method = self._methods[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _error("MALFORMED", "unknown method or malformed request")
        if user is None or user not in method.users:
            return _error("FORBIDDEN", f"{user or 'an unknown user'} may not call {name}")
        if not isinstance(params, dict):
            return _error("MALFORMED", "params must be an object")
        try:
            return {"ok": dict(method.handler(user, params))}
        except Refusal as refusal:
            return _error(refusal.code, str(refusal))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _error("MALFORMED", f"{name}: {type(error).__name__} in the parameters")
        except KeysError as error:
            return _error("FAILED", str(error))

    def _write(self, connection: _Connection) -> None:
        try:
            while connection.outbound:
                sent = connection.sock.send(connection.outbound[:262144])
                del connection.outbound[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outbound else 0)
        self._selector.modify(connection.sock, wanted)

    def _expire(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for connection in [c for c in self._connections.values() if c.heard < limit]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection.sock.fileno() < 0:
            return
        self._selector.unregister(connection.sock)
        del self._connections[connection.sock.fileno()]
        connection.sock.close()


def call(path: Path, method: str, params: Params | None = None, timeout: float = 20.0) -> Any:
    """Call one method and return what it answered.

    RpcError when it refused, RpcUnavailableError when nobody answered in `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
            sock.sendall(_line({"method": method, "params": dict(params or {})}))
            line = _read_line(sock, deadline)
        except OSError as error:
            raise RpcUnavailableError(f"no answer from {path}: {error}") from error
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise RpcUnavailableError(f"{path} broke off in its answer") from error
    if "error" in answer:
        raise RpcError(answer["error"]["code"], answer["error"]["message"])
    return answer["ok"]


def _read_line(sock: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(262144)
        if not data or len(received) > MAX_LINE:
            break
        received += data
    return bytes(received)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _error(code: str, message: str) -> Mapping[str, Any]:
    return {"error": {"code": code, "message": message}}
