"""The plan: what netboot serves, as one typed document that control makes and netboot runs.

`Plan.decode` reads the form and refuses unknown keys; `check` says what in it cannot be served.
It never reads a file and holds no lease. docs/architecture.md, The plan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal, Self, TypeVar

from netboot.bootchoice import BootTable, rules_of_set
from netboot.dhcp import DhcpConfig, check_config
from netboot.errors import PeerError, SiteError
from netboot.files import MAX_NAME, FileMap, normal_path
from netboot.network import Pool, Reservation, SubnetPlan

T = TypeVar("T")
TYPE = "doorstep/plan/v1"
MAX_PLAN = 16 * 1024 * 1024
MAX_ENTRIES = 65536
"""Entries of one list in a plan."""
MAX_SUBNETS = 256
"""Subnets of a plan, and ranges in one subnet's pool."""
MAX_TTL = 604800
SMALLEST_PREFIX = 8

LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_INTERFACE = re.compile(r"[^\s/\x00-\x1f]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SRV = re.compile(r"(\d{1,5}) (\d{1,5}) (\d{1,5}) (\S+)")


class PlanError(PeerError):
    """This document is no plan; the text says where and what."""


class RecordType(StrEnum):
    """Types of records that a plan may hold."""

    A = "A"
    PTR = "PTR"
    CNAME = "CNAME"
    TXT = "TXT"
    SRV = "SRV"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record: `name` absolute without a last dot; `value` in the form of a zone file.

    A: an address; PTR, CNAME: a name; TXT: the text itself; SRV: `priority weight port target`.
    """

    name: str
    type: RecordType
    ttl: int
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What is booted: the served set, the loader's TFTP name, URL paths with SHA-256 digests."""

    boot_set: bytes
    tftp: str
    names: Mapping[str, bytes]

    def table(self) -> BootTable:
        """Give the rules by which DHCP chooses."""
        return BootTable(rules=rules_of_set("amd64", self.tftp, self.boot_set))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What netboot runs; `number` counts up, `boot` is None when no set is served."""

    number: int
    site: str
    domain: str
    subnets: tuple[SubnetPlan, ...]
    reservations: tuple[Reservation, ...] = ()
    records: tuple[Record, ...] = ()
    boot: Boot | None = None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a plan; PlanError says which key is wrong."""
        if len(data) > MAX_PLAN:
            raise PlanError(f"plan: larger than {MAX_PLAN} bytes")
        try:
            document = json.loads(data, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"plan: no JSON: {error}") from None
        _keys(document, "plan", {"type", *cls.__slots__})
        if document["type"] != TYPE:
            raise PlanError(f"plan: type is not {TYPE}")
        return cls(
            number=_integer(document["number"], "number", 1 << 53),
            site=_text(document["site"], "site"),
            domain=_text(document["domain"], "domain"),
            subnets=_each(document["subnets"], "subnets", _subnet, MAX_SUBNETS),
            reservations=_each(document["reservations"], "reservations", _reservation),
            records=_each(document["records"], "records", _record),
            boot=None if document["boot"] is None else _boot(document["boot"]),
        )

    def encode(self) -> bytes:
        """Write the plan as JSON; equal plans give equal bytes."""
        document = {
            "type": TYPE,
            "number": self.number,
            "site": self.site,
            "domain": self.domain,
            "subnets": [_subnet_document(subnet) for subnet in self.subnets],
            "reservations": [
                {"mac": one.mac.hex(":"), "address": str(one.address), "name": one.name}
                for one in self.reservations
            ],
            "records": [
                {"name": one.name, "type": one.type.value, "ttl": one.ttl, "value": one.value}
                for one in self.records
            ],
            "boot": None if self.boot is None else _boot_document(self.boot),
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    def dhcp(self) -> DhcpConfig:
        """Give what the DHCP engine is configured with."""
        boot = None if self.boot is None else self.boot.table()
        return DhcpConfig(
            subnets=self.subnets,
            reservations=self.reservations,
            boot=boot,
            domain=self.domain,
        )

    def files(self) -> FileMap:
        """Give the names of TFTP and HTTP, served on the networks that boot from here."""
        names = {} if self.boot is None else self.boot.names
        return FileMap(names, [subnet.appliance for subnet in self.subnets if subnet.boot])

    def addresses(self) -> tuple[IPv4Address, ...]:
        """Give our addresses, one for each subnet."""
        return tuple(dict.fromkeys(subnet.appliance for subnet in self.subnets))


def check(plan: Plan) -> tuple[str, ...]:
    """List everything in a plan that cannot be served, as sentences; empty when it can."""
    found = (
        *_check_names(plan),
        *_check_subnets(plan),
        *_check_reservations(plan),
        *_check_records(plan),
        *_check_boot(plan),
    )
    return found or tuple(_check_dhcp(plan))


def is_name(text: str) -> bool:
    """Tell whether a text is a domain name of ours: labels of letters, digits, `-` and `_`."""
    return len(text) <= 253 and all(LABEL.fullmatch(label) for label in text.split("."))


def _check_names(plan: Plan) -> Iterator[str]:
    if not is_name(plan.domain):
        yield f"domain {plan.domain!r} is no domain name"
    for kind, names in (
        ("subnet", [subnet.name for subnet in plan.subnets]),
        ("reservation", [one.name.lower() for one in plan.reservations if one.name]),
    ):
        for name in _twice(names):
            yield f"{kind} {name} is there twice"


def _check_subnets(plan: Plan) -> Iterator[str]:
    if not plan.subnets:
        yield "there is no subnet"
    for index, subnet in enumerate(plan.subnets):
        where = f"subnet {subnet.name}"
        if subnet.network.prefixlen < SMALLEST_PREFIX:
            yield f"{where}: network {subnet.network} is larger than a /{SMALLEST_PREFIX}"
        for what, address in (("appliance", subnet.appliance), ("gateway", subnet.gateway)):
            if address is not None and not _is_host(address, subnet.network):
                yield f"{where}: {what} {address} is no host of {subnet.network}"
        for other in plan.subnets[:index]:
            if subnet.network.overlaps(other.network):
                yield f"{where}: network overlaps with that of subnet {other.name}"
        yield from _check_pools(subnet)


def _check_pools(subnet: SubnetPlan) -> Iterator[str]:
    where = f"subnet {subnet.name}: pool"
    for index, pool in enumerate(subnet.pools):
        first, last = pool.first, pool.last
        if first > last or first not in subnet.network or last not in subnet.network:
            yield f"{where} {first}-{last} is not in {subnet.network}"
        for other in subnet.pools[:index]:
            if first <= other.last and other.first <= last:
                yield f"{where} {first}-{last} overlaps with {other.first}-{other.last}"


def _check_reservations(plan: Plan) -> Iterator[str]:
    addresses = [one.address for one in plan.reservations]
    for address in _twice([str(address) for address in addresses]):
        yield f"reservation {address}: the address is given twice"
    homes = []
    for one in plan.reservations:
        home = next((net for net in plan.subnets if _is_host(one.address, net.network)), None)
        if home is None:
            yield f"reservation {one.address}: is no host of any subnet"
        elif one.address in (home.appliance, home.gateway):
            yield f"reservation {one.address}: is the appliance's or the gateway's"
        else:
            homes.append(f"{one.mac.hex(':')} in subnet {home.name}")
        if one.mac[0] & 1 or not any(one.mac):
            yield f"reservation {one.address}: {one.mac.hex(':')} is no address of one machine"
        if one.name is not None and not LABEL.fullmatch(one.name):
            yield f"reservation {one.address}: name {one.name!r} is no label"
    for home_text in _twice(homes):
        yield f"reservation of {home_text} is there twice"


def _check_records(plan: Plan) -> Iterator[str]:
    aliases = {one.name.lower() for one in plan.records if one.type is RecordType.CNAME}
    others = {one.name.lower() for one in plan.records if one.type is not RecordType.CNAME}
    for name in sorted(aliases & others):
        yield f"record {name}: a CNAME cannot stand beside other records"
    texts = [f"{one.name.lower()} {one.type} {one.value}" for one in plan.records]
    for text in _twice(texts):
        yield f"record {text} is there twice"
    for name in _twice([one.name.lower() for one in plan.records if one.type is RecordType.CNAME]):
        yield f"record {name}: more than one CNAME"
    suffix = "." + plan.domain.lower()
    for one in plan.records:
        yield from _check_record(one, suffix)


def _check_record(one: Record, suffix: str) -> Iterator[str]:
    where = f"record {one.name} {one.type}"
    name = "." + one.name.lower()
    if not is_name(one.name) or not name.endswith((suffix, ".in-addr.arpa")):
        yield f"{where}: the name is not in {suffix[1:]}"
    if name == suffix and one.type is RecordType.CNAME:
        yield f"{where}: the domain itself cannot be a CNAME"
    if one.ttl > MAX_TTL:
        yield f"{where}: ttl is above {MAX_TTL}"
    if not _is_value(one):
        yield f"{where}: value {one.value[:80]!r} is not of this type"


def _is_value(one: Record) -> bool:
    if one.type is RecordType.A:
        return _address(one.value) is not None
    if one.type is RecordType.TXT:
        return len(one.value.encode()) <= 1024
    if one.type is RecordType.SRV:
        fields = _SRV.fullmatch(one.value)
        if fields is None or any(int(fields[number]) > 65535 for number in (1, 2, 3)):
            return False
        return is_name(fields[4].removesuffix("."))
    return is_name(one.value.removesuffix("."))


def _check_boot(plan: Plan) -> Iterator[str]:
    if plan.boot is None:
        return
    for path in plan.boot.names:
        if normal_path(path) != path:
            yield f"boot: {path!r} is no path of a file"
    found = normal_path(plan.boot.tftp)
    if found is None or found not in plan.boot.names:
        yield f"boot: the loader {plan.boot.tftp!r} is not among the names"


def _check_dhcp(plan: Plan) -> Iterator[str]:
    try:
        check_config(plan.dhcp())
    except SiteError as error:
        yield str(error)


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    ends = (network.network_address, network.broadcast_address)
    return address in network and address not in ends


def _twice(values: list[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count > 1)


def _address(text: object) -> IPv4Address | None:
    try:
        return IPv4Address(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _keys(value: Any, where: str, keys: set[str]) -> None:
    if not isinstance(value, dict):
        raise PlanError(f"{where}: is no object")
    if set(value) != keys:
        wrong = ", ".join(sorted(set(value) ^ keys))
        raise PlanError(f"{where}: unknown or missing: {wrong[:200]}")


def _each(
    value: Any, where: str, read: Callable[[Any, str], T], most: int = MAX_ENTRIES
) -> tuple[T, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise PlanError(f"{where}: is no list of at most {most} entries")
    return tuple(read(entry, f"{where}[{index}]") for index, entry in enumerate(value))


def _text(value: Any, where: str, longest: int = 2048) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise PlanError(f"{where}: is no text of 1 to {longest} characters")
    return value


def _integer(value: Any, where: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise PlanError(f"{where}: is no number from 0 to {most}")
    return value


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{where}: is neither true nor false")
    return value


def _matching(value: Any, where: str, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise PlanError(f"{where}: is no {what}")
    return value


def _ipv4(value: Any, where: str) -> IPv4Address:
    found = _address(value)
    if found is None:
        raise PlanError(f"{where}: is no IPv4 address")
    return found


def _network(value: Any, where: str) -> IPv4Network:
    try:
        return IPv4Network(_text(value, where))
    except ValueError:
        raise PlanError(f"{where}: is no IPv4 network") from None


def _range(value: Any, where: str) -> Pool:
    first, dash, last = _text(value, where).partition("-")
    if not dash:
        raise PlanError(f"{where}: is no range first-last")
    return Pool(first=_ipv4(first, where), last=_ipv4(last, where))


def _mode(value: Any, where: str) -> Literal["server", "off"]:
    if value == "server":
        return "server"
    if value == "off":
        return "off"
    raise PlanError(f'{where}: is neither "server" nor "off"')


_SUBNET_KEYS = {
    "name",
    "interface",
    "network",
    "appliance",
    "gateway",
    "pool",
    "lease_seconds",
    "dhcp",
    "boot",
    "enrols",
}


def _subnet(value: Any, where: str) -> SubnetPlan:
    _keys(value, where, _SUBNET_KEYS)
    gateway = value["gateway"]
    seconds = _integer(value["lease_seconds"], f"{where}.lease_seconds", 0xFFFFFFFF)
    interface = _matching(value["interface"], f"{where}.interface", _INTERFACE, "interface name")
    return SubnetPlan(
        name=_text(value["name"], f"{where}.name", 64),
        interface=interface,
        network=_network(value["network"], f"{where}.network"),
        appliance=_ipv4(value["appliance"], f"{where}.appliance"),
        gateway=None if gateway is None else _ipv4(gateway, f"{where}.gateway"),
        pools=_each(value["pool"], f"{where}.pool", _range, MAX_SUBNETS),
        lease=timedelta(seconds=seconds),
        dhcp=_mode(value["dhcp"], f"{where}.dhcp"),
        boot=_bool(value["boot"], f"{where}.boot"),
        enrols=_bool(value["enrols"], f"{where}.enrols"),
    )


def _subnet_document(subnet: SubnetPlan) -> dict[str, Any]:
    return {
        "name": subnet.name,
        "interface": subnet.interface,
        "network": str(subnet.network),
        "appliance": str(subnet.appliance),
        "gateway": None if subnet.gateway is None else str(subnet.gateway),
        "pool": [f"{pool.first}-{pool.last}" for pool in subnet.pools],
        "lease_seconds": int(subnet.lease.total_seconds()),
        "dhcp": subnet.dhcp,
        "boot": subnet.boot,
        "enrols": subnet.enrols,
    }


def _reservation(value: Any, where: str) -> Reservation:
    _keys(value, where, {"mac", "address", "name"})
    name = value["name"]
    return Reservation(
        mac=bytes.fromhex(_matching(value["mac"], f"{where}.mac", _MAC, "MAC").replace(":", "")),
        address=_ipv4(value["address"], f"{where}.address"),
        name=None if name is None else _text(name, f"{where}.name", 63),
    )


def _record(value: Any, where: str) -> Record:
    _keys(value, where, {"name", "type", "ttl", "value"})
    try:
        kind = RecordType(value["type"])
    except ValueError:
        raise PlanError(f"{where}.type: is not one of {', '.join(RecordType)}") from None
    return Record(
        name=_text(value["name"], f"{where}.name", 253),
        type=kind,
        ttl=_integer(value["ttl"], f"{where}.ttl", 0x7FFFFFFF),
        value=_text(value["value"], f"{where}.value"),
    )


def _boot(value: Any) -> Boot:
    _keys(value, "boot", {"set", "tftp", "names"})
    names = value["names"]
    if not isinstance(names, dict) or len(names) > MAX_ENTRIES:
        raise PlanError(f"boot.names: is no object of at most {MAX_ENTRIES} names")
    return Boot(
        boot_set=_digest(value["set"], "boot.set"),
        tftp=_text(value["tftp"], "boot.tftp", MAX_NAME),
        names={path: _digest(digest, f"boot.names.{path}") for path, digest in names.items()},
    )


def _digest(value: Any, where: str) -> bytes:
    return bytes.fromhex(_matching(value, where, _DIGEST, "SHA-256 in 64 small hex digits"))


def _boot_document(boot: Boot) -> dict[str, Any]:
    return {
        "set": boot.boot_set.hex(),
        "tftp": boot.tftp,
        "names": {path: digest.hex() for path, digest in boot.names.items()},
    }
