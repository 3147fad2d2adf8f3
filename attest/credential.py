"""The credential challenge of step 1: only the TPM that holds EK and AK can open it.

It computes and never keeps: the secret is a MAC (see `attest.transcript`), the randomness an
argument. TPM 2.0 Library, Part 1, 24; CVE-2023-38201 (one try, nothing kept of a failed one).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from attest.ak import check_ak
from attest.ektemplate import EkTemplate, check_ek_template
from attest.errors import CheckError
from attest.reasons import Reason
from keys.errors import PeerError
from keys.protect import RANDOM_BYTES, make_credential
from keys.tpm_public import PublicArea, sized

__all__ = ["RANDOM_BYTES", "BoxKeys", "Challenge", "check_keys", "make_challenge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxKeys:
    """EK and AK of a hello, of the right kinds; nothing is proved about who holds them."""

    ek: PublicArea
    ak: PublicArea
    template: EkTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, each with its size, as step 1 answers them."""

    credential_blob: bytes
    encrypted_secret: bytes


def check_keys(ek_public: bytes, ak_public: bytes) -> BoxKeys:
    """Check structure, EK template and AK attributes; CheckError otherwise."""
    ek, template = decode_ek(ek_public)
    return BoxKeys(ek=ek, ak=decode_ak(ak_public), template=template)


# Both keys come with the hello, and a moment later again with the evidence.
@lru_cache(maxsize=256)
def decode_ek(public: bytes) -> tuple[PublicArea, EkTemplate]:
    """Decode an EK with the template it was made from; CheckError otherwise."""
    try:
        ek = PublicArea.decode(public)
        return ek, check_ek_template(ek)
    except PeerError as error:
        raise CheckError(Reason.EK_STRUCTURE, str(error)) from None


@lru_cache(maxsize=256)
def decode_ak(public: bytes) -> PublicArea:
    """Decode an AK and check what it may do; CheckError otherwise."""
    try:
        ak = PublicArea.decode(public)
        check_ak(ak)
        ak.public_key()
    except PeerError as error:
        raise CheckError(Reason.AK_ATTRIBUTES, str(error)) from None
    return ak


def make_challenge(keys: BoxKeys, secret: bytes, randomness: bytes) -> Challenge:
    """Make the credential of a session; `randomness` is RANDOM_BYTES fresh bytes."""
    wrapped = make_credential(keys.ek, keys.ak.name(), secret, randomness)
    return Challenge(
        credential_blob=sized(wrapped.blob), encrypted_secret=sized(wrapped.encrypted_seed)
    )
