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

import pytest
from dns_peers import (
    BOGUS,
    FAULTY,
    HERE,
    QUESTIONS,
    SIGNINGS,
    Peers,
    Signing,
    Verdict,
    World,
    delv_says,
    serving,
    unbound_says,
)

from netboot.dns_cache import DnsCache
from netboot.io.exchange import Exchange
from netboot.names import labels
from netboot.rdata import Rtype, encode, name_of, number_of
from netboot.resolver import Ports, Resolver, ResolverConfig, Transport, Upstream
from netboot.zone import Rcode

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
