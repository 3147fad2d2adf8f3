"""The life of a box as a transition table, and the decision that follows an attestation result.

It holds no file, socket or clock: control (`bootstrap/io/control.py`) feeds it and keeps the rows.
Whether a box may receive anything is decided here and nowhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

_OID_NAMESPACE = uuid.NAMESPACE_OID


class Stage(StrEnum):
    """Where a box is; the technician's page shows exactly these."""

    EXPECTED = "expected"
    HEARD = "heard"
    BOOTING = "booting"
    CONTACTED = "contacted"
    VERIFIED = "verified"
    HELD = "held"
    REFUSED = "refused"
    ENROLLED = "enrolled"
    READY = "ready"
    STALE = "stale"
    REVOKED = "revoked"
    REPLACED = "replaced"


class Step(StrEnum):
    """What can happen to a box."""

    ASKED_FOR_ADDRESS = "asked-for-address"
    LOADED_FILE = "loaded-file"
    PROVED_KEYS = "proved-keys"
    ACCEPTED = "accepted"
    MUST_WAIT = "must-wait"
    REJECTED = "rejected"
    HANDED_OVER = "handed-over"
    REPORTED_GOOD = "reported-good"
    REPORTED_WANTING = "reported-wanting"
    RENEWED = "renewed"
    OVERDUE = "overdue"
    TAKEN_AWAY = "taken-away"
    DOUBTED = "doubted"
    PLACE_TAKEN = "place-taken"


_BEFORE_CONTACT = (Stage.HEARD, Stage.BOOTING)
GONE = (Stage.REVOKED, Stage.REPLACED)
"""What no proof brings back."""
_LIVE = tuple(stage for stage in Stage if stage not in GONE)
_TRUSTED = (Stage.VERIFIED, Stage.HELD, Stage.ENROLLED, Stage.READY, Stage.STALE)

_TABLE: Mapping[Step, tuple[tuple[Stage, ...], Stage]] = {
    Step.ASKED_FOR_ADDRESS: ((), Stage.HEARD),
    Step.LOADED_FILE: (_BEFORE_CONTACT, Stage.BOOTING),
    Step.PROVED_KEYS: (_LIVE, Stage.CONTACTED),
    Step.ACCEPTED: ((Stage.CONTACTED, Stage.HELD), Stage.VERIFIED),
    Step.MUST_WAIT: ((Stage.CONTACTED, Stage.VERIFIED), Stage.HELD),
    Step.REJECTED: ((Stage.CONTACTED, Stage.VERIFIED), Stage.REFUSED),
    Step.HANDED_OVER: ((Stage.VERIFIED,), Stage.ENROLLED),
    Step.REPORTED_GOOD: ((Stage.ENROLLED, Stage.READY), Stage.READY),
    Step.REPORTED_WANTING: ((Stage.ENROLLED, Stage.READY), Stage.ENROLLED),
    # A report follows each renewal; who was ready meanwhile stays so.
    Step.RENEWED: ((Stage.ENROLLED, Stage.STALE), Stage.ENROLLED),
    Step.OVERDUE: ((Stage.ENROLLED, Stage.READY), Stage.STALE),
    Step.TAKEN_AWAY: (_LIVE, Stage.REVOKED),
    Step.DOUBTED: (_TRUSTED, Stage.REFUSED),
    Step.PLACE_TAKEN: (_LIVE, Stage.REPLACED),
}


class WrongStageError(ValueError):
    """A step was taken from a stage that does not allow it; a fault of ours."""


def advance(stage: Stage | None, step: Step) -> Stage:
    """Return the stage after `step`; WrongStageError when the table has no such arrow.

    `stage` is None for what was never seen; only the first DHCP packet or a proof starts a life.
    """
    allowed, after = _TABLE[step]
    if stage is None and step in (Step.ASKED_FOR_ADDRESS, Step.PROVED_KEYS):
        return after
    if stage not in allowed:
        raise WrongStageError(f"{step.value} from {stage.value if stage else 'nothing'}")
    return after


def box_id(ek_name: bytes) -> uuid.UUID:
    """Derive the id of a box from the TPM name of its id EK: the same everywhere, offline."""
    return uuid.uuid5(_OID_NAMESPACE, ek_name.hex())


class Outcome(StrEnum):
    """What the box is told."""

    ACCEPT = "accept"
    HOLD = "hold"
    REFUSE = "refuse"


class Release(Enum):
    """What lets a box pass in spite of a finding."""

    NEVER = "nobody may release it"
    NOTE = "only a signed delivery note that names the EK"
    CLAIM = "a person's approval, with the word of the technician beside the box"
    PERSON = "a person's approval"
    FREE = "nothing is needed"

    @property
    def by_person(self) -> bool:
        """Tell whether an approval can release it."""
        return self in (Release.PERSON, Release.CLAIM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason against a box, as the verifier or the site's own rules give it."""

    code: str
    sentence: str
    release: Release
    detail: str = ""

    @property
    def gates(self) -> bool:
        """Tell whether it stands in the way at all."""
        return self.release is not Release.FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's release: one EK, one exact set of reasons, one measurement, one day, one use.

    `claim` is what the technician beside the box said of it, where a reason asks for that.
    """

    ek_name: bytes
    reasons: frozenset[str]
    measurements: bytes
    role: str
    expires: float
    used: bool
    claim: str = ""

    def covers(
        self, ek_name: bytes, reasons: frozenset[str], measurements: bytes, now: float
    ) -> bool:
        """Tell whether it releases exactly this, now."""
        return (
            not self.used
            and now < self.expires
            and self.ek_name == ek_name
            and self.reasons == reasons
            and self.measurements == measurements
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome with everything that was held against the box, in order of rank."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    approval: Approval | None = None

    @property
    def first(self) -> Finding | None:
        """The finding a technician is told: the highest ranked one that gates."""
        return next((finding for finding in self.findings if finding.gates), None)


def decide(
    findings: Sequence[Finding],
    approvals: Sequence[Approval],
    *,
    ek_name: bytes,
    measurements: bytes,
    now: float,
) -> Decision:
    """Decide about a box: accepted only when nothing gates, or a person released all that does.

    A single finding that nobody may release refuses, whatever was approved; one that only a note
    releases holds until headquarters sends that note.
    """
    kept = tuple(findings)
    gating = [finding for finding in kept if finding.gates]
    if not gating:
        return Decision(outcome=Outcome.ACCEPT, findings=kept)
    if any(finding.release is Release.NEVER for finding in gating):
        return Decision(outcome=Outcome.REFUSE, findings=kept)
    reasons = frozenset(finding.code for finding in gating)
    for approval in approvals:
        by_person = all(finding.release.by_person for finding in gating)
        if by_person and approval.covers(ek_name, reasons, measurements, now):
            return Decision(outcome=Outcome.ACCEPT, findings=kept, approval=approval)
    return Decision(outcome=Outcome.HOLD, findings=kept)
