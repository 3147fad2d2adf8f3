"""What process 1 does to the machine: mounts, kernel modules, console, clock, power.

Linux system calls through libc alone; it never decides anything. mount(2), finit_module(2),
reboot(2).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

Say = Callable[[str], None]

MODULES = Path("/doorstep/modules")
MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("securityfs", "/sys/kernel/security", "securityfs"),
)
_NOSUID_NODEV_NOEXEC = 0x0002 | 0x0004 | 0x0008
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_POWER_OFF = 0x4321FEDC
_RESTART = 0x01234567


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def prepare(say: Say) -> None:
    """Mount what a system needs and load the modules of the list."""
    for source, target, kind in MOUNTS:
        mount(source, target, kind, say)
    os.environ["PATH"] = "/usr/bin:/usr/sbin"
    open_console()
    load_modules(say)


def mount(source: str, target: str, kind: str, say: Say) -> None:
    """Mount a file system unless something is mounted there already."""
    path = Path(target)
    if path.is_mount():
        return
    path.mkdir(parents=True, exist_ok=True)
    flags = 0 if kind == "devtmpfs" else _NOSUID_NODEV_NOEXEC
    data = b"mode=0755" if kind == "tmpfs" else None
    if _libc().mount(source.encode(), target.encode(), kind.encode(), flags, data):
        say(f"{target} cannot be mounted: {os.strerror(ctypes.get_errno())}")


def open_console() -> None:
    """Make the console the standard streams, whatever the kernel gave us."""
    if not Path("/dev/console").exists():
        return
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for stream in (0, 1, 2):
        os.dup2(console, stream)
    if console > 2:
        os.close(console)


def load_modules(say: Say) -> None:
    """Load the kernel modules named in /doorstep/modules, in that order."""
    if not MODULES.exists():
        return
    for name in MODULES.read_text().split():
        error = load_module(MODULES.parent / name)
        if error:
            say(f"kernel module {name}: {os.strerror(error)}")


def load_module(path: Path) -> int:
    """Load one module; gives 0 or the errno (a module that is there already is no error)."""
    number = _FINIT_MODULE[os.uname().machine]
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or 1
    try:
        if _libc().syscall(number, file, b"", 0) == 0:
            return 0
        error_number = ctypes.get_errno()
        return 0 if error_number == 17 else error_number
    finally:
        os.close(file)


def set_clock(seconds: int) -> None:
    """Set the system's clock to a unix time."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def power_off() -> NoReturn:
    """Switch the machine off."""
    _reboot(_POWER_OFF)


def restart() -> NoReturn:
    """Restart the machine."""
    _reboot(_RESTART)


def _reboot(command: int) -> NoReturn:
    os.sync()
    _libc().reboot(command)
    while True:
        time.sleep(60)


def reap() -> None:
    """Collect children that ended; process 1 inherits every orphan."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
