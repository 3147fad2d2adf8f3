"""TFTP throughput beside tftpd-hpa and dnsmasq: one client and fifty, windows of 1, 4, 16 blocks.

Each server in the same namespace at its own address, the same load client (`tftp_load.c`, one
thread) in another, a veth pair between them. The servers take turns, so that what else the machine
does disturbs them alike; it disturbs processor time less, which is given too. The peers know no
windowsize and are compared as they are, at 1. Needs root, gcc, tftpd-hpa and dnsmasq.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_interface
from pathlib import Path

from netboot.files import FileMap
from netboot.io.files import FileStore
from netboot.io.tftp import TftpRunner
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

BLOCK = 1468
WINDOWS = (1, 4, 16)
FILE = "/file"
FILE_SIZE = 16 << 20
START_SECONDS = 20.0
_RUN_SECONDS = 300
_NETWORK = "10.99.69"
_COMPARED = (("time", ("tftpd-hpa", "dnsmasq")), ("the server's processor time", ("dnsmasq",)))
"""tftpd-hpa's processor time is its children's, one for each client, which nobody adds up."""
_CLIENT = f"{_NETWORK}.100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many clients fetch the file at the same time, and how often each."""

    name: str
    clients: int
    times: int


LOADS = (Load(name="one client", clients=1, times=4), Load(name="50 clients", clients=50, times=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server's address in its namespace, and its command."""

    address: IPv4Address
    command: tuple[str, ...]


def servers(root: Path) -> Mapping[str, Server]:
    """Ours and the peers', each with its own address; they serve `root`, which all may read."""
    first = IPv4Address(f"{_NETWORK}.1")
    hpa = ("in.tftpd", "-L", "-u", "nobody", "-a", f"{first + 1}:69", "-s", str(root))
    dnsmasq = ("dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--user=root")
    dnsmasq += ("--enable-tftp", f"--tftp-root={root}", "--tftp-max=100", "--bind-interfaces")
    dnsmasq += (f"--listen-address={first + 2}",)
    ours = (sys.executable, "-m", "tests.bench.tftp", str(root), str(first))
    return {
        "ours": Server(address=first, command=ours),
        "tftpd-hpa": Server(address=first + 1, command=hpa),
        "dnsmasq": Server(address=first + 2, command=dnsmasq),
    }


def measure(lab: Lab) -> list[Figure]:
    """Compile the load client, start all three servers, and let each be asked in its turn."""
    for tool, package in (("gcc", "gcc"), ("in.tftpd", "tftpd-hpa"), ("dnsmasq", "dnsmasq-base")):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is missing: apt-get install {package}")
    root = lab.work / "tftp"
    root.mkdir()
    root.chmod(0o755)
    data = os.urandom(FILE_SIZE)
    for name in (FILE[1:], hashlib.sha256(data).hexdigest()):
        (root / name).write_bytes(data)
        (root / name).chmod(0o644)
    client = lab.work / "tftp_load"
    source = Path(__file__).with_suffix("").with_name("tftp_load.c")
    subprocess.run(["gcc", "-O2", "-o", client, source], check=True)
    with ExitStack() as stack:
        inside, outside = stack.enter_context(_link())
        known = servers(root)
        processes = {
            name: stack.enter_context(_running(inside, outside, client, server))
            for name, server in known.items()
        }
        figures = []
        for load in LOADS:
            lab.say(f"           tftp: {load.name}")
            figures += _compare(lab, _Asking(outside, client, known, processes), load)
    return figures


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who asks whom, from where."""

    namespace: str
    client: Path
    servers: Mapping[str, Server]
    processes: Mapping[str, int]

    def seconds_per_gigabyte(self, name: str, window: int, load: Load) -> tuple[float, float]:
        """Give what passed, and what the server used of the processors."""
        before = _processor_seconds(self.processes[name])
        words = (str(self.servers[name].address), "69", FILE[1:], str(BLOCK), str(window))
        words += (str(load.clients), str(load.times))
        done = subprocess.run(
            _in(self.namespace, (str(self.client), *words)),
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{name}, {load.name}: {done.stderr.strip()}")
        size, seconds, _ = done.stdout.split()
        if int(size) != FILE_SIZE * load.clients * load.times:
            raise BenchError(f"{name}, {load.name}: {size} bytes came")
        used = _processor_seconds(self.processes[name]) - before
        return float(seconds) / int(size) * 1e9, used / int(size) * 1e9


def _compare(lab: Lab, asking: _Asking, load: Load) -> list[Figure]:
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(lab.runs):
        for name in asking.servers:
            for window in WINDOWS if name == "ours" else (1,):
                taken = asking.seconds_per_gigabyte(name, window, load)
                samples.setdefault((name, window), []).append(taken)
    return [
        Figure(
            name=f"TFTP, {load.name}, windowsize {window}, {what}",
            unit="s/GB",
            ours=tuple(sample[at] for sample in samples["ours", window]),
            peer=tuple(sample[at] for sample in samples[name, 1]),
            peer_name=name if window == 1 else f"{name} (knows windowsize 1 only)",
        )
        for at, (what, peers) in enumerate(_COMPARED)
        for window in WINDOWS
        for name in peers
    ]


def _processor_seconds(pid: int) -> float:
    """Read what a process has used in user and system mode (proc(5), stat, 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _link() -> Iterator[tuple[str, str]]:
    """Make two namespaces on a veth pair: for all servers, and for the clients."""
    inside, outside = f"bt-s{os.getpid():x}", f"bt-c{os.getpid():x}"
    try:
        for namespace in (inside, outside):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        ends = ("netns", inside, "type", "veth", "peer", "name", "e0", "netns", outside)
        _ip("link", "add", "e0", *ends)
        addresses = {outside: [_CLIENT], inside: [f"{_NETWORK}.{number}" for number in (1, 2, 3)]}
        for namespace, some in addresses.items():
            for address in some:
                interface = ip_interface(f"{address}/24")
                _ip("-n", namespace, "address", "add", str(interface), "dev", "e0")
            _ip("-n", namespace, "link", "set", "e0", "up")
        yield inside, outside
    finally:
        for namespace in (inside, outside):
            subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL)


@contextmanager
def _running(inside: str, outside: str, client: Path, server: Server) -> Iterator[int]:
    """Run a server as long as the context lasts; give its process id once it has answered."""
    process = subprocess.Popen(_in(inside, server.command), stderr=subprocess.DEVNULL)
    ask = (str(client), str(server.address), "69", FILE[1:], str(BLOCK), "1", "1", "1")
    try:
        end = time.monotonic() + START_SECONDS
        while subprocess.run(_in(outside, ask), capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError(f"{server.command[0]} does not answer")
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _in(namespace: str, command: tuple[str, ...]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def main() -> None:
    """Be our server: `python -m tests.bench.tftp ROOT ADDRESS`, until it is terminated."""
    root, address = Path(sys.argv[1]), IPv4Address(sys.argv[2])
    digest = hashlib.sha256((root / FILE[1:]).read_bytes()).digest()
    runner = TftpRunner(FileStore(root), lambda events: None)
    runner.replace(FileMap({FILE: digest}), [address], 1500)
    while True:
        runner.turn(1.0)


if __name__ == "__main__":
    main()
