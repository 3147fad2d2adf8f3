"""Renewals: a new certificate and the secrets as they now are, for a box in the boot it was given.

As with a hand-over, this process decides by what it knows itself: that it handed over to this EK in
this boot, and which key, role and bundles that boot has. It never parses evidence.
docs/phone-home-v1.md, "Renewal"; docs/architecture.md, "keys `renew`".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from keys import renewal
from keys.envelope import OPENED_PCR
from keys.io import renewal_rows
from keys.io.handover import Desk, Request, row_of
from keys.io.method_rows import CONTROL_ALONE, MethodRow
from keys.io.renewal_rows import RenewalRow
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params, Refusal
from keys.io.store import Event, Store
from keys.rules import RoleRule

RENEWED = "renewed"
_MINUTE = timedelta(minutes=1).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewing:
    """The method `renew`; `tick` brings the files and the clock up to date."""

    store: Store
    ring: Ring
    desk: Desk
    tick: Callable[[], None]

    def methods(self) -> dict[str, MethodRow]:
        """Give its row of the socket table."""
        return {"renew": MethodRow(serve=self._renew, users=CONTROL_ALONE)}

    def _renew(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        self.tick()
        request = Request.of(params)
        refused = self.desk.noting(user, request, "renewal-refused", now)
        with refused, self.store.transaction():
            return self._serve(user, request, now)

    def _serve(self, user: str, request: Request, now: float) -> Mapping[str, Any]:
        self._check_open()
        if self.store.is_revoked(request.ek_name):
            raise Refusal("REVOKED", "access of this box was revoked")
        known = renewal_rows.of_session(self.store, request.session)
        handover = self._handover(request)
        if known is not None and (known.transcript != request.transcript or not known.reply):
            raise Refusal("REPLAY", "this session has had its bundle")
        if known is not None:
            reply: dict[str, Any] = json.loads(known.reply)
            return reply
        role = self._role(request, handover)
        self._check_boot(request, handover)
        self._check_rate(request, role, now)
        return self._give(user, request, role, now)

    def _check_open(self) -> None:
        """Ask inside the transaction of the wrap: a lease that ends meanwhile ends this too."""
        try:
            self.ring.check()
        except ClosedError as error:
            raise Refusal(error.code, str(error)) from None

    def _handover(self, request: Request) -> RenewalRow:
        """Find what this boot was given; also a repeated question gets none of a withdrawn set."""
        boot = (request.ek_name, request.reset_count, request.restart_count)
        found = renewal_rows.of_boot(self.store, *boot)
        if found is None:
            raise Refusal("NO-HANDOVER", "this boot of this box had no hand-over here: restart it")
        if self.store.is_withdrawn(found.boot_set):
            raise Refusal("BOOT-SET-WITHDRAWN", "the boot set of this boot was withdrawn")
        return found

    def _role(self, request: Request, handover: RenewalRow) -> RoleRule:
        role = self.desk.files.rules.roles.get(handover.role)
        if role is None or request.role != handover.role:
            raise Refusal("ROLE-DIFFERS", f"this boot of the box has the role {handover.role!r}")
        if role.renew is None:
            raise Refusal("RENEWAL-OFF", f"boxes of the role {role.name!r} do not stay")
        return role

    def _check_boot(self, request: Request, handover: RenewalRow) -> None:
        """Check that it is the same box software all along: its keys, and what it has opened."""
        if request.boot_set != handover.boot_set:
            raise Refusal("PCR-MISMATCH", "this boot of the box began with another boot set")
        if row_of(request, 0).keys != handover.keys:
            raise Refusal("DEVICE-KEY", "device key or SSH host key are not those handed over to")
        opened = request.pcrs.get(OPENED_PCR, b"")
        known = renewal_rows.openings(self.store, handover)
        forgot = renewal_rows.is_forgetful(self.store, handover)
        if not renewal.has_opened(opened, known, forgot=forgot):
            raise Refusal("PCR-MISMATCH", "PCR 15 is not what the bundles of this boot leave")

    def _check_rate(self, request: Request, role: RoleRule, now: float) -> None:
        if renewal_rows.count_since(self.store, now - _MINUTE) >= renewal.RENEWALS_PER_MINUTE:
            raise Refusal("RATE", "too many renewals in the last minute: try again in a minute")
        assert role.renew is not None  # of `_role`
        day = now - renewal.DAY.total_seconds()
        if renewal_rows.count_since(self.store, day, request.ek_name) >= renewal.most_per_day(
            role.renew
        ):
            raise Refusal("RATE", "this box has renewed too often in the last day")

    def _give(self, user: str, request: Request, role: RoleRule, now: float) -> Mapping[str, Any]:
        opened = request.pcrs[OPENED_PCR]
        given, reply = self.desk.seal_for(request, role, now, status=RENEWED, opened=opened)
        text = json.dumps(reply, separators=(",", ":"))
        renewal_rows.add(self.store, row_of(request, now, before=opened, reply=text))
        detail = {
            "role": role.name,
            "ek_name": request.ek_name.hex(),
            "session": request.session.hex(),
            "boot_set": request.boot_set.hex(),
            "secrets": given.versions,
            "withheld": given.withheld,
            "certificate_not_after": reply["certificate_not_after"],
        }
        self.store.record(now, user, Event(kind="renewal", box=str(request.box), detail=detail))
        return reply
