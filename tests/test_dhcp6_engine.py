"""The DHCPv6 server as an engine: every message type, what is discarded, who gets which address."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv6Address

import pytest
from dhcp6_lab import (
    FIRST,
    LAST,
    LINK_LOCAL,
    NOW,
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
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import Code6, Options6, Status, StatusCode, encode_names
from netboot.events import EventKind
from netboot.leases import LeaseState
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


# The four messages


def test_solicit_advertise_request_reply() -> None:
    server = Server6()
    offer = server.solicit(A, ia(5))
    assert offer.kind is Kind6.ADVERTISE
    assert offer.transaction == 7
    assert offer.options.client_id == A
    assert offer.options.get(Code6.SERVER_ID) == SERVER_DUID
    assert offer.options.get(Code6.PREFERENCE) == b"\xff"
    (offered,) = given(offer)
    assert server.engine.leases(server.now) == ()
    reply = server.request(A, ia(5, offered.address))
    assert reply.kind is Kind6.REPLY
    (association,) = reply.options.associations
    lease = 12 * 3600
    assert (association.iaid, association.t1, association.t2) == (5, lease // 2, lease * 4 // 5)
    (lent,) = association.addresses
    assert (lent.address, lent.preferred, lent.valid) == (offered.address, lease, lease)
    (row,) = server.engine.leases(server.now)
    assert (row.address, row.duid, row.iaid, row.mac) == (lent.address, A, 5, mac(1))
    assert server.engine.leases(server.now + lease) == ()


def test_an_advertisement_promises_nothing_and_a_reply_waits_for_the_disk() -> None:
    server = Server6()
    offered = server.send(message6(Kind6.SOLICIT, A, ia()))
    assert [(one.promises, one.port) for one in offered.sends] == [(False, 546)]
    assert offered.writes == ()
    bound = server.send(message6(Kind6.REQUEST, A, ia(), server=SERVER_DUID))
    assert [one.promises for one in bound.sends] == [True]
    (write,) = bound.writes
    assert write.lease is not None
    assert write.lease.state is LeaseState.BOUND
    assert [event.kind for event in bound.events] == [EventKind.ACK]


def test_t1_and_t2_are_what_the_plan_says() -> None:
    seconds = timedelta(seconds=1)
    server = Server6(config6(subnet6(renewal=111 * seconds, rebinding=222 * seconds)))
    server.bound(A)
    for reply in (
        server.solicit(A),
        server.ask(message6(Kind6.REBIND, A, ia())),
        server.ask(message6(Kind6.RENEW, A, ia(), server=SERVER_DUID)),
    ):
        (association,) = reply.options.associations
        assert (association.t1, association.t2) == (111, 222)


def test_preference_is_the_highest_unless_the_plan_says_another() -> None:
    plan = config6(options=(OptionValue(code=7, data=b"\x7b"),))
    server = Server6(plan)
    assert server.solicit(A).options.get(Code6.PREFERENCE) == b"\x7b"
    assert server.request(A).options.get(Code6.PREFERENCE) is None
    told = server.ask(message6(Kind6.INFORMATION_REQUEST, None, oro(7)))
    assert told.options.get(Code6.PREFERENCE) == b"\x7b"
    assert Server6().ask(message6(Kind6.INFORMATION_REQUEST, None, oro(7))).options.get(7) is None


def test_preferred_is_what_the_plan_says() -> None:
    plan = config6(subnet6(preferred=timedelta(hours=1)))
    (association,) = Server6(plan).solicit(A).options.associations
    assert (association.t1, association.t2) == (1800, 2880)
    assert association.addresses[0].preferred == 3600


def test_rapid_commit_only_where_the_plan_allows_it() -> None:
    asked = message6(Kind6.SOLICIT, A, ia(), (Code6.RAPID_COMMIT, b""))
    assert Server6().ask(asked).kind is Kind6.ADVERTISE
    server = Server6(config6(subnet6(rapid_commit=True)))
    reply = server.ask(asked)
    assert reply.kind is Kind6.REPLY
    assert reply.options.get(Code6.RAPID_COMMIT) == b""
    assert [row.address for row in server.engine.leases(NOW)] == [given(reply)[0].address]
    assert server.ask(message6(Kind6.SOLICIT, B, ia())).kind is Kind6.ADVERTISE


def test_several_ias_get_an_address_each() -> None:
    server = Server6()
    reply = server.request(A, ia(1), ia(2), ia(3))
    assert len({lent.address for lent in given(reply)}) == 3
    again = server.request(A, ia(3), ia(1), ia(2))
    by_iaid = {one.iaid: one.addresses[0].address for one in reply.options.associations}
    assert {one.iaid: one.addresses[0].address for one in again.options.associations} == by_iaid
    assert len(server.engine.leases(NOW)) == 3


def test_an_empty_pool_is_said_in_the_ia_and_as_an_event() -> None:
    server = Server6(config6(subnet6(pools=((FIRST, FIRST),))))
    assert server.bound(A) == FIRST
    outcome = server.send(message6(Kind6.SOLICIT, B, ia()), link_local(mac(2)))
    reply = Packet6.decode(outcome.sends[0].data).message
    assert reply.kind is Kind6.ADVERTISE
    assert ia_status(reply) == StatusCode.NO_ADDRESSES
    assert EventKind.POOL_EMPTY in [event.kind for event in outcome.events]
    assert ia_status(server.request(B, source=link_local(mac(2)))) == StatusCode.NO_ADDRESSES


def test_an_ended_lease_is_given_to_another_only_when_nothing_else_is_left() -> None:
    server = Server6(config6(subnet6(pools=((FIRST, FIRST + 1),))))
    first = server.bound(A)
    server.ask(message6(Kind6.RELEASE, A, ia(1, first), server=SERVER_DUID))
    other = server.bound(B, source=link_local(mac(2)))
    assert other != first  # UEFI releases its address and goes on using it
    assert server.bound(duid_ll(mac(3)), source=link_local(mac(3))) == first


def test_prefixes_and_temporary_addresses_are_refused() -> None:
    asked = (Code6.IA_PD, bytes(11) + b"\1"), (Code6.IA_TA, b"\0\0\0\7")
    reply = Server6().solicit(A, ia(), *asked)
    (prefix,), (temporary,) = reply.options.all(Code6.IA_PD), reply.options.all(Code6.IA_TA)
    assert prefix.endswith(b"\0\x0d\0\2\0\6")
    assert temporary == b"\0\0\0\7\0\x0d\0\2\0\2"
    server = Server6()
    server.bound(A)
    renewed = server.ask(message6(Kind6.RENEW, A, ia(), *asked, server=SERVER_DUID))
    assert renewed.options.all(Code6.IA_PD)[0].endswith(b"\0\x0d\0\2\0\3")


# RFC 8415, 16: what is discarded

ADDRESSED = (Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE)
TO_ALL = (Kind6.SOLICIT, Kind6.CONFIRM, Kind6.REBIND)


@pytest.mark.parametrize("kind", ADDRESSED)
def test_what_names_no_server_or_another_is_discarded(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    for named in (None, b"\0\4" + bytes(16)):
        assert is_silent(server, message6(kind, A, ia(1, address), server=named))
    assert not is_silent(server, message6(kind, A, ia(1, address), server=SERVER_DUID))
    assert is_silent(server, message6(kind, None, ia(1, address), server=SERVER_DUID))


@pytest.mark.parametrize("kind", TO_ALL)
def test_what_must_name_no_server_but_does_is_discarded(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    assert is_silent(server, message6(kind, A, ia(1, address), server=SERVER_DUID))
    assert is_silent(server, message6(kind, None, ia(1, address)))
    assert is_silent(server, message6(kind, A, ia(1, address)), multicast=False)
    assert not is_silent(server, message6(kind, A, ia(1, address)))


@pytest.mark.parametrize(
    "kind", [Kind6.ADVERTISE, Kind6.REPLY, Kind6.RECONFIGURE, Kind6.RELAY_REPLY]
)
def test_what_servers_send_is_discarded(kind: Kind6) -> None:
    if kind is Kind6.RELAY_REPLY:
        inner = Message6(kind=Kind6.SOLICIT, transaction=1, options=Options6(items=((1, A),)))
        relay = Relay6(kind=kind, hops=0, link=US, peer=LINK_LOCAL)
        assert is_silent(Server6(), Packet6(message=inner, relays=(relay,)).encode())
    else:
        assert is_silent(Server6(), message6(kind, A, ia()))
        assert is_silent(Server6(), message6(kind, A, ia(), server=SERVER_DUID))


@pytest.mark.parametrize("kind", ADDRESSED)
def test_unicast_is_told_to_use_multicast(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    asked = message6(kind, A, ia(1, address), server=SERVER_DUID)
    reply = server.ask(asked, multicast=False)
    assert status(reply) == StatusCode.USE_MULTICAST
    assert reply.options.associations == ()
    assert len(server.engine.leases(NOW)) == 1


def test_option_12_of_the_plan_allows_unicast_to_who_must_name_us() -> None:
    server = Server6(config6(options=(OptionValue(code=12, data=US.packed),)))
    assert server.solicit(A).options.get(12) == US.packed
    asked = message6(Kind6.REQUEST, A, ia(), server=SERVER_DUID)
    reply = server.ask(asked, multicast=False)
    assert given(reply)
    assert reply.options.get(12) == US.packed
    for kind in TO_ALL:
        assert is_silent(server, message6(kind, A, ia(1, FIRST)), multicast=False)
    assert is_silent(server, message6(Kind6.INFORMATION_REQUEST, A), multicast=False)


def test_an_interface_that_is_not_served_is_not_answered() -> None:
    assert is_silent(Server6(), message6(Kind6.SOLICIT, A, ia()), interface="eth9")
    off = Server6(config6(subnet6(dhcp="off")))
    assert is_silent(off, message6(Kind6.SOLICIT, A, ia()))


def test_broken_messages_are_one_event_a_minute() -> None:
    server = Server6()
    data = message6(Kind6.SOLICIT, A, (Code6.IA_NA, b"short"))
    kinds = [[event.kind for event in server.send(data).events] for _ in range(3)]
    assert kinds == [[EventKind.MALFORMED], [], []]
    server.now += 61
    assert [event.kind for event in server.send(data).events] == [EventKind.MALFORMED]
    many = [ia(number) for number in range(17)]
    assert is_silent(server, message6(Kind6.SOLICIT, A, *many))


@settings(max_examples=200)
@for_all(
    st.sampled_from(list(Kind6)),
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 4, 5, 6, 14, 15, 16, 25, 39, 59, 61]), st.binary(max_size=24)
        ),
        max_size=5,
    ),
    st.binary(max_size=8),
)
def test_any_bytes_give_an_outcome(
    kind: Kind6, items: list[tuple[int, bytes]], rest: bytes
) -> None:
    server = Server6()
    server.bound(A)
    data = Message6(kind=kind, transaction=1, options=Options6(items=tuple(items))).encode()
    for sent in (data + rest, message6(kind, A, *items, server=SERVER_DUID)):
        for reply in server.send(sent).sends:
            assert Packet6.decode(reply.data).message.kind in (Kind6.ADVERTISE, Kind6.REPLY)


# CONFIRM, RENEW, REBIND


def test_confirm_says_whether_the_link_is_the_same() -> None:
    server = Server6()
    address = server.bound(A)
    assert status(server.ask(message6(Kind6.CONFIRM, A, ia(1, address)))) == StatusCode.SUCCESS
    moved = server.ask(message6(Kind6.CONFIRM, A, ia(1, address, FAR)))
    assert status(moved) == StatusCode.NOT_ON_LINK
    assert is_silent(server, message6(Kind6.CONFIRM, A, ia()))


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_a_lease_is_lengthened(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    named = SERVER_DUID if kind is Kind6.RENEW else None
    server.now += 6 * 3600
    outcome = server.send(message6(kind, A, ia(1, address), server=named))
    assert outcome.sends[0].promises
    assert given(Packet6.decode(outcome.sends[0].data).message)[0].address == address
    (row,) = server.engine.leases(server.now + 11 * 3600)
    assert row.address == address


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_where_no_address_can_be_given_there_is_no_binding(kind: Kind6) -> None:
    server = Server6(config6(subnet6(dhcp="stateless")))
    named = SERVER_DUID if kind is Kind6.RENEW else None
    reply = server.ask(message6(kind, A, ia(1, FIRST), server=named))
    assert ia_status(reply) == StatusCode.NO_BINDING
    elsewhere = server.ask(message6(kind, A, ia(1, FAR), server=named))
    (association,) = elsewhere.options.associations
    assert [(one.address, one.valid) for one in association.addresses] == [(FAR, 0)]


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_d40_with_a_lost_database_a_renewal_keeps_its_address(kind: Kind6) -> None:
    named = SERVER_DUID if kind is Kind6.RENEW else None
    server = Server6()
    outcome = server.send(message6(kind, A, ia(1, FIRST + 5), server=named))
    assert outcome.sends[0].promises
    assert given(Packet6.decode(outcome.sends[0].data).message)[0].address == FIRST + 5
    assert [row.address for row in server.engine.leases(NOW)] == [FIRST + 5]


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_what_another_holds_ends_and_the_client_gets_an_address_of_its_own(kind: Kind6) -> None:
    named = SERVER_DUID if kind is Kind6.RENEW else None
    server = Server6()
    theirs = server.bound(B, source=link_local(mac(2)))
    reply = server.ask(message6(kind, A, ia(1, theirs), server=named))
    (association,) = reply.options.associations
    (own, ended) = association.addresses
    assert (ended.address, ended.valid) == (theirs, 0)
    assert own.valid
    assert {row.address for row in server.engine.leases(NOW)} == {theirs, own.address}


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_a_network_with_another_number_gives_an_address_of_it_and_ends_the_old(
    kind: Kind6,
) -> None:
    server = Server6()
    named = SERVER_DUID if kind is Kind6.RENEW else None
    outcome = server.send(message6(kind, A, ia(1, FAR), server=named))
    assert outcome.sends[0].promises
    (association,) = Packet6.decode(outcome.sends[0].data).message.options.associations
    (new, old) = association.addresses
    assert (old.address, old.valid, old.preferred) == (FAR, 0, 0)
    assert FIRST <= new.address <= LAST
    assert new.valid == 12 * 3600
    assert [row.address for row in server.engine.leases(NOW)] == [new.address]


def test_addresses_beside_the_leased_one_end() -> None:
    server = Server6()
    address = server.bound(A)
    reply = server.ask(message6(Kind6.RENEW, A, ia(1, FAR, address), server=SERVER_DUID))
    (association,) = reply.options.associations
    assert [(one.address, one.valid > 0) for one in association.addresses] == [
        (address, True),
        (FAR, False),
    ]


def test_a_reservation_that_came_later_takes_over_at_renewal() -> None:
    server = Server6()
    old = server.bound(A)
    wanted = IPv6Address("fd00:41:7::77")
    entry = Reservation6(duid=A, address=wanted, name="till-1")
    server.engine.replace(config6(reservations=(entry,)))
    reply = server.ask(message6(Kind6.RENEW, A, ia(1, old), server=SERVER_DUID))
    (association,) = reply.options.associations
    assert [(one.address, one.valid > 0) for one in association.addresses] == [
        (wanted, True),
        (old, False),
    ]
    assert [row.address for row in server.engine.leases(NOW)] == [wanted]


# REQUEST off the link, RELEASE, DECLINE


def test_a_request_for_another_network_is_not_on_link() -> None:
    assert ia_status(Server6().request(A, ia(1, FAR))) == StatusCode.NOT_ON_LINK


def test_release_ends_the_lease_and_the_box_gets_its_address_again() -> None:
    server = Server6()
    address = server.bound(A)
    outcome = server.send(message6(Kind6.RELEASE, A, ia(1, address), server=SERVER_DUID))
    assert status(Packet6.decode(outcome.sends[0].data).message) == StatusCode.SUCCESS
    assert outcome.sends[0].promises
    (association,) = Packet6.decode(outcome.sends[0].data).message.options.associations
    assert (association.t1, association.t2, association.addresses) == (0, 0, ())
    assert association.status == Status(code=StatusCode.SUCCESS)
    assert [event.kind for event in outcome.events] == [EventKind.RELEASE]
    assert server.engine.leases(NOW) == ()
    assert server.bound(A) == address


@pytest.mark.parametrize("kind", [Kind6.RELEASE, Kind6.DECLINE])
def test_nobody_ends_what_another_holds(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    asked = message6(kind, B, ia(1, address), server=SERVER_DUID)
    reply = server.ask(asked, link_local(mac(2)))
    assert ia_status(reply) == StatusCode.NO_BINDING
    assert status(reply) == StatusCode.SUCCESS
    assert [row.address for row in server.engine.leases(NOW)] == [address]


def test_a_declined_address_rests_for_the_quarantine_and_survives_a_restart() -> None:
    plan = config6(subnet6(pools=((FIRST, FIRST + 1),)), quarantine=timedelta(minutes=10))
    server = Server6(plan)
    address = server.bound(A)
    outcome = server.send(message6(Kind6.DECLINE, A, ia(1, address), server=SERVER_DUID))
    (event,) = outcome.events
    assert (event.kind, event.reason, event.address) == (EventKind.DECLINE, "IN-USE", address)
    again = Server6(plan, server.engine._table.leases())
    other = again.bound(A)
    assert other != address
    assert ia_status(again.request(B, source=link_local(mac(2)))) == StatusCode.NO_ADDRESSES
    again.now += 601
    assert again.bound(B, source=link_local(mac(2))) == address


def test_declining_a_reserved_address_is_an_alarm() -> None:
    wanted = IPv6Address("fd00:41:7::77")
    server = Server6(config6(reservations=(Reservation6(duid=A, address=wanted, name=None),)))
    assert server.bound(A) == wanted
    outcome = server.send(message6(Kind6.DECLINE, A, ia(1, wanted), server=SERVER_DUID))
    assert [event.reason for event in outcome.events] == ["RESERVED-IN-USE"]
    assert server.bound(A) != wanted


# INFORMATION-REQUEST and stateless


def test_settings_without_an_address() -> None:
    server = Server6()
    asked = message6(Kind6.INFORMATION_REQUEST, None, oro(23, 24, 32, 82, 83))
    reply = server.ask(asked)
    assert reply.kind is Kind6.REPLY
    assert reply.options.get(Code6.DNS_SERVERS) == US.packed
    assert reply.options.get(Code6.DOMAIN_LIST) == encode_names(["shop.example.net"])
    assert reply.options.get(Code6.REFRESH_TIME) == (12 * 3600).to_bytes(4, "big")
    for code in (Code6.SOL_MAX_RT, Code6.INF_MAX_RT):
        assert reply.options.number(code, 4) == 600
    assert reply.options.client_id is None
    assert server.ask(message6(Kind6.INFORMATION_REQUEST, A)).options.client_id == A
    assert is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, ia()))
    assert is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, server=b"\0\4x"))
    assert not is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, server=SERVER_DUID))
    assert is_silent(server, asked, multicast=False)


def test_v6_4_a_stateless_network_gives_settings_and_no_address() -> None:
    server = Server6(config6(subnet6(dhcp="stateless")))
    offer = server.solicit(A, ia(), oro(23))
    assert ia_status(offer) == StatusCode.NO_ADDRESSES
    assert offer.options.get(Code6.DNS_SERVERS) == US.packed
    assert ia_status(server.request(A)) == StatusCode.NO_ADDRESSES
    assert not is_silent(server, message6(Kind6.INFORMATION_REQUEST, A))


def test_options_of_the_nearest_level_and_only_what_was_asked() -> None:
    site = (OptionValue(code=23, data=b"s" * 16), OptionValue(code=31, data=b"site"))
    of_subnet = (OptionValue(code=31, data=b"net"), OptionValue(code=200, data=b"x", always=True))
    own = (OptionValue(code=31, data=b"own"),)
    entry = Reservation6(duid=A, address=FIRST, name=None, options=own)
    server = Server6(config6(subnet6(options=of_subnet), options=site, reservations=(entry,)))
    mine = server.solicit(A, ia(), oro(23, 31)).options
    assert (mine.get(23), mine.get(31), mine.get(200)) == (b"s" * 16, b"own", b"x")
    other = server.solicit(B, ia(), oro(31)).options
    assert (other.get(23), other.get(31)) == (None, b"net")
