"""`site.db`: boxes, sessions, approvals, sightings and control's own events.

Only control opens it. Every method is one transaction, durable when it returns
(WAL, synchronous=FULL). It decides nothing.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from attest.evidence import Tier
from bootstrap.enrolment import Approval, Stage
from bootstrap.errors import SiteError
from bootstrap.rows import BoxRow, Event, SessionRow, Sighting
from keys.note import Floor

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE boxes (
    box TEXT PRIMARY KEY, ek_name BLOB NOT NULL UNIQUE, ek_public BLOB NOT NULL,
    stage TEXT NOT NULL, since REAL NOT NULL, attempt INTEGER NOT NULL, first REAL NOT NULL,
    reasons TEXT NOT NULL, sentence TEXT, measurements BLOB,
    role TEXT, number INTEGER, hostname TEXT, address TEXT, mac TEXT,
    boot_set BLOB, reset_count INTEGER, restart_count INTEGER, clock INTEGER,
    evidence TEXT, withheld TEXT NOT NULL, certificate_until REAL, facts TEXT NOT NULL
) STRICT;
CREATE TABLE sessions (
    session BLOB PRIMARY KEY, box TEXT NOT NULL REFERENCES boxes, at REAL NOT NULL,
    address TEXT, body_digest BLOB NOT NULL, transcript BLOB NOT NULL,
    device_public BLOB NOT NULL, answer TEXT, digests TEXT NOT NULL,
    report_digest BLOB, receipt TEXT
) STRICT;
CREATE TABLE approvals (
    id INTEGER PRIMARY KEY, ek_name BLOB NOT NULL, reasons TEXT NOT NULL,
    measurements BLOB NOT NULL, role TEXT NOT NULL, expires REAL NOT NULL, used INTEGER NOT NULL
) STRICT;
CREATE TABLE sightings (
    mac TEXT PRIMARY KEY, stage TEXT NOT NULL, since REAL NOT NULL, first REAL NOT NULL,
    address TEXT, reason TEXT, detail TEXT NOT NULL
) STRICT;
CREATE TABLE events (
    n INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, box TEXT, mac TEXT,
    address TEXT, reason TEXT, detail TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_box ON sessions (box);
"""
_TIERS = """
ALTER TABLE boxes ADD COLUMN tier TEXT;
ALTER TABLE boxes ADD COLUMN sealed BLOB;
ALTER TABLE boxes ADD COLUMN place TEXT;
ALTER TABLE boxes ADD COLUMN replaces TEXT;
ALTER TABLE boxes ADD COLUMN firmware BLOB;
ALTER TABLE boxes ADD COLUMN tpm_firmware BLOB;
ALTER TABLE boxes ADD COLUMN basis BLOB;
ALTER TABLE approvals ADD COLUMN claim TEXT NOT NULL DEFAULT '';
"""
_KEYS_OF_BOXES = """
ALTER TABLE boxes ADD COLUMN device_public BLOB;
ALTER TABLE boxes ADD COLUMN ssh_host_key BLOB;
"""
# Each bundle that a box was given in its present boot: what a renewal is held against.
_RENEWALS = """
ALTER TABLE boxes ADD COLUMN renew REAL;
ALTER TABLE boxes ADD COLUMN proved REAL;
ALTER TABLE boxes ADD COLUMN renewals INTEGER NOT NULL DEFAULT 0;
CREATE TABLE openings (
    session BLOB PRIMARY KEY REFERENCES sessions, box TEXT NOT NULL REFERENCES boxes,
    transcript BLOB NOT NULL, reset_count INTEGER NOT NULL, restart_count INTEGER NOT NULL,
    boot_set BLOB NOT NULL, keys BLOB NOT NULL, base BLOB NOT NULL, before TEXT NOT NULL,
    reasons TEXT NOT NULL
) STRICT;
CREATE INDEX openings_of_box ON openings (box);
"""
MIGRATIONS: Sequence[str] = (_TABLES, _TIERS, _KEYS_OF_BOXES, _RENEWALS)
"""Number n of these brings a database from schema n to n + 1."""
SCHEMA = len(MIGRATIONS)


