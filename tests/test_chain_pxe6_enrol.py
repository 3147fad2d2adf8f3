"""Boot chains over IPv6 alone that end enrolled: PXE and HTTP boot, Secure Boot and a TPM.

The appliance has an IPv4 address for its page, and no DHCPv4 server answers anybody's Linux: from
firmware to phone-home a box has IPv6 or nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from bootstrap.io import site_dir
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import DEMO
from bootstrap.rehearsal.run import Rehearsal
from bootstrap.site import SITE_FILE
from netboot.bootset import AMD64
from tests.chain_lab import Served, captured, public_directory, until
from tests.test_chain_enrol import CHAIN, LOADERS, enrol, publish

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

US = IPv6Address("fd00:77::2")
FIRST, LAST = IPv6Address("fd00:77::1000"), IPv6Address("fd00:77::1fff")
SIX = f"""
[[subnet6]]
name = "tills6"
interface = "eth0"
network = "fd00:77::/64"
appliance = "{US}"
pool = "{FIRST}-{LAST}"
"""
BOXES: Mapping[str, Mapping[str, str]] = {
    "pxe": {"opt/org.tianocore/IPv4PXESupport": "n"},
    "http": {},
}
DHCP4_ANSWERS = "udp src port 67"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running site."""

    boxes: Mapping[str, VirtualBox]
    lan: Lan
    appliance: Appliance
    served: Served

    def enrol(self, name: str, way: Way) -> Mapping[str, Any]:
        """Boot a box to the event that ends its way, and switch it off; give the event."""
        return enrol(self.boxes[name], way, self.lan, self.appliance)


def write_site(directory: Path) -> Path:
    """Make a site whose IPv4 network lends nothing and boots nobody."""
    site_dir.init(directory, DEMO)
    path = directory / SITE_FILE
    text = path.read_text()
    changes = (
        ('"server"', '"off"'),
        ("boot = true", "boot = false"),
        ('pool = ["10.77.0.100-10.77.0.199"]', ""),
    )
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text + SIX)
    return directory


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with public_directory() as work:
        rehearsal = Rehearsal(work, write_site(work / "source"), print)
        ca = TpmCa(work / "tpm-ca")
        boxes = {
            name: VirtualBox(
                work / name,
                mac=f"52:54:00:d0:06:{number:02x}",
                tpm_ca=ca,
                serial_number=f"SIX-{number}",
                fw_cfg=fw_cfg,
            )
            for number, (name, fw_cfg) in enumerate(BOXES.items(), 1)
        }
        rehearsal.boxes[:] = boxes.values()
        rehearsal.prepare_boxes()
        publish(rehearsal, AMD64)
        with rehearsal.started() as (lan, appliance):
            served = Served(lambda method, **params: appliance.ask("netboot", method, params))
            try:
                yield Site(boxes=boxes, lan=lan, appliance=appliance, served=served)
            finally:
                for box in boxes.values():
                    box.stop()


def check_enrolled(site: Site, name: str, end: Mapping[str, Any]) -> None:
    """The card joins box and lease; name and address lead to each other in DNS."""
    assert end["kind"] == "ready", f"{end['sentence']}: {end['detail']}"
    row = site.appliance.ask("control", "box", {"box": end["box"]})["box"]
    address = ip_address(row["address"])
    assert (row["stage"], row["mac"]) == ("ready", site.boxes[name].mac)
    assert isinstance(address, IPv6Address) and FIRST <= address <= LAST
    acks = [one for one in site.served.look() if one["kind"] == "dhcp-ack"]
    booted = {
        one["address"] for one in acks if one["mac"] == row["mac"] and one["detail"]["boot_file"]
    }
    assert booted == {str(address)}  # firmware's and Linux's, whatever else firmware asked for
    host = f"{row['hostname']}.rehearsal.example.net"

    forth, back = ("AAAA", host), ("-x", str(address))

    def is_named() -> bool:
        return dig(site, *forth) == str(address) and dig(site, *back) == f"{host}."

    until(is_named, lambda: f"{host} and {address} do not lead to each other")


def dig(site: Site, *question: str) -> str:
    command = site.lan.appliance_command(["dig", "+short", "+time=2", f"@{US}", *question])
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def check_files(site: Site, name: str, transport: str) -> None:
    files = site.served.files(site.boxes[name].mac)
    assert {found for found, _ in files} == {transport}
    assert [path.rpartition("/")[2] for _, path in files] == [*LOADERS[AMD64], *CHAIN]


def test_v6_1_uefi_pxe_over_ipv6_ends_enrolled(site: Site) -> None:
    with captured(site.lan, DHCP4_ANSWERS) as answers:
        end = site.enrol("pxe", Way.PXE)
    assert answers == []
    check_enrolled(site, "pxe", end)
    check_files(site, "pxe", "tftp")


@contextmanager
def nothing_over_ipv4(lan: Lan) -> Iterator[None]:
    """Refuse HTTP boot over IPv4 at once, to firmware alone: it asks IPv4 first, for a minute."""
    dnsmasq = "dnsmasq -k -C /dev/null -p0 -u root --leasefile-ro --pid-file= --no-ping"
    options = [
        f"--dhcp-option-force={one}" for one in ("60,HTTPClient", "67,http://10.77.0.2/none")
    ]
    options += ["--dhcp-vendorclass=set:firmware,HTTPClient", "--dhcp-ignore=tag:!firmware"]
    command = [*dnsmasq.split(), "--dhcp-range=10.77.0.150,10.77.0.160", *options]
    with subprocess.Popen(lan.appliance_command(command), stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_v6_1_uefi_http_over_ipv6_ends_enrolled(site: Site) -> None:
    with nothing_over_ipv4(site.lan):
        end = site.enrol("http", Way.HTTP)
    check_enrolled(site, "http", end)
    check_files(site, "http", "http")
