"""The verifier inside control: makes the expectation, appraises, keeps the evidence.

What appraisal says is taken as it is. If it did not call the boot verified, something that nobody
may release is held against the box, whatever the findings are: no verdict falls open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from attest.appraise import appraise
from attest.evidence import AttestationResult, Evidence, Signed, Tier
from attest.evidence import Verdict as AttestVerdict
from attest.expectation import Expectation
from attest.firmware import machine_of
from attest.io.archive import transcript_fields, write_evidence
from attest.policy import Policy
from attest.reasons import Finding as AttestFinding
from attest.reasons import Reason
from bootstrap.enrolment import Finding, Release
from bootstrap.io.references import References
from bootstrap.judgement import MAX_DETAIL, RELEASE, Judgement, Proved
from bootstrap.record import box_record
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from keys.envelope import sealed_digest

_BINDING_BANK = "sha256"


Appraiser = Callable[[Evidence, Expectation, Policy, float], AttestationResult]


class ArchivingJudge:
    """Appraises sessions of one site; the evidence is on disk before the judgement is given."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        references: Callable[[], References],
        boxes: Callable[[], Sequence[BoxRow]],
        archive: Path,
        *,
        rehearsal: bool,
        appraiser: Appraiser = appraise,
    ) -> None:
        """Judge by the settings and references in force; keep evidence below `archive`."""
        self._settings = settings
        self._references = references
        self._boxes = boxes
        self._archive = archive
        self._rehearsal = rehearsal
        self._appraiser = appraiser

    def judge(
        self,
        proved: Proved,
        box: BoxRow,
        now: float,
        *,
        opened: Mapping[str, bytes] | None = None,
    ) -> Judgement:
        """Appraise a proved session and keep everything that the verdict rests on.

        `opened`: by bank what PCR 15 must hold, for a box that renews.
        """
        settings = self._settings()
        record = box_record(settings, box, settings.entry(box.ek_public), self._boxes())
        expectation = Expectation(
            sets=self._references().sets,
            anchors=settings.anchors,
            platform_anchors=settings.platform_anchors,
            record=replace(record, opened=dict(opened or {})),
            baseline=settings.baseline.of_model(machine_of(proved.evidence.facts)),
        )
        policy = policy_in_force(settings.policy, rehearsal=self._rehearsal)
        evidence = _evidence(proved)
        result = judged(self._appraiser, evidence, expectation, policy, now)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        name = self._new_name(box.box, f"{stamp}-{proved.session.session.hex()}")
        write_evidence(
            self._archive / box.box / name,
            evidence=evidence,
            transcript=transcript_fields(
                settings.identity, proved.session, proved.enrolment, proved.transcript
            )
            | {"purpose": proved.hello.purpose.value},
            expectation=expectation,
            policy=policy,
            result=result,
            appraised=now,
        )
        return judgement_of(result, f"{box.box}/{name}", settings.basis)

    def _new_name(self, box: str, name: str) -> str:
        """Find a name that is free: a session cut off before its answer is judged again."""
        taken = self._archive / box / name
        return name if not taken.exists() else self._new_name(box, f"{name}-again")


def policy_in_force(policy: Policy, *, rehearsal: bool) -> Policy:
    """Give the site's policy; a rehearsal lets its virtual boxes in, whose firmware nobody signs.

    Nothing learned in a rehearsal enters the baseline.
    """
    if not rehearsal:
        return replace(policy, rehearsal=False)
    return replace(policy, rehearsal=True, waived=policy.waived | {Reason.FIRMWARE_UNKNOWN})


def judged(
    appraiser: Appraiser, evidence: Evidence, expectation: Expectation, policy: Policy, now: float
) -> AttestationResult:
    """Appraise; a fault of the verifier itself is a finding that nobody may release."""
    try:
        return appraiser(evidence, expectation, policy, now)
    except Exception as error:  # noqa: BLE001 - whatever fails in there, the box is not verified
        detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
        return AttestationResult(
            verdict=AttestVerdict.REFUSED,
            tier=Tier.NOT_VERIFIED,
            findings=(AttestFinding(reason=Reason.VERIFIER_FAULT, detail=detail),),
            policy_digest=policy.digest,
            expectation_digest=expectation.digest,
        )


def _evidence(proved: Proved) -> Evidence:
    body = proved.evidence
    return Evidence(
        nonce=proved.enrol_data,
        ek_public=proved.hello.ek_public,
        ek_certificates=proved.hello.ek_certificates,
        ak_public=proved.hello.ak_public,
        quotes=tuple(Signed(attest=one.attest, signature=one.signature) for one in body.quotes),
        pcrs={bank: dict(enumerate(values)) for bank, values in body.pcrs.items()},
        event_log=body.event_log,
        ima_log=body.ima_log,
        facts=body.facts,
        device_public=body.device_public,
        device=Signed(attest=body.device.attest, signature=body.device.signature),
        platform_certificates=body.platform_certificates,
    )


def judgement_of(result: AttestationResult, archive: str, basis: bytes) -> Judgement:
    """Translate a result; what was not verified as a whole is never without a reason."""
    findings = [_finding(one) for one in result.findings]
    pcrs = dict(result.values.get(_BINDING_BANK, {}))
    proved = result.boot_set is not None and result.clock is not None and len(pcrs) == 16
    refused = result.verdict in (AttestVerdict.REFUSED, AttestVerdict.INCOMPLETE)
    never = any(one.release is Release.NEVER for one in findings)
    unexplained = refused or not proved
    if result.verdict is AttestVerdict.HELD:
        unexplained |= not any(one.gates for one in findings)
    if unexplained and not never:
        detail = f"{result.verdict.value}; not checked: {', '.join(result.not_checked) or '-'}"
        fault = AttestFinding(reason=Reason.VERIFIER_FAULT, detail=detail)
        findings.insert(0, _finding(fault))
    refused = any(one.release is Release.NEVER for one in findings)
    clock = result.clock
    return Judgement(
        findings=tuple(findings),
        tier=(Tier.NOT_VERIFIED if refused else result.tier).value,
        measurements=result.measurements,
        boot_set=result.boot_set.digest if result.boot_set else None,
        pcrs=pcrs,
        reset_count=clock.reset_count if clock else None,
        restart_count=clock.restart_count if clock else None,
        clock=clock.clock if clock else None,
        archive=archive,
        released=tuple(map(_finding, result.released)),
        sealed=sealed_digest(pcrs) if proved else None,
        firmware=result.firmware,
        tpm_firmware=result.firmware_version,
        basis=basis,
    )


def _finding(finding: AttestFinding) -> Finding:
    sentence = finding.sentence
    if finding.reason is Reason.FACTS_DIFFER and finding.detail:
        sentence = f"{sentence.rstrip('.')}: {finding.detail}."
    return Finding(
        code=finding.reason.code,
        sentence=sentence,
        release=RELEASE[finding.reason.releasable_by],
        detail=finding.detail[:MAX_DETAIL],
    )
