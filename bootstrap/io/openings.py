"""The table `openings` of site.db: the bundles of each box's present boot, its hand-over first.

Only control writes it, in the transaction of the bundle. It decides nothing.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import fields

from bootstrap.io.site_store import SiteStore
from bootstrap.renewing import Opening

REMEMBERED = 16
"""How many renewals of a boot are kept beside its hand-over."""
_NAMES = [one.name for one in fields(Opening)]


def begin(store: SiteStore, opening: Opening) -> None:
    """Keep a hand-over; what the box was given in another boot is forgotten."""
    store.execute("DELETE FROM openings WHERE box=?", opening.box)
    _insert(store, opening)


def add(store: SiteStore, opening: Opening) -> None:
    """Keep a renewal beside the hand-over and the last of the others."""
    _insert(store, opening)
    store.execute(
        "DELETE FROM openings WHERE box=?1 AND rowid<>(SELECT min(rowid) FROM openings WHERE"
        " box=?1) AND rowid NOT IN (SELECT rowid FROM openings WHERE box=?1"
        f" ORDER BY rowid DESC LIMIT {REMEMBERED})",
        opening.box,
    )


def of_box(store: SiteStore, box: str) -> list[Opening]:
    """List what a box was given in its boot, the newest first and the hand-over last."""
    names = ", ".join(_NAMES)
    query = f"SELECT {names} FROM openings WHERE box=? ORDER BY rowid DESC"
    return [_opening(row) for row in store.execute(query, box)]


def restored(store: SiteStore, now: float) -> float:
    """Say when this site last came out of a backup, as keys tells; 0 for never.

    Another service could say so too: keys asks its own database, and alone decides.
    """
    query = "SELECT max(at) FROM events WHERE kind='restored' AND at<=?"
    return float(store.execute(query, now).fetchone()[0] or 0.0)


def _insert(store: SiteStore, opening: Opening) -> None:
    values = {name: getattr(opening, name) for name in _NAMES}
    values["before"] = json.dumps({bank: one.hex() for bank, one in opening.before.items()})
    values["reasons"] = json.dumps(sorted(opening.reasons))
    marks = ", ".join("?" * len(values))
    store.execute(f"INSERT INTO openings ({', '.join(values)}) VALUES ({marks})", *values.values())


def _opening(row: sqlite3.Row) -> Opening:
    values = dict(row)
    before = json.loads(values["before"])
    values["before"] = {bank: bytes.fromhex(value) for bank, value in before.items()}
    values["reasons"] = frozenset(json.loads(values["reasons"]))
    return Opening(**values)
