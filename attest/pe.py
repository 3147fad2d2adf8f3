"""PE images of boot programs: sections, Authenticode digest, certificates of the signatures.

It checks no signature: shim, GRUB and firmware do that, here it is only foretold what they measure.
An image that firmware and signing tools could read in two ways is refused, so that there is one
digest. Windows Authenticode PE Signature Format 1.0; UEFI 2.10, 32.4.1 and 32.5 (digest of an
image); Microsoft PE format, revision 11.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from attest.errors import AttestSiteError
from attest.pesign import Signature, decode_signatures

MAX_SECTIONS = 96

_MAX_DIRECTORIES = 16
_MAX_NAME = 64
_SECURITY = 4
_PE32, _PE32_PLUS = 0x10B, 0x20B
_ARCHITECTURES = {
    0x014C: "i386",
    0x01C0: "arm",
    0x01C2: "arm",
    0x01C4: "arm",
    0x5064: "riscv64",
    0x6264: "loongarch64",
    0x8664: "amd64",
    0xAA64: "arm64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section: its raw bytes in the file, cut to its virtual size where that is smaller."""

    name: str
    offset: int
    raw_size: int
    address: int
    virtual_size: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pe:
    """What boot prediction needs of an image; `directory_offset` is None without the entry."""

    machine: int
    checksum_offset: int
    directory_offset: int | None
    headers_size: int
    security: tuple[int, int]
    sections: tuple[Section, ...]
    signatures: tuple[Signature, ...]

    @classmethod
    def decode(cls, data: bytes) -> "Pe":
        """Decode an image; raise AttestSiteError if it is not a PE image."""
        try:
            return _decode(data)
        except (struct.error, IndexError) as error:
            raise AttestSiteError("the program is a cut-off PE image") from error

    @property
    def architecture(self) -> str:
        """Name the processor as Debian does, or its number in hexadecimal."""
        return _ARCHITECTURES.get(self.machine, f"0x{self.machine:04x}")

    @property
    def signers(self) -> tuple[tuple[bytes, ...], ...]:
        """Give the certificates (DER) of each signature."""
        return tuple(signature.certificates for signature in self.signatures)

    def section(self, name: str) -> bytes | None:
        """Give the data of the first section of that name."""
        return next((section.data for section in self.sections if section.name == name), None)


def _decode(data: bytes) -> Pe:
    if data[:2] != b"MZ":
        raise AttestSiteError("the program is not a PE image")
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    if data[pe : pe + 4] != b"PE\0\0":
        raise AttestSiteError("the program is not a PE image")
    machine, count = struct.unpack_from("<HH", data, pe + 4)
    (optional_size,) = struct.unpack_from("<H", data, pe + 20)
    optional = pe + 24
    (magic,) = struct.unpack_from("<H", data, optional)
    if magic not in (_PE32, _PE32_PLUS):
        raise AttestSiteError("the program is a PE image of an unknown kind")
    directories = optional + (96 if magic == _PE32 else 112)
    (directory_count,) = struct.unpack_from("<I", data, directories - 4)
    (headers_size,) = struct.unpack_from("<I", data, optional + 60)
    table = optional + optional_size
    # Firmware refuses such a header too (EDK II, PeCoffLoaderGetPeHeader).
    if directory_count > _MAX_DIRECTORIES or table != directories + 8 * directory_count:
        raise AttestSiteError("the program is a malformed PE image: its directories")
    if count > MAX_SECTIONS or headers_size > len(data) or headers_size < table + 40 * count:
        raise AttestSiteError("the program is a malformed PE image: its headers")
    entry = directories + 8 * _SECURITY if directory_count > _SECURITY else None
    security = _security(data, entry)
    symbols, symbol_count = struct.unpack_from("<II", data, pe + 12)
    names = symbols + 18 * symbol_count if symbols else len(data)
    # The layout is checked before anything is cut out: each section may claim the whole file.
    spans = [struct.unpack_from("<II", data, table + 40 * index + 16) for index in range(count)]
    _check_layout(spans, headers_size, len(data) - security[1])
    sections = tuple(_section(data, table + 40 * index, names) for index in range(count))
    return Pe(
        machine=machine,
        checksum_offset=optional + 64,
        directory_offset=entry,
        headers_size=headers_size,
        security=security,
        sections=sections,
        signatures=decode_signatures(data[len(data) - security[1] :]),
    )


def _security(data: bytes, entry: int | None) -> tuple[int, int]:
    """Read where the certificate table lies: at the end, else tools and firmware would differ."""
    if entry is None:
        return 0, 0
    offset, size = struct.unpack_from("<II", data, entry)
    if size and offset + size != len(data):
        raise AttestSiteError("the signatures of the PE image are not at its end")
    return offset, size


def _check_layout(spans: Iterable[tuple[int, int]], headers_size: int, end: int) -> None:
    """Refuse bytes that would be hashed twice, or as content and as signature.

    Each span is size and offset of a section's raw data.
    """
    used = sorted((offset, offset + size) for size, offset in spans if size)
    if max(used, default=(0, 0))[1] > end:
        raise AttestSiteError("a section of the PE image lies outside it")
    for (_, before), (start, _) in pairwise([(0, headers_size), *used]):
        if start < before:
            raise AttestSiteError("the program is a malformed PE image: its sections overlap")


def _section_name(data: bytes, at: int, names: int) -> str:
    """Read a name; one longer than eight bytes stands in the string table as /OFFSET."""
    raw = data[at : at + 8].rstrip(b"\0")
    if raw[:1] == b"/" and raw[1:].isdigit():
        start = names + int(raw[1:])
        raw = data[start : start + _MAX_NAME].split(b"\0")[0]
    return raw.decode("ascii", "replace")


def _section(data: bytes, at: int, names: int) -> Section:
    name = _section_name(data, at, names)
    virtual_size, address, raw_size, offset = struct.unpack_from("<IIII", data, at + 8)
    used = min(raw_size, virtual_size) if virtual_size else raw_size
    return Section(
        name=name,
        offset=offset,
        raw_size=raw_size,
        address=address,
        virtual_size=virtual_size,
        data=data[offset : offset + used],
    )


def authenticode(data: bytes, hash_name: str) -> bytes:
    """Give the Authenticode digest of an image as UEFI firmware measures it.

    Left out: checksum, security directory entry, certificate table. Nothing is padded: firmware
    does not, though several tools round an unsigned file of odd length up to eight bytes.
    """
    return image_digests(data, Pe.decode(data), (hash_name,))[hash_name]


def image_digests(data: bytes, image: Pe, hash_names: Iterable[str]) -> dict[str, bytes]:
    """Give the Authenticode digests of an image that was decoded from `data`."""
    hashers = {name: hashlib.new(name) for name in hash_names}
    for part in _hashed(memoryview(data), image):
        for hasher in hashers.values():
            hasher.update(part)
    return {name: hasher.digest() for name, hasher in hashers.items()}


def _hashed(data: memoryview, image: Pe) -> Iterator[memoryview]:
    """Give the parts of an image in the order in which firmware hashes them."""
    yield data[: image.checksum_offset]
    after = image.checksum_offset + 4
    if image.directory_offset is not None:
        yield data[after : image.directory_offset]
        after = image.directory_offset + 8
    yield data[after : image.headers_size]
    hashed = image.headers_size
    for section in sorted(image.sections, key=lambda section: section.offset):
        yield data[section.offset : section.offset + section.raw_size]
        hashed += section.raw_size
    yield data[hashed : len(data) - image.security[1]]
