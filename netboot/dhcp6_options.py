"""DHCPv6 options as values: typed, and back to bytes.

It never guesses: an option of the wrong size is the peer's error. Options are not joined, each
stands for itself (RFC 8415, 21). RFC 8415; 3646 (23, 24), 4704 (39), 5970 (59 to 62), 6355 (DUID
of a UUID), 6939 (79), 4994 (43).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address

from netboot.errors import PeerError

_HEADER = struct.Struct("!HH")
_IA = struct.Struct("!III")
_ADDRESS = struct.Struct("!16sII")
_ETHERNET = 1
_LONGEST_DUID = 130
"""Type and at most 128 bytes (RFC 8415, 11.1)."""
_MAX_NAME = 255


class Code6(IntEnum):
    """Option codes that we read or write (IANA, Dynamic Host Configuration Protocol for IPv6)."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_TA = 4
    IA_ADDRESS = 5
    OPTION_REQUEST = 6
    PREFERENCE = 7
    ELAPSED_TIME = 8
    RELAY_MESSAGE = 9
    UNICAST = 12
    STATUS = 13
    RAPID_COMMIT = 14
    USER_CLASS = 15
    VENDOR_CLASS = 16
    INTERFACE_ID = 18
    DNS_SERVERS = 23
    DOMAIN_LIST = 24
    IA_PD = 25
    REFRESH_TIME = 32
    REMOTE_ID = 37
    CLIENT_FQDN = 39
    ECHO_REQUEST = 43
    BOOT_URL = 59
    BOOT_PARAMETERS = 60
    ARCHITECTURE = 61
    NETWORK_INTERFACE = 62
    LINK_LAYER_ADDRESS = 79
    SOL_MAX_RT = 82
    INF_MAX_RT = 83
    RELAY_PORT = 135


class StatusCode(IntEnum):
    """Values of option 13 (RFC 8415, 21.13)."""

    SUCCESS = 0
    UNSPECIFIED_FAILURE = 1
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX = 6


class DuidType(IntEnum):
    """Kinds of DUID (RFC 8415, 11; RFC 6355)."""

    LINK_LAYER_TIME = 1
    ENTERPRISE = 2
    LINK_LAYER = 3
    UUID = 4


