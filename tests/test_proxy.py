"""ProxyDHCP rules D16, D18 and D21 to D24 against the engine: what is answered, and what never."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
    NOW,
    PXE_LIST,
    UBOOT_LIST,
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

from bootstrap.agent import dhcp as agent
from netboot.bootchoice import BootRule, BootTable, Loading, rules_of_set
from netboot.client import sub_option
from netboot.dhcp_config import DhcpConfig
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_reply import PXE_NO_DISCOVERY
from netboot.dhcp_request import Arrival
from netboot.events import EventKind
from netboot.io.proxy import wanted_ports
from netboot.network import ClientKind, Match, Parameters, Reservation
from netboot.proxy import NOTHING, Outcome, ProxyEngine, Send

US, NOBODY, EVERYBODY = ADDRESS("10.41.7.2"), ADDRESS("0.0.0.0"), ADDRESS("255.255.255.255")
BOX = ADDRESS("10.41.7.100")
SET, OTHER_SET = bytes(32), bytes([7]) * 32
SCRIPT = BootRule(
    match=Match(kinds=frozenset({ClientKind.IPXE})), file="boot.ipxe", loading=Loading.HTTP
)
BIOS = BootRule(match=Match(architectures=frozenset({0})), file="pxelinux.0", loading=Loading.TFTP)
TABLE = BootTable(
    rules=(
        SCRIPT,
        BIOS,
        *rules_of_set("amd64", "shimx64.efi", SET),
        *rules_of_set("amd64", "canary/shimx64.efi", OTHER_SET),
    )
)
PI = bytes.fromhex("dca632010203")


def plan(*subnets: object, **changes: object) -> DhcpConfig:
    beside = subnet(dhcp="proxy", pools=())
    return config(*(subnets or (beside,)), **({"boot": TABLE, "reservations": ()} | changes))


def ask(
    data: bytes,
    listener: int = 67,
    source: IPv4Address = NOBODY,
    port: int = 68,
    settings: DhcpConfig | None = None,
    interface: str = "eth1",
) -> Outcome:
    engine = ProxyEngine(settings or plan())
    arrival = Arrival(interface=interface, source=source)
    return engine.receive(data, arrival, NOW, listener=listener, port=port)


def answer(outcome: Outcome) -> tuple[Send, Message]:
    (send,) = outcome.sends
    return send, Message.decode(send.data)


def discover(*options: tuple[int, bytes], client: bytes = mac(1), **header: object) -> bytes:
    return message(MessageType.DISCOVER, client, *options, **header)


def boot_server(*options: tuple[int, bytes], **header: object) -> bytes:
    """Ask as edk2 does at port 4011."""
    header = {"ciaddr": BOX} | header
    return message(MessageType.REQUEST, mac(1), *options, **header)


def ipxe(arch: int = 7) -> tuple[tuple[int, bytes], ...]:
    return (*pxe(arch), (Code.USER_CLASS, b"iPXE"), (Code.IPXE, b"\xb1\x05\x01\x1a\xf4\x10\x00"))


@pytest.mark.parametrize(
    "options", [pxe(7), pxe(0), pxe(9), ipxe(), http_client(), http_client(16)]
)
def test_d21_an_offer_gives_no_address_and_no_lease(options) -> None:
    send, offer = answer(ask(discover(*options)))
    assert offer.options.message_type is MessageType.OFFER
    assert offer.yiaddr == offer.ciaddr == NOBODY
    assert offer.siaddr == US
    assert offer.options.address(Code.SERVER_ID) == US
    never = {Code.LEASE_TIME, Code.RENEWAL_TIME, Code.REBINDING_TIME, Code.SUBNET_MASK}
    never |= {Code.ROUTER, Code.DNS_SERVER, Code.DOMAIN_NAME, Code.HOST_NAME}
    assert never.isdisjoint(offer.options.by_code)
    assert (send.listener, send.source, send.interface) == (67, US, "eth1")
    assert (send.destination, send.port) == (EVERYBODY, 68)
    assert len(send.data) >= 300


def test_our_own_system_is_told_where_the_site_is_and_given_no_address() -> None:
    """What it sends, byte by byte; the other server's option 143 is nobody's to configure."""
    asked = agent.discover(mac(1), 7)[28:]
    send, said = answer(ask(asked))
    assert (send.destination, send.port, said.yiaddr) == (EVERYBODY, 68, NOBODY)
    assert said.options.message_type is MessageType.OFFER
    assert said.options.uris == ("https://10.41.7.2:8443",)
    assert not any(c in said.options for c in (Code.LEASE_TIME, Code.VENDOR_CLASS, Code.BOOT_FILE))
    measured = plan(subnet(dhcp="proxy", pools=(), enrols=False))
    assert ask(asked, settings=measured) == NOTHING
    assert ask(asked, listener=4011) == NOTHING
    assert ask(discover((Code.VENDOR_CLASS, b"doorstep-agent"))) == NOTHING


def test_d16_uefi_is_sent_to_port_4011_by_an_offer_that_every_edk2_keeps() -> None:
    _, offer = answer(ask(discover(*pxe(7))))
    assert offer.options.vendor_class == b"PXEClient"
    # with option 43 it would be a PXE 1.0 offer, which older edk2 drops
    assert Code.VENDOR_SPECIFIC not in offer.options
    assert (offer.file, Code.BOOT_FILE in offer.options) == (b"", False)
    assert offer.options.get(Code.CLIENT_UUID) == b"\0" + bytes(range(16))


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (pxe(0), b"pxelinux.0"),
        (ipxe(0), b"http://10.41.7.2/boot.ipxe"),
        (ipxe(7), b"http://10.41.7.2/boot.ipxe"),
    ],
)
def test_d16_bios_and_ipxe_are_given_the_file_and_discover_nothing(options, file) -> None:
    _, offer = answer(ask(discover(*options)))
    assert offer.options.vendor_class == b"PXEClient"
    assert offer.options.get(Code.VENDOR_SPECIFIC) == PXE_NO_DISCOVERY
    assert offer.file == file
    assert offer.options.get(Code.BOOT_FILE) == file + b"\0"


def test_d10_the_file_is_in_the_header_only_where_67_is_not_asked_for() -> None:
    _, offer = answer(ask(discover(*pxe(0, UBOOT_LIST))))
    assert offer.file == b"pxelinux.0"
    assert Code.BOOT_FILE not in offer.options


def test_d24_a_raspberry_pi_is_given_the_menu_that_it_looks_for() -> None:
    rule = BootRule(
        match=Match(kinds=frozenset({ClientKind.RASPBERRY_PI})), file="pi", loading=Loading.TFTP
    )
    settings = plan(boot=BootTable(rules=(rule,)))
    _, offer = answer(ask(discover(*pxe(0), client=PI), settings=settings))
    assert b"Raspberry Pi Boot" in (offer.options.get(Code.VENDOR_SPECIFIC) or b"")
    assert offer.options.vendor_class == b"PXEClient"


@pytest.mark.parametrize("uuid", [None, b"\0" * 17, b"\0" + b"\xff" * 16, b"x"])
def test_d24_97_may_be_absent_or_empty_and_is_echoed_as_it_came(uuid) -> None:
    options = [option for option in pxe(7) if option[0] != Code.CLIENT_UUID]
    options += [] if uuid is None else [(Code.CLIENT_UUID, uuid)]
    _, offer = answer(ask(discover(*options)))
    assert offer.options.get(Code.CLIENT_UUID) == uuid


def test_d24_several_architectures_and_a_zero_in_the_list_are_taken() -> None:
    several = (
        (Code.PARAMETER_LIST, bytes((0, 1, 3, 67))),
        (Code.ARCHITECTURE, b"\0\6\0\7"),
        (Code.VENDOR_CLASS, b"PXEClient:Arch:00006"),
    )
    assert ask(discover(*several)).sends
    _, ack = answer(ask(boot_server(*several), 4011, BOX, 4011))
    assert ack.options.get(Code.BOOT_FILE) == b"shimx64.efi\0"


def test_d17_d18_http_boot_gets_a_url_in_an_offer_of_its_own_class() -> None:
    _, offer = answer(ask(discover(*http_client())))
    assert offer.options.vendor_class == b"HTTPClient"
    assert offer.options.get(Code.BOOT_FILE) == b"http://10.41.7.2/shimx64.efi\0"
    assert offer.file == b""
    assert Code.VENDOR_SPECIFIC not in offer.options


@pytest.mark.parametrize(
    ("options", "name"),
    [(pxe(7), "http://10.0.0.1/x.efi"), (http_client(), "x.efi")],
)
def test_d18_no_level_of_the_plan_gives_a_url_to_pxe_or_a_name_to_http(options, name) -> None:
    settings = plan(parameters=Parameters(boot_file=name))
    assert not ask(discover(*options), settings=settings).sends
    assert not ask(boot_server(*options), 4011, BOX, 4011, settings).sends


@pytest.mark.parametrize(
    ("source", "ciaddr", "port", "destination"),
    [
        (BOX, BOX, 4011, BOX),
        (BOX, BOX, 68, BOX),
        (BOX, NOBODY, 2070, BOX),
        (NOBODY, BOX, 68, BOX),
        (NOBODY, NOBODY, 68, EVERYBODY),
    ],
)
def test_d22_port_4011_answers_to_the_port_that_asked(source, ciaddr, port, destination) -> None:
    outcome = ask(boot_server(*pxe(7), ciaddr=ciaddr), 4011, source, port)
    send, ack = answer(outcome)
    assert (send.listener, send.destination, send.port) == (4011, destination, port)
    assert ack.options.message_type is MessageType.ACK
    assert (ack.siaddr, ack.yiaddr, ack.ciaddr) == (US, NOBODY, ciaddr)
    assert ack.options.address(Code.SERVER_ID) == US
    assert (ack.file, ack.options.get(Code.BOOT_FILE)) == (b"shimx64.efi", b"shimx64.efi\0")
    assert ack.options.vendor_class == b"PXEClient"
    assert ack.options.get(Code.VENDOR_SPECIFIC) == PXE_NO_DISCOVERY
    assert ack.options.get(Code.CLIENT_UUID) == b"\0" + bytes(range(16))
    assert Code.LEASE_TIME not in ack.options
    assert len(send.data) <= 1472


def test_d22_inform_is_answered_too() -> None:
    data = message(MessageType.INFORM, mac(1), *pxe(7), ciaddr=BOX)
    assert answer(ask(data, 4011, BOX, 68))[1].options.message_type is MessageType.ACK


def test_d22_the_item_of_a_menu_is_confirmed() -> None:
    item = bytes((71, 4, 0, 0, 0, 0, 255))
    _, ack = answer(ask(boot_server(*pxe(7), (Code.VENDOR_SPECIFIC, item)), 4011, BOX, 4011))
    vendor = ack.options.get(Code.VENDOR_SPECIFIC) or b""
    assert sub_option(vendor, 71) == bytes(4)
    cut = (Code.VENDOR_SPECIFIC, b"\x47\xff\0")
    _, ack = answer(ask(boot_server(*pxe(7), cut), 4011, BOX, 4011))
    assert ack.options.get(Code.VENDOR_SPECIFIC) == PXE_NO_DISCOVERY


@pytest.mark.parametrize("seconds", [0, 4, 256, 512, 768, 65535])
def test_d23_secs_delays_and_drops_nothing(seconds) -> None:
    assert ask(discover(*pxe(7), secs=seconds)).sends
    assert ask(boot_server(*pxe(7), secs=seconds), 4011, BOX, 4011).sends


@pytest.mark.parametrize(
    "data",
    [
        discover(),
        discover((Code.VENDOR_CLASS, b"MSFT 5.0")),
        discover((Code.VENDOR_CLASS, b"U-Boot.arm"), (Code.ARCHITECTURE, b"\0\7")),
        discover(*pxe(7), op=2),
        selecting(mac(1), BOX),
        message(MessageType.REQUEST, mac(1), *pxe(7)),
        message(MessageType.INFORM, mac(1), *pxe(7), ciaddr=BOX),
        message(MessageType.RELEASE, mac(1), *pxe(7), ciaddr=BOX),
        message(MessageType.DECLINE, mac(1), *pxe(7)),
        message(MessageType.OFFER, mac(1), *pxe(7)),
    ],
)
def test_on_port_67_only_a_discover_to_boot_is_answered(data) -> None:
    assert ask(data) == NOTHING


@pytest.mark.parametrize(
    "data",
    [
        discover(*pxe(7)),
        boot_server(),
        boot_server((Code.VENDOR_CLASS, b"MSFT 5.0")),
        boot_server(*pxe(7), op=2),
        message(MessageType.RELEASE, mac(1), *pxe(7), ciaddr=BOX),
    ],
)
def test_on_port_4011_only_what_boots_and_asks_for_a_file_is_answered(data) -> None:
    assert ask(data, 4011, BOX, 4011) == NOTHING


def test_a_machine_without_a_loader_is_told_of_once_and_not_answered() -> None:
    engine = ProxyEngine(plan())
    arrival = Arrival(interface="eth1", source=NOBODY)
    outcomes = [
        engine.receive(discover(*pxe(11)), arrival, NOW + second, listener=67, port=68)
        for second in range(3)
    ]
    assert not any(outcome.sends for outcome in outcomes)
    told = [event for outcome in outcomes for event in outcome.events]
    assert [event.kind for event in told] == [EventKind.DISCOVER, EventKind.ARCHITECTURE]
    assert told[1].reason == "ARCH"


def test_events_say_that_it_was_the_proxy_and_what_was_named() -> None:
    outcome = ask(discover(*pxe(7)))
    assert [event.kind for event in outcome.events] == [EventKind.DISCOVER, EventKind.OFFER]
    assert dict(outcome.events[1].detail) == {"file": "shimx64.efi", "mode": "proxy"}
    (ack,) = ask(boot_server(*pxe(7)), 4011, BOX, 4011).events
    assert (ack.kind, ack.mac, ack.address) == (EventKind.ACK, mac(1), BOX)
    assert dict(ack.detail)["mode"] == "proxy"


def test_the_boot_set_is_assigned_to_the_address_that_asked_at_4011() -> None:
    (assignment,) = ask(boot_server(*pxe(7)), 4011, BOX, 4011).assignments
    assert (assignment.client, assignment.boot_set) == (BOX, SET)
    assert ask(discover(*pxe(7))).assignments == ()


@pytest.mark.parametrize(
    ("data", "server"),
    [
        (selecting(mac(1), BOX, *pxe(7), server="10.41.7.1"), "10.41.7.1"),
        (message(MessageType.REQUEST, mac(1), *pxe(7), ciaddr=BOX), ""),
    ],
)
def test_what_a_client_takes_from_the_other_server_is_noted_and_never_answered(
    data, server
) -> None:
    """Its files are fetched from that address, and nothing else says whose it is."""
    outcome = ask(data)
    assert outcome.sends == ()
    (event,) = outcome.events
    assert (event.kind, event.mac, event.address) == (EventKind.ACK, mac(1), BOX)
    assert (dict(event.detail)["server"], dict(event.detail)["mode"]) == (server, "proxy")
    (assignment,) = outcome.assignments
    assert (assignment.client, assignment.boot_set) == (BOX, SET)


def test_who_is_heard_beside_another_server_is_seen_once_a_minute() -> None:
    engine = ProxyEngine(plan())
    arrival = Arrival(interface="eth1", source=NOBODY)
    name = (Code.HOST_NAME, b"till-7\0")
    seen = [
        engine.receive(
            discover(*pxe(7), name), arrival, NOW + second, listener=67, port=68
        ).sightings
        for second in (0, 1, 61)
    ]
    assert [len(one) for one in seen] == [1, 0, 1]
    (first,) = seen[0]
    assert (first.key, first.mac, first.interface) == (mac(1), mac(1), "eth1")
    assert (first.architectures, first.uuid) == ((7,), b"\0" + bytes(range(16)))
    assert first.host_name == "till-7"


GUID = bytes(range(16))
SWAPPED = bytes.fromhex("0302010005040706") + GUID[8:]


@pytest.mark.parametrize("who", [{"mac": mac(1)}, {"uuid": GUID}, {"uuid": SWAPPED}])
def test_a_box_whose_reservation_names_a_boot_set_gets_that_one(who) -> None:
    canary = Reservation(**who, address=None, name=None, boot_set=OTHER_SET)
    outcome = ask(boot_server(*pxe(7)), 4011, BOX, 4011, plan(reservations=(canary,)))
    assert answer(outcome)[1].file == b"canary/shimx64.efi"
    assert outcome.assignments[0].boot_set == OTHER_SET
    own = Reservation(**who, address=None, name=None, parameters=Parameters(boot_file="mine.efi"))
    outcome = ask(boot_server(*pxe(7)), 4011, BOX, 4011, plan(reservations=(own,)))
    assert answer(outcome)[1].file == b"mine.efi"


def test_d2_a_relay_is_answered_with_option_82_last() -> None:
    agent = (Code.RELAY_AGENT, b"\1\4port")
    relay = ADDRESS("10.41.7.9")
    outcome = ask(discover(*pxe(7), agent, giaddr=relay), source=relay, interface="eth9")
    send, offer = answer(outcome)
    assert (send.destination, send.port, offer.giaddr) == (relay, 67, relay)
    assert offer.options.items[-1] == agent
    elsewhere = ADDRESS("10.9.9.9")
    assert ask(discover(*pxe(7), agent, giaddr=elsewhere), source=elsewhere) == NOTHING


def test_only_the_subnets_in_mode_proxy_are_answered_on_67_and_ours_on_4011_too() -> None:
    ours = plan(subnet(dhcp="server"))
    assert ask(discover(*pxe(7)), settings=ours) == NOTHING
    assert ask(boot_server(*pxe(7)), 4011, BOX, 4011, ours).sends
    for silent in (plan(subnet(dhcp="off")), plan(subnet(dhcp="proxy", boot=False))):
        assert ask(discover(*pxe(7)), settings=silent) == NOTHING
        assert ask(boot_server(*pxe(7)), 4011, BOX, 4011, silent) == NOTHING
    assert ask(discover(*pxe(7)), interface="eth7") == NOTHING


def test_two_networks_are_answered_each_from_its_own_address() -> None:
    second = subnet(
        name="second",
        interface="eth2",
        network=IPv4Network("10.42.0.0/24"),
        appliance=ADDRESS("10.42.0.2"),
        gateway=None,
        pools=(),
        dhcp="proxy",
    )
    both = plan(subnet(dhcp="proxy", pools=()), second)
    for interface, expected in (("eth1", US), ("eth2", ADDRESS("10.42.0.2"))):
        send, offer = answer(ask(discover(*pxe(7)), settings=both, interface=interface))
        assert (send.interface, send.source, offer.siaddr) == (interface, expected, expected)


def test_where_it_listens() -> None:
    mixed = plan(
        subnet(dhcp="proxy", interface="a", pools=()),
        subnet(dhcp="server", interface="b"),
        subnet(dhcp="off", interface="c"),
        subnet(dhcp="proxy", interface="d", boot=False),
    )
    assert wanted_ports(mixed) == {("a", 67), ("a", 4011), ("b", 4011)}


def test_a_reply_is_never_larger_than_a_frame() -> None:
    uuid, client_id = (Code.CLIENT_UUID, b"u" * 700), (Code.CLIENT_ID, b"c" * 700)
    options = [option for option in pxe(7) if option[0] != Code.CLIENT_UUID]
    send, ack = answer(ask(boot_server(*options, uuid, client_id), 4011, BOX, 4011))
    assert len(send.data) <= 1472
    assert ack.file == b"shimx64.efi"
    agent = (Code.RELAY_AGENT, b"a" * 1500)
    (event,) = ask(boot_server(*options, agent), 4011, BOX, 4011).events[-1:]
    assert event.kind is EventKind.MALFORMED


OPTIONS = st.lists(
    st.tuples(
        st.sampled_from([43, 53, 55, 57, 60, 61, 77, 82, 93, 97, 175]),
        st.binary(max_size=40)
        | st.sampled_from([b"PXEClient:Arch:00007", b"HTTPClient", b"\0\7", b"\1", b"\3"]),
    ),
    max_size=8,
    unique_by=lambda option: option[0],
)


@settings(max_examples=150, deadline=None)
@given(OPTIONS, st.sampled_from([67, 4011]), st.binary(max_size=60), st.booleans())
def test_any_packet_gives_our_answer_or_none_and_never_an_address(
    options, listener: int, junk: bytes, is_cut: bool
) -> None:
    known = [option for option in options if option[0] != Code.MESSAGE_TYPE]
    kind = MessageType.DISCOVER if listener == 67 else MessageType.REQUEST
    data = message(kind, mac(1), *known) if not is_cut else boot_server(*known)[:-40] + junk
    outcome = ask(data, listener, BOX if listener == 4011 else NOBODY, 4011)
    for send in outcome.sends:
        reply = Message.decode(send.data)
        assert reply.yiaddr == NOBODY
        assert reply.options.message_type in (MessageType.OFFER, MessageType.ACK)
        assert Code.LEASE_TIME not in reply.options
        assert len(send.data) <= 1472


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([67, 4011]))
def test_any_bytes_are_borne(data: bytes, listener: int) -> None:
    assert ask(data, listener, BOX, 68).sends == ()


def test_the_list_that_firmware_sends_asks_for_67() -> None:
    assert Code.BOOT_FILE in PXE_LIST
