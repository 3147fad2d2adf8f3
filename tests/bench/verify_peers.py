"""The verifier's peers, installed when a figure needs them: Keylime and Debian's tpm2-tools.

Keylime lives in an environment of its own below the cache directory, with the `cryptography` that
we use; tpm2-tools is unpacked beside it, from this machine's own release. Nothing of the machine is
changed. Its API is not stable by its own word: the functions are those of the pinned version.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bootstrap.build.parts import default_cache
from tests.bench.figure import BenchError

KEYLIME = "7.14.3"
PINS = (f"keylime=={KEYLIME}", "PyYAML==6.0.3", "packaging==26.3")
"""What Keylime's checks import; its metadata names none of it."""
PACKAGES = (("tpm2-tools",), ("libefivar1", "libefivar1t64"))
"""Of this machine's release; of several names the first that it has."""
_CHILD = Path(__file__).with_name("keylime_child.py")


class Tools:
    """tpm2-tools as Debian ships it, unpacked into a directory."""

    def __init__(self, root: Path) -> None:
        """Unpack what is missing."""
        self._root = root
        if not self._program.exists():
            _unpack(root)
        done = subprocess.run(
            [self._program, "--version"], env=self.environment, capture_output=True, text=True
        )
        found = re.search(r'version="([0-9.]+)', done.stdout)
        if found is None:
            raise BenchError(f"tpm2_eventlog does not start: {(done.stderr or done.stdout)[:200]}")
        self.name = f"tpm2_eventlog {found[1]}"

    @property
    def _program(self) -> Path:
        return self._root / "usr" / "bin" / "tpm2_eventlog"

    @property
    def environment(self) -> Mapping[str, str]:
        """Give the environment in which programs find the tools and their libraries."""
        libraries = ":".join(str(path) for path in (self._root / "usr" / "lib").glob("*-linux-*"))
        path = f"{self._program.parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "LD_LIBRARY_PATH": libraries, "LC_ALL": "C"}

    def replay(self, log: Path, times: int) -> tuple[float, str]:
        """Run it on a log; give processor seconds for each run, and what it printed."""
        begun = _children()
        for _ in range(times):
            command = [self._program, "--eventlog-version=2", log]
            done = subprocess.run(command, env=self.environment, capture_output=True)
        if done.returncode:
            raise BenchError(f"tpm2_eventlog fails: {done.stderr.decode(errors='replace')[:200]}")
        return (_children() - begun) / times, done.stdout.decode(errors="replace")


class Keylime:
    """A process in Keylime's environment that does one job after another."""

    name = f"Keylime {KEYLIME}"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take a process of `keylime_child.py`."""
        self._process = process

    def run(self, work: str, of: str, times: int) -> tuple[float, object]:
        """Do a job; give processor seconds for each time, and what Keylime found last."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"work": work, "of": of, "times": times}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"Keylime ended at {work} of {of}; its words are in keylime.log")
        told = json.loads(answer)
        return told["seconds"], told["found"]


@contextmanager
def keylime(cases: Path, tools: Tools, work: Path) -> Iterator[Keylime]:
    """Start Keylime on a file of cases."""
    python = _environment(peers() / f"keylime-{KEYLIME}-python{sys.version_info.minor}")
    with (work / "keylime.log").open("w") as words:
        process = subprocess.Popen(
            [python, _CHILD, cases],
            env=tools.environment,
            cwd=work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        )
        try:
            yield Keylime(process)
        finally:
            process.kill()
            process.communicate()


def pins() -> list[str]:
    """Give what Keylime's environment holds; `cryptography` is ours, so that it decides nothing."""
    return [*PINS, f"cryptography=={version('cryptography')}"]


def peers() -> Path:
    """Give the directory where peers are kept between runs."""
    return default_cache().parent / "peers"


def _environment(root: Path) -> Path:
    python = root / "bin" / "python"
    wanted = pins()
    stamp = root / "installed"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", root], check=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"pip could not install {', '.join(wanted)}: {done.stderr[-300:]}")
    stamp.write_text("\n".join(wanted))
    return python


def _unpack(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    (root / "packages").mkdir(parents=True)
    for names in PACKAGES:
        tried = [_download(name, root / "packages") for name in names]
        if not any(tried):
            raise BenchError(f"apt-get download {names[0]} fails: apt-get update, and try again")
    for package in (root / "packages").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)


def _download(name: str, into: Path) -> bool:
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", name]
    return subprocess.run(command, cwd=into, capture_output=True).returncode == 0


def _children() -> float:
    """Give the processor time of this process's children that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
