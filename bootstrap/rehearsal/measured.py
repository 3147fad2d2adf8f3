"""What a boot set measures when virtual boxes boot its exact bytes: by PXE and from its ISO.

They enrol nowhere: told no place to phone home, a box prints PCRs and boot log and goes off. Needs
no key. The two boots run side by side, each in a network of its own. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface
from pathlib import Path

from attest.predict import Transport
from bootstrap.build.measure import MAC, SECONDS, Measured, measure_iso, parse_console
from bootstrap.errors import SiteError
from bootstrap.rehearsal.box import Boot, Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import machine_of
from bootstrap.rehearsal.serve import BootServer, measuring_plan
from bootstrap.site import Site
from netboot.bootset import GRUB_CFG_NAME, BootSetManifest, files_to_serve, grub_cfg
from netboot.io.bootsets import BootSetStore


def measure_all(
    manifest: BootSetManifest, store: BootSetStore, site: Site, work: Path
) -> Mapping[Transport, Measured]:
    """Boot a set each way it can be started; BoxError when a box does not come up."""
    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        pxe = pool.submit(measure_pxe, manifest, store, site, work / "pxe")
        iso = pool.submit(measure_iso, manifest, store, work / "iso")
        return {Transport.TFTP: pxe.result(), Transport.ISO: iso.result()}


def measure_pxe(manifest: BootSetManifest, store: BootSetStore, site: Site, work: Path) -> Measured:
    """Boot a set by PXE from our own servers, at the site's own address."""
    subnet = site.boot_subnet
    if subnet is None:
        raise SiteError("site.toml: no [[subnet]] has boot = true: nothing boots from here")
    store.add_file(grub_cfg(manifest, subnet.appliance), GRUB_CFG_NAME)
    plan = measuring_plan(site, manifest, files_to_serve(manifest, (), subnet.appliance))
    machine = machine_of(manifest.architecture, secure_boot=True)
    address = IPv4Interface(f"{subnet.appliance}/{subnet.network.prefixlen}")
    work.mkdir(parents=True, exist_ok=True)
    with (
        Lan(address, subnet.interface) as lan,
        BootServer(work / "server", plan, store.directory, lan),
        VirtualBox(work / "box", mac=MAC, machine=machine) as box,
    ):
        box.start(Boot.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        return parse_console(box.wait_off(SECONDS))
