"""What control makes of a result: nothing that was not verified as a whole is without a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attest.anchors import Anchors
from attest.evidence import AttestationResult, BootSetMatch, Evidence, Tier, Verdict
from attest.expectation import Expectation
from attest.policy import Policy
from attest.reasons import Finding, Reason
from attest.wire import ClockInfo
from bootstrap.enrolment import Outcome, Release, Stage, decide
from bootstrap.io.judge import judged, judgement_of
from bootstrap.io.reappraise import KNOWN, outcome, waits
from bootstrap.judgement import MAX_DETAIL, MAX_TOLD, Judgement, told
from bootstrap.rows import BoxRow

ACCEPTED = AttestationResult(
    verdict=Verdict.ACCEPTED,
    tier=Tier.VERIFIED,
    findings=(),
    boot_set=BootSetMatch(digest=b"d" * 32, name="n", version=1, transport="tftp", server="s"),
    values={"sha256": {index: bytes(32) for index in range(16)}},
    clock=ClockInfo(clock=1, reset_count=1, restart_count=0, safe=True),
    firmware=b"f" * 32,
    firmware_version=7,
)
EVIDENCE = Evidence(
    nonce=b"",
    ek_public=b"",
    ek_certificates=(),
    ak_public=b"",
    quotes=(),
    pcrs={},
    event_log=b"",
)
EXPECTATION = Expectation(sets=(), anchors=Anchors(certificates=()))


def outcome_of(judgement: Judgement) -> Outcome:
    measured = judgement.measurements
    return decide(judgement.findings, (), ek_name=b"", measurements=measured, now=0.0).outcome


def test_a_verified_boot_is_accepted() -> None:
    found = judgement_of(ACCEPTED, "box/session", b"basis")
    assert outcome_of(found) is Outcome.ACCEPT
    assert (found.tier, found.firmware, found.tpm_firmware) == (Tier.VERIFIED.value, b"f" * 32, 7)
    assert (found.basis, found.archive) == (b"basis", "box/session")
    assert found.sealed is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.INCOMPLETE},
        {"verdict": Verdict.INCOMPLETE, "not_checked": ("the boot log (eventlog.bin)",)},
        {"verdict": Verdict.REFUSED},
        {"verdict": Verdict.HELD},
        {"boot_set": None},
        {"clock": None},
        {"values": {}},
        {"values": {"sha1": {index: bytes(20) for index in range(16)}}},
        {"values": {"sha256": {index: bytes(32) for index in range(15)}}},
    ],
    ids=lambda changes: " ".join(f"{name}={str(value)[:24]}" for name, value in changes.items()),
)
def test_what_was_not_verified_as_a_whole_never_passes(changes: dict[str, object]) -> None:
    found = judgement_of(replace(ACCEPTED, **changes), "", b"")
    assert outcome_of(found) is Outcome.REFUSE
    assert found.findings[0].code == "VERIFIER-FAULT"
    assert found.tier == Tier.NOT_VERIFIED.value


def test_incomplete_evidence_never_passes_whatever_a_person_may_release() -> None:
    held = Finding(reason=Reason.FIRMWARE_UNKNOWN)
    result = replace(ACCEPTED, verdict=Verdict.INCOMPLETE, findings=(held,), not_checked=("x",))
    found = judgement_of(result, "", b"")
    assert outcome_of(found) is Outcome.REFUSE
    assert "not checked: x" in found.findings[0].detail


def test_a_held_box_keeps_its_own_reasons() -> None:
    held = Finding(reason=Reason.FIRMWARE_UNKNOWN, detail="PCR 0", told="Nobody saw it.")
    result = replace(ACCEPTED, verdict=Verdict.HELD, tier=Tier.PROVISIONAL, findings=(held,))
    found = judgement_of(result, "", b"")
    assert outcome_of(found) is Outcome.HOLD
    (one,) = found.findings
    assert (one.code, one.sentence, one.detail) == ("FIRMWARE-UNKNOWN", "Nobody saw it.", "PCR 0")


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), IndexError(), RecursionError("deep"), MemoryError(), AssertionError()],
)
def test_an_exception_in_the_verifier_means_not_verified(error: Exception) -> None:
    def broken(*_: object) -> AttestationResult:
        raise error

    result = judged(broken, EVIDENCE, EXPECTATION, Policy(), 0.0)
    assert result.verdict is Verdict.REFUSED
    found = judgement_of(result, "", b"")
    assert outcome_of(found) is Outcome.REFUSE
    assert [one.code for one in found.findings] == ["VERIFIER-FAULT"]
    assert type(error).__name__ in found.findings[0].detail
    assert (found.boot_set, found.reset_count, found.firmware) == (None, None, b"")


def test_what_is_told_of_findings_is_bounded_and_says_who_may_release_each() -> None:
    many = [Finding(reason=Reason.MODULE_UNKNOWN, detail="x" * 9999) for _ in range(500)]
    result = replace(ACCEPTED, verdict=Verdict.REFUSED, findings=tuple(many))
    found = told(judgement_of(result, "", b"").findings)
    assert len(found) == MAX_TOLD
    assert {len(one["detail"]) for one in found} == {MAX_DETAIL}
    assert {one["releasable_by"] for one in found} == {"nobody"}


# Judged again

BOX = BoxRow(
    box="b1",
    ek_name=b"ek",
    ek_public=b"",
    stage=Stage.HELD,
    since=0.0,
    first=0.0,
    reasons=("FIRMWARE-UNKNOWN",),
    sentence="It was not seen before.",
    tier=Tier.PROVISIONAL.value,
    evidence="b1/s",
    basis=b"old",
    facts={},
)
VERIFIED = judgement_of(ACCEPTED, "b1/s", b"new")
UNKNOWN = judgement_of(
    replace(
        ACCEPTED,
        verdict=Verdict.HELD,
        tier=Tier.PROVISIONAL,
        findings=(Finding(reason=Reason.FIRMWARE_UNKNOWN),),
    ),
    "b1/s",
    b"new",
)


@pytest.mark.parametrize("stage", list(Stage))
def test_who_waits_for_a_better_baseline(stage: Stage) -> None:
    box = replace(BOX, stage=stage)
    accepted = stage in (Stage.VERIFIED, Stage.ENROLLED, Stage.READY, Stage.STALE)
    assert waits(box) is (accepted or stage is Stage.HELD)
    assert waits(replace(box, tier=Tier.VERIFIED.value)) is (stage is Stage.HELD)
    assert waits(replace(box, reasons=("EK-UNLISTED",))) is accepted
    assert not waits(replace(box, evidence=None))


def test_a_held_box_whose_firmware_is_known_needs_a_new_session() -> None:
    box, event = outcome(BOX, VERIFIED, "headquarters' entry 1.0", 9.0)
    assert (box.stage, box.reasons, box.tier) == (Stage.HELD, (KNOWN,), Tier.VERIFIED.value)
    assert (box.basis, box.since) == (b"new", 9.0)
    assert event is not None
    assert (event.kind, event.box) == ("firmware-known", "b1")
    assert event.detail["source"] == "headquarters' entry 1.0"


def test_a_site_that_wants_a_person_for_each_still_does() -> None:
    held = replace(BOX, reasons=("FIRMWARE-UNKNOWN", "APPROVAL-NEEDED"))
    box, _ = outcome(held, VERIFIED, "", 9.0)
    assert box.reasons == ("APPROVAL-NEEDED",)


def test_what_stays_unknown_changes_nothing_but_the_basis() -> None:
    for stage in (Stage.HELD, Stage.READY):
        before = replace(BOX, stage=stage)
        assert outcome(before, UNKNOWN, "", 9.0) == (replace(before, basis=b"new"), None)


def test_a_ready_box_is_verified_and_stays_where_it_is() -> None:
    before = replace(BOX, stage=Stage.READY, reasons=(), sentence=None)
    box, event = outcome(before, VERIFIED, "x", 9.0)
    assert box == replace(before, basis=b"new", tier=Tier.VERIFIED.value)
    assert event is not None


@pytest.mark.parametrize("stage", [Stage.VERIFIED, Stage.HELD, Stage.ENROLLED, Stage.READY])
def test_a_later_refusal_takes_an_earlier_trust_away(stage: Stage) -> None:
    worse = judgement_of(
        replace(ACCEPTED, verdict=Verdict.REFUSED, findings=(Finding(reason=Reason.DBX_OUTDATED),)),
        "b1/s",
        b"new",
    )
    box, event = outcome(replace(BOX, stage=stage), worse, "", 9.0)
    assert (box.stage, box.tier) == (Stage.REFUSED, Tier.NOT_VERIFIED.value)
    assert box.reasons == ("DBX-OUTDATED",)
    assert event is not None
    assert (event.kind, event.reason) == ("doubted", "DBX-OUTDATED")
    assert worse.findings[0].release is Release.NEVER
