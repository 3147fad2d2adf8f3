"""How large replies may grow, what gives way, and what is written once for many clients."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from dhcp_lab import (
    ADDRESS,
    BOOT,
    Server,
    config,
    mac,
    message,
    pxe,
    selecting,
    subnet,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.events import EventKind
from netboot.network import (
    OptionValue,
    Parameters,
    Pool,
    Reservation,
)

# Sizes


def big(*sizes: int) -> Parameters:
    return Parameters(
        options=tuple(
            OptionValue(code=200 + number, data=bytes((number,)) * size, always=True)
            for number, size in enumerate(sizes)
        )
    )


def test_d9_what_does_not_fit_goes_into_file_and_sname() -> None:
    sent = Server(config(boot=None, parameters=big(200, 100, 40, 50))).send(
        message(MessageType.DISCOVER, mac(1), (Code.RELAY_AGENT, b"\1\1x"))
    )
    data = sent.sends[0].data
    assert len(data) <= 576
    reply = Message.decode(data)
    assert data[240:].find(b"\x34\x01\x03") > 0
    for number, size in enumerate((200, 100, 40, 50)):
        assert reply.options.get(200 + number) == bytes((number,)) * size
    end = 240 + area_length(data[240:])
    assert data[end - 3 : end] == b"\1\1x"


@pytest.mark.parametrize("size", [1, 100, 251])
def test_d2_a_relays_option_stays_last_of_the_options_field_however_full(size: int) -> None:
    agent = (Code.RELAY_AGENT, bytes((1, size)) + bytes(size))
    relayed = {"giaddr": ADDRESS("10.41.7.3")}
    data = message(MessageType.DISCOVER, mac(1), agent, (Code.CLIENT_ID, bytes(200)), **relayed)
    (sent,) = Server(config(parameters=big(100, 60, 60, 60))).send(data).sends
    area = sent.data[240:]
    end = area_length(area)
    assert area[end - size - 4 : end] == bytes((82, size + 2, 1, size)) + bytes(size)
    assert len(sent.data) <= 576


def area_length(area: bytes) -> int:
    at = 0
    while area[at] != 255:
        at += 2 + area[at + 1]
    return at


def test_d9_a_boot_file_keeps_its_place_in_the_header() -> None:
    reply = Server(config(parameters=big(250, 50))).discover(mac(1), *pxe(wanted=b"\1\3"))
    limited = tuple(item for item in pxe(wanted=b"\1\3") if item[0] != Code.MAX_SIZE)
    small = Server(config(parameters=big(180, 50, 40))).discover(mac(1), *limited)
    assert reply.file == small.file == b"shimx64.efi"
    assert small.options.get(202) == bytes((2,)) * 40


def test_d27_a_long_option_goes_out_in_pieces_that_scapy_would_not_join() -> None:
    server = Server(config(parameters=big(600)))
    reply = server.discover(mac(1), (Code.MAX_SIZE, (1472).to_bytes(2, "big")))
    assert reply.options.get(200) == bytes(600)


@given(
    st.lists(st.integers(0, 400), max_size=8),
    st.integers(0, 65535),
    st.binary(max_size=255),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_d9_no_plan_and_no_client_makes_a_reply_too_large(
    sizes: list[int], asked: int, agent: bytes, boots: bool
) -> None:
    server = Server(config(boot=BOOT if boots else None, parameters=big(*sizes)))
    extra = [item for item in pxe() if item[0] != Code.MAX_SIZE] if boots else []
    limit = max(min(asked, 1472), 576)
    (sent,) = server.send(
        message(
            MessageType.DISCOVER,
            mac(1),
            *extra,
            (Code.MAX_SIZE, asked.to_bytes(2, "big")),
            (Code.RELAY_AGENT, agent),
        )
    ).sends
    assert 300 <= len(sent.data) <= limit
    reply = Message.decode(sent.data)
    assert reply.options.number(Code.LEASE_TIME, 4) == 43200
    assert reply.options.address(Code.SUBNET_MASK) == ADDRESS("255.255.255.0")
    for number, size in enumerate(sizes):
        assert reply.options.get(200 + number) in (None, bytes((number,)) * size)


def test_malformed_sizes_of_optional_wishes_are_passed_over() -> None:
    reply = Server().discover(mac(1), (Code.MAX_SIZE, b"\1"), (Code.LEASE_TIME, b"\1"))
    assert reply.options.number(Code.LEASE_TIME, 4) == 43200


# What many share is written once, and not for ever


def test_a_server_id_and_a_lease_of_the_plans_own_options_count() -> None:
    ours = ADDRESS("10.41.7.222")
    own = Parameters(
        options=(
            OptionValue(code=Code.SERVER_ID, data=ours.packed),
            OptionValue(code=Code.LEASE_TIME, data=(300).to_bytes(4, "big")),
        )
    )
    server = Server(config(parameters=own))
    offer = server.discover(mac(1))
    assert offer.options.address(Code.SERVER_ID) == ours
    assert offer.options.number(Code.LEASE_TIME, 4) == 300
    outcome = server.send(selecting(mac(1), offer.yiaddr, server=str(ours)))
    (write,) = outcome.writes
    assert write.lease is not None
    assert write.lease.expires == server.now + 300
    assert server.select(mac(1), offer.yiaddr).options.address(Code.SERVER_ID) == ours
    assert server.send(selecting(mac(2), offer.yiaddr, server="10.41.7.223")).sends == ()


def test_a_lease_that_is_asked_for_is_the_one_that_is_written() -> None:
    limits = Parameters(lease_min=timedelta(minutes=1), lease_max=timedelta(days=1))
    server = Server(config(parameters=limits))
    asked = (Code.LEASE_TIME, (600).to_bytes(4, "big"))
    offer = server.discover(mac(1), asked)
    (write,) = server.send(selecting(mac(1), offer.yiaddr, asked)).writes
    assert write.lease is not None
    assert write.lease.expires == server.now + 600
    times = [offer.options.number(code, 4) for code in (51, 58, 59)]  # type: ignore[arg-type]
    assert times == [600, 300, 525]


def test_more_lists_of_wishes_than_are_kept_are_all_answered() -> None:
    server = Server(config(parameters=Parameters(options=(OptionValue(code=17, data=b"/r"),))))
    for number in range(300):
        wishes = bytes((17, 1 + number % 250, number // 250))
        reply = server.discover(mac(1), (Code.PARAMETER_LIST, wishes))
        assert reply.options.get(17) == b"/r"
        assert reply.options.address(Code.SUBNET_MASK) == ADDRESS("255.255.255.0")


def test_more_relays_and_servers_than_are_kept_keep_their_addresses() -> None:
    far = subnet(
        name="far",
        network=IPv4Network("10.64.0.0/10"),
        pools=(Pool(first=ADDRESS("10.64.1.0"), last=ADDRESS("10.64.1.255")),),
        relayed=True,
    )
    server = Server(config(subnet(), far))
    for number in range(1500):
        relay = ADDRESS("10.65.0.1") + number
        (sent,) = server.send(message(MessageType.DISCOVER, mac(1), giaddr=relay)).sends
        assert (sent.destination, Message.decode(sent.data).giaddr) == (relay, relay)


def test_each_reservation_has_its_own_settings() -> None:
    named = tuple(
        Reservation(mac=mac(number), address=None, name=f"box-{number}") for number in range(20)
    )
    server = Server(config(reservations=named))
    for number in (*range(20), *range(20)):
        reply = server.discover(mac(number))
        assert reply.options.text(Code.HOST_NAME) == f"box-{number}"
        server.now += 31


def test_events_say_what_was_asked_and_given() -> None:
    server = Server()
    outcome = server.send(message(MessageType.DISCOVER, mac(1), *pxe(0)))
    (missing,) = [event for event in outcome.events if event.kind is EventKind.ARCHITECTURE]
    assert dict(missing.detail)["vendor_class"] == "PXEClient:Arch:00000:UNDI:003000"
    address = Message.decode(outcome.sends[0].data).yiaddr
    (ack,) = server.send(selecting(mac(1), address)).events
    assert dict(ack.detail) == {"expires": server.now + 43200, "name": "", "boot_file": ""}
    (again,) = server.send(selecting(mac(1), address, *pxe())).events
    assert dict(again.detail)["boot_file"] == "shimx64.efi"