class SiteStore:
    """The one writer of `site.db`."""

    def __init__(self, path: Path) -> None:
        """Open or make the database; SiteError when it is newer than this release."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise SiteError(
                f"{path}: made by a newer Doorstep (schema {version}, this one knows {SCHEMA}): "
                "install that release again"
            )
        if 0 < version < SCHEMA:
            self._copy(path.with_name(f"{path.name}.schema{version}"))
        with self.transaction():
            for number in range(version, SCHEMA):
                for statement in filter(str.strip, MIGRATIONS[number].split(";")):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={number + 1}")

    def _copy(self, path: Path) -> None:
        """Keep the database as it is before a migration."""
        path.unlink(missing_ok=True)
        self._db.execute("VACUUM INTO ?", (str(path),))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all or nothing; may be nested, the outermost commits."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def execute(self, query: str, *values: object) -> sqlite3.Cursor:
        """Run a query for who keeps rows of its own, in its transaction."""
        return self._db.execute(query, values)

    def service_key(self) -> bytes:
        """Return K, the 32 bytes behind every session; drawn at first use."""
        with self.transaction():
            row = self._db.execute("SELECT value FROM meta WHERE key='K'").fetchone()
            if row:
                return bytes(row[0])
            key = secrets.token_bytes(32)
            self._db.execute("INSERT INTO meta VALUES ('K', ?)", (key,))
            return key

    def number(self, key: str) -> int:
        """Read a stored counter or cursor; 0 when it was never set."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def set_number(self, key: str, value: int) -> None:
        """Store a counter or cursor."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value).encode())
            )

    def floor(self, key: str) -> Floor | None:
        """Read the counter and digest of the newest signed file that was seen."""
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        if row is None:
            return None
        return Floor(counter=int.from_bytes(row[0][:8], "big"), digest=bytes(row[0][8:]))

    def set_floor(self, key: str, floor: Floor) -> None:
        """Store what must not be fallen behind."""
        value = floor.counter.to_bytes(8, "big") + floor.digest
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def boxes(self) -> list[BoxRow]:
        """All boxes, the one that changed last first."""
        return [_box(row) for row in self._db.execute("SELECT * FROM boxes ORDER BY since DESC")]

    def boxes_of_another_basis(self, basis: bytes) -> list[BoxRow]:
        """Boxes that are held or provisional by another policy or firmware baseline."""
        rows = self._db.execute(
            "SELECT * FROM boxes WHERE basis IS NOT ? AND (stage=? OR tier=?) ORDER BY since",
            (basis, Stage.HELD.value, Tier.PROVISIONAL.value),
        )
        return [_box(row) for row in rows]

    def boxes_due(self, now: float) -> list[BoxRow]:
        """Boxes in service whose time to renew is over."""
        rows = self._db.execute(
            "SELECT * FROM boxes WHERE stage IN (?, ?) AND proved + renew < ?",
            (Stage.ENROLLED.value, Stage.READY.value, now),
        )
        return [_box(row) for row in rows]

    def box(self, box: str) -> BoxRow | None:
        """One box by its id."""
        row = self._db.execute("SELECT * FROM boxes WHERE box=?", (box,)).fetchone()
        return _box(row) if row else None

    def save_box(self, row: BoxRow) -> None:
        """Insert or replace a box's row."""
        values = {field.name: getattr(row, field.name) for field in fields(row)}
        values["stage"] = row.stage.value
        if row.tpm_firmware is not None:
            values["tpm_firmware"] = row.tpm_firmware.to_bytes(8, "big")  # SQLite has no UINT64
        for name in ("reasons", "withheld", "facts"):
            values[name] = json.dumps(values[name])
        names = ", ".join(values)
        updates = ", ".join(f"{name}=excluded.{name}" for name in values if name != "box")
        with self.transaction():
            self._db.execute(
                f"INSERT INTO boxes ({names}) VALUES ({', '.join('?' * len(values))}) "
                f"ON CONFLICT (box) DO UPDATE SET {updates}",
                list(values.values()),
            )

    def session(self, session: bytes) -> SessionRow | None:
        """One session by its id."""
        row = self._db.execute("SELECT * FROM sessions WHERE session=?", (session,)).fetchone()
        if row is None:
            return None
        values = {**dict(row), "digests": json.loads(row["digests"])}
        return SessionRow(**values)

    def newest_session(self, box: str) -> bytes | None:
        """Id of the session that a box began last."""
        row = self._db.execute(
            "SELECT session FROM sessions WHERE box=? ORDER BY rowid DESC LIMIT 1", (box,)
        ).fetchone()
        return bytes(row[0]) if row else None

    def save_session(self, row: SessionRow) -> None:
        """Insert or replace a session's row."""
        values = {field.name: getattr(row, field.name) for field in fields(row)}
        values["digests"] = json.dumps(row.digests)
        names = ", ".join(values)
        updates = ", ".join(f"{name}=excluded.{name}" for name in values if name != "session")
        with self.transaction():
            self._db.execute(
                f"INSERT INTO sessions ({names}) VALUES ({', '.join('?' * len(values))}) "
                f"ON CONFLICT (session) DO UPDATE SET {updates}",
                list(values.values()),
            )

    def approvals(self, ek_name: bytes) -> list[tuple[int, Approval]]:
        """The approvals ever given for an EK, with their row numbers."""
        rows = self._db.execute("SELECT * FROM approvals WHERE ek_name=?", (ek_name,))
        return [
            (
                row["id"],
                Approval(
                    ek_name=row["ek_name"],
                    reasons=frozenset(json.loads(row["reasons"])),
                    measurements=row["measurements"],
                    role=row["role"],
                    expires=row["expires"],
                    used=bool(row["used"]),
                    claim=row["claim"],
                ),
            )
            for row in rows
        ]

    def add_approval(self, approval: Approval) -> None:
        """Keep an approval."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO approvals"
                " (ek_name, reasons, measurements, role, expires, used, claim)"
                " VALUES (?, ?, ?, ?, ?, 0, ?)",
                (
                    approval.ek_name,
                    json.dumps(sorted(approval.reasons)),
                    approval.measurements,
                    approval.role,
                    approval.expires,
                    approval.claim,
                ),
            )

    def use_approval(self, number: int) -> None:
        """Mark an approval as used up."""
        with self.transaction():
            self._db.execute("UPDATE approvals SET used=1 WHERE id=?", (number,))

    def sightings(self) -> list[Sighting]:
        """All MACs seen, the one that changed last first."""
        rows = self._db.execute("SELECT * FROM sightings ORDER BY since DESC")
        return [_sighting(row) for row in rows]

    def sighting(self, mac: str) -> Sighting | None:
        """What was seen of one MAC."""
        row = self._db.execute("SELECT * FROM sightings WHERE mac=?", (mac,)).fetchone()
        return _sighting(row) if row else None

    def save_sighting(self, sighting: Sighting) -> None:
        """Insert or replace a sighting."""
        values = {field.name: getattr(sighting, field.name) for field in fields(sighting)}
        values["stage"] = sighting.stage.value
        values["detail"] = json.dumps(dict(sighting.detail))
        with self.transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO sightings ({', '.join(values)}) "
                f"VALUES ({', '.join('?' * len(values))})",
                list(values.values()),
            )

    def add_event(self, event: Event) -> int:
        """Append to the story and return the event's number."""
        with self.transaction():
            cursor = self._db.execute(
                "INSERT INTO events (at, kind, box, mac, address, reason, detail) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    event.at,
                    event.kind,
                    event.box,
                    event.mac,
                    event.address,
                    event.reason,
                    json.dumps(dict(event.detail)),
                ),
            )
        return int(cursor.lastrowid or 0)

    def events_after(self, n: int, limit: int) -> list[Mapping[str, Any]]:
        """Events numbered above `n`, oldest first, in the form of docs/architecture.md."""
        rows: Sequence[sqlite3.Row] = self._db.execute(
            "SELECT * FROM events WHERE n > ? ORDER BY n LIMIT ?", (n, limit)
        ).fetchall()
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]

    def last_event(self) -> int:
        """Number of the newest event; 0 when there is none."""
        row = self._db.execute("SELECT max(n) FROM events").fetchone()
        return int(row[0] or 0)

    def box_events(self, box: str, mac: str | None, limit: int) -> list[Mapping[str, Any]]:
        """The newest events of one box, oldest first."""
        rows = self._db.execute(
            "SELECT * FROM (SELECT * FROM events WHERE box=? OR mac=? ORDER BY n DESC LIMIT ?) "
            "ORDER BY n",
            (box, mac, limit),
        ).fetchall()
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]


def _box(row: sqlite3.Row) -> BoxRow:
    values = dict(row)
    values["stage"] = Stage(values["stage"])
    for name in ("reasons", "withheld"):
        values[name] = tuple(json.loads(values[name]))
    values["facts"] = json.loads(values["facts"])
    if values["tpm_firmware"] is not None:
        values["tpm_firmware"] = int.from_bytes(values["tpm_firmware"], "big")
    return BoxRow(**values)


def _sighting(row: sqlite3.Row) -> Sighting:
    values = dict(row)
    values["detail"] = json.loads(values["detail"])
    return replace(Sighting(**values), stage=Stage(values["stage"]))
