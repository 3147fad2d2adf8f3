"""The rows of `renewals` in keys.db: for each boot its hand-over, then every renewal of it.

What a renewal must agree with is written with the hand-over itself, in its transaction. It decides
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from keys.io.store import Store
from keys.renewal import REMEMBERED, Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRow:
    """One bundle of one boot; `reply` is empty for the hand-over, whose own row has it.

    `keys` is the digest of device key and SSH host key, `before` PCR 15 (SHA-256) as quoted.
    """

    session: bytes
    transcript: bytes
    ek_name: bytes
    reset_count: int
    restart_count: int
    role: str
    keys: bytes
    boot_set: bytes
    before: bytes
    at: float
    reply: str = ""


_NAMES = ", ".join(RenewalRow.__slots__)


def add(store: Store, row: RenewalRow) -> None:
    """Write a row, in the caller's transaction."""
    values = [getattr(row, name) for name in RenewalRow.__slots__]
    marks = ", ".join("?" * len(values))
    store.execute(f"INSERT INTO renewals({_NAMES}) VALUES({marks})", *values)


def of_session(store: Store, session: bytes) -> RenewalRow | None:
    """Find the row of a session."""
    return _one(store, "session=?", session)


def of_boot(
    store: Store, ek_name: bytes, reset_count: int, restart_count: int
) -> RenewalRow | None:
    """Find the hand-over of a boot: a renewal never is without one."""
    where = "reply='' AND ek_name=? AND reset_count=? AND restart_count=?"
    return _one(store, where, ek_name, reset_count, restart_count)


def openings(store: Store, handover: RenewalRow) -> list[Opening]:
    """List the bundles of a boot, the newest first: its hand-over and the last renewals."""
    found = store.execute(
        "SELECT before, transcript FROM renewals WHERE reply<>'' AND ek_name=? AND reset_count=?"
        " AND restart_count=? ORDER BY rowid DESC LIMIT ?",
        *(handover.ek_name, handover.reset_count, handover.restart_count, REMEMBERED),
    )
    known = [Opening(before=before, transcript=transcript) for before, transcript in found]
    return [*known, Opening(before=handover.before, transcript=handover.transcript)]


def is_forgetful(store: Store, handover: RenewalRow) -> bool:
    """Tell whether this database came out of a backup after the last bundle of a boot in it."""
    last = store.execute(
        "SELECT max(at) FROM renewals WHERE ek_name=? AND reset_count=? AND restart_count=?",
        *(handover.ek_name, handover.reset_count, handover.restart_count),
    ).fetchone()[0]
    restored = store.execute("SELECT max(at) FROM events WHERE kind='restored'").fetchone()[0]
    return restored is not None and restored > last


def count_since(store: Store, at: float, ek_name: bytes | None = None) -> int:
    """Count renewals after a time, of one box or of all."""
    where, values = ("", ()) if ek_name is None else (" AND ek_name=?", (ek_name,))
    query = f"SELECT count(*) FROM renewals WHERE reply<>'' AND at>?{where}"
    return int(store.execute(query, at, *values).fetchone()[0])


def _one(store: Store, where: str, *values: object) -> RenewalRow | None:
    found = store.execute(f"SELECT {_NAMES} FROM renewals WHERE {where}", *values).fetchone()
    return (
        None if found is None else RenewalRow(**dict(zip(RenewalRow.__slots__, found, strict=True)))
    )
