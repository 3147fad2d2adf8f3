"""The lease authority's private key as it lies at headquarters: under a passphrase, never bare.

Whoever has the key decides how long every appliance of its sites may open its cache. Pure: salt and
nonce are drawn outside.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from bootstrap.errors import SiteError
from bootstrap.passphrase import MIN_PASSPHRASE, RANDOM_SIZE, Form
from keys.secret import Secret

__all__ = ["FORM", "MIN_PASSPHRASE", "RANDOM_SIZE", "TYPE", "lock", "public_pem", "unlock"]

TYPE = "doorstep/lease-authority/v1"
FORM = Form(type=TYPE, context="doorstep/v1/lease-authority", what="the lease authority's key")


def lock(key: ec.EllipticCurvePrivateKey, passphrase: Secret, drawn: bytes) -> bytes:
    """Write the file of a key; `drawn` is RANDOM_SIZE fresh bytes. SiteError: too short a phrase.

    Lengths are in bytes of UTF-8.
    """
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return FORM.seal(der, passphrase, drawn)


def unlock(data: bytes, passphrase: Secret) -> ec.EllipticCurvePrivateKey:
    """Read the file again; SiteError when it is damaged or the passphrase is another."""
    try:
        key = load_der_private_key(FORM.open(data, passphrase), password=None)
    except ValueError:
        raise SiteError("the lease authority's key does not open: wrong passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SiteError("the lease authority's key is no P-256 key: make another")
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write the public half, for SITE/trust/lease.pub."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
