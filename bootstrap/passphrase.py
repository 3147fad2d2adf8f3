"""What lies at headquarters under a passphrase: a file that is one sealed value, never bare.

scrypt (RFC 7914) stretches the passphrase, AES-256-GCM encrypts the value. Pure: salt and nonce are
drawn outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from bootstrap.errors import SiteError
from keys.envelope import b64u, bind, unb64u
from keys.secret import Secret

SALT_SIZE, NONCE_SIZE = 16, 12
RANDOM_SIZE = SALT_SIZE + NONCE_SIZE
MIN_PASSPHRASE = 14
MAX_BYTES = 4096
_COST, _BLOCK, _LANES = 1 << 17, 8, 1
"""128 MiB and about half a second for each guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One kind of such a file; `context` separates it from the others, `what` is for sentences."""

    type: str
    context: str
    what: str

    def seal(self, value: bytes, passphrase: Secret, drawn: bytes) -> bytes:
        """Write the file; `drawn` is RANDOM_SIZE fresh bytes. SiteError: too short a phrase.

        Lengths are in bytes of UTF-8.
        """
        if len(passphrase) < MIN_PASSPHRASE:
            raise SiteError(f"the passphrase is too short: take at least {MIN_PASSPHRASE} letters")
        salt, nonce = drawn[:SALT_SIZE], drawn[SALT_SIZE:RANDOM_SIZE]
        sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, value, bind(self.context, salt))
        parts = {"salt": b64u(salt), "nonce": b64u(nonce), "sealed": b64u(sealed)}
        return json.dumps({"type": self.type, **parts}, indent=1).encode() + b"\n"

    def open(self, data: bytes, passphrase: Secret) -> bytes:
        """Read the file again; SiteError when it is damaged or the passphrase is another."""
        salt, nonce, sealed = self._parts(data)
        try:
            key = AESGCM(_stretch(passphrase, salt))
            return key.decrypt(nonce, sealed, bind(self.context, salt))
        except InvalidTag:
            raise SiteError(f"{self.what} does not open: wrong passphrase") from None

    def is_one(self, data: bytes) -> bool:
        """Tell such a file, or what is left of one, from a key in PEM."""
        return data.lstrip()[:1] == b"{"

    def _parts(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        try:
            document: Any = json.loads(data[: MAX_BYTES + 1])
            salt, nonce, sealed = (unb64u(document[name]) for name in ("salt", "nonce", "sealed"))
            sizes = len(salt), len(nonce)
            fits = document["type"] == self.type and sizes == (SALT_SIZE, NONCE_SIZE)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fits, salt, nonce, sealed = False, b"", b"", b""
        if not fits:
            raise SiteError(f"{self.what} is in a damaged file: take the copy of it")
        return salt, nonce, sealed


def _stretch(passphrase: Secret, salt: bytes) -> bytes:
    return Scrypt(salt, 32, _COST, _BLOCK, _LANES).derive(passphrase.reveal())
