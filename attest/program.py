"""What a boot program is, for a person who asks, and whether its boot could be predicted.

It judges nothing: a program is what it looks like, no signature is checked.
SBAT rows: shim `SBAT.md`; the kinds as in boot prediction.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from attest import grub, ipxe, uki
from attest.errors import AttestSiteError
from attest.kernelimage import decode_kernel, kernel_version
from attest.pe import Pe
from attest.shim import read_shim

MAX_ROWS = 64
_MAX_FIELD = 256
_LOADER = re.compile(rb"#### LoaderInfo: (systemd-[a-z]{1,16}) ([!-~]{1,64}) ####")


class ProgramKind(Enum):
    """What a boot program looks like."""

    SHIM = "shim"
    GRUB = "grub"
    KERNEL = "kernel"
    UKI = "uki"
    IPXE = "ipxe"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program by kind and name; `problem` says why its boot cannot be predicted, else empty."""

    kind: ProgramKind
    title: str
    problem: str


def identify(data: bytes, image: Pe) -> Program:
    """Tell what the image that was decoded from `data` is."""
    kind, title, check = next(_kinds(data, image))
    try:
        check()
        problem = ""
    except AttestSiteError as error:
        problem = str(error)
    return Program(kind=kind, title=title, problem=problem)


def _kinds(data: bytes, image: Pe) -> Iterator[tuple[ProgramKind, str, Callable[[], object]]]:
    """Give what it may be, the surest first, each with what would refuse it."""
    stub = uki.stub_version(image)
    if stub is not None:
        yield ProgramKind.UKI, f"UKI with systemd-stub {stub[0]}", lambda: uki.inspect(image)
    names = {section.name for section in image.sections}
    rows = {row[0]: row for row in sbat_rows(image) if len(row) > 4}
    if ".vendor_cert" in names:
        yield ProgramKind.SHIM, _sbat_title(rows) or "shim", lambda: read_shim(image)
    if "mods" in names or "grub" in rows:
        yield ProgramKind.GRUB, f"GRUB {grub.version_of(image)}", lambda: grub.inspect(data)
    if "ipxe" in rows:
        title = f"iPXE {rows['ipxe'][4]}"
        yield ProgramKind.IPXE, title, lambda: ipxe.profile_of(*ipxe.version_of(image))
    version = kernel_version(data)
    # memtest86+ takes the form of a kernel to be started like one.
    if version is not None and not version[:1].isalpha():
        title = f"Linux {version}" if version else "Linux"
        yield ProgramKind.KERNEL, title, lambda: decode_kernel(data)
    match = _LOADER.search(image.section(".sdmagic") or b"")
    title = b" ".join(match.groups()).decode() if match else version or _sbat_title(rows)
    yield ProgramKind.OTHER, title or "unknown program", _no_profile


def _sbat_title(rows: dict[str, tuple[str, ...]]) -> str:
    """Name a program by its last row, which is the most specific one."""
    named = [row for component, row in rows.items() if component != "sbat"]
    return f"{named[-1][3]} {named[-1][4]}" if named else ""


def _no_profile() -> None:
    raise AttestSiteError("it is none of the programs that a boot set consists of")


def sbat_rows(image: Pe) -> tuple[tuple[str, ...], ...]:
    """Give the rows of .sbat by field, the first MAX_ROWS of them."""
    text = (image.section(".sbat") or b"").rstrip(b"\0")[: MAX_ROWS * _MAX_FIELD]
    lines = text.decode("utf-8", "replace").splitlines()[:MAX_ROWS]
    return tuple(
        tuple(field[:_MAX_FIELD] for field in line.split(",")[:6]) for line in lines if line
    )
