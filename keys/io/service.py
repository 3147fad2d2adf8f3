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

from keys import ca
from keys.envelope import b64u
from keys.errors import KeysError, PeerError, SiteError
from keys.io.auditing import Auditing
from keys.io.authority import NO_CA, Authority
from keys.io.authority_methods import AuthorityMethods
from keys.io.boot_tls import BootTls
from keys.io.boxes import Boxes
from keys.io.clock import Clock
from keys.io.explaining import Explaining
from keys.io.handover import Desk
from keys.io.hardening import harden, shortfall
from keys.io.inputs import Inputs
from keys.io.layout import Layout
from keys.io.leasing import Leasing
from keys.io.link_watch import LinkWatch
from keys.io.method_rows import BOTH, NETBOOT, OPERATOR_ALONE, MethodRow, Part
from keys.io.open_ring import open_ring
from keys.io.pacing import Pacing
from keys.io.parcels import Parcels
from keys.io.renewing import Renewing
from keys.io.ring import ClosedError
from keys.io.room import Room
from keys.io.rpc import Method, Params, Refusal, RpcServer
from keys.io.site_files import SiteFiles
from keys.io.ssh_authority import SshAuthority
from keys.io.store import Event, Store
from keys.io.stored_secrets import StoredSecrets
from keys.io.syncing import Syncing
from keys.io.tpm_ring import TPM_GONE, TpmRing
from keys.io.vault import Vault
from keys.io.wrapping import Wrapping
from keys.io.zone_signing import ZoneSigning
from keys.signed import NOTE

