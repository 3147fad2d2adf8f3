"""Cards: ages as people say them, amber by itself, a next step for every reason, harmless text."""

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bootstrap
from attest.reasons import Reason
from bootstrap.agent.errors import Code
from bootstrap.cards import (
    SERVICES,
    SILENT,
    SILENT_CODE,
    STAGE_WORDS,
    TRACK,
    USUAL,
    Card,
    age,
    full_sentence,
    harmless,
    next_step,
    phone_number,
    quiet,
)
from bootstrap.enrolment import Stage
from bootstrap.next_steps import NEXT_STEP
from keys.rules import Withheld
from netboot.files import Missing

ROOT = Path(bootstrap.__file__).parent.parent
OPERATOR_ONLY = {
    "FORBIDDEN",
    "HTTPS-OFF",
    "NO-LOGIN",
    "NO-TPM",
    "UPSTREAM-UNKNOWN",
    "NOT-HELD",
    "NOT-OURS",
    "NOT-ROLLING",
    "ROLLING",
    "SECRET-UNKNOWN",
    "TIER",
    "CHANGED",
    "CLAIM-NEEDED",
    "UNKNOWN-BOX",
    "UNKNOWN-ROLE",
    "WRONG-STAGE",
}
"""Codes that answer a command of the operator; no box and no technician meets them."""
_CODE = re.compile(
    r"""(?:\b(?:code|reason)=|\b(?:Finding|Refusal|error|_nak)\(\s*(?:[a-z_]+,\s*|[0-9]+,\s*)*)"""
    r""""([A-Z0-9]+(?:-[A-Z0-9]+)*)\""""
)


def card(stage: Stage, **changes: object) -> Card:
    values: dict = {
        "key": "k",
        "title": "t",
        "stage": stage,
        "since": 0.0,
        "first": 0.0,
        "attempt": 1,
        "facts": (),
        "reasons": (),
        "sentence": None,
        "next_step": None,
        "quiet": None,
    }
    return Card(**{**values, **changes})


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


def test_each_stage_has_words_and_each_usual_time_a_silence_with_a_code_and_a_step() -> None:
    assert set(STAGE_WORDS) == set(Stage)
    assert set(USUAL) == set(SILENT) == set(SILENT_CODE)
    assert set(SILENT_CODE.values()) <= set(NEXT_STEP)


def site_codes() -> set[str]:
    """Find every code that the source gives as a reason, a finding's code or a refusal."""
    found = set()
    for package in ("bootstrap", "keys", "netboot"):
        for path in (ROOT / package).rglob("*.py"):
            found |= set(_CODE.findall(path.read_text()))
    return found - OPERATOR_ONLY


def test_the_search_for_codes_finds_some_of_each_service() -> None:
    wanted = {"APPROVAL-NEEDED", "SITE-SETTINGS", "KEYS-SILENT", "ARCH", "WRONG-NET", "TOO-MANY"}
    assert wanted <= site_codes()


EVERY_CODE = sorted(
    {reason.code for reason in Reason}
    | {code.value for code in Code}
    | {reason.value for reason in Withheld}
    | {why.name.replace("_", "-") for why in Missing}
    | set(SILENT_CODE.values())
    | site_codes()
)


@pytest.mark.parametrize("code", EVERY_CODE)
def test_each_reason_has_a_next_step(code: str) -> None:
    assert code in NEXT_STEP


@pytest.mark.parametrize("code", sorted(NEXT_STEP))
def test_a_next_step_is_a_sentence_that_says_what_to_do(code: str) -> None:
    text = NEXT_STEP[code]
    assert re.fullmatch(r"[A-Z][^`{}]*\.", text), text
    assert 20 <= len(text) <= 140, len(text)
    assert code not in text, "a step is in words, not in codes"
    first = re.split(r"[ :,]", text)[0].lower()
    doing = "call check compare clear find leave look nothing plug reset restore say set switch"
    assert first in {*doing.split(), "take", "unplug", "update", "wait"}, first


