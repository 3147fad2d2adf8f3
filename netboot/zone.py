"""The site's zones as immutable values, and what they say to one question.

`lookup` follows RFC 1034, 4.3.2 with wildcards (RFC 4592), empty non-terminals (RFC 8020), CNAME
chains (RFC 6604), DNAME (RFC 6672), delegations, and names what a signer must prove (RFC 5155,
7.2). It never decides how a packet looks, and never asks anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from netboot.names import Labels, renamed, wire
from netboot.rdata import Rtype, target

MAX_CHAIN = 16
"""CNAMEs followed for one question."""
WILDCARD = b"*"


class Rcode(IntEnum):
    """RFC 1035, 4.1.1, RFC 2136, 2.2, RFC 6891, 9 and RFC 7873, 8."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    BADVERS = 16
    BADCOOKIE = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class RRset:
    """The records of one owner name and type; `rdatas` in wire form without compression.

    `source` is the wildcard that the set was made from, None for one that is in the zone. `is_made`
    is a CNAME that a DNAME stands for: it is in no zone and has no signature.
    """

    owner: Labels
    rtype: int
    ttl: int
    rdatas: tuple[bytes, ...]
    source: Labels | None = None
    is_made: bool = False


class Absence(Enum):
    """What is not there, so that a signer can prove it (RFC 5155, 7.2.2 to 7.2.6)."""

    NAME = "no such name"
    TYPE = "no such type"
    WILDCARD_TYPE = "the wildcard has no such type"
    EXACT = "a wildcard answered, there is no exact name"
    DS = "the child zone is not signed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """One thing to prove: `name` as asked, `encloser` the closest name above it that exists."""

    absence: Absence
    zone: Labels
    name: Labels
    encloser: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the zones say; `authority` has the SOA when something is not, or the NS of a referral.

    `is_authoritative` is about the first name of the chain (AA). `zone` is the last zone asked; it
    is None when the question left our zones: then `left` is the name to go on with.
    """

    rcode: Rcode
    answers: tuple[RRset, ...] = ()
    authority: tuple[RRset, ...] = ()
    additional: tuple[RRset, ...] = ()
    missing: tuple[Missing, ...] = ()
    is_authoritative: bool = True
    zone: Labels | None = None
    left: Labels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One zone; `names` holds every name that exists, empty non-terminals too.

    `is_signed` zones are proved to whoever asks with DO.
    """

    origin: Labels
    names: Mapping[Labels, Mapping[int, RRset]] = field(default_factory=dict)
    is_signed: bool = False

    @property
    def soa(self) -> RRset:
        """The SOA of negative answers: its TTL is how long they are believed (RFC 2308, 5)."""
        soa = self.names[self.origin][Rtype.SOA]
        minimum = int.from_bytes(soa.rdatas[0][-4:], "big")
        if soa.ttl <= minimum:
            return soa
        return RRset(owner=soa.owner, rtype=soa.rtype, ttl=minimum, rdatas=soa.rdatas)

    def encloser(self, name: Labels) -> Labels:
        """Find the closest name above (or equal) that exists."""
        while name not in self.names and len(name) > len(self.origin):
            name = name[1:]
        return name

    def cut(self, name: Labels) -> Labels | None:
        """Find the delegation that a name is at or below, the highest one; None when there is none.

        The apex is no delegation, and below a DNAME there is none.
        """
        apex = len(name) - len(self.origin)
        for start in range(apex, -1, -1):
            sets = self.names.get(name[start:], {})
            if Rtype.NS in sets and start < apex:
                return name[start:]
            if Rtype.DNAME in sets:
                return None
        return None

    def moved(self, name: Labels) -> RRset | None:
        """Find the DNAME that a name is below, the highest one; None when there is none."""
        for start in range(len(name) - len(self.origin), 0, -1):
            sets = self.names.get(name[start:])
            if sets is not None and Rtype.DNAME in sets:
                return sets[Rtype.DNAME]
        return None


class Zones:
    """All zones of one generation; `lookup` is the only question that they answer."""

    def __init__(self, zones: Iterable[Zone]) -> None:
        """Take zones; of nested ones the longest name is asked."""
        self._zones = {zone.origin: zone for zone in zones}

    def __iter__(self) -> Iterator[Zone]:
        """Give every zone."""
        return iter(self._zones.values())

    def get(self, origin: Labels) -> Zone | None:
        """Find a zone by its own name."""
        return self._zones.get(origin)

    def zone_of(self, name: Labels, qtype: int = Rtype.A) -> Zone | None:
        """Find the zone a name is in; a DS belongs to the zone above (RFC 4035, 3.1.4.1).

        A zone above that does not delegate it knows nothing of it, and must not deny it.
        """
        for start in range(len(name) + 1):
            zone = self._zones.get(name[start:])
            if zone is None or (qtype == Rtype.DS and start == 0 and self._is_delegated(name)):
                continue
            return zone
        return None

    def _is_delegated(self, name: Labels) -> bool:
        above = (self._zones.get(name[start:]) for start in range(1, len(name) + 1))
        zone = next((one for one in above if one is not None), None)
        return zone is not None and zone.cut(name) is not None

    def lookup(self, name: Labels, qtype: int) -> Found:
        """Answer a question for names in lower case; 255 is any type."""
        answers: list[RRset] = []
        missing: list[Missing] = []
        last: Labels | None = None
        for _ in range(MAX_CHAIN):
            zone = self.zone_of(name, qtype)
            if zone is None:
                rcode = Rcode.NOERROR if answers else Rcode.REFUSED
                return Found(
                    rcode=rcode,
                    answers=tuple(answers),
                    missing=tuple(missing),
                    is_authoritative=bool(answers),
                    left=name,
                )
            last = zone.origin
            cut = zone.cut(name)
            if cut is not None and not (qtype == Rtype.DS and cut == name):
                return _referral(zone, cut, answers, missing)
            moved = zone.moved(name)
            if moved is not None:
                alias = _alias(name, moved)
                answers += [one for one in (moved, alias) if one and one not in answers]
                if alias is None:
                    return Found(
                        rcode=Rcode.YXDOMAIN,
                        answers=tuple(answers),
                        missing=tuple(missing),
                        zone=last,
                    )
                if qtype in (Rtype.CNAME, Rtype.ANY):
                    break
                name = target(alias.rdatas[0])
                continue
            step = _step(zone, name, qtype)
            if isinstance(step, _Not):
                return Found(
                    rcode=step.rcode,
                    answers=tuple(answers),
                    authority=(zone.soa,),
                    missing=(*missing, step.missing),
                    zone=zone.origin,
                )
            missing += step.missing
            if step.rrset in answers:
                break
            answers.append(step.rrset)
            if step.rrset.rtype != Rtype.CNAME or qtype in (Rtype.CNAME, Rtype.ANY):
                break
            name = target(step.rrset.rdatas[0])
        return Found(rcode=Rcode.NOERROR, answers=tuple(answers), missing=tuple(missing), zone=last)


def _alias(name: Labels, moved: RRset) -> RRset | None:
    """Make the CNAME that a DNAME stands for (RFC 6672, 3.1)."""
    made = renamed(name, moved.owner, target(moved.rdatas[0]))
    if made is None:
        return None
    return RRset(owner=name, rtype=Rtype.CNAME, ttl=moved.ttl, rdatas=(wire(made),), is_made=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Is:
    rrset: RRset
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Not:
    rcode: Rcode
    missing: Missing


def _step(zone: Zone, name: Labels, qtype: int) -> _Is | _Not:
    """Answer for one name of the chain."""
    sets = zone.names.get(name)
    if sets is not None:
        found = _pick(sets, qtype)
        if found is not None:
            return _Is(rrset=found)
        return _Not(rcode=Rcode.NOERROR, missing=_lack(zone, Absence.TYPE, name, name))
    encloser = zone.encloser(name)
    wildcard = (WILDCARD, *encloser)
    sets = zone.names.get(wildcard)
    if sets is None:
        return _Not(rcode=Rcode.NXDOMAIN, missing=_lack(zone, Absence.NAME, name, encloser))
    found = _pick(sets, qtype)
    if found is None:
        lack = _lack(zone, Absence.WILDCARD_TYPE, name, encloser)
        return _Not(rcode=Rcode.NOERROR, missing=lack)
    made = RRset(owner=name, rtype=found.rtype, ttl=found.ttl, rdatas=found.rdatas, source=wildcard)
    return _Is(rrset=made, missing=(_lack(zone, Absence.EXACT, name, encloser),))


def _lack(zone: Zone, absence: Absence, name: Labels, encloser: Labels) -> Missing:
    return Missing(absence=absence, zone=zone.origin, name=name, encloser=encloser)


def _pick(sets: Mapping[int, RRset], qtype: int) -> RRset | None:
    """Find the RRset of a type, else the CNAME; of any type the first one (RFC 8482)."""
    if qtype == Rtype.ANY:
        return next(iter(sets.values()), None)
    return sets.get(qtype) or sets.get(Rtype.CNAME)


def _referral(zone: Zone, cut: Labels, answers: list[RRset], missing: list[Missing]) -> Found:
    """Send to the servers of a delegated zone, with the addresses that we hold of them."""
    sets = zone.names[cut]
    servers = sets[Rtype.NS]
    authority = [servers]
    signed = sets.get(Rtype.DS)
    if signed is not None:
        authority.append(signed)
    else:
        missing = [*missing, _lack(zone, Absence.DS, cut, cut)]
    glue = []
    for data in servers.rdatas:
        at = zone.names.get(target(data), {})
        glue += [at[rtype] for rtype in (Rtype.A, Rtype.AAAA) if rtype in at]
    return Found(
        rcode=Rcode.NOERROR,
        answers=tuple(answers),
        authority=tuple(authority),
        additional=tuple(glue),
        missing=tuple(missing),
        is_authoritative=bool(answers),
        zone=zone.origin,
    )
