"""What in a plan cannot be served, as sentences; all of them at once.

Each names the subnet, reservation, class, rule or record. It changes nothing and guesses nothing.
RFC 2131, 2132 and 3396 for DHCP, RFC 8415 for IPv6; names are `netboot.plan_check_dns`'s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from netboot.dhcp import check_config
from netboot.dhcp6_config import check_config6
from netboot.errors import SiteError
from netboot.files import ServedSet, normal_path
from netboot.network import (
    Conditions,
    Match,
    OptionValue,
    Parameters,
    Reservation,
    Subnet6Plan,
    SubnetPlan,
)
from netboot.option_codes import OPTIONS_OF_SERVER
from netboot.plan import Boot, Plan
from netboot.plan_check_dns import check_dns, check_records

LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
MAX_SUBNETS = 256
"""Subnets of a plan, and ranges in one subnet's pools."""
ARCHITECTURES = ("amd64", "arm64")
"""What a boot set can be for."""
SMALLEST_PREFIX = 8
LONGEST_OPTION = 1200
"""Bytes that still leave room for the rest in one frame; above 255 they go out in pieces."""
LONGEST_FILE, LONGEST_SERVER_NAME = 127, 63
"""The header's fields with their NUL (RFC 2131, 2)."""
_INTERFACE = re.compile(r"[^\s/\x00-\x1f]{1,15}")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")


def check(plan: Plan) -> tuple[str, ...]:
    """List everything in a plan that cannot be served; empty when it can."""
    found = (
        *_check_names(plan),
        *_check_subnets(plan),
        *_check_subnets6(plan),
        *_check_reservations(plan),
        *_check_reservations6(plan),
        *_check_classes(plan),
        *check_records(plan),
        *check_dns(plan),
        *_check_boot(plan),
    )
    return found or tuple(_check_dhcp(plan))


def is_name(text: str) -> bool:
    """Tell whether a text is a domain name of ours: labels of letters, digits, `-` and `_`."""
    return len(text) <= 253 and all(LABEL.fullmatch(label) for label in text.split("."))


def _check_names(plan: Plan) -> Iterator[str]:
    if not is_name(plan.domain):
        yield f"domain {plan.domain!r} is no domain name"
    hosts = [one.name.lower() for one in plan.reservations if one.name]
    hosts6 = [one.name.lower() for one in plan.reservations6 if one.name]
    for kind, names in (
        ("subnet", [*(one.name for one in plan.subnets), *(one.name for one in plan.subnets6)]),
        ("class", [one.name for one in plan.classes]),
        ("IPv6 reservation", hosts6),
    ):
        for name in _twice(names):
            yield f"{kind} {name} is there twice"
    for name, count in Counter(hosts).items():
        if count > 1 and not _is_one_host(plan, name):
            yield f"reservation {name} is there twice"


def _is_one_host(plan: Plan, name: str) -> bool:
    """Tell whether entries of one name are one machine in several subnets."""
    entries = [one for one in plan.reservations if one.name and one.name.lower() == name]
    return len({_key(one) for one in entries}) == 1


# Subnets


def _check_subnets(plan: Plan) -> Iterator[str]:
    if not plan.subnets and not plan.subnets6 and not plan.dns.listen:
        yield "there is no subnet"
    if max(len(plan.subnets), len(plan.subnets6)) > MAX_SUBNETS:
        yield f"there are more than {MAX_SUBNETS} subnets"
        return
    for index, subnet in enumerate(plan.subnets):
        yield from _check_subnet(subnet)
        for other in plan.subnets[:index]:
            if subnet.network.overlaps(other.network):
                yield f"subnet {subnet.name}: network overlaps with that of subnet {other.name}"
    classes = {one.name for one in plan.classes}
    for subnet in plan.subnets:
        for pool in subnet.pools:
            for name in sorted(pool.classes - classes):
                yield f"subnet {subnet.name}: pool {pool.first}: there is no class {name}"
            yield from check_parameters(pool.parameters, f"subnet {subnet.name}: pool {pool.first}")
    yield from check_parameters(plan.parameters, "site")