@pytest.mark.parametrize("text", [*SILENT.values(), *(words[1] for words in SERVICES.values())])
def test_other_sentences_end_with_a_full_stop(text: str) -> None:
    assert full_sentence(text) == text


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_s_own_sentence_ends_with_a_full_stop(reason: Reason) -> None:
    assert full_sentence(reason.sentence) == reason.sentence


def test_next_steps() -> None:
    assert next_step(Stage.READY, ()) is None
    assert next_step(Stage.REFUSED, ("SECURE-BOOT-OFF",)) == NEXT_STEP["SECURE-BOOT-OFF"]
    assert "unplug" in (next_step(Stage.REFUSED, ("QUOTE-SIGNATURE",)) or "")
    assert "unplug" in (next_step(Stage.REFUSED, ("SOMETHING-NEW",)) or "")
    assert "headquarters" in (next_step(Stage.HELD, ("SOMETHING-NEW",)) or "")


@pytest.mark.parametrize(
    ("stage", "changes", "tone", "code"),
    [
        (Stage.REFUSED, {"reasons": ("REPLAY", "ARCH")}, "bad", "REPLAY"),
        (Stage.REVOKED, {"reasons": ("REVOKED",)}, "bad", "REVOKED"),
        (Stage.HELD, {"reasons": ("EK-UNLISTED",)}, "wait", "EK-UNLISTED"),
        (Stage.BOOTING, {"quiet": "stopped"}, "wait", "BOOT-STALL"),
        (Stage.HEARD, {"reasons": ("ARCH",)}, "wait", "ARCH"),
        (Stage.ENROLLED, {"reasons": ("SECRET-EXPIRED",)}, "wait", "SECRET-EXPIRED"),
        (Stage.BOOTING, {}, "busy", None),
        (Stage.READY, {}, "good", None),
    ],
)
def test_tone_and_the_one_code(stage: Stage, changes: dict, tone: str, code: str | None) -> None:
    assert (card(stage, **changes).tone, card(stage, **changes).code) == (tone, code)


def test_steps_and_usual_times() -> None:
    assert [card(stage).step for stage in TRACK] == [1, 2, 3, 4, 5, 6]
    assert card(Stage.REFUSED, stopped_at=Stage.CONTACTED).step == 3
    assert card(Stage.REVOKED).step is None
    assert card(Stage.BOOTING).usual == 60.0
    assert card(Stage.READY).usual is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("TB3-004173", "TB3-004173"),
        ("  two\twords\r\n", "two words"),
        ("a\x00b\x1b[31mc", "a b [31mc"),
        ("line\u2028one", "line one"),
        ("S1\u202e371400", "S1\ufffd371400"),
        ("S\u200b1\u2066x\u2069\ufeff", "S\ufffd1\ufffdx\ufffd\ufffd"),
        ("\ud800", "\ufffd"),
        ("Zo\u0065\u0308", "Zo\u00eb"),
        ("a" + "\u0301" * 50, "\u00e1\u0301\u0301"),
        ("x" * 50, "x" * 19 + "…"),
        ("<b>&'\"", "<b>&'\""),
        (12, "12"),
    ],
)
def test_harmless(text: object, shown: str) -> None:
    assert harmless(text, 20) == shown


@settings(max_examples=200)
@given(st.text(), st.integers(min_value=1, max_value=50))
def test_whatever_a_box_sends_is_one_short_line_without_controls(text: str, limit: int) -> None:
    shown = harmless(text, limit)
    assert len(shown) <= limit
    assert shown.strip() == shown
    kinds = {unicodedata.category(character) for character in shown}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it is off", "It is off."),
        ("It is off.", "It is off."),
        ("Really?", "Really?"),
        ("", None),
        (None, None),
        ("\x00", None),
    ],
)
def test_full_sentence(text: str | None, shown: str | None) -> None:
    assert full_sentence(text) == shown


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Field desk, +44 113 496 0000", "+441134960000"),
        ("0049 (0)30 / 123-456", "004930123456"),
        ("room 12", None),
        ("ask at the desk", None),
    ],
)
def test_phone_number(text: str, number: str | None) -> None:
    assert phone_number(text) == number
