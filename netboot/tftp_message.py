"""TFTP packets: requests with their options in, OACK, DATA and ERROR out.

It never keeps anything. RFC 1350; options: RFC 2347, blksize 2348, timeout and tsize 2349,
windowsize 7440.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum

from netboot.errors import PeerError

MAX_REQUEST = 512
"""Bytes of a request: RFC 2347 lets it fill one packet of the smallest size."""
DEFAULT_BLOCK = 512
MIN_BLOCK, MAX_BLOCK = 8, 65464
MAX_WINDOW = 64
MAX_IN_FLIGHT = 128 << 10
"""Bytes of a window, or it does not fit into the buffers on its way."""
MAX_TIMEOUT = 10
"""Seconds; a client that asks for more is answered as if it had not asked."""

_HEAD = struct.Struct("!HH")


class Opcode(IntEnum):
    """RFC 1350, 5, and OACK of RFC 2347."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """RFC 1350, appendix I."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    ILLEGAL = 4
    UNKNOWN_TID = 5


class Mode(Enum):
    """Octet sends bytes as they are, netascii translates line ends."""

    OCTET = b"octet"
    NETASCII = b"netascii"


Options = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A read request; `name` decoded as Latin-1, `options` in the order they came."""

    name: str
    mode: Mode
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What is agreed: `answer` for the OACK, sizes in bytes and blocks, `timeout` in seconds."""

    answer: Options
    blksize: int = DEFAULT_BLOCK
    windowsize: int = 1
    timeout: float | None = None
    asked_size: bool = False


def decode_opcode(data: bytes) -> Opcode | None:
    """Read the opcode; None when there is none that is known."""
    if len(data) < 2 or data[0] or not 1 <= data[1] <= 6:
        return None
    return Opcode(data[1])


def decode_request(data: bytes) -> ReadRequest:
    """Read a read request; PeerError, with a text for the client, when it is malformed."""
    if len(data) > MAX_REQUEST or not data.endswith(b"\0"):
        raise PeerError("malformed request")
    fields = data[2:-1].split(b"\0")
    if len(fields) < 2 or len(fields) % 2 or not fields[0]:
        raise PeerError("malformed request")
    try:
        mode = Mode(fields[1].lower())
    except ValueError:
        raise PeerError("unknown mode: ask for octet") from None
    options = tuple(zip(fields[2::2], fields[3::2], strict=True))
    return ReadRequest(name=fields[0].decode("latin-1"), mode=mode, options=options)


def accept_options(options: Options, *, size: int | None, max_block: int) -> Accepted:
    """Agree to what is sensible, in the order it was asked (T2 to T7); the first of two counts."""
    asked: dict[bytes, tuple[bytes, bytes]] = {}
    for name, text in options:
        asked.setdefault(name.lower(), (name, text))
    agreed: dict[bytes, int] = {}
    for key, (_, text) in asked.items():
        value = _agree(key, text, size=size, max_block=max_block)
        if value is not None:
            agreed[key] = value
    block = agreed.get(b"blksize", DEFAULT_BLOCK)
    if b"windowsize" in agreed:
        agreed[b"windowsize"] = min(agreed[b"windowsize"], max(1, MAX_IN_FLIGHT // block))
    return Accepted(
        answer=tuple((asked[key][0], b"%d" % value) for key, value in agreed.items()),
        blksize=block,
        windowsize=agreed.get(b"windowsize", 1),
        timeout=agreed.get(b"timeout"),
        asked_size=b"tsize" in agreed,
    )


def _agree(key: bytes, text: bytes, *, size: int | None, max_block: int) -> int | None:
    """Give the value for one option; None to leave it out of the answer."""
    if not text.isdigit() or len(text) > 20:
        return None
    value = int(text)
    if key == b"blksize" and value >= MIN_BLOCK:
        return max(MIN_BLOCK, min(value, MAX_BLOCK, max_block))
    if key == b"tsize":
        return size
    if key == b"windowsize" and value >= 1:
        return min(value, MAX_WINDOW)
    if key == b"timeout" and 1 <= value <= MAX_TIMEOUT:
        return value
    return None


def decode_ack(data: bytes) -> int | None:
    """Read the block number of an ACK; None when it is none."""
    if len(data) < 4:
        return None
    opcode, number = _HEAD.unpack_from(data)
    return int(number) if opcode == Opcode.ACK else None


def encode_ack(number: int) -> bytes:
    """Write an ACK; block numbers wrap to 0."""
    return _HEAD.pack(Opcode.ACK, number & 0xFFFF)


def encode_data(number: int, data: bytes) -> bytes:
    """Write a DATA packet; block numbers wrap to 0 (T8)."""
    return _HEAD.pack(Opcode.DATA, number & 0xFFFF) + data


def encode_error(code: ErrorCode, text: str) -> bytes:
    """Write an ERROR packet."""
    return _HEAD.pack(Opcode.ERROR, code) + text.encode("ascii", "replace") + b"\0"


def encode_oack(options: Options) -> bytes:
    """Write an OACK."""
    fields = [field for option in options for field in option]
    return struct.pack("!H", Opcode.OACK) + b"".join(field + b"\0" for field in fields)
