"""The DHCP servers that are measured, one at a time on one end of a veth: ours, Kea, dnsmasq.

All three lend the same addresses. Ours makes each lease durable before its ACK; Kea (memfile) and
dnsmasq write theirs into the page cache.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from netboot.dhcp import DhcpConfig, DhcpEngine
from netboot.io.dhcp import DhcpRunner
from netboot.io.leases import NetbootStore
from netboot.io.workers import spare_collector
from netboot.network import Pool, SubnetPlan
from tests.bench.figure import BenchError

NETWORK = IPv4Network("10.41.0.0/16")
SERVER, CLIENT = IPv4Address("10.41.0.2"), IPv4Address("10.41.0.3")
FIRST, LAST = IPv4Address("10.41.16.1"), IPv4Address("10.41.111.254")
_ROOT = Path(__file__).parents[2]
_START_SECONDS = 20.0


class Wire:
    """Two namespaces joined by a veth pair; ours to remove."""

    def __init__(self) -> None:
        """Make both, with an address on each end."""
        tag = f"{os.getpid():x}"
        self.server, self.client = f"bd-s{tag}", f"bd-c{tag}"
        self.near, self.far = f"bs{tag}", f"bc{tag}"
        for namespace in (self.server, self.client):
            _ip("netns", "add", namespace)
        pair = ("type", "veth", "peer", self.far, "netns", self.client)
        _ip("link", "add", self.near, "netns", self.server, *pair)
        for namespace, end, address in (
            (self.server, self.near, SERVER),
            (self.client, self.far, CLIENT),
        ):
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "link", "set", end, "up")
            _ip("-n", namespace, "address", "add", f"{address}/16", "dev", end)

    def close(self) -> None:
        """Remove both."""
        for namespace in (self.server, self.client):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How one server is started in a directory of its own; `name` says what and which version."""

    name: str
    command: Callable[[Path, Wire], list[str]]
    ready: str


@contextmanager
def serving(server: Server, wire: Wire, work: Path) -> Iterator[int]:
    """Run a server until the block ends; gives its process id."""
    work.mkdir(parents=True)
    log = work / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["ip", "netns", "exec", wire.server, *server.command(work, wire)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
            env=os.environ | {"KEA_PIDFILE_DIR": str(work), "KEA_LOCKFILE_DIR": str(work)},
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while server.ready not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"{server.name} does not start: {log.read_text()[-500:]}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def resident(pid: int) -> float:
    """Give a process's proportional memory in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.M)
    if found is None:
        raise BenchError(f"no Pss of process {pid}")
    return int(found[1]) / 1000


def processor_time(pid: int) -> float:
    """Give the seconds of processor time that a process has used, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours() -> Server:
    """Our engine, runner and store, as netboot runs them."""
    return Server(
        name="doorstep",
        command=lambda work, wire: [
            *(sys.executable, "-m", "tests.bench.dhcp_servers"),
            *(str(work / "netboot.db"), wire.near),
        ],
        ready="serving",
    )


def kea() -> Server:
    """Kea with its leases in a file."""
    version = _output("kea-dhcp4", "-v").split()[0]
    return Server(name=f"Kea {version}", command=_kea, ready="DHCP4_STARTED")


def _kea(work: Path, wire: Wire) -> list[str]:
    output = {"output_options": [{"output": "stdout"}]}
    quiet = {"name": "kea-dhcp4", "severity": "ERROR", **output}
    # The line that says that it serves is INFO, of a logger that says little else.
    started = {"name": "kea-dhcp4.dhcp4", "severity": "INFO", **output}
    document = {
        "interfaces-config": {"interfaces": [wire.near], "dhcp-socket-type": "udp"},
        "lease-database": {
            "type": "memfile",
            "lfc-interval": 0,
            "name": str(work / "leases.csv"),
        },
        "valid-lifetime": 3600,
        "subnet4": [{"subnet": str(NETWORK), "id": 1, "pools": [{"pool": f"{FIRST} - {LAST}"}]}],
        "loggers": [quiet, started],
    }
    path = work / "kea.json"
    path.write_text(json.dumps({"Dhcp4": document}))
    return ["kea-dhcp4", "-c", str(path)]


def dnsmasq() -> Server:
    """dnsmasq as a site would run it, without its ping and its DNS."""
    version = _output("dnsmasq", "--version").split()[2]
    return Server(name=f"dnsmasq {version}", command=_dnsmasq, ready="DHCP, IP range")


def _dnsmasq(work: Path, wire: Wire) -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping"),
        *(f"--interface={wire.near}", "--bind-interfaces", "--user=root", "--pid-file="),
        *(f"--dhcp-range={FIRST},{LAST},1h", "--dhcp-lease-max=30000", "--quiet-dhcp"),
        *(f"--dhcp-leasefile={work}/leases", "--log-facility=-"),
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def serve(database: Path, interface: str) -> None:
    """Run our server until it is killed; what `netboot.io.service` does for DHCP."""
    subnet = SubnetPlan(
        name="load",
        interface=interface,
        network=NETWORK,
        appliance=SERVER,
        gateway=None,
        pools=(Pool(first=FIRST, last=LAST),),
        lease=timedelta(hours=1),
        dhcp="server",
        boot=False,
    )
    config = DhcpConfig(subnets=(subnet,), reservations=(), boot=None, domain="load.example")
    store = NetbootStore(database)
    runner = DhcpRunner(DhcpEngine(config, store.load_leases()), store, config)
    spare_collector()
    print("serving", flush=True)
    while True:
        runner.turn(0.5)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
