"""The pytest plug-in that runs tests on mutants, each in a process forked after collection.

Code that runs while its module is imported has run by then: a mutant of it, which no test enters,
gets a new interpreter (`tests.mutants.fresh`).
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import pytest

from tests.mutants import forks
from tests.mutants.install import Functions
from tests.mutants.sites import Mutant

ROOT = Path(__file__).parents[2]
Where = tuple[str, str, int]
"""A function: file, qualified name, first line."""

DEADLINE_SECONDS = 600.0
"""For all tests of one mutant on a busy machine; a test that hangs fails by itself long before."""
LATE = "time limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One test with nothing mutated: its time, whether it passed, the functions it entered."""

    seconds: float
    passed: bool
    entered: frozenset[Where]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant: the test that failed first, "time limit", or "" if it survived.

    `fault` says why it could not be tried.
    """

    mutant: Mutant
    killed_by: str
    tests: int
    seconds: float
    fault: str = ""


@dataclass(eq=False)
class Session:
    """Hands the collected tests to `work` in place of pytest's own loop."""

    work: Callable[[Session], None]
    items: list[pytest.Item] = field(default_factory=list)
    not_collected: list[str] = field(default_factory=list)
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

    def first_failure(self, items: list[pytest.Item]) -> list[object]:
        """Run tests until one fails; give its name, or "", and how many ran."""
        for count, item in enumerate(items, 1):
            following = items[count] if count < len(items) else None
            if not self.passes(item, following):
                item.session._setupstate.teardown_exact(None)
                return [item.nodeid, count]
        return ["", len(items)]


def baseline(session: Session, files: frozenset[str]) -> dict[str, Baseline]:
    """Run every test once and note which functions of `files` it enters."""
    shares: list[list[pytest.Item]] = [[] for _ in range(forks.workers())]
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in session.items:
        by_file.setdefault(item.path, []).append(item)
    for items in sorted(by_file.values(), key=len, reverse=True):
        min(shares, key=len).extend(items)
    jobs = [functools.partial(_trace, session, share, files) for share in shares if share]
    found: dict[str, Baseline] = {}
    for answer in forks.run(jobs, deadline=3600):
        if answer.fault:
            raise RuntimeError(f"the tests could not run by themselves: {answer.fault}")
        for name, seconds, passed, entered in answer.value:
            where = frozenset((path, function, line) for path, function, line in entered)
            found[name] = Baseline(seconds=seconds, passed=passed, entered=where)
    return found


def _trace(
    session: Session, items: list[pytest.Item], files: frozenset[str]
) -> list[tuple[str, float, bool, list[Where]]]:
    entered: set[Where] = set()

    def trace(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in files:
            entered.add((code.co_filename, code.co_qualname, code.co_firstlineno))

    found, functions = [], Functions()
    for item, following in zip(items, [*items[1:], None], strict=True):
        entered.clear()
        functions.forget()
        started = time.perf_counter()
        sys.settrace(trace)
        passed = session.passes(item, following)
        sys.settrace(None)
        found.append((item.nodeid, time.perf_counter() - started, passed, sorted(entered)))
    return found


class Court:
    """Judges mutants by the tests of a baseline."""

    def __init__(self, session: Session, tests: dict[str, Baseline]) -> None:
        """Note which files are slow and which tests enter what."""
        self._session = session
        self._functions = Functions()
        self._items = {item.nodeid: item for item in session.items}
        self._tests = {name: test for name, test in tests.items() if test.passed}
        self._kills: dict[str, int] = {}
        self._slow: dict[str, float] = {}
        self._entering: dict[Where, list[str]] = {}
        self._of_file: dict[str, set[str]] = {}
        for name, test in self._tests.items():
            file = _file(name)
            self._slow[file] = max(self._slow.get(file, 0), test.seconds)
            for where in test.entered:
                self._entering.setdefault(where, []).append(name)
                self._of_file.setdefault(where[0], set()).add(name)

    def judge(self, mutants: list[Mutant]) -> Iterator[Outcome]:
        """Run each mutant's tests until one fails."""
        jobs = (functools.partial(self._try, mutant) for mutant in mutants)
        for answer in forks.run(jobs, DEADLINE_SECONDS):
            killed_by, count = answer.value or ("", 0)
            if answer.late:
                killed_by = LATE
            self._kills[killed_by] = self._kills.get(killed_by, 0) + 1
            yield Outcome(
                mutant=mutants[answer.job],
                killed_by=killed_by,
                tests=count,
                seconds=answer.seconds,
                fault="" if answer.late else answer.fault,
            )

    def _try(self, mutant: Mutant) -> list[object]:
        where = str(mutant.path), mutant.function, mutant.first_line
        entering = self._entering.get(where, [])
        near = sorted(entering or self._of_file.get(where[0], []), key=self._order)
        if not near:
            return ["", 0]
        if not entering and not mutant.is_row:
            return _fresh(mutant, near)
        try:
            self._functions.install(mutant)
        except ValueError:
            # Without its last use of a name from around it, code does not fit its function.
            return _fresh(mutant, near)
        return self._session.first_failure([self._items[name] for name in near])

    def _order(self, name: str) -> tuple[str, float]:
        """Tests of little else first, and those that noticed much before; slow files last."""
        test = self._tests[name]
        slow = self._slow[_file(name)] > 1
        kills = self._kills.get(name, 0)
        return _file(name) if slow else "", test.seconds * len(test.entered) / (1 + kills)


def _file(name: str) -> str:
    return name.partition("::")[0]


def _fresh(mutant: Mutant, names: list[str]) -> list[object]:
    request = {**asdict(mutant), "path": str(mutant.path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.fresh"],
        input=json.dumps({"mutant": request, "tests": names}),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return list(json.loads(done.stdout.splitlines()[-1]))
