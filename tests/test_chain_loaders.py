"""Loaders of others boot from us: iPXE, PXELINUX, U-Boot and GRUB, each to a Linux that says so.

Each is chosen by the operator's own rules and files; none of them is part of a boot set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.machine import Machine, amd64
from netboot.bootchoice import BootRule, Loading
from netboot.network import ClientKind, Match
from tests.chain_lab import (
    DONE,
    FIRST,
    SECONDS,
    US,
    bare_initrd,
    locked_kernel,
    powered_on,
    serving,
)

pytestmark = [pytest.mark.boots, pytest.mark.timeout(400)]

SYSLINUX = Path("/usr/lib/syslinux/modules/bios")
U_BOOT = Path("/usr/lib/u-boot/qemu-x86_64/u-boot.rom")
AFTER_U_BOOT = b"disable_mtrr_trim efi=noruntime"
"""U-Boot sets no MTRR, so Linux would use no memory; its runtime services do not outlive it."""
BIOS, UEFI = frozenset({0}), frozenset({7})

PC = ("-machine", "pc,accel=tcg", "-cpu", "max")
PC_BIOS = Machine(program="qemu-system-x86_64", words=PC, nic="virtio-net-pci")
"""QEMU gives the card the ROM of its own choice, which is iPXE."""
PC_U_BOOT = Machine(
    program="qemu-system-x86_64", words=(*PC, "-bios", str(U_BOOT)), nic="e1000,romfile="
)


@pytest.fixture(scope="module")
def linux() -> dict[str, bytes]:
    return {"/linux/vmlinuz": locked_kernel(), "/linux/initrd.img": bare_initrd()}


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(US) as made:
        yield made


def test_uefi_starts_ipxe_by_tftp_which_takes_a_script_by_http(
    lan: Lan, linux: dict[str, bytes], tmp_path: Path
) -> None:
    """D18, D19: firmware is given a TFTP name, iPXE then a URL, and never itself again."""
    script = b"#!ipxe\nkernel /linux/vmlinuz initrd=initrd.img console=ttyS0 from=ipxe\n"
    script += b"initrd /linux/initrd.img\nboot\n"
    files = {**linux, "/ipxe.efi": Path("/usr/lib/ipxe/ipxe.efi").read_bytes()}
    files["/boot.ipxe"] = script
    rules = (
        BootRule(
            match=Match(kinds=frozenset({ClientKind.IPXE})),
            file="/boot.ipxe",
            loading=Loading.HTTP,
        ),
        BootRule(match=Match(architectures=UEFI), file="ipxe.efi", loading=Loading.TFTP),
    )
    with (
        serving(lan, files, rules) as served,
        powered_on(lan, tmp_path / "box", amd64(secure_boot=False)) as box,
    ):
        assert b"from=ipxe" in box.wait_for(DONE, SECONDS)
        box.wait_off(SECONDS)
        served.await_files(
            ("tftp", "/ipxe.efi"),
            ("http", "/boot.ipxe"),
            ("http", "/linux/vmlinuz"),
            ("http", "/linux/initrd.img"),
        )
        assert served.files().count(("tftp", "/ipxe.efi")) == 1
        rounds = served.addresses()
    assert len(rounds) >= 2
    assert set(rounds) == {str(FIRST)}


def test_bios_ipxe_starts_pxelinux_which_walks_to_its_default(
    lan: Lan, linux: dict[str, bytes], tmp_path: Path
) -> None:
    """T19: PXELINUX asks for a configuration by UUID, MAC and address before the default one."""
    config = b"SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\nLABEL linux\n"
    config += b"KERNEL /linux/vmlinuz\nINITRD /linux/initrd.img\n"
    config += b"APPEND console=ttyS0 from=pxelinux\n"
    files = {
        **linux,
        "/pxelinux.0": Path("/usr/lib/PXELINUX/pxelinux.0").read_bytes(),
        "/ldlinux.c32": (SYSLINUX / "ldlinux.c32").read_bytes(),
        "/pxelinux.cfg/default": config,
    }
    rule = BootRule(match=Match(architectures=BIOS), file="pxelinux.0", loading=Loading.TFTP)
    with (
        serving(lan, files, (rule,)) as served,
        powered_on(lan, tmp_path / "box", PC_BIOS) as box,
    ):
        assert b"from=pxelinux" in box.wait_for(DONE, SECONDS)
        box.wait_off(SECONDS)
        served.await_files(
            ("tftp", "/pxelinux.0"),
            ("tftp", "/ldlinux.c32"),
            ("tftp", "/pxelinux.cfg/default"),
            ("tftp", "/linux/vmlinuz"),
            ("tftp", "/linux/initrd.img"),
        )
        assert set(served.addresses()) == {str(FIRST)}


def test_u_boot_starts_grub_which_takes_linux_by_tftp(
    lan: Lan, linux: dict[str, bytes], tmp_path: Path
) -> None:
    """D10, D13, D14: four DISCOVERs with four xids, then as PXEClient, and one address for all."""
    grub = Path("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed").read_bytes()
    line = b"linux /linux/vmlinuz console=ttyS0 from=grub " + AFTER_U_BOOT
    config = line + b"\ninitrd /linux/initrd.img\nboot\n"
    files = {**linux, "/grubx64.efi": grub, "/grub/grub.cfg": config}
    rule = BootRule(match=Match(architectures=UEFI), file="grubx64.efi", loading=Loading.TFTP)
    with (
        serving(lan, files, (rule,)) as served,
        powered_on(lan, tmp_path / "box", PC_U_BOOT) as box,
    ):
        assert b"from=grub" in box.wait_for(DONE, SECONDS)
        served.await_files(
            ("tftp", "/grubx64.efi"),
            ("tftp", "/grub/grub.cfg"),
            ("tftp", "/linux/vmlinuz"),
            ("tftp", "/linux/initrd.img"),
        )
        rounds = served.addresses()
    assert len(rounds) >= 2
    assert set(rounds) == {str(FIRST)}
