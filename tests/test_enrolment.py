"""The life of a box and the decision about it: every arrow, every release, nothing fails open."""

import pytest

from bootstrap.enrolment import (
    Approval,
    Finding,
    Outcome,
    Release,
    Stage,
    Step,
    WrongStageError,
    advance,
    box_id,
    decide,
)

ARROWS = {
    (None, Step.ASKED_FOR_ADDRESS): Stage.HEARD,
    (None, Step.PROVED_KEYS): Stage.CONTACTED,
    (Stage.HEARD, Step.LOADED_FILE): Stage.BOOTING,
    (Stage.BOOTING, Step.LOADED_FILE): Stage.BOOTING,
    (Stage.HELD, Step.ACCEPTED): Stage.VERIFIED,
    (Stage.CONTACTED, Step.ACCEPTED): Stage.VERIFIED,
    (Stage.CONTACTED, Step.MUST_WAIT): Stage.HELD,
    (Stage.CONTACTED, Step.REJECTED): Stage.REFUSED,
    (Stage.VERIFIED, Step.MUST_WAIT): Stage.HELD,
    (Stage.VERIFIED, Step.REJECTED): Stage.REFUSED,
    (Stage.VERIFIED, Step.HANDED_OVER): Stage.ENROLLED,
    (Stage.ENROLLED, Step.REPORTED_GOOD): Stage.READY,
    (Stage.READY, Step.REPORTED_GOOD): Stage.READY,
    (Stage.ENROLLED, Step.REPORTED_WANTING): Stage.ENROLLED,
    (Stage.READY, Step.REPORTED_WANTING): Stage.ENROLLED,
    (Stage.ENROLLED, Step.RENEWED): Stage.ENROLLED,
    (Stage.STALE, Step.RENEWED): Stage.ENROLLED,
    (Stage.ENROLLED, Step.OVERDUE): Stage.STALE,
    (Stage.READY, Step.OVERDUE): Stage.STALE,
    **{
        (stage, Step.PROVED_KEYS): Stage.CONTACTED
        for stage in Stage
        if stage not in (Stage.REVOKED, Stage.REPLACED)
    },
    **{
        (stage, Step.TAKEN_AWAY): Stage.REVOKED
        for stage in Stage
        if stage not in (Stage.REVOKED, Stage.REPLACED)
    },
    **{
        (stage, Step.PLACE_TAKEN): Stage.REPLACED
        for stage in Stage
        if stage not in (Stage.REVOKED, Stage.REPLACED)
    },
    **{
        (stage, Step.DOUBTED): Stage.REFUSED
        for stage in (Stage.VERIFIED, Stage.HELD, Stage.ENROLLED, Stage.READY, Stage.STALE)
    },
}


@pytest.mark.parametrize("stage", [None, *Stage])
@pytest.mark.parametrize("step", list(Step))
def test_every_arrow_and_no_other(stage: Stage | None, step: Step) -> None:
    expected = ARROWS.get((stage, step))
    if expected is None:
        with pytest.raises(WrongStageError):
            advance(stage, step)
    else:
        assert advance(stage, step) is expected


@pytest.mark.parametrize("gone", [Stage.REVOKED, Stage.REPLACED])
def test_a_box_that_was_taken_away_never_comes_back_by_proving_its_keys(gone: Stage) -> None:
    with pytest.raises(WrongStageError):
        advance(gone, Step.PROVED_KEYS)


def test_box_id_is_the_uuid_of_the_ek_name() -> None:
    assert str(box_id(b"\x00\x0b" + bytes(32))) == "d15da8bf-903f-57a5-8890-d1834ac19493"
    assert box_id(b"\x00\x0b" + bytes(32)) != box_id(b"\x00\x0b" + bytes(31) + b"\x01")


