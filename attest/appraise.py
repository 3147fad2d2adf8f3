"""Appraisal: evidence and expectation in, one result with every finding out.

It never raises on evidence: whatever cannot be read or does not hold becomes a finding, and only
a boot that matched one set as a whole is called verified. Order: keys, quotes, device key,
counters, banks, values, log, certificates, what the site knows. RFC 9334; docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attest.ak import check_under_ek
from attest.bootmatch import (
    WITHOUT_LOG,
    Match,
    candidates,
    compare_values,
    known_variables,
    switched_off,
    unknown_variables,
)
from attest.certify import check_device_key
from attest.credential import BoxKeys, check_keys
from attest.ekcert import EkTrust, check_ek_certificate
from attest.errors import AttestError, AttestSiteError, CheckError, EvidenceError
from attest.eventlog import EventLog
from attest.evidence import (
    AttestationResult,
    BootSetMatch,
    Evidence,
    Outcome,
    Tier,
    Verdict,
)
from attest.explain import explain_mismatch, withdrawn
from attest.logcheck import check_banks, check_log
from attest.policy import BoxRecord, Expectation, Policy
from attest.predict import PREDICTED_PCRS
from attest.quote import Values, VerifiedQuote, check_coverage, check_quote
from attest.reasons import Finding, Reason, Releaser
from attest.transcript import device_data
from attest.variables import SecureBootVariables, variables_from_log
from attest.wire import ClockInfo

CLOCK_LOSS_MS = 1 << 22
"""How far a TPM clock may fall in a power cut (Part 1, 36.3: saved every 2^22 ms at most)."""

UNCHECKED_PCRS = (0, 1, 2, 3, 6, 10)
_STRONGEST = ("sha384", "sha256", "sha512", "sha1")


@dataclass(slots=True)
class _Draft:
    """What appraisal has gathered so far."""

    findings: list[Finding] = field(default_factory=list)
    workarounds: list[str] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    quote: VerifiedQuote | None = None
    match: Match | None = None
    pcrs: dict[int, Outcome] = field(default_factory=dict)


def appraise(
    evidence: Evidence, expectation: Expectation, policy: Policy, now: float
) -> AttestationResult:
    """Judge the evidence of one session; `now` is unix time, for certificates alone."""
    draft, trust = _Draft(), EkTrust(findings=())
    try:
        keys = check_keys(evidence.ek_public, evidence.ak_public)
        trust = check_ek_certificate(
            evidence.ek_certificates,
            expectation.anchors,
            keys.ek,
            now,
            rehearsal=policy.rehearsal,
        )
        _check_quotes(draft, evidence, keys)
        _check_device(draft, evidence, keys)
        _check_clock(draft, expectation.record)
        draft.findings += check_banks(draft.values)
        _check_boot(draft, evidence, expectation, policy)
    except CheckError as error:
        draft.findings.append(Finding(reason=error.reason, detail=error.detail))
    except AttestError as error:
        draft.findings.append(Finding(reason=Reason.VERIFIER_FAULT, detail=str(error)))
    return _result(draft, trust, expectation, policy)


def _check_quotes(draft: _Draft, evidence: Evidence, keys: BoxKeys) -> None:
    quotes = tuple(
        check_quote(
            attest=signed.attest,
            signature=signed.signature,
            ak=keys.ak,
            extra_data=evidence.nonce,
            values=evidence.pcrs,
        )
        for signed in evidence.quotes
    )
    for quote in quotes:
        check_under_ek(quote.qualified_signer, keys.ek, keys.ak)
    wanted = set(evidence.pcrs) if set(evidence.pcrs) == {"sha1"} else {*evidence.pcrs, "sha256"}
    draft.values = check_coverage(quotes, frozenset(wanted))
    draft.quote = quotes[-1]


def _check_device(draft: _Draft, evidence: Evidence, keys: BoxKeys) -> None:
    if evidence.device is None or draft.quote is None:
        raise CheckError(Reason.DEVICE_KEY, "none was sent")
    _, certified = check_device_key(
        public=evidence.device_public,
        attest=evidence.device.attest,
        signature=evidence.device.signature,
        ak=keys.ak,
        extra_data=device_data(evidence.nonce),
    )
    ours, quoted = certified.clock, draft.quote.clock
    if (ours.reset_count, ours.restart_count) != (quoted.reset_count, quoted.restart_count):
        raise CheckError(Reason.DEVICE_KEY, "it was certified in another boot")


def _check_clock(draft: _Draft, record: BoxRecord) -> None:
    """Compare counters with those last accepted; a normal reboot after a suspend passes."""
    if draft.quote is None or record.reset_count is None:
        return
    clock, known = draft.quote.clock, record.clock or 0
    fallen = known - clock.clock
    if clock.reset_count < record.reset_count:
        cleared = fallen > 0 and clock.restart_count <= (record.restart_count or 0)
        reason = Reason.TPM_CLEARED if cleared else Reason.COUNTER_BACK
        detail = f"resetCount {clock.reset_count} after {record.reset_count}"
        draft.findings.append(Finding(reason=reason, detail=detail))
    elif clock.reset_count == record.reset_count:
        if fallen > 0 or clock.restart_count < (record.restart_count or 0):
            detail = f"clock {clock.clock} after {known} in one boot"
            draft.findings.append(Finding(reason=Reason.COUNTER_BACK, detail=detail))
    elif fallen > 0:
        _clock_fell(draft, clock, fallen)


def _clock_fell(draft: _Draft, clock: ClockInfo, fallen: int) -> None:
    if fallen <= CLOCK_LOSS_MS and not clock.safe:
        draft.workarounds.append(f"the TPM clock fell by {fallen} ms in a power cut")
        return
    detail = f"the clock fell by {fallen} ms, safe={int(clock.safe)}"
    draft.findings.append(Finding(reason=Reason.COUNTER_BACK, detail=detail))


def _check_boot(
    draft: _Draft, evidence: Evidence, expectation: Expectation, policy: Policy
) -> None:
    draft.pcrs = dict.fromkeys(range(16), Outcome.UNCHECKED)
    checked = check_log(evidence.event_log, draft.values)
    draft.findings += checked.findings
    draft.workarounds += checked.workarounds
    bank = next(name for name in _STRONGEST if name in draft.values)
    variables = _variables(draft, checked.log, bank)
    if variables is not None and policy.secure_boot_required and not variables.secure_boot:
        draft.findings.append(Finding(reason=Reason.SECURE_BOOT_OFF))
    indices = PREDICTED_PCRS if variables is not None else WITHOUT_LOG
    if not expectation.sets:
        raise AttestSiteError("no boot set is known here")
    known = unknown_variables if variables is None else known_variables(variables)
    matches = [
        compare_values(candidate, draft.values, indices)
        for candidate in candidates(expectation.sets, known)
    ]
    whole = [match for match in matches if not match.differing]
    whole.sort(key=lambda match: not match.candidate.reference.state.acceptable)
    if whole:
        _matched(draft, whole[0], indices)
        return
    if variables is None and _boots_without_secure_boot(draft, expectation, policy):
        return
    draft.findings += explain_mismatch(matches, checked.log, bank, expectation.sets)
    _outcomes(draft, min(matches, key=lambda match: len(match.differing), default=None), indices)


def _variables(draft: _Draft, log: EventLog | None, bank: str) -> SecureBootVariables | None:
    if log is None:
        return None
    try:
        return variables_from_log(log, bank)
    except EvidenceError as error:
        draft.findings.append(Finding(reason=Reason.SECURE_BOOT_UNPROVED, detail=str(error)))
        return None


def _matched(draft: _Draft, match: Match, indices: tuple[int, ...]) -> None:
    draft.workarounds += match.workarounds
    _outcomes(draft, match, indices)
    if match.candidate.reference.state.acceptable:
        draft.match = match
    else:
        draft.findings.append(withdrawn(match))


def _outcomes(draft: _Draft, match: Match | None, indices: tuple[int, ...]) -> None:
    if match is not None:
        for index in indices:
            equal = index not in match.differing
            draft.pcrs[index] = Outcome.EQUAL if equal else Outcome.DIFFERS


def _boots_without_secure_boot(draft: _Draft, expectation: Expectation, policy: Policy) -> bool:
    """Find out without a log whether the values are those of a set with Secure Boot off.

    GRUB 2.06 hands over no log then, so this is what an honest box with Secure Boot off sends.
    """
    for candidate in candidates(expectation.sets, switched_off):
        match = compare_values(candidate, draft.values, WITHOUT_LOG)
        if match.differing:
            continue
        if policy.secure_boot_required:
            draft.findings.append(Finding(reason=Reason.SECURE_BOOT_OFF))
        _matched(draft, match, WITHOUT_LOG)
        return True
    return False


def _result(
    draft: _Draft, trust: EkTrust, expectation: Expectation, policy: Policy
) -> AttestationResult:
    record = expectation.record
    findings = [*draft.findings, *trust.findings]
    if not record.listed:
        findings.append(Finding(reason=Reason.EK_UNLISTED))
    findings += [Finding(reason=Reason.FACTS_DIFFER, detail=text) for text in record.differences]
    findings.append(Finding(reason=Reason.FIRMWARE_UNKNOWN))
    released = [each for each in findings if record.note_names_ek and _by_note(each)]
    kept = [each for each in findings if each not in released]
    kept.sort(key=lambda each: each.reason.rank)
    verdict = _verdict(kept, verified=draft.match is not None)
    return AttestationResult(
        verdict=verdict,
        tier=Tier.NOT_VERIFIED if verdict is Verdict.REFUSED else Tier.BOOT_VERIFIED,
        findings=tuple(kept),
        released=tuple(released),
        boot_set=None if draft.match is None else _boot_set(draft.match),
        pcrs=draft.pcrs,
        values=draft.values,
        clock=None if draft.quote is None else draft.quote.clock,
        firmware_version=None if draft.quote is None else draft.quote.firmware_version,
        workarounds=(*draft.workarounds, *trust.workarounds),
        tpm=" ".join(part for part in (trust.maker, trust.model, trust.version) if part),
        policy_digest=policy.digest,
        expectation_digest=expectation.digest,
    )


def _by_note(finding: Finding) -> bool:
    return finding.reason.releasable_by is Releaser.SIGNED_NOTE


def _verdict(findings: list[Finding], *, verified: bool) -> Verdict:
    """Refuse what nobody may release; hold what a person decides; accept only a verified boot."""
    releasers = {finding.reason.releasable_by for finding in findings}
    if Releaser.NOBODY in releasers or not verified:
        return Verdict.REFUSED
    return Verdict.HELD if releasers - {Releaser.ANYBODY} else Verdict.ACCEPTED


def _boot_set(match: Match) -> BootSetMatch:
    reference = match.candidate.reference
    return BootSetMatch(
        digest=reference.digest,
        name=reference.name,
        version=reference.version,
        transport=match.candidate.transport.value,
        server=match.candidate.server,
    )
