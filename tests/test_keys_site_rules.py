"""Each key of the site file that keys reads: what it may be, and what follows from it."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address

import pytest

from keys.errors import SiteError
from keys.rules import (
    MAX_AHEAD,
    NO_TPM,
    UNPROTECTED,
    Controller,
    RootFs,
    SecretKind,
    SiteRules,
    Tier,
    duration,
    look_every,
)

GOOD = """
[site]
id = "s"
domain = "s.example.net"
[[subnet]]
network = "10.0.0.0/24"
appliance = "10.0.0.2"
interface = "eth1"
[[subnet6]]
appliance = "fd00::2"
[controller]
tpm = "/dev/tpmrm0"
root = "verity"
link_loss = "2h"
tiers = []
[[upstream]]
name = "hq"
[[role]]
name = "pos"
secrets = ["a", "b"]
[[role]]
name = "kiosk"
secrets = ["b"]
[[secret]]
name = "a"
tier = "site"
ttl = "2w"
source = "hq:pos/a"
[[secret]]
name = "b"
tier = "boot"
ttl = "1d"
[[secret]]
name = "c"
tier = "box"
kind = "license"
ask = "Kassen GmbH"
"""


def read(text: str = GOOD) -> SiteRules:
    return SiteRules.of(tomllib.loads(text))


def changed(old: str, new: str) -> SiteRules:
    assert old in GOOD
    return read(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('secrets = ["a", "b"]', 'secrets = ["a", 1]', "role.secrets is a list of names"),
        (
            'name = "kiosk"',
            'name = "kiosk"\ncertificate_days = "3"',
            "certificate_days is a number",
        ),
        ('name = "b"', 'name = "a"', "two secrets have the same name"),
        ('source = "hq:pos/a"', 'source = "at:pos/a"', r"there is no \[\[upstream\]\] 'at'"),
        ('tier = "site"', 'tier = "box"', "tier box is wrapped at headquarters"),
        ("tiers = []", 'tiers = ""', "controller.tiers may be"),
        ("tiers = []", 'tiers = ["site", "boot"]', "controller.tiers may be"),
        ("tiers = []", 'tiers = [["site"]]', "controller.tiers may be"),
        ('root = "verity"', 'root = "zfs"', "controller.root: 'zfs' is neither"),
        ('interface = "eth1"', "", r"controller.link_loss: no \[\[subnet\]\] names its interface"),
        ('link_loss = "2h"', 'link_loss = "soon"', "controller.link_loss: 'soon' is no duration"),
        ('appliance = "fd00::2"', 'appliance = "10.0.0.2"', "subnet6.appliance: '10.0.0.2' is no"),
        ("[[subnet6]]", "[subnet6]", r"\[\[subnet6\]\] must be tables"),
        ('[[subnet6]]\nappliance = "fd00::2"', "[subnet6]", r"\[\[subnet6\]\] must be tables"),
        ('kind = "license"', 'kind = "licence"', "secret.kind: 'licence': known: secret, license"),
        ('kind = "license"', "", "secret.ttl is missing"),
        ('ask = "Kassen GmbH"', 'max_stale = "1s"', "a license that has ended is of no use"),
        ('ask = "Kassen GmbH"', "ask = 5", "secret.ask is missing or no text"),
        ("[site]", 'upstreams = 1\nrole = ["pos"]\n[site]', r"\[\[role\]\] must be tables"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, sentence: str) -> None:
    text = GOOD.replace("[[role]]", "[[roles]]") if "role = [" in new else GOOD
    assert old in text
    with pytest.raises(SiteError, match=sentence):
        read(text.replace(old, new, 1))


def test_what_is_read() -> None:
    rules = read()
    assert rules.default_role is None
    assert rules.interfaces == ("eth1",)
    assert rules.secrets["a"].source == "hq:pos/a"
    assert rules.secrets["b"].source == ""
    dated = rules.secrets["c"]
    assert (dated.kind, dated.ask, dated.ttl) == (SecretKind.LICENSE, "Kassen GmbH", MAX_AHEAD)
    assert changed('ask = "K', 'ttl = "2d"\nask = "K').secrets["c"].ttl == timedelta(days=2)
    assert changed('ask = "K', 'max_stale = "0s"\nask = "K').secrets["c"].max_stale == timedelta()
    assert changed('ttl = "1d"', 'ttl = "1d"\nmax_stale = "2d"').secrets["b"].max_stale.days == 2
    assert rules.secrets["b"].ask == ""
    assert rules.controller.link_loss == timedelta(hours=2)
    assert changed('link_loss = "2h"', 'link_loss = "0s"').controller.link_loss is None
    # without one no subnet has to name its interface
    text = GOOD.replace('link_loss = "2h"', "").replace('interface = "eth1"', "")
    assert (read(text).controller.link_loss, read(text).interfaces) == (None, ())


def test_who_has_a_secret() -> None:
    rules = read()
    assert [rules.roles_with(name) for name in ("a", "b", "c")] == [["pos"], ["pos", "kiosk"], []]


def test_the_certificate_names_each_address_of_the_appliance() -> None:
    assert list(read().addresses) == [IPv4Address("10.0.0.2"), IPv6Address("fd00::2")]


@pytest.mark.parametrize(
    ("tpm", "tcti"),
    [
        ("none", None),
        ("/dev/tpmrm0", "device:/dev/tpmrm0"),
        ("swtpm:path=/run/x", "swtpm:path=/run/x"),
    ],
)
def test_how_the_tpm_is_called(tpm: str, tcti: str | None) -> None:
    text = GOOD.replace('"/dev/tpmrm0"', f'"{tpm}"')
    assert read(text).controller.tcti == tcti


@pytest.mark.parametrize(
    ("controller", "why", "lost"),
    [
        (Controller(), "tier site needs a TPM in the controller", NO_TPM),
        (Controller(root=RootFs.VERITY), "tier site needs a TPM in the controller", NO_TPM),
        (
            Controller(tcti="x"),
            "nothing protects this controller's programs: theft inside the lease shows it",
            UNPROTECTED,
        ),
        (Controller(tcti="x", doubt="D"), "D: theft inside the lease shows it", UNPROTECTED),
        (Controller(tcti="x", root=RootFs.VERITY, doubt="D"), None, ""),
        (Controller(tcti="x", root=RootFs.ENCRYPTED), None, ""),
        (Controller(tiers=frozenset({Tier.SITE})), None, NO_TPM),
        (Controller(tcti="x", tiers=frozenset({Tier.SITE})), None, UNPROTECTED),
    ],
)
def test_which_tiers_would_be_a_lie(controller: Controller, why: str | None, lost: str) -> None:
    assert controller.why_off(Tier.SITE) == why
    assert controller.why_off(Tier.BOOT) is None
    assert controller.why_off(Tier.BOX) is None
    assert controller.not_covered() == lost


def test_a_secret_is_asked_for_every_quarter_of_its_ttl_within_bounds() -> None:
    asked = [look_every(timedelta(hours=hours)) for hours in (0, 4, 24, 25, 1000)]
    one, six = timedelta(hours=1), timedelta(hours=6)
    assert asked == [timedelta(seconds=1), one, six, six, six]


@pytest.mark.parametrize(
    "text",
    [
        "\u0661d",
        "\u00b2d",
        "9999999999s",
        "36526d",
        "999999999w",
        "14y",
        "d",
        "",
        "1",
        "-1d",
        "1 d",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(SiteError, match="key: .* is no duration"):
        duration(text, "key")


def test_the_longest_duration() -> None:
    assert duration("36525d", "key") == timedelta(days=36_525)
    assert [duration(f"1{unit}", "key").total_seconds() for unit in "smhdw"] == [
        1,
        60,
        3600,
        86_400,
        604_800,
    ]
