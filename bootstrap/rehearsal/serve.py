"""A boot server without a site behind it: our own netboot with a plan of its own.

For a boot that is only measured, and for an attacker's network. It knows no box and no secret,
tells nobody where to phone home, and runs as netboot's uid with netboot's rights alone.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from bootstrap.errors import SiteError
from bootstrap.io.supervisor import RIGHTS, Job, service_command
from bootstrap.planning import LOADER, make_plan
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import USERS
from bootstrap.rehearsal.view import command_that_sees
from bootstrap.site import Site
from keys.errors import KeysError
from keys.io.layout import Layout
from keys.io.rpc import call
from netboot.plan import Boot, ServedSet

START_SECONDS = 30.0


class BootServer:
    """DHCP, TFTP and HTTP of these files: `with BootServer(work, site, bootsets, lan, names)`."""

    def __init__(
        self, work: Path, site: Site, bootsets: Path, lan: Lan, names: Mapping[str, bytes]
    ) -> None:
        """Serve URL path to SHA-256, out of the store `bootsets`, in the LAN's namespace."""
        self._layout = Layout(site=work, state=work / "state", run=work / "run", users=USERS)
        self._store = bootsets.resolve()
        self._lan = lan
        plan = make_plan(site, [], None, [], 1)
        self._plan = replace(
            plan,
            reservations=(),
            records=(),
            subnets=tuple(replace(one, enrols=False) for one in plan.subnets if one.boot)[:1],
            boot=Boot(
                sets=(
                    ServedSet(boot_set=bytes(32), architecture="amd64", loader=LOADER, names=names),
                )
            ),
        )
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
        self._await_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End netboot."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

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
                status = call(self._layout.socket("netboot"), "status")
                if status["running"] and status["services"]["dhcp"] == "serving":
                    return
            except KeysError:
                pass  # not yet: it starts
            time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-1500:]
        raise SiteError(f"the boot server did not start:\n{tail}")
