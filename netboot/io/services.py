"""All services of netboot with their threads, and which plan each of them runs.

A plan that comes is a generation. Files and names take it first, then those that tell clients where
these are: so nobody is told of a file before it is there, and the files of the plan before stay
until the next one. It never reads a plan and never decides whether one is good.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from netboot.errors import SiteError
from netboot.files import Assignments
from netboot.io.clock import ClockTrust
from netboot.io.dhcp6_service import Dhcp6Service
from netboot.io.dhcp_service import DhcpService
from netboot.io.files import FileStore
from netboot.io.forwarding import Forwarding
from netboot.io.http import HttpRunner
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.listen import Relay
from netboot.io.names import NameService
from netboot.io.probe import PROBE_SECONDS, ForeignServer
from netboot.io.proxy import ProxyRunner
from netboot.io.tftp import TftpRunner, interface_mtu
from netboot.io.workers import Recorder, State, Worker
from netboot.io.zones import ZONE_KEYS, Signing, ZoneDesk
from netboot.plan import Plan
from netboot.zone import Zone

_SERVING_FILES = ("tftp", "http", "dns")
_TELLING_CLIENTS = ("dhcp", "dhcp6", "proxy")


class Services:
    """DHCP, proxyDHCP, DHCPv6 with advertisements, TFTP, HTTP and DNS, each with its thread."""

    def __init__(
        self,
        state: Path,
        probe_seconds: float = PROBE_SECONDS,
        relay: Relay | None = None,
        signing: Signing | None = None,
    ) -> None:
        """Open the database; SiteError. Nothing is served before `take`.

        `relay` is where TLS in front of HTTP ends; `probe_seconds` 0 looks for no other server;
        `signing` None signs no zone.
        """
        self.store = NetbootStore(state / "netboot" / "netboot.db")
        self.log = EventLog(self.store)
        self.recorder = Recorder(self.store)
        self.files = FileStore(state / "bootsets" / "files", state / "plan" / "files")
        tell, offered = self.recorder.tell, Assignments()
        self._tftp = TftpRunner(self.files, tell, assignments=offered)
        self._http = HttpRunner(self.files, tell, assignments=offered, relay=relay)
        clock = ClockTrust(self.log.newest())
        forwarding = Forwarding(state / "netboot" / "dns-cache.db", clock, tell)
        self.names = NameService(self.store, forwarding, os.urandom(32))
        self.zones = ZoneDesk(self.files, state / ZONE_KEYS, signing)
        self._dhcp = DhcpService(
            self.store, tell, self.names.may_differ, probe_seconds, assign=offered.assign
        )
        self._dhcp6 = Dhcp6Service(
            self.store, tell, offered.assign, self.names.may_differ, probe_seconds
        )
        self._proxy = ProxyRunner(tell, offered.assign, self.store.see)
        self._workers = {
            "dhcp": Worker("dhcp", self._dhcp.turn),
            "dhcp6": Worker("dhcp6", self._dhcp6.turn),
            "proxy": Worker("proxy", self._proxy.turn),
            "tftp": Worker("tftp", self._tftp.turn),
            "http": Worker("http", self._http.turn),
            "dns": Worker("dns", self.names.turn),
        }
        self._generation = 0
        self._plans: dict[int, Plan] = {}
        self._master: tuple[Zone, ...] = ()
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
        for runner in (self._dhcp, self._dhcp6, self._proxy, self._tftp, self._http, self.names):
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
        self._master = self.zones.take(plan)
        self.zones.refresh(time.time())
        self._post_names(plan)
        self._waiting = {
            "dhcp": partial(self._dhcp.replace, plan.dhcp()),
            "dhcp6": partial(self._dhcp6.replace, plan.dhcp6()),
            "proxy": partial(self._proxy.replace, plan.dhcp()),
        }

    def _post_names(self, plan: Plan) -> None:
        self._post("dns", partial(self.names.replace, plan, self._master, self.zones.signed))

    def renew_keys(self) -> None:
        """Sign zones with other keys where that is due; may wait for the key service."""
        if self.zones.refresh(time.time()) and self.newest is not None:
            self._post_names(self.newest)

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
        if name in ("dhcp", "dhcp6") and not worker.trouble:
            return self._dhcp.state if name == "dhcp" else self._dhcp6.state
        if worker.trouble or (name == "proxy" and self._proxy.trouble):
            return State.TROUBLE
        return State.SERVING if worker.generation else State.WAITING

    @property
    def foreign(self) -> tuple[ForeignServer, ...]:
        """Other DHCP servers that answer on our networks."""
        both = (self._dhcp, self._dhcp6)
        return tuple(server for one in both for server in (*one.foreign, *one.rivals))

    def sentences(self) -> list[str]:
        """Say what a person should know."""
        said: list[str | None] = [worker.trouble for worker in self._workers.values()]
        said += [self._dhcp.sentence, self._dhcp6.sentence, self._proxy.trouble]
        said.append(self.recorder.trouble)
        said += [*self.zones.sentences(), *self.names.forwarding.sentences()]
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
