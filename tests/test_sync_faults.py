"""Random schedules: the upstream changes, lies down and comes back while sync and keys are killed.

Whatever the order: what boxes get never goes back to an older version, what was withdrawn stays
withdrawn until there is a newer one, and in the end keys has what the upstream has.
"""

from __future__ import annotations

import random

import pytest
from sync_site import SyncSite, Upstream, synced_site
from upstream_doubles import http, say

pytestmark = pytest.mark.boots

PATH, NAME, STEPS = "pos/token", "pos-api-token", 14


class Schedule:
    """One story, told by its seed."""

    def __init__(self, site: SyncSite, upstream: Upstream, seed: int) -> None:
        self.site, self.upstream = site, upstream
        self.draw = random.Random(seed)
        self.seen = 0

    def step(self) -> None:
        """Do one thing; some of them leave something broken until the next heals it."""
        self.draw.choice(
            [
                self.rotate,
                self.delete,
                self.lie_down,
                self.get_up,
                self.kill_sync,
                self.kill_keys,
                self.kill_both,
                self.look,
            ]
        )()

    def rotate(self) -> None:
        versions = self.upstream.kv2.versions[PATH]
        self.upstream.kv2.put(PATH, value=f"version-{len(versions) + 1}")

    def delete(self) -> None:
        self.upstream.kv2.versions[PATH][-1].deletion_time = "2026-01-01T00:00:00Z"

    def lie_down(self) -> None:
        answers = (
            lambda _: say(503, {"errors": ["sealed"]}),
            lambda _: http(200, b"<html>log in</html>", "text/html"),
            lambda _: lambda line: line.recv(1),
        )
        self.upstream.wire.answer = self.draw.choice(answers)

    def get_up(self) -> None:
        self.upstream.wire.answer = self.upstream.kv2.answer

    def kill_sync(self) -> None:
        self.site.kill_sync()
        self.site.start_sync()

    def kill_keys(self) -> None:
        self.site.kill()
        self.site.start()

    def kill_both(self) -> None:
        self.site.kill()
        self.site.kill_sync()
        self.site.start()
        self.site.start_sync()

    def look(self) -> None:
        """Let sync ask, and wait until something came of it."""
        before = len(self.upstream.wire.requests)
        self.site.renew()
        self.site.until(lambda: len(self.upstream.wire.requests) > before, asking=True)

    def check(self) -> None:
        """Hold what keys gives against what was ever given."""
        listed = self.site.listed()
        newest = len(self.upstream.kv2.versions[PATH])
        assert self.seen <= (listed["upstream_version"] or 0) <= newest
        self.seen = listed["upstream_version"] or 0
        if listed["gone"]:
            assert listed["reason"] == "SECRET-GONE"

    def settle(self) -> None:
        """Heal everything, and wait until keys has what the upstream has."""
        self.get_up()
        last = self.upstream.kv2.versions[PATH][-1]
        version = len(self.upstream.kv2.versions[PATH])
        if last.deletion_time:
            self.site.until(lambda: self.site.listed()["reason"] == "SECRET-GONE", asking=True)
            assert NAME not in self.site.given()
        else:
            self.site.until(lambda: self.site.listed()["upstream_version"] == version, asking=True)
            assert self.site.listed()["reason"] is None
            assert NAME in self.site.given()
        self.check()


@pytest.mark.parametrize("seed", range(4))
def test_random_schedules_end_with_what_the_upstream_has(seed: int) -> None:
    with synced_site() as (site, upstream):
        site.login()
        site.start_sync()
        site.until(lambda: site.listed()["reason"] is None)
        story = Schedule(site, upstream, seed)
        for _ in range(STEPS):
            story.step()
            story.check()
        story.settle()
