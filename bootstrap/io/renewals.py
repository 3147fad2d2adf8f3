"""From a proved session of a box that renews to a signed answer; and boxes that did not renew.

The only caller of `keys renew`. As with a hand-over, what an answer promises is on disk before the
answer is. A renewal that is held takes nothing away; one that is refused ends the box's access.
docs/phone-home-v1.md, "Renewal".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from attest.expectation import SetState
from attest.reasons import Reason
from bootstrap.cards import next_step
from bootstrap.enrolment import GONE, Finding, Outcome, Release, Stage, Step, advance
from bootstrap.errors import SiteError
from bootstrap.handoff import handoff_document
from bootstrap.io import openings
from bootstrap.io.references import References
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import Judgement, Proved, told
from bootstrap.keys_calls import Gift, answer_parameters, event_of, wrap_parameters
from bootstrap.phonehome import b64u
from bootstrap.renewing import (
    OVERDUE,
    RENEWS,
    Opening,
    decide,
    expected_opened,
    is_overdue,
    opening_of,
)
from bootstrap.rows import BoxRow, Event, SessionRow
from bootstrap.settings import Settings
from bootstrap.site import Role
from keys.errors import KeysError
from keys.io.rpc import Refusal, RpcError, RpcUnavailableError, call

HELD_RETRY = 600
REFUSED_RETRY = 3600
CLOSED_SECONDS = 30.0
"""So long nothing is judged after keys could not renew: each try would fill the archive."""
_GONE = {
    Stage.REVOKED: Finding(
        code="REVOKED", sentence="This box was taken out of service.", release=Release.NEVER
    ),
    Stage.REPLACED: Finding(
        code="REPLACED", sentence="Another box took the place of this one.", release=Release.NEVER
    ),
}
_NO_HANDOVER = Finding(
    code="NO-HANDOVER",
    sentence="This site did not hand over to this start of the box: start it again.",
    release=Release.PERSON,
)
_REFUSALS = {
    "REVOKED": _GONE[Stage.REVOKED].sentence,
    "BOOT-SET-WITHDRAWN": Reason.BOOT_SET_WITHDRAWN.sentence,
    "PCR-MISMATCH": "The key service does not find PCR 15 as it left it: start the box again.",
    "DEVICE-KEY": Reason.DEVICE_KEY.sentence,
}
"""What keys may answer and a box is refused for."""
_HOLDS = {
    "NO-HANDOVER": _NO_HANDOVER.sentence,
    "ROLE-DIFFERS": "This box has another role now: start it again.",
    "RENEWAL-OFF": "Boxes of this role do not renew any more: start it again.",
}
"""What keys may answer and a box keeps what it has for; any other code is a fault of the site."""


class Judge(Protocol):
    """Appraises the evidence of a proved session and keeps it."""

    def judge(
        self, proved: Proved, box: BoxRow, now: float, *, opened: Mapping[str, bytes]
    ) -> Judgement:
        """Return all findings in order of rank; `opened` is what PCR 15 must hold by bank."""


class Planner(Protocol):
    """Writes the plan that netboot runs."""

    def write(self, boxes: Sequence[BoxRow]) -> int:
        """Make the plan of these boxes durable and return its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    proved: Proved
    session: SessionRow
    now: float
    judgement: Judgement | None = None


