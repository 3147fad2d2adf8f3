"""What verified NSEC and NSEC3 records prove about names that are not there.

A record counts only for names in the zone that signed it, and nothing that a zone delegated is
denied by it. Nothing is verified here: who hands a record in has checked its signature.
RFC 4035, 5.4; RFC 5155, 8; RFC 6840, 4; RFC 9276, 3.2.
"""

from __future__ import annotations

import hashlib
from base64 import b32hexdecode
from binascii import Error as Base32Error
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from netboot.names import Labels, is_at_or_below, order, read_wire, wire
from netboot.rdata import Rtype
from netboot.zone import WILDCARD, RRset

MAX_ITERATIONS = 50
"""Of NSEC3; records with more prove nothing, so that one answer costs little (CVE-2023-50868)."""
_SHA1 = 1
_OPT_OUT = 1


class Proof(Enum):
    """How far an absence is proved."""

    NONE = auto()
    OPEN = auto()
    """An unsigned delegation may be there (opt-out): no more than insecure (RFC 5155, 9.2)."""
    HOLDS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nsec:
    """The NSEC records of one zone: owner, the name that follows, and the types of the owner."""

    zone: Labels
    spans: tuple[tuple[Labels, Labels, frozenset[int]], ...]

    def types_at(self, name: Labels) -> frozenset[int] | None:
        return next((types for owner, _, types in self.spans if owner == name), None)

    def covers(self, name: Labels) -> Proof:
        """Tell whether a name is proved not to exist itself."""
        wanted = order(name)
        for owner, following, types in self.spans:
            if is_at_or_below(name, owner) and _hides(types):
                continue
            if is_at_or_below(following, name):
                continue  # an empty non-terminal: there, though it owns nothing
            start, end = order(owner), order(following)
            if (start < wanted < end) or (end <= start and (wanted > start or wanted < end)):
                return Proof.HOLDS
        return Proof.NONE

    def is_between(self, name: Labels) -> bool:
        """Tell an empty non-terminal: a name below it follows in the chain (RFC 4035, 5.4)."""
        return any(
            is_at_or_below(following, name) and following != name and order(owner) < order(name)
            for owner, following, _ in self.spans
        )

    def encloser(self, name: Labels) -> Labels | None:
        """Find the closest name above that is proved to exist."""
        for at in range(1, len(name) + 1 - len(self.zone)):
            above = name[at:]
            if any(is_at_or_below(one, above) for span in self.spans for one in span[:2]):
                return above
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nsec3:
    """The NSEC3 records of one zone and one way of hashing, by the hash that each begins at."""

    zone: Labels
    salt: bytes
    iterations: int
    spans: dict[bytes, tuple[bytes, frozenset[int], int]]

    def _hash(self, name: Labels) -> bytes:
        found = wire(name)
        for _ in range(self.iterations + 1):
            found = hashlib.sha1(found + self.salt, usedforsecurity=False).digest()
        return found

    def types_at(self, name: Labels) -> frozenset[int] | None:
        found = self.spans.get(self._hash(name))
        return None if found is None else found[1]

    def covers(self, name: Labels) -> Proof:
        """Tell whether a name is proved not to exist itself."""
        wanted = self._hash(name)
        for start, (end, _, flags) in self.spans.items():
            if (start < wanted < end) or (end <= start and (wanted > start or wanted < end)):
                return Proof.OPEN if flags & _OPT_OUT else Proof.HOLDS
        return Proof.NONE

    def is_between(self, name: Labels) -> bool:  # noqa: ARG002 a name in between has a record here
        return False

    def encloser(self, name: Labels) -> Labels | None:
        """Find the closest name above that has a record, unless its zone ends there."""
        for at in range(1, len(name) + 1 - len(self.zone)):
            types = self.types_at(name[at:])
            if types is not None:
                return None if _hides(types) else name[at:]  # RFC 5155, 8.3
        return None


