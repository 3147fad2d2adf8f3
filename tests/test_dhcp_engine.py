"""The DHCP server's rules, each by its id, with packets and a number for the time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
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

from netboot.bootchoice import BootRule, BootTable, Loading, rules_of_set
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_reply import Via
from netboot.events import EventKind
from netboot.network import ClientKind, Match, Pool

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
