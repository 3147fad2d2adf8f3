"""The plan: what netboot serves, as one typed document that control makes and netboot runs.

Its form is that of `netboot.plan_form`, what in it cannot be served `netboot.plan_check` says. It
never reads a file and holds no lease. docs/architecture.md, The plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from netboot.bootchoice import BootRule, BootTable, Loading, rules_of_set
from netboot.dhcp import DhcpConfig
from netboot.dhcp6_config import Dhcp6Config
from netboot.files import FileMap, ServedSet
from netboot.names import Labels, labels, reverse_name
from netboot.network import (
    NOTHING,
    ClientClass,
    Identify,
    OptionValue,
    Parameters,
    Reservation,
    Reservation6,
    Subnet6Plan,
    SubnetPlan,
)
from netboot.plan_dns import Asking, PlanDns, PlanZone, origin_of
from netboot.plan_form import PlanError, decode, decode_json, encode
from netboot.resolver import ResolverConfig, Upstream
from netboot.views import View, Views

TYPE = "doorstep/plan/v2"
MAX_PLAN = 16 * 1024 * 1024
QUARANTINE = timedelta(hours=1)
"""How long a declined address rests: until a wrong cable is found, not until tomorrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record: `name` absolute without a last dot; `value` in the form of a zone file.

    `type` is the name of any type (RFC 3597 too). TXT: the text itself.
    """

    name: str
    type: str
    ttl: int
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What is booted: sets, the operator's own rules before theirs, and all other files.

    The first set of an architecture is for everybody, the others for boxes whose reservation names
    them. `files` are paths that mean the same to every client: `/f/…` of all sets, and what the
    operator put beside the site file. `https_port` None: boot files are not served with TLS.
    """

    sets: tuple[ServedSet, ...] = ()
    rules: tuple[BootRule, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    https_port: int | None = None

    def defaults(self) -> tuple[ServedSet, ...]:
        """Give the set of each architecture that a box gets unless its reservation names one."""
        first: dict[str, ServedSet] = {}
        for one in self.sets:
            first.setdefault(one.architecture, one)
        return tuple(first.values())

    def table(self) -> BootTable:
        """Give the rules by which DHCP chooses; HTTP boot of sets is by TLS where we have it."""
        http = Loading.HTTP if self.https_port is None else Loading.HTTPS
        of_sets = (
            rules_of_set(one.architecture, one.loader, one.boot_set, http) for one in self.sets
        )
        rules = (*self.rules, *(rule for rules in of_sets for rule in rules))
        return BootTable(rules=rules, https_port=self.https_port)

    def digests(self) -> dict[str, bytes]:
        """Give every path with its digest; a fixed name is that of the set of its architecture."""
        found = dict(self.files)
        for one in reversed((*self.defaults(), *self.sets)):
            found |= one.names
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What netboot runs; `number` counts up, `boot` is None when nothing is booted from here."""

    number: int
    site: str
    domain: str
    subnets: tuple[SubnetPlan, ...]
    reservations: tuple[Reservation, ...] = ()
    classes: tuple[ClientClass, ...] = ()
    parameters: Parameters = NOTHING
    identify: Identify = Identify.MAC
    quarantine: timedelta = QUARANTINE
    records: tuple[Record, ...] = ()
    boot: Boot | None = None
    subnets6: tuple[Subnet6Plan, ...] = ()
    reservations6: tuple[Reservation6, ...] = ()
    options6: tuple[OptionValue, ...] = ()
    dns: PlanDns = PlanDns()
    zones: tuple[PlanZone, ...] = ()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a plan; PlanError says which key is wrong."""
        if len(data) > MAX_PLAN:
            raise PlanError(f"plan: larger than {MAX_PLAN} bytes")
        document = decode_json(data)
        if not isinstance(document, dict) or document.pop("type", None) != TYPE:
            raise PlanError(f"plan: type is not {TYPE}")
        return decode(cls, document)

    def encode(self) -> bytes:
        """Write the plan as JSON; equal plans give equal bytes."""
        return json.dumps({"type": TYPE, **encode(self)}, indent=1).encode() + b"\n"

    def dhcp(self) -> DhcpConfig:
        """Give what the DHCP engine is configured with."""
        return DhcpConfig(
            subnets=self.subnets,
            reservations=self.reservations,
            classes=self.classes,
            parameters=self.parameters,
            boot=None if self.boot is None else self.boot.table(),
            domain=self.domain,
            identify=self.identify,
            quarantine=self.quarantine,
        )

    def dhcp6(self) -> Dhcp6Config:
        """Give what the DHCPv6 engine is configured with."""
        return Dhcp6Config(
            subnets=self.subnets6,
            reservations=self.reservations6,
            boot=None if self.boot is None else self.boot.table(),
            domain=self.domain,
            options=self.options6,
            quarantine=self.quarantine,
            classes=self.classes,
            identify=self.identify,
        )

    def files(self, before: Mapping[str, bytes] | None = None) -> FileMap:
        """Give the names of TFTP and HTTP, served on the networks that boot from here.

        `before` are files of the plan before, for a box that it was offered them by.
        """
        boot = self.boot or Boot()
        v4 = [subnet.appliance for subnet in self.subnets if subnet.boot]
        v6 = [subnet.appliance for subnet in self.subnets6 if subnet.boot]
        return FileMap({**(before or {}), **boot.files}, (*v4, *v6), sets=boot.sets)

    def addresses(self) -> tuple[IPv4Address, ...]:
        """Give our addresses, one for each subnet."""
        return tuple(dict.fromkeys(subnet.appliance for subnet in self.subnets))

    def addresses6(self) -> tuple[IPv6Address, ...]:
        """Give our IPv6 addresses."""
        return tuple(dict.fromkeys(subnet.appliance for subnet in self.subnets6))

    def listening(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Give the addresses that names are served on."""
        return tuple(dict.fromkeys((*self.addresses(), *self.addresses6(), *self.dns.listen)))

    def resolver(self) -> ResolverConfig:
        """Give what the resolver is configured with."""
        upstreams = tuple(
            Upstream(
                address=str(one.address),
                port=one.port,
                transport=one.transport,
                name=None if one.name is None else one.name.removesuffix("."),
                pins=frozenset(one.pins),
            )
            for one in self.dns.upstreams
        )
        return ResolverConfig(
            upstreams=upstreams,
            pinned=frozenset(map(origin_of, self.dns.pinned)),
            private=frozenset(map(origin_of, self.dns.private)),
            unsigned=frozenset(map(origin_of, self.dns.unsigned)),
        )

    def views(self) -> Views:
        """Give who may ask what."""
        every: list[SubnetPlan | Subnet6Plan] = [*self.subnets, *self.subnets6]
        are_boxes_bound = self.dns.asking is Asking.ENROLLED
        known: set[IPv4Address | IPv6Address | None] = {*self.addresses(), *self.addresses6()}
        known |= {one.address for one in self.reservations}
        known |= {one.address for one in self.reservations6}
        return Views(
            site=(*(one.network for one in every), *self.dns.allow),
            boxes=tuple(one.network for one in every if one.boot and are_boxes_bound),
            known=frozenset(one for one in known if one is not None),
            names=frozenset(self._enrolment_names()),
            others=View.ZONES if self.dns.asking is Asking.EVERYBODY else View.STRANGER,
        )

    def _enrolment_names(self) -> Iterator[Labels]:
        """Give what a box asks before it is enrolled: this appliance, by name and address."""
        yield (b"appliance", *labels(self.domain))
        yield from map(reverse_name, self.addresses())
        yield from map(reverse_name, self.addresses6())
