"""The validator on zones that others signed and serve, name by name beside unbound and delv.

BIND's and ldns' signers, NSEC and NSEC3, with salt, iterations and opt-out, three algorithms; every
kind of name that there is, and zones with a fault.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.zone
import pytest
from dns_peers import (
    BOGUS,
    FAULTY,
    HERE,
    QUESTIONS,
    SIGNINGS,
    TOP,
    Peers,
    Signing,
    Verdict,
    World,
    delv_says,
    serving,
    unbound_says,
)

from netboot.denial import Denial, Proof
from netboot.dns_cache import DnsCache
from netboot.io.exchange import Exchange
from netboot.names import Labels, is_at_or_below, labels, read_wire, text
from netboot.plan_dns import origin_of
from netboot.rdata import Rtype, encode, name_of, number_of
from netboot.resolver import Ports, Resolver, ResolverConfig, Transport, Upstream
from netboot.zone import Rcode, RRset

UNBOUND_IS_WRONG = ("www.moved", "DNAME")
"""unbound 1.17 calls the DNAME above bogus when it is asked for below it; delv and we do not."""
OPEN, COSTLY = "open", "costly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The servers of others, and our resolver with unbound that believes everything above it."""

    peers: Peers
    resolver: Resolver

    def ours(self, name: str, rtype: str) -> Verdict:
        found = self.resolver.resolve(labels(name), number_of(rtype))
        if found.rcode is Rcode.SERVFAIL:
            return BOGUS
        kinds = {name_of(one.rtype) for one in found.answers} - {"RRSIG"}
        trust = "secure" if found.is_secure else "insecure"
        return Verdict(trust=trust, code=found.rcode.name, answer=frozenset(kinds))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    work = tmp_path_factory.mktemp("peers")
    world = World(work, (*SIGNINGS, *FAULTY))
    with serving(world, work) as peers:
        yield Lab(peers=peers, resolver=resolver(peers))


def resolver(peers: Peers) -> Resolver:
    anchor = encode(Rtype.DS, peers.anchor.read_text().partition(" DS ")[2].strip())
    upstream = Upstream(address=HERE, port=peers.believing, transport=Transport.PLAIN)
    config = ResolverConfig(upstreams=(upstream,), private=frozenset({()}), anchors={(): (anchor,)})
    ports = Ports(
        exchange=Exchange(),
        clock=time.monotonic,
        wall=time.time,
        is_blind=lambda: False,
        draw=os.urandom,
        lock=threading.RLock(),
    )
    return Resolver(config, DnsCache(), ports)


def names(signing: Signing) -> Iterator[tuple[str, str, str]]:
    for label, rtype in QUESTIONS:
        yield label, f"{label}.{signing.origin}" if label else signing.origin, rtype


@pytest.mark.parametrize("signing", (*SIGNINGS, *FAULTY), ids=lambda one: one.name)
def test_every_verdict_is_that_of_unbound(lab: Lab, signing: Signing) -> None:
    ours = {(label, rtype): lab.ours(name, rtype) for label, name, rtype in names(signing)}
    theirs = {
        (label, rtype): unbound_says(lab.peers, name, rtype)
        for label, name, rtype in names(signing)
    }
    differ = {asked: (ours[asked], theirs[asked]) for asked in ours if ours[asked] != theirs[asked]}
    if theirs[UNBOUND_IS_WRONG] == BOGUS:
        differ.pop(UNBOUND_IS_WRONG, None)
    if signing.name == COSTLY:  # RFC 9276, 3.2 leaves it to us: no more than 50 iterations
        differ = {asked: found for asked, found in differ.items() if found[0] != BOGUS}
        assert ours["www", "A"].trust == "secure" and ours["nothing", "A"] == BOGUS
    assert differ == {}


@pytest.mark.parametrize(
    "signing", [one for one in SIGNINGS if OPEN not in one.name], ids=lambda one: one.name
)
def test_every_verdict_is_that_of_delv(lab: Lab, signing: Signing) -> None:
    """Not of opt-out, where delv says "validated" of what RFC 5155, 9.2 calls insecure."""
    ours, theirs = {}, {}
    for label, name, rtype in tuple(names(signing))[::3]:
        ours[label, rtype] = lab.ours(name, rtype).trust
        theirs[label, rtype] = delv_says(lab.peers, name, rtype)
    assert ours == theirs


