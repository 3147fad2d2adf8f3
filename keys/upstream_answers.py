"""Reads what Keystone, Barbican, Vault and OpenBao answer; any other body is a PeerError.

Pure. Only what has exactly the form of that interface is read: a captive portal, a proxy or
another service must never look like a secret, nor like its deletion. Sentences never repeat what
a body holds, for it may be a secret. Forms as Keystone 30, Barbican 23 and the documentation of
KV v2 have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any, NoReturn
from uuid import UUID

from keys.errors import PeerError
from keys.rules import MAX_SECRET
from keys.secret import Secret
from keys.upstream import MAX_VERSION, Fetched

MAX_ANSWER = 512 * 1024
"""Bytes; a secret of MAX_SECRET with every byte escaped as JSON does it, and what is around it."""
MAX_DEPTH = 32
PAGE = 100
"""Barbican gives no more at once, whatever is asked."""

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|([+-])(\d\d):(\d\d))?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One secret in Barbican's list: `created` in microseconds, `expires` in unix seconds."""

    secret_id: UUID
    created: int
    expires: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of Barbican's list: the active ones of exactly that name, and how many it told."""

    entries: tuple[Entry, ...]
    count: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a login with AppRole gave; `role` is empty where the answer does not name it."""

    token: Secret
    role: str


def decode_json(body: bytes) -> object:
    """Read JSON in UTF-8, at most MAX_DEPTH deep; PeerError for anything else."""
    try:
        value: object = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise PeerError("its answer says it is JSON and is none") from None
    if _is_deep(value):
        raise _other_form()
    return value


def barbican_page(body: bytes, name: str) -> Page:
    """Read a list of secrets that was asked for by name.

    Barbican compares names as SQL's LIKE does: an underscore stands for any letter, and case does
    not matter; those are left out here. A name that LIKE cannot have found is a lie.
    """
    answer = _mapping(decode_json(body))
    total, secrets = _count(answer.get("total")), answer.get("secrets")
    if not isinstance(secrets, list) or len(secrets) > PAGE or total < len(secrets):
        raise _other_form()
    like = re.compile(re.escape(name).replace("_", "."), re.IGNORECASE | re.DOTALL)
    entries = []
    for one in map(_mapping, secrets):
        found = one.get("name")
        if not isinstance(found, str) or not like.fullmatch(found):
            raise PeerError("it listed a secret of another name than was asked for")
        if found == name and one.get("status") == "ACTIVE":
            entries.append(_entry(one))
    if any(later.created > sooner.created for sooner, later in pairwise(entries)):
        raise PeerError("its list of secrets is not in the order that was asked for")
    return Page(entries=tuple(entries), count=len(secrets), total=total)


def newest(entries: Sequence[Entry]) -> Entry | None:
    """Take the first, which was made last; PeerError when two were made in the same moment.

    Databases that keep whole seconds know no order within one.
    """
    if len(entries) > 1 and entries[0].created == entries[1].created:
        raise PeerError("two secrets of that name were made in one moment: delete one there")
    return entries[0] if entries else None


def payload(body: bytes, entry: Entry) -> Fetched:
    """Take the bytes of a secret as they are."""
    return Fetched(version=entry.created, value=_value(body), not_after=entry.expires)


def is_barbican_error(body: bytes, status: int) -> bool:
    """Say whether a body is an error of Barbican's own: code, title, description."""
    try:
        answer = _mapping(decode_json(body))
    except PeerError:
        return False
    texts = answer.get("title"), answer.get("description")
    return answer.get("code") == status and all(isinstance(text, str) for text in texts)


def application_credential_ends(body: bytes, credential_id: str) -> int | None:
    """Read the end of an application credential in unix seconds, None when it has none."""
    found = _mapping(_mapping(decode_json(body)).get("application_credential"))
    if found.get("id") != credential_id or "expires_at" not in found:
        raise _other_form()
    ends = found["expires_at"]
    return None if ends is None else _seconds(ends)


def kv2_secret(body: bytes, field: str) -> Fetched:
    """Read one field of the newest version; it ends where `deletion_time` or `not_after` say."""
    outer = _mapping(_mapping(decode_json(body)).get("data"))
    fields, about = _mapping(outer.get("data")), _mapping(outer.get("metadata"))
    if about.get("destroyed") is not False:
        raise _other_form()
    value = fields.get(field)
    if not isinstance(value, str):
        raise PeerError(f"the secret there has no field {field} with a text")
    return Fetched(
        version=_version(about.get("version")),
        value=_value(_encoded(value)),
        not_after=_kv2_ends(about),
    )


