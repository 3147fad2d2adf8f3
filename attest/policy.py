"""The appraisal policy: what becomes of each PCR, and what the operator waives, as data.

A policy may be stricter than the one built in. It may never let pass what nobody may release:
the rules of a PCR are chosen from a table, and only what headquarters may release can be waived.
RFC 9334 (appraisal policy for evidence); docs/verifier.md has the file's form.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any

from attest.errors import AttestSiteError
from attest.reasons import Reason, Releaser

POLICY_TYPE = "doorstep/policy/v1"
MAX_POLICY = 1 << 18
DAY = 86_400


class Rule(Enum):
    """What a PCR is compared with."""

    PREDICTED = "predicted"
    """The value computed from a boot set's files, exactly."""
    KEYS = "keys"
    """The value computed from the files and the key databases that the log proves."""
    BASELINE = "baseline"
    """A value or events that headquarters signed for this maker, model and version."""
    IMA = "ima"
    """The kernel's measurement list, of which each module is part of the boot set."""
    LOG = "log"
    """Its part of the log replays; nothing more is asked."""


BOOT_PCRS = range(16)
_CHOICES: Mapping[int, tuple[Rule, ...]] = {
    **dict.fromkeys((4, 5, 8, 9, 11, 12, 13, 14, 15), (Rule.PREDICTED,)),
    **dict.fromkeys((0, 2, 3, 6), (Rule.BASELINE, Rule.LOG)),
    1: (Rule.LOG, Rule.BASELINE),
    7: (Rule.KEYS,),
    10: (Rule.IMA,),
}
"""Which rules a policy may choose for a PCR; the first is the one built in."""

