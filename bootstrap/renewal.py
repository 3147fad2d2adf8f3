"""Which secret to ask which upstream for next: the scheduler of sync, without clock or network.

Pure: rows, the time and drawn numbers go in, what to fetch comes out. Every row says when it was
last looked at and how long to wait from then on, so that the state alone decides at each look
(level-triggered): no window can be skipped by a clock that jumps (iotedge #6933), and a time that
lies ahead of now is one of a clock that was set back. All times are whole milliseconds since 1970,
far beyond 32 bits (iotedge #7321). It never sees a value. checklist 7 to 9, design.md, "Secrets".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from keys.rules import look_every
from keys.upstream import Source, Trouble

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
RATE = 25
"""Secrets asked of one upstream in a second, at the most; an upstream has thousands of sites."""
BURST = 25
UPSTREAM_PAUSES = (2 * SECOND, 5 * MINUTE)
"""After one failure, and at the most, before anything is asked of that upstream again."""
LOGIN_PAUSES = (MINUTE, HOUR)
"""A refused login is tried rarely: identity services lock out who hammers."""
ROW_PAUSES = (30 * SECOND, HOUR)
MISSING_PAUSE = 30 * SECOND
"""Between looks for what keys does not have, although its upstream gave it."""
LONGEST_RETRY_AFTER = HOUR
ROUND = 8
"""Who is asked for one secret is asked for those too that are due within an eighth of their wait:
one login, one call of keys and one entry of the audit are for many."""
OUTAGE = 3
"""So many failures in a row are the upstream's and not one secret's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One secret as keys wants it: `missing` is whether it should be here and is not.

    `expires`: milliseconds, None when nothing is here.
    """

    name: str
    source: Source
    ttl: timedelta
    missing: bool
    expires: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """When one secret was looked at last, 0 for never, and how long to wait from then on."""

    name: str
    source: Source
    looked: int = 0
    wait: int = 0
    failures: int = 0
    sentence: str | None = None

    def due(self, now: int, *, missing: bool) -> int:
        """Say from which moment on it is to be looked at."""
        if now < self.looked:
            return now
        wait = min(self.wait, MISSING_PAUSE) if missing and not self.failures else self.wait
        return self.looked + wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is known of one upstream: its pause, its last success, its trouble and since when.

    `login` is the number of the login that it is asked with, None while there is none; it ends at
    `login_ends` (unix seconds), where anybody said so.
    """

    name: str
    since: int = 0
    wait: int = 0
    failures: int = 0
    success: int = 0
    trouble: str | None = None
    trouble_since: int = 0
    is_login_refused: bool = False
    login: int | None = None
    login_ends: int | None = None

    def is_paused(self, now: int) -> bool:
        """Say whether nothing is to be asked of it now."""
        return self.since <= now < self.since + self.wait


@dataclass(slots=True)
class _Bucket:
    tokens: float = BURST
    filled: int = 0

    def fill(self, now: int) -> None:
        passed = max(0, now - self.filled)
        self.tokens = min(BURST, self.tokens + passed * RATE / SECOND)
        self.filled = now


