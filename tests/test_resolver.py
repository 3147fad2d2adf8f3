"""Names of others: fresh, checked, stale, pinned; two weeks without a line pass in seconds."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from test_dnssec import NOW
from test_validate import World

from netboot.dns import DnsEngine, Generation, Resolved
from netboot.dns_cache import STALE_TTL, DnsCache
from netboot.dns_message import ExtendedError
from netboot.names import labels
from netboot.rdata import Rtype
from netboot.resolver import (
    DRAWN_BYTES,
    FRESH_SECONDS,
    GIVE_UP_SECONDS,
    LONGEST_PAUSE,
    Ports,
    Resolver,
    ResolverConfig,
    Transport,
    UnreachableError,
    Upstream,
)
from netboot.upstream import is_reply, make_question
from netboot.zone import Rcode, Zones
from netboot.zone_file import decode_zone

FIRST = Upstream(address="192.0.2.53", port=853, transport=Transport.TLS, name="one.example")
SECOND = Upstream(address="192.0.2.54", port=853, transport=Transport.TLS, name="two.example")
WWW, NTP = labels("www.example.net"), labels("pos-1.example.net")
DAY = 86400.0


class Net:
    """A line to upstreams with a clock of its own; what is down takes all the time it is given."""

    def __init__(self, world: World, **config: object) -> None:
        self.world, self.now, self.wall_ahead = world, 0.0, 0.0
        self.down: set[Upstream] = set()
        self.asked: list[tuple[Upstream, float]] = []
        self.blind = False
        self.delay = 0.02
        self.lie: bytes | None = None
        values: dict[str, object] = {"upstreams": (FIRST, SECOND), "anchors": world.anchors}
        self.config = ResolverConfig(**(values | config))  # type: ignore[arg-type]
        self.cache = DnsCache()
        self.ports = Ports(
            exchange=self.exchange,
            clock=lambda: self.now,
            wall=lambda: NOW + self.now + self.wall_ahead,
            is_blind=lambda: self.blind,
            draw=lambda count: bytes(range(count)),
            lock=nullcontext(),
        )
        self.resolver = Resolver(self.config, self.cache, self.ports)

    def exchange(self, upstream: Upstream, data: bytes, seconds: float) -> bytes:
        self.asked.append((upstream, self.now))
        if upstream in self.down:
            self.now += seconds
            raise UnreachableError(f"{upstream}: no answer")
        self.now += self.delay
        reply = self.world.engine.receive(data, "127.0.0.1", NOW, is_tcp=True)
        assert isinstance(reply, bytes) and is_reply(reply, data)
        return self.lie if self.lie is not None else reply

    def cut(self) -> None:
        self.down = {FIRST, SECOND}

    def restart(self) -> None:
        """Start again with what was kept on disk; the clock of the cache goes on."""
        rows = list(self.cache.dump())
        self.cache = DnsCache()
        self.cache.load(rows)
        self.resolver = Resolver(self.config, self.cache, self.ports)

    def ask(self, name=WWW, qtype: int = Rtype.A) -> Resolved:
        return self.resolver.resolve(name, qtype)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_an_answer_is_checked_kept_and_counted_down(world: World) -> None:
    net = Net(world)
    found = net.ask()
    assert found.is_secure and found.rcode is Rcode.NOERROR
    count = len(net.asked)
    net.now += 10
    again = net.ask()
    assert len(net.asked) == count
    assert again.answers[0].ttl == found.answers[0].ttl - 10
    assert net.resolver.lookup(WWW, Rtype.A) == again


def test_keys_that_came_on_the_way_are_told_to_nobody_before_they_are_checked(
    world: World,
) -> None:
    net = Net(world)
    net.ask()
    keys = labels("example.net")
    for qtype in (Rtype.DNSKEY, Rtype.DS):
        assert net.cache.find(keys, qtype, net.now, unchecked=True) is not None
        assert net.resolver.lookup(keys, qtype) is None
        assert net.resolver.known(keys, qtype) is None
        assert net.ask(keys, qtype).is_secure
        assert net.resolver.lookup(keys, qtype) is not None
    net.ask(labels("nothing.plain.net"))
    net.restart()
    assert net.resolver.lookup(labels("plain.net"), Rtype.DS) is None


def test_n23_single_labels_never_leave(world: World) -> None:
    net = Net(world)
    assert net.ask(labels("printer")).rcode is Rcode.NXDOMAIN
    assert net.asked == []


def test_a_silent_upstream_is_passed_over_by_all_and_tried_again(world: World) -> None:
    net = Net(world)
    net.down = {FIRST}
    assert net.ask().rcode is Rcode.NOERROR
    net.asked.clear()
    assert net.ask(NTP).rcode is Rcode.NOERROR
    assert [one for one, _ in net.asked] == [SECOND]
    net.down = set()
    net.now += LONGEST_PAUSE
    net.asked.clear()
    for number in (1, 2, 3):
        net.ask(labels(f"n{number}.example.net"), Rtype.MX)
    assert FIRST in {one for one, _ in net.asked}
    assert net.resolver.health[FIRST].failures == 0


def test_n28_a_client_with_a_stale_answer_waits_at_most_1_8_seconds(world: World) -> None:
    net = Net(world)
    net.ask()
    net.now += 400
    net.cut()
    begun = net.now
    found = net.ask()
    assert net.now - begun <= FRESH_SECONDS
    assert (found.rcode, found.error) == (Rcode.NOERROR, ExtendedError.STALE)
    assert found.answers[0].ttl == STALE_TTL
    begun = net.now
    again = net.ask()  # the failure is shared: nobody waits for it again
    assert net.now == begun and again.error is ExtendedError.STALE


def test_n29_without_a_line_others_fail_at_once_with_a_reason(world: World) -> None:
    net = Net(world)
    net.cut()
    begun = net.now
    first = net.ask()
    assert net.now - begun <= GIVE_UP_SECONDS
    assert (first.rcode, first.error) == (
        Rcode.SERVFAIL,
        ExtendedError.NO_REACHABLE_AUTHORITY,
    )
    begun = net.now
    for number in range(20):
        other = net.ask(labels(f"other{number}.example.net"))
        assert other.rcode is Rcode.SERVFAIL
        assert other.error is ExtendedError.NETWORK_ERROR and "no answer" in other.said
    assert net.now == begun
    same = net.ask()
    assert same.error is ExtendedError.CACHED_ERROR


def test_fourteen_days_without_a_line_with_restarts_and_a_clock_that_jumps(world: World) -> None:
    net = Net(world, pinned=frozenset({NTP}))
    assert net.ask(NTP).is_secure and net.ask(WWW).is_secure
    net.cut()
    wait = 0.0
    for hour in range(14 * 24):
        net.now += 3600.0
        if hour % 50 == 0:
            net.restart()
        net.wall_ahead = {100: -400 * DAY, 200: 400 * DAY}.get(hour, net.wall_ahead)
        begun = net.now
        pinned, other = net.ask(NTP), net.ask(WWW)
        wait = max(wait, net.now - begun)
        assert pinned.rcode is Rcode.NOERROR and pinned.answers, hour
        if abs(hour - 7 * 24) > 2:
            assert (other.rcode is Rcode.NOERROR) == (hour < 7 * 24), hour
        assert pinned.error is ExtendedError.STALE
    assert wait <= FRESH_SECONDS + GIVE_UP_SECONDS
    assert net.resolver.ages()[NTP] == pytest.approx(14 * DAY, rel=0.01)
    tries = len(net.asked)
    assert tries < 14 * 24 * 6  # nobody hammers a dead line
    net.down, net.wall_ahead = set(), 0.0
    net.now += LONGEST_PAUSE
    net.blind = True  # and nobody knows what day it is
    net.ask(labels("pos-2.example.net"))  # the first that finds the line again forgives all
    back = net.ask(NTP)
    assert back.error is ExtendedError.DNSSEC_INDETERMINATE and not back.is_secure


def test_what_is_forged_is_servfail_and_never_kept(world: World) -> None:
    net = Net(world)
    other = World()
    net.world = replace_engine(world, other)
    found = net.ask()
    assert (found.rcode, found.error) == (Rcode.SERVFAIL, ExtendedError.DNSSEC_BOGUS)
    net.world = world
    net.now += 400
    assert net.ask().is_secure


def replace_engine(world: World, other: World) -> World:
    """Give a world whose answers another one signs."""
    made = object.__new__(World)
    made.__dict__ |= world.__dict__
    made.engine = other.engine
    return made


def test_a_zone_that_a_person_named_is_not_checked(world: World) -> None:
    net = Net(world, unsigned=frozenset({labels("example.net")}))
    net.world = replace_engine(world, World())
    found = net.ask()
    assert found.rcode is Rcode.NOERROR and not found.is_secure


def test_whoever_checks_himself_gets_what_they_say(world: World) -> None:
    net = Net(world)
    net.world = replace_engine(world, World())
    found = net.resolver.resolve(WWW, Rtype.A, checks=False)
    assert found.rcode is Rcode.NOERROR and not found.is_secure
    assert net.resolver.lookup(WWW, Rtype.A) is None


PRIVATE = """$TTL 300
@ SOA ns hostmaster 7 3600 600 604800 30
@ NS ns
ns A 192.0.2.1
trap A 192.168.1.1
mixed A 192.168.1.1
mixed A 198.51.100.7
"""


def test_n27_private_addresses_of_public_names_are_blocked_with_an_allow_list(
    world: World,
) -> None:
    made = replace_engine(world, world)
    made.engine = DnsEngine(Zones(()), "x")
    zone = decode_zone(PRIVATE.encode(), labels("rebind.example"), "zone")
    made.engine.replace(Generation(zones=Zones([zone])))
    net = Net(made, anchors={})
    trap = net.ask(labels("trap.rebind.example"))
    assert (trap.answers, trap.error) == ((), ExtendedError.BLOCKED)
    mixed = net.ask(labels("mixed.rebind.example"))
    assert mixed.answers[0].rdatas == (bytes((198, 51, 100, 7)),)
    net.resolver.replace(replace(net.config, private=frozenset({labels("rebind.example")})))
    net.now += 400
    assert net.ask(labels("trap.rebind.example")).answers


def test_a_name_that_cannot_be_read_silences_no_upstream(world: World) -> None:
    """Such names are anybody's to ask for; the other names must go on being resolved."""
    net = Net(world)
    name = labels("nothing.net")
    question = make_question(name, Rtype.A, net.ports.draw(DRAWN_BYTES)).encode(pads=True)
    reply = world.engine.receive(question, "127.0.0.1", NOW, is_tcp=True)
    assert isinstance(reply, bytes)
    net.lie = reply[:6] + b"\0\x20" + reply[8:]  # more records than it has
    found = net.ask(name)
    assert (found.rcode, found.said) == (Rcode.SERVFAIL, "cannot be read: a name is malformed")
    assert [health.failures for health in net.resolver.health.values()] == [0, 0]
    net.lie = None
    assert net.ask().rcode is Rcode.NOERROR


def test_any_byte_in_a_name_is_resolved_and_kept(world: World) -> None:
    net = Net(world)
    name = (b"\xff\xfe\0.", *labels("any.example.net"))
    found = net.ask(name, Rtype.TXT)
    assert found.is_secure and found.answers[0].owner == name
    net.restart()
    assert net.resolver.lookup(name, Rtype.TXT) == found


def test_answers_that_do_not_match_count_as_silence(world: World) -> None:
    net = Net(world)
    net.lie = bytes(40)
    found = net.ask()
    assert found.rcode is Rcode.SERVFAIL
    assert net.resolver.health[FIRST].failures > 0
