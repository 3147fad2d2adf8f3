"""`netboot.db`: what was committed is read again, and numbers have no gaps."""

from __future__ import annotations

import queue
import sqlite3
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from dhcp_lab import ADDRESS, NOW, Server, config, mac, message, pxe

from netboot.dhcp_options import Code, MessageType
from netboot.errors import SiteError
from netboot.events import Event, EventKind
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.schema import MIGRATIONS
from netboot.leases import Lease, LeaseState, LeaseWrite

LEASE = Lease(
    subnet="tills",
    address=ADDRESS("10.41.7.100"),
    key=mac(1),
    mac=mac(1),
    state=LeaseState.BOUND,
    expires=NOW + 100.5,
    name="pos-01",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "netboot.db"


def test_rows_come_back_as_they_were(path: Path) -> None:
    other = replace(
        LEASE, address=ADDRESS("10.41.7.101"), key=b"hardware:\x20x", mac=None, name=None
    )
    declined = replace(
        LEASE,
        address=ADDRESS("10.41.7.102"),
        state=LeaseState.DECLINED,
        client_id=b"",
        identity=b"u" + bytes(16),
    )
    rows = (LEASE, other, declined)
    store = NetbootStore(path)
    store.commit([LeaseWrite(address=row.address, lease=row) for row in rows], (), ())
    store.close()
    again = NetbootStore(path)
    assert again.load_leases() == rows
    assert [lease.address for lease in again.current_leases(NOW)] == [LEASE.address, other.address]
    assert again.current_leases(NOW)[0].name == "pos-01"
    assert again.current_leases(NOW + 101) == ()


def test_a_removed_row_is_gone(path: Path) -> None:
    store = NetbootStore(path)
    store.commit([LeaseWrite(address=LEASE.address, lease=LEASE)], (), ())
    store.commit([LeaseWrite(address=LEASE.address, lease=None)], (), ())
    assert store.load_leases() == ()


def test_every_commit_is_synced(path: Path) -> None:
    store = NetbootStore(path)
    assert store.rows("PRAGMA synchronous") == [(2,)]
    assert store.rows("PRAGMA journal_mode") == [("wal",)]


def test_leases_of_the_first_schema_are_taken_over_and_copied_before(path: Path) -> None:
    declined = replace(LEASE, address=ADDRESS("10.41.7.102"), state=LeaseState.DECLINED)
    other = replace(LEASE, address=ADDRESS("200.1.2.3"), key=b"client-id:x", mac=None, name=None)
    with sqlite3.connect(path) as db:
        db.executescript(f"{MIGRATIONS[0]} {MIGRATIONS[1]} PRAGMA user_version = 2;")
        db.executemany(
            "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (str(one.address), one.subnet, one.key, one.mac, one.state, one.expires, one.name)
                for one in (LEASE, declined, other)
            ],
        )
    db.close()
    copy = path.with_name("netboot.db.schema-2")
    copy.with_name(copy.name + ".new").write_bytes(b"half a copy, from a power cut")
    store = NetbootStore(path)
    assert store.load_leases() == (LEASE, declined, other)
    assert store.rows("PRAGMA user_version") == [(len(MIGRATIONS),)]
    store.close()
    assert list(path.parent.glob("*.new")) == []
    with sqlite3.connect(copy) as db:
        assert db.execute("SELECT address FROM leases").fetchall()[0] == ("10.41.7.100",)
    db.close()


