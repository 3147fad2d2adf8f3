"""The keys process: its methods, its clock and its loop.

It never talks to a network, never parses evidence and never gives a secret to another process:
values come in by `secret_put` and leave sealed for one TPM. Who may call what is the table in
architecture.md, "Who may call whom".
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from keys import ca
from keys.ca import Kind
from keys.envelope import b64u, unb64u
from keys.errors import KeysError, PeerError, SiteError
from keys.io.auditing import Auditing
from keys.io.authority import NO_CA, Authority
from keys.io.boot_tls import BootTls
from keys.io.clock import Clock
from keys.io.explaining import Explaining
from keys.io.handover import Desk, Request, sized
from keys.io.hardening import harden, shortfall
from keys.io.layout import OPERATOR, Layout
from keys.io.leasing import Leasing
from keys.io.open_ring import open_ring
from keys.io.pacing import Pacing
from keys.io.ring import ClosedError
from keys.io.room import Room
from keys.io.rpc import Method, Params, Refusal, RpcServer
from keys.io.site_files import SiteFiles
from keys.io.store import Allowance, Event, Store
from keys.io.stored_secrets import StoredSecrets
from keys.io.tpm_ring import TPM_GONE, TpmRing
from keys.io.vault import Vault
from keys.io.wrapping import Wrapping
from keys.io.zone_signing import ZoneSigning
from keys.note import Floor

LOG = logging.getLogger("doorstep.keys")
TICK_SECONDS = 1.0
MARK_SECONDS = 30.0
MARK = "time-mark"
FLOOR = "note-floor"
MAX_EVENTS = 1000
MAX_ALLOWANCE = 86400
MAX_REASONS, MAX_CLAIM = 64, 500
CONTROL = "control"
NETBOOT = "netboot"
BOTH = frozenset({CONTROL, OPERATOR})
ANSWERS = {"answer": ("held", "refused"), "receipt": ("ready", "enrolled")}
"""Which `status` control may have signed, by context; `enrolled` answers come from hand-overs."""
ADMINISTRATIVE = frozenset(
    {"status", "events", "ca_requests", "ca_install", "boot_ca", "zone_sign", "zone_anchors"}
) | {"lease_request", "lease_apply", "lease_end", "lease_show", "audit_verify"}
"""What is served before the authorities are signed."""
UNDER_LEASE = frozenset({"answer"})
"""What asks the TPM first whether the lease still runs, as a hand-over does, which notes it."""
ADDING = frozenset({"secret_put", "secret_import"})
"""What is refused on a full disk."""
ANCHORED = frozenset(
    {"revoke", "withdraw", "secret_remove", "secret_import", "lease_apply", "lease_end"}
)
"""What is in the audit's anchor before its reply leaves."""

_Serve = Callable[[str, Params, float], Mapping[str, Any]]


