"""The site file as typed, frozen settings: TOML bytes in, settings or all problems out.

It never opens a file and never asks what is on disk (see `bootstrap.check`). An unknown key is a
problem with its dotted path and, where one is near, the key that was meant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from bootstrap.errors import SiteError
from bootstrap.site_netboot import NetbootBoot, NetbootIdentity, NetbootSite, Subnet
from bootstrap.site_types import (
    LIST,
    SOME,
    Duration,
    Label,
    Listen,
    Pattern,
    Range,
    RelativePath,
    SecretName,
    Table,
    Text,
)

SITE_FILE = "site.toml"
_Model = TypeVar("_Model", bound=BaseModel)


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


class Identity(NetbootIdentity):
    """Who the site is, and whom its people call."""

    title: Text
    time_zone: Text
    help: Text


class Page(Table):
    """The technician's page."""

    listen: Listen


class Boot(NetbootBoot):
    """What a boot must show, whichever boot set it is, and what is booted beside the sets."""

    secure_boot: Literal["required"]


class Trust(Table):
    """Whom the site believes; paths are relative to the site's directory."""

    ek_anchors: RelativePath
    delivery_note: RelativePath
    approve: Literal["ek-listed", "never"]


class Requirement(Table):
    """Facts that a box of a role must have."""

    memory_mib_min: Annotated[int, Field(ge=0, le=1 << 30)] | None = None


class Role(Table):
    """What a box becomes; one that stays renews its certificate after `renew`."""

    name: Label
    default: bool = False
    hostname: Pattern
    addresses: Range | None = None
    config: RelativePath
    secrets: Annotated[tuple[SecretName, ...], LIST] = ()
    certificate_days: Annotated[int, Field(ge=1, le=90)]
    after: Literal["power-off", "stay"]
    renew: Duration | None = None
    require: Requirement = Requirement()

    @property
    def renewal(self) -> timedelta | None:
        """After how long a box renews: half its certificate's life unless said; None for never."""
        if self.after != "stay":
            return None
        return self.renew or timedelta(days=self.certificate_days) / 2


class Controller(Table):
    """The machine that this site runs on; `keys.rules` says what follows from it."""

    tpm: Annotated[str, Field(pattern=r"^(none|/dev/[a-z0-9]+|swtpm:path=/.+)$")] = "none"
    root: Literal["none", "verity", "encrypted"] = "none"
    tiers: Annotated[tuple[Literal["site"], ...], LIST] = ()
    link_loss: Duration = timedelta()


class SecretRule(Table):
    """How long a secret may be served; its value is never here."""

    name: SecretName
    tier: Literal["box", "site", "boot"]
    kind: Literal["secret", "license", "certificate", "blob"] = "secret"
    ttl: Duration | None = None
    max_stale: Duration = timedelta()
    ask: Text | None = None
    source: Annotated[str, Field(min_length=3, max_length=320)] | None = None


class Upstream(Table):
    """Where secrets come from; `keys.upstream` says what each key may hold."""

    name: SecretName
    kind: Literal["barbican", "kv2"]
    url: Text
    ca: RelativePath
    auth_url: Text | None = None
    mount: Text | None = None
    login_mount: Text | None = None
    namespace: Text | None = None
    deadline: Text | None = None


class Site(NetbootSite):
    """The whole site file."""

    schema_number: Literal[1] = Field(alias="schema")
    site: Identity
    subnets: Annotated[tuple[Subnet, ...], LIST, SOME] = Field(alias="subnet")
    page: Page
    boot: Boot
    trust: Trust
    controller: Controller = Controller()
    roles: Annotated[tuple[Role, ...], LIST, SOME] = Field(alias="role")
    secrets: Annotated[tuple[SecretRule, ...], LIST] = Field(default=(), alias="secret")
    upstreams: Annotated[tuple[Upstream, ...], LIST] = Field(default=(), alias="upstream")

    def role(self, name: str | None) -> Role | None:
        """Find a role by name; the default role for None."""
        if name is None:
            return next((role for role in self.roles if role.default), None)
        return next((role for role in self.roles if role.name == name), None)


class SiteOfNetboot(NetbootSite):
    """A site file for netboot alone: what the other processes need may be there, and is read."""

    page: Page | None = None
    trust: Trust | None = None
    controller: Controller | None = None
    roles: Annotated[tuple[Role, ...], LIST] = Field(default=(), alias="role")
    secrets: Annotated[tuple[SecretRule, ...], LIST] = Field(default=(), alias="secret")
    upstreams: Annotated[tuple[Upstream, ...], LIST] = Field(default=(), alias="upstream")


def decode_site(data: bytes, file: str = SITE_FILE) -> Site:
    """Read a site file; SiteFileError with every problem of its form at once.

    Whether the values agree with each other and with the disk is `bootstrap.check`'s question.
    """
    return _decode(Site, data, file)


def decode_netboot_site(data: bytes, file: str = SITE_FILE) -> SiteOfNetboot:
    """Read a site file of which netboot alone is run; SiteFileError as `decode_site`."""
    return _decode(SiteOfNetboot, data, file)


def _decode(model: type[_Model], data: bytes, file: str) -> _Model:
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise _whole(file, "is not UTF-8", "save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _whole(file, f"is not TOML ({error})", "correct that line") from None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = [_problem(model, file, document, item) for item in error.errors(include_url=False)]
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


def _problem(model: type[BaseModel], file: str, document: Mapping[str, Any], item: Any) -> Problem:
    location: tuple[int | str, ...] = item["loc"]
    key, kind = _dotted(document, location), item["type"]
    if kind == "missing":
        return Problem(file=file, key=key, what="is missing", remedy="add it")
    if kind == "extra_forbidden":
        known = sorted(_fields(_model_at(model, location[:-1])))
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
        if isinstance(at, str):
            break  # one text stands for a table: a pool
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


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    for step in location:
        if isinstance(step, str):
            model = _fields(model)[step] or model
    return model
