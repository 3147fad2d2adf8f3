"""The key templates of a box and the few TPM structures that tpm2-pytss is handed as bytes.

Pure: it speaks to no TPM. docs/phone-home-v1.md, "Keys on the box"; TPM 2.0 Library, Part 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

from bootstrap.agent.errors import Code, PeerError
from keys.tpm_public import HASH_IDS, Attributes, Curve, EccPublic, PublicArea, Scheme

BOOT_PCRS = tuple(range(16))
SEALED_PCRS = (0, 2, 4, 5, 7, 8, 9, 11, 12, 13, 14, 15)
OPENED_PCR = 15
CHAIN_INDEX = 0x01C00100
"""First NV index of intermediate EK certificates (EK Credential Profile, 2.2.1.5.2)."""
PLATFORM_INDICES = (range(0x01C08000, 0x01C10000), range(0x01C90000, 0x01C90001))
"""NV indices of platform certificates: the TCG's range for makers of machines (Registry of Reserved
TPM 2.0 Handles 1.1, 2.2), and the one that NSA's HIRS provisions to."""
MAX_CERTIFICATES = 8
MAX_PLATFORM_CERTIFICATES = 4
MAX_CERTIFICATE = 8192

_ECDSA = 0x0018
_SIGNING = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.NO_DA
    | Attributes.SIGN
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the policy of a sealed share asks of the TPM's time; the clock in milliseconds."""

    reset_count: int
    restart_count: int
    clock_before: int


def _signing_key(attributes: Attributes, x: bytes = b"", y: bytes = b"") -> PublicArea:
    key = EccPublic(
        symmetric=None,
        scheme=Scheme(algorithm=_ECDSA, hash_alg=HASH_IDS["sha256"]),
        curve=Curve.P256,
        kdf=None,
        x=x,
        y=y,
    )
    return PublicArea(
        name_alg=HASH_IDS["sha256"], attributes=int(attributes), auth_policy=b"", key=key
    )


AK_TEMPLATE = _signing_key(_SIGNING | Attributes.RESTRICTED)
# Its own unique field, so that no other program makes the same primary key by accident.
DEVICE_TEMPLATE = _signing_key(
    _SIGNING, x=sha256(b"doorstep/v1/device-key-template\0").digest(), y=bytes(32)
)


def content(tpm2b: bytes, what: str) -> bytes:
    """Take the content out of a TPM2B; PeerError unless its size is exact."""
    if len(tpm2b) < 2 or int.from_bytes(tpm2b[:2], "big") != len(tpm2b) - 2:
        raise PeerError(Code.ANSWER_MALFORMED, f"{what} is no TPM2B")
    return tpm2b[2:]


def selection(banks: dict[int, tuple[int, ...]]) -> bytes:
    """Marshal TPML_PCR_SELECTION: hash algorithm to indices, bitmaps of three bytes."""
    out = struct.pack(">I", len(banks))
    for algorithm, indices in banks.items():
        bits = sum(1 << index for index in indices)
        out += struct.pack(">HB", algorithm, 3) + bits.to_bytes(3, "little")
    return out


def signature_pair(signature: bytes) -> bytes:
    """Turn a TPMT_SIGNATURE of ECDSA P-256 into r‖s, 64 bytes."""
    if struct.unpack_from(">HH", signature) != (_ECDSA, HASH_IDS["sha256"]):
        raise ValueError("not an ECDSA signature with SHA-256")
    size = int.from_bytes(signature[4:6], "big")
    r, rest = signature[6 : 6 + size], signature[6 + size :]
    s = rest[2 : 2 + int.from_bytes(rest[:2], "big")]
    return r.rjust(32, b"\0") + s.rjust(32, b"\0")


def pair_signature(pair: bytes) -> bytes:
    """Turn r‖s of 64 bytes into a TPMT_SIGNATURE of ECDSA P-256 with SHA-256."""
    head = struct.pack(">HH", _ECDSA, HASH_IDS["sha256"])
    return head + b"".join(struct.pack(">H", 32) + half for half in (pair[:32], pair[32:]))
