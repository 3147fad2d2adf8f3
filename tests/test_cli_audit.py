"""`doorstep audit verify` on a running site whose controller has a TPM."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from test_lease_service import LeasedSite

from bootstrap.cli.main import main


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


def verify(site: LeasedSite, *more: str) -> Result:
    layout = site.layout
    users = ",".join(f"{name}={uid}" for name, uid in layout.users.items())
    where = ["--site", layout.site, "--state", layout.state, "--run", layout.run, "--users", users]
    return CliRunner().invoke(main, ["audit", "verify", *map(str, where), *more])


def change(site: LeasedSite, *statements: str) -> None:
    """Do what somebody can who has the file and has stopped the service."""
    site.stop()
    database = sqlite3.connect(site.layout.state / "keys/keys.db")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    site.start()


def test_a_whole_audit_holds(site: LeasedSite) -> None:
    site.ready()
    site.put()
    site.operator("lease_apply", lease=site.issue_lease())
    done = verify(site)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("the audit holds: ")
    found = json.loads(verify(site, "--json").output)
    assert found["problems"] == []
    assert 0 < found["anchored"] <= found["entries"]


def test_entries_that_were_cut_off_are_missed(site: LeasedSite) -> None:
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    site.operator("lease_end")
    last = json.loads(verify(site, "--json").output)["entries"]
    change(
        site,
        f"DELETE FROM audit WHERE n>={last - 2}",
        f"DELETE FROM anchors WHERE number>={last - 2}",
    )
    done = verify(site)
    assert done.exit_code == 1
    assert "problem: before entry" in done.output
    assert "the audit does not hold" in done.output
    kinds = [one["kind"] for one in site.operator("events", after=0)["events"]]
    assert "audit-broken" in kinds
