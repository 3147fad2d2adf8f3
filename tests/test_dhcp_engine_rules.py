"""The DHCP server's rules from D30 on, and what a plan may say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
    NOW,
    RESERVED,
    RESERVED_MAC,
    Server,
    config,
    http_client,
    mac,
    message,
    pxe,
    selecting,
    subnet,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.bootchoice import BootTable, rules_of_set
from netboot.dhcp import uuid_texts
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_reply import Via
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.network import Pool, Reservation

FIRST = ADDRESS("10.41.7.100")
OURS = (Code.SERVER_ID, ADDRESS("10.41.7.2").packed)


def wanted(address: IPv4Address) -> tuple[int, bytes]:
    return (Code.REQUESTED_ADDRESS, address.packed)


def codes(reply: Message) -> list[int]:
    return [code for code, _ in reply.options.items]


def kind(reply: Message) -> MessageType | None:
    return reply.options.message_type


def test_d30_init_reboot_without_option_50_gets_no_answer() -> None:
    server = Server()
    server.bound(mac(1))
    assert server.send(message(MessageType.REQUEST, mac(1))).sends == ()


def test_d31_init_reboot_in_the_wrong_net_gets_a_nak() -> None:
    reply = Server().ask(message(MessageType.REQUEST, mac(1), wanted(ADDRESS("192.168.1.7"))))
    assert kind(reply) is MessageType.NAK


def test_d31_init_reboot_of_a_stranger_gets_silence_and_of_a_known_box_its_lease() -> None:
    server = Server()
    assert server.send(message(MessageType.REQUEST, mac(1), wanted(FIRST))).sends == ()
    assert server.bound(mac(1)) == FIRST
    assert kind(server.ask(message(MessageType.REQUEST, mac(1), wanted(FIRST)))) is MessageType.ACK
    other = wanted(ADDRESS("10.41.7.50"))
    assert kind(server.ask(message(MessageType.REQUEST, mac(1), other))) is MessageType.NAK


def test_d32_a_request_to_another_server_frees_the_offer_in_silence() -> None:
    server = Server()
    assert server.discover(mac(1)).yiaddr == FIRST
    outcome = server.send(selecting(mac(1), FIRST, server="10.41.7.66"))
    assert (outcome.sends, outcome.writes) == ((), ())
    foreign, elsewhere = outcome.events
    assert (foreign.kind, foreign.address) == (EventKind.FOREIGN, ADDRESS("10.41.7.66"))
    assert (elsewhere.kind, elsewhere.mac, elsewhere.reason, elsewhere.detail) == (
        EventKind.ELSEWHERE,
        mac(1),
        "OTHER-DHCP",
        (("server", "10.41.7.66"),),
    )
    assert server.discover(mac(2)).yiaddr == FIRST


def test_d32_each_client_that_goes_elsewhere_is_told_of() -> None:
    server = Server()
    told = [
        event.mac
        for number in (1, 2, 1)
        for event in server.send(selecting(mac(number), FIRST, server="10.41.7.66")).events
        if event.kind is EventKind.ELSEWHERE
    ]
    assert told == [mac(1), mac(2)]


def test_d32_our_own_address_on_another_subnet_is_no_foreign_server() -> None:
    other = subnet(
        name="back",
        interface="eth2",
        network=IPv4Network("10.9.0.0/24"),
        appliance=ADDRESS("10.9.0.1"),
        gateway=None,
        pools=(),
    )
    outcome = Server(config(subnet(), other)).send(selecting(mac(1), FIRST, server="10.9.0.1"))
    assert (outcome.sends, outcome.events) == ((), ())


def test_d33_release_and_decline_without_their_options_are_ignored() -> None:
    server = Server()
    address = server.bound(mac(1))
    for data in (
        message(MessageType.RELEASE, mac(1), ciaddr=address),
        message(MessageType.RELEASE, mac(1), OURS),
        message(MessageType.RELEASE, mac(2), OURS, ciaddr=address),
        message(MessageType.DECLINE, mac(1), OURS),
        message(MessageType.DECLINE, mac(1), wanted(address)),
    ):
        outcome = server.send(data)
        assert (outcome.sends, outcome.writes, outcome.events) == ((), (), ())
    assert len(server.engine.leases(server.now)) == 1


def test_a_release_ends_the_lease_and_the_box_gets_the_address_again() -> None:
    server = Server()
    address = server.bound(mac(1))
    outcome = server.send(message(MessageType.RELEASE, mac(1), OURS, ciaddr=address))
    assert outcome.writes[0].lease is not None
    assert [event.kind for event in outcome.events] == [EventKind.RELEASE]
    assert server.engine.leases(server.now) == ()
    assert server.discover(mac(2)).yiaddr != address
    assert server.discover(mac(1)).yiaddr == address


def test_a_release_of_an_ended_lease_is_no_event() -> None:
    server = Server()
    address = server.bound(mac(1))
    server.now += 43201
    outcome = server.send(message(MessageType.RELEASE, mac(1), OURS, ciaddr=address))
    assert (outcome.events, outcome.writes) == ((), ())


def test_a_reserved_address_that_is_taken_does_not_end_a_lease() -> None:
    server = Server()
    address, other = server.bound(mac(1)), server.bound(mac(2))
    taken = Reservation(mac=mac(1), address=other, name=None)
    server.engine.replace(config(reservations=(taken,)), server.now)
    renewal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=address))
    assert (kind(renewal), renewal.yiaddr) == (MessageType.ACK, address)


def test_d34_inform_gets_settings_and_no_lease() -> None:
    server = Server()
    data = message(MessageType.INFORM, mac(1), ciaddr=ADDRESS("10.41.7.77"))
    outcome = server.send(data)
    (sent,) = outcome.sends
    reply = Message.decode(sent.data)
    assert (sent.via, sent.destination) == (Via.UNICAST, ADDRESS("10.41.7.77"))
    assert (kind(reply), reply.yiaddr, outcome.writes) == (MessageType.ACK, ADDRESS(0), ())
    assert not {51, 58, 59} & set(codes(reply))
    assert reply.options.address(Code.DNS_SERVER) == ADDRESS("10.41.7.2")
    assert server.send(message(MessageType.INFORM, mac(1))).sends == ()


def test_d36_a_guid_is_printed_both_ways_and_kept_raw() -> None:
    raw = b"\0" + bytes(range(16))
    assert dict(uuid_texts(raw)) == {
        "uuid": "03020100-0504-0706-0809-0a0b0c0d0e0f",
        "uuid_as_written": "00010203-0405-0607-0809-0a0b0c0d0e0f",
    }
    assert uuid_texts(bytes(17)) == uuid_texts(None) == uuid_texts(b"\0") == ()
    (sighting,) = Server().send(message(MessageType.DISCOVER, mac(1), *pxe())).sightings
    assert sighting.uuid == raw


def test_d37_other_hardware_gets_an_address_by_broadcast_and_keeps_it() -> None:
    server = Server()
    guid = bytes(range(16))
    data = message(MessageType.DISCOVER, guid, htype=255)
    (sent,) = server.send(data).sends
    assert sent.via is Via.BROADCAST
    reply = Message.decode(sent.data)
    assert (reply.chaddr, reply.htype, reply.yiaddr) == (guid, 255, FIRST)
    by_id = server.discover(b"", (Code.CLIENT_ID, b"ib-1"))
    assert by_id.yiaddr != FIRST
    assert server.discover(b"", (Code.CLIENT_ID, b"ib-1")).yiaddr == by_id.yiaddr
    outcome = server.send(message(MessageType.DISCOVER, b""))
    assert [event.kind for event in outcome.events] == [EventKind.MALFORMED]


def test_d38_a_flood_leaves_reservations_and_known_boxes_served() -> None:
    server = Server()
    known = [server.bound(mac(number)) for number in range(5)]
    server.now += 43300  # their leases are over, they are remembered
    events = 0
    for number in range(10_000):
        outcome = server.send(message(MessageType.DISCOVER, mac(1_000_000 + number)))
        events += len(outcome.events)
        server.now += 0.001
    assert server.bound(RESERVED_MAC) == RESERVED.address
    assert [server.bound(mac(number)) for number in range(5)] == known
    assert events < 5000


def test_d40_after_a_restart_a_box_gets_the_same_address_and_no_nak() -> None:
    server = Server()
    addresses = {number: server.bound(mac(number)) for number in range(4)}
    rows = server.engine.leases(server.now)
    again = Server(leases=rows)
    for number, address in reversed(addresses.items()):
        renewal = again.ask(message(MessageType.REQUEST, mac(number), ciaddr=address))
        assert (kind(renewal), renewal.yiaddr) == (MessageType.ACK, address)
        reboot = again.ask(message(MessageType.REQUEST, mac(number), wanted(address)))
        assert kind(reboot) is MessageType.ACK
        assert again.discover(mac(number)).yiaddr == address


def test_d40_with_a_lost_database_renewals_and_open_offers_are_confirmed() -> None:
    offer = Server().discover(mac(1))
    again = Server()
    assert kind(again.select(mac(1), offer.yiaddr)) is MessageType.ACK
    renewal = again.ask(message(MessageType.REQUEST, mac(2), ciaddr=ADDRESS("10.41.7.104")))
    assert kind(renewal) is MessageType.ACK
    stolen = again.ask(message(MessageType.REQUEST, mac(3), ciaddr=ADDRESS("10.41.7.104")))
    assert kind(stolen) is MessageType.NAK


def test_d41_each_interface_answers_with_its_own_address() -> None:
    other = subnet(
        name="back",
        interface="eth2",
        network=IPv4Network("10.9.0.0/24"),
        appliance=ADDRESS("10.9.0.1"),
        gateway=None,
        pools=(Pool(first=ADDRESS("10.9.0.50"), last=ADDRESS("10.9.0.60")),),
    )
    server = Server(config(subnet(), other))
    for interface, address in (("eth1", "10.41.7.2"), ("eth2", "10.9.0.1")):
        data = message(MessageType.DISCOVER, mac(1), *http_client())
        (sent,) = server.send(data, interface).sends
        reply = Message.decode(sent.data)
        assert (sent.interface, sent.source) == (interface, ADDRESS(address))
        assert reply.options.address(Code.SERVER_ID) == reply.siaddr == ADDRESS(address)
        assert reply.options.get(Code.BOOT_FILE) == f"http://{address}/shimx64.efi\0".encode()
    assert server.send(message(MessageType.DISCOVER, mac(1)), "eth3").sends == ()


def test_d42_the_phone_home_address_is_given_when_asked() -> None:
    asked = Server().discover(mac(1), (Code.PARAMETER_LIST, bytes((1, 3, 143))))
    assert asked.options.uris == ("https://10.41.7.2:8443",)
    assert asked.options.get(Code.SZTP_REDIRECT) == b"\x00\x16https://10.41.7.2:8443"
    assert Server().discover(mac(1), *pxe()).options.get(Code.SZTP_REDIRECT) is None


def test_names_are_given_where_a_reservation_has_one() -> None:
    server = Server()
    options = server.discover(RESERVED_MAC).options
    assert options.text(Code.HOST_NAME) == "printer-1"
    assert options.text(Code.DOMAIN_NAME) == "shop.example.net"
    assert server.discover(mac(1)).options.get(Code.HOST_NAME) is None
    assert server.bound(RESERVED_MAC) == RESERVED.address
    assert server.engine.leases(server.now)[0].name == "printer-1"


def test_only_an_ack_promises_and_it_comes_with_its_write() -> None:
    server = Server()
    outcome = server.send(message(MessageType.DISCOVER, mac(1)))
    assert not outcome.sends[0].promises
    outcome = server.send(selecting(mac(1), FIRST))
    assert outcome.sends[0].promises
    (write,) = outcome.writes
    assert write.lease is not None
    assert (write.address, write.lease.mac, write.lease.expires) == (FIRST, mac(1), NOW + 43200)


def test_a_full_pool_is_told_once_a_minute() -> None:
    server = Server()
    for number in range(10):
        server.bound(mac(number))
    first = server.send(message(MessageType.DISCOVER, mac(50)))
    again = server.send(message(MessageType.DISCOVER, mac(50)))
    assert (first.sends, again.sends, again.events) == ((), (), ())
    assert EventKind.POOL_EMPTY in [event.kind for event in first.events]
    server.now += 61
    assert server.send(message(MessageType.DISCOVER, mac(50))).events


def test_a_discover_is_told_once_a_minute_for_each_client() -> None:
    server = Server()

    def told(client: bytes) -> list[EventKind]:
        return [event.kind for event in server.send(message(MessageType.DISCOVER, client)).events]

    assert told(mac(1)) == [EventKind.DISCOVER, EventKind.OFFER]
    assert told(mac(1)) == []
    assert told(mac(2)) == [EventKind.DISCOVER, EventKind.OFFER]
    server.now -= 86400 * 365  # the clock was set back
    assert told(mac(1)) == [EventKind.DISCOVER, EventKind.OFFER]


def test_a_changed_plan_keeps_leases_and_moves_a_box_to_its_reservation() -> None:
    server = Server()
    address = server.bound(mac(1))
    moved = Reservation(mac=mac(1), address=ADDRESS("10.41.7.30"), name="pos-01")
    server.engine.replace(config(reservations=(RESERVED, moved)), server.now)
    assert [lease.address for lease in server.engine.leases(server.now)] == [address]
    refusal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=address))
    assert kind(refusal) is MessageType.NAK
    later = server.bound(mac(2))
    assert later != address
    assert server.bound(mac(1)) == moved.address
    leases = server.engine.leases(server.now)
    assert {lease.address for lease in leases} == {moved.address, later}
    assert server.bound(mac(3)) == address  # the row before is gone, and its address is fresh


def test_an_address_becomes_a_reservation_where_it_is() -> None:
    server = Server()
    address = server.bound(mac(1))
    kept = Reservation(mac=mac(1), address=address, name="pos-01")
    server.engine.replace(config(reservations=(kept,)), server.now)
    renewal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=address))
    assert (kind(renewal), renewal.options.text(Code.HOST_NAME)) == (MessageType.ACK, "pos-01")
    server.now += 10 * 86400
    assert server.discover(mac(2), wanted(address)).yiaddr != address


def test_a_wrong_plan_is_refused_and_the_old_one_stays() -> None:
    server = Server()
    wrong = replace(RESERVED, mac=mac(9))
    with pytest.raises(SiteError, match="given twice"):
        server.engine.replace(config(reservations=(RESERVED, wrong)), server.now)
    with pytest.raises(SiteError, match="does not fit"):
        server.engine.replace(
            config(boot=BootTable(rules=rules_of_set("amd64", "x" * 130, bytes(32)))), server.now
        )
    assert server.bound(RESERVED_MAC) == RESERVED.address


@pytest.mark.parametrize(
    "changes",
    [
        {"appliance": ADDRESS("10.0.0.1")},
        {"pools": (Pool(first=ADDRESS("10.41.7.9"), last=ADDRESS("10.41.7.3")),)},
        {"pools": (Pool(first=ADDRESS("10.41.7.9"), last=ADDRESS("10.41.8.3")),)},
        {"lease": timedelta(milliseconds=900)},
        {
            "network": IPv4Network("10.0.0.0/8"),
            "pools": (Pool(first=ADDRESS("10.0.0.1"), last=ADDRESS("10.16.0.1")),),
        },
        {
            "pools": (
                Pool(first=ADDRESS("10.41.7.9"), last=ADDRESS("10.41.7.20")),
                Pool(first=ADDRESS("10.41.7.20"), last=ADDRESS("10.41.7.30")),
            )
        },
    ],
)
def test_a_subnet_that_cannot_work_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SiteError, match="tills"):
        Server(config(subnet(**changes)))


def test_subnets_that_overlap_or_share_an_interface_are_refused() -> None:
    with pytest.raises(SiteError, match="overlap"):
        Server(config(subnet(), subnet(name="b", interface="eth2")))
    far = subnet(
        name="b", network=IPv4Network("10.9.0.0/24"), appliance=ADDRESS("10.9.0.1"), pools=()
    )
    with pytest.raises(SiteError, match="share one interface"):
        Server(config(subnet(), far))


def test_no_answer_where_dhcp_is_off_and_no_file_where_boot_is_off() -> None:
    assert (
        Server(config(subnet(dhcp="off"))).send(message(MessageType.DISCOVER, mac(1))).sends == ()
    )
    reply = Server(config(subnet(boot=False))).discover(mac(1), *pxe())
    assert (reply.options.get(Code.BOOT_FILE), reply.siaddr) == (None, ADDRESS(0))


def test_replies_and_bootp_are_not_answered() -> None:
    server = Server()
    assert server.send(message(MessageType.DISCOVER, mac(1), op=2)).sends == ()
    assert server.send(message(MessageType.OFFER, mac(1))).sends == ()
    bootp = Message(op=1, xid=1, chaddr=mac(1)).encode()
    assert server.send(bootp).sends == ()


def test_deadline_is_when_the_offer_ends() -> None:
    server = Server()
    server.bound(mac(2))
    assert server.engine.deadline() is None
    server.discover(mac(1))
    assert server.engine.deadline() == NOW + 30
    server.engine.tick(NOW + 31)
    assert server.engine.deadline() is None


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(MessageType),
    st.lists(
        st.tuples(
            st.sampled_from([12, 50, 54, 55, 57, 60, 61, 77, 82, 93, 97, 143, 175]),
            st.binary(max_size=300),
        ),
        max_size=6,
        unique_by=lambda item: item[0],
    ),
    st.binary(max_size=16),
    st.integers(0, 2**32 - 1).map(IPv4Address),
)
def test_whatever_a_client_writes_the_engine_answers_or_drops(
    kind: MessageType, extra: list[tuple[int, bytes]], chaddr: bytes, ciaddr: IPv4Address
) -> None:
    server = Server()
    for sent in server.send(message(kind, chaddr, *extra, ciaddr=ciaddr)).sends:
        assert 300 <= len(sent.data) <= 1472
        assert Message.decode(sent.data).xid == 7
