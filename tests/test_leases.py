"""The lease table under any order of events: no address is ever two clients' at once."""

from __future__ import annotations

from dhcp_lab import (
    ADDRESS,
    NOW,
    RESERVED,
    RESERVED_MAC,
    Server,
    config,
    mac,
    message,
    selecting,
    subnet,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.leases import Lease
from netboot.network import Pool, Reservation

CLIENTS = st.integers(0, 6).map(lambda number: RESERVED_MAC if number == 6 else mac(number))
SMALL = subnet(pools=(Pool(first=ADDRESS("10.41.7.100"), last=ADDRESS("10.41.7.103")),))
OURS = (Code.SERVER_ID, SMALL.appliance.packed)


class Leases(RuleBasedStateMachine):
    """Clients in any order; the model is what each was told, and what was written."""

    @initialize()
    def start(self) -> None:
        self.server = Server(config(SMALL))
        self.told: dict[bytes, tuple[object, float]] = {}
        self.offers: dict[bytes, tuple[object, float]] = {}
        self.disk: dict[object, Lease] = {}

    def send(self, data: bytes) -> Message | None:
        outcome = self.server.send(data)
        for write in outcome.writes:
            if write.lease is None:
                del self.disk[write.address]
            else:
                self.disk[write.address] = write.lease
        return Message.decode(outcome.sends[0].data) if outcome.sends else None

    def acked(self, client: bytes, reply: Message | None) -> None:
        if reply is not None and reply.options.message_type is MessageType.ACK:
            self.told[client] = (reply.yiaddr, self.server.now + 43200)
            self.offers.pop(client, None)

    @rule(client=CLIENTS)
    def discover(self, client: bytes) -> None:
        reply = self.send(message(MessageType.DISCOVER, client))
        if reply is not None:
            self.offers[client] = (reply.yiaddr, self.server.now + 30)

    @rule(client=CLIENTS)
    def select(self, client: bytes) -> None:
        address = self.offers.get(client, (ADDRESS("10.41.7.101"), 0))[0]
        self.acked(client, self.send(selecting(client, address)))  # type: ignore[arg-type]

    @rule(client=CLIENTS)
    def renew(self, client: bytes) -> None:
        if client in self.told:
            self.acked(
                client, self.send(message(MessageType.REQUEST, client, ciaddr=self.told[client][0]))
            )

    @rule(client=CLIENTS)
    def release(self, client: bytes) -> None:
        if client in self.told:
            address, _ = self.told.pop(client)
            self.send(message(MessageType.RELEASE, client, OURS, ciaddr=address))

    @rule(client=CLIENTS)
    def decline(self, client: bytes) -> None:
        if client in self.told:
            address, _ = self.told.pop(client)
            wanted = (Code.REQUESTED_ADDRESS, address.packed)  # type: ignore[attr-defined]
            self.send(message(MessageType.DECLINE, client, OURS, wanted))

    @rule(seconds=st.sampled_from([1, 29, 31, 3700, 43300, 200000]))
    def wait(self, seconds: int) -> None:
        self.server.now += seconds

    @rule()
    def restart(self) -> None:
        now = self.server.now
        self.server = Server(config(SMALL), tuple(self.disk.values()))
        self.server.now = now
        self.offers.clear()

    @rule(client=CLIENTS, last=st.integers(100, 103))
    def reserve(self, client: bytes, last: int) -> None:
        entry = Reservation(mac=client, address=ADDRESS(f"10.41.7.{last}"), name=None)
        others = () if client == RESERVED_MAC else (RESERVED,)
        self.server.engine.replace(config(SMALL, reservations=(entry, *others)), self.server.now)

    @invariant()
    def nobody_shares(self) -> None:
        now = self.server.now
        for facts in (self.told, self.offers):
            live = [address for address, until in facts.values() if until > now]
            assert len(set(live)) == len(live)
        for client, (address, until) in self.offers.items():
            for other, (taken, end) in self.told.items():
                assert other == client or address != taken or end <= now or until <= now

    @invariant()
    def what_was_promised_is_written(self) -> None:
        for client, (address, until) in self.told.items():
            if until > self.server.now:
                assert self.disk[address].key == client
                assert self.disk[address].expires == until


Leases.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order_of_clients = Leases.TestCase


def test_an_offer_is_never_made_twice_at_once() -> None:
    server = Server(config(SMALL))
    offered = [server.discover(mac(number)).yiaddr for number in range(4)]
    assert len(set(offered)) == 4
    assert server.send(message(MessageType.DISCOVER, mac(4))).sends == ()
    server.now = NOW + 31
    assert server.discover(mac(4)).yiaddr in offered


def test_fresh_addresses_go_before_used_ones_and_the_longest_unused_first() -> None:
    server = Server(config(SMALL))
    first = server.bound(mac(0))
    server.now += 50_000
    second = server.bound(mac(1))
    assert second != first
    server.now += 200_000
    rest = [server.bound(mac(number)) for number in (2, 3)]
    assert not {first, second} & set(rest)
    assert server.bound(mac(4)) == first
    assert server.bound(mac(5)) == second


def test_our_own_address_and_the_gateway_are_never_given() -> None:
    whole = subnet(pools=(Pool(first=ADDRESS("10.41.7.0"), last=ADDRESS("10.41.7.4")),))
    server = Server(config(whole))
    given = {server.bound(mac(number)) for number in range(2)}
    assert given == {ADDRESS("10.41.7.3"), ADDRESS("10.41.7.4")}
