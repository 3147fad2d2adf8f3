"""DHCPv4 options as an operator writes them: a name or number and a TOML value, to bytes.

Any option takes its bytes as "hex:0a1b" too; an option without a name takes those or a text. Lists
may be one text with commas. It never guesses a size. RFC 2132, 3396 (long values), 3397 (119), 3442
(121), 3004 (77), 3925 (124, 125), 3361 (120), 8572 (143).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from netboot.dhcp_options import encode_uris
from netboot.errors import SiteError
from netboot.network import OptionValue
from netboot.option_codes import (
    CODES,
    CODES6,
    KINDS,
    KINDS6,
    OPTIONS_OF_SERVER,
    OPTIONS_OF_SERVER6,
    Kind,
)

HEX = "hex:"
_DIGITS = re.compile(r"-?[0-9]{1,10}")
_SUBOPTION = 'a text, data as "hex:0a1b", a number from 0 to 255 or a list of IPv4 addresses'
_UNKNOWN = 'data as "hex:0a1b" or a text'
_BOOLS: Mapping[object, bool] = {"true": True, "false": False, "1": True, "0": False}


class OptionError(SiteError):
    """This is no option, or no value for it; the text says what was expected."""


class _WrongError(ValueError):
    """A value is not of its kind."""


def code_of(key: str) -> int:
    """Find the option that a name or a number means; OptionError, also for those of the server."""
    code = _number_of(key)
    if code in OPTIONS_OF_SERVER:
        raise OptionError(f"option {key} cannot be set: {OPTIONS_OF_SERVER[code]}")
    return code


def _number_of(key: str) -> int:
    code = int(key) if _DIGITS.fullmatch(key) else CODES.get(key)
    if code is None:
        near = get_close_matches(key, CODES, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else "write its number from 1 to 254"
        raise OptionError(f"there is no option {key}: {remedy}")
    if not 0 <= code <= 255:
        raise OptionError(f"there is no option {key}: write a number from 1 to 254")
    return code


def option(key: str, value: object) -> OptionValue:
    """Read one option of a site file; OptionError says what was expected."""
    code = code_of(key)
    return OptionValue(code=code, data=_read(key, KINDS.get(code), value))


Asked = tuple[int, bytes | None] | tuple[int, int, bytes]
"""What is asked about an option: its bytes, None for "is there", or where in it which bytes are."""


def condition(key: str, value: object) -> Asked:
    """Read what is asked about a client's option: a value, `true`, or `{ at = 2, is = "x" }`."""
    code = _number_of(key)
    return _asked(key, code, KINDS.get(code), value)


def condition6(key: str, value: object) -> Asked:
    """Read what is asked about a DHCPv6 client's option, as `condition` does."""
    code = _number_of6(key)
    kind = KINDS6.get(code)
    return _asked(key, code, None if kind is None else (kind,), value)


def relay_condition(key: str, value: object) -> tuple[int, bytes | None]:
    """Read what is asked about a sub-option of 82, or an option of a DHCPv6 relay, by number."""
    if not _DIGITS.fullmatch(key) or not 0 < int(key) < 1 << 16:
        raise OptionError(f"there is no sub-option {key}: write its number")
    return int(key), None if value is True else _read(key, None, value)


def _asked(key: str, code: int, kinds: tuple[Kind, ...] | None, value: object) -> Asked:
    if isinstance(value, dict) and "is" in value:
        at = value.get("at", 0)
        if set(value) - {"at", "is"} or type(at) is not int or not 0 <= at < 1 << 16:
            raise OptionError(f'option {key}: expected {{ at = 0, is = "text or hex:0a1b" }}')
        return code, at, _read(key, None, value["is"])
    return code, None if value is True else _read(key, kinds, value)


def option6(key: str, value: object) -> OptionValue:
    """Read one DHCPv6 option of a site file; OptionError says what was expected."""
    known = code6_of(key)
    kind = KINDS6.get(known)
    return OptionValue(code=known, data=_read(key, None if kind is None else (kind,), value))


def code6_of(key: str) -> int:
    """Find the DHCPv6 option that a name or number means; OptionError, also for the server's."""
    code = _number_of6(key)
    if code in OPTIONS_OF_SERVER6:
        raise OptionError(f"option {key} cannot be set: the server says it itself")
    return code


