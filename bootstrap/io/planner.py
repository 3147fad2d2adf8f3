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
        if plan == read_plan(self._directory / PLAN):
            return number
        plan = replace(plan, number=number + 1)
        self._store.set_number(NUMBER, plan.number)
        write_plan(self._directory, plan)
        return plan.number


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
