"""TPMT_PUBLIC: the public area of a TPM object, and the name that follows from it.

Decoding is strict: known types and algorithms only, no bytes left over, sizes that fit. It never
judges what a key may be used for (see `attest.ak`, `attest.ektemplate`).
TPM 2.0 Library specification, Part 2, 12.2 (public area), 11.2 (key schemes); Part 1, 16 (names).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keys.errors import PeerError

RSA = 0x0001
KEYEDHASH = 0x0008
AES = 0x0006
NULL = 0x0010
ECC = 0x0023
HMAC = 0x0005
RSAES = 0x0015
CFB = 0x0043
HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
HASH_IDS = {name: number for number, name in HASHES.items()}
DIGEST_SIZES = {name: hashlib.new(name).digest_size for name in HASH_IDS}
"""Bytes of each digest, by name."""

# Part 2, 11.2.1.4 and 11.2.2: asymmetric schemes that carry a hash and nothing else.
_HASH_SCHEMES = frozenset({0x0014, 0x0016, 0x0017, 0x0018, 0x0019, 0x001B, 0x001C, 0x001D})
_RSA_BITS = frozenset({2048, 3072, 4096})
_MAX_FIELD = 1024
# Type, name hash and attributes; an RSA key's bits and exponent; bits and mode of a cipher.
_HEAD, _RSA_SIZES, _AES_SIZES = struct.Struct(">HHI"), struct.Struct(">HI"), struct.Struct(">HH")


class Attributes(IntFlag):
    """TPMA_OBJECT, Part 2, 8.3."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


class Curve(IntEnum):
    """TPM_ECC_CURVE values that we accept."""

    P256 = 0x0003
    P384 = 0x0004

    @property
    def size(self) -> int:
        """Bytes of one coordinate."""
        return 32 if self is Curve.P256 else 48

    def algorithm(self) -> ec.EllipticCurve:
        """Give the same curve as `cryptography` names it."""
        return ec.SECP256R1() if self is Curve.P256 else ec.SECP384R1()


_CURVES = {int(curve): curve for curve in Curve}


class Reader:
    """Reads big-endian fields; PeerError as soon as bytes are missing or left over."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = bytes(data)
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Give the next `size` bytes."""
        start = self._offset
        end = self._offset = start + size
        if end > len(self._data):
            raise PeerError("a TPM structure is cut short")
        return self._data[start:end]

    def fields(self, form: struct.Struct) -> tuple[int, ...]:
        """Read numbers that stand side by side."""
        return form.unpack(self.take(form.size))

    def u16(self) -> int:
        """Read a UINT16."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Read a UINT32."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Read a UINT64."""
        return int.from_bytes(self.take(8), "big")

    def sized(self, limit: int = _MAX_FIELD) -> bytes:
        """Read a TPM2B of at most `limit` bytes."""
        data, start = self._data, self._offset + 2
        end = start + int.from_bytes(data[start - 2 : start], "big")
        if end - start > limit:
            raise PeerError("a TPM structure holds a field that is too long")
        if end > len(data):
            raise PeerError("a TPM structure is cut short")
        self._offset = end
        return data[start:end]

    def end(self) -> None:
        """Check that nothing is left."""
        if self._offset != len(self._data):
            raise PeerError("bytes are left over after a TPM structure")


def sized(data: bytes) -> bytes:
    """Encode a TPM2B."""
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT; sizes in bits."""

    algorithm: int
    bits: int
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A scheme by TPM_ALG_ID, with its hash where it has one."""

    algorithm: int
    hash_alg: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaPublic:
    """TPMS_RSA_PARMS and the modulus (empty in a template); exponent 0 means 65537."""

    symmetric: Symmetric | None
    scheme: Scheme | None
    bits: int
    exponent: int
    modulus: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EccPublic:
    """TPMS_ECC_PARMS and the point (empty coordinates in a template)."""

    symmetric: Symmetric | None
    scheme: Scheme | None
    curve: Curve
    kdf: Scheme | None
    x: bytes
    y: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedHashPublic:
    """TPMS_KEYEDHASH_PARMS (NULL scheme only: sealed data) and H(seed, data)."""

    unique: bytes


