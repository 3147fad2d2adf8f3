"""Checking the signatures of other servers' answers, from a trust anchor down.

dnspython checks a single signature; which key may sign what, and what the absence of a name or of a
signature needs as proof, is decided here. What cannot be proved is bogus, never "insecure". With
`blind` the dates of signatures are not looked at, because nobody knows what day it is, and the
result says so. RFC 4035, 5; RFC 5155, 8; RFC 6840, 4 and 5; RFC 9276, 3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dns.dnssec
import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from netboot.denial import Denial, Proof
from netboot.dns_cache import Known, Trust
from netboot.errors import PeerError
from netboot.names import Labels, is_at_or_below, read_wire, text
from netboot.rdata import Rtype
from netboot.upstream import stands_for
from netboot.zone import WILDCARD, Rcode, RRset

MAX_KEYS = 16
MAX_SIGNATURES = 4
"""Signatures tried for one set, so that an answer costs no more (CVE-2023-50387)."""
MAX_PROOFS = 16
"""Denial records looked at in one answer; a chain of aliases needs no more."""
MAX_WORK = 512
"""Questions and signatures for one answer."""
MAX_DEPTH = 24
ALGORITHMS = frozenset({8, 10, 13, 14, 15, 16})
"""What we check (RFC 8624, 3.1: SHA-1 is left out); a zone with others alone is insecure."""
DIGESTS = frozenset({2, 4})
_NEVER_EXPANDED = frozenset({Rtype.DS, Rtype.DNSKEY, Rtype.NSEC, Rtype.NSEC3})
"""An NSEC of a wildcard, replayed at another name, would deny what it is not about."""
_RRSIG = struct.Struct("!HBBIIIH")

Fetch = Callable[[Labels, int], Known]
"""Asks for a type of a name; PeerError when nobody answers."""

ROOT_ANCHORS: Mapping[Labels, tuple[bytes, ...]] = {
    (): (
        bytes.fromhex("4f660802e06d44b80b8f1d39a95c0b0d7c65d08458e880409bbc683457104237c7f8ec8d"),
        bytes.fromhex("97280802683d2d0acb8c9b712a1948b27f741219298d0a450d612c483af444a4c0fb2b16"),
    )
}
"""DS of the root's keys 20326 (2017) and 38696 (2024), from IANA's root-anchors.xml."""


class BogusError(PeerError):
    """An answer that must not be believed; `is_expired` when its dates alone are wrong."""

    def __init__(self, message: str, *, is_expired: bool = False) -> None:
        """Keep why."""
        super().__init__(message)
        self.is_expired = is_expired


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zone:
    """A zone whose keys are trusted, or one that is proved to be without."""

    name: Labels
    keys: RRset | None


class Validator:
    """Checks answers; keys of zones come by `fetch`, whose cache keeps them."""

    def __init__(
        self, fetch: Fetch, now: float, *, blind: bool, anchors: Mapping[Labels, Iterable[bytes]]
    ) -> None:
        """Check as of `now`; `anchors` are DS data by zone."""
        self._ask, self._now, self._blind = fetch, now, blind
        self._anchors = {zone: tuple(found) for zone, found in anchors.items()}
        self._zones: dict[Labels, _Zone] = {}
        self._held: dict[tuple[Labels, int], bytes] = {}
        self._depth = self._work = 0

    def check(self, known: Known, name: Labels, qtype: int) -> Trust:
        """Say what is known of an answer; BogusError when it must not be believed."""
        signed = [
            self._set(rrset, known.answers)
            for rrset in _plain(known.answers)
            if not _is_made(rrset, known.answers)
        ]
        is_secure = all(signed)
        last, rest = _end(known.answers, name, qtype)
        if rest:
            is_secure = self._denied(known, last, qtype) and is_secure
        if is_secure:
            is_secure = self._expansions(known)
        if not is_secure:
            return Trust.INSECURE
        return Trust.TIME_BLIND if self._blind else Trust.SECURE

    def _fetch(self, name: Labels, qtype: int) -> Known:
        self._count()
        return self._ask(name, qtype)

    def _count(self) -> None:
        """Bound what one answer may cost, whatever it leads to."""
        self._work += 1
        if self._work > MAX_WORK:
            raise BogusError("more to ask and to check than one answer may cost")

    # sets

    def _set(self, rrset: RRset, among: Iterable[RRset]) -> bool:
        """Tell a set that is signed from one that is proved to need none."""
        signatures = _signatures(rrset, among)
        if not signatures:
            zone = self._zone_over(rrset.owner, rrset.rtype)
            if zone.keys is not None:
                raise BogusError(f"{text(rrset.owner)}: no signature, though its zone is signed")
            return False
        signer = _signer(signatures[0])
        if not is_at_or_below(rrset.owner, signer):
            raise BogusError(f"{text(rrset.owner)}: signed by {text(signer)}")
        if rrset.rtype == Rtype.DS and rrset.owner == signer:
            raise BogusError(f"{text(rrset.owner)}: a DS that its own zone signed")
        zone = self._zone(signer)
        if zone.keys is None:
            return False
        held = self._verify(rrset, signatures, zone.keys)
        if rrset.rtype in _NEVER_EXPANDED and _labels(held) < _own_labels(rrset.owner):
            raise BogusError(f"{text(rrset.owner)}: made from a wildcard, which proves nothing")
        self._held[rrset.owner, rrset.rtype] = held
        return True

    def _verify(self, rrset: RRset, signatures: list[bytes], keys: RRset) -> bytes:
        """Find a signature by one of the keys, in its time; BogusError when there is none."""
        found = _dns(rrset)
        trusted: dict[dns.name.Name, Any] = {dns.name.from_text(text(keys.owner)): _dns(keys)}
        when = None if self._blind else self._now
        problem: Exception | None = None
        for data in signatures[:MAX_SIGNATURES]:
            self._count()
            signature = _dns(
                RRset(owner=rrset.owner, rtype=Rtype.RRSIG, ttl=rrset.ttl, rdatas=(data,))
            )
            moment = _middle(data) if when is None else when
            try:
                dns.dnssec.validate(found, signature, trusted, now=moment)
            except (dns.exception.DNSException, ValueError, TypeError) as error:
                problem = error
                continue
            return data
        is_expired = not self._blind and all(_is_outside(one, self._now) for one in signatures)
        why = "its signature's time is over, or has not begun" if is_expired else problem
        raise BogusError(f"{text(rrset.owner)}: {why}", is_expired=is_expired)

    # zones

    def _zone(self, name: Labels) -> _Zone:
        """Find the keys of a zone that is said to exist, from its parent down."""
        known = self._zones.get(name)
        if known is not None:
            return known
        with self._deeper(name):
            delegation = self._anchors.get(name) or self._delegation(name)
            keys = self._keys(name, delegation) if delegation else None
        self._zones[name] = _Zone(name=name, keys=keys)
        return self._zones[name]

    @contextmanager
    def _deeper(self, name: Labels) -> Iterator[None]:
        """Bound how far the checks of one answer lead into each other."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BogusError(f"{text(name)}: too many zones above it")
        yield
        self._depth -= 1

    def _delegation(self, name: Labels) -> tuple[bytes, ...]:
        """Give the DS of a zone; none when it is proved that there is none we can use."""
        if not any(is_at_or_below(name, anchor) for anchor in self._anchors):
            return ()
        known = self._fetch(name, Rtype.DS)
        found = next((one for one in known.answers if one.rtype == Rtype.DS), None)
        if found is not None and found.owner == name:
            if not self._set(found, known.answers):
                return ()
            usable = (one for one in found.rdatas if one[2] in ALGORITHMS and one[3] in DIGESTS)
            return tuple(usable)
        is_unsigned = self._is_unsigned_cut(known, name)
        if is_unsigned is None:  # or the zone above has no signatures either
            is_unsigned = self._zone_over(name, Rtype.DS).keys is None
        if not is_unsigned:
            raise BogusError(f"{text(name)}: no zone, and no proof that it is an unsigned one")
        return ()

    def _keys(self, name: Labels, delegation: tuple[bytes, ...]) -> RRset:
        """Fetch a zone's keys and check that one which its parent names has signed them."""
        known = self._fetch(name, Rtype.DNSKEY)
        keys = next((one for one in known.answers if one.rtype == Rtype.DNSKEY), None)
        if keys is None or keys.owner != name:
            raise BogusError(f"{text(name)}: its keys are missing")
        entry = tuple(key for key in keys.rdatas[:MAX_KEYS] if _is_named(name, key, delegation))
        if not entry:
            raise BogusError(f"{text(name)}: none of its keys is the one that its parent names")
        trusted = RRset(owner=name, rtype=Rtype.DNSKEY, ttl=keys.ttl, rdatas=entry)
        self._verify(keys, _signatures(keys, known.answers), trusted)
        return RRset(owner=name, rtype=Rtype.DNSKEY, ttl=keys.ttl, rdatas=keys.rdatas[:MAX_KEYS])

    def _zone_over(self, name: Labels, rtype: int) -> _Zone:
        """Find the zone that a name without signature is in: signed, or the first that is not."""
        anchor = max(
            (one for one in self._anchors if is_at_or_below(name, one)), key=len, default=None
        )
        if anchor is None:
            return _Zone(name=(), keys=None)
        last = len(name) - (1 if rtype == Rtype.DS else 0)
        with self._deeper(name):
            return self._walk(name[len(name) - last :], anchor)

    def _walk(self, name: Labels, anchor: Labels) -> _Zone:
        zone = self._zone(anchor)
        for count in range(len(anchor) + 1, len(name) + 1):
            if zone.keys is None:
                return zone
            cut = name[len(name) - count :]
            known = self._fetch(cut, Rtype.DS)
            if any(one.rtype == Rtype.DS and one.owner == cut for one in known.answers):
                zone = self._zone(cut)
                continue
            is_unsigned = self._is_unsigned_cut(known, cut)
            if is_unsigned is None:
                raise BogusError(f"{text(cut)}: no proof that it is not a signed zone")
            if is_unsigned:
                return _Zone(name=cut, keys=None)
            if known.rcode is Rcode.NXDOMAIN:
                break
        return zone

    def _is_unsigned_cut(self, known: Known, cut: Labels) -> bool | None:
        """Tell a delegation without DS from a name inside the zone; None when neither is proved."""
        if any(one.rtype == Rtype.CNAME and one.owner == cut for one in known.answers):
            return False  # an alias is no delegation
        proof = self._proof(known)
        return None if proof is None else proof.denies_zone(cut)

    # what is not there

    def _denied(self, known: Known, name: Labels, qtype: int) -> bool:
        """Check the proof that a name or type is not there; False where it need not be secure."""
        proof = self._proof(known)
        if proof is None:
            zone = self._zone_over(name, qtype)
            if zone.keys is not None:
                raise BogusError(f"{text(name)}: no proof that it is not there")
            return False
        is_name = known.rcode is Rcode.NXDOMAIN
        found = proof.denies_name(name) if is_name else proof.denies_type(name, qtype)
        if found is Proof.NONE:
            what = "it is not there" if is_name else "it has no such type"
            raise BogusError(f"{text(name)}: the proof that {what} does not hold")
        return found is Proof.HOLDS

    def _proof(self, known: Known) -> Denial | None:
        """Gather denial records whose signatures hold; None where no signed zone has any."""
        records = [one for one in _plain(known.authority) if one.rtype in (Rtype.NSEC, Rtype.NSEC3)]
        if len(records) > MAX_PROOFS:
            raise BogusError(f"{len(records)} records of proof: more than an answer needs")
        signed = (one for one in records if _signatures(one, known.authority))
        held = [one for one in signed if self._set(one, known.authority)]
        for soa in (one for one in known.authority if one.rtype == Rtype.SOA):
            if held:
                self._set(soa, known.authority)
        if not held:
            return None
        return Denial((one, _signer(self._held[one.owner, one.rtype])) for one in held)

    def _expansions(self, known: Known) -> bool:
        """Check that what a wildcard answered has no name of its own (RFC 4035, 5.3.4).

        False where an unsigned delegation may hide it (RFC 5155, 8.8).
        """
        is_secure = True
        for rrset in _plain(known.answers):
            held = self._held.get((rrset.owner, rrset.rtype))
            if held is None or _labels(held) >= _own_labels(rrset.owner):
                continue
            proof, count = self._proof(known), _labels(held)
            found = (
                Proof.NONE
                if proof is None
                else proof.denies_closer(rrset.owner, count, _signer(held))
            )
            if found is Proof.NONE:
                raise BogusError(f"{text(rrset.owner)}: a wildcard without its proof")
            is_secure = is_secure and found is Proof.HOLDS
        return is_secure


