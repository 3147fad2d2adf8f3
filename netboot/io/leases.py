"""`netboot.db`: leases, sightings and numbered events, durable before anybody is told of them.

One connection writes, in the writer's thread or under its lock, and one reads; both for all threads
of the process. It never decides anything. SQLite in WAL mode with synchronous=FULL: a commit is one
fsync. While the log is written over in place that takes 0.3 ms instead of 4, hence the padding.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from typing import Any

from netboot.dhcp import Sighting
from netboot.errors import SiteError
from netboot.events import Event
from netboot.io.schema import migrate
from netboot.io.writer import Batch, Done, GroupWriter, Write
from netboot.leases import Lease, LeaseState
from netboot.leases6 import Lease6, LeaseWrite6

SIGHTINGS_KEPT = 10_000
EVENTS_KEPT = 200_000
"""The oldest rows beyond these go; numbers are never used again."""
_PRUNE_EVERY = 1000
_LOG_PAGES = 4000
"""Pages that the log may hold, at most; then it is taken over into the tables."""
_PAGES_OF_ONE = 4
_PADDING = 8 << 20
"""Bytes by which the log is made long, so that a commit need not make the file longer."""
_SPARE = 16
"""The disk must have so many times the padding free."""
_CHUNKS = (128, 16, 4, 1)
"""Rows of one statement. Each step of SQLite lets other threads run and waits for its turn."""
_STATES = (LeaseState.BOUND, LeaseState.RELEASED, LeaseState.DECLINED)
_NUMBERS = {state: number for number, state in enumerate(_STATES)}
_LEASE = "SELECT subnet, address, key, mac, state, expires, name, client_id, identity FROM leases"

_Row = tuple[object, ...]


class _TakenBackError(Exception):
    """Raised to end a transaction that is not wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentLease:
    """A lease in force: `expires` in unix seconds, `mac` None off Ethernet."""

    address: IPv4Address
    mac: bytes | None
    expires: float
    name: str | None


