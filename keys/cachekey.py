"""The cache key: what two shares make together, and what is sealed for headquarters alone. Pure.

One share opens under a lease, the other at one value of the epoch counter; neither alone is worth
anything. A revocation draws a new epoch share, so it ends the key before. design.md, "Secrets".
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.envelope import bind
from keys.errors import PeerError
from keys.secret import Secret

SHARE_SIZE = 32
_POINT_SIZE = 65


def combine(lease_share: Secret, epoch_share: Secret, *, site: str, epoch: int) -> Secret:
    """Derive the cache key of one epoch (32 bytes)."""
    info = bind("doorstep/v1/cache-key", site, epoch)
    material = lease_share.reveal() + epoch_share.reveal()
    return Secret(HKDF(hashes.SHA256(), SHARE_SIZE, None, info).derive(material))


def escrow(value: Secret, to: ec.EllipticCurvePublicKey, drawn: bytes, *, site: str) -> bytes:
    """Encrypt for the holder of a private key; `drawn` is 32 fresh bytes for the ephemeral key."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    ephemeral = ec.derive_private_key(int.from_bytes(drawn, "big") % (order - 1) + 1, to.curve)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key = _escrow_key(ephemeral.exchange(ec.ECDH(), to), point, site)
    return point + AESGCM(key).encrypt(bytes(12), value.reveal(), b"")


def open_escrow(stored: bytes, key: ec.EllipticCurvePrivateKey, *, site: str) -> Secret:
    """Undo `escrow` at headquarters; PeerError when it was made for another key or site."""
    point, sealed = stored[:_POINT_SIZE], stored[_POINT_SIZE:]
    try:
        ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point)
        shared = key.exchange(ec.ECDH(), ephemeral)
        opened = AESGCM(_escrow_key(shared, point, site)).decrypt(bytes(12), sealed, b"")
    except (ValueError, InvalidTag):
        raise PeerError("the escrowed passwords are not for this key and site") from None
    return Secret(opened)


def _escrow_key(shared: bytes, point: bytes, site: str) -> bytes:
    """Derive a key that is used once, so that its nonce may be zero."""
    info = bind("doorstep/v1/owner-escrow", site, point)
    return HKDF(hashes.SHA256(), SHARE_SIZE, None, info).derive(shared)
