"""The tables of keys.db, and how each release brought them to its own form."""

from __future__ import annotations

from collections.abc import Sequence

SCHEMA = 5
MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE material(name TEXT PRIMARY KEY, stored BLOB NOT NULL) STRICT;
    CREATE TABLE certificates(name TEXT PRIMARY KEY, pem TEXT NOT NULL) STRICT;
    CREATE TABLE versions(name TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;
    CREATE TABLE secrets(
        name TEXT PRIMARY KEY, version INTEGER NOT NULL, tier TEXT NOT NULL,
        set_at INTEGER NOT NULL, expires INTEGER NOT NULL,
        wrapped BLOB NOT NULL, sealed BLOB NOT NULL) STRICT;
    CREATE TABLE handovers(
        session BLOB PRIMARY KEY, transcript BLOB NOT NULL, ek_name BLOB NOT NULL,
        reset_count INTEGER NOT NULL, restart_count INTEGER NOT NULL, at REAL NOT NULL,
        reply TEXT NOT NULL, UNIQUE(ek_name, reset_count, restart_count)) STRICT;
    CREATE INDEX handovers_at ON handovers(at);
    CREATE TABLE allowed(
        ek_name BLOB PRIMARY KEY, role TEXT NOT NULL, reasons TEXT NOT NULL,
        until REAL NOT NULL) STRICT;
    CREATE TABLE revoked(ek_name BLOB PRIMARY KEY, at REAL NOT NULL) STRICT;
    CREATE TABLE withdrawn(digest BLOB PRIMARY KEY, at REAL NOT NULL) STRICT;
    CREATE TABLE consumed(serial TEXT PRIMARY KEY, ek_name BLOB NOT NULL) STRICT;
    CREATE TABLE events(
        n INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, box TEXT, reason TEXT,
        detail TEXT NOT NULL) STRICT;
    CREATE TABLE audit(
        n INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
    """,
    # An allowance of before said nothing of what was measured: it is asked for again.
    """
    DELETE FROM allowed;
    ALTER TABLE allowed ADD COLUMN sealed BLOB NOT NULL DEFAULT x'';
    """,
    # Each epoch of the cache key has rows of its own until the TPM counted on.
    """
    CREATE TABLE slots(
        epoch INTEGER PRIMARY KEY, public BLOB NOT NULL, private BLOB NOT NULL) STRICT;
    CREATE TABLE leases(counter INTEGER NOT NULL, text TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
    CREATE TABLE anchors(
        i INTEGER PRIMARY KEY, number INTEGER NOT NULL, head BLOB NOT NULL, value BLOB NOT NULL)
        STRICT;
    CREATE TABLE material3(
        name TEXT NOT NULL, epoch INTEGER NOT NULL, stored BLOB NOT NULL,
        PRIMARY KEY(name, epoch)) STRICT;
    INSERT INTO material3
        SELECT name, CASE WHEN name LIKE 'zone-ksk-%' OR name='server' THEN -1 ELSE 0 END, stored
        FROM material;
    DROP TABLE material;
    ALTER TABLE material3 RENAME TO material;
    CREATE TABLE secrets3(
        name TEXT NOT NULL, epoch INTEGER NOT NULL, version INTEGER NOT NULL, tier TEXT NOT NULL,
        set_at INTEGER NOT NULL, expires INTEGER NOT NULL,
        wrapped BLOB NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY(name, epoch)) STRICT;
    INSERT INTO secrets3
        SELECT name, 0, version, tier, set_at, expires, wrapped, sealed FROM secrets;
    DROP TABLE secrets;
    ALTER TABLE secrets3 RENAME TO secrets;
    """,
    # What headquarters wrapped for single boxes; a row without its file keeps the version floor.
    """
    CREATE TABLE wrapped(
        name TEXT NOT NULL, ek_name BLOB NOT NULL, version INTEGER NOT NULL, file BLOB,
        PRIMARY KEY(name, ek_name)) STRICT;
    """,
    # Counters of signed inputs, what was issued, what upstreams gave.
    """
    CREATE TABLE floors(
        kind TEXT NOT NULL, scope TEXT NOT NULL, counter INTEGER NOT NULL, digest BLOB NOT NULL,
        at REAL NOT NULL, PRIMARY KEY(kind, scope)) STRICT;
    CREATE TABLE issued(
        serial TEXT PRIMARY KEY, kind TEXT NOT NULL, ek_name BLOB NOT NULL, subject TEXT NOT NULL,
        at REAL NOT NULL, not_after INTEGER NOT NULL, revoked REAL) STRICT;
    CREATE INDEX issued_ek ON issued(ek_name);
    CREATE TABLE renewals(
        session BLOB PRIMARY KEY, transcript BLOB NOT NULL, ek_name BLOB NOT NULL,
        reset_count INTEGER NOT NULL, restart_count INTEGER NOT NULL, role TEXT NOT NULL,
        keys BLOB NOT NULL, boot_set BLOB NOT NULL, before BLOB NOT NULL,
        at REAL NOT NULL, reply TEXT NOT NULL) STRICT;
    CREATE INDEX renewals_of_boot ON renewals(ek_name, reset_count, restart_count);
    CREATE TABLE upstream(
        name TEXT NOT NULL, source TEXT NOT NULL, version INTEGER NOT NULL, digest BLOB NOT NULL,
        held INTEGER NOT NULL, seen REAL NOT NULL, gone INTEGER, gone_since REAL,
        PRIMARY KEY(name, source)) STRICT;
    INSERT INTO floors
        WITH RECURSIVE read(i, counter, digits, digest) AS (
            SELECT 1, 0, hex(substr(value, 1, 8)), substr(value, 9) FROM meta
                WHERE name='note-floor'
            UNION ALL
            SELECT i+1, counter*16 + instr('0123456789ABCDEF', substr(digits, i, 1)) - 1,
                digits, digest FROM read WHERE i<=16)
        SELECT 'delivery-note', '', counter, digest, 0 FROM read WHERE i=17;
    DELETE FROM meta WHERE name='note-floor';
    """,
)
"""Number n of these brings a database from schema n to n + 1."""
