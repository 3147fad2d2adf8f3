"""Names that are not ours: from the cache, from upstreams, or from memory while there is no line.

Fresh is tried first and for a short time, then what is stale is given (RFC 8767); while every
upstream is silent nobody waits. What upstreams say is checked before it is kept. It asks through
ports that it is given (`Ports`), so that two weeks without a WAN pass in a test in seconds; one
resolver is used by several threads. RFC 8914 (reasons), 9520 (failures), 7646 (unsigned islands).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import Enum

from netboot.dns import Resolved
from netboot.dns_cache import DnsCache, Known, Trust
from netboot.dns_message import ExtendedError
from netboot.errors import PeerError
from netboot.names import Labels, is_at_or_below
from netboot.upstream import (
    NotAnsweredError,
    UnreadableError,
    make_question,
    read_answer,
    without_private,
)
from netboot.validate import ROOT_ANCHORS, BogusError, Validator, limited
from netboot.zone import Rcode

TRY_SECONDS = 0.9
"""How long the first upstream is waited for before the next is asked too."""
FRESH_SECONDS = 1.8
"""How long a client waits for a fresh answer where there is a stale one (RFC 8767, 5)."""
GIVE_UP_SECONDS = 4.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Between tries of a silent upstream, shared by all clients."""
DRAWN_BYTES = 34


class UnreachableError(PeerError):
    """An upstream did not answer in time, or is not who it should be."""


class Transport(Enum):
    """How an upstream is asked."""

    TLS = "tls"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A server to ask: over TLS with the name in its certificate or the pins of its key (SPKI).

    `pins` are SHA-256 digests; with any, the certificate is not looked at otherwise. There is no
    way from TLS to plain.
    """

    address: str
    port: int
    transport: Transport
    name: str | None = None
    pins: frozenset[bytes] = frozenset()

    def __str__(self) -> str:
        """Name it for people."""
        return f"{self.name or self.address} ({self.address}:{self.port}, {self.transport.value})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverConfig:
    """What the plan says: whom to ask in order, what to remember for ever, what not to check."""

    upstreams: tuple[Upstream, ...]
    pinned: frozenset[Labels] = frozenset()
    private: frozenset[Labels] = frozenset()
    unsigned: frozenset[Labels] = frozenset()
    anchors: Mapping[Labels, tuple[bytes, ...]] = field(default_factory=lambda: ROOT_ANCHORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the resolver needs of the world.

    `exchange` sends a question and gives the answer's bytes within a time in seconds, or raises
    UnreachableError; `clock` never jumps; `wall` is the time of day, `is_blind` tells whether it is
    not to be trusted; `draw` gives random bytes; `lock` is held while state is changed.
    """

    exchange: Callable[[Upstream, bytes, float], bytes]
    clock: Callable[[], float]
    wall: Callable[[], float]
    is_blind: Callable[[], bool]
    draw: Callable[[int], bytes]
    lock: AbstractContextManager[object]


@dataclass(slots=True)
class Health:
    """How an upstream does: failures in a row, when it is tried again, mean delay in seconds."""

    failures: int = 0
    again: float = 0.0
    delay: float = 0.0
    asked: int = 0
    answered: int = 0
    said: str = ""

    def good(self, seconds: float) -> None:
        """Note an answer."""
        self.failures, self.again, self.said = 0, 0.0, ""
        self.answered += 1
        self.delay = seconds if not self.delay else 0.8 * self.delay + 0.2 * seconds

    def bad(self, now: float, said: str) -> None:
        """Note a silence: nobody asks it again before the pause is over."""
        self.failures += 1
        self.said = said
        self.again = now + min(FIRST_PAUSE * 2 ** (self.failures - 1), LONGEST_PAUSE)


