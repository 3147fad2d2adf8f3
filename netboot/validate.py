"""Checking the signatures of other servers' answers, from a trust anchor down.

dnspython checks a single signature; which key may sign what, and what the absence of a name or of a
signature needs as proof, is decided here. What cannot be proved is bogus, never "insecure". With
`blind` the dates of signatures are not looked at, because nobody knows what day it is, and the
result says so. RFC 4035, 5; RFC 5155, 8; RFC 6840, 4 and 5; RFC 9276, 3.2.
"""

from __future__ import annotations

import struct
from base64 import b32hexdecode
from binascii import Error as Base32Error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dns.dnssec
import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from netboot.dns_cache import Known, Trust
from netboot.errors import PeerError
from netboot.names import Labels, order, read_wire, text
from netboot.nsec3 import hash_of
from netboot.rdata import Rtype
from netboot.upstream import stands_for
from netboot.zone import Rcode, RRset

MAX_KEYS = 16
MAX_SIGNATURES = 4
"""Signatures tried for one set, so that an answer costs no more (CVE-2023-50387)."""
MAX_DEPTH = 24
ALGORITHMS = frozenset({8, 10, 13, 14, 15, 16})
"""What we check (RFC 8624, 3.1: SHA-1 is left out); a zone with others alone is insecure."""
DIGESTS = frozenset({2, 4})
_RRSIG = struct.Struct("!HBBIIIH")
_OPT_OUT = 1

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
        self._fetch, self._now, self._blind = fetch, now, blind
        self._anchors = {zone: tuple(found) for zone, found in anchors.items()}
        self._zones: dict[Labels, _Zone] = {}
        self._held: dict[tuple[Labels, int], bytes] = {}
        self._depth = 0

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
            self._expansions(known)
        if not is_secure:
            return Trust.INSECURE
        return Trust.TIME_BLIND if self._blind else Trust.SECURE

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
        if rrset.owner[len(rrset.owner) - len(signer) :] != signer:
            raise BogusError(f"{text(rrset.owner)}: signed by {text(signer)}")
        if rrset.rtype == Rtype.DS and rrset.owner == signer:
            raise BogusError(f"{text(rrset.owner)}: a DS that its own zone signed")
        zone = self._zone(signer)
        if zone.keys is None:
            return False
        self._held[rrset.owner, rrset.rtype] = self._verify(rrset, signatures, zone.keys)
        return True

    def _verify(self, rrset: RRset, signatures: list[bytes], keys: RRset) -> bytes:
        """Find a signature by one of the keys, in its time; BogusError when there is none."""
        found = _dns(rrset)
        trusted: dict[dns.name.Name, Any] = {dns.name.from_text(text(keys.owner)): _dns(keys)}
        when = None if self._blind else self._now
        problem: Exception | None = None
        for data in signatures[:MAX_SIGNATURES]:
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
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BogusError(f"{text(name)}: too many zones above it")
        delegation = self._anchors.get(name) or self._delegation(name)
        found = _Zone(name=name, keys=None)
        if delegation:
            found = _Zone(name=name, keys=self._keys(name, delegation))
        self._zones[name] = found
        self._depth -= 1
        return found

    def _delegation(self, name: Labels) -> tuple[bytes, ...]:
        """Give the DS of a zone; none when it is proved that there is none we can use."""
        if not any(_is_at_or_below(name, anchor) for anchor in self._anchors):
            return ()
        known = self._fetch(name, Rtype.DS)
        found = next((one for one in known.answers if one.rtype == Rtype.DS), None)
        if found is not None and found.owner == name:
            if not self._set(found, known.answers):
                return ()
            usable = (one for one in found.rdatas if one[2] in ALGORITHMS and one[3] in DIGESTS)
            return tuple(usable)
        self._denied(known, name, Rtype.DS)
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
            (one for one in self._anchors if _is_at_or_below(name, one)), key=len, default=None
        )
        if anchor is None:
            return _Zone(name=(), keys=None)
        zone = self._zone(anchor)
        last = len(name) - (1 if rtype == Rtype.DS else 0)
        for count in range(len(anchor) + 1, last + 1):
            if zone.keys is None:
                return zone
            cut = name[len(name) - count :]
            known = self._fetch(cut, Rtype.DS)
            if any(one.rtype == Rtype.DS and one.owner == cut for one in known.answers):
                zone = self._zone(cut)
            elif self._is_unsigned_cut(known, cut):
                return _Zone(name=cut, keys=None)
            elif known.rcode is Rcode.NXDOMAIN:
                break
        return zone

    def _is_unsigned_cut(self, known: Known, cut: Labels) -> bool:
        """Tell a delegation without DS from a name inside the zone; both must be proved."""
        proof = self._proof(known)
        if proof is None:
            return True  # its zone is not signed
        at = proof.types_at(cut)
        if at is not None:
            return Rtype.NS in at and Rtype.DS not in at and Rtype.SOA not in at
        return proof.opts_out(cut)

    # what is not there

    def _denied(self, known: Known, name: Labels, qtype: int) -> bool:
        """Check the proof that a name or type is not there; False where no zone is signed."""
        proof = self._proof(known)
        if proof is None:
            zone = self._zone_over(name, qtype)
            if zone.keys is not None:
                raise BogusError(f"{text(name)}: no proof that it is not there")
            return False
        if known.rcode is Rcode.NXDOMAIN:
            if not proof.denies_name(name):
                raise BogusError(f"{text(name)}: the proof that it is not there does not hold")
        elif not proof.denies_type(name, qtype):
            if qtype == Rtype.DS and proof.opts_out(name):
                return False
            raise BogusError(f"{text(name)}: the proof that it has no such type does not hold")
        return True

    def _proof(self, known: Known) -> _Proof | None:
        """Gather denial records whose signatures hold; None where no signed zone has any."""
        records = [one for one in _plain(known.authority) if one.rtype in (Rtype.NSEC, Rtype.NSEC3)]
        held = [one for one in records if self._set(one, known.authority)]
        for soa in (one for one in known.authority if one.rtype == Rtype.SOA):
            if held:
                self._set(soa, known.authority)
        return _Proof(held) if held else None

    def _expansions(self, known: Known) -> None:
        """Check that what a wildcard answered has no name of its own (RFC 4035, 5.3.4)."""
        for rrset in _plain(known.answers):
            held = self._held.get((rrset.owner, rrset.rtype))
            count = len(rrset.owner) if held is None else held[3]
            if count < len(rrset.owner) - (rrset.owner[:1] == (b"*",)):
                proof = self._proof(known)
                if proof is None or not proof.covers_below(rrset.owner, count):
                    raise BogusError(f"{text(rrset.owner)}: a wildcard without its proof")