class Options6:
    """Options in wire order; a code may be there more than once. Nobody changes them."""

    __slots__ = ("items", "_by_code")

    def __init__(self, *, items: tuple[tuple[int, bytes], ...] = ()) -> None:
        self.items = items
        self._by_code: dict[int, tuple[bytes, ...]] = {}
        for code, data in items:
            before = self._by_code.get(code)
            self._by_code[code] = (data,) if before is None else (*before, data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options6) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Options6(items={self.items!r})"

    def all(self, code: int) -> tuple[bytes, ...]:
        """Give the bytes of every option of this code."""
        return self._by_code.get(code, ())

    def get(self, code: int) -> bytes | None:
        """Give an option's bytes; None when it is absent, PeerError when it is there twice."""
        found = self._by_code.get(code)
        if found is None:
            return None
        if len(found) > 1:
            raise PeerError(f"option {code} is there {len(found)} times")
        return found[0]

    def number(self, code: Code6, size: int) -> int | None:
        """Read an unsigned integer of `size` bytes; PeerError when it has another size."""
        data = self.get(code)
        if data is not None and len(data) != size:
            raise PeerError(f"option {code} has {len(data)} bytes, not {size}")
        return None if data is None else int.from_bytes(data, "big")

    def numbers(self, code: Code6) -> tuple[int, ...]:
        """Read 16-bit numbers, empty when absent; PeerError for an odd size."""
        data = self.get(code) or b""
        if len(data) % 2:
            raise PeerError(f"option {code} has an odd size")
        return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))

    @property
    def client_id(self) -> bytes | None:
        """The client's DUID; PeerError when it cannot be one."""
        data = self.get(Code6.CLIENT_ID)
        if data is not None and not 3 <= len(data) <= _LONGEST_DUID:
            raise PeerError(f"a DUID of {len(data)} bytes")
        return data

    @property
    def requested(self) -> frozenset[int]:
        """The codes that the client asks for (21.7)."""
        return frozenset(self.numbers(Code6.OPTION_REQUEST))

    @property
    def architectures(self) -> tuple[int, ...]:
        """Processor architectures, numbered as in option 93 of DHCPv4 (RFC 5970, 3.3)."""
        return self.numbers(Code6.ARCHITECTURE)

    @property
    def vendor_classes(self) -> tuple[VendorClass, ...]:
        """Option 16, one for each enterprise; PeerError when it is malformed."""
        return tuple(VendorClass.decode(data) for data in self.all(Code6.VENDOR_CLASS))

    @property
    def user_classes(self) -> tuple[bytes, ...]:
        """Option 15; PeerError when it is malformed."""
        return decode_counted(self.get(Code6.USER_CLASS) or b"")

    @property
    def host_name(self) -> str | None:
        """The name of option 39, without a final dot; PeerError when it is malformed."""
        data = self.get(Code6.CLIENT_FQDN)
        if not data:
            return None
        names = decode_names(data[1:], is_partial=True)
        return names[0] if names else None

    @property
    def associations(self) -> tuple[Association, ...]:
        """The IAs for addresses (21.4); PeerError when one is malformed, or an IAID is twice."""
        found = tuple(Association.decode(data) for data in self.all(Code6.IA_NA))
        if len({one.iaid for one in found}) != len(found):
            raise PeerError("an IAID is there twice")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Option 13: what became of a message, an IA or an address."""

    code: int
    text: str = ""

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Read one; PeerError when it is too short or no UTF-8."""
        if len(data) < 2:
            raise PeerError("a status of less than 2 bytes")
        try:
            text = data[2:].decode()
        except UnicodeDecodeError:
            raise PeerError("a status text that is not UTF-8") from None
        return cls(code=int.from_bytes(data[:2], "big"), text=text)

    def encode(self) -> bytes:
        """Write it."""
        return self.code.to_bytes(2, "big") + self.text.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """Option 5: an address with its lifetimes in seconds; `status` None is success."""

    address: IPv6Address
    preferred: int
    valid: int
    status: Status | None = None

    @classmethod
    def decode(cls, data: bytes) -> Lent:
        """Read one; PeerError when it is malformed."""
        if len(data) < _ADDRESS.size:
            raise PeerError(f"an address option of {len(data)} bytes")
        address, preferred, valid = _ADDRESS.unpack_from(data)
        return cls(
            address=IPv6Address(address),
            preferred=preferred,
            valid=valid,
            status=_status(decode_options(data[_ADDRESS.size :])),
        )

    def encode(self) -> bytes:
        """Write it."""
        head = _ADDRESS.pack(self.address.packed, self.preferred, self.valid)
        return head + encode_options(_status_items(self.status))


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """Option 3: an IA for addresses; T1 and T2 in seconds."""

    iaid: int
    t1: int = 0
    t2: int = 0
    addresses: tuple[Lent, ...] = ()
    status: Status | None = None

    @classmethod
    def decode(cls, data: bytes) -> Association:
        """Read one; PeerError when it is malformed."""
        if len(data) < _IA.size:
            raise PeerError(f"an IA of {len(data)} bytes")
        iaid, t1, t2 = _IA.unpack_from(data)
        options = decode_options(data[_IA.size :])
        return cls(
            iaid=iaid,
            t1=t1,
            t2=t2,
            addresses=tuple(Lent.decode(one) for one in options.all(Code6.IA_ADDRESS)),
            status=_status(options),
        )

    def encode(self) -> bytes:
        """Write it."""
        items = [(int(Code6.IA_ADDRESS), one.encode()) for one in self.addresses]
        head = _IA.pack(self.iaid, self.t1, self.t2)
        return head + encode_options((*items, *_status_items(self.status)))


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorClass:
    """Option 16: an enterprise number and what it calls the client (21.16)."""

    enterprise: int
    classes: tuple[bytes, ...]

    @classmethod
    def decode(cls, data: bytes) -> VendorClass:
        """Read one; PeerError when it is malformed."""
        if len(data) < 4:
            raise PeerError("a vendor class without an enterprise number")
        return cls(enterprise=int.from_bytes(data[:4], "big"), classes=decode_counted(data[4:]))

    def encode(self) -> bytes:
        """Write it."""
        return self.enterprise.to_bytes(4, "big") + encode_counted(self.classes)


