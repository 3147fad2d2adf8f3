"""Names in the site file: `[dns]`, `[[zone]]` and `[[record]]`, to the plan and its files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

import pytest

from bootstrap.check_network import check_network
from bootstrap.io import site_dir
from bootstrap.io.netboot_run import SiteCompiler
from bootstrap.io.site_dir import NewSite
from bootstrap.planning import make_plan
from bootstrap.site import Problem, SiteFileError, SiteOfNetboot, decode_netboot_site
from netboot.names import labels
from netboot.plan import Plan
from netboot.plan_check import check
from netboot.plan_dns import Asking
from netboot.resolver import Transport
from netboot.zone import Found
from netboot.zone_build import build

HEAD = """
[site]
id = "lab"
domain = "lab.example.net"
"""
PIN = base64.b64encode(bytes(range(32))).decode()
ZONE = """$TTL 300
@ SOA ns hostmaster 7 3600 600 604800 30
@ NS ns
ns A 192.0.2.53
*.wild TXT "any"
"""


def problems(text: str) -> dict[str, Problem]:
    try:
        site = decode_netboot_site((HEAD + text).encode())
    except SiteFileError as error:
        return {one.key: one for one in error.problems}
    return {one.key: one for one in check_network(site)}


def plan_of(text: str) -> Plan:
    site: SiteOfNetboot = decode_netboot_site((HEAD + text).encode())
    assert list(check_network(site)) == []
    plan = make_plan(site, (), (), (), 1, enrols=False)
    assert check(plan) == ()
    return plan


def find(plan: Plan, name: str, qtype: int) -> Found:
    return build(plan, (), 1).lookup(labels(name), qtype)


RECORDS = [
    ("@", "CAA", '0 issue "ca.example.net"', "lab.example.net", 257),
    ("host", "SSHFP", "4 2 " + "ab" * 32, "host.lab.example.net", 44),
    ("_443._tcp.host", "TLSA", "3 1 1 " + "cd" * 32, "_443._tcp.host.lab.example.net", 52),
    ("note", "TXT", 'it is "all" said', "note.lab.example.net", 16),
    ("_ldap._tcp", "SRV", "0 5 389 host", "_ldap._tcp.lab.example.net", 33),
    ("www", "CNAME", "host", "www.lab.example.net", 5),
    ("@", "MX", "10 mail.example.org.", "lab.example.net", 15),
    ("odd", "TYPE65400", "\\# 4 c0000201", "odd.lab.example.net", 65400),
    ("*.wild", "A", "192.0.2.7", "x.wild.lab.example.net", 1),
    ("host", "aaaa", "2001:db8::7", "host.lab.example.net", 28),
]


@pytest.mark.parametrize(("name", "kind", "value", "asked", "number"), RECORDS)
def test_a_record_of_any_type_is_served(
    name: str, kind: str, value: str, asked: str, number: int
) -> None:
    said = {"name": name, "type": kind, "value": value}
    lines = (f"{key} = {json.dumps(text)}" for key, text in said.items())
    plan = plan_of("\n".join(("[[record]]", *lines)))
    assert plan.listening() == (IPv4Address("127.0.0.1"),)
    (rrset,) = find(plan, asked, number).answers[:1]
    assert rrset.rtype == number
    if kind == "CNAME":
        assert rrset.rdatas == (b"\4host\3lab\7example\3net\0",)
    if kind == "TYPE65400":
        assert rrset.rdatas == (bytes.fromhex("c0000201"),)
    if kind == "TXT":
        assert rrset.rdatas[0][1:] == b'it is "all" said'


def test_everything_that_dns_may_say() -> None:
    plan = plan_of(
        f"""
