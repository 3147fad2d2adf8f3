"""The site's DNS server as an engine: a message in; an answer, a question for others, or nothing.

It answers for its own zones, signed where a zone has keys, and hands on what is not ours for who
may ask that. RFC 1034, 4.3; 4035, 3.1; 6891; 7873; 8482 (ANY); 8906 (the battery); 9619.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netboot import cookies
from netboot.dns_message import (
    AA,
    AD,
    CD,
    CHAOS,
    HEADER,
    IN,
    NOTIFY,
    PLAIN_SIZE,
    QUERY,
    RA,
    RD,
    TCP_SIZE,
    UDP_SIZE,
    UPDATE,
    Answer,
    ExtendedError,
    FormatError,
    Query,
    bare,
    decode_query,
    encode,
)
from netboot.dnssec import ZoneSigner
from netboot.names import Labels, read_wire
from netboot.rdata import Rtype
from netboot.views import EVERYBODY, View, Views
from netboot.zone import Found, Rcode, RRset, Zone, Zones

SOFTWARE = "Doorstep"
MAX_CACHED = 4096
MAX_CACHED_QUERY = 300
CACHED_SECONDS = 3600.0
"""How long whole answers are kept: signatures in them stay valid much longer."""
MAX_PEERS = 4096
STRANGER_PER_SECOND = 10
"""Answers by UDP to all strangers of one network in a second; none is larger than the question."""
_REFUSED_TYPES = (Rtype.IXFR, Rtype.AXFR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What is answered from: zones with their signers, who may ask what, and are others asked."""

    zones: Zones
    signers: Mapping[Labels, ZoneSigner] = field(default_factory=dict)
    views: Views = EVERYBODY
    forwards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What others answered to an `Ask`; `is_secure` when its signatures were checked."""

    rcode: Rcode
    answers: tuple[RRset, ...] = ()
    authority: tuple[RRset, ...] = ()
    is_secure: bool = False
    error: ExtendedError | None = None
    said: str = ""


@dataclass(slots=True, kw_only=True)
class Ask:
    """A question that is not ours: `name` and `qtype` to resolve, then `DnsEngine.finish`.

    `begun` is the part of a chain of CNAMEs that is ours. Not frozen, being filled in two steps.
    """

    query: Query
    name: Labels
    qtype: int
    begun: tuple[RRset, ...]
    size: int = 0
    cookie: bytes = b""

    @property
    def skips_checks(self) -> bool:
        """Tell whether the client checks signatures itself (CD, RFC 4035, 3.2.2)."""
        return bool(self.query.flags & CD)


@dataclass(slots=True)
class Counts:
    """How often each code was answered in one view (RFC 1035, 4.1.1): of our own, and of others.

    `repeated` is how many of those of others were given again without being looked for.
    """

    own: list[int] = field(default_factory=lambda: [0] * 16)
    others: list[int] = field(default_factory=lambda: [0] * 16)
    repeated: int = 0


@dataclass(slots=True)
class _Shelf:
    """Whole answers of one view without their numbers, by what was asked.

    `udp` and `tcp` are our own; `passing` are those of others by UDP, for the rest of a second.
    All are counted in `counts`.
    """

    view: View
    counts: Counts
    udp: dict[bytes, bytes] = field(default_factory=dict)
    tcp: dict[bytes, bytes] = field(default_factory=dict)
    passing: dict[bytes, bytes] = field(default_factory=dict)


class DnsEngine:
    """Answers from one generation; whole answers are kept until the next one."""

    def __init__(self, zones: Zones, host: str, secret: bytes = bytes(32)) -> None:
        """Answer for these zones; `host` is what CHAOS hostname.bind is told.

        `secret` keys the cookies: 32 random bytes of this start.
        """
        self._generation = Generation(zones=zones)
        self._host = host
        self._secret = secret
        self.counts = {view: Counts() for view in View}
        self.dropped = 0
        """Questions of strangers that got no answer: there were too many."""
        self._shelves = self._empty()
        self._kept_until = 0.0
        self._peers: dict[str, _Shelf] = {}
        self._strangers: dict[str, int] = {}
        self._second = 0

    def replace(self, generation: Generation) -> None:
        """Take another generation; nothing of the old one is answered any more."""
        self._generation = generation
        self._shelves = self._empty()
        self._peers = {}

    def _empty(self) -> dict[View, _Shelf]:
        return {view: _Shelf(view, self.counts[view]) for view in View}

    def receive(self, data: bytes, peer: str, now: float, *, is_tcp: bool) -> bytes | Ask | None:
        """Answer one message; None for what must not be answered."""
        shelf = self._peers.get(peer) or self._shelf(peer)
        kept = (shelf.tcp if is_tcp else shelf.udp).get(data[2:])
        if kept is not None and now < self._kept_until:
            shelf.counts.own[kept[1] & 15] += 1
            return data[:2] + kept
        if int(now) != self._second:
            self._begin_second(int(now))
        elif not is_tcp and (kept := shelf.passing.get(data[2:])) is not None:
            counts = shelf.counts
            counts.others[kept[1] & 15] += 1
            counts.repeated += 1
            return data[:2] + kept
        answer = self._receive(data, peer, shelf, now, is_tcp=is_tcp)
        if isinstance(answer, bytes):
            shelf.counts.own[answer[3] & 15] += 1
        return answer

    def _receive(
        self, data: bytes, peer: str, shelf: _Shelf, now: float, *, is_tcp: bool
    ) -> bytes | Ask | None:
        """Answer what is on no shelf."""
        if len(data) < HEADER.size or data[2] & 0x80:
            return None
        view = shelf.view
        is_small = view is View.STRANGER and not is_tcp
        if is_small and not self._may_answer(peer):
            self.dropped += 1
            return None
        opcode = data[2] >> 3 & 15
        if opcode != QUERY:
            return bare(data, Rcode.REFUSED if opcode in (NOTIFY, UPDATE) else Rcode.NOTIMP)
        try:
            query = decode_query(data)
        except FormatError:
            return bare(data, Rcode.FORMERR)
        size = _size(query, is_tcp)
        answer = self._answer(query, peer, view, now, is_tcp=is_tcp)
        if isinstance(answer, Answer):
            reply = encode(query, answer, size)
            if is_small and len(reply) > len(data) and not self._has_cookie(query, peer, now):
                return _shrink(query, answer, len(data))
            if not is_small and answer.flags & AA and not answer.cookie:
                self._keep(data, shelf.tcp if is_tcp else shelf.udp, reply, now)
            return reply
        answer.size = size
        return answer

    def _shelf(self, peer: str) -> _Shelf:
        if len(self._peers) >= MAX_PEERS:
            self._peers.clear()
        shelf = self._shelves[self._generation.views.of(peer)]
        self._peers[peer] = shelf
        return shelf

    def _begin_second(self, second: int) -> None:
        self._second, self._strangers = second, {}
        for shelf in self._shelves.values():
            shelf.passing.clear()

    def _may_answer(self, peer: str) -> bool:
        """Limit what strangers get: a forged source is the victim of our answers."""
        network = peer.rpartition(".")[0] or peer[:14]
        count = self._strangers.get(network, 0) + 1
        self._strangers[network] = count
        return count <= STRANGER_PER_SECOND and len(self._strangers) <= MAX_PEERS

    def _has_cookie(self, query: Query, peer: str, now: float) -> bool:
        edns = query.edns
        return edns is not None and cookies.is_good(self._secret, edns.cookie, peer, now)

    def _keep(self, data: bytes, answers: dict[bytes, bytes], reply: bytes, now: float) -> None:
        """Keep what is ours, for whoever asks the same bytes in the same view."""
        if now >= self._kept_until:
            self._shelves = self._empty()
            self._peers = {}
            self._kept_until = now + CACHED_SECONDS
        elif len(data) <= MAX_CACHED_QUERY:
            if len(answers) >= MAX_CACHED:
                answers.clear()
            answers[data[2:]] = reply[2:]

    def keep(self, data: bytes, peer: str, reply: bytes) -> None:
        """Keep what others answered to a question by UDP for the rest of this second.

        Every TTL that is not 0 lasts so long; an answer with a cookie is for one client alone.
        """
        shelf = self._peers.get(peer)
        if shelf is not None and len(data) <= MAX_CACHED_QUERY and len(shelf.passing) < MAX_CACHED:
            shelf.passing[data[2:]] = reply[2:]

    def _answer(
        self, query: Query, peer: str, view: View, now: float, *, is_tcp: bool
    ) -> Answer | Ask:
        edns = query.edns
        if edns is not None and edns.version != 0:
            return Answer(rcode=Rcode.BADVERS)
        cookie = b""
        if edns is not None and edns.cookie:
            cookie = cookies.make(self._secret, edns.cookie, peer, now)
            is_whole = len(edns.cookie) > cookies.CLIENT_SIZE
            if is_whole and not is_tcp and not self._has_cookie(query, peer, now):
                return Answer(rcode=Rcode.BADCOOKIE, cookie=cookie)
        if not query.question:
            return Answer(rcode=Rcode.NOERROR, cookie=cookie)
        answer = self._find(query, view, now)
        if not cookie:
            return answer
        if isinstance(answer, Answer):
            return replace(answer, cookie=cookie)
        answer.cookie = cookie
        return answer

    def _find(self, query: Query, view: View, now: float) -> Answer | Ask:
        if query.qclass == CHAOS:
            return self._chaos(query)
        if query.qclass != IN or query.qtype in _REFUSED_TYPES:
            return Answer(rcode=Rcode.REFUSED)
        if query.qtype == Rtype.OPT:
            return Answer(rcode=Rcode.FORMERR)
        if view is View.ENROLMENT and query.name not in self._generation.views.names:
            return Answer(
                rcode=Rcode.REFUSED,
                error=ExtendedError.PROHIBITED,
                said="this box is not enrolled yet",
            )
        found = self._generation.zones.lookup(query.name, query.qtype)
        if found.left is not None:
            return self._hand_on(query, view, found, now)
        if query.qtype == Rtype.RRSIG and (signature := self._signature_at(query.name, now)):
            return Answer(rcode=Rcode.NOERROR, flags=AA | self._recursion(view), answers=signature)
        flags = AA if found.is_authoritative else 0
        return self._write(query, found, flags | self._recursion(view), now)

    def _recursion(self, view: View) -> int:
        return RA if self._generation.forwards and view is View.FULL else 0

    def _hand_on(self, query: Query, view: View, found: Found, now: float) -> Answer | Ask:
        """Go on elsewhere where that may be, else say that it is not ours."""
        recursion = self._recursion(view)
        begun = self._signed(found.answers, now) if query.wants_signatures else found.answers
        if recursion and query.flags & RD and found.left is not None:
            return Ask(query=query, name=found.left, qtype=query.qtype, begun=begun)
        if found.answers:
            return Answer(rcode=Rcode.NOERROR, flags=AA | recursion, answers=begun)
        if self._generation.forwards and not recursion:
            return Answer(
                rcode=Rcode.REFUSED,
                error=ExtendedError.PROHIBITED,
                said="this address may ask for the names of this site alone",
            )
        return Answer(rcode=Rcode.REFUSED, flags=recursion, error=ExtendedError.NOT_AUTHORITATIVE)

    def _write(self, query: Query, found: Found, flags: int, now: float) -> Answer:
        """Add what a client will ask for next, then the signatures."""
        extra = (*found.additional, *self._extra(found))
        if not query.wants_signatures or not self._generation.signers:
            return Answer(
                rcode=found.rcode,
                flags=flags,
                answers=found.answers,
                authority=tuple(one for one in found.authority if one.rtype != Rtype.DS),
                additional=extra,
            )
        authority = self._signed(found.authority, now)
        proofs: dict[tuple[Labels, int], RRset] = {}
        for origin in dict.fromkeys(missing.zone for missing in found.missing):
            signer = self._generation.signers.get(origin)
            if signer is not None:
                proofs |= {(one.owner, one.rtype): one for one in signer.prove(found, now)}
        return Answer(
            rcode=found.rcode,
            flags=flags,
            answers=self._signed(found.answers, now),
            authority=(*authority, *proofs.values()),
            additional=self._signed(extra, now),
        )

    def _signed(self, rrsets: tuple[RRset, ...], now: float) -> tuple[RRset, ...]:
        signed: list[RRset] = []
        for rrset in rrsets:
            zone = self._generation.zones.zone_of(rrset.owner, rrset.rtype)
            signer = None if zone is None else self._generation.signers.get(zone.origin)
            signed += [rrset] if signer is None else signer.signed([rrset], now)
        return tuple(signed)

    def _signature_at(self, name: Labels, now: float) -> tuple[RRset, ...]:
        """Give the signature of one set of a name: that there is none, the denial disproves.

        Not all of them, as for ANY (RFC 8482, 4.1).
        """
        zone = self._generation.zones.zone_of(name)
        sets = {} if zone is None or zone.cut(name) else zone.names.get(name, {})
        for rrset in sets.values():
            if signatures := self._signed((rrset,), now)[1:]:
                return signatures
        return ()

    def _extra(self, found: Found) -> list[RRset]:
        """Give the addresses of hosts that the answer names, where they are ours."""
        extra: dict[tuple[Labels, int], RRset] = {}
        for rrset in found.answers:
            start = _TARGETS.get(rrset.rtype)
            if start is None:
                continue
            for data in rrset.rdatas:
                name = read_wire(data, start)[0]
                zone = self._generation.zones.zone_of(name)
                sets = {} if zone is None else zone.names.get(name, {})
                for rtype in (Rtype.A, Rtype.AAAA):
                    if rtype in sets:
                        extra[name, rtype] = sets[rtype]
        return list(extra.values())

    def finish(self, ask: Ask, resolved: Resolved) -> bytes:
        """Write the answer to a question that others have answered."""
        flags = RA | ask.query.flags & CD
        if (
            resolved.is_secure
            and not ask.begun
            and (ask.query.flags & AD or ask.query.wants_signatures)
        ):
            flags |= AD
        answers, authority = resolved.answers, resolved.authority
        if not ask.query.wants_signatures:
            answers, authority = _without_proofs(answers, ask), _without_proofs(authority, ask)
        answer = Answer(
            rcode=resolved.rcode,
            flags=flags,
            answers=(*ask.begun, *answers),
            authority=authority,
            error=resolved.error,
            said=resolved.said,
            cookie=ask.cookie,
        )
        self.counts[View.FULL].others[resolved.rcode & 15] += 1
        return encode(ask.query, answer, ask.size)

    def _chaos(self, query: Query) -> Answer:
        texts = {
            (b"version", b"bind"): SOFTWARE,
            (b"version", b"server"): SOFTWARE,
            (b"hostname", b"bind"): self._host,
            (b"id", b"server"): self._host,
        }
        if query.name not in texts or query.qtype not in (Rtype.TXT, Rtype.ANY):
            return Answer(rcode=Rcode.REFUSED)
        said = texts[query.name].encode()[:255]
        value = RRset(
            owner=query.name, rtype=Rtype.TXT, ttl=0, rdatas=(bytes((len(said),)) + said,)
        )
        return Answer(rcode=Rcode.NOERROR, flags=AA, answers=(value,))


_PROOFS = frozenset({Rtype.RRSIG, Rtype.NSEC, Rtype.NSEC3})
_TARGETS: Mapping[int, int] = {Rtype.NS: 0, Rtype.MX: 2, Rtype.SRV: 6}
"""Types that name a host, and where in their data."""


def _size(query: Query, is_tcp: bool) -> int:
    if is_tcp:
        return TCP_SIZE
    if query.edns is None:
        return PLAIN_SIZE
    return min(max(PLAIN_SIZE, query.edns.size), UDP_SIZE)


def _shrink(query: Query, answer: Answer, size: int) -> bytes:
    """Tell a stranger to ask by TCP, in no more bytes than he sent."""
    reply = encode(query, replace(answer, cookie=b"", error=None), 0)
    return reply if len(reply) <= size else bare(reply, answer.rcode)


def _without_proofs(rrsets: tuple[RRset, ...], ask: Ask) -> tuple[RRset, ...]:
    """Leave out what only who set DO understands, unless it was asked for (RFC 4035, 3.2.1)."""
    return tuple(one for one in rrsets if one.rtype not in _PROOFS or one.rtype == ask.qtype)


def signed_zones(zones: Zones, signers: Mapping[Labels, ZoneSigner]) -> Zones:
    """Give zones with the records that signing adds at their apex."""

    def whole(zone: Zone) -> Zone:
        signer = signers.get(zone.origin)
        return zone if signer is None else signer.zone

    return Zones(map(whole, zones))
