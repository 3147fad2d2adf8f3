"""Public keys and signatures of certificates, over raw bytes; `cryptography` does the arithmetic.

It knows what strict libraries refuse: RSAES-OAEP keys, which are RSA keys, and NIST curves written
out as numbers. It never judges who signs. RFC 3279, 4055, 5480, 5758; RFC 8017, A.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attest.asn1 import SEQUENCE, Element, bits, children, oid_text, read
from attest.errors import EvidenceError

MIN_RSA, MAX_RSA = 2048, 8192
_RSA_KEYS = frozenset({"1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7", "1.2.840.113549.1.1.10"})
_EC_KEY, _PRIME_FIELD = "1.2.840.10045.2.1", "1.2.840.10045.1.1"
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
}
_P256 = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_P384 = 2**384 - 2**128 - 2**96 + 2**32 - 1
# FIPS 186-4, D.1.2: prime, a, b, order.
_DOMAINS: Mapping[tuple[int, int, int, int], ec.EllipticCurve] = {
    (
        _P256,
        _P256 - 3,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ): ec.SECP256R1(),
    (
        _P384,
        _P384 - 3,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ): ec.SECP384R1(),
}
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "1.3.14.3.2.26": hashes.SHA1(),
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
# RFC 8017, A.2.4 and RFC 5758, 3.2.
_SIGNATURES: Mapping[str, hashes.HashAlgorithm] = {
    "1.2.840.113549.1.1.5": hashes.SHA1(),
    "1.2.840.113549.1.1.11": hashes.SHA256(),
    "1.2.840.113549.1.1.12": hashes.SHA384(),
    "1.2.840.113549.1.1.13": hashes.SHA512(),
    "1.2.840.10045.4.1": hashes.SHA1(),
    "1.2.840.10045.4.3.2": hashes.SHA256(),
    "1.2.840.10045.4.3.3": hashes.SHA384(),
    "1.2.840.10045.4.3.4": hashes.SHA512(),
}
_RSASSA_PSS = "1.2.840.113549.1.1.10"

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@lru_cache(maxsize=1024)
def decode_spki(spki: bytes) -> PublicKey:
    """Give the key of a SubjectPublicKeyInfo; EvidenceError for a kind that is not known here."""
    try:
        algorithm, key = children(read(spki).content)
        identifier, *parameters = children(algorithm.content)
        name, data = oid_text(identifier.content), bits(key)
        if name in _RSA_KEYS:
            return _rsa_key(data)
        if name == _EC_KEY and parameters:
            curve = _curve(parameters[0])
            if curve is not None:
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, data)
    except (ValueError, UnsupportedAlgorithm):
        raise EvidenceError("a certificate holds a key that is none") from None
    raise EvidenceError("a certificate holds a key of an unknown kind")


def signature_hash(algorithm: str, parameters: bytes) -> hashes.HashAlgorithm | None:
    """Give the hash of a signature algorithm; None where it is not known here."""
    if algorithm != _RSASSA_PSS:
        return _SIGNATURES.get(algorithm)
    try:
        return _pss(parameters)[1]
    except (EvidenceError, KeyError, ValueError):
        return None


def verifies(
    key: PublicKey, algorithm: str, parameters: bytes, signature: bytes, signed: bytes
) -> bool:
    """Verify a signature over raw bytes; a short RSA key or an unknown algorithm verifies none."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA:
                return False
            if algorithm == _RSASSA_PSS:
                scheme, digest = _pss(parameters)
                key.verify(signature, signed, scheme, digest)
            else:
                key.verify(signature, signed, padding.PKCS1v15(), _SIGNATURES[algorithm])
        else:
            key.verify(signature, signed, ec.ECDSA(_SIGNATURES[algorithm]))
    except (EvidenceError, InvalidSignature, KeyError, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _rsa_key(data: bytes) -> rsa.RSAPublicKey:
    modulus, exponent = (
        int.from_bytes(number.content, "big") for number in children(read(data).content)
    )
    # A huge modulus or exponent would make one verification take seconds.
    if modulus.bit_length() > MAX_RSA or exponent.bit_length() > 64:
        raise EvidenceError("a certificate holds an RSA key that is too long")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _curve(parameters: Element) -> ec.EllipticCurve | None:
    """Give the curve of a name, or of numbers that are all those of a known one.

    RFC 3279, 2.3.5. All are compared, the base point too: another one makes anybody's key equal
    to the maker's (CVE-2020-0601).
    """
    if parameters.tag != SEQUENCE:
        return _CURVES.get(oid_text(parameters.content))
    _version, field, coefficients, base, order, *_ = children(parameters.content)
    kind, prime = children(field.content)
    a, b, *_ = children(coefficients.content)
    if oid_text(kind.content) != _PRIME_FIELD:
        return None
    numbers = [int.from_bytes(part.content, "big") for part in (prime, a, b, order)]
    curve = _DOMAINS.get((numbers[0], numbers[1], numbers[2], numbers[3]))
    if curve is None:
        return None
    point = ec.EllipticCurvePublicKey.from_encoded_point(curve, base.content)
    one = ec.derive_private_key(1, curve).public_key()
    return curve if point.public_numbers() == one.public_numbers() else None


def _pss(parameters: bytes) -> tuple[padding.PSS, hashes.HashAlgorithm]:
    """Read RSASSA-PSS-params; what is left out is SHA-1 (RFC 4055, 3.1)."""
    digest: hashes.HashAlgorithm = hashes.SHA1()
    mask: hashes.HashAlgorithm = hashes.SHA1()
    for field in children(read(parameters).content if parameters else b""):
        inner = read(field.content)
        if field.tag == 0xA0:
            digest = _HASHES[_algorithm(inner)]
        elif field.tag == 0xA1:
            mask = _HASHES[_algorithm(list(children(inner.content))[1])]
    return padding.PSS(padding.MGF1(mask), padding.PSS.AUTO), digest


def _algorithm(identifier: Element) -> str:
    return oid_text(read(identifier.content).content)