[dns]
forward = true
pinned = ["ntp.example.org", "lic.example."]
private = "corp.example"
unsigned = ["old.example"]
listen = ["127.0.0.1", "::1"]
allow = ["192.0.2.0/24", "2001:db8::/32"]
[[dns.upstream]]
address = "192.0.2.53"
name = "dns.example"
pins = "{PIN}"
[[dns.upstream]]
address = "2001:db8::53"
transport = "plain"
"""
    )
    assert plan.dns.pinned == ("ntp.example.org.", "lic.example.")
    assert plan.listening() == (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    first, second = plan.dns.upstreams
    assert (first.port, first.transport, first.pins) == (853, Transport.TLS, (bytes(range(32)),))
    assert (second.port, second.transport) == (53, Transport.PLAIN)
    assert second.address == ip_address("2001:db8::53")
    assert plan.dns.asking is Asking.EVERYBODY
    assert list(map(str, plan.dns.allow)) == ["192.0.2.0/24", "2001:db8::/32"]
    assert replace(plan, number=2) != plan


WRONG = [
    ("", "subnet", "is missing"),
    ("[dns]\nforward = true\n", "dns.forward", "there is nobody to ask"),
    ('[dns]\nallow = "192.0.2.1/24"\n', "dns.allow", "has host bits set"),
    ('[dns]\npinned = "a..b"\n', "dns.pinned", "labels have 1 to 63 bytes"),
    ('[[dns.upstream]]\naddress = "9.9.9"\n', "dns.upstream.1.address", "9.9.9"),
    (
        '[[dns.upstream]]\naddress = "9.9.9.9"\npins = "x"\n',
        "dns.upstream.1.pins",
        "base64 of the SHA-256",
    ),
    (
        '[[dns.upstream]]\naddress = "9.9.9.9"\nname = "a.b"\ntransport = "plain"\n',
        "dns.upstream",
        "cannot check",
    ),
    ('[[record]]\nname = "a"\ntype = "WHAT"\nvalue = "x"\n', "record.a.type", "is not known"),
    ('[[record]]\nname = "a"\ntype = "A"\nvalue = "x"\n', "record.a.value", "A 'x'"),
    ('[[record]]\nname = "a"\ntype = "AXFR"\nvalue = "x"\n', "record.a.type", "is in no zone"),
    ('[[zone]]\nname = "b"\nfile = "/etc/b"\n', "zone.b.file", "below the site"),
    ('[[zone]]\nname = "b"\nfile = "b"\nsined = true\n', "zone.b.sined", "unknown key"),
]


@pytest.mark.parametrize(("text", "key", "says"), WRONG)
def test_what_cannot_be_is_told(text: str, key: str, says: str) -> None:
    found = problems(text)
    assert key in found, found
    assert says in str(found[key])


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[SiteCompiler]:
    (tmp_path / "site.toml").write_text(
        HEAD
        + """
[[zone]]
name = "Example.ORG"
file = "zones/example.org"
signed = true
[[zone]]
name = "7.41.10.in-addr.arpa."
file = "zones/reverse"
"""
    )
    (tmp_path / "zones").mkdir()
    for name in ("example.org", "reverse"):
        (tmp_path / "zones" / name).write_text(ZONE)
    yield SiteCompiler(tmp_path / "site.toml", tmp_path / "state")


def test_master_files_are_named_and_kept_by_digest(compiler: SiteCompiler) -> None:
    plan = compiler.compile()
    digest = hashlib.sha256(ZONE.encode()).digest()
    assert [(one.name, one.signed, one.digest) for one in plan.zones] == [
        ("example.org.", True, digest),
        ("7.41.10.in-addr.arpa.", False, digest),
    ]
    compiler.write(plan)
    store = compiler.state / "plan" / "files"
    assert (store / digest.hex()).read_text() == ZONE
    assert not compiler.has_changed() or not compiler.has_changed()
    (compiler.file.parent / "zones" / "reverse").write_text(ZONE + "new A 192.0.2.1\n")
    assert compiler.has_changed()
    for _ in range(2):  # a copy stays as long as the plan before names it
        compiler.write(compiler.compile())
    other = compiler.compile().zones[1].digest
    assert {path.name for path in store.iterdir()} == {digest.hex(), other.hex()}


def test_all_files_that_are_wrong_are_told_at_once(compiler: SiteCompiler) -> None:
    zones = compiler.file.parent / "zones"
    (zones / "example.org").write_text(ZONE + "a A 10.0.0.300\n")
    (zones / "reverse").unlink()
    with pytest.raises(SiteFileError) as caught:
        compiler.compile(keep=False)
    first, second = map(str, caught.value.problems)
    assert first.startswith("zones/example.org: line 6: ")
    assert "zone.7.41.10.in-addr.arpa.file: zones/reverse cannot be read" in second
    with pytest.raises(SiteFileError):
        compiler.compile()
    (zones / "example.org").write_text("@ 60 NS ns\n")
    (zones / "reverse").write_text(ZONE)
    with pytest.raises(SiteFileError, match="there is no SOA"):
        compiler.compile()


def test_doorstep_check_tells_of_zones_too(tmp_path: Path) -> None:
    new = NewSite(
        id="shop-1",
        domain="shop-1.example.net",
        interface="eth1",
        network=IPv4Network("10.77.0.0/24"),
    )
    site_dir.init(tmp_path / "site", new)
    file = tmp_path / "site" / "site.toml"
    tables = """
[[zone]]
name = "example.org"
file = "z"
signed = true
[[zone]]
name = "shop-1.example.net"
file = "missing"
"""
    file.write_text(file.read_text() + tables)
    (tmp_path / "site" / "z").write_text(ZONE + "a A nonsense\n")
    _, found = site_dir.check_site(tmp_path / "site", tmp_path / "state")
    said = " | ".join(map(str, found))
    for sentence in (
        "z: line 6: ",
        "zone.example.org.signed: only what is in shop-1.example.net",
        "zone.shop-1.example.net.file: missing cannot be read: No such file",
        "zone.shop-1.example.net.: is this site's domain",
    ):
        assert sentence in said
