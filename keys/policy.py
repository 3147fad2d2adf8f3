"""Policy digests of the TPM, calculated in software.

`TpmPolicy` walks as a trial session does (TPM 2.0 Part 1, 19.7; Part 3, 23): each assertion gives
the next value. It never talks to a TPM; the tests compare it with one. Session hash is SHA-256.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

ALG_SHA256 = 0x000B
"""TPM_ALG_SHA256, Part 2, table 9."""
PCR_COUNT = 24
MAX_BRANCHES = 8
"""Of TPM2_PolicyOR (Part 2, TPML_DIGEST)."""


class CommandCode(IntEnum):
    """TPM_CC, Part 2, table 12; those that a policy digest holds."""

    CLOCK_SET = 0x00000128
    NV_INCREMENT = 0x00000134
    NV_EXTEND = 0x00000136
    POLICY_NV = 0x00000149
    POLICY_SECRET = 0x00000151
    SIGN = 0x0000015D
    UNSEAL = 0x0000015E
    POLICY_SIGNED = 0x00000160
    POLICY_AUTHORIZE = 0x0000016A
    POLICY_COMMAND_CODE = 0x0000016C
    POLICY_COUNTER_TIMER = 0x0000016D
    POLICY_OR = 0x00000171
    POLICY_PCR = 0x0000017F


class Comparison(IntEnum):
    """TPM_EO, Part 2, table 18: what the TPM does with its value (left) and the operand (right)."""

    EQUAL = 0x0000
    UNSIGNED_LESS = 0x0005
    UNSIGNED_AT_MOST = 0x0009


class TimeField(IntEnum):
    """Offset of a field in TPMS_TIME_INFO as marshalled (Part 2, 10.11)."""

    CLOCK = 8
    RESET_COUNT = 16
    RESTART_COUNT = 20
    SAFE = 24


WIDTHS = {
    TimeField.CLOCK: 8,
    TimeField.RESET_COUNT: 4,
    TimeField.RESTART_COUNT: 4,
    TimeField.SAFE: 1,
}
"""Bytes of each field."""


def operand(field: TimeField, value: int) -> bytes:
    """Marshal a value to compare a field with; ValueError when it does not fit."""
    try:
        return value.to_bytes(WIDTHS[field], "big")
    except OverflowError:
        raise ValueError(f"{field.name} does not fit into {WIDTHS[field]} bytes") from None


def pcr_selection(indices: Iterable[int]) -> bytes:
    """Marshal TPML_PCR_SELECTION of the SHA-256 bank with a bitmap of three bytes."""
    bitmap = bytearray(PCR_COUNT // 8)
    for index in indices:
        if not 0 <= index < PCR_COUNT:
            raise ValueError(f"there is no PCR {index}")
        bitmap[index // 8] |= 1 << index % 8
    return struct.pack(">IHB", 1, ALG_SHA256, len(bitmap)) + bytes(bitmap)


def pcr_digest(pcrs: Mapping[int, bytes]) -> bytes:
    """Hash the selected values in order of their index, as TPM2_PolicyPCR does."""
    if any(len(value) != hashlib.sha256().digest_size for value in pcrs.values()):
        raise ValueError("a PCR of the SHA-256 bank has 32 bytes")
    return hashlib.sha256(b"".join(pcrs[index] for index in sorted(pcrs))).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmPolicy:
    """The policyDigest of a session after the assertions so far."""

    digest: bytes = bytes(32)

    def counter_timer(self, field: TimeField, value: int, comparison: Comparison) -> TpmPolicy:
        """Add TPM2_PolicyCounterTimer of one field of TPMS_TIME_INFO (Part 3, 23.10)."""
        wanted = operand(field, value) + struct.pack(">HH", field, comparison)
        return self._extend(CommandCode.POLICY_COUNTER_TIMER, hashlib.sha256(wanted).digest())

    def pcr(self, pcrs: Mapping[int, bytes]) -> TpmPolicy:
        """Add TPM2_PolicyPCR over these values of the SHA-256 bank (Part 3, 23.7)."""
        return self.pcr_state(pcrs, pcr_digest(pcrs))

    def pcr_state(self, indices: Iterable[int], digest: bytes) -> TpmPolicy:
        """Add TPM2_PolicyPCR where only the digest over the values is known."""
        return self._extend(CommandCode.POLICY_PCR, pcr_selection(indices) + digest)

    def nv(self, index_name: bytes, value: bytes, comparison: Comparison) -> TpmPolicy:
        """Add TPM2_PolicyNV: the content of an index, from its start, compared (Part 3, 23.9)."""
        wanted = hashlib.sha256(value + struct.pack(">HH", 0, comparison)).digest()
        return self._extend(CommandCode.POLICY_NV, wanted + index_name)

    def signed(self, key_name: bytes, reference: bytes) -> TpmPolicy:
        """Add TPM2_PolicySigned by a key (Part 3, 23.3)."""
        return self._entity(CommandCode.POLICY_SIGNED, key_name, reference)

    def secret(self, entity_name: bytes, reference: bytes) -> TpmPolicy:
        """Add TPM2_PolicySecret: whoever knows an entity's authorization (Part 3, 23.4)."""
        return self._entity(CommandCode.POLICY_SECRET, entity_name, reference)

    def authorize(self, key_name: bytes, reference: bytes) -> TpmPolicy:
        """Give what TPM2_PolicyAuthorize leaves, whatever was approved (Part 3, 23.16)."""
        return TpmPolicy()._entity(CommandCode.POLICY_AUTHORIZE, key_name, reference)

    def any_of(self, branches: Sequence[TpmPolicy]) -> TpmPolicy:
        """Give what TPM2_PolicyOR leaves of one of 2 to 8 branches (Part 3, 23.6); ValueError."""
        if not 2 <= len(branches) <= MAX_BRANCHES:
            raise ValueError(f"2 to {MAX_BRANCHES} branches are allowed")
        joined = b"".join(branch.digest for branch in branches)
        return TpmPolicy()._extend(CommandCode.POLICY_OR, joined)

    def command_code(self, code: CommandCode) -> TpmPolicy:
        """Add TPM2_PolicyCommandCode (Part 3, 23.11)."""
        return self._extend(CommandCode.POLICY_COMMAND_CODE, struct.pack(">I", code))

    def _extend(self, command: CommandCode, arguments: bytes) -> TpmPolicy:
        parts = self.digest + struct.pack(">I", command) + arguments
        return TpmPolicy(digest=hashlib.sha256(parts).digest())

    def _entity(self, command: CommandCode, name: bytes, reference: bytes) -> TpmPolicy:
        """Do PolicyUpdate (Part 3, 23.2.3): the name, then the reference in a hash of its own."""
        named = self._extend(command, name)
        return TpmPolicy(digest=hashlib.sha256(named.digest + reference).digest())


def approved(policy: TpmPolicy, reference: bytes) -> bytes:
    """Give the digest that is signed so that PolicyAuthorize takes a policy (Part 3, 23.16)."""
    return hashlib.sha256(policy.digest + reference).digest()