def is_kv2_deleted(body: bytes) -> bool:
    """Say whether a 404 is that of a version that was deleted or destroyed."""
    try:
        outer = _mapping(_mapping(decode_json(body)).get("data"))
        about = _mapping(outer.get("metadata"))
        _version(about.get("version"))
    except PeerError:
        return False
    deleted = about.get("destroyed") is True or bool(about.get("deletion_time"))
    return outer.get("data", 0) is None and deleted


def is_vault_error(body: bytes) -> bool:
    """Say whether a body is an error of Vault's or OpenBao's own: a list of sentences."""
    try:
        errors = _mapping(decode_json(body)).get("errors")
    except PeerError:
        return False
    return isinstance(errors, list) and all(isinstance(error, str) for error in errors)


def approle_login(body: bytes) -> Login:
    """Read the answer to a login with AppRole."""
    found = _mapping(_mapping(decode_json(body)).get("auth"))
    token, about = found.get("client_token"), found.get("metadata")
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]{1,4096}", token, re.ASCII):
        raise _other_form()
    role = about.get("role_name") if isinstance(about, dict) else None
    if not isinstance(role, str) or not re.fullmatch(r"\w[\w.-]{0,127}", role, re.ASCII):
        role = ""
    return Login(token=Secret(token.encode()), role=role)


def token_ends(body: bytes) -> int | None:
    """Read the end of our own token (lookup-self), None when it has none."""
    found = _mapping(_mapping(decode_json(body)).get("data"))
    if "expire_time" not in found:
        raise _other_form()
    ends = found["expire_time"]
    return None if ends is None else _seconds(ends)


def secret_id_ends(body: bytes) -> int | None:
    """Read the end of a secret id (lookup), None when it has none: Go's time zero."""
    found = _mapping(_mapping(decode_json(body)).get("data"))
    ends = found.get("expiration_time")
    if isinstance(ends, str) and ends.startswith("0001-01-01T"):
        return None
    return _seconds(ends)


def _entry(one: Mapping[str, Any]) -> Entry:
    reference, ends = one.get("secret_ref"), one.get("expiration", 0)
    if not isinstance(reference, str):
        raise _other_form()
    try:  # only the id: the address before it is what the other side wrote
        secret_id = UUID(reference.rpartition("/")[2])
    except ValueError:
        raise _other_form() from None
    return Entry(
        secret_id=secret_id,
        created=_microseconds(one.get("created")),
        expires=None if ends is None else _seconds(ends),
    )


def _kv2_ends(about: Mapping[str, Any]) -> int | None:
    deleted, custom = about.get("deletion_time", ""), about.get("custom_metadata")
    ends = [] if deleted == "" else [_seconds(deleted)]
    if custom is not None and "not_after" in _mapping(custom):
        try:
            ends.append(_seconds(custom["not_after"]))
        except PeerError:
            raise PeerError(
                "custom_metadata not_after there is no time like 2027-01-31T00:00:00Z"
            ) from None
    return min(ends, default=None)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _other_form()
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_VERSION:
        raise _other_form()
    return value


def _version(value: object) -> int:
    version = _count(value)
    if version == 0:
        raise _other_form()
    return version


def _value(value: bytes) -> Secret:
    if not value:
        raise PeerError("the secret there is empty")
    if len(value) > MAX_SECRET:
        raise PeerError(f"the secret there is longer than {MAX_SECRET} bytes")
    return Secret(value)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        raise _other_form() from None


def _microseconds(value: object) -> int:
    """Read a time of RFC 3339; without a zone it is UTC, as OpenStack writes."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _other_form()
    day, clock, fraction, zone, sign, hours, minutes = found.groups()
    try:
        away = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        offset = timezone(-away if sign == "-" else away) if zone else UTC
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=offset)
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        raise _other_form() from None
    if since < timedelta():
        raise _other_form()
    return since // timedelta(microseconds=1) + int((fraction or "").ljust(6, "0")[:6])


def _seconds(value: object) -> int:
    return _microseconds(value) // 1_000_000


def _is_deep(value: object) -> bool:
    """Say whether something is nested deeper than MAX_DEPTH; the libraries recurse over it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return True


def _children(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


def _other_form() -> PeerError:
    return PeerError("its answer has another form than this interface has")
