"""A controller whose networks all lost their link: it was carried off, perhaps on a battery."""

import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from keys_site import request
from test_cache_thirty_days import Outage

from keys.errors import SiteError
from keys.io.link_watch import has_link, machine_sys
from keys.io.rpc import RpcError
from keys.link_loss import HOUR, LinkLoss
from keys.rules import SiteRules

TWO_DAYS = LinkLoss(limit=timedelta(days=2))


@pytest.mark.parametrize(
    ("hours", "is_over"), [(0, False), (47.99, False), (48, True), (1000, True)]
)
def test_the_limit_is_reached_at_its_hour(hours, is_over):
    assert TWO_DAYS.is_over(5 * HOUR, int((5 + hours) * HOUR)) is is_over


def test_the_sentence_says_how_long_and_what_to_do():
    said = TWO_DAYS.sentence(5 * HOUR, 17 * HOUR)
    assert "for 12.0 hours" in said
    assert "in 36.0 powered hours" in said
    assert said.endswith("Put the cable back")


def test_an_interface_that_is_missing_has_no_link():
    assert has_link(["lo"])
    assert has_link(["missing0", "lo"])
    assert not has_link(["missing0"])
    assert not has_link([])


def test_the_machines_own_sysfs_is_asked_where_the_unit_binds_it(tmp_path):
    assert machine_sys(tmp_path) == Path("/sys")
    (tmp_path / "sys").mkdir()
    assert machine_sys(tmp_path) == Path("/sys")
    carrier = tmp_path / "sys/class/net/eth9/carrier"
    carrier.parent.mkdir(parents=True)
    assert machine_sys(tmp_path) == tmp_path / "sys"
    for text, is_linked in (("1\n", True), ("0\n", False), ("", False)):
        carrier.write_text(text)
        assert has_link(["eth9"], machine_sys(tmp_path)) is is_linked


@pytest.fixture
def site() -> Iterator[Outage]:
    one = Outage()
    text = (one.layout.site / "site.toml").read_text()
    text = text.replace("[[subnet]]", '[[subnet]]\ninterface = "lo"', 1)
    one.write("site.toml", text.replace("[controller]", '[controller]\nlink_loss = "48h"'))
    one.ready()
    one.operator("lease_apply", lease=one.issue_lease(hours=1000))
    one.seed("api-token")
    connect(one, "lo")
    later(one, 0.1)
    yield one
    one.close()


def connect(site: Outage, interface: str) -> None:
    """Let the boxes' network be on this interface."""
    path = site.layout.site / "site.toml"
    site.write(
        "site.toml", re.sub('interface = ".*"', f'interface = "{interface}"', path.read_text())
    )


def later(site: Outage, days: float) -> None:
    site.passes(days)
    assert site.service is not None
    site.service.tick()


def test_no_link_for_two_days_ends_the_lease_for_good(site):
    """Threat 15: stolen on a battery, with the lease still running."""
    connect(site, "missing0")
    later(site, 1.5)
    (said,) = [one for one in site.operator("status")["sentences"] if "link" in one]
    assert "for 36.0 hours" in said
    assert "api-token" in site.given()[0]
    site.start()  # a restart is no second wind
    later(site, 0.6)
    with pytest.raises(RpcError, match="LEASE-ENDED|lease"):
        site.control("handover", **request(reset_count=9))
    assert [one["kind"] for one in site.operator("events")["events"]].count("link-lost") == 1
    connect(site, "lo")
    later(site, 0.1)
    assert site.given()[1] == ["hand-over: LEASE-ENDED"]
    site.operator("lease_apply", lease=site.issue_lease())
    assert "api-token" in site.given()[0]


def test_a_link_in_between_begins_the_count_again(site):
    for _ in range(3):
        connect(site, "missing0")
        later(site, 1.5)
        connect(site, "lo")
        later(site, 0.1)
    assert "api-token" in site.given()[0]
    assert not [one for one in site.operator("status")["sentences"] if "link" in one]


def test_a_site_without_interfaces_cannot_ask_for_it(site):
    text = (site.layout.site / "site.toml").read_text()
    with pytest.raises(SiteError, match="link_loss: no .* names its interface"):
        SiteRules.of(tomllib.loads(text.replace('interface = "lo"', "")))


def test_without_the_key_nothing_is_watched(site):
    text = (site.layout.site / "site.toml").read_text()
    site.write("site.toml", text.replace('link_loss = "48h"', ""))
    connect(site, "missing0")
    later(site, 10)
    assert "api-token" in site.given()[0]
