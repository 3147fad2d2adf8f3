"""The signatures in a PE image: which certificates they carry and which digest they sign.

It checks no signature and trusts no certificate; who issued whom is asked elsewhere.
Windows Authenticode PE Signature Format 1.0; RFC 2315, section 9.1; UEFI 2.10, 32.2.4.
"""

import struct
from dataclasses import dataclass

from attest.errors import AttestSiteError

MAX_SIGNATURES = 8
MAX_CERTIFICATES = 32

_PKCS7 = 0x0002
_INTEGER, _OCTET_STRING, _OID = 0x02, 0x04, 0x06
_SEQUENCE, _SET = 0x30, 0x31
_CONTEXT_0 = 0xA0
_MAX_CHILDREN = 64
_DIGESTS = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature; `digest_name` is empty where it signs a digest of an unknown kind.

    The certificates are DER and keep their order in the signature, which is not always leaf first;
    `issuer` (DER) and `serial` (big-endian) are those of the certificate that signed, as it says.
    """

    certificates: tuple[bytes, ...]
    digest_name: str
    digest: bytes
    issuer: bytes = b""
    serial: bytes = b""


@dataclass(frozen=True, slots=True)
class _Element:
    tag: int
    start: int
    content: int
    end: int


def decode_signatures(table: bytes) -> tuple[Signature, ...]:
    """Read the WIN_CERTIFICATE entries, each padded to eight bytes; raise AttestSiteError."""
    found: list[Signature] = []
    offset = 0
    while offset + 8 <= len(table):
        length, _, kind = struct.unpack_from("<IHH", table, offset)
        if length < 8 or offset + length > len(table):
            raise AttestSiteError("the signature table of the PE image is malformed")
        if kind == _PKCS7:
            if len(found) == MAX_SIGNATURES:
                raise AttestSiteError(f"the PE image has more than {MAX_SIGNATURES} signatures")
            found.append(_decode(table[offset + 8 : offset + length]))
        offset += (length + 7) & ~7
    return tuple(found)


def _decode(data: bytes) -> Signature:
    """Read a PKCS #7 SignedData."""
    outer = _children(data, _element(data, 0))
    if len(outer) < 2 or outer[1].tag != _CONTEXT_0:
        raise AttestSiteError("a signature in the PE image is not PKCS #7")
    parts = _children(data, _element(data, outer[1].content))
    certificates: tuple[bytes, ...] = ()
    for part in parts:
        if part.tag == _CONTEXT_0:
            inner = _children(data, part)
            certificates = tuple(data[one.start : one.end] for one in inner if one.tag == _SEQUENCE)
    if len(certificates) > MAX_CERTIFICATES:
        raise AttestSiteError("a signature in the PE image has too many certificates")
    name, digest = _signed_digest(data, parts)
    issuer, serial = _signer(data, parts)
    return Signature(
        certificates=certificates, digest_name=name, digest=digest, issuer=issuer, serial=serial
    )


def _signer(data: bytes, parts: list[_Element]) -> tuple[bytes, bytes]:
    """Give the issuerAndSerialNumber of the first SignerInfo, empty where there is none."""
    infos = next((part for part in reversed(parts) if part.tag == _SET), None)
    both = _child(data, _child(data, infos, 0, _SEQUENCE), 1, _SEQUENCE)
    issuer, serial = _child(data, both, 0, _SEQUENCE), _child(data, both, 1, _INTEGER)
    return data[issuer.start : issuer.end] if issuer else b"", _content(data, serial)


def _signed_digest(data: bytes, parts: list[_Element]) -> tuple[str, bytes]:
    """Give the DigestInfo of the SpcIndirectDataContent, empty where there is none."""
    at: _Element | None = next((part for part in parts if part.tag == _SEQUENCE), None)
    # ContentInfo, its content, SpcIndirectDataContent, DigestInfo.
    for place, tag in ((1, _CONTEXT_0), (0, _SEQUENCE), (1, _SEQUENCE)):
        at = _child(data, at, place, tag)
    algorithm = _child(data, _child(data, at, 0, _SEQUENCE), 0, _OID)
    value = _child(data, at, 1, _OCTET_STRING)
    return _DIGESTS.get(_content(data, algorithm), ""), _content(data, value)


def _content(data: bytes, one: _Element | None) -> bytes:
    return data[one.content : one.end] if one else b""


def _child(data: bytes, parent: _Element | None, place: int, tag: int) -> _Element | None:
    if parent is None:
        return None
    found = _children(data, parent)
    return found[place] if len(found) > place and found[place].tag == tag else None


def _element(data: bytes, offset: int) -> _Element:
    """Read the header of the DER element at `offset`."""
    if offset + 2 > len(data):
        raise AttestSiteError("a signature in the PE image is cut off")
    tag, length = data[offset], data[offset + 1]
    start = offset + 2
    if length & 0x80:
        size = length & 0x7F
        if not 0 < size <= 4:
            raise AttestSiteError("a signature in the PE image is not DER")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if start + length > len(data):
        raise AttestSiteError("a signature in the PE image is cut off")
    return _Element(tag, offset, start, start + length)


def _children(data: bytes, parent: _Element) -> list[_Element]:
    """List the elements inside `parent`."""
    found: list[_Element] = []
    at = parent.content
    while at < parent.end:
        if len(found) == _MAX_CHILDREN:
            raise AttestSiteError("a signature in the PE image has too many parts")
        one = _element(data, at)
        if one.end > parent.end:
            raise AttestSiteError("a signature in the PE image is cut off")
        found.append(one)
        at = one.end
    return found