class RenewalDesk:
    """Renews boxes of one site; called from control's one thread."""

    def __init__(
        self,
        store: SiteStore,
        settings: Callable[[], Settings],
        references: Callable[[], References],
        judge: Judge,
        planner: Planner,
        keys: Path,
    ) -> None:
        """Work on these; `keys` is the socket of the key service."""
        self._planner = planner
        self._store = store
        self._settings = settings
        self._references = references
        self._judge = judge
        self._keys = keys
        self._closed = (0.0, "")

    def answer(self, proved: Proved, box: BoxRow, session: SessionRow, now: float) -> str:
        """Return the signed answer as text, after all it promises is on disk."""
        case = _Case(proved=proved, session=session, now=now)
        if box.stage in GONE:
            return self._refuse(case, box, _GONE[box.stage])
        known = openings.of_box(self._store, box.box)
        if not known:
            return self._hold(case, box, _NO_HANDOVER)
        if box.stage not in RENEWS:
            return self._not_now(case, box)
        self._check_closed(now)
        forgot = openings.restored(self._store, now) > (box.proved or 0.0)
        opened = expected_opened(known, proved.evidence.pcrs, forgot=forgot)
        judgement = self._judge.judge(proved, box, now, opened=opened)
        case = replace(case, judgement=judgement)
        handover = known[-1]
        shown = opening_of(proved, judgement, handover.boot_set, handover.reasons)
        decided = decide(
            known, shown, judgement, clock=box.clock, state=self._state(handover.boot_set)
        )
        box = replace(box, evidence=judgement.archive)
        if decided.finding is not None:
            refuse = decided.outcome is Outcome.REFUSE
            return (self._refuse if refuse else self._hold)(case, box, decided.finding)
        return self._renew(case, box, replace(shown, box=box.box))

    def turn(self, now: float, started: float) -> int:
        """Find boxes that should have renewed long ago; gives how many became stale."""
        late = [one for one in self._store.boxes_due(now) if is_overdue(one, now, started)]
        for box in late:
            stale = replace(
                box,
                stage=advance(box.stage, Step.OVERDUE),
                since=now,
                reasons=box.reasons or (OVERDUE.code,),
                sentence=box.sentence if box.reasons else OVERDUE.sentence,
            )
            event = Event(
                at=now,
                kind="stale",
                box=box.box,
                mac=box.mac,
                reason=OVERDUE.code,
                detail={"sentence": OVERDUE.sentence, "renewals": box.renewals},
            )
            with self._store.transaction():
                self._store.save_box(stale)
                self._store.add_event(event)
        return len(late)

    def _state(self, boot_set: bytes) -> SetState | None:
        found = (one.state for one in self._references().sets if one.digest == boot_set)
        return next(found, None)

    def _check_closed(self, now: float) -> None:
        until, code = self._closed
        if 0 < until - now <= CLOSED_SECONDS:
            raise Refusal(code, "the key service cannot renew now")

    def _not_now(self, case: _Case, box: BoxRow) -> str:
        """Answer a box that lost its access, or that is proving itself anew."""
        if box.stage is Stage.REFUSED and box.reasons:
            sentence = box.sentence or _NO_HANDOVER.sentence
            finding = Finding(code=box.reasons[0], sentence=sentence, release=Release.NEVER)
            return self._refuse(case, box, finding)
        return self._hold(case, box, _NO_HANDOVER)

    def _renew(self, case: _Case, box: BoxRow, opening: Opening) -> str:
        role = self._settings().site.role(box.role)
        if role is None or self._has_other_role(box, role, opening):
            finding = Finding(
                code="ROLE-DIFFERS", sentence=_HOLDS["ROLE-DIFFERS"], release=Release.PERSON
            )
            return self._hold(case, box, finding)
        try:
            document = handoff_document(self._settings(), box, role, case.session.session)
        except SiteError as error:
            finding = Finding(code="SITE-SETTINGS", sentence=str(error), release=Release.PERSON)
            return self._hold(case, box, finding)
        try:
            given = call(self._keys, "renew", self._params(case, box, opening, role, document))
        except RpcUnavailableError as error:
            self._closed = (case.now + CLOSED_SECONDS, "KEYS-SILENT")
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error
        except RpcError as error:
            return self._not_given(case, box, error)
        return self._given(case, box, opening, role, given)

    def _has_other_role(self, box: BoxRow, role: Role, opening: Opening) -> bool:
        """Tell whether the note gives a box another role by now; a person's choice stays."""
        entry = self._settings().entry(box.ek_public)
        if entry is None or opening.reasons:
            return False
        wanted = self._settings().site.role(entry.role)
        return wanted is None or wanted.name != role.name

    def _params(
        self,
        case: _Case,
        box: BoxRow,
        opening: Opening,
        role: Role,
        document: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        assert case.judgement is not None  # of `answer`
        gift = Gift(role=role.name, boot_set=opening.boot_set, reasons=(), document=document)
        return wrap_parameters(box, case.judgement, case.proved, gift)

    def _not_given(self, case: _Case, box: BoxRow, error: RpcError) -> str:
        code = error.code
        if code in _REFUSALS:
            finding = Finding(code=code, sentence=_REFUSALS[code], release=Release.NEVER)
            return self._refuse(case, box, finding)
        if code in _HOLDS:
            finding = Finding(code=code, sentence=_HOLDS[code], release=Release.PERSON)
            return self._hold(case, box, finding)
        if code != "RATE":
            self._closed = (case.now + CLOSED_SECONDS, code)
        with self._store.transaction():
            self._store.save_box(replace(box, reasons=(code,), sentence=f"{error}."))
        raise Refusal(code, str(error)) from error

    def _given(
        self, case: _Case, box: BoxRow, opening: Opening, role: Role, given: Mapping[str, Any]
    ) -> str:
        judgement = case.judgement
        assert judgement is not None  # of `answer`
        ready = box.stage is Stage.READY
        renewed = replace(
            box,
            stage=box.stage if ready else advance(box.stage, Step.RENEWED),
            since=box.since if ready else case.now,
            reasons=(),
            sentence=None,
            clock=judgement.clock,
            tier=judgement.tier,
            basis=judgement.basis,
            withheld=tuple(given["withheld"]),
            certificate_until=float(given["certificate_not_after"]),
            renew=seconds_of(role),
            proved=case.now,
            renewals=box.renewals + 1,
        )
        session = replace(case.session, answer=given["answer"], digests=given["digests"])
        with self._store.transaction():
            self._store.save_box(renewed)
            self._store.save_session(session)
            openings.add(self._store, opening)
            detail: dict[str, Any] = {"findings": told(judgement.findings)}
            detail |= {"released": told(judgement.released), "tier": judgement.tier}
            detail |= {"times": renewed.renewals, "until": renewed.certificate_until}
            self._store.add_event(event_of(case, renewed, "renewed", detail))
        return str(given["answer"])

    def _refuse(self, case: _Case, box: BoxRow, finding: Finding) -> str:
        """Take its access from a box for what it shows; nothing changes for one that has none."""
        answer = self._sign(case, box, "refused", finding, REFUSED_RETRY)
        refused = box
        if box.stage in RENEWS:
            stage = advance(box.stage, Step.DOUBTED)
            told_of = (finding.code,), finding.sentence
            refused = replace(
                box, stage=stage, since=case.now, reasons=told_of[0], sentence=told_of[1]
            )
        self._told(case, refused, "renewal-refused", finding, answer)
        if refused is not box:
            self._planner.write(self._store.boxes())  # its keys leave the zone
        return answer

    def _hold(self, case: _Case, box: BoxRow, finding: Finding) -> str:
        """Leave a box what it has; its card says what keeps it from renewing."""
        answer = self._sign(case, box, "held", finding, HELD_RETRY)
        if box.stage in RENEWS:
            box = replace(box, reasons=(finding.code,), sentence=finding.sentence)
        self._told(case, box, "renewal-held", finding, answer)
        return answer

    def _told(self, case: _Case, box: BoxRow, kind: str, finding: Finding, answer: str) -> None:
        judgement = case.judgement
        detail: dict[str, Any] = {
            "sentence": finding.sentence,
            "next_step": next_step(box.stage, (finding.code,)),
        }
        if judgement is not None:
            detail |= {"findings": told(dict.fromkeys((finding, *judgement.findings)))}
        with self._store.transaction():
            self._store.save_box(box)
            self._store.save_session(replace(case.session, answer=answer))
            self._store.add_event(event_of(case, box, kind, detail, finding.code))

    def _sign(self, case: _Case, box: BoxRow, status: str, finding: Finding, retry: int) -> str:
        payload = {
            "status": status,
            "session": b64u(case.proved.session.session),
            "box": box.box,
            "transcript": b64u(case.proved.transcript),
            "reason": finding.code,
            "sentence": finding.sentence,
            "retry_seconds": retry,
        }
        try:
            return str(call(self._keys, "answer", answer_parameters(payload))["answer"])
        except KeysError as error:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from error


def seconds_of(role: Role) -> float | None:
    """Say after how many seconds boxes of a role renew; None for never."""
    return None if role.renewal is None else role.renewal.total_seconds()
