"""Names of others: the forwarder while the plan has one, its watch, and what is counted of both.

A plan without upstreams asks nobody; the cache stays for the next that has some.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from netboot.dns import Ask, Resolved
from netboot.dns_message import ExtendedError
from netboot.io.canaries import Canaries
from netboot.io.clock import ClockTrust
from netboot.io.exchange import Exchange
from netboot.io.files import Told
from netboot.io.forwarder import Forwarder
from netboot.names import text
from netboot.resolver import Ports, Resolver, ResolverConfig
from netboot.zone import Rcode

_STALE = (ExtendedError.STALE, ExtendedError.STALE_NXDOMAIN)
_NOBODY = Resolved(rcode=Rcode.SERVFAIL, error=ExtendedError.NETWORK_ERROR, said="nobody to ask")


class Forwarding:
    """What `netboot.io.dns` asks; called by its thread, the readers below by any."""

    def __init__(self, path: Path, clock: ClockTrust, tell: Told) -> None:
        """Ask nobody yet; the cache is kept in `path`."""
        self._path, self._clock, self._tell = path, clock, tell
        self._forwarder: Forwarder | None = None
        self._canaries: Canaries | None = None
        self._is_on = False
        self._silent: dict[str, float] = {}
        self.counts = {"cached": 0, "forwarded": 0, "stale": 0, "failed": 0}

    def replace(self, config: ResolverConfig | None) -> None:
        """Ask these from now on, nobody for None; SiteError when the cache cannot be opened."""
        self._is_on = config is not None
        if self._canaries is not None:
            self._canaries.replace(config)
        if config is None:
            return
        if self._forwarder is None:
            self._begin(config)
        else:
            self._forwarder.resolver.replace(config)

    def _begin(self, config: ResolverConfig) -> None:
        forwarder = Forwarder(config, self._path, Exchange(), self._clock.is_blind)
        ports = Ports(
            exchange=Exchange(),
            clock=time.monotonic,
            wall=time.time,
            is_blind=lambda: False,
            draw=os.urandom,
            lock=threading.Lock(),
        )
        self._forwarder = forwarder
        self._canaries = Canaries(ports, self._clock, self._tell)
        forwarder.start()
        self._canaries.replace(config)
        self._canaries.start()

    def lookup(self, ask: Ask, now: float) -> Resolved | None:
        """Answer at once from what is known; None when others must be asked."""
        if self._forwarder is None or not self._is_on:
            return _NOBODY
        known = self._forwarder.lookup(ask, now)
        if known is not None:
            self._count(known, "cached")
        return known

    def ask(self, ask: Ask, done: Callable[[Resolved], None]) -> None:
        """Ask others, and call `done` once, from any thread."""
        assert self._forwarder is not None

        def counted(resolved: Resolved) -> None:
            self._count(resolved, "forwarded")
            done(resolved)

        self._forwarder.ask(ask, counted)

    def _count(self, resolved: Resolved, how: str) -> None:
        if resolved.error in _STALE:
            how = "stale"
        elif resolved.rcode is Rcode.SERVFAIL:
            how = "failed"
        self.counts[how] += 1

    @property
    def resolver(self) -> Resolver | None:
        """The resolver while others are asked."""
        return self._forwarder.resolver if self._forwarder is not None and self._is_on else None

    def sentences(self) -> list[str]:
        """Say what a person should know; called every now and then, for it notes silences."""
        resolver = self.resolver
        if resolver is None or self._forwarder is None or self._canaries is None:
            return []
        now, said = time.time(), []
        silent = {str(one): health for one, health in resolver.health.items() if health.failures}
        self._silent = {name: self._silent.get(name, now) for name in silent}
        for name, since in self._silent.items():
            moment = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(since))
            said.append(f"DNS upstream {name} is silent since {moment}: {silent[name].said}")
        said += [f"DNS upstream {one.upstream} {one.sign}" for one in self._canaries.findings]
        if self._clock.is_blind():
            said.append("the clock is not trusted: dates of DNS signatures are not checked")
        if self._forwarder.trouble:
            said.append(self._forwarder.trouble)
        return said

    def status(self) -> Mapping[str, Any]:
        """Give what was counted, and how each upstream does."""
        resolver = self.resolver
        health = {} if resolver is None else resolver.health
        return {
            **self.counts,
            "blind": self._clock.is_blind(),
            "remembered": 0 if self._forwarder is None else self._forwarder.remembered,
            "upstreams": [
                {
                    "name": str(one),
                    "asked": found.asked,
                    "answered": found.answered,
                    "seconds": round(found.delay, 4),
                    "failures": found.failures,
                    "said": found.said,
                }
                for one, found in health.items()
            ],
        }

    def pinned(self) -> Mapping[str, float | None]:
        """Give the age of each pinned name's answer in seconds; None where there is none."""
        resolver = self.resolver
        if resolver is None:
            return {}
        ages = resolver.ages()
        return {text(name): ages.get(name) for name in sorted(resolver.pinned)}

    def close(self) -> None:
        """End, and keep the cache."""
        if self._canaries is not None:
            self._canaries.stop()
        if self._forwarder is not None:
            self._forwarder.stop()
