"""What in a plan cannot be served as names: records, zones, and who is asked for the others.

RFC 1035 for records and RFC 2782 for services, RFC 3597 for unknown types; what a master file says
is judged by `netboot.zone_file`, before it is in a plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from netboot.errors import PeerError
from netboot.names import Labels, labels, reverse_origins, text
from netboot.plan import Plan, Record
from netboot.plan_dns import PlanUpstream, PlanZone, origin_of
from netboot.rdata import Rtype, number_of
from netboot.zone_build import plan_rdata

MAX_TTL = 604800
MAX_ZONES = 256
LONGEST_TEXT = 1024
_OURS = frozenset({Rtype.SOA, Rtype.RRSIG, Rtype.NSEC, Rtype.NSEC3, Rtype.NSEC3PARAM, Rtype.DNSKEY})
"""Types that this server makes itself."""


def check_records(plan: Plan) -> Iterator[str]:
    """Say which records no zone could hold."""
    aliases = [one.name.lower() for one in plan.records if one.type == "CNAME"]
    others = {one.name.lower() for one in plan.records if one.type != "CNAME"}
    for name in sorted(set(aliases) & others):
        yield f"record {name}: a CNAME cannot stand beside other records"
    for said in _twice(f"{one.name.lower()} {one.type} {one.value}" for one in plan.records):
        yield f"record {said} is there twice"
    for name in _twice(aliases):
        yield f"record {name}: more than one CNAME"
    try:
        domain = labels(plan.domain)
    except PeerError:
        return  # said already
    networks: list[IPv4Network | IPv6Network] = [one.network for one in plan.subnets]
    networks += [one.network for one in plan.subnets6]
    origins = {domain, *(one for net in networks for one in reverse_origins(net))}
    for one in plan.records:
        yield from _check_record(one, domain, origins)


def _check_record(one: Record, domain: Labels, origins: Collection[Labels]) -> Iterator[str]:
    where = f"record {one.name[:80]} {one.type[:20]}"
    try:
        owner = labels(one.name)
    except PeerError as error:
        yield f"{where}: {error}"
        return
    if not any(owner[at:] in origins for at in range(len(owner))):
        yield f"{where}: the name is not in {text(domain)[:-1]} or a network of this site"
    if owner == domain and one.type == "CNAME":
        yield f"{where}: the domain itself cannot be a CNAME"
    if one.ttl > MAX_TTL:
        yield f"{where}: ttl is above {MAX_TTL}"
    if one.type == "TXT" and len(one.value.encode()) > LONGEST_TEXT:
        yield f"{where}: value is not of this type: longer than {LONGEST_TEXT} bytes"
    try:
        if one.type != one.type.upper() or number_of(one.type) in _OURS:
            yield f"{where}: this server makes such records itself"
        plan_rdata(one)
    except PeerError as error:
        yield f"{where}: value {one.value[:80]!r} is not of this type: {error}"


def check_dns(plan: Plan) -> Iterator[str]:
    """Say which zones and upstreams cannot be."""
    if len(plan.zones) > MAX_ZONES:
        yield f"there are more than {MAX_ZONES} zones"
    for name in _twice(zone.name.lower() for zone in plan.zones):
        yield f"zone {name} is there twice"
    for zone in plan.zones:
        yield from _check_zone(zone)
    for name in (*plan.dns.pinned, *plan.dns.private, *plan.dns.unsigned):
        try:
            origin_of(name)
        except PeerError as error:
            yield f"dns: {error}"
    if plan.dns.forward and not plan.dns.upstreams:
        yield "dns: forward, and there is no upstream"
    for upstream in plan.dns.upstreams:
        yield from _check_upstream(upstream)


def _check_zone(zone: PlanZone) -> Iterator[str]:
    try:
        if text(zone.origin) != zone.name:
            yield f"zone {zone.name[:80]}: is not written as {text(zone.origin)}"
    except PeerError as error:
        yield f"zone {zone.name[:80]}: {error}"
    if len(zone.digest) != 32:
        yield f"zone {zone.name[:80]}: has no SHA-256"


def _check_upstream(upstream: PlanUpstream) -> Iterator[str]:
    where = f"dns: upstream {upstream.address}"
    if not 0 < upstream.port < 65536:
        yield f"{where}: {upstream.port} is no port"
    if any(len(pin) != 32 for pin in upstream.pins):
        yield f"{where}: a pin is no SHA-256"
    try:
        labels(upstream.name or "")
    except PeerError as error:
        yield f"{where}: {error}"


def _twice(values: Iterable[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count > 1)
