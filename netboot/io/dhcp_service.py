"""DHCP as this process runs it: only on interfaces where the lookout found nobody else.

It never decides who gets what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address

from netboot.dhcp import DhcpConfig, DhcpEngine
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.io.dhcp import DhcpRunner
from netboot.io.files import Told
from netboot.io.leases import NetbootStore
from netboot.io.lookout import LOOK_OUT_SECONDS, Lookout
from netboot.io.probe import PROBE_SECONDS, ForeignServer, probe
from netboot.io.workers import State, spare_collector

_POLL_SECONDS = 0.1


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
        self._store, self._on_leases, self._assign = store, on_leases, assign
        self._runner: DhcpRunner | None = None
        self._config: DhcpConfig | None = None

        def ask(interfaces: Iterable[str]) -> tuple[ForeignServer, ...]:
            return probe(interfaces, seconds)

        self._lookout = Lookout(ask, EventKind.FOREIGN, tell, look_out)

    @property
    def foreign(self) -> tuple[ForeignServer, ...]:
        """Other servers, because of which we do not serve."""
        return self._lookout.foreign

    @property
    def rivals(self) -> tuple[ForeignServer, ...]:
        """Other servers that came while we served."""
        return self._lookout.rivals

    @property
    def trouble(self) -> str | None:
        """Why interfaces cannot be used, or None."""
        return self._lookout.trouble

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
        return State.SERVING if _served(self._config) <= self._lookout.clear else State.LOOKING

    @property
    def sentence(self) -> str | None:
        """Why DHCP is not served as planned, or None."""
        own = self._runner.trouble if self._runner is not None else None
        return self._lookout.sentence("DHCP") or own

    def replace(self, config: DhcpConfig) -> None:
        """Take another configuration; interfaces that are new are looked at first."""
        self._config = config
        self._lookout.watch(_served(config))
        self._apply()

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and look where that is due."""
        if self._lookout.turn():
            self._apply()
        if self._runner is None:
            time.sleep(min(timeout, _POLL_SECONDS))
        else:
            self._runner.turn(timeout)

    def _apply(self) -> None:
        """Serve what was looked at and is planned; SiteError is trouble, and tried again."""
        if self._config is None:
            return
        config = _only(self._config, self._lookout.clear)
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
            self._lookout.distrust(str(error))

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
