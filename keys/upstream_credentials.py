"""The logins of upstreams, as the file that the operator hands over has them.

Pure. JSON in one of three forms; no sentence repeats anything of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from keys.errors import SiteError
from keys.secret import Secret
from keys.upstream import UpstreamKind, UpstreamRule

MAX_CREDENTIAL = 16 * 1024
_TEXT = re.compile(r"[!-~]{1,4096}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCredential:
    """An application credential of Keystone."""

    credential_id: str
    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCredential:
    """A token of Vault or OpenBao."""

    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRoleCredential:
    """A role id and a secret id of AppRole."""

    role_id: Secret
    secret_id: Secret


_APP = ("application_credential_id", "application_credential_secret")
_TOKEN, _APPROLE = ("token",), ("role_id", "secret_id")
_FORMS = {UpstreamKind.BARBICAN: (_APP,), UpstreamKind.KV2: (_TOKEN, _APPROLE)}


def read_credential(
    rule: UpstreamRule, credential: Secret
) -> AppCredential | TokenCredential | AppRoleCredential:
    """Read the login of an upstream; SiteError names the upstream and the form that is wanted."""
    found = _texts(credential)
    form = tuple(sorted(found))
    if form not in _FORMS[rule.kind]:
        wanted = " or ".join(_shown(form) for form in _FORMS[rule.kind])
        raise SiteError(f"upstream {rule.name}: its credential is not JSON of the form {wanted}")
    if not all(_TEXT.fullmatch(value) for value in found.values()):
        raise SiteError(
            f"upstream {rule.name}: a value in its credential is empty, or holds a blank or a "
            "letter that is not ASCII"
        )
    return _credential(form, found, rule)


def _credential(
    form: tuple[str, ...], found: dict[str, str], rule: UpstreamRule
) -> AppCredential | TokenCredential | AppRoleCredential:
    if form == _TOKEN:
        return TokenCredential(token=Secret(found["token"].encode()))
    secrets = {key: Secret(value.encode()) for key, value in found.items()}
    if form == _APPROLE:
        return AppRoleCredential(role_id=secrets["role_id"], secret_id=secrets["secret_id"])
    if not _ID.fullmatch(found[_APP[0]]):  # it becomes part of an address
        raise SiteError(f"upstream {rule.name}: {_APP[0]} in its credential is no id of Keystone's")
    return AppCredential(credential_id=found[_APP[0]], secret=secrets[_APP[1]])


def _texts(credential: Secret) -> dict[str, str]:
    """Read an object of texts; empty when it is anything else."""
    if len(credential) > MAX_CREDENTIAL:
        return {}
    try:
        found = json.loads(credential.reveal().decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        return {}
    return found


def _shown(form: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{key}": "…"' for key in form) + "}"
