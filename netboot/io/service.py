"""The netboot process: DHCP, TFTP, HTTP boot files and DNS as the newest good plan says.

It holds no secret, and waits for the first plan rather than guess one. A plan that cannot be served
is not taken: the one before goes on, and `status` says why. docs/architecture.md, The plan.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keys.io.layout import OPERATOR, Layout
from keys.io.rpc import Method, Params, Refusal, RpcServer
from netboot.dns import DnsEngine
from netboot.errors import PeerError, SiteError
from netboot.io.dhcp_service import DhcpService
from netboot.io.dns import DnsRunner
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.probe import PROBE_SECONDS
from netboot.io.tftp import TftpRunner, interface_mtu
from netboot.io.workers import Recorder, State, Worker, say
from netboot.network import SubnetPlan
from netboot.plan import MAX_PLAN, Plan
from netboot.plan_check import check
from netboot.plan_form import PlanError
from netboot.zone import LeaseName, Zones, build

PLAN, PREVIOUS = "plan.json", "plan.previous.json"
MAX_EVENTS = 500
MAX_SENTENCES = 5
_TURN_SECONDS = 0.25
_CALLERS = frozenset({"control", OPERATOR})

_Stamp = tuple[int, int, int]


class Netboot:
    """All services with their threads, and the plan that they run."""

    def __init__(self, layout: Layout, probe_seconds: float = PROBE_SECONDS) -> None:
        """Open the database; SiteError. Nothing is served before `look_for_plan` finds a plan."""
        self._directory = layout.state / "plan"
        self._store = NetbootStore(layout.state / "netboot" / "netboot.db")
        self._log = EventLog(self._store)
        self._recorder = Recorder(self._store)
        self._files = FileStore(layout.state / "bootsets" / "files")
        tell = self._recorder.tell
        self._tftp = TftpRunner(self._files, tell)
        self._http = HttpRunner(self._files, tell)
        self._dns = DnsRunner(DnsEngine(Zones(()), socket.gethostname()))
        self._dhcp = DhcpService(self._store, tell, self._names_may_differ, probe_seconds)
        self._workers = {
            "dhcp": Worker("dhcp", self._dhcp.turn),
            "tftp": Worker("tftp", self._tftp.turn),
            "http": Worker("http", self._http.turn),
            "dns": Worker("dns", self._turn_dns),
        }
        self._started = time.time()
        self._plan: Plan | None = None
        self._plans: dict[int, Plan] = {}
        self._generation = 0
        self._stamp: _Stamp | None = None
        self._kept: str | None = None
        self._names: tuple[LeaseName, ...] = ()
        self._names_until = 0.0
        self._are_names_old = True
        self._zone_plan: Plan | None = None
        self._serial = 0

    def start(self) -> None:
        """Start all threads."""
        self._recorder.start()
        for worker in self._workers.values():
            worker.start()

    def check_alive(self) -> None:
        """Raise SiteError when a thread has ended: the process is to be started again."""
        alive = {name: worker.is_alive for name, worker in self._workers.items()}
        for name, is_alive in (*alive.items(), ("recorder", self._recorder.is_alive)):
            if not is_alive:
                raise SiteError(f"{name} has ended unexpectedly: starting again")

    def stop(self) -> None:
        """End all threads and close everything."""
        for worker in self._workers.values():
            worker.stop()
        for runner in (self._dhcp, self._tftp, self._http, self._dns):
            runner.close()
        self._recorder.stop()
        self._store.close()

    # The plan

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
        self._kept = None
        self._take(plan)

    def _keep(self, sentence: str) -> None:
        """Go on with the plan that runs, after a start with the one before."""
        self._kept = sentence
        say(f"plan-kept {sentence}")
        if self._plan is None:
            try:
                self._take(load(self._directory / PREVIOUS))
            except PeerError as error:
                say(f"plan-kept none: {error}")

    def _take(self, plan: Plan) -> None:
        self._generation += 1
        self._plan = plan
        self._plans[self._generation] = plan
        files, addresses = plan.files(), plan.addresses()
        mtu = min((interface_mtu(one.interface) for one in plan.subnets), default=1500)
        for name, configure in (
            ("dhcp", partial(self._dhcp.replace, plan.dhcp())),
            ("tftp", partial(self._tftp.replace, files, addresses, mtu)),
            ("http", partial(self._http.replace, files, addresses)),
            ("dns", partial(self._configure_dns, plan)),
        ):
            self._workers[name].post(self._generation, configure)
        say(f"plan-taken number={plan.number} site={plan.site}")

    def _running(self) -> Plan | None:
        """Give the plan that every service has taken."""
        generation = min(worker.generation for worker in self._workers.values())
        for old in [number for number in self._plans if number < generation]:
            del self._plans[old]
        return self._plans.get(generation)

    # DNS: only its thread calls these

    def _configure_dns(self, plan: Plan) -> None:
        self._zone_plan = plan
        self._names = self._read_names()
        self._build_zones()
        self._dns.listen(plan.addresses())

    def _names_may_differ(self) -> None:
        self._are_names_old = True
        self._dns.wake()

    def _turn_dns(self, timeout: float) -> None:
        if self._zone_plan is not None and (
            self._are_names_old or self._names_until <= time.time()
        ):
            names = self._read_names()
            if names != self._names:
                self._names = names
                self._build_zones()
        self._dns.turn(timeout)

    def _read_names(self) -> tuple[LeaseName, ...]:
        self._are_names_old = False
        now = time.time()
        leases = [one for one in self._store.current_leases(now) if one.name]
        self._names_until = min((one.expires for one in leases), default=float("inf"))
        return tuple(LeaseName(name=one.name or "", address=one.address) for one in leases)

    def _build_zones(self) -> None:
        if self._zone_plan is not None:
            self._serial = max(self._serial + 1, int(time.time()))
            self._dns.replace(build(self._zone_plan, self._names, self._serial))

    # RPC

    def methods(self) -> Mapping[str, Method]:
        """Give the table of methods."""
        return {
            "status": Method(self._status, _CALLERS),
            "events": Method(self._events, _CALLERS),
            "leases": Method(self._leases, _CALLERS),
        }

    def _status(self, _: str, params: Params) -> Mapping[str, Any]:
        plan = self._running()
        return {
            "running": None if plan is None else plan.number,
            "kept": self._kept,
            "site": None if plan is None else plan.site,
            "boot_set": _served_set(plan),
            "since": self._started,
            "services": {name: self._state(name) for name in self._workers},
            "foreign": [
                {
                    "interface": one.interface,
                    "address": str(one.address),
                    "mac": one.mac.hex(":"),
                }
                for one in (*self._dhcp.foreign, *self._dhcp.rivals)
            ],
            "sentences": self._sentences(plan),
            "last_event": self._log.last(),
        }

    def _state(self, name: str) -> State:
        if name == "dhcp":
            return self._dhcp.state
        worker = self._workers[name]
        if worker.trouble:
            return State.TROUBLE
        return State.SERVING if worker.generation else State.WAITING

    def _sentences(self, plan: Plan | None) -> list[str]:
        """Say what a person should know; `kept` stands for itself."""
        said: list[str | None] = [worker.trouble for worker in self._workers.values()]
        said += [self._dhcp.sentence, self._recorder.trouble]
        if self._recorder.lost:
            said.append(f"{self._recorder.lost} events were not kept: the disk was too slow")
        if plan is None and self._kept is None:
            said.append("netboot waits for the first plan")
        said += [] if plan is None else map(_missing_address, plan.subnets)
        if plan is not None and plan.boot is not None:
            files = plan.boot.digests().items()
            lost = sorted(path for path, digest in files if not self._files.has(digest))
            if lost:
                names = ", ".join(lost[:3])
                said.append(f"{len(lost)} boot files are missing in the store: {names}")
        return [sentence for sentence in said if sentence]

    def _events(self, _: str, params: Params) -> Mapping[str, Any]:
        after, limit = params.get("after", 0), params.get("limit", MAX_EVENTS)
        if type(after) is not int or type(limit) is not int or abs(after) >= 1 << 62:
            raise Refusal("MALFORMED", "after and limit are numbers")
        events = self._log.after(after, max(1, min(limit, MAX_EVENTS)))
        return {"events": list(events), "last": self._log.last()}

    def _leases(self, _: str, params: Params) -> Mapping[str, Any]:
        return {
            "leases": [
                {
                    "address": str(one.address),
                    "mac": None if one.mac is None else one.mac.hex(":"),
                    "expires": one.expires,
                    "name": one.name,
                }
                for one in self._store.current_leases(time.time())
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


def _missing_address(subnet: SubnetPlan) -> str | None:
    """Say that our address is not there yet: nobody reaches us on this subnet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(subnet.appliance), 0))
        except OSError:
            return (
                f"this appliance does not have its address {subnet.appliance} "
                f"({subnet.name}): give it to interface {subnet.interface}"
            )
    return None


def _stamp(path: Path) -> _Stamp | None:
    """Tell one state of a file from another; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def main(layout: Layout) -> None:
    """Serve until SIGTERM; SiteError when this process cannot run here, or a part of it ended."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    netboot = Netboot(layout)
    server = RpcServer(layout, "netboot", netboot.methods())
    netboot.start()
    say("started")
    try:
        while not stopped:
            netboot.look_for_plan()
            server.turn(_TURN_SECONDS)
            netboot.check_alive()
    finally:
        server.close()
        netboot.stop()
