"""The pytest plug-in that runs tests on mutants, each in a process forked after collection.

Nothing is imported anew: a child gives every function of the mutated module the code that the
mutated text compiles to, so whoever imported the function before calls the mutant.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest

from tests.mutants.sites import Mutant, mutate

Where = tuple[str, str, int]
"""A function: file, qualified name, first line."""

DEADLINE_SECONDS = 120
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One test with nothing mutated: its time, whether it passed, the functions it entered."""

    seconds: float
    passed: bool
    entered: frozenset[Where]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant: the test that failed first, "time limit", or "" if it survived."""

    mutant: Mutant
    killed_by: str
    tests: int
    seconds: float


@dataclass(eq=False)
class Session:
    """Hands the collected tests to `work` in place of pytest's own loop."""

    work: Callable[[Session], None]
    items: list[pytest.Item] = field(default_factory=list)
    not_collected: list[str] = field(default_factory=list)
    reports: list[pytest.TestReport] = field(default_factory=list)
    failures: int = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember what could not be imported."""
        if report.failed:
            last = str(report.longrepr).strip().splitlines()[-1]
            self.not_collected.append(f"{report.nodeid}: {last}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count failures of the running test."""
        self.failures += report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take over from pytest."""
        self.items = [item for item in session.items if not item.get_closest_marker("boots")]
        self.work(self)
        return True

    def passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        """Run one test; tell whether nothing of it failed."""
        self.failures = 0
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return not self.failures


def baseline(session: Session, files: frozenset[str]) -> dict[str, Baseline]:
    """Run every test once and note which functions of `files` it enters."""
    shares: list[list[pytest.Item]] = [[] for _ in range(_workers())]
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in session.items:
        by_file.setdefault(item.path, []).append(item)
    for items in sorted(by_file.values(), key=len, reverse=True):
        min(shares, key=len).extend(items)
    found: dict[str, Baseline] = {}

    def take(share: list[pytest.Item]) -> list[object]:
        return list(_trace(session, share, files))

    for _, rows in _forked([functools.partial(take, share) for share in shares if share]):
        for name, seconds, passed, entered in rows or ():
            where = frozenset((path, function, line) for path, function, line in entered)
            found[name] = Baseline(seconds=seconds, passed=passed, entered=where)
    return found


def _trace(
    session: Session, items: list[pytest.Item], files: frozenset[str]
) -> Iterator[tuple[str, float, bool, list[Where]]]:
    entered: set[Where] = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in files:
            entered.add((code.co_filename, _qualified(code), code.co_firstlineno))

    for item, following in zip(items, [*items[1:], None], strict=True):
        entered.clear()
        started = time.perf_counter()
        sys.settrace(trace)
        passed = session.passes(item, following)
        sys.settrace(None)
        yield item.nodeid, time.perf_counter() - started, passed, sorted(entered)


def judge(session: Session, mutants: list[Mutant], tests: dict[str, Baseline]) -> Iterator[Outcome]:
    """Run each mutant's tests until one fails."""
    items = {item.nodeid: item for item in session.items}
    kills: dict[str, int] = {}
    chosen = {}
    for mutant in mutants:
        where = str(mutant.path), mutant.function, mutant.first_line
        chosen[mutant.name] = [
            name for name, test in tests.items() if test.passed and where in test.entered
        ]
    heavy = {
        name.partition("::")[0]: max(
            test.seconds for other, test in tests.items() if _same_file(other, name)
        )
        for name in tests
    }

    def order(name: str) -> tuple[bool, str, float]:
        slow = heavy[name.partition("::")[0]] > 1
        return slow, name.partition("::")[0] if slow else "", tests[name].seconds

    def run(mutant: Mutant) -> list[object]:
        names = sorted(chosen[mutant.name], key=lambda name: (-kills.get(name, 0), order(name)))
        return _kill(session, mutant, [items[name] for name in names[:]])

    jobs = [functools.partial(run, mutant) for mutant in mutants]
    started = {}
    for at, answer in _forked(jobs, started):
        killed_by, count = answer or ["time limit", 0]
        seconds = time.monotonic() - started[at]
        yield Outcome(mutant=mutants[at], killed_by=killed_by, tests=count, seconds=seconds)


def _same_file(one: str, other: str) -> bool:
    return one.partition("::")[0] == other.partition("::")[0]


def _kill(session: Session, mutant: Mutant, items: list[pytest.Item]) -> list[object]:
    _install(mutant)
    for count, item in enumerate(items, 1):
        following = items[count] if count < len(items) else None
        if not session.passes(item, following):
            item.session._setupstate.teardown_exact(None)
            return [item.nodeid, count]
    return ["", len(items)]


def _qualified(code: CodeType) -> str:
    return code.co_qualname


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _install(mutant: Mutant) -> None:
    """Give the functions of one module the code of its mutated text."""
    path = str(mutant.path)
    made = {
        (_qualified(code), code.co_firstlineno): code
        for code in _codes(compile(mutate(mutant), path, "exec", dont_inherit=True))
    }
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and found.__code__.co_filename == path:
            code = found.__code__
            found.__code__ = made[_qualified(code), code.co_firstlineno]
        elif isinstance(found, functools._lru_cache_wrapper):
            found.cache_clear()


def _workers() -> int:
    return os.cpu_count() or 1


def _forked(
    jobs: list[Callable[[], list[object]]], started: dict[int, float] | None = None
) -> Iterator[tuple[int, list[object] | None]]:
    """Run jobs in forked children, as many at a time as there are processors.

    Gives each job's number and answer as it ends; None for one that passed its deadline or died.
    """
    begun = {} if started is None else started
    limit = DEADLINE_SECONDS if started is not None else 3600
    waiting = list(enumerate(jobs))
    running: dict[int, tuple[int, int, bytearray]] = {}
    with selectors.DefaultSelector() as selector:
        while waiting or running:
            while waiting and len(running) < _workers():
                at, job = waiting.pop(0)
                pid, end = _fork(job)
                begun[at] = time.monotonic()
                running[end] = at, pid, bytearray()
                selector.register(end, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=1):
                end = key.fd
                at, pid, data = running[end]
                part = os.read(end, 1 << 16)
                data += part
                if not part:
                    selector.unregister(end)
                    del running[end]
                    yield at, _end(pid, end, data)
            for at, pid, _ in running.values():
                if time.monotonic() - begun[at] > limit:
                    os.killpg(pid, signal.SIGKILL)


def _fork(job: Callable[[], list[object]]) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    # The child: a process group of its own, so that what its tests start ends with it.
    os.setpgid(0, 0)
    os.close(read_end)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    status = 1
    try:
        answer = json.dumps(job()).encode()
        while answer:
            answer = answer[os.write(write_end, answer) :]
        status = 0
    finally:
        os._exit(status)


def _end(pid: int, end: int, data: bytearray) -> list[object] | None:
    os.close(end)
    os.waitpid(pid, 0)
    return json.loads(data) if data else None
