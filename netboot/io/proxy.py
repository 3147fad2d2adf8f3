"""ProxyDHCP's sockets: port 67 where another server gives addresses, and port 4011 of PXE.

It never decides what is answered. SO_BINDTODEVICE, so that a reply leaves where the request came
in; never SO_REUSEPORT, which would deliver a broadcast to every socket. No frames: a client that
has no address yet is not given one here, and hears broadcasts.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from netboot.dhcp_config import DhcpConfig, check_config
from netboot.dhcp_message import SERVER_PORT
from netboot.dhcp_outcome import Sighting
from netboot.dhcp_request import Arrival
from netboot.errors import SiteError
from netboot.io.files import Told
from netboot.proxy import PXE_PORT, ProxyEngine, Send

Assign = Callable[[IPv4Address, bytes], None]
"""Takes the boot set that a client address was offered."""
See = Callable[[Sequence[Sighting]], None]
"""Takes who was heard."""

_DRAIN = 64
_LARGEST = 9216
_RECEIVE_BUFFER = 1 << 20
_LOOK_SECONDS = 2.0
"""Between looks whether an interface that was missing, or is another one by now, came."""
_IP_PKTINFO = 8
"""Linux's number; the socket module has no name for it before Python 3.14."""

_Key = tuple[str, int]
"""Interface and port."""


class ProxyRunner:
    """The engine with its sockets, for one thread; `turn` is one turn of its loop."""

    def __init__(
        self,
        tell: Told,
        assign: Assign = lambda client, boot_set: None,
        see: See = lambda sightings: None,
    ) -> None:
        """Serve nothing yet; `replace` says what and where."""
        self._tell, self._assign, self._see = tell, assign, see
        self._engine: ProxyEngine | None = None
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[_Key, socket.socket] = {}
        self._indexes: dict[_Key, int] = {}
        self._missing: dict[_Key, str] = {}
        self._look_at = 0.0

    @property
    def trouble(self) -> str | None:
        """Say which interface cannot be used, and why."""
        return "; ".join(sorted(set(self._missing.values()))) or None

    def sockets(self) -> tuple[socket.socket, ...]:
        """Give the sockets that receive; they change in `replace`, and with their interfaces."""
        return tuple(self._sockets.values())

    def replace(self, config: DhcpConfig) -> None:
        """Serve another configuration; SiteError, and the old one stays."""
        check_config(config)
        wanted = wanted_ports(config)
        opened: dict[_Key, socket.socket] = {}
        try:
            for key in sorted(wanted - self._sockets.keys()):
                opened[key] = _listen(*key)
        except SiteError:
            for sock in opened.values():
                sock.close()
            raise
        for key in self._sockets.keys() - wanted:
            self._close(key)
        self._missing.clear()
        for key, sock in opened.items():
            self._add(key, sock)
        if self._engine is None:
            self._engine = ProxyEngine(config)
        else:
            self._engine.replace(config)

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, and answer them."""
        for key, _ in self._selector.select(min(timeout, _LOOK_SECONDS)):
            sock = key.fileobj
            if isinstance(sock, socket.socket):
                self.on_readable(sock, time.time())
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._look_after_interfaces()
            if self._engine is not None:
                self._engine.tick(time.time())

    def on_readable(self, sock: socket.socket, now: float) -> None:
        """Answer what one socket has received; `now` in seconds of unix time."""
        key = next((key for key, known in self._sockets.items() if known is sock), None)
        if key is None or self._engine is None:
            return
        interface, listener = key
        for _ in range(_DRAIN):
            try:
                data, (source, port) = sock.recvfrom(_LARGEST)
            except OSError:
                return
            arrival = Arrival(interface=interface, source=IPv4Address(source))
            outcome = self._engine.receive(data, arrival, now, listener=listener, port=port)
            for entry in outcome.assignments:
                self._assign(entry.client, entry.boot_set)
            for send in outcome.sends:
                _send(sock, send)
            if outcome.events:
                self._tell(outcome.events)
            if outcome.sightings:
                self._see(outcome.sightings)

    def _add(self, key: _Key, sock: socket.socket) -> None:
        self._sockets[key] = sock
        self._indexes[key] = socket.if_nametoindex(key[0])
        self._selector.register(sock, selectors.EVENT_READ)

    def _close(self, key: _Key) -> None:
        sock = self._sockets.pop(key)
        del self._indexes[key]
        self._selector.unregister(sock)
        sock.close()

    def _look_after_interfaces(self) -> None:
        """Open anew what is another interface than before, and what was missing."""
        for key, index in tuple(self._indexes.items()):
            if _index(key[0]) != index:
                self._close(key)
                self._missing[key] = f"interface {key[0]} is gone"
        for key in tuple(self._missing):
            try:
                self._add(key, _listen(*key))
            except SiteError as error:
                self._missing[key] = str(error)
            else:
                del self._missing[key]

    def close(self) -> None:
        """Close all sockets."""
        for key in tuple(self._sockets):
            self._close(key)
        self._selector.close()


def wanted_ports(config: DhcpConfig) -> frozenset[_Key]:
    """Say where to listen: on 67 where the mode is "proxy", on 4011 where we serve DHCP too.

    Some firmware asks port 4011 although it was told not to.
    """
    served = [one for one in config.subnets if one.boot and one.dhcp != "off"]
    return frozenset((one.interface, PXE_PORT) for one in served) | frozenset(
        (one.interface, SERVER_PORT) for one in served if one.dhcp == "proxy"
    )


def _index(interface: str) -> int | None:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def _listen(interface: str, port: int) -> socket.socket:
    """Open a socket that hears broadcasts of one interface; SiteError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    level = socket.SOL_SOCKET
    try:
        socket.if_nametoindex(interface)
        sock.setsockopt(level, socket.SO_REUSEADDR, 1)
        sock.setsockopt(level, socket.SO_BROADCAST, 1)
        sock.setsockopt(level, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.setsockopt(level, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind(("0.0.0.0", port))
    except OSError as error:
        sock.close()
        raise SiteError(f"interface {interface}, port {port}: {error.strerror}") from error
    return sock


def _send(sock: socket.socket, send: Send) -> None:
    """Send from the address that the reply names; what cannot leave, the client asks for again."""
    info = struct.pack("=I4s4s", 0, send.source.packed, bytes(4))
    ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, info)]
    try:
        sock.sendmsg([send.data], ancillary, 0, (str(send.destination), send.port))
    except OSError:
        return
