"""The hand-off document of one box, without what only `keys` may add (identity, secrets, dates).

Pure. Its form is in docs/architecture.md; the box writes it out as a NoCloud seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import Any

from bootstrap.errors import SiteError
from bootstrap.phonehome import b64u
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from bootstrap.site import Role, Site
from bootstrap.templates import BoxNetwork, BoxValues, render

TYPE = "application/vnd.doorstep.handoff.v1+json"
CHECKS = ("signature", "opened-in-tpm", "certificate-matches-key", "seed-written")


def handoff_document(
    settings: Settings, box: BoxRow, role: Role, session: bytes
) -> Mapping[str, Any]:
    """Write the document of a named box; SiteError when its template or network does not fit."""
    if box.hostname is None or box.address is None or box.mac is None:
        raise SiteError(
            f"box {box.box}: its address does not lead to a lease of a network card it names: "
            "let it take its address from this site"
        )
    network = _network(settings.site, box.mac, ip_address(box.address))
    if network is None:
        raise SiteError(f"site.toml: address {box.address} of {box.hostname} is in no subnet")
    values = BoxValues(
        instance_id=f"{box.box}-{session.hex()}",
        hostname=box.hostname,
        fqdn=f"{box.hostname}.{settings.site.site.domain}",
        role=role.name,
        network=network,
    )
    seed = render(
        settings.templates[role.config],
        values,
        settings.site.site,
        role.secrets,
        file=role.config,
    )
    return {
        "type": TYPE,
        "site": settings.site.site.id,
        "box": box.box,
        "session": b64u(session),
        "role": role.name,
        "hostname": values.hostname,
        "fqdn": values.fqdn,
        "network": [network.document()],
        "trust": {"site_root_pem": settings.root_pem.decode()},
        "nocloud": {
            "user_data": b64u(seed.user_data),
            "meta_data": b64u(seed.meta_data),
            "network_config": b64u(seed.network_config),
        },
        "checks": list(CHECKS),
        "after": role.after,
    }


def _network(site: Site, mac: str, address: IPv4Address | IPv6Address) -> BoxNetwork | None:
    """Say how a box reaches its network; None for an address of no network of the site."""
    if isinstance(address, IPv4Address):
        subnet = site.subnet_of(address)
        if subnet is None:
            return None
        return BoxNetwork(
            mac=mac,
            address=IPv4Interface((address, subnet.network.prefixlen)),
            gateway=subnet.gateway,
            dns=(subnet.appliance,),
        )
    six = next((one for one in site.subnets6 if address in one.network), None)
    if six is None:
        return None
    return BoxNetwork(
        mac=mac,
        address=IPv6Interface((address, six.network.prefixlen)),
        gateway=None,
        dns=(six.appliance,),
    )
