"""The watch on upstreams as a thread: looks now and then, tells what it saw, and judges the clock.

What a sign means `netboot.hijack` says; one that stays is told of once an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from netboot.dns_cache import Trust
from netboot.errors import NetbootError
from netboot.events import Event, EventKind
from netboot.hijack import CANARY_SECONDS, WAIT_SECONDS, Finding, Sign, look, look_around
from netboot.io.clock import ClockTrust
from netboot.io.files import Told
from netboot.rdata import Rtype
from netboot.resolver import Ports, ResolverConfig, Transport, Upstream
from netboot.upstream import make_question, read_answer
from netboot.validate import Validator

REASON = "DNS-HIJACK"
AGAIN_SECONDS = 3600.0
_DRAWN = 34
_Seen = tuple[Upstream, Sign]


class Canaries:
    """Looks at the upstreams of the newest settings; `findings` are those of the last look."""

    def __init__(
        self, ports: Ports, clock: ClockTrust, tell: Told, pause: float = CANARY_SECONDS
    ) -> None:
        """Look at nobody before `start`; `ports` must judge dates, whatever the clock."""
        self._ports, self._clock, self._tell, self._pause = ports, clock, tell, pause
        self._config: ResolverConfig | None = None
        self._told: dict[_Seen, float] = {}
        self._wake, self._is_ended = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="dns-canaries", daemon=True)
        self.findings: tuple[Finding, ...] = ()

    def replace(self, config: ResolverConfig | None) -> None:
        """Look at these upstreams from now on; None for none."""
        self._config = config
        self._wake.set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for a look under way."""
        self._is_ended = True
        self._wake.set()

    def _run(self) -> None:
        while not self._is_ended:
            self._wake.clear()
            config = self._config
            self.findings = () if config is None else tuple(self.look(config))
            self._wake.wait(self._pause)

    def look(self, config: ResolverConfig) -> list[Finding]:
        """Look once at all of them, and tell what is new."""
        found: list[Finding] = []
        for upstream in config.upstreams:
            if self._is_ended:
                return found
            if self._clock.is_blind() and _fits(upstream, self._ports, config):
                self._clock.validated()
            found += self._try(partial(look, upstream, self._ports, dict(config.anchors)))
        found += self._try(partial(look_around, self._ports))
        self._tell(self._events(found, time.time()))
        return found

    @staticmethod
    def _try(look_once: Callable[[], list[Finding]]) -> list[Finding]:
        try:
            return look_once()
        except (NetbootError, OSError):
            return []  # silence and nonsense are the resolver's to tell

    def _events(self, found: Iterable[Finding], now: float) -> list[Event]:
        events = []
        for one in found:
            key = one.upstream, one.sign
            if 0 <= now - self._told.get(key, 0.0) < AGAIN_SECONDS:
                continue
            self._told[key] = now
            detail = (("upstream", str(one.upstream)), ("sign", one.sign.value), ("seen", one.seen))
            events.append(Event(at=now, kind=EventKind.DNS_HIJACK, reason=REASON, detail=detail))
        return events


def _fits(upstream: Upstream, ports: Ports, config: ResolverConfig) -> bool:
    """Tell whether the root's signatures of today are valid now, as this clock has it."""
    if () not in config.anchors:
        return False
    question = make_question((), Rtype.DNSKEY, ports.draw(_DRAWN))
    data = question.encode(pads=upstream.transport is Transport.TLS)
    try:
        known = read_answer(ports.exchange(upstream, data, WAIT_SECONDS), question)
        validator = Validator(
            lambda name, qtype: known, ports.wall(), blind=False, anchors=config.anchors
        )
        return validator.check(known, (), Rtype.DNSKEY) is Trust.SECURE
    except NetbootError:
        return False