class Resolver:
    """Resolves names; `lookup` never waits, `resolve` does."""

    def __init__(self, config: ResolverConfig, cache: DnsCache, ports: Ports) -> None:
        """Ask nobody yet."""
        self._ports, self._cache = ports, cache
        self._lock = ports.lock
        self.health: dict[Upstream, Health] = {}
        self.replace(config)

    def replace(self, config: ResolverConfig) -> None:
        """Take other settings; what is in the cache stays."""
        with self._lock:
            self._config = config
            self._cache.pin(config.pinned)
            known = self.health
            self.health = {one: known.get(one, Health()) for one in config.upstreams}

    def lookup(self, name: Labels, qtype: int) -> Resolved | None:
        """Answer from what is known; None when it takes a question to others."""
        if len(name) < 2:
            return Resolved(rcode=Rcode.NXDOMAIN)  # N23: never leaves the site
        now = self._ports.clock()
        with self._lock:
            known = self._cache.find(name, qtype, now)
            if known is not None:
                return _resolved(known)
            if self._cache.has_failed(name, qtype, now):
                return self._stale(name, qtype, now, ExtendedError.CACHED_ERROR)
            if not any(one.again <= now for one in self.health.values()):
                return self._stale(name, qtype, now, ExtendedError.NETWORK_ERROR)
        return None

    def resolve(self, name: Labels, qtype: int, *, checks: bool = True) -> Resolved:
        """Answer, waiting for upstreams; `checks` off gives what they say (CD)."""
        known = self.lookup(name, qtype) if checks else None
        if known is not None:
            return known
        begun = self._ports.clock()
        problem: PeerError = UnreachableError("no upstream answers")
        for upstream in self._order(begun):
            waited = self._ports.clock() - begun
            if waited >= self._patience(name, qtype, begun):
                break
            try:
                return self._ask_one(upstream, name, qtype, checks=checks)
            except (NotAnsweredError, UnreachableError, BogusError) as error:
                problem = error
        return self._failed(name, qtype, problem)

    def _patience(self, name: Labels, qtype: int, now: float) -> float:
        with self._lock:
            has_stale = self._cache.find_stale(name, qtype, now) is not None
        return FRESH_SECONDS if has_stale else GIVE_UP_SECONDS

    def _order(self, now: float) -> list[Upstream]:
        """Give upstreams that may be tried, in the order of the plan.

        One that was silent and is due again comes first, for one client alone: nobody else would
        notice that it is back.
        """
        with self._lock:
            ready = [one for one, health in self.health.items() if health.again <= now]
            ready.sort(key=lambda one: self.health[one].failures == 0)
            for one in ready:
                if self.health[one].failures:
                    self.health[one].again = now + TRY_SECONDS
            return ready

    def _ask_one(self, upstream: Upstream, name: Labels, qtype: int, *, checks: bool) -> Resolved:
        known = self._exchange(upstream, name, qtype)
        if known.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            raise NotAnsweredError(f"{upstream} answers {known.rcode.name}")
        if not checks:
            return _resolved(known)
        known = self._checked(upstream, known, name, qtype)
        kept, was_private = without_private(known, self._config.private)
        now = self._ports.clock()
        with self._lock:
            self._cache.store(name, qtype, kept, now)
        if was_private and not kept.answers:
            said = "a private address for a public name"
            return Resolved(rcode=Rcode.NOERROR, error=ExtendedError.BLOCKED, said=said)
        return _resolved(kept)

    def _checked(self, upstream: Upstream, known: Known, name: Labels, qtype: int) -> Known:
        """Check signatures; zones that a person named are not checked (RFC 7646)."""
        if any(is_at_or_below(name, zone) for zone in self._config.unsigned):
            return known

        fetched: dict[tuple[Labels, int], Known] = {}

        def fetch(wanted: Labels, kind: int) -> Known:
            now = self._ports.clock()
            with self._lock:
                found = self._cache.find(wanted, kind, now, unchecked=True)
            if found is None:
                found = fetched[wanted, kind] = self._exchange(upstream, wanted, kind)
            return found

        wall, is_blind = self._ports.wall(), self._ports.is_blind()
        validator = Validator(fetch, wall, blind=is_blind, anchors=self._config.anchors)
        trust = validator.check(known, name, qtype)
        with self._lock:  # forged keys must not stay when the answer they came for is dropped
            for (wanted, kind), found in fetched.items():
                unchecked = replace(found, trust=Trust.UNCHECKED)
                self._cache.store(wanted, kind, unchecked, self._ports.clock())
        answers, authority = known.answers, known.authority
        if trust is not Trust.INSECURE:
            until = None if is_blind else wall
            answers, authority = limited(answers, until), limited(authority, until)
        return Known(rcode=known.rcode, answers=answers, authority=authority, trust=trust)

    def _exchange(self, upstream: Upstream, name: Labels, qtype: int) -> Known:
        """Ask one upstream once, and note how it did."""
        question = make_question(name, qtype, self._ports.draw(DRAWN_BYTES))
        data = question.encode(pads=upstream.transport is Transport.TLS)
        begun = self._ports.clock()
        with self._lock:
            self.health[upstream].asked += 1
        try:
            answer = self._ports.exchange(upstream, data, TRY_SECONDS)
            known = read_answer(answer, question)
        except UnreadableError:
            raise  # a name that anybody may ask for must not silence an upstream for all
        except (UnreachableError, NotAnsweredError) as error:
            with self._lock:
                self.health[upstream].bad(self._ports.clock(), str(error))
            raise
        now = self._ports.clock()
        with self._lock:
            was_silent = self.health[upstream].failures > 0
            self.health[upstream].good(now - begun)
            if was_silent:
                self._cache.forgive()
        return known

    def _failed(self, name: Labels, qtype: int, problem: PeerError) -> Resolved:
        now = self._ports.clock()
        code = ExtendedError.NO_REACHABLE_AUTHORITY
        if isinstance(problem, BogusError):
            code = ExtendedError.DNSSEC_BOGUS
            if problem.is_expired:
                code = ExtendedError.SIGNATURE_EXPIRED
        with self._lock:
            self._cache.fail(name, qtype, now)
            if code is ExtendedError.NO_REACHABLE_AUTHORITY:
                return self._stale(name, qtype, now, code, str(problem))
        return Resolved(rcode=Rcode.SERVFAIL, error=code, said=str(problem))

    def _stale(
        self, name: Labels, qtype: int, now: float, code: ExtendedError, said: str = ""
    ) -> Resolved:
        """Give what is remembered, else say why there is nothing; the lock is held."""
        known = self._cache.find_stale(name, qtype, now)
        if known is None:
            said = said or "; ".join(
                f"{one}: {health.said}" for one, health in self.health.items() if health.said
            )
            return Resolved(rcode=Rcode.SERVFAIL, error=code, said=said or "not asked again yet")
        resolved = _resolved(known)
        is_name = known.rcode is Rcode.NOERROR
        return Resolved(
            rcode=resolved.rcode,
            answers=resolved.answers,
            authority=resolved.authority,
            is_secure=resolved.is_secure,
            error=ExtendedError.STALE if is_name else ExtendedError.STALE_NXDOMAIN,
            said=f"{int(known.age)} s old",
        )

    def prune(self) -> None:
        """Forget what may not even be given stale any more."""
        with self._lock:
            self._cache.prune(self._ports.clock())

    @property
    def pinned(self) -> frozenset[Labels]:
        """The names whose answers are remembered for ever."""
        return self._config.pinned

    def known(self, name: Labels, qtype: int) -> Known | None:
        """Give what is remembered, fresh or stale, with its age; nothing is asked."""
        now = self._ports.clock()
        with self._lock:
            return self._cache.find(name, qtype, now) or self._cache.find_stale(name, qtype, now)

    def ages(self) -> Mapping[Labels, float]:
        """Give how old the answers of pinned names are, in seconds."""
        with self._lock:
            return self._cache.ages(self._ports.clock())


def _resolved(known: Known) -> Resolved:
    is_blind = known.trust is Trust.TIME_BLIND
    return Resolved(
        rcode=known.rcode,
        answers=known.answers,
        authority=known.authority,
        is_secure=known.trust is Trust.SECURE,
        error=ExtendedError.DNSSEC_INDETERMINATE if is_blind else None,
        said="the clock is not trusted: dates of signatures were not checked" if is_blind else "",
    )


def describe(upstreams: Iterable[tuple[Upstream, Health]]) -> list[str]:
    """Say of each upstream that is silent what it said last."""
    return [f"{one}: {health.said}" for one, health in upstreams if health.failures]
