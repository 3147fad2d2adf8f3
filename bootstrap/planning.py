"""The plan as a pure function of site settings, box table and published boot sets.

It never reads a file or a clock, and knows no lease. docs/architecture.md, "The plan".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address

from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow
from bootstrap.site import Site, Subnet
from netboot.bootset import BootSetManifest, files_to_serve, grub_cfg
from netboot.network import Pool, Reservation, SubnetPlan
from netboot.plan import Boot, Plan, Record, RecordType, ServedSet

TTL = 300
BY_DIGEST = "/f/"
"""Where each file has a name of its own; all other names of a set are fixed by who asks."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII | re.IGNORECASE)
_GONE = (Stage.REVOKED, Stage.REPLACED)


def make_plan(
    site: Site,
    boxes: Sequence[BoxRow],
    served: BootSetManifest | None,
    accepted: Sequence[BootSetManifest],
    number: int,
) -> Plan:
    """Make the plan numbered `number`; boxes that were taken out of service are not in it."""
    named = [box for box in boxes if box.hostname and box.stage not in _GONE and _fits(site, box)]
    return Plan(
        number=number,
        site=site.site.id,
        domain=site.site.domain,
        subnets=tuple(map(_subnet, site.subnets)),
        reservations=(*_own_reservations(site), *_box_reservations(site, named)),
        records=tuple(_records(site, named)),
        boot=_boot(site, served, accepted),
    )


def grub_cfg_files(site: Site, served: BootSetManifest) -> Iterator[bytes]:
    """Give the contents that must be in the file store beside the set's own files."""
    if site.boot_subnet is not None:
        yield grub_cfg(served, site.boot_subnet.appliance)


def _subnet(subnet: Subnet) -> SubnetPlan:
    return SubnetPlan(
        name=subnet.name,
        interface=subnet.interface,
        network=subnet.network,
        appliance=subnet.appliance,
        gateway=subnet.gateway,
        pools=tuple(Pool(first=pool.first, last=pool.last) for pool in subnet.pools),
        lease=subnet.lease,
        dhcp=subnet.dhcp,
        boot=subnet.boot,
    )


def _fits(site: Site, box: BoxRow) -> bool:
    """Tell whether a box's address is still free in its subnet, as the site file is now."""
    if not box.address:
        return False
    address = IPv4Address(box.address)
    subnet = site.subnet_of(address)
    return subnet is not None and address not in (
        subnet.appliance,
        subnet.gateway,
        subnet.network.network_address,
        subnet.network.broadcast_address,
        *(one.address for one in site.reservations),
    )


def _own_reservations(site: Site) -> Iterator[Reservation]:
    for one in site.reservations:
        yield Reservation(mac=one.mac, address=one.address, name=one.name)


def _box_reservations(site: Site, boxes: Iterable[BoxRow]) -> Iterator[Reservation]:
    """Reserve by what each box says its MAC is; what the operator reserved comes first."""
    seen = {one.mac for one in site.reservations}
    for box in boxes:
        mac = _mac(box.mac)
        if mac is not None and mac not in seen:
            seen.add(mac)
            yield Reservation(mac=mac, address=IPv4Address(box.address or ""), name=box.hostname)


def _mac(text: str | None) -> bytes | None:
    """Read what a box says its MAC is; None for what can be no machine's, or is none."""
    if text is None or not _MAC.fullmatch(text):
        return None
    mac = bytes.fromhex(text.replace(":", ""))
    return mac if any(mac) and not mac[0] & 1 else None


def _records(site: Site, boxes: Iterable[BoxRow]) -> Iterator[Record]:
    for subnet in site.subnets:
        yield _a(site.server_name, subnet.appliance)
        yield _ptr(subnet.appliance, site.server_name)
    for one in site.reservations:
        yield from _pair(f"{one.name}.{site.site.domain}", one.address)
    for box in boxes:
        yield from _pair(f"{box.hostname}.{site.site.domain}", IPv4Address(box.address or ""))


def _pair(name: str, address: IPv4Address) -> Iterator[Record]:
    yield _a(name, address)
    yield _ptr(address, name)


def _a(name: str, address: IPv4Address) -> Record:
    return Record(name=name, type=RecordType.A, ttl=TTL, value=str(address))


def _ptr(address: IPv4Address, name: str) -> Record:
    return Record(name=address.reverse_pointer, type=RecordType.PTR, ttl=TTL, value=name)


def _boot(
    site: Site, served: BootSetManifest | None, accepted: Sequence[BootSetManifest]
) -> Boot | None:
    subnet = site.boot_subnet
    if served is None or subnet is None:
        return None
    sets = (served, *(one for one in accepted if one.digest != served.digest))
    names = {one.digest: files_to_serve(one, (), subnet.appliance) for one in sets}
    return Boot(
        sets=tuple(_served_set(one, names[one.digest]) for one in sets),
        files={
            path: digest
            for one in reversed(sets)
            for path, digest in names[one.digest].items()
            if path.startswith(BY_DIGEST)
        },
    )


def _served_set(manifest: BootSetManifest, names: Mapping[str, bytes]) -> ServedSet:
    fixed = {path: digest for path, digest in names.items() if not path.startswith(BY_DIGEST)}
    return ServedSet(
        boot_set=manifest.digest,
        architecture=manifest.architecture,
        loader=manifest.loader,
        names=fixed,
    )
