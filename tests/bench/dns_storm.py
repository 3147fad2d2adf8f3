"""Lookups while two hundred boxes are switched on: the 99th percentile of their delay.

`doorstep netboot run` beside dnsmasq, each with DHCP, TFTP and names in one process, the boxes of
`dhcp_boxes` before each in turn, and dnsperf from where the boxes are. Each box has a name, which
its lease brings.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.bench import dhcp_servers
from tests.bench.dhcp_boxes import BOXES, INITRD, INITRD_SIZE
from tests.bench.dhcp_servers import FIRST, LAST, NETWORK, SERVER, Server, Wire, serving
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

NAMES, RATE = 1000, 200
TIMEOUT = 5.0
"""Of dnsperf, in seconds: what is lost took so long."""
_LIMIT = 240
_DELAY = re.compile(r"^> (\S+) \S+ \S+(?: ([\d.]+))?$", re.M)
_SITE = """
[site]
id = "load"
domain = "load.example"
[[subnet]]
name = "load"
interface = "{near}"
network = "{network}"
appliance = "{server}"
pool = "{first}-{last}"
lease = "1h"
[boot]
files = "files"
[[zone]]
name = "site.example"
file = "site.example"
"""


def measure(lab: Lab) -> list[Figure]:
    """Switch the boxes on before each server in turn, as often as the lab says."""
    root = lab.work / "dns-storm"
    root.mkdir()
    root.chmod(0o755)
    (root / "files").mkdir()
    (root / "files" / INITRD).write_bytes(bytes(INITRD_SIZE))
    (root / "asked").write_text("".join(f"host-{n}.site.example A\n" for n in range(NAMES)))
    client = root / "tftp_load"
    source = Path(__file__).with_name("tftp_load.c")
    subprocess.run(["gcc", "-O2", "-o", client, source], check=True)
    peer = _dnsmasq(root)
    taken: dict[str, list[float]] = {"doorstep": [], peer.name: []}
    for run in range(lab.runs):
        for server in (_ours(root), peer):
            delay, count, seconds = _storm(server, root, f"{run}-{server.name.split()[0]}")
            lab.say(
                f"{server.name}: {count} lookups while {BOXES} boxes boot in {seconds:.1f} s, "
                f"99 % in {delay:.2f} ms"
            )
            taken[server.name].append(delay)
    return [
        Figure(
            name=f"DNS, 99th percentile of {RATE} lookups/s while {BOXES} boxes boot",
            unit="ms",
            ours=tuple(taken["doorstep"]),
            peer=tuple(taken[peer.name]),
            peer_name=peer.name,
        )
    ]


def _mac(number: int) -> str:
    return (b"\x02\x0b" + number.to_bytes(4, "big")).hex(":")


def _ours(root: Path) -> Server:
    def command(work: Path, wire: Wire) -> list[str]:
        head = "$TTL 300\n@ SOA ns hostmaster 1 3600 600 604800 30\n@ NS ns\nns A 10.1.0.1\n"
        hosts = (f"host-{n} A 10.1.{n >> 8}.{n & 255}\n" for n in range(NAMES))
        (work / "site.example").write_text(head + "".join(hosts))
        shutil.copytree(root / "files", work / "files")
        site = _SITE.format(near=wire.near, network=NETWORK, server=SERVER, first=FIRST, last=LAST)
        named = (f'[[reservation]]\nname = "box-{n}"\nmac = "{_mac(n)}"\n' for n in range(BOXES))
        (work / "site.toml").write_text(site + "".join(named))
        run = [sys.executable, "-m", "bootstrap.cli", "netboot", "run", "--no-probe"]
        return [*run, "--site", str(work / "site.toml"), "--state", str(work / "state")]

    return Server(name="doorstep", command=command, ready="doorstep: serving DHCP")


def _dnsmasq(root: Path) -> Server:
    plain = dhcp_servers.dnsmasq()

    def command(work: Path, wire: Wire) -> list[str]:
        hosts = (f"10.1.{n >> 8}.{n & 255} host-{n}.site.example" for n in range(NAMES))
        (work / "hosts").write_text("\n".join(hosts) + "\n")
        words = [word for word in plain.command(work, wire) if word != "--port=0"]
        words += ["--enable-tftp", f"--tftp-root={root}/files", f"--tftp-max={BOXES + 50}"]
        words += ["--no-resolv", "--no-hosts", f"--addn-hosts={work}/hosts"]
        return [*words, *(f"--dhcp-host={_mac(n)},box-{n}" for n in range(BOXES))]

    return Server(name=plain.name, command=command, ready=plain.ready)


def _storm(server: Server, root: Path, name: str) -> tuple[float, int, float]:
    """Give the 99th percentile in ms, how many lookups there were, and how long the boxes took."""
    wire = Wire()
    inside = ["ip", "netns", "exec", wire.client]
    said = root / f"{name}.dnsperf"
    ask = ["dnsperf", "-s", str(SERVER), "-d", str(root / "asked"), "-Q", str(RATE), "-v"]
    drive = [sys.executable, "-m", "tests.bench.dhcp_boxes", "drive", wire.far]
    try:
        with serving(server, wire, root / name), said.open("w") as out:
            asking = subprocess.Popen(
                [*inside, *ask, "-l", str(_LIMIT + 60), "-t", str(int(TIMEOUT))], stdout=out
            )
            try:
                done = subprocess.run(
                    [*inside, *drive, str(root / "tftp_load")],
                    capture_output=True,
                    text=True,
                    timeout=_LIMIT,
                )
            finally:
                asking.send_signal(signal.SIGINT)
                asking.wait(30)
    finally:
        wire.close()
    booted = [float(line) for line in done.stdout.split()]
    if len(booted) != BOXES:
        raise BenchError(f"{server.name}: {len(booted)} of {BOXES} boxes; {done.stderr[-300:]}")
    delays = sorted(
        float(delay) if code == "NOERROR" else TIMEOUT
        for code, delay in _DELAY.findall(said.read_text())
    )
    if len(delays) < RATE:
        raise BenchError(f"{server.name}: {len(delays)} lookups are too few: see {said}")
    return 1000 * delays[int(0.99 * len(delays))], len(delays), max(booted)
