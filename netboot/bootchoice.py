"""Which boot file a client is given: one table from architecture to way of loading.

Never hands an http URL to a PXEClient nor a TFTP name to an HTTPClient: firmware then asks TFTP for
`http://…` (edk2 BZ-880). RFC 4578 and 5970; option 93 from IANA, Processor Architecture Types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from netboot.dhcp_options import Code, Options

PXE_CLASS = b"PXEClient"
HTTP_CLASS = b"HTTPClient"


class Loading(Enum):
    """How a client fetches its loader."""

    TFTP = "tftp"
    HTTP = "http"


ARCHITECTURES: dict[int, Loading] = {
    0x0007: Loading.TFTP,  # x64 UEFI
    0x0009: Loading.TFTP,  # EBC in the registry, x64 UEFI in older firmware (RFC 4578 errata)
    0x0010: Loading.HTTP,  # x64 UEFI boot from HTTP
}
"""The architectures that this site has a loader for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootChoice:
    """The file names of the plan: the loader, and a script for iPXE (None: the loader too)."""

    loader: str
    ipxe_script: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile:
    """A TFTP file name or an http URL, as `loading` says."""

    loading: Loading
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLoader:
    """The client asks to boot, and there is no loader for any architecture that it named."""

    architectures: tuple[int, ...]


def is_ipxe(options: Options) -> bool:
    """Tell iPXE from firmware: option 175 is there, or a user class is iPXE."""
    return options.get(Code.IPXE) is not None or any(
        b"iPXE" in user_class for user_class in options.user_classes
    )


def wants_boot(options: Options) -> bool:
    """Tell whether the client is one that boots from the network."""
    return (
        options.vendor_class.startswith((PXE_CLASS, HTTP_CLASS))
        or options.get(Code.ARCHITECTURE) is not None
        or is_ipxe(options)
    )


def choose(
    options: Options, choice: BootChoice, appliance: IPv4Address
) -> BootFile | NoLoader | None:
    """Choose for one request; None for a client that does not boot. PeerError as the accessors."""
    if not wants_boot(options):
        return None
    architectures = options.architectures
    loading = _loading(options, architectures)
    if loading is None:
        return NoLoader(architectures=architectures)
    name = choice.loader
    if is_ipxe(options) and choice.ipxe_script is not None:
        name = choice.ipxe_script
    if loading is Loading.HTTP:
        name = f"http://{appliance}/{name}"
    return BootFile(loading=loading, name=name)


def _loading(options: Options, architectures: tuple[int, ...]) -> Loading | None:
    """Find the first architecture with a loader whose way of loading the vendor class allows."""
    is_http = options.vendor_class.startswith(HTTP_CLASS)
    allowed = Loading.HTTP if is_http else Loading.TFTP
    known = (ARCHITECTURES.get(value) for value in architectures)
    return next((loading for loading in known if loading is allowed), None)
