"""The attestation key: what it may be, and the proof that it was made under the EK.

An AK is a restricted signing key, so its TPM signs with it only what the TPM itself made. That it
lives in the same TPM as the EK follows from its qualified name, and is proved again by the
credential. TPM 2.0 Library, Part 1, 16 (names), 25.2 (attributes); Part 2, 8.3, 10.12.8.
"""

from __future__ import annotations

import struct

from attest.ektemplate import ENDORSEMENT
from attest.errors import CheckError
from attest.reasons import Reason
from attest.replay import hash_of
from keys.tpm_public import (
    HASH_IDS,
    HASHES,
    Attributes,
    Curve,
    EccPublic,
    KeyedHashPublic,
    PublicArea,
    Scheme,
)

RSASSA = 0x0014
RSAPSS = 0x0016
ECDSA = 0x0018
SIGNING_SCHEMES = frozenset({RSASSA, RSAPSS, ECDSA})
STRONG_HASHES = frozenset(HASH_IDS[name] for name in ("sha256", "sha384", "sha512"))

_NEEDED = {
    "restricted": Attributes.RESTRICTED,
    "sign": Attributes.SIGN,
    "fixedTPM": Attributes.FIXED_TPM,
    "fixedParent": Attributes.FIXED_PARENT,
    "sensitiveDataOrigin": Attributes.SENSITIVE_DATA_ORIGIN,
}


def p256_signing(attributes: int) -> PublicArea:
    """Give the template of an ECDSA P-256 key with SHA-256."""
    key = EccPublic(
        symmetric=None,
        scheme=Scheme(algorithm=ECDSA, hash_alg=HASH_IDS["sha256"]),
        curve=Curve.P256,
        kdf=None,
        x=b"",
        y=b"",
    )
    return PublicArea(name_alg=HASH_IDS["sha256"], attributes=attributes, auth_policy=b"", key=key)


AK_TEMPLATE = p256_signing(
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.NO_DA
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
"""What the agent gives TPM2_Create under the id EK."""


def check_ak(ak: PublicArea) -> None:
    """Check type, scheme and attributes of an AK; CheckError with AK-ATTRIBUTES otherwise.

    Further attributes are harmless: real AKs carry stClear or noDA.
    """
    missing = [name for name, bit in _NEEDED.items() if not ak.attributes & bit]
    if missing:
        raise CheckError(Reason.AK_ATTRIBUTES, f"it lacks {', '.join(missing)}")
    if ak.attributes & Attributes.DECRYPT:
        raise CheckError(Reason.AK_ATTRIBUTES, "it may decrypt too")
    if ak.name_alg not in STRONG_HASHES:
        raise CheckError(Reason.AK_ATTRIBUTES, f"its name hash is {HASHES[ak.name_alg]}")
    if isinstance(ak.key, KeyedHashPublic) or ak.key.scheme is None:
        raise CheckError(Reason.AK_ATTRIBUTES, "it has no signing scheme")
    if ak.key.scheme.algorithm not in SIGNING_SCHEMES:
        raise CheckError(Reason.AK_ATTRIBUTES, "its signing scheme is not accepted")
    if ak.key.scheme.hash_alg not in STRONG_HASHES:
        raise CheckError(Reason.AK_ATTRIBUTES, "it signs with a weak hash")


def qualified_name(parent: bytes, name: bytes) -> bytes:
    """Give the qualified name of an object below a qualified name or hierarchy handle."""
    algorithm = int.from_bytes(name[:2], "big")
    return name[:2] + bytes(hash_of(HASHES[algorithm])(parent + name).digest())


def qualified_name_under_ek(ek: PublicArea, ak: PublicArea) -> bytes:
    """Give the qualified name that a child `ak` of the primary key `ek` has."""
    return qualified_name(qualified_name(struct.pack(">I", ENDORSEMENT), ek.name()), ak.name())


def check_under_ek(qualified_signer: bytes, ek: PublicArea, ak: PublicArea) -> None:
    """Check a signed qualifiedSigner; CheckError with AK-NOT-UNDER-EK otherwise.

    Only a key of the endorsement hierarchy signs TPM counters as they are (Part 1, 36.7).
    """
    if qualified_signer != qualified_name_under_ek(ek, ak):
        raise CheckError(Reason.AK_NOT_UNDER_EK, "another parent or hierarchy signed")
