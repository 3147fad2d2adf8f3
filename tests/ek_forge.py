"""Certificates byte by byte: what makers of TPMs write, and what liars would.

`cryptography` writes strict certificates only; honest ones are odder and false ones stranger.
Everything follows from fixed numbers, so that vectors come out the same byte by byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import forge
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DER, SPKI = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
P256_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
EK_USAGE, PLATFORM_USAGE = "2.23.133.8.1", "2.23.133.8.2"
BASIC, KEY_USAGE, EXTENDED, SAN = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"
MAKER, MODEL, VERSION = "2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"
COMMON_NAME = "2.5.4.3"
TPM = ((MAKER, "id:4E544300"), (MODEL, "NPCT75x"), (VERSION, "id:00070002"))
EVER = "99991231235959Z"
FALSE, TRUE = b"\1\1\0", b"\1\1\xff"


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode an element."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def seq(*parts: bytes) -> bytes:
    """Encode a SEQUENCE."""
    return tlv(0x30, *parts)


def oid(text: str) -> bytes:
    """Encode an object identifier."""
    first, second, *rest = (int(part) for part in text.split("."))
    content = b""
    for number in (40 * first + second, *rest):
        part = bytes([number & 0x7F])
        while number := number >> 7:
            part = bytes([0x80 | number & 0x7F]) + part
        content += part
    return tlv(6, content)


def integer(number: int) -> bytes:
    """Encode a number that is not negative."""
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def bit_string(content: bytes) -> bytes:
    """Encode whole bytes as a BIT STRING."""
    return tlv(3, b"\0", content)


def name(*pairs: tuple[str, str], tag: int = 0x0C, one_set: bool = False) -> bytes:
    """Encode a Name: each attribute in a SET of its own, or all in one as Nuvoton does."""
    parts = [seq(oid(kind), tlv(tag, text.encode())) for kind, text in pairs]
    return seq(tlv(0x31, *parts)) if one_set else seq(*(tlv(0x31, part) for part in parts))


def common(text: str) -> bytes:
    """Encode a Name of one common name."""
    return name((COMMON_NAME, text))


def time(text: str) -> bytes:
    """Encode a time as it is given: UTCTime, or GeneralizedTime from 14 digits on."""
    return tlv(0x18 if text[:14].isdigit() else 0x17, text.encode())


def extension(number: str, value: bytes, flag: bytes = b"") -> bytes:
    """Encode an extension; `flag` is TRUE, FALSE as AMD writes it, or nothing."""
    return seq(oid(number), flag, tlv(4, value))


def basic(*, ca: bool = False, length: int | None = None, flag: bytes = TRUE) -> bytes:
    """Encode basic constraints."""
    inside = (TRUE if ca else b"") + (b"" if length is None else integer(length))
    return extension(BASIC, seq(inside), flag)


def key_usage(*bits: int) -> bytes:
    """Encode a key usage by bit numbers (RFC 5280, 4.2.1.3)."""
    mask = sum(0x80 >> bit for bit in bits)
    return extension(KEY_USAGE, tlv(3, b"\0", bytes([mask])), TRUE)


def extended(*usages: str, flag: bytes = b"") -> bytes:
    """Encode extended key usages."""
    return extension(EXTENDED, seq(*(oid(usage) for usage in usages)), flag)


def san(*pairs: tuple[str, str], flag: bytes = TRUE, **shape: object) -> bytes:
    """Encode a subject alternative name of one directory name."""
    return extension(SAN, seq(tlv(0xA4, name(*pairs, **shape))), flag)  # type: ignore[arg-type]


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode the public half of a key."""
    return key.public_key().public_bytes(DER, SPKI)


def rsa_modulus(bits: int, label: str = "rsa ek") -> int:
    """Give a number that looks like a modulus; nobody knows whether it is one."""
    stream = b"".join(
        hashlib.sha256(f"{label} {bits} {n}".encode()).digest() for n in range(bits // 256)
    )
    return int.from_bytes(stream, "big") | 1 << (bits - 1) | 1


def rsa_spki(bits: int = 2048, algorithm: str = "1.2.840.113549.1.1.1") -> bytes:
    """Encode an RSA key; 1.2.840.113549.1.1.7 is RSAES-OAEP."""
    key = seq(integer(rsa_modulus(bits)), integer(65537))
    parameters = b"\5\0" if algorithm.endswith(".1") else seq()
    return seq(seq(oid(algorithm), parameters), bit_string(key))


def explicit_spki(key: ec.EllipticCurvePrivateKey, base: bytes | None = None) -> bytes:
    """Encode a P-256 key with its curve written out as numbers."""
    form = (Encoding.X962, PublicFormat.UncompressedPoint)
    one = ec.derive_private_key(1, ec.SECP256R1()).public_key().public_bytes(*form)
    domain = seq(
        integer(1),
        seq(oid("1.2.840.10045.1.1"), integer(P256_PRIME)),
        seq(
            tlv(4, (P256_PRIME - 3).to_bytes(32, "big")),
            tlv(4, P256_B.to_bytes(32, "big")),
        ),
        tlv(4, one if base is None else base),
        integer(P256_ORDER),
        integer(1),
    )
    point = key.public_key().public_bytes(*form)
    return seq(seq(oid("1.2.840.10045.2.1"), domain), bit_string(point))


def compressed_spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode a P-256 key with a compressed point."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = seq(oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"))
    return seq(algorithm, bit_string(point))


