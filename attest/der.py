"""X.509 certificates as TPM makers write them: cut out, split and verified over their raw bytes.

A small tolerant reader: five of the known makers' roots, padded NV contents and RSAES-OAEP keys
do not load in strict libraries, and re-encoding breaks signatures. It never judges what a
certificate is for (see `attest.ekcert`). X.690 (DER); RFC 5280; EK Credential Profile 2.5, 2.2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attest.errors import EvidenceError

MAX_CERTIFICATE = 8192
SEQUENCE, BIT_STRING, OCTET_STRING = 0x30, 0x03, 0x04
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
# TCG PC Client Specific Implementation for TPM 1.2, 7.4.5: header of a stored certificate.
_STORED = b"\x10\x01\x00"

_RSA_KEYS = frozenset({"1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7", "1.2.840.113549.1.1.10"})
_EC_KEY = "1.2.840.10045.2.1"
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1(),
    "1.3.132.0.34": ec.SECP384R1(),
    "1.3.132.0.35": ec.SECP521R1(),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One DER element; `raw` is header and content."""

    tag: int
    content: bytes
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """An extension's flag and the content of its OCTET STRING."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate's parts; times in unix seconds, names as (OID, text) pairs in order."""

    der: bytes
    tbs: bytes
    issuer: tuple[tuple[str, str], ...]
    subject: tuple[tuple[str, str], ...]
    not_before: int
    not_after: int
    spki: bytes
    extensions: Mapping[str, Extension]
    algorithm: str
    parameters: bytes
    signature: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER."""
        return hashlib.sha256(self.der).digest()

    @property
    def title(self) -> str:
        """Name for people: the common name, else all of the subject."""
        names = dict(self.subject)
        return names.get("2.5.4.3") or ", ".join(names.values()) or self.fingerprint.hex()[:16]


def read(data: bytes, offset: int = 0) -> Element:
    """Read the element that starts at `offset`; EvidenceError when it is none."""
    header = data[offset : offset + 2]
    if len(header) < 2 or header[0] & 0x1F == 0x1F:
        raise EvidenceError("a certificate is cut short or holds a tag it cannot have")
    size, start = header[1], offset + 2
    if size >= 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or start + count > len(data):
            raise EvidenceError("a certificate holds a length that cannot be")
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    end = start + size
    if end > len(data):
        raise EvidenceError("a certificate is cut short")
    return Element(tag=header[0], content=data[start:end], raw=data[offset:end])


def children(data: bytes) -> Iterator[Element]:
    """Read the elements that lie one after another in `data`."""
    offset = 0
    while offset < len(data):
        element = read(data, offset)
        offset += len(element.raw)
        yield element


def oid_text(content: bytes) -> str:
    """Give an object identifier with dots."""
    numbers, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    if not numbers:
        raise EvidenceError("an object identifier is empty")
    first = min(numbers[0] // 40, 2)
    return ".".join(str(number) for number in (first, numbers[0] - 40 * first, *numbers[1:]))


def cut(stored: bytes) -> bytes:
    """Cut a certificate out of what an NV index holds: without header, padding or remains.

    Makers pad with FF, 00 or 11 and some put the 7 bytes of TPM 1.2 in front.
    """
    start = 7 if stored.startswith(_STORED) else 0
    element = read(stored, start)
    if element.tag != SEQUENCE or len(element.raw) > MAX_CERTIFICATE:
        raise EvidenceError("there is no certificate")
    return element.raw


def decode_certificate(stored: bytes) -> Certificate:
    """Split a certificate; EvidenceError when it has not the shape of one."""
    der = cut(stored)
    try:
        tbs, algorithm, signature = children(read(der).content)
        fields = list(children(tbs.content))
        if fields[0].tag == 0xA0:
            fields = fields[1:]
        _serial, inner, issuer, validity, subject, spki, *rest = fields
        if inner.raw != algorithm.raw:
            raise EvidenceError("a certificate names two signature algorithms")
        before, after = children(validity.content)
        parts = list(children(algorithm.content))
        name = oid_text(parts[0].content)
    except (ValueError, IndexError):
        raise EvidenceError("a certificate has not the shape of one") from None
    return Certificate(
        der=der,
        tbs=tbs.raw,
        issuer=_name(issuer),
        subject=_name(subject),
        not_before=_time(before),
        not_after=_time(after),
        spki=spki.raw,
        extensions=_extensions(rest),
        algorithm=name,
        parameters=parts[1].raw if len(parts) > 1 else b"",
        signature=_bits(signature),
    )


def public_key(certificate: Certificate) -> PublicKey:
    """Give the key of a certificate; EvidenceError for a kind that is not known here."""
    try:
        algorithm, bits = children(read(certificate.spki).content)
        identifier, *parameters = children(algorithm.content)
        name, data = oid_text(identifier.content), _bits(bits)
        if name in _RSA_KEYS:
            modulus, exponent = (
                int.from_bytes(number.content, "big") for number in children(read(data).content)
            )
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if name == _EC_KEY and parameters:
            curve = _CURVES.get(oid_text(parameters[0].content))
            if curve is not None:
                return ec.EllipticCurvePublicKey.from_encoded_point(curve, data)
    except (ValueError, UnsupportedAlgorithm):
        raise EvidenceError("a certificate holds a key that is none") from None
    raise EvidenceError("a certificate holds a key of an unknown kind")


def weak_signature(certificate: Certificate) -> bool:
    """Tell whether a certificate is signed with SHA-1, as a quarter of the makers' still are."""
    return isinstance(_SIGNATURES.get(certificate.algorithm), hashes.SHA1)


