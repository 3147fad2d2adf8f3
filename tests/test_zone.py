"""Zones: forward and reverse of one generation, names that exist without records, chains."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import DOMAIN, PLAN, SUBNET

from netboot.names import labels, read_wire, reverse_origins, text
from netboot.plan import Record
from netboot.plan_check import check
from netboot.rdata import Rtype, show
from netboot.zone import Rcode
from netboot.zone_build import LeaseName, build
from netboot.zone_file import decode_zone


def record(name: str, kind: str, value: str) -> Record:
    return Record(name=f"{name}.{DOMAIN}", type=kind, ttl=60, value=value)


ZONE_PLAN = replace(
    PLAN,
    records=(
        *PLAN.records,
        record("till-1", "A", "10.41.7.20"),
        record("alias", "A", "10.41.7.20"),
        record("far", "A", "192.0.2.1"),
        record("a.deep", "TXT", "x"),
        record("c1", "CNAME", f"c2.{DOMAIN}"),
        record("c2", "CNAME", f"till-1.{DOMAIN}."),
        record("loop1", "CNAME", f"loop2.{DOMAIN}"),
        record("loop2", "CNAME", f"loop1.{DOMAIN}"),
        record("dangling", "CNAME", f"nothing.{DOMAIN}"),
        record("out", "CNAME", "www.example.org"),
    ),
)
PRINTER = LeaseName(name="printer-1", address=IPv4Address("10.41.7.11"))


def look(name: str, kind: int = Rtype.A, leases=()):
    return build(ZONE_PLAN, leases, 7).lookup(labels(name), kind)


def values(name: str, kind: int = Rtype.A, leases=()) -> list[str]:
    found = look(name, kind, leases).answers
    return [show(one.rtype, data).removesuffix(".") for one in found for data in one.rdatas]


def test_the_plan_of_these_tests_is_good() -> None:
    assert check(ZONE_PLAN) == ()


def test_n22_forward_and_reverse_appear_and_vanish_together() -> None:
    pointer = "11.7.41.10.in-addr.arpa"
    assert values(f"printer-1.{DOMAIN}", leases=[PRINTER]) == ["10.41.7.11"]
    assert values(pointer, Rtype.PTR, [PRINTER]) == [f"printer-1.{DOMAIN}"]
    assert look(f"printer-1.{DOMAIN}").rcode == Rcode.NXDOMAIN
    assert look(pointer, Rtype.PTR).rcode == Rcode.NXDOMAIN


def test_a_lease_never_overrides_the_plan() -> None:
    thief = LeaseName(name="till-1", address=IPv4Address("10.41.7.99"))
    assert values(f"till-1.{DOMAIN}", leases=[thief]) == ["10.41.7.20"]
    assert look("99.7.41.10.in-addr.arpa", Rtype.PTR, [thief]).rcode == Rcode.NXDOMAIN


def test_reverse_names_the_first_and_only_inside_the_site() -> None:
    assert values("20.7.41.10.in-addr.arpa", Rtype.PTR) == [f"till-1.{DOMAIN}"]
    assert values("9.7.41.10.in-addr.arpa", Rtype.PTR) == [f"x.{DOMAIN}"]
    assert look("1.1.1.1.in-addr.arpa", Rtype.PTR).rcode == Rcode.REFUSED


def test_an_rrset_has_one_ttl() -> None:
    records = (record("two", "A", "10.41.7.30"), record("two", "A", "10.41.7.31"))
    plan = replace(PLAN, records=(records[0], replace(records[1], ttl=9)))
    (found,) = build(plan, (), 1).lookup(labels(f"two.{DOMAIN}"), Rtype.A).answers
    assert (found.ttl, len(found.rdatas)) == (9, 2)


def test_n12_and_n13_what_is_not_there() -> None:
    missing = look(f"nothing.{DOMAIN}")
    assert missing.rcode == Rcode.NXDOMAIN
    assert [one.rtype for one in missing.authority] == [Rtype.SOA]
    for name, kind in ((f"deep.{DOMAIN}", Rtype.A), (f"till-1.{DOMAIN}", Rtype.AAAA)):
        found = look(name, kind)
        assert (found.rcode, found.answers) == (Rcode.NOERROR, ())
        assert [one.rtype for one in found.authority] == [Rtype.SOA]
    assert look(f"_tcp.{DOMAIN}", Rtype.SRV).rcode == Rcode.NOERROR


def test_n15_chains_end() -> None:
    assert values(f"c1.{DOMAIN}") == [f"c2.{DOMAIN}", f"till-1.{DOMAIN}", "10.41.7.20"]
    assert look(f"loop1.{DOMAIN}").rcode == Rcode.NOERROR
    assert len(look(f"loop1.{DOMAIN}").answers) == 2
    dangling = look(f"dangling.{DOMAIN}")
    assert (dangling.rcode, len(dangling.answers)) == (Rcode.NXDOMAIN, 1)
    assert look(f"out.{DOMAIN}").rcode == Rcode.NOERROR
    assert values(f"c1.{DOMAIN}", Rtype.CNAME) == [f"c2.{DOMAIN}"]


def test_n17_any_is_one_rrset() -> None:
    assert len(look(DOMAIN, 255).answers) == 1


def test_n19_other_names_are_refused() -> None:
    for name in ("example.org", "", "net", "8.8.8.8.in-addr.arpa"):
        assert look(name).rcode == Rcode.REFUSED


@pytest.mark.parametrize(
    "name",
    ["a.invalid", "printer.local", "x.onion", "1.1.168.192.in-addr.arpa", "1.2.3.10.in-addr.arpa"],
)
def test_n23_and_n24_private_names_end_here(name) -> None:
    assert look(name, Rtype.PTR).rcode == Rcode.NXDOMAIN


def test_n24_localhost_is_this_machine() -> None:
    assert values("localhost") == ["127.0.0.1"]
    assert values("localhost", Rtype.AAAA) == ["::1"]
    assert values("1.0.0.127.in-addr.arpa", Rtype.PTR) == ["localhost"]
    assert values(f"1.{'0.' * 31}ip6.arpa", Rtype.PTR) == ["localhost"]


def test_who_does_not_delegate_a_zone_does_not_deny_it() -> None:
    """RFC 4035, 3.1.4.1: the zone above has the DS, if it has the delegation."""
    plain = decode_zone(b"$TTL 9\n@ SOA a b 1 2 3 4 5\n@ NS a\n", labels("unit.test"), "unit")
    zones = build(ZONE_PLAN, (), 7, [plain])
    found = zones.lookup(labels("unit.test"), Rtype.DS)
    assert (found.rcode, found.zone, found.answers) == (Rcode.NOERROR, labels("unit.test"), ())
    above = b"$TTL 9\n@ SOA a b 1 2 3 4 5\n@ NS a\nunit NS a\nunit DS 1 13 2 " + b"ab" * 32
    delegating = decode_zone(above + b"\n", labels("test"), "test")
    found = build(ZONE_PLAN, (), 7, [plain, delegating]).lookup(labels("unit.test"), Rtype.DS)
    assert (found.zone, len(found.answers)) == (labels("test"), 1)


@pytest.mark.parametrize(
    ("network", "origins"),
    [
        ("10.41.7.0/24", ["7.41.10.in-addr.arpa."]),
        ("10.41.7.128/25", ["7.41.10.in-addr.arpa."]),
        ("10.41.0.0/16", ["41.10.in-addr.arpa."]),
        ("10.41.4.0/23", ["4.41.10.in-addr.arpa.", "5.41.10.in-addr.arpa."]),
        ("10.40.0.0/15", ["40.10.in-addr.arpa.", "41.10.in-addr.arpa."]),
        ("10.0.0.0/8", ["10.in-addr.arpa."]),
        ("10.41.7.5/32", ["7.41.10.in-addr.arpa."]),
    ],
)
def test_reverse_zones_follow_from_the_network(network, origins) -> None:
    assert [text(origin) for origin in reverse_origins(IPv4Network(network))] == origins


def test_every_zone_has_soa_and_ns_with_its_serial() -> None:
    for name in (DOMAIN, "7.41.10.in-addr.arpa", "0.42.10.in-addr.arpa", "local"):
        (soa,) = values(name, Rtype.SOA)
        assert soa.split(" ")[:3] == [f"appliance.{DOMAIN}.", f"hostmaster.{DOMAIN}.", "7"]
        assert values(name, Rtype.NS) == [f"appliance.{DOMAIN}"]


HOSTS = st.integers(int(SUBNET.network[1]), int(SUBNET.network[254])).map(IPv4Address)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), HOSTS, max_size=8))
def test_every_lease_name_has_a_way_back(named) -> None:
    leases = [LeaseName(name=name, address=address) for name, address in named.items()]
    zones = build(PLAN, leases, 1)
    for lease in leases:
        owner = labels(f"{lease.name}.{DOMAIN}")
        if f"{lease.name}.{DOMAIN}" in {one.name for one in PLAN.records}:
            continue
        (forward,) = zones.lookup(owner, Rtype.A).answers
        back = zones.lookup(labels(lease.address.reverse_pointer), Rtype.PTR)
        assert forward.rdatas == (lease.address.packed,)
        names = [name for name, address in named.items() if address == lease.address]
        pointed = {text(read_wire(data)[0])[:-1] for one in back.answers for data in one.rdatas}
        assert pointed
        assert pointed <= {f"{name}.{DOMAIN}" for name in (*names, "appliance", "x")}
