"""The values that a site file holds, each read from text by one function that says what it expects.

Ranges, durations, names and addresses, as types and as pydantic fields. It knows no key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    StringConstraints,
)

from netboot.bootchoice import ARCHITECTURE_NAMES

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LABEL = re.compile(LABEL)
_NUMBER = re.compile(r"\{number(?::0([1-9]))?\}")
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DELAY = re.compile(r"([0-9]{1,5})(ms|s)")
_HEX = re.compile(r"([0-9a-fA-F]{2}[: ]?)*")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRange:
    """Addresses from `first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read `10.0.0.1-10.0.0.9`; ValueError says what it should be."""
        first, dash, last = text.partition("-")
        if not dash:
            raise ValueError("expected two addresses with a dash, as in 10.41.7.100-10.41.7.199")
        found = cls(first=IPv4Address(first.strip()), last=IPv4Address(last.strip()))
        if found.last < found.first:
            raise ValueError("the first address must not be above the last")
        return found

    def __contains__(self, address: IPv4Address) -> bool:
        """Tell whether an address is in the range."""
        return self.first <= address <= self.last

    def __len__(self) -> int:
        """Count the addresses."""
        return int(self.last) - int(self.first) + 1

    def overlaps(self, other: AddressRange) -> bool:
        """Tell whether both have an address in common."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address of ours with a TCP port."""

    address: IPv4Address
    port: int

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read `10.41.7.2:443`; ValueError says what it should be."""
        address, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("expected an address and a port, as in 10.41.7.2:443")
        return cls(address=IPv4Address(address), port=int(port))

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostnamePattern:
    """A hostname with one `{number}`, as in `pos-{number:02}`."""

    text: str

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a pattern; ValueError says what it should be."""
        if len(_NUMBER.findall(text)) != 1 or not _LABEL.fullmatch(_NUMBER.sub("0" * 9, text)):
            raise ValueError(
                "expected lower-case letters, digits and dashes with one {number}, "
                "as in pos-{number:02}"
            )
        return cls(text=text)

    def name(self, number: int) -> str:
        """Give the hostname with this number."""
        return _NUMBER.sub(lambda found: f"{number:0{found.group(1) or 1}d}", self.text)

    def number(self, name: str) -> int | None:
        """Find the number, from 1, that gives this hostname; None when none does."""
        before, _, after = _NUMBER.sub("\0", self.text).partition("\0")
        digits = name[len(before) : len(name) - len(after)]
        if not digits.isdecimal() or not digits.isascii() or len(digits) > 9:
            return None
        number = int(digits)
        return number if number > 0 and self.name(number) == name else None


def decode_duration(text: str) -> timedelta:
    """Read `30s`, `15m`, `12h` or `14d`; ValueError says what it should be."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError("expected a number with s, m, h or d, as in 12h")
    return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})


def decode_mac(text: str) -> bytes:
    """Read `02:00:00:00:00:11`; ValueError says what it should be."""
    if not _MAC.fullmatch(text.lower()):
        raise ValueError("expected six pairs of hex digits, as in 02:00:00:00:00:11")
    return bytes.fromhex(text.replace(":", ""))


def _mac_start(text: str) -> bytes:
    """Read the first 1 to 6 bytes of a MAC: three of them are a maker's."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){0,5}", text):
        raise ValueError("expected one to six pairs of hex digits, as in 02:00:5e")
    return bytes.fromhex(text.replace(":", ""))


def decode_data(text: str) -> bytes:
    """Read a text, or `hex:0a1b` for bytes; ValueError says what it should be."""
    if not text.startswith("hex:"):
        if not text:
            raise ValueError("expected a text, or hex:0a1b")
        return text.encode()
    digits = text.removeprefix("hex:")
    if not digits or not _HEX.fullmatch(digits):
        raise ValueError("expected pairs of hex digits after hex:")
    return bytes.fromhex(digits.replace(":", ""))


def decode_client_id(text: str) -> bytes:
    """Read option 61 whole: as data, or as pairs with colons, 01:02:00:00:00:00:11."""
    pairs = re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+", text)
    return bytes.fromhex(text.replace(":", "")) if pairs else decode_data(text)


def decode_uuid(text: str) -> bytes:
    """Read a UUID as firmware prints it, or `hex:` and its 16 bytes as option 97 carries them.

    Firmware prints its first three fields in the other byte order (SMBIOS 2.6 and later, 7.2.1).
    """
    if text.startswith("hex:"):
        data = decode_data(text)
        if len(data) != 16:
            raise ValueError("expected 16 bytes after hex:")
        return data
    try:
        return UUID(text).bytes_le
    except ValueError:
        raise ValueError(
            "expected a UUID, as in 4c4c4544-0042-3510-8050-b7c04f4d3232, or hex: and 16 bytes"
        ) from None


def decode_delay(text: str) -> timedelta:
    """Read `250ms` or `2s`; ValueError says what it should be."""
    found = _DELAY.fullmatch(text)
    if not found:
        raise ValueError("expected a number with ms or s, as in 250ms")
    number = int(found.group(1))
    return timedelta(milliseconds=number if found.group(2) == "ms" else 1000 * number)


def decode_architecture(value: object) -> int:
    """Read a value of option 93, by number or name; ValueError lists the nearest names."""
    if isinstance(value, str):
        name = value.lower()
        for theirs, ours in (("x86-64-", "x64-"), ("amd64-", "x64-"), ("aarch64-", "arm64-")):
            name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
        known = ARCHITECTURE_NAMES.get("x86-bios" if name == "bios" else name)
        if known is not None:
            return known
        value = int(name, 0) if re.fullmatch(r"0x[0-9a-f]{1,4}|0|[1-9][0-9]{0,4}", name) else None
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise ValueError(
            "expected the number of an architecture or its name: "
            f"{', '.join(name for name in ARCHITECTURE_NAMES if 'uefi' in name[:11])} …"
        )
    return value


def _domain(text: str) -> str:
    labels = text.split(".")
    if len(labels) < 2 or len(text) > 200 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("expected a domain in lower case, as in shop-0417.example.net")
    return text


def _range6(text: str) -> tuple[IPv6Address, IPv6Address]:
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError("expected two addresses with a dash, as in 2001:db8::100-2001:db8::1ff")
    found = IPv6Address(first.strip()), IPv6Address(last.strip())
    if found[1] < found[0]:
        raise ValueError("the first address must not be above the last")
    return found


def _relative(text: str) -> str:
    if not text or text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise ValueError("expected a path below the site's directory, without ..")
    return text


def from_text(decode: Any) -> PlainValidator:
    def check(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError("expected text in quotes")  # noqa: TRY004 - pydantic collects this one
        return decode(value)

    return PlainValidator(check)


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("at least one is needed")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: object) -> object:
    return tuple(value) if isinstance(value, list) else (value,)


Text = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]*$")]
Label = Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
Address = Annotated[IPv4Address, from_text(IPv4Address)]
Network = Annotated[IPv4Network, from_text(IPv4Network)]
Range = Annotated[AddressRange, from_text(AddressRange.decode)]
Listen = Annotated[Endpoint, from_text(Endpoint.decode)]
Pattern = Annotated[HostnamePattern, from_text(HostnamePattern.decode)]
Duration = Annotated[timedelta, from_text(decode_duration)]
Mac = Annotated[bytes, from_text(decode_mac)]
Domain = Annotated[str, from_text(_domain)]
RelativePath = Annotated[str, from_text(_relative)]
Address6 = Annotated[IPv6Address, from_text(IPv6Address)]
Network6 = Annotated[IPv6Network, from_text(IPv6Network)]
Range6 = Annotated[tuple[IPv6Address, IPv6Address], from_text(_range6)]
MacStart = Annotated[bytes, from_text(_mac_start)]
Data = Annotated[bytes, from_text(decode_data)]
ClientId = Annotated[bytes, from_text(decode_client_id)]
Uuid = Annotated[bytes, from_text(decode_uuid)]
Delay = Annotated[timedelta, from_text(decode_delay)]
Architecture = Annotated[int, PlainValidator(decode_architecture)]
Interface = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
LIST = BeforeValidator(_as_tuple)
ONE_OR_MORE = BeforeValidator(_one_or_more)
SOME = AfterValidator(_not_empty)


class Table(BaseModel):
    """A table of the site file: its keys and no others."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=False, hide_input_in_errors=True
    )
