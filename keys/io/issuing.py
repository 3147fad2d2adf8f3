"""What this site's authorities issued for boxes, and the list of what was taken back.

A row is written in the transaction of what it is issued in. It never signs a certificate, and never
decides who loses one: `Store.revoke` marks the rows of an EK in the transaction of the revocation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from keys import ca, crl
from keys.ca import Issuer
from keys.errors import PeerError
from keys.io.store import Store

BOX = "box"
"""The kind of X.509 certificates of boxes."""
BOX_LIST, NUMBER = "box-crl", "crl-number"
KEPT = timedelta(days=90)
"""How long a row outlives its certificate, for whoever looks into what was issued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate; `at` and `revoked` in unix seconds, `not_after` too."""

    serial: int
    kind: str
    ek_name: bytes
    subject: str
    at: float
    not_after: int
    revoked: float | None = None


class Issuing:
    """The table `issued`, and the newest list of the box CA."""

    def __init__(self, store: Store) -> None:
        """Look at nothing yet."""
        self._store = store

    def add(self, one: Issued) -> None:
        """Write what was issued, in the caller's transaction."""
        values = (f"{one.serial:x}", one.kind, one.ek_name, one.subject, one.at, one.not_after)
        self._store.execute("INSERT INTO issued VALUES(?,?,?,?,?,?,?)", *values, one.revoked)

    def of(self, ek_name: bytes) -> list[Issued]:
        """List what an EK was given, the oldest first."""
        query = "SELECT * FROM issued WHERE ek_name=? ORDER BY at, serial"
        return [_issued(row) for row in self._store.execute(query, ek_name)]

    def take_back(self, kind: str, ek_name: bytes, at: float) -> None:
        """Mark what an EK was given of a kind as revoked, though it stays in service."""
        query = "UPDATE issued SET revoked=? WHERE kind=? AND ek_name=? AND revoked IS NULL"
        self._store.execute(query, at, kind, ek_name)

    def revoked(self, kind: str, ending_after: float) -> list[Issued]:
        """List what was taken back and would run on beyond a time."""
        query = "SELECT * FROM issued WHERE kind=? AND revoked NOT NULL AND not_after>?"
        return [_issued(row) for row in self._store.execute(query, kind, ending_after)]

    # the list

    def current(self) -> crl.RevocationList | None:
        """Give the newest list of the box CA; a damaged one is none, and is made again."""
        text = self._store.certificate(BOX_LIST)
        try:
            return None if text is None else crl.load(text)
        except PeerError:
            return None

    def is_due(self, issuer: ca.Certificate, now: datetime) -> bool:
        """Say whether the list is missing, half over, of another key, or names too few."""
        found = self.current()
        if found is None or now >= crl.renew_at(found) or not crl.is_of(found, issuer):
            return True
        revoked = self.revoked(BOX, now.timestamp())
        return not {one.serial for one in revoked} <= crl.serials(found)

    def make_list(self, issuer: Issuer, now: datetime) -> None:
        """Sign and store the next list; ClosedError when the issuer's key does not sign now.

        A number is never lower than the time, so that a database that was put back repeats none. An
        entry stays until one list after the end of its certificate named it (RFC 5280, 3.3).
        """
        before = self.current()
        since = now if before is None else min(now, crl.begin(before))
        listed = [
            crl.Revoked(serial=one.serial, at=ca.at(one.revoked or 0))
            for one in self.revoked(BOX, since.timestamp())
        ]
        number = max(self._number() + 1, int(now.timestamp()))
        made = crl.make(issuer, listed, number=number, now=now)
        with self._store.transaction():
            self._store.set_meta(NUMBER, str(number).encode())
            self._store.set_certificate(BOX_LIST, crl.pem(made))
            old = (now - KEPT).timestamp()
            self._store.execute("DELETE FROM issued WHERE not_after<?", old)

    def _number(self) -> int:
        return int(self._store.meta(NUMBER) or b"0")


def _issued(row: tuple[Any, ...]) -> Issued:
    serial, kind, ek_name, subject, at, not_after, revoked = row
    return Issued(
        serial=int(serial, 16),
        kind=kind,
        ek_name=ek_name,
        subject=subject,
        at=at,
        not_after=not_after,
        revoked=revoked,
    )