Key = RsaPublic | EccPublic | KeyedHashPublic
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True)
class PublicArea:
    """A decoded TPMT_PUBLIC; `attributes` keeps unknown bits, `encode` restores the bytes.

    It has no slots, so that bytes, name and key, which a session needs again and again, are made
    once.
    """

    name_alg: int
    attributes: int
    auth_policy: bytes
    key: Key

    @classmethod
    def decode(cls, data: bytes) -> PublicArea:
        """Decode all of `data`; PeerError otherwise."""
        reader = Reader(data)
        kind, number, attributes = reader.fields(_HEAD)
        name_alg, auth_policy = _hash_id(number), reader.sized(64)
        if len(auth_policy) not in (0, DIGEST_SIZES[HASHES[name_alg]]):
            raise PeerError("the policy of a TPM object has not the size of its name hash")
        key = _decode_key(kind, reader)
        reader.end()
        area = cls(name_alg=name_alg, attributes=attributes, auth_policy=auth_policy, key=key)
        # Nothing has two encodings here, so these are the bytes that `encode` would give.
        vars(area)["_encoded"] = bytes(data)
        return area

    @property
    def type(self) -> int:
        """TPM_ALG_ID of the object's type."""
        return {RsaPublic: RSA, EccPublic: ECC, KeyedHashPublic: KEYEDHASH}[type(self.key)]

    @property
    def name_hash(self) -> str:
        """Name of the hash for `hashlib`."""
        return HASHES[self.name_alg]

    def encode(self) -> bytes:
        """Give the TPMT_PUBLIC."""
        return self._encoded

    def name(self) -> bytes:
        """Give the TPM name: nameAlg, then H(TPMT_PUBLIC)."""
        return self._name

    def public_key(self) -> PublicKey:
        """Give the key for `cryptography`; PeerError when there is none or it is no valid key."""
        return self._public_key

    @cached_property
    def _encoded(self) -> bytes:
        head = _HEAD.pack(self.type, self.name_alg, self.attributes)
        return head + sized(self.auth_policy) + _encode_key(self.key)

    @cached_property
    def _name(self) -> bytes:
        return object_name(self.name_alg, self.encode())

    @cached_property
    def _public_key(self) -> PublicKey:
        if isinstance(self.key, RsaPublic):
            return _rsa_key(self.key)
        if isinstance(self.key, EccPublic):
            return _ecc_key(self.key)
        raise PeerError("a keyed-hash object has no public key")


def object_name(name_alg: int, public: bytes) -> bytes:
    """Give nameAlg ‖ H(public), for an area that is not one of ours to decode too."""
    return struct.pack(">H", name_alg) + hashlib.new(HASHES[name_alg], public).digest()


def sealed_object(
    *,
    policy: bytes,
    unique: bytes,
    attributes: int = int(Attributes.NO_DA),
    name_alg: int = HASH_IDS["sha256"],
) -> PublicArea:
    """Build the public area of sealed data that only `policy` opens (noDA, importable)."""
    return PublicArea(
        name_alg=name_alg,
        attributes=attributes,
        auth_policy=policy,
        key=KeyedHashPublic(unique=unique),
    )


def sealed_unique(seed: bytes, data: bytes, name_hash: str = "sha256") -> bytes:
    """Give the unique field of sealed data: H(seedValue ‖ data), Part 1, 25.6."""
    return hashlib.new(name_hash, seed + data).digest()


def sealed_sensitive(seed: bytes, data: bytes, auth: bytes = b"") -> bytes:
    """Encode the TPMT_SENSITIVE of sealed data, Part 2, 12.3.2."""
    return struct.pack(">H", KEYEDHASH) + sized(auth) + sized(seed) + sized(data)


def _hash_id(value: int) -> int:
    if value not in HASHES:
        raise PeerError(f"hash algorithm 0x{value:04x} is not used here")
    return value


def _decode_symmetric(reader: Reader) -> Symmetric | None:
    algorithm = reader.u16()
    if algorithm == NULL:
        return None
    if algorithm != AES:
        raise PeerError(f"symmetric algorithm 0x{algorithm:04x} is not used here")
    bits, mode = reader.fields(_AES_SIZES)
    if bits not in (128, 192, 256):
        raise PeerError(f"AES with {bits} bits does not exist")
    return Symmetric(algorithm=algorithm, bits=bits, mode=mode)


