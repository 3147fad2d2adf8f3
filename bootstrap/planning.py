"""The plan as a pure function of site settings, box table and published boot sets.

It never reads a file or a clock, and knows no lease. docs/architecture.md, "The plan".
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from bootstrap import planning_network as network
from bootstrap.box_keys import key_records
from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow
from bootstrap.site_dns import PORTS, RecordEntry
from bootstrap.site_netboot import NetbootSite
from netboot.bootchoice import BootRule
from netboot.bootset import (
    IPXE_LOADER,
    IPXE_SCRIPT,
    BootSetManifest,
    files_to_serve,
    rendered_files,
)
from netboot.files import ServedSet
from netboot.names import labels
from netboot.network import Identify, Reservation, Reservation6
from netboot.plan import Boot, Plan, Record
from netboot.plan_dns import Asking, PlanDns, PlanUpstream, PlanZone
from netboot.rdata import encode, number_of, show
from netboot.resolver import Transport

TTL = 300
HTTPS_PORT = 8444
"""Where nginx serves boot files with TLS, in front of netboot's own HTTP."""
BY_DIGEST = "/f/"
"""Where each file has a name of its own; all other names of a set are fixed by who asks."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII | re.IGNORECASE)
_Address = IPv4Address | IPv6Address
_GONE = (Stage.REVOKED, Stage.REPLACED)


def make_plan(
    site: NetbootSite,
    boxes: Sequence[BoxRow],
    served: Sequence[BootSetManifest],
    accepted: Sequence[BootSetManifest],
    number: int,
    *,
    files: Mapping[str, bytes] | None = None,
    zones: Sequence[PlanZone] = (),
    enrols: bool = True,
) -> Plan:
    """Make the plan numbered `number`; boxes that were taken out of service are not in it.

    `files` are the operator's own boot files: path with one leading slash, SHA-256. `zones` are
    those of the site file with what their files hold. `enrols` is false where netboot runs alone:
    then nobody is told where to phone home, and everybody may ask for names.
    """
    named = [box for box in boxes if box.hostname and box.stage not in _GONE and _fits(site, box)]
    reserved = tuple(_box_reservations(site, named))
    sets = (*served, *(one for one in accepted if one not in served)) if served else ()
    return Plan(
        number=number,
        site=site.site.id,
        domain=site.site.domain,
        subnets=tuple(network.subnet(site, one, enrols=enrols) for one in site.subnets),
        reservations=(
            *(network.reservation(one, _digests(sets)) for one in site.reservations),
            *(one for one in reserved if isinstance(one, Reservation)),
        ),
        classes=tuple(map(network.client_class, site.classes)),
        parameters=network.parameters(site.dhcp),
        identify=Identify(site.dhcp.identify),
        quarantine=site.dhcp.quarantine,
        records=tuple(dict.fromkeys(_records(site, named))),
        boot=_boot(site, sets, files or {}),
        subnets6=tuple(network.subnet6(one, enrols=enrols) for one in site.subnets6),
        reservations6=(
            *(network.reservation6(one, _digests(sets)) for one in site.reservations6),
            *(one for one in reserved if isinstance(one, Reservation6)),
        ),
        options6=network.options(site.dhcp.options6, site.dhcp.always6),
        dns=_dns(site, enrols=enrols),
        zones=tuple(zones),
    )


def grub_cfg_files(site: NetbootSite, served: BootSetManifest) -> Iterator[bytes]:
    """Give the contents that must be in the file store beside the set's own files."""
    address = boot_address(site)
    if address is not None:
        yield from rendered_files(served, address).values()


def boot_address(site: NetbootSite) -> _Address | None:
    """Give the address that grub.cfg is filled in with: of the first network that boots."""
    if site.boot_subnet is not None:
        return site.boot_subnet.appliance
    return next((one.appliance for one in site.subnets6 if one.boot), None)


def _digests(sets: Iterable[BootSetManifest]) -> tuple[bytes, ...]:
    return tuple(one.digest for one in sets)


def _fits(site: NetbootSite, box: BoxRow) -> bool:
    """Tell whether a box's address is still free in its subnet, as the site file is now."""
    if not box.address:
        return False
    address = ip_address(box.address)
    if isinstance(address, IPv6Address):
        return _fits6(site, address)
    subnet = site.subnet_of(address)
    return subnet is not None and address not in (
        subnet.appliance,
        subnet.gateway,
        subnet.network.network_address,
        subnet.network.broadcast_address,
        *(one.address for one in site.reservations),
    )


def _fits6(site: NetbootSite, address: IPv6Address) -> bool:
    taken = {one.address for one in site.reservations6}
    taken |= {one.appliance for one in site.subnets6}
    taken |= {one.network.network_address for one in site.subnets6}  # RFC 4291, 2.6.1
    return address not in taken and any(address in one.network for one in site.subnets6)


