"""`python -m tests.bench [NAME…]`: take the figures, print a line for each, write them as JSON.

A figure that cannot be taken is told of on standard error and makes the exit code 1; the others
are taken all the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from subprocess import SubprocessError

from bootstrap.errors import BootstrapError
from keys.errors import KeysError
from netboot.errors import NetbootError
from tests.bench import (
    backup,
    cache,
    dhcp,
    dhcp_boxes,
    dns,
    http,
    identities,
    memory,
    ready,
    size,
    ssh,
    start,
    tftp,
    upstreams,
    verify,
)
from tests.bench.figure import BenchError, Figure, Measure
from tests.bench.lab import Lab

FIGURES: dict[str, Measure] = {
    "size": size.measure,
    "start": start.measure,
    "memory": memory.measure,
    "ready": ready.measure,
    "dhcp": dhcp.measure,
    "power-on": dhcp_boxes.measure,
    "tftp": tftp.measure,
    "dns": dns.measure,
    "verify": verify.measure,
    "http": http.measure,
    "cache": cache.measure,
    "backup": backup.measure,
    "identities": identities.measure,
    "ssh": ssh.measure,
    "upstreams": upstreams.measure,
}
_FAILURES = (BenchError, BootstrapError, KeysError, NetbootError, OSError, SubprocessError)


def main() -> None:
    """Take what was asked for; exit code 1 when anything could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    parser.add_argument("--runs", type=int, default=3, help="of each timed figure (3)")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--work", type=Path, help="where to work; kept afterwards")
    chosen = parser.parse_args()
    if chosen.list:
        print("\n".join(FIGURES))
        return
    if unknown := set(chosen.names) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    if chosen.runs < 1:
        parser.error("--runs is at least 1")
    work = chosen.work or Path(tempfile.mkdtemp(prefix="doorstep-bench-"))
    figures, failed = _take(chosen.names or list(FIGURES), Lab(work, chosen.runs, Progress()))
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps([one.document() for one in figures], indent=1) + "\n")
    if failed:
        sys.exit(f"not taken: {', '.join(failed)}; what there is, is in {work}")
    if chosen.work is None:
        shutil.rmtree(work)


def _take(names: list[str], lab: Lab) -> tuple[list[Figure], list[str]]:
    lab.work.mkdir(parents=True, exist_ok=True)
    lab.work.chmod(0o755)
    figures: list[Figure] = []
    failed = []
    for name in names:
        try:
            taken = FIGURES[name](lab)
        except _FAILURES as error:
            print(f"{name}: NOT TAKEN: {error}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        for figure in taken:
            print(figure.line(), flush=True)
        figures += taken
    return figures, failed


class Progress:
    """Tells on standard error what is going on, so that standard output has figures only."""

    def __init__(self) -> None:
        """Begin to count seconds."""
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Tell one line."""
        print(f"  {time.monotonic() - self._started:6.1f} s {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
