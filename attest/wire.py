"""TPMS_ATTEST, TPMT_SIGNATURE and PCR selections, as a TPM marshals them.

Strict: known algorithms, sizes that can be, no bytes left over. It never checks a signature or
compares a nonce (see `attest.quote`). TPM 2.0 Library, Part 2, 10.12 (attestation), 10.6.2 (PCR
selection), 11.3.4 (signatures).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from attest.errors import EvidenceError
from keys.errors import PeerError
from keys.tpm_public import HASH_IDS, HASHES, Reader, sized

MAGIC = 0xFF544347
MAX_SELECT = 3
_RSASSA, _RSAPSS, _ECDSA = 0x0014, 0x0016, 0x0018
_HEAD, _SELECTION = struct.Struct(">IH"), struct.Struct(">HB")
_CLOCK = struct.Struct(">QIIBQ")


class AttestType(IntEnum):
    """TPM_ST of the attestations that we take, Part 2, 6.9."""

    CERTIFY = 0x8017
    QUOTE = 0x8018


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockInfo:
    """TPMS_CLOCK_INFO; the clock in milliseconds."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BankSelection:
    """TPMS_PCR_SELECTION: one bank and its indices; `width` is sizeofSelect in bytes."""

    bank: str
    indices: tuple[int, ...]
    width: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteInfo:
    """TPMS_QUOTE_INFO."""

    selection: tuple[BankSelection, ...]
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyInfo:
    """TPMS_CERTIFY_INFO."""

    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """TPMS_ATTEST of one of the two types that we take."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    attested: QuoteInfo | CertifyInfo

    def encode(self) -> bytes:
        """Give the TPMS_ATTEST."""
        quote = isinstance(self.attested, QuoteInfo)
        kind = AttestType.QUOTE if quote else AttestType.CERTIFY
        clock = _CLOCK.pack(
            self.clock.clock,
            self.clock.reset_count,
            self.clock.restart_count,
            self.clock.safe,
            self.firmware_version,
        )
        head = _HEAD.pack(MAGIC, kind) + sized(self.qualified_signer)
        return head + sized(self.extra_data) + clock + _encode_attested(self.attested)


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaSignature:
    """TPMS_SIGNATURE_RSA; `pss` tells RSAPSS from RSASSA."""

    hash_name: str
    pss: bool
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EcdsaSignature:
    """TPMS_SIGNATURE_ECC for ECDSA, its numbers as the TPM sent them."""

    hash_name: str
    r: bytes
    s: bytes


Signature = RsaSignature | EcdsaSignature


def decode_attest(data: bytes) -> Attest:
    """Decode all of `data`; EvidenceError for anything but a quote or a certification."""
    reader = Reader(data)
    try:
        magic, kind = reader.fields(_HEAD)
        if magic != MAGIC:
            raise EvidenceError("the magic number is not that of a TPM")
        if kind not in (AttestType.CERTIFY, AttestType.QUOTE):
            raise EvidenceError(f"attestation type 0x{kind:04x} is not taken here")
        signer, extra = reader.sized(66), reader.sized(66)
        clock, firmware = _decode_clock(reader)
        attested = _decode_quote(reader) if kind == AttestType.QUOTE else _decode_certify(reader)
        reader.end()
    except PeerError as error:
        raise EvidenceError(str(error)) from None
    return Attest(
        qualified_signer=signer,
        extra_data=extra,
        clock=clock,
        firmware_version=firmware,
        attested=attested,
    )


def decode_signature(data: bytes) -> Signature:
    """Decode all of `data` as a TPMT_SIGNATURE of a scheme that we accept."""
    reader = Reader(data)
    try:
        algorithm, hash_name = reader.u16(), _bank(reader.u16())
        signature: Signature
        if algorithm in (_RSASSA, _RSAPSS):
            signature = RsaSignature(
                hash_name=hash_name, pss=algorithm == _RSAPSS, signature=reader.sized(512)
            )
        elif algorithm == _ECDSA:
            signature = EcdsaSignature(hash_name=hash_name, r=reader.sized(66), s=reader.sized(66))
        else:
            raise EvidenceError(f"signature scheme 0x{algorithm:04x} is not accepted")
        reader.end()
    except PeerError as error:
        raise EvidenceError(str(error)) from None
    return signature


def encode_signature(signature: Signature) -> bytes:
    """Give the TPMT_SIGNATURE."""
    number = HASH_IDS[signature.hash_name]
    if isinstance(signature, EcdsaSignature):
        return struct.pack(">HH", _ECDSA, number) + sized(signature.r) + sized(signature.s)
    algorithm = _RSAPSS if signature.pss else _RSASSA
    return struct.pack(">HH", algorithm, number) + sized(signature.signature)


def _bank(number: int) -> str:
    if number not in HASHES:
        raise EvidenceError(f"hash algorithm 0x{number:04x} is not accepted")
    return HASHES[number]


def _decode_clock(reader: Reader) -> tuple[ClockInfo, int]:
    """Read the clock and the firmware version behind it."""
    clock, resets, restarts, safe, firmware = reader.fields(_CLOCK)
    if safe > 1:
        raise EvidenceError("a yes-or-no field is neither")
    info = ClockInfo(clock=clock, reset_count=resets, restart_count=restarts, safe=bool(safe))
    return info, firmware


def _decode_quote(reader: Reader) -> QuoteInfo:
    # Not a size to allocate: reading stops where the bytes do.
    selection = tuple(_decode_selection(reader) for _ in range(reader.u32()))
    banks = [chosen.bank for chosen in selection]
    if len(set(banks)) != len(banks):
        raise EvidenceError("a PCR selection names a bank twice")
    return QuoteInfo(selection=selection, digest=reader.sized(64))


def _decode_selection(reader: Reader) -> BankSelection:
    number, width = reader.fields(_SELECTION)
    bank = _bank(number)
    if not 1 <= width <= MAX_SELECT:
        raise EvidenceError(f"a PCR selection of {width} bytes is not accepted")
    return BankSelection(bank=bank, indices=_indices(reader.take(width)), width=width)


# Nearly every quote selects PCR 0 to 15.
@lru_cache(maxsize=64)
def _indices(selected: bytes) -> tuple[int, ...]:
    bits = int.from_bytes(selected, "little")
    return tuple(index for index in range(8 * len(selected)) if bits >> index & 1)


def _decode_certify(reader: Reader) -> CertifyInfo:
    return CertifyInfo(name=reader.sized(66), qualified_name=reader.sized(66))


def _encode_attested(attested: QuoteInfo | CertifyInfo) -> bytes:
    if isinstance(attested, CertifyInfo):
        return sized(attested.name) + sized(attested.qualified_name)
    parts = [struct.pack(">I", len(attested.selection))]
    for chosen in attested.selection:
        bits = sum(1 << index for index in chosen.indices)
        parts.append(_SELECTION.pack(HASH_IDS[chosen.bank], chosen.width))
        parts.append(bits.to_bytes(chosen.width, "little"))
    return b"".join(parts) + sized(attested.digest)
