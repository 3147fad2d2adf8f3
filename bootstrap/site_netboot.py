"""The tables of the site file that DHCP, boot files and DNS are made of.

Each is optional but `[site]`, and there are subnets or names to serve. What a level leaves out, the
level above says: reservation, classes, pool, subnet, shared network, site. docs/netboot.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from bootstrap.site_dns import Dns, RecordEntry, ZoneFile
from bootstrap.site_types import (
    LIST,
    ONE_OR_MORE,
    Address,
    Address6,
    AddressRange,
    Architecture,
    ClientId,
    Data,
    Delay,
    Domain,
    Duration,
    Interface,
    Label,
    Mac,
    MacStart,
    Name,
    Network,
    Network6,
    Range,
    Range6,
    RelativePath,
    Table,
    Text,
    Uuid,
    from_text,
)
from netboot.network import ClientKind, OptionValue
from netboot.option_catalogue import (
    Asked,
    OptionError,
    code6_of,
    code_of,
    condition,
    condition6,
    option,
    option6,
    relay_condition,
)

LEASE = timedelta(hours=12)


def _with_names(value: object) -> object:
    """Give each value its key, so that each is read by itself and each error has its path."""
    return {key: (key, said) for key, said in value.items()} if isinstance(value, dict) else value


def _with_key(read: Callable[[str, object], object]) -> PlainValidator:
    def check(value: object) -> object:
        assert isinstance(value, tuple)
        try:
            return read(*value)
        except OptionError as error:
            raise ValueError(str(error)) from None

    return PlainValidator(check)


def _code(value: object) -> int:
    try:
        return code_of(value if isinstance(value, str) else str(value))
    except OptionError as error:
        raise ValueError(str(error)) from None


def _code6(value: object) -> int:
    try:
        return code6_of(value if isinstance(value, str) else str(value))
    except OptionError as error:
        raise ValueError(str(error)) from None


def _kind(value: object) -> ClientKind:
    try:
        return ClientKind(str(value))
    except ValueError:
        raise ValueError(f"expected one of {', '.join(ClientKind)}") from None


def _pool(value: object) -> object:
    return {"range": value} if isinstance(value, str) else value


def _not_empty_text(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("expected a plain text")
    return text


_Named = BeforeValidator(_with_names)
Options = Annotated[dict[str, Annotated[OptionValue, _with_key(option)]], _Named]
Options6 = Annotated[dict[str, Annotated[OptionValue, _with_key(option6)]], _Named]
Asking = Annotated[dict[str, Annotated[Asked, _with_key(condition)]], _Named]
Asking6 = Annotated[dict[str, Annotated[Asked, _with_key(condition6)]], _Named]
AskingRelay = Annotated[
    dict[str, Annotated[tuple[int, bytes | None], _with_key(relay_condition)]], _Named
]
AnyAddress = Annotated[IPv4Address | IPv6Address, from_text(ip_address)]
Code = Annotated[int, PlainValidator(_code)]
OptionCode6 = Annotated[int, PlainValidator(_code6)]
Kind = Annotated[ClientKind, PlainValidator(_kind)]
Plain = Annotated[str, AfterValidator(_not_empty_text)]


class Level(Table):
    """What any level may say about a reply; None or nothing leaves it to the level above."""

    options: Options = {}
    always: Annotated[tuple[Code, ...], ONE_OR_MORE] = ()
    lease_min: Duration | None = None
    lease_max: Duration | None = None
    boot_file: Plain | None = None
    next_server: Address | None = None
    server_name: Plain | None = None
    reply_delay: Delay | None = None


class Leasing(Level):
    """A level that may say how long an address is lent."""

    lease: Duration | None = None


class Conditions(Table):
    """Questions about a client: every key that is there must hold, by any of its values."""

    kind: Annotated[tuple[Kind, ...], ONE_OR_MORE] = ()
    architecture: Annotated[tuple[Architecture, ...], ONE_OR_MORE] = ()
    vendor_class: Annotated[tuple[Data, ...], ONE_OR_MORE] = ()
    user_class: Annotated[tuple[Data, ...], ONE_OR_MORE] = ()
    mac: Annotated[tuple[MacStart, ...], ONE_OR_MORE] = ()
    uuid: Annotated[tuple[Uuid, ...], ONE_OR_MORE] = ()
    circuit_id: Annotated[tuple[Data, ...], ONE_OR_MORE] = ()
    remote_id: Annotated[tuple[Data, ...], ONE_OR_MORE] = ()
    relay: Annotated[tuple[AnyAddress, ...], ONE_OR_MORE] = ()
    option: Asking = {}
    option6: Asking6 = {}
    relay_option: AskingRelay = {}
    known: bool | None = None
    member: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()


class Matching(Conditions):
    """Conditions that hold, and others of which one does not."""

    excluded: Conditions | None = Field(default=None, alias="not")


class NetbootIdentity(Table):
    """Who the site is; what only people read may be left out where netboot runs alone."""

    id: Label
    title: Text = "This site"
    time_zone: Text = "UTC"
    domain: Domain
    help: Text = "whoever looks after this network"


class Dhcp(Leasing):
    """What all networks have in common."""

    identify: Literal["mac", "client-id"] = "mac"
    quarantine: Duration = timedelta(hours=1)
    options6: Options6 = {}
    always6: Annotated[tuple[OptionCode6, ...], ONE_OR_MORE] = ()


class PoolRange(Leasing):
    """Addresses to lend, to whom, and what goes with them."""

    range: Range
    classes: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()
    bootp: bool = False


Pool = Annotated[PoolRange, BeforeValidator(_pool)]


class SharedNetwork(Leasing):
    """One link with several subnets."""

    name: Name


class Subnet(Leasing):
    """One network behind one interface of the appliance; `appliance` is our address in it."""

    name: Name
    interface: Interface
    network: Network
    appliance: Address
    gateway: Address | None = None
    pools: Annotated[tuple[Pool, ...], ONE_OR_MORE] = Field(default=(), alias="pool")
    dhcp: Literal["server", "proxy", "off"] = "server"
    boot: bool = True
    shared: Name | None = None
    relayed: bool = False
    relays: Annotated[tuple[Address, ...], ONE_OR_MORE] = ()
    authoritative: bool = True
    rapid_commit: bool = False

    @property
    def ranges(self) -> tuple[AddressRange, ...]:
        """The addresses of all pools."""
        return tuple(pool.range for pool in self.pools)


class ClientClass(Matching, Leasing):
    """Clients that have something in common."""

    name: Name
    options6: Options6 = {}
    always6: Annotated[tuple[OptionCode6, ...], ONE_OR_MORE] = ()
    ignored: bool = False


class Reservation(Leasing):
    """What one client always gets; it is known by exactly one of five keys."""

    name: Label | None = None
    mac: Mac | None = None
    uuid: Uuid | None = None
    client_id: ClientId | None = None
    circuit_id: Data | None = None
    remote_id: Data | None = None
    address: Address | None = None
    boot_set: Plain | None = None


class BootRule(Matching):
    """Which file clients that match are given: a path below `files`, or a URL elsewhere."""

    name: Name
    file: Plain
    via: Literal["tftp", "http", "https"] = "tftp"


class NetbootBoot(Table):
    """What is booted beside the published sets."""

    secure_boot: Literal["required"] = "required"
    files: RelativePath | None = None
    https: bool = False
    rules: Annotated[tuple[BootRule, ...], LIST] = Field(default=(), alias="rule")


class Subnet6(Table):
    """One IPv6 network; `appliance` is our address in it."""

    name: Name
    interface: Interface
    network: Network6
    appliance: Address6
    pools: Annotated[tuple[Range6, ...], ONE_OR_MORE] = Field(default=(), alias="pool")
    lease: Duration = LEASE
    preferred: Duration | None = None
    renewal: Duration | None = None
    rebinding: Duration | None = None
    classes: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()
    dhcp: Literal["stateful", "stateless", "off"] = "stateful"
    boot: bool = True
    router: bool = False
    shared: Name | None = None
    relayed: bool = False
    relays: Annotated[tuple[Address6, ...], ONE_OR_MORE] = ()
    circuits: Annotated[tuple[Data, ...], ONE_OR_MORE] = ()
    rapid_commit: bool = False
    options: Options6 = {}
    always: Annotated[tuple[OptionCode6, ...], ONE_OR_MORE] = ()


class Reservation6(Table):
    """What one IPv6 client always gets; it is known by exactly one of five keys."""

    name: Label | None = None
    duid: ClientId | None = None
    uuid: Uuid | None = None
    mac: Mac | None = None
    circuit_id: Data | None = None
    remote_id: Data | None = None
    address: Address6 | None = None
    boot_set: Plain | None = None
    options: Options6 = {}
    always: Annotated[tuple[OptionCode6, ...], ONE_OR_MORE] = ()


class NetbootSite(Table):
    """The part of a site file that netboot is made of, and all that it needs to run alone."""

    schema_number: Literal[1] = Field(default=1, alias="schema")
    site: NetbootIdentity
    dhcp: Dhcp = Dhcp()
    shared_networks: Annotated[tuple[SharedNetwork, ...], LIST] = Field(
        default=(), alias="shared_network"
    )
    subnets: Annotated[tuple[Subnet, ...], LIST] = Field(default=(), alias="subnet")
    classes: Annotated[tuple[ClientClass, ...], LIST] = Field(default=(), alias="class")
    reservations: Annotated[tuple[Reservation, ...], LIST] = Field(default=(), alias="reservation")
    subnets6: Annotated[tuple[Subnet6, ...], LIST] = Field(default=(), alias="subnet6")
    reservations6: Annotated[tuple[Reservation6, ...], LIST] = Field(
        default=(), alias="reservation6"
    )
    boot: NetbootBoot = NetbootBoot()
    dns: Dns = Dns()
    zones: Annotated[tuple[ZoneFile, ...], LIST] = Field(default=(), alias="zone")
    records: Annotated[tuple[RecordEntry, ...], LIST] = Field(default=(), alias="record")

    @property
    def listen(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Where names are served beside the subnets; this machine alone where nothing is said."""
        has_names = bool(self.zones or self.records or self.dns.forward)
        if self.dns.listen or self.subnets or self.subnets6 or not has_names:
            return self.dns.listen
        return (IPv4Address("127.0.0.1"),)

    @property
    def server_name(self) -> str:
        """The name that boxes ask for when they phone home, and technicians for the page."""
        return f"appliance.{self.site.domain}"

    @property
    def boot_subnet(self) -> Subnet | None:
        """The first subnet whose boxes boot from here: its address is the one in grub.cfg."""
        return next((subnet for subnet in self.subnets if subnet.boot), None)

    def subnet_of(self, address: IPv4Address) -> Subnet | None:
        """Find the subnet that an address is in."""
        return next((subnet for subnet in self.subnets if address in subnet.network), None)
