"""PE images of boot programs: sections, Authenticode digest, certificates of the signatures.

It checks no signature: shim, GRUB and firmware do that, here it is only foretold what they measure.
Windows Authenticode PE Signature Format 1.0; UEFI 2.10, 32.4.1 and 32.5 (digest of an image).
"""

import hashlib
import struct
from dataclasses import dataclass

from attest.errors import AttestSiteError

MAX_SECTIONS = 96
MAX_SIGNATURES = 8

_PKCS7 = 0x0002
_SEQUENCE = 0x30
_CONTEXT_0 = 0xA0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section: its raw bytes in the file, cut to its virtual size where that is smaller."""

    name: str
    offset: int
    raw_size: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pe:
    """What boot prediction needs of an image; `signers` has the certificates of each signature.

    They are DER and keep their order in the signature, which is not always leaf first.
    """

    checksum_offset: int
    directory_offset: int
    headers_size: int
    security: tuple[int, int]
    sections: tuple[Section, ...]
    signers: tuple[tuple[bytes, ...], ...]

    @classmethod
    def decode(cls, data: bytes) -> "Pe":
        """Decode an image; raise AttestSiteError if it is not a PE image."""
        try:
            return _decode(data)
        except (struct.error, IndexError) as error:
            raise AttestSiteError("the program is a cut-off PE image") from error

    def section(self, name: str) -> bytes | None:
        """Give the data of the first section of that name."""
        return next((section.data for section in self.sections if section.name == name), None)


def _decode(data: bytes) -> Pe:
    if data[:2] != b"MZ":
        raise AttestSiteError("the program is not a PE image")
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    if data[pe : pe + 4] != b"PE\0\0":
        raise AttestSiteError("the program is not a PE image")
    count, optional_size = struct.unpack_from("<H12xH", data, pe + 6)
    optional = pe + 24
    (magic,) = struct.unpack_from("<H", data, optional)
    if magic not in (0x10B, 0x20B):
        raise AttestSiteError("the program is a PE image of an unknown kind")
    directories = optional + (96 if magic == 0x10B else 112)
    (directory_count,) = struct.unpack_from("<I", data, directories - 4)
    (headers_size,) = struct.unpack_from("<I", data, optional + 60)
    if directory_count < 5 or count > MAX_SECTIONS or headers_size > len(data):
        raise AttestSiteError("the program is a malformed PE image")
    entry = directories + 4 * 8
    security = struct.unpack_from("<II", data, entry)
    if security[0] + security[1] > len(data):
        raise AttestSiteError("the signatures of the PE image lie outside it")
    table = optional + optional_size
    symbols, symbol_count = struct.unpack_from("<II", data, pe + 12)
    names = symbols + 18 * symbol_count if symbols else len(data)
    return Pe(
        checksum_offset=optional + 64,
        directory_offset=entry,
        headers_size=headers_size,
        security=security,
        sections=tuple(_section(data, table + 40 * index, names) for index in range(count)),
        signers=_signers(data[security[0] : security[0] + security[1]]),
    )


def _section_name(data: bytes, at: int, names: int) -> str:
    """Read a name; one longer than eight bytes stands in the string table as /OFFSET."""
    raw = data[at : at + 8].rstrip(b"\0")
    if raw[:1] == b"/" and raw[1:].isdigit():
        start = names + int(raw[1:])
        raw = data[start : start + 64].split(b"\0")[0]
    return raw.decode("ascii", "replace")


def _section(data: bytes, at: int, names: int) -> Section:
    name = _section_name(data, at, names)
    virtual_size, _, raw_size, offset = struct.unpack_from("<IIII", data, at + 8)
    if offset + raw_size > len(data):
        raise AttestSiteError(f"section {name} of the PE image lies outside it")
    used = min(raw_size, virtual_size) if virtual_size else raw_size
    return Section(name=name, offset=offset, raw_size=raw_size, data=data[offset : offset + used])


def authenticode(data: bytes, hash_name: str) -> bytes:
    """Give the Authenticode digest of an image as UEFI firmware measures it.

    Left out: checksum, security directory entry, certificate table. Nothing is padded: firmware
    does not, though several tools round an unsigned file of odd length up to eight bytes.
    """
    image = Pe.decode(data)
    hasher = hashlib.new(hash_name)
    hasher.update(data[: image.checksum_offset])
    hasher.update(data[image.checksum_offset + 4 : image.directory_offset])
    hasher.update(data[image.directory_offset + 8 : image.headers_size])
    hashed = image.headers_size
    for section in sorted(image.sections, key=lambda section: section.offset):
        hasher.update(data[section.offset : section.offset + section.raw_size])
        hashed += section.raw_size
    hasher.update(data[hashed : max(hashed, len(data) - image.security[1])])
    return hasher.digest()


def der_element(data: bytes, offset: int) -> tuple[int, int, int]:
    """Give tag, start of the content and end of the DER element at `offset`."""
    tag, first = data[offset], data[offset + 1]
    start, length = offset + 2, first
    if first & 0x80:
        size = first & 0x7F
        if not 0 < size <= 4:
            raise AttestSiteError("a signature in the PE image is not DER")
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    if start + length > len(data):
        raise AttestSiteError("a signature in the PE image is cut off")
    return tag, start, start + length


def _signers(table: bytes) -> tuple[tuple[bytes, ...], ...]:
    """Read the WIN_CERTIFICATE entries, each padded to eight bytes."""
    found: list[tuple[bytes, ...]] = []
    offset = 0
    while offset + 8 <= len(table) and len(found) < MAX_SIGNATURES:
        length, _, kind = struct.unpack_from("<IHH", table, offset)
        if length < 8 or offset + length > len(table):
            raise AttestSiteError("the signature table of the PE image is malformed")
        if kind == _PKCS7:
            found.append(_certificates(table[offset + 8 : offset + length]))
        offset += (length + 7) & ~7
    return tuple(found)


def _children(data: bytes, offset: int) -> list[tuple[int, int, int, int]]:
    """List (tag, start, content start, end) of the elements inside the one at `offset`."""
    _, at, end = der_element(data, offset)
    found = []
    while at < end:
        tag, content, stop = der_element(data, at)
        found.append((tag, at, content, stop))
        at = stop
    return found


def _certificates(signed_data: bytes) -> tuple[bytes, ...]:
    """Cut the certificates out of a PKCS #7 SignedData (RFC 2315, section 9.1)."""
    outer = _children(signed_data, 0)
    if len(outer) < 2 or outer[1][0] != _CONTEXT_0:
        raise AttestSiteError("a signature in the PE image is not PKCS #7")
    for tag, at, _, _ in _children(signed_data, outer[1][2]):
        if tag == _CONTEXT_0:
            inner = _children(signed_data, at)
            return tuple(signed_data[a:e] for kind, a, _, e in inner if kind == _SEQUENCE)
    return ()
