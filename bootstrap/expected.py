"""Boxes that headquarters sent and that nobody has heard: one card for each.

Pure. A card of these knows no MAC: the delivery note names boxes by what is inside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256

from bootstrap.cards import Card, full_sentence, harmless, next_step
from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow, Sighting
from keys.note import DeliveryNote, Entry

MOST = 100
"""Cards of boxes that are not there; a larger delivery is not read card by card."""
PATIENCE_SECONDS = 60.0
FRESH_SECONDS = 600.0
"""A MAC that was heard within this time can be one of the boxes that are waited for."""
NO_DHCP = "NO-DHCP"


def expected(note: DeliveryNote | None, boxes: Collection[BoxRow]) -> tuple[Entry, ...]:
    """List the entries of the note whose box never spoke here."""
    if note is None:
        return ()
    keys = {sha256(box.ek_public).digest() for box in boxes}
    places = {box.place for box in boxes if box.place}
    return tuple(
        entry
        for entry in note.entries
        if entry.ek_sha256 not in keys and entry.serial not in places
    )


def expected_cards(
    entries: Collection[Entry], sightings: Iterable[Sighting], since: float, now: float
) -> list[Card]:
    """Make their cards; `since` is when this site began to listen.

    As long as as many boxes start that nobody knows yet, these may be the ones.
    """
    starting = sum(
        one.stage in (Stage.HEARD, Stage.BOOTING) and now - one.since < FRESH_SECONDS
        for one in sightings
    )
    is_missed = len(entries) > starting and now - since >= PATIENCE_SECONDS
    return [_card(entry, since, is_missed=is_missed) for entry in list(entries)[:MOST]]


def _card(entry: Entry, since: float, *, is_missed: bool) -> Card:
    reasons = (NO_DHCP,) if is_missed else ()
    facts = {"Serial": entry.serial, "Model": entry.model, "Role": entry.role}
    sentence = "It is on the delivery note and was not heard yet"
    return Card(
        key=f"note-{sha256(entry.serial.encode()).hexdigest()[:16]}",
        title=harmless(entry.name or f"{entry.model or 'box'} {entry.serial}", 63),
        stage=Stage.EXPECTED,
        since=since,
        first=since,
        attempt=0,
        facts=tuple((name, harmless(text, 40)) for name, text in facts.items() if text),
        reasons=reasons,
        sentence=full_sentence(sentence if is_missed else f"{sentence}, or is just starting"),
        next_step=next_step(Stage.EXPECTED, reasons),
        quiet=None,
    )
