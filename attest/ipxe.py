"""iPXE: which one a program is, how its version measures, and what our script makes it do.

The script is not measured, only what follows from it: the programs that are loaded, and the command
line and initrd that Linux measures itself. So a script has one reading or is refused, and an iPXE
that is not in the table below is refused, never guessed. It checks no signature.
iPXE's command reference (kernel, initrd, boot); shim `SBAT.md`; UEFI 2.10, 13.2 (LoadFile2).
"""

import re
from dataclasses import dataclass

from attest.errors import AttestSiteError
from attest.pe import Pe

_HEAD = "#!ipxe"
# iPXE expands ${…}, joins by && and ||, drops quotes, and decodes %XX in the names of files.
_WORD = re.compile(r"[A-Za-z0-9_./:=,+][A-Za-z0-9_./:=,+-]*")
_MAX_SCRIPT = 16 << 10
_UPSTREAM = re.compile(r"[0-9.]+(?:\+git[0-9]{8}\.[0-9a-f]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class IpxeProfile:
    """How one upstream version measures and hands over.

    `kernel_images`: how often the firmware measures the kernel in PCR 4; `initrd_alignment`: each
    initrd but the last is padded with zeros to a multiple of it, in bytes.
    """

    kernel_images: int
    initrd_alignment: int


PROFILES = {
    # Debian 13. Looking whether the kernel is a program measures it once, starting it once more.
    "1.21.1+git20250501.dad20602": IpxeProfile(kernel_images=2, initrd_alignment=4096),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a flat script boots: the kernel's command line as iPXE hands it over, and its files."""

    command_line: str
    kernel: str
    initrds: tuple[str, ...]


def version_of(image: Pe) -> tuple[str, str]:
    """Give the version that an iPXE names and the upstream one; AttestSiteError for others.

    Debian 12's names none: it hands the initrd over by a name on the command line, and what comes
    that way Linux does not measure (seen: PCR 9 without it).
    """
    rows = (image.section(".sbat") or b"").rstrip(b"\0").decode("utf-8", "replace").splitlines()
    fields = next((row.split(",") for row in rows if row.startswith("ipxe,")), [])
    if len(fields) < 5:
        raise AttestSiteError(
            "the program names itself as no iPXE in .sbat; older ones do not, and hand the initrd"
            " over where Linux does not measure it: take Debian 13's"
        )
    match = _UPSTREAM.match(fields[4])
    return fields[4], match[0] if match else fields[4]


def profile_of(version: str, family: str) -> IpxeProfile:
    """Give the measuring behaviour of an iPXE; raise AttestSiteError naming an unknown one."""
    profile = PROFILES.get(family)
    if profile is None:
        known = ", ".join(sorted(PROFILES))
        raise AttestSiteError(f"there is no boot profile for iPXE {version}: take one of {known}")
    return profile


def read_script(script: bytes) -> Script:
    """Read a flat script; raise AttestSiteError where iPXE would interpret anything."""
    if len(script) > _MAX_SCRIPT or not script.isascii():
        raise AttestSiteError(f"the iPXE script must be ASCII, at most {_MAX_SCRIPT} bytes")
    head, *lines = script.decode().split("\n")
    commands = [line.split(" ") for line in lines if line]
    if head != _HEAD or not all(_WORD.fullmatch(word) for line in commands for word in line):
        raise AttestSiteError("the iPXE script has a character that iPXE interprets")
    match commands:
        case [["kernel", kernel, *arguments], *initrds, ["boot"]] if initrds:
            if all(_is_initrd(line) for line in initrds) and _is_path(kernel):
                name = kernel.rpartition("/")[2]
                return Script(
                    command_line=" ".join((name, *arguments)),
                    kernel=kernel,
                    initrds=tuple(path for _, path in initrds),
                )
    raise AttestSiteError("the iPXE script must be: kernel, initrd, boot, one command a line")


def _is_initrd(line: list[str]) -> bool:
    return len(line) == 2 and line[0] == "initrd" and _is_path(line[1])


def _is_path(path: str) -> bool:
    return path.startswith("/") and not path.endswith("/")
