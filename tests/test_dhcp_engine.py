"""The DHCP server's rules, each by its id, with packets and a number for the time."""

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
    UBOOT_LIST,
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

from netboot.bootchoice import BootRule, BootTable, Loading, rules_of_set
from netboot.dhcp import uuid_texts
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_reply import Via
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.network import ClientKind, Match, Pool, Reservation

FIRST = ADDRESS("10.41.7.100")
SCRIPT = BootRule(
    match=Match(kinds=frozenset({ClientKind.IPXE})), file="boot.ipxe", loading=Loading.TFTP
)
OURS = (Code.SERVER_ID, ADDRESS("10.41.7.2").packed)


def wanted(address: IPv4Address) -> tuple[int, bytes]:
    return (Code.REQUESTED_ADDRESS, address.packed)


def codes(reply: Message) -> list[int]:
    return [code for code, _ in reply.options.items]


def kind(reply: Message) -> MessageType | None:
    return reply.options.message_type


def test_d1_offer_and_ack_carry_times_mask_and_server() -> None:
    server = Server()
    offer = server.discover(mac(1))
    for reply in (offer, server.select(mac(1), offer.yiaddr)):
        options = reply.options
        assert options.address(Code.SERVER_ID) == ADDRESS("10.41.7.2")
        assert options.number(Code.LEASE_TIME, 4) == 43200
        assert options.number(Code.RENEWAL_TIME, 4) == 21600
        assert options.number(Code.REBINDING_TIME, 4) == 37800
        assert options.address(Code.SUBNET_MASK) == ADDRESS("255.255.255.0")
        assert options.address(Code.ROUTER) == ADDRESS("10.41.7.1")


def test_d1_a_nak_carries_only_what_it_may() -> None:
    server = Server()
    reply = server.ask(
        selecting(
            mac(1), ADDRESS("10.41.7.9"), (Code.CLIENT_ID, b"\1me"), (Code.RELAY_AGENT, b"\1\1x")
        )
    )
    assert kind(reply) is MessageType.NAK
    assert codes(reply) == [53, 54, 56, 61, 82]
    assert reply.yiaddr == reply.siaddr == ADDRESS(0)


def test_d2_a_relayed_request_goes_back_to_the_relay() -> None:
    server = Server()
    agent = b"\x01\x03abc\x02\x01z"
    data = message(
        MessageType.DISCOVER, mac(1), (Code.RELAY_AGENT, agent), *pxe(), giaddr=ADDRESS("10.41.7.3")
    )
    (sent,) = server.send(data, "elsewhere0").sends
    reply = Message.decode(sent.data)
    assert (sent.via, sent.destination, sent.port) == (Via.UNICAST, ADDRESS("10.41.7.3"), 67)
    assert reply.giaddr == ADDRESS("10.41.7.3")
    assert reply.options.items[-1] == (Code.RELAY_AGENT, agent)


def test_d2_the_link_selection_chooses_the_subnet() -> None:
    other = subnet(
        name="back",
        interface="eth2",
        network=IPv4Network("10.9.0.0/24"),
        appliance=ADDRESS("10.9.0.1"),
        gateway=None,
        pools=(Pool(first=ADDRESS("10.9.0.50"), last=ADDRESS("10.9.0.60")),),
    )
    server = Server(config(subnet(), other))
    agent = b"\x01\x01x\x05\x04" + ADDRESS("10.9.0.0").packed
    relay = {"giaddr": ADDRESS("10.41.7.3")}
    assert server.discover(mac(1), (Code.RELAY_AGENT, agent), **relay).yiaddr == ADDRESS(
        "10.9.0.50"
    )
    assert server.discover(mac(2), **relay).yiaddr == FIRST


