"""What headquarters signed, as this process takes it: floors of counters, approvals of boxes.

Whoever uses a document asks for its floor here, and shows each newer one that it accepted; the
signature is checked here once more, so nobody raises a floor but headquarters. It keeps no
document but the approvals, which become rows of `allowed`. docs/signed-inputs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from keys.approval import SignedApproval
from keys.envelope import b64u, unb64u
from keys.errors import SiteError
from keys.io.layout import OPERATOR, Layout
from keys.io.method_rows import BOTH, MethodRow, Record
from keys.io.rpc import Params, Refusal
from keys.io.signed_files import read_bounded
from keys.io.site_files import SiteFiles
from keys.io.store import Allowance, Store
from keys.manifest import MAX_FILE, ManifestError
from keys.note import DeliveryNote
from keys.signed import (
    APPROVAL,
    BACKUP_KEY,
    BOOT_SET,
    FIRMWARE,
    KINDS,
    NOTE,
    PLAN,
    POLICY,
    Floor,
    Kind,
    SignedError,
    SignedInput,
    check_signed,
)

TAKEN = frozenset(
    one.name for one in (NOTE, FIRMWARE, POLICY, PLAN, APPROVAL, BOOT_SET, BACKUP_KEY)
)
"""Kinds that are taken here; what is done with another raises its floor where that is done."""
MAX_AHEAD = 31 * 86400
"""How long an approval may travel, in seconds."""
LASTS = 86400
"""How long one that was taken waits for its box, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The methods about signed documents; `revoking` holds what no older disk may undo."""

    layout: Layout
    store: Store
    files: SiteFiles
    record: Record
    revoking: Callable[[], AbstractContextManager[None]]

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "input_floors": MethodRow(serve=self._floors, users=BOTH, administrative=True),
            "input_take": MethodRow(
                serve=self._take, users=BOTH, administrative=True, anchored=True
            ),
        }

    def floor(self, kind: str, subject: str) -> Floor | None:
        """Give the newest document of a kind, about a subject, that was taken."""
        query = "SELECT counter, digest FROM floors WHERE kind=? AND scope=?"
        found = self.store.execute(query, kind, subject).fetchone()
        return Floor(counter=found[0], digest=found[1]) if found else None

    def see_note(self, note: DeliveryNote, now: float) -> None:
        """Raise the floor to a delivery note that was found on the disk."""
        before = self.floor(NOTE.name, "")
        if note.floor != before:
            with self._raising(before):
                self._raise(NOTE, "", note.floor, now)
                self._record_note(now, "keys", note)

    def _floors(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """List the floors; those of a kind that counts for itself are not among them."""
        query = "SELECT kind, scope, counter, digest, at FROM floors ORDER BY kind, scope"
        names = ("kind", "subject", "counter", "digest", "at")
        rows = self.store.execute(query).fetchall()
        floors = [dict(zip(names, (*row[:3], b64u(row[3]), row[4]), strict=True)) for row in rows]
        return {"floors": floors}

    def _take(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Check a document against the floor; take it, or with `look` only say what it is."""
        kind = KINDS.get(str(params["kind"]))
        if kind is None or kind.name not in TAKEN:
            raise Refusal("MALFORMED", "kind is a kind of document whose floor is kept here")
        if kind is APPROVAL and user != OPERATOR:
            raise Refusal("FORBIDDEN", "only the operator takes an approval")
        found = self._check(kind, unb64u(params["file"]), unb64u(params["sig"]))
        before = self.floor(kind.name, found.subject)
        approval = self._approval(found, now) if kind is APPROVAL else None
        is_new, look = found.floor != before, bool(params.get("look", False))
        if is_new and not look:
            with self._raising(before):
                self._raise(kind, found.subject, found.floor, now)
                self._take_up(user, found, approval, now)
        return {
            "kind": kind.name,
            "subject": found.subject,
            "counter": found.counter,
            "site": found.site,
            "signer": found.signer,
            "before": before and before.counter,
            "new": is_new,
            "taken": is_new and not look,
            "waits": self._waits(approval, now),
        }

    def _check(self, kind: Kind, data: bytes, signature: bytes) -> SignedInput:
        try:
            return check_signed(
                kind,
                data,
                signature,
                public_key=self._public_key(),
                site_id=self.files.rules.site_id,
                floors=self.floor,
            )
        except (SignedError, ManifestError) as error:
            raise Refusal(error.reason.value, str(error)) from None

    def _public_key(self) -> bytes:
        path = self.layout.site / "trust" / "root.pub"
        found = read_bounded(path, MAX_FILE)
        if found is None:
            raise SiteError(f"{path} is missing: put it back")
        return found

    def _raising(self, before: Floor | None) -> AbstractContextManager[None]:
        """Hold the transaction: where there was a floor, no copy of the disk may bring it back."""
        return self.store.transaction() if before is None else self.revoking()

    def _raise(self, kind: Kind, subject: str, floor: Floor, now: float) -> None:
        self.store.execute(
            "INSERT OR REPLACE INTO floors VALUES(?,?,?,?,?)",
            *(kind.name, subject, floor.counter, floor.digest, now),
        )

    def _take_up(
        self, user: str, found: SignedInput, approval: SignedApproval | None, now: float
    ) -> None:
        """Do what follows from it here, in the transaction that raised the floor."""
        if found.kind is NOTE:
            note = DeliveryNote.of(found)
            self._record_note(now, user, note)
            return
        about = {"counter": found.counter, "subject": found.subject, "signer": found.signer}
        self.record(now, user, "input-taken", input=found.kind.name, **about)
        if approval is not None:
            one = _allowance(approval, now)
            self.store.allow(approval.ek_name, one)
            self.record(
                now,
                user,
                "allowed",
                ek_name=approval.ek_name.hex(),
                role=one.role,
                reasons=sorted(one.reasons),
                until=one.until,
                sealed=one.sealed.hex(),
                claim=approval.claim,
                signed=found.counter,
            )

    def _record_note(self, now: float, user: str, note: DeliveryNote) -> None:
        entries, counter = len(note.entries), note.floor.counter
        self.record(now, user, "delivery-note", counter=counter, entries=entries)

    def _approval(self, found: SignedInput, now: float) -> SignedApproval:
        """Read an approval that was signed, and check that it is of use now."""
        one = SignedApproval.decode(found.data)
        if (one.site, one.ek_name.hex()) != (found.site, found.subject):
            raise Refusal(
                "INPUT-COMMENT",
                "the approval is signed for another box or site than it names: let headquarters "
                "sign it again",
            )
        if one.role not in self.files.rules.roles:
            raise Refusal("ROLE-DIFFERS", f"site.toml has no role {one.role!r}: add it there first")
        if now >= one.until:
            raise Refusal("INPUT-ENDED", "the approval has ended: ask headquarters for a new one")
        if one.until > now + MAX_AHEAD:
            days = MAX_AHEAD // 86400
            raise Refusal(
                "INPUT-ENDED", f"the approval ends in more than {days} days: ask for a shorter one"
            )
        return one

    def _waits(self, one: SignedApproval | None, now: float) -> bool:
        """Say whether exactly this approval was taken and waits for its box still."""
        if one is None:
            return False
        kept = self.store.allowance(one.ek_name)
        return (
            kept is not None
            and kept.role == one.role
            and kept.covers(one.reasons, one.sealed, now)
            and kept.until <= one.until
        )


def _allowance(one: SignedApproval, now: float) -> Allowance:
    until = min(float(one.until), now + LASTS)
    return Allowance(role=one.role, reasons=one.reasons, sealed=one.sealed, until=until)
