"""The TCG templates of endorsement keys: what an EK must look like, and in which order we look.

A key that is no template could be a decryption key in software's reach; then a credential proves
nothing. It never talks to a TPM: the agent creates keys from these areas, the verifier compares.
TCG EK Credential Profile for TPM 2.0, 2.5, B.3 (low range), B.4 (high range), B.6 (policies).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import rsa

from attest.der import Certificate, PublicKey, public_key
from attest.errors import CheckError
from attest.reasons import Reason
from keys.tpm_public import (
    AES,
    CFB,
    HASH_IDS,
    HASHES,
    Attributes,
    Curve,
    EccPublic,
    Key,
    PublicArea,
    RsaPublic,
    Symmetric,
)

ENDORSEMENT = 0x4000000B
_POLICY_SECRET = 0x00000151
_POLICY_OR = 0x00000171
_POLICY_AUTHORIZE_NV = 0x00000192
# EK Credential Profile, B.6.4: NV index that holds PolicyC's policy, and its attributes.
_POLICY_C_INDEX = {"sha256": 0x01C07F01, "sha384": 0x01C07F02, "sha512": 0x01C07F03}
_POLICY_C_ATTRIBUTES = 0x220F1008

_LOW = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.ADMIN_WITH_POLICY
    | Attributes.RESTRICTED
    | Attributes.DECRYPT
)
_HIGH = _LOW | Attributes.USER_WITH_AUTH


@dataclass(frozen=True, slots=True, kw_only=True)
class EkTemplate:
    """One template: its name in the profile, its certificate's NV index, input to CreatePrimary."""

    name: str
    certificate_index: int
    public: PublicArea


def policy_a(hash_name: str) -> bytes:
    """Give PolicySecret(TPM_RH_ENDORSEMENT)."""
    return _update(hash_name, _POLICY_SECRET, struct.pack(">I", ENDORSEMENT), ref=b"")


def policy_c(hash_name: str) -> bytes:
    """Give PolicyAuthorizeNV of the index that the profile reserves."""
    digest = policy_a(hash_name)
    number = HASH_IDS[hash_name]
    nv_public = struct.pack(
        ">IHIH", _POLICY_C_INDEX[hash_name], number, _POLICY_C_ATTRIBUTES, len(digest)
    )
    nv_public += digest + struct.pack(">H", len(digest) + 2)
    name = struct.pack(">H", number) + hashlib.new(hash_name, nv_public).digest()
    return _update(hash_name, _POLICY_AUTHORIZE_NV, name)


def policy_b(hash_name: str) -> bytes:
    """Give PolicyOR(PolicyA, PolicyC), the policy of the high range."""
    return _update(hash_name, _POLICY_OR, policy_a(hash_name) + policy_c(hash_name))


def _update(hash_name: str, command: int, argument: bytes, ref: bytes | None = None) -> bytes:
    start = bytes(hashlib.new(hash_name).digest_size)
    digest = hashlib.new(hash_name, start + struct.pack(">I", command) + argument).digest()
    return digest if ref is None else hashlib.new(hash_name, digest + ref).digest()


def _rsa(bits: int, hash_name: str, aes: int, *, low: bool = False) -> PublicArea:
    key = RsaPublic(
        symmetric=Symmetric(algorithm=AES, bits=aes, mode=CFB),
        scheme=None,
        bits=bits,
        exponent=0,
        modulus=bytes(256) if low else b"",
    )
    return _area(key, hash_name, low=low)


def _ecc(curve: Curve, hash_name: str, aes: int, *, low: bool = False) -> PublicArea:
    coordinate = bytes(32) if low else b""
    key = EccPublic(
        symmetric=Symmetric(algorithm=AES, bits=aes, mode=CFB),
        scheme=None,
        curve=curve,
        kdf=None,
        x=coordinate,
        y=coordinate,
    )
    return _area(key, hash_name, low=low)


def _area(key: RsaPublic | EccPublic, hash_name: str, *, low: bool) -> PublicArea:
    return PublicArea(
        name_alg=HASH_IDS[hash_name],
        attributes=int(_LOW if low else _HIGH),
        auth_policy=policy_a(hash_name) if low else policy_b(hash_name),
        key=key,
    )


