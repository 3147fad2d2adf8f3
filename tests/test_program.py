"""What a boot program looks like: distribution's own programs and forged ones."""

import struct
from pathlib import Path

import pytest
from boot_forge import Sections, grub_image, pe_image, uki_image

from attest.errors import AttestSiteError
from attest.kernelimage import decode_kernel, kernel_version
from attest.pe import Pe
from attest.program import ProgramKind, identify, sbat_rows
from attest.shim import read_shim

GRUBS = Path("/usr/lib/grub/x86_64-efi-signed")
SBAT = (
    b"sbat,1,SBAT Version,sbat,1,x\nfwupd-efi,1,F,fwupd-efi,1.4,x\n"
    b"fwupd-efi.debian,1,D,fwupd,1:1.4-1,x\n"
)


def told(data: bytes) -> tuple[str, str, str]:
    program = identify(data, Pe.decode(data))
    return program.kind.value, program.title, program.problem


def headed(at: int, content: bytes, sections: Sections | None = None) -> bytes:
    """Put what a kernel has at its start before the PE header, as kernels do."""
    data = pe_image({".text": b"\x90", **{k: v for k, v in (sections or {}).items() if v}})
    gap = b"MZ".ljust(at, b"\0") + content
    gap = gap.ljust(0x400, b"\0")
    head = gap[:0x3C] + struct.pack("<I", 0x400) + gap[0x40:]
    moved = bytearray(head + data[64:])
    optional = 0x400 + 24
    shift = 0x400 - 64
    struct.pack_into("<I", moved, optional + 60, len(moved) - 512)
    for index in range(1 + len(sections or {})):
        place = optional + 240 + 40 * index + 20
        (offset,) = struct.unpack_from("<I", moved, place)
        struct.pack_into("<I", moved, place, offset + shift)
    return bytes(moved)


def x86_kernel(version: bytes) -> bytes:
    setup = bytearray(0x200)
    setup[0:4] = b"HdrS"
    struct.pack_into("<H", setup, 12, 0x202 + 0x40 - 0x200)
    setup[0x40 : 0x40 + len(version)] = version
    return headed(0x202, bytes(setup[:0x1FE]))


@pytest.mark.parametrize(
    ("path", "kind", "start", "predicted"),
    [
        ("/usr/lib/shim/shimx64.efi.signed", "shim", "shim 1", True),
        ("/usr/lib/shim/mmx64.efi.signed", "other", "shim 1", False),
        (str(GRUBS / "grubnetx64.efi.signed"), "grub", "GRUB 2.", True),
        (str(GRUBS / "gcdx64.efi.signed"), "grub", "GRUB 2.", True),
        (str(GRUBS / "grubx64.efi.signed"), "grub", "GRUB 2.", False),
    ],
)
def test_programs_of_the_distribution(path: str, kind: str, start: str, predicted: bool) -> None:
    found = told(Path(path).read_bytes())
    assert found[0] == kind
    assert found[1].startswith(start)
    assert (not found[2]) is predicted


def test_unified_images_and_their_stubs() -> None:
    assert told(uki_image()) == ("uki", "UKI with systemd-stub 257.13-1~deb13u1", "")
    kind, title, problem = told(uki_image(stub="253"))
    assert (kind, title) == ("uki", "UKI with systemd-stub 253")
    assert problem.startswith("there is no boot profile for systemd-stub 253")
    stub: Sections = {".linux": None, ".sbat": b""}
    assert told(uki_image(replaced=stub))[:2] == ("other", "systemd-stub 257.13-1~deb13u1")


def test_grub_without_a_profile_is_told_with_its_name() -> None:
    kind, title, problem = told(grub_image(b"", family="9.99", version="9.99-1"))
    assert (kind, title) == ("grub", "GRUB 9.99-1")
    assert problem.startswith("there is no boot profile for GRUB 9.99-1")
    without_area = pe_image({".sbat": b"sbat,1,x,sbat,1,x\ngrub,5,FSF,grub,2.12,x\n"})
    assert told(pe_image({"mods": b"mimg"}))[:2] == ("grub", "GRUB unknown")
    assert told(without_area)[2] == "the module area of GRUB 2.12 is cut off"


def shim(vendor: bytes) -> bytes:
    """Build a shim without an SBAT level; the name of its table is too long for a header."""
    image = bytearray(pe_image({"/4": vendor}))
    struct.pack_into("<II", image, 64 + 12, len(image), 0)
    return bytes(image) + struct.pack("<I", 30) + b".vendor_cert\0"


def test_a_shim_without_its_tables_has_no_profile() -> None:
    kind, title, problem = told(shim(b"v"))
    assert (kind, title) == ("shim", "shim")
    assert problem == "the first boot program is not shim: it has no .vendor_cert"
    vendor = struct.pack("<IIII", 2, 0, 16, 18) + b"\x30\0"
    assert told(shim(vendor))[2] == "shim has no .sbatlevel section"
    with pytest.raises(AttestSiteError, match="no .sbatlevel"):
        read_shim(Pe.decode(shim(vendor)))


def test_kernels_and_what_only_looks_like_one() -> None:
    assert told(x86_kernel(b"6.12.1-amd64 #1 SMP")) == ("kernel", "Linux 6.12.1-amd64 #1 SMP", "")
    assert told(x86_kernel(b"Memtest86+ v7.20"))[:2] == ("other", "Memtest86+ v7.20")
    arm64 = headed(56, b"ARMd")
    assert told(arm64) == ("kernel", "Linux", "")
    assert decode_kernel(arm64).sections
    with pytest.raises(AttestSiteError, match="packed with gzip"):
        decode_kernel(b"\x1f\x8b\x08")
    packed = headed(4, b"zimg")
    kind, title, problem = told(packed)
    assert (kind, title) == ("kernel", "Linux")
    assert "unpacks itself" in problem


def test_a_kernel_without_a_place_for_its_version_says_none() -> None:
    assert kernel_version(b"") is None
    assert kernel_version(b"HdrS".rjust(0x206, b"\0") + bytes(64)) == ""
    assert kernel_version(b"xxHdrS".rjust(0x206, b"\0") + bytes(64)) == ""
    with_offset = bytearray(b"HdrS".rjust(0x206, b"\0") + bytes(64))
    struct.pack_into("<H", with_offset, 0x20E, 0xFFFF)
    assert kernel_version(bytes(with_offset)) == ""


def test_other_programs_are_named_by_their_last_row() -> None:
    assert told(pe_image({".sbat": SBAT}))[:2] == ("other", "fwupd 1:1.4-1")
    for sbat in (b"sbat,1,SBAT Version,sbat,1,x\n", b"grub,5\n"):
        assert told(pe_image({".sbat": sbat}))[:2] == ("other", "unknown program")
    assert told(pe_image({".text": b"\x90"})) == (
        ProgramKind.OTHER.value,
        "unknown program",
        "it is none of the programs that a boot set consists of",
    )


def test_rows_are_bounded() -> None:
    rows = sbat_rows(Pe.decode(pe_image({".sbat": b"a,b\n" * 1000 + b"\xff" * 999})))
    assert rows == (("a", "b"),) * 64
    assert sbat_rows(Pe.decode(pe_image({".sbat": b"\n\na,b\n\n"}))) == (("a", "b"),)
    (row,) = sbat_rows(Pe.decode(pe_image({".sbat": b"x" * 1000 + b"," * 50})))
    assert (len(row), len(row[0])) == (6, 256)
