"""One pool's addresses: the next one that nobody had, and the one that was left longest ago.

Both in O(log n) and without listing the pool: a mark that only moves up, a heap of what came back
below it, and a heap of ends. It never decides who may have an address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, nsmallest
from itertools import islice
from typing import Generic, Protocol, SupportsInt, TypeVar

_SLACK = 64
_LOOK = 256
"""Entries that `upcoming` looks at for each one that it is asked for, at most: of a heap that is
its beginning, where its least entries are."""


class Ending(Protocol):
    """A row of the lease table, as far as a pool knows it."""

    @property
    def expires(self) -> float:
        """When the lease or the quarantine ends, in unix seconds."""


class Span(Protocol):
    """Addresses of either family from `first` to `last`, both included."""

    @property
    def first(self) -> SupportsInt:
        """The lowest."""

    @property
    def last(self) -> SupportsInt:
        """The highest."""


SpanT = TypeVar("SpanT", bound=Span)


class PoolState(Generic[SpanT]):
    """Which addresses of one pool come next; `excluded` are never given from it."""

    __slots__ = (
        "plan",
        "first",
        "last",
        "_excluded",
        "_mark",
        "_back",
        "_is_back",
        "_ends",
        "_most",
    )

    def __init__(self, plan: SpanT, excluded: frozenset[int]) -> None:
        self.plan = plan
        self.first, self.last = int(plan.first), int(plan.last)
        self._excluded = excluded
        self._mark = self.first
        self._back: list[int] = []
        self._is_back: set[int] = set()
        self._ends: list[tuple[float, int]] = []
        self._most = _SLACK

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last and address not in self._excluded

    def fresh(self, is_taken: Callable[[int], bool]) -> int | None:
        """Find the lowest address without a row or an offer; it stays until it is taken."""
        while self._back and is_taken(self._back[0]):
            self._is_back.discard(heappop(self._back))
        if self._back:
            return self._back[0]
        while self._mark <= self.last and (self._mark in self._excluded or is_taken(self._mark)):
            self._mark += 1
        return self._mark if self._mark <= self.last else None

    def give_back(self, address: int) -> None:
        """Take note that an address has neither row nor offer any more."""
        if address < self._mark and address not in self._is_back and address in self:
            heappush(self._back, address)
            self._is_back.add(address)

    def note(self, address: int, expires: float, rows: Mapping[int, Ending]) -> None:
        """Take note of when a row of this pool ends; an older note of it is then void."""
        heappush(self._ends, (expires, address))
        if len(self._ends) > self._most:
            self._ends = [note for note in set(self._ends) if _is_valid(note, rows)]
            heapify(self._ends)
            self._most = 2 * len(self._ends) + _SLACK

    def oldest(
        self, rows: Mapping[int, Ending], is_offered: Callable[[int], bool], now: float
    ) -> tuple[float, int] | None:
        """Find the row that ended first: when, and its address. Offered ones are noted again."""
        while self._ends:
            note = self._ends[0]
            if _is_valid(note, rows) and note[1] in self:
                if note[0] > now:
                    return None
                if not is_offered(note[1]):
                    return note
            heappop(self._ends)
        return None

    def upcoming(
        self, wanted: int, rows: Mapping[int, Ending], is_offered: Callable[[int], bool], now: float
    ) -> Iterator[int]:
        """Give about the next `wanted` addresses in the order of their turn, and take none."""
        found = islice(self._next_fresh(wanted, rows, is_offered), wanted)
        rest = wanted
        for address in found:
            rest -= 1
            yield address
        notes = (
            note for note in nsmallest(2 * rest, self._ends[: wanted * _LOOK]) if note[0] <= now
        )
        free = (note[1] for note in notes if _is_valid(note, rows) and note[1] in self)
        yield from islice((address for address in free if not is_offered(address)), rest)

    def _next_fresh(
        self, wanted: int, rows: Mapping[int, Ending], is_offered: Callable[[int], bool]
    ) -> Iterator[int]:
        above = range(self._mark, min(self._mark + wanted * _LOOK, self.last + 1))
        for address in (*nsmallest(wanted, self._back[: wanted * _LOOK]), *above):
            if address in self and address not in rows and not is_offered(address):
                yield address


def _is_valid(note: tuple[float, int], rows: Mapping[int, Ending]) -> bool:
    row = rows.get(note[1])
    return row is not None and row.expires == note[0]
