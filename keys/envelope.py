"""The bundle: a hand-off that opens only in one TPM, in the attested boot, until it ends.

Pure: every random byte is an argument, no clock is read, nothing is stored. It never decides who
may have a hand-over. docs/phone-home-v1.md, "The bundle", "The answer" and "Conventions".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.errors import PeerError
from keys.policy import CommandCode, Comparison, TimeField, TpmPolicy, pcr_digest
from keys.protect import RANDOM_BYTES, duplicate
from keys.secret import Secret
from keys.tpm_public import PublicArea, sealed_object, sealed_sensitive, sealed_unique, sized

SEALED_PCRS = (0, 2, 4, 5, 7, 8, 9, 11, 12, 13, 14, 15)
OPENED_PCR = 15
"""The box extends it after opening; before that it is zero."""
ZERO_PCR = bytes(32)

Field = bytes | str | int
"""A field of `bind`: text is UTF-8, an integer is a u64 big-endian."""


def bind(context: str, *fields: Field) -> bytes:
    """Give `T(context, f1, …)` of the specification: 32 bytes."""
    digest = hashlib.sha256(context.encode("ascii") + b"\0")
    for field in map(_field, fields):
        digest.update(len(field).to_bytes(4, "big") + field)
    return digest.digest()


def b64u(data: bytes) -> str:
    """Encode bytes as the protocol does: base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    """Decode base64url without padding; ValueError for another spelling, or for what is no text."""
    if not isinstance(text, str):
        raise ValueError("bytes travel as text")  # noqa: TRY004 - whoever sent it did wrong
    data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if b64u(data) != text:
        raise ValueError("not the one base64url spelling of these bytes")
    return data


def sealed_pcrs(pcrs: Mapping[int, bytes]) -> Mapping[int, bytes]:
    """Pick the values that a share is sealed to; PeerError when one is missing."""
    if missing := [index for index in SEALED_PCRS if index not in pcrs]:
        raise PeerError(f"the quote says nothing about PCR {missing[0]} of the SHA-256 bank")
    return {index: pcrs[index] for index in SEALED_PCRS}


