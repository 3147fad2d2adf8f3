"""What a GRUB image does before it reads our grub.cfg, and how its version measures.

The embedded configuration is not measured itself, only the commands that it executes; they follow
from its text, so an image whose text is not in the table below is refused, never guessed.
GRUB manual 2.12, section 17.2 (TPM measurements); module area as in `include/grub/kernel.h`.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import Enum

from attest.errors import AttestSiteError
from attest.memdisk import read_file
from attest.pe import Pe

_MODULE_MAGIC = 0x676D696D
_MEMDISK, _CONFIG, _PREFIX = 1, 2, 3
_MAX_OBJECTS = 4096
_BOOTSTRAP = b"normal (memdisk)/grub.cfg\n"

_FIRST_TEST = "[ -e {prefix}/x86_64-efi/grub.cfg ]"
_FIRST_TEST_ARM64 = "[ -e {prefix}/arm64-efi/grub.cfg ]"
_SOURCE = "source {prefix}/grub.cfg"
_NO_PREFIX = "[ -z {prefix} -o ! -e {prefix} ]"
_OWN_TEST = "[ -e {prefix}/grub.cfg ]"


class GrubKind(Enum):
    """Where a signed GRUB image looks for its configuration."""

    NETWORK = "network"
    MEDIUM = "medium"


# Images with another directory (for an installed disk) are not ours to serve.
_PREFIXES = {GrubKind.NETWORK: "/grub", GrubKind.MEDIUM: "/boot/grub"}

# SHA-256 of the embedded grub.cfg: the kind, and the commands run where only PREFIX/grub.cfg is
# served. Each was read out of a signed image and seen in a boot log.
_KNOWN_CONFIGS = {
    # Debian 12, 2.06: one test
    "c8bf3e4a13c1401dd345f61a9e3ab3c29caef17efc6a01f267b1e1efd0ea54bc": (
        GrubKind.NETWORK,
        (_FIRST_TEST, _SOURCE),
    ),
    # Debian 13, 2.12: a second test
    "dada13c8dab8b8f5873aef0d68c8e47930e2d6d902262abcaa27427c5808427c": (
        GrubKind.NETWORK,
        (_FIRST_TEST, "[ -e {prefix}/grub.cfg-amd64 ]", _SOURCE),
    ),
    # both: CD image
    "6a0f9c43a4fceea223fb6486ce6d345dd3999c283e63b9ed723de42e5d639e8a": (
        GrubKind.MEDIUM,
        (_NO_PREFIX, _FIRST_TEST, _OWN_TEST, _SOURCE),
    ),
    # Debian 13 for arm64: network and CD image
    "9fa3d6a95fb700b5a23fdca9ed813a691b2a5e0788aa9f742d9f6d4882ce3743": (
        GrubKind.NETWORK,
        (_FIRST_TEST_ARM64, "[ -e {prefix}/grub.cfg-arm64 ]", _SOURCE),
    ),
    "18c02650d6f9e775088f8f1ea4913f8b907c5e98047505f1794998da3db052db": (
        GrubKind.MEDIUM,
        (_NO_PREFIX, _FIRST_TEST_ARM64, _OWN_TEST, _SOURCE),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubProfile:
    """How one upstream version measures what our flat grub.cfg does."""

    kernel_images: int
    """How often the kernel image is measured in PCR 4 with Secure Boot on."""
    kernel_tags: bool
    """The kernel starts as an EFI program and measures its options and initrd itself."""
    http: bool


PROFILES = {
    ("2.06", "amd64"): GrubProfile(kernel_images=2, kernel_tags=False, http=False),
    ("2.12", "amd64"): GrubProfile(kernel_images=1, kernel_tags=True, http=True),
    ("2.12", "arm64"): GrubProfile(kernel_images=1, kernel_tags=True, http=True),
}
# Debian 12's image for arm64 was built without the tpm module (seen in boot logs).
_WITHOUT_TPM = {("2.06", "arm64")}


def profile_of(name: str, family: str, architecture: str) -> GrubProfile:
    """Give the measuring behaviour of an upstream version; AttestSiteError if it is unknown."""
    if (family, architecture) in _WITHOUT_TPM:
        raise AttestSiteError(
            f"{name} for {architecture} measures neither grub.cfg nor the initrd:"
            " nobody could tell what a box booted, take GRUB 2.12"
        )
    profile = PROFILES.get((family, architecture))
    if profile is None:
        raise AttestSiteError(
            f"there is no boot profile for {name} (upstream {family}, {architecture})"
        )
    return profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Grub:
    """A known GRUB image; `version` is the distribution's, `family` the upstream one.

    `commands` are templates with `{prefix}` for device and directory.
    """

    version: str
    family: str
    kind: GrubKind
    prefix: str
    commands: tuple[str, ...]


def inspect(data: bytes) -> Grub:
    """Identify a signed GRUB image; raise AttestSiteError naming its version if it is unknown."""
    image = Pe.decode(data)
    family, version = _versions(image)
    name = f"GRUB {version}"
    profile_of(name, family, image.architecture)
    objects = _objects(image.section("mods") or b"", name)
    config = objects.get(_CONFIG, b"").rstrip(b"\0")
    prefix = objects.get(_PREFIX, b"").split(b"\0")[0].decode("ascii", "replace")
    if config != _BOOTSTRAP or _MEMDISK not in objects:
        raise AttestSiteError(f"there is no boot profile for {name}: it starts in an unknown way")
    text = read_file(objects[_MEMDISK], "grub.cfg")
    known = _KNOWN_CONFIGS.get(hashlib.sha256(text).hexdigest())
    if known is None or prefix != _PREFIXES[known[0]]:
        raise AttestSiteError(
            f"there is no boot profile for {name}: its built-in grub.cfg is unknown"
        )
    kind, commands = known
    return Grub(version=version, family=family, kind=kind, prefix=prefix, commands=commands)


def version_of(image: Pe) -> str:
    """Give the version that an image's SBAT rows name, "unknown" where there is none."""
    return _versions(image)[1]


def _versions(image: Pe) -> tuple[str, str]:
    """Give the upstream and the most specific version of the SBAT rows of GRUB."""
    sbat = image.section(".sbat") or b""
    family, version = "unknown", "unknown"
    for line in sbat.rstrip(b"\0").decode("utf-8", "replace").splitlines():
        fields = line.split(",")
        if len(fields) < 5:
            continue
        if fields[0] == "grub":
            family = version = fields[4]
        elif fields[0].startswith("grub."):
            return family, fields[4]
    return family, version


def _objects(mods: bytes, name: str) -> dict[int, bytes]:
    """List the non-module objects of the module area, the first of each type."""
    found: dict[int, bytes] = {}
    try:
        magic, _, offset, size = struct.unpack_from("<IIQQ", mods)
        if magic != _MODULE_MAGIC or size > len(mods):
            raise AttestSiteError(f"{name} has no module area")
        for _ in range(_MAX_OBJECTS):
            if offset >= size:
                break
            kind, length = struct.unpack_from("<II", mods, offset)
            if length < 8 or offset + length > size:
                raise AttestSiteError(f"the module area of {name} is malformed")
            if kind:
                found.setdefault(kind, mods[offset + 8 : offset + length])
            offset += length
    except struct.error as error:
        raise AttestSiteError(f"the module area of {name} is cut off") from error
    return found
