"""The device of the controller's TPM on this machine: who may use it, and why nobody can."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bootstrap.site import Site


def device_of(site: Site) -> Path | None:
    """Give the path of the device that the site file names; None without one."""
    tpm = site.controller.tpm
    return Path(tpm) if tpm.startswith("/") else None


def group_of(path: Path) -> int | None:
    """Give the group that may use a device; None where it is root's, or where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    is_for_group = stat.S_IMODE(found.st_mode) & 0o060 == 0o060
    return found.st_gid if is_for_group and found.st_gid else None


def fault_of(path: Path) -> str | None:
    """Say why a service that is not root cannot use a device; None when it can."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0)}"
    if not stat.S_ISCHR(found.st_mode):
        return f"{path} is no device"
    if group_of(path) is None and stat.S_IMODE(found.st_mode) & 0o006 != 0o006:
        return f"{path} is root's alone: apt-get install tpm-udev gives it to the group tss"
    return None
