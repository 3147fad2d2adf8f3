"""The resolver as threads: questions wait for upstreams here, so that nothing else does.

Equal questions are asked once. The cache is written to disk now and then and at the end, with a
clock of its own that never jumps: a wall clock that was moved makes nothing older or younger while
this runs, and at most `MAX_OFF_SECONDS` older across a restart.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from netboot.dns import Ask, Resolved
from netboot.dns_cache import DnsCache
from netboot.dns_message import ExtendedError
from netboot.errors import SiteError
from netboot.io.exchange import Exchange
from netboot.names import Labels
from netboot.resolver import Ports, Resolver, ResolverConfig
from netboot.zone import Rcode

THREADS = 24
MAX_WAITING = 2000
SAVE_SECONDS = 300.0
MAX_OFF_SECONDS = 30 * 86400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    name BLOB NOT NULL, qtype INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (name, qtype)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, clock REAL, wall REAL) STRICT;
"""

Done = Callable[[Resolved], None]
_Key = tuple[Labels, int, bool]


class CacheFile:
    """The cache on disk; a file that cannot be read is begun anew, for it holds nothing of ours."""

    def __init__(self, path: Path) -> None:
        """Open the file; SiteError when there can be none."""
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            try:
                self._db = self._open()
            except sqlite3.Error as error:
                raise SiteError(f"{path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
        return db

    def load(self, cache: DnsCache) -> float:
        """Fill the cache; gives what its clock shows now."""
        row = self._db.execute("SELECT clock, wall FROM clock").fetchone()
        cache.load(self._db.execute("SELECT name, qtype, data FROM entries"))
        if row is None:
            return 0.0
        off = time.time() - float(row[1])
        return float(row[0]) + min(max(off, 0.0), MAX_OFF_SECONDS)

    def save(self, cache: DnsCache, clock: float) -> None:
        """Write everything in one transaction; sqlite3.Error leaves what was there."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM entries")
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?)", cache.dump())
            self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)", (clock, time.time()))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class Forwarder:
    """Resolves what is not ours, for `netboot.io.dns`."""

    def __init__(
        self, config: ResolverConfig, path: Path, exchange: Exchange, is_blind: Callable[[], bool]
    ) -> None:
        """Read the cache; SiteError. No thread runs before `start`."""
        self._cache = DnsCache(config.pinned)
        self._file = CacheFile(path)
        self._begun = self._file.load(self._cache) - time.monotonic()
        self._exchange = exchange
        ports = Ports(
            exchange=exchange,
            clock=self.clock,
            wall=time.time,
            is_blind=is_blind,
            draw=os.urandom,
            lock=threading.Lock(),
        )
        self.resolver = Resolver(config, self._cache, ports)
        self._queue: queue.SimpleQueue[_Key | None] = queue.SimpleQueue()
        self._waiting: dict[_Key, list[Done]] = {}
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"resolver-{number}", daemon=True)
            for number in range(THREADS)
        ]
        self._saver = threading.Thread(target=self._save_often, name="dns-cache", daemon=True)
        self.trouble: str | None = None

    def clock(self) -> float:
        """Give the cache's own time, in seconds; it never jumps."""
        return self._begun + time.monotonic()

    @property
    def remembered(self) -> int:
        """How many answers are in the cache."""
        return len(self._cache)

    def start(self) -> None:
        """Begin."""
        for thread in (*self._threads, self._saver):
            thread.start()

    def lookup(self, ask: Ask, now: float) -> Resolved | None:
        """Answer at once from what is known; None when others must be asked."""
        return None if ask.skips_checks else self.resolver.lookup(ask.name, ask.qtype)

    def ask(self, ask: Ask, done: Done) -> None:
        """Ask others, and call `done` once, from a thread of ours."""
        key = (ask.name, ask.qtype, not ask.skips_checks)
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.append(done)
                return
            is_full = len(self._waiting) >= MAX_WAITING
            if not is_full:
                self._waiting[key] = [done]
        if is_full:
            done(Resolved(rcode=Rcode.SERVFAIL, said="too many questions wait"))
        else:
            self._queue.put(key)

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            name, qtype, checks = key
            resolved = Resolved(rcode=Rcode.SERVFAIL, error=ExtendedError.CACHED_ERROR)
            try:
                resolved = self.resolver.resolve(name, qtype, checks=checks)
            except Exception as error:  # noqa: BLE001 - the top of a thread that must go on
                self.trouble = f"a name could not be resolved: {type(error).__name__}: {error}"
            with self._lock:
                waiting = self._waiting.pop(key, [])
            for done in waiting:
                done(resolved)

    def _save_often(self) -> None:
        while not self._end.wait(SAVE_SECONDS):
            self.save()

    def save(self) -> None:
        """Write the cache to disk."""
        with self._saving:
            self.resolver.prune()
            try:
                self._file.save(self._cache, self.clock())
            except sqlite3.Error as error:
                self.trouble = f"the cache of names is not kept: {error}"
            else:
                self.trouble = None

    def stop(self) -> None:
        """End all threads and keep the cache."""
        self._end.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(0.5)
        self.save()
        self._exchange.close()
        self._file.close()
