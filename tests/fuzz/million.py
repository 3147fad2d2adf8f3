"""A million mutated samples against their checks, from one seed: of evidence, or of packets.

Sample N of a kind is the same bytes whoever makes it, so a failing one is named by its number.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.lies import Lie, judge_certificates, judge_log, judge_quote
from tests.fuzz.material import (
    certificate_cases,
    certificates,
    good_logs,
    quote_cases,
    strangers,
)
from tests.fuzz.mutate import Mutator

SHARES = {"log": 0.3, "quote": 0.4, "certificate": 0.3}
SLOW_MS = 100.0
_BLOCK = 500


@dataclass(slots=True)
class Tally:
    """What became of samples of one kind."""

    told: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    slowest: int = 0
    found: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take over another's."""
        self.told += other.told
        self.found += other.found
        if other.slowest_ms > self.slowest_ms:
            self.slowest_ms, self.slowest = other.slowest_ms, other.slowest


class Maker:
    """Makes samples from a seed and judges them."""

    def __init__(self, seed: str) -> None:
        self.seed = seed

    def make(self, kind: str, number: int) -> Callable[[], str]:
        """Make sample `number`; calling what this gives judges it."""
        raise NotImplementedError

    def judge(self, kind: str, number: int, tally: Tally) -> None:
        """Judge one sample into a tally."""
        sample = self.make(kind, number)
        took, told, text = _timed(sample, time.perf_counter)
        if took > SLOW_MS / 4:  # the clock of the processor's time is slow to read
            took = min(_timed(sample, time.process_time)[0] for _ in range(3))
        if took > tally.slowest_ms:
            tally.slowest_ms, tally.slowest = took, number
        if took > SLOW_MS:
            tally.told["slow"] += 1
            tally.found.append(("slow", number, f"{took:.0f} ms"))
        tally.told[told] += 1
        if text:
            tally.found.append((told, number, text))


class Samples(Maker):
    """Evidence; that of real machines is optional material."""

    def __init__(self, seed: str, evidence: Path | None) -> None:
        super().__init__(seed)
        self.logs = good_logs(evidence)
        self.log_bytes = [data for data, _ in self.logs]
        self.certificates = [*certificates(evidence), *strangers()]

    def make(self, kind: str, number: int) -> Callable[[], str]:
        """Make sample `number`; calling what this gives judges it."""
        mutator = Mutator(f"{self.seed}:{kind}:{number}")
        if kind == "log":
            original, values = mutator.choice(self.logs)
            data = mutator.log(original, self.log_bytes)
            return lambda: judge_log(original, data, values)
        if kind == "quote":
            cases = quote_cases()
            case = mutator.choice(cases)
            attest, signature, given = mutator.quote(case, cases)
            return lambda: judge_quote(case, attest, signature, given)
        chain_case = mutator.choice(certificate_cases())
        chain = mutator.certificates(chain_case, self.certificates)
        return lambda: judge_certificates(chain_case, chain)


def _timed(sample: Callable[[], str], clock: Callable[[], float]) -> tuple[float, str, str]:
    started = clock()
    text = ""
    try:
        told = sample()
    except Lie as lie:
        told, text = "lie", str(lie)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        told, text = "crash", "".join(traceback.format_exception(error, limit=-3, chain=False))
    return (clock() - started) * 1000, told, text


_samples: Maker


def _begin(begin: Callable[[], Maker]) -> None:
    global _samples
    _samples = begin()


def _block(job: tuple[str, int, int]) -> tuple[str, Tally]:
    kind, first, last = job
    tally = Tally()
    for number in range(first, last):
        _samples.judge(kind, number, tally)
    return kind, tally


def run(
    count: int, seed: str, shares: Mapping[str, float], begin: Callable[[], Maker], result: Path
) -> int:
    """Judge `count` samples on all processors; print the figures and keep them.

    `begin` makes what makes the samples, once in each process; the largest of `shares` takes what
    rounding leaves.
    """
    counts = {kind: round(count * share) for kind, share in shares.items()}
    counts[max(counts, key=lambda kind: shares[kind])] += count - sum(counts.values())
    jobs = [
        (kind, first, min(first + _BLOCK, counts[kind]))
        for kind in counts
        for first in range(0, counts[kind], _BLOCK)
    ]
    print(f"seed {seed}; {count} samples: {counts}", flush=True)
    started = time.monotonic()
    tallies = {kind: Tally() for kind in counts}
    with get_context("fork").Pool(os.cpu_count(), _begin, (begin,)) as pool:
        for done, (kind, tally) in enumerate(pool.imap_unordered(_block, jobs), 1):
            tallies[kind].add(tally)
            if done % 200 == 0:
                seconds = time.monotonic() - started
                print(f"{seconds:6.0f} s  {done * _BLOCK} samples", flush=True)
    seconds = time.monotonic() - started
    _report(tallies, seconds)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(_document(tallies, seed, seconds), indent=1) + "\n")
    return int(any(tally.found for tally in tallies.values()))


def _report(tallies: dict[str, Tally], seconds: float) -> None:
    print(f"{'kind':12} samples   taken refused crashes lies slow  slowest")
    for kind, tally in tallies.items():
        told = tally.told
        number = sum(told[name] for name in ("taken", "refused", "crash", "lie"))
        print(
            f"{kind:12} {number:7} {told['taken']:7} {told['refused']:7} {told['crash']:7}"
            f" {told['lie']:4} {told['slow']:4}  {tally.slowest_ms:.1f} ms ({tally.slowest})"
        )
        for what, place, text in tally.found[:10]:
            print(f"{what.upper()} {kind} {place}: {text}")
    print(f"{seconds:.0f} s")


def _document(tallies: dict[str, Tally], seed: str, seconds: float) -> dict[str, object]:
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "kinds": {
            kind: {
                **tally.told,
                "slowest_ms": round(tally.slowest_ms, 2),
                "slowest": tally.slowest,
                "found": tally.found,
            }
            for kind, tally in tallies.items()
        },
    }
