"""The networks that a plan describes: subnets, pools, reservations, classes, and what each says.

Values and how levels combine; who gets which address is `netboot.leases`', which options go into a
reply is `netboot.dhcp_reply`'s. RFC 2131, 2132; RFC 3046 (82), 4578 (93, 97); RFC 8415 for IPv6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal


class ClientKind(StrEnum):
    """What kind of program asks; each loads in a way of its own (`netboot.client`)."""

    PXE = "pxe"
    HTTP = "http"
    IPXE = "ipxe"
    UBOOT = "u-boot"
    RASPBERRY_PI = "raspberry-pi"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionValue:
    """An option as it goes out; `always` sends it to a client that did not ask for it too."""

    code: int
    data: bytes
    always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What one level says; None, or an option that is not there, leaves it to the level above.

    `boot_file` goes to every client of the level, whatever its kind: `next_server` (siaddr) and
    `server_name` (sname) belong to it.
    """

    options: tuple[OptionValue, ...] = ()
    lease: timedelta | None = None
    lease_min: timedelta | None = None
    lease_max: timedelta | None = None
    boot_file: str | None = None
    next_server: IPv4Address | None = None
    server_name: str | None = None
    reply_delay: timedelta | None = None


NOTHING = Parameters()


def combine(levels: Iterable[Parameters]) -> Parameters:
    """Combine levels, the nearest to the client first; options one by one, each by its code."""
    levels = tuple(level for level in levels if level is not NOTHING)
    options: dict[int, OptionValue] = {}
    for level in reversed(levels):
        options |= {option.code: option for option in level.options}

    def first(name: str) -> object:
        said = (getattr(level, name) for level in levels)
        return next((value for value in said if value is not None), None)

    names = (name for name in Parameters.__slots__ if name != "options")
    found = {name: first(name) for name in names}
    return Parameters(options=tuple(options.values()), **found)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Questions about a client: each that is not empty must hold, by any of its values.

    `vendor_class` are prefixes of option 60 (16 of DHCPv6), `mac` of the Ethernet address; `uuid`
    16 bytes as in option 97; `circuit_id` and `remote_id` sub-options 1 and 2 of option 82 (18 and
    37, the latter without its enterprise number); `relays` giaddr (the link address). `options`,
    `options6` and `relay_options` (sub-options of 82; options of the DHCPv6 relay) are a code with
    its bytes, or None for "is there"; `parts` and `parts6` a code, where in the option, and the
    bytes there; each of them must hold. `known`: has a reservation, or not. `member`: names of
    classes that come before.
    """

    kinds: frozenset[ClientKind] = frozenset()
    architectures: frozenset[int] = frozenset()
    vendor_class: tuple[bytes, ...] = ()
    user_class: tuple[bytes, ...] = ()
    mac: tuple[bytes, ...] = ()
    uuid: tuple[bytes, ...] = ()
    circuit_id: tuple[bytes, ...] = ()
    remote_id: tuple[bytes, ...] = ()
    relays: tuple[IPv4Address | IPv6Address, ...] = ()
    options: tuple[tuple[int, bytes | None], ...] = ()
    options6: tuple[tuple[int, bytes | None], ...] = ()
    relay_options: tuple[tuple[int, bytes | None], ...] = ()
    parts: tuple[tuple[int, int, bytes], ...] = ()
    parts6: tuple[tuple[int, int, bytes], ...] = ()
    known: bool | None = None
    member: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Conditions):
    """Questions about a client that hold, and others of which one does not."""

    excluded: Conditions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientClass:
    """Clients that have something in common, and what they are given; `options6` by DHCPv6.

    Those of an `ignored` class get no answer at all.
    """

    name: str
    match: Match
    parameters: Parameters = NOTHING
    options6: tuple[OptionValue, ...] = ()
    ignored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Addresses to lend from `first` to `last`, both included; `classes` empty: to everybody.

    `bootp` lends to BOOTP clients too, which never give back what they were given.
    """

    first: IPv4Address
    last: IPv4Address
    classes: frozenset[str] = frozenset()
    bootp: bool = False
    parameters: Parameters = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetPlan:
    """One subnet: `appliance` is our address for its clients, in it unless `relayed`.

    Subnets with the same `shared` are one link. `relayed` subnets are reached through relays alone;
    `relays` are giaddrs outside `network` that stand for it. `enrols` is false where a boot is only
    measured: then nobody is told where to phone home.
    """

    name: str
    interface: str
    network: IPv4Network
    appliance: IPv4Address
    gateway: IPv4Address | None
    pools: tuple[Pool, ...]
    lease: timedelta
    dhcp: Literal["server", "proxy", "off"]
    boot: bool
    enrols: bool = True
    shared: str | None = None
    relayed: bool = False
    relays: tuple[IPv4Address, ...] = ()
    authoritative: bool = True
    rapid_commit: bool = False
    parameters: Parameters = NOTHING

    @property
    def phone_home(self) -> str:
        """The https URI that option 143 carries."""
        return f"https://{self.appliance}:8443"


