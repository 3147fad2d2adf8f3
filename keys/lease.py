"""Leases: what headquarters signs so that a controller's TPM opens the site's cache for a while.

A lease is a policy that the TPM itself checks (PCRs, clock, restarts, lease counter), approved by
the lease authority's key for one appliance, site and purpose. Its text fits into a QR code. Pure:
times, keys and bytes are arguments. TPM 2.0 Library, Part 3, 23.16 (PolicyAuthorize).
"""

from __future__ import annotations

import struct
from base64 import b32decode, b32encode
from binascii import Error as Base32Error
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keys.envelope import bind
from keys.errors import PeerError
from keys.policy import PCR_COUNT, CommandCode, Comparison, TimeField, TpmPolicy, approved
from keys.tpm_public import HASH_IDS, Attributes, Curve, EccPublic, PublicArea, Scheme

HEADER = "DOORSTEP-LEASE-1:"
MAX_TEXT = 2048
MAX_SITE = 63
SIGNATURE_SIZE = 64
_ECDSA, _SHA256 = 0x0018, HASH_IDS["sha256"]
_FIXED = struct.Struct("!BB3s32sQIIQQQ32sB")
_VERSION = 1


class Purpose(IntEnum):
    """What a lease opens; each has a policy reference of its own."""

    CACHE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """TPMS_TIME_INFO of a TPM: clock in milliseconds since it was made or cleared."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the TPM asks of itself each time; the clock in milliseconds of its own.

    `pcrs` may be empty: then the state of the controller's software is not asked for.
    """

    clock_before: int
    resets_at_most: int
    restarts_at_most: int
    counter: int
    pcrs: frozenset[int] = frozenset()
    pcr_digest: bytes = bytes(32)

    def policy(self, counter_name: bytes) -> TpmPolicy:
        """Calculate the policy that is approved; `counter_name` is the NV index's."""
        policy = TpmPolicy()
        if self.pcrs:
            policy = policy.pcr_state(self.pcrs, self.pcr_digest)
        for field, value, comparison in self.timers():
            policy = policy.counter_timer(field, value, comparison)
        return policy.nv(counter_name, self.counter.to_bytes(8, "big"), Comparison.EQUAL)

    def timers(self) -> tuple[tuple[TimeField, int, Comparison], ...]:
        """Give the comparisons with TPMS_TIME_INFO, in the order of the policy."""
        return (
            (TimeField.CLOCK, self.clock_before, Comparison.UNSIGNED_LESS),
            (TimeField.RESET_COUNT, self.resets_at_most, Comparison.UNSIGNED_AT_MOST),
            (TimeField.RESTART_COUNT, self.restarts_at_most, Comparison.UNSIGNED_AT_MOST),
        )

    def ended(self, now: Counters) -> str | None:
        """Say in words why these counters end the lease; None while it runs."""
        if now.clock >= self.clock_before:
            return "its powered hours are used up"
        if now.reset_count > self.resets_at_most:
            return "the controller was started more often than it allows"
        if now.restart_count > self.restarts_at_most:
            return "the controller was suspended more often than it allows"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease as it is signed; `issued` and `ends` in unix seconds say what is meant.

    `ends` is for people and for controllers without a TPM: the TPM judges by `terms` alone.
    """

    site: str
    purpose: Purpose
    terms: Terms
    reference: bytes
    issued: int
    ends: int

    def encode(self) -> bytes:
        """Give the bytes that are signed as text; ValueError when a field does not fit."""
        site, terms = self.site.encode(), self.terms
        if not 0 < len(site) <= MAX_SITE:
            raise ValueError(f"a site id has 1 to {MAX_SITE} bytes")
        try:
            head = _FIXED.pack(
                _VERSION,
                self.purpose,
                sum(1 << index for index in terms.pcrs).to_bytes(3, "little"),
                terms.pcr_digest,
                terms.clock_before,
                terms.resets_at_most,
                terms.restarts_at_most,
                terms.counter,
                self.issued,
                self.ends,
                self.reference,
                len(site),
            )
        except (struct.error, OverflowError) as error:
            raise ValueError(f"a lease: {error}") from None
        return head + site

    @classmethod
    def decode(cls, data: bytes) -> Lease:
        """Read what `encode` wrote; PeerError otherwise."""
        if len(data) < _FIXED.size:
            raise PeerError("the lease is cut short")
        version, purpose, bits, digest, *numbers, ref, size = _FIXED.unpack_from(data)
        clock, resets, restarts, counter, issued, ends = numbers
        site = data[_FIXED.size :]
        if version != _VERSION or purpose not in Purpose.__members__.values():
            raise PeerError("the lease is of a form that this release does not know")
        if len(site) != size or not 0 < size <= MAX_SITE:
            raise PeerError("the lease names no site, or has bytes left over")
        mask = int.from_bytes(bits, "little")
        try:
            named = site.decode()
        except UnicodeDecodeError:
            raise PeerError("the lease names no site") from None
        return cls(
            site=named,
            purpose=Purpose(purpose),
            terms=Terms(
                clock_before=clock,
                resets_at_most=resets,
                restarts_at_most=restarts,
                counter=counter,
                pcrs=frozenset(index for index in range(PCR_COUNT) if mask >> index & 1),
                pcr_digest=digest,
            ),
            reference=ref,
            issued=issued,
            ends=ends,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLease:
    """A lease with its two signatures, each r‖s of 64 bytes.

    `approval` is for the TPM, over the policy; `seal` is over the text, for what no policy holds.
    """

    lease: Lease
    approval: bytes
    seal: bytes

    def text(self) -> str:
        """Write one line of characters that a QR code holds compactly."""
        data = self.lease.encode() + self.approval + self.seal
        return HEADER + b32encode(data).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> SignedLease:
        """Read a pasted or scanned text, with line breaks and blanks; PeerError otherwise."""
        joined = "".join(text.split()).upper()
        if len(joined) > MAX_TEXT or not joined.startswith(HEADER):
            raise PeerError(f"this is no lease: it begins with {HEADER}")
        letters = joined.removeprefix(HEADER)
        try:
            data = b32decode(letters + "=" * (-len(letters) % 8))
        except (Base32Error, ValueError):
            raise PeerError("the lease has letters that no lease has") from None
        body, seal = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
        body, approval = body[:-SIGNATURE_SIZE], body[-SIGNATURE_SIZE:]
        found = cls(lease=Lease.decode(body), approval=approval, seal=seal)
        if found.text() != joined:
            raise PeerError("the lease is not written as leases are")
        return found

    def check(self, authority: ec.EllipticCurvePublicKey, counter_name: bytes) -> None:
        """Check both signatures; PeerError when one is not the authority's."""
        digest = approved(self.lease.terms.policy(counter_name), self.lease.reference)
        _verify(authority, self.seal, _seal_digest(self.lease, self.approval), "the lease")
        _verify(authority, self.approval, digest, "the policy of the lease")


