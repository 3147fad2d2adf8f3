"""DNSSEC keys and signatures as bytes: what `keys` signs of a zone, and what netboot does below it.

ECDSA P-256 with SHA-256 (algorithm 13, RFC 6605), signatures deterministic (RFC 6979). Pure: keys
and times are arguments; names come in wire form, in lower case, without compression. RFC 4034.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ALGORITHM = 13
DNSKEY_TYPE = 48
DNSKEY_TTL = 3600
ZONE_KEY, SEP = 0x0100, 0x0001
"""Flags of a DNSKEY (RFC 4034, 2.1.1)."""
EARLY_SECONDS = 6 * 3600
"""Signatures begin in the past: clocks of boxes without a battery are set from a log file."""
KEYS_VALID_SECONDS = 21 * 86400
"""How long the signature over a zone's keys is valid; it is made again each week."""
POINT_SIZE = 64
_PROTOCOL = 3
_SHA256_DIGEST = 2
_HEAD = struct.Struct("!HBBIIIH")
_IN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a signature is valid, in unix seconds."""

    inception: int
    expiration: int

    @classmethod
    def starting(cls, now: float, seconds: int) -> Span:
        """Give the span of a signature made now that is to hold so long."""
        return cls(inception=int(now) - EARLY_SECONDS, expiration=int(now) + seconds)


def point(public: ec.EllipticCurvePublicKey) -> bytes:
    """Write a public key as DNSSEC has it: x and y, 64 bytes (RFC 6605, 4)."""
    numbers = public.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def dnskey(public: bytes, *, is_ksk: bool) -> bytes:
    """Write a DNSKEY's data from a point of 64 bytes."""
    flags = ZONE_KEY | (SEP if is_ksk else 0)
    return struct.pack("!HBB", flags, _PROTOCOL, ALGORITHM) + public


def key_tag(data: bytes) -> int:
    """Compute the tag of a DNSKEY (RFC 4034, appendix B)."""
    total = sum(byte << 8 if at % 2 == 0 else byte for at, byte in enumerate(data))
    return (total + (total >> 16)) & 0xFFFF


def ds(owner: bytes, key: bytes) -> bytes:
    """Write the DS of a key-signing key, with SHA-256 (RFC 4509)."""
    digest = hashlib.sha256(owner + key).digest()
    return struct.pack("!HBB", key_tag(key), ALGORITHM, _SHA256_DIGEST) + digest


def ds_text(data: bytes) -> str:
    """Write a DS's data as in a zone file (RFC 4034, 5.3)."""
    tag, algorithm, kind = struct.unpack_from("!HBB", data)
    return f"{tag} {algorithm} {kind} {data[4:].hex().upper()}"


def rrsig_head(*, rtype: int, labels: int, ttl: int, span: Span, tag: int, signer: bytes) -> bytes:
    """Write an RRSIG's data up to its signature (RFC 4034, 3.1); `labels` without root and `*`."""
    times = (span.expiration, span.inception)
    return _HEAD.pack(rtype, ALGORITHM, labels, ttl, *times, tag) + signer


def canonical(owner: bytes, rtype: int, ttl: int, rdatas: Iterable[bytes]) -> bytes:
    """Write an RRset in canonical form and order (RFC 4034, 6.3); its data is so already."""
    head = owner + struct.pack("!HHI", rtype, _IN, ttl)
    return b"".join(head + len(data).to_bytes(2, "big") + data for data in sorted(rdatas))


def sign(private: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with P-256: 64 bytes (RFC 6605, 4)."""
    scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = decode_dss_signature(private.sign(data, scheme))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sign_keys(
    owner: bytes,
    signers: Sequence[ec.EllipticCurvePrivateKey],
    zone_keys: Sequence[bytes],
    span: Span,
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Sign the keys of one zone: gives the DNSKEY set and an RRSIG's data of each signer.

    `zone_keys` are the points of keys that sign everything else.
    """
    own = [dnskey(point(one.public_key()), is_ksk=True) for one in signers]
    keys = tuple(sorted({*own, *(dnskey(one, is_ksk=False) for one in zone_keys)}))
    signed = canonical(owner, DNSKEY_TYPE, DNSKEY_TTL, keys)
    rrsigs = []
    for private, data in zip(signers, own, strict=True):
        head = rrsig_head(
            rtype=DNSKEY_TYPE,
            labels=_count(owner),
            ttl=DNSKEY_TTL,
            span=span,
            tag=key_tag(data),
            signer=owner,
        )
        rrsigs.append(head + sign(private, head + signed))
    return keys, tuple(rrsigs)


def _count(owner: bytes) -> int:
    count = at = 0
    while owner[at]:
        at, count = at + 1 + owner[at], count + 1
    return count