def _plain(rrsets: Iterable[RRset]) -> list[RRset]:
    return [one for one in rrsets if one.rtype != Rtype.RRSIG]


def _signatures(rrset: RRset, among: Iterable[RRset]) -> list[bytes]:
    """Find the signatures over a set, of algorithms that we check."""
    return [
        data
        for one in among
        if one.rtype == Rtype.RRSIG and one.owner == rrset.owner
        for data in one.rdatas
        if len(data) > _RRSIG.size
        and int.from_bytes(data[:2], "big") == rrset.rtype
        and data[2] in ALGORITHMS
    ]


def _is_made(rrset: RRset, among: Iterable[RRset]) -> bool:
    """Tell a CNAME that a DNAME stands for, whose signature counts for both (RFC 6672, 5.3.1)."""
    is_alone = rrset.rtype == Rtype.CNAME and not _signatures(rrset, among)
    return is_alone and any(stands_for(rrset, one) for one in among)


def _signer(rrsig: bytes) -> Labels:
    return read_wire(rrsig, _RRSIG.size)[0]


def _labels(rrsig: bytes) -> int:
    """Give how many labels were signed: fewer than the owner's for what a wildcard made."""
    return rrsig[3]


def _own_labels(owner: Labels) -> int:
    """Count as a signer does, who leaves a wildcard's label out (RFC 4034, 3.1.3)."""
    return len(owner) - (owner[:1] == (WILDCARD,))