def swapped_uuid(uuid: bytes) -> bytes:
    """Turn the first three fields of 16 bytes round (SMBIOS 2.6, 7.2.1): makers differ in them."""
    return uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one client always gets; it is known by exactly one of the first five.

    `mac` 6 bytes; `uuid` 16 bytes as in option 97, in either order of its first three fields;
    `client_id` option 61 whole; `circuit_id` and `remote_id` sub-options 1 and 2 of 82. `address`
    None gives parameters alone. `boot_set` (32 bytes) is what this box boots instead of the served
    one.
    """

    mac: bytes | None = None
    uuid: bytes | None = None
    client_id: bytes | None = None
    circuit_id: bytes | None = None
    remote_id: bytes | None = None
    address: IPv4Address | None
    name: str | None
    parameters: Parameters = NOTHING
    boot_set: bytes | None = None


class Identify(StrEnum):
    """What makes a client the same one again.

    MAC: firmware, loader, installer and system of one box each send another client-id, and cloned
    systems the same. CLIENT_ID: RFC 2131, 4.2 to the letter.
    """

    MAC = "mac"
    CLIENT_ID = "client-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet6Plan:
    """One IPv6 network; `appliance` is our address in it.

    "stateful": addresses from `pools` (first, last); "stateless": settings alone, addresses by
    SLAAC. `router` is true where our advertisements offer us as router (lifetime above 0).
    `preferred` is how long an address may be used for something new, None as long as `lease`.
    Subnets with the same `shared` are one link. `relayed` subnets are reached through relays alone;
    `relays` are link addresses outside `network` that stand for it, `circuits` Interface-Ids of
    relays that do. `classes` names those whom addresses are lent to, empty: everybody. `renewal`
    and `rebinding` are T1 and T2, None for 0.5 and 0.8 of `preferred`.
    """

    name: str
    interface: str
    network: IPv6Network
    appliance: IPv6Address
    pools: tuple[tuple[IPv6Address, IPv6Address], ...]
    lease: timedelta
    dhcp: Literal["stateful", "stateless", "off"]
    boot: bool
    router: bool = False
    options: tuple[OptionValue, ...] = ()
    enrols: bool = True
    preferred: timedelta | None = None
    rapid_commit: bool = False
    shared: str | None = None
    relayed: bool = False
    relays: tuple[IPv6Address, ...] = ()
    circuits: tuple[bytes, ...] = ()
    classes: frozenset[str] = frozenset()
    renewal: timedelta | None = None
    rebinding: timedelta | None = None

    @property
    def phone_home(self) -> str:
        """The https URI that option 136 carries."""
        return f"https://[{self.appliance}]:8443"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation6:
    """What one IPv6 client always gets; it is known by exactly one of the first five.

    `address` None gives name and options alone.

    `circuit_id` and `remote_id` are options 18 and 37 of the relay next to it, 37 without its
    enterprise number. `uuid` 16 bytes, in the order of option 97 or of RFC 6355: makers differ,
    both are tried.
    `boot_set` (32 bytes) is what this box boots instead of the served one.
    """

    duid: bytes | None = None
    uuid: bytes | None = None
    mac: bytes | None = None
    circuit_id: bytes | None = None
    remote_id: bytes | None = None
    address: IPv6Address | None
    name: str | None
    options: tuple[OptionValue, ...] = ()
    boot_set: bytes | None = None