def sign(lease: Lease, authority: ec.EllipticCurvePrivateKey, counter_name: bytes) -> SignedLease:
    """Sign a lease at headquarters; no TPM is needed."""
    digest = approved(lease.terms.policy(counter_name), lease.reference)
    approval = _sign(authority, digest)
    return SignedLease(
        lease=lease, approval=approval, seal=_sign(authority, _seal_digest(lease, approval))
    )


def reference(*, site: str, ek_name: bytes, counter_name: bytes, purpose: Purpose) -> bytes:
    """Give the policyRef: which appliance, site and purpose an approval is for (32 bytes)."""
    return bind("doorstep/v1/lease-reference", site, ek_name, counter_name, int(purpose))


def authority_area(key: ec.EllipticCurvePublicKey) -> PublicArea:
    """Give the public area under which a TPM loads the lease authority's key."""
    numbers = key.public_numbers()
    return PublicArea(
        name_alg=_SHA256,
        attributes=int(Attributes.SIGN),
        auth_policy=b"",
        key=EccPublic(
            symmetric=None,
            scheme=Scheme(algorithm=_ECDSA, hash_alg=_SHA256),
            curve=Curve.P256,
            kdf=None,
            x=numbers.x.to_bytes(32, "big"),
            y=numbers.y.to_bytes(32, "big"),
        ),
    )


def lease_policy(
    authority: ec.EllipticCurvePublicKey, policy_reference: bytes, code: CommandCode
) -> TpmPolicy:
    """Give the policy of what a lease opens, for one command.

    The approval does not name the command, so that one lease serves sealed data and signing keys;
    each object does, so that no session for one serves the other.
    """
    approval = TpmPolicy().authorize(authority_area(authority).name(), policy_reference)
    return approval.command_code(code)


def signing_policy(
    authority: ec.EllipticCurvePublicKey,
    policy_reference: bytes,
    counter_name: bytes,
    unmoved: int | None,
) -> TpmPolicy:
    """Give the policy of an authority's key: under a lease, or before the first one was taken.

    `unmoved` is the lease counter's number of then: so the key signs its own request at Day 0, and
    never again without a lease, because nobody sets an NV counter back. It is None where the first
    lease was taken already: the counter stays where it is when a lease ends by itself.
    """
    if unmoved is None:
        return lease_policy(authority, policy_reference, CommandCode.SIGN)
    return TpmPolicy().any_of(signing_branches(authority, policy_reference, counter_name, unmoved))


def signing_branches(
    authority: ec.EllipticCurvePublicKey,
    policy_reference: bytes,
    counter_name: bytes,
    unmoved: int,
) -> tuple[TpmPolicy, TpmPolicy]:
    """Give the two branches of `signing_policy`, in its order."""
    held = unmoved.to_bytes(8, "big")
    return (
        lease_policy(authority, policy_reference, CommandCode.SIGN),
        TpmPolicy().nv(counter_name, held, Comparison.EQUAL).command_code(CommandCode.SIGN),
    )


def _seal_digest(lease: Lease, approval: bytes) -> bytes:
    return bind("doorstep/v1/lease", lease.encode(), approval)


def _sign(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _verify(key: ec.EllipticCurvePublicKey, pair: bytes, digest: bytes, what: str) -> None:
    r, s = int.from_bytes(pair[:32], "big"), int.from_bytes(pair[32:], "big")
    try:
        key.verify(
            utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        )
    except InvalidSignature:
        raise PeerError(f"{what} is not signed by this site's lease authority") from None
