"""keys.db out of a backup: what opens here stays, what was revoked stays revoked, the rest goes.

Runs as the keys user while the keys process does not. On the TPM of before, in its epoch, the copy
is used as it is. Where a revocation came after it, or the TPM is another, the secrets and what only
that TPM opens are left out: they come back through headquarters (`keys.parcel`). Into a database
that is here already only revocations and floors are taken over: never lowered, never taken away.
docs/backup.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from keys.cachekey import SHARE_SIZE
from keys.errors import SiteError
from keys.io.authority import ROOT_LIST
from keys.io.layout import REHEARSAL_MARK, Layout
from keys.io.store import Event, Store
from keys.io.tpm import Tpm
from keys.io.tpm_made import Made
from keys.io.tpm_ring import TPM_META, rehearsal_socket
from keys.io.vault import DEVICE_EPOCH, EPOCH_DUE, SITE
from keys.secret import Secret
from keys.signed import NOTE
from keys.tpm_objects import EK_TEMPLATE, Index, counter_policy

OWN_META = (
    *("tpm", "tpm-clock", "owner-escrow", "owner-due", "key-check", "epoch-due", "link-seen"),
    "signing-key:*",
)
"""What of `meta` is this appliance's own (GLOB); all else is the site's, and stays."""
OF_THE_APPLIANCE = ("secrets", "material", "slots", "leases", "anchors", "allowed")
LEAVES = ("answer", "boot-server", "boot-ca")
"""Certificates whose keys went with the epoch."""


class Outcome(Enum):
    """What became of a copy."""

    WHOLE = "whole"
    OLDER = "older"
    OTHER = "other"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What is restored: the copied file, and what its backup says.

    `is_stale`: headquarters knows revocations that are not in it. Times in unix seconds.
    """

    path: Path
    at: int
    is_stale: bool
    now: float


def bring_back(copy: Copy, layout: Layout, site_id: str, tcti: str | None) -> Mapping[str, Any]:
    """Make the copy fit this machine, to be put in place as it is; SiteError and nothing changed.

    Where there is a keys.db, what the copy revokes is taken over there at once.
    """
    target = layout.state / "keys" / "keys.db"
    if tcti is not None and (layout.state / REHEARSAL_MARK).exists():
        tcti = f"swtpm:path={rehearsal_socket(layout)}"
    with closing(Store(copy.path)) as store:
        _check(store, site_id)
        if target.exists():
            return _merge(copy, target, site_id)
        outcome = _fit(store, tcti)
        with store.transaction():
            if copy.is_stale:
                _void_note(store)
            _record(store, copy, outcome)
        _settle(store)
    return {"outcome": outcome.value}


def _check(store: Store, site_id: str) -> None:
    (whole,) = store.execute("PRAGMA quick_check(1)").fetchone()
    if whole != "ok":
        raise SiteError(f"the keys.db of this backup is damaged ({whole}): take another")
    for problem in store.audit_problems():
        raise SiteError(f"in this backup {problem}: take another")
    known = store.meta(SITE)
    if known != site_id.encode():
        raise SiteError(f"the keys.db of this backup is not of the site {site_id}: take another")


def _fit(store: Store, tcti: str | None) -> Outcome:
    """Leave out of the copy what must not, or cannot, be used here."""
    stored = store.meta(TPM_META)
    made = None if stored is None or tcti is None else Made.read(stored)
    if made is None or tcti is None or not _is_its_tpm(made, tcti):
        with store.transaction():
            _strip(store)
        return Outcome.OTHER
    with Tpm(tcti, storage_name=made.storage_name) as tpm:
        epoch = tpm.counter(Index.EPOCH)
        if store.slot(epoch) is not None:
            with store.transaction():
                store.execute("DELETE FROM allowed")  # each was for one use, perhaps used since
            return Outcome.WHOLE
        share = Secret(os.urandom(SHARE_SIZE))
        blob = tpm.seal(share, counter_policy(Index.EPOCH.nv_name, epoch))
    with store.transaction():
        store.put_slot(epoch, blob)
        store.keep_epoch(epoch)
        store.execute("DELETE FROM material WHERE epoch<>?", DEVICE_EPOCH)
        store.execute("DELETE FROM allowed")
        store.set_meta(EPOCH_DUE, b"")
        for name in LEAVES:
            store.drop_certificate(name)
    return Outcome.OLDER


