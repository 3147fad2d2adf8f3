"""Where secrets come from: the outcomes of asking an upstream, and the settings of one.

Pure. An upstream answers in three ways only: it gave the secret, it says that there is none (or
none for us), or nothing was learned. Only the first two may change what is kept; whatever is not
certainly one of them is `Trouble`. Adapters: `keys.io.upstreams`. design.md, Secrets; checklist 9
to 13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from keys.errors import SiteError
from keys.rules import duration
from keys.secret import Secret

MAX_PATH = 255
MAX_VERSION = 2**63 - 1
"""What SQLite holds; an upstream that says more is not believed."""
DEADLINE = timedelta(seconds=20)
"""Of one exchange, from the first packet to the last byte."""
DEADLINES = (timedelta(seconds=1), timedelta(minutes=5))

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_SEGMENT = r"[A-Za-z0-9_.@~=:-]+"
_PATH = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*", re.ASCII)
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


class UpstreamKind(Enum):
    """Which protocol an upstream speaks: OpenStack Barbican, or KV v2 of Vault and OpenBao."""

    BARBICAN = "barbican"
    KV2 = "kv2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where one secret comes from: the name of an upstream, and the path there.

    Barbican: the secret's name. KV v2: the path below the mount, with `#field` when the field is
    not called `value`.
    """

    upstream: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read `hq:pos/token`; SiteError says what is wrong with it."""
        upstream, _, path = text.partition(":")
        if not _NAME.fullmatch(upstream) or not _is_path(path):
            raise SiteError(
                f"{text!r} is no source like hq:pos/token: the name of an [[upstream]], a colon "
                "and the path there"
            )
        return cls(upstream=upstream, path=path)

    def __str__(self) -> str:
        """Give the text that `parse` reads."""
        return f"{self.upstream}:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The upstream gave the newest version.

    `version` only grows for one path: KV v2's own number; for Barbican the time in microseconds
    at which the newest active secret of that name was made. `not_after`: unix seconds at which the
    upstream says that it ends, None when it says nothing.
    """

    version: int
    value: Secret
    not_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The upstream says that there is no such secret, or none for us: what is kept is purged.

    `status` is 404 or 403.
    """

    status: int
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Nothing was learned: what is kept stays until its own end.

    `retry_after`: seconds that the upstream asked for. `login`: our credential was refused, so
    every other path of this upstream fails too until there is a new one.
    """

    sentence: str
    retry_after: int | None = None
    login: bool = False


