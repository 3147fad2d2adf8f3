"""Writes the plan that netboot runs: temporary file, fsync, rename, the one before kept.

A plan is on disk when `write` returns. The same content keeps its number, so netboot has nothing to
reload. docs/architecture.md, "The plan".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bootstrap.errors import SiteError
from bootstrap.io import zone_files
from bootstrap.io.plan_files import PlanFiles, stamps
from bootstrap.io.references import References
from bootstrap.io.site_store import SiteStore
from bootstrap.io.zone_files import ZoneFiles, take_or_keep
from bootstrap.planning import make_plan
from bootstrap.published import PublishedState
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from netboot.errors import NetbootError
from netboot.plan import Plan
from netboot.plan_dns import PlanZone

PLAN, PREVIOUS = "plan.json", "plan.previous.json"
NUMBER = "plan"
ACCEPTED = PublishedState.ACCEPTED

_Looked = tuple[object, ...]


class PlanWriter:
    """The one writer of STATE/plan."""

    def __init__(
        self,
        directory: Path,
        settings: Callable[[], Settings],
        references: Callable[[], References],
        store: SiteStore,
        site: Path,
    ) -> None:
        """Write into `directory` what follows from these; `site` is where the site file is."""
        self._directory = directory
        self._site = site
        self._files = PlanFiles(directory / "files")
        self._own: Mapping[str, bytes] = {}
        self._zone_files = ZoneFiles(self._files)
        self._zones: tuple[PlanZone, ...] = ()
        self._looked: _Looked = ()
        self.trouble: str | None = None
        self._settings = settings
        self._references = references
        self._store = store

    def files_changed(self) -> bool:
        """Tell whether the operator's boot files are others than when they were last taken."""
        return self._look() != self._looked

    def _look(self) -> _Looked:
        source = self._source()
        zones = zone_files.stamps(self._site, self._settings().site.zones)
        try:
            return (*zones, *(() if source is None else stamps(source)))
        except SiteError as error:
            return (*zones, str(error))

    def _source(self) -> Path | None:
        files = self._settings().site.boot.files
        return None if files is None else self._site / files

    def _take_files(self) -> None:
        """Take the operator's files; those before stay where these cannot be read."""
        self._looked, zones = self._look(), self._settings().site.zones
        self._zones, self.trouble = take_or_keep(self._zone_files, self._site, zones, self._zones)
        try:
            self._own = self._files.take(self._source())
        except SiteError as error:
            self.trouble = f"the boot files before stay: {error}"

    def write(self, boxes: Sequence[BoxRow]) -> int:
        """Make the plan of these boxes durable and return its number."""
        self._take_files()
        number, references = self._store.number(NUMBER), self._references()
        plan = make_plan(
            self._settings().site,
            boxes,
            [one.manifest for one in references.served()],
            [one.manifest for one in references.manifests if one.published.state is ACCEPTED],
            number,
            files=self._own,
            zones=self._zones,
        )
        if plan == read_plan(self._directory / PLAN):
            return number
        plan = replace(plan, number=number + 1)
        self._store.set_number(NUMBER, plan.number)
        write_plan(self._directory, plan)
        keep_files(self._directory, self._files)
        return plan.number


def keep_files(directory: Path, files: PlanFiles) -> None:
    """Remove the copies of files that neither the plan nor the one before names."""
    plans = [read_plan(directory / name) for name in (PLAN, PREVIOUS)]
    boots = (one.boot.files.values() for one in plans if one is not None and one.boot)
    zones = ((zone.digest for zone in one.zones) for one in plans if one is not None)
    files.keep_only(digest for digests in (*boots, *zones) for digest in digests)


def read_plan(path: Path) -> Plan | None:
    """Read a plan; None where there is none, or none that this release reads."""
    try:
        return Plan.decode(path.read_bytes())
    except (OSError, NetbootError):
        return None


def write_plan(directory: Path, plan: Plan) -> None:
    """Make a plan durable in place of the one before, which is kept beside it."""
    path, temporary = directory / PLAN, directory / "plan.new"
    with temporary.open("wb") as file:
        file.write(plan.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    if path.exists():
        previous = directory / PREVIOUS
        previous.unlink(missing_ok=True)
        os.link(path, previous)
    temporary.rename(path)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
