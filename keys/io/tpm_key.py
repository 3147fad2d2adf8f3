"""A key of the controller's TPM where `cryptography` expects a private key.

It holds nothing secret and cannot be written out. Every signature is the TPM's, under its policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keys.envelope import b64u, unb64u
from keys.errors import PeerError, SiteError
from keys.tpm_objects import Blob
from keys.tpm_public import PublicArea

Buffer: TypeAlias = bytes | bytearray | memoryview
Sign = Callable[[Blob, int | None, bytes], tuple[int, int]]
"""Signs a digest with a key; the number is that of `keys.lease.signing_policy`."""


class TpmKey(ec.EllipticCurvePrivateKey):
    """A P-256 key that signs SHA-256 digests; ClosedError when its policy does not hold."""

    def __init__(self, blob: Blob, unmoved: int | None, sign: Sign) -> None:
        """Take its public half; SiteError when it is damaged."""
        try:
            public = PublicArea.decode(blob.public).public_key()
        except PeerError as error:
            raise SiteError(f"keys.db: a signing key is damaged: {error}") from None
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise SiteError("keys.db: a signing key is no ECC key")
        self._public, self._blob, self._unmoved, self._sign = public, blob, unmoved, sign

    @property
    def blob(self) -> Blob:
        """The key as its TPM alone loads it."""
        return self._blob

    @property
    def unmoved(self) -> int | None:
        """The number in its policy (`keys.lease.signing_policy`)."""
        return self._unmoved

    @staticmethod
    def dump(blob: Blob, unmoved: int | None) -> bytes:
        """Write a key for the database; nothing of it is secret."""
        found = {"public": b64u(blob.public), "private": b64u(blob.private), "unmoved": unmoved}
        return json.dumps(found).encode()

    @classmethod
    def read(cls, stored: bytes, sign: Sign) -> TpmKey:
        """Read what `dump` wrote; SiteError when it is damaged."""
        try:
            found = json.loads(stored)
            blob = Blob(public=unb64u(found["public"]), private=unb64u(found["private"]))
            unmoved = found["unmoved"]
            return cls(blob, None if unmoved is None else int(unmoved), sign)
        except (ValueError, KeyError, TypeError):
            raise SiteError("keys.db: a signing key is damaged") from None

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Give the DER signature of data; TypeError unless it is ECDSA with SHA-256."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("a signing key of the TPM is for SHA-256")
        digest = hashlib.sha256(data).digest()
        return utils.encode_dss_signature(*self._sign(self._blob, self._unmoved, digest))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Give the public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """In bits."""
        return self._public.key_size

    def exchange(self, algorithm: object, peer_public_key: object) -> NoReturn:
        """Refuse: the key is for signatures."""
        raise TypeError("a signing key of the TPM signs, and nothing else")

    def private_numbers(self) -> NoReturn:
        """Refuse: they never leave the TPM."""
        raise TypeError("the private half of a key of the TPM never leaves it")

    def private_bytes(self, *_: object) -> NoReturn:
        """Refuse: they never leave the TPM."""
        self.private_numbers()

    def __copy__(self) -> TpmKey:
        """Give itself: it never changes."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> TpmKey:
        """Give itself: it never changes."""
        return self
