"""The site file as typed, frozen settings: TOML bytes in, settings or all problems out.

It never opens a file and never asks what is on disk (see `bootstrap.check`). An unknown key is a
problem with its dotted path and, where one is near, the key that was meant.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
)

from bootstrap.errors import SiteError

SITE_FILE = "site.toml"
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LABEL = re.compile(LABEL)
_NUMBER = re.compile(r"\{number(?::0([1-9]))?\}")
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Severity(StrEnum):
    """An error stops the site from starting; a note is worth reading."""

    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where (file and dotted key), what, and what to do."""

    file: str
    key: str
    what: str
    remedy: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """Write it as one sentence."""
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.what}: {self.remedy}"


class SiteFileError(SiteError):
    """The site file cannot be used; `problems` are all of them at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep each problem beside the text."""
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


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
        found = cls(first=IPv4Address(first), last=IPv4Address(last))
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


def _mac(text: str) -> bytes:
    if not _MAC.fullmatch(text.lower()):
        raise ValueError("expected six pairs of hex digits, as in 02:00:00:00:00:11")
    return bytes.fromhex(text.replace(":", ""))


def _domain(text: str) -> str:
    labels = text.split(".")
    if len(labels) < 2 or len(text) > 200 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("expected a domain in lower case, as in shop-0417.example.net")
    return text


def _relative(text: str) -> str:
    if not text or text.startswith("/") or ".." in text.split("/") or "\0" in text:
        raise ValueError("expected a path below the site's directory, without ..")
    return text


def _from_text(decode: Any) -> PlainValidator:
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


Text = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]*$")]
Label = Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")]
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
Address = Annotated[IPv4Address, _from_text(IPv4Address)]
Network = Annotated[IPv4Network, _from_text(IPv4Network)]
Range = Annotated[AddressRange, _from_text(AddressRange.decode)]
Listen = Annotated[Endpoint, _from_text(Endpoint.decode)]
Pattern = Annotated[HostnamePattern, _from_text(HostnamePattern.decode)]
Duration = Annotated[timedelta, _from_text(decode_duration)]
Mac = Annotated[bytes, _from_text(_mac)]
Domain = Annotated[str, _from_text(_domain)]
RelativePath = Annotated[str, _from_text(_relative)]
_LIST = BeforeValidator(_as_tuple)
_SOME = AfterValidator(_not_empty)


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=False, hide_input_in_errors=True
    )


class Identity(_Table):
    """Who the site is, and whom its people call."""

    id: Label
    title: Text
    time_zone: Text
    domain: Domain
    help: Text


class Subnet(_Table):
    """One network behind one interface of the appliance; `appliance` is our address in it."""

    name: Label
    interface: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
    network: Network
    appliance: Address
    gateway: Address | None = None
    pools: Annotated[tuple[Range, ...], _LIST] = Field(default=(), alias="pool")
    lease: Duration = timedelta(hours=12)
    dhcp: Literal["server", "off"]
    boot: bool


class Reservation(_Table):
    """An address for something that never enrols; `mac` is 6 bytes."""

    name: Label
    mac: Mac
    address: Address


class Page(_Table):
    """The technician's page."""

    listen: Listen


class Boot(_Table):
    """What a boot must show, whichever boot set it is."""

    secure_boot: Literal["required"]


class Trust(_Table):
    """Whom the site believes; paths are relative to the site's directory."""

    ek_anchors: RelativePath
    delivery_note: RelativePath
    approve: Literal["ek-listed", "never"]


class Requirement(_Table):
    """Facts that a box of a role must have."""

    memory_mib_min: Annotated[int, Field(ge=0, le=1 << 30)] | None = None


class Role(_Table):
    """What a box becomes."""

    name: Label
    default: bool = False
    hostname: Pattern
    addresses: Range | None = None
    config: RelativePath
    secrets: Annotated[tuple[SecretName, ...], _LIST] = ()
    certificate_days: Annotated[int, Field(ge=1, le=90)]
    after: Literal["power-off", "stay"]
    require: Requirement = Requirement()


