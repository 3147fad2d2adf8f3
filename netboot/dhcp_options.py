"""DHCPv4 options as values: joined, typed, and back to bytes.

Reads what clients really send (pieces of one option, pads, bytes after END). It never guesses: an
option of the wrong size is the peer's error. RFC 2132, 3396 (long options), 3004 (77), 4578 (93,
97), 8572 (143). The box agent imports this module: standard library and `netboot.errors` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from ipaddress import IPv4Address

from netboot.errors import PeerError

_PIECE = 255
"""Most bytes that one option on the wire can hold (its length is one byte)."""


class Code(IntEnum):
    """Option codes that we read or write (IANA, BOOTP Vendor Extensions and DHCP Options)."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DNS_SERVER = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    BROADCAST = 28
    VENDOR_SPECIFIC = 43
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAX_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    SERVER_NAME = 66
    BOOT_FILE = 67
    USER_CLASS = 77
    RAPID_COMMIT = 80
    FQDN = 81
    RELAY_AGENT = 82
    ARCHITECTURE = 93
    CLIENT_UUID = 97
    SUBNET_SELECTION = 118
    SZTP_REDIRECT = 143
    IPXE = 175
    END = 255


_PAD, _END = int(Code.PAD), int(Code.END)
"""Plain integers: comparing with a member of an enum costs more than the rest of the loop."""


class MessageType(IntEnum):
    """Values of option 53 (RFC 2132, 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


_MESSAGE_TYPE = int(Code.MESSAGE_TYPE)
_TYPES = {bytes((kind,)): kind for kind in MessageType}


class Options:
    """Options in wire order, each code once with its joined bytes; ValueError on a bad code."""

    __slots__ = ("_by_code",)

    def __init__(self, *, items: Iterable[tuple[int, bytes]] = ()) -> None:
        items = tuple(items)
        self._by_code = dict(items)
        if len(self._by_code) != len(items):
            raise ValueError("an option is there twice")
        if any(not 0 < code < Code.END or code == Code.OVERLOAD for code in self._by_code):
            raise ValueError("pad, end and overload belong to one encoding, not to the options")

    @classmethod
    def _of(cls, by_code: dict[int, bytes]) -> Options:
        """Take what was decoded: its codes are right by how they were read."""
        options = cls.__new__(cls)
        options._by_code = by_code
        return options

    @property
    def items(self) -> tuple[tuple[int, bytes], ...]:
        """Give all options in order."""
        return tuple(self._by_code.items())

    @property
    def by_code(self) -> Mapping[int, bytes]:
        """Give all options by their codes."""
        return self._by_code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Options(items={self.items!r})"

    def __contains__(self, code: object) -> bool:
        return code in self._by_code

    def get(self, code: int) -> bytes | None:
        """Give an option's bytes; None when it is absent."""
        return self._by_code.get(code)

    def _sized(self, code: Code, size: int) -> bytes | None:
        data = self.get(code)
        if data is not None and len(data) != size:
            raise PeerError(f"option {code} has {len(data)} bytes, not {size}")
        return data

    def number(self, code: Code, size: int) -> int | None:
        """Read an unsigned integer of `size` bytes; PeerError when it has another size."""
        data = self._sized(code, size)
        return None if data is None else int.from_bytes(data, "big")

    def address(self, code: Code) -> IPv4Address | None:
        """Read one address; PeerError when it is not 4 bytes."""
        data = self._sized(code, 4)
        return None if data is None else IPv4Address(data)

    def addresses(self, code: Code) -> tuple[IPv4Address, ...]:
        """Read a list of addresses, empty when absent; PeerError when not a multiple of 4."""
        data = self.get(code) or b""
        if len(data) % 4:
            raise PeerError(f"option {code} is no list of addresses")
        return tuple(IPv4Address(data[at : at + 4]) for at in range(0, len(data), 4))

    def text(self, code: Code) -> str | None:
        """Read text: trailing NULs cut (Microsoft and some BMCs send them), controls as `?`."""
        data = self.get(code)
        if data is None:
            return None
        decoded = data.rstrip(b"\0").decode("ascii", "replace")
        return "".join(c if c.isascii() and c.isprintable() else "?" for c in decoded)

    @property
    def message_type(self) -> MessageType | None:
        """Option 53; None for plain BOOTP; PeerError for a type that we do not know."""
        data = self._by_code.get(_MESSAGE_TYPE)
        if data is None:
            return None
        try:
            return _TYPES[data]
        except KeyError:
            raise PeerError(f"message type {data.hex()}") from None

    @property
    def parameters(self) -> frozenset[int]:
        """Option 55 as a set; may hold 0 (older UEFI HTTP boot)."""
        return frozenset(self.get(Code.PARAMETER_LIST) or b"")

    @property
    def vendor_class(self) -> bytes:
        """Option 60, empty when absent."""
        return self.get(Code.VENDOR_CLASS) or b""

    @property
    def architectures(self) -> tuple[int, ...]:
        """Option 93, one or more 16-bit values (RFC 4578, 2.1); PeerError for an odd size."""
        data = self.get(Code.ARCHITECTURE) or b""
        if len(data) % 2:
            raise PeerError("option 93 has an odd size")
        return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))

    @property
    def user_classes(self) -> tuple[bytes, ...]:
        """Option 77, counted as in RFC 3004 or one bare string as iPXE sends it."""
        data = self.get(Code.USER_CLASS)
        if not data:
            return ()
        return _counted(data) or (data,)

    @property
    def uris(self) -> tuple[str, ...]:
        """Option 143 (RFC 8572, 8.3), empty when absent; PeerError when it is malformed."""
        return decode_uris(self.get(Code.SZTP_REDIRECT) or b"")


