"""From what netboot tells to the technician's card: each reason with its sentence and next step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_site import box_row

from bootstrap.cards import Card
from bootstrap.enrolment import Stage
from bootstrap.expected import MOST, expected
from bootstrap.io.collector import START_SECONDS, Collector
from bootstrap.io.site_store import SiteStore
from bootstrap.loading import STALL_SECONDS, percent, served, silence
from bootstrap.next_steps import NEXT_STEP
from bootstrap.rows import BoxRow, Event, Sighting
from bootstrap.views import cards, event_sentence, last_served
from keys.note import DeliveryNote, Entry, Floor
from netboot.events import EventKind
from netboot.files import Entry as FileEntry
from netboot.files import ServeRecord, Transport

MAC, ADDRESS = "52:54:00:41:07:01", "10.41.7.105"
BOX = IPv4Address(ADDRESS)
PXE = {"vendor_class": "PXEClient:Arch:00007"}
BOOTS = {"boot_file": "shimx64.efi"}
BOOT_SET = b"s" * 32
SIZE = 100 << 20
INITRD = FileEntry(path="/f/00/initrd.img", sha256=b"i" * 32, boot_set=BOOT_SET)
LOADER = FileEntry(path="/shimx64.efi", sha256=b"l" * 32, boot_set=BOOT_SET)


class Site:
    """Control's ear and its cards, without the sockets between."""

    def __init__(self, path: Path) -> None:
        self.store = SiteStore(path / "site.db")
        self._collector = Collector(self.store, {})

    def hear(self, at: float, kind: EventKind, reason: str | None = None, **changes) -> None:
        fields = {"mac": MAC, "address": None, "detail": {}, **changes}
        self._collector._keep(Event(at=at, kind=kind.value, reason=reason, **fields))

    def sent(self, events) -> None:
        """Take what the serve record told, as netboot sends it."""
        for one in events:
            detail = dict(one.detail)
            self.hear(one.at, one.kind, one.reason, address=str(one.address), detail=detail)

    def asks(self, at: float = 0.0) -> None:
        self.hear(at, EventKind.DISCOVER, detail=PXE)
        self.hear(at, EventKind.OFFER, address=ADDRESS, detail=BOOTS)

    def has_address(self, at: float = 0.0) -> None:
        self.asks(at)
        self.hear(at + 3, EventKind.ACK, address=ADDRESS, detail=BOOTS)

    def card(self, now: float, **changes) -> Card:
        (card,) = cards(self.store.boxes(), self.store.sightings(), now, **changes)
        return card


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


def check(card: Card, code: str, sentence: str) -> None:
    """Compare a card that waits: its code, what it says, and what is to be done."""
    assert (card.tone, card.code, card.sentence or card.quiet) == ("wait", code, sentence)
    assert card.next_step == NEXT_STEP[code]


def test_dhcp_noboot_an_address_and_no_file(site: Site) -> None:
    site.has_address()
    assert (site.card(59.0).tone, site.card(59.0).code) == ("busy", None)
    sentence = "It has an address and did not ask for its start file."
    check(site.card(60.0), "DHCP-NOBOOT", sentence)


def test_dhcp_noboot_is_told_of_a_box_that_asks_again_and_again(site: Site) -> None:
    for at in range(0, 100, 20):
        site.has_address(float(at))
    assert (site.card(100.0).code, site.card(100.0).since) == ("DHCP-NOBOOT", 0.0)


def test_after_a_pause_it_is_a_new_start(site: Site) -> None:
    site.has_address()
    again = START_SECONDS + 10
    site.has_address(again)
    assert (site.card(again + 5).code, site.card(again + 5).since) == (None, again)


def test_an_offer_that_was_not_taken_is_no_address(site: Site) -> None:
    site.asks()
    card = site.card(60.0)
    sentence = "It asked for an address and did not take the one that it was offered."
    check(card, "DHCP-STALL", sentence)
    assert "Address" not in dict(card.facts)


