"""Boot the exact bytes of a boot set in a virtual box and read what it measured.

The agent, told no phone-home address (DHCP option 143), prints the PCRs and the boot log on its
console and goes off; so this needs no key, no site and no network but its own. What comes back is
compared with the prediction elsewhere; here nothing is judged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

from bootstrap.build.iso import build_iso
from bootstrap.errors import PeerError
from bootstrap.rehearsal.box import Boot, Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import machine_of
from netboot.bootset import BootSetManifest, files_to_serve, rendered_files
from netboot.io.bootsets import BootSetStore

SITE = IPv4Interface("10.77.0.1/24")
MAC = "52:54:00:d0:00:01"
SECONDS = 180.0

_PCR = re.compile(rb"^DOORSTEP-PCR (sha\d+) (\d{1,2}) ([0-9a-f]{40,128})\r?$", re.M)
_LOG = re.compile(rb"^DOORSTEP-LOG ([A-Za-z0-9+/=]+)\r?$", re.M)
_END = re.compile(rb"^DOORSTEP-LOG-END ([0-9a-f]{64})\r?$", re.M)

Serve = Callable[[Lan, Path], AbstractContextManager[None]]
"""Serves DHCP (no option 143, boot file shimx64.efi), TFTP and HTTP of a directory in the LAN."""


class ConsoleError(PeerError):
    """The box's console does not hold a whole measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a boot measured: the boot log as Linux gives it, and values by bank and PCR."""

    log: bytes = field(repr=False)
    pcrs: Mapping[str, Mapping[int, bytes]]


def measure(
    manifest: BootSetManifest,
    store: BootSetStore,
    directory: Path,
    serve: Serve,
    *,
    secure_boot: bool = True,
    site: IPv4Interface = SITE,
) -> Measured:
    """Boot the set over the network and return what it measured, with `site` as our address.

    `directory` is for the box's state and console; BoxError when the box does not come up.
    """
    root = directory / "served"
    write_served(manifest, store, root, site)
    with Lan(site) as lan, serve(lan, root):
        network = Network(namespace=lan.box_namespace, tap=lan.add_tap())
        machine = machine_of(manifest.architecture, secure_boot=secure_boot)
        with VirtualBox(directory / "box", mac=MAC, machine=machine) as box:
            box.start(Boot.PXE, network=network)
            return parse_console(box.wait_off(SECONDS))


def measure_iso(
    manifest: BootSetManifest, store: BootSetStore, directory: Path, *, secure_boot: bool = True
) -> Measured:
    """Boot the set's ISO as a CD, with no network at all, and return what it measured."""
    directory.mkdir(parents=True, exist_ok=True)
    iso = directory / "boot.iso"
    build_iso(manifest, store, iso)
    machine = machine_of(manifest.architecture, secure_boot=secure_boot)
    with VirtualBox(directory / "box", mac=MAC, machine=machine) as box:
        box.start(Boot.ISO, iso=iso)
        return parse_console(box.wait_off(SECONDS))


def write_served(
    manifest: BootSetManifest, store: BootSetStore, root: Path, site: IPv4Interface
) -> None:
    """Lay out below `root` what an appliance at `site` serves for this set."""
    rendered = rendered_files(manifest, site.ip)
    for path, sha256 in files_to_serve(manifest, (), site.ip).items():
        target = root / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in rendered:
            target.write_bytes(rendered[path])
        else:
            shutil.copyfile(store.file(sha256), target)


def parse_console(console: bytes) -> Measured:
    """Read the measurement out of a console; ConsoleError when it is not there as a whole."""
    pcrs: dict[str, dict[int, bytes]] = {}
    for bank, index, value in _PCR.findall(console):
        pcrs.setdefault(bank.decode(), {})[int(index)] = bytes.fromhex(value.decode())
    end = _END.search(console)
    if end is None or not pcrs:
        raise ConsoleError("the console holds no measurement; it ends with: " + _end(console))
    try:
        log = b"".join(base64.b64decode(c, validate=True) for c in _LOG.findall(console))
    except binascii.Error as error:
        raise ConsoleError("the boot log on the console is damaged") from error
    if hashlib.sha256(log).hexdigest().encode() != end.group(1):
        raise ConsoleError("the boot log on the console is not whole: its digest differs")
    return Measured(log=log, pcrs=pcrs)


def _end(console: bytes) -> str:
    return console[-800:].decode(errors="replace")
