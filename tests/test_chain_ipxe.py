"""The chain of firmware, iPXE and an HTTP script ends enrolled, or refused for what was not so.

The boxes have a TPM and no Secure Boot: nobody signs iPXE. The site's rules send them to the iPXE
of its boot set, and its policy names the one role whose boxes may do without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from attest.predict import Transport
from bootstrap.build.parts import build_parts, committed_lock, default_cache
from bootstrap.io import site_dir
from bootstrap.io.references import ipxe_facts
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.attacks import changed_release
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import amd64
from bootstrap.rehearsal.measured import measure_pxe
from bootstrap.rehearsal.place import make_boot_set
from bootstrap.rehearsal.record import (
    CONTEXT,
    RehearsalError,
    RehearsalRecord,
    check_measured,
    core_digest,
)
from bootstrap.rehearsal.run import KEEP, Rehearsal
from bootstrap.rehearsal.wire import Wire
from bootstrap.site import SITE_FILE
from keys import note
from netboot.bootset import IPXE_LOADER, IPXE_SCRIPT, BootSetManifest, Role
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE
from tests.chain_lab import Served, public_directory, until

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

ENROL_SECONDS = 300.0
"""An emulated machine on a busy machine of two cores; alone it takes 40 to 60 s."""
ENDS = ("ready", "held", "refused", "trouble")
OLD_IPXE = Path("/usr/lib/ipxe/ipxe.efi")
"""Debian 12's, of 2019: Linux finds the initrd by name, and measures none that it found so."""
OLD = "52:54:00:d0:03:04"
BOXES = {
    "named": ("52:54:00:d0:03:01", "legacy"),
    "unnamed": ("52:54:00:d0:03:02", "pos"),
    "on-the-wire": ("52:54:00:d0:03:03", "legacy"),
    "old": (OLD, "legacy"),
}
POLICY = 'type = "doorstep/policy/v1"\nwithout_secure_boot = ["legacy"]\n'
RULES = f"""
[[boot.rule]]
name = "old-script"
kind = "ipxe"
mac = "{OLD}"
file = "old/boot.ipxe"
via = "http"

[[boot.rule]]
name = "old"
mac = "{OLD}"
file = "old/ipxe.efi"

[[boot.rule]]
name = "ipxe-script"
kind = "ipxe"
mac = "52:54:00:d0:03"
file = "enrol/boot.ipxe"
via = "http"

[[boot.rule]]
name = "ipxe"
mac = "52:54:00:d0:03"
file = "enrol/ipxe.efi"

[[role]]
name = "legacy"
hostname = "legacy-{{number}}"
config = "templates/pos.yaml.j2"
secrets = ["pos-api-token"]
certificate_days = 7
after = "power-off"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running site."""

    rehearsal: Rehearsal
    manifest: BootSetManifest
    boxes: Mapping[str, VirtualBox]
    lan: Lan
    appliance: Appliance
    served: Served

    def end_of(self, name: str, tap: str | None = None) -> Mapping[str, Any]:
        """Boot a box to the event that ends its way, and switch it off; give the event."""
        box, ends = self.boxes[name], list[Mapping[str, Any]]()
        last = int(self.appliance.ask("control", "events", {"after": -1})["last"])

        def has_ended() -> bool:
            nonlocal last
            answer = self.appliance.ask("control", "events", {"after": last})
            last = int(answer["last"])
            found = (one for one in answer["events"] if one["mac"] == box.mac)
            ends.extend(one for one in found if one["kind"] in ENDS)
            return bool(ends)

        began = time.monotonic()
        tap = tap or self.lan.add_tap()
        box.start(Way.PXE, network=Network(namespace=self.lan.box_namespace, tap=tap))
        try:
            until(has_ended, lambda: box.console[-1500:].decode(errors="replace"), ENROL_SECONDS)
        finally:
            box.stop()
        print(f"{name}: {ends[0]['kind']} after {time.monotonic() - began:.1f} s")
        return ends[0]

    def await_files(self, name: str, *loaders: tuple[str, str]) -> None:
        """Wait until the record says that a box got these, then kernel and initrd, whole.

        The anchor comes last and fits a segment that iPXE never acknowledges; PCR 9 tells of it.
        """
        roles = self.manifest.roles
        own = (("http", roles[role].path) for role in (Role.KERNEL, Role.GENERIC))
        self.served.await_files(*loaders, *own, mac=self.boxes[name].mac)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with public_directory() as work, ExitStack() as stack:
        rehearsal = Rehearsal(work, None, print)
        boxes = make_boxes(rehearsal)
        for box in boxes.values():
            stack.callback(box.stop)
        manifest = make_set(rehearsal)
        write_site(rehearsal.place.layout.site, manifest)
        publish(rehearsal, manifest)
        lan, appliance = stack.enter_context(rehearsal.started())
        yield Site(
            rehearsal=rehearsal,
            manifest=manifest,
            boxes=boxes,
            lan=lan,
            appliance=appliance,
            served=Served(lambda method, **params: appliance.ask("netboot", method, params)),
        )


