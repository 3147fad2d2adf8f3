"""keys.db: secrets, key material, floors, hand-overs, events and the audit chain.

One connection, one thread. Every effect runs inside `transaction`: what was answered is on the disk
(WAL, synchronous=FULL) and an effect never is without its event and audit entry. It never decides
anything and never holds a secret in the clear. architecture.md, "Directories".
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keys.cache import Label, Row
from keys.envelope import bind
from keys.errors import SiteError
from keys.io.schema import MIGRATIONS, SCHEMA
from keys.rules import Tier
from keys.tpm_objects import Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A hand-over that was answered; `reply` is the answer to control as JSON."""

    session: bytes
    transcript: bytes
    ek_name: bytes
    reset_count: int
    restart_count: int
    at: float
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What an operator allowed one EK, once, until a time: `docs/architecture.md`, `allow`.

    `sealed` is the digest of the PCR values that its bundle is to be sealed to.
    """

    role: str
    reasons: frozenset[str]
    sealed: bytes
    until: float

    def covers(self, reasons: frozenset[str], sealed: bytes, now: float) -> bool:
        """Tell whether it allows exactly this, now; EK and role are compared elsewhere."""
        return now < self.until and self.reasons == reasons and self.sealed == sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that control shows; detail never holds a secret."""

    kind: str
    box: str | None = None
    reason: str | None = None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The audit entry whose hash was extended into the TPM, and what its index then held.

    `head` is empty where anchoring began with what the index held already.
    """

    number: int
    head: bytes
    value: bytes


_LABEL = "name, version, tier, set_at, expires"


class Store:
    """The database of the keys process."""

    def __init__(self, path: Path) -> None:
        """Open or create; SiteError when the file is newer than this release or unusable."""
        self._path = path
        self.epoch = 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._configure()
        except sqlite3.Error as error:
            raise SiteError(f"{path}: {error}") from error
        except OSError as error:
            self._db.close()
            raise SiteError(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def changes(self) -> tuple[int, int]:
        """Count what was changed since the start: by us, and by others."""
        return self._db.total_changes, int(self._one("PRAGMA data_version")[0])

    def forget(self) -> None:
        """Leave nothing of what was overwritten in the write-ahead log either."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside at once, or nothing; a disk error is a SiteError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk has undone it already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise SiteError(f"{self._path}: {error}: nothing was changed") from error

    def _configure(self) -> None:
        self._path.chmod(0o600)
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA:
            raise SiteError(
                f"{self._path} has schema {found}, this release knows {SCHEMA}: "
                "install the newer release again"
            )
        for number in range(found, SCHEMA):
            steps = f"BEGIN; {MIGRATIONS[number]} PRAGMA user_version={number + 1}; COMMIT;"
            self._db.executescript(steps)

    def execute(self, query: str, *arguments: object) -> sqlite3.Cursor:
        """Run a query for who keeps rows of its own, in its transaction."""
        return self._db.execute(query, arguments)

    def _one(self, query: str, *arguments: object) -> Any:
        return self._db.execute(query, arguments).fetchone()

    def _do(self, query: str, *arguments: object) -> int:
        return self._db.execute(query, arguments).rowcount

    # meta, key material, certificates

    def meta(self, name: str) -> bytes | None:
        """Read one named value."""
        found = self._one("SELECT value FROM meta WHERE name=?", name)
        return found[0] if found else None

    def set_meta(self, name: str, value: bytes) -> None:
        """Write one named value."""
        self._do("INSERT OR REPLACE INTO meta VALUES(?,?)", name, value)

    def material(self, name: str, epoch: int) -> bytes | None:
        """Read one encrypted key."""
        query = "SELECT stored FROM material WHERE name=? AND epoch=?"
        found = self._one(query, name, epoch)
        return found[0] if found else None

    def set_material(self, name: str, epoch: int, stored: bytes) -> None:
        """Write one encrypted key; never replaces one."""
        self._do("INSERT INTO material VALUES(?,?,?)", name, epoch, stored)

    def drop_material(self, name: str, epoch: int) -> None:
        """Forget one encrypted key: another takes its place."""
        self._do("DELETE FROM material WHERE name=? AND epoch=?", name, epoch)

    def materials(self, epoch: int) -> list[tuple[str, bytes]]:
        """List the encrypted keys of an epoch."""
        query = "SELECT name, stored FROM material WHERE epoch=? ORDER BY name"
        return list(self._db.execute(query, (epoch,)))

    # shares and leases

    def slot(self, epoch: int) -> Blob | None:
        """Read the sealed share of an epoch."""
        found = self._one("SELECT public, private FROM slots WHERE epoch=?", epoch)
        return Blob(public=found[0], private=found[1]) if found else None

    def put_slot(self, epoch: int, blob: Blob) -> None:
        """Write the sealed share of an epoch; one that was never used is replaced."""
        self._do("INSERT OR REPLACE INTO slots VALUES(?,?,?)", epoch, blob.public, blob.private)

    def keep_epoch(self, epoch: int) -> None:
        """Remove what other epochs of the cache key hold (the device's own is below zero)."""
        for table in ("slots", "secrets", "material"):
            self._do(f"DELETE FROM {table} WHERE epoch<>? AND epoch>=0", epoch)

    def empty_epoch(self, epoch: int) -> None:
        """Remove what was encrypted for an epoch that has not begun."""
        for table in ("secrets", "material"):
            self._do(f"DELETE FROM {table} WHERE epoch=?", epoch)

    def add_lease(self, counter: int, text: str, at: float) -> None:
        """Keep a lease."""
        self._do("INSERT OR REPLACE INTO leases VALUES(?,?,?)", counter, text, at)

    def leases(self) -> list[str]:
        """List the leases that were taken, the newest number first."""
        query = "SELECT text FROM leases ORDER BY counter DESC, at DESC"
        return [text for (text,) in self._db.execute(query)]

    def certificate(self, name: str) -> str | None:
        """Read one certificate as PEM."""
        found = self._one("SELECT pem FROM certificates WHERE name=?", name)
        return found[0] if found else None

    def set_certificate(self, name: str, pem: str) -> None:
        """Write one certificate."""
        self._do("INSERT OR REPLACE INTO certificates VALUES(?,?)", name, pem)

    # secrets

    def drop_certificate(self, name: str) -> None:
        """Forget a certificate."""
        self._do("DELETE FROM certificates WHERE name=?", name)

    def next_version(self, name: str) -> int:
        """Count a name's versions; a number is never used twice, also after a removal."""
        self._do("INSERT INTO versions VALUES(?,1) ON CONFLICT DO UPDATE SET last=last+1", name)
        return int(self._one("SELECT last FROM versions WHERE name=?", name)[0])

    def put_secret(self, row: Row, epoch: int) -> None:
        """Replace a secret; the version before is overwritten on the disk."""
        label = row.label
        values = (label.version, label.tier.value, label.set_at, label.expires)
        self._do(
            "INSERT OR REPLACE INTO secrets VALUES(?,?,?,?,?,?,?,?)",
            *(label.name, epoch, *values),
            row.wrapped,
            row.sealed,
        )

    def secret(self, name: str) -> Row | None:
        """Read a secret of this epoch as it is stored."""
        found = self._one("SELECT * FROM secrets WHERE name=? AND epoch=?", name, self.epoch)
        return None if found is None else _row(found)

    def kept(self, name: str) -> tuple[Label, bytes] | None:
        """Say what a secret of this epoch is, with its wrapped key and without its value."""
        query = f"SELECT {_LABEL}, wrapped FROM secrets WHERE name=? AND epoch=?"
        found = self._one(query, name, self.epoch)
        return None if found is None else (_label(found[:5]), found[5])

    def foreign_changes(self) -> int:
        """Give a number that moves when another connection wrote (SQLite, data_version)."""
        (found,) = self._one("PRAGMA data_version")
        return int(found)

    def secrets(self) -> list[Row]:
        """List the secrets of this epoch."""
        query = "SELECT * FROM secrets WHERE epoch=? ORDER BY name"
        return [_row(found) for found in self._db.execute(query, (self.epoch,))]

    def remove_secret(self, name: str) -> bool:
        """Forget a secret; False when there was none."""
        wrapped = self._do("UPDATE wrapped SET file=NULL WHERE name=? AND file NOT NULL", name)
        return self._do("DELETE FROM secrets WHERE name=?", name) + wrapped > 0

    # hand-overs and who may have one

    def handover(self, session: bytes) -> Handover | None:
        """Find the hand-over of a session."""
        return self._handover("session=?", session)

    def handover_of_boot(
        self, ek_name: bytes, reset_count: int, restart_count: int
    ) -> Handover | None:
        """Find the hand-over of one boot of one box."""
        where = "ek_name=? AND reset_count=? AND restart_count=?"
        return self._handover(where, ek_name, reset_count, restart_count)

    def _handover(self, where: str, *arguments: object) -> Handover | None:
        found = self._one(f"SELECT * FROM handovers WHERE {where}", *arguments)
        if found is None:
            return None
        session, transcript, ek_name, reset_count, restart_count, at, reply = found
        return Handover(
            session=session,
            transcript=transcript,
            ek_name=ek_name,
            reset_count=reset_count,
            restart_count=restart_count,
            at=at,
            reply=reply,
        )

    def add_handover(self, one: Handover) -> None:
        """Write a hand-over; a second one for the same boot is an error of the database."""
        boot = (one.ek_name, one.reset_count, one.restart_count)
        values = (one.session, one.transcript, *boot, one.at, one.reply)
        self._do("INSERT INTO handovers VALUES(?,?,?,?,?,?,?)", *values)

    def handovers_since(self, at: float) -> int:
        """Count hand-overs after a time."""
        return int(self._one("SELECT count(*) FROM handovers WHERE at>?", at)[0])

    def allow(self, ek_name: bytes, one: Allowance) -> None:
        """Write an allowance, which also lifts a revocation."""
        self._do("DELETE FROM revoked WHERE ek_name=?", ek_name)
        values = (one.role, json.dumps(sorted(one.reasons)), one.until, one.sealed)
        self._do("INSERT OR REPLACE INTO allowed VALUES(?,?,?,?,?)", ek_name, *values)

    def allowance(self, ek_name: bytes) -> Allowance | None:
        """Find an allowance, also one that has ended."""
        query = "SELECT role, reasons, sealed, until FROM allowed WHERE ek_name=?"
        found = self._one(query, ek_name)
        if found is None:
            return None
        role, reasons, sealed, until = found
        said = frozenset(json.loads(reasons))
        return Allowance(role=role, reasons=said, sealed=sealed, until=until)

    def disallow(self, ek_name: bytes) -> bool:
        """Forget an allowance; False when there was none."""
        return self._do("DELETE FROM allowed WHERE ek_name=?", ek_name) > 0

    def revoke(self, ek_name: bytes, at: float) -> None:
        """Remember that an EK gets nothing any more, and free the serial that it used.

        Its certificates are revoked with it.
        """
        self.disallow(ek_name)
        self._do("DELETE FROM consumed WHERE ek_name=?", ek_name)
        self._do("UPDATE wrapped SET file=NULL WHERE ek_name=?", ek_name)
        self._do("UPDATE issued SET revoked=? WHERE ek_name=? AND revoked IS NULL", at, ek_name)
        self._do("INSERT OR IGNORE INTO revoked VALUES(?,?)", ek_name, at)

    def is_revoked(self, ek_name: bytes) -> bool:
        """Say whether an EK was revoked."""
        return self._one("SELECT 1 FROM revoked WHERE ek_name=?", ek_name) is not None

    def withdraw(self, digest: bytes, at: float) -> bool:
        """Remember a withdrawn boot set for good; False when it was known."""
        return self._do("INSERT OR IGNORE INTO withdrawn VALUES(?,?)", digest, at) > 0

    def withdrawn(self) -> list[bytes]:
        """List the withdrawn boot sets."""
        return [row[0] for row in self._db.execute("SELECT digest FROM withdrawn ORDER BY at")]

    def is_withdrawn(self, digest: bytes) -> bool:
        """Say whether a boot set was withdrawn."""
        return self._one("SELECT 1 FROM withdrawn WHERE digest=?", digest) is not None

    def consumer(self, serial: str) -> bytes | None:
        """Find the EK that used an entry of a delivery note."""
        found = self._one("SELECT ek_name FROM consumed WHERE serial=?", serial)
        return found[0] if found else None

    def consume(self, serial: str, ek_name: bytes) -> None:
        """Remember which EK used an entry of a delivery note."""
        self._do("INSERT OR REPLACE INTO consumed VALUES(?,?)", serial, ek_name)

    # events and audit

    def record(self, at: float, user: str, event: Event) -> None:
        """Append an event and the audit entry about it, in the transaction of the effect."""
        last = self.last_event()
        detail = _json(event.detail)
        self._do(
            "INSERT INTO events VALUES(?,?,?,?,?,?)",
            *(last + 1, at, event.kind, event.box, event.reason, detail),
        )
        self.audit(at, user, event)

    def audit(self, at: float, user: str, event: Event) -> None:
        """Append the audit entry alone, for what control has an event of its own about."""
        entry = {"at": at, "user": user, "kind": event.kind, "detail": event.detail}
        self._append(entry | {"box": event.box, "reason": event.reason})

    def last_event(self) -> int:
        """Give the number of the newest event; 0 when there is none."""
        return int(self._one("SELECT coalesce(max(n),0) FROM events")[0])

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """List events in the form that architecture.md gives."""
        query = "SELECT n,at,kind,box,reason,detail FROM events WHERE n>? ORDER BY n LIMIT ?"
        return [
            {
                "n": n,
                "at": at,
                "kind": kind,
                "box": box,
                "mac": None,
                "address": None,
                "reason": reason,
                "detail": json.loads(detail),
            }
            for n, at, kind, box, reason, detail in self._db.execute(query, (after, limit))
        ]

    def audit_head(self) -> tuple[int, bytes]:
        """Give number and hash of the newest audit entry; (0, zeros) before the first."""
        found = self._one("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1")
        return (found[0], found[1]) if found else (0, bytes(32))

    def audit_problems(self) -> Iterator[str]:
        """Walk the chain; gives the first entry that was changed or is missing, in words."""
        previous = bytes(32)
        rows = self._db.execute("SELECT n, entry, hash FROM audit ORDER BY n")
        for expected, (number, entry, stored) in enumerate(rows, 1):
            previous = _link(previous, expected, entry)
            if number != expected or previous != stored:
                yield f"audit entry {expected} was changed or removed"
                return

    def audit_hashes(self) -> dict[int, bytes]:
        """Give the hash of each entry by its number."""
        return dict(self._db.execute("SELECT n, hash FROM audit ORDER BY n"))

    def anchors(self, last: int = -1) -> list[Anchor]:
        """List the anchors in their order; the `last` so many, or all."""
        query = "SELECT number, head, value FROM anchors ORDER BY i DESC LIMIT ?"
        found = self._db.execute(query, (last,)).fetchall()
        return [Anchor(number=n, head=head, value=value) for n, head, value in reversed(found)]

    def add_anchor(self, one: Anchor) -> None:
        """Append an anchor."""
        values = (one.number, one.head, one.value)
        self._do("INSERT INTO anchors(number, head, value) VALUES(?,?,?)", *values)

    def _append(self, entry: Mapping[str, Any]) -> None:
        number, previous = self.audit_head()
        text = _json(entry)
        linked = _link(previous, number + 1, text)
        self._do("INSERT INTO audit VALUES(?,?,?)", number + 1, text, linked)


def _row(found: Sequence[Any]) -> Row:
    name, _, *rest, wrapped, sealed = found
    return Row(label=_label((name, *rest)), wrapped=wrapped, sealed=sealed)


def _label(found: Sequence[Any]) -> Label:
    name, version, tier, set_at, expires = found
    known = {one.value for one in Tier}
    # A damaged word must spoil this row alone: one of tier box does not open on a controller.
    kept = Tier(tier) if tier in known else Tier.BOX
    return Label(name=name, version=version, tier=kept, set_at=set_at, expires=expires)


def _link(previous: bytes, number: int, entry: str) -> bytes:
    return bind("doorstep/v1/audit", previous, number, entry)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
