"""The peer: dnsmasq, at its best (no ping before an offer), serving the same shim, GRUB and kernel.

Its boxes get an initrd with nothing in it but a static busybox that prints one line: what a boot
costs that proves and enrols nothing. Both fetch everything by TFTP.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootstrap.rehearsal.lan import Lan
from netboot.bootset import COMMAND_LINE, Role
from netboot.cpio import encode_cpio, file_entry, with_parents
from tests.bench.figure import BenchError
from tests.bench.lab import Lab

MARKER = b"BARE-BOOT-DONE"
BUSYBOX = Path("/bin/busybox")
_INIT = f"#!/bin/busybox sh\necho {MARKER.decode()}\nexec /bin/busybox poweroff -f\n"
_GRUB_CFG = f"linux /vmlinuz {COMMAND_LINE}\ninitrd /bare.img\nboot\n"


def version() -> str:
    """Give dnsmasq's name with its version."""
    command = [_tool("dnsmasq", "dnsmasq-base"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"version (\S+)", done.stdout)
    if found is None:
        raise BenchError(f"dnsmasq does not say its version: {done.stdout[:80]}")
    return f"dnsmasq {found[1].partition('-')[0]}"


def bare_initrd() -> bytes:
    """Make the initrd that prints one line and switches the box off; uncompressed."""
    if not BUSYBOX.exists():
        raise BenchError("busybox is missing: apt-get install busybox-static")
    program = BUSYBOX.read_bytes()
    if b"/ld-linux" in program:
        raise BenchError(f"{BUSYBOX} is not static: apt-get install busybox-static")
    entries = [
        file_entry("init", _INIT.encode(), executable=True),
        file_entry("bin/busybox", program, executable=True),
    ]
    return encode_cpio(with_parents(entries))


def write_served(lab: Lab, root: Path) -> None:
    """Lay out what dnsmasq serves by TFTP."""
    (root / "grub").mkdir(parents=True)
    for role, name in ((Role.SHIM, "shimx64.efi"), (Role.GRUB, "grubx64.efi")):
        shutil.copyfile(lab.file(role), root / name)
    shutil.copyfile(lab.file(Role.KERNEL), root / "vmlinuz")
    (root / "bare.img").write_bytes(bare_initrd())
    (root / "grub" / "grub.cfg").write_text(_GRUB_CFG)


@contextmanager
def serving(lan: Lan, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run dnsmasq in the appliance's place: DHCP, TFTP of `root`, DNS."""
    hosts = list(lan.address.network.hosts())
    command = [_tool("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null"]
    command += ["--user=root", "--leasefile-ro", "--no-ping", "--dhcp-authoritative"]
    command += ["--no-resolv", "--no-hosts", "--domain=bench.example.net"]
    command += [f"--interface={lan.appliance_interface}", "--bind-interfaces"]
    command += [f"--dhcp-range={hosts[99]},{hosts[198]},1h", "--dhcp-boot=shimx64.efi"]
    command += ["--enable-tftp", f"--tftp-root={root}"]
    with (root.parent / "dnsmasq.log").open("ab") as log:
        server = subprocess.Popen(lan.appliance_command(command), stdout=log, stderr=log)
        try:
            yield server
        finally:
            server.terminate()
            server.wait(10)


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BenchError(f"{name} is missing: apt-get install {package}")
    return path
