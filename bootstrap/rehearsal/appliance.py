"""The appliance of a rehearsal, in a network namespace, and what an operator does with it first.

The services are the real ones, each as its own uid, kept by the supervisor that `doorstep run`
uses. As a program (`python -m bootstrap.rehearsal.appliance SITE STATE RUN`) it is that supervisor.
"""

from __future__ import annotations

import base64
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bootstrap.errors import SiteError
from bootstrap.io import site_dir, supervisor
from bootstrap.rehearsal.lan import inside
from bootstrap.rehearsal.place import USERS, Place
from bootstrap.rehearsal.view import make_visible, own_paths
from keys.ca import Kind
from keys.errors import KeysError
from keys.io.layout import Layout
from keys.io.rpc import call

START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_THEFTS = 5


class Appliance:
    """The running appliance: `with Appliance(place, namespace) as appliance`."""

    def __init__(self, place: Place, namespace: str) -> None:
        """Keep where it runs; nothing starts before the context is entered."""
        self._place = place
        self._namespace = namespace
        self.log = place.layout.run.parent / "appliance.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.secrets: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        """Start the services, sign their authorities, store synthetic secrets, wait until ready."""
        self.start()
        try:
            if self._place.controller is not None:
                self._place.controller.headquarters.lease(self.ask)
            self._sign_authorities()
            self._store_secrets()
            self._await("a running plan", self._serves)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all services."""
        self.stop()

    def start(self) -> None:
        """Switch the controller on, and wait until keys and control answer."""
        layout = self._place.layout
        if self._place.controller is not None:
            self._place.controller.tpm.power_on()
        command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable]
        command += ["-m", "bootstrap.rehearsal.appliance"]
        command += [str(layout.site), str(layout.state), str(layout.run)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                inside(self._namespace, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for service, method in (("keys", "status"), ("control", "services")):
            self._await(f"an answer of {service}", lambda s=service, m=method: self.ask(s, m))

    def stop(self) -> None:
        """End the supervisor and with it every service, and cut the power of the controller."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None
        if self._place.controller is not None:
            self._place.controller.tpm.cut_power()

    def steal(self) -> tuple[str, str]:
        """Start the controller elsewhere until its TPM says no; gives why, and what it says."""
        for _ in range(_THEFTS):
            self.stop()
            self.start()
            closed = self.ask("keys", "lease_show")["closed"]
            if closed is not None:
                break
        reasons = {one["reason"] for one in self.ask("keys", "secret_list")["secrets"]}
        if closed is None or reasons != {closed["code"]}:
            return "LEASE-RUNS", "the secrets of the site are still there"
        return str(closed["code"]), str(closed["sentence"])

    def ask(self, service: str, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a service as the operator."""
        return call(self._place.layout.socket(service), method, params)

    def _sign_authorities(self) -> None:
        signed = {
            f"{request['kind']}_pem": site_dir.sign_intermediate(
                self._place.layout.site, request["csr_pem"].encode(), Kind(request["kind"])
            )
            for request in self.ask("keys", "ca_requests")["requests"]
        }
        self.ask("keys", "ca_install", signed)

    def _store_secrets(self) -> None:
        for rule in (one for one in self._place.site.secrets if one.tier != "box"):
            value = b"rehearsal-secret-" + secrets.token_hex(16).encode()
            self.secrets[rule.name] = value
            text = base64.urlsafe_b64encode(value).rstrip(b"=").decode()
            self.ask("keys", "secret_put", {"name": rule.name, "value": text})

    def _serves(self) -> bool:
        status = self.ask("netboot", "status")
        if status.get("kept"):
            raise SiteError(f"the rehearsal's netboot does not take the plan: {status['kept']}")
        tls = self._place.layout.run / "tls" / "server.pem"
        serving = set(status["services"].values()) <= {"serving", "off"}
        return bool(status["running"]) and serving and tls.exists()

    def _await(self, what: str, ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        last = "it is not ready"
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                if ready():
                    return
            except KeysError as error:
                last = str(error)
            time.sleep(_POLL_SECONDS)
        tail = self.log.read_text(errors="replace")[-2000:]
        raise SiteError(
            f"the rehearsal's appliance: no {what} ({last}); its log ends with:\n{tail}"
        )


def main() -> None:
    """Be the supervisor of a rehearsal's site, in the network namespace of the caller."""
    site, state, run = map(Path, sys.argv[1:4])
    make_visible([*own_paths(), run.parent])
    layout = Layout(site=site, state=state, run=run, users=USERS)
    supervisor.run(layout, lambda text: print(text, flush=True), rehearsal=True)  # noqa: T201


if __name__ == "__main__":
    main()
