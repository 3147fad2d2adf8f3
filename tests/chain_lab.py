"""What the tests of boot chains share: our netboot in a network of its own, other people's loaders,
a small Linux that says a word and goes off, and questions to the serve record.

A chain is a real loader in a virtual machine; only waiting on its console or on netboot's events
tells how far it came.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface
from itertools import islice
from pathlib import Path
from typing import Any

from bootstrap.build import apt
from bootstrap.build.initrd import read_deb
from bootstrap.build.parts import committed_lock, default_cache
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import Machine
from bootstrap.rehearsal.serve import BootServer
from netboot.bootchoice import BootRule
from netboot.cpio import encode_cpio, file_entry, with_parents
from netboot.network import Pool, SubnetPlan
from netboot.plan import Boot, Plan

SECONDS = 120.0
"""The longest that anything here may take; a chain takes a quarter of it."""
US = IPv4Interface("10.79.0.1/24")
FIRST = IPv4Address("10.79.0.100")
MAC = "52:54:00:d0:00:79"
DONE = b"doorstep-chain-reached-linux"

_INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "%s $(/bin/busybox cat /proc/cmdline)"
/bin/busybox poweroff -f
""".replace(b"%s", DONE)


def bare_initrd() -> bytes:
    """Make an initrd of busybox that says DONE with its command line, and switches off."""
    busybox = Path("/bin/busybox").read_bytes()
    entries = [
        file_entry("init", _INIT, executable=True),
        file_entry("bin/busybox", busybox, executable=True),
        file_entry("proc/none", b""),
    ]
    return gzip.compress(encode_cpio(with_parents(entries)), 6, mtime=0)


def locked_kernel() -> bytes:
    """Give the kernel of our boot sets, out of its package."""
    lock = committed_lock()
    name = next(one.name for one in lock.packages if one.name.startswith("linux-image-"))
    package = apt.fetch(lock, [name], default_cache(), apt.find_mirrors())[name]
    return read_deb(package)[f"boot/vmlinuz-{name.removeprefix('linux-image-')}"].data


def chain_plan(lan: Lan, files: Mapping[str, bytes], rules: Iterable[BootRule]) -> Plan:
    """Make a plan of one network that serves `files` (path to content) by the operator's rules."""
    subnet = SubnetPlan(
        name="boxes",
        interface=lan.appliance_interface,
        network=US.network,
        appliance=US.ip,
        gateway=None,
        pools=(Pool(first=FIRST, last=FIRST + 20),),
        lease=timedelta(hours=1),
        dhcp="server",
        boot=True,
    )
    names = {path: hashlib.sha256(data).digest() for path, data in files.items()}
    boot = Boot(rules=tuple(rules), files=names)
    return Plan(number=1, site="chain", domain="chain.example.net", subnets=(subnet,), boot=boot)


@dataclass(slots=True)
class Served:
    """What netboot tells about what it served; `events` grows with each look."""

    ask: Callable[..., Any]
    _last: int = 0
    events: list[Mapping[str, Any]] = field(default_factory=list)

    def look(self) -> list[Mapping[str, Any]]:
        """Give all events so far."""
        answer = self.ask("events", after=self._last)
        while answer["events"]:
            self.events += answer["events"]
            self._last = int(answer["events"][-1]["n"])
            answer = self.ask("events", after=self._last)
        return self.events

    def files(self, mac: str = MAC) -> list[tuple[str, str]]:
        """Give transport and path of each file that the box got as a whole, in order."""
        return [
            (event["detail"]["transport"], event["detail"]["name"])
            for event in self.look()
            if event["kind"] == "boot-file" and event["mac"] == mac and event["detail"]["done"]
        ]

    def await_files(self, *wanted: tuple[str, str], mac: str = MAC) -> None:
        """Wait until the box has had these files as a whole, in this order (others between)."""

        def is_there() -> bool:
            found = iter(self.files(mac))
            return all(one in found for one in wanted)

        until(is_there, lambda: f"wanted {wanted}, sent {self.files(mac)}")

    def addresses(self, mac: str = MAC) -> list[str]:
        """Give the addresses that were acknowledged to a box, one for each of its DHCP rounds."""
        acks = (event for event in self.look() if event["kind"] == "dhcp-ack")
        return [event["address"] for event in acks if event["mac"] == mac]


def until(what: Callable[[], bool], why: Callable[[], str], seconds: float = SECONDS) -> None:
    """Wait for a condition; AssertionError with `why` when it does not come."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


@contextmanager
def captured(lan: Lan, which: str) -> Iterator[list[str]]:
    """Capture what passes the appliance's interface; the list has a line a packet at the end."""
    words = ["tcpdump", "-nlp", "--immediate-mode", "-i", lan.appliance_interface, which]
    lines: list[str] = []
    with subprocess.Popen(
        lan.appliance_command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stderr is not None and "listening on" in "".join(islice(watch.stderr, 2))
        try:
            yield lines
        finally:
            watch.terminate()
            lines += filter(None, watch.communicate()[0].splitlines())


@contextmanager
def public_directory() -> Iterator[Path]:
    """Make a directory that services of other users can enter; pytest's own is closed to them."""
    made = Path(tempfile.mkdtemp(prefix="chain-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def serving(lan: Lan, files: Mapping[str, bytes], rules: Iterable[BootRule]) -> Iterator[Served]:
    """Run netboot with these files and rules."""
    with public_directory() as base:
        store = base / "bootsets" / "files"
        store.mkdir(parents=True)
        for data in files.values():
            (store / hashlib.sha256(data).hexdigest()).write_bytes(data)
        plan = chain_plan(lan, files, rules)
        with BootServer(base, plan, base / "bootsets", lan) as server:
            yield Served(server.ask)


@contextmanager
def powered_on(
    lan: Lan,
    directory: Path,
    machine: Machine,
    way: Way = Way.PXE,
    *,
    fw_cfg: Mapping[str, str | Path] | None = None,
    memory_mib: int = 1024,
) -> Iterator[VirtualBox]:
    """Switch a box on in the network."""
    box = VirtualBox(directory, mac=MAC, machine=machine, fw_cfg=fw_cfg, memory_mib=memory_mib)
    with box:
        box.start(way, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        yield box
