"""The lease authority's private key as it lies at headquarters: under a passphrase, never bare.

scrypt (RFC 7914) stretches the passphrase, AES-256-GCM encrypts the key. Whoever has the key
decides how long every appliance of its sites may open its cache. Pure: salt and nonce are drawn
outside.
"""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from bootstrap.errors import SiteError
from keys.envelope import b64u, bind, unb64u
from keys.secret import Secret

TYPE = "doorstep/lease-authority/v1"
SALT_SIZE, NONCE_SIZE = 16, 12
RANDOM_SIZE = SALT_SIZE + NONCE_SIZE
MIN_PASSPHRASE = 14
MAX_BYTES = 4096
_COST, _BLOCK, _LANES = 1 << 17, 8, 1
"""128 MiB and about half a second for each guess."""


def lock(key: ec.EllipticCurvePrivateKey, passphrase: Secret, drawn: bytes) -> bytes:
    """Write the file of a key; `drawn` is RANDOM_SIZE fresh bytes. SiteError: too short a phrase.

    Lengths are in bytes of UTF-8.
    """
    if len(passphrase) < MIN_PASSPHRASE:
        raise SiteError(f"the passphrase is too short: take at least {MIN_PASSPHRASE} letters")
    salt, nonce = drawn[:SALT_SIZE], drawn[SALT_SIZE:RANDOM_SIZE]
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, der, _data(salt))
    parts = {"salt": b64u(salt), "nonce": b64u(nonce), "sealed": b64u(sealed)}
    return json.dumps({"type": TYPE, **parts}, indent=1).encode() + b"\n"


def unlock(data: bytes, passphrase: Secret) -> ec.EllipticCurvePrivateKey:
    """Read the file again; SiteError when it is damaged or the passphrase is another."""
    salt, nonce, sealed = _parts(data)
    try:
        der = AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, _data(salt))
        key = load_der_private_key(der, password=None)
    except (InvalidTag, ValueError):
        raise SiteError("the lease authority's key does not open: wrong passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SiteError("the lease authority's key is no P-256 key: make another")
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write the public half, for SITE/trust/lease.pub."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    try:
        document: Any = json.loads(data[: MAX_BYTES + 1])
        salt, nonce, sealed = (unb64u(document[name]) for name in ("salt", "nonce", "sealed"))
        fits = document["type"] == TYPE and (len(salt), len(nonce)) == (SALT_SIZE, NONCE_SIZE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits, salt, nonce, sealed = False, b"", b"", b""
    if not fits:
        raise SiteError("the lease authority's key file is damaged: take the copy of it")
    return salt, nonce, sealed


def _stretch(passphrase: Secret, salt: bytes) -> bytes:
    return Scrypt(salt, 32, _COST, _BLOCK, _LANES).derive(passphrase.reveal())


def _data(salt: bytes) -> bytes:
    return bind("doorstep/v1/lease-authority", salt)