class _Proof:
    """NSEC or NSEC3 records that were verified, and what they prove."""

    def __init__(self, records: list[RRset]) -> None:
        self._nsec: list[tuple[Labels, Labels, frozenset[int]]] = []
        self._nsec3: dict[bytes, tuple[bytes, frozenset[int], int]] = {}
        self._zone: Labels = ()
        for one in records:
            if one.rtype == Rtype.NSEC:
                following, end = read_wire(one.rdatas[0].lower())
                self._nsec.append((one.owner, following, _types(one.rdatas[0][end:])))
            else:
                self._add_nsec3(one)

    def _add_nsec3(self, record: RRset) -> None:
        data = record.rdatas[0]
        if len(data) < 6 or data[0] != 1 or data[2:4] != b"\0\0" or data[4]:
            return  # salt or iterations: RFC 9276, 3.2 lets a validator not count it
        following, types = data[6 : 6 + data[5]], _types(data[6 + data[5] :])
        try:
            start = b32hexdecode(record.owner[0].upper())
        except (Base32Error, ValueError):
            return
        self._zone = record.owner[1:]
        self._nsec3[start] = (following, types, data[1])

    def types_at(self, name: Labels) -> frozenset[int] | None:
        """Give the types of a name that a record is about; None when none is."""
        for owner, _, types in self._nsec:
            if owner == name:
                return types
        found = self._nsec3.get(hash_of(name)) if self._nsec3 else None
        return None if found is None else found[1]

    def _covers(self, name: Labels) -> bool:
        """Tell whether a name is proved not to exist itself."""
        wanted = order(name)
        for owner, following, types in self._nsec:
            if _is_at_or_below(name, owner) and owner != name and _is_cut(types):
                continue
            start, end = order(owner), order(following)
            if (start < wanted < end) or (end <= start and (wanted > start or wanted < end)):
                return True
        return self._span(name) is not None

    def _span(self, name: Labels) -> tuple[bytes, frozenset[int], int] | None:
        if not self._nsec3:
            return None
        wanted = hash_of(name)
        for start, span in self._nsec3.items():
            end = span[0]
            if (start < wanted < end) or (end <= start and (wanted > start or wanted < end)):
                return span
        return None

    def _encloser(self, name: Labels) -> Labels | None:
        """Find the closest name above that is proved to exist, the next one to it proved not to."""
        if self._nsec3:
            for at in range(1, len(name) + 1 - len(self._zone)):
                if hash_of(name[at:]) in self._nsec3:
                    return name[at:] if self._covers(name[at - 1 :]) else None
            return None
        for at in range(1, len(name) + 1):
            above = name[at:]
            if any(_is_at_or_below(one, above) for span in self._nsec for one in span[:2]):
                return above if self._covers(name[at - 1 :]) else None
        return None

    def denies_name(self, name: Labels) -> bool:
        """Tell whether there is no such name, nor a wildcard for it."""
        encloser = self._encloser(name)
        return encloser is not None and self._covers((b"*", *encloser))

    def denies_type(self, name: Labels, qtype: int) -> bool:
        """Tell whether a name, or the wildcard for it, has no such type and no CNAME."""
        types = self.types_at(name)
        if types is not None:
            if qtype == Rtype.DS and Rtype.SOA in types and name:
                return False  # of the child's side of a cut: RFC 6840, 4.4
            if qtype != Rtype.DS and _is_cut(types):
                return False
            return qtype not in types and Rtype.CNAME not in types
        if self._is_between(name):
            return True
        encloser = self._encloser(name)
        if encloser is None:
            return False
        types = self.types_at((b"*", *encloser))
        return types is not None and qtype not in types and Rtype.CNAME not in types

    def _is_between(self, name: Labels) -> bool:
        """Tell an empty non-terminal: a name below it follows in the chain (RFC 4035, 5.4)."""
        return any(
            _is_at_or_below(following, name) and following != name and order(owner) < order(name)
            for owner, following, _ in self._nsec
        )

    def opts_out(self, name: Labels) -> bool:
        """Tell whether a delegation may be there without a record (RFC 5155, 8.6)."""
        for at in range(1, len(name) + 1):
            if hash_of(name[at:]) in self._nsec3:
                span = self._span(name[at - 1 :])
                return span is not None and bool(span[2] & _OPT_OUT)
        return False

    def covers_below(self, name: Labels, count: int) -> bool:
        """Tell whether the name next to a wildcard's parent of `count` labels is not there."""
        return self._covers(name[len(name) - count - 1 :])


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


def _is_at_or_below(name: Labels, zone: Labels) -> bool:
    return name[len(name) - len(zone) :] == zone if len(name) >= len(zone) else False


def _is_cut(types: frozenset[int]) -> bool:
    """Tell the parent's side of a delegation: what is below is not denied by it."""
    return (Rtype.NS in types and Rtype.SOA not in types) or Rtype.DNAME in types


def _types(data: bytes) -> frozenset[int]:
    found: set[int] = set()
    at = 0
    while at + 2 <= len(data):
        window, size = data[at], data[at + 1]
        for byte, bits in enumerate(data[at + 2 : at + 2 + size]):
            found |= {window << 8 | byte << 3 | bit for bit in range(8) if bits & 0x80 >> bit}
        at += 2 + size
    return frozenset(found)


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
