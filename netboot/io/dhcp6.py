"""DHCPv6 and router advertisements on the wire: datagrams to the engine, promises to the disk.

It never decides who gets what. Replies that promise nothing leave at once; one that promises an
address leaves when the store's writer has said that it is durable, while this thread goes on
receiving. RFC 8415, 18.3.10.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Any

from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_config import Dhcp6Config, check_config6
from netboot.dhcp6_message import Kind6
from netboot.dhcp6_outcome import Outcome6
from netboot.dhcp6_reply import Arrival6, Send6
from netboot.dhcp_outcome import Sighting
from netboot.errors import SiteError
from netboot.event_rate import EventRate
from netboot.events import Detail, Event, EventKind
from netboot.io.dhcp6_interface import Dhcp6Interface
from netboot.io.held import Backlog, HeldReplies
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import load_leases6, server_duid
from netboot.io.ra import RaInterface
from netboot.io.writer import Write

_DRAIN = 256
"""Datagrams taken from a socket in one turn; others wait theirs."""
_SOLICITS = 48
"""SOLICITs answered in one turn; what is left waits behind all that is not one."""
_TICK_SECONDS = 0.05

Assign = Callable[[IPv6Address, bytes], None]
"""Remembers which boot set a client was offered."""

_Packet = tuple[Dhcp6Interface, bytes, Arrival6]
_Reply = tuple[Dhcp6Interface, Send6]


class Dhcp6Runner:
    """DHCPv6 with the advertisements that belong to it, for one thread that calls `turn`."""

    def __init__(
        self,
        store: NetbootStore,
        assign: Assign = lambda client, boot_set: None,
        on_names: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve nothing yet; `replace` says what. `on_names`: names of leases may have changed."""
        self._store, self._assign = store, assign
        self._engine: Dhcp6Engine | None = None
        self._interfaces: dict[str, Dhcp6Interface] = {}
        self._routers: dict[str, RaInterface] = {}
        self._held = HeldReplies[_Reply](store, self._send, on_names)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._held.woken, selectors.EVENT_READ)
        self._backlog = Backlog[_Packet]()
        self._rate = EventRate()
        self._events: list[Event] = []
        self._sightings: list[Sighting] = []
        self._tick_at = 0.0

    @property
    def trouble(self) -> str | None:
        """Say why replies are held back or advertisements do not leave; None when all is well."""
        if not self._interfaces:
            return None
        said = [self._store.trouble]
        said += [one.trouble for one in self._interfaces.values()]
        said += [one.trouble for one in self._routers.values()]
        return next((one for one in said if one), None)

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

    # One turn

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and advertise what is due."""
        for key, _ in self._selector.select(self._patience(timeout)):
            if key.data is None:
                self._held.woken.recv(4096)
            elif isinstance(key.data, Dhcp6Interface):
                self._on_readable(key.data)
            else:
                key.data.on_readable(time.monotonic())
        self._held.send()
        if self._backlog:
            now = time.time()
            self._answer(self._backlog.take(_SOLICITS, now), now)
        moment = time.monotonic()
        for router in self._routers.values():
            router.tick(moment)
        if moment >= self._tick_at:
            self._tick_at = moment + _TICK_SECONDS
            self._tick(time.time())

    def _patience(self, timeout: float) -> float:
        """Give the seconds until something is due."""
        if self._backlog:
            return 0.0
        if self._events or self._sightings:
            timeout = min(timeout, _TICK_SECONDS)
        now = time.monotonic()
        due = (one.deadline() for one in self._routers.values())
        soonest = min((one - now for one in due if one is not None), default=timeout)
        return max(0.0, min(timeout, soonest))

    def _on_readable(self, interface: Dhcp6Interface) -> None:
        """Drain one socket; a flood of SOLICITs must not stand before what was promised."""
        packets: list[_Packet] = []
        now = time.time()
        for _ in range(_DRAIN):
            heard = interface.receive()
            if heard is None:
                break
            packet = (interface, *heard)
            if heard[0][:1] == bytes((Kind6.SOLICIT,)):
                self._backlog.add(packet, now)
            else:
                packets.append(packet)
        self._answer(packets, now)

    def _answer(self, packets: Iterable[_Packet], now: float) -> None:
        """Ask the engine; what promises nothing is sent at once."""
        if self._engine is None:
            return
        writes: list[Write] = []
        events: list[Event] = []
        promised: list[_Reply] = []
        for interface, data, arrival in packets:
            outcome = self._engine.receive(data, arrival, now)
            for reply in outcome.sends:
                if reply.promises:
                    promised.append((interface, reply))
                else:
                    self._send((interface, reply))
            writes += outcome.writes
            events += outcome.events
            self._sightings += outcome.sightings
            self._prepare_boot(interface, outcome)
        self._events += self._rate.fold(events, now)
        if writes or promised:
            self._commit(writes, promised)

    def _commit(self, writes: list[Write], promised: list[_Reply]) -> None:
        """Hand over to the store; events alone wait for the next lease or the next tick."""
        events, self._events = self._events, []
        sightings, self._sightings = self._sightings, []
        self._held.submit(writes, events, sightings, promised)

    def _prepare_boot(self, interface: Dhcp6Interface, outcome: Outcome6) -> None:
        """Have ready what firmware will want next: its boot set's files, and a route to us."""
        for address, boot_set in outcome.assigned:
            self._assign(address, boot_set)
        router = self._routers.get(interface.name)
        if router is not None:
            for address in outcome.escorted:
                router.escort(address, time.monotonic())

    def _send(self, reply: _Reply) -> None:
        interface, send = reply
        if not interface.is_closed:
            interface.send(send)

    def _tick(self, now: float) -> None:
        """Tell what happened, leases or not."""
        unanswered = self._backlog.unanswered()
        if unanswered:
            detail: Detail = (("kind", EventKind.DISCOVER.value), ("unanswered", unanswered))
            detail = (*detail, ("protocol", "dhcpv6"))
            self._events.append(Event(at=now, kind=EventKind.FLOOD, detail=detail))
        self._events += self._rate.due(now)
        if self._events or self._sightings:
            self._commit([], [])

    def close(self) -> None:
        """Close all sockets; what waits for the disk is not sent any more."""
        if self._events or self._sightings:
            self._commit([], [])
        self._close_others(self._interfaces, set())
        self._close_others(self._routers, set())
        self._selector.close()
        self._held.close()
