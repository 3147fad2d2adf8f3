"""The device key: an ordinary signing key of the box, proved by the AK to live in its TPM.

Its certificate from the site is what the box shows later. It never proves anything about a boot.
TPM 2.0 Library, Part 3, 18.2 (TPM2_Certify); docs/phone-home-v1.md, "Keys on the box".
"""

from __future__ import annotations

import hmac

from attest.ak import p256_signing
from attest.errors import CheckError
from attest.quote import check_signed
from attest.reasons import Reason
from attest.wire import Attest, CertifyInfo
from keys.errors import PeerError
from keys.tpm_public import Attributes, PublicArea

DEVICE_TEMPLATE = p256_signing(
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.NO_DA
    | Attributes.SIGN
)
"""What the agent gives TPM2_CreatePrimary in the owner hierarchy."""


def check_device_key(
    *, public: bytes, attest: bytes, signature: bytes, ak: PublicArea, extra_data: bytes
) -> tuple[PublicArea, Attest]:
    """Verify the AK's word for the device key; CheckError with DEVICE-KEY otherwise.

    Gives the key and the attestation, whose counters must be those of the quote.
    """
    area = _check_area(public)
    try:
        decoded = check_signed(attest, signature, ak)
    except CheckError as error:
        raise CheckError(Reason.DEVICE_KEY, str(error)) from None
    if not isinstance(decoded.attested, CertifyInfo):
        raise CheckError(Reason.DEVICE_KEY, "it is a quote, no certification")
    if not hmac.compare_digest(decoded.extra_data, extra_data):
        raise CheckError(Reason.DEVICE_KEY, "it was certified for another session")
    if decoded.attested.name != area.name():
        raise CheckError(Reason.DEVICE_KEY, "another key was certified")
    return area, decoded


def _check_area(public: bytes) -> PublicArea:
    try:
        area = PublicArea.decode(public)
        area.public_key()
    except PeerError as error:
        raise CheckError(Reason.DEVICE_KEY, str(error)) from None
    wanted = DEVICE_TEMPLATE
    if (area.attributes, area.name_alg, area.auth_policy) != (
        wanted.attributes,
        wanted.name_alg,
        wanted.auth_policy,
    ):
        raise CheckError(Reason.DEVICE_KEY, f"its attributes are 0x{area.attributes:08x}")
    if not _same_parameters(area):
        raise CheckError(Reason.DEVICE_KEY, "it is no ECDSA P-256 key with SHA-256")
    return area


def _same_parameters(area: PublicArea) -> bool:
    blank = DEVICE_TEMPLATE.key
    if type(area.key) is not type(blank):
        return False
    fields = ("symmetric", "scheme", "curve", "kdf")
    return all(getattr(area.key, name) == getattr(blank, name) for name in fields)