class SecretRule(_Table):
    """How long a secret may be served; its value is never here."""

    name: SecretName
    tier: Literal["site", "boot"]
    ttl: Duration
    max_stale: Duration = timedelta()


class Site(_Table):
    """The whole site file."""

    schema_number: Literal[1] = Field(alias="schema")
    site: Identity
    subnets: Annotated[tuple[Subnet, ...], _LIST, _SOME] = Field(alias="subnet")
    reservations: Annotated[tuple[Reservation, ...], _LIST] = Field(default=(), alias="reservation")
    page: Page
    boot: Boot
    trust: Trust
    roles: Annotated[tuple[Role, ...], _LIST, _SOME] = Field(alias="role")
    secrets: Annotated[tuple[SecretRule, ...], _LIST] = Field(default=(), alias="secret")

    @property
    def server_name(self) -> str:
        """The name that boxes ask for when they phone home, and technicians for the page."""
        return f"appliance.{self.site.domain}"

    @property
    def boot_subnet(self) -> Subnet | None:
        """The first subnet whose boxes boot from here: its address is the one in grub.cfg."""
        return next((subnet for subnet in self.subnets if subnet.boot), None)

    def role(self, name: str | None) -> Role | None:
        """Find a role by name; the default role for None."""
        if name is None:
            return next((role for role in self.roles if role.default), None)
        return next((role for role in self.roles if role.name == name), None)

    def subnet_of(self, address: IPv4Address) -> Subnet | None:
        """Find the subnet that an address is in."""
        return next((subnet for subnet in self.subnets if address in subnet.network), None)


def decode_site(data: bytes, file: str = SITE_FILE) -> Site:
    """Read a site file; SiteFileError with every problem of its form at once.

    Whether the values agree with each other and with the disk is `bootstrap.check`'s question.
    """
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise _whole(file, "is not UTF-8", "save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _whole(file, f"is not TOML ({error})", "correct that line") from None
    try:
        return Site.model_validate(document)
    except ValidationError as error:
        found = [_problem(file, document, item) for item in error.errors(include_url=False)]
        raise SiteFileError(found) from None


def known_keys() -> frozenset[str]:
    """List every key of the site file as a dotted path without indexes (`subnet.network`)."""
    return frozenset(_walk(Site, ""))


def _walk(model: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, inner in _fields(model).items():
        keys.append(prefix + name)
        if inner is not None:
            keys += _walk(inner, f"{prefix}{name}.")
    return keys


def _fields(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    return {
        field.alias or name: _model_in(field.annotation)
        for name, field in model.model_fields.items()
    }


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = getattr(annotation, "__args__", ())
    return next((found for part in inner if (found := _model_in(part))), None)


def _whole(file: str, what: str, remedy: str) -> SiteFileError:
    return SiteFileError([Problem(file=file, key="", what=what, remedy=remedy)])


def _problem(file: str, document: Mapping[str, Any], item: Any) -> Problem:
    location: tuple[int | str, ...] = item["loc"]
    key, kind = _dotted(document, location), item["type"]
    if kind == "missing":
        return Problem(file=file, key=key, what="is missing", remedy="add it")
    if kind == "extra_forbidden":
        known = sorted(_fields(_model_at(location[:-1])))
        near = get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return Problem(file=file, key=key, what="is an unknown key", remedy=remedy)
    what = str(item["msg"]).removeprefix("Value error, ")
    return Problem(file=file, key=key, what=what[:1].lower() + what[1:], remedy="correct it")


def _dotted(document: Any, location: Sequence[int | str]) -> str:
    """Name an entry of a list by its `name` where it has one, else count from 1."""
    parts: list[str] = []
    at = document
    for step in location:
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            at = None
        if isinstance(step, str):
            parts.append(step)
            continue
        name = at.get("name") if isinstance(at, dict) else None
        parts.append(name if isinstance(name, str) else str(step + 1))
    return ".".join(parts)


def _model_at(location: Sequence[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Site
    for step in location:
        if isinstance(step, str):
            model = _fields(model)[step] or model
    return model