def _check_subnet(subnet: SubnetPlan) -> Iterator[str]:
    where = f"subnet {subnet.name}"
    if not _INTERFACE.fullmatch(subnet.interface):
        yield f"{where}: {subnet.interface!r} is no interface name"
    if subnet.network.prefixlen < SMALLEST_PREFIX:
        yield f"{where}: network {subnet.network} is larger than a /{SMALLEST_PREFIX}"
    own = () if subnet.relayed else (("appliance", subnet.appliance),)
    for what, address in (*own, ("gateway", subnet.gateway)):
        if address is not None and not _is_host(address, subnet.network):
            yield f"{where}: {what} {address} is no host of {subnet.network}"
    yield from _check_pools(subnet)
    yield from check_parameters(subnet.parameters, where)


def _check_pools(subnet: SubnetPlan) -> Iterator[str]:
    where = f"subnet {subnet.name}: pool"
    if len(subnet.pools) > MAX_SUBNETS:
        yield f"{where}: there are more than {MAX_SUBNETS} ranges"
        return
    for index, pool in enumerate(subnet.pools):
        first, last = pool.first, pool.last
        if first > last or first not in subnet.network or last not in subnet.network:
            yield f"{where} {first}-{last} is not in {subnet.network}"
        for other in subnet.pools[:index]:
            if first <= other.last and other.first <= last:
                yield f"{where} {first}-{last} overlaps with {other.first}-{other.last}"


def _check_subnets6(plan: Plan) -> Iterator[str]:
    for index, subnet in enumerate(plan.subnets6):
        yield from _check_subnet6(subnet)
        for other in plan.subnets6[:index]:
            if subnet.network.overlaps(other.network):
                yield f"subnet {subnet.name}: network overlaps with that of subnet {other.name}"


def _check_subnet6(subnet: Subnet6Plan) -> Iterator[str]:
    where = f"subnet {subnet.name}"
    if not _INTERFACE.fullmatch(subnet.interface):
        yield f"{where}: {subnet.interface!r} is no interface name"
    if subnet.appliance not in subnet.network and not subnet.relayed:
        yield f"{where}: appliance {subnet.appliance} is not in {subnet.network}"
    if subnet.dhcp == "stateful" and not subnet.pools:
        yield f"{where}: stateful, and there is no pool"
    for first, last in subnet.pools:
        if first > last or first not in subnet.network or last not in subnet.network:
            yield f"{where}: pool {first}-{last} is not in {subnet.network}"
    if subnet.renewal and subnet.rebinding and subnet.renewal > subnet.rebinding:
        yield f"{where}: renewal comes after rebinding"
    yield from _check_options6(subnet.options, where)


def _check_options6(options: Iterable[OptionValue], where: str) -> Iterator[str]:
    for option in options:
        if not 0 < option.code < 1 << 16:
            yield f"{where}: there is no option {option.code}"


# What each level says


def check_parameters(said: Parameters, where: str) -> Iterator[str]:
    """Say which parameters no reply could carry."""
    for code in _twice([str(option.code) for option in said.options]):
        yield f"{where}: option {code} is there twice"
    for option in said.options:
        reason = OPTIONS_OF_SERVER.get(option.code)
        if not 0 < option.code < 255 or reason is not None:
            yield f"{where}: option {option.code} is not yours to set: {reason or 'it ends them'}"
        if len(option.data) > LONGEST_OPTION:
            yield f"{where}: option {option.code} is longer than {LONGEST_OPTION} bytes"
    for name, text, longest in (
        ("boot_file", said.boot_file, LONGEST_FILE),
        ("server_name", said.server_name, LONGEST_SERVER_NAME),
    ):
        if text is not None and not (len(text) <= longest and _PRINTABLE.fullmatch(text)):
            yield f"{where}: {name} is no plain text of at most {longest} characters"
    if said.lease_min and said.lease_max and said.lease_min > said.lease_max:
        yield f"{where}: lease_min is above lease_max"
    if said.reply_delay is not None and said.reply_delay.total_seconds() > 10:
        yield f"{where}: reply_delay is above 10 seconds"


