"""Unified kernel images: what systemd-stub finds in one, and how its version measures that.

The stub is a program of its own with rules that change; an image whose stub is not in the table
below is refused, never guessed. It checks no signature.
UAPI Group Specification, UKI; systemd-stub(7); Linux, Documentation/driver-api/early-userspace
(cpio). Each version was booted; .splash and .dtb alone are known from its source only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from attest.errors import AttestSiteError
from attest.pe import Pe, Section

_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub (([0-9]{1,4})[!-~]{0,64}) ####")
_MAX_PADDING = 1 << 20
_BLANKS = dict.fromkeys(range(0x21), " ")

# What the stub picks by the hardware or by the firmware's load options.
_CHOSEN = (".profile", ".dtbauto", ".hwids", ".efifw")
_NEEDED = (".osrel", ".cmdline", ".initrd")


@dataclass(frozen=True, slots=True, kw_only=True)
class StubProfile:
    """How one upstream version measures and what it hands to the kernel.

    `measured` are sections in the order of PCR 11; `packed` are those that the kernel gets as files
    below /.extra, in this order behind the initrd.
    """

    measured: tuple[str, ...]
    packed: tuple[str, ...]
    microcode: bool = False
    """.ucode comes before the initrd."""
    trims_front: bool = True
    """White space before the command line is left out, not only behind it."""
    starts_by_firmware: bool = True
    """With Secure Boot off the firmware loads the inner kernel, and so measures it."""


_FILES = {
    ".pcrsig": "tpm2-pcr-signature.json",
    ".pcrpkey": "tpm2-pcr-public-key.pem",
    ".osrel": "os-release",
}
_WITH_MICROCODE = StubProfile(
    measured=(
        *(".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb"),
        *(".uname", ".sbat", ".pcrpkey"),
    ),
    packed=(".pcrsig", ".pcrpkey", ".osrel"),
    microcode=True,
)

PROFILES = {
    # Debian 12
    "252": StubProfile(
        measured=(".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"),
        packed=(".pcrsig", ".pcrpkey"),
        trims_front=False,
    ),
    # Backports of Debian 12
    "254": StubProfile(
        measured=(
            *(".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb"),
            *(".uname", ".sbat", ".pcrpkey"),
        ),
        packed=(".pcrsig", ".pcrpkey"),
    ),
    # Debian 13
    "257": _WITH_MICROCODE,
    # Debian 14 as it was in November 2026
    "262": replace(_WITH_MICROCODE, starts_by_firmware=False),
}

_KNOWN = frozenset(
    (".pcrsig", *(name for profile in PROFILES.values() for name in profile.measured))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uki:
    """A unified kernel image with a known stub.

    `sections` are names and contents as measured; `initrd` is the whole that the kernel gets,
    `command_line` what the stub makes of its section.
    """

    version: str
    family: str
    sections: tuple[tuple[str, bytes], ...]
    kernel: bytes
    initrd: bytes
    command_line: str


def stub_version(image: Pe) -> tuple[str, str] | None:
    """Give the version that the stub names and the upstream one; None for other programs."""
    if not any(section.name == ".linux" for section in image.sections):
        return None
    match = _MAGIC.search(image.section(".sdmagic") or b"")
    return (match[1].decode(), match[2].decode()) if match else ("unknown", "unknown")


def inspect(image: Pe) -> Uki:
    """Read a unified kernel image; raise AttestSiteError naming its stub if that is unknown."""
    found = stub_version(image)
    if found is None:
        raise AttestSiteError("the program is not a unified kernel image: it has no .linux")
    version, family = found
    profile = profile_of(version, family)
    contents = dict(_contents(image.sections))
    for name in _NEEDED:
        if name not in contents:
            raise AttestSiteError(f"the unified kernel image has no {name}: build it with one")
    return Uki(
        version=version,
        family=family,
        sections=tuple((name, contents[name]) for name in profile.measured if name in contents),
        kernel=contents[".linux"],
        initrd=_initrd(contents, profile),
        command_line=_command_line(contents[".cmdline"], profile),
    )


def profile_of(version: str, family: str) -> StubProfile:
    """Give the measuring behaviour of a stub; raise AttestSiteError naming an unknown one."""
    profile = PROFILES.get(family)
    if profile is None:
        known = ", ".join(sorted(PROFILES))
        raise AttestSiteError(
            f"there is no boot profile for systemd-stub {version}: take one of {known}"
        )
    return profile


def _contents(sections: tuple[Section, ...]) -> Iterator[tuple[str, bytes]]:
    """Give what the stub can see, each once and as it stands in memory."""
    seen = set()
    for section in sections:
        name = section.name
        if name in _CHOSEN:
            raise AttestSiteError(
                f"the unified kernel image has {name}: what it boots is not in the file alone"
            )
        if name not in _KNOWN:
            # Stub 252 compares only as many letters as its own name has.
            if any(name.startswith(known) for known in _KNOWN):
                raise AttestSiteError(f"the unified kernel image has an unknown section {name}")
            continue
        if name in seen:
            raise AttestSiteError(f"the unified kernel image has {name} twice")
        seen.add(name)
        yield name, _in_memory(section)


def _in_memory(section: Section) -> bytes:
    """Fill up with zeros to the size in memory, as the firmware's loader does."""
    missing = section.virtual_size - len(section.data)
    if not section.virtual_size or missing > _MAX_PADDING:
        raise AttestSiteError(f"section {section.name} has an impossible size in memory")
    return section.data + bytes(missing)


def _command_line(content: bytes, profile: StubProfile) -> str:
    """Give the text up to a NUL as the stub hands it over: blanks for control codes."""
    raw = content.split(b"\0")[0]
    if not raw.isascii() or b"\x7f" in raw:
        raise AttestSiteError("the .cmdline of the unified kernel image is not plain ASCII")
    text = raw.decode().translate(_BLANKS).rstrip(" ")
    if not text:
        raise AttestSiteError("the .cmdline of the unified kernel image is empty")
    return text.lstrip(" ") if profile.trims_front else text


def _initrd(contents: dict[str, bytes], profile: StubProfile) -> bytes:
    """Put together what the kernel gets; each part is padded to four bytes where there are more."""
    parts = [contents[".ucode"]] if profile.microcode and ".ucode" in contents else []
    parts.append(contents[".initrd"])
    parts += [_archive(_FILES[name], contents[name]) for name in profile.packed if name in contents]
    if len(parts) == 1:
        return parts[0]
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def _archive(name: str, content: bytes) -> bytes:
    """Make the cpio archive (newc) of one file below /.extra as the stub does."""
    return (
        _entry(1, 0o040555, ".extra", b"")
        + _entry(2, 0o100444, f".extra/{name}", content)
        # The stub writes its numbers in small letters, but for the trailer, which is a constant.
        + _entry(0, 0, "TRAILER!!!", b"").replace(b"b", b"B")
    )


def _entry(inode: int, mode: int, name: str, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
