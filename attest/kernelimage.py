"""Which Linux kernel a PE image is, and whether firmware and GRUB can start it as it is.

It never unpacks one. Linux, Documentation/arch/x86/boot.rst and arch/arm64/booting.rst;
drivers/firmware/efi/libstub/zboot-header.S.
"""

import struct

from attest.errors import AttestSiteError
from attest.pe import Pe

_X86_MAGIC, _X86_VERSION = 0x202, 0x20E
_ARM64_MAGIC = 56
_MAX_VERSION = 128


def decode_kernel(data: bytes) -> Pe:
    """Decode a kernel; raise AttestSiteError for forms whose measurement is not known."""
    if data[:2] == b"\x1f\x8b":
        raise AttestSiteError("the kernel is packed with gzip: unpack it, no firmware starts it so")
    if data[4:8] == b"zimg":
        raise AttestSiteError(
            "there is no boot profile for a kernel that unpacks itself (EFI zboot): take its Image"
        )
    return Pe.decode(data)


def kernel_version(data: bytes) -> str | None:
    """Give what a kernel calls itself, empty where its form has no place for it, else None."""
    if data[_X86_MAGIC : _X86_MAGIC + 4] == b"HdrS":
        (offset,) = struct.unpack_from("<H", data, _X86_VERSION)
        text = data[offset + 0x200 : offset + 0x200 + _MAX_VERSION].split(b"\0")[0]
        return text.decode("ascii", "replace") if offset else ""
    if data[_ARM64_MAGIC : _ARM64_MAGIC + 4] == b"ARMd" or data[4:8] == b"zimg":
        return ""
    return None
