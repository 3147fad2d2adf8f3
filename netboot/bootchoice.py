"""Which boot file a client is given: one table of rules, first match wins.

Never hands an http URL to a PXEClient nor a TFTP name to an HTTPClient: firmware then asks TFTP for
`http://…` (edk2 BZ-880). RFC 4578 and 5970; option 93 from IANA, Processor Architecture Types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from netboot.dhcp_options import Code, Options
from netboot.network import ClientKind, Match

PXE_CLASS = b"PXEClient"
HTTP_CLASS = b"HTTPClient"


class Loading(Enum):
    """How a client fetches its loader."""

    TFTP = "tftp"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRule:
    """What clients that match are given: a path in the file map, or a whole URL elsewhere.

    `loading` says how the path is named to the client: HTTP gives `http://APPLIANCE/path` (HTTPS
    too where the table has a port for it). `boot_set` is the set that the file belongs to, None
    for the operator's own files.
    """

    match: Match
    file: str
    loading: Loading
    boot_set: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTable:
    """All rules, the operator's own first; `https_port` is where boot files are served with TLS."""

    rules: tuple[BootRule, ...]
    https_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile:
    """A TFTP file name or a URL, as `loading` says; `boot_set` as in its rule."""

    loading: Loading
    name: str
    boot_set: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLoader:
    """The client asks to boot, and there is no loader for any architecture that it named."""

    architectures: tuple[int, ...]


_ARCHITECTURES = {
    "amd64": (frozenset({0x0007, 0x0009}), frozenset({0x0010})),
    "arm64": (frozenset({0x000B}), frozenset({0x0013})),
}
"""Of a boot set's machine: option 93 over TFTP and over HTTP. 9 is EBC in the registry and x64 UEFI
in older firmware (RFC 4578 errata)."""


def rules_of_set(architecture: str, loader: str, boot_set: bytes) -> tuple[BootRule, ...]:
    """Give the rules that serve one boot set: `loader` is its path, whatever the transport."""
    by_tftp, by_http = _ARCHITECTURES[architecture]
    return (
        BootRule(
            match=Match(architectures=by_tftp),
            file=loader,
            loading=Loading.TFTP,
            boot_set=boot_set,
        ),
        BootRule(
            match=Match(architectures=by_http),
            file=loader,
            loading=Loading.HTTP,
            boot_set=boot_set,
        ),
    )


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


def kind_of(options: Options) -> ClientKind:
    """Say what kind of program asks."""
    if is_ipxe(options):
        return ClientKind.IPXE
    if options.vendor_class.startswith(HTTP_CLASS):
        return ClientKind.HTTP
    if options.vendor_class.startswith(b"U-Boot"):
        return ClientKind.UBOOT
    return ClientKind.PXE if wants_boot(options) else ClientKind.OTHER


def choose(
    options: Options, table: BootTable, appliance: IPv4Address
) -> BootFile | NoLoader | None:
    """Choose for one request; None for a client that does not boot. PeerError as the accessors."""
    if not wants_boot(options):
        return None
    kind, architectures = kind_of(options), options.architectures
    for rule in table.rules:
        if _fits(rule, kind, architectures):
            return _name(rule, appliance)
    return NoLoader(architectures=architectures)


def _fits(rule: BootRule, kind: ClientKind, architectures: tuple[int, ...]) -> bool:
    match = rule.match
    if kind is ClientKind.HTTP and rule.loading is not Loading.HTTP:
        return False
    if kind not in (ClientKind.HTTP, ClientKind.IPXE) and rule.loading is Loading.HTTP:
        return False
    is_kind = not match.kinds or kind in match.kinds
    return is_kind and (
        not match.architectures or not match.architectures.isdisjoint(architectures)
    )


def _name(rule: BootRule, appliance: IPv4Address) -> BootFile:
    name = rule.file
    if rule.loading is Loading.HTTP and "://" not in name:
        name = f"http://{appliance}/{name.lstrip('/')}"
    return BootFile(loading=rule.loading, name=name, boot_set=rule.boot_set)
