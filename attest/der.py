"""X.509 certificates as TPM makers write them: cut out, split and verified over their raw bytes.

A small tolerant reader: five of the known makers' roots, padded NV contents and RSAES-OAEP keys
do not load in strict libraries, and re-encoding breaks signatures. It never judges what a
certificate is for (see `attest.ekcert`). X.690 (DER); RFC 5280; EK Credential Profile 2.5, 2.2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives import hashes

from attest.asn1 import (
    BIT_STRING,
    OCTET_STRING,
    SEQUENCE,
    Element,
    Name,
    bits,
    children,
    directory_name,
    header,
    is_true,
    oid_text,
    read,
    serial_number,
    time,
)
from attest.errors import EvidenceError
from attest.x509keys import PublicKey, decode_spki, signature_hash, verifies

__all__ = [
    "BIT_STRING",
    "OCTET_STRING",
    "SEQUENCE",
    "Certificate",
    "Element",
    "Extension",
    "PublicKey",
    "children",
    "cut",
    "decode_certificate",
    "decode_extensions",
    "directory_name",
    "is_signed_by",
    "join",
    "oid_text",
    "public_key",
    "read",
    "split",
    "weak_signature",
]

MAX_CERTIFICATE = 8192
MAX_PARTS = 32
"""Certificates in all that a box sends, or in one NV index."""
# TCG PC Client Specific Implementation for TPM 1.2, 7.4.5: header of a stored certificate.
_STORED = b"\x10\x01\x00"
_PADDING = b"\x00\x11\xff"


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
    serial: int
    issuer: Name
    subject: Name
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


def cut(stored: bytes) -> bytes:
    """Cut a certificate out of what an NV index holds: without header, padding or remains.

    Makers pad with FF, 00 or 11 and some put the 7 bytes of TPM 1.2 in front.
    """
    start = 7 if stored.startswith(_STORED) else 0
    element = read(stored, start)
    if element.tag != SEQUENCE or len(element.raw) > MAX_CERTIFICATE:
        raise EvidenceError("there is no certificate")
    return element.raw


def split(stored: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Cut all certificates out of what an NV index holds, and give the start of one cut short.

    From 0x01C00100 on an index holds several, one after another, and the last may go on in the
    next index. EK Credential Profile 2.5, 2.2.1.5.
    """
    found: list[bytes] = []
    rest = stored.lstrip(_PADDING)
    while rest and len(found) < MAX_PARTS:
        start = 7 if rest.startswith(_STORED) else 0
        try:
            tag, _, end = header(rest, start)
        except EvidenceError:
            break
        if tag != SEQUENCE or end - start > MAX_CERTIFICATE:
            break
        if end > len(rest):
            return tuple(found), rest[start:]
        found.append(rest[start:end])
        rest = rest[end:].lstrip(_PADDING)
    return tuple(found), b""


def join(stored: Iterable[bytes]) -> tuple[list[Certificate], list[str]]:
    """Decode all that a box sent, in the order of its NV indices; also say what was no certificate.

    At most MAX_PARTS certificates are looked at.
    """
    decoded: list[Certificate] = []
    broken: list[str] = []
    begun = b""
    for data in stored:
        found, rest = split(begun + data)
        if begun and not (found and _decodes(found[0])):
            broken.append("a certificate is cut short")
            found, rest = split(data)
        if not found and not rest:
            broken.append("there is no certificate")
        for der in found:
            try:
                decoded.append(decode_certificate(der))
            except EvidenceError as error:
                broken.append(str(error))
        begun = rest
        if len(decoded) + len(broken) >= MAX_PARTS:
            break
    if begun:
        broken.append("a certificate is cut short")
    return decoded[:MAX_PARTS], broken


def decode_certificate(stored: bytes) -> Certificate:
    """Split a certificate; EvidenceError when it has not the shape of one."""
    return _decode(cut(stored))


def public_key(certificate: Certificate) -> PublicKey:
    """Give the key of a certificate; EvidenceError for a kind that is not known here."""
    return decode_spki(certificate.spki)


def weak_signature(certificate: Certificate) -> bool:
    """Tell whether a certificate is signed with SHA-1, as a quarter of the makers' still are."""
    found = signature_hash(certificate.algorithm, certificate.parameters)
    return isinstance(found, hashes.SHA1)


def is_signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Verify the signature over the raw to-be-signed bytes."""
    return _is_signed_by(certificate.der, issuer.spki)


def decode_extensions(content: bytes) -> Mapping[str, Extension]:
    """Read the elements of Extensions."""
    found: dict[str, Extension] = {}
    for item in children(content):
        parts = list(children(item.content))
        if len(parts) not in (2, 3) or parts[-1].tag != OCTET_STRING:
            raise EvidenceError("a certificate holds an extension that is none")
        name = oid_text(parts[0].content)
        if name in found:
            raise EvidenceError("a certificate holds an extension twice")
        critical = len(parts) == 3 and is_true(parts[1])
        found[name] = Extension(critical=critical, value=parts[-1].content)
    return found


# The same makers' certificates come with every box; all caches hold bounded inputs only.
_name = lru_cache(maxsize=256)(directory_name)


@lru_cache(maxsize=1024)
def _decode(der: bytes) -> Certificate:
    try:
        tbs, algorithm, signature = children(read(der).content)
        fields = list(children(tbs.content))
        if fields[0].tag == 0xA0:
            fields = fields[1:]
        serial, inner, issuer, validity, subject, spki, *rest = fields
        if inner.raw != algorithm.raw:
            raise EvidenceError("a certificate names two signature algorithms")
        before, after = children(validity.content)
        parts = list(children(algorithm.content))
        name = oid_text(parts[0].content)
    except (ValueError, IndexError):
        raise EvidenceError("a certificate has not the shape of one") from None
    extensions = next((read(field.content).content for field in rest if field.tag == 0xA3), b"")
    return Certificate(
        der=der,
        tbs=tbs.raw,
        serial=serial_number(serial),
        issuer=_name(issuer.content),
        subject=_name(subject.content),
        not_before=time(before),
        not_after=time(after),
        spki=spki.raw,
        extensions=decode_extensions(extensions),
        algorithm=name,
        parameters=parts[1].raw if len(parts) > 1 else b"",
        signature=bits(signature),
    )


@lru_cache(maxsize=4096)
def _is_signed_by(der: bytes, spki: bytes) -> bool:
    certificate = _decode(der)
    try:
        key = decode_spki(spki)
    except EvidenceError:
        return False
    return verifies(
        key,
        certificate.algorithm,
        certificate.parameters,
        certificate.signature,
        certificate.tbs,
    )


def _decodes(der: bytes) -> bool:
    try:
        decode_certificate(der)
    except EvidenceError:
        return False
    return True
