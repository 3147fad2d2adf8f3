"""Signing the site's zones as they are asked for: RRSIG, DNSKEY, and signed denial.

ECDSA P-256 with SHA-256 (algorithm 13, RFC 6605), signatures deterministic (RFC 6979), made at the
first question and kept while they are long enough valid. The key-signing key is not here: it signs
the DNSKEY set alone, in the key service. RFC 4034, 3.1; RFC 4035, 2.2; RFC 6781 for lifetimes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from netboot.names import Labels, wire
from netboot.nsec3 import NSEC3PARAM, Chain
from netboot.rdata import Rtype
from netboot.zone import WILDCARD, Found, RRset, Zone

ALGORITHM = 13
DNSKEY_TTL = 3600
VALID_SECONDS = 7 * 86400
"""How long a signature is valid: a box whose resolver keeps answers for a while."""
FRESH_SECONDS = 4 * 86400
"""A signature with less than this left is made again."""
EARLY_SECONDS = 6 * 3600
"""Signatures begin in the past: clocks of boxes without a battery are set from a log file."""
MAX_KEPT = 200_000
ZONE_KEY, SEP = 0x0100, 0x0001
"""Flags of a DNSKEY (RFC 4034, 2.1.1)."""
_PROTOCOL = 3
_HEAD = struct.Struct("!HBBIIIH")
_SHA256_DIGEST = 2


def dnskey(public: ec.EllipticCurvePublicKey, *, is_ksk: bool) -> bytes:
    """Write a DNSKEY's data (RFC 6605, 4)."""
    numbers = public.public_numbers()
    point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    flags = ZONE_KEY | (SEP if is_ksk else 0)
    return struct.pack("!HBB", flags, _PROTOCOL, ALGORITHM) + point


def key_tag(data: bytes) -> int:
    """Compute the tag of a DNSKEY (RFC 4034, appendix B)."""
    total = sum(byte << 8 if at % 2 == 0 else byte for at, byte in enumerate(data))
    return (total + (total >> 16)) & 0xFFFF


def ds(owner: Labels, key: bytes) -> bytes:
    """Write the DS of a key-signing key, with SHA-256 (RFC 4509)."""
    digest = hashlib.sha256(wire(owner) + key).digest()
    return struct.pack("!HBB", key_tag(key), ALGORITHM, _SHA256_DIGEST) + digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneKeys:
    """What signs one zone: the DNSKEY set with its signature by the key-signing key, and our key.

    `dnskey_rrsig` is the data of an RRSIG; `private` signs everything else, its public half `zsk`
    is in the set.
    """

    dnskeys: tuple[bytes, ...]
    dnskey_rrsig: bytes
    private: ec.EllipticCurvePrivateKey
    zsk: bytes


def signed_part(rrset: RRset, signer: Labels, tag: int, inception: int, expiration: int) -> bytes:
    """Give the head of an RRSIG's data and what follows it in the signature's input.

    The input of the signature is this and `canonical(rrset)` (RFC 4034, 3.1.8.1).
    """
    owner = rrset.source or rrset.owner
    count = len(owner) - (1 if owner[:1] == (WILDCARD,) else 0)
    head = _HEAD.pack(rrset.rtype, ALGORITHM, count, rrset.ttl, expiration, inception, tag)
    return head + wire(signer)


def canonical(rrset: RRset) -> bytes:
    """Write an RRset in canonical form and order (RFC 4034, 6.3); its data is so already."""
    owner = wire(rrset.source or rrset.owner)
    head = owner + struct.pack("!HHI", rrset.rtype, 1, rrset.ttl)
    return b"".join(head + len(data).to_bytes(2, "big") + data for data in sorted(rrset.rdatas))


def sign(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with P-256: 64 bytes (RFC 6605, 4)."""
    scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = decode_dss_signature(private.sign(data, scheme))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class ZoneSigner:
    """One zone of one generation with its keys; signatures are kept from the generation before."""

    def __init__(self, zone: Zone, keys: ZoneKeys, before: ZoneSigner | None = None) -> None:
        """Sign nothing yet."""
        self._zone = self._whole(zone, keys)
        self._keys = keys
        self._tag = key_tag(keys.zsk)
        self._chain: Chain | None = None
        self._kept: dict[RRset, RRset] = {}
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
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[plain] = found
        return replace(found, owner=rrset.owner) if rrset.source else found

    def _sign(self, rrset: RRset, now: float) -> RRset:
        if rrset.rtype == Rtype.DNSKEY:
            rdata = self._keys.dnskey_rrsig
        else:
            start = int(now) - EARLY_SECONDS
            head = signed_part(rrset, self._zone.origin, self._tag, start, start + VALID_SECONDS)
            rdata = head + sign(self._keys.private, head + canonical(rrset))
        return RRset(owner=rrset.owner, rtype=Rtype.RRSIG, ttl=rrset.ttl, rdatas=(rdata,))

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
        owner = rrset.source or rrset.owner
        if owner[-len(self._zone.origin) :] != self._zone.origin and self._zone.origin:
            return False
        cut = self._zone.cut(owner)
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
