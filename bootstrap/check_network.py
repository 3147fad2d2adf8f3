"""What of a site's networks cannot work: subnets, pools, reservations, classes and boot rules.

Pure: settings in, problems with their dotted keys out. What only netboot can know, how long an
option may be or which file there is, `netboot.plan_check` says of the plan that is made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from ipaddress import IPv4Address

from bootstrap.site import SITE_FILE, Problem, Severity
from bootstrap.site_dns import ZoneFile
from bootstrap.site_netboot import Level, Matching, NetbootSite, Reservation, Subnet, Subnet6
from bootstrap.site_types import AddressRange
from netboot.bootset import IPXE_LOADER, IPXE_SCRIPT
from netboot.errors import PeerError, SiteError
from netboot.links import POOL_LIMIT
from netboot.names import labels
from netboot.option_words import name_of
from netboot.plan_dns import origin_of
from netboot.rdata import encode, number_of
from netboot.zone_file import decode_zone


def wrong(key: str, what: str, remedy: str, *, file: str = SITE_FILE) -> Problem:
    """Make a problem that stops the site from starting."""
    return Problem(file=file, key=key, what=what, remedy=remedy)


def worth(key: str, what: str, remedy: str, *, file: str = SITE_FILE) -> Problem:
    """Make a problem that is worth reading."""
    return Problem(file=file, key=key, what=what, remedy=remedy, severity=Severity.NOTE)


def twice(table: str, key: str, values: Iterable[str]) -> Iterator[Problem]:
    """Find values that are there more than once."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            yield wrong(f"{table}.{key}", f"{value} is there twice", "keep one of them")
        seen.add(value)


def is_host(subnet: Subnet, address: IPv4Address) -> bool:
    """Tell whether a machine in this subnet may have the address."""
    network = subnet.network
    if network.prefixlen > 30:
        return address in network
    return address in network and address not in (
        network.network_address,
        network.broadcast_address,
    )


def span_text(span: AddressRange) -> str:
    """Write a range as it is read."""
    return f"{span.first}-{span.last}"


def check_network(site: NetbootSite) -> Iterator[Problem]:
    """Find everything that does not agree."""
    yield from _subnets(site)
    yield from _levels(site)
    yield from _classes(site)
    yield from _reservations(site)
    yield from _six(site)
    yield from _always6(site)
    yield from _names(site)


def _subnets(site: NetbootSite) -> Iterator[Problem]:
    if not (site.subnets or site.subnets6 or site.listen):
        yield wrong("subnet", "is missing", "add it, or names to serve: [[zone]]")
    yield from twice("subnet", "name", [one.name for one in site.subnets])
    own = [str(one.appliance) for one in site.subnets if not one.relayed]
    yield from twice("subnet", "appliance", own)
    yield from twice("shared_network", "name", [one.name for one in site.shared_networks])
    shared = {one.name for one in site.shared_networks}
    for index, subnet in enumerate(site.subnets):
        yield from _subnet(subnet)
        key = f"subnet.{subnet.name}"
        for other in site.subnets[:index]:
            if subnet.network.overlaps(other.network):
                what = f"overlaps with subnet {other.name}"
                yield wrong(f"{key}.network", what, "give each its own network")
        if subnet.shared is not None and subnet.shared not in shared:
            what = f"there is no [[shared_network]] {subnet.shared}"
            yield wrong(f"{key}.shared", what, "add it, or correct the name")


def _subnet(subnet: Subnet) -> Iterator[Problem]:
    key, network = f"subnet.{subnet.name}", subnet.network
    inside = "choose one inside, not its first or last"
    own = () if subnet.relayed else (("appliance", subnet.appliance),)
    for name, address in (*own, ("gateway", subnet.gateway)):
        if address is not None and not is_host(subnet, address):
            yield wrong(f"{key}.{name}", f"{address} is no host of {network}", inside)
    if subnet.gateway == subnet.appliance:
        yield worth(f"{key}.gateway", "is the appliance itself", "it must route, or leave it out")
    if subnet.dhcp == "server" and not subnet.pools:
        yield worth(f"{key}.pool", "is empty", "only reserved addresses are given")
    if subnet.dhcp == "proxy" and subnet.pools:
        what = "is never used: with a proxy, another server gives the addresses"
        yield wrong(f"{key}.pool", what, 'take it out, or set dhcp = "server"')
    if subnet.boot and subnet.dhcp == "off":
        what = "boxes are booted from here, and nothing tells them so"
        yield worth(f"{key}.dhcp", what, 'set dhcp = "proxy", or let the other server tell them')
    if sum(map(len, subnet.ranges)) > POOL_LIMIT:
        yield wrong(f"{key}.pool", f"has more than {POOL_LIMIT} addresses", "make it smaller")
    yield from _pools(subnet)


