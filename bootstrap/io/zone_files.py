"""The operator's master files: read, checked, and copied by digest for netboot.

A file that did not change is not read again. docs/netboot.md, "Zones and records of your own".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bootstrap.check_network import zone_problems
from bootstrap.errors import SiteError
from bootstrap.io.plan_files import PlanFiles
from bootstrap.site import SiteFileError
from bootstrap.site_dns import ZoneFile
from netboot.plan_dns import PlanZone
from netboot.zone_file import MAX_FILE

Stamp = tuple[int, int, int] | None


class ZoneFiles:
    """The zones of one site file; `files` is where copies are kept, None for nowhere."""

    def __init__(self, files: PlanFiles | None) -> None:
        """Read nothing yet."""
        self._files = files
        self._known: dict[tuple[ZoneFile, Stamp], bytes] = {}

    def take(self, directory: Path, zones: Sequence[ZoneFile]) -> tuple[PlanZone, ...]:
        """Read the zones of a site file in `directory`; SiteFileError with all that is wrong."""
        known: dict[tuple[ZoneFile, Stamp], bytes] = {}
        read: dict[str, bytes | str] = {}
        for zone in zones:
            path = directory / zone.file
            key = zone, stamp(path)
            digest = self._known.get(key)
            if digest is not None and (self._files is None or self._files.has(digest)):
                known[key] = digest
                continue
            data = read_zone(path)
            read[zone.file] = data
            if isinstance(data, bytes):
                known[key] = hashlib.sha256(data).digest()
        problems = [one for zone in zones if zone.file in read for one in zone_problems(zone, read)]
        if problems:
            raise SiteFileError(problems)
        if self._files is not None:
            for data in read.values():
                if isinstance(data, bytes):
                    self._files.add(data)
        self._known = known
        return tuple(
            PlanZone(name=zone.name, file=zone.file, digest=digest, signed=zone.signed)
            for (zone, _), digest in known.items()
        )


def read_zones(directory: Path, zones: Sequence[ZoneFile]) -> Mapping[str, bytes | str]:
    """Read every master file, or say why it cannot be read."""
    return {zone.file: read_zone(directory / zone.file) for zone in zones}


def read_zone(path: Path) -> bytes | str:
    """Read a master file; a text says why it cannot be."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def stamps(directory: Path, zones: Sequence[ZoneFile]) -> tuple[Stamp, ...]:
    """Tell one state of the files from another."""
    return tuple(stamp(directory / zone.file) for zone in zones)


def stamp(path: Path) -> Stamp:
    """Tell one state of a file from another; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def take_or_keep(
    files: ZoneFiles, directory: Path, zones: Sequence[ZoneFile], before: tuple[PlanZone, ...]
) -> tuple[tuple[PlanZone, ...], str | None]:
    """Take the zones; where they cannot be, give those before and say why."""
    try:
        return files.take(directory, zones), None
    except SiteError as error:
        return before, f"the zones before stay: {error}"