def _end(answers: Iterable[RRset], name: Labels, qtype: int) -> tuple[Labels, bool]:
    """Follow the chain: the last name, and whether its type is missing."""
    sets = {(one.owner, one.rtype): one for one in _plain(answers)}
    for _ in range(len(sets) + 1):
        if (name, qtype) in sets:
            return name, False
        alias = sets.get((name, Rtype.CNAME))
        if alias is None:
            break
        name = read_wire(alias.rdatas[0])[0]
    return name, True


def limited(rrsets: tuple[RRset, ...], now: float | None) -> tuple[RRset, ...]:
    """Bound TTLs by those that were signed, and by the time that signatures have left.

    RFC 4035, 5.3.3; `now` is None while the clock is not trusted.
    """
    bounds: dict[tuple[Labels, int], int] = {}
    for one in rrsets:
        for data in one.rdatas if one.rtype == Rtype.RRSIG else ():
            if len(data) < _RRSIG.size:
                continue
            covered, _, _, signed, expiration, *_ = _RRSIG.unpack_from(data)
            left = signed if now is None else min(signed, max(0, int(expiration - now)))
            key = (one.owner, covered)
            bounds[key] = min(left, bounds.get(key, left))

    def bounded(one: RRset) -> RRset:
        covered = one.rtype
        if covered == Rtype.RRSIG:
            covered = int.from_bytes(one.rdatas[0][:2], "big")
        bound = bounds.get((one.owner, covered), one.ttl)
        return one if bound >= one.ttl else replace(one, ttl=bound)

    return tuple(map(bounded, rrsets))


