"""The network in which a set is measured lends by itself, whatever serves DHCP at the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_nginx import SIX
from test_planning import manifest

import bootstrap
from bootstrap.rehearsal.serve import measuring_plan, measuring_subnet
from bootstrap.site import decode_site
from netboot.plan_check import check

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
LENDS = 'dhcp = "server"'
POOL = 'pool = ["10.41.7.100-10.41.7.199"]'
BOOTS6 = SIX.replace("boot = false", "boot = true")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (EXAMPLE, "10.41.7.2"),
        (EXAMPLE.replace(LENDS, 'dhcp = "off"').replace(POOL, ""), "10.41.7.2"),
        (EXAMPLE.replace(LENDS, 'dhcp = "proxy"').replace(POOL, ""), "10.41.7.2"),
        (EXAMPLE + BOOTS6, "10.41.7.2"),
        (EXAMPLE.replace("boot = true", "boot = false") + BOOTS6, "10.77.0.2"),
        (EXAMPLE.replace("boot = true", "boot = true\nrelayed = true"), "10.77.0.2"),
    ],
    ids=["server", "off", "proxy", "both", "ipv6", "relayed"],
)
def test_a_set_can_be_measured_at_every_kind_of_site(text: str, address: str) -> None:
    site, served = decode_site(text.encode()), manifest(1)
    names = {f"/{served.loader}": bytes(32)}
    plan = measuring_plan(site, served, names)
    assert check(plan) == ()
    (subnet,) = plan.subnets
    assert subnet == measuring_subnet(site)
    assert str(subnet.appliance) == address
    assert (subnet.dhcp, subnet.boot, subnet.enrols) == ("server", True, False)
    assert all(
        pool.first in subnet.network and pool.last in subnet.network for pool in subnet.pools
    )
    assert subnet.pools and not plan.subnets6 and not plan.reservations and not plan.reservations6