def _counted(data: bytes) -> tuple[bytes, ...]:
    """Read byte-counted strings; empty when the counts do not end with the data."""
    found = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if data[at] == 0 or end > len(data):
            return ()
        found.append(data[at + 1 : end])
        at = end
    return tuple(found)


def decode_uris(data: bytes) -> tuple[str, ...]:
    """Read URIs, each after its length in 2 bytes; PeerError when a length or a byte is wrong."""
    found = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if len(data) - at < 2 or end > len(data):
            raise PeerError("option 143 ends inside a URI")
        found.append(_ascii(data[at + 2 : end]))
        at = end
    return tuple(found)


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise PeerError("option 143 holds a URI that is not ASCII") from None


def encode_uris(uris: Iterable[str]) -> bytes:
    """Write URIs as option 143 holds them."""
    encoded = [uri.encode("ascii") for uri in uris]
    return b"".join(len(uri).to_bytes(2, "big") + uri for uri in encoded)


def decode_options(options: bytes, file: bytes, sname: bytes) -> tuple[Options, int]:
    """Read the options field and, where option 52 says so, `file` and `sname` too.

    Pieces of one option are joined in the order options, file, sname (RFC 3396, 5). Returns the
    options without 52, and the value of 52 (0 when absent). PeerError when an option runs past
    the end.
    """
    joined: dict[int, bytes] = {}
    _join(joined, options)
    if Code.OVERLOAD not in joined:
        return Options._of(joined), 0
    overload = _overload(joined.pop(Code.OVERLOAD))
    for bit, area in ((1, file), (2, sname)):
        if overload & bit:
            _join(joined, area)
    joined.pop(Code.OVERLOAD, None)
    return Options._of(joined), overload


def _overload(data: bytes) -> int:
    if len(data) != 1 or data[0] not in (1, 2, 3):
        raise PeerError("option 52 is none of 1, 2, 3")
    return data[0]


def _join(joined: dict[int, bytes], area: bytes) -> None:
    """Walk one options area up to END or its last byte; a code that is there already grows."""
    at, size = 0, len(area)
    while at < size:
        code = area[at]
        if code == _PAD:
            at += 1
            continue
        if code == _END:
            return
        start = at + 2
        if start > size or (at := start + area[at + 1]) > size:
            raise PeerError(f"option {code} runs past the end")
        if code in joined:
            joined[code] += area[start:at]
        else:
            joined[code] = area[start:at]


def encode_option(code: int, data: bytes) -> bytes:
    """Write one option; more than 255 bytes go out in pieces (RFC 3396)."""
    if len(data) <= _PIECE:
        return bytes((code, len(data))) + data
    pieces = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def encode_options(options: Options) -> bytes:
    """Write options with END, in their order."""
    wire = (encode_option(code, data) for code, data in options.items)
    return b"".join(wire) + bytes((Code.END,))
