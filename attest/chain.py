"""The path from a certificate to an anchor of this site: each step checked, dates told apart.

What the box sent is never an anchor. Where the site knows more than one path, the one whose
certificates are all in date is taken. RFC 5280, 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from attest.der import Certificate, is_signed_by
from attest.usage import (
    ANY_USAGE,
    CERT_SIGN,
    MAX_DEPTH,
    critical_faults,
    extended,
    is_ca,
    path_length,
    usage,
)

_MAX_PATHS = 8
# Each may be tried as the issuer of each other one: a box must not buy seconds of our time.
_MAX_SENT = 16


def find_path(
    leaf: Certificate,
    sent: Sequence[Certificate],
    anchors: Sequence[Certificate],
    purpose: str,
    now: float,
) -> tuple[Certificate, ...] | None:
    """Find a chain that holds from `leaf` to an anchor; None where there is none.

    An anchor that is itself an intermediate is followed up to its root where the site has that,
    so that the root's revocation list is looked at too. `purpose` is the extended key usage that
    each issuer must not exclude.
    """
    between = sent[:_MAX_SENT]
    begun: list[tuple[tuple[Certificate, ...], bool]] = [((leaf,), False)]
    found: list[tuple[Certificate, ...]] = []
    for depth in range(MAX_DEPTH + 1):
        longer: list[tuple[tuple[Certificate, ...], bool]] = []
        for path, anchored in begun:
            steps = [((*path, issuer), True) for issuer in _issuers(path, anchors, depth, purpose)]
            if anchored and not steps:
                found.append(path)
            steps += [
                ((*path, issuer), False) for issuer in _issuers(path, between, depth, purpose)
            ]
            longer += steps
        begun = longer[:_MAX_PATHS]
    return min(found, key=lambda path: (expired(path, now) != (), len(path)), default=None)


def expired(path: Sequence[Certificate], now: float) -> tuple[Certificate, ...]:
    """Give those that are not in date, the anchor too: an operator is to know."""
    return tuple(each for each in path if not each.not_before <= now <= each.not_after)


def _issuers(
    path: tuple[Certificate, ...], candidates: Sequence[Certificate], depth: int, purpose: str
) -> list[Certificate]:
    last = path[-1]
    if depth == MAX_DEPTH or (depth and last.subject == last.issuer):
        return []
    return [
        issuer
        for issuer in candidates
        if issuer.subject == last.issuer
        and issuer not in path
        and _may_issue(issuer, last, depth, purpose)
    ]


def _may_issue(issuer: Certificate, certificate: Certificate, below: int, purpose: str) -> bool:
    """Check one step of a path; `below` is how many CA certificates lie under the issuer."""
    if not is_ca(issuer) or usage(issuer, CERT_SIGN) is False or path_length(issuer) < below:
        return False
    usages = extended(issuer)
    if usages is not None and not usages & {purpose, ANY_USAGE}:
        return False
    if next(critical_faults(issuer), None) is not None:
        return False
    return is_signed_by(certificate, issuer)
