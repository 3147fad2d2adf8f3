"""From a proved session to a signed answer: judge, decide, name, plan, hand over.

The only caller of `keys handover`. What an answer promises is on disk before the answer is: the
plan before `enrolled`, the box's stage and the answer in one commit. Killed anywhere, the same
evidence sent again leads to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

from attest.reasons import Reason
from bootstrap.approval import EACH_BY_A_PERSON
from bootstrap.cards import next_step
from bootstrap.enrolment import (
    GONE,
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
from bootstrap.io import openings
from bootstrap.io.renewals import Planner, seconds_of
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import Judgement, Proved, told
from bootstrap.keys_calls import Gift, answer_parameters, event_of, wrap_parameters
from bootstrap.naming import Given, choose
from bootstrap.phonehome import b64u
from bootstrap.record import place_holder
from bootstrap.renewing import opening_of
from bootstrap.rows import BoxRow, SessionRow
from bootstrap.settings import Settings
from bootstrap.site import Role
from keys.errors import KeysError
from keys.io.rpc import Refusal, RpcError, RpcUnavailableError, call
from keys.note import Entry

HELD_RETRY, REFUSED_RETRY = 10, 60
_KEYS_SENTENCES = {
    "EK-NOT-ALLOWED": "The key service does not know this box from a signed delivery note.",
    "ROLE-DIFFERS": "The signed delivery note gives this box another role.",
    "BOOT-SET-WITHDRAWN": Reason.BOOT_SET_WITHDRAWN.sentence,
    "HANDED-OVER": "This box had its hand-over in this start already: power-cycle it.",
    "REVOKED": "This box was taken out of service.",
}
"""What keys may answer and a box is refused for; any other code is a fault of the site."""


class Judge(Protocol):
    """Appraises the evidence of a proved session and keeps it."""

    def judge(self, proved: Proved, box: BoxRow, now: float) -> Judgement:
        """Return all findings in order of rank."""


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
            findings = (*findings, EACH_BY_A_PERSON)
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
            sealed=judgement.sealed,
            boot_set=judgement.boot_set,
            evidence=judgement.archive,
            tier=judgement.tier,
            basis=judgement.basis,
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
            replaced = self._replaced(case, box)
            box = replace(
                self._name(box, role, case.entry, replaced),
                stage=advance(box.stage, Step.ACCEPTED),
                replaces=replaced.box if replaced else None,
                device_public=case.proved.evidence.device_public,
                ssh_host_key=case.proved.evidence.ssh_host_key or None,
            )
            document = handoff_document(self._settings(), box, role, case.session.session)
        except SiteError as error:
            finding = Finding(code="SITE-SETTINGS", sentence=str(error), release=Release.PERSON)
            return self._turn_away(case, box, Outcome.HOLD, (finding,))
        box = replace(box, since=case.now)
        with self._store.transaction():
            if replaced is not None and replaced.stage not in GONE:
                self._give_place(case, replaced, box)
            self._store.save_box(box)
            known = {"findings": told(case.judgement.findings)}
            known |= {"released": told(case.judgement.released)}
            self._store.add_event(
                event_of(case, box, "verified", {"tier": case.judgement.tier, **known})
            )
        self._planner.write(self._store.boxes())
        if replaced is not None:
            self._call("revoke", {"ek_name": b64u(replaced.ek_name)})
        return self._hand_over(case, box, role, document)

    def _replaced(self, case: _Case, box: BoxRow) -> BoxRow | None:
        """Find the box whose place a person gave to this one."""
        approval = case.decision.approval
        if approval is None or Reason.BOX_REPLACES.code not in approval.reasons:
            return None
        return place_holder(self._store.boxes(), box, case.entry)

    def _give_place(self, case: _Case, old: BoxRow, new: BoxRow) -> None:
        """Take a box out of service because another has its place; inside the transaction."""
        gone = replace(
            old,
            stage=advance(old.stage, Step.PLACE_TAKEN),
            since=case.now,
            reasons=("REPLACED",),
            sentence=_REPLACED,
        )
        self._store.save_box(gone)
        self._store.add_event(
            event_of(case, gone, "replaced", {"by": new.box, "hostname": old.hostname})
        )

    def _hand_over(self, case: _Case, box: BoxRow, role: Role, document: Mapping[str, Any]) -> str:
        judgement, proved = case.judgement, case.proved
        approval = case.decision.approval
        try:
            given = call(self._keys, "handover", _asked(case, box, role, document))
        except RpcUnavailableError as error:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error
        except RpcError as error:
            if error.code == "EK-NOT-ALLOWED" and approval is not None:
                return self._not_allowed(case, box)
            sentence = _KEYS_SENTENCES.get(error.code)
            if sentence is None:
                self._must_wait(box, error)
                raise Refusal(error.code, str(error)) from error
            finding = Finding(code=error.code, sentence=sentence, release=Release.NEVER)
            return self._turn_away(case, box, Outcome.REFUSE, (finding,))
        box = replace(
            box,
            stage=advance(box.stage, Step.HANDED_OVER),
            reset_count=judgement.reset_count,
            restart_count=judgement.restart_count,
            clock=judgement.clock,
            tpm_firmware=judgement.tpm_firmware,
            firmware=_released_firmware(case) or box.firmware,
            place=self._place(case, box),
            replaces=None,
            withheld=tuple(given["withheld"]),
            certificate_until=float(given["certificate_not_after"]),
            renew=seconds_of(role),
            proved=case.now,
            renewals=0,
        )
        reasons = approval.reasons if approval else ()
        opening = opening_of(proved, judgement, judgement.boot_set or b"", reasons)
        session = replace(case.session, answer=given["answer"], digests=given["digests"])
        with self._store.transaction():
            self._store.save_box(box)
            self._store.save_session(session)
            openings.begin(self._store, replace(opening, box=box.box))
            if case.approval is not None:
                # not before: a hand-over that fails leaves the approval to the next try
                self._store.use_approval(case.approval)
            self._store.add_event(
                event_of(case, box, "enrolled", {"hostname": box.hostname, "role": role.name})
            )
        return str(given["answer"])

    def _must_wait(self, box: BoxRow, error: RpcError) -> None:
        """Show on its card why a box that proved itself gets nothing yet; no answer can be signed.

        The box tries again by itself.
        """
        with self._store.transaction():
            self._store.save_box(replace(box, reasons=(error.code,), sentence=f"{error}."))

    def _not_allowed(self, case: _Case, box: BoxRow) -> str:
        """Hold a box again whose approval keys does not know, or knows as used: a person decides.

        A kill between the two commits of a hand-over leads here, in the next start of the box.
        """
        assert case.approval is not None
        self._store.use_approval(case.approval)
        return self._turn_away(case, box, Outcome.HOLD, _gating(case.decision.findings))

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
            every = dict.fromkeys((*findings, *case.decision.findings))
            detail = {
                "sentence": first.sentence,
                "next_step": next_step(box.stage, reasons),
                "findings": told(every),
                "released": told(case.judgement.released),
            }
            self._store.add_event(event_of(case, box, status, detail, first.code))
        return answer

    def _sign(self, case: _Case, payload: Mapping[str, Any]) -> str:
        return str(self._call("answer", answer_parameters(payload))["answer"])

    def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        try:
            return call(self._keys, method, params)
        except KeysError as error:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error

    def _place(self, case: _Case, box: BoxRow) -> str | None:
        """Say which place of the note a box has from now on."""
        if case.entry is not None:
            return case.entry.serial
        replaced = self._store.box(box.replaces) if box.replaces else None
        return replaced.place if replaced else box.place

    def _name(
        self, box: BoxRow, role: Role, entry: Entry | None, replaced: BoxRow | None
    ) -> BoxRow:
        """Give a new box number, name and address; a known one keeps what it has.

        What a box had whose place was taken is free again.
        """
        if box.hostname is not None and box.role == role.name:
            return box
        given = [
            Given(
                role=other.role or "",
                number=other.number,
                hostname=other.hostname,
                address=ip_address(other.address) if other.address else None,
            )
            for other in self._store.boxes()
            if other.hostname is not None
            and other.box != box.box
            and other.stage is not Stage.REPLACED
            and (replaced is None or other.box != replaced.box)
        ]
        chosen = choose(
            self._settings().site,
            role,
            given,
            wish=entry.name if entry else None,
            present=ip_address(box.address) if box.address else None,
        )
        return replace(
            box,
            role=role.name,
            number=chosen.number,
            hostname=chosen.hostname,
            address=str(chosen.address) if chosen.address else box.address,
        )


_REPLACED = "Another box took the place of this one"


def _asked(case: _Case, box: BoxRow, role: Role, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the parameters of keys `handover`."""
    approval = case.decision.approval
    gift = Gift(
        role=role.name,
        boot_set=case.judgement.boot_set or b"",
        reasons=approval.reasons if approval else (),
        document=document,
    )
    return wrap_parameters(box, case.judgement, case.proved, gift)


def _released_firmware(case: _Case) -> bytes | None:
    """Give the firmware that the used approval releases, for this EK alone and for good."""
    approval = case.decision.approval
    if approval is None or Reason.FIRMWARE_UNKNOWN.code not in approval.reasons:
        return None
    return case.judgement.firmware or None


def _gating(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.gates)
