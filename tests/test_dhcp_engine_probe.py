"""Asking for addresses ahead of time (D28): which come next, and what an answer does to them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from dhcp_lab import (
    ADDRESS,
    RESERVED,
    RESERVED_MAC,
    Server,
    config,
    mac,
    message,
    selecting,
    subnet,
)

from netboot.dhcp_message import Message
from netboot.dhcp_options import MessageType
from netboot.events import EventKind
from netboot.network import Pool, Reservation

FIRST = ADDRESS("10.41.7.100")
NARROW = subnet(pools=(Pool(first=FIRST, last=ADDRESS("10.41.7.102")),))


def addresses(server: Server, count: int = 2) -> list[IPv4Address]:
    server.engine.tick(server.now)
    return [candidate.address for candidate in server.engine.candidates(count)]


def test_d28_the_candidates_are_those_that_the_next_strangers_get() -> None:
    server = Server()
    for number in range(6):
        (first, second) = addresses(server)
        assert server.bound(mac(2 * number)) == first
        if second != ADDRESS("10.41.7.109"):
            assert server.bound(mac(2 * number + 1)) == second
        if number == 4:
            break
    assert [c.interface for c in Server().engine.candidates(1)] == ["eth1"]
    assert [c.source for c in Server().engine.candidates(1)] == [ADDRESS("10.41.7.2")]


def test_d28_what_was_probed_is_not_named_again_for_a_while() -> None:
    server = Server()
    server.engine.tick(server.now)
    server.engine.probed(FIRST, server.now)
    assert FIRST not in addresses(server)
    server.now += 601
    assert addresses(server)[0] == FIRST


def test_d28_neither_open_offers_nor_reservations_nor_live_leases_are_candidates() -> None:
    kept = Reservation(mac=mac(9), address=ADDRESS("10.41.7.101"), name=None)
    server = Server(config(NARROW, reservations=(kept,)))
    assert addresses(server, 5) == [FIRST, ADDRESS("10.41.7.102")]
    server.discover(mac(1))
    assert addresses(server, 5) == [ADDRESS("10.41.7.102")]
    server.select(mac(1), FIRST)
    assert addresses(server, 5) == [ADDRESS("10.41.7.102")]
    server.now += 50_000
    assert addresses(server, 5) == [ADDRESS("10.41.7.102"), FIRST]


def test_d28_an_offer_that_was_not_taken_is_a_candidate_again() -> None:
    server = Server()
    server.discover(mac(1))
    assert FIRST not in addresses(server)
    server.now += 31
    assert addresses(server)[0] == FIRST


def test_d28_what_only_relays_reach_is_not_asked_for() -> None:
    far = subnet(
        name="far",
        network=IPv4Network("10.9.0.0/24"),
        pools=(Pool(first=ADDRESS("10.9.0.5"), last=ADDRESS("10.9.0.9")),),
        relayed=True,
    )
    server = Server(config(subnet(), far))
    assert all(address in NARROW.network for address in addresses(server, 20))


def test_d28_an_address_in_use_is_not_given_until_it_had_its_rest() -> None:
    server = Server()
    outcome = server.engine.in_use(FIRST, mac(77), server.now)
    (event,) = outcome.events
    assert (event.kind, event.reason, event.mac) == (EventKind.IN_USE, "IN-USE", mac(77))
    (write,) = outcome.writes
    assert write.lease is not None
    assert (write.lease.key, write.lease.expires) == (b"", server.now + 3600)
    assert server.discover(mac(1)).yiaddr == ADDRESS("10.41.7.101")
    refusal = server.ask(selecting(mac(2), FIRST))
    assert refusal.options.message_type is MessageType.NAK
    again = Server(leases=(write.lease,))
    assert again.discover(mac(1)).yiaddr == ADDRESS("10.41.7.101")


def test_d28_a_conflict_ends_an_open_offer() -> None:
    server = Server()
    assert server.discover(mac(1)).yiaddr == FIRST
    server.engine.in_use(FIRST, None, server.now)
    assert server.discover(mac(1)).yiaddr == ADDRESS("10.41.7.101")


def test_d28_the_holder_may_answer_for_its_address() -> None:
    server = Server()
    address = server.bound(mac(1))
    for who in (mac(1), mac(2), None):
        outcome = server.engine.in_use(address, who, server.now)
        assert (outcome.events, outcome.writes) == ((), ())
    assert server.engine.in_use(RESERVED.address, RESERVED_MAC, server.now).writes == ()  # type: ignore[arg-type]
    for foreign in ("10.41.7.50", "192.0.2.1", "10.41.7.2"):
        assert server.engine.in_use(ADDRESS(foreign), mac(5), server.now).writes == ()
    renewal = server.ask(message(MessageType.REQUEST, mac(1), ciaddr=address))
    assert renewal.options.message_type is MessageType.ACK


def test_d29_a_reserved_address_in_use_by_another_is_an_alarm() -> None:
    server = Server()
    assert RESERVED.address is not None
    outcome = server.engine.in_use(RESERVED.address, mac(5), server.now)
    assert [event.reason for event in outcome.events] == ["RESERVED-IN-USE"]
    assert server.discover(RESERVED_MAC).yiaddr == FIRST
    server.now += 3601
    assert server.discover(RESERVED_MAC).yiaddr == RESERVED.address


def test_a_quarantine_ends_with_the_pools_last_address() -> None:
    server = Server(config(subnet(pools=(Pool(first=FIRST, last=FIRST),))))
    server.engine.in_use(FIRST, None, server.now)
    assert server.send(message(MessageType.DISCOVER, mac(1))).sends == ()
    server.now += 3601
    (sent,) = server.send(message(MessageType.DISCOVER, mac(1))).sends
    assert Message.decode(sent.data).yiaddr == FIRST
