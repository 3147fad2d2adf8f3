"""DHCPv6 as this process runs it: only on interfaces where the lookout found nobody else.

It never decides who gets what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from netboot.dhcp6_config import Dhcp6Config, check_config6
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.io.dhcp6 import Assign, Dhcp6Runner
from netboot.io.files import Told
from netboot.io.leases import NetbootStore
from netboot.io.lookout import LOOK_OUT_SECONDS, Lookout
from netboot.io.probe import PROBE_SECONDS, ForeignServer
from netboot.io.probe6 import probe6
from netboot.io.workers import State


class Dhcp6Service:
    """The DHCPv6 runner behind the look for others; `turn` is one turn of its thread's loop."""

    def __init__(
        self,
        store: NetbootStore,
        tell: Told,
        assign: Assign = lambda client, boot_set: None,
        on_names: Callable[[], None] = lambda: None,
        seconds: float = PROBE_SECONDS,
        look_out: float = LOOK_OUT_SECONDS,
    ) -> None:
        """Serve nothing yet; `on_names` is called when names of leases may have changed.

        A look takes `seconds`; `look_out` seconds lie between looks while DHCPv6 is served.
        """
        self._runner = Dhcp6Runner(store, assign, on_names)
        self._config: Dhcp6Config | None = None

        def ask(interfaces: Iterable[str]) -> tuple[ForeignServer, ...]:
            return probe6(interfaces, seconds)

        self._lookout = Lookout(ask, EventKind.FOREIGN_DHCP6, tell, look_out)

    @property
    def foreign(self) -> tuple[ForeignServer, ...]:
        """Other servers, because of which we do not serve."""
        return self._lookout.foreign

    @property
    def rivals(self) -> tuple[ForeignServer, ...]:
        """Other servers that came while we served."""
        return self._lookout.rivals

    @property
    def state(self) -> State:
        """What is being done, for `status`."""
        if self._config is None:
            return State.WAITING
        if self.foreign:
            return State.REFUSED
        if self._lookout.trouble or self._runner.trouble:
            return State.TROUBLE
        if not _served(self._config):
            return State.OFF
        return State.SERVING if _served(self._config) <= self._lookout.clear else State.LOOKING

    @property
    def sentence(self) -> str | None:
        """Why DHCPv6 is not served as planned, or None."""
        return self._lookout.sentence("DHCPv6") or self._runner.trouble

    def replace(self, config: Dhcp6Config) -> None:
        """Take another configuration; SiteError. Interfaces that are new are looked at first."""
        check_config6(config)
        self._config = config
        self._lookout.watch(_served(config))
        self._apply()

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for packets, answer them, and look where that is due."""
        if self._lookout.turn():
            self._apply()
        self._runner.turn(timeout)

    def _apply(self) -> None:
        """Serve what was looked at and is planned; SiteError is trouble, and tried again."""
        if self._config is None:
            return
        try:
            self._runner.replace(_only(self._config, self._lookout.clear))
        except SiteError as error:
            self._lookout.distrust(str(error))

    def close(self) -> None:
        """Close all sockets."""
        self._runner.close()


def _served(config: Dhcp6Config) -> frozenset[str]:
    return frozenset(one.interface for one in config.subnets if one.dhcp != "off")


def _only(config: Dhcp6Config, interfaces: frozenset[str]) -> Dhcp6Config:
    """Turn DHCPv6 off where it was not looked, or another server answers."""
    subnets = tuple(
        one if one.interface in interfaces else replace(one, dhcp="off") for one in config.subnets
    )
    return replace(config, subnets=subnets)
