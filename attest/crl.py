"""Revocation lists of TPM makers: what they revoke, whose they are, how old they are.

Lists come from the site's trust store alone; nothing is ever fetched. A list that speaks for other
issuers (indirect) or changes another list (delta) is refused: it would say less than it seems to.
RFC 5280, 5 (CRLs) and 6.3 (validation).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from attest.asn1 import (
    INTEGER,
    SEQUENCE,
    Element,
    Name,
    bits,
    children,
    directory_name,
    header,
    oid_text,
    read,
    serial_number,
    time,
)
from attest.der import Certificate, Extension, decode_extensions
from attest.errors import EvidenceError
from attest.reasons import Finding, Reason
from attest.usage import CRL_SIGN, is_ca, usage
from attest.x509keys import decode_spki, verifies

MAX_CRL = 16 << 20
MAX_ENTRIES = 500_000
_NUMBER, _DELTA, _SCOPE, _KEY = "2.5.29.20", "2.5.29.27", "2.5.29.28", "2.5.29.35"
_UNDERSTOOD = frozenset({_NUMBER, _SCOPE, _KEY})
_CRL_POINTS = "2.5.29.31"
_POINT, _USERS, _CAS = 0xA0, 0x81, 0x82
_CERTIFICATE_ISSUER = bytes.fromhex("0603551d1d")
_TIMES = (0x17, 0x18)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crl:
    """A revocation list; times in unix seconds, serial numbers without sign.

    `points` are the addresses (with tag and length) that it speaks for when it is one part of
    several; `only_users` and `only_cas` say that it leaves out the other kind.
    """

    issuer: Name
    this_update: int
    next_update: int | None
    revoked: frozenset[int]
    number: int | None
    points: frozenset[bytes]
    only_users: bool
    only_cas: bool
    tbs: bytes
    algorithm: str
    parameters: bytes
    signature: bytes
    der: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER."""
        return hashlib.sha256(self.der).digest()

    @property
    def title(self) -> str:
        """Name of its issuer, for people."""
        names = dict(self.issuer)
        return names.get("2.5.4.3") or ", ".join(names.values()) or self.fingerprint.hex()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What lists say about a path: findings, a sentence for each certificate, and in one word."""

    findings: tuple[Finding, ...]
    told: tuple[str, ...]
    unrevoked: str


@lru_cache(maxsize=32)
def decode_crl(data: bytes) -> Crl:
    """Split a list (DER); EvidenceError when it is none, or none of a kind that is used here."""
    if len(data) > MAX_CRL:
        raise EvidenceError("a revocation list is too long")
    whole = read(data)
    if whole.tag != SEQUENCE:
        raise EvidenceError("a revocation list has not the shape of one")
    try:
        tbs, algorithm, signature = children(whole.content)
        fields = list(children(tbs.content))
        if fields[0].tag == INTEGER:
            fields = fields[1:]
        inner, issuer, this_update, *rest = fields
        if inner.raw != algorithm.raw:
            raise EvidenceError("a revocation list names two signature algorithms")
        parts = list(children(algorithm.content))
        name = oid_text(parts[0].content)
    except (ValueError, IndexError):
        raise EvidenceError("a revocation list has not the shape of one") from None
    until = rest[0] if rest and rest[0].tag in _TIMES else None
    entries = next((field.content for field in rest if field.tag == SEQUENCE), b"")
    extensions = next((read(field.content).content for field in rest if field.tag == 0xA0), b"")
    number, scope = _scope(decode_extensions(extensions))
    return Crl(
        issuer=directory_name(issuer.content),
        this_update=time(this_update),
        next_update=None if until is None else time(until),
        revoked=frozenset(_serials(entries)),
        number=number,
        points=_points(scope),
        only_users=_flag(scope, 0x81),
        only_cas=_flag(scope, 0x82),
        tbs=tbs.raw,
        algorithm=name,
        parameters=parts[1].raw if len(parts) > 1 else b"",
        signature=bits(signature),
        der=whole.raw,
    )


def is_crl(data: bytes) -> bool:
    """Tell whether DER has the shape of a list: a date follows its issuer at once."""
    try:
        fields = children(read(read(data).content).content)
        kinds = [field.tag for _, field in zip(range(4), fields, strict=False)]
    except EvidenceError:
        return False
    if kinds[:1] == [INTEGER]:
        kinds = kinds[1:]
    return len(kinds) >= 3 and kinds[:2] == [SEQUENCE, SEQUENCE] and kinds[2] in _TIMES


@lru_cache(maxsize=256)
def is_crl_signed_by(crl: Crl, spki: bytes) -> bool:
    """Verify a list under a key, over its raw bytes."""
    try:
        key = decode_spki(spki)
    except EvidenceError:
        return False
    return verifies(key, crl.algorithm, crl.parameters, crl.signature, crl.tbs)


def is_list_of(crl: Crl, issuer: Certificate) -> bool:
    """Tell whether a list is one of this CA: its name, its right to sign lists, its signature."""
    if crl.issuer != issuer.subject or usage(issuer, CRL_SIGN) is False:
        return False
    return is_crl_signed_by(crl, issuer.spki)


def check_revocation(
    path: Sequence[Certificate], crls: Sequence[Crl], now: float, max_age: float | None = None
) -> Revocation:
    """Look up each certificate of a path but the last in the lists of its issuer.

    `max_age` in seconds: a list may be no older, whatever it says itself.
    """
    findings: list[Finding] = []
    told: list[str] = []
    checked: list[int] = []
    steps = list(zip(path[:-1], path[1:], strict=True))
    for certificate, issuer in steps:
        lists = [crl for crl in crls if is_list_of(crl, issuer)]
        if any(certificate.serial in crl.revoked for crl in lists):
            told.append(f"{certificate.title}: revoked by {issuer.title}")
            findings.append(Finding(reason=Reason.EK_CERT_REVOKED, detail=told[-1]))
            continue
        newest = max(
            (crl for crl in lists if _covers(crl, certificate)),
            key=lambda crl: crl.this_update,
            default=None,
        )
        if newest is None:
            told.append(f"{certificate.title}: no list of {issuer.title}")
            continue
        checked.append(newest.this_update)
        told.append(f"{certificate.title}: not on the list of {_day(newest.this_update)}")
        stale = _stale(newest, now, max_age)
        if stale:
            findings.append(
                Finding(reason=Reason.CRL_STALE, detail=f"the list of {issuer.title} {stale}")
            )
    complete = bool(steps) and len(checked) == len(steps)
    return Revocation(
        findings=tuple(findings),
        told=tuple(told),
        unrevoked=f"checked on {_day(min(checked))}" if complete else "no list",
    )


def _stale(crl: Crl, now: float, max_age: float | None) -> str:
    if crl.this_update > now:
        return f"is of {_day(crl.this_update)}, which is still to come"
    if crl.next_update is not None and crl.next_update < now:
        return f"was to be renewed by {_day(crl.next_update)}"
    if max_age is not None and now - crl.this_update > max_age:
        return f"is of {_day(crl.this_update)}, older than this site's policy allows"
    return ""


def _covers(crl: Crl, certificate: Certificate) -> bool:
    """Tell whether a list speaks of a certificate at all, where a maker's lists are in parts."""
    if crl.only_cas if not is_ca(certificate) else crl.only_users:
        return False
    if not crl.points:
        return True
    extension = certificate.extensions.get(_CRL_POINTS)
    return extension is not None and any(point in extension.value for point in crl.points)


