"""DHCP's configuration, and what each client is told by it: the plan's levels, looked up.

It never sees a packet. Levels, the nearest first: reservation, classes, pool, subnet, site.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from netboot.bootchoice import BootTable, Loading
from netboot.dhcp_levels import Settings
from netboot.dhcp_message import LONGEST_FILE, LONGEST_SNAME
from netboot.dhcp_options import Code
from netboot.errors import SiteError
from netboot.leases import Client
from netboot.links import Network, check_plan
from netboot.network import (
    NOTHING,
    ClientClass,
    Identify,
    Parameters,
    Reservation,
    SubnetPlan,
)

LONGEST_NAME = 120
"""The boot file in the header has 127 bytes."""
_SETTINGS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpConfig:
    """What the plan says about DHCP; `boot` None means that nothing is served for booting.

    `parameters` are the site's own, the last level; `quarantine` is how long a declined address
    rests: until a wrong cable is found, not until tomorrow.
    """

    subnets: tuple[SubnetPlan, ...]
    reservations: tuple[Reservation, ...]
    boot: BootTable | None
    domain: str
    classes: tuple[ClientClass, ...] = ()
    parameters: Parameters = NOTHING
    identify: Identify = Identify.MAC
    quarantine: timedelta = timedelta(hours=1)


def check_config(config: DhcpConfig) -> None:
    """Refuse addresses given twice and names that no reply could carry; SiteError."""
    check_plan(config.subnets, config.reservations)
    names = [config.domain, *(entry.name for entry in config.reservations if entry.name)]
    if config.boot is not None:
        names += [rule.file for rule in config.boot.rules]
        if config.boot.https_port is None and any(
            rule.loading is Loading.HTTPS for rule in config.boot.rules
        ):
            raise SiteError("a boot rule loads by https, and no port for it is set")
    for name in names:
        if not name.isascii() or len(name) > LONGEST_NAME:
            raise SiteError(f"name {name!r} does not fit into a DHCP reply")
    for level in _levels(config):
        for said, longest in ((level.boot_file, LONGEST_FILE), (level.server_name, LONGEST_SNAME)):
            if said is not None and (not said.isascii() or len(said) > longest):
                raise SiteError(f"name {said!r} does not fit into a DHCP reply")


def _levels(config: DhcpConfig) -> Iterator[Parameters]:
    yield config.parameters
    yield from (known.parameters for known in config.classes)
    yield from (entry.parameters for entry in config.reservations)
    for subnet in config.subnets:
        yield subnet.parameters
        yield from (pool.parameters for pool in subnet.pools)


class Book:
    """What each client is told, worked out once for all that share the levels.

    `server_ids` are those that the plan's options name, beside our own addresses; `ignored` are the
    classes that get no answer.
    """

    def __init__(self, config: DhcpConfig) -> None:
        self._config = config
        self._known: dict[tuple[object, ...], Settings] = {}
        self.ignored = frozenset(known.name for known in config.classes if known.ignored)
        self.server_ids = frozenset(
            option.data
            for level in _levels(config)
            for option in level.options
            if option.code == Code.SERVER_ID and len(option.data) == 4
        )

    def settings(self, client: Client, network: Network, address: int | None) -> Settings:
        """Give what the client is told with this address of this subnet, None without one."""
        pool = network.range_of(address) if address is not None else None
        # By identity: nothing of the plan changes while this book is in use.
        key = (network, id(client.reservation), client.classes, pool)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _SETTINGS_KEPT:
                self._known.clear()
            found = self._known[key] = self._combine(client, network, address)
        return found

    def _combine(self, client: Client, network: Network, address: int | None) -> Settings:
        pool = network.range_of(address) if address is not None else None
        levels = [
            known.parameters for known in self._config.classes if known.name in client.classes
        ]
        if client.reservation is not None:
            levels.insert(0, client.reservation.parameters)
        if pool is not None:
            levels.append(pool.plan.parameters)
        return Settings(
            network.plan,
            (*levels, network.plan.parameters, self._config.parameters),
            domain=self._config.domain,
            reservation=client.reservation,
        )