def _pools(subnet: Subnet) -> Iterator[Problem]:
    key, ranges = f"subnet.{subnet.name}.pool", subnet.ranges
    for index, pool in enumerate(ranges):
        if pool.first not in subnet.network or pool.last not in subnet.network:
            what = f"{span_text(pool)} is not inside {subnet.network}"
            yield wrong(key, what, "correct the range")
        elif not (is_host(subnet, pool.first) and is_host(subnet, pool.last)):
            what = f"{span_text(pool)} holds the first or last address of {subnet.network}"
            yield worth(key, what, "it is never lent")
        for name, own in (("appliance", subnet.appliance), ("gateway", subnet.gateway)):
            if own is not None and own in pool:
                yield worth(key, f"{span_text(pool)} holds the {name} {own}", "it is never lent")
        if any(pool.overlaps(other) for other in ranges[:index]):
            what = f"{span_text(pool)} overlaps with another range"
            yield wrong(key, what, "make them disjoint")


def _every_level(site: NetbootSite) -> Iterator[tuple[str, Level]]:
    yield "dhcp", site.dhcp
    for shared in site.shared_networks:
        yield f"shared_network.{shared.name}", shared
    for subnet in site.subnets:
        yield f"subnet.{subnet.name}", subnet
        for number, pool in enumerate(subnet.pools, 1):
            yield f"subnet.{subnet.name}.pool.{number}", pool
    for client_class in site.classes:
        yield f"class.{client_class.name}", client_class
    for number, one in enumerate(site.reservations, 1):
        yield f"reservation.{one.name or number}", one


def _levels(site: NetbootSite) -> Iterator[Problem]:
    for key, level in _every_level(site):
        codes = [option.code for option in level.options.values()]
        for code in sorted({code for code in codes if codes.count(code) > 1}):
            yield wrong(f"{key}.options", f"{name_of(code)} is there twice", "keep one of them")
        for code in level.always:
            if code not in codes:
                what = f"{name_of(code)} is not among the options here"
                yield wrong(f"{key}.always", what, "give it a value in options of this table")
        lease = getattr(level, "lease", None)
        if lease is not None and not timedelta(seconds=1) <= lease <= timedelta(days=365):
            yield wrong(f"{key}.lease", "is not between 1s and 365d", "take 12h")
        if level.lease_min and level.lease_max and level.lease_min > level.lease_max:
            yield wrong(f"{key}.lease_min", "is above lease_max", "make it smaller")


def _classes(site: NetbootSite) -> Iterator[Problem]:
    yield from twice("class", "name", [one.name for one in site.classes])
    yield from twice("boot.rule", "name", [one.name for one in site.boot.rules])
    before: set[str] = set()
    for one in site.classes:
        yield from _members(one, f"class.{one.name}", before)
        before.add(one.name)
    yield from _rules(site, before)
    yield from _guarded(site, before)


def _guarded(site: NetbootSite, known: Collection[str]) -> Iterator[Problem]:
    """Find classes for which addresses are kept and that are not there."""
    for six in site.subnets6:
        for name in sorted(set(six.classes) - set(known)):
            key = f"subnet6.{six.name}.classes"
            yield wrong(key, f"there is no [[class]] {name}", "add it, or take it out")
    for subnet in site.subnets:
        for pool in subnet.pools:
            for name in pool.classes:
                if name not in known:
                    key = f"subnet.{subnet.name}.pool"
                    yield wrong(key, f"there is no [[class]] {name}", "add it, or take it out")


