"""The watch on upstreams: what it tells, how often, and what it teaches about the clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dns_lab import World
from test_hijack import Liar

from netboot.events import Event, EventKind
from netboot.io.canaries import Canaries
from netboot.io.clock import RELEASED, ClockTrust


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def trust() -> ClockTrust:
    return ClockTrust(0.0, lambda: RELEASED + 1.0, lambda: False)


def judging(liar: Liar, clock: ClockTrust, told: list[Event]) -> Canaries:
    ports = replace(liar.ports, is_blind=lambda: False)
    return Canaries(ports, clock, told.extend)


def test_signatures_of_today_make_the_clock_trusted(world: World) -> None:
    clock, told, honest = trust(), [], Liar(world)
    assert clock.is_blind()
    assert judging(honest, clock, told).look(honest.config) == []
    assert not clock.is_blind()
    assert told == []


def test_signatures_that_do_not_fit_leave_it_as_it_is(world: World) -> None:
    for name in ("strips", "silent", "late"):
        clock, told, liar = trust(), [], Liar(world)
        ports = replace(liar.ports, is_blind=lambda: False)
        config = liar.config
        if name == "late":
            ports = replace(ports, wall=lambda: world.now + 90 * 86400.0)
        elif name == "silent":
            config = replace(config, upstreams=())
        else:
            liar.strips = True
        Canaries(ports, clock, told.extend).look(config)
        assert clock.is_blind(), name


def test_n33_a_sign_that_stays_is_told_of_once_an_hour(world: World) -> None:
    told: list[Event] = []
    liar = Liar(world)
    liar.rewrites = True
    canaries = judging(liar, trust(), told)
    assert canaries.look(liar.config)
    assert canaries.look(liar.config)
    upstreams = len(liar.config.upstreams)
    assert [one.kind for one in told] == [EventKind.DNS_HIJACK] * upstreams
    detail = dict(told[0].detail)
    assert told[0].reason == "DNS-HIJACK"
    assert "203.0.113.9" in str(detail["seen"])
    assert detail["sign"] == "gives addresses to names that do not exist"