EK = b"\x00\x0b" + b"\x11" * 32
MEASURED = b"\x22" * 32
HELD = Finding(code="EK-UNLISTED", sentence="not on the note", release=Release.PERSON)
NEVER = Finding(code="SECURE-BOOT-OFF", sentence="Secure Boot is off", release=Release.NEVER)
NOTED = Finding(code="FIRMWARE-UNKNOWN", sentence="", release=Release.FREE)
APPROVAL = Approval(
    ek_name=EK,
    reasons=frozenset({"EK-UNLISTED"}),
    measurements=MEASURED,
    role="pos",
    expires=100.0,
    used=False,
)


def _decide(findings: list[Finding], approvals: list[Approval], now: float = 50.0) -> Outcome:
    decision = decide(findings, approvals, ek_name=EK, measurements=MEASURED, now=now)
    return decision.outcome


def test_nothing_against_it_is_accepted_and_what_does_not_gate_is_kept() -> None:
    assert _decide([], []) is Outcome.ACCEPT
    decision = decide([NOTED], [], ek_name=EK, measurements=MEASURED, now=0.0)
    assert decision.outcome is Outcome.ACCEPT
    assert decision.findings == (NOTED,)
    assert decision.first is None


def test_a_releasable_finding_holds_until_it_is_released() -> None:
    assert _decide([HELD, NOTED], []) is Outcome.HOLD
    assert _decide([HELD, NOTED], [APPROVAL]) is Outcome.ACCEPT


def test_what_nobody_may_release_refuses_whatever_was_approved() -> None:
    every = frozenset({"EK-UNLISTED", "SECURE-BOOT-OFF"})
    broad = Approval(
        ek_name=EK, reasons=every, measurements=MEASURED, role="pos", expires=100.0, used=False
    )
    assert _decide([NEVER, HELD], [APPROVAL, broad]) is Outcome.REFUSE
    assert _decide([NEVER], []) is Outcome.REFUSE


def test_what_only_a_note_releases_holds_and_no_approval_helps() -> None:
    unknown = Finding(code="EK-UNKNOWN", sentence="no maker", release=Release.NOTE)
    reasons = frozenset({"EK-UNKNOWN", "EK-UNLISTED"})
    broad = Approval(
        ek_name=EK, reasons=reasons, measurements=MEASURED, role="pos", expires=100.0, used=False
    )
    assert _decide([unknown, HELD], [broad]) is Outcome.HOLD


def test_what_needs_a_claim_is_released_by_a_persons_approval() -> None:
    claimed = Finding(code="EK-UNLISTED", sentence="", release=Release.CLAIM)
    assert _decide([claimed], []) is Outcome.HOLD
    assert _decide([claimed], [APPROVAL]) is Outcome.ACCEPT


def test_an_approval_ends_at_its_last_second_exactly() -> None:
    assert _decide([HELD], [APPROVAL], now=99.999) is Outcome.ACCEPT
    assert _decide([HELD], [APPROVAL], now=100.0) is Outcome.HOLD


def test_an_approval_names_the_role_it_is_for() -> None:
    decision = decide([HELD], [APPROVAL], ek_name=EK, measurements=MEASURED, now=50.0)
    assert decision.approval is not None
    assert decision.approval.role == "pos"


@pytest.mark.parametrize(
    "change",
    [
        {"ek_name": EK[:-1] + b"\x12"},
        {"reasons": frozenset()},
        {"reasons": frozenset({"EK-UNLISTED", "FACTS-DIFFER"})},
        {"measurements": b"\x23" * 32},
        {"expires": 50.0},
        {"used": True},
    ],
    ids=["other-ek", "no-reason", "more-reasons", "other-measurements", "expired", "used"],
)
def test_an_approval_releases_exactly_what_it_names(change: dict[str, object]) -> None:
    values = {name: getattr(APPROVAL, name) for name in APPROVAL.__dataclass_fields__}
    assert _decide([HELD], [Approval(**{**values, **change})]) is Outcome.HOLD
