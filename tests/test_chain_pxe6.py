"""UEFI boots over IPv6: by PXE and by HTTP with Secure Boot, shim, GRUB, to a Linux; and by iPXE.

The firmware, shim and GRUB of our boot sets. Seen with Debian 12's GRUB 2.06 too, by PXE.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from dhcp6_lab import US, run, serving6, stories

from bootstrap.build import apt
from bootstrap.build.initrd import read_deb
from bootstrap.build.parts import committed_lock, default_cache
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import amd64
from tests.chain_lab import DONE, SECONDS, bare_initrd, locked_kernel, until

pytestmark = [pytest.mark.boots, pytest.mark.timeout(400)]

MAC = "52:54:00:d0:00:80"
V4 = IPv4Interface("10.80.0.1/24")
CONFIG = b"linux /linux/vmlinuz console=ttyS0 from=six\ninitrd /linux/initrd.img\nboot\n"
LOADERS = {
    "/shimx64.efi": ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
    "/grubx64.efi": (
        "grub-efi-amd64-signed",
        "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    packages = [package for package, _ in LOADERS.values()]
    fetched = apt.fetch(committed_lock(), packages, default_cache(), apt.find_mirrors())
    contents = {
        path: read_deb(fetched[package])[name].data for path, (package, name) in LOADERS.items()
    }
    contents["/grub/grub.cfg"] = CONFIG
    contents["/linux/vmlinuz"] = locked_kernel()
    contents["/linux/initrd.img"] = bare_initrd()
    directory = tmp_path_factory.mktemp("files")
    made = {path: directory / path.rpartition("/")[2] for path in contents}
    for path, data in contents.items():
        made[path].write_bytes(data)
    return made


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(V4) as made:
        inside = ("ip", "-n", made.appliance_namespace, "address", "add")
        run(*inside, f"{US}/64", "dev", made.appliance_interface, "nodad")
        yield made


@contextmanager
def powered_on(
    lan: Lan, directory: Path, fw_cfg: Mapping[str, str], *, secure_boot: bool = True
) -> Iterator[VirtualBox]:
    machine = amd64(secure_boot=secure_boot)
    with VirtualBox(directory, mac=MAC, machine=machine, fw_cfg=fw_cfg) as box:
        box.start(Way.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        yield box


ONLY_IPV6 = {"opt/org.tianocore/IPv4PXESupport": "n"}


def sent(database: Path) -> list[tuple[str, str]]:
    """Transport and path of each file that the box got as a whole, in order."""
    return [
        (event["detail"]["transport"], event["detail"]["name"])
        for event in stories(database)
        if event["kind"] == "boot-file" and event["mac"] == MAC and event["detail"]["done"]
    ]


def await_sent(database: Path, wanted: list[tuple[str, str]]) -> None:
    """Wait until the record has them: of the last file it may know after Linux says its word."""
    until(lambda: sent(database) == wanted, lambda: f"wanted {wanted}, sent {sent(database)}", 60)


def addresses(database: Path) -> set[object]:
    """Addresses with which the box was told what to boot; the firmware's IPv6 asks beside that."""
    acks = (event for event in stories(database) if event["kind"] == "dhcp-ack")
    return {event["address"] for event in acks if event["detail"]["boot_file"]}


def test_v6_1_uefi_pxe_over_ipv6_to_linux(lan: Lan, files: dict[str, Path], tmp_path: Path) -> None:
    database = tmp_path / "netboot.db"
    serve = serving6(lan.appliance_namespace, database, lan.appliance_interface, files=files)
    with serve, powered_on(lan, tmp_path / "box", ONLY_IPV6) as box:
        assert b"from=six" in box.wait_for(DONE, 2 * SECONDS)
        await_sent(database, [("tftp", path) for path in files])
    assert len(addresses(database)) == 1  # several rounds, each with another IAID
    boxes = {event["mac"] for event in stories(database) if event["kind"] == "dhcp-ack"}
    assert boxes == {MAC}


@contextmanager
def nothing_over_ipv4(lan: Lan) -> Iterator[None]:
    """Refuse HTTP boot over IPv4 at once: firmware then tries IPv6, and not after a minute."""
    dnsmasq = "dnsmasq -k -C /dev/null -p0 -u root --leasefile-ro --pid-file= --no-ping"
    options = (f"--dhcp-option-force={one}" for one in ("60,HTTPClient", f"67,http://{V4.ip}/none"))
    command = [*dnsmasq.split(), "--dhcp-range=10.80.0.50,10.80.0.60", *options]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(lan.appliance_command(command), stderr=quiet) as process:
        try:
            yield
        finally:
            process.terminate()


def test_v6_1_uefi_http_over_ipv6_to_linux(
    lan: Lan, files: dict[str, Path], tmp_path: Path
) -> None:
    """With IPv4 switched off this firmware asks HTTP boot before its link-local address is ready,
    and gives up; so IPv4 stays on and leads nowhere.
    """
    database = tmp_path / "netboot.db"
    no_pxe = {f"opt/org.tianocore/{one}PXESupport": "n" for one in ("IPv4", "IPv6")}
    serve = serving6(lan.appliance_namespace, database, lan.appliance_interface, files=files)
    with serve, nothing_over_ipv4(lan), powered_on(lan, tmp_path / "box", no_pxe) as box:
        assert b"from=six" in box.wait_for(DONE, 2 * SECONDS)
        await_sent(database, [("http", path) for path in files])
    assert len(addresses(database)) == 1


def test_v6_3_uefi_starts_ipxe_over_ipv6_which_takes_a_script_by_http(
    lan: Lan, files: dict[str, Path], tmp_path: Path
) -> None:
    """D18, D19 over IPv6: firmware is given a TFTP URL, iPXE then its script, never itself."""
    database, script = tmp_path / "netboot.db", tmp_path / "boot.ipxe"
    kernel = "kernel /linux/vmlinuz initrd=initrd.img console=ttyS0 from=ipxe"
    script.write_text(f"#!ipxe\n{kernel}\ninitrd /linux/initrd.img\nboot\n")
    mine = {"/ipxe.efi": Path("/usr/lib/ipxe/ipxe.efi"), "/boot.ipxe": script}
    mine |= {path: file for path, file in files.items() if path.startswith("/linux/")}
    where = (lan.appliance_namespace, database, lan.appliance_interface)
    box_without_keys = powered_on(lan, tmp_path / "box", ONLY_IPV6, secure_boot=False)
    with serving6(*where, "{'table': 'ipxe'}", mine), box_without_keys as box:
        assert b"from=ipxe" in box.wait_for(DONE, 2 * SECONDS)
        await_sent(database, [("tftp", "/ipxe.efi"), *(("http", path) for path in [*mine][1:])])
    assert len(addresses(database)) == 1
