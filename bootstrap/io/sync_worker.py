"""One thread for each upstream, so that none that hangs delays another: it asks, and nothing else.

Values are only in its result, which the one who started it hands to keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from bootstrap.renewal import Row
from keys.upstream import Fetched, Gone, Trouble, Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A secret to ask for; `asks_end`: the end of our login too."""

    row: Row
    adapter: Upstream
    asks_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a job; `login_ends` in unix seconds where it was asked for and said."""

    row: Row
    outcome: Fetched | Gone | Trouble
    login_ends: int | None = None


class Worker:
    """Asks one upstream for one secret at a time."""

    def __init__(self, name: str) -> None:
        """Start the thread; it ends with the process."""
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._results: SimpleQueue[Result] = SimpleQueue()
        self.is_busy = False
        Thread(target=self._serve, name=f"upstream-{name}", daemon=True).start()

    def give(self, job: Job) -> None:
        """Begin a job; there must be none."""
        self.is_busy = True
        self._jobs.put(job)

    def take(self) -> Result | None:
        """Give the result of a job that ended."""
        try:
            result = self._results.get_nowait()
        except Empty:
            return None
        self.is_busy = False
        return result

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            self._results.put(_ask(job))


def _ask(job: Job) -> Result:
    try:
        outcome = job.adapter.fetch(job.row.source.path)
        is_answer = not isinstance(outcome, Trouble)
        ends = job.adapter.credential_ends() if job.asks_end and is_answer else None
    except Exception as error:  # noqa: BLE001 - a fault of an adapter must not end the thread
        # The error's own text may hold what the upstream sent.
        sentence = f"asking {job.row.source.upstream} failed: {type(error).__name__}"
        return Result(row=job.row, outcome=Trouble(sentence=sentence))
    return Result(row=job.row, outcome=outcome, login_ends=ends)