def test_d3_a_renewal_is_answered_to_the_client_address() -> None:
    server = Server()
    address = server.bound(mac(1))
    (sent,) = server.send(message(MessageType.REQUEST, mac(1), ciaddr=address)).sends
    assert (sent.via, sent.destination, sent.port) == (Via.UNICAST, address, 68)
    reply = Message.decode(sent.data)
    assert (kind(reply), reply.yiaddr, reply.ciaddr) == (MessageType.ACK, address, address)


def test_d4_the_broadcast_flag_is_honoured() -> None:
    (sent,) = Server().send(message(MessageType.DISCOVER, mac(1), flags=0x8000)).sends
    assert (sent.via, sent.destination) == (Via.BROADCAST, ADDRESS("255.255.255.255"))


def test_d5_a_client_without_address_gets_a_frame() -> None:
    (sent,) = Server().send(message(MessageType.DISCOVER, mac(1))).sends
    assert (sent.via, sent.destination, sent.mac) == (Via.FRAME, FIRST, mac(1))


def test_d6_a_nak_is_broadcast_and_asks_a_relay_to() -> None:
    server = Server()
    wrong = (wanted(ADDRESS("192.0.2.7")),)
    (sent,) = server.send(message(MessageType.REQUEST, mac(1), *wrong)).sends
    assert sent.via is Via.BROADCAST
    assert not Message.decode(sent.data).wants_broadcast
    relayed = message(MessageType.REQUEST, mac(1), *wrong, giaddr=ADDRESS("10.41.7.3"))
    (sent,) = server.send(relayed).sends
    assert (sent.destination, sent.port) == (ADDRESS("10.41.7.3"), 67)
    assert Message.decode(sent.data).wants_broadcast


def test_d6_a_nak_to_a_renewal_is_broadcast() -> None:
    data = message(MessageType.REQUEST, mac(1), ciaddr=ADDRESS("192.0.2.7"))
    (sent,) = Server().send(data).sends
    assert (kind(Message.decode(sent.data)), sent.via) == (MessageType.NAK, Via.BROADCAST)


def test_d7_the_client_id_comes_back() -> None:
    reply = Server().discover(mac(1), (Code.CLIENT_ID, b"\xffabc"))
    assert reply.options.get(Code.CLIENT_ID) == b"\xffabc"
    assert Server().discover(mac(1)).options.get(Code.CLIENT_ID) is None


def test_d8_short_requests_are_served_and_replies_padded() -> None:
    data = message(MessageType.DISCOVER, mac(1))[:244]
    (sent,) = Server().send(data).sends
    assert len(sent.data) >= 300


@pytest.mark.parametrize(("asked", "limit"), [(1472, 1472), (65280, 1472), (0, 576), (300, 576)])
def test_d9_a_reply_is_never_too_large(asked: int, limit: int) -> None:
    reply = Server().discover(
        mac(1),
        (Code.MAX_SIZE, asked.to_bytes(2, "big")),
        (Code.CLIENT_ID, bytes(255)),
        (Code.CLIENT_UUID, bytes(1200)),
        (Code.ARCHITECTURE, b"\0\7"),
        (Code.RELAY_AGENT, bytes(255)),
    )
    assert len(reply.encode()) <= limit
    assert kind(reply) is MessageType.OFFER
    assert reply.file == b"shimx64.efi"


def test_d10_the_boot_file_is_in_the_header_when_67_is_not_asked() -> None:
    reply = Server().discover(mac(1), *pxe(wanted=UBOOT_LIST))
    assert reply.file == b"shimx64.efi"
    assert reply.options.get(Code.BOOT_FILE) is None


def test_d11_else_in_option_67_with_a_nul() -> None:
    reply = Server().discover(mac(1), *pxe())
    assert reply.options.get(Code.BOOT_FILE) == b"shimx64.efi\0"
    assert reply.file == b""


def test_d12_file_and_sname_of_the_request_are_not_echoed() -> None:
    reply = Server().discover(mac(1), file=b"boot.scr.uimg", sname=b"rogue")
    assert (reply.file, reply.sname) == (b"", b"")