@pytest.mark.parametrize("signing", FAULTY, ids=lambda one: one.name)
def test_a_zone_with_a_fault_is_bogus_somewhere(lab: Lab, signing: Signing) -> None:
    assert BOGUS in {lab.ours(name, rtype) for _, name, rtype in names(signing)}


# Every record of denial that there is, at once: what a liar could replay


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), SIGNINGS)


def family(signing: Signing) -> tuple[str, ...]:
    return (".", TOP, signing.origin, f"ssub.{signing.origin}")


def denials(world: World, signing: Signing) -> Iterator[tuple[RRset, Labels]]:
    """All NSEC and NSEC3 of a zone, of its child, and of the zones above."""
    for origin in family(signing):
        for name, rtype, data in records(world.zones[origin]):
            if rtype in (Rtype.NSEC, Rtype.NSEC3):
                yield RRset(owner=name, rtype=rtype, ttl=300, rdatas=(data,)), origin_of(origin)


def records(path: Path) -> Iterator[tuple[Labels, int, bytes]]:
    origin = path.name.removesuffix(".signed").replace("root", ".")
    found = dns.zone.from_file(str(path), origin=origin, relativize=False, check_origin=False)
    for name, _, rdata in found.iterate_rdatas():
        yield read_wire(name.to_wire() or b"\0")[0], int(rdata.rdtype), rdata.to_wire() or b""


def names_of(world: World, signing: Signing) -> dict[Labels, set[int]]:
    """Every name of a zone and its child with its types; without the hashes of NSEC3."""
    there: dict[Labels, set[int]] = {}
    for origin in family(signing)[2:]:
        for name, rtype, _ in records(world.zones[origin]):
            there.setdefault(name, set()).add(rtype)
    return {name: types for name, types in there.items() if Rtype.NSEC3 not in types}


def is_unsigned_cut(types: set[int]) -> bool:
    return Rtype.NS in types and not types & {Rtype.SOA, Rtype.DS}


@pytest.mark.parametrize("signing", SIGNINGS, ids=lambda one: one.name)
def test_no_choice_of_true_denials_denies_what_is_signed(world: World, signing: Signing) -> None:
    denial = Denial(denials(world, signing))
    there = names_of(world, signing)
    cuts = [name for name, types in there.items() if is_unsigned_cut(types)]
    zones = [labels(origin) for origin in family(signing)[3:1:-1]]
    asked = 0
    for name, types in there.items():
        if any(is_at_or_below(name, cut) for cut in cuts):
            continue
        assert denial.denies_name(name) is Proof.NONE, text(name)
        for rtype in types - {Rtype.RRSIG, Rtype.NSEC}:
            assert denial.denies_type(name, rtype) is Proof.NONE, (text(name), rtype)
            asked += 1
        zone = next(one for one in zones if is_at_or_below(name, one))
        for count in range(len(zone), len(name)):
            if name[len(name) - count - 1 :] in there:  # nothing was made from a wildcard here
                assert denial.denies_closer(name, count, zone) is Proof.NONE, text(name)
        if Rtype.DS in types or Rtype.SOA in types:
            assert denial.denies_zone(name) is not True, text(name)
    assert asked > 30


@pytest.mark.parametrize("signing", SIGNINGS, ids=lambda one: one.name)
def test_an_unsigned_delegation_is_no_more_than_that(world: World, signing: Signing) -> None:
    """Its parent says that it has no DS, and nothing of what is below."""
    denial = Denial(denials(world, signing))
    cuts = [name for name, types in names_of(world, signing).items() if is_unsigned_cut(types)]
    assert len(cuts) == 3
    most = Proof.OPEN if OPEN in signing.name else Proof.NONE
    for cut in cuts:
        assert denial.denies_zone(cut) is True
        assert denial.denies_type(cut, Rtype.DS) is not Proof.NONE
        for name in (cut, (b"www", *cut), (b"x", b"www", *cut)):
            assert denial.denies_name(name) in (Proof.NONE, most), text(name)
            assert denial.denies_type(name, Rtype.A) in (Proof.NONE, most), text(name)
