"""The control process: it holds the site's state and answers enroll, page and the operator.

One thread. It never waits for a box, opens no network socket, and hears what netboot and keys saw
through their sockets alone. Who may call what: docs/architecture.md.
"""

from __future__ import annotations

import base64
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attest.errors import AttestError
from bootstrap.approval import (
    ClaimNeededError,
    NotReleasableError,
    approve,
    offer,
)
from bootstrap.cards import Card
from bootstrap.details import box_json, findings_of, offer_json, story_detail
from bootstrap.enrolment import Stage, Step, WrongStageError, advance
from bootstrap.errors import BootstrapError, SiteError
from bootstrap.expected import expected
from bootstrap.io.autonomy import outlook
from bootstrap.io.collector import Collector
from bootstrap.io.decider import Decider
from bootstrap.io.input_floors import InputFloors
from bootstrap.io.judge import ArchivingJudge
from bootstrap.io.kept_result import read_result
from bootstrap.io.live_settings import ROOT_KEY, LiveSettings
from bootstrap.io.phonehome import PhoneHome, Reply
from bootstrap.io.planner import PlanWriter
from bootstrap.io.reappraise import Reappraiser
from bootstrap.io.references import PUBLISHED, References, load_references
from bootstrap.io.renewals import RenewalDesk
from bootstrap.io.report import ReportDesk
from bootstrap.io.site_store import SiteStore
from bootstrap.joining import normal_address
from bootstrap.rows import BoxRow, Event
from bootstrap.views import card_json, cards, event_sentence, last_served
from keys.io.layout import REHEARSAL_MARK, Layout
from keys.io.rpc import Handler, Method, Params, Refusal, RpcServer
from netboot.errors import NetbootError

POLL_SECONDS = 1.0
MAX_EVENTS = 500
_HEX32 = re.compile(r"[0-9a-f]{32}\Z")

BOXES = frozenset({"enroll"})
READERS = frozenset({"page", "operator"})
OPERATOR = frozenset({"operator"})
SITE_FAULTS = (BootstrapError, AttestError, NetbootError, OSError, sqlite3.Error)
"""What a full disk, a damaged file or database raises: it costs one answer, not the process."""


