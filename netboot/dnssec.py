"""Signing the site's zones as they are asked for: RRSIG, DNSKEY, and signed denial.

Signatures are made at the first question and kept while they are long enough valid. What signs keys
is not here: it signs the DNSKEY set alone, in the key service (`keys.zone_keys`). RFC 4034, 3.1;
RFC 4035, 2.2; RFC 6781 for lifetimes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec

from keys.zone_keys import (
    DNSKEY_TTL,
    Span,
    canonical,
    dnskey,
    key_tag,
    point,
    rrsig_head,
    sign,
)
from netboot.names import Labels, is_at_or_below, wire
from netboot.nsec3 import NSEC3PARAM, Chain
from netboot.rdata import Rtype
from netboot.zone import WILDCARD, Found, RRset, Zone

VALID_SECONDS = 7 * 86400
"""How long a signature is valid: a box whose resolver keeps answers for a while."""
FRESH_SECONDS = 4 * 86400
"""A signature with less than this left is made again."""
MAX_KEPT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneKeys:
    """What signs one zone: the DNSKEY set with its signatures by `keys`, and the key below.

    `rrsigs` are the data of RRSIGs over `dnskeys`; `private` signs everything else, its public half
    is in the set.
    """

    dnskeys: tuple[bytes, ...]
    rrsigs: tuple[bytes, ...]
    private: ec.EllipticCurvePrivateKey


class ZoneSigner:
    """One zone of one generation with its keys; signatures are kept from the generation before."""

    def __init__(self, zone: Zone, keys: ZoneKeys, before: ZoneSigner | None = None) -> None:
        """Sign nothing yet."""
        self._zone = self._whole(zone, keys)
        self._keys = keys
        public = point(keys.private.public_key())
        self._tag = key_tag(dnskey(public, is_ksk=False))
        self._chain: Chain | None = None
        self._kept: dict[RRset, RRset] = {}
        self.made: int = 0 if before is None else before.made
        """Signatures made so far, those of the signers before too."""
        if before is not None and before._keys == keys:
            self._kept = before._kept

    @property
    def zone(self) -> Zone:
        """The zone with the records that signing adds at its apex."""
        return self._zone

    @staticmethod
    def _whole(zone: Zone, keys: ZoneKeys) -> Zone:
        apex = dict(zone.names[zone.origin])
        for rtype, ttl, rdatas in (
            (Rtype.DNSKEY, DNSKEY_TTL, tuple(sorted(keys.dnskeys))),
            (Rtype.NSEC3PARAM, 0, (NSEC3PARAM,)),
        ):
            apex[rtype] = RRset(owner=zone.origin, rtype=rtype, ttl=ttl, rdatas=rdatas)
        return replace(zone, names={**zone.names, zone.origin: apex})

    def signature(self, rrset: RRset, now: float) -> RRset:
        """Give the RRSIG of a set of this zone, made now if there is none that is fresh."""
        plain = replace(rrset, owner=rrset.source, source=None) if rrset.source else rrset
        found = self._kept.get(plain)
        if found is None or not _is_fresh(found.rdatas[0], now):
            found = self._sign(plain, now)
            self.made += 1
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[plain] = found
        return replace(found, owner=rrset.owner) if rrset.source else found

    def _sign(self, rrset: RRset, now: float) -> RRset:
        rdatas = self._keys.rrsigs
        if rrset.rtype != Rtype.DNSKEY:
            head = rrsig_head(
                rtype=rrset.rtype,
                labels=len(rrset.owner) - (rrset.owner[:1] == (WILDCARD,)),
                ttl=rrset.ttl,
                span=Span.starting(now, VALID_SECONDS),
                tag=self._tag,
                signer=wire(self._zone.origin),
            )
            signed = canonical(wire(rrset.owner), rrset.rtype, rrset.ttl, rrset.rdatas)
            rdatas = (head + sign(self._keys.private, head + signed),)
        return RRset(owner=rrset.owner, rtype=Rtype.RRSIG, ttl=rrset.ttl, rdatas=rdatas)

    def prove(self, found: Found, now: float) -> list[RRset]:
        """Give the signed NSEC3 records for what this zone does not have."""
        proofs: dict[Labels, RRset] = {}
        for missing in found.missing:
            if missing.zone == self._zone.origin:
                if self._chain is None:
                    self._chain = Chain(self._zone, self._zone.soa.ttl)
                proofs |= {one.owner: one for one in self._chain.prove(missing)}
        return [
            record for proof in proofs.values() for record in (proof, self.signature(proof, now))
        ]

    def signed(self, rrsets: Iterable[RRset], now: float) -> list[RRset]:
        """Give sets, each followed by its signature; NS of a delegation and glue have none."""
        found: list[RRset] = []
        for rrset in rrsets:
            found.append(rrset)
            if self._is_signed(rrset):
                found.append(self.signature(rrset, now))
        return found

    def _is_signed(self, rrset: RRset) -> bool:
        if rrset.is_made:
            return False  # who validates makes it himself (RFC 6672, 5.3.1)
        owner = rrset.source or rrset.owner
        if not is_at_or_below(owner, self._zone.origin):
            return False
        cut = self._zone.cut(owner)
        if self._zone.moved(owner) is not None:
            return False
        return cut is None or (cut == owner and rrset.rtype == Rtype.DS)

    def everything(self, now: float) -> Iterator[RRset]:
        """Give every record of the signed zone, for a master file."""
        for sets in self._zone.names.values():
            yield from self.signed(sets.values(), now)
        for record in Chain(self._zone, self._zone.soa.ttl).records():
            yield record
            yield self.signature(record, now)


def _is_fresh(rrsig: bytes, now: float) -> bool:
    expiration, inception = struct.unpack_from("!II", rrsig, 8)
    return bool(inception <= now and expiration - now > FRESH_SECONDS)
