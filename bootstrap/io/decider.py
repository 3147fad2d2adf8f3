"""From a proved session to a signed answer: judge, decide, name, plan, hand over.

The only caller of `keys handover`. What an answer promises is on disk before the answer is: the
plan before `enrolled`, the box's stage and the answer in one commit. Killed anywhere, the same
evidence sent again leads to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, Protocol

from attest.reasons import Reason
from bootstrap.cards import next_step
from bootstrap.enrolment import (
    Approval,
    Decision,
    Finding,
    Outcome,
    Release,
    Stage,
    Step,
    advance,
    decide,
)
from bootstrap.errors import SiteError
from bootstrap.handoff import handoff_document
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import RELEASE, Judgement, Proved
from bootstrap.naming import Given, choose
from bootstrap.phonehome import b64u
from bootstrap.rows import BoxRow, Event, SessionRow
from bootstrap.settings import Settings
from bootstrap.site import Role
from keys.errors import KeysError
from keys.io.rpc import Refusal, RpcError, RpcUnavailableError, call
from keys.note import Entry

HELD_RETRY, REFUSED_RETRY = 10, 60
APPROVAL_SECONDS = 86400.0
_KEYS_SENTENCES = {
    "EK-NOT-ALLOWED": "The key service does not know this box from a signed delivery note.",
    "ROLE-DIFFERS": "The signed delivery note gives this box another role.",
    "BOOT-SET-WITHDRAWN": Reason.BOOT_SET_WITHDRAWN.sentence,
    "HANDED-OVER": "This box had its hand-over in this start already: power-cycle it.",
    "REVOKED": "This box was taken out of service.",
}
"""What keys may answer and a box is refused for; any other code is a fault of the site."""
_EACH_BY_A_PERSON = Finding(
    code="APPROVAL-NEEDED",
    sentence="At this site a person approves each box.",
    release=Release.PERSON,
)


class Judge(Protocol):
    """Appraises the evidence of a proved session and keeps it."""

    def judge(self, proved: Proved, box: BoxRow, now: float) -> Judgement:
        """Return all findings in order of rank."""


class Planner(Protocol):
    """Writes the plan that netboot runs."""

    def write(self, boxes: Sequence[BoxRow]) -> int:
        """Make the plan of these boxes durable and return its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    proved: Proved
    session: SessionRow
    judgement: Judgement
    decision: Decision
    entry: Entry | None
    approval: int | None
    now: float