class Control:
    """Everything behind control's socket."""

    def __init__(self, layout: Layout) -> None:
        """Read the site and open its state; SiteError says what is wrong."""
        self._layout = layout
        self._rehearsal = (layout.state / REHEARSAL_MARK).exists()
        self._store = SiteStore(layout.state / "site" / "site.db")
        self._floors = InputFloors(self._store, layout.socket("keys"))
        self._settings = LiveSettings(layout.site, rehearsal=self._rehearsal, floors=self._floors)
        self._started = time.time()
        self._bootsets = layout.state / "bootsets"
        self._references = References()
        self._kept: str | None = None
        self._load_references()
        self._planner = PlanWriter(
            layout.state / "plan",
            self._settings,
            lambda: self._references,
            self._store,
            layout.site,
        )
        self._archive = layout.state / "evidence"
        judge = ArchivingJudge(
            self._settings,
            lambda: self._references,
            self._store.boxes,
            self._archive,
            rehearsal=self._rehearsal,
        )
        self._reappraiser = Reappraiser(
            self._store, self._settings, self._archive, rehearsal=self._rehearsal
        )
        keys = layout.socket("keys")
        decider = Decider(self._store, self._settings, judge, self._planner, keys)
        self._desk = ReportDesk(self._store, self._settings, keys)
        self._collector = Collector(
            self._store,
            {name: layout.socket(name) for name in ("netboot", "keys", "watch", "sync")},
        )
        self._renewals = RenewalDesk(
            self._store, self._settings, lambda: self._references, judge, self._planner, keys
        )
        self._phone = PhoneHome(
            self._store,
            self._settings().identity,
            decider,
            self._renewals,
            self._collector.leases,
        )
        self._planner.write(self._store.boxes())
        self._polled = 0.0

    def methods(self) -> Mapping[str, Method]:
        """The rows of the socket table."""
        table: Mapping[str, tuple[Handler, frozenset[str]]] = {
            "session": (self._session, BOXES),
            "evidence": (self._evidence, BOXES),
            "report": (self._report, BOXES),
            "trouble": (self._trouble, BOXES),
            "boxes": (self._boxes, READERS),
            "box": (self._box, READERS),
            "services": (self._services, READERS),
            "events": (self._events, READERS),
            "approve": (self._approve, OPERATOR),
            "refuse": (self._refuse, OPERATOR),
            "reload": (self._reload, OPERATOR),
        }
        return {name: Method(_guarded(handler), users) for name, (handler, users) in table.items()}

    def tick(self) -> None:
        """Collect events once a second; take over what the operator changed."""
        now = time.time()
        if abs(now - self._polled) < POLL_SECONDS:
            return
        self._polled = now
        try:
            self._collector.poll(now)
            self._take_changes(force=False)
            self._reappraiser.turn(now)
            self._renewals.turn(now, self._started)
        except SITE_FAULTS as error:
            _complain(error)

    def _take_changes(self, *, force: bool) -> bool:
        changed = self._settings.refresh(force=self._floors.turn())
        changed = changed or self._published_stamp() != self._published
        changed = changed or self._planner.files_changed()
        ended = self._references.is_outdated(self._loaded, time.time())
        if changed or ended or force:
            self._load_references()
            self._planner.write(self._store.boxes())
            return True
        return False

    def _load_references(self) -> None:
        """Load what is published; keep what was loaded before when that cannot be read."""
        self._published, self._loaded = self._published_stamp(), time.time()
        try:
            key = (self._layout.site / ROOT_KEY).read_bytes()
            self._references = load_references(
                self._bootsets, self._settings().site, key, self._loaded
            )
            self._kept = None
        except (BootstrapError, OSError) as error:
            self._kept = f"kept the boot sets before: {error}"

    def _published_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._bootsets / PUBLISHED).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    # what enroll carries

    def _session(self, _: str, params: Params) -> Mapping[str, Any]:
        return _reply(self._phone.session(_address(params), _body(params)))

    def _evidence(self, _: str, params: Params) -> Mapping[str, Any]:
        return _reply(self._phone.evidence(_address(params), _session(params), _body(params)))

    def _report(self, _: str, params: Params) -> Mapping[str, Any]:
        return _reply(self._desk.report(_session(params), _body(params)))

    def _trouble(self, _: str, params: Params) -> Mapping[str, Any]:
        return _reply(self._phone.trouble(_address(params), _body(params)))

    # what people read

    def _boxes(self, _: str, params: Params) -> Mapping[str, Any]:
        shown = self._cards()
        site = self._settings().site.site
        return {
            "site": {
                "id": site.id,
                "title": site.title,
                "help": site.help,
                "time_zone": site.time_zone,
                "rehearsal": self._rehearsal,
            },
            "cards": [card_json(card) for card in shown],
        }

    def _cards(self) -> list[Card]:
        boxes = self._store.boxes()
        return cards(
            boxes,
            self._store.sightings(),
            time.time(),
            expected=expected(self._settings().note, boxes),
            since=self._started,
        )

    def _box(self, _: str, params: Params) -> Mapping[str, Any]:
        key = str(params["box"])
        card = next((one for one in self._cards() if one.key == key), None)
        if card is None:
            raise Refusal("UNKNOWN-BOX", f"this site knows no box {key[:60]}")
        row = self._store.box(key)
        mac = row.mac if row else key
        events = self._store.box_events(row.box if row else "", mac, MAX_EVENTS)
        return {
            "card": card_json(card),
            "box": box_json(row) if row else None,
            "findings": findings_of(events, "findings"),
            "released": findings_of(events, "released"),
            "served": last_served(events),
            "approval": self._offered(row) if row else None,
            "evidence": str(self._archive / row.evidence) if row and row.evidence else None,
            "result": self._kept_result(row) if row and params.get("changes") else None,
            "events": [
                {
                    **event,
                    "detail": story_detail(event),
                    "sentence": event_sentence(event),
                }
                for event in events
            ],
        }

    def _kept_result(self, row: BoxRow) -> Mapping[str, Any] | None:
        if row.evidence is None:
            return None
        try:
            return read_result(self._archive / row.evidence)
        except SiteError as error:
            return {"problem": str(error)}

    def _offered(self, row: BoxRow) -> Mapping[str, Any] | None:
        """Say what an approval would cover now, or why nobody may give one."""
        if row.stage not in (Stage.HELD, Stage.REFUSED):
            return None
        try:
            entry = self._settings().entry(row.ek_public)
            role = self._settings().site.role(entry.role if entry else None)
            return {**offer_json(row, offer(row)), "role": role.name if role else None}
        except NotReleasableError as error:
            return {"problem": str(error)}

    def _services(self, user: str, params: Params) -> Mapping[str, Any]:
        services = [{"name": "control", "ok": True, "since": None, "sentence": None}]
        notices = [*self._references.problems]
        for health in self._collector.health.values():
            status = health.status or {}
            since = health.since or (None if health.ok else self._started)
            services.append(
                {"name": health.name, "ok": health.ok, "since": since, "sentence": None}
            )
            notices += [str(text) for text in status.get("sentences", []) if text]
            notices += [str(status[key]) for key in ("kept", "not_covered") if status.get(key)]
        settings = self._settings()
        kept = (*settings.problems, self._settings.kept, self._kept, self._planner.trouble)
        notices += [text for text in kept if text]
        if not self._references.served():
            notices.append("No boot set is served: publish one with `doorstep bootset publish`.")
        runs = outlook(
            settings,
            self._references,
            self._store.boxes,
            {name: one.status for name, one in self._collector.health.items()},
            time.time(),
            whole=user == "operator",
        )
        return {"services": services, "notices": notices, "autonomy": runs}

    def _events(self, _: str, params: Params) -> Mapping[str, Any]:
        after = _integer(params.get("after", -1), 1 << 62)
        limit = max(1, _integer(params.get("limit", MAX_EVENTS), MAX_EVENTS))
        last = self._store.last_event()
        if after < 0:
            return {"events": [], "last": last}
        events = self._store.events_after(after, limit)
        return {
            "events": [{**event, "sentence": event_sentence(event)} for event in events],
            "last": events[-1]["n"] if events else last,
        }

    # what the operator decides

    def _approve(self, _: str, params: Params) -> Mapping[str, Any]:
        row = self._known(params)
        entry = self._settings().entry(row.ek_public)
        role = str(params.get("role") or "") or (entry.role if entry else None)
        found = self._settings().site.role(role)
        if found is None:
            raise Refusal("UNKNOWN-ROLE", f"site.toml has no role {role or 'by default'}")
        now = time.time()
        try:
            approval = approve(row, found.name, str(params.get("claim") or ""), now)
        except NotReleasableError as error:
            raise Refusal("NOT-HELD", str(error)) from None
        except ClaimNeededError as error:
            raise Refusal("CLAIM-NEEDED", str(error)) from None
        offered = offer_json(row, offer(row))
        if any(name in params and params[name] != offered[name] for name in _SEEN):
            raise Refusal("CHANGED", "something else holds this box now: look at it again")
        detail = {
            "role": found.name,
            "reasons": list(row.reasons),
            "measurements": approval.measurements.hex(),
            "claim": approval.claim,
        }
        with self._store.transaction():
            self._store.add_approval(approval)
            self._note(now, "approved", row, detail)
        return {**offered, "box": row.box, "role": found.name, "expires": approval.expires}

    def _refuse(self, _: str, params: Params) -> Mapping[str, Any]:
        row = self._known(params)
        now = time.time()
        try:
            stage = advance(row.stage, Step.TAKEN_AWAY)
        except WrongStageError:
            raise Refusal("WRONG-STAGE", f"this box is {row.stage.value} already") from None
        changed = replace(row, stage=stage, since=now, reasons=("REVOKED",), sentence=_REVOKED)
        with self._store.transaction():
            self._store.save_box(changed)
            self._note(now, "revoked", row, {"sentence": _REVOKED})
        self._planner.write(self._store.boxes())
        return {"box": row.box, "ek_name": _b64u(row.ek_name)}

    def _reload(self, _: str, params: Params) -> Mapping[str, Any]:
        changed = self._take_changes(force=True)
        return {"changed": changed, "kept": self._settings.kept or self._kept}

    def _known(self, params: Params) -> BoxRow:
        key = str(params["box"])
        matches = [
            row
            for row in self._store.boxes()
            if row.box == key or (row.hostname == key and row.stage is not Stage.REPLACED)
        ]
        if len(key) >= 6:
            matches = matches or [row for row in self._store.boxes() if row.box.startswith(key)]
        if len(matches) != 1:
            raise Refusal("UNKNOWN-BOX", f"this site knows no box {key[:60]}")
        return matches[0]

    def _note(self, now: float, kind: str, row: BoxRow, detail: Mapping[str, Any]) -> None:
        self._store.add_event(Event(at=now, kind=kind, box=row.box, mac=row.mac, detail=detail))