def _middle(rrsig: bytes) -> float:
    """Give a time at which a signature is valid, for whoever does not know what day it is."""
    expiration, inception = struct.unpack_from("!II", rrsig, 8)
    return float(inception + (expiration - inception) // 2)


def _is_outside(rrsig: bytes, now: float) -> bool:
    expiration, inception = struct.unpack_from("!II", rrsig, 8)
    return not inception <= now <= expiration


def _is_named(name: Labels, key: bytes, delegation: Iterable[bytes]) -> bool:
    """Tell whether a DS names a key, and the key may sign zones."""
    if len(key) < 4 or not key[0] & 1 or key[2] != 3:
        return False
    try:
        rdata = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.DNSKEY, key, 0, len(key))
        owner = dns.name.from_text(text(name))
        for one in delegation:
            kind = {2: "SHA256", 4: "SHA384"}.get(one[3])
            if kind and dns.dnssec.make_ds(owner, rdata, kind).to_wire() == one:
                return True
    except (dns.exception.DNSException, ValueError):
        return False
    return False


def _dns(rrset: RRset) -> dns.rrset.RRset:
    kind = dns.rdatatype.RdataType.make(rrset.rtype)
    found = dns.rrset.RRset(dns.name.from_text(text(rrset.owner)), dns.rdataclass.IN, kind)
    for data in rrset.rdatas:
        try:
            one = dns.rdata.from_wire(dns.rdataclass.IN, kind, data, 0, len(data))
        except (dns.exception.DNSException, ValueError, IndexError) as error:
            raise BogusError(f"{text(rrset.owner)}: {type(error).__name__}") from None
        found.add(one, rrset.ttl)
    return found
