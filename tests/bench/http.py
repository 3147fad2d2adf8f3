"""Boot images over HTTP, whole and by ranges, beside plain nginx that serves the same file.

Two network namespaces joined by a veth pair, the file in the page cache, one load client in C
(`http_load.c`) that asks both servers in turn. nginx is at its best: sendfile, tcp_nopush, a worker
for each core, no log. The table of files, the serve record and its events are ours alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from bootstrap.rehearsal.lan import Lan, inside
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

Processes = dict[int, subprocess.Popen[bytes]]

SERVER = IPv4Interface("10.77.9.1/24")
CLIENT = IPv4Interface("10.77.9.2/24")
OURS, NGINX = 8088, 8089
IMAGE = 128 << 20
IDLE = 2000
_ROOT = Path(__file__).parent.parent.parent
_START_SECONDS = 20.0
_NGINX = """\
daemon off;
pid {own}/pid;
error_log stderr error;
worker_processes auto;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 10000000;
    keepalive_timeout 600s;
    server {{ listen {address}:{port}; root {own}; }}
}}
"""
_IDLE = """
import socket, sys
held = [socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) for _ in range({count})]
print(len(held), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked for: by so many clients, so many answers, of `span` bytes (0: the image)."""

    title: str
    clients: int
    answers: int
    span: int = 0


LOADS = (
    Load(title="one client, 1 GiB of images", clients=1, answers=8),
    Load(title="50 clients, an image of 128 MiB each", clients=50, answers=50),
    Load(title="one client, 4,000 ranges of 64 KiB", clients=1, answers=4000, span=64 << 10),
    Load(title="50 clients, 20,000 ranges of 64 KiB", clients=50, answers=20000, span=64 << 10),
    Load(title="50 clients, 4,000 ranges of 1 MiB", clients=50, answers=4000, span=1 << 20),
)


def measure(lab: Lab) -> list[Figure]:
    """Ask both servers for the same, in turn, as often as the lab says."""
    program = _build(lab.work)
    peer = _version()
    ours, theirs = lab.work / "http-ours", lab.work / "http-nginx"
    _write_image(ours, theirs)
    with ExitStack() as stack:
        lan = stack.enter_context(Lan(SERVER))
        _ip("-n", lan.box_namespace, "addr", "add", str(CLIENT), "dev", Lan.BRIDGE)
        server = str(SERVER.ip)
        module = [sys.executable, "-m", "tests.bench.http_server", str(ours), server, str(OURS)]
        processes = {OURS: stack.enter_context(_running(lan, module))}
        conf = theirs / "nginx.conf"
        conf.write_text(_NGINX.format(own=theirs, address=server, port=NGINX))
        command = ["nginx", "-p", str(theirs), "-e", "stderr", "-c", str(conf)]
        processes[NGINX] = stack.enter_context(_running(lan, command))
        for port in processes:
            _wait(lan, port)
        figures = [
            figure
            for load in LOADS
            for figure in _figures(lab, lan, program, load, processes, peer)
        ]
        return [*figures, *_memory(lan, processes, peer)]


def _figures(
    lab: Lab, lan: Lan, program: Path, load: Load, processes: Processes, peer: str
) -> list[Figure]:
    """Give seconds of the clock, and of the processor (which others on the machine change less)."""
    clock: dict[int, list[float]] = {OURS: [], NGINX: []}
    processor: dict[int, list[float]] = {OURS: [], NGINX: []}
    for number in range(lab.runs + 1):
        for port, process in processes.items():
            before = _processor_seconds(process.pid)
            taken = _ask(lan, program, port, load)
            if number:  # the first warms both
                clock[port].append(taken)
                processor[port].append(_processor_seconds(process.pid) - before)
    lab.say(f"           {load.title}")
    return [
        Figure(
            name=f"HTTP: {load.title}{what}",
            unit="s",
            ours=tuple(seconds[OURS]),
            peer=tuple(seconds[NGINX]),
            peer_name=peer,
        )
        for what, seconds in (("", clock), (", processor of the server", processor))
    ]


def _processor_seconds(pid: int) -> float:
    """Add up what a process and its children used of the processor (proc(5), stat)."""
    ticks = 0
    for one in _with_children(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return max(1, ticks) / os.sysconf("SC_CLK_TCK")


def _with_children(pid: int) -> list[str]:
    return [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _ask(lan: Lan, program: Path, port: int, load: Load) -> float:
    command = [str(program), str(SERVER.ip), str(port), "/image", str(load.clients)]
    command += [str(load.answers), str(IMAGE), str(load.span)]
    done = subprocess.run(
        inside(lan.box_namespace, command), capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        raise BenchError(f"port {port}, {load.title}: {done.stderr.strip()}")
    seconds, received, _ = done.stdout.split()
    if int(received) != load.answers * (load.span or IMAGE):
        raise BenchError(f"port {port}, {load.title}: {received} bytes came")
    return float(seconds)


def _memory(lan: Lan, processes: Processes, peer: str) -> list[Figure]:
    """Give PSS after the load, and what idle connections add to it."""
    loaded = {port: _pss(process.pid) for port, process in processes.items()}
    held = {}
    for port, process in processes.items():
        with _idle(lan, port):
            held[port] = _pss(process.pid) - loaded[port]
    each = {port: max(grown, 1) / IDLE for port, grown in held.items()}
    return [
        Figure(
            name="HTTP: memory after that load (PSS)",
            unit="MB",
            ours=(loaded[OURS] / 1e6,),
            peer=(loaded[NGINX] / 1e6,),
            peer_name=peer,
        ),
        Figure(
            name=f"HTTP: memory for each of {IDLE:,} idle connections (PSS)",
            unit="B",
            ours=(each[OURS],),
            peer=(each[NGINX],),
            peer_name=peer,
        ),
    ]


@contextmanager
def _idle(lan: Lan, port: int) -> Iterator[None]:
    """Hold connections that say nothing."""
    code = _IDLE.format(count=IDLE)
    limited = ["prlimit", f"--nofile={2 * IDLE}", sys.executable, "-c", code]
    command = inside(lan.box_namespace, [*limited, str(SERVER.ip), str(port)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != str(IDLE).encode():
            raise BenchError(f"port {port}: {IDLE} idle connections could not be made")
        yield
        holder.stdin.close()


def _pss(pid: int) -> int:
    """Add up the PSS of a process and its children, in bytes (proc(5), smaps_rollup)."""
    total = 0
    for one in _with_children(pid):
        found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)
        if found is None:
            raise BenchError(f"process {one} has no PSS")
        total += 1024 * int(found[1])
    return total


@contextmanager
def _running(lan: Lan, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        lan.appliance_command(command), cwd=_ROOT, env=os.environ | {"PYTHONPATH": str(_ROOT)}
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _wait(lan: Lan, port: int) -> None:
    """Wait until a server answers."""
    code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()"
    command = inside(lan.box_namespace, [sys.executable, "-c", code, str(SERVER.ip), str(port)])
    end = time.monotonic() + _START_SECONDS
    while subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() > end:
            raise BenchError(f"nothing answers on port {port}")


def _write_image(ours: Path, theirs: Path) -> None:
    """Write one image, under the name that each of both expects."""
    image = os.urandom(1 << 20) * (IMAGE >> 20)
    (ours / "files").mkdir(parents=True)
    theirs.mkdir()
    for path in (ours / "files" / hashlib.sha256(image).hexdigest(), theirs / "image"):
        path.write_bytes(image)
        path.chmod(0o644)
    theirs.chmod(0o755)


def _build(work: Path) -> Path:
    program = work / "http_load"
    source = Path(__file__).with_name("http_load.c")
    command = ["gcc", "-O2", "-D_GNU_SOURCE", "-o", str(program), str(source)]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise BenchError("gcc is missing: apt-get install gcc") from None
    return program


def _version() -> str:
    if shutil.which("nginx") is None:
        raise BenchError("nginx is missing: apt-get install nginx-light")
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().removeprefix("nginx version: ").replace("/", " ")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
