"""The hand-off document: what the box gets, in the form of docs/architecture.md."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

import bootstrap
from attest.transcript import SiteIdentity
from bootstrap.enrolment import Stage
from bootstrap.errors import SiteError
from bootstrap.handoff import handoff_document
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from bootstrap.site import decode_site
from keys.io.handover import ADDED

EXAMPLE = Path(bootstrap.__file__).parent / "example"
SITE = decode_site((EXAMPLE / "site.toml").read_bytes())
SETTINGS = Settings(
    site=SITE,
    note=None,
    note_problem=None,
    root_pem=b"PEM of the root\n",
    identity=SiteIdentity(site_id="shop-0417", root=bytes(32)),
    anchors=(),
    templates={"templates/pos.yaml.j2": (EXAMPLE / "templates/pos.yaml.j2").read_text()},
)
BOX = BoxRow(
    box="6f1c0a52-5f0e-5b1c-9d53-0f2a1c3b4d5e",
    ek_name=b"ek",
    ek_public=b"",
    stage=Stage.VERIFIED,
    since=0.0,
    first=0.0,
    role="pos",
    number=1,
    hostname="pos-01",
    address="10.41.7.20",
    mac="52:54:00:00:00:01",
    facts={},
)
SESSION = bytes(range(16))


def document(**changes: object) -> dict:
    return dict(handoff_document(SETTINGS, replace(BOX, **changes), SITE.role(None), SESSION))


def text(field: str) -> str:
    return base64.urlsafe_b64decode(field + "=" * (-len(field) % 4)).decode()


def test_the_document() -> None:
    made = document()
    seed = made.pop("nocloud")
    assert made == {
        "type": "application/vnd.doorstep.handoff.v1+json",
        "site": "shop-0417",
        "box": BOX.box,
        "session": "AAECAwQFBgcICQoLDA0ODw",
        "role": "pos",
        "hostname": "pos-01",
        "fqdn": "pos-01.shop-0417.example.net",
        "network": [
            {
                "mac": "52:54:00:00:00:01",
                "address": "10.41.7.20/24",
                "gateway": "10.41.7.1",
                "dns": ["10.41.7.2"],
            }
        ],
        "trust": {"site_root_pem": "PEM of the root\n"},
        "checks": ["signature", "opened-in-tpm", "certificate-matches-key", "seed-written"],
        "after": "power-off",
    }
    assert text(seed["user_data"]).startswith("#cloud-config\n")
    assert "pos-api-token" in text(seed["user_data"])
    assert f"{BOX.box}-{SESSION.hex()}" in text(seed["meta_data"])
    assert "10.41.7.20/24" in text(seed["network_config"])


def test_a_box_that_enrols_by_ipv6() -> None:
    """Routers tell it where to go; its address is that of its reservation."""
    six = decode_site(
        (EXAMPLE / "site.toml").read_bytes()
        + b"""
[[subnet6]]
name = "tills6"
interface = "eth1"
network = "fd00:41:7::/64"
appliance = "fd00:41:7::2"
pool = "fd00:41:7::1000-fd00:41:7::1fff"
"""
    )
    box = replace(BOX, address="fd00:41:7::1000")
    made = dict(handoff_document(replace(SETTINGS, site=six), box, SITE.role(None), SESSION))
    assert made["network"] == [
        {
            "mac": "52:54:00:00:00:01",
            "address": "fd00:41:7::1000/64",
            "gateway": None,
            "dns": ["fd00:41:7::2"],
        }
    ]
    config = json.loads(text(made["nocloud"]["network_config"]))["ethernets"]["site"]
    assert config["addresses"] == ["fd00:41:7::1000/64"]
    assert "routes" not in config
    with pytest.raises(SiteError, match="is in no subnet"):
        document(address="fd00:41:7::1000")


def test_nothing_that_keys_alone_may_write() -> None:
    assert not ADDED & set(document())


@pytest.mark.parametrize("missing", ["hostname", "address", "mac"])
def test_a_box_that_has_no_place_yet(missing: str) -> None:
    with pytest.raises(SiteError, match="lease of a network card"):
        document(**{missing: None})


def test_a_box_outside_of_every_subnet() -> None:
    assert SITE.subnet_of(IPv4Address("10.9.9.9")) is None
    with pytest.raises(SiteError, match="in no subnet"):
        document(address="10.9.9.9")
