"""What would be answered to a question, to whom, and which way it took.

It reads the generation that is served and what the resolver remembers; it asks nobody and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from netboot.dns import Generation
from netboot.dns_cache import Known, Trust
from netboot.names import Labels, labels, text
from netboot.plan import Plan
from netboot.rdata import Rtype, name_of, show
from netboot.views import View
from netboot.zone import Absence, Found, Rcode, RRset

_TRUST = {
    Trust.SECURE: "its signatures were checked",
    Trust.INSECURE: "its zone is not signed",
    Trust.TIME_BLIND: "its signatures were checked but for their dates: the clock is not trusted",
}
_MADE = {Rtype.SOA, Rtype.NS, Rtype.DNSKEY, Rtype.NSEC3PARAM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where what is served comes from: the plan, owner names of leases, what was remembered."""

    plan: Plan
    leases: Collection[Labels]
    known: Known | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The code and records of an answer as text, and why, one sentence each.

    `age` in seconds of what was remembered; `code` is None when others would be asked first.
    """

    code: str | None
    answers: tuple[str, ...]
    reasons: tuple[str, ...]
    age: float | None = None


def explain(
    generation: Generation, sources: Sources, name: Labels, qtype: int, peer: str
) -> Explained:
    """Say what this peer would be told."""
    view = generation.views.of(peer)
    begin = f"{peer} may ask: {view.value}"
    if view is View.ENROLMENT and name not in generation.views.names:
        return _none(Rcode.REFUSED, begin, "refused: this box is not enrolled yet")
    found = generation.zones.lookup(name, qtype)
    said = [begin, *(_origin(one, generation, sources) for one in found.answers)]
    if found.left is None:
        said += _end(found, generation)
        return Explained(code=found.rcode.name, answers=_shown(found.answers), reasons=tuple(said))
    if not generation.forwards or view is not View.FULL:
        why = "others are not asked" if not generation.forwards else "not asked for this address"
        code = found.rcode.name if found.answers else Rcode.REFUSED.name
        said.append(f"{text(found.left)} is in no zone of this site: {why}")
        return Explained(code=code, answers=_shown(found.answers), reasons=tuple(said))
    return _forwarded(found, sources, said)


def _none(rcode: Rcode, *reasons: str) -> Explained:
    return Explained(code=rcode.name, answers=(), reasons=reasons)


def _forwarded(found: Found, sources: Sources, said: list[str]) -> Explained:
    assert found.left is not None
    whom = ", ".join(str(one) for one in sources.plan.resolver().upstreams)
    known = sources.known
    begun = _shown(found.answers)
    if found.left in sources.plan.resolver().pinned:
        said.append(f"{text(found.left)} is pinned: its last answer is given without limit of age")
    if len(found.left) < 2:
        said.append("a name of one label never leaves this site")
        return Explained(code=Rcode.NXDOMAIN.name, answers=begun, reasons=tuple(said))
    if known is None:
        said.append(f"nothing is remembered: would be asked of {whom}")
        return Explained(code=None, answers=begun, reasons=tuple(said))
    fresh = "its time is over: asked again first, of" if known.is_stale else "came from one of"
    said.append(f"remembered for {int(known.age)} s, {fresh} {whom}")
    said.append(_TRUST[known.trust])
    return Explained(
        code=known.rcode.name,
        answers=(*begun, *_shown(known.answers)),
        reasons=tuple(said),
        age=known.age,
    )


def _origin(rrset: RRset, generation: Generation, sources: Sources) -> str:
    """Say where one RRset comes from."""
    owner = rrset.source or rrset.owner
    zone = generation.zones.zone_of(owner, rrset.rtype)
    assert zone is not None
    made = _maker(rrset, owner, zone.origin, sources)
    wildcard = f", by the wildcard {text(rrset.source)}" if rrset.source else ""
    signed = "signed" if zone.origin in generation.signers else "not signed"
    where = f"zone {text(zone.origin)}, {signed}"
    return f"{text(rrset.owner)} {name_of(rrset.rtype)}: {made}{wildcard} ({where})"


def _maker(rrset: RRset, owner: Labels, origin: Labels, sources: Sources) -> str:
    for one in sources.plan.zones:
        if one.origin == origin and rrset.rtype not in (Rtype.DNSKEY, Rtype.NSEC3PARAM):
            return f"of the master file {one.file}"
    kind = name_of(rrset.rtype)
    if any(labels(one.name) == owner and one.type == kind for one in sources.plan.records):
        return "of the plan"
    if owner in sources.leases:
        return "of a lease"
    if rrset.rtype == Rtype.PTR:
        return "of the address of the name that it points to"
    return "made by this server" if rrset.rtype in _MADE else "a special name (RFC 6303, 6761)"


def _end(found: Found, generation: Generation) -> Iterator[str]:
    """Say what ended the way: an absence, or a delegation."""
    for one in found.missing:
        if one.absence in (Absence.NAME, Absence.TYPE, Absence.WILDCARD_TYPE):
            proof = "proved by NSEC3" if one.zone in generation.signers else "not signed"
            yield f"{text(one.name)}: {one.absence.value} in zone {text(one.zone)} ({proof})"
    if found.rcode is Rcode.NOERROR and not found.answers and not found.is_authoritative:
        servers = [text(one.owner) for one in found.authority if one.rtype == Rtype.NS]
        yield f"delegated: the servers of {', '.join(servers)} are named"


def _shown(rrsets: tuple[RRset, ...]) -> tuple[str, ...]:
    return tuple(line for rrset in rrsets for line in rrset_lines(rrset))


def rrset_lines(rrset: RRset) -> Iterator[str]:
    """Write an RRset as lines of a zone file."""
    head = f"{text(rrset.owner)} {rrset.ttl} IN {name_of(rrset.rtype)}"
    for data in rrset.rdatas:
        yield f"{head} {show(rrset.rtype, data)}"
