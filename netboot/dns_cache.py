"""What other servers answered, kept for a while: fresh, then stale, then forgotten.

Times are in seconds of a clock that never jumps (the runner's); entries are small bytes, because a
site keeps a hundred thousand of them. RFC 2181, 5.2 (one TTL); RFC 2308 (negative answers); RFC
8020 (nothing below a name that is not there); RFC 8767 (stale answers); RFC 9520 (failures).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from netboot.errors import PeerError
from netboot.names import Labels, read_wire, wire
from netboot.rdata import Rtype
from netboot.zone import Rcode, RRset

MAX_TTL = 86400
MAX_NEGATIVE_TTL = 10800
"""RFC 2308, 5."""
STALE_SECONDS = 7 * 86400.0
"""How long after its TTL an answer may still be given (RFC 8767, 5: one to three days, or more)."""
STALE_TTL = 30
MAX_ENTRIES = 150_000
MAX_ENTRY = 16 * 1024
FIRST_FAILURE_SECONDS, MAX_FAILURE_SECONDS = 5.0, 300.0
MAX_FAILURES = 10_000
_HEAD = struct.Struct("!HIH")
_STORED = struct.Struct("!ddBBHHI")
FORMAT = 1
"""Of dumped entries; others are not read."""


class Trust(IntEnum):
    """What is known of an answer's signatures (RFC 4033, 5)."""

    INSECURE = 0
    SECURE = 1
    TIME_BLIND = 2
    """Signed, and checked but for the dates: the clock was not trusted."""
    UNCHECKED = 3
    """A key or delegation on the way to another answer: for whoever checks, and nobody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An answer of others; `age` in seconds since it came, `is_stale` when its TTL is over."""

    rcode: Rcode
    answers: tuple[RRset, ...] = ()
    authority: tuple[RRset, ...] = ()
    trust: Trust = Trust.INSECURE
    age: float = 0.0
    is_stale: bool = False


@dataclass(slots=True)
class _Entry:
    stored: float
    expires: float
    rcode: int
    trust: int
    split: int
    data: bytes


_Key = tuple[bytes, int]


def ttl_of(known: Known) -> int:
    """Say how long an answer may be kept: 0 for not at all."""
    if known.answers and known.rcode is Rcode.NOERROR:
        ttl = min(one.ttl for one in known.answers)
        return min(ttl, MAX_TTL) if ttl < 1 << 31 else 0  # RFC 2181, 8
    for one in known.authority:
        if one.rtype == Rtype.SOA and known.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
            minimum = int.from_bytes(one.rdatas[0][-4:], "big")
            return min(one.ttl, minimum, MAX_NEGATIVE_TTL)
    return 0


