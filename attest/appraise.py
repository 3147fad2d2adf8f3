"""Appraisal: evidence and expectation in, one result with every finding out.

It never raises on evidence: whatever cannot be read or does not hold becomes a finding, and only
a boot that matched one set as a whole is called verified. What was not there is named as not
checked and is never good. Order: keys, quotes, device key, counters, banks, values, log,
certificates, what the site knows. RFC 9334; docs/verifier.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attest.bootcheck import BootChecks, check_boot
from attest.counters import Known, Since, compare_counters
from attest.errors import AttestError, CheckError
from attest.evidence import (
    AttestationResult,
    Evidence,
    Outcome,
    Tier,
    Verdict,
)
from attest.expectation import BoxRecord, Expectation
from attest.identity import Identity, check_device, check_identity, check_quotes
from attest.logcheck import check_banks
from attest.platformcheck import CheckedPlatform, check_platform
from attest.policy import BOOT_PCRS, Policy, Rule
from attest.quote import Values, VerifiedQuote, check_coverage, join_quotes
from attest.reasons import Finding, Reason, Releaser


@dataclass(slots=True)
class _Draft:
    """What appraisal has gathered so far."""

    identity: Identity = field(default_factory=lambda: Identity(eks=(), ak=None))
    findings: list[Finding] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    quote: VerifiedQuote | None = None
    since: Since | None = None
    boot: BootChecks = field(default_factory=BootChecks)
    platform: CheckedPlatform = field(default_factory=CheckedPlatform)


def appraise(
    evidence: Evidence, expectation: Expectation, policy: Policy | None, now: float
) -> AttestationResult:
    """Judge the evidence of one session; `now` is unix time, for certificates alone.

    Without a policy nothing is demanded of Secure Boot, and the result is never "accepted".
    """
    draft = _Draft()
    if policy is None:
        draft.not_checked.append("what the site demands (policy.toml)")
        policy = Policy(secure_boot_required=False)
    try:
        _check(draft, evidence, expectation, policy, now)
    except CheckError as error:
        draft.findings.append(Finding(reason=error.reason, detail=error.detail))
    except AttestError as error:
        draft.findings.append(Finding(reason=Reason.VERIFIER_FAULT, detail=str(error)))
    return _result(draft, expectation, policy)


def _check(
    draft: _Draft, evidence: Evidence, expectation: Expectation, policy: Policy, now: float
) -> None:
    draft.identity = check_identity(evidence, expectation, policy, now)
    draft.not_checked += draft.identity.not_checked
    _check_quotes(draft, evidence)
    _check_device(draft, evidence)
    trust = draft.identity.trust
    draft.platform = check_platform(
        evidence, expectation, None if trust is None else trust.fingerprint, now
    )
    draft.findings += draft.platform.findings
    _check_record(draft, expectation.record, policy)
    if draft.values:
        draft.findings += check_banks(draft.values, sha1_alone=policy.sha1_alone)
    booted = _before_opening(draft, expectation.record)
    draft.boot = check_boot(evidence, booted, expectation, policy)
    draft.findings += draft.boot.findings
    draft.not_checked += draft.boot.not_checked


def _check_quotes(draft: _Draft, evidence: Evidence) -> None:
    for name, part in (
        ("quotes (quote*.attest, quote*.sig)", evidence.quotes),
        ("PCR values (pcrs.json)", evidence.pcrs),
        ("freshness (nonce.bin)", evidence.nonce),
    ):
        if part is None:
            draft.not_checked.append(name)
    quotes = check_quotes(evidence, draft.identity)
    if evidence.quotes is None or evidence.pcrs is None or draft.identity.ak is None:
        return
    banks = set(evidence.pcrs)
    if evidence.is_whole:
        # A box's own session: all of it was asked for, SHA-256 whenever there is more than SHA-1.
        wanted = banks if banks == {"sha1"} else {*banks, "sha256"}
        draft.values = check_coverage(quotes, frozenset(wanted))
    else:
        draft.values = join_quotes(quotes)
        draft.not_checked += _uncovered(draft.values)
    draft.quote = quotes[-1]


def _before_opening(draft: _Draft, record: BoxRecord | None) -> Values:
    """Give the values as they were before the box opened what it was given, if it renews.

    PCR 15 alone has moved since, and only to what these bundles make of it.
    """
    values = draft.values
    if record is None or not record.opened:
        return values
    wrong = [bank for bank, given in values.items() if given.get(15) != record.opened.get(bank)]
    if wrong:
        detail = f"{', '.join(sorted(wrong))}: PCR 15"
        draft.findings.append(Finding(reason=Reason.PCR_MISMATCH, detail=detail, told=_OPENED))
        return values
    return {bank: {**given, 15: bytes(len(given[15]))} for bank, given in values.items()}


_OPENED = "PCR 15 does not hold what this box was given in this boot: start it again."


def _uncovered(values: Values) -> list[str]:
    """Name what evidence made elsewhere leaves out of PCR 0 to 15."""
    found = []
    for bank, given in sorted(values.items()):
        missing = [index for index in BOOT_PCRS if index not in given]
        if missing:
            found.append(f"{bank}: PCR {', '.join(map(str, missing))} (not quoted)")
    return found


def _check_device(draft: _Draft, evidence: Evidence) -> None:
    device, public, ak = evidence.device, evidence.device_public, draft.identity.ak
    if device is None and public is None:
        draft.not_checked.append("the device key (device.pub)")
    elif draft.quote is None or ak is None or evidence.nonce is None:
        draft.not_checked.append("the device key (it hangs on quote, nonce and AK)")
    elif device is None or public is None:
        raise CheckError(Reason.DEVICE_KEY, "none was sent")
    else:
        check_device(device, public, evidence.nonce, ak, draft.quote)


def _check_record(draft: _Draft, record: BoxRecord | None, policy: Policy) -> None:
    """Compare counters and TPM firmware with what was last accepted."""
    if record is None:
        draft.not_checked.append("what the site knows of this box (delivery note, counters)")
    if draft.quote is None:
        return
    quote = draft.quote
    if record is not None:
        known = None
        if record.reset_count is not None:
            known = Known(
                reset_count=record.reset_count,
                restart_count=record.restart_count or 0,
                clock=record.clock or 0,
            )
        progress = compare_counters(known, quote.clock)
        draft.since = progress.since
        draft.findings += progress.findings
        if record.tpm_firmware is not None and record.tpm_firmware != quote.firmware_version:
            detail = f"{quote.firmware_version:016x} after {record.tpm_firmware:016x}"
            draft.findings.append(Finding(reason=Reason.TPM_FIRMWARE_CHANGED, detail=detail))
    trust = draft.identity.trust
    maker = trust.maker.removeprefix("id:").upper() if trust else ""
    firmware = f"{maker}:{quote.firmware_version:016x}"
    if firmware in policy.bad_tpm_firmware:
        draft.findings.append(Finding(reason=Reason.TPM_FIRMWARE_BAD, detail=firmware))


def _result(draft: _Draft, expectation: Expectation, policy: Policy) -> AttestationResult:
    trust, record, boot = draft.identity.trust, expectation.record, draft.boot
    findings = [*draft.findings, *(trust.findings if trust else ()), *_known(record)]
    released = [each for each in findings if _is_released(each, record, policy)]
    kept = [each for each in findings if each not in released]
    kept.sort(key=lambda each: each.reason.rank)
    verdict = _verdict(kept, verified=boot.match is not None, missing=bool(draft.not_checked))
    quote = draft.quote
    return AttestationResult(
        verdict=verdict,
        tier=_tier(verdict, boot, policy),
        findings=tuple(kept),
        released=tuple(released),
        not_checked=tuple(draft.not_checked),
        boot_set=boot.match,
        nearest=boot.nearest,
        changes=boot.changes,
        pcrs=boot.pcrs,
        values=draft.values,
        clock=None if quote is None else quote.clock,
        since=draft.since,
        firmware_version=None if quote is None else quote.firmware_version,
        firmware=boot.firmware,
        firmware_source=boot.firmware_source,
        workarounds=(*boot.workarounds, *(trust.workarounds if trust else ())),
        tpm=" ".join(filter(None, (trust.maker, trust.model, trust.version))) if trust else "",
        platform=draft.platform.facts,
        policy_digest=policy.digest,
        expectation_digest=expectation.digest,
    )


def _known(record: BoxRecord | None) -> list[Finding]:
    """Tell what the site's own tables say against a box."""
    if record is None:
        return []
    found = [] if record.listed else [Finding(reason=Reason.EK_UNLISTED)]
    if record.replaces:
        found.append(Finding(reason=Reason.BOX_REPLACES, detail=record.replaces))
    return found + [Finding(reason=Reason.FACTS_DIFFER, detail=text) for text in record.differences]


