"""doorstep-sync: fetches secrets from upstreams and hands them to keys; alone on the WAN.

What to ask for is decided by `bootstrap.renewal`; who may have what, by keys. A value is in memory
from the upstream's answer to keys' own and nowhere else; a withdrawal is on the disk before keys is
told. Nothing that a box waits for calls this process. architecture.md, "Processes".
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from bootstrap.errors import BootstrapError, SiteError
from bootstrap.io.sync_store import SyncStore, Withdrawal
from bootstrap.io.sync_worker import Job, Result, Worker
from bootstrap.renewal import Renewal, Row, Wanted
from bootstrap.upstream_words import document, sentences
from keys.envelope import b64u, unb64u
from keys.errors import KeysError
from keys.errors import SiteError as KeysSiteError
from keys.io.hardening import harden
from keys.io.layout import OPERATOR, Layout
from keys.io.rpc import Method, Params, Refusal, RpcError, RpcServer, call
from keys.io.upstreams import open_upstream
from keys.secret import Secret
from keys.upstream import Fetched, Gone, Source, Trouble, Upstream, UpstreamRule, upstream_rules

LOOK_SECONDS = 30.0
"""Between two questions to keys what it wants."""
KEYS_PAUSE_SECONDS = 2.0
BATCH, MAX_BATCH_BYTES = 48, 4 * 1024 * 1024
BATCH_SECONDS = 0.5
"""An answer waits so long at the most for others: one call of keys takes many."""
END_SECONDS = 3600.0
"""Between two questions when our login ends."""
MAX_EVENTS = 500
MISSING = frozenset({"SECRET-MISSING", "SECRET-EXPIRED", "SECRET-UNREADABLE"})
NOT_KEPT = "SECRET-TIER-OFF"
ENDED = "what its upstream gives has ended by this controller's clock: store a new version there"

_Stamp = tuple[int, int] | None
Connect = Callable[[UpstreamRule, Secret, Path], Upstream]
_DRAW = random.SystemRandom().random


class Syncer:
    """The scheduler with its workers, its database and keys; `turn` never waits for an upstream."""

    def __init__(
        self,
        layout: Layout,
        *,
        connect: Connect = open_upstream,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = _DRAW,
    ) -> None:
        """Open the database and go on from it; SiteError. `wall` gives unix seconds."""
        self._layout, self._connect = layout, connect
        self._wall, self._draw = wall, draw
        self.store = SyncStore(layout.state / "sync" / "sync.db")
        self._engine = Renewal(self.store.rows(), self.store.lines())
        self._rules: Mapping[str, UpstreamRule] = {}
        self._adapters: dict[str, tuple[int, UpstreamRule, _Stamp, Upstream]] = {}
        self._workers: dict[str, Worker] = {}
        self._fetched: list[tuple[Result, Fetched]] = []
        self._fetched_at = 0.0
        self._stamp: _Stamp = None
        self._look_at = self._quiet_until = 0.0
        self._ends_asked: dict[str, float] = {}
        self._failing: set[str] = {line.name for line in self._engine.lines() if line.trouble}
        self._wrong: dict[str, str] = {}

    @property
    def is_busy(self) -> bool:
        """Say whether an answer may come at any moment."""
        return bool(self._fetched) or any(one.is_busy for one in self._workers.values())

    def turn(self) -> None:
        """Do what is due: ask keys, take answers, hand them in, ask upstreams."""
        moment = time.monotonic()
        for worker in self._workers.values():
            if (result := worker.take()) is not None:
                self._take(result)
        if moment >= self._quiet_until:
            try:
                self._report()
                if moment >= self._look_at:
                    self._look_at = moment + LOOK_SECONDS
                    self._look()
                self._hand_in(moment)
                self._wrong.pop("keys", None)
            except KeysError as error:
                self._quiet_until = moment + KEYS_PAUSE_SECONDS
                self._wrong["keys"] = f"the key service: {error}"
        if moment >= self._quiet_until:
            self._ask()
        self._keep()

    def look_now(self, upstream: str | None) -> int:
        """Ask for everything of an upstream, or of all, without waiting."""
        found = self._engine.look_now(upstream)
        self._look_at = 0.0
        self._keep()
        return found

    # what is wanted

    def _look(self) -> None:
        """Read the site file if it changed, and ask keys what it wants."""
        self._read_rules()
        answer = self._call("sync_wanted", after="")
        secrets = list(answer["secrets"])
        while answer["more"]:
            answer = self._call("sync_wanted", after=secrets[-1]["name"])
            secrets += answer["secrets"]
        logins = {name: login for name, login in answer["upstreams"].items() if name in self._rules}
        wanted = [one for one in map(_wanted, secrets) if one is not None]
        self._engine.want([one for one in wanted if one.source.upstream in logins], logins)
        if answer["closed"] is not None:  # who took this machine must not go on with our logins
            self._adapters.clear()
            self._wrong.pop("lease", None)
            if self._rules:
                self._wrong["lease"] = f"no upstream is asked: {answer['closed']['sentence']}"
            return
        self._wrong.pop("lease", None)
        for name, login in logins.items():
            self._connect_to(name, login)
        for name in set(self._adapters) - set(logins):
            del self._adapters[name]

    def _read_rules(self) -> None:
        path = self._layout.site / "site.toml"
        try:
            stamp = _stamp(path)
            if stamp is not None and stamp == self._stamp:
                return
            self._rules = upstream_rules(tomllib.loads(path.read_text()))
            self._stamp = stamp
            self._wrong.pop("site", None)
        except (OSError, ValueError, KeysSiteError) as error:
            self._wrong["site"] = f"the newest site file is not used: {error}"

    def _connect_to(self, name: str, login: int | None) -> None:
        """Hold an adapter with the newest login."""
        rule, known = self._rules[name], self._adapters.get(name)
        self._wrong.pop(name, None)
        if login is None:
            self._adapters.pop(name, None)
            return
        pinned = _stamp(self._layout.site / rule.ca)
        if known is not None and known[:3] == (login, rule, pinned):
            return
        try:
            answer = self._call("sync_credential", upstream=name)
            secret = Secret(unb64u(answer["login"]))
            adapter = self._connect(rule, secret, self._layout.site)
            self._adapters[name] = answer["version"], rule, pinned, adapter
            self._ends_asked.pop(name, None)
        except RpcError as error:
            self._adapters.pop(name, None)
            self._wrong[name] = f"upstream {name} is not asked: {error}"
        except KeysSiteError as error:
            self._adapters.pop(name, None)
            self._wrong[name] = str(error)
        except ImportError as error:
            self._adapters.pop(name, None)
            text = f"upstream {name} needs the library {error.name}: pip install 'doorstep[sync]'"
            self._wrong[name] = text

    # asking

    def _ask(self) -> None:
        """Give each upstream that has nothing to do the secret that is due first."""
        if len(self._fetched) >= BATCH:
            return
        for name, (*_, adapter) in self._adapters.items():
            worker = self._workers.get(name)
            if worker is None:
                worker = self._workers[name] = Worker(name)
            if worker.is_busy:
                continue
            row = self._engine.take(name, self._now())
            if row is not None:
                asks_end = (
                    time.monotonic() - self._ends_asked.get(name, -END_SECONDS) >= END_SECONDS
                )
                worker.give(Job(row=row, adapter=adapter, asks_end=asks_end))

    def _take(self, result: Result) -> None:
        """Take an answer: a value waits for keys, a withdrawal goes to the disk at once."""
        row, now, name = result.row, self._now(), result.row.source.upstream
        if isinstance(result.outcome, Trouble):
            self._engine.failed(row, result.outcome, now, self._draw())
            if name not in self._failing:
                self._failing.add(name)
                detail = {"upstream": name, "sentence": result.outcome.sentence}
                self._tell("upstream-trouble", detail)
            return
        if name in self._failing:
            self._failing.discard(name)
            self._tell("upstream-answers", {"upstream": name})
        if name not in self._ends_asked or result.login_ends is not None:
            self._ends_asked[name] = time.monotonic()
            self._engine.logged_in(name, result.login_ends)
        if isinstance(result.outcome, Gone):
            self._withdraw(row, result.outcome, now)
            return
        if not self._fetched:
            self._fetched_at = time.monotonic()
        self._fetched.append((result, result.outcome))

    def _withdraw(self, row: Row, gone: Gone, now: int) -> None:
        try:
            one = Withdrawal(name=row.name, source=row.source, status=gone.status)
            self.store.withdraw(one)
        except BootstrapError as error:
            self._engine.refused(row, str(error), now, self._draw())
        else:
            self._engine.learned(row, now, self._draw())

    # handing in

    def _report(self) -> None:
        """Tell keys of withdrawals: before anything else, and until it heard."""
        while withdrawals := self.store.withdrawals(BATCH):
            secrets = [
                {"name": one.name, "source": str(one.source), "status": one.status}
                for one in withdrawals
            ]
            self._call("sync_gone", secrets=secrets)
            self.store.told(withdrawals)
            self._look_at = 0.0

    def _hand_in(self, moment: float) -> None:
        """Hand values to keys, many at once where many come."""
        size = sum(len(value.value) for _, value in self._fetched)
        is_full = len(self._fetched) >= BATCH or size >= MAX_BATCH_BYTES
        if not self._fetched or not (is_full or moment - self._fetched_at >= BATCH_SECONDS):
            return
        batch, self._fetched = self._fetched, []
        try:
            secrets = [_offer(result, value) for result, value in batch]
            answers = self._call("sync_put", secrets=secrets)["done"]
        except KeysError:
            for result, _ in batch:
                self._engine.put_back(result.row)
            raise
        for (result, _), answer in zip(batch, answers, strict=True):
            self._settle(result, answer)

    def _settle(self, result: Result, answer: Mapping[str, Any]) -> None:
        now, expires = self._now(), answer["expires"]
        if answer["outcome"] == "refused":
            self._engine.refused(result.row, str(answer["sentence"]), now, self._draw())
        elif expires is not None and expires * 1000 <= now:
            self._engine.refused(result.row, ENDED, now, self._draw())
        else:
            left = None if expires is None else expires * 1000 - now
            self._engine.learned(result.row, now, self._draw(), left=left)

    # what is kept and said

    def status(self) -> dict[str, Any]:
        """Say how each upstream does, and what a person should know."""
        now = self._wall()
        found = [
            document(
                line,
                self._engine.rows(line.name),
                len(self._engine.due(line.name, int(now * 1000))),
                now,
            )
            for line in self._engine.lines()
        ]
        kinds = {name: rule.kind.value for name, rule in self._rules.items()}
        said = [*self._wrong.values(), *sentences(found, now)]
        return {
            "upstreams": [{**one, "kind": kinds.get(one["name"])} for one in found],
            "sentences": said,
        }

    def _keep(self) -> None:
        try:
            self.store.keep(self._engine.changes())
            self._wrong.pop("disk", None)
        except BootstrapError as error:
            self._wrong["disk"] = str(error)  # it goes on from memory

    def _tell(self, kind: str, detail: Mapping[str, Any]) -> None:
        sys.stderr.write(f"sync: {kind} {detail['upstream']}\n")
        with suppress(BootstrapError):  # a full disk is told of by `status`
            self.store.record(self._wall(), kind, detail)

    def _now(self) -> int:
        return int(self._wall() * 1000)

    def _call(self, method: str, **params: Any) -> Any:
        return call(self._layout.socket("keys"), method, params)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _wanted(one: Mapping[str, Any]) -> Wanted | None:
    """Read one secret that keys wants; None for one that this site may not keep."""
    if one["reason"] == NOT_KEPT:
        return None
    try:
        source = Source.parse(one["source"])
    except KeysSiteError:
        return None  # `doorstep check` says it
    expires = one["expires"]
    return Wanted(
        name=one["name"],
        source=source,
        ttl=timedelta(seconds=one["ttl"]),
        missing=one["reason"] in MISSING,
        expires=None if expires is None else expires * 1000,
    )


def _offer(result: Result, value: Fetched) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "source": str(result.row.source),
        "version": value.version,
        "value": b64u(value.value.reveal()),
        "not_after": value.not_after,
    }


class SyncService:
    """What control and the operator ask of sync."""

    def __init__(self, syncer: Syncer) -> None:
        """Answer for a syncer."""
        self._syncer, self._started = syncer, time.time()

    def methods(self) -> Mapping[str, Method]:
        """Give the rows of the socket table."""
        both = frozenset({"control", OPERATOR})
        return {
            "status": Method(self._status, both),
            "events": Method(self._events, both),
            "renew": Method(self._renew, frozenset({OPERATOR})),
        }

    def _status(self, _: str, params: Params) -> Mapping[str, Any]:
        last = self._syncer.store.last_event()
        return {"since": self._started, "last_event": last, **self._syncer.status()}

    def _events(self, _: str, params: Params) -> Mapping[str, Any]:
        after, limit = params.get("after", 0), params.get("limit", MAX_EVENTS)
        if type(after) is not int or type(limit) is not int or abs(after) >= 1 << 62:
            raise Refusal("MALFORMED", "after and limit are numbers")
        events: Sequence[Any] = self._syncer.store.events(after, max(1, min(limit, MAX_EVENTS)))
        return {"events": events, "last": self._syncer.store.last_event()}

    def _renew(self, _: str, params: Params) -> Mapping[str, Any]:
        name = params.get("upstream")
        known = {one["name"] for one in self._syncer.status()["upstreams"]}
        if name is not None and name not in known:
            raise Refusal("UPSTREAM-UNKNOWN", "site.toml has no [[upstream]] of this name")
        return {"secrets": self._syncer.look_now(name)}


def main(layout: Layout) -> None:
    """Fetch until SIGTERM; SiteError when this process may not run here.

    Values and logins are in its memory for a while: it is hardened as keys is.
    """
    if os.geteuid() != layout.users["sync"] or os.geteuid() == 0:
        raise SiteError(f"sync runs as uid {layout.users['sync']}, not as {os.geteuid()}")
    harden()
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    syncer = Syncer(layout)
    server = RpcServer(layout, "sync", SyncService(syncer).methods())
    try:
        while not stopped:
            syncer.turn()
            server.turn(0.02 if syncer.is_busy else 0.1)
    finally:
        server.close()
        syncer.store.close()
