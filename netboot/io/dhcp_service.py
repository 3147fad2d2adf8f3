"""DHCP as this process runs it: nothing is served on an interface where another server answers.

It looks before it binds, in a thread of its own, and looks again while it was refused. One that
comes later is told of, and DHCP goes on: who is right, a person decides. It never decides who gets
what.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address

from netboot.dhcp import DhcpConfig, DhcpEngine
from netboot.errors import SiteError
from netboot.events import Event, EventKind
from netboot.io.dhcp import DhcpRunner
from netboot.io.files import Told
from netboot.io.leases import NetbootStore
from netboot.io.probe import PROBE_SECONDS, ForeignServer, probe, refuse_foreign
from netboot.io.workers import State, spare_collector

LOOK_AGAIN_SECONDS = 60.0
LOOK_OUT_SECONDS = 600.0
"""Between looks for servers that came later."""
LOOK_SOON_SECONDS = 5.0
"""After which an interface that could not be used is tried again."""
_POLL_SECONDS = 0.1

_Looked = tuple[frozenset[str], tuple[ForeignServer, ...] | SiteError]


class DhcpService:
    """The DHCP runner behind the look for others; `turn` is one turn of its thread's loop."""

    def __init__(
        self,
        store: NetbootStore,
        tell: Told,
        on_leases: Callable[[], None],
        seconds: float = PROBE_SECONDS,
        look_out: float = LOOK_OUT_SECONDS,
        assign: Callable[[IPv4Address, bytes], None] = lambda client, boot_set: None,
    ) -> None:
        """Serve nothing yet; `on_leases` is called when names of leases may have changed.

        A look takes `seconds`; `look_out` seconds lie between looks while DHCP is served. `assign`
        takes the boot set that a client address was offered.
        """
        self._look_out, self._assign = look_out, assign
        self._store, self._tell, self._on_leases, self._seconds = store, tell, on_leases, seconds
        self._runner: DhcpRunner | None = None
        self._config: DhcpConfig | None = None
        self._clear: frozenset[str] = frozenset()
        self._looked: queue.SimpleQueue[_Looked] = queue.SimpleQueue()
        self._looking: frozenset[str] = frozenset()
        self._look_at = 0.0
        self.foreign: tuple[ForeignServer, ...] = ()
        self.rivals: tuple[ForeignServer, ...] = ()
        self.trouble: str | None = None

    @property
    def state(self) -> State:
        """What is being done, for `status`."""
        if self._config is None:
            return State.WAITING
        if self.foreign:
            return State.REFUSED
        if self.trouble:
            return State.TROUBLE
        if not _served(self._config):
            return State.OFF
        return State.SERVING if _served(self._config) <= self._clear else State.LOOKING

    @property
    def sentence(self) -> str | None:
        """Why DHCP is not served as planned, or None."""
        for servers, what in (
            (self.foreign, "DHCP is not served"),
            (self.rivals, "DHCP is served beside another server that came later"),
        ):
            try:
                refuse_foreign(servers)
            except SiteError as error:
                return f"{what}: {error}"
        if self.trouble:
            return f"DHCP: {self.trouble}"
        return self._runner.trouble if self._runner is not None else None

    def replace(self, config: DhcpConfig) -> None:
        """Take another configuration; interfaces that are new are looked at first."""
        self._config = config
        served = _served(config)
        self._clear &= served
        self.foreign = tuple(one for one in self.foreign if one.interface in served)
        self.rivals = tuple(one for one in self.rivals if one.interface in served)
        if served - self._clear:
            self._look_at = 0.0
        self._apply()

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and look where that is due."""
        self._take_looks()
        if self._config is not None and not self._looking and time.monotonic() >= self._look_at:
            self._look(_served(self._config) - self._clear or self._clear)
        if self._runner is None:
            time.sleep(min(timeout, _POLL_SECONDS))
        else:
            self._runner.turn(timeout)

    def _look(self, interfaces: frozenset[str]) -> None:
        if interfaces:
            self._looking = interfaces
            threading.Thread(target=self._ask, args=(interfaces,), daemon=True).start()

    def _ask(self, interfaces: frozenset[str]) -> None:
        try:
            self._looked.put((interfaces, probe(sorted(interfaces), self._seconds)))
        except SiteError as error:
            self._looked.put((interfaces, error))

    def _take_looks(self) -> None:
        while not self._looked.empty():
            interfaces, found = self._looked.get()
            self._looking = frozenset()
            if isinstance(found, SiteError):
                self.trouble = str(found)
                self._look_at = time.monotonic() + LOOK_SOON_SECONDS
                continue
            self.trouble = None
            self._tell_foreign(found)
            self._judge(interfaces, found)

    def _judge(self, interfaces: frozenset[str], found: tuple[ForeignServer, ...]) -> None:
        """Serve where nobody answered; where we serve already, keep who came later."""
        served = _served(self._config) if self._config is not None else frozenset()
        found = tuple(one for one in found if one.interface in served)
        is_new = not interfaces <= self._clear
        if is_new:
            self.foreign = found
            self._clear |= interfaces & served - {server.interface for server in found}
        else:
            self.rivals = found
        pause = LOOK_AGAIN_SECONDS if self.foreign or self.rivals else self._look_out
        if served - self._clear - {server.interface for server in self.foreign}:
            pause = 0.0  # a plan came while we looked
        self._look_at = time.monotonic() + pause
        if is_new:
            self._apply()

    def _tell_foreign(self, found: Iterable[ForeignServer]) -> None:
        self._tell(
            Event(
                at=time.time(),
                kind=EventKind.FOREIGN,
                mac=server.mac,
                address=server.address,
                reason="FOREIGN-DHCP",
                detail=(("interface", server.interface),),
            )
            for server in found
            if server not in (*self.foreign, *self.rivals)
        )

    def _apply(self) -> None:
        """Serve what was looked at and is planned; SiteError is trouble, and tried again."""
        if self._config is None:
            return
        config = _only(self._config, self._clear)
        try:
            if self._runner is None:
                engine = DhcpEngine(config, self._store.load_leases())
                self._runner = DhcpRunner(
                    engine,
                    self._store,
                    config,
                    on_names=self._on_leases,
                    assign=self._assign,
                )
                spare_collector()
            else:
                self._runner.replace(config, time.time())
        except SiteError as error:
            self.trouble = str(error)
            self._clear = frozenset()
            self._look_at = time.monotonic() + LOOK_SOON_SECONDS

    def close(self) -> None:
        """Close all sockets."""
        if self._runner is not None:
            self._runner.close()


def _served(config: DhcpConfig) -> frozenset[str]:
    return frozenset(one.interface for one in config.subnets if one.dhcp == "server")


def _only(config: DhcpConfig, interfaces: frozenset[str]) -> DhcpConfig:
    """Turn DHCP off where it was not looked, or another server answers."""
    subnets = tuple(
        one if one.interface in interfaces else replace(one, dhcp="off") for one in config.subnets
    )
    return replace(config, subnets=subnets)
