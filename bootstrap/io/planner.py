"""Writes the plan that netboot runs: temporary file, fsync, rename, the one before kept.

A plan is on disk when `write` returns. The same content keeps its number, so netboot has nothing to
reload. docs/architecture.md, "The plan".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bootstrap.io.references import References
from bootstrap.io.site_store import SiteStore
from bootstrap.planning import make_plan
from bootstrap.published import PublishedState
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from netboot.errors import NetbootError
from netboot.plan import Plan

PLAN, PREVIOUS = "plan.json", "plan.previous.json"
NUMBER = "plan"
ACCEPTED = PublishedState.ACCEPTED


class PlanWriter:
    """The one writer of STATE/plan."""

    def __init__(
        self,
        directory: Path,
        settings: Callable[[], Settings],
        references: Callable[[], References],
        store: SiteStore,
    ) -> None:
        """Write into `directory` what follows from these."""
        self._directory = directory
        self._settings = settings
        self._references = references
        self._store = store

    def write(self, boxes: Sequence[BoxRow]) -> int:
        """Make the plan of these boxes durable and return its number."""
        number, references = self._store.number(NUMBER), self._references()
        served = references.served()
        plan = make_plan(
            self._settings().site,
            boxes,
            served.manifest if served else None,
            [one.manifest for one in references.manifests if one.published.state is ACCEPTED],
            number,
        )
        if plan == self._current():
            return number
        plan = replace(plan, number=number + 1)
        self._store.set_number(NUMBER, plan.number)
        self._replace(plan.encode())
        return plan.number

    def _current(self) -> Plan | None:
        try:
            return Plan.decode((self._directory / PLAN).read_bytes())
        except (OSError, NetbootError):
            return None

    def _replace(self, data: bytes) -> None:
        path, temporary = self._directory / PLAN, self._directory / "plan.new"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if path.exists():
            previous = self._directory / PREVIOUS
            previous.unlink(missing_ok=True)
            os.link(path, previous)
        temporary.rename(path)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
