"""The bodies that a box sends, taken apart: JSON in, typed values or `Malformed` out.

It verifies nothing about the box and never reads inside a TPM structure, a log or the facts.
Specification: docs/phone-home-v1.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from attest.transcript import Purpose
from bootstrap.errors import PeerError

MEDIA_TYPE = "application/vnd.doorstep.phone-home.v1+json"
MAX_HELLO = 64 * 1024
MAX_EVIDENCE = 6 * 1024 * 1024
MAX_REPORT = 64 * 1024
MAX_CERTIFICATE = 8 * 1024
MAX_CERTIFICATES = 8
MAX_PLATFORM_CERTIFICATES = 4
MAX_LOG = 4 * 1024 * 1024
MAX_FACTS = 64 * 1024
MAX_PUBLIC = 1024
MAX_ATTEST = 2048
PCRS = range(16)
DIGEST_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
TROUBLE_REASONS = ("TPM-NONE", "TPM-OWNED", "EK-NONE")
_B64U = re.compile(r"[A-Za-z0-9_-]*\Z")


class Malformed(PeerError):  # noqa: N818 - the name of the answer's reason
    """The body breaks the protocol; the text says in which field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Step 1: the keys a box claims to hold."""

    ek_public: bytes
    ek_certificates: tuple[bytes, ...]
    ak_public: bytes
    box_nonce: bytes
    purpose: Purpose = Purpose.ENROL


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAttest:
    """One TPMS_ATTEST with its TPMT_SIGNATURE, both as marshalled."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceBody:
    """Step 2: the evidence, still unverified."""

    hello: bytes
    quotes: tuple[SignedAttest, ...]
    pcrs: Mapping[str, tuple[bytes, ...]]
    event_log: bytes
    ima_log: bytes
    facts: bytes
    ephemeral: bytes
    device_public: bytes
    device: SignedAttest
    ssh_host_key: bytes
    platform_certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBody:
    """Step 4: what the box did with its hand-over, signed by its device key."""

    report: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The signed part of step 4."""

    checks: Mapping[str, str]
    secrets: Mapping[str, bytes]
    medium_needed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """An unauthenticated claim of a box that cannot begin."""

    reason: str
    facts: bytes


def b64u(data: bytes) -> str:
    """Encode bytes the one way this protocol knows: base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64u(text: object, where: str, *, limit: int, exact: int | None = None) -> bytes:
    """Decode base64url without padding; Malformed for any other spelling of the same bytes."""
    if not isinstance(text, str) or len(text) > limit * 4 // 3 + 4 or not _B64U.match(text):
        raise Malformed(f"{where}: must be base64url without padding, at most {limit} bytes")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise Malformed(f"{where}: not base64url") from None
    if b64u(data) != text or len(data) > limit or (exact is not None and len(data) != exact):
        raise Malformed(f"{where}: wrong size or not canonical base64url")
    return data


def decode_hello(body: bytes) -> Hello:
    """Take the body of `POST /v1/sessions` apart; raise Malformed."""
    names = {"ek_public", "ek_certificates", "ak_public", "box_nonce"}
    fields = _object(body, MAX_HELLO, names, {"purpose"})
    # What enrols says no purpose, as sites of older releases expect it.
    if fields.get("purpose", Purpose.RENEW) != Purpose.RENEW.value:
        raise Malformed("purpose: renew, or left out to enrol")
    certificates = _list(fields["ek_certificates"], "ek_certificates", MAX_CERTIFICATES)
    return Hello(
        ek_public=from_b64u(fields["ek_public"], "ek_public", limit=MAX_PUBLIC),
        ek_certificates=tuple(
            from_b64u(item, f"ek_certificates[{index}]", limit=MAX_CERTIFICATE)
            for index, item in enumerate(certificates)
        ),
        ak_public=from_b64u(fields["ak_public"], "ak_public", limit=MAX_PUBLIC),
        box_nonce=from_b64u(fields["box_nonce"], "box_nonce", limit=32, exact=32),
        purpose=Purpose.RENEW if "purpose" in fields else Purpose.ENROL,
    )


_EVIDENCE_FIELDS = {
    "hello",
    "quotes",
    "pcrs",
    "event_log",
    "ima_log",
    "facts",
    "ephemeral",
    "device_public",
    "device_attest",
    "device_signature",
    "ssh_host_key",
}
_EVIDENCE_OPTIONAL = {"platform_certificates"}