def sealed_digest(pcrs: Mapping[int, bytes]) -> bytes:
    """Hash the values that a share is sealed to: what an allowance is bound to."""
    return pcr_digest(sealed_pcrs(pcrs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """The boot that was attested: what the policy of the sealed share demands.

    `opened` is what PCR 15 must hold: zero until the box opened its hand-over (`keys.renewal`).
    """

    reset_count: int
    restart_count: int
    clock_before: int
    pcrs: Mapping[int, bytes]
    opened: bytes = ZERO_PCR

    def policy(self) -> TpmPolicy:
        """Walk the policy in the order of the specification; PeerError when a PCR is missing."""
        selected = sealed_pcrs(self.pcrs)
        if selected[OPENED_PCR] != self.opened:
            raise PeerError("PCR 15 does not hold what this boot of the box has opened")
        return (
            TpmPolicy()
            .counter_timer(TimeField.RESET_COUNT, self.reset_count, Comparison.EQUAL)
            .counter_timer(TimeField.RESTART_COUNT, self.restart_count, Comparison.EQUAL)
            .counter_timer(TimeField.CLOCK, self.clock_before, Comparison.UNSIGNED_LESS)
            .pcr(selected)
            .command_code(CommandCode.UNSEAL)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The session that a bundle belongs to; `expires` in unix seconds."""

    box: UUID
    session: bytes
    transcript: bytes
    boot_set: bytes
    expires: int

    def associated_data(self) -> bytes:
        """Give what AES-GCM authenticates beside the ciphertext."""
        fields = (self.box.bytes, self.session, self.transcript, self.boot_set, self.expires)
        return bind("doorstep/v1/bundle", *fields)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Randomness:
    """What one bundle draws: share 32, object seed 32, wrapper 64, ephemeral 32, nonce 12 bytes."""

    share: bytes
    object_seed: bytes
    wrapper: bytes
    ephemeral: bytes
    nonce: bytes

    SIZE = 32 + 32 + RANDOM_BYTES + 32 + 12

    @classmethod
    def cut(cls, drawn: bytes) -> Randomness:
        """Cut SIZE fresh random bytes into the parts."""
        if len(drawn) != cls.SIZE:
            raise ValueError(f"{cls.SIZE} random bytes are needed")
        ends = (32, 64, 64 + RANDOM_BYTES, 96 + RANDOM_BYTES)
        share, seed, wrapper, ephemeral, nonce = (
            drawn[start:end] for start, end in zip((0, *ends), (*ends, cls.SIZE), strict=True)
        )
        return cls(share=share, object_seed=seed, wrapper=wrapper, ephemeral=ephemeral, nonce=nonce)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The bundle as the box gets it, and the content key for the digests of its secrets."""

    sealed_public: bytes
    duplicate: bytes
    seed: bytes
    ephemeral: bytes
    nonce: bytes
    ciphertext: bytes
    boot: Boot
    binding: Binding
    content_key: Secret

    def document(self) -> dict[str, object]:
        """Give the JSON object of the specification."""
        parts = ("sealed_public", "duplicate", "seed", "ephemeral", "nonce", "ciphertext")
        return {name: b64u(getattr(self, name)) for name in parts} | {
            "reset_count": self.boot.reset_count,
            "restart_count": self.boot.restart_count,
            "clock_before": self.boot.clock_before,
            "pcrs": list(SEALED_PCRS),
            "boot_set": b64u(self.binding.boot_set),
            "expires": self.binding.expires,
        }


def seal(
    *,
    ek: PublicArea,
    box_ephemeral: bytes,
    boot: Boot,
    binding: Binding,
    plaintext: Secret,
    randomness: Randomness,
) -> Bundle:
    """Seal a hand-off document for one TPM and one boot; PeerError when a key is unfit."""
    public = sealed_object(
        policy=boot.policy().digest,
        unique=sealed_unique(randomness.object_seed, randomness.share),
    )
    sensitive = sealed_sensitive(randomness.object_seed, randomness.share)
    wrapped, seed = duplicate(ek, sensitive, public, randomness.wrapper)
    own = X25519PrivateKey.from_private_bytes(randomness.ephemeral)
    key = content_key(randomness.share, _exchange(own, box_ephemeral), binding.transcript)
    gcm = AESGCM(key.reveal())
    sealed = gcm.encrypt(randomness.nonce, plaintext.reveal(), binding.associated_data())
    return Bundle(
        sealed_public=public.encode(),
        duplicate=sized(wrapped),
        seed=sized(seed),
        ephemeral=own.public_key().public_bytes_raw(),
        nonce=randomness.nonce,
        ciphertext=sealed,
        boot=boot,
        binding=binding,
        content_key=key,
    )


def content_key(share: bytes, shared: bytes, transcript: bytes) -> Secret:
    """Derive the content key from the TPM's share and the X25519 secret."""
    info = b"doorstep/v1/content-key"
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=transcript, info=info)
    return Secret(derive.derive(share + shared))


def secret_digest(key: Secret, name: str, value: Secret) -> bytes:
    """Give what the box reports for a secret: only who has the content key can test guesses."""
    message = b"\0".join((b"doorstep/v1/secret-digest", name.encode(), value.reveal()))
    return hmac.digest(key.reveal(), message, "sha256")


def answer_digest(
    context: str, site_id: str, session: bytes, transcript: bytes, payload: bytes
) -> bytes:
    """Give the 32 bytes that are signed; `context` is `answer` or `receipt`."""
    return bind(f"doorstep/v1/{context}", site_id, session, transcript, payload)


def answer_document(payload: bytes, signature: bytes, chain: list[bytes]) -> str:
    """Write the signed answer as the box gets it; `signature` is r‖s, the chain is DER."""
    document = {
        "v": 1,
        "answer": b64u(payload),
        "signature": b64u(signature),
        "chain": [b64u(der) for der in chain],
    }
    return json.dumps(document, separators=(",", ":"))


def _exchange(own: X25519PrivateKey, other: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise PeerError("the ephemeral key of the box is no X25519 key to agree with") from None


def _field(field: Field) -> bytes:
    if isinstance(field, int):
        return field.to_bytes(8, "big")
    return field.encode() if isinstance(field, str) else field
