"""Jobs in forked children, as many at a time as there are processors, each with a deadline."""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

MEMORY_BYTES = 8 << 30
Job = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a job gave, as JSON has it; `fault` says why there is nothing."""

    job: int
    value: Any
    fault: str
    late: bool
    seconds: float


@dataclass(slots=True)
class _Child:
    job: int
    pid: int
    begun: float
    data: bytearray
    late: bool = False


def workers() -> int:
    """Give how many run at a time."""
    return os.cpu_count() or 1


def run(jobs: Iterable[Job], deadline: float) -> Iterator[Answer]:
    """Run all jobs and give each one's answer as it ends; `deadline` in seconds.

    Whatever still runs is killed when nobody wants more answers, or SIGTERM comes.
    """
    running: dict[int, _Child] = {}
    before = signal.signal(signal.SIGTERM, _end_all)
    try:
        yield from _run(enumerate(jobs), running, deadline)
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in running.values():
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _end_all(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _run(
    waiting: Iterator[tuple[int, Job]], running: dict[int, _Child], deadline: float
) -> Iterator[Answer]:
    left = True
    with selectors.DefaultSelector() as selector:
        while left or running:
            while left and len(running) < workers():
                number, job = next(waiting, (-1, None))
                if job is None:
                    left = False
                    break
                end, child = _fork(number, job)
                running[end] = child
                selector.register(end, selectors.EVENT_READ)
            for key, _ in selector.select(timeout=1):
                child = running[key.fd]
                part = os.read(key.fd, 1 << 16)
                child.data += part
                if not part:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    yield _end(running.pop(key.fd))
            _enforce(running.values(), deadline)


def _enforce(children: Iterable[_Child], deadline: float) -> None:
    for child in children:
        if not child.late and time.monotonic() - child.begun > deadline:
            child.late = True
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _fork(number: int, job: Job) -> tuple[int, _Child]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return read_end, _Child(number, pid, time.monotonic(), bytearray())
    # A process group of its own, so that what its tests start ends with it.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(read_end)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    status = 1
    try:
        _tell(write_end, job)
        status = 0
    finally:
        os._exit(status)


def _tell(end: int, job: Job) -> None:
    try:
        told = {"value": job(), "fault": ""}
    except Exception:  # noqa: BLE001 - the parent tells what went wrong
        told = {"value": None, "fault": traceback.format_exc(limit=-2)}
    answer = json.dumps(told).encode()
    while answer:
        answer = answer[os.write(end, answer) :]


def _end(child: _Child) -> Answer:
    _, status = os.waitpid(child.pid, 0)
    told = {"value": None, "fault": f"the process ended with status {status}"}
    with suppress(ValueError):
        told = json.loads(child.data)
    seconds = time.monotonic() - child.begun
    return Answer(job=child.job, late=child.late, seconds=seconds, **told)
