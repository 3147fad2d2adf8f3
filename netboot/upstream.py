"""One question to another server, and what of its answer is believed.

The question carries a random number, and random case in the name (0x20); an answer counts when both
come back with it, from where it was asked. Only the chain that answers the question is taken, and
for what is not there the SOA with its proofs; everything else could be about other names.
RFC 5452, 9.1; RFC 2181, 5.4.1; RFC 1035, 4.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address

from netboot.dns_cache import Known
from netboot.dns_message import (
    CD,
    HEADER,
    IN,
    RD,
    TC,
    encode_own_opt,
    encode_question,
)
from netboot.dns_records import Record, RecordError, read_records
from netboot.errors import PeerError
from netboot.names import Labels, is_at_or_below, read_wire, renamed, wire
from netboot.rdata import Rtype, target
from netboot.zone import Rcode, RRset

MAX_RECORDS = 500
MAX_MESSAGE = 65535
_RCODES = {int(one): one for one in Rcode}
_PROOFS = frozenset({Rtype.SOA, Rtype.NSEC, Rtype.NSEC3, Rtype.RRSIG})
_MAX_CHAIN = 16
_SIGNER = 18
"""Where the name of the signer begins in an RRSIG (RFC 4034, 3.1)."""
_PADDING, _BLOCK = 12, 128
"""RFC 7830 and RFC 8467, 4.1: questions over TLS all have the same length."""


class NotAnsweredError(PeerError):
    """This message does not answer the question; the text says why."""


class UnreadableError(NotAnsweredError):
    """It answers this question with what we cannot read: whoever asks can choose such a name."""


class TruncatedError(NotAnsweredError):
    """The answer was too long for UDP: ask again by TCP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question on its way: `cased` is the name as it is written in it."""

    number: int
    name: Labels
    cased: tuple[bytes, ...]
    qtype: int

    def encode(self, *, pads: bool) -> bytes:
        """Write it: recursion wanted, signatures wanted, checks are ours (RFC 4035, 3.2.2)."""
        flags = RD | CD
        opt = encode_own_opt(do=True)
        data = encode_question(self.number, flags, self.cased, self.qtype, opt)
        if not pads:
            return data
        room = -(len(data) + 4) % _BLOCK
        padding = struct.pack("!HH", _PADDING, room) + bytes(room)
        opt = encode_own_opt(do=True, options=padding)
        return encode_question(self.number, flags, self.cased, self.qtype, opt)


def make_question(name: Labels, qtype: int, drawn: bytes) -> Question:
    """Make a question from random bytes: 2 for the number, the rest flips letters."""
    number, bits = int.from_bytes(drawn[:2], "big"), int.from_bytes(drawn[2:], "big")
    cased = []
    for label in name:
        letters = bytearray(label)
        for at, byte in enumerate(letters):
            if 0x61 <= byte <= 0x7A:
                letters[at] = byte ^ 0x20 * (bits & 1)
                bits >>= 1
        cased.append(bytes(letters))
    return Question(number=number, name=name, cased=tuple(cased), qtype=qtype)


def is_reply(data: bytes, query: bytes) -> bool:
    """Tell what may answer a question from what somebody else sent to the same port (N25)."""
    end = query.find(b"\0", HEADER.size) + 5
    is_same = data[:2] == query[:2] and data[HEADER.size : end] == query[HEADER.size : end]
    return is_same and len(data) >= end and bool(data[2] & 0x80)


def read_answer(data: bytes, question: Question) -> Known:
    """Take what answers the question; NotAnsweredError for everything else, spoofed or broken.

    UnreadableError where it did answer.
    """
    counts = _check_head(data, question)
    at = HEADER.size + len(wire(question.cased)) + 4
    try:
        answer, at = read_records(data, at, counts[0])
        proofs, at = read_records(data, at, counts[1])
        additional, _ = read_records(data, at, counts[2])
    except RecordError as error:
        raise UnreadableError(f"cannot be read: {error}") from None
    code = _extended(data[3] & 15, additional)
    rcode = _RCODES.get(code)
    if rcode is None:
        raise UnreadableError(f"answers with code {code}")
    answers = _chain(_rrsets(answer), question)
    names = {question.name, *(target(one.rdatas[0]) for one in answers if one.rtype == Rtype.CNAME)}
    authority = _proofs(_rrsets(proofs), names)
    if _is_whole(answers, question):  # a wildcard answers with the proof that it may
        authority = tuple(one for one in authority if _covers_denial(one))
    return Known(rcode=rcode, answers=answers, authority=authority)


def _check_head(data: bytes, question: Question) -> tuple[int, ...]:
    """Check that a message answers this question, and give how many records it says to have."""
    asked = wire(question.cased) + struct.pack("!HH", question.qtype, 1)
    if len(data) < HEADER.size + len(asked) or len(data) > MAX_MESSAGE:
        raise NotAnsweredError("has the wrong length")
    number, flags, questions, *counts = HEADER.unpack_from(data)
    if number != question.number or not flags & 0x8000 or flags & 0x7800:
        raise NotAnsweredError("is no answer, or to another question")
    if questions != 1 or data[HEADER.size : HEADER.size + len(asked)] != asked:
        raise NotAnsweredError("repeats another question")
    if flags & TC:
        raise TruncatedError("was cut off")
    if sum(counts) > MAX_RECORDS:
        raise UnreadableError("has too many records")
    return tuple(counts)


def _extended(low: int, additional: Iterable[Record]) -> int:
    opt = next((one for one in additional if one.rtype == Rtype.OPT), None)
    return low if opt is None else opt.ttl >> 24 << 4 | low


def _rrsets(records: Iterable[Record]) -> dict[tuple[Labels, int, int], RRset]:
    """Gather records to sets; signatures apart by what they cover."""
    found: dict[tuple[Labels, int, int], RRset] = {}
    for one in records:
        if one.rclass != IN:
            continue
        covered = int.from_bytes(one.data[:2], "big") if one.rtype == Rtype.RRSIG else 0
        key = (one.owner, one.rtype, covered)
        known = found.get(key)
        rdatas = (one.data,) if known is None else (*known.rdatas, one.data)
        ttl = one.ttl if known is None else min(known.ttl, one.ttl)
        found[key] = RRset(
            owner=one.owner, rtype=one.rtype, ttl=ttl, rdatas=tuple(dict.fromkeys(rdatas))
        )
    return found


def _chain(sets: dict[tuple[Labels, int, int], RRset], question: Question) -> tuple[RRset, ...]:
    """Follow the question through CNAMEs; signatures go with what they sign."""
    name, taken = question.name, []
    for _ in range(_MAX_CHAIN):
        rrset = sets.get((name, question.qtype, 0))
        alias = sets.get((name, Rtype.CNAME, 0)) if question.qtype != Rtype.CNAME else None
        found = rrset or alias
        if found is None:
            break
        signature = sets.get((name, Rtype.RRSIG, found.rtype))
        if signature is None and found.rtype == Rtype.CNAME:
            taken += [one for one in _moved(sets, found) if one not in taken]
        taken += [found] if signature is None else [found, signature]
        if found is rrset:
            break
        name = target(found.rdatas[0])
        if any(one.owner == name for one in taken):
            break
    return tuple(taken)


def _moved(sets: dict[tuple[Labels, int, int], RRset], alias: RRset) -> list[RRset]:
    """Find the DNAME that a CNAME without signature stands for, with its own (RFC 6672, 5.3.1)."""
    for start in range(1, len(alias.owner) + 1):
        moved = sets.get((alias.owner[start:], Rtype.DNAME, 0))
        if moved is not None and stands_for(alias, moved):
            signature = sets.get((moved.owner, Rtype.RRSIG, Rtype.DNAME))
            return [moved] if signature is None else [moved, signature]
    return []


def stands_for(alias: RRset, moved: RRset) -> bool:
    """Tell whether a CNAME is what a DNAME makes of its owner."""
    if moved.rtype != Rtype.DNAME or not is_at_or_below(alias.owner[1:], moved.owner):
        return False
    made = renamed(alias.owner, moved.owner, target(moved.rdatas[0]))
    return len(moved.rdatas) == 1 and alias.rdatas == (wire(made or ()),)


def _is_whole(answers: tuple[RRset, ...], question: Question) -> bool:
    return any(one.rtype == question.qtype for one in answers)


def _proofs(sets: dict[tuple[Labels, int, int], RRset], names: set[Labels]) -> tuple[RRset, ...]:
    """Take SOA and denial of zones that a name of the chain is in."""
    taken = []
    for one in sets.values():
        zone = _zone_of(one, sets) if one.rtype in _PROOFS else None
        if zone is not None and any(is_at_or_below(name, zone) for name in names):
            taken.append(one)
    return tuple(taken)


def _covers_denial(rrset: RRset) -> bool:
    covered = int.from_bytes(rrset.rdatas[0][:2], "big") if rrset.rtype == Rtype.RRSIG else 0
    return bool({rrset.rtype, covered} & {Rtype.NSEC, Rtype.NSEC3})


def _zone_of(rrset: RRset, sets: dict[tuple[Labels, int, int], RRset]) -> Labels | None:
    """Say in which zone a proof counts: an SOA's is its owner, a signed record's its signer.

    The owner of an NSEC may be a name deep in its zone. One without signature proves nothing: None.
    """
    if rrset.rtype == Rtype.SOA:
        return rrset.owner
    signed = rrset if rrset.rtype == Rtype.RRSIG else None
    signature = signed or sets.get((rrset.owner, Rtype.RRSIG, rrset.rtype))
    return None if signature is None else read_wire(signature.rdatas[0], _SIGNER)[0]


PRIVATE = tuple(
    (IPv6Network if ":" in text else IPv4Network)(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "240.0.0.0/4", "::/127", "::ffff:0:0/96"),
        *("64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10"),
    )
)
"""Addresses that a public name has no business to have."""


def without_private(known: Known, allowed: Iterable[Labels]) -> tuple[Known, bool]:
    """Take private addresses out of an answer (N27); True when there were any.

    Names at or below `allowed` keep theirs.
    """
    allowed = tuple(allowed)
    kept, dropped = [], False
    for one in known.answers:
        if one.rtype in (Rtype.A, Rtype.AAAA) and not any(
            is_at_or_below(one.owner, zone) for zone in allowed
        ):
            rdatas = tuple(data for data in one.rdatas if not _is_private(data))
            dropped = dropped or len(rdatas) < len(one.rdatas)
            if not rdatas:
                continue
            one = replace(one, rdatas=rdatas)  # noqa: PLW2901 - what is kept of it
        kept.append(one)
    return (replace(known, answers=tuple(kept)), True) if dropped else (known, False)


def _is_private(data: bytes) -> bool:
    if len(data) not in (4, 16):
        return True
    address = ip_address(data)
    return any(address.version == one.version and address in one for one in PRIVATE)
