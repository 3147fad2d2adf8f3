"""The lease table under any order of events: no address is ever two clients' at once."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

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

from netboot.dhcp import DhcpConfig, Outcome
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.leases import Lease
from netboot.network import ClientClass, Match, Pool, Reservation

CLIENTS = st.integers(0, 6).map(lambda number: RESERVED_MAC if number == 6 else mac(number))
SMALL = subnet(pools=(Pool(first=ADDRESS("10.41.7.100"), last=ADDRESS("10.41.7.103")),))
HALL = (
    subnet(
        pools=(
            Pool(first=ADDRESS("10.41.7.100"), last=ADDRESS("10.41.7.101")),
            Pool(
                first=ADDRESS("10.41.7.102"),
                last=ADDRESS("10.41.7.102"),
                classes=frozenset({"pxe"}),
            ),
        ),
        shared="hall",
    ),
    subnet(
        name="more",
        network=IPv4Network("10.9.0.0/24"),
        appliance=ADDRESS("10.9.0.2"),
        gateway=None,
        pools=(Pool(first=ADDRESS("10.9.0.103"), last=ADDRESS("10.9.0.103")),),
        shared="hall",
    ),
)
PLANS = {
    "one": (SMALL,),
    "hall": HALL,
    "alone": (replace(HALL[0], shared=None),),
}
PXE = ClientClass(name="pxe", match=Match(vendor_class=(b"PXE",)))
EVERY = [ADDRESS(f"10.41.7.{last}") for last in (11, *range(100, 104))] + [ADDRESS("10.9.0.103")]
OURS = (Code.SERVER_ID, SMALL.appliance.packed)
KINDS = st.sampled_from([(), ((Code.VENDOR_CLASS, b"PXEClient"),)])


class Leases(RuleBasedStateMachine):
    """Clients in any order; the model is what each was told, and what was written."""

    @initialize(plan=st.sampled_from(sorted(PLANS)))
    def start(self, plan: str) -> None:
        self.plan, self.reservations = plan, (RESERVED,)
        self.server = Server(self.config())
        self.told: dict[bytes, tuple[object, float]] = {}
        self.offers: dict[bytes, tuple[object, float]] = {}
        self.resting: dict[object, float] = {}
        self.disk: dict[object, Lease] = {}

    def config(self) -> DhcpConfig:
        return config(*PLANS[self.plan], classes=(PXE,), reservations=self.reservations)

    def is_served(self, address: object) -> bool:
        return any(address in network.network for network in PLANS[self.plan])

    def send(self, data: bytes) -> Message | None:
        return self.take(self.server.send(data))

    def take(self, outcome: Outcome) -> Message | None:
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

    @rule(client=CLIENTS, kind=KINDS, wanted=st.none() | st.sampled_from(EVERY))
    def discover(
        self, client: bytes, kind: tuple[tuple[int, bytes], ...], wanted: IPv4Address | None
    ) -> None:
        asked = () if wanted is None else ((Code.REQUESTED_ADDRESS, wanted.packed),)
        reply = self.send(message(MessageType.DISCOVER, client, *kind, *asked))
        if reply is not None:
            assert self.resting.get(reply.yiaddr, 0.0) <= self.server.now
            if reply.yiaddr == ADDRESS("10.41.7.102") and self.plan != "one":
                has = self.told.get(client, (None, 0.0))
                is_kept = has[0] == reply.yiaddr and has[1] > self.server.now
                is_reserved = reply.yiaddr in [entry.address for entry in self.reservations]
                assert kind or is_kept or is_reserved
            self.offers[client] = (reply.yiaddr, self.server.now + 30)

    @rule(client=CLIENTS)
    def select(self, client: bytes) -> None:
        address = self.offers.get(client, (ADDRESS("10.41.7.101"), 0))[0]
        self.acked(client, self.send(selecting(client, address)))  # type: ignore[arg-type]

    @rule(client=CLIENTS, address=st.sampled_from(EVERY))
    def claim(self, client: bytes, address: IPv4Address) -> None:
        self.acked(client, self.send(message(MessageType.REQUEST, client, ciaddr=address)))

    @rule(client=CLIENTS)
    def renew(self, client: bytes) -> None:
        if client in self.told:
            self.acked(
                client, self.send(message(MessageType.REQUEST, client, ciaddr=self.told[client][0]))
            )

    @rule(client=CLIENTS)
    def release(self, client: bytes) -> None:
        if client in self.told:
            address, _ = self.told[client]
            if self.send(message(MessageType.RELEASE, client, OURS, ciaddr=address)) is None:
                lease = self.disk.get(address)
                if lease is None or not lease.is_bound(self.server.now):
                    self.told.pop(client)

    @rule(client=CLIENTS)
    def decline(self, client: bytes) -> None:
        if client in self.told:
            address, until = self.told[client]
            wanted = (Code.REQUESTED_ADDRESS, address.packed)  # type: ignore[attr-defined]
            outcome = self.server.send(message(MessageType.DECLINE, client, OURS, wanted))
            self.take(outcome)
            assert outcome.writes or until <= self.server.now or not self.is_served(address)
            if outcome.writes:
                self.told.pop(client)
                self.offers.pop(client, None)
                self.resting[address] = self.server.now + 3600

    @rule(address=st.sampled_from(EVERY))
    def conflict(self, address: IPv4Address) -> None:
        outcome = self.server.engine.in_use(address, None, self.server.now)
        self.take(outcome)
        if outcome.writes:
            self.resting[address] = self.server.now + 3600
            for client in [c for c, offer in self.offers.items() if offer[0] == address]:
                del self.offers[client]

    @rule(seconds=st.sampled_from([1, 29, 31, 3700, 43300, 200000]))
    def wait(self, seconds: int) -> None:
        self.server.now += seconds

    @rule()
    def restart(self) -> None:
        now = self.server.now
        self.server = Server(self.config(), tuple(self.disk.values()))
        self.server.now = now
        self.offers.clear()

    @rule(plan=st.sampled_from(sorted(PLANS)))
    def replan(self, plan: str) -> None:
        self.plan = plan
        self.server.engine.replace(self.config(), self.server.now)
        for client in [c for c, offer in self.offers.items() if not self.is_served(offer[0])]:
            del self.offers[client]

    @rule(client=CLIENTS, address=st.sampled_from(EVERY[1:5]))
    def reserve(self, client: bytes, address: IPv4Address) -> None:
        entry = Reservation(mac=client, address=address, name=None)
        others = () if client == RESERVED_MAC else (RESERVED,)
        self.reservations = (entry, *others)
        self.server.engine.replace(self.config(), self.server.now)

    @rule(count=st.integers(1, 9))
    def look_ahead(self, count: int) -> None:
        now = self.server.now
        self.server.engine.tick(now)
        taken = {address for address, until in self.told.values() if until > now}
        for candidate in self.server.engine.candidates(count):
            assert candidate.address not in taken
            assert self.resting.get(candidate.address, 0.0) <= now

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

    @invariant()
    def what_rests_is_written(self) -> None:
        for address, until in self.resting.items():
            if until > self.server.now:
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