@dataclass(slots=True)
class Changes:
    """What is to be written down."""

    rows: list[Row] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    dropped_lines: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Tell whether there is anything."""
        return bool(self.rows or self.lines or self.dropped or self.dropped_lines)


class Renewal:
    """Rows by secret and lines by upstream; every method is given the time."""

    def __init__(self, rows: Iterable[Row] = (), lines: Iterable[Line] = ()) -> None:
        """Go on from what was written down."""
        self._rows = {row.name: row for row in rows}
        self._lines = {line.name: line for line in lines}
        self._buckets: dict[str, _Bucket] = {}
        self._wanted: dict[str, Wanted] = {}
        self._asked: set[str] = set()
        self._rounds: set[str] = set()
        self._changed: set[str] = set()
        self._changed_lines: set[str] = set()
        self._dropped: set[str] = set()
        self._dropped_lines: set[str] = set()

    # what is wanted

    def want(self, wanted: Sequence[Wanted], logins: Mapping[str, int | None]) -> None:
        """Take what keys wants now, and the numbers of the logins that it has."""
        self._wanted = {one.name: one for one in wanted}
        for one in wanted:
            row = self._rows.get(one.name)
            if row is None or row.source != one.source:
                self._put(Row(name=one.name, source=one.source))
        for name in set(self._rows) - set(self._wanted):
            del self._rows[name]
            self._dropped.add(name)
        for name in set(self._lines) - set(logins):
            del self._lines[name]
            self._dropped_lines.add(name)
        for name, login in logins.items():
            line = self._lines.get(name)
            if line is None or line.login != login:
                found = line or Line(name=name)
                fresh = replace(found, login=login, login_ends=None, wait=0, failures=0)
                self._set(replace(fresh, is_login_refused=False))

    def look_now(self, upstream: str | None = None) -> int:
        """Forget every pause of an upstream, or of all: somebody asks. Gives how many secrets."""
        rows = [row for row in self._rows.values() if upstream in (None, row.source.upstream)]
        for row in rows:
            self._put(replace(row, looked=0, wait=0))
        for line in [one for one in self._lines.values() if upstream in (None, one.name)]:
            self._set(replace(line, wait=0))
        return len(rows)

    # what to do

    def take(self, upstream: str, now: int) -> Row | None:
        """Give the secret to ask an upstream for now, the one that ends first; None to wait.

        What was taken is not given again until it is told what became of it.
        """
        line = self._lines.get(upstream)
        if line is None or line.login is None or line.is_paused(now):
            return None
        bucket = self._buckets.setdefault(upstream, _Bucket())
        bucket.fill(now)
        due = self.due(upstream, now)
        if not due or bucket.tokens < 1:
            return None
        bucket.tokens -= 1
        row = min(due, key=self._urgency)
        self._asked.add(row.name)
        self._rounds.add(upstream)
        if not self.due(upstream, now):
            self._rounds.discard(upstream)
        return row

    def due(self, upstream: str, now: int) -> list[Row]:
        """List what an upstream is to be asked for, in a round what is nearly due too."""
        early = ROUND if upstream in self._rounds else None
        return [
            row
            for row in self._rows.values()
            if row.source.upstream == upstream
            and row.name not in self._asked
            and row.name in self._wanted
            and self._is_due(row, now, early)
        ]

    def _is_due(self, row: Row, now: int, early: int | None) -> bool:
        missing = self._wanted[row.name].missing
        lead = 0 if early is None or missing or row.failures else row.wait // early
        return row.due(now, missing=missing) - lead <= now

    def _urgency(self, row: Row) -> tuple[bool, int, int, str]:
        wanted = self._wanted[row.name]
        return (not wanted.missing, wanted.expires or 0, row.looked, row.name)

    # what became of it

    def learned(self, row: Row, now: int, drawn: float, *, left: int | None = None) -> None:
        """Take an answer, also the one that there is none; `left`: until the end of the value."""
        self._asked.discard(row.name)
        self._answers(row.source.upstream, now)
        if (wanted := self._current(row)) is not None:
            wait = _interval(wanted.ttl, left, drawn)
            self._put(replace(row, looked=now, wait=wait, failures=0, sentence=None))

    def refused(self, row: Row, sentence: str, now: int, drawn: float) -> None:
        """Take it that keys did not accept what the upstream gave: this secret waits."""
        self._asked.discard(row.name)
        self._answers(row.source.upstream, now)
        if self._current(row) is not None:
            self._fails(row, sentence, now, drawn)

    def failed(self, row: Row, trouble: Trouble, now: int, drawn: float) -> None:
        """Take it that nothing was learned: this secret waits, and for a while its upstream.

        A refused login is nothing that this secret did.
        """
        self._asked.discard(row.name)
        line = self._lines.get(row.source.upstream)
        if self._current(row) is not None and not trouble.login:
            self._fails(row, trouble.sentence, now, drawn)
        if line is None:
            return
        pauses = LOGIN_PAUSES if trouble.login else UPSTREAM_PAUSES
        wait = _back_off(pauses, line.failures, drawn)
        if trouble.retry_after is not None:
            asked = min(max(0, trouble.retry_after) * SECOND, LONGEST_RETRY_AFTER)
            wait = max(wait, int(asked * (1 + drawn / 4)))
        self._set(
            replace(
                line,
                since=now,
                wait=wait,
                failures=line.failures + 1,
                trouble=trouble.sentence,
                trouble_since=now if line.trouble is None else line.trouble_since,
                is_login_refused=trouble.login,
            )
        )

    def logged_in(self, upstream: str, ends: int | None) -> None:
        """Take what an upstream said about the end of our login."""
        line = self._lines.get(upstream)
        if line is not None and line.login_ends != ends and ends is not None:
            self._set(replace(line, login_ends=ends))

    def put_back(self, row: Row) -> None:
        """Take it that a row was not asked for after all."""
        self._asked.discard(row.name)

    def _fails(self, row: Row, sentence: str, now: int, drawn: float) -> None:
        wait = _back_off(ROW_PAUSES, row.failures, drawn)
        failures = row.failures + 1
        self._put(replace(row, looked=now, wait=wait, failures=failures, sentence=sentence))

    def _answers(self, upstream: str, now: int) -> None:
        line = self._lines.get(upstream)
        if line is None:
            return
        if line.failures >= OUTAGE:  # what failed meanwhile did so for the upstream's sake
            for row in [one for one in self._rows.values() if one.source.upstream == upstream]:
                if row.failures:
                    self._put(replace(row, wait=0, failures=0))
        good = Line(name=line.name, success=now, login=line.login, login_ends=line.login_ends)
        self._set(good)

    def _current(self, row: Row) -> Wanted | None:
        """Find what is wanted under the name of a row, unless it has another source by now."""
        wanted = self._wanted.get(row.name)
        return wanted if wanted is not None and wanted.source == row.source else None

    # what is known

    def lines(self) -> list[Line]:
        """List the upstreams by name."""
        return sorted(self._lines.values(), key=lambda one: one.name)

    def rows(self, upstream: str) -> list[Row]:
        """List the secrets of an upstream by name."""
        found = (row for row in self._rows.values() if row.source.upstream == upstream)
        return sorted(found, key=lambda one: one.name)

    def is_idle(self) -> bool:
        """Say whether nothing is asked for at this moment."""
        return not self._asked

    def changes(self) -> Changes:
        """Give what changed since the last call, to be written down."""
        found = Changes(
            rows=[self._rows[name] for name in sorted(self._changed & set(self._rows))],
            lines=[self._lines[name] for name in sorted(self._changed_lines & set(self._lines))],
            dropped=sorted(self._dropped),
            dropped_lines=sorted(self._dropped_lines),
        )
        self._changed, self._changed_lines = set(), set()
        self._dropped, self._dropped_lines = set(), set()
        return found

    def _put(self, row: Row) -> None:
        self._rows[row.name] = row
        self._changed.add(row.name)

    def _set(self, line: Line) -> None:
        self._lines[line.name] = line
        self._changed_lines.add(line.name)


def _interval(ttl: timedelta, left: int | None, drawn: float) -> int:
    """Say how long to wait after an answer: up to a quarter less than the longest, by chance.

    A value that ends sooner than its ttl is looked at once more in the half of that time.
    """
    longest = look_every(ttl) // timedelta(milliseconds=1)
    if left is not None and left > 0:
        longest = max(min(longest, left // 2), SECOND)
    return int(longest * (1 - drawn / 4))


def _back_off(pauses: tuple[int, int], failures: int, drawn: float) -> int:
    """Double with each failure up to the longest; by chance down to half, so that sites part."""
    first, longest = pauses
    base = min(longest, first << min(failures, 24))
    return int(base * (1 + drawn) / 2)
