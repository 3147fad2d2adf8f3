"""Runs atheris on targets, each in a process of its own, and tells what it found.

Coverage and speed do not go together: slow inputs are only suspected while the code is
instrumented, and measured again in a process where it is not.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"
SLOW_MS = 100.0
SUSPECTS, SUSPECT_MS = 5, 10.0
PACKAGES = ["attest", "keys", "bootstrap.phonehome", "netboot"]
_UNITS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(slots=True)
class Found:
    """What a run on one target came to."""

    name: str
    units: int = 0
    covered: int = 0
    slowest_ms: float = 0.0
    slow: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    broken: str = ""

    def line(self) -> str:
        """Give the row of the table."""
        if self.broken:
            return f"{self.name:22} COULD NOT RUN: {self.broken}"
        slowest = f"{self.slowest_ms:.1f}" if self.slowest_ms else f"under {SUSPECT_MS:.0f}"
        return (
            f"{self.name:22} {self.units:9} {self.covered:7} {len(self.crashes):7}"
            f" {len(self.lies):4} {len(self.slow):4}  {slowest} ms"
        )

    @property
    def clean(self) -> bool:
        """Tell whether nothing was found."""
        return not (self.slow or self.crashes or self.lies)


def run(names: list[str], seconds: int, evidence: Path | None) -> int:
    """Fuzz every target for some seconds; print the table and give the exit code."""
    try:
        import atheris  # noqa: F401 - only whether it is there
    except ImportError as error:
        print(f"atheris cannot be imported: {error}; run .ci/setup", file=sys.stderr)
        return 2
    print(f"{'target':22}    inputs   edges crashes lies slow  slowest", flush=True)
    results = list(_all(names, seconds, evidence))
    for each in results:
        for kind in ("crashes", "lies", "slow"):
            for text in getattr(each, kind):
                print(f"{kind.upper()} {each.name}: {text}")
    document = [{item: getattr(each, item) for item in Found.__slots__} for each in results]
    (WORK / "result.json").write_text(json.dumps(document, indent=1) + "\n")
    if any(each.broken for each in results):
        return 2
    return int(not all(each.clean for each in results))


def _all(names: list[str], seconds: int, evidence: Path | None):
    waiting, running = list(names), {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            name = waiting.pop(0)
            running[name] = _start(name, seconds, evidence)
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                found = _result(name, process.returncode)
                print(found.line(), flush=True)
                yield found
        time.sleep(0.2)


def _start(name: str, seconds: int, evidence: Path | None) -> subprocess.Popen[bytes]:
    place = WORK / name
    shutil.rmtree(place / "found", ignore_errors=True)
    for folder in ("corpus", "found"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", "one", name, "--seconds", str(seconds)]
    if evidence is not None:
        command += ["--evidence", str(evidence)]
    with (place / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def _result(name: str, code: int) -> Found:
    place = WORK / name
    text = (place / "log").read_text(errors="replace")
    found = Found(name=name)
    units, covered = _UNITS.findall(text), _COVERED.findall(text)
    if not units:
        found.broken = f"exit code {code}: {(text.strip().splitlines() or [''])[-1]}"
        return found
    found.units, found.covered = int(units[-1]), int(covered[-1]) if covered else 0
    for path in sorted((place / "found").glob("*")):
        told, took, why = _again(name, path)
        found.slowest_ms = max(found.slowest_ms, took)
        shown = f"{path.relative_to(ROOT)}: {why}"
        if told == "crash":
            found.crashes.append(shown)
        elif told == "lie":
            found.lies.append(shown)
        if took > SLOW_MS:
            found.slow.append(f"{path.relative_to(ROOT)}: {took:.0f} ms")
        elif not told:
            path.unlink()
    return found


def _again(name: str, path: Path) -> tuple[str, float, str]:
    """Try an input in a fresh process without instrumentation."""
    command = [sys.executable, "-m", "tests.fuzz", "try", name, str(path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if not done.stdout:
        return "crash", 0.0, f"exit code {done.returncode}: {done.stderr[-300:]}"
    told = json.loads(done.stdout)
    return told["told"], told["ms"], told["why"]


def attempt(name: str, data: bytes) -> tuple[str, float, str]:
    """Try one input: "", "crash" or "lie", the best of three times in ms, and why."""
    from tests.fuzz.lies import Lie
    from tests.fuzz.targets import TARGETS

    target, took, told, why = TARGETS[name], [], "", ""
    # What is made once (cases, cached facts) is no part of an input's time.
    for _ in range(4):
        started = time.process_time()
        try:
            target.attempt(data)
        except Lie as lie:
            told, why = "lie", str(lie)
        except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
            told, why = "crash", traceback.format_exc(limit=-3)
        took.append((time.process_time() - started) * 1000)
    return told, min(took[1:]), why


def one(name: str, seconds: int, evidence: Path | None) -> None:
    """Fuzz one target in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    place = WORK / name
    for data in target.seeds(evidence):
        data = data[: target.largest]
        path = place / "corpus" / hashlib.sha1(data, usedforsecurity=False).hexdigest()
        path.write_bytes(data)
    suspects = [(SUSPECT_MS, b"")]

    def attempt_one(data: bytes) -> None:
        started = time.process_time()
        target.attempt(data)
        took = (time.process_time() - started) * 1000
        if took > suspects[0][0]:
            push = heapq.heappush if len(suspects) < SUSPECTS else heapq.heappushpop
            push(suspects, (took, data))
            _keep(place, suspects)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.largest}",
        f"-artifact_prefix={place / 'found'}/",
        "-print_final_stats=1",
        "-timeout=20",
        "-rss_limit_mb=3072",
        f"-seed={int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'big')}",
    ]
    atheris.Setup([name, str(place / "corpus"), *options], attempt_one)
    atheris.Fuzz()


def _keep(place: Path, suspects: list[tuple[float, bytes]]) -> None:
    """Write the slowest inputs so far; the process may end at any moment."""
    for number, (_, data) in enumerate(sorted(suspects, reverse=True)):
        if not data:
            continue
        (place / "found" / f"slow-{number}").write_bytes(data)