class Service:
    """Everything that the keys process does, without its socket."""

    def __init__(
        self,
        layout: Layout,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the store and read the site; SiteError with a sentence when one is unfit.

        `wall` and `monotonic` give seconds.
        """
        self._files = SiteFiles(layout)
        site_id = self._files.rules.site_id
        self._store = Store(layout.state / "keys" / "keys.db")
        self._store.check_audit()
        self._ring = open_ring(layout, self._store, self._files.rules)
        self._vault = Vault(self._store, self._ring, site_id)
        self._authority = Authority(layout, self._store, self._vault, site_id)
        self._boot_tls = BootTls(layout, self._store, self._vault, site_id)
        self._zones = ZoneSigning(self._store, self._vault)
        self._zones.anchors()  # drawn now: a hand-over names them in a transaction of its own
        self._leasing = Leasing(self._store, self._ring, self._vault, site_id)
        self._clock = Clock(_float(self._store.meta(MARK)), wall=wall, monotonic=monotonic)
        self._auditing = Auditing(self._store, self._ring)
        self._auditing.begin(self._clock.now())
        self._unlock()
        self._saved = 0.0
        self._trouble: str | None = None
        self._room = Room(layout.state / "keys")
        self._pacing, self._swapped = Pacing(self._store, self._ring, monotonic), shortfall()
        self._desk = Desk(
            store=self._store,
            vault=self._vault,
            authority=self._authority,
            files=self._files,
            zones=self._zones,
            wrapping=Wrapping(layout, self._store, self._vault, self._authority, self._files),
        )
        self._secrets = StoredSecrets(
            store=self._store,
            vault=self._vault,
            files=self._files,
            desk=self._desk,
            record=self._record,
        )
        self._explaining = Explaining(ring=self._ring, files=self._files, secrets=self._secrets)
        self.tick()

    def close(self) -> None:
        """Drop the keys and close the database."""
        self._ring.close()
        self._store.close()

    def _unlock(self) -> None:
        """Open the cache if it may be opened, and draw what a transaction must not draw."""
        if isinstance(self._ring, TpmRing) and self._store.leases():
            with contextlib.suppress(ClosedError):
                self._ring.open()
        with contextlib.suppress(ClosedError):
            self._authority.draw()
            self._vault.settle()

    def methods(self) -> dict[str, Method]:
        """Give the rows of the socket table that belong to keys."""
        table: dict[str, tuple[_Serve, frozenset[str]]] = {
            "status": (self._explaining.beside(self._status), BOTH),
            "events": (self._events, BOTH),
            "handover": (self._handover, frozenset({CONTROL})),
            "answer": (self._answer, frozenset({CONTROL})),
            "revoke": (self._revoke, BOTH),
            "secret_put": (self._secrets.put, frozenset({OPERATOR})),
            "secret_list": (self._secrets.show, frozenset({OPERATOR})),
            "secret_remove": (self._secrets.remove, frozenset({OPERATOR})),
            "secret_import": (self._desk.wrapping.take, frozenset({OPERATOR})),
            "wrap_key": (self._desk.wrapping.key, frozenset({OPERATOR})),
            "allow": (self._allow, frozenset({OPERATOR})),
            "disallow": (self._disallow, frozenset({OPERATOR})),
            "withdraw": (self._withdraw, frozenset({OPERATOR})),
            "ca_requests": (self._ca_requests, frozenset({OPERATOR})),
            "ca_install": (self._ca_install, frozenset({OPERATOR})),
            "boot_ca": (self._boot_ca, frozenset({OPERATOR})),
            "lease_request": (self._leasing.request, frozenset({OPERATOR})),
            "lease_apply": (self._apply, frozenset({OPERATOR})),
            "lease_end": (self._leasing.end, frozenset({OPERATOR})),
            "lease_show": (self._leasing.show, frozenset({OPERATOR})),
            "keys_explain": (self._explaining.explain, frozenset({OPERATOR})),
            "audit_verify": (self._auditing.verify, frozenset({OPERATOR})),
            "zone_sign": (self._zone_sign, frozenset({NETBOOT})),
            "zone_anchors": (self._zone_anchors, BOTH),
            "zone_roll": (self._zone_roll, frozenset({OPERATOR})),
        }
        return {
            name: Method(self._guard(name, serve), users) for name, (serve, users) in table.items()
        }

    def tick(self) -> None:
        """Keep the time mark, notice changed files, issue what is due."""
        now = self._clock.now()
        changed = self._files.changed()
        self._room.look()
        try:
            self._ring.check()  # the keys go with the lease, also while nobody asks
            self._vault.settle()
        except ClosedError as error:
            if error.code == TPM_GONE:
                return  # nothing is handed over; names are signed on
        self._auditing.anchor(now)
        if not changed and 0 <= now - self._saved < MARK_SECONDS:
            return
        if changed:
            self._reload(now)
        self._save_mark()
        self._pacing.look(now)
        if not self._clock.suspect:
            self._secrets.sweep(now)
        self._saved = now
        self._refresh(now)

    def _refresh(self, now: float) -> None:
        try:
            files = self._files.rules, ca.at(now)
            if any((self._authority.refresh(*files), self._boot_tls.refresh(*files))):
                LOG.info("wrote a TLS certificate: nginx must reload it")
            self._trouble = None
        except ClosedError:
            self._trouble = None  # said of the cache already
        except KeysError as error:
            self._trouble = str(error)

    def _reload(self, now: float) -> None:
        before = self._floor()
        self._files.reload(before)
        note = self._files.note
        with self._store.transaction():
            if note is not None and note.floor != before:
                self._store.set_meta(
                    FLOOR, struct.pack(">Q", note.floor.counter) + note.floor.digest
                )
                detail = {"counter": note.floor.counter, "entries": len(note.entries)}
                self._store.record(now, "keys", Event(kind="delivery-note", detail=detail))
            for digest in self._files.withdrawn:
                self._remember_withdrawn("keys", digest, now)

    def _floor(self) -> Floor | None:
        stored = self._store.meta(FLOOR)
        if stored is None:
            return None
        return Floor(counter=int.from_bytes(stored[:8], "big"), digest=stored[8:])

    def _save_mark(self) -> None:
        with self._store.transaction():
            self._store.set_meta(MARK, struct.pack(">d", self._clock.mark))
            self._ring.keep_time()

    def _guard(self, name: str, serve: _Serve) -> Callable[[str, Params], Mapping[str, Any]]:
        def handler(user: str, params: Params) -> Mapping[str, Any]:
            if name not in ADMINISTRATIVE and not self._authority.ready:
                raise Refusal("NO-CA", NO_CA)
            try:
                now = self._clock.believed() if name in ADDING else self._clock.now()
                if name in UNDER_LEASE:
                    self._ring.check()
                if name in ADDING and self._room.sentence:
                    raise Refusal("DISK-FULL", self._room.sentence)
                reply = serve(user, params, now)
                if name in ANCHORED:
                    self._auditing.anchor(now, at_once=True)
                return reply
            except Refusal:
                raise
            except ClosedError as error:
                raise Refusal(error.code, str(error)) from None
            except PeerError as error:
                raise Refusal("MALFORMED", str(error)) from None
            except sqlite3.Error as error:
                raise SiteError(f"keys.db: {error}") from error

        return handler

    def _record(self, now: float, user: str, kind: str, **detail: Any) -> None:
        self._store.set_meta(MARK, struct.pack(">d", self._clock.mark))
        self._store.record(now, user, Event(kind=kind, detail=detail))

    # boxes

    def _handover(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        self.tick()
        request = Request.of(params)
        try:
            return self._serve(user, request, now)
        except Refusal as refusal:
            with self._store.transaction():
                detail = {"ek_name": request.ek_name.hex(), "role": request.role}
                event = Event(
                    kind="handover-refused",
                    box=str(request.box),
                    reason=refusal.code,
                    detail=detail | {"sentence": str(refusal)},
                )
                self._store.record(now, user, event)
            raise

    def _serve(self, user: str, request: Request, now: float) -> Mapping[str, Any]:
        try:
            self._ring.check()
        except ClosedError as error:
            raise Refusal(error.code, str(error)) from None
        with self._store.transaction():
            return self._desk.serve(user, request, now)

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
        signed = self._authority.sign_answer(context, session, transcript, payload)
        with self._store.transaction():
            detail = {"status": payload["status"], "session": session.hex()}
            event = Event(kind=f"{context}-signed", box=box, detail=detail)
            self._store.audit(now, user, event)
        return {"answer": signed}

    def _revoke(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name = _ek_name(params)
        with self._vault.revoking():
            self._store.revoke(ek_name, now)
            self._record(now, user, "revoked", ek_name=ek_name.hex())
        return {"revoked": True}

    def _allow(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name, role, seconds = _ek_name(params), params["role"], params["seconds"]
        reasons = frozenset(_named(reason) for reason in params["reasons"])
        sealed, claim = sized(params["sealed"], 32), _named(params.get("claim", ""))
        if not reasons or len(reasons) > MAX_REASONS or len(claim) > MAX_CLAIM:
            raise Refusal("MALFORMED", f"1 to {MAX_REASONS} reasons, {MAX_CLAIM} letters of claim")
        if role not in self._files.rules.roles:
            raise Refusal("ROLE-DIFFERS", f"site.toml has no role {role!r}")
        if not isinstance(seconds, int) or not 1 <= seconds <= MAX_ALLOWANCE:
            raise Refusal("MALFORMED", f"seconds is a number from 1 to {MAX_ALLOWANCE}")
        until = now + seconds
        with self._store.transaction():
            one = Allowance(role=role, reasons=reasons, sealed=sealed, until=until)
            self._store.allow(ek_name, one)
            about = {"ek_name": ek_name.hex(), "role": role, "reasons": sorted(reasons)}
            bound = {"until": until, "sealed": sealed.hex(), "claim": claim}
            self._record(now, user, "allowed", **about, **bound)
        return {"until": until}

    def _disallow(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        ek_name = _ek_name(params)
        with self._store.transaction():
            done = self._store.disallow(ek_name)
            self._record(now, user, "disallowed", ek_name=ek_name.hex(), known=done)
        return {"disallowed": done}

    def _withdraw(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        digest = sized(params["boot_set"], 32)
        with self._vault.revoking():
            self._remember_withdrawn(user, digest, now)
        return {"withdrawn": True}

    def _remember_withdrawn(self, user: str, digest: bytes, now: float) -> None:
        if self._store.withdraw(digest, now):
            self._record(now, user, "boot-set-withdrawn", boot_set=digest.hex())

    # authorities, status, events

    def _ca_requests(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        return {"requests": self._authority.requests()}

    def _ca_install(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        texts = {kind: _named(params[f"{kind.value}_pem"]) for kind in Kind}
        checked = {
            kind: self._authority.check(kind, text, ca.at(now)) for kind, text in texts.items()
        }
        with self._store.transaction():
            for kind, certificate in checked.items():
                self._authority.install(kind, certificate)
            self._record(now, user, "ca-installed")
        self._refresh(now)
        return {f"{kind.value}_not_after": self._authority.end(kind.value) for kind in Kind}

    def _boot_ca(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        certificate = self._boot_tls.authority(self._files.rules, ca.at(now))
        return {"pem": ca.pem([certificate])}

    def _apply(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        taken = self._leasing.apply(user, params, now)
        self._clock.confirm(taken["lease"]["issued"])
        self._unlock()
        self._refresh(now)
        return taken

    def _zone_sign(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        zones, keys = params["zones"], params["keys"]
        if not isinstance(zones, list) or not isinstance(keys, list):
            raise Refusal("MALFORMED", "zones and keys are lists")
        return self._zones.sign(zones, keys, self._files.rules.domain, now)

    def _zone_anchors(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        return {"anchors": self._zones.anchors(), "domain": self._files.rules.domain}

    def _zone_roll(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        step = params["step"]
        if step not in ("begin", "finish"):
            raise Refusal("MALFORMED", "step is begin or finish")
        with self._store.transaction():
            (self._zones.roll if step == "begin" else self._zones.finish)()
            self._record(now, user, "zone-keys-rolled", step=step)
        return {"anchors": self._zones.anchors()}

    def _events(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        after, limit = params.get("after", 0), params.get("limit", MAX_EVENTS)
        if not isinstance(after, int) or not isinstance(limit, int):
            raise Refusal("MALFORMED", "after and limit are numbers")
        limit = max(1, min(limit, MAX_EVENTS))
        return {"events": self._store.events(after, limit), "last": self._store.last_event()}

    def _status(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        self.tick()
        number, head = self._store.audit_head()
        note, ready = self._files.note, self._authority.ready
        secrets = self._secrets.listed(now)
        usable = [one for one in secrets if one["reason"] is None]
        first = min(usable, key=lambda one: float(one["usable_until"]), default=None)
        return {
            "ready": ready,
            "reason": None if ready else "NO-CA",
            "site": self._files.rules.site_id,
            "tpm": self._ring.maker or "none",
            "not_covered": self._files.rules.controller.not_covered(),
            "sentences": self._sentences(ready),
            "certificates": {
                name: self._authority.end(name) for name in ("appliance", "box", "server", "answer")
            },
            "secrets": {"usable": len(usable), "withheld": len(secrets) - len(usable)},
            "next_expiry": first and {"name": first["name"], "at": first["usable_until"]},
            "delivery_note": note and {"counter": note.floor.counter, "entries": len(note.entries)},
            "withdrawn": [digest.hex() for digest in self._store.withdrawn()],
            "clock": {"now": now, "mark": self._clock.mark, "suspect": self._clock.suspect},
            "audit": {"n": number, "hash": b64u(head)},
            "last_event": self._store.last_event(),
        }

    def _sentences(self, ready: bool) -> list[str]:
        said = [] if ready else [NO_CA]
        try:
            self._ring.check()
        except ClosedError as error:
            said.append(str(error))
        if self._clock.suspect:
            said.append("the clock of this controller leapt ahead: check its date")
        said += filter(
            None, (self._trouble, self._room.sentence, self._pacing.sentence, self._swapped)
        )
        return said + self._files.sentences


def main(layout: Layout) -> None:
    """Serve until SIGTERM; SiteError when this process may not or cannot run here."""
    if os.geteuid() != layout.users["keys"] or os.geteuid() == 0:
        raise SiteError(f"keys runs as uid {layout.users['keys']}, not as {os.geteuid()}")
    harden()
    service = Service(layout)
    server = RpcServer(layout, "keys", service.methods())
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    LOG.info("keys serves site %s", layout.site)
    try:
        while not stopped:
            server.turn(TICK_SECONDS)
            _tick(service)
    finally:
        server.close()
        service.close()


def _tick(service: Service) -> None:
    try:
        service.tick()
    except KeysError as error:
        LOG.error("keys: %s", error)


def _ek_name(params: Params) -> bytes:
    name = unb64u(params["ek_name"])
    if len(name) not in (34, 50, 66):
        raise Refusal("MALFORMED", "ek_name is a TPM name: algorithm and digest")
    return name


def _named(value: object) -> str:
    if not isinstance(value, str) or len(value) > 16384:
        raise Refusal("MALFORMED", "text is expected")
    return value


def _float(stored: bytes | None) -> float:
    return float(struct.unpack(">d", stored)[0]) if stored else 0.0