def make_boxes(rehearsal: Rehearsal) -> Mapping[str, VirtualBox]:
    """Make boxes without Secure Boot, and write their roles into the signed note."""
    ca = TpmCa(rehearsal.work / "tpm-ca")
    boxes = {
        name: VirtualBox(
            rehearsal.work / name,
            mac=mac,
            tpm_ca=ca,
            serial_number=f"IPXE-{name}",
            machine=amd64(secure_boot=False),
        )
        for name, (mac, _) in BOXES.items()
    }
    rehearsal.boxes[:] = boxes.values()
    rehearsal.prepare_boxes()
    place = rehearsal.place
    path = place.layout.site / place.site.trust.delivery_note
    roles = {f"IPXE-{name}": role for name, (_, role) in BOXES.items()}
    entries = [replace(one, role=roles[one.serial]) for one in note.decode(path.read_bytes())]
    site_dir.write(path, note.encode(tuple(entries)))
    site_dir.sign_note(place.layout.site, place.site)
    return boxes


def make_set(rehearsal: Rehearsal) -> BootSetManifest:
    parts = build_parts(committed_lock(), default_cache(), ipxe=True)
    return make_boot_set(rehearsal.place, parts, version=1, release="chain of ipxe")


def write_site(directory: Path, manifest: BootSetManifest) -> None:
    """Write policy, rules and role, and the files that one box is sent to instead."""
    site_dir.write(directory / "policy.toml", POLICY.encode())
    text = (directory / SITE_FILE).read_text()
    assert text.count("[boot]\n") == 1
    site_dir.write(
        directory / SITE_FILE,
        (text.replace("[boot]\n", '[boot]\nfiles = "files"\n') + RULES).encode(),
    )
    files = {role.value: file for role, file in manifest.roles.items()}
    script = (
        f"#!ipxe\nkernel {files['kernel'].path} {manifest.command_line}"
        " initrd=generic.img initrd=anchor.img\n"
        f"initrd {files['generic'].path}\ninitrd {files['anchor'].path}\nboot\n"
    )
    (directory / "files" / "old").mkdir(parents=True)
    (directory / "files" / "old" / "boot.ipxe").write_text(script)
    (directory / "files" / "old" / "ipxe.efi").write_bytes(OLD_IPXE.read_bytes())


def publish(rehearsal: Rehearsal, manifest: BootSetManifest) -> None:
    """Serve the set; that it was measured is only said here: these boots are judged themselves."""
    record = RehearsalRecord(core=core_digest(manifest), at=1, bank="sha256", pcrs={}).encode()
    directory = rehearsal.place.layout.site
    signed = site_dir.sign_document(directory, record, manifest.signature_comment, CONTEXT)
    for name, data in ((REHEARSAL, record), (REHEARSAL_SIGNATURE, signed)):
        rehearsal.shelf.store.put(manifest.digest, name, data)
    rehearsal.shelf.publish(manifest.digest, KEEP)


def test_firmware_ipxe_and_an_http_script_end_enrolled(site: Site) -> None:
    """D18, D19: by files of one boot set, whose computed values the box's own equal."""
    end = site.end_of("named")
    assert end["kind"] == "ready", f"{end['sentence']}: {end['detail']}"
    row = site.appliance.ask("control", "box", {"box": end["box"]})["box"]
    assert (row["stage"], row["role"]) == ("ready", "legacy")
    assert row["boot_set"].startswith(site.manifest.digest.hex()[:12])
    site.await_files("named", ("tftp", IPXE_LOADER), ("http", IPXE_SCRIPT))
    addresses = site.served.addresses(site.boxes["named"].mac)
    assert len(addresses) >= 3
    assert len(set(addresses)) == 1, addresses


def test_a_box_whose_role_the_policy_does_not_name_is_refused(site: Site) -> None:
    end = site.end_of("unnamed")
    assert (end["kind"], end["reason"]) == ("refused", "SECURE-BOOT-OFF")


def test_a_byte_of_the_initrd_changed_on_the_wire_is_refused(site: Site) -> None:
    swaps = changed_release(site.rehearsal.shelf.store, site.manifest)
    with Wire(site.lan, to_box=swaps) as wire:
        end = site.end_of("on-the-wire", wire.tap)
    assert (end["kind"], end["reason"]) == ("refused", "INITRD-UNKNOWN")


def test_an_ipxe_that_leaves_the_initrd_unmeasured_is_refused(site: Site) -> None:
    """The same kernel and the same initrd: that it was the same, nobody could tell."""
    end = site.end_of("old")
    assert (end["kind"], end["reason"]) == ("refused", "INITRD-UNKNOWN")
    site.await_files("old", ("tftp", "/old/ipxe.efi"), ("http", "/old/boot.ipxe"))


def test_what_a_rehearsal_measures_is_what_was_predicted(site: Site) -> None:
    store, work = site.rehearsal.shelf.store, site.rehearsal.work / "measured"
    facts = ipxe_facts(store, site.manifest)
    found = measure_pxe(site.manifest, store, site.rehearsal.place.site, work, ipxe=True)
    check_measured(found.log, found.pcrs, facts, transport=Transport.IPXE, server="")
    other = replace(facts, command_line=f"{facts.command_line} debug")
    with pytest.raises(RehearsalError, match=r"PCR 9 .* the kernel command line differs"):
        check_measured(found.log, found.pcrs, other, transport=Transport.IPXE, server="")
