"""The EK certificate: does a maker that this site trusts vouch for this endorsement key?

Anchors come from the site's directory alone; nothing is ever fetched. A TPM in software vouches
for nothing, so its CA is an anchor in a rehearsal only and its EK is refused everywhere else.
RFC 5280, 6.1; TCG EK Credential Profile 2.5, 3.2 (fields of an EK certificate).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from attest.anchors import VIRTUAL, Anchors, decode_anchors, is_virtual_ca, is_virtual_name
from attest.chain import expired, find_path
from attest.crl import check_revocation
from attest.der import Certificate, join, public_key, weak_signature
from attest.errors import EvidenceError
from attest.reasons import Finding, Reason
from attest.usage import (
    KEY_AGREEMENT,
    KEY_ENCIPHERMENT,
    alternative_names,
    critical_faults,
    extended,
    is_ca,
    usage,
)
from keys.tpm_public import PublicArea

__all__ = [
    "EK_USAGE",
    "Anchors",
    "EkTrust",
    "check_ek_certificate",
    "check_ek_leaf",
    "decode_anchors",
    "description",
    "ek_leaves",
]

EK_USAGE = "2.23.133.8.1"
# TCG OID registry: platform certificates, whole and delta, with attributes or a key.
PLATFORM_USAGES = frozenset({"2.23.133.8.2", "2.23.133.8.4", "2.23.133.8.5", "2.23.133.8.6"})
_MAX_LEAVES = 4
_MAKER, _MODEL, _VERSION = "2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"

# TCG TPM Vendor ID Registry 1.08: IBM (swtpm, in both spellings), Google, VMware, Amazon.
_VIRTUAL_MAKERS = frozenset(
    {"id:00001014", "id:49424d00", "id:474f4f47", "id:564d5700", "id:414d5a4e"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EkTrust:
    """What the certificates say about an EK; nothing in `findings` gates when its chain holds.

    `chain` holds titles from the EK certificate to the anchor; `fingerprint` is that of the EK
    certificate (SHA-256 of the DER), None where none belongs to the key. `unrevoked` is
    "checked on DATE" when a list of every issuer was looked at, else "no list"; `revocation` has
    a sentence for each certificate.
    """

    findings: tuple[Finding, ...]
    maker: str = ""
    model: str = ""
    version: str = ""
    chain: tuple[str, ...] = ()
    fingerprint: bytes | None = None
    workarounds: tuple[str, ...] = ()
    unrevoked: str = "no list"
    revocation: tuple[str, ...] = ()
    path: tuple[Certificate, ...] = ()


def check_ek_certificate(
    chain: Iterable[bytes],
    anchors: Anchors,
    ek: PublicArea,
    now: float,
    *,
    rehearsal: bool,
    crl_max_age: float | None = None,
) -> EkTrust:
    """Judge an EK by the certificates of its box, as read from NV, in any order.

    `crl_max_age` in seconds: revocation lists may be no older; None for what they say themselves.
    """
    decoded, broken = join(chain)
    # A renewed certificate may lie beside the old one; each would do if it came alone.
    found = [
        check_ek_leaf(leaf, decoded, anchors, now, rehearsal=rehearsal, crl_max_age=crl_max_age)
        for leaf in [each for each in ek_leaves(decoded) if _holds(each, ek)][:_MAX_LEAVES]
    ]
    if not found:
        return EkTrust(findings=(_no_leaf(decoded, broken),))
    return min(found, key=lambda trust: sum(each.reason.gates for each in trust.findings))


def check_ek_leaf(
    leaf: Certificate,
    sent: Sequence[Certificate],
    anchors: Anchors,
    now: float,
    *,
    rehearsal: bool,
    crl_max_age: float | None = None,
) -> EkTrust:
    """Judge an EK certificate by itself, whichever key the box uses."""
    maker, model, version = told = description(leaf)
    faults = _leaf_faults(leaf, described=all(told))
    findings = [Finding(reason=Reason.EK_CERT_INVALID, detail=text) for text in faults]
    path = find_path(leaf, sent, anchors.certificates, EK_USAGE, now) or ()
    virtual = _is_virtual(leaf, maker, model) or any(is_virtual_ca(each) for each in path[1:])
    if virtual and not rehearsal:
        findings.append(Finding(reason=Reason.EK_VIRTUAL, detail=f"{maker} {model}"))
    if not path:
        issuer = ", ".join(text for _, text in leaf.issuer)
        findings.append(Finding(reason=Reason.EK_UNKNOWN, detail=f"issued by {issuer!r}"))
    findings += _date_faults(path or (leaf,), now)
    revocation = check_revocation(path, anchors.crls, now, crl_max_age)
    findings += revocation.findings
    weak = [each.title for each in path[:-1] if weak_signature(each)]
    if weak:
        findings.append(Finding(reason=Reason.EK_CERT_SHA1, detail=", ".join(weak)))
    return EkTrust(
        findings=tuple(findings),
        maker=maker,
        model=model,
        version=version,
        chain=tuple(certificate.title for certificate in path),
        fingerprint=leaf.fingerprint,
        workarounds=tuple(_tolerated(leaf)),
        unrevoked=revocation.unrevoked,
        revocation=revocation.told,
        path=path,
    )


def ek_leaves(decoded: Iterable[Certificate]) -> list[Certificate]:
    """Give the certificates that may be those of an EK; one of the platform may have its key."""
    return [each for each in decoded if not PLATFORM_USAGES & (extended(each) or frozenset())]


def description(leaf: Certificate) -> tuple[str, str, str]:
    """Read TPM maker, model and version from the subject alternative name."""
    found = alternative_names(leaf)
    return found.get(_MAKER, ""), found.get(_MODEL, ""), found.get(_VERSION, "")


def _holds(certificate: Certificate, ek: PublicArea) -> bool:
    """Compare keys, not bytes: an RSAES-OAEP or compressed encoding of the key is the same key."""
    try:
        key = public_key(certificate)
    except EvidenceError:
        return False
    return key == ek.public_key()


def _no_leaf(decoded: list[Certificate], broken: list[str]) -> Finding:
    others = [certificate for certificate in ek_leaves(decoded) if not is_ca(certificate)]
    if others:
        return Finding(reason=Reason.EK_CERT_MISMATCH, detail=others[0].title)
    if broken:
        return Finding(reason=Reason.EK_CERT_INVALID, detail=broken[0])
    return Finding(reason=Reason.EK_UNKNOWN, detail="the box has no EK certificate")


def _leaf_faults(leaf: Certificate, *, described: bool) -> Iterator[str]:
    """Name what an EK certificate must have and this one has not (profile, 3.2).

    The profile leaves the extended key usage to the maker, and Google's vTPM has none. Such a
    certificate must say by its key usage what it is for; one that names other usages is refused.
    """
    if is_ca(leaf):
        yield "it is a CA certificate"
    usages, key_usage = extended(leaf), _enciphers(leaf)
    if usages is None and not key_usage:
        yield "neither extended key usage nor key usage says that it is of an EK"
    if usages is not None and EK_USAGE not in usages:
        yield "its extended key usage is not that of an EK"
    if key_usage is False:
        yield "its key usage is not that of an EK"
    if not described:
        yield "it does not name maker, model and version of the TPM"
    yield from critical_faults(leaf)


def _enciphers(leaf: Certificate) -> bool | None:
    found = [usage(leaf, bit) for bit in (KEY_ENCIPHERMENT, KEY_AGREEMENT)]
    return None if None in found else any(found)


def _tolerated(leaf: Certificate) -> Iterator[str]:
    if extended(leaf) is None:
        yield "EK certificate: it has no extended key usage"
    if _enciphers(leaf) is None:
        yield "EK certificate: it has no key usage"


def _date_faults(path: Sequence[Certificate], now: float) -> Iterator[Finding]:
    for each in expired(path, now):
        detail = f"{each.title} is valid from {_day(each.not_before)} to {_day(each.not_after)}"
        yield Finding(reason=Reason.EK_CERT_EXPIRED, detail=detail)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _is_virtual(leaf: Certificate, maker: str, model: str) -> bool:
    if maker.lower() in _VIRTUAL_MAKERS:
        return True
    return VIRTUAL.search(model) is not None or is_virtual_name(leaf.issuer)
