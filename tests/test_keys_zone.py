"""What keys signs for zones: key sets of this site's zones alone, and a roll in two steps."""

from __future__ import annotations

import os
from pathlib import Path

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keys.envelope import b64u, unb64u
from keys.io.layout import SERVICES, Layout
from keys.io.ring import FileRing
from keys.io.rpc import Refusal
from keys.io.store import Store
from keys.io.vault import Vault
from keys.io.zone_signing import ZoneSigning
from keys.zone_keys import point

DOMAIN = "shop-0417.example.net"
ZONE = f"{DOMAIN}."
NOW = 1_795_000_000
ZSK = b64u(point(ec.generate_private_key(ec.SECP256R1()).public_key()))


@pytest.fixture
def signing(tmp_path: Path) -> ZoneSigning:
    for directory in ("state/keys", "run/keys"):
        (tmp_path / directory).mkdir(parents=True)
    users = dict.fromkeys(SERVICES, os.getuid())
    layout = Layout(site=tmp_path, state=tmp_path / "state", run=tmp_path / "run", users=users)
    store = Store(tmp_path / "state/keys/keys.db")
    return ZoneSigning(store, Vault(store, FileRing(layout, is_new=True), "shop-0417"))


def verify(zone: str, signed: dict[str, list[str]], tags: set[int]) -> None:
    """Let another library check every signature over the key set, each by its own key."""
    name = dns.name.from_text(zone)
    keys = dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.DNSKEY)
    for text in signed["dnskeys"]:
        data = unb64u(text)
        keys.add(dns.rdata.from_wire(dns.rdataclass.IN, keys.rdtype, data, 0, len(data)), 3600)
    found = set()
    for text in signed["rrsigs"]:
        data = unb64u(text)
        rrsig = dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.RRSIG)
        one = dns.rdata.from_wire(dns.rdataclass.IN, rrsig.rdtype, data, 0, len(data))
        rrsig.add(one, 3600)
        dns.dnssec.validate(keys, rrsig, {name: keys}, now=NOW)
        found.add(one.key_tag)
    assert found == tags


def test_key_sets_of_our_zones_are_signed_as_others_verify(signing: ZoneSigning) -> None:
    zones = [ZONE, f"deep.{ZONE}", "7.41.10.in-addr.arpa.", "7.0.0.0.1.4.d.f.ip6.arpa."]
    answer = signing.sign(zones, [ZSK], DOMAIN, NOW)
    (anchor,) = signing.anchors()
    for zone in zones:
        verify(zone, answer["signed"][zone], {anchor["tag"]})


@pytest.mark.parametrize(
    ("zones", "keys", "code"),
    [
        (["example.org."], [ZSK], "NOT-OURS"),
        ([f"evil{ZONE}"], [ZSK], "NOT-OURS"),
        (["net."], [ZSK], "NOT-OURS"),
        (["."], [ZSK], "MALFORMED"),
        ([DOMAIN], [ZSK], "MALFORMED"),
        ([ZONE.upper()], [ZSK], "MALFORMED"),
        ([7], [ZSK], "MALFORMED"),
        ([], [ZSK], "MALFORMED"),
        ([ZONE], [], "MALFORMED"),
        ([ZONE], ["AAAA"], "MALFORMED"),
        ([ZONE], [ZSK] * 4, "MALFORMED"),
    ],
)
def test_nothing_else_is_signed(signing: ZoneSigning, zones: list, keys: list, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        signing.sign(zones, keys, DOMAIN, NOW)
    assert caught.value.code == code


def test_a_roll_keeps_the_old_anchor_until_it_is_finished(signing: ZoneSigning) -> None:
    (old,) = signing.anchors()
    with pytest.raises(Refusal, match="no keys are rolling"):
        signing.finish()
    signing.roll()
    new, still = signing.anchors()
    assert still == old != new
    answer = signing.sign([ZONE], [ZSK], DOMAIN, NOW)
    verify(ZONE, answer["signed"][ZONE], {old["tag"], new["tag"]})
    with pytest.raises(Refusal, match="rolling already"):
        signing.roll()
    signing.finish()
    assert signing.anchors() == [new]
    verify(ZONE, signing.sign([ZONE], [ZSK], DOMAIN, NOW)["signed"][ZONE], {new["tag"]})