def _rules(site: NetbootSite, known: Collection[str]) -> Iterator[Problem]:
    for rule in site.boot.rules:
        yield from _members(rule, f"boot.rule.{rule.name}", known)
        is_of_a_set = f"/{rule.file.lstrip('/')}" in (IPXE_LOADER, IPXE_SCRIPT)
        if "://" not in rule.file and site.boot.files is None and not is_of_a_set:
            what = f"there is no directory that {rule.file} could be in"
            yield wrong(f"boot.rule.{rule.name}.file", what, "name one: files in [boot]")


def _members(said: Matching, key: str, known: Collection[str]) -> Iterator[Problem]:
    """Find classes that are asked about and not there, or only later in the file."""
    for where, one in ((f"{key}.member", said), (f"{key}.not.member", said.excluded)):
        for name in one.member if one is not None else ():
            if name not in known:
                what = f"there is no [[class]] {name} before it"
                yield wrong(where, what, "write that class above this one, or take it out")


def _reservations(site: NetbootSite) -> Iterator[Problem]:
    addresses = [str(one.address) for one in site.reservations if one.address is not None]
    yield from twice("reservation", "address", addresses)
    homes: dict[str, bytes] = {}
    for number, one in enumerate(site.reservations, 1):
        key = f"reservation.{one.name or number}"
        yield from _reservation(site, one, key)
        who = next((key for name in _KEYS if (key := getattr(one, name)) is not None), b"")
        if one.name is not None and homes.setdefault(one.name, who) != who:
            yield wrong("reservation.name", f"{one.name} is there twice", "keep one of them")
    macs = [
        f"{one.mac.hex(':')} in {home.name if home else 'every subnet'}"
        for one in site.reservations
        for home in (site.subnet_of(one.address) if one.address else None,)
        if one.mac is not None
    ]
    yield from twice("reservation", "mac", macs)


def _reservation(site: NetbootSite, one: Reservation, key: str) -> Iterator[Problem]:
    named = [name for name in _KEYS if getattr(one, name) is not None]
    if len(named) != 1:
        what = "names nobody" if not named else f"has {' and '.join(named)}"
        yield wrong(key, what, f"give exactly one of {', '.join(_KEYS)}")
    if one.mac in (b"\xff" * 6, bytes(6)):
        yield wrong(f"{key}.mac", "is no address of one machine", "copy it from the label")
    elif one.mac is not None and one.mac[0] & 1:  # test suites take such, no maker does
        yield worth(f"{key}.mac", "is a group address", "copy it from the label")
    if one.name == "appliance":
        yield wrong("reservation.appliance.name", "is this appliance's name", "choose another")
    if one.address is None:
        return
    subnet = site.subnet_of(one.address)
    if subnet is None or not is_host(subnet, one.address):
        yield wrong(
            f"{key}.address", f"{one.address} is no host of any subnet", "choose one inside"
        )
    elif one.address in (subnet.appliance, subnet.gateway):
        what = f"{one.address} is the appliance or the gateway"
        yield wrong(f"{key}.address", what, "choose another")
    elif any(one.address in pool for pool in subnet.ranges):
        what = f"{one.address} is in the pool"
        yield worth(f"{key}.address", what, "it is kept for this client; outside is clearer")


_KEYS = ("mac", "uuid", "client_id", "circuit_id", "remote_id")
_KEYS6 = ("duid", "uuid", "mac", "circuit_id", "remote_id")


def _six(site: NetbootSite) -> Iterator[Problem]:
    yield from twice("subnet6", "name", [one.name for one in site.subnets6])
    names = {one.name for one in site.subnets}
    for subnet in site.subnets6:
        if subnet.name in names:
            what = "is the name of a [[subnet]] too"
            yield wrong(f"subnet6.{subnet.name}.name", what, "choose another")
        yield from _subnet6(subnet)
    addresses = [str(one.address) for one in site.reservations6 if one.address is not None]
    yield from twice("reservation6", "address", addresses)
    for number, one in enumerate(site.reservations6, 1):
        key = f"reservation6.{one.name or number}"
        named = [name for name in _KEYS6 if getattr(one, name) is not None]
        if len(named) != 1:
            what = "names nobody or several"
            yield wrong(key, what, f"give exactly one of {', '.join(_KEYS6)}")
        own = one.address
        if own is not None and not any(own in subnet.network for subnet in site.subnets6):
            yield wrong(f"{key}.address", f"{one.address} is in no subnet6", "choose one inside")


