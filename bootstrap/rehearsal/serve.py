"""Our own netboot with a plan of its own, without a site behind it.

For a boot that is only measured, for an attacker's network, and for trying loaders. It knows no box
and no secret, and runs as netboot's uid with netboot's rights alone.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bootstrap import planning_network
from bootstrap.errors import SiteError
from bootstrap.io.supervisor import RIGHTS, Job, service_command
from bootstrap.planning import make_plan
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import USERS
from bootstrap.rehearsal.view import command_that_sees
from bootstrap.site import Site
from keys.errors import KeysError
from keys.io.layout import Layout
from keys.io.rpc import call
from netboot.bootset import BootSetManifest
from netboot.files import ServedSet
from netboot.network import Pool, SubnetPlan
from netboot.plan import Boot, Plan

START_SECONDS = 30.0
MOST = 99
"""Addresses to lend, less one; our own among them is never lent."""
_OWN = SubnetPlan(
    name="measuring",
    interface=Lan.APPLIANCE_INTERFACE,
    network=IPv4Network("10.77.0.0/24"),
    appliance=IPv4Address("10.77.0.2"),
    gateway=None,
    pools=(),
    lease=timedelta(hours=1),
    dhcp="server",
    boot=True,
    enrols=False,
)
STOP_SECONDS = 20.0


def measuring_subnet(site: Site) -> SubnetPlan:
    """Give the network that sets are measured in: the first IPv4 one that boots, lending itself.

    Whatever serves DHCP at the site is not in a rehearsal's network. Where boxes boot by IPv6 or
    through relays alone it is a network of its own: what a boot measures is the same but for our
    address in GRUB's words.
    """
    known = (planning_network.subnet(site, one, enrols=False) for one in site.subnets)
    subnet = next((one for one in known if one.boot and not one.relayed), _OWN)
    first, last = int(subnet.network.network_address) + 1, int(subnet.network.broadcast_address) - 1
    pool = Pool(first=IPv4Address(first), last=IPv4Address(max(first, min(last, first + MOST))))
    return replace(subnet, dhcp="server", pools=(pool,), shared=None)


def measuring_plan(site: Site, manifest: BootSetManifest, names: Mapping[str, bytes]) -> Plan:
    """Make the plan that serves one set at the site's address; nobody is told to phone home.

    `names` are URL paths with the SHA-256 of what is sent for them.
    """
    plan = make_plan(site, [], [], [], 1)
    served = ServedSet(
        boot_set=manifest.digest,
        architecture=manifest.architecture,
        loader=manifest.loader,
        names=names,
    )
    return replace(
        plan,
        reservations=(),
        reservations6=(),
        records=(),
        subnets6=(),
        subnets=(measuring_subnet(site),),
        boot=Boot(sets=(served,)),
    )


class BootServer:
    """DHCP, TFTP, HTTP and DNS as a plan says: `with BootServer(work, plan, bootsets, lan)`."""

    def __init__(self, work: Path, plan: Plan, bootsets: Path, lan: Lan) -> None:
        """Serve out of the store `bootsets`, in the LAN's namespace."""
        self._layout = Layout(site=work, state=work / "state", run=work / "run", users=USERS)
        self._store = bootsets.resolve()
        self._lan = lan
        self._plan = plan
        self._process: subprocess.Popen[bytes] | None = None
        self._log = work / "netboot.log"

    def __enter__(self) -> Self:
        """Write the plan and start netboot."""
        self._directories()
        (self._layout.state / "plan" / "plan.json").write_bytes(self._plan.encode())
        users = ",".join(f"{name}={uid}" for name, uid in USERS.items())
        layout = self._layout
        options = ["--site", str(layout.site), "--state", str(layout.state)]
        options += ["--run", str(layout.run), "--users", users]
        command = command_that_sees(
            [layout.state.parent, self._store],
            Job(
                name="netboot",
                command=service_command("netboot", options),
                uid=USERS["netboot"],
                rights=RIGHTS["netboot"],
            ).privileged_command(),
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._lan.appliance_command(command), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._await_running()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End netboot."""
        self._stop()

    def ask(self, method: str, **params: Any) -> Any:
        """Call netboot as the operator."""
        return call(self._layout.socket("netboot"), method, params)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def _directories(self) -> None:
        layout, uid = self._layout, USERS["netboot"]
        for path in (layout.state / "netboot", layout.state / "plan", layout.run / "netboot"):
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, uid, uid)
        bootsets = layout.state / "bootsets"
        if not bootsets.exists():
            bootsets.symlink_to(self._store)

    def _await_running(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                status = self.ask("status")
                if status["kept"]:
                    raise SiteError(f"the boot server does not take its plan: {status['kept']}")
                if status["running"] and set(status["services"].values()) <= {"serving", "off"}:
                    return
            except KeysError:
                pass  # not yet: it starts
            time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-1500:]
        raise SiteError(f"the boot server did not start:\n{tail}")
