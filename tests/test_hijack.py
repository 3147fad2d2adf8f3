"""Canaries: an honest upstream shows nothing, each way of changing answers has its sign."""

from __future__ import annotations

import dnslib
import pytest
from dns_lab import NOW, World
from test_resolver import FIRST, Net

from netboot.hijack import NOBODY, Sign, look, look_around
from netboot.resolver import UnreachableError, Upstream


class Liar(Net):
    """A line on which somebody changes answers."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.rewrites = self.strips = self.intercepts = False

    def exchange(self, upstream: Upstream, data: bytes, seconds: float) -> bytes:
        if upstream == NOBODY and not self.intercepts:
            raise UnreachableError("nobody")
        message = dnslib.DNSRecord.parse(super().exchange(upstream, data, seconds))
        name = str(message.q.qname).lower()
        if (self.rewrites and name.endswith(".com.")) or upstream == NOBODY:
            message.header.rcode = 0
            message.rr = dnslib.RR.fromZone(f"{message.q.qname} 60 A 203.0.113.9")
        if self.strips:
            message.rr = [one for one in message.rr if one.rtype != 46]
        return bytes(message.pack())

    def signs(self) -> list[Sign]:
        found = look(
            FIRST, self.ports, {zone: tuple(ds) for zone, ds in self.config.anchors.items()}
        )
        return [one.sign for one in (*found, *look_around(self.ports))]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_an_honest_line_shows_nothing(world: World) -> None:
    assert Liar(world).signs() == []


def test_n33_each_change_has_its_sign(world: World) -> None:
    for name, sign in (
        ("rewrites", Sign.REWRITES),
        ("strips", Sign.STRIPS),
        ("intercepts", Sign.INTERCEPTS),
    ):
        liar = Liar(world)
        setattr(liar, name, True)
        assert liar.signs() == [sign]


def test_keys_of_another_root_are_forged_and_old_dates_are_not(world: World) -> None:
    liar = Liar(world)
    liar.world = World()
    assert liar.signs() == [Sign.FORGES]
    late = Liar(world)
    late.wall_ahead = 400 * 86400.0
    assert late.signs() == []
    assert NOW + late.wall_ahead > NOW


def test_what_was_seen_is_told(world: World) -> None:
    liar = Liar(world)
    liar.rewrites = True
    (finding,) = look(FIRST, liar.ports, {})
    assert finding.seen.endswith(".com: 203.0.113.9") and finding.upstream == FIRST


def test_a_silent_upstream_shows_nothing(world: World) -> None:
    liar = Liar(world)
    liar.cut()
    assert liar.signs() == []
