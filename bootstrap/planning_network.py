"""The site file's tables of networks as the plan's values: one function for each table.

A copy of what the operator wrote; nothing is decided here but what a key that is not there means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bootstrap import site_netboot as written
from netboot.bootchoice import BootRule, Loading
from netboot.network import (
    ClientClass,
    Conditions,
    Match,
    OptionValue,
    Parameters,
    Pool,
    Reservation,
    Reservation6,
    Subnet6Plan,
    SubnetPlan,
    combine,
    swapped_uuid,
)


def parameters(level: written.Leasing) -> Parameters:
    """Give what one level says."""
    return Parameters(
        options=options(level.options, level.always),
        lease=level.lease,
        lease_min=level.lease_min,
        lease_max=level.lease_max,
        boot_file=level.boot_file,
        next_server=level.next_server,
        server_name=level.server_name,
        reply_delay=level.reply_delay,
    )


def options(said: Mapping[str, OptionValue], always: Iterable[int]) -> tuple[OptionValue, ...]:
    """Give options, with a mark at those that are sent unasked."""
    codes = frozenset(always)
    return tuple(replace(one, always=one.code in codes) for one in said.values())


def subnet(site: written.NetbootSite, one: written.Subnet, *, enrols: bool) -> SubnetPlan:
    """Give a subnet with what its shared network says."""
    shared = next((net for net in site.shared_networks if net.name == one.shared), None)
    levels = (one,) if shared is None else (one, shared)
    said = (level.lease for level in (*levels, site.dhcp))
    return SubnetPlan(
        name=one.name,
        interface=one.interface,
        network=one.network,
        appliance=one.appliance,
        gateway=one.gateway,
        pools=tuple(map(_pool, one.pools)),
        lease=next((lease for lease in said if lease is not None), written.LEASE),
        dhcp=one.dhcp,
        boot=one.boot,
        enrols=enrols,
        shared=one.shared,
        relayed=one.relayed,
        relays=one.relays,
        authoritative=one.authoritative,
        rapid_commit=one.rapid_commit,
        parameters=replace(combine(map(parameters, levels)), lease=None),
    )


def _pool(one: written.PoolRange) -> Pool:
    return Pool(
        first=one.range.first,
        last=one.range.last,
        classes=frozenset(one.classes),
        bootp=one.bootp,
        parameters=parameters(one),
    )


def _match(said: written.Matching) -> Match:
    excluded = None if said.excluded is None else Conditions(**_conditions(said.excluded))
    return Match(**_conditions(said), excluded=excluded)


def _conditions(said: written.Conditions) -> dict[str, Any]:
    """Give the fields of Conditions."""
    return {
        "kinds": frozenset(said.kind),
        "architectures": frozenset(said.architecture),
        "vendor_class": said.vendor_class,
        "user_class": said.user_class,
        "mac": said.mac,
        "uuid": tuple(order for uuid in said.uuid for order in (uuid, swapped_uuid(uuid))),
        "circuit_id": said.circuit_id,
        "remote_id": said.remote_id,
        "relays": said.relay,
        "options": tuple(one for one in said.option.values() if len(one) == 2),
        "parts": tuple(one for one in said.option.values() if len(one) == 3),
        "options6": tuple(one for one in said.option6.values() if len(one) == 2),
        "parts6": tuple(one for one in said.option6.values() if len(one) == 3),
        "relay_options": tuple(said.relay_option.values()),
        "known": said.known,
        "member": frozenset(said.member),
    }


def client_class(one: written.ClientClass) -> ClientClass:
    """Give a class."""
    return ClientClass(
        name=one.name,
        match=_match(one),
        parameters=parameters(one),
        options6=options(one.options6, one.always6),
        ignored=one.ignored,
    )


def reservation(one: written.Reservation, sets: Sequence[bytes]) -> Reservation:
    """Give a reservation; `sets` are the digests that its `boot_set` may be the start of."""
    return Reservation(
        mac=one.mac,
        uuid=one.uuid,
        client_id=one.client_id,
        circuit_id=one.circuit_id,
        remote_id=one.remote_id,
        address=one.address,
        name=one.name,
        parameters=parameters(one),
        boot_set=_boot_set(one.boot_set, sets),
    )


def _boot_set(start: str | None, sets: Sequence[bytes]) -> bytes | None:
    if start is None:
        return None
    return next((digest for digest in sets if digest.hex().startswith(start)), None)


def boot_rule(one: written.BootRule) -> BootRule:
    """Give a rule; the client is told the name as the operator wrote it."""
    return BootRule(match=_match(one), file=one.file, loading=Loading(one.via))


def subnet6(one: written.Subnet6, *, enrols: bool) -> Subnet6Plan:
    """Give an IPv6 subnet."""
    return Subnet6Plan(
        name=one.name,
        interface=one.interface,
        network=one.network,
        appliance=one.appliance,
        pools=one.pools,
        lease=one.lease,
        dhcp=one.dhcp,
        boot=one.boot,
        router=one.router,
        options=options(one.options, one.always),
        enrols=enrols,
        preferred=one.preferred,
        rapid_commit=one.rapid_commit,
        shared=one.shared,
        relayed=one.relayed,
        relays=one.relays,
        circuits=one.circuits,
        classes=frozenset(one.classes),
        renewal=one.renewal,
        rebinding=one.rebinding,
    )


def reservation6(one: written.Reservation6, sets: Sequence[bytes]) -> Reservation6:
    """Give an IPv6 reservation."""
    return Reservation6(
        duid=one.duid,
        uuid=one.uuid,
        mac=one.mac,
        circuit_id=one.circuit_id,
        remote_id=one.remote_id,
        address=one.address,
        name=one.name,
        options=options(one.options, one.always),
        boot_set=_boot_set(one.boot_set, sets),
    )
