"""Cards: ages as people say them, amber by itself, a next step for every reason."""

import pytest

from bootstrap.cards import NEXT_STEP, SILENT, USUAL, Card, age, next_step, quiet
from bootstrap.enrolment import Stage


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (11100, "3 h 5 min"), (187200, "2 d 4 h")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize("stage", list(USUAL))
def test_a_stage_quiet_for_three_times_its_usual_time_says_what_is_missing(stage: Stage) -> None:
    limit = 3 * USUAL[stage].total_seconds()
    assert quiet(stage, 100.0, 100.0 + limit - 1) is None
    assert quiet(stage, 100.0, 100.0 + limit) == SILENT[stage]


def test_a_ready_box_is_never_quiet() -> None:
    assert quiet(Stage.READY, 0.0, 1e9) is None


def test_next_steps() -> None:
    assert next_step(Stage.READY, ()) is None
    assert next_step(Stage.REFUSED, ("SECURE-BOOT-OFF",)) == NEXT_STEP["SECURE-BOOT-OFF"]
    assert "unplug" in (next_step(Stage.REFUSED, ("QUOTE-SIGNATURE",)) or "")
    assert "headquarters" in (next_step(Stage.HELD, ("SOMETHING-NEW",)) or "")


@pytest.mark.parametrize(
    ("stage", "quiet_text", "tone"),
    [
        (Stage.REFUSED, None, "bad"),
        (Stage.HELD, None, "wait"),
        (Stage.BOOTING, "stopped", "wait"),
        (Stage.BOOTING, None, "busy"),
        (Stage.READY, None, "good"),
    ],
)
def test_tone(stage: Stage, quiet_text: str | None, tone: str) -> None:
    card = Card(
        key="k",
        title="t",
        stage=stage,
        since=0.0,
        first=0.0,
        attempt=1,
        facts=(),
        reasons=(),
        sentence=None,
        next_step=None,
        quiet=quiet_text,
    )
    assert card.tone == tone
