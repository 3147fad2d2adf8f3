"""What we encrypt for a TPM: seeds under its EK, credentials and objects to import under them.

Pure arithmetic over bytes: randomness is an argument, no TPM is spoken to, nothing is kept.
TPM 2.0 Library specification, Part 1, 11.4.10 (KDFa, KDFe), 22 (object protection), 23.3
(duplication), 24 (credentials), B.10 and C.6 (secret sharing with RSA and ECC keys).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keys.errors import PeerError
from keys.tpm_public import (
    AES,
    CFB,
    DIGEST_SIZES,
    Curve,
    EccPublic,
    PublicArea,
    RsaPublic,
    Symmetric,
    sized,
)

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_BLOCK = 16
RANDOM_BYTES = 64
"""How many random bytes `encrypt_seed` and its callers want, for any parent (FIPS 186-5, A.2.1)."""

IDENTITY = b"IDENTITY"
DUPLICATE = b"DUPLICATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """An outer wrapper around protected data: TPM2B contents, each without its own size."""

    blob: bytes
    encrypted_seed: bytes


def kdfa(
    hash_name: str, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int
) -> bytes:
    """Derive `bits` bits (a multiple of 8) by SP 800-108 in counter mode, as Part 1, 11.4.10.2."""
    fixed = label + b"\0" + context_u + context_v + struct.pack(">I", bits)
    blocks = _count(hash_name, bits)
    parts = (
        hmac.digest(key, struct.pack(">I", number) + fixed, hash_name)
        for number in range(1, blocks + 1)
    )
    return b"".join(parts)[: bits // 8]


def kdfe(
    hash_name: str, z: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int
) -> bytes:
    """Derive `bits` bits (a multiple of 8) by SP 800-56A, as Part 1, 11.4.10.3."""
    fixed = z + label + b"\0" + party_u + party_v
    blocks = _count(hash_name, bits)
    parts = (
        hashlib.new(hash_name, struct.pack(">I", number) + fixed).digest()
        for number in range(1, blocks + 1)
    )
    return b"".join(parts)[: bits // 8]


def encrypt_seed(parent: PublicArea, label: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """Give a seed and the TPM2B_ENCRYPTED_SECRET content that only the parent's TPM opens.

    `randomness`: RANDOM_BYTES fresh bytes; they become the seed or the ephemeral key. The OAEP
    padding of an RSA parent draws its own randomness inside the cryptography library.
    """
    if len(randomness) < RANDOM_BYTES:
        raise ValueError(f"{RANDOM_BYTES} random bytes are needed")
    if parent.name_hash not in _HASHES:
        raise PeerError("a parent key with this name hash is not accepted")
    key = parent.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return _encrypt_seed_rsa(parent, key, label, randomness)
    if not isinstance(parent.key, EccPublic):
        raise PeerError("a parent is an RSA or an ECC key")
    return _share_seed_ecc(parent.name_hash, parent.key, key, label, randomness)


def outer_wrap(parent: PublicArea, seed: bytes, name: bytes, plaintext: bytes) -> bytes:
    """Encrypt and authenticate `plaintext` for the object `name` under the parent's seed.

    Gives TPM2B(HMAC) ‖ ciphertext: the content of TPM2B_ID_OBJECT and of an outer TPM2B_PRIVATE.
    """
    symmetric = _symmetric(parent)
    hash_name = parent.name_hash
    key = kdfa(hash_name, seed, b"STORAGE", name, b"", symmetric.bits)
    ciphertext = cfb_encrypt(key, plaintext)
    bits = 8 * DIGEST_SIZES[hash_name]
    mac_key = kdfa(hash_name, seed, b"INTEGRITY", b"", b"", bits)
    return sized(hmac.digest(mac_key, ciphertext + name, hash_name)) + ciphertext


def make_credential(parent: PublicArea, name: bytes, secret: bytes, randomness: bytes) -> Wrapped:
    """Protect `secret` so that only the TPM with `parent` and the object `name` opens it."""
    if len(secret) > DIGEST_SIZES[parent.name_hash]:
        raise ValueError("a credential is at most one digest of the parent's name hash long")
    seed, encrypted = encrypt_seed(parent, IDENTITY, randomness)
    return Wrapped(blob=outer_wrap(parent, seed, name, sized(secret)), encrypted_seed=encrypted)


def duplicate(
    parent: PublicArea, sensitive: bytes, public: PublicArea, randomness: bytes
) -> tuple[bytes, bytes]:
    """Wrap a TPMT_SENSITIVE for TPM2_Import under `parent`, outer wrapper only.

    Gives the contents of TPM2B_PRIVATE (duplicate) and TPM2B_ENCRYPTED_SECRET (seed).
    """
    seed, encrypted = encrypt_seed(parent, DUPLICATE, randomness)
    return outer_wrap(parent, seed, public.name(), sized(sensitive)), encrypted


def cfb_encrypt(key: bytes, plaintext: bytes) -> bytes:
    """Encrypt with AES-CFB (full block) and a zero IV.

    Written over ECB: where `cryptography` keeps CFB differs between the versions that we support.
    """
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    block, out = bytes(_BLOCK), bytearray()
    for offset in range(0, len(plaintext), _BLOCK):
        part = plaintext[offset : offset + _BLOCK]
        stream = encryptor.update(block)
        size = len(part)
        mixed = int.from_bytes(part, "big") ^ int.from_bytes(stream[:size], "big")
        block = mixed.to_bytes(size, "big")
        out += block
    return bytes(out)


def _count(hash_name: str, bits: int) -> int:
    if bits <= 0 or bits % 8:
        raise ValueError("whole bytes are derived")
    return -(-bits // (8 * DIGEST_SIZES[hash_name]))


def _symmetric(parent: PublicArea) -> Symmetric:
    key = parent.key
    symmetric = key.symmetric if isinstance(key, RsaPublic | EccPublic) else None
    if symmetric is None or symmetric.algorithm != AES or symmetric.mode != CFB:
        raise PeerError("a parent key protects its children with AES-CFB")
    return symmetric


def _encrypt_seed_rsa(
    parent: PublicArea, key: rsa.RSAPublicKey, label: bytes, randomness: bytes
) -> tuple[bytes, bytes]:
    algorithm = _HASHES[parent.name_hash]
    seed = randomness[: algorithm.digest_size]
    # Part 1, B.4: the OAEP label ends with its NUL byte.
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm), algorithm=algorithm, label=label + b"\0")
    return seed, key.encrypt(seed, oaep)


def _share_seed_ecc(
    hash_name: str,
    parent: EccPublic,
    key: ec.EllipticCurvePublicKey,
    label: bytes,
    randomness: bytes,
) -> tuple[bytes, bytes]:
    curve, order = parent.curve, _ORDERS[parent.curve]
    scalar = int.from_bytes(randomness, "big") % (order - 1) + 1
    ephemeral = ec.derive_private_key(scalar, curve.algorithm())
    z = ephemeral.exchange(ec.ECDH(), key)
    numbers = ephemeral.public_key().public_numbers()
    x, y = (value.to_bytes(curve.size, "big") for value in (numbers.x, numbers.y))
    parent_x = parent.x.rjust(curve.size, b"\0")
    bits = 8 * DIGEST_SIZES[hash_name]
    return kdfe(hash_name, z, label, x, parent_x, bits), sized(x) + sized(y)


# SEC 2, 2.4.2 and 2.5.1: orders of the base points.
_ORDERS = {
    Curve.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    Curve.P384: (0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF << 192)
    + 0xC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