class Upstream(Protocol):
    """What sync asks. Neither call raises for anything that the other side does."""

    def fetch(self, path: str) -> Fetched | Gone | Trouble:
        """Ask for the newest version of one secret; blocks for a few deadlines at most."""
        ...

    def credential_ends(self) -> int | None:
        """Say at which unix second our login ends; None when it does not, or nobody says."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRule:
    """One [[upstream]].

    `ca` is the PEM file, relative to the site file, with the only authorities that are believed.
    `auth_url`: Keystone, of Barbican alone. `mount`, `login_mount` and `namespace`: of KV v2 alone.
    """

    name: str
    kind: UpstreamKind
    url: str
    ca: str
    auth_url: str | None = None
    mount: str = "secret"
    login_mount: str = "approle"
    namespace: str | None = None
    deadline: timedelta = DEADLINE


_COMMON = frozenset({"name", "kind", "url", "ca", "deadline"})
_OWN = {
    UpstreamKind.BARBICAN: frozenset({"auth_url"}),
    UpstreamKind.KV2: frozenset({"mount", "login_mount", "namespace"}),
}


def upstream_rules(document: Mapping[str, Any]) -> Mapping[str, UpstreamRule]:
    """Read the [[upstream]] tables of a parsed site file, by name; SiteError names the key."""
    tables = document.get("upstream", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SiteError("site.toml: [[upstream]] must be tables")
    rules = [_rule(table) for table in tables]
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SiteError(f"site.toml: upstream.name: {twice[0]!r} is there twice")
    return {rule.name: rule for rule in rules}


def check_source(source: Source, rules: Mapping[str, UpstreamRule]) -> None:
    """Hold a source against the upstreams of the site; SiteError says what does not fit."""
    rule = rules.get(source.upstream)
    if rule is None:
        raise SiteError(f"there is no [[upstream]] {source.upstream!r}")
    if rule.kind is UpstreamKind.BARBICAN and "#" in source.path:
        raise SiteError(f"{source}: a secret of Barbican has no fields; take #… out")


def split_field(path: str) -> tuple[str, str]:
    """Give path and field of a KV v2 source; the field is `value` when none is named."""
    path, mark, field = path.partition("#")
    return path, field if mark else "value"


def is_loopback(host: str | None) -> bool:
    """Say whether a host is written as a loopback address; a name never is."""
    try:
        return ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _rule(table: Mapping[str, Any]) -> UpstreamRule:
    name = _text(table, "name")
    if not _NAME.fullmatch(name):
        raise SiteError(
            f"site.toml: upstream.name: {name!r} may hold a-z, 0-9, dot, hyphen, underscore"
        )
    kind = _kind(_text(table, "kind"))
    _check_keys(table, kind)
    return UpstreamRule(
        name=name,
        kind=kind,
        url=_url(table, "url"),
        ca=_text(table, "ca"),
        auth_url=_auth_url(table) if kind is UpstreamKind.BARBICAN else None,
        mount=_mount(table, "mount", "secret"),
        login_mount=_mount(table, "login_mount", "approle"),
        namespace=_mount(table, "namespace", "") or None,
        deadline=_deadline(table),
    )


def _kind(text: str) -> UpstreamKind:
    try:
        return UpstreamKind(text)
    except ValueError:
        raise SiteError(f"site.toml: upstream.kind: {text!r} is neither barbican nor kv2") from None


def _check_keys(table: Mapping[str, Any], kind: UpstreamKind) -> None:
    known = _COMMON | _OWN[kind]
    for key in sorted(set(table) - known):
        near = get_close_matches(key, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; known: {sorted(known)}"
        raise SiteError(f"site.toml: upstream.{key} is unknown with kind {kind.value}{meant}")


def _auth_url(table: Mapping[str, Any]) -> str:
    url = _url(table, "auth_url")
    if not url.endswith("/v3"):
        raise SiteError("site.toml: upstream.auth_url is Keystone's address with /v3 at its end")
    return url


def _url(table: Mapping[str, Any], key: str) -> str:
    text = _text(table, key)
    parts = _split(text)
    if parts is None or not text.isascii() or not text.isprintable() or " " in text:
        raise SiteError(f"site.toml: upstream.{key} is no address like https://keys.example:9311")
    if parts.username is not None or parts.query or parts.fragment:
        raise SiteError(f"site.toml: upstream.{key} has no user, password, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise SiteError(f"site.toml: upstream.{key} begins with https:// (but for 127.0.0.1, ::1)")
    return text.rstrip("/")


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _mount(table: Mapping[str, Any], key: str, default: str) -> str:
    if key not in table:
        return default
    text = _text(table, key).strip("/")
    if not _is_path(text) or "#" in text:
        raise SiteError(f"site.toml: upstream.{key}: {text!r} is no path like secret or team/kv")
    return text


def _deadline(table: Mapping[str, Any]) -> timedelta:
    if "deadline" not in table:
        return DEADLINE
    value = duration(_text(table, "deadline"), "upstream.deadline")
    if not DEADLINES[0] <= value <= DEADLINES[1]:
        raise SiteError("site.toml: upstream.deadline is from 1s to 5m")
    return value


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise SiteError(f"site.toml: upstream.{key} is missing or no text")
    return value


def _is_path(text: str) -> bool:
    path, mark, field = text.partition("#")
    segments: Sequence[str] = path.split("/")
    return (
        len(text) <= MAX_PATH
        and _PATH.fullmatch(path) is not None
        and not {".", ".."} & set(segments)
        and (not mark or _FIELD.fullmatch(field) is not None)
    )