def _box_reservations(
    site: NetbootSite, boxes: Iterable[BoxRow]
) -> Iterator[Reservation | Reservation6]:
    """Reserve by what each box says its MAC is; what the operator reserved comes first.

    An address that a box made itself is never lent; reserved it makes the box one that is known.
    """
    seen = {(4, one.mac) for one in site.reservations}
    seen |= {(6, one.mac) for one in site.reservations6}
    for box in boxes:
        mac, address = _mac(box.mac), ip_address(box.address or "")
        if mac is None or (address.version, mac) in seen:
            continue
        seen.add((address.version, mac))
        if isinstance(address, IPv4Address):
            yield Reservation(mac=mac, address=address, name=box.hostname)
        else:
            yield Reservation6(mac=mac, address=address, name=box.hostname)


def _mac(text: str | None) -> bytes | None:
    """Read what a box says its MAC is; None for what can be no machine's, or is none."""
    if text is None or not _MAC.fullmatch(text):
        return None
    mac = bytes.fromhex(text.replace(":", ""))
    return mac if any(mac) and not mac[0] & 1 else None


def _records(site: NetbootSite, boxes: Iterable[BoxRow]) -> Iterator[Record]:
    own: list[_Address] = [one.appliance for one in site.subnets]
    for appliance in (*own, *(one.appliance for one in site.subnets6)):
        yield from _pair(site.server_name, appliance)
    hosts: list[tuple[str | None, _Address | None]] = [
        *((one.name, one.address) for one in site.reservations),
        *((one.name, one.address) for one in site.reservations6),
    ]
    for name, address in hosts:
        if name is not None and address is not None:
            yield from _pair(f"{name}.{site.site.domain}", address)
    for box in boxes:
        host = f"{box.hostname}.{site.site.domain}"
        yield from _pair(host, ip_address(box.address or ""))
        yield from key_records(box, host)
    for entry in site.records:
        yield _own_record(entry, site.site.domain)


def _own_record(entry: RecordEntry, domain: str) -> Record:
    """Give a record of the operator's; names in its value without last dot are below the domain."""
    value = entry.value
    if entry.type != "TXT":  # the text is its own value
        rtype = number_of(entry.type)
        value = show(rtype, encode(rtype, value, labels(domain)))
    return Record(name=entry.owner(domain), type=entry.type, ttl=entry.ttl, value=value)


def _dns(site: NetbootSite, *, enrols: bool) -> PlanDns:
    said = site.dns
    asking = Asking.SITE if said.open else Asking.ENROLLED
    return PlanDns(
        forward=said.forward,
        upstreams=tuple(
            PlanUpstream(
                address=one.address,
                port=one.port or PORTS[one.transport],
                transport=Transport(one.transport),
                name=one.name,
                pins=one.pins,
            )
            for one in said.upstreams
        ),
        pinned=said.pinned,
        private=said.private,
        unsigned=said.unsigned,
        asking=asking if enrols else Asking.EVERYBODY,
        listen=site.listen,
        allow=said.allow,
    )


def _pair(name: str, address: _Address) -> Iterator[Record]:
    """Give the address of a name, and for IPv4 the name of the address."""
    if isinstance(address, IPv6Address):
        yield Record(name=name, type="AAAA", ttl=TTL, value=str(address))
        return
    yield Record(name=name, type="A", ttl=TTL, value=str(address))
    yield Record(name=address.reverse_pointer, type="PTR", ttl=TTL, value=name)


def _boot(
    site: NetbootSite, sets: Sequence[BootSetManifest], own: Mapping[str, bytes]
) -> Boot | None:
    address = boot_address(site)
    if address is None:
        return None
    names = {one.digest: files_to_serve(one, (), address) for one in sets}
    there = {*own, *(path for known in names.values() for path in known)}
    rules = tuple(_rules(site, there))
    if not (sets or rules or own):
        return None
    return Boot(
        sets=tuple(_served_set(one, names[one.digest]) for one in sets),
        rules=rules,
        files={
            path: digest
            for known in (own, *(names[one.digest] for one in reversed(sets)))
            for path, digest in known.items()
            if known is own or path.startswith(BY_DIGEST)
        },
        https_port=HTTPS_PORT if site.boot.https else None,
    )


def _rules(site: NetbootSite, there: Container[str]) -> Iterator[BootRule]:
    """Give the operator's rules; one for a file of a boot set waits for a set that has it."""
    for rule in site.boot.rules:
        path = f"/{rule.file.lstrip('/')}"
        if path not in (IPXE_LOADER, IPXE_SCRIPT) or path in there:
            yield network.boot_rule(rule)


def _served_set(manifest: BootSetManifest, names: Mapping[str, bytes]) -> ServedSet:
    fixed = {path: digest for path, digest in names.items() if not path.startswith(BY_DIGEST)}
    return ServedSet(
        boot_set=manifest.digest,
        architecture=manifest.architecture,
        loader=manifest.loader,
        names=fixed,
    )
