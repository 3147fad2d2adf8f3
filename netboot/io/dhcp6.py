"""DHCPv6 and router advertisements on the wire: datagrams to the engine, one commit, the replies.

It never decides who gets what. One socket on port 547 for each interface, joined to ff02::1:2; a
reply leaves where its request came in. RFC 8415, 7.2 and 18.3.10.
"""

from __future__ import annotations

import selectors
import socket
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Any

from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_config import Dhcp6Config, check_config6
from netboot.dhcp6_message import ALL_SERVERS, SERVER_PORT6
from netboot.dhcp6_outcome import Outcome6
from netboot.dhcp6_reply import Arrival6, Send6
from netboot.errors import SiteError
from netboot.events import Event
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import commit6, load_leases6, server_duid
from netboot.io.ra import RaInterface
from netboot.leases6 import LeaseWrite6

_DRAIN = 256
"""Datagrams taken in one turn, and committed together; others wait their turn."""
_RECEIVE_BUFFER = 4 << 20
_LONGEST = 65535

Assign = Callable[[IPv6Address, bytes], None]
"""Remembers which boot set a client was offered."""


class Dhcp6Interface:
    """The socket of one interface; opening it needs NET_BIND_SERVICE."""

    def __init__(self, name: str) -> None:
        """Bind port 547 there; SiteError."""
        self.name = name
        try:
            self._index = socket.if_nametoindex(name)
        except OSError as error:
            raise SiteError(f"interface {name}: {error.strerror}") from error
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._bind()
        except OSError as error:
            self.close()
            raise SiteError(f"interface {name}, port {SERVER_PORT6}: {error.strerror}") from error

    def _bind(self) -> None:
        level = socket.IPPROTO_IPV6
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.name.encode())
        self.socket.setsockopt(level, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(level, socket.IPV6_RECVPKTINFO, 1)
        self.socket.bind(("::", SERVER_PORT6))
        group = ALL_SERVERS.packed + struct.pack("@I", self._index)
        self.socket.setsockopt(level, socket.IPV6_JOIN_GROUP, group)

    def receive(self) -> tuple[bytes, Arrival6] | None:
        """Take one datagram; None when there is none, or the interface went down."""
        try:
            data, ancillary, _, peer = self.socket.recvmsg(_LONGEST, 128)
        except OSError:
            return None
        targets = [
            IPv6Address(value[:16]) for _, kind, value in ancillary if kind == socket.IPV6_PKTINFO
        ]
        arrival = Arrival6(
            interface=self.name,
            source=IPv6Address(peer[0].partition("%")[0]),
            port=peer[1],
            multicast=bool(targets) and targets[0].is_multicast,
        )
        return data, arrival

    def send(self, reply: Send6) -> None:
        """Send a reply; OSError."""
        scope = self._index if reply.destination.is_link_local else 0
        self.socket.sendto(reply.data, (str(reply.destination), reply.port, 0, scope))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Dhcp6Service:
    """DHCPv6 with the advertisements that belong to it, for one thread that calls `turn`.

    `trouble` is a sentence while replies are held back, because the disk or the network refused.
    """

    def __init__(
        self,
        store: NetbootStore,
        tell: Callable[[Iterable[Event]], None],
        assign: Assign | None = None,
        on_names: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve nothing yet; `replace` says what. `on_names`: names of leases may have changed."""
        self._on_names = on_names
        self._store = store
        self._tell = tell
        self._assign = assign
        self._engine: Dhcp6Engine | None = None
        self._interfaces: dict[str, Dhcp6Interface] = {}
        self._routers: dict[str, RaInterface] = {}
        self._selector = selectors.DefaultSelector()
        self._unsaved: dict[IPv6Address, LeaseWrite6] = {}
        self.trouble: str | None = None

    @property
    def sentence(self) -> str | None:
        """What a person should know; None when all is well."""
        said = (one.trouble for one in self._routers.values())
        return self.trouble or next((one for one in said if one), None)

    def replace(self, config: Dhcp6Config) -> None:
        """Take another configuration; SiteError, and the old one stays."""
        check_config6(config)
        self._open(config)
        if self._engine is None:
            duid = server_duid(self._store)
            self._engine = Dhcp6Engine(config, load_leases6(self._store), duid)
        else:
            self._engine.replace(config)
        for router in self._routers.values():
            router.replace(config, time.monotonic())

    def _open(self, config: Dhcp6Config) -> None:
        """Open what is missing before anything is closed."""
        served = [one for one in config.subnets if one.dhcp != "off"]
        told = {one.interface for one in served if not one.relayed}
        opened: dict[str, Dhcp6Interface] = {}
        routers: dict[str, RaInterface] = {}
        new: list[Dhcp6Interface | RaInterface] = []
        try:
            for name in sorted({one.interface for one in served} - set(self._interfaces)):
                new.append(opened.setdefault(name, Dhcp6Interface(name)))
            for name in sorted(told - set(self._routers)):
                new.append(routers.setdefault(name, RaInterface(name, config, time.monotonic())))
        except SiteError:
            for part in new:
                part.close()
            raise
        for part in new:
            self._selector.register(part.socket, selectors.EVENT_READ, part)
        self._interfaces |= opened
        self._routers |= routers
        self._close_others(self._interfaces, {one.interface for one in served})
        self._close_others(self._routers, told)

    def _close_others(self, there: dict[str, Any], wanted: set[str]) -> None:
        for name in set(there) - wanted:
            one = there.pop(name)
            self._selector.unregister(one.socket)
            one.close()

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and advertise what is due."""
        now = time.monotonic()
        due = [one.deadline() for one in self._routers.values()]
        soonest = min((one for one in due if one is not None), default=now + timeout)
        for key, _ in self._selector.select(max(0.0, min(timeout, soonest - now))):
            if isinstance(key.data, Dhcp6Interface):
                self._on_readable(key.data)
            else:
                key.data.on_readable(time.monotonic())
        for router in self._routers.values():
            router.tick(time.monotonic())
        if self._unsaved:
            self._commit([])

    def _on_readable(self, interface: Dhcp6Interface) -> None:
        """Drain one socket: all its datagrams to the engine, one commit, then the replies."""
        if self._engine is None:
            return
        outcomes, now = [], time.time()
        for _ in range(_DRAIN):
            packet = interface.receive()
            if packet is None:
                break
            outcomes.append(self._engine.receive(*packet, now))
        self._release(interface, outcomes)

    def _release(self, interface: Dhcp6Interface, outcomes: list[Outcome6]) -> None:
        is_durable = self._commit(outcomes)
        for outcome in outcomes:
            for reply in outcome.sends:
                if is_durable or not reply.promises:
                    self._send(interface, reply)
            self._prepare_boot(interface, outcome)
        self._tell(event for outcome in outcomes for event in outcome.events)
        sightings = [one for outcome in outcomes for one in outcome.sightings]
        if sightings:
            self._store.submit((), (), sightings, lambda error: None)

    def _prepare_boot(self, interface: Dhcp6Interface, outcome: Outcome6) -> None:
        """Have ready what firmware will want next: its boot set's files, and a route to us."""
        if self._assign is not None:
            for address, boot_set in outcome.assigned:
                self._assign(address, boot_set)
        router = self._routers.get(interface.name)
        if router is not None:
            for address in outcome.escorted:
                router.escort(address, time.monotonic())

    def _commit(self, outcomes: list[Outcome6]) -> bool:
        """Make leases durable; on a full or broken disk no promise leaves: clients ask again.

        What the disk refused is written with the next, so that it says what the table says.
        """
        self._unsaved |= {one.address: one for outcome in outcomes for one in outcome.writes}
        try:
            if self._unsaved:
                commit6(self._store, self._unsaved.values())
                self._unsaved.clear()
                self._on_names()
        except sqlite3.Error as error:
            self.trouble = f"no lease is given: netboot.db cannot be written: {error}"
            return False
        self.trouble = None
        return True

    def _send(self, interface: Dhcp6Interface, reply: Send6) -> None:
        try:
            interface.send(reply)
        except OSError as error:
            self.trouble = f"interface {interface.name}: cannot send: {error.strerror}"

    def close(self) -> None:
        """Close all sockets."""
        self._close_others(self._interfaces, set())
        self._close_others(self._routers, set())
        self._selector.close()