class NetbootStore:
    """The open database; SiteError names the file when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._pages = 0
        try:
            self._db = _connect(path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")
            migrate(self._db, path)
            self._reader = _connect(path)
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise SiteError(f"{path}: {error}") from error
        self._writer = GroupWriter(self._write, self._tidy)

    @property
    def trouble(self) -> str | None:
        """Say that the disk refuses, while it does."""
        return self._writer.trouble

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and one transaction, durable when the block ends without an error."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
                self._pages += _PAGES_OF_ONE
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            if self._pages >= 2 * _LOG_PAGES:  # others than the writer write much
                self._take_over_log()

    def rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """Read rows; never waits for a commit."""
        with self._reading:
            return self._reader.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Write what waits, and close the database."""
        self._writer.close()
        with self._reading:
            self._reader.close()
        with self._lock:
            self._db.close()

    def lengthen_log(self) -> None:
        """Make commits cheap from the first one on; takes a moment, so before anybody is served.

        It writes much and takes it back: what SQLite put into the log stays there, as nothing.
        """
        log = Path(f"{self._path}-wal")
        try:
            room = os.statvfs(self._path)
            is_long = log.stat().st_size >= _PADDING
        except OSError:
            return
        if is_long or room.f_bavail * room.f_frsize < _SPARE * _PADDING:
            return
        sizes = [(1 << 20,)] * ((_PADDING >> 20) + 3)  # SQLite keeps the last 2 MB in memory
        with contextlib.suppress(_TakenBackError), self.transaction() as db:
            db.execute("CREATE TABLE padding (filler BLOB)")
            with contextlib.suppress(sqlite3.Error):
                db.executemany("INSERT INTO padding VALUES (zeroblob(?))", sizes)
            raise _TakenBackError

    def load_leases(self) -> tuple[Lease, ...]:
        """Read every row for the engine; SiteError when one cannot be read."""
        try:
            return tuple(_lease(row) for row in self.rows(_LEASE))
        except (ValueError, IndexError) as error:
            raise SiteError(f"{self._path}: table leases: {error}") from error

    def current_leases(self, now: float) -> tuple[CurrentLease, ...]:
        """Read the leases in force, by address."""
        rows = self.rows(f"{_LEASE} WHERE state = 0 AND expires > ? ORDER BY address", (now,))
        return tuple(
            CurrentLease(address=one.address, mac=one.mac, expires=one.expires, name=one.name)
            for one in map(_lease, rows)
        )

    def holder(self, address: IPv4Address, now: float) -> bytes | None:
        """Give the MAC of the box that has this address."""
        rows = self.rows(
            f"{_LEASE} WHERE address = ? AND state = 0 AND expires > ?", (int(address), now)
        )
        return _lease(rows[0]).mac if rows else None

    def submit(
        self,
        writes: Sequence[Write],
        events: Sequence[Event],
        sightings: Sequence[Sighting],
        done: Done,
    ) -> None:
        """Have it made durable with what others submit; `done` is told, in the writer's thread.

        A disk that refuses is told at once; the leases and events are written when it works again.
        """
        self._writer.submit(
            Batch(writes=writes, events=events, sightings=sightings, done=done, kept=True)
        )

    def see(self, sightings: Sequence[Sighting]) -> None:
        """Keep who was heard, with what others submit; nobody waits for it."""
        self.submit((), (), sightings, lambda error: None)

    def commit(
        self,
        writes: Iterable[Write],
        events: Iterable[Event],
        sightings: Iterable[Sighting],
    ) -> None:
        """Return when all of it is durable; sqlite3.Error, and nothing of it was written."""
        over = threading.Event()
        errors: list[sqlite3.Error | None] = []

        def done(error: sqlite3.Error | None) -> None:
            errors.append(error)
            over.set()

        self._writer.submit(
            Batch(
                writes=tuple(writes),
                events=tuple(events),
                sightings=tuple(sightings),
                done=done,
                kept=False,
            )
        )
        while not over.wait(1.0):
            self._writer.check_alive()
        if errors[0] is not None:
            raise errors[0]

    # In the writer's thread

    def _write(
        self,
        writes: Iterable[Write],
        events: Sequence[Event],
        sightings: Sequence[Sighting],
    ) -> None:
        """Write all of it in one transaction. Of one address, the last write alone is given."""
        kept, gone, kept6, gone6 = _rows_of(writes)
        seen = {sighting.key: _sighting_row(sighting) for sighting in sightings}
        told = [_event_row(event) for event in events]
        with self.transaction() as db:
            _write_rows(db, "DELETE FROM leases WHERE address IN (", "?", ")", gone)
            _write_rows(db, *_INSERT_LEASE, kept)
            _write_rows(db, "DELETE FROM leases6 WHERE address IN (", "?", ")", gone6)
            _write_rows(db, *_INSERT_LEASE6, kept6)
            _write_rows(db, *_INSERT_SIGHTING, list(seen.values()))
            _write_rows(db, *_INSERT_EVENT, told)
            if told:
                _prune(db, len(told))
        rows = len(kept) + len(gone) + 2 * (len(kept6) + len(gone6) + len(seen))
        self._pages += rows + len(told) // 8

    def _tidy(self, is_idle: bool) -> None:
        """Take the log over into the tables, after the ACKs have left."""
        if self._pages and (is_idle or self._pages >= _LOG_PAGES):
            with self._lock:
                self._take_over_log()

    def _take_over_log(self) -> None:
        """Write the log's pages into the tables; a disk that refuses is tried again later."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._pages = 0


class EventLog:
    """The numbered events of netboot: `append` returns when they are durable. Thread-safe."""

    def __init__(self, store: NetbootStore) -> None:
        self._store = store

    def append(self, *events: Event) -> None:
        """Number and keep events."""
        self._store.commit((), events, ())

    def after(self, number: int, limit: int = 500) -> tuple[dict[str, Any], ...]:
        """Give the events with a greater number, oldest first, as they go over the socket."""
        rows = self._store.rows(
            "SELECT n, at, kind, mac, address, reason, detail FROM events"
            " WHERE n > ? ORDER BY n LIMIT ?",
            (number, limit),
        )
        return tuple(
            {
                "n": n,
                "at": at,
                "kind": kind,
                "box": None,
                "mac": mac,
                "address": address,
                "reason": reason,
                "detail": json.loads(detail),
            }
            for n, at, kind, mac, address, reason, detail in rows
        )

    def newest(self) -> float:
        """Give the time of the newest event, in unix seconds; 0 when there is none."""
        rows = self._store.rows("SELECT at FROM events ORDER BY n DESC LIMIT 1")
        return float(rows[0][0]) if rows else 0.0

    def last(self) -> int:
        """The number of the newest event, 0 when there is none."""
        return int(self._store.rows("SELECT coalesce(max(n), 0) FROM events")[0][0])


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def read_leases(path: Path) -> tuple[Lease, ...]:
    """Read the leases of a database that a server may be writing; none where there is no file.

    Nothing is written. SiteError names the file when it cannot be read.
    """
    if not path.exists():
        return ()
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            return tuple(_lease(row) for row in db.execute(_LEASE))
    except (sqlite3.Error, ValueError, IndexError) as error:
        raise SiteError(f"{path}: {error}") from error


def _lease(row: _Row) -> Lease:
    """Read a row of `_LEASE`; ValueError or IndexError."""
    subnet, address, key, mac, state, expires, name, client_id, identity = row
    return Lease(
        subnet=subnet,  # type: ignore[arg-type]  # the table is STRICT
        address=IPv4Address(address),
        key=key,  # type: ignore[arg-type]
        mac=key if mac == b"" else mac,  # type: ignore[arg-type]
        state=_STATES[int(state)],  # type: ignore[call-overload]
        expires=expires,  # type: ignore[arg-type]
        name=name,  # type: ignore[arg-type]
        client_id=client_id,  # type: ignore[arg-type]
        identity=identity,  # type: ignore[arg-type]
    )


def _lease_row(lease: Lease) -> _Row:
    return (
        int(lease.address),
        lease.key,
        b"" if lease.mac == lease.key else lease.mac,
        _NUMBERS[lease.state],
        lease.expires,
        lease.subnet,
        lease.name,
        lease.client_id,
        lease.identity,
    )


def _lease6_row(lease: Lease6) -> _Row:
    return (
        str(lease.address),
        lease.subnet,
        lease.duid,
        lease.iaid,
        lease.mac,
        lease.uuid,
        lease.state.value,
        lease.expires,
        lease.name,
    )


def _rows_of(writes: Iterable[Write]) -> tuple[list[_Row], list[_Row], list[_Row], list[_Row]]:
    """Give what is kept and what is gone, of IPv4 and then of IPv6."""
    kept: list[_Row] = []
    gone: list[_Row] = []
    kept6: list[_Row] = []
    gone6: list[_Row] = []
    for write in writes:
        if isinstance(write, LeaseWrite6):
            if write.lease is None:
                gone6.append((str(write.address),))
            else:
                kept6.append(_lease6_row(write.lease))
        elif write.lease is None:
            gone.append((int(write.address),))
        else:
            kept.append(_lease_row(write.lease))
    return kept, gone, kept6, gone6


_INSERT_LEASE6 = (
    "INSERT OR REPLACE INTO leases6 (address, subnet, duid, iaid, mac, uuid, state, expires, name)"
    " VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "",
)
_INSERT_LEASE = (
    "INSERT OR REPLACE INTO leases (address, key, mac, state, expires, subnet, name, client_id,"
    " identity) VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "",
)
_INSERT_SIGHTING = (
    "INSERT INTO sightings (key, mac, first, last, interface, vendor_class, architectures,"
    " uuid, host_name) VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    " ON CONFLICT (key) DO UPDATE SET last = excluded.last, interface = excluded.interface,"
    " vendor_class = excluded.vendor_class, architectures = excluded.architectures,"
    " uuid = coalesce(excluded.uuid, uuid), host_name = coalesce(excluded.host_name, host_name)",
)
_INSERT_EVENT = (
    "INSERT INTO events (at, kind, mac, address, reason, detail) VALUES ",
    "(?, ?, ?, ?, ?, ?)",
    "",
)


def _sighting_row(sighting: Sighting) -> _Row:
    return (
        sighting.key,
        sighting.mac,
        sighting.at,
        sighting.at,
        sighting.interface,
        sighting.vendor_class,
        " ".join(str(value) for value in sighting.architectures),
        sighting.uuid,
        sighting.host_name,
    )


def _event_row(event: Event) -> _Row:
    return (
        event.at,
        event.kind.value,
        event.mac.hex(":") if event.mac is not None else None,
        str(event.address) if event.address is not None else None,
        event.reason,
        json.dumps(dict(event.detail)),
    )


@lru_cache
def _statement(head: str, row: str, tail: str, count: int) -> str:
    return head + ", ".join([row] * count) + tail


def _write_rows(
    db: sqlite3.Connection, head: str, row: str, tail: str, rows: Sequence[_Row]
) -> None:
    """Run one statement for many rows at a time."""
    done = 0
    for size in _CHUNKS:
        while len(rows) - done >= size:
            values = tuple(chain.from_iterable(rows[done : done + size]))
            db.execute(_statement(head, row, tail, size), values)
            done += size


def _prune(db: sqlite3.Connection, added: int) -> None:
    """Keep the file bounded: a flood of made-up addresses must not fill the disk."""
    (number,) = db.execute("SELECT max(n) FROM events").fetchone()
    if number // _PRUNE_EVERY == (number - added) // _PRUNE_EVERY:
        return
    db.execute("DELETE FROM events WHERE n <= ?", (number - EVENTS_KEPT,))
    db.execute(
        "DELETE FROM sightings WHERE key IN"
        " (SELECT key FROM sightings ORDER BY last DESC LIMIT -1 OFFSET ?)",
        (SIGHTINGS_KEPT,),
    )
