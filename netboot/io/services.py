"""All services of netboot with their threads, and which plan each of them runs.

A plan that comes is a generation. Files and names take it first, then those that tell clients where
these are: so nobody is told of a file before it is there, and the files of the plan before stay
until the next one. It never reads a plan and never decides whether one is good.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from netboot.dns import DnsEngine, Generation
from netboot.errors import SiteError
from netboot.files import Assignments
from netboot.io.dhcp6 import Dhcp6Service
from netboot.io.dhcp_service import DhcpService
from netboot.io.dns import DnsRunner
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.listen import Relay
from netboot.io.probe import PROBE_SECONDS, ForeignServer
from netboot.io.proxy import ProxyRunner
from netboot.io.tftp import TftpRunner, interface_mtu
from netboot.io.workers import Recorder, State, Worker
from netboot.plan import Plan
from netboot.zone import Zones
from netboot.zone_build import LeaseName, build

_SERVING_FILES = ("tftp", "http", "dns")
_TELLING_CLIENTS = ("dhcp", "dhcp6", "proxy")


class Services:
    """DHCP, proxyDHCP, DHCPv6 with advertisements, TFTP, HTTP and DNS, each with its thread."""

    def __init__(
        self, state: Path, probe_seconds: float = PROBE_SECONDS, relay: Relay | None = None
    ) -> None:
        """Open the database; SiteError. Nothing is served before `take`.

        `relay` is where TLS in front of HTTP ends; `probe_seconds` 0 looks for no other server.
        """
        self.store = NetbootStore(state / "netboot" / "netboot.db")
        self.log = EventLog(self.store)
        self.recorder = Recorder(self.store)
        self.files = FileStore(state / "bootsets" / "files", state / "plan" / "files")
        tell, offered = self.recorder.tell, Assignments()
        self._tftp = TftpRunner(self.files, tell, assignments=offered)
        self._http = HttpRunner(self.files, tell, assignments=offered, relay=relay)
        self._names = _NameService(self.store)
        self._dhcp = DhcpService(
            self.store, tell, self._names.may_differ, probe_seconds, assign=offered.assign
        )
        self._dhcp6 = Dhcp6Service(self.store, tell, offered.assign)
        self._proxy = ProxyRunner(tell, offered.assign)
        self._workers = {
            "dhcp": Worker("dhcp", self._dhcp.turn),
            "dhcp6": Worker("dhcp6", self._dhcp6.turn),
            "proxy": Worker("proxy", self._proxy.turn),
            "tftp": Worker("tftp", self._tftp.turn),
            "http": Worker("http", self._http.turn),
            "dns": Worker("dns", self._names.turn),
        }
        self._generation = 0
        self._plans: dict[int, Plan] = {}
        self._waiting: dict[str, Callable[[], None]] = {}
        self.newest: Plan | None = None

    def start(self) -> None:
        """Start all threads."""
        self.recorder.start()
        for worker in self._workers.values():
            worker.start()

    def check_alive(self) -> None:
        """Raise SiteError when a thread has ended: the process is to be started again."""
        alive = {name: worker.is_alive for name, worker in self._workers.items()}
        for name, is_alive in (*alive.items(), ("recorder", self.recorder.is_alive)):
            if not is_alive:
                raise SiteError(f"{name} has ended unexpectedly: starting again")

    def stop(self) -> None:
        """End all threads and close everything."""
        for worker in self._workers.values():
            worker.stop()
        for runner in (self._dhcp, self._dhcp6, self._proxy, self._tftp, self._http, self._names):
            runner.close()
        self.recorder.stop()
        self.store.close()

    # Generations

    def take(self, plan: Plan) -> None:
        """Begin to serve a checked plan; `settle` ends it."""
        before = self.newest
        self._generation += 1
        self._plans[self._generation] = self.newest = plan
        files = plan.files(before.boot.files if before and before.boot else None)
        addresses: list[IPv4Address | IPv6Address] = [*plan.addresses(), *plan.addresses6()]
        mtu = min((interface_mtu(one.interface) for one in plan.subnets), default=1500)
        self._post("tftp", partial(self._tftp.replace, files, addresses, mtu))
        self._post("http", partial(self._http.replace, files, addresses))
        self._post("dns", partial(self._names.replace, plan))
        self._waiting = {
            "dhcp": partial(self._dhcp.replace, plan.dhcp()),
            "dhcp6": partial(self._dhcp6.replace, plan.dhcp6()),
            "proxy": partial(self._proxy.replace, plan.dhcp()),
        }

    def _post(self, name: str, configure: Callable[[], None]) -> None:
        self._workers[name].post(self._generation, configure)

    def settle(self) -> None:
        """Let DHCP take the newest plan once the files and names that it tells of are served."""
        ready = min(self._workers[name].generation for name in _SERVING_FILES)
        if self._waiting and ready == self._generation:
            for name in _TELLING_CLIENTS:
                self._post(name, self._waiting[name])
            self._waiting = {}

    @property
    def running(self) -> Plan | None:
        """The plan that every service has taken."""
        generation = min(worker.generation for worker in self._workers.values())
        for old in [number for number in self._plans if number < generation]:
            del self._plans[old]
        return self._plans.get(generation)

    # What is being done

    @property
    def states(self) -> dict[str, State]:
        """What each service does; DHCPv6 and proxyDHCP only where the plan has them."""
        plan = self.newest
        unused = set()
        if plan is None or not plan.subnets6:
            unused.add("dhcp6")
        if plan is None or not any(one.dhcp == "proxy" for one in plan.subnets):
            unused.add("proxy")
        return {name: self._state(name) for name in self._workers if name not in unused}

    def _state(self, name: str) -> State:
        worker = self._workers[name]
        if name == "dhcp":
            return self._dhcp.state
        own = {"dhcp6": self._dhcp6.sentence, "proxy": self._proxy.trouble}.get(name)
        if worker.trouble or own:
            return State.TROUBLE
        return State.SERVING if worker.generation else State.WAITING

    @property
    def foreign(self) -> tuple[ForeignServer, ...]:
        """Other DHCP servers that answer on our networks."""
        return (*self._dhcp.foreign, *self._dhcp.rivals)

    def sentences(self) -> list[str]:
        """Say what a person should know."""
        said: list[str | None] = [worker.trouble for worker in self._workers.values()]
        said += [self._dhcp.sentence, self._dhcp6.sentence, self._proxy.trouble]
        said.append(self.recorder.trouble)
        if self.recorder.lost:
            said.append(f"{self.recorder.lost} events were not kept: the disk was too slow")
        plan = self.running
        if plan is not None:
            said += _missing_addresses(plan)
            said.append(self._lost_files(plan))
        return [sentence for sentence in said if sentence]

    def _lost_files(self, plan: Plan) -> str | None:
        named = plan.boot.digests().items() if plan.boot else ()
        lost = sorted(path for path, digest in named if not self.files.has(digest))
        if not lost:
            return None
        return f"{len(lost)} boot files are missing in the store: {', '.join(lost[:3])}"


class _NameService:
    """DNS with the names that leases bring; only its thread calls it, but for `may_differ`."""

    def __init__(self, store: NetbootStore) -> None:
        self._store = store
        self._dns = DnsRunner(DnsEngine(Zones(()), socket.gethostname()))
        self._plan: Plan | None = None
        self._names: tuple[LeaseName, ...] = ()
        self._until = 0.0
        self._are_old = True
        self._serial = 0

    def replace(self, plan: Plan) -> None:
        """Serve the names of another plan."""
        self._plan = plan
        self._names = self._read()
        self._build(plan)
        self._dns.listen(plan.addresses())

    def may_differ(self) -> None:
        """Have the names of leases read again; called by the thread of DHCP."""
        self._are_old = True
        self._dns.wake()

    def turn(self, timeout: float) -> None:
        """Answer for a while; look at leases first, where they may have changed."""
        if self._plan is not None and (self._are_old or self._until <= time.time()):
            names = self._read()
            if names != self._names:
                self._names = names
                self._build(self._plan)
        self._dns.turn(timeout)

    def _read(self) -> tuple[LeaseName, ...]:
        self._are_old = False
        now = time.time()
        leases = [one for one in self._store.current_leases(now) if one.name]
        self._until = min((one.expires for one in leases), default=float("inf"))
        return tuple(LeaseName(name=one.name or "", address=one.address) for one in leases)

    def _build(self, plan: Plan) -> None:
        self._serial = max(self._serial + 1, int(time.time()))
        zones = build(plan, self._names, self._serial)
        self._dns.replace(Generation(zones=zones))

    def close(self) -> None:
        """Close all sockets."""
        self._dns.close()


def _missing_addresses(plan: Plan) -> list[str]:
    """Say which of our addresses are not there yet: nobody reaches us on these subnets."""
    wanted: dict[IPv4Address | IPv6Address, tuple[str, str]] = {}
    for one in plan.subnets:
        wanted.setdefault(one.appliance, (one.name, one.interface))
    for six in plan.subnets6:
        wanted.setdefault(six.appliance, (six.name, six.interface))
    return [
        f"this appliance does not have its address {address} "
        f"({name}): give it to interface {interface}"
        for address, (name, interface) in wanted.items()
        if not _is_here(address)
    ]


def _is_here(address: IPv4Address | IPv6Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