def _status(options: Options6) -> Status | None:
    data = options.get(Code6.STATUS)
    return None if data is None else Status.decode(data)


def _status_items(status: Status | None) -> tuple[tuple[int, bytes], ...]:
    return () if status is None else ((Code6.STATUS, status.encode()),)


def decode_options(data: bytes) -> Options6:
    """Read an options area; PeerError when an option runs past the end."""
    return Options6(items=tuple(_pieces(data)))


def _pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        if at + _HEADER.size > len(data):
            raise PeerError("an option ends inside its header")
        code, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if at + length > len(data):
            raise PeerError(f"option {code} runs past the end")
        yield code, data[at : at + length]
        at += length


def encode_options(items: Iterable[tuple[int, bytes]]) -> bytes:
    """Write options in their order; ValueError when one is longer than 65,535 bytes."""
    wire = bytearray()
    for code, data in items:
        if len(data) > 0xFFFF:
            raise ValueError(f"option {code} has {len(data)} bytes")
        wire += _HEADER.pack(code, len(data)) + data
    return bytes(wire)


def decode_counted(data: bytes) -> tuple[bytes, ...]:
    """Read strings, each after its length in 2 bytes; PeerError when a length is wrong."""
    found = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if len(data) - at < 2 or end > len(data):
            raise PeerError("a class runs past its option")
        found.append(data[at + 2 : end])
        at = end
    return tuple(found)


def encode_counted(strings: Iterable[bytes]) -> bytes:
    """Write strings, each after its length in 2 bytes."""
    return b"".join(len(one).to_bytes(2, "big") + one for one in strings)


def decode_names(data: bytes, *, is_partial: bool = False) -> tuple[str, ...]:
    """Read DNS names, never compressed (RFC 8415, 10); PeerError otherwise.

    `is_partial` takes a last name without its root label too (RFC 4704, 4.2). Unprintable bytes
    become `?`.
    """
    names, labels, at, size = [], [], 0, 0
    while at < len(data):
        length = data[at]
        size += 1 + length
        if length > 63 or at + 1 + length > len(data) or size > _MAX_NAME:
            raise PeerError("a DNS name is malformed")
        if length:
            labels.append(_label(data[at + 1 : at + 1 + length]))
        else:
            names.append(".".join(labels))
            labels, size = [], 0
        at += 1 + length
    if labels and not is_partial:
        raise PeerError("a DNS name has no end")
    return tuple(names + ([".".join(labels)] if labels else []))


def _label(data: bytes) -> str:
    text = data.decode("ascii", "replace")
    return "".join(c if c.isascii() and c.isprintable() and c != "." else "?" for c in text)


def encode_names(names: Iterable[str]) -> bytes:
    """Write DNS names as options 24 and 39 hold them; ValueError for one that does not fit."""
    wire = bytearray()
    for name in names:
        labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
        encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
        if not all(0 < len(label) < 64 for label in labels) or len(encoded) > _MAX_NAME:
            raise ValueError(f"name {name!r} does not fit into DNS")
        wire += encoded
    return bytes(wire)


def duid_mac(duid: bytes) -> bytes | None:
    """Read the Ethernet address in a DUID-LLT or DUID-LL; None for every other DUID."""
    kind, hardware = duid[:2], duid[2:4]
    if hardware != _ETHERNET.to_bytes(2, "big"):
        return None
    if kind == DuidType.LINK_LAYER_TIME.to_bytes(2, "big") and len(duid) == 14:
        return duid[8:]
    if kind == DuidType.LINK_LAYER.to_bytes(2, "big") and len(duid) == 10:
        return duid[4:]
    return None


def duid_uuid(duid: bytes) -> bytes | None:
    """Read the UUID of a DUID-UUID, 16 bytes as they came; None for every other DUID."""
    is_one = duid[:2] == DuidType.UUID.to_bytes(2, "big") and len(duid) == 18
    return duid[2:] if is_one and any(duid[2:]) else None


def swapped_uuid(uuid: bytes) -> bytes:
    """Turn a UUID of 16 bytes from SMBIOS's byte order to RFC 4122's, or back."""
    return uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]


def uuid_duid(uuid: bytes) -> bytes:
    """Make the DUID of a UUID of 16 bytes (RFC 6355)."""
    return DuidType.UUID.to_bytes(2, "big") + uuid