def _decode_scheme(reader: Reader) -> Scheme | None:
    algorithm = reader.u16()
    if algorithm == NULL:
        return None
    if algorithm == RSAES:
        return Scheme(algorithm=algorithm)
    if algorithm not in _HASH_SCHEMES:
        raise PeerError(f"key scheme 0x{algorithm:04x} is not used here")
    return Scheme(algorithm=algorithm, hash_alg=_hash_id(reader.u16()))


def _decode_kdf(reader: Reader) -> Scheme | None:
    algorithm = reader.u16()
    if algorithm == NULL:
        return None
    if algorithm not in (0x0007, 0x0020, 0x0021, 0x0022):
        raise PeerError(f"key derivation 0x{algorithm:04x} is not used here")
    return Scheme(algorithm=algorithm, hash_alg=_hash_id(reader.u16()))


def _decode_rsa(reader: Reader) -> RsaPublic:
    symmetric, scheme = _decode_symmetric(reader), _decode_scheme(reader)
    bits, exponent = reader.fields(_RSA_SIZES)
    modulus = reader.sized()
    if bits not in _RSA_BITS:
        raise PeerError(f"an RSA key of {bits} bits is not accepted")
    if len(modulus) not in (0, bits // 8):
        raise PeerError("an RSA modulus has not the size that its key says")
    return RsaPublic(
        symmetric=symmetric, scheme=scheme, bits=bits, exponent=exponent, modulus=modulus
    )


def _decode_ecc(reader: Reader) -> EccPublic:
    symmetric, scheme = _decode_symmetric(reader), _decode_scheme(reader)
    number = reader.u16()
    curve = _CURVES.get(number)
    if curve is None:
        raise PeerError(f"curve 0x{number:04x} is not accepted")
    kdf, size = _decode_kdf(reader), curve.size
    x, y = reader.sized(size), reader.sized(size)
    return EccPublic(symmetric=symmetric, scheme=scheme, curve=curve, kdf=kdf, x=x, y=y)


def _decode_key(kind: int, reader: Reader) -> Key:
    if kind == RSA:
        return _decode_rsa(reader)
    if kind == ECC:
        return _decode_ecc(reader)
    if kind == KEYEDHASH:
        return _decode_keyed_hash(reader)
    raise PeerError(f"TPM object type 0x{kind:04x} is not used here")


def _decode_keyed_hash(reader: Reader) -> KeyedHashPublic:
    if reader.u16() != NULL:
        raise PeerError("a keyed-hash key is not used here, sealed data alone is")
    return KeyedHashPublic(unique=reader.sized(64))


def _encode_symmetric(symmetric: Symmetric | None) -> bytes:
    if symmetric is None:
        return struct.pack(">H", NULL)
    return struct.pack(">HHH", symmetric.algorithm, symmetric.bits, symmetric.mode)


def _encode_scheme(scheme: Scheme | None) -> bytes:
    if scheme is None:
        return struct.pack(">H", NULL)
    tail = b"" if scheme.hash_alg is None else struct.pack(">H", scheme.hash_alg)
    return struct.pack(">H", scheme.algorithm) + tail


def _encode_key(key: Key) -> bytes:
    if isinstance(key, KeyedHashPublic):
        return struct.pack(">H", NULL) + sized(key.unique)
    head = _encode_symmetric(key.symmetric) + _encode_scheme(key.scheme)
    if isinstance(key, RsaPublic):
        return head + struct.pack(">HI", key.bits, key.exponent) + sized(key.modulus)
    tail = _encode_scheme(key.kdf) + sized(key.x) + sized(key.y)
    return head + struct.pack(">H", key.curve) + tail


def _rsa_key(key: RsaPublic) -> rsa.RSAPublicKey:
    modulus = int.from_bytes(key.modulus, "big")
    if modulus.bit_length() != key.bits:
        raise PeerError("an RSA modulus has not the size that its key says")
    try:
        return rsa.RSAPublicNumbers(key.exponent or 65537, modulus).public_key()
    except ValueError:
        raise PeerError("the public area holds no valid RSA key") from None


def _ecc_key(key: EccPublic) -> ec.EllipticCurvePublicKey:
    size = key.curve.size
    point = b"\4" + key.x.rjust(size, b"\0") + key.y.rjust(size, b"\0")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(key.curve.algorithm(), point)
    except ValueError:
        raise PeerError("the public area holds a point that is not on its curve") from None
