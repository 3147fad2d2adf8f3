"""What a plan says of clients: facts, classes, boot choice, reservations."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
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

from netboot.bootchoice import (
    ARCHITECTURE_NAMES,
    BootRule,
    BootTable,
    Loading,
    rules_of_set,
)
from netboot.classes import classify, matches
from netboot.client import facts_of, sub_option
from netboot.dhcp import Assignment
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.network import (
    ClientClass,
    ClientKind,
    Identify,
    Match,
    OptionValue,
    Parameters,
    Pool,
    Reservation,
)

OURS = (Code.SERVER_ID, ADDRESS("10.41.7.2").packed)
FIRST = ADDRESS("10.41.7.100")
UUID = bytes(range(16))
SAID_UUID = (Code.CLIENT_UUID, b"\0" + UUID)
PI = bytes.fromhex("dca632000001")
SET_A, SET_B = bytes(32), b"\1" * 32
TWO_SETS = BootTable(
    rules=(*rules_of_set("amd64", "a/shim.efi", SET_A), *rules_of_set("amd64", "b/shim.efi", SET_B))
)


def facts(client: bytes, *extra: tuple[int, bytes], **header: object):  # type: ignore[no-untyped-def]
    return facts_of(Message.decode(message(MessageType.DISCOVER, client, *extra, **header)))


def only(rule: BootRule, **changes: object) -> Server:
    return Server(config(boot=BootTable(rules=(rule,), **changes)))  # type: ignore[arg-type]


def file_of(reply: Message) -> bytes | None:
    return reply.options.get(Code.BOOT_FILE) or reply.file or None


# Facts and classes


@pytest.mark.parametrize(
    ("client", "extra", "kind"),
    [
        (mac(1), pxe(), ClientKind.PXE),
        (mac(1), ((Code.VENDOR_CLASS, b"PXEClient"),), ClientKind.PXE),
        (mac(1), ((Code.ARCHITECTURE, b"\0\7"),), ClientKind.PXE),
        (mac(1), http_client(), ClientKind.HTTP),
        (mac(1), (*pxe(), (Code.USER_CLASS, b"\4iPXE")), ClientKind.IPXE),
        (mac(1), ((Code.IPXE, b""),), ClientKind.IPXE),
        (mac(1), ((Code.VENDOR_CLASS, b"U-Boot.armv8"),), ClientKind.UBOOT),
        (PI, pxe(0), ClientKind.RASPBERRY_PI),
        (PI, pxe(11), ClientKind.PXE),
        (PI, (), ClientKind.OTHER),
        (mac(1), ((Code.VENDOR_CLASS, b"MSFT 5.0"),), ClientKind.OTHER),
        (mac(1), (), ClientKind.OTHER),
    ],
)
def test_d24_the_kind_of_a_client_is_what_it_says_and_a_pi_is_told_by_its_oui(
    client: bytes, extra: tuple[tuple[int, bytes], ...], kind: ClientKind
) -> None:
    assert facts(client, *extra).kind is kind


@pytest.mark.parametrize(
    ("data", "uuid"),
    [
        (b"\0" + UUID, UUID),
        (bytes(17), None),
        (b"\0" + b"\xff" * 16, None),
        (b"\1" + UUID, None),
        (UUID, None),
        (b"", None),
    ],
)
def test_d36_a_uuid_is_16_bytes_of_type_0_and_not_made_of_one(
    data: bytes, uuid: bytes | None
) -> None:
    assert facts(mac(1), (Code.CLIENT_UUID, data)).uuid == uuid


@given(st.binary(max_size=40), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_relay_agents_option(data: bytes, wanted: int) -> None:
    found = sub_option(data, wanted)
    assert found is None or bytes((wanted, len(found))) + found in data


RELAYED = (Code.RELAY_AGENT, b"\1\2p7\2\3sw1")


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        (Match(kinds=frozenset({ClientKind.PXE})), pxe(), http_client()),
        (Match(architectures=frozenset({7, 9})), pxe(9), pxe(6)),
        (Match(vendor_class=(b"MSFT", b"PXE")), pxe(), http_client()),
        (Match(user_class=(b"till",)), ((77, b"\4till\1x"),), ((77, b"\5till2"),)),
        (Match(uuid=(UUID,)), (SAID_UUID,), ()),
        (Match(circuit_id=(b"p7",)), (RELAYED,), ()),
        (Match(remote_id=(b"sw1",)), (RELAYED,), ((82, b"\2\3sw2"),)),
        (Match(options=((200, None),)), ((200, b"x"),), ()),
        (Match(options=((200, b"x"), (201, b"y"))), ((200, b"x"), (201, b"y")), ((201, b"y"),)),
        (Match(mac=(mac(1)[:3],)), (), None),
        (Match(relays=(ADDRESS("10.0.0.1"),)), None, ()),
        (Match(known=False), (), None),
        (Match(known=True), None, ()),
        (Match(), (), None),
        (
            Match(kinds=frozenset({ClientKind.PXE}), vendor_class=(b"PXEClient",)),
            pxe(),
            ((Code.ARCHITECTURE, b"\0\7"),),
        ),
    ],
)
def test_every_condition_of_a_match_must_hold(
    match: Match,
    yes: tuple[tuple[int, bytes], ...] | None,
    no: tuple[tuple[int, bytes], ...] | None,
) -> None:
    if yes is not None:
        assert matches(match, facts(mac(1), *yes))
    if no is not None:
        assert not matches(match, facts(mac(1), *no))


def test_a_match_knows_the_relay_the_mac_and_who_is_known() -> None:
    relay = ADDRESS("10.0.0.1")
    assert matches(Match(relays=(relay,)), facts(mac(1), giaddr=relay))
    assert not matches(Match(mac=(mac(2),)), facts(mac(1)))
    assert matches(Match(known=True), replace(facts(mac(1)), known=True))
    assert not matches(Match(mac=(b"",)), facts(bytes(16), htype=255))


def test_classes_are_given_in_the_order_of_the_plan() -> None:
    classes = tuple(ClientClass(name=name, match=Match()) for name in ("b", "a"))
    never = ClientClass(name="c", match=Match(known=True))
    assert [known.name for known in classify(facts(mac(1)), (*classes, never))] == ["b", "a"]


def test_the_first_class_goes_before_the_second() -> None:
    said = [Parameters(options=(OptionValue(code=17, data=name),)) for name in (b"b", b"a")]
    classes = tuple(
        ClientClass(name=name, match=Match(), parameters=level)
        for name, level in zip(("b", "a"), said, strict=True)
    )
    reply = Server(config(classes=classes)).discover(mac(1), (Code.PARAMETER_LIST, b"\x11"))
    assert reply.options.get(17) == b"b"


# Boot choice


def test_d19_ipxe_never_gets_a_binary_of_its_own() -> None:
    everybody = Match(architectures=frozenset({7}))
    for name in ("ipxe.efi", "x/snponly.efi", "undionly.kpxe", "IPXE.EFI", "ipxe.lkrn"):
        server = only(BootRule(match=everybody, file=name, loading=Loading.TFTP))
        for _ in range(20):
            ask = (*pxe(), (Code.USER_CLASS, b"iPXE"))
            assert file_of(server.discover(mac(1), *ask)) is None
        assert file_of(server.discover(mac(2), *pxe())) == name.encode() + b"\0"
    script = only(BootRule(match=everybody, file="boot.ipxe", loading=Loading.TFTP))
    assert file_of(script.discover(mac(1), *pxe(), (Code.USER_CLASS, b"iPXE"))) == b"boot.ipxe\0"


def test_d18_ipxe_may_load_either_way_and_a_loader_only_its_own() -> None:
    for loading in Loading:
        server = only(BootRule(match=Match(), file="x", loading=loading), https_port=443)
        is_tftp = loading is Loading.TFTP
        assert file_of(server.discover(mac(1), *pxe(), (Code.IPXE, b"x"))) is not None
        assert (file_of(server.discover(mac(2), *pxe())) is not None) is is_tftp
        assert (file_of(server.discover(mac(3), *http_client())) is not None) is not is_tftp
        uboot = (Code.VENDOR_CLASS, b"U-Boot")
        assert (file_of(server.discover(mac(4), uboot)) is not None) is is_tftp


@pytest.mark.parametrize(
    ("loading", "file", "port", "url"),
    [
        (Loading.HTTP, "/f/shim.efi", 8444, b"http://10.41.7.2/f/shim.efi\0"),
        (Loading.HTTPS, "f/shim.efi", 8444, b"https://10.41.7.2:8444/f/shim.efi\0"),
        (Loading.HTTPS, "f/shim.efi", 443, b"https://10.41.7.2/f/shim.efi\0"),
        (Loading.HTTPS, "https://hq.example/shim.efi", 443, b"https://hq.example/shim.efi\0"),
    ],
)
def test_d17_a_url_names_us_and_the_port(
    loading: Loading, file: str, port: int, url: bytes
) -> None:
    server = only(BootRule(match=Match(), file=file, loading=loading), https_port=port)
    assert file_of(server.discover(mac(1), *http_client())) == url


def test_d17_https_without_a_port_is_refused() -> None:
    rule = BootRule(match=Match(), file="x", loading=Loading.HTTPS)
    with pytest.raises(SiteError, match="no port"):
        only(rule)


def test_d24_a_raspberry_pi_finds_its_words_in_option_43() -> None:
    rule = BootRule(
        match=Match(kinds=frozenset({ClientKind.RASPBERRY_PI})),
        file="start4.elf",
        loading=Loading.TFTP,
    )
    reply = only(rule).discover(PI, *pxe(0))
    vendor = reply.options.get(Code.VENDOR_SPECIFIC) or b""
    assert sub_option(vendor, 6) == b"\x08"
    assert sub_option(vendor, 9) == b"\0\0\x11Raspberry Pi Boot"
    assert sub_option(vendor, 10) == b"\0PXE"
    assert (reply.options.vendor_class, reply.siaddr) == (b"PXEClient", ADDRESS("10.41.7.2"))
    assert file_of(only(rule).discover(mac(1), *pxe(0))) is None


def test_a_box_boots_the_set_that_its_reservation_names_and_others_the_first() -> None:
    canary = Reservation(mac=mac(1), address=None, name=None, boot_set=SET_B)
    lost = Reservation(mac=mac(2), address=None, name=None, boot_set=b"\2" * 32)
    server = Server(config(boot=TWO_SETS, reservations=(canary, lost)))
    for client, name, digest in (
        (mac(1), b"b/shim.efi\0", SET_B),
        (mac(2), b"a/shim.efi\0", SET_A),
        (mac(3), b"a/shim.efi\0", SET_A),
    ):
        outcome = server.send(message(MessageType.DISCOVER, client, *pxe()))
        reply = Message.decode(outcome.sends[0].data)
        assert file_of(reply) == name
        assert outcome.assignments == (Assignment(client=reply.yiaddr, boot_set=digest),)
        outcome = server.send(selecting(client, reply.yiaddr, *pxe()))
        assert outcome.assignments == (Assignment(client=reply.yiaddr, boot_set=digest),)
    assert server.send(message(MessageType.DISCOVER, mac(9))).assignments == ()


def test_an_operators_rule_goes_before_the_sets_and_assigns_none() -> None:
    mine = BootRule(match=Match(mac=(mac(1),)), file="mine.efi", loading=Loading.TFTP)
    canary = Reservation(mac=mac(1), address=None, name=None, boot_set=SET_B)
    table = BootTable(rules=(mine, *TWO_SETS.rules))
    outcome = Server(config(boot=table, reservations=(canary,))).send(
        message(MessageType.DISCOVER, mac(1), *pxe())
    )
    assert file_of(Message.decode(outcome.sends[0].data)) == b"mine.efi\0"
    assert outcome.assignments == ()


def test_a_file_of_the_plans_own_goes_to_everybody_and_url_or_not() -> None:
    own = Parameters(boot_file="http://hq.example/x.efi", next_server=ADDRESS("10.41.7.9"))
    server = Server(config(parameters=own))
    reply = server.discover(mac(1), *http_client())
    assert file_of(reply) == b"http://hq.example/x.efi\0"
    assert (reply.options.vendor_class, reply.siaddr) == (b"HTTPClient", ADDRESS("10.41.7.9"))
    plain = server.discover(mac(2))
    assert (plain.file, plain.options.vendor_class) == (b"http://hq.example/x.efi", b"")


def test_a_file_of_the_plans_own_is_an_option_for_who_asks_and_every_url_is_one() -> None:
    for name, unasked in (("x.0", None), ("http://hq/x", b"http://hq/x\0")):
        server = Server(config(parameters=Parameters(boot_file=name)))
        asking = server.discover(mac(1), (Code.PARAMETER_LIST, b"\x43"))
        assert asking.options.get(Code.BOOT_FILE) == name.encode() + b"\0"
        assert server.discover(mac(2)).options.get(Code.BOOT_FILE) == unasked


def test_an_option_that_the_plan_sends_takes_the_place_of_ours() -> None:
    own = OptionValue(code=Code.VENDOR_SPECIFIC, data=b"\1\1x", always=True)
    reply = Server(config(parameters=Parameters(options=(own,)))).discover(mac(1), *pxe())
    assert reply.options.get(Code.VENDOR_SPECIFIC) == b"\1\1x"
    assert reply.options.vendor_class == b"PXEClient"


def test_uboot_without_architecture_is_no_missing_loader() -> None:
    outcome = Server().send(message(MessageType.DISCOVER, mac(1), (Code.VENDOR_CLASS, b"U-Boot")))
    assert EventKind.ARCHITECTURE not in [event.kind for event in outcome.events]


def test_architectures_have_one_name_each() -> None:
    assert len(set(ARCHITECTURE_NAMES.values())) == len(ARCHITECTURE_NAMES)
    for name, number in (("x86-bios", 0), ("x64-uefi", 7), ("arm64-uefi", 11)):
        assert ARCHITECTURE_NAMES[name] == number
    for name, number in (("x64-uefi-http", 16), ("arm64-u-boot", 22), ("riscv64-uefi", 27)):
        assert ARCHITECTURE_NAMES[name] == number


def test_d35_a_slow_client_gets_its_replies_later() -> None:
    slow = ClientClass(
        name="pi",
        match=Match(mac=(PI[:3],)),
        parameters=Parameters(reply_delay=timedelta(milliseconds=500)),
    )
    server = Server(config(classes=(slow,)))
    assert server.send(message(MessageType.DISCOVER, PI)).sends[0].delay == 0.5
    assert server.send(message(MessageType.DISCOVER, mac(1))).sends[0].delay == 0.0


# Reservations


BY_UUID = config(
    reservations=(Reservation(uuid=UUID, address=ADDRESS("10.41.7.30"), name="till-1"),)
)


def test_d14_a_box_known_by_its_uuid_keeps_its_address_as_a_system_that_does_not_say_it() -> None:
    server = Server(BY_UUID)
    address = server.discover(mac(1), *pxe()).yiaddr
    assert address == ADDRESS("10.41.7.30")
    assert server.select(mac(1), address, *pxe()).yiaddr == address
    assert server.discover(mac(1), (Code.CLIENT_ID, b"\xff\1\2")).yiaddr == address
    assert server.select(mac(1), address, (Code.CLIENT_ID, b"\xff\1\2")).yiaddr == address
    renewal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=address))
    assert renewal.options.text(Code.HOST_NAME) == "till-1"
    again = Server(BY_UUID, server.engine.leases(server.now))
    assert again.discover(mac(1)).yiaddr == address


def test_d14_another_nic_of_the_box_has_to_wait_for_the_first_ones_lease() -> None:
    server = Server(BY_UUID)
    address = server.discover(mac(1), *pxe()).yiaddr
    server.select(mac(1), address, *pxe())
    other = server.discover(mac(2), *pxe()).yiaddr
    assert other == FIRST
    assert server.select(mac(2), other, *pxe()).yiaddr == FIRST
    server.send(message(MessageType.RELEASE, mac(1), OURS, ciaddr=address))
    assert server.discover(mac(2), *pxe()).yiaddr == address


def test_a_box_that_says_another_uuid_is_another_box() -> None:
    server = Server(BY_UUID)
    address = server.discover(mac(1), *pxe()).yiaddr
    server.select(mac(1), address, *pxe())
    other = [(c, b"\0" + UUID[::-1] if c == Code.CLIENT_UUID else d) for c, d in pxe()]
    assert server.discover(mac(1), *other).yiaddr == FIRST


def test_a_circuits_address_is_renewed_past_the_relay() -> None:
    entry = Reservation(circuit_id=b"p7", address=ADDRESS("10.41.7.30"), name=None)
    server = Server(config(reservations=(entry,)))
    relayed = {"giaddr": ADDRESS("10.41.7.3")}
    circuit = (Code.RELAY_AGENT, b"\1\2p7")
    assert server.discover(mac(1), circuit, **relayed).yiaddr == entry.address
    ack = server.ask(selecting(mac(1), entry.address, circuit, **relayed))  # type: ignore[arg-type]
    assert ack.yiaddr == entry.address
    renewal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=entry.address))
    assert renewal.options.message_type is MessageType.ACK
    moved = server.discover(mac(1), (Code.RELAY_AGENT, b"\1\2p8"), **relayed)
    assert moved.yiaddr == FIRST


def test_a_box_has_a_reservation_in_each_subnet() -> None:
    far = subnet(
        name="far",
        interface="eth2",
        network=IPv4Network("10.9.0.0/24"),
        appliance=ADDRESS("10.9.0.1"),
        gateway=None,
        pools=(),
    )
    both = tuple(
        Reservation(mac=mac(1), address=ADDRESS(text), name=None)
        for text in ("10.41.7.30", "10.9.0.30")
    )
    server = Server(config(subnet(), far, reservations=both))
    assert server.discover(mac(1)).yiaddr == ADDRESS("10.41.7.30")
    offer = server.ask(message(MessageType.DISCOVER, mac(1)), "eth2")
    assert offer.yiaddr == ADDRESS("10.9.0.30")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ((Reservation(address=FIRST, name=None),), "names no client"),
        (
            tuple(
                Reservation(mac=mac(1), address=ADDRESS(f"10.41.7.{last}"), name=None)
                for last in (30, 31)
            ),
            "has another one",
        ),
        (
            tuple(Reservation(mac=mac(1), address=None, name=None) for _ in range(2)),
            "has another one",
        ),
    ],
)
def test_reservations_that_cannot_be_meant_are_refused(
    entries: tuple[Reservation, ...], sentence: str
) -> None:
    with pytest.raises(SiteError, match=sentence):
        Server(config(reservations=entries))


def test_parameters_that_fit_into_no_header_are_refused() -> None:
    for wrong in (Parameters(boot_file="x" * 128), Parameters(server_name="ü")):
        with pytest.raises(SiteError, match="does not fit"):
            Server(config(classes=(ClientClass(name="x", match=Match(), parameters=wrong),)))


def test_d14_a_box_keeps_its_address_when_its_system_is_of_no_class() -> None:
    pools = (
        Pool(first=FIRST, last=FIRST, classes=frozenset({"pxe"})),
        Pool(first=ADDRESS("10.41.7.200"), last=ADDRESS("10.41.7.201")),
    )
    booting = ClientClass(name="pxe", match=Match(kinds=frozenset({ClientKind.PXE})))
    server = Server(config(subnet(pools=pools), classes=(booting,)))
    assert server.discover(mac(1), *pxe()).yiaddr == FIRST
    assert server.select(mac(1), FIRST, *pxe()).yiaddr == FIRST
    assert server.discover(mac(1)).yiaddr == FIRST
    assert server.ask(message(MessageType.REQUEST, mac(1), ciaddr=FIRST)).yiaddr == FIRST
    assert server.discover(mac(2)).yiaddr == ADDRESS("10.41.7.200")
    server.now += 50_000
    assert server.discover(mac(1)).yiaddr == ADDRESS("10.41.7.200")


def test_d14_by_client_id_another_id_is_another_client() -> None:
    server = Server(config(identify=Identify.CLIENT_ID))
    one = server.discover(mac(1), (Code.CLIENT_ID, b"\1a")).yiaddr
    assert server.discover(mac(1), (Code.CLIENT_ID, b"\1b")).yiaddr != one
    assert server.discover(mac(2), (Code.CLIENT_ID, b"\1a")).yiaddr == one