class Denial:
    """The denial records of one answer, each with the zone that signed it."""

    def __init__(self, records: Iterable[tuple[RRset, Labels]]) -> None:
        """Sort them by zone; what cannot be read or has too many iterations proves nothing."""
        nsec: dict[Labels, list[tuple[Labels, Labels, frozenset[int]]]] = {}
        self._chains: list[_Nsec | _Nsec3] = []
        hashed: dict[tuple[Labels, bytes, int], dict[bytes, tuple[bytes, frozenset[int], int]]] = {}
        for record, zone in records:
            data = record.rdatas[0]
            if record.rtype == Rtype.NSEC:
                following, end = read_wire(data.lower())
                nsec.setdefault(zone, []).append((record.owner, following, _types(data[end:])))
            elif record.owner[1:] == zone and (found := _read_nsec3(record.owner[0], data)):
                how, start, span = found
                hashed.setdefault((zone, *how), {})[start] = span
        self._chains += [_Nsec(zone=zone, spans=tuple(spans)) for zone, spans in nsec.items()]
        self._chains += [
            _Nsec3(zone=zone, salt=salt, iterations=iterations, spans=spans)
            for (zone, salt, iterations), spans in hashed.items()
        ]

    def _above(self, name: Labels, qtype: int = 0) -> Iterator[_Nsec | _Nsec3]:
        """Give the chains of zones that a name may be in; a DS is in its parent's."""
        for chain in self._chains:
            if is_at_or_below(name, chain.zone) and (qtype != Rtype.DS or name != chain.zone):
                yield chain

    def denies_name(self, name: Labels) -> Proof:
        """Tell whether there is no such name, nor a wildcard for it."""
        return _best(
            _weaker(_no_closer(chain, name, above), chain.covers((WILDCARD, *above)))
            for chain in self._above(name)
            if (above := chain.encloser(name)) is not None
        )

    def denies_type(self, name: Labels, qtype: int) -> Proof:
        """Tell whether a name, or the wildcard for it, has no such type and no CNAME."""
        return _best(_denies_type(chain, name, qtype) for chain in self._above(name, qtype))

    def denies_zone(self, name: Labels) -> bool | None:
        """Tell a delegation without DS (True) from a name that is none (False).

        None when neither is proved.
        """
        for chain in self._above(name, Rtype.DS):
            types = chain.types_at(name)
            if types is not None:
                return Rtype.NS in types and Rtype.DS not in types and Rtype.SOA not in types
            if chain.is_between(name):
                return False
            above = chain.encloser(name)
            closer = Proof.NONE if above is None else _no_closer(chain, name, above)
            if closer is not Proof.NONE:
                return closer is Proof.OPEN
        return None

    def denies_closer(self, name: Labels, count: int, zone: Labels) -> Proof:
        """Tell whether the name below a wildcard's parent of `count` labels is not there."""
        closer = name[len(name) - count - 1 :]
        return _best(chain.covers(closer) for chain in self._chains if chain.zone == zone)


def _no_closer(chain: _Nsec | _Nsec3, name: Labels, above: Labels) -> Proof:
    """Tell whether the next name below the closest encloser, towards `name`, is not there."""
    return chain.covers(name[len(name) - len(above) - 1 :])


def _denies_type(chain: _Nsec | _Nsec3, name: Labels, qtype: int) -> Proof:
    types = chain.types_at(name)
    if types is not None:
        is_delegated = Rtype.NS in types and Rtype.SOA not in types
        return Proof.NONE if is_delegated and qtype != Rtype.DS else _lacks(types, qtype)
    if chain.is_between(name):
        return Proof.HOLDS
    above = chain.encloser(name)
    if above is None:
        return Proof.NONE
    closer = _no_closer(chain, name, above)
    if qtype == Rtype.DS and closer is Proof.OPEN:
        return Proof.OPEN
    types = chain.types_at((WILDCARD, *above))
    return Proof.NONE if types is None else _weaker(closer, _lacks(types, qtype))


def _lacks(types: frozenset[int], qtype: int) -> Proof:
    return Proof.NONE if qtype in types or Rtype.CNAME in types else Proof.HOLDS


def _weaker(one: Proof, other: Proof) -> Proof:
    return min(one, other, key=lambda proof: proof.value)


def _best(proofs: Iterable[Proof]) -> Proof:
    return max(proofs, key=lambda proof: proof.value, default=Proof.NONE)


def _hides(types: frozenset[int]) -> bool:
    """Tell whether what is below a name is not its zone's to deny (RFC 6840, 4.1)."""
    return (Rtype.NS in types and Rtype.SOA not in types) or Rtype.DNAME in types


_Read = tuple[tuple[bytes, int], bytes, tuple[bytes, frozenset[int], int]]


def _read_nsec3(label: bytes, data: bytes) -> _Read | None:
    """Read an NSEC3 (RFC 5155, 3.2): salt and iterations, where it begins, its span."""
    if len(data) < 6 or data[0] != _SHA1 or data[1] & ~_OPT_OUT:
        return None  # RFC 5155, 8.2: an unknown hash or flag proves nothing
    iterations, at = int.from_bytes(data[2:4], "big"), 5 + data[4]
    if iterations > MAX_ITERATIONS or at >= len(data):
        return None
    try:
        start = b32hexdecode(label.upper())
    except (Base32Error, ValueError):
        return None
    end = at + 1 + data[at]
    return (data[5:at], iterations), start, (data[at + 1 : end], _types(data[end:]), data[1])


def _types(data: bytes) -> frozenset[int]:
    found: set[int] = set()
    at = 0
    while at + 2 <= len(data):
        window, size = data[at], data[at + 1]
        for byte, bits in enumerate(data[at + 2 : at + 2 + size]):
            found |= {window << 8 | byte << 3 | bit for bit in range(8) if bits & 0x80 >> bit}
        at += 2 + size
    return frozenset(found)
