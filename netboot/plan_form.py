"""The plan's form: frozen dataclasses as JSON by the types of their fields, and back.

One encoding per type: addresses and networks as text, bytes in small hex, times in seconds,
enums by value, tuples and sets as lists. What has its default is left out, so equal values give
equal bytes; an unknown key or another type is an error with its path. It judges no value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from netboot.errors import PeerError

T = TypeVar("T")
MAX_ENTRIES = 65536
"""Entries of one list, and names of one object."""
MAX_TEXT = 4096
MAX_DATA = 65536
_MOST = 1 << 53
"""JSON numbers beyond this are not read alike everywhere (RFC 8259, 6)."""
_LONGEST = 1e9
"""Seconds; some 30 years."""
_HEX = re.compile(r"([0-9a-f]{2})*")
_TEXTS: Mapping[type, str] = {
    IPv4Address: "IPv4 address",
    IPv4Network: "IPv4 network",
    IPv6Address: "IPv6 address",
    IPv6Network: "IPv6 network",
}
_EITHER: Mapping[frozenset[type], tuple[Callable[[str], Any], str]] = {
    frozenset({IPv4Address, IPv6Address}): (ip_address, "IP address"),
    frozenset({IPv4Network, IPv6Network}): (ip_network, "IP network"),
}

_Read = Callable[[Any, str], Any]


class PlanError(PeerError):
    """This document is no plan; the text says where and what."""


def decode_json(data: bytes) -> Any:
    """Read JSON in which no object has a key twice; PlanError."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"plan: no JSON: {error}") from None


def decode(kind: type[T], document: Any, where: str = "") -> T:
    """Read a document as a dataclass; PlanError names the path of what is wrong."""
    found = _reader_of(kind)(document, where)
    assert isinstance(found, kind)
    return found


def encode(value: Any) -> Any:
    """Give the document of a value, ready for JSON."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.hex()
        case timedelta():
            seconds = value.total_seconds()
            return int(seconds) if seconds.is_integer() else seconds
        case tuple():
            return [encode(entry) for entry in value]
        case frozenset():
            return sorted(map(encode, value))
        case Mapping():
            return {key: encode(entry) for key, entry in value.items()}
    if is_dataclass(value):
        named = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: encode(said) for field, said in named if not _is_default(field, said)}
    return str(value)


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return bool(value == field.default)


def _reader_of(kind: Any) -> _Read:
    return _reader(kind)


@cache
def _reader(kind: Any) -> _Read:
    """Find how a type is read; called once for each."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType and frozenset(inner) in _EITHER:
        return _parsed(*_EITHER[frozenset(inner)])
    if origin is UnionType:
        return _optional(_reader(next(one for one in inner if one is not NoneType)))
    if origin is Literal:
        return _one_of({one: one for one in inner})
    if origin is tuple:
        return _list(tuple, _reader(inner[0])) if inner[-1] is ... else _row(inner)
    if origin is frozenset:
        return _list(frozenset, _reader(inner[0]))
    if origin is Mapping:
        return _mapping(_reader(inner[1]))
    if kind in _TEXTS:
        return _parsed(kind, _TEXTS[kind])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if issubclass(kind, Enum):
        return _one_of({one.value: one for one in kind})
    return _record(kind)


def _record(kind: Any) -> _Read:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    needed = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise PlanError(f"{where or 'plan'}: is no object")
        wrong = sorted((set(value) - set(readers)) | (needed - set(value)))
        if wrong:
            told = ", ".join(wrong)[:200]
            raise PlanError(f"{where or 'plan'}: unknown or missing: {told}")
        prefix = f"{where}." if where else ""
        return kind(**{name: readers[name](said, prefix + name) for name, said in value.items()})

    return read


def _list(make: Callable[[Any], Any], read_one: _Read) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) > MAX_ENTRIES:
            raise PlanError(f"{where}: is no list of at most {MAX_ENTRIES} entries")
        return make([read_one(one, f"{where}[{index}]") for index, one in enumerate(value)])

    return read


def _row(kinds: tuple[Any, ...]) -> _Read:
    readers = tuple(map(_reader, kinds))

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) != len(readers):
            raise PlanError(f"{where}: is no list of {len(readers)} entries")
        pairs = zip(readers, value, strict=True)
        return tuple(one(said, f"{where}[{index}]") for index, (one, said) in enumerate(pairs))

    return read


def _mapping(read_one: _Read) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            raise PlanError(f"{where}: is no object of at most {MAX_ENTRIES} names")
        return {_text(name, where): read_one(one, f"{where}.{name}") for name, one in value.items()}

    return read


def _optional(read_one: _Read) -> _Read:
    return lambda value, where: None if value is None else read_one(value, where)


def _one_of(known: Mapping[Any, Any]) -> _Read:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in known:
            raise PlanError(f"{where}: is not one of {', '.join(map(str, known))}")
        return known[value]

    return read


def _parsed(kind: Callable[[str], Any], what: str) -> _Read:
    def read(value: Any, where: str) -> Any:
        try:
            return kind(_text(value, where))
        except ValueError:
            raise PlanError(f"{where}: is no {what}") from None

    return read


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not _is_unicode(value):
        raise PlanError(f"{where}: is no text of 1 to {MAX_TEXT} characters")
    return value


def _is_unicode(text: str) -> bool:
    """Tell whether no half of a surrogate pair stands alone: such text cannot be written again."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _data(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_DATA or not _HEX.fullmatch(value):
        raise PlanError(f"{where}: is no data in small hex digits")
    return bytes.fromhex(value)


def _integer(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise PlanError(f"{where}: is no number from 0 to {_MOST}")
    return value


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise PlanError(f"{where}: is neither true nor false")
    return value


def _seconds(value: Any, where: str) -> timedelta:
    if type(value) not in (int, float) or not 0 <= value <= _LONGEST:
        raise PlanError(f"{where}: is no time in seconds")
    return timedelta(seconds=value)


_PLAIN: Mapping[type, _Read] = {
    str: _text,
    bytes: _data,
    int: _integer,
    bool: _bool,
    timedelta: _seconds,
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