def _always6(site: NetbootSite) -> Iterator[Problem]:
    """Find options that are to be sent unasked and have no value where that is said."""
    levels = [("dhcp", "always6", site.dhcp.options6, site.dhcp.always6)]
    levels += [(f"class.{one.name}", "always6", one.options6, one.always6) for one in site.classes]
    levels += [(f"subnet6.{one.name}", "always", one.options, one.always) for one in site.subnets6]
    levels += [
        (f"reservation6.{one.name or number}", "always", one.options, one.always)
        for number, one in enumerate(site.reservations6, 1)
    ]
    for key, name, said, always in levels:
        for code in sorted(set(always) - {option.code for option in said.values()}):
            what = f"DHCPv6 option {code} is not among the options here"
            yield wrong(f"{key}.{name}", what, "give it a value in options of this table")


def _subnet6(subnet: Subnet6) -> Iterator[Problem]:
    key = f"subnet6.{subnet.name}"
    if not subnet.relayed and subnet.appliance not in subnet.network:
        what = f"{subnet.appliance} is not in {subnet.network}"
        yield wrong(f"{key}.appliance", what, "choose one inside")
    if subnet.renewal and subnet.rebinding and subnet.renewal > subnet.rebinding:
        yield wrong(f"{key}.renewal", "is after rebinding", "make it shorter")
    if subnet.dhcp == "stateful" and not subnet.pools:
        yield wrong(f"{key}.pool", "is empty", 'give a range, or set dhcp = "stateless"')
    for first, last in subnet.pools:
        if first not in subnet.network or last not in subnet.network:
            what = f"{first}-{last} is not inside {subnet.network}"
            yield wrong(f"{key}.pool", what, "correct the range")


def _names(site: NetbootSite) -> Iterator[Problem]:
    yield from twice("zone", "name", [one.name for one in site.zones])
    for zone in site.zones:
        if zone.name == f"{site.site.domain}.":
            what = "is this site's domain: names of leases, reservations and boxes are not in it"
            yield worth(f"zone.{zone.name}", what, "give the site a domain of its own")
    for number, one in enumerate(site.records, 1):
        if one.type == "TXT":
            continue
        try:
            encode(number_of(one.type), one.value, labels(site.site.domain))
        except PeerError as error:
            yield wrong(f"record.{one.name or number}.value", str(error), "correct it")
    dns = site.dns
    if dns.forward and not dns.upstreams:
        what = "there is nobody to ask"
        yield wrong("dns.forward", what, "add [[dns.upstream]], or leave it out")
    if dns.upstreams and not dns.forward:
        yield worth("dns.upstream", "is never asked", "set forward = true in [dns]")
    for upstream in dns.upstreams:
        if upstream.transport == "plain" and (upstream.pins or upstream.name):
            what = f"{upstream.address} has a name or pins, which a plain question cannot check"
            yield wrong("dns.upstream", what, 'take them out, or set transport = "tls"')


def zone_problems(zone: ZoneFile, read: Mapping[str, bytes | str]) -> Iterator[Problem]:
    """Say what is wrong with a master file, whose bytes or why it has none are in `read`."""
    data = read.get(zone.file, "is not there")
    if isinstance(data, str):
        yield wrong(f"zone.{zone.name}file", f"{zone.file} {data}", "write the master file there")
        return
    try:
        decode_zone(data, origin_of(zone.name), zone.file)
    except SiteError as error:
        what, _, remedy = str(error).rpartition(": ")
        line, _, said = what.removeprefix(f"{zone.file}:").partition(": ")
        key = f"line {line}" if line.isdecimal() else ""
        yield wrong(
            key, said if key else what.removeprefix(f"{zone.file}: "), remedy, file=zone.file
        )
