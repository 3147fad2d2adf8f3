"""The platform certificates that a box sent, beside its EK certificate and its own facts.

They count only where the site trusts a maker of machines. Then one that does not hold is a finding,
and what it says of the machine is compared with what the machine says of itself.
TCG Platform Certificate Profile 1.1, 3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from attest.der import Certificate, decode_certificate
from attest.errors import EvidenceError
from attest.evidence import Evidence
from attest.expectation import Expectation
from attest.platformcert import PlatformFacts, check_platform_certificate
from attest.reasons import Finding, Reason

_COMPARED = (("serial", "product_serial"), ("model", "product_name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPlatform:
    """What the certificates say, for people and for the template check."""

    facts: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def check_platform(
    evidence: Evidence, expectation: Expectation, ek_fingerprint: bytes | None, now: float
) -> CheckedPlatform:
    """Judge the platform certificates; `ek_fingerprint` is that of the EK certificate in use."""
    if not evidence.platform_certificates:
        return CheckedPlatform()
    if expectation.platform_anchors is None:
        return CheckedPlatform(facts={"checked": "no: no maker of machines is trusted here"})
    sent = _certificates(evidence.ek_certificates)
    leaf = next((one for one in sent if one.fingerprint == ek_fingerprint), None)
    if leaf is None:
        finding = Finding(reason=Reason.PLATFORM_CERT, detail="there is no EK certificate with it")
        return CheckedPlatform(findings=(finding,))
    told: dict[str, str] = {}
    findings: list[Finding] = []
    for data in evidence.platform_certificates:
        trust = check_platform_certificate(data, leaf, expectation.platform_anchors, now, sent=sent)
        findings += trust.findings
        facts = None if trust.findings else trust.facts
        if facts is not None:
            told |= _plain(facts)
            findings += _differences(facts, evidence.facts)
    return CheckedPlatform(facts=told, findings=tuple(findings))


def _certificates(stored: tuple[bytes, ...]) -> list[Certificate]:
    found: list[Certificate] = []
    for data in stored:
        try:
            found.append(decode_certificate(data))
        except EvidenceError:
            continue
    return found


def _plain(facts: PlatformFacts) -> dict[str, str]:
    names = ("manufacturer", "model", "version", "serial")
    told = {name: getattr(facts, name) for name in names if getattr(facts, name)}
    for number, part in enumerate(facts.components):
        values = (part.manufacturer, part.model, part.serial)
        told[f"component {number}"] = " ".join(value for value in values if value)
    return told


def _differences(certified: PlatformFacts, facts: bytes | None) -> Iterator[Finding]:
    """Find where the box calls itself otherwise than its maker did."""
    try:
        smbios = json.loads(facts or b"{}").get("smbios")
        told = {name: str(smbios.get(fact) or "") for name, fact in _COMPARED}
    except (ValueError, AttributeError, RecursionError):
        return
    for name, _ in _COMPARED:
        wanted, box = getattr(certified, name), told[name]
        if wanted and box and wanted.strip() != box.strip():
            detail = f"its platform certificate says {name} {wanted[:60]}, the box says {box[:60]}"
            yield Finding(reason=Reason.FACTS_DIFFER, detail=detail)
