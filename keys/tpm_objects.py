"""The TPM objects of a controller, and the policies that do not come from a lease. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from keys.lease import Counters
from keys.policy import CommandCode, Comparison, TimeField, TpmPolicy, operand
from keys.tpm_public import (
    AES,
    CFB,
    HASH_IDS,
    KEYEDHASH,
    NULL,
    Attributes,
    Curve,
    EccPublic,
    PublicArea,
    Scheme,
    Symmetric,
    object_name,
    sized,
)

STORAGE_HANDLE = 0x810D0051
"""Persistent handle of the storage key, in the owner's range (TCG Registry of Reserved Handles)."""
ECDSA, SHA256 = 0x0018, HASH_IDS["sha256"]
COUNTER_SIZE = 8
EXTEND_SIZE = 32
MAX_SEALED = 128
_WRITTEN = 1 << 29


class Index(IntEnum):
    """The NV indices of a controller, in the owner's range."""

    EPOCH = 0x018D0051
    LEASE = 0x018D0052
    AUDIT = 0x018D0053

    @property
    def is_counter(self) -> bool:
        """Tell a counter from an index that is extended."""
        return self is not Index.AUDIT

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return COUNTER_SIZE if self.is_counter else EXTEND_SIZE

    @property
    def attributes(self) -> int:
        """TPMA_NV (Part 2, 13.4): read and written without password, no dictionary attack."""
        kind = 0x1 if self.is_counter else 0x4
        return kind << 4 | 1 << 2 | 1 << 18 | 1 << 25

    @property
    def nv_name(self) -> bytes:
        """Its name once it was written: an index with other attributes has another (Part 1, 16)."""
        return self._named(self.attributes | _WRITTEN)

    @property
    def unwritten_name(self) -> bytes:
        """Its name from when it is defined until its first write."""
        return self._named(self.attributes)

    def _named(self, attributes: int) -> bytes:
        public = struct.pack(">IHI", self, SHA256, attributes)
        return object_name(SHA256, public + sized(b"") + struct.pack(">H", self.size))


_KEPT = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.NO_DA
    | Attributes.RESTRICTED
)


_SIGNING = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.NO_DA
    | Attributes.SIGN
)


def _template(
    attributes: Attributes, *, symmetric: Symmetric | None = None, scheme: Scheme | None = None
) -> PublicArea:
    key = EccPublic(symmetric=symmetric, scheme=scheme, curve=Curve.P256, kdf=None, x=b"", y=b"")
    return PublicArea(name_alg=SHA256, attributes=int(attributes), auth_policy=b"", key=key)


STORAGE_TEMPLATE = _template(
    _KEPT | Attributes.DECRYPT, symmetric=Symmetric(algorithm=AES, bits=128, mode=CFB)
)
EK_TEMPLATE = PublicArea(
    name_alg=SHA256,
    attributes=0x000300B2,
    auth_policy=bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"),
    key=EccPublic(
        symmetric=Symmetric(algorithm=AES, bits=128, mode=CFB),
        scheme=None,
        curve=Curve.P256,
        kdf=None,
        x=bytes(32),
        y=bytes(32),
    ),
)
"""Template L-2 (TCG EK Credential Profile 2.5, B.3.4), by which a controller is known."""
AK_TEMPLATE = _template(_KEPT | Attributes.SIGN, scheme=Scheme(algorithm=ECDSA, hash_alg=SHA256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A sealed object outside the TPM: contents of TPM2B_PUBLIC and TPM2B_PRIVATE."""

    public: bytes
    private: bytes


def sealed_template(policy: TpmPolicy) -> bytes:
    """Give the TPMT_PUBLIC of data that only `policy` opens, in this TPM alone."""
    attributes = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.NO_DA
    head = struct.pack(">HHI", KEYEDHASH, SHA256, attributes) + sized(policy.digest)
    return head + struct.pack(">H", NULL) + sized(b"")


def signing_template(policy: TpmPolicy) -> PublicArea:
    """Give the template of a key that signs under `policy` alone, ECDSA with SHA-256."""
    key = _template(_SIGNING, scheme=Scheme(algorithm=ECDSA, hash_alg=SHA256))
    return replace(key, auth_policy=policy.digest)


def clock_policy() -> TpmPolicy:
    """Give the policy of an owner's hierarchy that without its password sets the clock alone.

    The TPM sets its clock forward only (Part 3, 29.2).
    """
    return TpmPolicy().command_code(CommandCode.CLOCK_SET)


def device_policy() -> TpmPolicy:
    """Give the policy of what opens in this TPM at any time."""
    return TpmPolicy().command_code(CommandCode.UNSEAL)


def counter_policy(name: bytes, value: int) -> TpmPolicy:
    """Give the policy of what opens while the NV counter of that name has a value."""
    held = value.to_bytes(COUNTER_SIZE, "big")
    return TpmPolicy().nv(name, held, Comparison.EQUAL).command_code(CommandCode.UNSEAL)


def boot_policy(counters: Counters) -> TpmPolicy:
    """Give the policy of what opens in this boot of the controller only: both counters."""
    policy = TpmPolicy()
    for field, value, comparison in boot_timers(counters):
        policy = policy.counter_timer(field, value, comparison)
    return policy.command_code(CommandCode.UNSEAL)


def boot_timers(counters: Counters) -> tuple[tuple[TimeField, int, Comparison], ...]:
    """Give the comparisons of `boot_policy`, in its order."""
    return (
        (TimeField.RESET_COUNT, counters.reset_count, Comparison.EQUAL),
        (TimeField.RESTART_COUNT, counters.restart_count, Comparison.EQUAL),
    )


def operands(
    timers: Iterable[tuple[TimeField, int, Comparison]],
) -> Iterable[tuple[TimeField, bytes, Comparison]]:
    """Marshal what TPMS_TIME_INFO is compared with."""
    return ((field, operand(field, value), comparison) for field, value, comparison in timers)
