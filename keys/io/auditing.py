"""The audit chain and its anchor in the TPM: what was cut off, changed or put back shows.

Entries are chained in the database, in the transaction of their effect. At most once a minute, and
at once after what must not be undone, the head of the chain is extended into an NV index of the
TPM, which nobody sets back; a power cut may leave entries after the last anchor, and one anchor
that the TPM has not got yet. Without a TPM a chain that ends early looks whole: verify says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys.io.ring import Ring
from keys.io.rpc import Params
from keys.io.store import Anchor, Event, Store

ANCHOR_SECONDS = 60.0
"""An NV index wears out: some parts last for 500,000 writes, a year of one a minute."""
BROKEN = (
    "the audit of this controller does not end where its TPM says: entries were cut off, "
    "or keys.db is another copy"
)
NO_ANCHOR = "without a TPM nothing tells an audit whose last entries were cut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check of the whole audit found; `problems` is empty when it holds."""

    entries: int
    anchored: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class Auditing:
    """Anchors the chain, and checks it."""

    def __init__(self, store: Store, ring: Ring) -> None:
        """Anchor nothing yet."""
        self._store, self._ring = store, ring
        self._again = 0.0

    def begin(self, now: float) -> None:
        """Compare the last anchor with the TPM, after a start; a break is kept as one."""
        held = self._ring.audit_value()
        if held is None:
            return
        anchors = self._store.anchors()
        if not anchors:
            self._start(held, now, "audit-anchored")
        elif held == anchors[-1].value:
            return
        elif len(anchors) > 1 and held == anchors[-2].value:
            self._ring.extend_audit(anchors[-1].head)  # cut between disk and TPM
        else:
            self._start(held, now, "audit-broken")

    def _start(self, held: bytes, now: float, kind: str) -> None:
        """Anchor from what the TPM holds: a row without a head says that nothing is known of it."""
        with self._store.transaction():
            number, _ = self._store.audit_head()
            self._store.add_anchor(Anchor(number=number, head=b"", value=held))
            detail = {"entry": number}
            self._store.record(now, "keys", Event(kind=kind, detail=detail))
        self.anchor(now, at_once=True)

    def anchor(self, now: float, *, at_once: bool = False) -> None:
        """Extend the head of the chain, if there is something new and it is time."""
        if not at_once and 0 <= self._again - now <= ANCHOR_SECONDS:
            return
        number, head = self._store.audit_head()
        anchors = self._store.anchors(last=1)
        if not anchors or anchors[-1].number == number:
            return
        value = hashlib.sha256(anchors[-1].value + head).digest()
        with self._store.transaction():
            self._store.add_anchor(Anchor(number=number, head=head, value=value))
        self._ring.extend_audit(head)
        self._again = now + ANCHOR_SECONDS

    def verify(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Check chain and anchors; the audit says that somebody looked."""
        found = self.check()
        with self._store.transaction():
            detail = {"entries": found.entries, "problems": len(found.problems)}
            self._store.audit(now, user, Event(kind="audit-verified", detail=detail))
        return {
            "entries": found.entries,
            "anchored": found.anchored,
            "problems": list(found.problems),
            "notes": list(found.notes),
        }

    def check(self) -> Findings:
        """Walk everything: entries, anchors, the TPM."""
        problems, notes = list(self._store.audit_problems()), []
        anchors, heads = self._store.anchors(), self._store.audit_hashes()
        before: Anchor | None = None
        for one in anchors:
            problem = _anchor_problem(before, one, heads)
            if problem:
                problems.append(problem)
            before = one
        problems += [
            f"before entry {one.number + 1} the audit did not end where the TPM said: entries were "
            "cut off then, or a copy was restored"
            for one in anchors[1:]
            if not one.head
        ]
        held = self._ring.audit_value()
        if held is None:
            notes.append(NO_ANCHOR)
        elif not anchors or held not in {one.value for one in anchors[-2:]}:
            problems.append(BROKEN)
        anchored = anchors[-1].number if anchors and held is not None else 0
        entries = len(heads)
        if held is not None and entries > anchored:
            notes.append(f"the last {entries - anchored} entries are not anchored yet")
        return Findings(
            entries=entries, anchored=anchored, problems=tuple(problems), notes=tuple(notes)
        )


def _anchor_problem(before: Anchor | None, one: Anchor, heads: Mapping[int, bytes]) -> str | None:
    """Say what is wrong with an anchor; None when it follows from chain and anchor before."""
    if not one.head:
        return None  # a beginning
    if heads.get(one.number) != one.head:
        return f"audit entry {one.number} is missing or is not the one that was anchored"
    if before is None or hashlib.sha256(before.value + one.head).digest() != one.value:
        return f"the anchor of audit entry {one.number} was changed"
    return None
