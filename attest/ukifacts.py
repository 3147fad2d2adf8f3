"""What a unified kernel image says for prediction, computed once, small enough to keep as JSON.

It reads file contents handed to it, never a disk, and checks no signature.
UAPI Group Specification, UKI; systemd-stub(7).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attest.errors import AttestSiteError
from attest.imagefacts import (
    READ_SIGNERS,
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
from attest.pe import Pe
from attest.uki import inspect

UKI_FACTS_TYPE = "doorstep/ukifacts/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFacts:
    """A section that the stub measures: its name, and the digests of its content in memory."""

    name: str
    content: Digests


@dataclass(frozen=True, slots=True, kw_only=True)
class UkiFacts:
    """Everything that prediction needs of a unified kernel image.

    `image` is the whole file, `kernel` the program in its .linux. `initrd_loaded` is over what the
    kernel gets, with what the stub adds; `command_line` is what the stub hands over. `signers` are
    the certificates (DER) of each signature. `modules` are those that the initrd may load.
    """

    image: ImageFacts
    kernel: ImageFacts
    sections: tuple[SectionFacts, ...]
    command_line: str
    initrd_loaded: Digests
    signers: tuple[tuple[bytes, ...], ...]
    stub_version: str
    stub_family: str
    architecture: str
    modules: tuple[Digests, ...] = ()

    @classmethod
    def compute(cls, uki: bytes, modules: tuple[bytes, ...] = ()) -> "UkiFacts":
        """Compute the facts; raise AttestSiteError for an image that cannot be predicted."""
        image = Pe.decode(uki)
        found = inspect(image)
        kernel = Pe.decode(found.kernel)
        if kernel.machine != image.machine:
            raise AttestSiteError(
                f"the stub is for {image.architecture} and its kernel for {kernel.architecture}"
            )
        return cls(
            image=image_facts(uki, image),
            kernel=image_facts(found.kernel, kernel),
            sections=tuple(
                SectionFacts(name=name, content=digests(content))
                for name, content in found.sections
            ),
            command_line=found.command_line,
            initrd_loaded=digests(found.initrd),
            signers=image.signers,
            stub_version=found.version,
            stub_family=found.family,
            architecture=image.architecture,
            modules=tuple(digests(module) for module in modules),
        )

    def to_json(self) -> str:
        """Give the facts as one line of JSON with sorted keys."""
        document = to_plain(self) | {"type": UKI_FACTS_TYPE}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "UkiFacts":
        """Read what `to_json` gave; raise AttestSiteError on anything else."""
        try:
            document = json.loads(text)
            if document.pop("type", None) != UKI_FACTS_TYPE:
                raise AttestSiteError("the boot facts are of another type or version")
            return cls(**{name: _FIELDS[name](value) for name, value in document.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AttestSiteError("the boot facts cannot be read") from error


def _read_section(value: Any) -> SectionFacts:
    return SectionFacts(name=read_text(value["name"]), content=read_digests(value["content"]))


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "image": read_image,
    "kernel": read_image,
    "sections": read_tuple(_read_section),
    "command_line": read_text,
    "initrd_loaded": read_digests,
    "signers": READ_SIGNERS,
    "stub_version": read_text,
    "stub_family": read_text,
    "architecture": read_text,
    "modules": read_tuple(read_digests),
}
