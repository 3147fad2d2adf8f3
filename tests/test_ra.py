"""Router advertisements: what they say follows from what DHCPv6 serves; when they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

import pytest
from dhcp6_lab import US, mac, subnet6
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import inet6

from netboot.errors import PeerError
from netboot.ra import (
    ALL_NODES,
    ESCORT_SECONDS,
    ESCORTED_SECONDS,
    INTERVAL_SECONDS,
    MAX_ESCORTED,
    PAUSE_SECONDS,
    ROUTER_SECONDS,
    Advertisement,
    RaEngine,
    RaSend,
    advertisement,
    check_solicitation,
)

ASKED = bytes((133, 0, 0, 0, 0, 0, 0, 0))
CLIENT = IPv6Address("fe80::7")
NOWHERE = IPv6Address(0)


def said(**changes: object) -> Advertisement:
    found = advertisement(
        [subnet6(**changes)], "eth1", domain="shop.example.net", mtu=1500, mac=mac(1)
    )
    assert found is not None
    return found


def read(advertised: Advertisement) -> inet6.ICMPv6ND_RA:
    return inet6.ICMPv6ND_RA(advertised.encode())


@pytest.mark.parametrize(("dhcp", "managed"), [("stateful", 1), ("stateless", 0)])
def test_v6_4_flags_match_what_dhcpv6_serves(dhcp: str, managed: int) -> None:
    seen = read(said(dhcp=dhcp))
    assert (managed, 1) == (seen.M, seen.O)
    prefix = seen[inet6.ICMPv6NDOptPrefixInfo]
    assert (1, 1 - managed) == (prefix.L, prefix.A)
    assert (prefix.prefix, prefix.prefixlen) == ("fd00:41:7::", 64)
    assert prefix.validlifetime >= prefix.preferredlifetime > 0


def test_v6_4_nothing_is_said_where_nothing_is_served() -> None:
    plans = [subnet6(dhcp="off"), subnet6(interface="eth2"), subnet6(relayed=True)]
    assert advertisement(plans, "eth1", domain="", mtu=None, mac=None) is None


def test_the_rest_of_an_advertisement() -> None:
    seen = read(said())
    assert seen.routerlifetime == 0
    assert read(said(router=True)).routerlifetime == ROUTER_SECONDS
    assert seen[inet6.ICMPv6NDOptMTU].mtu == 1500
    assert seen[inet6.ICMPv6NDOptSrcLLAddr].lladdr == "02:01:00:00:00:01"
    assert seen[inet6.ICMPv6NDOptRDNSS].dns == [str(US)]
    assert seen[inet6.ICMPv6NDOptDNSSL].searchlist == ["shop.example.net."]
    both = advertisement(
        [
            subnet6(),
            subnet6(
                network=IPv6Network("fd00:41:8::/64"),
                appliance=IPv6Address("fd00:41:8::2"),
                pools=(),
                dhcp="stateless",
            ),
        ],
        "eth1",
        domain="",
        mtu=None,
        mac=None,
    )
    assert both is not None
    assert both.managed
    assert [prefix.autonomous for prefix in both.prefixes] == [False, True]
    assert len(both.encode()) % 8 == 0


@pytest.mark.parametrize(
    ("data", "source", "hops"),
    [
        (ASKED, CLIENT, 254),
        (ASKED[:7], CLIENT, 255),
        (b"\x86" + ASKED[1:], CLIENT, 255),
        (b"\x85\1" + ASKED[2:], CLIENT, 255),
        (ASKED + bytes((1, 0)) + bytes(6), CLIENT, 255),
        (ASKED + bytes((1, 2)) + bytes(6), CLIENT, 255),
        (ASKED + b"\1", CLIENT, 255),
        (ASKED + bytes((1, 1)) + bytes(6), NOWHERE, 255),
    ],
)
def test_wrong_solicitations_are_dropped(data: bytes, source: IPv6Address, hops: int) -> None:
    with pytest.raises(PeerError):
        check_solicitation(data, source, hops)


@settings(max_examples=100)
@given(st.binary(max_size=64), st.integers(0, 255))
def test_any_bytes_are_a_solicitation_or_our_error(data: bytes, hops: int) -> None:
    for begin in (b"", ASKED):
        try:
            check_solicitation(begin + data, CLIENT, hops)
        except PeerError:
            continue
        assert hops == 255


def test_who_asks_by_name_is_answered_at_once_and_alone() -> None:
    engine = RaEngine(said(), 0.0)
    (reply,) = engine.receive(ASKED + bytes((1, 1)) + mac(2), CLIENT, 255, 0.0)
    assert reply.destination == CLIENT
    assert reply.data == said().encode()


def test_who_asks_without_an_address_is_answered_by_all_nodes_within_the_pause() -> None:
    engine = RaEngine(said(), 0.0)
    assert [one.destination for one in engine.tick(0.0, 0.5)] == [ALL_NODES]
    assert engine.receive(ASKED, NOWHERE, 255, 1.0) == ()
    assert engine.deadline() == PAUSE_SECONDS
    assert engine.tick(PAUSE_SECONDS - 0.1, 0.5) == ()
    assert len(engine.tick(PAUSE_SECONDS, 0.5)) == 1


def test_the_first_ones_are_close_and_none_is_late() -> None:
    engine, now, gaps = RaEngine(said(), 0.0), 0.0, []
    for fraction in (0.0, 1.0, 0.0, 1.0, 0.0):
        assert len(engine.tick(now, fraction)) == 1
        gaps.append(engine.deadline() - now)
        now = engine.deadline()
    assert gaps == [16.0, 12.0, INTERVAL_SECONDS, INTERVAL_SECONDS * 0.75, INTERVAL_SECONDS]


def lifetimes(sends: Iterable[RaSend]) -> dict[IPv6Address, int]:
    return {one.destination: inet6.ICMPv6ND_RA(one.data).routerlifetime for one in sends}


def test_firmware_alone_is_told_of_a_route_until_it_needs_none() -> None:
    engine, other = RaEngine(said(), 0.0), IPv6Address("fe80::8")
    sent = engine.escort(CLIENT, 0.0)
    assert lifetimes([sent]) == {CLIENT: ESCORT_SECONDS}
    assert lifetimes(engine.tick(0.0, 0.0)) == {ALL_NODES: 0, CLIENT: ESCORT_SECONDS}
    assert lifetimes(engine.receive(ASKED, CLIENT, 255, 1.0)) == {CLIENT: ESCORT_SECONDS}
    assert lifetimes(engine.receive(ASKED, other, 255, 1.0)) == {other: 0}
    assert lifetimes(engine.receive(ASKED, CLIENT, 255, ESCORTED_SECONDS)) == {CLIENT: 0}
    assert lifetimes(engine.tick(engine.deadline(), 0.0)) == {ALL_NODES: 0}
    routed = RaEngine(said(router=True), 0.0).escort(CLIENT, 0.0)
    assert lifetimes([routed]) == {CLIENT: ROUTER_SECONDS}


def test_a_flood_of_firmware_is_forgotten_from_its_oldest() -> None:
    engine = RaEngine(said(), 0.0)
    clients = [IPv6Address(int(CLIENT) + number) for number in range(MAX_ESCORTED + 1)]
    for client in clients:
        engine.escort(client, 0.0)
    told = lifetimes(engine.tick(0.0, 0.0))
    assert len(told) == MAX_ESCORTED + 1
    assert clients[0] not in told


def test_what_could_not_be_sent_is_tried_again_soon() -> None:
    engine = RaEngine(said(), 0.0)
    engine.tick(0.0, 0.0)
    engine.postpone(0.0)
    assert engine.deadline() == PAUSE_SECONDS
    assert engine.tick(PAUSE_SECONDS, 0.0)
    assert engine.deadline() == PAUSE_SECONDS + 16.0  # still one of the first three


def test_a_router_takes_its_leave() -> None:
    assert RaEngine(said(), 0.0).farewell() == ()
    assert lifetimes(RaEngine(said(router=True), 0.0).farewell()) == {ALL_NODES: 0}
