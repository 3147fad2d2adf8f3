"""BOOTP clients (RFC 951, 1534): who is answered, with what, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from dhcp_lab import ADDRESS, NOW, RESERVED, RESERVED_MAC, Server, config, mac, subnet
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, Options
from netboot.dhcp_reply import FOR_EVER, Via
from netboot.events import EventKind
from netboot.leases import LeaseState
from netboot.network import Parameters, Pool, Reservation

OLD, YOUNG = ADDRESS("10.41.7.50"), ADDRESS("10.41.7.100")
FOR_BOTH = subnet(
    pools=(
        Pool(first=OLD, last=OLD, bootp=True),
        Pool(first=YOUNG, last=ADDRESS("10.41.7.109")),
    )
)
NEVER = {
    Code.MESSAGE_TYPE,
    Code.SERVER_ID,
    Code.LEASE_TIME,
    Code.RENEWAL_TIME,
    Code.REBINDING_TIME,
    Code.OVERLOAD,
}
"""Options of DHCP alone: RFC 1534, 2."""


def bootp(client: bytes, *options: tuple[int, bytes], **header: object) -> bytes:
    """A request as RFC 951 has it, 300 bytes, with RFC 1497's cookie."""
    values: dict[str, object] = {"op": 1, "xid": 7, "chaddr": client}
    return Message(**(values | header), options=Options(items=options)).encode()  # type: ignore[arg-type]


def ask(server: Server, data: bytes) -> Message:
    (sent,) = server.send(data).sends
    assert sent.promises
    return Message.decode(sent.data)


def test_a_reserved_client_is_answered_with_no_option_of_dhcp() -> None:
    server = Server()
    outcome = server.send(bootp(RESERVED_MAC))
    (sent,) = outcome.sends
    reply = Message.decode(sent.data)
    assert (reply.op, reply.xid, reply.chaddr) == (2, 7, RESERVED_MAC)
    assert reply.yiaddr == RESERVED.address
    assert NEVER.isdisjoint(reply.options.by_code)
    assert reply.options.address(Code.SUBNET_MASK) == ADDRESS("255.255.255.0")
    assert reply.options.address(Code.ROUTER) == ADDRESS("10.41.7.1")
    assert reply.options.text(Code.HOST_NAME) == "printer-1"
    assert len(sent.data) == 300
    assert sent.via is Via.FRAME
    assert sent.promises
    assert EventKind.ACK in [event.kind for event in outcome.events]


def test_the_lease_is_recorded_and_never_ends() -> None:
    server = Server(config(FOR_BOTH))
    outcome = server.send(bootp(mac(1)))
    (write,) = outcome.writes
    assert write.lease is not None
    assert (write.lease.address, write.lease.state) == (OLD, LeaseState.BOUND)
    assert write.lease.expires == NOW + FOR_EVER
    server.now += timedelta(days=3650).total_seconds()
    assert [lease.address for lease in server.engine.leases(server.now)] == [OLD]
    assert server.send(bootp(mac(2))).sends == ()
    assert ask(server, bootp(mac(1))).yiaddr == OLD


def test_a_stranger_gets_silence_where_no_pool_is_for_bootp() -> None:
    server = Server()
    outcome = server.send(bootp(mac(1)))
    assert (outcome.sends, outcome.writes) == ((), ())
    assert [event.kind for event in outcome.events] == [EventKind.DISCOVER]


def test_clients_of_dhcp_are_lent_addresses_of_such_a_pool_too() -> None:
    server = Server(config(FOR_BOTH))
    assert server.discover(mac(1)).yiaddr == OLD


def test_one_box_by_bootp_and_then_by_dhcp_keeps_its_address() -> None:
    server = Server(config(FOR_BOTH))
    assert ask(server, bootp(mac(1))).yiaddr == OLD
    server.bound(mac(1))
    (lease,) = server.engine.leases(NOW)
    assert (lease.address, lease.expires) == (OLD, NOW + 12 * 3600)


def test_a_lease_of_dhcp_outside_that_pool_is_not_made_endless() -> None:
    server = Server(config(replace(FOR_BOTH, pools=FOR_BOTH.pools[1:])))
    server.bound(mac(1))
    assert server.send(bootp(mac(1))).sends == ()


@pytest.mark.parametrize(
    ("header", "way"),
    [
        ({}, (Via.FRAME, str(OLD), 68)),
        ({"flags": 0x8000}, (Via.BROADCAST, "255.255.255.255", 68)),
        ({"ciaddr": OLD}, (Via.UNICAST, str(OLD), 68)),
        ({"giaddr": ADDRESS("10.41.7.9"), "hops": 1}, (Via.UNICAST, "10.41.7.9", 67)),
    ],
)
def test_the_reply_goes_the_way_that_the_request_asks(header, way) -> None:
    (sent,) = Server(config(FOR_BOTH)).send(bootp(mac(1), **header)).sends
    assert (sent.via, str(sent.destination), sent.port) == way
    assert Message.decode(sent.data).giaddr == header.get("giaddr", ADDRESS("0.0.0.0"))


def test_file_and_server_are_where_bootp_has_them_and_the_client_s_are_ignored() -> None:
    said = Parameters(
        boot_file="old/loader.0", next_server=ADDRESS("10.41.7.8"), server_name="files"
    )
    server = Server(config(replace(FOR_BOTH, parameters=said)))
    reply = ask(server, bootp(mac(1), file=b"generic", sname=b"other"))
    assert (reply.file, reply.sname, str(reply.siaddr)) == (b"old/loader.0", b"files", "10.41.7.8")


def test_the_vendor_area_never_grows_beyond_64_bytes() -> None:
    entry = Reservation(mac=mac(3), address=ADDRESS("10.41.7.12"), name="n" * 50)
    server = Server(config(reservations=(entry,)))
    (sent,) = server.send(bootp(mac(3))).sends
    reply = Message.decode(sent.data)
    assert len(sent.data) == 300
    assert reply.options.address(Code.SUBNET_MASK) is not None
    assert Code.HOST_NAME not in reply.options


def test_d2_what_a_relay_added_comes_back_last() -> None:
    agent = (Code.RELAY_AGENT, b"\x01\x04port")
    relayed = bootp(mac(1), agent, giaddr=ADDRESS("10.41.7.9"), hops=1)
    assert ask(Server(config(FOR_BOTH)), relayed).options.items[-1] == agent


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 12, 50, 54, 55, 61, 77, 93]), st.binary(max_size=60)),
        max_size=4,
        unique_by=lambda one: one[0],
    )
)
def test_whatever_stands_in_the_vendor_area_no_option_of_dhcp_comes_back(options) -> None:
    server = Server(config(FOR_BOTH))
    for sent in server.send(bootp(mac(1), *options)).sends:
        assert NEVER.isdisjoint(Message.decode(sent.data).options.by_code)
        assert len(sent.data) == 300
