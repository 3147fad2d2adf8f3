"""A DHCPv4 message byte by byte: each field and option with its place, name and meaning.

For a person to read; a message that cannot be read to its end gives the rest as one field, and
never an error. RFC 2131, 2; RFC 2132, 9.3 (options in `file` and `sname`); RFC 3396.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.dhcp_options import Code, MessageType
from netboot.option_words import name_of, words

_FIXED = (
    ("op", 1),
    ("htype", 1),
    ("hlen", 1),
    ("hops", 1),
    ("xid", 4),
    ("secs", 2),
    ("flags", 2),
    ("ciaddr", 4),
    ("yiaddr", 4),
    ("siaddr", 4),
    ("giaddr", 4),
    ("chaddr", 16),
    ("sname", 64),
    ("file", 128),
    ("cookie", 4),
)
_OPTIONS_AT = 240
_PLACES = {"sname": (44, 64), "file": (108, 128)}
_WIDTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A piece of the message: `at` is its offset in bytes, `words` what it says."""

    at: int
    data: bytes
    name: str
    words: str


def dissect(data: bytes) -> tuple[Field, ...]:
    """Give every field of a message in the order of its bytes; together they are all of it."""
    if len(data) < _OPTIONS_AT:
        return (Field(at=0, data=data, name="cut", words="shorter than a DHCP message"),)
    options = tuple(_options(data, _OPTIONS_AT, len(data)))
    overload = next((one.data[-1] for one in options if one.name.startswith("52 ")), 0)
    found: list[Field] = []
    at = 0
    for name, size in _FIXED:
        if (name == "file" and overload & 1) or (name == "sname" and overload & 2):
            found += _options(data, at, at + size)
        else:
            piece = data[at : at + size]
            found.append(Field(at=at, data=piece, name=name, words=_fixed(name, piece, data)))
        at += size
    return (*found, *options)


def _fixed(name: str, piece: bytes, data: bytes) -> str:
    number = int.from_bytes(piece, "big")
    if name == "op":
        return {1: "request", 2: "reply"}.get(number, "neither request nor reply")
    if name == "flags":
        return "broadcast" if number & 0x8000 else "unicast"
    if name.endswith("iaddr"):
        return str(IPv4Address(piece))
    if name == "chaddr":
        return piece[: min(data[2], 16)].hex(":")
    if name in _PLACES:
        text = piece.partition(b"\0")[0].decode("ascii", "backslashreplace")
        return f'"{text}"' if text else "empty"
    if name == "cookie":
        return "DHCP" if piece == b"\x63\x82\x53\x63" else "no DHCP message"
    return {"htype": "Ethernet" if number == 1 else str(number)}.get(name, str(number))


def _options(data: bytes, at: int, end: int) -> Iterator[Field]:
    while at < end:
        code = data[at]
        if code == Code.END:
            yield Field(at=at, data=data[at : at + 1], name="255 end", words="")
            at += 1
            break
        if code == Code.PAD:
            size = end - at - len(data[at:end].lstrip(b"\0"))
            yield Field(at=at, data=data[at : at + size], name="padding", words="")
            at += size
            continue
        after = at + 2 + data[at + 1] if at + 1 < end else end + 1
        if after > end:
            break
        value = data[at + 2 : after]
        name = f"{code} {name_of(code)}"
        yield Field(at=at, data=data[at:after], name=name, words=_option(code, value))
        at = after
    if at < end:
        name = "padding" if not any(data[at:end]) else "cannot be read"
        yield Field(at=at, data=data[at:end], name=name, words="")


def _option(code: int, value: bytes) -> str:
    said = words(code, value)
    if code == Code.MESSAGE_TYPE and len(value) == 1:
        known = {kind.value: kind.name for kind in MessageType}
        return f"{said} ({known.get(value[0], 'unknown')})"
    return said


def dump(data: bytes) -> tuple[str, ...]:
    """Write a message as lines: offset, bytes, and beside the first of them the field's meaning."""
    return tuple(line for field in dissect(data) for line in _lines(field))


def _lines(field: Field) -> Iterator[str]:
    data, meaning = field.data, f"{field.name}: {field.words}" if field.words else field.name
    shown = data if any(data) or len(data) <= _WIDTH else data[:_WIDTH]
    for start in range(0, max(len(shown), 1), _WIDTH):
        piece = shown[start : start + _WIDTH]
        yield f"{field.at + start:04x}  {piece.hex(' '):<47}  {meaning}".rstrip()
        meaning = ""
    if len(shown) < len(data):
        yield f"      … {len(data)} bytes of 00"
