"""From rows to what a person is shown: cards, services, a timeline in plain sentences.

Pure. A sighting (by MAC) and a box (by EK) that phoned home with that MAC are one card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bootstrap.cards import Card, next_step, quiet
from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow, Sighting

_BEFORE = (Stage.HEARD, Stage.BOOTING)


def cards(boxes: Iterable[BoxRow], sightings: Iterable[Sighting], now: float) -> list[Card]:
    """One card for each box and for each MAC that no box has claimed, newest change first."""
    by_mac = {sighting.mac: sighting for sighting in sightings}
    shown = [_box_card(box, by_mac.pop(box.mac or "", None), now) for box in boxes]
    shown += [_sighting_card(sighting, now) for sighting in by_mac.values()]
    return sorted(shown, key=lambda card: card.since, reverse=True)


def card_json(card: Card) -> Mapping[str, Any]:
    """Write a card for the socket; the page and the command line read this."""
    return {
        "key": card.key,
        "title": card.title,
        "stage": card.stage.value,
        "since": card.since,
        "first": card.first,
        "attempt": card.attempt,
        "facts": [list(pair) for pair in card.facts],
        "reasons": list(card.reasons),
        "sentence": card.sentence,
        "next_step": card.next_step,
        "quiet": card.quiet,
        "tone": card.tone,
    }


def _box_card(box: BoxRow, sighting: Sighting | None, now: float) -> Card:
    reborn = sighting is not None and sighting.since > box.since and sighting.stage in _BEFORE
    stage = sighting.stage if sighting is not None and reborn else box.stage
    since = sighting.since if sighting is not None and reborn else box.since
    reasons = () if reborn else box.reasons + tuple(str(item["reason"]) for item in box.withheld)
    smbios = box.facts.get("smbios") or {}
    product = str(smbios.get("product_name") or "")
    serial = str(smbios.get("product_serial") or "")
    facts = {
        "Address": box.address or "",
        "MAC": box.mac or "",
        "Serial": serial[:40],
        "Role": box.role or "",
        "Withheld": ", ".join(str(item["name"]) for item in box.withheld),
    }
    return Card(
        key=box.box,
        title=box.hostname or product[:40] or f"box {box.box[:8]}",
        stage=stage,
        since=since,
        first=box.first,
        attempt=box.attempt,
        facts=tuple((name, text) for name, text in facts.items() if text),
        reasons=reasons,
        sentence=None if reborn else box.sentence or _withheld_sentence(box),
        next_step=next_step(stage, reasons),
        quiet=quiet(stage, since, now),
    )


def _withheld_sentence(box: BoxRow) -> str | None:
    if not box.withheld:
        return None
    names = ", ".join(str(item["name"]) for item in box.withheld)
    return f"It runs, but was not given: {names}"


def _sighting_card(sighting: Sighting, now: float) -> Card:
    facts = {"Address": sighting.address or "", "MAC": sighting.mac}
    reasons = (sighting.reason,) if sighting.reason else ()
    return Card(
        key=sighting.mac,
        title=f"new box {sighting.mac[-8:]}",
        stage=sighting.stage,
        since=sighting.since,
        first=sighting.first,
        attempt=1,
        facts=tuple((name, text) for name, text in facts.items() if text),
        reasons=reasons,
        sentence=None,
        next_step=next_step(sighting.stage, reasons),
        quiet=quiet(sighting.stage, sighting.since, now),
    )


_SENTENCES = {
    "dhcp-discover": "asked for an address",
    "dhcp-offer": "was offered {address}",
    "dhcp-ack": "has the address {address}",
    "dhcp-release": "gave {address} back",
    "boot-file": "loaded {name}",
    "arch-unknown": "asked for a start file that this site does not have",
    "foreign-dhcp": "another DHCP server answers on this network: {address}",
    "session": "began to prove itself",
    "verified": "proved itself: {tier}",
    "held": "must wait: {sentence}",
    "refused": "was refused: {sentence}",
    "enrolled": "was given its name {hostname} and its configuration",
    "ready": "reported ready",
    "report": "reported, and is not ready yet",
    "trouble": "says of itself: {sentence}",
    "approved": "was approved by a person",
    "replay": "sent another answer to an old question",
    "handover": "a hand-over was sealed for it",
}


def event_sentence(event: Mapping[str, Any]) -> str:
    """Say what an event means in the words of the page; the kind itself where no words exist."""
    values = _Blank(
        {"address": event.get("address") or "an address", **(event.get("detail") or {})}
    )
    return _SENTENCES.get(str(event["kind"]), str(event["kind"])).format_map(values)


class _Blank(dict[str, Any]):
    """Text from a peer never breaks a sentence: what is missing is a dash."""

    def __missing__(self, key: str) -> str:
        return "-"