def test_d13_a_request_with_the_xid_of_an_earlier_discover_is_served() -> None:
    server = Server()
    offers = [server.discover(mac(1), xid=xid) for xid in (11, 12, 13, 14)]
    assert {offer.yiaddr for offer in offers} == {FIRST}
    ack = server.ask(message(MessageType.REQUEST, mac(1), OURS, wanted(FIRST), xid=11))
    assert (kind(ack), ack.xid) == (MessageType.ACK, 11)


def test_d14_a_box_keeps_its_address_over_changing_client_ids() -> None:
    server = Server()
    rounds = (
        pxe(),
        (*pxe(), (Code.CLIENT_ID, b"\1" + mac(1)), (Code.USER_CLASS, b"iPXE")),
        ((Code.VENDOR_CLASS, b"U-Boot.armv8"),),
        ((Code.CLIENT_ID, b"\xff\1\2\3"),),
    )
    addresses = set()
    for extra in rounds:
        offer = server.discover(mac(1), *extra)
        addresses |= {offer.yiaddr, server.select(mac(1), offer.yiaddr, *extra).yiaddr}
        server.now += 30
    assert len(addresses) == 1


def test_d15_siaddr_is_ours_where_there_is_a_boot_file() -> None:
    server = Server()
    offer = server.discover(mac(1), *pxe())
    ack = server.select(mac(1), offer.yiaddr, *pxe())
    assert {offer.siaddr, ack.siaddr} == {ADDRESS("10.41.7.2")}
    assert server.discover(mac(2)).siaddr == ADDRESS(0)


def test_d16_a_pxe_client_is_told_not_to_look_for_a_proxy() -> None:
    options = Server().discover(mac(1), *pxe()).options
    assert options.vendor_class == b"PXEClient"
    assert options.get(Code.VENDOR_SPECIFIC) == bytes((6, 1, 8, 255))
    assert options.get(Code.CLIENT_UUID) == b"\0" + bytes(range(16))
    without = tuple(item for item in pxe() if item[0] != Code.CLIENT_UUID)
    assert Server().discover(mac(1), *without).options.get(Code.CLIENT_UUID) is None


def test_d17_an_http_client_gets_a_url() -> None:
    options = Server().discover(mac(1), *http_client()).options
    assert options.vendor_class == b"HTTPClient"
    assert options.get(Code.BOOT_FILE) == b"http://10.41.7.2/shimx64.efi\0"
    assert options.addresses(Code.DNS_SERVER) == (ADDRESS("10.41.7.2"),)
    assert options.get(Code.VENDOR_SPECIFIC) is None


@pytest.mark.parametrize("extra", [pxe(16), http_client(7)])
def test_d18_a_way_of_loading_never_meets_the_other(extra: tuple[tuple[int, bytes], ...]) -> None:
    server = Server()
    outcome = server.send(message(MessageType.DISCOVER, mac(1), *extra))
    reply = Message.decode(outcome.sends[0].data)
    assert (reply.file, reply.options.get(Code.BOOT_FILE)) == (b"", None)
    assert EventKind.ARCHITECTURE in [event.kind for event in outcome.events]


@pytest.mark.parametrize(
    "mark", [(Code.USER_CLASS, b"iPXE"), (Code.USER_CLASS, b"\x04iPXE"), (Code.IPXE, b"\1")]
)
def test_d19_ipxe_gets_the_script_in_each_of_twenty_rounds(mark: tuple[int, bytes]) -> None:
    loader = rules_of_set("amd64", "snponly.efi", bytes(32))
    server = Server(config(boot=BootTable(rules=(SCRIPT, *loader))))
    assert server.discover(mac(1), *pxe()).options.get(Code.BOOT_FILE) == b"snponly.efi\0"
    for _ in range(20):
        offer = server.discover(mac(1), *pxe(), mark)
        assert offer.options.get(Code.BOOT_FILE) == b"boot.ipxe\0"
        assert server.select(mac(1), offer.yiaddr, *pxe(), mark).yiaddr == offer.yiaddr


