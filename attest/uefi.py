"""Typed UEFI data as it stands in event logs: variables, signature lists, device paths.

It decodes and encodes; it never judges a key or a path. A device path comes from event data that no
digest covers: it is a hint for a person, not a fact.
UEFI 2.10, sections 32.4.1 (signature lists) and 10.3 (device paths);
TCG PFP 1.06, 10.2.6 and 10.2.3.
"""

import struct
from codecs import utf_16_le_decode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple
from uuid import UUID

from attest.errors import EvidenceError

EFI_GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SHIM_LOCK = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
CERT_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")

MAX_SIGNATURES = 16384

_MAX_NODES = 64
_RECORD = struct.Struct("<16sQQ")


@lru_cache(maxsize=256)
def _guid(raw: bytes) -> UUID:
    """Read a GUID; the same few stand in every log."""
    return UUID(bytes_le=raw)


class Variable(NamedTuple):
    """A UEFI_VARIABLE_DATA record: the name without NUL and the content."""

    guid: UUID
    name: str
    data: bytes

    @classmethod
    def decode(cls, data: bytes) -> "Variable":
        """Decode a record that fills `data`; raise EvidenceError otherwise."""
        variable, size = cls.decode_beginning(data)
        if size != len(data):
            raise EvidenceError("a UEFI variable record has a wrong size")
        return variable

    @classmethod
    def decode_beginning(cls, data: bytes) -> tuple["Variable", int]:
        """Decode a record with whatever behind it, as older shims measure; give its size too."""
        if len(data) < 32:
            raise EvidenceError("a UEFI variable record is cut off")
        guid, name_length, data_length = _RECORD.unpack_from(data)
        start = 32 + 2 * name_length
        end = start + data_length
        if end > len(data):
            raise EvidenceError("a UEFI variable record has a wrong size")
        try:
            name, _ = utf_16_le_decode(data[32:start], "strict", True)
        except UnicodeDecodeError as error:
            raise EvidenceError("a UEFI variable name is not UTF-16") from error
        return cls(_guid(guid), name, data[start:end]), end

    def encode(self) -> bytes:
        """Give the record as firmware hashes it."""
        name = self.name.encode("utf-16-le")
        head = self.guid.bytes_le + struct.pack("<QQ", len(name) // 2, len(self.data))
        return head + name + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One EFI_SIGNATURE_DATA with the type of the list it stands in."""

    type: UUID
    owner: UUID
    data: bytes

    def encode(self) -> bytes:
        """Give the EFI_SIGNATURE_DATA alone."""
        return self.owner.bytes_le + self.data

    def encode_list(self) -> bytes:
        """Give a list that holds this signature alone."""
        body = self.encode()
        return self.type.bytes_le + struct.pack("<III", 28 + len(body), 0, len(body)) + body


def decode_signatures(data: bytes) -> tuple[Signature, ...]:
    """Decode the EFI_SIGNATURE_LISTs of a key database; raise EvidenceError."""
    found: list[Signature] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < 28:
            raise EvidenceError("a signature list is cut off")
        list_size, header_size, size = struct.unpack_from("<III", data, offset + 16)
        body = list_size - 28 - header_size
        if list_size > len(data) - offset or size < 16 or body < 0 or body % size:
            raise EvidenceError("a signature list has a wrong size")
        kind = _guid(data[offset : offset + 16])
        start = offset + 28 + header_size
        if len(found) + body // size > MAX_SIGNATURES:
            raise EvidenceError(f"a key database holds more than {MAX_SIGNATURES} entries")
        for at in range(start, start + body, size):
            owner = _guid(data[at : at + 16])
            found.append(Signature(type=kind, owner=owner, data=data[at + 16 : at + size]))
        offset += list_size
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLoad:
    """A UEFI_IMAGE_LOAD_EVENT; only its device path says something to a person."""

    address: int
    size: int
    link_time_address: int
    path: bytes

    @classmethod
    def decode(cls, data: bytes) -> "ImageLoad":
        """Decode the record; raise EvidenceError."""
        if len(data) < 32:
            raise EvidenceError("an image load record is cut off")
        address, size, link, length = struct.unpack_from("<QQQQ", data)
        # Older shims leave bytes behind the path (seen on RHEL 8); nothing hangs on this record.
        if length > len(data) - 32:
            raise EvidenceError("an image load record has a wrong size")
        path = data[32 : 32 + length]
        return cls(address=address, size=size, link_time_address=link, path=path)


def _nodes(path: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    for _ in range(_MAX_NODES):
        if offset == len(path):
            return
        if len(path) - offset < 4:
            raise EvidenceError("a device path is cut off")
        kind, subtype, length = struct.unpack_from("<BBH", path, offset)
        if length < 4 or length > len(path) - offset:
            raise EvidenceError("a device path node has a wrong size")
        if kind == 0x7F and subtype == 0xFF:
            return
        yield kind, subtype, path[offset + 4 : offset + length]
        offset += length
    raise EvidenceError("a device path has too many nodes")


def _utf16(body: bytes) -> str:
    text = body[: len(body) & ~1].decode("utf-16-le", "replace").split("\0")[0]
    return "".join(char if char.isprintable() else "?" for char in text)


def _fixed(name: str, form: str, body: bytes) -> str:
    size = struct.calcsize(form)
    if len(body) < size:
        raise EvidenceError(f"a {name} node of a device path is cut off")
    return f"{name}({','.join(f'0x{value:x}' for value in struct.unpack_from(form, body))})"


# Node names and leading integer fields of UEFI 2.10, 10.3.2 to 10.3.5; the others read as numbers.
_FIXED_NODES = {
    (1, 1): ("Pci", "<xB"),
    (2, 1): ("Acpi", "<II"),
    (3, 2): ("Scsi", "<HH"),
    (3, 5): ("Usb", "<BB"),
    (3, 17): ("Lun", "<B"),
    (3, 18): ("Sata", "<HHH"),
    (3, 23): ("NVMe", "<I"),
    (4, 1): ("HD", "<I"),
    (4, 2): ("CDROM", "<I"),
    (4, 9): ("RamDisk", "<QQ"),
}


def _node_text(kind: int, subtype: int, body: bytes) -> str:
    if (kind, subtype) == (1, 1) and len(body) >= 2:
        return f"Pci(0x{body[1]:x},0x{body[0]:x})"
    if fixed := _FIXED_NODES.get((kind, subtype)):
        return _fixed(*fixed, body)
    match (kind, subtype):
        case (3, 11):
            return f"MAC({body[:6].hex(':')})"
        case (3, 12) if len(body) >= 4:
            return f"IPv4({IPv4Address(body[4:8])})" if len(body) >= 8 else "IPv4()"
        case (3, 13):
            return "IPv6()"
        case (3, 24):
            printable = "".join(
                chr(byte) if 32 <= byte < 127 else "?" for byte in body.rstrip(b"\0")
            )
            return f"Uri({printable})"
        case (4, 4):
            return f"File({_utf16(body)})"
        case (4, 6 | 7) if len(body) >= 16:
            return f"{'FvFile' if subtype == 6 else 'Fv'}({_guid(body[:16])})"
    return f"Path({kind},{subtype})"


def device_path_text(path: bytes) -> str:
    """Give a device path in the manner of UEFI 10.6, for a person; raise EvidenceError."""
    return "/".join(_node_text(*node) for node in _nodes(path))
