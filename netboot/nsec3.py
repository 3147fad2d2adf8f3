"""Denial of existence: the NSEC3 chain of a zone, and which of its records prove an absence.

No salt, no iterations, no opt-out (RFC 9276, 3.1). It signs nothing. RFC 5155, 7.1 and 7.2;
RFC 4034, 4.1.2 for the bitmap of types.
"""

from __future__ import annotations

import hashlib
from base64 import b32hexencode
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from netboot.names import Labels, wire
from netboot.rdata import Rtype
from netboot.zone import WILDCARD, Absence, Missing, RRset, Zone

_SHA1, _NO_FLAGS, _NO_ITERATIONS = 1, 0, 0
_PARAMETERS = bytes((_SHA1, _NO_FLAGS)) + _NO_ITERATIONS.to_bytes(2, "big") + b"\0"
"""What NSEC3PARAM holds, and how each NSEC3 begins: hash, flags, iterations, an empty salt."""

NSEC3PARAM = _PARAMETERS


def hash_of(name: Labels) -> bytes:
    """Hash an owner name (RFC 5155, 5): 20 bytes."""
    return hashlib.sha1(wire(name), usedforsecurity=False).digest()


def bitmap(types: Iterable[int]) -> bytes:
    """Write types as windows of bits."""
    windows: dict[int, bytearray] = {}
    for rtype in sorted(types):
        bits = windows.setdefault(rtype >> 8, bytearray())
        at = (rtype & 0xFF) >> 3
        bits.extend(bytes(at + 1 - len(bits)))
        bits[at] |= 0x80 >> (rtype & 7)
    return b"".join(bytes((number, len(bits))) + bits for number, bits in windows.items())


class Chain:
    """Every existing name of a zone by its hash; delegations and what is above them, not below."""

    def __init__(self, zone: Zone, ttl: int) -> None:
        """Hash all names; `ttl` is that of negative answers (RFC 9077)."""
        self._zone, self._ttl = zone, ttl
        entries = sorted((hash_of(name), name) for name in _names(zone))
        self._hashes = [entry[0] for entry in entries]
        self._names = [entry[1] for entry in entries]

    def prove(self, missing: Missing) -> list[RRset]:
        """Give the NSEC3 records that prove an absence, each once."""
        name, encloser = missing.name, missing.encloser
        wildcard = (WILDCARD, *encloser)
        match missing.absence:
            case Absence.TYPE | Absence.DS:
                found = [self._matching(name)]
            case Absence.EXACT:
                found = [self._covering(_next_closer(name, encloser))]
            case Absence.NAME:
                found = [
                    self._matching(encloser),
                    self._covering(_next_closer(name, encloser)),
                    self._covering(wildcard),
                ]
            case Absence.WILDCARD_TYPE:
                found = [
                    self._matching(encloser),
                    self._covering(_next_closer(name, encloser)),
                    self._matching(wildcard),
                ]
        return [self._record(at) for at in dict.fromkeys(found)]

    def records(self) -> list[RRset]:
        """Give the whole chain, for a zone that is written to a file."""
        return [self._record(at) for at in range(len(self._hashes))]

    def _matching(self, name: Labels) -> int:
        """Find the record of a name that exists."""
        return bisect_right(self._hashes, hash_of(name)) - 1

    def _covering(self, name: Labels) -> int:
        """Find the record whose span holds the hash of a name that does not exist."""
        return (bisect_right(self._hashes, hash_of(name)) - 1) % len(self._hashes)

    def _record(self, at: int) -> RRset:
        following = self._hashes[(at + 1) % len(self._hashes)]
        types = bitmap(_types(self._zone, self._names[at]))
        rdata = _PARAMETERS + bytes((len(following),)) + following + types
        label = b32hexencode(self._hashes[at]).lower()
        owner = (label, *self._zone.origin)
        return RRset(owner=owner, rtype=Rtype.NSEC3, ttl=self._ttl, rdatas=(rdata,))


def _next_closer(name: Labels, encloser: Labels) -> Labels:
    return name[len(name) - len(encloser) - 1 :]


def _names(zone: Zone) -> Iterator[Labels]:
    for name in zone.names:
        cut = zone.cut(name)
        if (cut is None or cut == name) and zone.moved(name) is None:
            yield name


def _types(zone: Zone, name: Labels) -> set[int]:
    """Say which types a name has; at a delegation only what is ours is signed (RFC 4035, 2.3)."""
    types = set(zone.names[name])
    if name == zone.origin:
        return types | {Rtype.DNSKEY, Rtype.NSEC3PARAM, Rtype.RRSIG}
    if Rtype.NS in types:
        types &= {Rtype.NS, Rtype.DS}
        return types | {Rtype.RRSIG} if Rtype.DS in types else types
    return types | {Rtype.RRSIG} if types else types
