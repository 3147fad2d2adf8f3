"""The DHCP server's loop: packets to the engine, what it promises to the disk, then the replies.

It never decides who gets what. Replies that promise nothing leave at once; an ACK leaves when the
store's writer has said that its lease is durable, while this thread goes on receiving.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from itertools import count

from netboot.dhcp import Arrival, Candidate, DhcpConfig, DhcpEngine, Outcome, Sighting, check_config
from netboot.dhcp_reply import Send
from netboot.errors import SiteError
from netboot.event_rate import EventRate
from netboot.events import Detail, Event, EventKind
from netboot.io.arp import ArpProber
from netboot.io.dhcp_interface import DhcpInterface, Origin
from netboot.io.held import HELD, Backlog, HeldReplies
from netboot.io.leases import NetbootStore
from netboot.leases import LeaseWrite

_DRAIN = 256
"""Packets taken from a socket in one turn."""
_DISCOVERS = 48
"""DISCOVERs answered in one turn; what is left waits behind all that is not a DISCOVER."""
_IS_DISCOVER = b"\x35\x01\x01"
"""Option 53 where clients write it, first; one elsewhere is served like everything else."""
_TICK_SECONDS = 0.05
_BUSY_SECONDS = 0.002
_FEW = 8
_NAP_SECONDS = 0.0005
"""When turns for few packets follow each other closely, let some gather: a turn costs as much."""
_LOOK_SECONDS = 1.0
"""Between looks whether an interface came, went, or is another one by the same name."""
_PROBE_SECONDS = 0.5
_CANDIDATES = 16
"""Addresses of each pool that are asked by ARP ahead of time."""
_CALM = 100
"""Packets between two probes, at most: under load the line and this thread have other work."""

_Packet = tuple[bytes, Arrival, Origin]
_Reply = tuple[Origin, Send]


class DhcpRunner:
    """The engine with its sockets and store, for one thread; `turn` is one turn of its loop."""

    def __init__(
        self,
        engine: DhcpEngine,
        store: NetbootStore,
        config: DhcpConfig,
        *,
        on_names: Callable[[], None] = lambda: None,
        assign: Callable[[IPv4Address, bytes], None] = lambda client, boot_set: None,
        probe: bool = True,
    ) -> None:
        """Open the sockets; SiteError. `on_names` is told that names of leases may have changed.

        `assign` takes the boot set that a client address was offered. With `probe`, addresses are
        asked by ARP before they are lent.
        """
        self._engine, self._store = engine, store
        self._assign = assign
        self._held = HeldReplies[_Reply](store, self._dispatch, on_names)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._held.woken, selectors.EVENT_READ)
        self._interfaces: dict[str, DhcpInterface] = {}
        self._missing: dict[str, str] = {}
        self._delayed: list[tuple[float, int, _Reply]] = []
        self._order = count()
        self._rate = EventRate()
        self._tick_at = self._look_at = self._probe_at = 0.0
        self._verdicts: deque[tuple[Candidate, bytes | None]] = deque()
        self._backlog = Backlog[_Packet]()
        self._events: list[Event] = []
        self._sightings: list[Sighting] = []
        self._heard = 0
        self._is_busy, self._moment = False, 0.0
        self._open(config)
        self._prober = ArpProber(self._judged) if probe else None
        store.lengthen_log()

    @property
    def trouble(self) -> str | None:
        """Say why replies are held back: the disk or an interface refuses."""
        said = (interface.trouble for interface in self._interfaces.values())
        sentences = [self._store.trouble, *self._missing.values(), *said]
        return "; ".join(sentence for sentence in sentences if sentence) or None

    def sockets(self) -> tuple[socket.socket, ...]:
        """Give the sockets that receive; they change in `replace`, and with their interfaces."""
        return tuple(interface.udp for interface in self._interfaces.values())

    def replace(self, config: DhcpConfig, now: float) -> None:
        """Run another configuration; SiteError, and the old one stays."""
        check_config(config)
        self._open(config)
        self._engine.replace(config, now)

    def _open(self, config: DhcpConfig) -> None:
        """Open what is missing before anything is closed."""
        wanted = {subnet.interface for subnet in config.subnets if subnet.dhcp == "server"}
        opened: list[DhcpInterface] = []
        try:
            opened += map(DhcpInterface, sorted(wanted - self._interfaces.keys()))
        except SiteError:
            for interface in opened:
                interface.close()
            raise
        for name in self._interfaces.keys() - wanted:
            self._drop(self._interfaces.pop(name))
        self._missing.clear()
        for interface in opened:
            self._add(interface)

    def _add(self, interface: DhcpInterface) -> None:
        self._interfaces[interface.name] = interface
        self._selector.register(interface.udp, selectors.EVENT_READ, interface)

    def _drop(self, interface: DhcpInterface) -> None:
        self._selector.unregister(interface.udp)
        interface.close()

    # One turn

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for something to do, and do it."""
        ready = self._selector.select(self._patience(timeout))
        if self._is_busy:
            time.sleep(_NAP_SECONDS)
        heard = self._heard
        for key, _ in ready:
            if key.data is None:
                self._held.woken.recv(4096)
            else:
                self._receive(key.data, time.time())
        self._held.send()
        if self._backlog:
            now = time.time()
            self._answer(self._backlog.take(_DISCOVERS, now), now)
        moment = time.monotonic()
        self._is_busy = 0 < self._heard - heard < _FEW and moment < self._moment + _BUSY_SECONDS
        self._moment = moment
        while self._delayed and self._delayed[0][0] <= moment:
            self._send(heapq.heappop(self._delayed)[2])
        self._take_verdicts()
        self._tick(moment)

    def _patience(self, timeout: float) -> float:
        """Give the seconds until something is due."""
        if self._backlog:
            return 0.0
        if self._events or self._sightings:
            timeout = min(timeout, _TICK_SECONDS)
        if self._delayed:
            timeout = min(timeout, self._delayed[0][0] - time.monotonic())
        return max(0.0, min(timeout, _LOOK_SECONDS))

    def _receive(self, interface: DhcpInterface, now: float) -> None:
        """Drain one socket; a flood of DISCOVERs must not stand before what was promised."""
        packets: list[_Packet] = []
        for _ in range(_DRAIN):
            packet = interface.receive()
            if packet is None:
                break
            self._heard += 1
            if packet[0][240:243] == _IS_DISCOVER:
                self._backlog.add(packet, now)
            else:
                packets.append(packet)
        self._answer(packets, now)

    def _answer(self, packets: Iterable[_Packet], now: float) -> None:
        """Ask the engine; what promises nothing is sent at once."""
        outcomes: list[Outcome] = []
        promised: list[_Reply] = []
        for data, arrival, origin in packets:
            outcome = self._engine.receive(data, arrival, now)
            outcomes.append(outcome)
            for reply in outcome.sends:
                if reply.promises:
                    promised.append((origin, reply))
                else:
                    self._dispatch((origin, reply))
        self._submit(outcomes, promised, now)

    def _submit(self, outcomes: Iterable[Outcome], promised: list[_Reply], now: float) -> None:
        """Have it made durable, and hold the replies that promise it until it is."""
        writes: list[LeaseWrite] = []
        events: list[Event] = []
        for outcome in outcomes:
            writes += outcome.writes
            events += outcome.events
            self._sightings += outcome.sightings
            for entry in outcome.assignments:
                self._assign(entry.client, entry.boot_set)
        self._events += self._rate.fold(events, now)
        if writes or promised:
            self._commit(writes, promised)

    def _commit(self, writes: list[LeaseWrite], promised: list[_Reply]) -> None:
        """Hand over to the store; events alone wait for the next lease or the next tick."""
        events, self._events = self._events, []
        sightings, self._sightings = self._sightings, []
        self._held.submit(writes, events, sightings, promised)

    def _dispatch(self, reply: _Reply) -> None:
        """Send now, or when its delay is over."""
        delay = reply[1].delay
        if delay > 0 and len(self._delayed) < HELD:
            due = time.monotonic() + delay
            heapq.heappush(self._delayed, (due, next(self._order), reply))
        else:
            self._send(reply)

    def _send(self, reply: _Reply) -> None:
        origin, send = reply
        if not origin.interface.is_closed:
            origin.interface.send(send, origin.asked)

    def _tick(self, moment: float) -> None:
        """Let time pass: in the engine on every turn but for a flood's, and on the interfaces."""
        if moment >= self._tick_at:
            self._tick_at = moment + _TICK_SECONDS
            now = time.time()
            passed = self._engine.tick(now)
            self._submit([passed], [], now)
            if self._events or self._sightings:
                self._commit([], [])
        if moment >= self._look_at:
            self._look_at = moment + _LOOK_SECONDS
            self._look_after_interfaces()
            self._tell_unanswered()
        if moment >= self._probe_at:
            self._probe_at = moment + _PROBE_SECONDS
            self._probe()

    def _tell_unanswered(self) -> None:
        unanswered = self._backlog.unanswered()
        if unanswered:
            detail: Detail = (("kind", EventKind.DISCOVER.value), ("unanswered", unanswered))
            self._events.append(Event(at=time.time(), kind=EventKind.FLOOD, detail=detail))

    # Addresses asked by ARP

    def _probe(self) -> None:
        """Have the next addresses asked, while there is little else to do."""
        if self._prober is not None and not self._prober.is_busy and self._heard <= _CALM:
            self._prober.ask(self._engine.candidates(_CANDIDATES))
        self._heard = 0

    def _judged(self, candidate: Candidate, mac: bytes | None) -> None:
        """Pass on who answered; in the prober's thread."""
        self._verdicts.append((candidate, mac))
        self._held.wake()

    def _take_verdicts(self) -> None:
        now = time.time()
        while self._verdicts:
            candidate, mac = self._verdicts.popleft()
            if mac is None:
                self._engine.probed(candidate.address, now)
            else:
                self._submit([self._engine.in_use(candidate.address, mac, now)], [], now)

    def _look_after_interfaces(self) -> None:
        """Open anew what is another interface than before, and what was missing."""
        for name, interface in tuple(self._interfaces.items()):
            if not interface.is_current:
                self._drop(self._interfaces.pop(name))
                self._missing[name] = f"interface {name} is gone"
        for name in tuple(self._missing):
            try:
                self._add(DhcpInterface(name))
            except SiteError as error:
                self._missing[name] = str(error)
            else:
                del self._missing[name]

    def close(self) -> None:
        """Close all sockets; what waits for the disk is not sent any more."""
        if self._prober is not None:
            self._prober.close()
        if self._events or self._sightings:
            self._commit([], [])
        for interface in self._interfaces.values():
            interface.close()
        self._interfaces.clear()
        self._selector.close()
        self._held.close()