DEFAULT_RULES: Mapping[int, Rule] = MappingProxyType(
    {index: _CHOICES[index][0] for index in BOOT_PCRS}
)
WAIVABLE = frozenset(
    r for r in Reason if r.releasable_by is Releaser.HEADQUARTERS and r is not Reason.LOG_MISSING
)
"""Headquarters writes the policy, so it may say beforehand what it would release each time.

Not a missing log: nothing would then prove a box's Secure Boot keys (PCR 7).
"""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROLE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TPM_FIRMWARE = re.compile(r"[0-9A-F]{8}:[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The site's appraisal policy.

    `without_secure_boot` names the roles whose boxes may start with Secure Boot off. `rehearsal`
    lets virtual TPMs in; it is true in a rehearsal's own site alone. `allowed_keys`
    are SHA-256 of the certificates (DER) that PK, KEK and db may hold beside those of the firmware
    baseline; None: no list is kept. `dbx_minimum` are SHA-256 image digests. `bad_tpm_firmware` is
    `MAKER:VERSION`, both in hexadecimal. `crl_max_age` is in seconds. It has no slots, so that the
    digest, which stands in every verdict, is computed once.
    """

    secure_boot_required: bool = True
    without_secure_boot: frozenset[str] = frozenset()
    rehearsal: bool = False
    sha1_alone: bool = False
    rules: Mapping[int, Rule] = field(default_factory=lambda: DEFAULT_RULES)
    waived: frozenset[Reason] = frozenset()
    allowed_keys: frozenset[bytes] | None = None
    dbx_minimum: frozenset[bytes] = frozenset()
    bad_tpm_firmware: frozenset[str] = frozenset()
    crl_max_age: int = 90 * DAY

    def to_toml(self) -> str:
        """Give the policy as TOML, in one fixed order: what the digest is over."""
        lines = [
            f'type = "{POLICY_TYPE}"',
            f"secure_boot_required = {_flag(self.secure_boot_required)}",
            f"rehearsal = {_flag(self.rehearsal)}",
            f"sha1_alone = {_flag(self.sha1_alone)}",
            f"crl_max_age_days = {self.crl_max_age // DAY}",
            f"waive = {_list(reason.code for reason in self.waived)}",
            f"bad_tpm_firmware = {_list(self.bad_tpm_firmware)}",
            f"dbx_minimum = {_list(digest.hex() for digest in self.dbx_minimum)}",
        ]
        if self.without_secure_boot:
            lines.append(f"without_secure_boot = {_list(self.without_secure_boot)}")
        if self.allowed_keys is not None:
            lines.append(f"allowed_keys = {_list(digest.hex() for digest in self.allowed_keys)}")
        lines += ["", "[pcr]", *(f'{index} = "{self.rules[index].value}"' for index in BOOT_PCRS)]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, name: str = "policy.toml") -> Policy:
        """Read a policy; AttestSiteError names the key that is wrong. What is absent is built in.

        `name` is what messages call the file.
        """
        try:
            document = tomllib.loads(_bounded(text, name))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise AttestSiteError(f"{name}: it is not TOML: {error}") from None
        if document.pop("type", None) != POLICY_TYPE:
            raise AttestSiteError(f'{name}: type: write type = "{POLICY_TYPE}" in its first line')
        found: dict[str, Any] = {}
        for key, value in document.items():
            if key not in _KEYS:
                raise AttestSiteError(f"{name}: {key}: there is no such key; {_known()}")
            field_name, read = _KEYS[key]
            found[field_name] = read(f"{name}: {key}", value)
        return cls(**found)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the TOML form."""
        return hashlib.sha256(self.to_toml().encode()).digest()


def _bounded(text: str, name: str) -> str:
    if len(text) > MAX_POLICY:
        raise AttestSiteError(f"{name}: it is larger than {MAX_POLICY} characters")
    return text


def _known() -> str:
    return f"known are {', '.join(sorted(_KEYS))}"


def _flag(value: bool) -> str:
    return str(value).lower()


def _list(values: Any) -> str:
    return "[" + ", ".join(f'"{value}"' for value in sorted(values)) + "]"


def _bool(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise AttestSiteError(f"{where}: write true or false")
    return value


def _days(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 3650:
        raise AttestSiteError(f"{where}: write a number of days from 1 to 3650")
    return value * DAY


def _strings(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AttestSiteError(f"{where}: write a list of texts")
    return value


def _reasons(where: str, value: Any) -> frozenset[Reason]:
    by_code = {reason.code: reason for reason in WAIVABLE}
    for code in _strings(where, value):
        if code not in by_code:
            allowed = ", ".join(sorted(by_code))
            raise AttestSiteError(
                f"{where}: {code} cannot be waived; headquarters may waive {allowed}"
            )
    return frozenset(by_code[code] for code in value)


def _digests(where: str, value: Any) -> frozenset[bytes]:
    for text in _strings(where, value):
        if not _DIGEST.fullmatch(text):
            raise AttestSiteError(f"{where}: {text[:80]!r} is no SHA-256 in lower-case hexadecimal")
    return frozenset(bytes.fromhex(text) for text in value)


def _roles(where: str, value: Any) -> frozenset[str]:
    for text in _strings(where, value):
        if not _ROLE.fullmatch(text):
            raise AttestSiteError(f"{where}: {text[:80]!r} is no name of a role")
    return frozenset(value)


def _tpm_firmware(where: str, value: Any) -> frozenset[str]:
    for text in _strings(where, value):
        if not _TPM_FIRMWARE.fullmatch(text):
            raise AttestSiteError(
                f'{where}: {text[:80]!r}: write "4E544300:0007000200010000", maker and version'
            )
    return frozenset(value)


def _rules(where: str, value: Any) -> Mapping[int, Rule]:
    if not isinstance(value, dict):
        raise AttestSiteError(f"{where}: write a table, {where}.0 to {where}.15")
    rules = dict(DEFAULT_RULES)
    for key, text in value.items():
        if not key.isdecimal() or int(key) not in _CHOICES:
            raise AttestSiteError(f"{where}.{key[:80]}: there are rules for PCR 0 to 15")
        choices = {rule.value: rule for rule in _CHOICES[int(key)]}
        if not isinstance(text, str) or text not in choices:
            raise AttestSiteError(f"{where}.{key}: it must be one of: {', '.join(choices)}")
        rules[int(key)] = choices[text]
    return MappingProxyType(rules)


_KEYS: Mapping[str, tuple[str, Callable[[str, Any], Any]]] = {
    "secure_boot_required": ("secure_boot_required", _bool),
    "without_secure_boot": ("without_secure_boot", _roles),
    "rehearsal": ("rehearsal", _bool),
    "sha1_alone": ("sha1_alone", _bool),
    "crl_max_age_days": ("crl_max_age", _days),
    "waive": ("waived", _reasons),
    "bad_tpm_firmware": ("bad_tpm_firmware", _tpm_firmware),
    "dbx_minimum": ("dbx_minimum", _digests),
    "allowed_keys": ("allowed_keys", _digests),
    "pcr": ("rules", _rules),
}
