"""Boot chains that end enrolled: firmware with Secure Boot and a TPM, our shim, GRUB and Linux.

One site for machines of two architectures, changed while it runs; a box of its own for each way of
starting. By PXE with TFTP on amd64, and measured beforehand, it is `test_rehearsal`.
"""

from __future__ import annotations

import base64
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, ip_address
from typing import Any

import pytest

from bootstrap.io import site_dir
from bootstrap.planning import HTTPS_PORT
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan, inside
from bootstrap.rehearsal.machine import machine_of
from bootstrap.rehearsal.place import make_boot_set
from bootstrap.rehearsal.record import CONTEXT, RehearsalRecord, core_digest
from bootstrap.rehearsal.run import KEEP, Rehearsal
from bootstrap.site import SITE_FILE
from keys.boot_ca import signature_list
from keys.ca import load_certificate
from netboot.bootset import AMD64, ARM64, Architecture
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE
from tests.chain_lab import Served, captured, public_directory, until

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

ENROL_SECONDS = 300.0
"""Two emulated machines at once on a busy machine of two cores; alone one takes 30 to 60 s."""
CHAIN = ("vmlinuz", "generic.img", "anchor.img")
"""What every box fetches after its loaders, in this order."""
LOADERS = {
    AMD64: ("shimx64.efi", "grubx64.efi", "grub.cfg"),
    ARM64: ("shimaa64.efi", "grubaa64.efi", "grub.cfg"),
}
ENDS = ("ready", "held", "refused", "trouble")
BOXES: Mapping[str, Architecture] = {"http": AMD64, "https": AMD64, "proxy": AMD64, "arm64": ARM64}
POLICY = 'type = "doorstep/policy/v1"\nwaive = ["IMA-MISSING"]\n'
"""Debian's kernel for arm64 has the driver of this TPM as a module, loaded after IMA began without
one: PCR 10 stays empty there, and headquarters has to say that this will do."""
FOREIGN = IPv4Interface("10.77.0.3/24")
LENT = (IPv4Address("10.77.0.200"), IPv4Address("10.77.0.220"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running site."""

    rehearsal: Rehearsal
    boxes: Mapping[str, VirtualBox]
    lan: Lan
    appliance: Appliance
    served: Served
    arm64: Future[Mapping[str, Any]]

    def enrol(self, name: str, way: Way) -> Mapping[str, Any]:
        """Boot a box to the event that ends its way, and switch it off; give the event."""
        return enrol(self.boxes[name], way, self.lan, self.appliance)

    def change(self, *changes: tuple[str, str]) -> None:
        """Edit the site file of the running site, and wait until netboot runs what follows."""
        path = self.rehearsal.place.layout.site / SITE_FILE
        text = path.read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        before = self.appliance.ask("netboot", "status")["running"]
        path.write_text(text)
        self.appliance.ask("control", "reload")
        until(
            lambda: self.appliance.ask("netboot", "status")["running"] > before,
            lambda: str(self.appliance.ask("netboot", "status")),
        )

    def answers(self, *command: str) -> bool:
        """Tell whether a command in the appliance's network ends well."""
        wrapped = self.lan.appliance_command(command)
        return subprocess.run(wrapped, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The box of the other architecture starts at once: emulated, it takes longest."""
    with public_directory() as work, ThreadPoolExecutor(1) as pool:
        rehearsal = Rehearsal(work, None, print)
        boxes = make_boxes(rehearsal)
        site_dir.write(rehearsal.place.layout.site / "policy.toml", POLICY.encode())
        for architecture in (ARM64, AMD64):
            publish(rehearsal, architecture)
        with rehearsal.started() as (lan, appliance):
            served = Served(lambda method, **params: appliance.ask("netboot", method, params))
            arm64 = pool.submit(enrol, boxes["arm64"], Way.PXE, lan, appliance)
            try:
                yield Site(
                    rehearsal=rehearsal,
                    boxes=boxes,
                    lan=lan,
                    appliance=appliance,
                    served=served,
                    arm64=arm64,
                )
            finally:
                for box in boxes.values():
                    box.stop()


def make_boxes(rehearsal: Rehearsal) -> Mapping[str, VirtualBox]:
    ca = TpmCa(rehearsal.work / "tpm-ca")
    boxes = {
        name: VirtualBox(
            rehearsal.work / name,
            mac=f"52:54:00:d0:02:{number:02x}",
            tpm_ca=ca,
            serial_number=f"CHAIN-{number}",
            machine=machine_of(architecture, secure_boot=True),
        )
        for number, (name, architecture) in enumerate(BOXES.items(), 1)
    }
    rehearsal.boxes[:] = boxes.values()
    rehearsal.prepare_boxes()
    return boxes


def publish(rehearsal: Rehearsal, architecture: Architecture) -> None:
    """Serve a set; that it was measured is only said here: these boots are judged themselves."""
    parts = rehearsal.parts(architecture)
    manifest = make_boot_set(rehearsal.place, parts, version=1, release=f"chain {architecture}")
    record = RehearsalRecord(core=core_digest(manifest), at=1, bank="sha256", pcrs={}).encode()
    directory = rehearsal.place.layout.site
    signed = site_dir.sign_document(directory, record, manifest.signature_comment, CONTEXT)
    for name, data in ((REHEARSAL, record), (REHEARSAL_SIGNATURE, signed)):
        rehearsal.shelf.store.put(manifest.digest, name, data)
    rehearsal.shelf.publish(manifest.digest, KEEP)


def enrol(box: VirtualBox, way: Way, lan: Lan, appliance: Appliance) -> Mapping[str, Any]:
    last = int(appliance.ask("control", "events", {"after": -1})["last"])
    ends: list[Mapping[str, Any]] = []

    def has_ended() -> bool:
        nonlocal last
        answer = appliance.ask("control", "events", {"after": last})
        last = int(answer["last"])
        found = (one for one in answer["events"] if one["mac"] == box.mac)
        ends.extend(one for one in found if one["kind"] in ENDS)
        return bool(ends)

    began = time.monotonic()
    box.start(way, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
    try:
        until(has_ended, lambda: box.console[-1500:].decode(errors="replace"), ENROL_SECONDS)
    finally:
        box.stop()
    print(f"{box.directory.name}: {ends[0]['kind']} after {time.monotonic() - began:.1f} s")
    return ends[0]


def check_enrolled(site: Site, name: str, end: Mapping[str, Any]) -> None:
    assert end["kind"] == "ready", f"{end['sentence']}: {end['detail']}"
    row = site.appliance.ask("control", "box", {"box": end["box"]})["box"]
    assert (row["stage"], row["mac"]) == ("ready", site.boxes[name].mac)


def check_ssh_host_key(site: Site, name: str, end: Mapping[str, Any]) -> None:
    """The site's zone, signed, names the key that the box showed on its own screen."""
    said_by_box = rb"ssh host key SHA256:([A-Za-z0-9+/]{43}), certified by the site"
    shown = re.search(said_by_box, site.boxes[name].console)
    assert shown, site.boxes[name].console[-1500:]
    row = site.appliance.ask("control", "box", {"box": end["box"]})["box"]
    fqdn = f"{row['hostname']}.{site.rehearsal.place.site.site.domain}"
    digest = base64.b64decode(shown[1] + b"=").hex().upper()
    command = ["dig", f"@{site.rehearsal.place.address.ip}", "+dnssec", fqdn, "SSHFP"]
    said = subprocess.run(
        site.lan.appliance_command(command), capture_output=True, text=True, check=True
    ).stdout.replace(" ", "")
    assert f"SSHFP\t42{digest}" in said and "RRSIG\tSSHFP13" in said, said


def check_address(site: Site, name: str) -> None:
    """D14: firmware and our agent ask, with different identities, and have one address."""
    rounds = site.served.addresses(site.boxes[name].mac)
    assert len(rounds) >= 2
    assert len(set(rounds)) == 1, rounds


def check_files(site: Site, name: str, transport: str) -> None:
    files = site.served.files(site.boxes[name].mac)
    assert {found for found, _ in files} == {transport}
    names = [path.rpartition("/")[2] for _, path in files]
    assert names == [*LOADERS[BOXES[name]], *CHAIN]


def test_uefi_http_boot_ends_enrolled(site: Site) -> None:
    """D17, D18, T23: an HTTPClient is given a URL, and all files go by HTTP, in their order."""
    end = site.enrol("http", Way.HTTP)
    check_enrolled(site, "http", end)
    check_ssh_host_key(site, "http", end)
    check_address(site, "http")
    check_files(site, "http", "http")


def test_arm64_uefi_boots_its_own_set_to_enrolled(site: Site) -> None:
    """The same fixed name, /grub/grub.cfg, means another file to a box that was offered its set."""
    check_enrolled(site, "arm64", site.arm64.result())
    check_address(site, "arm64")
    check_files(site, "arm64", "tftp")


def test_uefi_https_boot_with_our_ca_in_the_firmware_ends_enrolled(site: Site) -> None:
    """The same by TLS alone, firmware, shim and GRUB: nothing is fetched in the clear."""
    site.change(("[boot]\n", "[boot]\nhttps = true\n"))
    url = f"https://{site.rehearsal.place.address.ip}:{HTTPS_PORT}/shimx64.efi"
    until(lambda: site.answers("curl", "-fskI", url), lambda: f"{url} does not answer")
    authority = load_certificate(site.appliance.ask("keys", "boot_ca")["pem"])
    store = site.rehearsal.work / "boot-ca.esl"
    store.write_bytes(signature_list(authority))
    site.boxes["https"].fw_cfg["etc/edk2/https/cacerts"] = store
    with captured(site.lan, "tcp dst port 80") as clear:
        end = site.enrol("https", Way.HTTP)
    assert clear == []
    check_enrolled(site, "https", end)
    check_address(site, "https")
    check_files(site, "https", "http")
    offered = {
        event["detail"]["boot_file"]
        for event in site.served.events
        if event["mac"] == site.boxes["https"].mac and event["detail"].get("boot_file")
    }
    assert offered == {url}


def test_pxe_beside_a_foreign_dhcp_server_ends_enrolled(site: Site) -> None:
    """D16, D21, D22: it gives the address, we the file at port 4011 and then the site's URL."""
    lent = ('dhcp = "server"', 'dhcp = "proxy"')
    site.change(lent, ('pool = ["10.77.0.100-10.77.0.199"]', ""))
    namespace = site.lan.add_station(FOREIGN)
    command = ["dnsmasq", "-k", "-C", "/dev/null", "-p0", "-u", "root", "--leasefile-ro"]
    command += ["--no-ping", "-i", "eth0", f"--dhcp-range={LENT[0]},{LENT[1]}"]
    before = len(site.served.look())
    foreign = subprocess.Popen(inside(namespace, command), stderr=subprocess.DEVNULL)
    try:
        check_enrolled(site, "proxy", site.enrol("proxy", Way.PXE))
    finally:
        foreign.terminate()
        foreign.wait()
    files = [
        event
        for event in site.served.look()[before:]
        if event["kind"] == "boot-file" and event["detail"]["done"]
    ]
    names = [event["detail"]["name"].rpartition("/")[2] for event in files]
    assert names == [*LOADERS[AMD64], *CHAIN]
    (address,) = {ip_address(event["address"]) for event in files}
    assert LENT[0] <= address <= LENT[1]
    assert not site.served.addresses(site.boxes["proxy"].mac) or set(
        site.served.addresses(site.boxes["proxy"].mac)
    ) == {str(address)}
