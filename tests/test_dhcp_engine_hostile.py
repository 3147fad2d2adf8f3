"""Bad input: whatever is sent gives an outcome, at most one reply, and no bill for others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
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
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.packet import fuzz

from netboot.dhcp import Outcome
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.events import EventKind
from netboot.leases import OFFERS_LIMIT, STRANGERS, Client, LeaseTable
from netboot.network import ClientClass, Match, OptionValue, Parameters, Pool, Reservation

OURS = (Code.SERVER_ID, ADDRESS("10.41.7.2").packed)
WIDE = subnet(
    network=IPv4Network("10.0.0.0/10"),
    appliance=ADDRESS("10.0.0.2"),
    gateway=ADDRESS("10.0.0.1"),
    pools=(Pool(first=ADDRESS("10.16.0.0"), last=ADDRESS("10.31.255.255")),),
)
RICH = config(
    subnet(rapid_commit=True, shared="hall"),
    subnet(
        name="far",
        network=IPv4Network("10.9.0.0/24"),
        pools=(Pool(first=ADDRESS("10.9.0.5"), last=ADDRESS("10.9.0.9")),),
        relayed=True,
        relays=(ADDRESS("203.0.113.1"),),
    ),
    classes=(
        ClientClass(
            name="x",
            match=Match(vendor_class=(b"P",)),
            parameters=Parameters(options=(OptionValue(code=200, data=bytes(300), always=True),)),
        ),
    ),
    reservations=(RESERVED, Reservation(uuid=bytes(range(16)), address=None, name="a")),
)
PLAIN = (
    message(MessageType.DISCOVER, mac(1), *pxe()),
    message(MessageType.DISCOVER, mac(2), *http_client(), (Code.RAPID_COMMIT, b"")),
    message(MessageType.DISCOVER, mac(3), (81, b"\0\0\0abc"), (82, b"\1\1x\5\4\x0a\x09\0\0")),
    selecting(mac(1), ADDRESS("10.41.7.100"), (Code.CLIENT_ID, b"\1abc")),
    message(MessageType.REQUEST, mac(1), ciaddr=ADDRESS("10.41.7.100")),
    message(MessageType.REQUEST, mac(1), OURS, giaddr=ADDRESS("10.9.0.1")),
    message(MessageType.DECLINE, mac(1), OURS, (50, ADDRESS("10.41.7.100").packed)),
    message(MessageType.RELEASE, mac(1), OURS, ciaddr=ADDRESS("10.41.7.100")),
    message(MessageType.INFORM, mac(1), ciaddr=ADDRESS("10.41.7.100")),
)


def check(outcome: Outcome, data: bytes) -> None:
    assert len(outcome.sends) <= 1
    for sent in outcome.sends:
        assert data[0] == 1
        assert 300 <= len(sent.data) <= 1472
        reply = Message.decode(sent.data)
        assert reply.op == 2
        assert sent.data[4:8] == data[4:8]
        kind = reply.options.message_type
        assert kind in (MessageType.OFFER, MessageType.ACK, MessageType.NAK)
        assert sent.promises is (bool(outcome.writes) and kind is MessageType.ACK)
        asked = Message.decode(data).options.message_type
        assert asked in (MessageType.DISCOVER, MessageType.REQUEST, MessageType.INFORM)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=700))
def test_any_bytes_give_an_outcome(data: bytes) -> None:
    check(Server(RICH).send(data), data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 420),
)
def test_mutated_packets_give_an_outcome(
    data: bytes, changes: list[tuple[int, int]], end: int
) -> None:
    server = Server(RICH)
    server.send(PLAIN[0])
    server.send(PLAIN[3])
    changed = bytearray(data)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    for packet in (bytes(changed), bytes(changed[:end])):
        check(server.send(packet), packet)


def test_what_scapy_makes_up_gives_an_outcome() -> None:
    server = Server(RICH)
    for number in range(300):
        made = fuzz(BOOTP(op=1, chaddr=mac(number))) / fuzz(DHCP())
        try:
            data = bytes(made)
        except (ValueError, TypeError, AttributeError):
            continue  # scapy made up an option that it cannot write
        check(server.send(data), data)


@pytest.mark.parametrize("data", PLAIN)
def test_a_reply_gets_no_reply(data: bytes) -> None:
    server = Server(RICH)
    for op in (0, 2, 3, 255):
        assert server.send(bytes((op,)) + data[1:]).sends == ()


@pytest.mark.parametrize("kind", [2, 4, 5, 6, 7, 9, 13, 255])
def test_messages_of_servers_and_unknown_ones_get_no_reply(kind: int) -> None:
    data = PLAIN[0].replace(b"\x35\x01\x01", bytes((53, 1, kind)), 1)
    assert Server(RICH).send(data).sends == ()


@pytest.mark.parametrize("broken", [b"\x0c\xff", b"\x32\x03abc", b"\x5d\x01x", b"\x34\x01\x09"])
def test_d27_a_broken_option_hides_no_other(broken: bytes) -> None:
    data = PLAIN[0].rstrip(b"\0").removesuffix(b"\xff") + broken + b"\xff"
    outcome = Server(RICH).send(data)
    assert outcome.sends == ()
    assert [event.kind for event in outcome.events] == [EventKind.MALFORMED]


def test_d38_ten_thousand_strangers_leave_known_boxes_served_in_a_pool_of_a_million() -> None:
    known = Reservation(mac=RESERVED_MAC, address=ADDRESS("10.20.0.0"), name="till")
    server = Server(config(WIDE, reservations=(known,)))
    boxes = [bind(server, mac(number)) for number in range(50)]
    server.now += 50_000
    events = 0
    for number in range(10_000):
        events += len(server.send(message(MessageType.DISCOVER, mac(10_000 + number))).events)
        server.now += 0.001
    assert events < 5000
    assert [bind(server, mac(number)) for number in range(50)] == boxes
    assert bind(server, RESERVED_MAC) == known.address


def bind(server: Server, client: bytes) -> IPv4Address:
    offer = server.discover(client)
    ack = server.ask(selecting(client, offer.yiaddr, server="10.0.0.2"))
    assert ack.options.message_type is MessageType.ACK
    return ack.yiaddr


def test_d38_in_a_full_pool_a_flood_takes_no_more_than_a_few_old_addresses() -> None:
    server = Server()
    boxes = [server.bound(mac(number)) for number in range(10)]
    server.now += 43_300
    for number in range(100, 200):
        server.send(message(MessageType.DISCOVER, mac(number)))
    kept = boxes[STRANGERS:]
    assert [server.bound(mac(number)) for number in range(STRANGERS, 10)] == kept


def test_d38_open_offers_are_bounded() -> None:
    table = LeaseTable((WIDE,), ())
    first = int(WIDE.pools[0].first)
    place = table.links.at(first)
    assert place is not None

    def client(number: int) -> Client:
        return Client(key=mac(number), mac=mac(number), place=place)

    for number in range(OFFERS_LIMIT + 2):
        table.offer(client(number), first + number, 0.0)
    open_offers = [table.offered(client(number)) for number in range(4)]
    assert open_offers == [None, None, first + 2, first + 3]
    table.offer(client(0), first, 0.0)
    assert table.offered(client(2)) is None


def test_a_pool_of_a_million_is_given_to_its_last_address() -> None:
    near_end = Pool(first=ADDRESS("10.16.0.0"), last=ADDRESS("10.16.3.255"))
    server = Server(config(subnet(**{**wide(), "pools": (near_end,)})))
    given = {bind(server, mac(number)) for number in range(1024)}
    assert len(given) == 1024
    assert server.send(message(MessageType.DISCOVER, mac(5000))).sends == ()
    server.now += 43_300 + 90_000
    assert bind(server, mac(5000)) == min(given)


def wide() -> dict[str, object]:
    return {
        "network": WIDE.network,
        "appliance": WIDE.appliance,
        "gateway": WIDE.gateway,
    }
