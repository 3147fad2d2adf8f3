"""sync as a process: from an upstream into keys and to a box, and through every way that fails.

The upstream is a double of ours of KV v2, or, at the end, Keystone and Barbican themselves.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from barbican_lab import Lab
from click.testing import CliRunner
from sync_site import LOGIN, VALUE, LeasedSyncSite, SyncSite, Upstream, site_toml, synced_site
from upstream_doubles import TOKEN, Authority, http, say

from bootstrap.cli.main import main
from bootstrap.errors import SiteError
from bootstrap.io import sync
from bootstrap.io.sync_store import SyncStore, Withdrawal
from bootstrap.renewal import Changes, Line, Row
from keys.upstream import Source

pytestmark = pytest.mark.boots

Site = tuple[SyncSite, Upstream]


@pytest.fixture
def place() -> Iterator[Site]:
    with synced_site() as made:
        yield made


@pytest.fixture
def running(place: Site) -> Site:
    """A site whose sync has fetched everything."""
    site, _ = place
    site.login()
    site.start_sync()
    site.until(
        lambda: site.listed()["reason"] is None and site.listed("wifi-psk")["reason"] is None
    )
    return place


def doorstep(site: SyncSite, *words: str, given: bytes | None = None):
    """Run the command against the site."""
    places = ["--site", str(site.layout.site), "--state", str(site.layout.state)]
    places += ["--run", str(site.layout.run)]
    return CliRunner().invoke(main, [*words, *places], input=given)


def test_stored_handed_over_rotated_withdrawn_stored_again(running: Site) -> None:
    site, upstream = running
    first = site.given()
    assert set(first) == {"pos-api-token", "wifi-psk"}
    upstream.kv2.put("pos/token", value="rotated")
    site.until(lambda: site.listed()["upstream_version"] == 2, asking=True)
    assert site.given()["pos-api-token"] == first["pos-api-token"] + 1
    upstream.kv2.versions["pos/token"][-1].deletion_time = "2026-01-01T00:00:00Z"
    site.until(lambda: site.listed()["reason"] == "SECRET-GONE", asking=True)
    assert set(site.given()) == {"wifi-psk"}
    upstream.kv2.put("pos/token", value="third")
    site.until(lambda: site.listed()["reason"] is None, asking=True)
    assert site.given()["pos-api-token"] == first["pos-api-token"] + 2


@pytest.mark.parametrize("status", [403, 404])
def test_threat_9_withdrawn_is_purged_at_once(running: Site, status: int) -> None:
    site, upstream = running
    if status == 403:
        upstream.kv2.forbidden.add("pos/token")
    else:
        del upstream.kv2.versions["pos/token"]
    site.until(lambda: site.listed()["reason"] == "SECRET-GONE", asking=True)
    assert site.listed()["gone"]["status"] == status
    assert site.listed("wifi-psk")["reason"] is None


TROUBLES = {
    "5xx": lambda _: say(500, {"errors": ["internal"]}),
    "sealed": lambda _: say(503, {"errors": ["Vault is sealed"]}, {"Retry-After": "1"}),
    "silence": lambda _: lambda line: line.recv(1),
    "redirect": lambda _: http(302, b"", more={"Location": "https://login.example/"}),
    "404 of a proxy": lambda _: http(404, b"<html>not here</html>", "text/html"),
    "403 of a portal": lambda _: http(403, b"<html>log in</html>", "text/html"),
    "threat 12: portal": lambda _: http(200, b"<html>log in</html>", "text/html"),
    "threat 12: portal that says JSON": lambda _: http(200, b"<html>log in</html>"),
    "threat 12: portal in JSON": lambda _: say(200, {"portal": "log in"}),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_threats_9_and_12_what_is_no_answer_changes_nothing(running: Site, name: str) -> None:
    site, upstream = running
    before = site.listed()
    upstream.wire.answer = TROUBLES[name]
    site.until(lambda: (site.hq()["failures"] or 0) >= 1, asking=True)
    after = site.listed()
    for key in ("reason", "version", "upstream_version", "expires", "gone"):
        assert after[key] == before[key], key
    assert site.given()["pos-api-token"] == before["version"]
    upstream.wire.answer = upstream.kv2.answer
    site.until(lambda: site.hq()["trouble"] is None, asking=True)
    site.until(lambda: site.listed()["expires"] > before["expires"], asking=True)


def test_threat_11_another_authority_is_not_believed(running: Site) -> None:
    site, upstream = running
    before, reads = site.listed(), upstream.reads()
    good = upstream.wire.tls
    upstream.wire.tls = Authority(site.base, "rogue").serve()
    site.until(lambda: (site.hq()["failures"] or 0) >= 1, asking=True)
    assert "certificate is not believed" in site.hq()["trouble"]
    assert upstream.reads() == reads  # the login was told to nobody
    assert site.listed()["expires"] == before["expires"]
    upstream.wire.tls = good
    site.until(lambda: site.hq()["trouble"] is None, asking=True)


def test_threats_4_and_6_a_dead_upstream_ends_nothing_before_its_time() -> None:
    with synced_site(ttl="6s") as (site, upstream):
        site.login()
        site.start_sync()
        site.until(lambda: site.listed()["reason"] is None)
        upstream.wire.answer = TROUBLES["5xx"]
        site.until(lambda: site.hq()["trouble"] is not None)
        assert site.listed()["reason"] is None
        site.until(lambda: site.listed()["reason"] == "SECRET-EXPIRED")
        upstream.wire.answer = upstream.kv2.answer
        site.until(lambda: site.listed()["reason"] is None, asking=True)


def test_nothing_that_a_box_waits_for_waits_for_an_upstream(running: Site) -> None:
    """The upstream takes the question and answers when the hand-over is done, not before."""
    site, upstream = running
    asked, released = threading.Event(), threading.Event()

    def hold(_: object):
        asked.set()
        return lambda line: released.wait(30)

    upstream.wire.answer = hold
    site.renew()
    assert asked.wait(20)
    assert set(site.given()) == {"pos-api-token", "wifi-psk"}
    assert site.status() is not None  # sync itself answers meanwhile too
    assert not released.is_set()
    released.set()


def test_an_upstream_that_hangs_delays_no_other(running: Site) -> None:
    site, upstream = running
    text = (site.layout.site / "site.toml").read_text().replace("hq:wifi", "spare:wifi")
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, says nothing
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        spare = text.partition("[[upstream]]")[2].replace('"hq"', '"spare"')
        text = text.replace(upstream.wire.url, url)
        site.write("site.toml", f"{text}[[upstream]]{spare}")
        site.until(lambda: site.listed("wifi-psk")["source"] == "spare:wifi")  # keys read it
        site.login(upstream="spare")
        upstream.kv2.put("wifi", value="psk-2")
        site.until(lambda: site.listed("wifi-psk").get("upstream_version") == 2, asking=True)
        assert site.listed()["upstream_version"] == 1


def test_a_killed_sync_goes_on_where_it_was(running: Site) -> None:
    site, upstream = running
    site.kill_sync()
    reads = upstream.reads()
    site.start_sync()
    site.until(lambda: site.hq() is not None and site.hq()["secrets"] == 2)
    assert site.hq()["due"] == 0  # what was confirmed is not asked for again at once
    assert upstream.reads() == reads
    upstream.kv2.put("pos/token", value="second")
    held = threading.Event()
    answer = upstream.kv2.answer

    def slowly(asked):
        held.set()
        return answer(asked)

    upstream.wire.answer = slowly
    site.renew()
    assert held.wait(20)
    site.kill_sync()  # wherever it was between the answer and keys
    site.start_sync()
    site.until(lambda: site.listed()["upstream_version"] == 2)


def test_a_withdrawal_reaches_keys_though_both_were_killed(running: Site) -> None:
    """Learned while keys is away, kept through kill -9, told when the upstream is silent again."""
    site, upstream = running
    del upstream.kv2.versions["pos/token"]
    site.kill()  # keys
    reads = upstream.reads()
    site.renew()
    path = site.layout.state / "sync" / "sync.db"

    def is_kept() -> bool:
        with sqlite3.connect(path) as db:
            return bool(db.execute("SELECT 1 FROM withdrawn").fetchone())

    if upstream.reads() == reads:  # keys went before sync asked: it asks when keys is back
        site.start()
        site.until(lambda: is_kept() or site.listed()["reason"] == "SECRET-GONE", asking=True)
    else:
        site.until(is_kept)
        upstream.wire.answer = TROUBLES["silence"]
        site.kill_sync()
        site.start()
        site.start_sync()
    site.until(lambda: site.listed()["reason"] == "SECRET-GONE")
    site.until(lambda: not is_kept())


def test_a_login_that_is_refused_is_told_at_once_and_a_new_one_tried_at_once(place: Site) -> None:
    site, upstream = place
    site.start_sync()
    site.until(lambda: any("has no login" in one for one in site.status()["sentences"]))
    bad = json.dumps({"token": "wrong"}).encode()
    site.login(bad)
    site.until(lambda: site.hq()["is_login_refused"])
    assert any("refuses the login" in one for one in site.status()["sentences"])
    reads = len(upstream.wire.requests)
    assert site.hq()["paused_until"] is not None
    assert reads <= 4
    site.login()
    site.until(lambda: site.listed()["reason"] is None)
    assert site.status()["sentences"] == []
    assert upstream.reads() >= 2


@pytest.mark.parametrize(("days", "is_silent", "said"), [(3, 0, 1), (20, 0, 0), (-1, 0, 1)])
def test_threat_10_the_end_of_a_login_is_told_before(
    place: Site, days: int, is_silent: bool, said: bool
) -> None:
    site, upstream = place
    ends = datetime.now(UTC) + timedelta(days=days)
    upstream.kv2.expire_time = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    site.login()
    site.start_sync()
    site.until(lambda: site.hq() is not None and site.hq()["login_ends"] is not None)
    assert abs(site.hq()["login_ends"] - ends.timestamp()) < 2
    sentences = site.status()["sentences"]
    assert any("the login of upstream hq" in one for one in sentences) == bool(said), sentences
    site.kill_sync()  # it is known without the upstream too
    upstream.wire.answer = TROUBLES["silence"]
    site.start_sync()
    site.until(lambda: site.hq() is not None)
    assert abs(site.hq()["login_ends"] - ends.timestamp()) < 2


def test_it_leaves_no_core_and_runs_as_nobody_else(running: Site) -> None:
    site, _ = running
    limits = Path(f"/proc/{site.sync_child}/limits").read_text().splitlines()
    assert next(one.split()[4] for one in limits if one.startswith("Max core")) == "0"
    assert Path(f"/proc/{site.sync_child}/mem").stat().st_uid == 0  # it is not dumpable
    with pytest.raises(SiteError, match="not as 0"):
        sync.main(site.layout)


def test_nothing_of_a_value_or_login_is_left_with_sync(running: Site) -> None:
    site, upstream = running
    site.given()
    upstream.kv2.put("pos/token", value=f"{VALUE}-rotated")
    site.until(lambda: site.listed()["upstream_version"] == 2, asking=True)
    upstream.wire.answer = TROUBLES["5xx"]
    site.until(lambda: site.hq()["trouble"] is not None, asking=True)
    assert site.stop_sync() == 0
    places = [*(site.layout.state / "sync").iterdir(), site.sync_log]
    assert len(places) >= 2
    for path in places:
        content = path.read_bytes()
        for canary in (VALUE.encode(), TOKEN.encode(), LOGIN):
            assert canary not in content, path


def test_the_commands_of_an_operator(place: Site) -> None:
    site, upstream = place
    site.start_sync()
    done = doorstep(site, "upstream", "login", "hq", given=b'{"tokn": "x"}')
    assert done.exit_code != 0 and "of the form" in done.output and "tokn" not in done.output
    done = doorstep(site, "upstream", "login", "elsewhere", given=LOGIN)
    assert done.exit_code == 2 and "no [[upstream]] named elsewhere" in done.output
    done = doorstep(site, "upstream", "login", "hq", TOKEN, given=LOGIN)
    assert done.exit_code == 2 and "command line" in done.output and TOKEN not in done.output
    done = doorstep(site, "upstream", "login", "hq", given=LOGIN)
    assert (done.exit_code, done.output) == (
        0,
        "stored the login of hq, version 1: it is tried now\n",
    )
    site.until(lambda: site.listed()["reason"] is None)
    done = doorstep(site, "upstream", "renew", "hq")
    assert "2 secrets are asked for" in done.output
    assert doorstep(site, "upstream", "renew", "elsewhere").exit_code == 1
    site.until(lambda: site.hq()["due"] == 0 and not site.status()["sentences"])
    done = doorstep(site, "upstream", "list")
    assert done.exit_code == 0, done.output
    assert "kv2" in done.output and "hq:pos/token" in done.output
    del upstream.kv2.versions["pos/token"]
    site.until(lambda: site.listed()["reason"] == "SECRET-GONE", asking=True)
    done = doorstep(site, "upstream", "list", "--json")
    assert done.exit_code == 1
    found = {one["name"]: one for one in json.loads(done.output)["secrets"]}
    assert found["pos-api-token"]["gone"]["status"] == 404
    explained = doorstep(site, "keys", "explain").output
    assert "withdrawn upstream" in explained
    done = doorstep(site, "secret", "put", "pos-api-token", given=b"by hand")
    assert "the next renewal replaces this value" in done.output
    done = doorstep(site, "secret", "remove", "pos-api-token")
    assert "what was withdrawn may come again" in done.output


def test_after_the_lease_no_upstream_is_asked() -> None:
    """Who steals the controller does not log in upstream with what sync has in memory either."""
    with synced_site(kind=LeasedSyncSite) as (site, upstream):
        assert isinstance(site, LeasedSyncSite)
        site.operator("lease_apply", lease=site.issue_lease())
        site.login()
        site.start_sync()
        site.until(lambda: site.listed()["reason"] is None)
        site.operator("lease_end")
        site.renew()
        site.until(lambda: any("no upstream is asked" in one for one in site.status()["sentences"]))
        asked = len(upstream.wire.requests)
        site.renew()
        site.until(lambda: site.hq()["due"] == 2)
        assert len(upstream.wire.requests) == asked
        site.operator("lease_apply", lease=site.issue_lease())
        site.until(lambda: site.hq()["due"] == 0 and not site.status()["sentences"], asking=True)
        assert len(upstream.wire.requests) > asked
        assert site.given()


def test_a_database_of_a_newer_release_is_refused_and_rows_come_back(tmp_path: Path) -> None:
    path, source = tmp_path / "sync.db", Source.parse("hq:a/b#c")
    row = Row(name="a", source=source, looked=1 << 50, wait=7, failures=2, sentence="no")
    line = Line(
        name="hq",
        since=1 << 50,
        wait=3,
        failures=1,
        success=1 << 49,
        trouble="x",
        trouble_since=1 << 48,
        is_login_refused=True,
        login=4,
        login_ends=1 << 33,
    )
    store = SyncStore(path)
    store.keep(Changes(rows=[row], lines=[line]))
    gone = Withdrawal(name="a", source=source, status=404)
    store.withdraw(gone)
    store.record(1.5, "upstream-trouble", {"upstream": "hq"})
    store.close()
    store = SyncStore(path)
    assert (store.rows(), store.lines(), store.withdrawals(9)) == ([row], [line], [gone])
    assert [one["n"] for one in store.events(0, 9)] == [1] == [store.last_event()]
    store.told([gone])
    store.keep(Changes(dropped=["a"], dropped_lines=["hq"]))
    assert (store.rows(), store.lines(), store.withdrawals(9)) == ([], [], [])
    store.close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(SiteError, match="newer release"):
        SyncStore(path)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(SiteError, match="move it away"):
        SyncStore(path)


def test_through_barbican_itself(tmp_path: Path) -> None:
    """Stored, handed over, rotated, killed and back, withdrawn: with Keystone and Barbican."""
    tmp_path.chmod(0o755)
    site = SyncSite()
    try:
        with Lab(tmp_path) as lab:
            project = lab.project("shop-0417")
            first = lab.store(project, "pos-token", VALUE.encode())
            lab.store(project, "wifi", b"psk")
            kind = f'kind = "barbican"\nauth_url = "{lab.auth_url}"'
            text = site_toml(lab.barbican.url, "1h", kind).replace("hq:pos/token", "hq:pos-token")
            site.write("site.toml", text)
            site.write("trust/hq.pem", Authority(site.base, "hq").file.read_text())
            site.ready()
            ends = datetime.now(UTC) + timedelta(days=90)
            site.login(lab.issue(project, ends).file)
            site.start_sync()
            site.until(lambda: site.listed()["reason"] is None)
            given = site.given()
            site.until(lambda: site.hq()["login_ends"] is not None, asking=True)
            assert abs(site.hq()["login_ends"] - ends.timestamp()) < 2
            second = lab.store(project, "pos-token", b"rotated")
            site.until(lambda: site.listed()["version"] == given["pos-api-token"] + 1, asking=True)
            lab.barbican.kill()
            before = site.listed()
            site.until(lambda: site.hq()["trouble"] is not None, asking=True)
            assert site.listed()["reason"] is None
            assert site.given()["pos-api-token"] == before["version"]
            lab.barbican.start()
            site.until(lambda: site.hq()["trouble"] is None, asking=True)
            site.until(lambda: site.listed()["expires"] > before["expires"], asking=True)
            assert site.listed()["version"] == before["version"]
            for reference in (second, first):
                lab.delete(project, reference)
            site.until(lambda: site.listed()["reason"] == "SECRET-GONE", asking=True)
            assert set(site.given()) == {"wifi-psk"}
    finally:
        site.close()
