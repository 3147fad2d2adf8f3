"""What differs in a boot set from one architecture to another: packages, directories, file names.

Values alone. Names are Debian's; UEFI 2.10, 3.5.1.1 (BOOTX64.EFI, BOOTAA64.EFI).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from bootstrap.errors import SiteError
from netboot.bootset import AMD64, ARM64, Architecture, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One architecture; paths are in packages, without a leading slash.

    `short` is UEFI's ending of file names, `interpreter` the dynamic loader, `links` are the
    directories beside usr/ that a system of this architecture expects, `more` the packages that
    only here belong to the runtime, `ipxe` package and path of an iPXE that has a boot profile.
    """

    architecture: Architecture
    short: str
    triplet: str
    interpreter: str
    links: tuple[str, ...]
    grub_package: str
    grub_directory: str
    kernel: str
    more: tuple[str, ...] = ()
    ipxe: tuple[str, str] | None = None

    @property
    def libraries(self) -> str:
        """The directory of its libraries."""
        return f"usr/lib/{self.triplet}/"

    @property
    def loaders(self) -> tuple[str, ...]:
        """Packages of Debian's signed loaders.

        Its MokManager is left out: it would offer to enrol keys on a box.
        """
        return (self.grub_package, "shim-signed")

    @property
    def loader_files(self) -> Mapping[Role, tuple[str, str]]:
        """Package and path of each loader."""
        grub = f"usr/lib/grub/{self.grub_directory}/"
        return {
            Role.SHIM: ("shim-signed", f"usr/lib/shim/shim{self.short}.efi.signed"),
            Role.GRUB: (self.grub_package, f"{grub}grubnet{self.short}.efi.signed"),
            Role.CDGRUB: (self.grub_package, f"{grub}gcd{self.short}.efi.signed"),
        }

    @property
    def names(self) -> Mapping[Role, str]:
        """What the files of a set are called in their URLs."""
        return {
            Role.SHIM: f"shim{self.short}.efi",
            Role.GRUB: f"grub{self.short}.efi",
            Role.CDGRUB: f"gcd{self.short}.efi",
            Role.KERNEL: "vmlinuz",
            Role.GENERIC: "generic.img",
            Role.ANCHOR: "anchor.img",
            Role.MODULES: "modules.json",
            Role.IPXE: "ipxe.efi",
        }


_FAPI = (
    "libbrotli1",
    "libcom-err2",
    "libcurl4t64",
    "libgmp10",
    "libgnutls30t64",
    "libgssapi-krb5-2",
    "libhogweed6t64",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap2",
    "libnettle8t64",
    "libnghttp2-14",
    "libnghttp3-9",
    "libp11-kit0",
    "libpsl5t64",
    "librtmp1",
    "libsasl2-2",
    "libssh2-1t64",
    "libtasn1-6",
    "libtss2-fapi1t64",
    "libunistring5",
)
"""Debian's rebuild of tpm2-pytss for arm64 (2.3.0-1+b1) is linked with FAPI, and that with libcurl;
nothing of ours calls it."""

MACHINES: Mapping[Architecture, Machine] = {
    AMD64: Machine(
        architecture=AMD64,
        short="x64",
        triplet="x86_64-linux-gnu",
        interpreter="usr/lib64/ld-linux-x86-64.so.2",
        links=("bin", "lib", "lib64"),
        grub_package="grub-efi-amd64-signed",
        grub_directory="x86_64-efi-signed",
        kernel="linux-image-cloud-amd64",
        # It drives no card by itself: the firmware that loaded it does.
        ipxe=("ipxe", "usr/lib/ipxe/snponly.efi"),
    ),
    ARM64: Machine(
        architecture=ARM64,
        short="aa64",
        triplet="aarch64-linux-gnu",
        interpreter="usr/lib/ld-linux-aarch64.so.1",
        links=("bin", "lib"),
        grub_package="grub-efi-arm64-signed",
        grub_directory="arm64-efi-signed",
        kernel="linux-image-cloud-arm64",
        more=_FAPI,
    ),
}
_OWN = {"x86_64": AMD64, "aarch64": ARM64}


def own_machine() -> Machine:
    """Give what this machine is; SiteError where no boot set can be built."""
    architecture = _OWN.get(platform.machine())
    if architecture is None:
        raise SiteError(f"boot sets are built on amd64 or arm64, this is {platform.machine()}")
    return MACHINES[architecture]
