"""What the files of a boot by iPXE say for prediction, computed once, small enough to keep as JSON.

It reads file contents handed to it, never a disk, and checks no signature.
Linux `efistub` (LoadOptions, initrd by LoadFile2); UEFI 2.10, 13.2.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attest.errors import AttestSiteError
from attest.imagefacts import (
    Digests,
    ImageFacts,
    digests,
    image_facts,
    read_digests,
    read_image,
    read_text,
    read_tuple,
    to_plain,
)
from attest.ipxe import profile_of, read_script, version_of
from attest.kernelimage import decode_kernel
from attest.pe import Pe

IPXE_FACTS_TYPE = "doorstep/ipxefacts/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class IpxeFiles:
    """The contents of the files of one boot by iPXE; `script` is what it is given to do."""

    ipxe: bytes
    script: bytes
    kernel: bytes
    initrds: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IpxeFacts:
    """Everything that prediction needs of a boot by iPXE.

    `command_line` is what the kernel is handed, its own name first. `initrd_loaded` is over what it
    gets by LoadFile2: the files in order, padded as this iPXE does. `modules` are those that the
    initrd may load.
    """

    ipxe: ImageFacts
    kernel: ImageFacts
    command_line: str
    initrd_loaded: Digests
    ipxe_version: str
    ipxe_family: str
    architecture: str
    modules: tuple[Digests, ...] = ()

    @property
    def signers(self) -> tuple[tuple[bytes, ...], ...]:
        """Nobody: an iPXE that a distribution builds is not signed for Secure Boot."""
        return ()

    @classmethod
    def compute(cls, files: IpxeFiles) -> "IpxeFacts":
        """Compute the facts; raise AttestSiteError for files that cannot be predicted."""
        image, kernel = Pe.decode(files.ipxe), decode_kernel(files.kernel)
        version, family = version_of(image)
        profile = profile_of(version, family)
        if kernel.machine != image.machine:
            raise AttestSiteError(
                f"iPXE is for {image.architecture} and the kernel for {kernel.architecture}"
            )
        script = read_script(files.script)
        if len(script.initrds) != len(files.initrds):
            raise AttestSiteError(
                "the iPXE script names another number of initrd files than are given"
            )
        return cls(
            ipxe=image_facts(files.ipxe, image),
            kernel=image_facts(files.kernel, kernel),
            command_line=script.command_line,
            initrd_loaded=_loaded(files.initrds, profile.initrd_alignment),
            ipxe_version=version,
            ipxe_family=family,
            architecture=image.architecture,
        )

    def to_json(self) -> str:
        """Give the facts as one line of JSON with sorted keys."""
        document = to_plain(self) | {"type": IPXE_FACTS_TYPE}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "IpxeFacts":
        """Read what `to_json` gave; raise AttestSiteError on anything else."""
        try:
            document = json.loads(text)
            if document.pop("type", None) != IPXE_FACTS_TYPE:
                raise AttestSiteError("the boot facts are of another type or version")
            return cls(**{name: _FIELDS[name](value) for name, value in document.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AttestSiteError("the boot facts cannot be read") from error


def _loaded(initrds: tuple[bytes, ...], alignment: int) -> Digests:
    """Hash the files as one; each begins where a multiple of the alignment is (seen by booting)."""
    *first, last = initrds
    whole = b"".join(initrd + bytes(-len(initrd) % alignment) for initrd in first) + last
    return digests(whole)


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "ipxe": read_image,
    "kernel": read_image,
    "command_line": read_text,
    "initrd_loaded": read_digests,
    "ipxe_version": read_text,
    "ipxe_family": read_text,
    "architecture": read_text,
    "modules": read_tuple(read_digests),
}