def _scope(extensions: Mapping[str, Extension]) -> tuple[int | None, tuple[Element, ...]]:
    """Give number and scope (RFC 5280, 5.2.5); EvidenceError for a list of less than it seems."""
    if _DELTA in extensions:
        raise EvidenceError("a revocation list changes another one (delta)")
    for name, extension in extensions.items():
        if extension.critical and name not in _UNDERSTOOD:
            raise EvidenceError(f"a revocation list has the critical extension {name}")
    number, scope = extensions.get(_NUMBER), extensions.get(_SCOPE)
    fields = () if scope is None else tuple(children(read(scope.value).content))
    for field in fields:
        if field.tag not in (_POINT, _USERS, _CAS) and field.content != b"\0":
            raise EvidenceError("a revocation list is of other issuers (indirect) or some reasons")
    return None if number is None else serial_number(read(number.value)), fields


def _points(scope: Sequence[Element]) -> frozenset[bytes]:
    names = [name for field in scope if field.tag == _POINT for name in children(field.content)]
    return frozenset(part.raw for name in names for part in children(name.content))


def _flag(scope: Sequence[Element], tag: int) -> bool:
    return any(field.tag == tag and field.content != b"\0" for field in scope)


def _serials(content: bytes) -> Iterator[int]:
    """Read the revoked serial numbers; the only loop here that may run half a million times."""
    # RFC 5280, 5.3.3: an entry with a certificate issuer makes the list an indirect one.
    if _CERTIFICATE_ISSUER in content:
        raise EvidenceError("a revocation list speaks for other issuers (indirect)")
    offset, count = 0, 0
    while offset < len(content):
        tag, start, end = header(content, offset)
        kind, first, last = header(content, start)
        if tag != SEQUENCE or kind != INTEGER or not first < last <= end <= len(content):
            raise EvidenceError("a revocation list holds an entry that is none")
        count += 1
        if count > MAX_ENTRIES or last - first > 64:
            raise EvidenceError("a revocation list is too long")
        yield int.from_bytes(content[first:last], "big")
        offset = end


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