_REVOKED = "This box was taken out of service by a person"


_SEEN = ("reasons", "measurements")
"""What a person has seen before approving: when that has changed, they look again."""


def _guarded(handler: Handler) -> Handler:
    """Turn a fault of the site into an answer; the box or person tries again."""

    def guarded(user: str, params: Params) -> Mapping[str, Any]:
        try:
            return handler(user, params)
        except SITE_FAULTS as error:
            _complain(error)
            raise Refusal("SITE-FAULT", str(error)) from error

    return guarded


def _complain(error: Exception) -> None:
    sys.stderr.write(f"control: {type(error).__name__}: {error}\n")


def _integer(value: object, most: int) -> int:
    """Take an integer of at most `most`; ValueError for anything else."""
    if type(value) is not int:
        raise ValueError("an integer is expected")
    return min(value, most)


def _reply(reply: Reply) -> Mapping[str, Any]:
    return {"status": reply.status, "body": _b64u(reply.body)}


def _b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _body(params: Params) -> bytes:
    text = str(params["body"])
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _address(params: Params) -> str:
    return normal_address(str(params["address"]))


def _session(params: Params) -> bytes:
    text = str(params["session"])
    if not _HEX32.match(text):
        raise Refusal("MALFORMED", "session: 32 hex digits")
    return bytes.fromhex(text)


def main(layout: Layout) -> None:
    """Serve until SIGTERM; SiteError when the site cannot be served."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        control = Control(layout)
    except OSError as error:
        raise SiteError(f"{error.filename}: {error.strerror}") from error
    server = RpcServer(layout, "control", control.methods())
    sys.stderr.write("control: serving\n")
    while not stopped:
        server.turn(0.25)
        control.tick()
    server.close()