def _check_classes(plan: Plan) -> Iterator[str]:
    before: set[str] = set()
    for one in plan.classes:
        where = f"class {one.name}"
        yield from check_parameters(one.parameters, where)
        yield from _check_match(one.match, where, before)
        yield from _check_options6(one.options6, where)
        before.add(one.name)
    for subnet in plan.subnets6:
        for name in sorted(subnet.classes - before):
            yield f"subnet {subnet.name}: there is no class {name}"


def _check_match(match: Match, where: str, known: Collection[str]) -> Iterator[str]:
    """Look at both sides; `known` are the classes that may be asked about."""
    yield from _check_conditions(match, where, known)
    if match.excluded is not None:
        yield from _check_conditions(match.excluded, f"{where}: not", known)


def _check_conditions(match: Conditions, where: str, known: Collection[str]) -> Iterator[str]:
    for name in sorted(match.member - set(known)):
        yield f"{where}: there is no class {name} before it"
    if any(not 0 <= number <= 0xFFFF for number in match.architectures):
        yield f"{where}: an architecture is no number of 16 bits"
    if any(not 0 < len(mac) <= 6 for mac in match.mac):
        yield f"{where}: a MAC has 1 to 6 bytes"
    if any(len(uuid) != 16 for uuid in match.uuid):
        yield f"{where}: a UUID has 16 bytes"
    codes = [one[0] for one in match.options] + [one[0] for one in match.parts]
    for code in codes:
        if not 0 < code < 255:
            yield f"{where}: there is no option {code}"
    codes6 = [one[0] for one in match.options6] + [one[0] for one in match.parts6]
    for code in (*codes6, *(one[0] for one in match.relay_options)):
        if not 0 < code < 1 << 16:
            yield f"{where}: there is no DHCPv6 option {code}"


# Reservations


def _key(one: Reservation) -> str:
    keys = [
        (name, data)
        for name, data in (
            ("mac", one.mac),
            ("uuid", one.uuid),
            ("client_id", one.client_id),
            ("circuit_id", one.circuit_id),
            ("remote_id", one.remote_id),
        )
        if data is not None
    ]
    return " ".join(f"{name} {data.hex(':')}" for name, data in keys)


def _check_reservations(plan: Plan) -> Iterator[str]:
    addresses = [str(one.address) for one in plan.reservations if one.address is not None]
    for address in _twice(addresses):
        yield f"reservation {address}: the address is given twice"
    homes = []
    sets = {one.boot_set for one in plan.boot.sets} if plan.boot else set()
    for one in plan.reservations:
        where = f"reservation {one.address or one.name or _key(one)}"
        home = None
        if one.address is not None:
            home = _home(plan, one.address)
            if home is None:
                yield f"{where}: is no host of any subnet"
            elif one.address in (home.appliance, home.gateway):
                yield f"{where}: is the appliance's or the gateway's"
        homes.append(f"{_key(one)} in {f'subnet {home.name}' if home else 'every subnet'}")
        yield from _check_reservation(one, where)
        if one.boot_set is not None and one.boot_set not in sets:
            yield f"{where}: boot set {one.boot_set.hex()[:12]} is not served"
    for home_text in _twice(homes):
        yield f"reservation of {home_text} is there twice"


def _home(plan: Plan, address: IPv4Address) -> SubnetPlan | None:
    return next((net for net in plan.subnets if _is_host(address, net.network)), None)


