"""What the files of a boot set say for prediction, computed once, small enough to keep as JSON.

It reads file contents handed to it, never a disk, and checks no signature: it asks only whose
certificate issued which signer, as shim and firmware will.
UEFI 2.10, 32.4; shim `README.tpm` and `SBAT.md`; GRUB manual 2.12, 17.2.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attest.errors import AttestSiteError
from attest.grub import GrubKind
from attest.grub import inspect as inspect_grub
from attest.imagefacts import (
    BANKS,
    READ_SIGNERS,
    Digests,
    ImageFacts,
    chains_to,
    digests,
    image_facts,
    read_bytes,
    read_digests,
    read_image,
    read_text,
    read_tuple,
    to_plain,
)
from attest.ipxefacts import IPXE_FACTS_TYPE, IpxeFacts
from attest.kernelimage import decode_kernel
from attest.pe import Pe
from attest.shim import read_shim
from attest.ukifacts import UKI_FACTS_TYPE, UkiFacts

__all__ = [
    "BANKS",
    "BootFiles",
    "Digests",
    "Facts",
    "FileFacts",
    "ImageFacts",
    "IpxeFacts",
    "UkiFacts",
    "chains_to",
    "digests",
    "facts_from_json",
    "flat_commands",
]

FACTS_TYPE = "doorstep/bootfacts/v1"

# GRUB expands, splits or drops every other character; a flat file has one reading only.
_WORD = re.compile(r"[A-Za-z0-9_./:=,@%+~-]+")
_MAX_CONFIG = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """The contents of the files of one boot set for one transport.

    `modules` are the kernel module files that the initrd may load, as the kernel reads them.
    """

    shim: bytes
    grub: bytes
    grub_cfg: bytes
    kernel: bytes
    initrds: tuple[bytes, ...]
    modules: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Everything that prediction needs of the files.

    `commands` are GRUB's command texts as measured. `initrd_loaded` is over what the kernel gets:
    the files in order, each but the last padded with zeros to four bytes. `signers` are the
    certificates (DER) of each signature of shim; `grub_signers` and `kernel_signers` likewise.
    `modules` are the kernel modules that the initrd may load; facts kept before have none.
    """

    shim: ImageFacts
    grub: ImageFacts
    kernel: ImageFacts
    grub_cfg: Digests
    initrds: tuple[Digests, ...]
    initrd_loaded: Digests
    commands: tuple[str, ...]
    signers: tuple[tuple[bytes, ...], ...]
    grub_signers: tuple[tuple[bytes, ...], ...]
    kernel_signers: tuple[tuple[bytes, ...], ...]
    vendor_cert: bytes
    vendor_dbx: bytes
    sbat_level: bytes
    grub_version: str
    grub_family: str
    grub_kind: GrubKind
    grub_prefix: str
    grub_commands: tuple[str, ...]
    modules: tuple[Digests, ...] = ()
    architecture: str = "amd64"

    @classmethod
    def compute(cls, files: BootFiles) -> "FileFacts":
        """Compute the facts; raise AttestSiteError for files that cannot be predicted."""
        shim, loader = Pe.decode(files.shim), inspect_grub(files.grub)
        grub, kernel = Pe.decode(files.grub), decode_kernel(files.kernel)
        _check_architectures(shim=shim, GRUB=grub, kernel=kernel)
        tables = read_shim(shim)
        commands = flat_commands(files.grub_cfg)
        if sum(len(line.split()) - 1 for line in commands if line.startswith("initrd ")) != len(
            files.initrds
        ):
            raise AttestSiteError("grub.cfg names another number of initrd files than are given")
        return cls(
            shim=image_facts(files.shim, shim),
            grub=image_facts(files.grub, grub),
            kernel=image_facts(files.kernel, kernel),
            grub_cfg=digests(files.grub_cfg),
            initrds=tuple(digests(initrd) for initrd in files.initrds),
            initrd_loaded=_loaded(files.initrds),
            commands=commands,
            signers=shim.signers,
            grub_signers=grub.signers,
            kernel_signers=kernel.signers,
            vendor_cert=tables.vendor_cert,
            vendor_dbx=tables.vendor_dbx,
            sbat_level=tables.sbat_level,
            grub_version=loader.version,
            grub_family=loader.family,
            grub_kind=loader.kind,
            grub_prefix=loader.prefix,
            grub_commands=loader.commands,
            modules=tuple(digests(module) for module in files.modules),
            architecture=shim.architecture,
        )

    def to_json(self) -> str:
        """Give the facts as one line of JSON with sorted keys."""
        document = {name: to_plain(getattr(self, name)) for name in self.__slots__}
        document["type"] = FACTS_TYPE
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "FileFacts":
        """Read what `to_json` gave; raise AttestSiteError on anything else."""
        try:
            document = json.loads(text)
            if document.pop("type", None) != FACTS_TYPE:
                raise AttestSiteError("the boot facts are of another type or version")
            return cls(**{name: _FIELDS[name](value) for name, value in document.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AttestSiteError("the boot facts cannot be read") from error


Facts = FileFacts | UkiFacts | IpxeFacts
"""The facts of a boot set, by what it starts with: shim and GRUB, a unified image, or iPXE."""


def facts_from_json(text: str | bytes) -> Facts:
    """Read kept facts of any type; raise AttestSiteError on anything else."""
    try:
        document = json.loads(text)
        kind = document.get("type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise AttestSiteError("the boot facts cannot be read") from error
    if kind == IPXE_FACTS_TYPE:
        return IpxeFacts.from_json(text)
    return UkiFacts.from_json(text) if kind == UKI_FACTS_TYPE else FileFacts.from_json(text)


def _check_architectures(**programs: Pe) -> None:
    if len({image.machine for image in programs.values()}) > 1:
        told = ", ".join(f"{name} for {image.architecture}" for name, image in programs.items())
        raise AttestSiteError(f"the boot programs do not fit together: {told}")


def _loaded(initrds: tuple[bytes, ...]) -> dict[str, bytes]:
    """Hash the initrd files as GRUB 2.12 hands them over by LoadFile2 (found by booting)."""
    hashers = {bank: hashlib.new(bank) for bank in BANKS}
    for index, initrd in enumerate(initrds):
        padding = bytes(-len(initrd) % 4) if index + 1 < len(initrds) else b""
        for hasher in hashers.values():
            hasher.update(initrd)
            hasher.update(padding)
    return {bank: hasher.digest() for bank, hasher in hashers.items()}


def flat_commands(grub_cfg: bytes) -> tuple[str, ...]:
    """Give the commands of a flat grub.cfg; raise AttestSiteError where GRUB would interpret."""
    if len(grub_cfg) > _MAX_CONFIG:
        raise AttestSiteError(f"grub.cfg is larger than {_MAX_CONFIG} bytes")
    if not grub_cfg.isascii() or b"\r" in grub_cfg:
        raise AttestSiteError("grub.cfg must be ASCII with plain line ends")
    commands: list[str] = []
    for number, line in enumerate(grub_cfg.decode().split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not all(_WORD.fullmatch(word) for word in words):
            raise AttestSiteError(f"grub.cfg line {number} has a character that GRUB interprets")
        _check_command(words, number)
        commands.append(" ".join(words))
    order = [command.split()[0] for command in commands if not command.startswith("set ")]
    if order != ["linux", "initrd", "boot"]:
        raise AttestSiteError("grub.cfg must be: linux, initrd, boot, one command a line")
    return tuple(commands)


def _check_command(words: list[str], number: int) -> None:
    match words:
        case ["linux" | "initrd", path, *_] if path.startswith("/"):
            return
        case ["set", assignment] if "=" in assignment:
            return
        case ["boot"]:
            return
    raise AttestSiteError(f"grub.cfg line {number} is none of: linux, initrd, boot, set NAME=VALUE")


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "shim": read_image,
    "grub": read_image,
    "kernel": read_image,
    "grub_cfg": read_digests,
    "initrds": read_tuple(read_digests),
    "initrd_loaded": read_digests,
    "commands": read_tuple(read_text),
    "signers": READ_SIGNERS,
    "grub_signers": READ_SIGNERS,
    "kernel_signers": READ_SIGNERS,
    "vendor_cert": read_bytes,
    "vendor_dbx": read_bytes,
    "sbat_level": read_bytes,
    "grub_version": read_text,
    "grub_family": read_text,
    "grub_kind": GrubKind,
    "grub_prefix": read_text,
    "grub_commands": read_tuple(read_text),
    "modules": read_tuple(read_digests),
    "architecture": read_text,
}