def is_signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Verify the signature over the raw to-be-signed bytes."""
    try:
        key = public_key(issuer)
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                return False
            scheme, algorithm = _rsa_scheme(certificate)
            key.verify(certificate.signature, certificate.tbs, scheme, algorithm)
        else:
            algorithm = _SIGNATURES[certificate.algorithm]
            key.verify(certificate.signature, certificate.tbs, ec.ECDSA(algorithm))
    except (EvidenceError, InvalidSignature, KeyError, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _rsa_scheme(
    certificate: Certificate,
) -> tuple[padding.AsymmetricPadding, hashes.HashAlgorithm]:
    if certificate.algorithm != _RSASSA_PSS:
        return padding.PKCS1v15(), _SIGNATURES[certificate.algorithm]
    algorithm: hashes.HashAlgorithm = hashes.SHA1()
    for field in children(read(certificate.parameters).content):
        if field.tag == 0xA0:
            (identifier, *_) = children(read(field.content).content)
            algorithm = _HASHES[oid_text(identifier.content)]
    return padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm


def _bits(element: Element) -> bytes:
    if element.tag != BIT_STRING or element.content[:1] != b"\0":
        raise EvidenceError("a certificate holds bits that are not whole bytes")
    return element.content[1:]


def directory_name(content: bytes) -> tuple[tuple[str, str], ...]:
    """Read an RDNSequence's content, folded so that equal names compare equal."""
    pairs = []
    for relative in children(content):
        found = []
        for attribute in children(relative.content):
            identifier, value = children(attribute.content)
            found.append((oid_text(identifier.content), _text(value)))
        # Four Nuvoton roots put these SETs in another order than DER does.
        pairs += sorted(found)
    return tuple(pairs)


def _text(value: Element) -> str:
    encoding = "utf-16-be" if value.tag == 0x1E else "utf-8"
    return " ".join(value.content.decode(encoding, "replace").split())


def _name(element: Element) -> tuple[tuple[str, str], ...]:
    try:
        return directory_name(element.content)
    except ValueError:
        raise EvidenceError("a certificate holds a name that cannot be read") from None


def _time(element: Element) -> int:
    text = element.content.decode("ascii", "replace")
    try:
        if element.tag == _UTC_TIME:
            century = "20" if int(text[:2]) < 50 else "19"
            text = century + text
        elif element.tag != _GENERALIZED_TIME:
            raise EvidenceError("a certificate holds a date of an unknown kind")
        moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise EvidenceError("a certificate holds a date that is none") from None
    return int(moment.timestamp())


def _extensions(fields: list[Element]) -> Mapping[str, Extension]:
    found: dict[str, Extension] = {}
    for field in fields:
        if field.tag != 0xA3:
            continue
        for item in children(read(field.content).content):
            parts = list(children(item.content))
            if len(parts) not in (2, 3) or parts[-1].tag != OCTET_STRING:
                raise EvidenceError("a certificate holds an extension that is none")
            name = oid_text(parts[0].content)
            if name in found:
                raise EvidenceError("a certificate holds an extension twice")
            critical = len(parts) == 3 and parts[1].content != b"\0"
            found[name] = Extension(critical=critical, value=parts[-1].content)
    return found