def test_d20_ipxe_need_not_wait_for_a_proxy() -> None:
    reply = Server().discover(mac(1), *pxe(), (Code.USER_CLASS, b"iPXE"))
    assert reply.options.get(Code.IPXE) == bytes((176, 1, 1))


def test_d23_secs_in_either_byte_order_delays_nothing() -> None:
    for secs in (0, 1, 256, 512):
        assert Server().discover(mac(1), secs=secs).yiaddr == FIRST


def test_d24_the_first_architecture_with_a_loader_counts() -> None:
    extra = [(c, b"\0\0\0\7" if c == Code.ARCHITECTURE else d) for c, d in pxe()]
    assert Server().discover(mac(1), *extra).options.get(Code.BOOT_FILE) == b"shimx64.efi\0"
    zero = [(c, bytes((0, 1, 67)) if c == Code.PARAMETER_LIST else d) for c, d in http_client()]
    assert Server().discover(mac(1), *zero).options.get(Code.BOOT_FILE)


def test_d24_an_architecture_without_a_loader_is_told() -> None:
    server = Server()
    outcome = server.send(message(MessageType.DISCOVER, mac(1), *pxe(0)))
    assert Message.decode(outcome.sends[0].data).file == b""
    (event,) = [event for event in outcome.events if event.kind is EventKind.ARCHITECTURE]
    assert (event.mac, event.reason) == (mac(1), "ARCH")
    assert dict(event.detail)["architectures"] == "0x0000"


def test_d25_ciaddr_in_a_discover_is_ignored() -> None:
    (sent,) = (
        Server().send(message(MessageType.DISCOVER, mac(1), ciaddr=ADDRESS("10.41.7.77"))).sends
    )
    assert (sent.via, sent.destination) == (Via.FRAME, FIRST)
    assert Message.decode(sent.data).ciaddr == ADDRESS(0)


def test_d26_a_host_name_is_seen_without_its_nul() -> None:
    outcome = Server().send(message(MessageType.DISCOVER, mac(1), (Code.HOST_NAME, b"bmc-7\0")))
    (sighting,) = outcome.sightings
    assert sighting.host_name == "bmc-7"


def test_d29_only_the_holder_declines() -> None:
    server = Server()
    address = server.bound(mac(1))
    for client, extra in (
        (mac(2), (OURS, wanted(address))),
        (mac(1), (OURS, wanted(ADDRESS("10.41.7.105")))),
    ):
        assert server.send(message(MessageType.DECLINE, client, *extra)).writes == ()
    outcome = server.send(message(MessageType.DECLINE, mac(1), OURS, wanted(address)))
    assert outcome.sends == ()
    assert outcome.events[0].reason == "IN-USE"
    assert server.discover(mac(1)).yiaddr != address
    server.now += 3700
    assert server.discover(mac(9), wanted(address)).yiaddr != address  # still remembered
    assert server.discover(mac(1)).yiaddr != address
    server.now += 90000
    assert server.discover(mac(9), wanted(address)).yiaddr == address


def test_d29_an_offer_can_be_declined_but_not_an_ended_lease() -> None:
    server = Server()
    offer = server.discover(mac(1))
    assert server.send(message(MessageType.DECLINE, mac(1), OURS, wanted(offer.yiaddr))).writes
    address = server.bound(mac(2))
    server.now += 43201
    assert server.send(message(MessageType.DECLINE, mac(2), OURS, wanted(address))).writes == ()


def test_d29_the_holder_of_a_reservation_declining_is_an_alarm() -> None:
    server = Server()
    assert server.bound(RESERVED_MAC) == RESERVED.address
    outcome = server.send(
        message(MessageType.DECLINE, RESERVED_MAC, OURS, wanted(RESERVED.address))
    )
    assert outcome.events[0].reason == "RESERVED-IN-USE"
    assert server.discover(RESERVED_MAC).yiaddr == FIRST


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
