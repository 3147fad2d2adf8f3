"""Canaries: whether an upstream, or somebody on the way to it, changes answers.

A random name must not exist, the root's keys must verify, and an address where nobody is must not
answer on port 53. What was seen is told; what it means for a question, validation decides (N33).
RFC 8906 has no word on it; 192.0.2.0/24 is nobody's (RFC 5737).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from netboot.dns_cache import Known, Trust
from netboot.names import Labels
from netboot.rdata import Rtype, show
from netboot.resolver import Ports, Transport, UnreachableError, Upstream
from netboot.upstream import NotAnsweredError, make_question, read_answer
from netboot.validate import BogusError, Validator
from netboot.zone import Rcode

CANARY_SECONDS = 600.0
"""Between looks at an upstream."""
WAIT_SECONDS = 3.0
NOBODY = Upstream(address="192.0.2.53", port=53, transport=Transport.PLAIN)
_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_LENGTH = 20
_DRAWN = 34


class Sign(StrEnum):
    """What a canary saw."""

    REWRITES = "gives addresses to names that do not exist"
    STRIPS = "leaves out the signatures of the root"
    FORGES = "gives keys of the root that are not the root's"
    INTERCEPTS = "somebody on the way answers in place of others on port 53"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One sign of a changed answer: of which upstream, and what was seen."""

    upstream: Upstream
    sign: Sign
    seen: str


def look(
    upstream: Upstream, ports: Ports, anchors: dict[Labels, tuple[bytes, ...]]
) -> list[Finding]:
    """Try the canaries on one upstream; one that is silent shows nothing."""
    found = [*_random_name(upstream, ports), *_root_keys(upstream, ports, anchors)]
    return [Finding(upstream=upstream, sign=sign, seen=seen) for sign, seen in found]


def look_around(ports: Ports) -> list[Finding]:
    """Try whether an address where nobody is answers."""
    known = _ask(NOBODY, (b"example", b"com"), Rtype.A, ports)
    if known is None:
        return []
    return [Finding(upstream=NOBODY, sign=Sign.INTERCEPTS, seen=_seen(known))]


def _random_name(upstream: Upstream, ports: Ports) -> Iterator[tuple[Sign, str]]:
    label = bytes(_LETTERS[byte % len(_LETTERS)] for byte in ports.draw(_LENGTH))
    known = _ask(upstream, (label, b"com"), Rtype.A, ports)
    if known is not None and known.rcode is Rcode.NOERROR and known.answers:
        yield Sign.REWRITES, f"{label.decode()}.com: {_seen(known)}"


def _root_keys(
    upstream: Upstream, ports: Ports, anchors: dict[Labels, tuple[bytes, ...]]
) -> Iterator[tuple[Sign, str]]:
    known = _ask(upstream, (), Rtype.DNSKEY, ports)
    if known is None or known.rcode is not Rcode.NOERROR or () not in anchors:
        return
    if not any(one.rtype == Rtype.RRSIG for one in known.answers):
        yield Sign.STRIPS, "the keys of the root came without signature"
        return
    fetch: Callable[[Labels, int], Known] = lambda name, qtype: known  # noqa: E731 - one answer
    validator = Validator(fetch, ports.wall(), blind=ports.is_blind(), anchors=anchors)
    try:
        if validator.check(known, (), Rtype.DNSKEY) is Trust.INSECURE:
            yield Sign.STRIPS, "the keys of the root came without a signature that counts"
    except BogusError as error:
        if not error.is_expired:
            yield Sign.FORGES, str(error)


def _ask(upstream: Upstream, name: Labels, qtype: int, ports: Ports) -> Known | None:
    question = make_question(name, qtype, ports.draw(_DRAWN))
    data = question.encode(pads=upstream.transport is Transport.TLS)
    try:
        return read_answer(ports.exchange(upstream, data, WAIT_SECONDS), question)
    except (UnreachableError, NotAnsweredError):
        return None


def _seen(known: Known) -> str:
    shown = [show(one.rtype, data) for one in known.answers for data in one.rdatas]
    return ", ".join(shown)[:200] or known.rcode.name