def test_boot_stall_with_percent_and_file(site: Site) -> None:
    site.has_address()
    record = ServeRecord()
    site.sent(record.start(Transport.TFTP, BOX, INITRD, SIZE, 10.0))
    for second in range(11, 20):
        sent = SIZE * 43 * (second - 10) // 900
        site.sent(record.progress(Transport.TFTP, BOX, INITRD, SIZE, float(second), sent=sent))
    site.sent(record.end(Transport.TFTP, BOX, INITRD, SIZE, 50.0, sent=SIZE * 43 // 100 + 1))
    card = site.card(50.0 + STALL_SECONDS)
    check(card, "BOOT-STALL", "It stopped at 43\u00a0% of the initrd.")
    assert dict(card.facts)["Loads"] == "initrd.img to 43\u00a0%"
    assert site.card(49.0 + STALL_SECONDS).code is None


def test_boot_stall_while_nothing_more_is_acknowledged(site: Site) -> None:
    site.has_address()
    record = ServeRecord()
    site.sent(record.start(Transport.HTTP, BOX, INITRD, SIZE, 10.0))
    site.sent(record.progress(Transport.HTTP, BOX, INITRD, SIZE, 12.0, sent=SIZE // 4))
    assert dict(site.card(13.0).facts)["Loads"] == "initrd.img to 25\u00a0%"
    assert site.card(13.0).tone == "busy"
    check(site.card(43.0), "BOOT-STALL", "It stopped at 25\u00a0% of the initrd.")


def test_a_slow_file_that_goes_on_is_no_stall_and_keeps_its_age(site: Site) -> None:
    site.has_address()
    record = ServeRecord()
    site.sent(record.start(Transport.HTTP, BOX, INITRD, SIZE, 10.0))
    for at in range(20, 1000, 20):
        site.sent(record.progress(Transport.HTTP, BOX, INITRD, SIZE, float(at), sent=at))
    card = site.card(1000.0)
    assert (card.code, card.tone, card.since) == (None, "busy", 10.0)


def test_boot_stall_after_all_that_was_loaded(site: Site) -> None:
    site.has_address()
    site.sent(ServeRecord().end(Transport.TFTP, BOX, INITRD, SIZE, 10.0, sent=SIZE))
    assert site.card(189.0).code is None
    sentence = "It stopped loading: it has the initrd and asked for nothing more."
    check(site.card(190.0), "BOOT-STALL", sentence)


def test_other_dhcp_names_the_server_that_was_chosen(site: Site) -> None:
    site.asks()
    site.hear(1.0, EventKind.ELSEWHERE, "OTHER-DHCP", detail={"server": "10.41.7.66"})
    site.hear(2.0, EventKind.DISCOVER, detail=PXE)
    sentence = "It took the address that another device on this network offered: 10.41.7.66."
    check(site.card(3.0), "OTHER-DHCP", sentence)
    site.has_address(4.0)
    assert site.card(8.0).code is None


def test_arch_no_loader_stays_through_offer_and_ack(site: Site) -> None:
    site.hear(0.0, EventKind.DISCOVER, detail={"vendor_class": "PXEClient:Arch:00000"})
    site.hear(0.0, EventKind.ARCHITECTURE, "ARCH", detail={"architectures": "0x0000"})
    site.hear(0.0, EventKind.OFFER, address=ADDRESS, detail={"boot_file": ""})
    site.hear(1.0, EventKind.ACK, address=ADDRESS, detail={"boot_file": ""})
    sentence = "It asked for a start file for a kind of processor that this site does not serve."
    check(site.card(2.0), "ARCH", sentence)


def test_no_address_left_is_told(site: Site) -> None:
    site.hear(0.0, EventKind.DISCOVER, detail=PXE)
    site.hear(0.0, EventKind.POOL_EMPTY)
    sentence = "It asked for an address, and this network has none left."
    check(site.card(1.0), "POOL-EMPTY", sentence)


def test_remarks_make_no_card_of_what_does_not_boot(site: Site) -> None:
    site.hear(0.0, EventKind.DISCOVER, detail={"vendor_class": "printer"})
    site.hear(1.0, EventKind.ELSEWHERE, "OTHER-DHCP", detail={"server": "10.41.7.66"})
    site.hear(2.0, EventKind.POOL_EMPTY)
    assert site.store.sightings() == []


def test_a_known_box_that_starts_again_tells_its_reason_too(site: Site) -> None:
    row = box_row(1, Stage.READY, 0.0)
    site.store.save_box(row)
    site.hear(100.0, EventKind.DISCOVER, mac=row.mac, detail=PXE | BOOTS)
    site.hear(101.0, EventKind.ELSEWHERE, "OTHER-DHCP", mac=row.mac, detail={"server": "10.0.0.9"})
    card = site.card(102.0)
    assert (card.key, card.stage, card.code) == (row.box, Stage.HEARD, "OTHER-DHCP")
    assert card.sentence is not None
    assert card.sentence.endswith("offered: 10.0.0.9.")


# NO-DHCP


def entry(serial: str, ek: bytes | None = None) -> Entry:
    ek_sha256 = None if ek is None else hashlib.sha256(ek).digest()
    return Entry(serial=serial, model="TillBox 300", ek_sha256=ek_sha256, role="pos", name=None)


def note(*entries: Entry) -> DeliveryNote:
    known = {one.ek_sha256: one for one in entries if one.ek_sha256}
    return DeliveryNote(floor=Floor(counter=1, digest=bytes(32)), entries=entries, by_ek=known)


def test_no_dhcp_a_box_of_the_note_that_was_never_heard(site: Site) -> None:
    wanted = expected(note(entry("TB3-1")), [])
    assert site.card(1059.0, expected=wanted, since=1000.0).code is None
    card = site.card(1060.0, expected=wanted, since=1000.0)
    check(card, "NO-DHCP", "It is on the delivery note and was not heard yet.")
    assert (card.stage, card.title, card.step) == (Stage.EXPECTED, "TillBox 300 TB3-1", None)


def test_no_dhcp_is_not_said_while_as_many_strangers_start(site: Site) -> None:
    site.asks(1050.0)
    shown = cards([], site.store.sightings(), 1100.0, expected=[entry("TB3-1")], since=1000.0)
    assert [(card.stage, card.code) for card in shown] == [
        (Stage.HEARD, None),
        (Stage.EXPECTED, None),
    ]
    two = [entry("TB3-1"), entry("TB3-2")]
    shown = cards([], site.store.sightings(), 1100.0, expected=two, since=1000.0)
    assert [card.code for card in shown] == [None, "NO-DHCP", "NO-DHCP"]


def test_a_box_that_spoke_is_expected_no_more() -> None:
    row: BoxRow = box_row(1, Stage.HELD, 0.0)
    by_key, other = entry("A", row.ek_public), entry("B", b"other")
    assert expected(note(by_key, other), [row]) == (other,)
    placed = box_row(2, Stage.ENROLLED, 0.0, place="C")
    assert expected(note(entry("C"), other), [placed]) == (other,)
    assert expected(None, [row]) == ()


def test_a_large_delivery_is_shown_in_part() -> None:
    many = [entry(f"S{number}") for number in range(MOST + 50)]
    assert len(cards([], [], 9.0, expected=many, since=0.0)) == MOST


# What was sent


def story(events) -> list[dict]:
    return [{"at": one.at, "kind": one.kind.value, "detail": dict(one.detail)} for one in events]


def test_the_record_names_the_boot_set_and_lists_its_files_in_order() -> None:
    record = ServeRecord()
    events = [
        *record.start(Transport.TFTP, BOX, LOADER, 900, 1.0),
        *record.end(Transport.TFTP, BOX, LOADER, 900, 2.0, sent=900),
        *record.start(Transport.HTTP, BOX, INITRD, SIZE, 3.0),
        *record.progress(Transport.HTTP, BOX, INITRD, SIZE, 6.0, sent=SIZE // 2),
    ]
    again = record.end(Transport.TFTP, BOX, LOADER, 900, 7.0, sent=900)
    first, second = last_served(story([*events, *again]))
    assert (first["name"], first["sent"], first["done"], first["at"]) == (LOADER.path, 900, True, 1)
    assert first["boot_set"] == second["boot_set"] == BOOT_SET.hex()
    assert (second["name"], second["sent"], second["size"], second["done"]) == (
        INITRD.path,
        SIZE // 2,
        SIZE,
        False,
    )
    assert second["sha256"] == INITRD.sha256.hex()
    assert last_served([]) == []


def test_the_last_start_counts_even_after_a_second_proof() -> None:
    sent = story(ServeRecord().end(Transport.TFTP, BOX, LOADER, 900, 1.0, sent=900))
    later = [{"at": at, "kind": "session", "detail": {}} for at in (5.0, 70.0)]
    assert [one["name"] for one in last_served([*sent, *later])] == [LOADER.path]


@pytest.mark.parametrize(
    ("detail", "sentence"),
    [
        ({"phase": "progress", "name": "/f/0/initrd", "sent": 5, "size": 9}, "is loading initrd"),
        ({"phase": "end", "name": "/x", "sent": 5, "size": 9, "offset": 3}, "loaded a part of x"),
        ({"phase": "end", "name": "/x", "sent": 1, "size": 4}, "loaded x to 25\u00a0%"),
    ],
)
def test_the_story_of_a_file(detail: dict, sentence: str) -> None:
    assert event_sentence({"kind": "boot-file", "detail": detail}) == sentence


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.floats()
NAMES = ["name", "sent", "size", "phase", "done", "offset", "sha256", "boot_set", "last"]


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(["start", "end", "x"]))
def test_any_detail_gives_words_or_nothing(detail: dict, phase: str) -> None:
    detail = {**detail, "phase": phase}
    part = percent(detail)
    assert part is None or 0 <= part <= 100
    seen = Sighting(mac=MAC, stage=Stage.BOOTING, since=0.0, first=0.0, detail=detail)
    missing = silence(seen, 1e6)
    assert missing is None or missing.sentence.endswith(".")
    (one,) = served([{"kind": "boot-file", "at": 1.0, "detail": detail}]) or (None,)
    assert one is None or (one.sent >= 0 and one.size >= 0)
