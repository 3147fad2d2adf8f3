"""Secrets that end on a day of their own: licenses, certificates and other dated files.

Pure: bytes, the operator's words and `now` go in. The day comes from the operator or from an X.509
certificate; no maker's format of a license is guessed. It never decides who gets one. RFC 5280,
4.1.2.5 (validity); RFC 7468 (PEM).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from keys.errors import PeerError
from keys.rules import MAX_AHEAD, SecretKind, SecretRule

ALARM_SECONDS = 30 * 86_400
"""So long before its end a dated secret is told of."""
NO_END = 253_402_300_799
"""99991231235959Z: how a certificate says that it has no end (RFC 5280, 4.1.2.5)."""
DAY = 86_400
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(?::(\d\d))?Z)?", re.ASCII)
_PEM = b"-----BEGIN CERTIFICATE-----"


def read_until(text: str) -> int:
    """Read `2027-01-31`, good to the end of that day in UTC, or `2027-01-31T12:00Z`.

    Gives unix seconds. PeerError for anything else: a date without its year is two dates.
    """
    found = _DAY.fullmatch(text)
    try:
        if found is None:
            raise ValueError("another form")
        day, minute, second = found.groups()
        at = datetime.fromisoformat(f"{day}T{minute or '23:59'}:{second or '59'}")
    except ValueError:
        shown = repr(text) if len(text) <= 40 and text.isprintable() else "this"
        raise PeerError(
            f"{shown} is no date: write year, month and day, as in 2027-01-31 (to its end, UTC)"
        ) from None
    if minute is not None and second is None:
        at = at.replace(second=0)
    return int(at.replace(tzinfo=UTC).timestamp())


def end_of(rule: SecretRule, value: bytes, until: str | None, now: float) -> int:
    """Say in unix seconds when a value that is stored now ends; PeerError says what is wrong.

    A plain secret ends with its ttl. A certificate ends when it says, or sooner; a license too, if
    it is a certificate; everything else on the day of `until`.
    """
    if not rule.kind.is_dated:
        if until is not None:
            raise PeerError(
                f"{rule.name} is a plain secret and ends with its ttl: for a day of its own say "
                'kind = "license", "certificate" or "blob" in site.toml'
            )
        return int(now) + int(rule.ttl.total_seconds())
    given = None if until is None else read_until(until)
    end = _earlier(rule, given, _inside(rule.kind, value, given is not None))
    if end <= now:
        raise PeerError(f"this {rule.kind.value} ended on {day(end)}: ask for a new one")
    if end - now > MAX_AHEAD.total_seconds():
        years = MAX_AHEAD.days // 366
        raise PeerError(f"{day(end)} is more than {years} years ahead: look at the year again")
    return end


def _earlier(rule: SecretRule, given: int | None, inside: int | None) -> int:
    """Give the one end there is; a day that goes beyond a certificate's own is a mistake."""
    if inside is None:
        if given is None:
            raise PeerError(
                f"when does {rule.name} end? Nothing in a {rule.kind.value} of this form says it: "
                "give --until 2027-01-31"
            )
        return given
    if given is not None and given // DAY > inside // DAY:
        raise PeerError(f"the certificate itself ends on {day(inside)}, before {day(given)}")
    return inside if given is None else min(given, inside)


def _inside(kind: SecretKind, value: bytes, is_dated: bool) -> int | None:
    """Read the end in the value; None where the value says none. PeerError when it is unfit."""
    if kind is SecretKind.CERTIFICATE:
        return _certificate_end(value, is_dated)
    # A license may hold its maker's certificate: only one that is nothing else has that end.
    if kind is SecretKind.LICENSE and not is_dated and value.lstrip().startswith(_PEM):
        return _certificate_end(value, is_dated)
    return None


def _certificate_end(value: bytes, is_dated: bool) -> int | None:
    try:
        found = (
            x509.load_pem_x509_certificates(value)
            if _PEM in value
            else [x509.load_der_x509_certificate(value)]
        )
        ends = [int(one.not_valid_after_utc.timestamp()) for one in found]
    except (ValueError, x509.InvalidVersion):
        raise PeerError("this is no X.509 certificate in PEM or DER, or it is damaged") from None
    if len(ends) > 1:
        raise PeerError(
            f"here are {len(ends)} certificates, and each has an end: store each under its own name"
        )
    if ends[0] < NO_END:
        return ends[0]
    if not is_dated:
        raise PeerError("this certificate says that it has no end: give one with --until")
    return None


def alarms(secrets: Iterable[Mapping[str, Any]], now: float) -> tuple[str, ...]:
    """Say of each dated secret that ends soon, or has ended: what, where and whom to ask.

    `secrets` have `name`, `kind`, `reason`, `ask`, `roles`, and `dated`: unix seconds, or None.
    """
    told = [
        (one["dated"], _alarm(one, one["dated"], now))
        for one in secrets
        if one.get("dated") is not None and one["dated"] - now <= ALARM_SECONDS
    ]
    return tuple(text for _, text in sorted(told))


def _alarm(one: Mapping[str, Any], end: int, now: float) -> str:
    roles = " and ".join(one["roles"])
    what = f"{one['kind']} {one['name']}{f' of {roles}' if roles else ''}"
    ask = f"ask {one['ask'] or 'its maker'} for a new one"
    if end <= now:
        return f"{what} ended on {day(end)} and is given to no box: {ask}"
    return f"{what} ends {_in(end - now)}: {ask}"


def _in(seconds: float) -> str:
    days = int(seconds // DAY)
    if not days:
        return "within a day"
    return f"in {days} day{'' if days == 1 else 's'}"


def days_left(end: float, now: float) -> int:
    """Count whole days to an end; 0 on its last day and after."""
    return max(0, int((end - now) // DAY))


def day(at: float) -> str:
    """Write a day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
