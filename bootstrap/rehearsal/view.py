"""Lets the services of a rehearsal read our own code where it lies in a directory of root's alone.

In a mount namespace of the caller's own, a closed directory on the way to the code (say /root) is
covered by an empty one that holds just the paths that are needed. Nothing outside the namespace
changes. mount_namespaces(7). An installed appliance (`/opt/doorstep`) does not need this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from bootstrap.errors import SiteError


def own_paths() -> tuple[Path, ...]:
    """Where this Python, its environment and our packages are."""
    here = Path(__file__).resolve().parents[2]
    return tuple(dict.fromkeys(Path(p).resolve() for p in (sys.base_prefix, sys.prefix, here)))


def make_visible(paths: Iterable[Path]) -> None:
    """Make paths reachable for other users; call it in a mount namespace of your own."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        if not path.stat().st_mode & 0o001:
            raise SiteError(f"{path}: other users may not enter it: chmod o+x {path}")
        ancestor = closed_ancestor(path)
        if ancestor is not None:
            closed.setdefault(ancestor, []).append(path)
    for ancestor, wanted in closed.items():
        _cover(ancestor, wanted)


def command_that_sees(paths: Iterable[Path], command: Sequence[str]) -> list[str]:
    """Wrap a command so that it, as whatever user, sees our code and `paths`."""
    seen = [str(path) for path in paths]
    return [sys.executable, "-m", "bootstrap.rehearsal.view", *seen, "--", *command]


def closed_ancestor(path: Path) -> Path | None:
    """Find the first directory from the top that other users may not enter."""
    for ancestor in reversed(path.parents):
        if not ancestor.stat().st_mode & 0o001:
            return ancestor
    return None


def _cover(ancestor: Path, wanted: list[Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="doorstep-view-") as staging:
        for number, path in enumerate(wanted):
            held = Path(staging) / str(number)
            held.mkdir()
            _mount("--bind", str(path), str(held))
        _mount("-t", "tmpfs", "-o", "mode=755,size=512m", "doorstep-view", str(ancestor))
        for number, path in enumerate(wanted):
            path.mkdir(parents=True, exist_ok=True)
            held = Path(staging) / str(number)
            _mount("--bind", str(held), str(path))
            subprocess.run(["umount", "--lazy", str(held)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SiteError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def main() -> None:
    """Make paths visible and become the command after `--`; in a mount namespace of one's own."""
    mark = sys.argv.index("--")
    here = Path.cwd()
    make_visible([*own_paths(), *map(Path, sys.argv[1:mark])])
    os.chdir(here if here.exists() else "/")
    command = sys.argv[mark + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
