"""What is done for a box and taken from it: hand-overs, answers, allowances, revocations.

It decides nothing about evidence: control does. What is handed over is `keys.io.handover`.
docs/architecture.md, "keys `handover`", "Approvals", "keys `answer`".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from keys import ca
from keys.envelope import unb64u
from keys.errors import SiteError
from keys.io.authority import Authority
from keys.io.handover import Desk, Request, sized
from keys.io.method_rows import BOTH, CONTROL_ALONE, OPERATOR_ALONE, MethodRow, Record
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params, Refusal
from keys.io.site_files import SiteFiles
from keys.io.store import Allowance, Event, Store
from keys.io.vault import Vault

MAX_ALLOWANCE = 86400
MAX_REASONS, MAX_CLAIM = 64, 500
ANSWERS = {"answer": ("held", "refused"), "receipt": ("ready", "enrolled")}
"""Which `status` control may have signed, by context; `enrolled` answers come from hand-overs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """The methods about boxes; `tick` brings the files and the clock up to date."""

    store: Store
    ring: Ring
    vault: Vault
    authority: Authority
    files: SiteFiles
    desk: Desk
    record: Record
    tick: Callable[[], None]

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "handover": MethodRow(serve=self._handover, users=CONTROL_ALONE),
            "answer": MethodRow(serve=self._answer, users=CONTROL_ALONE, under_lease=True),
            "revoke": MethodRow(serve=self._revoke, users=BOTH, anchored=True),
            "allow": MethodRow(serve=self._allow, users=OPERATOR_ALONE),
            "disallow": MethodRow(serve=self._disallow, users=OPERATOR_ALONE),
            "withdraw": MethodRow(serve=self._withdraw, users=OPERATOR_ALONE, anchored=True),
        }

    def _handover(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        self.tick()
        request = Request.of(params)
        with self.desk.noting(user, request, "handover-refused", now):
            return self._serve(user, request, now)

    def _serve(self, user: str, request: Request, now: float) -> Mapping[str, Any]:
        try:
            self.ring.check()
        except ClosedError as error:
            raise Refusal(error.code, str(error)) from None
        with self.store.transaction():
            return self.desk.serve(user, request, now)

    def _answer(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        context, payload = params["context"], params["payload"]
        if context not in ANSWERS or not isinstance(payload, dict):
            raise Refusal("MALFORMED", "context is answer or receipt, payload an object")
        if payload["status"] not in ANSWERS[context]:
            allowed = " or ".join(ANSWERS[context])
            raise Refusal("MALFORMED", f"status of {context} may be {allowed} only")
        session, transcript = sized(params["session"], 16), sized(params["transcript"], 32)
        bound = (payload["session"], payload["transcript"])
        if bound != (params["session"], params["transcript"]):
            raise Refusal("MALFORMED", "the payload is for another session")
        box = str(UUID(payload["box"]))
        signed = self.authority.sign_answer(context, session, transcript, payload)
        with self.store.transaction():
            detail = {"status": payload["status"], "session": session.hex()}
            event = Event(kind=f"{context}-signed", box=box, detail=detail)
            self.store.audit(now, user, event)
        return {"answer": signed}

    def _revoke(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name = _ek_name(params)
        with self.vault.revoking():
            self.store.revoke(ek_name, now)
            self.record(now, user, "revoked", ek_name=ek_name.hex())
        with suppress(SiteError):  # it is revoked all the same; the next turn tries again
            self.authority.refresh_list(ca.at(now))
        return {"revoked": True}

    def _allow(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name, role, seconds = _ek_name(params), params["role"], params["seconds"]
        reasons = frozenset(_named(reason) for reason in params["reasons"])
        sealed, claim = sized(params["sealed"], 32), _named(params.get("claim", ""))
        if not reasons or len(reasons) > MAX_REASONS or len(claim) > MAX_CLAIM:
            raise Refusal("MALFORMED", f"1 to {MAX_REASONS} reasons, {MAX_CLAIM} letters of claim")
        if role not in self.files.rules.roles:
            raise Refusal("ROLE-DIFFERS", f"site.toml has no role {role!r}")
        if not isinstance(seconds, int) or not 1 <= seconds <= MAX_ALLOWANCE:
            raise Refusal("MALFORMED", f"seconds is a number from 1 to {MAX_ALLOWANCE}")
        until = now + seconds
        with self.store.transaction():
            one = Allowance(role=role, reasons=reasons, sealed=sealed, until=until)
            self.store.allow(ek_name, one)
            about = {"ek_name": ek_name.hex(), "role": role, "reasons": sorted(reasons)}
            bound = {"until": until, "sealed": sealed.hex(), "claim": claim}
            self.record(now, user, "allowed", **about, **bound)
        return {"until": until}

    def _disallow(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name = _ek_name(params)
        with self.store.transaction():
            done = self.store.disallow(ek_name)
            self.record(now, user, "disallowed", ek_name=ek_name.hex(), known=done)
        return {"disallowed": done}

    def _withdraw(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        digest = sized(params["boot_set"], 32)
        with self.vault.revoking():
            self.remember_withdrawn(user, digest, now)
        return {"withdrawn": True}

    def remember_withdrawn(self, user: str, digest: bytes, now: float) -> None:
        """Note a boot set that is never handed over for again, in the caller's transaction."""
        if self.store.withdraw(digest, now):
            self.record(now, user, "boot-set-withdrawn", boot_set=digest.hex())


def _ek_name(params: Params) -> bytes:
    name = unb64u(params["ek_name"])
    if len(name) not in (34, 50, 66):
        raise Refusal("MALFORMED", "ek_name is a TPM name: algorithm and digest")
    return name


def _named(value: object) -> str:
    if not isinstance(value, str) or len(value) > 16384:
        raise Refusal("MALFORMED", "text is expected")
    return value
