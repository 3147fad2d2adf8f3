"""Which boot file a client is given: one table of rules, first match wins.

Never hands an http URL to a PXEClient nor a TFTP name to an HTTPClient: firmware then asks TFTP for
`http://…` (edk2 BZ-880). RFC 4578 and 5970; option 93 from IANA, Processor Architecture Types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from netboot.classes import matches
from netboot.client import Facts
from netboot.network import ClientKind, Match


class Loading(Enum):
    """How a client fetches its loader."""

    TFTP = "tftp"
    HTTP = "http"
    HTTPS = "https"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRule:
    """What clients that match are given: a path in the file map, or a whole URL elsewhere.

    `loading` says how the path is named to the client: HTTP as `http://APPLIANCE/path`, HTTPS as
    `https://APPLIANCE:PORT/path` with the table's port (for firmware that holds the site's CA).
    `boot_set` is the set that the file belongs to, None for the operator's own files.
    """

    match: Match
    file: str
    loading: Loading
    boot_set: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTable:
    """All rules, the operator's own first; `https_port` is where boot files are served with TLS.

    Of several sets for one architecture the first is the default: the others are for boxes whose
    reservation names them.
    """

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


ARCHITECTURE_NAMES: dict[str, int] = {
    "x86-bios": 0x00,
    "nec-pc98": 0x01,
    "itanium-uefi": 0x02,
    "alpha": 0x03,
    "arc-x86": 0x04,
    "intel-lean-client": 0x05,
    "x86-uefi": 0x06,
    "x64-uefi": 0x07,
    "xscale-uefi": 0x08,
    "ebc": 0x09,
    "arm32-uefi": 0x0A,
    "arm64-uefi": 0x0B,
    "powerpc-open-firmware": 0x0C,
    "powerpc-epapr": 0x0D,
    "power-opal": 0x0E,
    "x86-uefi-http": 0x0F,
    "x64-uefi-http": 0x10,
    "ebc-http": 0x11,
    "arm32-uefi-http": 0x12,
    "arm64-uefi-http": 0x13,
    "x86-bios-http": 0x14,
    "arm32-u-boot": 0x15,
    "arm64-u-boot": 0x16,
    "arm32-u-boot-http": 0x17,
    "arm64-u-boot-http": 0x18,
    "riscv32-uefi": 0x19,
    "riscv32-uefi-http": 0x1A,
    "riscv64-uefi": 0x1B,
    "riscv64-uefi-http": 0x1C,
    "riscv128-uefi": 0x1D,
    "riscv128-uefi-http": 0x1E,
    "s390-basic": 0x1F,
    "s390-extended": 0x20,
    "mips32-uefi": 0x21,
    "mips64-uefi": 0x22,
    "sunway32-uefi": 0x23,
    "sunway64-uefi": 0x24,
    "loongarch32-uefi": 0x25,
    "loongarch32-uefi-http": 0x26,
    "loongarch64-uefi": 0x27,
    "loongarch64-uefi-http": 0x28,
    "arm-rpi": 0x29,
}
"""Option 93, by the names that a site file uses (IANA, Processor Architecture Types)."""

_OF_SETS = {
    "amd64": (frozenset({0x07, 0x09}), frozenset({0x10})),
    "arm64": (frozenset({0x0B}), frozenset({0x13})),
}
"""Of a boot set's machine: option 93 over TFTP and over HTTP. 9 is EBC in the registry and x64 UEFI
in older firmware (RFC 4578 errata)."""

_IPXE_PROGRAMS = ("ipxe", "snp", "undionly", "undi", "gpxe")
_PROGRAM_ENDINGS = (".efi", ".kpxe", ".kkpxe", ".kkkpxe", ".pxe", ".lkrn", ".0")
"""What iPXE's build calls its binaries: iPXE that is given one again loads it for ever (D19)."""

_BY_HTTP = (Loading.HTTP, Loading.HTTPS)


def rules_of_set(
    architecture: str, loader: str, boot_set: bytes, http: Loading = Loading.HTTP
) -> tuple[BootRule, ...]:
    """Give the rules that serve one boot set: `loader` is its path, whatever the transport.

    `http` is how firmware with HTTP boot is to load: by HTTP or HTTPS.
    """
    by_tftp, by_http = _OF_SETS[architecture]
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
            loading=http,
            boot_set=boot_set,
        ),
    )


def choose(
    facts: Facts,
    table: BootTable,
    appliance: IPv4Address | IPv6Address,
    boot_set: bytes | None = None,
) -> BootFile | NoLoader | None:
    """Choose for one request; None for a client that does not boot, or that nothing is said about.

    `boot_set` is the box's own: its rules go before those of other sets.
    """
    if not facts.wants_boot:
        return None
    fitting = [rule for rule in table.rules if _fits(rule, facts)]
    own = (rule for rule in fitting if rule.boot_set in (None, boot_set))
    rule = next(own, None) if boot_set is not None else None
    rule = rule or next(iter(fitting), None)
    if rule is not None:
        return _name(rule, table, appliance)
    if facts.architectures or facts.kind in (ClientKind.PXE, ClientKind.HTTP):
        return NoLoader(architectures=facts.architectures)
    return None


def _fits(rule: BootRule, facts: Facts) -> bool:
    """Match the rule, and keep each kind of client to the transports that it has."""
    is_http = rule.loading in _BY_HTTP
    if facts.kind is ClientKind.IPXE:
        if _is_ipxe_program(rule.file):
            return False
    elif is_http is not (facts.kind is ClientKind.HTTP):
        return False
    return matches(rule.match, facts)


def _is_ipxe_program(file: str) -> bool:
    name = file.rpartition("/")[2].lower()
    return name.startswith(_IPXE_PROGRAMS) and name.endswith(_PROGRAM_ENDINGS)


def _name(rule: BootRule, table: BootTable, appliance: IPv4Address | IPv6Address) -> BootFile:
    name = rule.file
    if rule.loading in _BY_HTTP and "://" not in name:
        name = f"{_origin(rule.loading, table.https_port, appliance)}/{name.lstrip('/')}"
    return BootFile(loading=rule.loading, name=name, boot_set=rule.boot_set)


def _origin(loading: Loading, port: int | None, appliance: IPv4Address | IPv6Address) -> str:
    host = str(appliance) if appliance.version == 4 else f"[{appliance}]"
    if loading is Loading.HTTP or port is None:
        return f"http://{host}"
    return f"https://{host}" if port == 443 else f"https://{host}:{port}"
