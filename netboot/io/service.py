"""The netboot process: DHCP, TFTP, HTTP boot files and DNS as the newest good plan says.

It holds no secret, and waits for the first plan rather than guess one. A plan that cannot be served
is not taken: the one before goes on, and `status` says why. docs/architecture.md, The plan.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keys.io.layout import OPERATOR, Layout
from keys.io.rpc import Method, Params, Refusal, RpcServer, call
from netboot.dhcp6_options import duid_mac
from netboot.errors import PeerError
from netboot.io.leases import CurrentLease
from netboot.io.leases6 import current_leases6
from netboot.io.listen import Relay
from netboot.io.names_rpc import NamesDesk
from netboot.io.probe import PROBE_SECONDS
from netboot.io.services import Services
from netboot.io.workers import say
from netboot.io.zones import Signing
from netboot.leases6 import Lease6
from netboot.plan import MAX_PLAN, Plan
from netboot.plan_check import check
from netboot.plan_form import PlanError

PLAN, PREVIOUS = "plan.json", "plan.previous.json"
MAX_EVENTS = 500
MAX_SENTENCES = 5
_TURN_SECONDS = 0.25
_KEYS_SECONDS = 3.0
_CALLERS = frozenset({"control", OPERATOR})

_Stamp = tuple[int, int, int]


class Netboot:
    """The services, and the file that the plan comes in."""

    def __init__(
        self,
        state: Path,
        probe_seconds: float = PROBE_SECONDS,
        relay: Relay | None = None,
        signing: Signing | None = None,
    ) -> None:
        """Open the database; SiteError. Nothing is served before `look_for_plan` finds a plan."""
        self._directory = state / "plan"
        self.services = Services(state, probe_seconds, relay, signing)
        self._started = time.time()
        self._stamp: _Stamp | None = None
        self.kept: str | None = None

    def turn(self) -> None:
        """Take a new plan, bring the one under way to its end, and see that all threads run.

        SiteError when one has ended: the process is to be started again.
        """
        self.look_for_plan()
        self.services.settle()
        self.services.renew_keys()
        self.services.check_alive()

    def look_for_plan(self) -> None:
        """Take the newest plan if the file changed; a bad one is told of once, and not taken."""
        path = self._directory / PLAN
        stamp = _stamp(path)
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            plan = load(path)
        except PeerError as error:
            self._keep(f"the newest plan is not served: {error}")
            return
        self.kept = None
        self._take(plan)

    def _keep(self, sentence: str) -> None:
        """Go on with the plan that runs, after a start with the one before."""
        self.kept = sentence
        say(f"plan-kept {sentence}")
        if self.services.newest is None:
            try:
                self._take(load(self._directory / PREVIOUS))
            except PeerError as error:
                say(f"plan-kept none: {error}")

    def _take(self, plan: Plan) -> None:
        self.services.take(plan)
        say(f"plan-taken number={plan.number} site={plan.site}")

    # RPC

    def methods(self) -> Mapping[str, Method]:
        """Give the table of methods."""
        names = NamesDesk(self.services.names, lambda: self.services.running)
        return {
            "status": Method(self._status, _CALLERS),
            "events": Method(self._events, _CALLERS),
            "leases": Method(self._leases, _CALLERS),
            "dns_lookup": Method(names.lookup, _CALLERS),
            "dns_dump": Method(names.dump, _CALLERS),
            "dns_pinned": Method(names.pinned, _CALLERS),
            "dns_sign": Method(self._sign_anew, frozenset({OPERATOR})),
        }

    def _status(self, _: str, params: Params) -> Mapping[str, Any]:
        plan = self.services.running
        return {
            "running": None if plan is None else plan.number,
            "kept": self.kept,
            "site": None if plan is None else plan.site,
            "boot_set": _served_set(plan),
            "since": self._started,
            "services": self.services.states,
            "dns": self.services.names.status(),
            "foreign": [
                {
                    "interface": one.interface,
                    "address": str(one.address),
                    "mac": one.mac.hex(":"),
                }
                for one in self.services.foreign
            ],
            "sentences": self._sentences(plan),
            "last_event": self.services.log.last(),
        }

    def _sentences(self, plan: Plan | None) -> list[str]:
        """Say what a person should know; `kept` stands for itself."""
        said = self.services.sentences()
        if plan is None and self.kept is None:
            said.append("netboot waits for the first plan")
        return said

    def _events(self, _: str, params: Params) -> Mapping[str, Any]:
        after, limit = params.get("after", 0), params.get("limit", MAX_EVENTS)
        if type(after) is not int or type(limit) is not int or abs(after) >= 1 << 62:
            raise Refusal("MALFORMED", "after and limit are numbers")
        events = self.services.log.after(after, max(1, min(limit, MAX_EVENTS)))
        return {"events": list(events), "last": self.services.log.last()}

    def _sign_anew(self, _: str, params: Params) -> Mapping[str, Any]:
        """Have zones signed by the keys that there are now: they were rolled."""
        self.services.zones.sign_anew()
        return {}

    def _leases(self, _: str, params: Params) -> Mapping[str, Any]:
        now, store = time.time(), self.services.store
        found: list[tuple[CurrentLease | Lease6, bytes | None]] = [
            *((one, one.mac) for one in store.current_leases(now)),
            *((one, one.mac or duid_mac(one.duid)) for one in current_leases6(store, now)),
        ]
        return {
            "leases": [
                {
                    "address": str(one.address),
                    "mac": None if mac is None else mac.hex(":"),
                    "expires": one.expires,
                    "name": one.name,
                }
                for one, mac in found
            ]
        }


def load(path: Path) -> Plan:
    """Read and check a plan; PlanError with the sentences of everything that is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PLAN + 1)
    except OSError as error:
        raise PlanError(f"{path.name}: {error.strerror}") from error
    plan = Plan.decode(data)
    sentences = check(plan)
    if sentences:
        more = len(sentences) - MAX_SENTENCES
        end = (f"and {more} more",) if more > 0 else ()
        told = "; ".join((*sentences[:MAX_SENTENCES], *end))
        raise PlanError(f"plan {plan.number}: {told}")
    return plan


def _served_set(plan: Plan | None) -> str | None:
    """Name the set that boxes get unless their reservation says otherwise."""
    if plan is None or plan.boot is None or not plan.boot.sets:
        return None
    return plan.boot.sets[0].boot_set.hex()


def _stamp(path: Path) -> _Stamp | None:
    """Tell one state of a file from another; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _ask_keys(socket: Path, zones: list[str], points: list[str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = call(
        socket, "zone_sign", {"zones": zones, "keys": points}, _KEYS_SECONDS
    )
    return found


def main(layout: Layout) -> None:
    """Serve until SIGTERM; SiteError when this process cannot run here, or a part of it ended."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    relay = Relay(path=layout.run / "netboot" / "http", uid=layout.users["nginx"])
    signing = Signing(sign=partial(_ask_keys, layout.socket("keys")))
    netboot = Netboot(layout.state, relay=relay, signing=signing)
    server = RpcServer(layout, "netboot", netboot.methods())
    netboot.services.start()
    say("started")
    try:
        while not stopped:
            netboot.turn()
            server.turn(_TURN_SECONDS)
    finally:
        server.close()
        netboot.services.stop()