class DnsCache:
    """Answers by name and type, the least lately used go first; pinned names are never dropped."""

    def __init__(self, pinned: Iterable[Labels] = (), limit: int = MAX_ENTRIES) -> None:
        """Begin empty; `pinned` names answer without a limit of time."""
        self._entries: dict[_Key, _Entry] = {}
        self._missing: set[bytes] = set()
        self._failures: dict[_Key, tuple[float, float]] = {}
        self._pinned = frozenset(map(wire, pinned))
        self._limit = limit

    def __len__(self) -> int:
        """Count the answers."""
        return len(self._entries)

    def pin(self, pinned: Iterable[Labels]) -> None:
        """Take another list of pinned names."""
        self._pinned = frozenset(map(wire, pinned))

    def store(self, name: Labels, qtype: int, known: Known, now: float) -> None:
        """Keep an answer for its TTL; it replaces whatever was there (RFC 8767, 4)."""
        key = (wire(name), qtype)
        self._failures.pop(key, None)
        ttl = ttl_of(known)
        data = b"".join(map(_pack, known.answers))
        split = len(data)
        data += b"".join(map(_pack, known.authority))
        if ttl <= 0 or len(data) > MAX_ENTRY:
            self._forget(key)
            return
        self._forget(key)
        self._entries[key] = _Entry(now, now + ttl, known.rcode, known.trust, split, data)
        if known.rcode is Rcode.NXDOMAIN and known.trust is not Trust.UNCHECKED:
            self._missing.add(key[0])
        while len(self._entries) > self._limit and self._drop_oldest():
            pass

    def _forget(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None and entry.rcode == Rcode.NXDOMAIN:
            self._missing.discard(key[0])

    def _drop_oldest(self) -> bool:
        for key in self._entries:
            if key[0] not in self._pinned:
                self._forget(key)
                return True
        return False

    def find(
        self, name: Labels, qtype: int, now: float, *, unchecked: bool = False
    ) -> Known | None:
        """Give what is fresh: the answer, or that a name above is not there (RFC 8020).

        With `unchecked` also what nobody may be told before it was checked.
        """
        key = (wire(name), qtype)
        entry = self._entries.get(key)
        is_usable = entry is not None and (unchecked or entry.trust != Trust.UNCHECKED)
        if entry is not None and is_usable and now < entry.expires:
            self._entries[key] = self._entries.pop(key)  # used lately
            return _known(entry, now)
        return self._missing_above(key[0], now) if self._missing else None

    def _missing_above(self, name: bytes, now: float) -> Known | None:
        at = 0
        while name[at]:
            if name[at:] in self._missing:
                for entry in self._of(name[at:]):
                    is_checked = entry.trust != Trust.UNCHECKED
                    if entry.rcode == Rcode.NXDOMAIN and is_checked and now < entry.expires:
                        return _known(entry, now)
            at += 1 + name[at]
        return None

    def _of(self, name: bytes) -> Iterator[_Entry]:
        for qtype in (Rtype.A, Rtype.AAAA, Rtype.PTR, Rtype.TXT, Rtype.SRV, Rtype.MX, Rtype.HTTPS):
            entry = self._entries.get((name, qtype))
            if entry is not None:
                yield entry

    def find_stale(self, name: Labels, qtype: int, now: float) -> Known | None:
        """Give what is over but may still be given: TTLs are `STALE_TTL` (RFC 8767, 5)."""
        key = (wire(name), qtype)
        entry = self._entries.get(key)
        if entry is None or entry.trust == Trust.UNCHECKED:
            return None
        is_kept = key[0] in self._pinned or now - entry.expires <= STALE_SECONDS
        return _known(entry, now) if is_kept else None

    def fail(self, name: Labels, qtype: int, now: float) -> None:
        """Keep that a question failed, twice as long each time (RFC 9520, 3.2)."""
        key = (wire(name), qtype)
        before = self._failures.get(key)
        pause = FIRST_FAILURE_SECONDS if before is None else min(2 * before[1], MAX_FAILURE_SECONDS)
        if len(self._failures) >= MAX_FAILURES:
            self._failures.clear()
        self._failures[key] = (now + pause, pause)

    def has_failed(self, name: Labels, qtype: int, now: float) -> bool:
        """Tell whether a question failed so lately that it is not asked again yet."""
        failure = self._failures.get((wire(name), qtype))
        return failure is not None and now < failure[0]

    def forgive(self) -> None:
        """Forget all failures: the line is back."""
        self._failures.clear()

    def prune(self, now: float) -> int:
        """Forget what may not even be given stale any more; say how many went."""
        old = [
            key
            for key, entry in self._entries.items()
            if now - entry.expires > STALE_SECONDS and key[0] not in self._pinned
        ]
        for key in old:
            self._forget(key)
        return len(old)

    def ages(self, now: float) -> dict[Labels, float]:
        """Give the age of the newest answer of each pinned name that has one, in seconds."""
        found: dict[Labels, float] = {}
        for (name, _), entry in self._entries.items():
            if name in self._pinned:
                labels = read_wire(name)[0]
                age = now - entry.stored
                found[labels] = min(age, found.get(labels, age))
        return found

    def dump(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Give every entry as name in wire form, type and bytes, oldest first."""
        for (name, qtype), one in tuple(self._entries.items()):
            head = _STORED.pack(one.stored, one.expires, one.rcode, one.trust, FORMAT, 0, one.split)
            yield name, qtype, head + one.data

    def load(self, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Take dumped entries; what cannot be read is left out."""
        for name, qtype, data in rows:
            try:
                stored, expires, rcode, trust, version, _, split = _STORED.unpack_from(data)
                entry = _Entry(
                    stored, expires, Rcode(rcode), Trust(trust), split, data[_STORED.size :]
                )
                known = _known(entry, stored)
                labels, end = read_wire(name)
            except (struct.error, ValueError, PeerError):
                continue
            if version != FORMAT or end != len(name) or wire(labels) != name:
                continue
            self._entries[name, qtype] = entry
            if known.rcode is Rcode.NXDOMAIN and known.trust is not Trust.UNCHECKED:
                self._missing.add(name)


def _pack(rrset: RRset) -> bytes:
    parts = [wire(rrset.owner), _HEAD.pack(rrset.rtype, rrset.ttl, len(rrset.rdatas))]
    parts += [len(data).to_bytes(2, "big") + data for data in rrset.rdatas]
    return b"".join(parts)


def _known(entry: _Entry, now: float) -> Known:
    """Read an entry with the TTLs that are left of it."""
    age = max(0.0, now - entry.stored)
    is_stale = now >= entry.expires
    answers = tuple(_unpack(entry.data[: entry.split], age, is_stale))
    authority = tuple(_unpack(entry.data[entry.split :], age, is_stale))
    return Known(
        rcode=Rcode(entry.rcode),
        answers=answers,
        authority=authority,
        trust=Trust(entry.trust),
        age=age,
        is_stale=is_stale,
    )


def _unpack(data: bytes, age: float, is_stale: bool) -> Iterator[RRset]:
    at = 0
    while at < len(data):
        owner, at = read_wire(data, at)
        rtype, ttl, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        rdatas = []
        for _ in range(count):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if end > len(data) or at + 2 > len(data):
                raise PeerError("an entry of the cache is cut off")
            rdatas.append(data[at + 2 : end])
            at = end
        left = STALE_TTL if is_stale else max(0, min(ttl, MAX_TTL) - int(age))
        yield RRset(owner=owner, rtype=rtype, ttl=left, rdatas=tuple(rdatas))
