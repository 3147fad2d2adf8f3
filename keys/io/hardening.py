"""What this process asks of the kernel, so that a secret stays in its memory.

No core dump, no debugger of the same user, no file that others read, and no page in swap where the
limit lets it. What is not had is said in a sentence. mlockall(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
SWAPPED = (
    "this controller swaps and keys may not lock its memory, so that secrets may reach the disk "
    "in the clear: set LimitMEMLOCK=infinity for doorstep-keys, or switch swap off"
)


def harden() -> None:
    """Leave no secret in a core dump, to a debugger of the same user, in a file or in swap."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _lock_memory()


def _lock_memory() -> None:
    """Lock what is there and what comes, page by page as it is used.

    Below a limit it is not tried: what grows beyond it later would fail instead of being swapped.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def shortfall(process: Path = Path("/proc/self"), swaps: Path = Path("/proc/swaps")) -> str | None:
    """Say when memory of a process may go to swap; None when it is locked or nothing swaps."""
    try:
        is_swapping = len(swaps.read_text().splitlines()) > 1
        locked = (process / "status").read_text().partition("VmLck:")[2].split()
    except OSError:  # ProcSubset=pid hides what the whole machine does
        return None
    return SWAPPED if is_swapping and locked[:1] == ["0"] else None
