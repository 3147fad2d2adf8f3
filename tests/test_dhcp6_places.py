"""DHCPv6 through relays, on shared links, and what no plan may say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network

import pytest
from dhcp6_lab import (
    FIRST,
    SERVER_DUID,
    US,
    Server6,
    config6,
    duid_ll,
    given,
    ia,
    link_local,
    mac,
    message6,
    oro,
    subnet6,
)

from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import Code6, Options6, Status, StatusCode, encode_names
from netboot.errors import SiteError
from netboot.network import OptionValue, Reservation6

A, B = duid_ll(mac(1)), duid_ll(mac(2))
FAR = IPv6Address("fd00:99::9")


def status(reply: Message6) -> int | None:
    data = reply.options.get(Code6.STATUS)
    return None if data is None else Status.decode(data).code


def ia_status(reply: Message6) -> int | None:
    (association,) = reply.options.associations
    return None if association.status is None else association.status.code


def is_silent(server: Server6, data: bytes, **arrival: object) -> bool:
    return server.send(data, **arrival).sends == ()  # type: ignore[arg-type]


# Relays and shared links


def relay(link: str, *items: tuple[int, bytes]) -> Relay6:
    return Relay6(
        kind=Kind6.RELAY_FORWARD,
        hops=0,
        link=IPv6Address(link),
        peer=link_local(mac(1)),
        options=Options6(items=items),
    )


FAR_SUBNET = {
    "name": "far",
    "network": IPv6Network("fd00:99::/64"),
    "pools": ((IPv6Address("fd00:99::10"), IPv6Address("fd00:99::20")),),
    "relayed": True,
}


@pytest.mark.parametrize(
    ("links", "where"),
    [
        (["fd00:99::1"], "fd00:99::/64"),
        (["fd00:41:7::1", "fd00:99::1"], "fd00:99::/64"),
        (["fd00:99::1", "::"], "fd00:99::/64"),
        (["fd00:99::1", "fe80::1"], "fd00:99::/64"),
        (["::"], "fd00:41:7::/64"),
        (["fd00:5::1"], "fd00:99::/64"),
        (["fd00:6::1"], None),
    ],
)
def test_the_relay_next_to_the_client_says_which_link(links: list[str], where: str | None) -> None:
    far = subnet6(**FAR_SUBNET, relays=(IPv6Address("fd00:5::1"),))
    server = Server6(config6(subnet6(), far))
    message = Packet6.decode(message6(Kind6.SOLICIT, A, ia())).message
    packet = Packet6(message=message, relays=tuple(relay(link) for link in links))
    outcome = server.send(packet.encode(), IPv6Address("fd00:41:7::5"), multicast=False)
    if where is None:
        (sent,) = outcome.sends
        refused = Packet6.decode(sent.data)
        assert refused.message.kind is Kind6.ADVERTISE
        assert ia_status(refused.message) == StatusCode.NO_ADDRESSES
        assert [one.kind for one in refused.relays] == [Kind6.RELAY_REPLY]
        return
    (sent,) = outcome.sends
    assert (str(sent.destination), sent.port) == ("fd00:41:7::5", 547)
    answer = Packet6.decode(sent.data)
    assert [one.kind for one in answer.relays] == [Kind6.RELAY_REPLY] * len(links)
    assert [str(one.link) for one in answer.relays] == [str(IPv6Address(one)) for one in links]
    assert given(answer.message)[0].address in IPv6Network(where)


def test_a_link_that_is_not_in_the_plan_is_refused_to_who_asks_us_and_to_nobody_else() -> None:
    server = Server6(config6(subnet6(dhcp="off"), subnet6(**FAR_SUBNET)))

    def sent(link: str, kind: Kind6, duid: bytes | None = A, **named: bytes) -> object:
        message = Packet6.decode(message6(kind, duid, ia(), **named)).message
        return server.send(Packet6(message=message, relays=(relay(link),)).encode(), FAR).sends

    assert sent("fd00:6::1", Kind6.SOLICIT) != ()
    assert sent("fd00:6::1", Kind6.REQUEST, server=SERVER_DUID) != ()
    assert sent("fd00:6::1", Kind6.REQUEST, server=b"\0\4another") == ()
    assert sent("fd00:6::1", Kind6.SOLICIT, None) == ()
    assert sent("fd00:41:7::1", Kind6.SOLICIT) == ()  # another server has that one
    for kind in (Kind6.CONFIRM, Kind6.REBIND, Kind6.INFORMATION_REQUEST):
        assert sent("fd00:6::1", kind) == ()


def test_a_relay_that_asks_from_another_port_is_answered_there_from_the_address_asked() -> None:
    message = Packet6.decode(message6(Kind6.SOLICIT, A, ia())).message
    for options, port in (((135, b"\0\0"),), 5470), ((), 547):
        packet = Packet6(message=message, relays=(relay("fd00:41:7::1", *options), relay("::")))
        (sent,) = Server6().send(packet.encode(), FAR, port=5470, asked=US, multicast=False).sends
        assert (sent.port, sent.source) == (port, US)
        outer = Packet6.decode(sent.data).relays[0]
        assert outer.options.get(135) == (b"\0\0" if options else None)


def test_interface_id_comes_back() -> None:
    message = Packet6.decode(message6(Kind6.SOLICIT, A, ia())).message
    relays = (relay("fd00:41:7::1", (Code6.INTERFACE_ID, b"outer")), relay("::", (18, b"inner")))
    outcome = Server6().send(Packet6(message=message, relays=relays).encode(), US)
    answer = Packet6.decode(outcome.sends[0].data)
    assert [one.options.items for one in answer.relays] == [((18, b"outer"),), ((18, b"inner"),)]


def test_a_relayed_subnet_is_not_of_the_interface() -> None:
    server = Server6(config6(subnet6(**FAR_SUBNET)))
    assert is_silent(server, message6(Kind6.SOLICIT, A, ia()))


def test_shared_links_lend_from_the_next_subnet_when_one_is_full() -> None:
    second = subnet6(
        name="more",
        interface="eth2",
        network=IPv6Network("fd00:42::/64"),
        appliance=IPv6Address("fd00:42::2"),
        pools=((IPv6Address("fd00:42::10"), IPv6Address("fd00:42::10")),),
        shared="floor",
    )
    server = Server6(config6(subnet6(pools=((FIRST, FIRST),), shared="floor"), second))
    assert server.bound(A) == FIRST
    other = server.bound(B, source=link_local(mac(2)))
    assert other == IPv6Address("fd00:42::10")
    confirmed = server.ask(message6(Kind6.CONFIRM, B, ia(1, other)))
    assert status(confirmed) == StatusCode.SUCCESS


# Names


def test_the_name_in_option_39_is_the_site_s_and_only_for_who_asks() -> None:
    """Flags of RFC 4704, 4.1: S = 1, O = 2, N = 4."""
    entry = Reservation6(duid=A, address=FIRST, name="till-1")
    server = Server6(config6(reservations=(entry,)))
    mine = (int(Code6.CLIENT_FQDN), b"\x01" + encode_names(["mine.local"]))

    def told(duid: bytes, *options: tuple[int, bytes]) -> bytes | None:
        return server.solicit(duid, ia(), *options).options.get(Code6.CLIENT_FQDN)

    assert told(A, mine, oro(39)) == b"\x01" + encode_names(["till-1.shop.example.net"])
    assert told(A, (39, b"\0\4mine"), oro(39)) == b"\x03" + encode_names(
        ["till-1.shop.example.net"]
    )
    assert told(B, mine, oro(39)) == b"\x06" + mine[1][1:]
    assert told(B, (39, b"\0\4mine"), oro(39)) == b"\x04\4mine"
    assert told(A, mine) is None
    assert told(A, oro(39)) is None


# The plan


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: config6(subnet6(appliance=FAR)), "appliance is outside"),
        (lambda: config6(subnet6(lease=timedelta(0))), "shorter than a second"),
        (lambda: config6(subnet6(preferred=timedelta(days=9))), "preferred"),
        (lambda: config6(subnet6(preferred=timedelta(0))), "preferred"),
        (lambda: config6(subnet6(pools=((FAR, FAR),))), "pool"),
        (lambda: config6(subnet6(pools=((FIRST + 1, FIRST),))), "pool"),
        (
            lambda: config6(subnet6(dhcp="stateless", network=IPv6Network("fd00:41:7::/72"))),
            "/64 only",
        ),
        (lambda: config6(subnet6(), subnet6(name="again")), "overlap"),
        (lambda: config6(reservations=(entry(address=US),)), "given twice"),
        (lambda: config6(reservations=(entry(address=FAR),)), "in no subnet"),
        (lambda: config6(reservations=(entry(), entry(duid=B))), "given twice"),
        (lambda: config6(reservations=(entry(mac=mac(1)),)), "one of duid"),
        (lambda: config6(reservations=(entry(duid=None),)), "one of duid"),
        (lambda: config6(options=(OptionValue(code=3, data=b""),)), "server's own"),
    ],
)
def test_a_bad_plan_is_refused_and_the_one_before_goes_on(
    make: Callable[[], object], why: str
) -> None:
    server = Server6()
    address = server.bound(A)
    with pytest.raises(SiteError, match=why):
        server.engine.replace(make())  # type: ignore[arg-type]
    assert server.bound(A) == address


def entry(**changes: object) -> Reservation6:
    values: dict[str, object] = {"duid": A, "address": FIRST, "name": None}
    return Reservation6(**(values | changes))  # type: ignore[arg-type]
