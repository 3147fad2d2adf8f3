"""Views: which rows are one card, when a new start hides the last one, the story in sentences."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_site import box_row

from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow, Sighting
from bootstrap.views import (
    _SENTENCES,
    attempts,
    card_json,
    cards,
    event_sentence,
    told_once,
)
from netboot.events import EventKind

NOW = 1_000_000.0
HOSTILE = '"><img src=x onerror=alert(1)>\u202e\x1b[2J' + "A" * 500


def sighting(stage: Stage, since: float, mac: str = "52:54:00:41:07:01", **changes) -> Sighting:
    values = {"first": since, "address": "10.41.7.105", "detail": {}}
    return Sighting(mac=mac, stage=stage, since=since, **{**values, **changes})


def only(boxes: list[BoxRow], sightings: list[Sighting], now: float = NOW):
    (card,) = cards(boxes, sightings, now)
    return card


def test_a_box_and_the_mac_it_used_are_one_card() -> None:
    row = box_row(1, Stage.CONTACTED, NOW - 1)
    card = only([row], [sighting(Stage.BOOTING, NOW - 5)])
    assert (card.key, card.stage) == (row.box, Stage.CONTACTED)
    assert card.title == "TillBox 300 TB3-004171"


def test_newest_change_first() -> None:
    rows = [box_row(1, Stage.READY, NOW - 50), box_row(2, Stage.READY, NOW - 10)]
    shown = cards(rows, [sighting(Stage.HEARD, NOW - 20, mac="52:54:00:00:00:09")], NOW)
    assert [card.since for card in shown] == [NOW - 10, NOW - 20, NOW - 50]


def test_a_new_start_from_the_network_folds_the_old_refusal_away() -> None:
    row = box_row(1, Stage.REFUSED, NOW - 50, reasons=("REPLAY",), sentence="Old.", attempt=3)
    card = only([row], [sighting(Stage.HEARD, NOW - 5, detail={"boot_file": "shimx64.efi"})])
    assert (card.stage, card.reasons, card.sentence, card.next_step) == (
        Stage.HEARD,
        (),
        None,
        None,
    )
    assert (card.attempt, card.first) == (4, NOW - 5)


def test_a_ready_box_that_renews_its_lease_stays_ready() -> None:
    row = box_row(1, Stage.READY, NOW - 7200)
    card = only([row], [sighting(Stage.HEARD, NOW - 300, detail={"boot_file": ""})])
    assert (card.stage, card.quiet, card.tone) == (Stage.READY, None, "good")


def test_an_older_sighting_says_nothing_about_the_box() -> None:
    row = box_row(1, Stage.READY, NOW - 10)
    assert only([row], [sighting(Stage.BOOTING, NOW - 11)]).stage is Stage.READY


def test_quiet_stages_turn_amber_with_a_code_and_a_step() -> None:
    card = only([], [sighting(Stage.HEARD, NOW - 60)])
    assert (card.tone, card.code) == ("wait", "DHCP-NOBOOT")
    assert card.next_step
    assert card.next_step.startswith("Set network boot")
    assert only([], [sighting(Stage.HEARD, NOW - 59)]).tone == "busy"


def test_a_reason_that_loaders_meet_on_their_way_is_told_only_when_nothing_follows() -> None:
    seen = sighting(Stage.BOOTING, NOW - 5, reason="NOT-FOUND")
    assert only([], [seen]).reasons == ()
    late = only([], [seen], NOW + 200)
    assert (late.reasons, late.code) == (("NOT-FOUND",), "NOT-FOUND")
    assert only([], [sighting(Stage.HEARD, NOW - 5, reason="ARCH")]).code == "ARCH"


def test_a_claim_of_a_box_without_tpm_is_shown_as_its_own_word() -> None:
    card = only([], [sighting(Stage.BOOTING, NOW - 5, reason="TPM-NONE")])
    assert (card.tone, card.code) == ("wait", "TPM-NONE")
    assert card.sentence
    assert card.sentence.startswith("It says that")


def test_loading_shows_how_far_it_is() -> None:
    part = {"phase": "end", "name": "/f/00/initrd", "sent": 43, "size": 100, "done": False}
    assert ("Loads", "initrd to 43\u00a0%") in only(
        [], [sighting(Stage.BOOTING, NOW, detail=part)]
    ).facts
    whole = {**part, "sent": 100, "done": True}
    assert ("Loads", "initrd") in only([], [sighting(Stage.BOOTING, NOW, detail=whole)]).facts


def test_what_was_withheld_is_named_with_its_reason() -> None:
    withheld = ({"name": "wifi-psk", "reason": "SECRET-EXPIRED", "since": NOW},)
    card = only([box_row(1, Stage.ENROLLED, NOW - 5, withheld=withheld)], [])
    assert (card.sentence, card.code) == (
        "It runs, but was not given: wifi-psk.",
        "SECRET-EXPIRED",
    )
    assert (card.tone, card.quiet) == ("wait", None)


def test_every_text_of_a_box_is_made_harmless() -> None:
    facts = {"smbios": {"product_name": HOSTILE, "product_serial": HOSTILE}}
    row = box_row(1, Stage.HELD, NOW, facts=facts, sentence=f"The box says {HOSTILE}")
    text = json.dumps(card_json(only([row], [])), ensure_ascii=False)
    assert "\u202e" not in text
    assert "\\u001b" not in text
    assert "A" * 300 not in text
    assert len(text) < 2000


@pytest.mark.parametrize("stage", list(Stage))
def test_each_stage_makes_a_card_that_can_be_sent(stage: Stage) -> None:
    card = card_json(only([box_row(1, stage, NOW - 1)], []))
    assert json.loads(json.dumps(card))["stage"] == stage.value


def test_kinds_of_netboot_and_control_have_words() -> None:
    silent = {EventKind.MALFORMED, EventKind.FLOOD, EventKind.BOOT_FILE}
    assert {kind.value for kind in set(EventKind) - silent} <= set(_SENTENCES)


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"kind": "dhcp-ack", "address": "10.41.7.9", "detail": {}}, "has the address 10.41.7.9"),
        ({"kind": "verified", "detail": {"tier": "{0.__class__}"}}, "proved itself: {0.__class__}"),
        ({"kind": "enrolled", "detail": None}, "was given its name - and its configuration"),
        ({"kind": "new{0}-kind", "detail": {}}, "new0-kind"),
        (
            {"kind": "boot-file", "detail": {"phase": "end", "name": "/a/b", "done": True}},
            "loaded b",
        ),
        ({"kind": "boot-file", "detail": {"phase": "start", "name": "/b"}}, "began to load b"),
        (
            {"kind": "boot-file", "detail": {"phase": "refused", "name": "x", "sentence": "no"}},
            "asked for x: no",
        ),
        ({"kind": "boot-file", "detail": {}}, "loaded a file"),
    ],
)
def test_event_sentences(event: dict, sentence: str) -> None:
    assert event_sentence(event) == sentence


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)


@settings(max_examples=150)
@given(
    st.sampled_from([*_SENTENCES, "boot-file", "x"]),
    st.dictionaries(st.sampled_from(["name", "sent", "size", "phase", "address"]), VALUES),
)
def test_any_detail_gives_a_harmless_sentence(kind: str, detail: dict) -> None:
    text = event_sentence({"kind": kind, "address": None, "detail": detail})
    assert text
    assert "\u202e" not in text
    assert "\n" not in text


def event(at: float, kind: str, **detail) -> dict:
    return {"at": at, "kind": kind, "detail": detail, "sentence": kind}


def test_a_start_from_the_network_after_a_proof_is_a_new_attempt() -> None:
    pxe = {"vendor_class": "PXEClient:Arch:00007"}
    told = [
        event(0, "dhcp-discover", **pxe),
        event(1, "dhcp-ack", boot_file="shimx64.efi"),
        event(2, "boot-file"),
        event(9, "dhcp-discover", vendor_class="doorstep"),
        event(10, "session"),
        event(11, "refused"),
        event(70, "session"),
        event(71, "ready"),
        event(4000, "dhcp-ack", boot_file=""),
        event(9000, "dhcp-discover", **pxe),
        event(9001, "session"),
    ]
    assert [[one["at"] for one in part] for part in attempts(told)] == [
        [0, 1, 2, 9, 10, 11],
        [70, 71, 4000],
        [9000, 9001],
    ]
    assert attempts([]) == [[]]


def test_a_start_after_ten_quiet_minutes_is_a_new_attempt() -> None:
    told = [event(0, "boot-file"), event(599, "boot-file"), event(1200, "boot-file")]
    assert [len(part) for part in attempts(told)] == [2, 1]


def test_neighbours_that_say_the_same_are_told_once() -> None:
    told = told_once([event(1, "a"), event(2, "a"), event(3, "b"), event(4, "a")])
    assert [(one["sentence"], one["at"], one["times"]) for one in told] == [
        ("a", 2, 2),
        ("b", 3, 1),
        ("a", 4, 1),
    ]