def _number_of6(key: str) -> int:
    code = int(key) if _DIGITS.fullmatch(key) else CODES6.get(key)
    if code is None or not 0 < code < 1 << 16:
        near = get_close_matches(key, CODES6, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else "write its number from 1 to 65535"
        raise OptionError(f"there is no DHCPv6 option {key}: {remedy}")
    return code


def _read(key: str, kinds: tuple[Kind, ...] | None, value: object) -> bytes:
    try:
        return _encode(kinds, value)
    except _WrongError as error:
        raise OptionError(f"option {key}: expected {str(error) or _expected(kinds)}") from None


def _expected(kinds: tuple[Kind, ...] | None) -> str:
    if kinds is None:
        return _UNKNOWN
    if len(kinds) == 1:
        return kinds[0].value
    return f"a list of {', then '.join(kind.value for kind in kinds)}"


def _encode(kinds: tuple[Kind, ...] | None, value: object) -> bytes:
    raw = _raw(value)
    if raw is not None:
        return raw
    if kinds is None:
        if isinstance(value, str) and value:
            return value.encode()
        raise _WrongError
    if len(kinds) == 1:
        return _ENCODERS[kinds[0]](value)
    entries = _entries(value)
    if len(entries) < len(kinds):
        raise _WrongError
    last = len(kinds) - 1
    tail: object = entries[last:] if _is_list(kinds[last]) else entries[last]
    if not _is_list(kinds[last]) and len(entries) > len(kinds):
        raise _WrongError
    values = [*entries[:last], tail]
    return b"".join(_ENCODERS[kind](each) for kind, each in zip(kinds, values, strict=True))


def _is_list(kind: Kind) -> bool:
    return kind in (Kind.ADDRESSES, Kind.NAMES)


def _raw(value: object) -> bytes | None:
    """Read "hex:0a1b"; colons and blanks between bytes are fine. None for anything else."""
    if not isinstance(value, str) or not value.startswith(HEX):
        return None
    digits = value.removeprefix(HEX).replace(":", "").replace(" ", "")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise _WrongError('pairs of hex digits after "hex:"') from None


def _entries(value: object) -> list[object]:
    """Give the entries of a list, of a text with commas, or one value alone."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if isinstance(value, dict) or value == []:
        raise _WrongError
    return list(value) if isinstance(value, Sequence) else [value]


def _address(value: object) -> bytes:
    try:
        return IPv4Address(value).packed if isinstance(value, str) else _no_bytes()
    except ValueError:
        raise _WrongError from None


def _addresses6(value: object) -> bytes:
    try:
        return b"".join(IPv6Address(str(entry)).packed for entry in _entries(value))
    except ValueError:
        raise _WrongError from None


def _no_bytes() -> bytes:
    raise _WrongError


def _addresses(value: object) -> bytes:
    return b"".join(map(_address, _entries(value)))


def _pairs(value: object) -> bytes:
    data = b"".join(_address(part) for entry in _entries(value) for part in _words(entry))
    if len(data) % 8:
        raise _WrongError
    return data


def _words(entry: object) -> list[str]:
    if not isinstance(entry, str):
        raise _WrongError
    return [word for word in entry.split() if word not in ("-", "via")]


def _number(value: object, size: int, *, signed: bool = False) -> bytes:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int:
        raise _WrongError
    try:
        return value.to_bytes(size, "big", signed=signed)
    except OverflowError:
        raise _WrongError from None


def _numbers(size: int) -> Callable[[object], bytes]:
    return lambda value: b"".join(_number(entry, size) for entry in _entries(value))


def _sized(size: int, *, signed: bool = False) -> Callable[[object], bytes]:
    return lambda value: _number(value, size, signed=signed)


def _bool(value: object) -> bytes:
    value = _BOOLS.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise _WrongError
    return bytes((value,))


def _nothing(value: object) -> bytes:
    if value is not True:
        raise _WrongError
    return b""


def _text(value: object) -> bytes:
    if not isinstance(value, str) or not value:
        raise _WrongError
    return value.encode()


def _data(value: object) -> bytes:
    found = _raw(value)
    if found is None:
        raise _WrongError
    return found


def _name(value: object) -> bytes:
    """Write one name in DNS wire form, without compression (RFC 1035, 3.1)."""
    if not isinstance(value, str):
        raise _WrongError
    try:
        labels = [label.encode("ascii") for label in value.removesuffix(".").split(".")]
    except UnicodeEncodeError:
        raise _WrongError from None
    if any(not 0 < len(label) < 64 for label in labels) or sum(map(len, labels)) > 240:
        raise _WrongError
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _names(value: object) -> bytes:
    return b"".join(map(_name, _entries(value)))


def _routes(value: object) -> bytes:
    """Write routes: prefix length, the bytes of the network that count, the router (RFC 3442)."""
    data = b""
    for entry in _entries(value):
        parts = _words(entry)
        if len(parts) != 2:
            raise _WrongError
        try:
            network = IPv4Network(parts[0])
        except ValueError:
            raise _WrongError from None
        counted = network.network_address.packed[: (network.prefixlen + 7) // 8]
        data += bytes((network.prefixlen,)) + counted + _address(parts[1])
    return data


def _uris(value: object) -> bytes:
    entries = [value] if isinstance(value, str) else _entries(value)
    texts = [entry for entry in entries if isinstance(entry, str) and entry.isascii()]
    if len(texts) != len(entries) or not all(0 < len(text) < 1 << 16 for text in texts):
        raise _WrongError
    return encode_uris(texts)


def _sip(value: object) -> bytes:
    try:
        return b"\1" + _addresses(value)
    except _WrongError:
        return b"\0" + _names(value)


def _counted(parts: Sequence[bytes]) -> bytes:
    if not parts or any(not 0 < len(part) < 256 for part in parts):
        raise _WrongError
    return b"".join(bytes((len(part),)) + part for part in parts)


def _classes(value: object) -> bytes:
    return _counted([_raw(entry) or _text(entry) for entry in _entries(value)])


def _suboptions(value: object) -> bytes:
    if isinstance(value, str):
        return _text(value)
    data = b""
    for code, said in _numbered(value, 254):
        inner = _suboption(said)
        if len(inner) > 255:
            raise _WrongError("sub-options of at most 255 bytes")
        data += bytes((code, len(inner))) + inner
    return data


def _numbered(value: object, largest: int) -> Iterator[tuple[int, object]]:
    if not isinstance(value, dict) or not value:
        raise _WrongError
    for key, said in value.items():
        if not (isinstance(key, str) and _DIGITS.fullmatch(key) and 0 < int(key) <= largest):
            raise _WrongError(f"sub-options by number from 1 to {largest}")
        yield int(key), said


def _suboption(value: object) -> bytes:
    try:
        if type(value) is int:
            return _number(value, 1)
        if isinstance(value, list):
            return _addresses(value)
        raw = _raw(value)
        return _text(value) if raw is None else raw
    except _WrongError as error:
        raise _WrongError(str(error) or f"sub-options as {_SUBOPTION}") from None


def _vendors(value: object) -> bytes:
    data = b""
    for enterprise, said in _numbered(value, 0xFFFFFFFF):
        inner = _suboptions(said)
        if len(inner) > 255:
            raise _WrongError("sub-options of at most 255 bytes in all")
        data += enterprise.to_bytes(4, "big") + bytes((len(inner),)) + inner
    return data


def _vendors6(value: object) -> bytes:
    """Write one enterprise's options, code and length of 16 bits each (RFC 8415, 21.17)."""
    pairs = list(_numbered(value, 0xFFFFFFFF))
    if len(pairs) != 1:
        raise _WrongError("the options of one enterprise")
    (enterprise, said), data = pairs[0], b""
    for code, one in _numbered(said, 0xFFFF):
        inner = _suboption(one)
        data += code.to_bytes(2, "big") + len(inner).to_bytes(2, "big") + inner
    return enterprise.to_bytes(4, "big") + data


def _vendor_classes(value: object) -> bytes:
    """Write each enterprise's data after its number and its length (RFC 3925, 3)."""
    data = b""
    for enterprise, said in _numbered(value, 0xFFFFFFFF):
        inner = _raw(said)
        inner = _text(said) if inner is None else inner
        if len(inner) > 255:
            raise _WrongError("data of at most 255 bytes")
        data += enterprise.to_bytes(4, "big") + bytes((len(inner),)) + inner
    return data


_ENCODERS: Mapping[Kind, Callable[[object], bytes]] = {
    Kind.ADDRESS: _address,
    Kind.ADDRESSES: _addresses,
    Kind.ADDRESSES6: _addresses6,
    Kind.PAIRS: _pairs,
    Kind.BOOL: _bool,
    Kind.UINT8: _sized(1),
    Kind.UINT16: _sized(2),
    Kind.UINT32: _sized(4),
    Kind.INT32: _sized(4, signed=True),
    Kind.UINT8S: _numbers(1),
    Kind.UINT16S: _numbers(2),
    Kind.TEXT: _text,
    Kind.DATA: _data,
    Kind.NAME: _name,
    Kind.NAMES: _names,
    Kind.ROUTES: _routes,
    Kind.URIS: _uris,
    Kind.SIP: _sip,
    Kind.SUBOPTIONS: _suboptions,
    Kind.VENDORS: _vendors,
    Kind.VENDORS6: _vendors6,
    Kind.VENDOR_CLASSES: _vendor_classes,
    Kind.CLASSES: _classes,
    Kind.NOTHING: _nothing,
}
