"""Size of what a box loads to be enrolled, beside the initrd of Debian's own installer.

Both start over the network, carry a whole user land and are signed for by nobody but their server.
The peer carries drivers for much more hardware; ours a TPM stack and Python.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bootstrap.build import apt
from bootstrap.build.parts import SUITE, default_cache
from netboot.bootset import Role
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

PACKAGE = "debian-installer-13-netboot-amd64"
_PATH = "./usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64/initrd.gz"


def measure(lab: Lab) -> list[Figure]:
    """Weigh both; the package comes from the mirror, checked by apt, and is kept."""
    package, version = _installer()
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as archive:
        done = subprocess.run(
            ["tar", "--extract", "--to-stdout", _PATH],
            stdin=archive.stdout,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        raise BenchError(f"{PACKAGE} does not hold {_PATH}: {done.stderr.decode().strip()}")
    ours = sum(lab.boot_set.roles[role].size for role in (Role.GENERIC, Role.ANCHOR))
    return [
        Figure(
            name="enrolment initrd",
            unit="MB",
            ours=(ours / 1e6,),
            peer=(len(done.stdout) / 1e6,),
            peer_name=f"Debian installer {version}, netboot initrd",
        )
    ]


def _installer() -> tuple[Path, str]:
    mirrors = apt.find_mirrors()
    lock = apt.resolve_lock([PACKAGE], SUITE, mirrors)
    files = apt.fetch(lock, [PACKAGE], default_cache(), mirrors)
    return files[PACKAGE], lock.package(PACKAGE).version
