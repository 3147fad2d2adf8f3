"""The rogue watch as a process: it hears who else serves on the site's networks, and tells control.

It holds no secret, serves nobody on the network, and decides nothing about boxes. A list of allowed
servers that cannot be read allows nobody, and `status` says so. docs/architecture.md.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bootstrap.errors import BootstrapError
from bootstrap.io.site_dir import load
from bootstrap.site import Site
from keys.io.layout import OPERATOR, Layout
from keys.io.rpc import Method, Params, Refusal, RpcServer
from netboot.allowed import FILE, decode_allowed
from netboot.errors import SiteError
from netboot.events import Event, EventKind
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.watch import Watcher, maker
from netboot.io.workers import line
from netboot.watch import Allowed, WatchConfig, WatchEngine, sentences

MAX_EVENTS = 500
_TURN_SECONDS = 0.25
_LOOK_SECONDS = 2.0
"""Between looks at the files of the site."""
_CALLERS = frozenset({"control", OPERATOR})

_Stamps = tuple[tuple[int, int] | None, ...]


class RogueWatch:
    """The watcher with the site's settings; `tell` is given every event."""

    def __init__(
        self, site: Path, tell: Callable[[Iterable[Event]], None], ask_seconds: float = 60.0
    ) -> None:
        """Read nothing yet: `turn` does."""
        self._site, self._tell = site, tell
        self._engine = WatchEngine(WatchConfig(ours=frozenset()), maker)
        self._watcher = Watcher(self._engine, self._hear, ask_seconds)
        self._stamps: _Stamps | None = None
        self._look_at = 0.0
        self._trouble: list[str] = []
        self._gateways: dict[str, frozenset[str]] = {}

    def know_gateway(self, interface: str, address: str, mac: bytes) -> None:
        """Take what was seen before the start."""
        self._engine.know_gateway(interface, address, mac)

    def turn(self, timeout: float) -> None:
        """Look for changed settings, then listen for at most `timeout` seconds."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            stamps = tuple(_stamp(self._site / name) for name in ("site.toml", FILE))
            if stamps != self._stamps:
                self._stamps = stamps
                self._take()
            self._configure()
        self._watcher.turn(timeout)

    def _take(self) -> None:
        """Take the site file and the list as they are now; what is wrong leaves the one before."""
        self._trouble = []
        try:
            self._gateways = gateways(load(self._site))
        except BootstrapError as error:
            self._trouble.append(f"the newest site file is not used: {error}")
        try:
            self._allowed = read_allowed(self._site)
        except SiteError as error:
            self._allowed = ()
            self._trouble.append(f"nobody is allowed beside us: {error}")
        self._watcher.listen(self._gateways)

    def _configure(self) -> None:
        self._engine.replace(
            WatchConfig(ours=self._watcher.ours, gateways=self._gateways, allowed=self._allowed)
        )

    def _hear(self, events: Iterable[Event]) -> None:
        events = tuple(events)
        if events:
            self._tell(events)

    def sentences(self, now: float) -> list[str]:
        """Say who should not be there, and why we may be deaf."""
        there = sentences(self._engine.senders(now))
        return [*self._trouble, *self._watcher.trouble.values(), *there]

    def close(self) -> None:
        """Close all sockets."""
        self._watcher.close()


def gateways(site: Site) -> dict[str, frozenset[str]]:
    """Give the interfaces to listen on, each with the gateways of its subnets."""
    found: dict[str, frozenset[str]] = {}
    for subnet in site.subnets:
        own = frozenset() if subnet.gateway is None else frozenset({str(subnet.gateway)})
        found[subnet.interface] = found.get(subnet.interface, frozenset()) | own
    return found


def read_allowed(site: Path) -> tuple[Allowed, ...]:
    """Read who is allowed; nobody where there is no file. SiteError when it cannot be read."""
    try:
        data = (site / FILE).read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SiteError(f"{FILE}: {error.strerror}") from error
    return decode_allowed(data)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


class WatchService:
    """What control asks the watch: its status and its numbered events."""

    def __init__(self, layout: Layout) -> None:
        """Open the database; SiteError. Nothing is heard before `watch.turn`."""
        self._log = EventLog(NetbootStore(layout.state / "watch" / "watch.db"))
        self._started = time.time()
        self.watch = RogueWatch(layout.site, self._keep)
        for event in self._log.after(0, limit=1 << 30):
            if event["kind"] == EventKind.GATEWAY_SEEN:
                place = str(event["detail"]["interface"]), str(event["detail"]["sender"])
                self.watch.know_gateway(*place, bytes.fromhex(event["mac"].replace(":", "")))

    def _keep(self, events: Iterable[Event]) -> None:
        before = self._log.last()
        self._log.append(*events)
        for event in self._log.after(before):
            sys.stderr.write(f"watch: {line(event)}\n")

    def methods(self) -> Mapping[str, Method]:
        """Give the table of methods."""
        return {
            "status": Method(self._status, _CALLERS),
            "events": Method(self._events, _CALLERS),
        }

    def _status(self, _: str, params: Params) -> Mapping[str, Any]:
        return {
            "since": self._started,
            "sentences": self.watch.sentences(time.time()),
            "last_event": self._log.last(),
        }

    def _events(self, _: str, params: Params) -> Mapping[str, Any]:
        after, limit = params.get("after", 0), params.get("limit", MAX_EVENTS)
        if type(after) is not int or type(limit) is not int or abs(after) >= 1 << 62:
            raise Refusal("MALFORMED", "after and limit are numbers")
        events = self._log.after(after, max(1, min(limit, MAX_EVENTS)))
        return {"events": list(events), "last": self._log.last()}


def main(layout: Layout) -> None:
    """Watch until SIGTERM."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    service = WatchService(layout)
    server = RpcServer(layout, "watch", service.methods())
    try:
        while not stopped:
            service.watch.turn(_TURN_SECONDS)
            server.turn(0)
    finally:
        server.close()
        service.watch.close()
