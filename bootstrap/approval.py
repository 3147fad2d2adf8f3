"""A person's release of a held box: what it would cover, whose word it needs, and what it is.

Pure: the row of a box and the time in, an offer or an `Approval` out. Who may release which reason
is the table of `attest.reasons`. docs/verifier.md, "Reasons".
"""

from __future__ import annotations

from dataclasses import dataclass

from attest.reasons import Releaser
from bootstrap.enrolment import Approval, Finding, Release, Stage
from bootstrap.judgement import RELEASE, releasable_by
from bootstrap.rows import BoxRow

APPROVAL_SECONDS = 86400.0
EACH_BY_A_PERSON = Finding(
    code="APPROVAL-NEEDED",
    sentence="At this site a person approves each box.",
    release=Release.PERSON,
)
"""The one finding of the site's own rules that a person releases."""
APPROVAL_NEEDED = EACH_BY_A_PERSON.code
MAX_CLAIM = 500


class NotReleasableError(ValueError):
    """No person may release this box as it is; the text says why."""


class ClaimNeededError(ValueError):
    """The word of the technician beside the box is missing; the text says for which reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an approval of a box would cover now.

    `reasons` are codes with who may release each. `measurements` is what it would be bound to at
    control, `sealed` at keys.
    """

    reasons: tuple[tuple[str, str], ...]
    measurements: bytes
    sealed: bytes
    needs_claim: bool


def offer(box: BoxRow) -> Offer:
    """Say what an approval would cover; NotReleasableError where no person may give one."""
    if box.stage not in (Stage.HELD, Stage.REFUSED):
        raise NotReleasableError(f"only a held box can be approved: this one is {box.stage.value}")
    for code in box.reasons:
        if not _release(code).by_person:
            raise NotReleasableError(f"{code} is not for a person: {_ONLY[_who(code)]}")
    if box.stage is Stage.REFUSED or not box.reasons:
        raise NotReleasableError(f"nothing that a person decides: it is {box.stage.value}")
    if box.measurements is None or box.sealed is None:
        raise NotReleasableError("it has not proved what it booted: switch it off and on")
    return Offer(
        reasons=tuple((code, _who(code)) for code in box.reasons),
        measurements=box.measurements,
        sealed=box.sealed,
        needs_claim=any(_release(code) is Release.CLAIM for code in box.reasons),
    )


def approve(box: BoxRow, role: str, claim: str, now: float) -> Approval:
    """Make a person's release of a held box; ValueError with a sentence when there is none."""
    offered = offer(box)
    if offered.needs_claim and not claim.strip():
        wanting = next(code for code in box.reasons if _release(code) is Release.CLAIM)
        raise ClaimNeededError(
            f"{wanting} needs the word of the technician beside the box as well: say with --claim"
            " what is written on its label"
        )
    if len(claim) > MAX_CLAIM or not all(char.isprintable() for char in claim):
        raise ClaimNeededError(f"a claim is one line of at most {MAX_CLAIM} characters")
    return Approval(
        ek_name=box.ek_name,
        reasons=frozenset(box.reasons),
        measurements=offered.measurements,
        role=role,
        expires=now + APPROVAL_SECONDS,
        used=False,
        claim=claim.strip(),
    )


_ONLY = {
    Releaser.NOBODY.value: "nobody may release it",
    Releaser.SIGNED_NOTE.value: f"only {Releaser.SIGNED_NOTE.value} does",
    Releaser.ANYBODY.value: Releaser.ANYBODY.value,
}


def _release(code: str) -> Release:
    if code == APPROVAL_NEEDED:
        return Release.PERSON
    known = releasable_by(code)
    return Release.NEVER if known is None else RELEASE[known]


def _who(code: str) -> str:
    known = releasable_by(code)
    if known is not None:
        return known.value
    return Releaser.HEADQUARTERS.value if code == APPROVAL_NEEDED else Releaser.NOBODY.value
