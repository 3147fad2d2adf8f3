"""What a virtual box is made of: QEMU's program and board, its firmware, its NIC and TPM device.

Values alone; `bootstrap.rehearsal.box` runs them. Everything is emulated, whatever this machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bootstrap.errors import SiteError

_OVMF, _AAVMF = Path("/usr/share/OVMF"), Path("/usr/share/AAVMF")
_FLASH_LOCKED = ("-global", "driver=cfi.pflash01,property=secure,value=on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One kind of machine; `words` are QEMU's arguments for board and processor.

    `firmware` is UEFI code with the template of its `variables`; None where `words` name another
    firmware, or none. `tpm` and `nic` are QEMU's devices; a machine without `tpm` has none.
    """

    program: str
    words: tuple[str, ...]
    firmware: Path | None = None
    variables: Path | None = None
    tpm: str | None = None
    nic: str = "virtio-net-pci,romfile="


def amd64(*, secure_boot: bool) -> Machine:
    """A PC with UEFI and a TPM; SiteError when its firmware is not installed."""
    smm, keys = ("on", ".ms") if secure_boot else ("off", "")
    board = ("-machine", f"q35,accel=tcg,smm={smm},vmport=off", "-cpu", "max")
    return Machine(
        program="qemu-system-x86_64",
        words=(*board, *(_FLASH_LOCKED if secure_boot else ())),
        firmware=_installed(_OVMF / f"OVMF_CODE_4M{keys}.fd", "ovmf"),
        variables=_installed(_OVMF / f"OVMF_VARS_4M{keys}.fd", "ovmf"),
        tpm="tpm-tis",
    )


def arm64(*, secure_boot: bool) -> Machine:
    """An arm64 server with UEFI and a TPM; SiteError when its firmware is not installed."""
    keys = ".ms" if secure_boot else ""
    return Machine(
        program="qemu-system-aarch64",
        words=("-machine", "virt,accel=tcg", "-cpu", "cortex-a57"),
        firmware=_installed(_AAVMF / f"AAVMF_CODE{keys}.fd", "qemu-efi-aarch64"),
        variables=_installed(_AAVMF / f"AAVMF_VARS{keys}.fd", "qemu-efi-aarch64"),
        tpm="tpm-tis-device",
    )


def machine_of(architecture: str, *, secure_boot: bool) -> Machine:
    """Give the machine that boots sets of an architecture ("amd64", "arm64")."""
    return {"amd64": amd64, "arm64": arm64}[architecture](secure_boot=secure_boot)


def _installed(path: Path, package: str) -> Path:
    if not path.exists():
        raise SiteError(f"{path} is missing: apt-get install {package}")
    return path
