"""The tables of `netboot.db`, and how an older file becomes one of today.

Schema changes are numbered; `PRAGMA user_version` counts those applied. The file is copied before
each, and one that a newer release wrote is refused.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from netboot.errors import SiteError

MIGRATIONS = (
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
    # The address as a number is SQLite's row number: no second tree. An empty mac is the key.
    """
    ALTER TABLE leases RENAME TO leases_before;
    CREATE TABLE leases (
        address INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        mac BLOB,
        state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
        expires REAL NOT NULL,
        subnet TEXT NOT NULL,
        name TEXT
    ) STRICT;
    INSERT INTO leases SELECT
        ipv4_number(address),
        key,
        CASE WHEN mac = key THEN x'' ELSE mac END,
        CASE state WHEN 'bound' THEN 0 WHEN 'released' THEN 1 WHEN 'declined' THEN 2 END,
        expires,
        subnet,
        name
    FROM leases_before;
    DROP TABLE leases_before;
    """,
    """
    ALTER TABLE leases ADD COLUMN client_id BLOB;
    ALTER TABLE leases ADD COLUMN identity BLOB;
    """,
)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to today's schema; SiteError for a newer one, sqlite3.Error."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SiteError(
            f"{path} was written by a newer release (schema {version}, "
            f"this one knows {len(MIGRATIONS)}): install that release again"
        )
    db.create_function("ipv4_number", 1, _ipv4_number, deterministic=True)
    if 0 < version < len(MIGRATIONS):
        _copy(db, Path(f"{path}.schema-{version}"))
    for number in range(version, len(MIGRATIONS)):
        try:
            db.executescript(
                f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _ipv4_number(text: str) -> int:
    """Read an address as a number; ValueError fails the statement that called it."""
    parts = [int(part) for part in text.split(".")]
    if len(parts) != 4 or not all(0 <= part < 256 for part in parts):
        raise ValueError(text)
    return int.from_bytes(bytes(parts), "big")


def _copy(db: sqlite3.Connection, copy: Path) -> None:
    """Copy the database; half a copy, after a power cut, never has the copy's name."""
    unfinished = Path(f"{copy}.new")
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    db.execute("VACUUM INTO ?", (str(unfinished),))
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.rename(copy)