def _template(name: str, index: int, public: PublicArea) -> EkTemplate:
    return EkTemplate(name=name, certificate_index=index, public=public)


TEMPLATES = (
    _template("L-2", 0x01C0000A, _ecc(Curve.P256, "sha256", 128, low=True)),
    _template("L-1", 0x01C00002, _rsa(2048, "sha256", 128, low=True)),
    _template("H-1", 0x01C00012, _rsa(2048, "sha256", 128)),
    _template("H-2", 0x01C00014, _ecc(Curve.P256, "sha256", 128)),
    _template("H-3", 0x01C00016, _ecc(Curve.P384, "sha384", 256)),
    _template("H-6", 0x01C0001C, _rsa(3072, "sha384", 256)),
    _template("H-7", 0x01C0001E, _rsa(4096, "sha512", 256)),
    _template("H-7 (SHA-384)", 0x01C0001E, _rsa(4096, "sha384", 256)),
)
"""In the order in which the id EK is looked for: the first whose certificate index exists."""


def id_template(present: frozenset[int]) -> EkTemplate | None:
    """Give the template of the id EK of a TPM that has these NV indices."""
    return next((known for known in TEMPLATES if known.certificate_index in present), None)


def check_ek_template(ek: PublicArea) -> EkTemplate:
    """Give the template that `ek` was made from; CheckError with EK-TEMPLATE otherwise.

    The unique field holds the key itself by now, and RSA exponent 0 and 65537 are the same.
    """
    shape = _shape(ek)
    ek.public_key()
    known = _BY_SHAPE.get(shape)
    if known is None:
        detail = f"attributes 0x{ek.attributes:08x}, name hash {HASHES[ek.name_alg]}"
        raise CheckError(Reason.EK_TEMPLATE, detail)
    return known


def reconstruct_ek(certificate: Certificate) -> tuple[PublicArea, ...]:
    """Give the public areas that an EK with a certificate's key has, one for each template.

    So a verifier without ek.pub can compute the names that its EK may have. EvidenceError for a
    key of an unknown kind.
    """
    return tuple(public for _, public in fitting_templates(certificate))


def fitting_templates(certificate: Certificate) -> tuple[tuple[EkTemplate, PublicArea], ...]:
    """Give the templates that a certificate's key fits, each with the EK's public area."""
    key = public_key(certificate)
    filled = [(known, _filled(known.public.key, key)) for known in TEMPLATES]
    return tuple(
        (known, replace(known.public, key=made)) for known, made in filled if made is not None
    )


def _filled(template: Key, key: PublicKey) -> Key | None:
    """Put a key into a template's unique field; None where it has another kind or size."""
    if isinstance(key, rsa.RSAPublicKey):
        rsa_numbers = key.public_numbers()
        if not isinstance(template, RsaPublic) or rsa_numbers.e != 65537:
            return None
        if key.key_size != template.bits:
            return None
        return replace(template, modulus=rsa_numbers.n.to_bytes(template.bits // 8, "big"))
    if not isinstance(template, EccPublic) or key.curve.name != template.curve.algorithm().name:
        return None
    numbers, size = key.public_numbers(), template.curve.size
    return replace(template, x=numbers.x.to_bytes(size, "big"), y=numbers.y.to_bytes(size, "big"))


def _shape(area: PublicArea) -> tuple[object, ...]:
    """Give all of an area but the key itself."""
    key = area.key
    own: tuple[object, ...]
    if isinstance(key, RsaPublic):
        own = key.symmetric, key.scheme, key.bits, key.exponent or 65537
    elif isinstance(key, EccPublic):
        own = key.symmetric, key.scheme, key.curve, key.kdf
    else:
        raise CheckError(Reason.EK_TEMPLATE, "it is no asymmetric key")
    return type(key), area.name_alg, area.attributes, area.auth_policy, own


_BY_SHAPE = {_shape(known.public): known for known in TEMPLATES}
