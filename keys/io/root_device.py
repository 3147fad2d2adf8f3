"""Asks the kernel what the programs of this controller lie on; `keys.rootfs` judges it.

It reads /proc/self/mountinfo and sysfs, opens no device and needs no right. Where one of them is
missing or refused, nothing is known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from keys.rootfs import MAX_DEPTH, Device, Seen, decode_mounts, judge

MAX_MOUNTS = 1 << 20
"""Bytes of mountinfo that are read."""


PROGRAMS = ("/", sys.prefix, os.path.realpath(sys.executable), str(Path(__file__).resolve()))
"""What must be protected: whatever starts us, this interpreter, these modules."""


def look(kernel: Path = Path("/"), paths: Sequence[str] = PROGRAMS) -> Seen:
    """Say what protects what is at `paths`; `kernel` is where proc and sys are."""
    try:
        with (kernel / "proc/self/mountinfo").open(errors="replace") as file:
            mounts = decode_mounts(file.read(MAX_MOUNTS))
    except OSError as error:
        return Seen(root=None, where=f"/proc/self/mountinfo: {error.strerror}")
    devices = {}
    for mount in mounts:
        number = _number(kernel, mount.number, mount.source)
        if (found := _device(kernel, number)) is not None:
            devices[mount.number] = found
    return judge(mounts, devices, paths)


def _number(kernel: Path, number: str, source: str) -> str:
    """Give the device of a mount; btrfs has a number of its own, and names the device instead."""
    if not number.startswith("0:") or not source.startswith("/dev/"):
        return number
    try:
        found = (kernel / source.lstrip("/")).stat().st_rdev
    except OSError:
        return number
    return f"{os.major(found)}:{os.minor(found)}"


def _device(kernel: Path, number: str, depth: int = 0) -> Device | None:
    place = kernel / "sys/dev/block" / number
    if not place.exists() or depth > MAX_DEPTH:
        return None
    slaves = (_device(kernel, _read(one / "dev"), depth + 1) for one in _below(place / "slaves"))
    return Device(
        name=place.resolve().name,
        uuid=_read(place / "dm/uuid"),
        slaves=tuple(one for one in slaves if one is not None),
    )


def _below(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