def _is_its_tpm(made: Made, tcti: str) -> bool:
    """Tell whether the copy's keys are in this TPM; one that was cleared has the EK alone."""
    with Tpm(tcti) as tpm:
        if tpm.ek_area(EK_TEMPLATE) != made.ek:
            return False
    with Tpm(tcti, storage_name=made.storage_name) as tpm:
        try:
            tpm.unseal(made.device, tpm.anytime)
        except SiteError:
            return False
    return True


def _strip(store: Store) -> None:
    for table in OF_THE_APPLIANCE:
        store.execute(f"DELETE FROM {table}")
    # What the site root revoked, the intermediates of a lost appliance, stays revoked.
    store.execute("DELETE FROM certificates WHERE name<>?", ROOT_LIST)
    for name in OWN_META:
        store.execute("DELETE FROM meta WHERE name GLOB ?", name)


def _void_note(store: Store) -> None:
    """Refuse the delivery note of before: a box that was revoked since may be on it.

    Nothing is handed over for it until headquarters has signed the next one, without that box.
    """
    query = "UPDATE floors SET digest=zeroblob(32) WHERE kind=? AND scope=''"
    store.execute(query, NOTE.name)


def _record(store: Store, copy: Copy, outcome: Outcome) -> None:
    number, head = store.audit_head()
    detail = {
        "outcome": outcome.value,
        "made": copy.at,
        "stale": copy.is_stale,
        "audit": {"n": number, "hash": head.hex()},
    }
    store.record(copy.now, "operator", Event(kind="restored", detail=detail))


def _settle(store: Store) -> None:
    """Leave one file, in which nothing is left of what was deleted."""
    store.execute("VACUUM")
    store.forget()


def _merge(copy: Copy, target: Path, site_id: str) -> Mapping[str, Any]:
    """Take over revocations, floors and used serials; the audit here goes on."""
    with closing(Store(target)) as store:
        if store.meta(SITE) not in (None, site_id.encode()):
            raise SiteError(f"{target} is another site's than this backup")
        store.execute("ATTACH DATABASE ? AS old", str(copy.path))
        with store.transaction():
            counts = _take_over(store)
            _record(store, copy, Outcome.MERGED)
        store.execute("DETACH DATABASE old")
    return {"outcome": Outcome.MERGED.value, **counts}


def _take_over(store: Store) -> dict[str, int]:
    query = "SELECT ek_name, at FROM old.revoked EXCEPT SELECT ek_name, at FROM main.revoked"
    found = store.execute(query).fetchall()
    revoked = [(name, at) for name, at in found if not store.is_revoked(name)]
    for ek_name, at in revoked:
        store.revoke(ek_name, at)
    before = store.execute("SELECT count(*) FROM withdrawn").fetchone()[0]
    store.execute("INSERT OR IGNORE INTO main.withdrawn SELECT * FROM old.withdrawn")
    withdrawn = store.execute("SELECT count(*) FROM withdrawn").fetchone()[0] - before
    store.execute(
        "INSERT OR IGNORE INTO main.consumed SELECT * FROM old.consumed "
        "WHERE ek_name NOT IN (SELECT ek_name FROM main.revoked)"
    )
    store.execute(
        "INSERT INTO main.versions SELECT * FROM old.versions WHERE true "
        "ON CONFLICT DO UPDATE SET last=max(last, excluded.last)"
    )
    store.execute(
        "INSERT INTO main.floors SELECT * FROM old.floors WHERE true ON CONFLICT DO UPDATE SET "
        "counter=excluded.counter, digest=excluded.digest, at=excluded.at "
        "WHERE excluded.counter > counter"
    )
    store.execute(
        "INSERT INTO main.wrapped SELECT * FROM old.wrapped WHERE true ON CONFLICT DO UPDATE SET "
        "version=excluded.version, file=excluded.file WHERE excluded.version > version"
    )
    store.execute(
        "UPDATE wrapped SET file=NULL WHERE ek_name IN (SELECT ek_name FROM main.revoked)"
    )
    store.execute(
        "INSERT INTO main.issued SELECT * FROM old.issued WHERE true ON CONFLICT DO UPDATE SET "
        "revoked=coalesce(issued.revoked, excluded.revoked)"
    )
    query = "INSERT OR IGNORE INTO main.certificates SELECT * FROM old.certificates WHERE name=?"
    store.execute(query, ROOT_LIST)
    if revoked or withdrawn:
        epoch = store.execute("SELECT coalesce(max(epoch), 0) FROM slots").fetchone()[0]
        store.set_meta(EPOCH_DUE, (epoch + 1).to_bytes(8, "big"))
    return {"revoked": len(revoked), "withdrawn": withdrawn}