def _is_released(finding: Finding, record: BoxRecord | None, policy: Policy) -> bool:
    by_note = record is not None and record.note_names_ek
    if by_note and finding.reason.releasable_by is Releaser.SIGNED_NOTE:
        return True
    if finding.reason is Reason.SECURE_BOOT_OFF:
        # Nobody releases it when it is found; headquarters may have named the role beforehand.
        return record is not None and record.role in policy.without_secure_boot
    return finding.reason in policy.waived


def _verdict(findings: list[Finding], *, verified: bool, missing: bool) -> Verdict:
    """Refuse what nobody may release; hold what a person decides; accept only a verified boot."""
    releasers = {finding.reason.releasable_by for finding in findings}
    if Releaser.NOBODY in releasers:
        return Verdict.REFUSED
    if missing:
        return Verdict.INCOMPLETE
    if not verified:
        return Verdict.REFUSED
    return Verdict.HELD if releasers - {Releaser.ANYBODY} else Verdict.ACCEPTED


def _tier(verdict: Verdict, boot: BootChecks, policy: Policy) -> Tier:
    if verdict in (Verdict.REFUSED, Verdict.INCOMPLETE):
        return Tier.NOT_VERIFIED
    firmware = [index for index, rule in policy.rules.items() if rule is Rule.BASELINE]
    known = all(boot.pcrs.get(index) is Outcome.BASELINE for index in firmware)
    return Tier.VERIFIED if firmware and known else Tier.PROVISIONAL