LOG = logging.getLogger("doorstep.keys")
TICK_SECONDS = 1.0
MARK_SECONDS = 30.0
MARK = "time-mark"
MAX_EVENTS = 1000
ALTERED = "keep a copy of keys.db and show it to headquarters; boxes are served as before"


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
        self._altered = next(self._store.audit_problems(), None)
        self._ring = open_ring(layout, self._store, self._files.rules)
        self._vault = Vault(self._store, self._ring, site_id)
        self._authority = Authority(layout, self._store, self._vault, site_id)
        self._boot_tls = BootTls(layout, self._store, self._vault, site_id)
        self._ssh = SshAuthority(
            store=self._store, vault=self._vault, authority=self._authority, files=self._files
        )
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
        self._links = LinkWatch(self._store, self._ring, self._files, layout.run)
        self._serve_boxes(layout)
        self._serve_operator(layout)
        self.tick()

    def _serve_boxes(self, layout: Layout) -> None:
        """Make the parts that give something to boxes."""
        self._desk = Desk(
            store=self._store,
            vault=self._vault,
            authority=self._authority,
            files=self._files,
            zones=self._zones,
            ssh=self._ssh,
            wrapping=Wrapping(layout, self._store, self._vault, self._authority, self._files),
        )
        self._secrets = StoredSecrets(
            store=self._store,
            vault=self._vault,
            files=self._files,
            desk=self._desk,
            record=self._record,
        )
        self._syncing = Syncing(
            store=self._store,
            vault=self._vault,
            ring=self._ring,
            files=self._files,
            desk=self._desk,
            record=self._record,
        )
        self._boxes = Boxes(
            store=self._store,
            ring=self._ring,
            vault=self._vault,
            authority=self._authority,
            files=self._files,
            desk=self._desk,
            record=self._record,
            tick=self.tick,
        )
        self._renewing = Renewing(
            store=self._store, ring=self._ring, desk=self._desk, tick=self.tick
        )
        self._explaining = Explaining(ring=self._ring, files=self._files, secrets=self._secrets)

    def _serve_operator(self, layout: Layout) -> None:
        """Make the parts that take what headquarters signed."""
        self._authorities = AuthorityMethods(
            store=self._store,
            authority=self._authority,
            record=self._record,
            refresh=self._refresh,
        )
        self._inputs = Inputs(
            layout=layout,
            store=self._store,
            files=self._files,
            record=self._record,
            revoking=self._vault.revoking,
        )
        self._parcels = Parcels(
            layout=layout,
            store=self._store,
            ring=self._ring,
            vault=self._vault,
            authority=self._authority,
            files=self._files,
            record=self._record,
        )

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
            self._ssh.draw()
            self._vault.settle()

    def methods(self) -> dict[str, Method]:
        """Give the rows of the socket table that belong to keys."""
        table = self._own_methods()
        for part in self._parts():
            table |= part.methods()
        return {name: Method(self._guard(row), row.users) for name, row in table.items()}

    def _parts(self) -> tuple[Part, ...]:
        return (
            self._authorities,
            self._boxes,
            self._renewing,
            self._inputs,
            self._secrets,
            self._desk.wrapping,
            self._leasing,
            self._ssh,
            self._syncing,
            self._parcels,
        )

    def _own_methods(self) -> dict[str, MethodRow]:
        netboot = frozenset({NETBOOT})
        return {
            "status": MethodRow(
                serve=self._explaining.beside(self._status), users=BOTH, administrative=True
            ),
            "events": MethodRow(serve=self._events, users=BOTH, administrative=True),
            "boot_ca": MethodRow(serve=self._boot_ca, users=OPERATOR_ALONE, administrative=True),
            "lease_apply": MethodRow(
                serve=self._apply, users=OPERATOR_ALONE, administrative=True, anchored=True
            ),
            "keys_explain": MethodRow(serve=self._explaining.explain, users=OPERATOR_ALONE),
            "audit_verify": MethodRow(
                serve=self._auditing.verify, users=OPERATOR_ALONE, administrative=True
            ),
            "zone_sign": MethodRow(serve=self._zone_sign, users=netboot, administrative=True),
            "zone_anchors": MethodRow(serve=self._zone_anchors, users=BOTH, administrative=True),
            "zone_roll": MethodRow(serve=self._zone_roll, users=OPERATOR_ALONE),
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
        self._links.look(now)
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
        self._files.reload(self._inputs.floor(NOTE.name, ""))
        if self._files.note is not None:
            self._inputs.see_note(self._files.note, now)
        with self._store.transaction():
            for digest in self._files.withdrawn:
                self._boxes.remember_withdrawn("keys", digest, now)

    def _save_mark(self) -> None:
        with self._store.transaction():
            self._store.set_meta(MARK, struct.pack(">d", self._clock.mark))
            self._ring.keep_time()

    def _guard(self, row: MethodRow) -> Callable[[str, Params], Mapping[str, Any]]:
        def handler(user: str, params: Params) -> Mapping[str, Any]:
            if not row.administrative and not self._authority.ready:
                raise Refusal("NO-CA", NO_CA)
            try:
                now = self._clock.believed() if row.adding else self._clock.now()
                if row.under_lease:
                    self._ring.check()
                if row.adding and self._room.sentence:
                    raise Refusal("DISK-FULL", self._room.sentence)
                reply = row.serve(user, params, now)
                if row.anchored:
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

    # authorities, status, events

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
        return {
            "ready": ready,
            "reason": None if ready else "NO-CA",
            "site": self._files.rules.site_id,
            "tpm": self._ring.maker or "none",
            "not_covered": self._files.rules.controller.not_covered(),
            "sentences": self._sentences(ready),
            "lists": self._authority.list_ends(),
            "certificates": {
                name: self._authority.end(name) for name in ("appliance", "box", "server", "answer")
            },
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
        if self._altered is not None:
            said.append(f"{self._altered}: {ALTERED}")
        if self._clock.suspect:
            said.append("the clock of this controller leapt ahead: check its date")
        said += filter(
            None,
            (
                self._trouble,
                self._room.sentence,
                self._pacing.sentence,
                self._links.sentence,
                self._swapped,
            ),
        )
        said += self._authority.sentences(ca.at(self._clock.now()))
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


def _float(stored: bytes | None) -> float:
    return float(struct.unpack(">d", stored)[0]) if stored else 0.0
