"""DHCPv4 options in words, for a person: what an option's name is and what its bytes mean.

Bytes that are not of their option's kind are shown as hex; nothing here is ever an error. RFC 2132,
3004 (77), 3361 (120), 3397 (119), 3442 (121), 3925 (125), 8572 (143).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address

from netboot.dhcp_options import decode_uris
from netboot.errors import PeerError
from netboot.option_codes import KINDS, NAMES, Kind

_SIZES = {Kind.UINT8: 1, Kind.UINT16: 2, Kind.UINT32: 4, Kind.UINT8S: 1, Kind.UINT16S: 2}


def name_of(code: int) -> str:
    """Name an option as its operator would."""
    return NAMES.get(code, f"option-{code}")


def words(code: int, data: bytes) -> str:
    """Say what an option's bytes mean; as hex where they are not of its kind."""
    kinds = KINDS.get(code)
    try:
        said = _text_or_hex(data) if kinds is None else ", ".join(_decode_fields(kinds, data))
    except (ValueError, IndexError, PeerError):
        return _hex(data)
    return said if said.isprintable() else _hex(data)  # a client chose some of these bytes


def _decode_fields(kinds: tuple[Kind, ...], data: bytes) -> Iterator[str]:
    for kind in kinds[:-1]:
        size = 4 if kind is Kind.ADDRESS else 1
        if len(data) < size:
            raise ValueError("too short")
        yield _DECODERS[kind](data[:size])
        data = data[size:]
    yield _DECODERS[kinds[-1]](data)


def _hex(data: bytes) -> str:
    return f"hex:{data.hex()}"


def _text_or_hex(data: bytes) -> str:
    text = data.rstrip(b"\0")
    if text and all(0x20 <= byte < 0x7F for byte in text):
        return f'"{text.decode()}"'
    return _hex(data)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    if not data or len(data) % size:
        raise ValueError("not a multiple")
    return (data[at : at + size] for at in range(0, len(data), size))


def _address_text(data: bytes) -> str:
    return ", ".join(str(IPv4Address(piece)) for piece in _pieces(data, 4))


def _number_text(size: int) -> Callable[[bytes], str]:
    return lambda data: ", ".join(str(int.from_bytes(one, "big")) for one in _pieces(data, size))


def _int_text(data: bytes) -> str:
    return ", ".join(str(int.from_bytes(one, "big", signed=True)) for one in _pieces(data, 4))


def _bool_text(data: bytes) -> str:
    return {b"\0": "false", b"\1": "true"}.get(data) or _hex(data)


def _names_text(data: bytes) -> str:
    """Read names without compression; a pointer is a length above 63 here, and shown as hex."""
    names, labels, at = [], [], 0
    while at < len(data):
        length = data[at]
        if length > 63 or at + 1 + length > len(data):
            raise ValueError("a pointer, or cut")
        if length:
            labels.append(data[at + 1 : at + 1 + length].decode("ascii"))
        else:
            names.append(".".join(labels) or ".")
            labels = []
        at += 1 + length
    if labels or not names:
        raise ValueError("cut")
    return ", ".join(names)


def _routes_text(data: bytes) -> str:
    routes, at = [], 0
    while at < len(data):
        prefix = data[at]
        size = (prefix + 7) // 8
        end = at + 1 + size + 4
        if prefix > 32 or end > len(data):
            raise ValueError("cut")
        network = data[at + 1 : at + 1 + size].ljust(4, b"\0")
        routes.append(f"{IPv4Address(network)}/{prefix} via {IPv4Address(data[end - 4 : end])}")
        at = end
    return ", ".join(routes)


def _uris_text(data: bytes) -> str:
    return ", ".join(decode_uris(data))


def _sip_text(data: bytes) -> str:
    return _address_text(data[1:]) if data[0] == 1 else _names_text(data[1:])


def _suboptions_text(data: bytes) -> str:
    told, at = [], 0
    while at < len(data) and data[at] != 255:
        if not data[at]:
            at += 1
            continue
        end = at + 2 + data[at + 1]
        if end > len(data):
            raise ValueError("cut")
        told.append(f"{data[at]} = {_text_or_hex(data[at + 2 : end])}")
        at = end
    return "; ".join(told)


def _vendors_text(data: bytes) -> str:
    told, at = [], 0
    while at < len(data):
        end = at + 5 + data[at + 4]
        if end > len(data):
            raise ValueError("cut")
        enterprise = int.from_bytes(data[at : at + 4], "big")
        told.append(f"enterprise {enterprise}: {_suboptions_text(data[at + 5 : end])}")
        at = end
    return "; ".join(told)


def _vendor_classes_text(data: bytes) -> str:
    told, at = [], 0
    while at < len(data):
        end = at + 5 + data[at + 4]
        if end > len(data):
            raise ValueError("cut")
        enterprise = int.from_bytes(data[at : at + 4], "big")
        told.append(f"enterprise {enterprise}: {_text_or_hex(data[at + 5 : end])}")
        at = end
    return "; ".join(told)


def _classes_text(data: bytes) -> str:
    told, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        if not data[at] or end > len(data):
            return _text_or_hex(data)
        told.append(_text_or_hex(data[at + 1 : end]))
        at = end
    return ", ".join(told)


_DECODERS: Mapping[Kind, Callable[[bytes], str]] = {
    **{kind: _number_text(size) for kind, size in _SIZES.items()},
    Kind.ADDRESS: _address_text,
    Kind.ADDRESSES: _address_text,
    Kind.PAIRS: _address_text,
    Kind.BOOL: _bool_text,
    Kind.INT32: _int_text,
    Kind.TEXT: _text_or_hex,
    Kind.DATA: _hex,
    Kind.NAME: _names_text,
    Kind.NAMES: _names_text,
    Kind.ROUTES: _routes_text,
    Kind.URIS: _uris_text,
    Kind.SIP: _sip_text,
    Kind.SUBOPTIONS: _suboptions_text,
    Kind.VENDORS: _vendors_text,
    Kind.VENDOR_CLASSES: _vendor_classes_text,
    Kind.CLASSES: _classes_text,
    Kind.NOTHING: lambda data: "" if not data else _hex(data),
}