def _check_reservation(one: Reservation, where: str) -> Iterator[str]:
    keys = (one.mac, one.uuid, one.client_id, one.circuit_id, one.remote_id)
    named = [data for data in keys if data is not None]
    if len(named) != 1 or not 0 < len(named[0]) <= 255:
        yield f"{where}: takes exactly one of mac, uuid, client_id, circuit_id and remote_id"
    if one.mac is not None and (len(one.mac) != 6 or one.mac == b"\xff" * 6 or not any(one.mac)):
        yield f"{where}: {one.mac.hex(':')} is no address of one machine"
    if one.uuid is not None and len(one.uuid) != 16:
        yield f"{where}: a UUID has 16 bytes"
    if one.name is not None and not LABEL.fullmatch(one.name):
        yield f"{where}: name {one.name!r} is no label"
    yield from check_parameters(one.parameters, where)


def _check_reservations6(plan: Plan) -> Iterator[str]:
    given = [str(one.address) for one in plan.reservations6 if one.address is not None]
    for address in _twice(given):
        yield f"reservation {address}: the address is given twice"
    for one in plan.reservations6:
        where = f"reservation {one.address or one.name or 'of IPv6'}"
        own = one.address
        if own is not None and not any(own in subnet.network for subnet in plan.subnets6):
            yield f"{where}: is in no subnet"
        if any(one.address == subnet.appliance for subnet in plan.subnets6):
            yield f"{where}: is the appliance's"
        keys = (one.duid, one.uuid, one.mac, one.circuit_id, one.remote_id)
        if sum(key is not None for key in keys) != 1:
            yield f"{where}: takes exactly one of duid, uuid, mac, circuit_id and remote_id"
        if one.name is not None and not LABEL.fullmatch(one.name):
            yield f"{where}: name {one.name!r} is no label"


# Boot


def _check_boot(plan: Plan) -> Iterator[str]:
    if plan.boot is None:
        return
    for names in (plan.boot.files, *(one.names for one in plan.boot.sets)):
        for path, digest in names.items():
            if normal_path(path) != path:
                yield f"boot: {path!r} is no path of a file"
            if len(digest) != 32:
                yield f"boot: {path}: has no SHA-256"
    for digest_text in _twice([one.boot_set.hex() for one in plan.boot.sets]):
        yield f"boot: set {digest_text[:12]} is there twice"
    for one in plan.boot.sets:
        yield from _check_set(one, plan.boot)
    yield from _check_rules(plan)


def _check_set(one: ServedSet, boot: Boot) -> Iterator[str]:
    if len(one.boot_set) != 32:
        yield f"boot: {one.boot_set.hex()[:12]} is no digest of a boot set"
    if one.architecture not in ARCHITECTURES:
        yield f"boot: {one.architecture!r} is none of {', '.join(ARCHITECTURES)}"
    found = normal_path(one.loader)
    if found is None or (found not in one.names and found not in boot.files):
        yield f"boot: the loader {one.loader!r} is not among the names"


def _check_rules(plan: Plan) -> Iterator[str]:
    assert plan.boot is not None
    files, known = plan.boot.digests(), {one.name for one in plan.classes}
    for number, rule in enumerate(plan.boot.rules, 1):
        where = f"boot rule {number}"
        yield from _check_match(rule.match, where, known)
        if not (len(rule.file) <= LONGEST_FILE and _PRINTABLE.fullmatch(rule.file)):
            yield f"{where}: file is no plain text of at most {LONGEST_FILE} characters"
        elif "://" not in rule.file and normal_path(rule.file) not in files:
            yield f"{where}: there is no file {rule.file}"
    if plan.boot.https_port is not None and not 0 < plan.boot.https_port < 65536:
        yield f"boot: {plan.boot.https_port} is no port"


def _check_dhcp(plan: Plan) -> Iterator[str]:
    try:
        check_config(plan.dhcp())
    except SiteError as error:
        yield str(error)
    try:
        check_config6(plan.dhcp6())
    except SiteError as error:
        yield str(error)


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    if network.prefixlen > 30:
        return address in network
    ends = (network.network_address, network.broadcast_address)
    return address in network and address not in ends


def _twice(values: Iterable[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if count > 1)