def test_an_old_row_that_cannot_be_read_stops_the_migration_and_changes_nothing(
    path: Path,
) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(f"{MIGRATIONS[0]} {MIGRATIONS[1]} PRAGMA user_version = 2;")
        db.execute("INSERT INTO leases VALUES ('10.0.0', 't', x'00', NULL, 'bound', 1.0, NULL)")
    db.close()
    with pytest.raises(SiteError, match=r"netboot\.db"):
        NetbootStore(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT address FROM leases").fetchall() == [("10.0.0",)]
    db.close()


def lease(number: int, **changes: object) -> Lease:
    values = {"address": ADDRESS("10.41.0.0") + number, "key": mac(number), "mac": mac(number)}
    return replace(LEASE, **(values | changes))  # type: ignore[arg-type]


def test_what_comes_during_a_commit_goes_into_the_next_together_and_in_order(path: Path) -> None:
    store = NetbootStore(path)
    commits: list[int] = []
    over = threading.Event()
    with store.transaction():  # the commit under way
        for number in range(500):
            last = lease(number % 100, name=f"n{number}")
            done = partial(_told, commits, over, number)
            store.submit([LeaseWrite(address=last.address, lease=last)], (), (), done)
    assert over.wait(20)
    assert commits == list(range(500))
    names = {one.name for one in store.load_leases()}
    assert names == {f"n{number}" for number in range(400, 500)}
    store.close()


def _told(commits: list[int], over: threading.Event, number: int, error: object) -> None:
    assert error is None
    commits.append(number)
    if len(commits) == 500:
        over.set()


def test_one_bad_row_costs_only_its_own_batch(path: Path) -> None:
    store = NetbootStore(path)
    said: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
    good, bad = lease(1), lease(2, subnet=None)
    with store.transaction():
        for name, row in (("bad", bad), ("good", good), ("bad", bad)):
            write = LeaseWrite(address=row.address, lease=row)
            store.submit([write], (), (), partial(_say, said, name))
    answers = [said.get(timeout=20) for _ in range(3)]
    assert [(name, error is None) for name, error in answers] == [
        ("bad", False),
        ("good", True),
        ("bad", False),
    ]
    assert store.load_leases() == (good,)
    assert store.trouble is None
    store.close()


def _say(said: queue.SimpleQueue[tuple[str, object]], name: str, error: object) -> None:
    said.put((name, error))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_ended_is_told_at_once_and_not_waited_for(path: Path) -> None:
    store = NetbootStore(path)
    event = Event(at=NOW, kind=EventKind.FLOOD, detail=(("text", b"no text"),))  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(SiteError, match=r"writer of netboot\.db has ended"):
            store.commit((), [event], ())
    store.close()


def test_transactions_of_others_do_not_let_the_log_grow(path: Path) -> None:
    store = NetbootStore(path)
    store.lengthen_log()
    before = path.stat().st_size
    for number in range(2050):
        with store.transaction() as db:
            db.execute("INSERT INTO server6 VALUES (?)", (number.to_bytes(2, "big") * 50,))
    assert path.stat().st_size > before + 100_000  # rows are in the tables, not in the log alone
    store.close()


def test_the_log_stays_bounded_and_is_long_before_it_is_needed(path: Path) -> None:
    store = NetbootStore(path)
    store.lengthen_log()
    log = path.with_name("netboot.db-wal")
    before = log.stat().st_size
    assert before >= 8 << 20
    event = Event(at=NOW, kind=EventKind.FLOOD, detail=(("text", "x" * 200),))
    for start in range(0, 40_000, 400):
        rows = [lease(number) for number in range(start, start + 400)]
        writes = [LeaseWrite(address=row.address, lease=row) for row in rows]
        store.commit(writes, [event] * 400, ())
    assert path.stat().st_size > 8 << 20
    assert log.stat().st_size <= before + (4 << 20)
    assert len(store.load_leases()) == 40_000
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_a_newer_schema_is_refused_with_a_sentence(path: Path) -> None:
    NetbootStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(SiteError, match=r"netboot\.db was written by a newer release \(schema 99"):
        NetbootStore(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(SiteError, match="netboot.db"):
        NetbootStore(path)


def test_a_row_that_cannot_be_read_is_refused(path: Path) -> None:
    store = NetbootStore(path)
    store.commit([LeaseWrite(address=LEASE.address, lease=LEASE)], (), ())
    with store.transaction() as db:
        db.execute("UPDATE leases SET address = -1")
    with pytest.raises(SiteError, match="leases"):
        store.load_leases()


def test_a_failed_group_leaves_nothing_and_no_gap(path: Path) -> None:
    store = NetbootStore(path)
    log = EventLog(store)
    event = Event(at=NOW, kind=EventKind.BOOT_FILE, address=LEASE.address)
    log.append(event)
    broken = replace(LEASE, subnet=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.commit([LeaseWrite(address=LEASE.address, lease=broken)], [event], ())
    with pytest.raises(sqlite3.IntegrityError):
        store.commit((), [event, replace(event, at=None)], ())  # type: ignore[arg-type]
    log.append(event)
    assert [row["n"] for row in log.after(0)] == [1, 2]
    assert store.load_leases() == ()


def test_events_after_a_cursor_in_the_form_of_the_socket(path: Path) -> None:
    log = EventLog(NetbootStore(path))
    assert (log.last(), log.after(0)) == (0, ())
    for size in (1, 2, 3):
        log.append(
            Event(
                at=NOW,
                kind=EventKind.BOOT_FILE,
                mac=mac(1),
                address=LEASE.address,
                detail=(("name", "shimx64.efi"), ("bytes", size), ("size", 3), ("done", size == 3)),
            )
        )
    assert log.after(1, limit=1) == (
        {
            "n": 2,
            "at": NOW,
            "kind": "boot-file",
            "box": None,
            "mac": "02:01:00:00:00:01",
            "address": "10.41.7.100",
            "reason": None,
            "detail": {"name": "shimx64.efi", "bytes": 2, "size": 3, "done": False},
        },
    )
    assert [row["n"] for row in log.after(1)] == [2, 3]
    assert log.last() == 3


def test_a_sighting_keeps_when_it_was_first_heard(path: Path) -> None:
    store = NetbootStore(path)
    server = Server(config())
    for extra in ((*pxe(), (Code.HOST_NAME, b"box")), ((Code.VENDOR_CLASS, b"linux"),)):
        outcome = server.send(message(MessageType.DISCOVER, mac(1), *extra))
        store.commit(outcome.writes, outcome.events, outcome.sightings)
        server.now += 61
    rows = store.rows("SELECT mac, first, last, vendor_class, uuid, host_name FROM sightings")
    assert rows == [(mac(1), NOW, NOW + 61, b"linux", b"\0" + bytes(range(16)), "box")]


def test_old_events_go_and_numbers_stay(path: Path) -> None:
    store = NetbootStore(path)
    log = EventLog(store)
    with store.transaction() as db:
        db.executemany(
            "INSERT INTO events VALUES (?, 0, 'dhcp-ack', NULL, NULL, NULL, '{}')",
            [(n,) for n in (1, 2, 200_998)],
        )
    log.append(*[Event(at=NOW, kind=EventKind.FLOOD)] * 2)
    assert [row["n"] for row in log.after(0)] == [200_998, 200_999, 201_000]
