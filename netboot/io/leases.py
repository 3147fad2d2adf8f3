"""`netboot.db`: leases, sightings and numbered events, durable before anybody is told of them.

One connection, guarded by a lock, for all threads of the process. It never decides anything. SQLite
in WAL mode with synchronous=FULL: a commit is one fsync (about 4 ms), so callers commit in groups.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from netboot.dhcp import Sighting
from netboot.errors import SiteError
from netboot.events import Event
from netboot.leases import Lease, LeaseState, LeaseWrite

SIGHTINGS_KEPT = 10_000
EVENTS_KEPT = 200_000
"""The oldest rows beyond these go; numbers are never used again."""
_PRUNE_EVERY = 1000

_MIGRATIONS = (
    """
    CREATE TABLE leases (
        address TEXT PRIMARY KEY,
        subnet TEXT NOT NULL,
        key BLOB NOT NULL,
        mac BLOB,
        state TEXT NOT NULL,
        expires REAL NOT NULL,
        name TEXT
    ) STRICT;
    CREATE TABLE sightings (
        key BLOB PRIMARY KEY,
        mac BLOB,
        first REAL NOT NULL,
        last REAL NOT NULL,
        interface TEXT NOT NULL,
        vendor_class BLOB NOT NULL,
        architectures TEXT NOT NULL,
        uuid BLOB,
        host_name TEXT
    ) STRICT;
    CREATE INDEX sightings_last ON sightings (last);
    CREATE TABLE events (
        n INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        kind TEXT NOT NULL,
        mac TEXT,
        address TEXT,
        reason TEXT,
        detail TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE leases6 (
        address TEXT PRIMARY KEY,
        subnet TEXT NOT NULL,
        duid BLOB NOT NULL,
        iaid INTEGER NOT NULL,
        mac BLOB,
        uuid BLOB,
        state TEXT NOT NULL,
        expires REAL NOT NULL,
        name TEXT
    ) STRICT;
    CREATE TABLE server6 (duid BLOB NOT NULL) STRICT;
    """,
)
"""Schema changes in order; `PRAGMA user_version` counts how many were applied."""


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
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate()
        except sqlite3.Error as error:
            raise SiteError(f"{path}: {error}") from error

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise SiteError(
                f"{self._path} was written by a newer release (schema {version}, "
                f"this one knows {len(_MIGRATIONS)}): install that release again"
            )
        for number in range(version, len(_MIGRATIONS)):
            if number:
                self._db.execute("VACUUM INTO ?", (f"{self._path}.schema-{number}",))
            self._db.executescript(
                f"BEGIN; {_MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and one transaction, durable when the block ends without an error."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[Any]:
        """Read rows."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def load_leases(self) -> tuple[Lease, ...]:
        """Read every row for the engine; SiteError when one cannot be read."""
        rows = self.rows("SELECT subnet, address, key, mac, state, expires, name FROM leases")
        try:
            return tuple(
                Lease(
                    subnet=subnet,
                    address=IPv4Address(address),
                    key=key,
                    mac=mac,
                    state=LeaseState(state),
                    expires=expires,
                    name=name,
                )
                for subnet, address, key, mac, state, expires, name in rows
            )
        except ValueError as error:
            raise SiteError(f"{self._path}: table leases: {error}") from error

    def current_leases(self, now: float) -> tuple[CurrentLease, ...]:
        """Read the leases in force, by address."""
        rows = self.rows(
            "SELECT address, mac, expires, name FROM leases WHERE state = 'bound' AND expires > ?",
            (now,),
        )
        leases = (
            CurrentLease(address=IPv4Address(address), mac=mac, expires=expires, name=name)
            for address, mac, expires, name in rows
        )
        return tuple(sorted(leases, key=lambda lease: lease.address))

    def commit(
        self,
        writes: Iterable[LeaseWrite],
        events: Iterable[Event],
        sightings: Iterable[Sighting],
    ) -> None:
        """Make all of it durable in one transaction; sqlite3.Error, and nothing was written."""
        with self.transaction() as db:
            for write in writes:
                _write_lease(db, write)
            for sighting in sightings:
                _write_sighting(db, sighting)
            for event in events:
                _write_event(db, event)


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

    def last(self) -> int:
        """The number of the newest event, 0 when there is none."""
        return int(self._store.rows("SELECT coalesce(max(n), 0) FROM events")[0][0])


def _write_lease(db: sqlite3.Connection, write: LeaseWrite) -> None:
    address = str(write.address)
    if write.lease is None:
        db.execute("DELETE FROM leases WHERE address = ?", (address,))
        return
    lease = write.lease
    db.execute(
        "INSERT OR REPLACE INTO leases (address, subnet, key, mac, state, expires, name)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            address,
            lease.subnet,
            lease.key,
            lease.mac,
            lease.state.value,
            lease.expires,
            lease.name,
        ),
    )


def _write_sighting(db: sqlite3.Connection, sighting: Sighting) -> None:
    db.execute(
        "INSERT INTO sightings (key, mac, first, last, interface, vendor_class, architectures,"
        " uuid, host_name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET last = excluded.last, interface = excluded.interface,"
        " vendor_class = excluded.vendor_class, architectures = excluded.architectures,"
        " uuid = coalesce(excluded.uuid, uuid),"
        " host_name = coalesce(excluded.host_name, host_name)",
        (
            sighting.key,
            sighting.mac,
            sighting.at,
            sighting.at,
            sighting.interface,
            sighting.vendor_class,
            " ".join(str(value) for value in sighting.architectures),
            sighting.uuid,
            sighting.host_name,
        ),
    )


def _write_event(db: sqlite3.Connection, event: Event) -> None:
    cursor = db.execute(
        "INSERT INTO events (at, kind, mac, address, reason, detail) VALUES (?, ?, ?, ?, ?, ?)",
        (
            event.at,
            event.kind.value,
            event.mac.hex(":") if event.mac is not None else None,
            str(event.address) if event.address is not None else None,
            event.reason,
            json.dumps(dict(event.detail)),
        ),
    )
    number = cursor.lastrowid or 0
    if number % _PRUNE_EVERY == 0:
        _prune(db, number)


def _prune(db: sqlite3.Connection, number: int) -> None:
    """Keep the file bounded: a flood of made-up addresses must not fill the disk."""
    db.execute("DELETE FROM events WHERE n <= ?", (number - EVENTS_KEPT,))
    db.execute(
        "DELETE FROM sightings WHERE key IN"
        " (SELECT key FROM sightings ORDER BY last DESC LIMIT -1 OFFSET ?)",
        (SIGHTINGS_KEPT,),
    )