ECDSA = {"sha1": "1.2.840.10045.4.1", "sha256": "1.2.840.10045.4.3.2"}


def signed(body: bytes, signer: str, algorithm: bytes, hash_name: str) -> bytes:
    """Put a body, its algorithm and a signature by the key of a label together."""
    digest = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}[hash_name]
    key = forge.private_key(signer)
    signature = key.sign(body, ec.ECDSA(digest, deterministic_signing=True))
    return seq(body, algorithm, bit_string(signature))


def certificate(
    *,
    issuer: bytes,
    subject: bytes,
    key: bytes,
    signer: str,
    extensions: Sequence[bytes] = (),
    serial: bytes = b"\x12\x67",
    since: str = "200101000000Z",
    until: str = EVER,
    hash_name: str = "sha256",
    parameters: bytes = b"",
    inner: bytes | None = None,
    version: bytes = b"\xa0\3\2\1\2",
) -> bytes:
    """Encode a certificate; `inner` is another algorithm inside than outside."""
    algorithm = seq(oid(ECDSA[hash_name]), parameters)
    body = seq(
        version,
        tlv(2, serial),
        algorithm if inner is None else inner,
        issuer,
        seq(time(since), time(until)),
        subject,
        key,
        tlv(0xA3, seq(*extensions)) if extensions else b"",
    )
    return signed(body, signer, algorithm, hash_name)


def ca(
    subject: str = "Maker TPM Root CA",
    key: str = "maker root",
    *,
    issuer: str | None = None,
    signer: str | None = None,
    length: int | None = None,
    usage: Sequence[int] | None = (5, 6),
    extensions: Sequence[bytes] = (),
    **changes: object,
) -> bytes:
    """Encode a CA certificate, a root unless `issuer` is given."""
    usages = () if usage is None else (key_usage(*usage),)
    return certificate(
        issuer=common(issuer or subject),
        subject=common(subject),
        key=changes.pop("spki", None) or spki(forge.private_key(key)),  # type: ignore[arg-type]
        signer=signer or key,
        extensions=(
            changes.pop("basic", None) or basic(ca=True, length=length),  # type: ignore[list-item]
            *usages,
            *extensions,
        ),
        **changes,  # type: ignore[arg-type]
    )


def between(**changes: object) -> bytes:
    """Encode the maker's intermediate below its root."""
    fields: dict = {
        "subject": "Maker TPM CA 1",
        "key": "maker intermediate",
        "issuer": "Maker TPM Root CA",
        "signer": "maker root",
        "serial": b"\x22\x22",
    }
    return ca(**(fields | changes))


def ek(
    *,
    names: bytes | None = None,
    usages: bytes | None = None,
    key: bytes | None = None,
    use: bytes | None = None,
    constraints: bytes | None = None,
    extra: Sequence[bytes] = (),
    **changes: object,
) -> bytes:
    """Encode the EK certificate of forge's box; empty bytes leave an extension out."""
    parts = (
        basic() if constraints is None else constraints,
        key_usage(4) if use is None else use,
        extended(EK_USAGE) if usages is None else usages,
        san(*TPM) if names is None else names,
        *extra,
    )
    fields: dict = {
        "issuer": common("Maker TPM Root CA"),
        "subject": seq(),
        "key": spki(forge.private_key("ek of box A")) if key is None else key,
        "signer": "maker root",
        "extensions": [part for part in parts if part],
    }
    return certificate(**(fields | changes))


def crl(
    *serials: bytes,
    issuer: str = "Maker TPM Root CA",
    signer: str = "maker root",
    this_update: str = "261001000000Z",
    next_update: str | None = "270101000000Z",
    entry: bytes = b"",
    extensions: Sequence[bytes] = (),
    hash_name: str = "sha256",
    inner: bytes | None = None,
    version: bytes = b"\2\1\1",
    name_of_issuer: bytes | None = None,
) -> bytes:
    """Encode a revocation list by the contents of its serial numbers."""
    algorithm = seq(oid(ECDSA[hash_name]))
    entries = [seq(tlv(2, serial), time("260901000000Z"), entry) for serial in serials]
    body = seq(
        version,
        algorithm if inner is None else inner,
        name_of_issuer or common(issuer),
        time(this_update),
        b"" if next_update is None else time(next_update),
        seq(*entries) if entries else b"",
        tlv(0xA0, seq(*extensions)) if extensions else b"",
    )
    return signed(body, signer, algorithm, hash_name)


def scope(*parts: bytes) -> bytes:
    """Encode an issuing distribution point."""
    return extension("2.5.29.28", seq(*parts), TRUE)


def point(address: str) -> bytes:
    """Encode a distribution point's full name."""
    return tlv(0xA0, tlv(0xA0, tlv(0x86, address.encode())))


def at(year: int, month: int, day: int) -> int:
    """Give unix seconds of a day."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())
