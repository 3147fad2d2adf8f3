"""Appraises kept evidence again when what headquarters signs changes: firmware baseline or policy.

Without the box, from the archive: as it was judged then, but by the present baseline and policy. It
hands nothing over: only a new session, with a new quote, does that. A few boxes a turn; a box is
done when its row names the present basis, so a kill in between loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from attest.appraise import appraise
from attest.errors import AttestError
from attest.evidence import AttestationResult, Tier, Verdict
from attest.firmware import machine_of
from attest.io.archive import Kept, read_kept
from attest.reasons import Finding as AttestFinding
from attest.reasons import Reason
from bootstrap.approval import APPROVAL_NEEDED, EACH_BY_A_PERSON
from bootstrap.enrolment import Finding, Stage, Step, advance
from bootstrap.io.judge import Appraiser, judged, judgement_of, policy_in_force
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import Judgement, told
from bootstrap.rows import BoxRow, Event
from bootstrap.settings import Settings

TURN_SECONDS = 0.1
"""After so long in one turn the next one goes on: boxes that attest wait for this thread."""
KNOWN = "FIRMWARE-KNOWN"
_ACCEPTED = (Stage.VERIFIED, Stage.ENROLLED, Stage.READY, Stage.STALE)


class Reappraiser:
    """Brings boxes up to the present basis; called from control's one thread."""

    def __init__(
        self,
        store: SiteStore,
        settings: Callable[[], Settings],
        archive: Path,
        *,
        rehearsal: bool,
        appraiser: Appraiser = appraise,
    ) -> None:
        """Work on the rows of `store` and on evidence below `archive`."""
        self._store = store
        self._settings = settings
        self._archive = archive
        self._rehearsal = rehearsal
        self._appraiser = appraiser

    def turn(self, now: float) -> int:
        """Appraise what waits for it, for a short time; gives how many boxes that were."""
        began, count = time.monotonic(), 0
        for box in self._store.boxes_of_another_basis(self._settings().basis):
            if not waits(box):
                continue
            self._bring(box, now)
            count += 1
            if time.monotonic() - began > TURN_SECONDS:
                break
        return count

    def _bring(self, box: BoxRow, now: float) -> None:
        settings, archive = self._settings(), box.evidence or ""
        if (self._archive / archive).is_dir():
            judgement, source = self._appraise(archive, settings)
            changed, event = outcome(box, judgement, source, now)
        else:
            # Whoever made room on the disk took nothing back that was proved.
            changed = replace(box, basis=settings.basis)
            event = _event(box, "not-appraised", {"sentence": _GONE}, now)
        with self._store.transaction():
            self._store.save_box(changed)
            if event is not None:
                self._store.add_event(event)

    def _appraise(self, archive: str, settings: Settings) -> tuple[Judgement, str]:
        try:
            kept = read_kept(self._archive / archive)
            result = self._result(kept, settings)
            source = entry_source(result)
        except (AttestError, ValueError) as error:
            result, source = _fault(str(error)), ""
        return judgement_of(result, archive, settings.basis), source

    def _result(self, kept: Kept, settings: Settings) -> AttestationResult:
        if kept.expectation is None or kept.appraised is None:
            return _fault("the archive does not say what the evidence was judged by")
        machine = machine_of(kept.evidence.facts)
        baseline = settings.baseline.of_model(machine)
        expectation = replace(kept.expectation, baseline=baseline)
        policy = policy_in_force(settings.policy, rehearsal=self._rehearsal)
        return judged(self._appraiser, kept.evidence, expectation, policy, kept.appraised)


def waits(box: BoxRow) -> bool:
    """Tell whether a better baseline or another policy can change what is known of a box."""
    if box.evidence is None:
        return False
    if box.stage is Stage.HELD:
        return Reason.FIRMWARE_UNKNOWN.code in box.reasons
    return box.stage in _ACCEPTED and box.tier == Tier.PROVISIONAL.value


def outcome(
    box: BoxRow, judgement: Judgement, source: str, now: float
) -> tuple[BoxRow, Event | None]:
    """Give the row and the event that follow; a box is never moved nearer to a hand-over."""
    seen = replace(box, basis=judgement.basis)
    gating = tuple(one for one in judgement.findings if one.gates)
    if judgement.tier == Tier.NOT_VERIFIED.value:
        return _doubted(seen, judgement, gating, now)
    changed = replace(seen, tier=judgement.tier)
    known = Reason.FIRMWARE_UNKNOWN.code not in {one.code for one in gating}
    detail: dict[str, Any] = {"tier": judgement.tier, "source": source or "this site's policy"}
    if box.stage is Stage.HELD and known:
        changed = _released(changed, gating, now)
        detail |= {"findings": told(judgement.findings), "released": told(judgement.released)}
        return changed, _event(changed, "firmware-known", detail, now)
    if judgement.tier == Tier.VERIFIED.value != box.tier:
        return changed, _event(changed, "firmware-known", detail, now)
    return changed, None


def _released(box: BoxRow, gating: tuple[Finding, ...], now: float) -> BoxRow:
    """Take the firmware off what holds a box; a box that nothing else holds needs a new session."""
    if APPROVAL_NEEDED in box.reasons:
        gating = (*gating, EACH_BY_A_PERSON)
    if gating:
        reasons = tuple(dict.fromkeys(one.code for one in gating))
        return replace(box, reasons=reasons, sentence=gating[0].sentence, since=now)
    return replace(box, reasons=(KNOWN,), sentence=_KNOWN, since=now)


def _doubted(
    box: BoxRow, judgement: Judgement, gating: tuple[Finding, ...], now: float
) -> tuple[BoxRow, Event]:
    """Take away what an earlier appraisal gave."""
    changed = replace(
        box,
        stage=advance(box.stage, Step.DOUBTED),
        since=now,
        tier=Tier.NOT_VERIFIED.value,
        reasons=tuple(dict.fromkeys(one.code for one in gating)),
        sentence=gating[0].sentence,
    )
    detail = {"sentence": gating[0].sentence, "findings": told(judgement.findings)}
    return changed, _event(changed, "doubted", detail, now, gating[0].code)


def entry_source(result: AttestationResult) -> str:
    """Name the entry of headquarters that stands for a box's firmware; "" where none does."""
    if result.tier is not Tier.VERIFIED:
        return ""
    return f"headquarters' entry {result.firmware_source}"


def _fault(detail: str) -> AttestationResult:
    finding = AttestFinding(reason=Reason.VERIFIER_FAULT, detail=detail)
    return AttestationResult(verdict=Verdict.REFUSED, tier=Tier.NOT_VERIFIED, findings=(finding,))


_KNOWN = "The firmware of this box may pass now"
_GONE = "its evidence is not in the archive any more"


def _event(
    box: BoxRow, kind: str, detail: dict[str, Any], now: float, reason: str | None = None
) -> Event:
    return Event(at=now, kind=kind, box=box.box, mac=box.mac, reason=reason, detail=detail)