def decode_evidence(body: bytes) -> EvidenceBody:
    """Take the body of `POST /v1/sessions/{session}/evidence` apart; raise Malformed."""
    fields = _object(body, MAX_EVIDENCE, _EVIDENCE_FIELDS, _EVIDENCE_OPTIONAL)

    def take(name: str, limit: int, exact: int | None = None) -> bytes:
        return from_b64u(fields[name], name, limit=limit, exact=exact)

    quotes = _list(fields["quotes"], "quotes", 4)
    if not quotes:
        raise Malformed("quotes: at least one")
    name = "platform_certificates"
    platform = _list(fields.get(name, []), name, MAX_PLATFORM_CERTIFICATES)
    return EvidenceBody(
        hello=take("hello", MAX_HELLO),
        quotes=tuple(_quote(item, index) for index, item in enumerate(quotes)),
        pcrs=_pcrs(fields["pcrs"]),
        event_log=take("event_log", MAX_LOG),
        ima_log=take("ima_log", MAX_LOG),
        facts=take("facts", MAX_FACTS),
        ephemeral=take("ephemeral", 32, 32),
        device_public=take("device_public", MAX_PUBLIC),
        device=SignedAttest(
            attest=take("device_attest", MAX_ATTEST),
            signature=take("device_signature", MAX_ATTEST),
        ),
        ssh_host_key=take("ssh_host_key", MAX_PUBLIC),
        platform_certificates=tuple(
            from_b64u(item, f"{name}[{index}]", limit=MAX_CERTIFICATE)
            for index, item in enumerate(platform)
        ),
    )


def decode_report(body: bytes) -> ReportBody:
    """Take the body of `POST /v1/sessions/{session}/report` apart; raise Malformed."""
    fields = _object(body, MAX_REPORT, {"report", "signature"})
    return ReportBody(
        report=from_b64u(fields["report"], "report", limit=MAX_REPORT),
        signature=from_b64u(fields["signature"], "signature", limit=64, exact=64),
    )


def decode_report_content(report: bytes) -> Report:
    """Take the signed part of a report apart, after its signature held; raise Malformed."""
    fields = _strict_json(report)
    _exact_keys(fields, {"checks", "secrets", "medium_needed"})
    checks, secrets = fields["checks"], fields["secrets"]
    if not isinstance(checks, dict) or not all(isinstance(v, str) for v in checks.values()):
        raise Malformed("report.checks: must map names to text")
    if not isinstance(secrets, dict):
        raise Malformed("report.secrets: must be an object")
    if not isinstance(fields["medium_needed"], bool):
        raise Malformed("report.medium_needed: must be true or false")
    return Report(
        checks=checks,
        secrets={
            name: from_b64u(value, f"report.secrets.{name}", limit=32, exact=32)
            for name, value in secrets.items()
        },
        medium_needed=fields["medium_needed"],
    )


def decode_trouble(body: bytes) -> Trouble:
    """Take the body of `POST /v1/trouble` apart; raise Malformed."""
    fields = _object(body, MAX_REPORT, {"reason", "facts"})
    if fields["reason"] not in TROUBLE_REASONS:
        raise Malformed(f"reason: one of {', '.join(TROUBLE_REASONS)}")
    return Trouble(
        reason=fields["reason"], facts=from_b64u(fields["facts"], "facts", limit=MAX_FACTS)
    )


def decode_facts(facts: bytes) -> Mapping[str, Any]:
    """Read the facts as JSON; an empty object when they are none, so no fact is believed."""
    try:
        return _strict_json(facts)
    except Malformed:
        return {}


def _quote(item: object, index: int) -> SignedAttest:
    where = f"quotes[{index}]"
    if not isinstance(item, dict) or set(item) != {"attest", "signature"}:
        raise Malformed(f"{where}: must have attest and signature")
    return SignedAttest(
        attest=from_b64u(item["attest"], f"{where}.attest", limit=MAX_ATTEST),
        signature=from_b64u(item["signature"], f"{where}.signature", limit=MAX_ATTEST),
    )


def _pcrs(value: object) -> Mapping[str, tuple[bytes, ...]]:
    if not isinstance(value, dict) or not value or not set(value) <= set(DIGEST_SIZES):
        raise Malformed(f"pcrs: must map banks ({', '.join(DIGEST_SIZES)}) to values")
    banks = {}
    for bank, values in value.items():
        size = DIGEST_SIZES[bank]
        if not isinstance(values, list) or len(values) != len(PCRS):
            raise Malformed(f"pcrs.{bank}: must be {len(PCRS)} values")
        banks[bank] = tuple(
            from_b64u(item, f"pcrs.{bank}[{index}]", limit=size, exact=size)
            for index, item in enumerate(values)
        )
    return banks


def _object(
    body: bytes, limit: int, keys: set[str], optional: Collection[str] = ()
) -> Mapping[str, Any]:
    if len(body) > limit:
        raise Malformed(f"body: at most {limit} bytes")
    fields = _strict_json(body)
    _exact_keys(fields, keys | {"v"} | (set(optional) & set(fields)))
    if fields["v"] != 1 or isinstance(fields["v"], bool):
        raise Malformed("v: this site speaks version 1")
    return fields


def _exact_keys(fields: Mapping[str, Any], keys: set[str]) -> None:
    if missing := sorted(keys - set(fields)):
        raise Malformed(f"{missing[0]}: missing")
    if unknown := sorted(set(fields) - keys):
        raise Malformed(f"{unknown[0][:40]}: unknown field")


def _list(value: object, where: str, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise Malformed(f"{where}: must be a list of at most {limit}")
    return value


def _strict_json(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise Malformed("body: not JSON, or a key twice") from None
    if not isinstance(value, dict):
        raise Malformed("body: must be a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key twice")
    return fields


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
