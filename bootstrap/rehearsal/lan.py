"""A LAN of its own for virtual boxes: two network namespaces, a bridge, taps and a veth pair.

The boxes' namespace holds the bridge and the taps; the appliance's namespace holds one end of the
veth pair and the site's address. Nothing is added to the host's own network, no route leads out,
and everything is gone when the context ends (ip-netns(8), veth(4)). Needs root.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from types import TracebackType
from typing import Self

from bootstrap.errors import SiteError

_PREFIX = "dsl"
_OWN_NAME = re.compile(rf"{_PREFIX}(\d+)-\d+-(?:box|app|s\d+)")
_NAMESPACES = Path("/run/netns")
_numbers = itertools.count()
DELETE_ATTEMPTS, DELETE_PAUSE_SECONDS = 5, 0.5


class Lan:
    """One isolated LAN: `with Lan(IPv4Interface("10.77.0.1/24")) as lan`.

    `box_namespace` is where QEMU runs, `appliance_namespace` where the site's services run, on
    `appliance_interface` with `address`.
    """

    BRIDGE = "br0"
    APPLIANCE_INTERFACE = "eth0"

    def __init__(self, address: IPv4Interface, interface: str = APPLIANCE_INTERFACE) -> None:
        """Choose names; nothing exists before the context is entered."""
        stem = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self.address = address
        self.box_namespace = f"{stem}-box"
        self.appliance_namespace = f"{stem}-app"
        self.appliance_interface = interface
        self._taps = itertools.count()
        self._stations: list[str] = []

    def __enter__(self) -> Self:
        """Make the namespaces, the bridge and the appliance's end."""
        sweep()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the namespaces; the kernel removes what is in them."""
        self._remove()

    def add_tap(self) -> str:
        """Add a tap to the bridge and return its name, valid in `box_namespace`."""
        name = f"tap{next(self._taps)}"
        self._ip("-n", self.box_namespace, "tuntap", "add", name, "mode", "tap")
        self._ip("-n", self.box_namespace, "link", "set", name, "master", self.BRIDGE, "up")
        return name

    def add_station(self, address: IPv4Interface | None = None) -> str:
        """Plug another machine into the bridge, by its eth0; return its namespace."""
        number = len(self._stations)
        namespace = f"{self.appliance_namespace.removesuffix('app')}s{number}"
        self._stations.append(namespace)
        self._ip("netns", "add", namespace)
        port = f"station{number}"
        veth = ("link", "add", port, "type", "veth", "peer", "name", self.APPLIANCE_INTERFACE)
        self._ip("-n", self.box_namespace, *veth, "netns", namespace)
        self._ip("-n", self.box_namespace, "link", "set", port, "master", self.BRIDGE, "up")
        self._ip("-n", namespace, "link", "set", "lo", "up")
        self._take(namespace, self.APPLIANCE_INTERFACE, address)
        return namespace

    def add_address(self, address: IPv6Interface) -> None:
        """Give the appliance an IPv6 address too, without asking whether somebody else has it."""
        taken = ("address", "add", str(address), "dev", self.appliance_interface, "nodad")
        self._ip("-n", self.appliance_namespace, *taken)

    def appliance_command(self, command: Sequence[str]) -> list[str]:
        """Wrap a command so that it runs in the appliance's namespace (the process id stays)."""
        return inside(self.appliance_namespace, command)

    def _build(self) -> None:
        for namespace in (self.box_namespace, self.appliance_namespace):
            self._ip("netns", "add", namespace)
            self._ip("-n", namespace, "link", "set", "lo", "up")
        box, appliance = self.box_namespace, self.appliance_namespace
        bridge = ("link", "add", self.BRIDGE, "type", "bridge", "stp_state", "0")
        self._ip("-n", box, *bridge, "forward_delay", "0", "mcast_snooping", "0")
        veth = ("link", "add", "site", "type", "veth", "peer", "name", self.appliance_interface)
        self._ip("-n", box, *veth, "netns", appliance)
        self._ip("-n", box, "link", "set", "site", "master", self.BRIDGE, "up")
        self._ip("-n", box, "link", "set", self.BRIDGE, "up")
        self._take(appliance, self.appliance_interface, self.address)

    def _take(self, namespace: str, interface: str, address: IPv4Interface | None) -> None:
        if address is not None:
            broadcast = str(address.network.broadcast_address)
            taken = ("address", "add", str(address), "broadcast", broadcast, "dev", interface)
            self._ip("-n", namespace, *taken)
        self._ip("-n", namespace, "link", "set", interface, "up")

    def _remove(self) -> None:
        for namespace in (self.box_namespace, self.appliance_namespace, *self._stations):
            for attempt in range(DELETE_ATTEMPTS):
                if not (_NAMESPACES / namespace).exists():
                    break
                try:
                    self._ip("netns", "delete", namespace)
                except SiteError:
                    # Somebody's mount namespace is just going away with the last reference.
                    if attempt == DELETE_ATTEMPTS - 1:
                        raise
                    time.sleep(DELETE_PAUSE_SECONDS)

    @staticmethod
    def _ip(*arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            text = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
            raise SiteError(f"cannot make the rehearsal's LAN (are you root?): {text}")


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """Wrap a command so that it runs in a network namespace, in the same process."""
    return ["ip", "netns", "exec", namespace, *command]


def sweep() -> None:
    """Delete the namespaces that a killed rehearsal left (its process id is in their names)."""
    if not _NAMESPACES.is_dir():
        return
    for path in list(_NAMESPACES.iterdir()):
        own = _OWN_NAME.fullmatch(path.name)
        if own and not Path(f"/proc/{own.group(1)}").exists():
            with contextlib.suppress(SiteError):
                Lan._ip("netns", "delete", path.name)
