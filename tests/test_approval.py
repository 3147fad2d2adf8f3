"""What a person may release, on whose word, and what the release is bound to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attest.reasons import Reason, Releaser
from bootstrap.approval import (
    APPROVAL_NEEDED,
    MAX_CLAIM,
    ClaimNeededError,
    NotReleasableError,
    approve,
    offer,
)
from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow

HELD = BoxRow(
    box="b1",
    ek_name=b"ek1",
    ek_public=b"",
    stage=Stage.HELD,
    since=0.0,
    first=0.0,
    reasons=("FACTS-DIFFER", "FIRMWARE-UNKNOWN"),
    sentence="The box is not what the delivery note says.",
    measurements=b"m" * 32,
    sealed=b"s" * 32,
    facts={},
)
CLAIM = "the label says S-2"


def test_an_offer_names_reasons_with_who_may_release_each_and_what_it_is_bound_to() -> None:
    found = offer(HELD)
    assert found.reasons == (
        ("FACTS-DIFFER", "technician and headquarters"),
        ("FIRMWARE-UNKNOWN", "headquarters"),
    )
    assert (found.measurements, found.sealed, found.needs_claim) == (b"m" * 32, b"s" * 32, True)


def test_an_approval_is_bound_to_all_of_it_and_ends_after_24_hours_exactly() -> None:
    made = approve(HELD, "pos", f" {CLAIM} ", 1000.0)
    assert made.ek_name == b"ek1"
    assert made.reasons == {"FACTS-DIFFER", "FIRMWARE-UNKNOWN"}
    assert (made.measurements, made.role, made.used) == (b"m" * 32, "pos", False)
    assert made.claim == CLAIM
    exactly = (made.ek_name, made.reasons, made.measurements)
    assert made.covers(*exactly, 1000.0 + 86400 - 0.001)
    assert not made.covers(*exactly, 1000.0 + 86400)


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_each_reason_is_released_by_whom_the_table_says(reason: Reason) -> None:
    box = replace(HELD, reasons=(reason.code,))
    if reason.releasable_by in (Releaser.NOBODY, Releaser.SIGNED_NOTE, Releaser.ANYBODY):
        with pytest.raises(NotReleasableError, match=reason.code) as refused:
            approve(box, "pos", CLAIM, 0.0)
        assert reason.releasable_by.value in str(refused.value)
        return
    assert approve(box, "pos", CLAIM, 0.0).reasons == {reason.code}
    if reason.releasable_by is Releaser.TECHNICIAN_AND_HEADQUARTERS:
        with pytest.raises(ClaimNeededError, match=reason.code):
            approve(box, "pos", " ", 0.0)
    else:
        assert approve(box, "pos", "", 0.0).claim == ""


def test_a_site_that_wants_a_person_for_each_needs_no_claim() -> None:
    box = replace(HELD, reasons=(APPROVAL_NEEDED,))
    assert approve(box, "pos", "", 0.0).reasons == {APPROVAL_NEEDED}


@pytest.mark.parametrize("code", ["SITE-SETTINGS", "EK-NOT-ALLOWED", "FIRMWARE-KNOWN"])
def test_what_no_table_names_is_not_for_a_person(code: str) -> None:
    with pytest.raises(NotReleasableError, match=code):
        offer(replace(HELD, reasons=(code,)))


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.HELD])
def test_only_a_held_box_is_approved(stage: Stage) -> None:
    with pytest.raises(NotReleasableError, match=stage.value):
        offer(replace(HELD, stage=stage))


@pytest.mark.parametrize(
    "change", [{"measurements": None}, {"sealed": None}, {"reasons": ()}], ids=lambda one: str(one)
)
def test_nothing_is_approved_without_measurements_or_reasons(change: dict[str, object]) -> None:
    with pytest.raises(NotReleasableError):
        offer(replace(HELD, **change))


@pytest.mark.parametrize("claim", ["x" * (MAX_CLAIM + 1), "a\nb", "a\x1b[2J"])
def test_a_claim_is_one_line_that_cannot_move_a_terminal(claim: str) -> None:
    with pytest.raises(ClaimNeededError):
        approve(HELD, "pos", claim, 0.0)
