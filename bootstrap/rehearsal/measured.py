"""What a boot set measures when virtual boxes boot its exact bytes: by PXE, ISO and iPXE.

They enrol nowhere: told no place to phone home, a box prints PCRs and boot log and goes off. Needs
no key. Two boots at a time run side by side, each in a network of its own. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

from attest.predict import Transport
from bootstrap.build.measure import MAC, SECONDS, Measured, measure_iso, parse_console
from bootstrap.rehearsal.box import Boot, Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import machine_of
from bootstrap.rehearsal.serve import BootServer, measuring_plan, measuring_subnet
from bootstrap.site import Site
from netboot.bootchoice import BootRule, Loading
from netboot.bootset import (
    IPXE_LOADER,
    IPXE_SCRIPT,
    BootSetManifest,
    Role,
    files_to_serve,
    rendered_files,
)
from netboot.io.bootsets import BootSetStore
from netboot.network import ClientKind, Match

IPXE_RULES = (
    BootRule(
        match=Match(kinds=frozenset({ClientKind.IPXE})), file=IPXE_SCRIPT, loading=Loading.HTTP
    ),
    BootRule(match=Match(), file=IPXE_LOADER, loading=Loading.TFTP),
)
"""Firmware is sent to iPXE, and iPXE to its script."""


def measure_all(
    manifest: BootSetManifest, store: BootSetStore, site: Site, work: Path
) -> Mapping[Transport, Measured]:
    """Boot a set each way it can be started; BoxError when a box does not come up."""
    work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        pxe = pool.submit(measure_pxe, manifest, store, site, work / "pxe")
        iso = pool.submit(measure_iso, manifest, store, work / "iso")
        found = {Transport.TFTP: pxe, Transport.ISO: iso}
        if Role.IPXE in manifest.roles:
            ipxe = pool.submit(measure_pxe, manifest, store, site, work / "ipxe", ipxe=True)
            found[Transport.IPXE] = ipxe
        return {transport: one.result() for transport, one in found.items()}


def measure_pxe(
    manifest: BootSetManifest, store: BootSetStore, site: Site, work: Path, *, ipxe: bool = False
) -> Measured:
    """Boot a set by PXE from our own servers, at the site's own address.

    With `ipxe` the box has Secure Boot off and is sent to the set's iPXE.
    """
    subnet = measuring_subnet(site)
    for path, data in rendered_files(manifest, subnet.appliance).items():
        store.add_file(data, path.rpartition("/")[2])
    plan = measuring_plan(site, manifest, files_to_serve(manifest, (), subnet.appliance))
    if ipxe and plan.boot is not None:
        plan = replace(plan, boot=replace(plan.boot, rules=IPXE_RULES))
    machine = machine_of(manifest.architecture, secure_boot=not ipxe)
    address = IPv4Interface(f"{subnet.appliance}/{subnet.network.prefixlen}")
    work.mkdir(parents=True, exist_ok=True)
    with (
        Lan(address, subnet.interface) as lan,
        BootServer(work / "server", plan, store.directory, lan),
        VirtualBox(work / "box", mac=MAC, machine=machine) as box,
    ):
        box.start(Boot.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        return parse_console(box.wait_off(SECONDS))
