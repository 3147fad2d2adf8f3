"""sync.db: when each secret was looked at, what is known of each upstream, withdrawals to report.

Only sync opens it. Every method is one transaction, on the disk when it returns (WAL,
synchronous=FULL). A value never comes near it: what was fetched is handed to keys or fetched again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootstrap.errors import SiteError
from bootstrap.renewal import Changes, Line, Row
from keys.errors import SiteError as SourceError
from keys.upstream import Source

SCHEMA = 1
_TABLES = """
CREATE TABLE rows(
    name TEXT PRIMARY KEY, source TEXT NOT NULL, looked INTEGER NOT NULL, wait INTEGER NOT NULL,
    failures INTEGER NOT NULL, sentence TEXT) STRICT;
CREATE TABLE lines(
    name TEXT PRIMARY KEY, since INTEGER NOT NULL, wait INTEGER NOT NULL,
    failures INTEGER NOT NULL, success INTEGER NOT NULL, trouble TEXT,
    trouble_since INTEGER NOT NULL, refused INTEGER NOT NULL, login INTEGER,
    login_ends INTEGER) STRICT;
CREATE TABLE withdrawn(
    name TEXT NOT NULL, source TEXT NOT NULL, status INTEGER NOT NULL,
    PRIMARY KEY(name, source)) STRICT;
CREATE TABLE events(
    n INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A secret that its upstream does not give any more: to be told to keys."""

    name: str
    source: Source
    status: int


class SyncStore:
    """The database of the sync process; one connection, one thread."""

    def __init__(self, path: Path) -> None:
        """Open or create; SiteError when it is of a newer release or cannot be used."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise SiteError(f"{path}: {error}") from error
        try:
            self._configure()
        except sqlite3.Error as error:
            self._db.close()
            raise SiteError(f"{path}: {error}: move it away, it is made again") from error
        except SiteError:
            self._db.close()
            raise

    def _configure(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA:
            raise SiteError(f"{self._path} is of a newer release: install that again")
        if found == 0:
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")

    def close(self) -> None:
        """Close it."""
        self._db.close()

    # what the scheduler goes on from

    def rows(self) -> list[Row]:
        """Read the rows; one whose source is none any more is left out, and looked at anew."""
        query = "SELECT name, source, looked, wait, failures, sentence FROM rows"
        found = []
        for name, source, looked, wait, failures, sentence in self._db.execute(query):
            with suppress(SourceError):
                found.append(
                    Row(
                        name=name,
                        source=Source.parse(source),
                        looked=looked,
                        wait=wait,
                        failures=failures,
                        sentence=sentence,
                    )
                )
        return found

    def lines(self) -> list[Line]:
        """Read what is known of the upstreams."""
        return [
            Line(
                name=name,
                since=since,
                wait=wait,
                failures=failures,
                success=success,
                trouble=trouble,
                trouble_since=trouble_since,
                is_login_refused=bool(refused),
                login=login,
                login_ends=login_ends,
            )
            for (
                (name, since, wait, failures, success),
                (trouble, trouble_since, refused, login, login_ends),
            ) in ((one[:5], one[5:]) for one in self._db.execute("SELECT * FROM lines"))
        ]

    def keep(self, changes: Changes) -> None:
        """Write what changed."""
        if not changes:
            return
        with _transaction(self._db, self._path):
            for table, names in (("rows", changes.dropped), ("lines", changes.dropped_lines)):
                for name in names:
                    self._db.execute(f"DELETE FROM {table} WHERE name=?", (name,))
            for row in changes.rows:
                times = (row.looked, row.wait, row.failures)
                values = (row.name, str(row.source), *times, row.sentence)
                self._db.execute("INSERT OR REPLACE INTO rows VALUES(?,?,?,?,?,?)", values)
            for line in changes.lines:
                self._db.execute(
                    "INSERT OR REPLACE INTO lines VALUES(?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(line.name, line.since, line.wait, line.failures, line.success),
                        *(line.trouble, line.trouble_since, line.is_login_refused),
                        *(line.login, line.login_ends),
                    ),
                )

    # withdrawals

    def withdraw(self, one: Withdrawal) -> None:
        """Remember a withdrawal until keys was told, also through a kill -9."""
        with _transaction(self._db, self._path):
            values = (one.name, str(one.source), one.status)
            self._db.execute("INSERT OR REPLACE INTO withdrawn VALUES(?,?,?)", values)

    def withdrawals(self, limit: int) -> list[Withdrawal]:
        """List the withdrawals that keys does not know of yet."""
        query = "SELECT name, source, status FROM withdrawn ORDER BY name LIMIT ?"
        return [
            Withdrawal(name=name, source=Source.parse(source), status=status)
            for name, source, status in self._db.execute(query, (limit,))
        ]

    def told(self, withdrawals: Iterable[Withdrawal]) -> None:
        """Forget what keys was told."""
        with _transaction(self._db, self._path):
            for one in withdrawals:
                values = (one.name, str(one.source))
                self._db.execute("DELETE FROM withdrawn WHERE name=? AND source=?", values)

    # events

    def record(self, at: float, kind: str, detail: Mapping[str, Any]) -> None:
        """Number and keep an event."""
        with _transaction(self._db, self._path):
            values = (self.last_event() + 1, at, kind, json.dumps(detail))
            self._db.execute("INSERT INTO events VALUES(?,?,?,?)", values)

    def last_event(self) -> int:
        """Give the number of the newest event; 0 when there is none."""
        return int(self._db.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()[0])

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """List events in the form that architecture.md gives."""
        query = "SELECT n, at, kind, detail FROM events WHERE n>? ORDER BY n LIMIT ?"
        nobody = dict.fromkeys(("box", "mac", "address", "reason"))
        return [
            {"n": n, "at": at, "kind": kind, **nobody, "detail": json.loads(detail)}
            for n, at, kind, detail in self._db.execute(query, (after, limit))
        ]


@contextmanager
def _transaction(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing; SiteError when the disk refuses."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except sqlite3.Error as error:
        if db.in_transaction:  # a full disk has undone it already
            db.execute("ROLLBACK")
        raise SiteError(f"{path}: {error}") from error
