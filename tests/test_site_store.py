"""`site.db`: what was stored comes back, all or nothing, in order, across a new start."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.enrolment import Approval, Stage
from bootstrap.errors import SiteError
from bootstrap.io.site_store import MIGRATIONS, SCHEMA, SiteStore
from bootstrap.rows import BoxRow, Event, SessionRow, Sighting

BOX = BoxRow(
    box="b1",
    ek_name=b"ek1",
    ek_public=b"public",
    stage=Stage.HELD,
    since=2.0,
    first=1.0,
    attempt=3,
    reasons=("EK-UNLISTED",),
    sentence="It is not listed.",
    measurements=b"m" * 32,
    withheld=({"name": "x", "reason": "expired", "since": 1},),
    tier="boot verified, firmware provisional",
    sealed=b"s" * 32,
    place="S-1",
    replaces="b0",
    firmware=b"f" * 32,
    tpm_firmware=(1 << 64) - 1,
    basis=b"b" * 32,
    facts={"smbios": {"product_serial": "S1"}, "memory_mib": 2048},
)
SESSION = SessionRow(
    session=b"s" * 16,
    box="b1",
    at=2.0,
    address="10.41.7.100",
    body_digest=b"d" * 32,
    transcript=b"x" * 32,
    device_public=b"device",
)
APPROVAL = Approval(
    ek_name=b"ek1",
    reasons=frozenset({"EK-UNLISTED", "FACTS-DIFFER"}),
    measurements=b"m" * 32,
    role="pos",
    expires=9.0,
    used=False,
    claim="the label says S-1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.db"


def test_everything_is_there_after_a_new_start(path: Path) -> None:
    store = SiteStore(path)
    key = store.service_key()
    sighting = Sighting(mac="m1", stage=Stage.HEARD, since=1.0, first=1.0, detail={"a": [1]})
    store.save_box(BOX)
    store.save_session(SESSION)
    store.save_sighting(sighting)
    store.add_approval(APPROVAL)
    store.set_number("plan", 7)
    again = SiteStore(path)
    assert again.service_key() == key
    assert len(key) == 32
    assert again.box("b1") == BOX
    assert again.boxes() == [BOX]
    assert again.session(SESSION.session) == SESSION
    assert again.sighting("m1") == sighting
    assert again.sightings() == [sighting]
    assert again.approvals(b"ek1") == [(1, APPROVAL)]
    assert again.approvals(b"ek2") == []
    assert (again.number("plan"), again.number("other")) == (7, 0)


def test_two_sites_have_two_keys(tmp_path: Path) -> None:
    keys = {SiteStore(tmp_path / name).service_key() for name in "ab"}
    assert len(keys) == 2


def test_rows_are_replaced_in_place(path: Path) -> None:
    store = SiteStore(path)
    store.save_box(BOX)
    store.save_box(replace(BOX, stage=Stage.READY, withheld=()))
    assert [one.stage for one in store.boxes()] == [Stage.READY]
    store.save_session(SESSION)
    store.save_session(replace(SESSION, session=b"t" * 16))
    store.save_session(replace(SESSION, answer="answer", digests={"x": "y"}))
    assert store.newest_session("b1") == b"t" * 16, "an answer makes no session newer"
    assert store.session(SESSION.session).digests == {"x": "y"}
    assert store.newest_session("b2") is None


def test_an_ek_has_one_box(path: Path) -> None:
    store = SiteStore(path)
    store.save_box(BOX)
    with pytest.raises(sqlite3.IntegrityError):
        store.save_box(replace(BOX, box="b2"))


def test_an_approval_is_used_once(path: Path) -> None:
    store = SiteStore(path)
    store.add_approval(APPROVAL)
    store.add_approval(APPROVAL)
    store.use_approval(2)
    assert [approval.used for _, approval in store.approvals(b"ek1")] == [False, True]


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    store = SiteStore(path)
    with pytest.raises(ValueError, match="stop"), store.transaction():
        store.save_box(BOX)
        store.add_event(Event(at=1.0, kind="x", detail={}))
        raise ValueError("stop")
    assert (store.boxes(), store.last_event()) == ([], 0)
    assert store.add_event(Event(at=1.0, kind="x", detail={})) == 1


def test_events_are_numbered_without_gaps(path: Path) -> None:
    store = SiteStore(path)
    for number in range(5):
        event = Event(at=float(number), kind="k", box="b1" if number % 2 else None, detail={})
        assert store.add_event(event) == number + 1
    assert [event["n"] for event in store.events_after(2, 2)] == [3, 4]
    assert store.last_event() == 5
    assert [event["n"] for event in store.box_events("b1", None, 9)] == [2, 4]
    assert [event["n"] for event in store.box_events("b1", None, 1)] == [4]


def test_the_database_of_a_newer_release(path: Path) -> None:
    SiteStore(path)
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version={SCHEMA + 1}")
    database.close()
    with pytest.raises(SiteError, match="newer Doorstep"):
        SiteStore(path)


def test_a_database_of_the_first_schema_is_copied_then_migrated(path: Path) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    old.executescript(MIGRATIONS[0] + "PRAGMA user_version=1;")
    old.execute("INSERT INTO meta VALUES ('K', x'01')")
    old.execute(
        "INSERT INTO boxes (box, ek_name, ek_public, stage, since, attempt, first, reasons,"
        " withheld, facts) VALUES ('b1', x'01', x'02', 'ready', 2.0, 1, 1.0, '[]', '[]', '{}')"
    )
    old.execute(
        "INSERT INTO approvals (ek_name, reasons, measurements, role, expires, used)"
        " VALUES (x'01', '[\"EK-UNLISTED\"]', x'03', 'pos', 9.0, 0)"
    )
    old.close()
    store = SiteStore(path)
    (box,) = store.boxes()
    assert (box.stage, box.tier, box.firmware, box.tpm_firmware) == (Stage.READY, None, None, None)
    ((_, approval),) = store.approvals(b"\x01")
    assert (approval.reasons, approval.claim) == ({"EK-UNLISTED"}, "")
    copy = sqlite3.connect(path.with_name("site.db.schema1"))
    assert copy.execute("PRAGMA user_version").fetchone()[0] == 1
    assert copy.execute("SELECT box FROM boxes").fetchall() == [("b1",)]
    copy.close()
    assert SiteStore(path).boxes() == [box], "the second start migrates nothing"


def test_it_survives_the_loss_of_power(path: Path) -> None:
    database = SiteStore(path)._db
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