class Decider:
    """Decides about one site's boxes; called from control's one thread."""

    def __init__(
        self,
        store: SiteStore,
        settings: Callable[[], Settings],
        judge: Judge,
        planner: Planner,
        keys: Path,
    ) -> None:
        """Work on these; `settings` gives those in force, `keys` is the key service's socket."""
        self._store = store
        self._settings = settings
        self._judge = judge
        self._planner = planner
        self._keys = keys

    def answer(self, proved: Proved, box: BoxRow, session: SessionRow, now: float) -> str:
        """Return the signed answer as text, after all it promises is on disk."""
        judgement = self._judge.judge(proved, box, now)
        entry = self._settings().entry(box.ek_public)
        findings = judgement.findings
        if self._settings().site.trust.approve == "never":
            findings = (*findings, _EACH_BY_A_PERSON)
        approvals = self._store.approvals(box.ek_name)
        decision = decide(
            findings,
            [approval for _, approval in approvals],
            ek_name=box.ek_name,
            measurements=judgement.measurements,
            now=now,
        )
        box = replace(
            box,
            measurements=judgement.measurements,
            boot_set=judgement.boot_set,
            evidence=judgement.archive,
        )
        used = (number for number, approval in approvals if approval is decision.approval)
        case = _Case(
            proved=proved,
            session=session,
            judgement=judgement,
            decision=decision,
            entry=entry,
            approval=next(used, None),
            now=now,
        )
        if decision.outcome is not Outcome.ACCEPT:
            return self._turn_away(case, box, decision.outcome, _gating(decision.findings))
        return self._accept(case, box)

    def _accept(self, case: _Case, box: BoxRow) -> str:
        role_name = case.decision.approval.role if case.decision.approval else None
        role = self._settings().site.role(role_name or (case.entry.role if case.entry else None))
        try:
            if role is None:
                raise SiteError("site.toml: no role is the default, and the note names none")
            box = replace(
                self._name(box, role, case.entry), stage=advance(box.stage, Step.ACCEPTED)
            )
            document = handoff_document(self._settings(), box, role, case.session.session)
        except SiteError as error:
            finding = Finding(code="SITE-SETTINGS", sentence=str(error), release=Release.PERSON)
            return self._turn_away(case, box, Outcome.HOLD, (finding,))
        box = replace(box, since=case.now)
        with self._store.transaction():
            self._store.save_box(box)
            self._event(case, box, "verified", {"tier": case.judgement.tier})
        self._planner.write(self._store.boxes())
        return self._hand_over(case, box, role, document)

    def _hand_over(self, case: _Case, box: BoxRow, role: Role, document: Mapping[str, Any]) -> str:
        judgement, proved = case.judgement, case.proved
        params = {
            "ek_public": b64u(box.ek_public),
            "box": box.box,
            "session": b64u(proved.session.session),
            "transcript": b64u(proved.transcript),
            "ephemeral": b64u(proved.evidence.ephemeral),
            "device_public": b64u(proved.evidence.device_public),
            "reset_count": judgement.reset_count,
            "restart_count": judgement.restart_count,
            "clock": judgement.clock,
            "pcrs": {str(index): b64u(value) for index, value in judgement.pcrs.items()},
            "boot_set": b64u(judgement.boot_set or b""),
            "role": role.name,
            "handoff": document,
        }
        try:
            given = call(self._keys, "handover", params)
        except RpcUnavailableError as error:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error
        except RpcError as error:
            sentence = _KEYS_SENTENCES.get(error.code)
            if sentence is None:
                raise Refusal(error.code, str(error)) from error
            finding = Finding(code=error.code, sentence=sentence, release=Release.NEVER)
            return self._turn_away(case, box, Outcome.REFUSE, (finding,))
        box = replace(
            box,
            stage=advance(box.stage, Step.HANDED_OVER),
            reset_count=judgement.reset_count,
            restart_count=judgement.restart_count,
            clock=judgement.clock,
            withheld=tuple(given["withheld"]),
            certificate_until=float(given["certificate_not_after"]),
        )
        session = replace(case.session, answer=given["answer"], digests=given["digests"])
        with self._store.transaction():
            self._store.save_box(box)
            self._store.save_session(session)
            if case.approval is not None:
                # not before: a hand-over that fails leaves the approval to the next try
                self._store.use_approval(case.approval)
            self._event(case, box, "enrolled", {"hostname": box.hostname, "role": role.name})
        return str(given["answer"])

    def _turn_away(
        self, case: _Case, box: BoxRow, outcome: Outcome, findings: Sequence[Finding]
    ) -> str:
        held = outcome is Outcome.HOLD
        first = findings[0]
        status = "held" if held else "refused"
        payload = {
            "status": status,
            "session": b64u(case.proved.session.session),
            "box": box.box,
            "transcript": b64u(case.proved.transcript),
            "reason": first.code,
            "sentence": first.sentence,
            "retry_seconds": HELD_RETRY if held else REFUSED_RETRY,
        }
        answer = self._sign(case, payload)
        reasons = tuple(dict.fromkeys(finding.code for finding in findings))
        box = replace(
            box,
            stage=advance(box.stage, Step.MUST_WAIT if held else Step.REJECTED),
            since=case.now,
            reasons=reasons,
            sentence=first.sentence,
        )
        with self._store.transaction():
            self._store.save_box(box)
            self._store.save_session(replace(case.session, answer=answer))
            told = dict.fromkeys((*findings, *case.decision.findings))
            detail = {
                "sentence": first.sentence,
                "next_step": next_step(box.stage, reasons),
                "findings": [[one.code, one.sentence] for one in told],
            }
            self._event(case, box, status, detail, first.code)
        return answer

    def _sign(self, case: _Case, payload: Mapping[str, Any]) -> str:
        params = {
            "context": "answer",
            "session": payload["session"],
            "transcript": payload["transcript"],
            "payload": payload,
        }
        try:
            return str(call(self._keys, "answer", params)["answer"])
        except KeysError as error:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error

    def _name(self, box: BoxRow, role: Role, entry: Entry | None) -> BoxRow:
        """Give a new box number, name and address; a known one keeps what it has."""
        if box.hostname is not None and box.role == role.name:
            return box
        given = [
            Given(
                role=other.role or "",
                number=other.number,
                hostname=other.hostname,
                address=IPv4Address(other.address) if other.address else None,
            )
            for other in self._store.boxes()
            if other.hostname is not None and other.box != box.box
        ]
        present = ip_address(box.address) if box.address else None
        chosen = choose(
            self._settings().site,
            role,
            given,
            wish=entry.name if entry else None,
            present=present if isinstance(present, IPv4Address) else None,
        )
        return replace(
            box,
            role=role.name,
            number=chosen.number,
            hostname=chosen.hostname,
            address=str(chosen.address) if chosen.address else box.address,
        )

    def _event(
        self,
        case: _Case,
        box: BoxRow,
        kind: str,
        detail: Mapping[str, Any],
        reason: str | None = None,
    ) -> None:
        self._store.add_event(
            Event(
                at=case.now,
                kind=kind,
                box=box.box,
                mac=box.mac,
                address=case.session.address,
                reason=reason,
                detail=detail,
            )
        )


def new_approval(box: BoxRow, role: str, now: float) -> Approval:
    """Make a person's release of a held box; ValueError when no person may release it."""
    if box.stage is not Stage.HELD or box.measurements is None:
        raise ValueError("only a held box can be approved")
    for code in box.reasons:
        if not _a_person_may_release(code):
            raise ValueError(f"{code} is not for a person to release: {box.sentence}")
    return Approval(
        ek_name=box.ek_name,
        reasons=frozenset(box.reasons),
        measurements=box.measurements,
        role=role,
        expires=now + APPROVAL_SECONDS,
        used=False,
    )


def _a_person_may_release(code: str) -> bool:
    if code == _EACH_BY_A_PERSON.code:
        return True
    known = next((reason for reason in Reason if reason.code == code), None)
    return known is not None and RELEASE[known.releasable_by] is Release.PERSON


def _gating(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.gates)
