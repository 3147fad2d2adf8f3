"""The controller's TPM in a rehearsal, and a headquarters that leases to it.

Where the settings name a TPM, a rehearsal has one in software, with a lease authority that nobody
knows: it never touches the machine's own. It can be cut from power, as by who steals the machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bootstrap.errors import SiteError
from bootstrap.io.lease_desk import LeaseDesk
from bootstrap.lease_desk import Wanted, check_request
from bootstrap.rehearsal.box import run_tool, tool
from keys.io.layout import Layout
from keys.io.tpm_ring import rehearsal_socket
from keys.secret import Secret

START_SECONDS = 20.0
LEASE = Wanted(hours=24, starts=1, suspends=0)
"""One start more than the one that runs: a stolen controller has few."""

Ask = Callable[[str, str, Mapping[str, Any]], Any]
"""Calls a service: its name, the method, the parameters."""
"""Calls a service: its name, the method, the parameters."""


class Headquarters:
    """The lease authority of a rehearsal."""

    def __init__(self, directory: Path) -> None:
        """Draw its key, under a passphrase that is forgotten with the rehearsal."""
        directory.mkdir(mode=0o700)
        self._desk, self._passphrase = LeaseDesk(directory), Secret(secrets.token_bytes(24))
        self._desk.make(self._passphrase)

    def install(self, site: Path) -> None:
        """Let a site's controller hang on this authority."""
        self._desk.install(site)

    def lease(self, ask: Ask) -> None:
        """Answer a controller's request for a lease, as people do by telephone."""
        challenge = secrets.token_hex(4)
        text = ask("keys", "lease_request", {"challenge": challenge})["request"]
        signed = self._desk.issue(
            check_request(text, challenge=challenge),
            LEASE,
            self._desk.unlock(self._passphrase),
            is_new=not self._desk.ledgers(),
            now=time.time(),
        )
        ask("keys", "lease_apply", {"lease": signed.text()})


class ControllerTpm:
    """A TPM in software that the rehearsal's `keys` alone may open."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        """Make it; nothing runs yet."""
        self._layout, self._state = layout, directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o700)
        command = [tool("swtpm_setup"), "--tpm2", "--tpmstate", str(directory), "--overwrite"]
        run_tool([*command, "--pcr-banks", "sha256"])

    def power_on(self) -> None:
        """Start it; SiteError when it does not."""
        path = rehearsal_socket(self._layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        sockets = path, path.with_name(f"{path.name}.ctrl")
        command = [tool("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self._state}"]
        command += ["--server", f"type=unixio,path={sockets[0]},disconnect"]
        command += ["--ctrl", f"type=unixio,path={sockets[1]}"]
        command += ["--flags", "not-need-init,startup-clear"]
        with (self._state.parent / "controller-tpm.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not _listens(sockets[1]):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SiteError("the controller's TPM in software does not start")
            time.sleep(0.02)
        for one in sockets:
            os.chown(one, self._layout.users["keys"], self._layout.users["keys"])

    def cut_power(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(rehearsal_socket(self._layout).parent, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The controller's TPM, and whoever leases to it."""

    tpm: ControllerTpm
    headquarters: Headquarters

    @classmethod
    def make(cls, layout: Layout, work: Path) -> Self:
        """Make both, and let the site hang on the authority."""
        headquarters = Headquarters(work / "headquarters")
        headquarters.install(layout.site)
        return cls(tpm=ControllerTpm(layout, work / "controller-tpm"), headquarters=headquarters)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
