"""Resident memory of the whole appliance, idle, beside dnsmasq alone.

The sum of PSS (proc(5), smaps_rollup) of every process in the appliance's network namespace, the
supervisor too. dnsmasq does DHCP, TFTP and DNS and nothing else: this ratio is meant to be read as
the price of the rest.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from bootstrap.rehearsal.lan import Lan
from tests.bench import peer
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

SETTLE_SECONDS = 5.0


def measure(lab: Lab) -> list[Figure]:
    """Start both, let them settle, and add up."""
    root = lab.work / "peer-memory" / "served"
    peer.write_served(lab, root)
    with (
        lab.rehearsal.started() as (lan, _),
        Lan(lab.rehearsal.place.address) as other,
        peer.serving(other, root),
    ):
        time.sleep(SETTLE_SECONDS)
        ours, theirs = (_memory(one.appliance_namespace) for one in (lan, other))
    return [
        Figure(
            name="memory of the idle appliance (PSS)",
            unit="MB",
            ours=(ours / 1e6,),
            peer=(theirs / 1e6,),
            peer_name=f"{peer.version()} alone",
        )
    ]


def _memory(namespace: str) -> int:
    """Add up the PSS of all processes in a network namespace, in bytes."""
    command = ["ip", "netns", "pids", namespace]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if not done.stdout.split():
        raise BenchError(f"nothing runs in {namespace}")
    return sum(_pss(Path("/proc", pid)) for pid in done.stdout.split())


def _pss(process: Path) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB$", (process / "smaps_rollup").read_text(), re.M)
    if found is None:
        raise BenchError(f"{process}: no Pss in smaps_rollup")
    return int(found[1]) * 1024
