"""The Barbican adapter against Keystone and Barbican themselves (barbican_lab), over TLS."""

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.io.upstreams import open_upstream
from keys.secret import Secret
from keys.upstream import Fetched, Gone, Trouble, Upstream, UpstreamKind, UpstreamRule
from tests.barbican_lab import PINS, READ_ONLY, Issued, Lab, Project
from tests.upstream_doubles import Authority, Front

pytestmark = pytest.mark.timeout(1200)  # the first test on a machine installs both
CANARY = b"canary-of-the-lab-5d1e"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The lab behind TLS, one project with its credential, and where its CA file is."""

    lab: Lab
    project: Project
    issued: Issued
    ends: datetime
    authority: Authority
    fronts: tuple[Front, Front]
    directory: Path

    def upstream(self, issued: Issued | None = None, deadline: float = 20) -> Upstream:
        """Give an adapter that logs in with a credential, this site's if none is named."""
        keystone, barbican = self.fronts
        rule = UpstreamRule(
            name="hq",
            kind=UpstreamKind.BARBICAN,
            url=barbican.url,
            auth_url=f"{keystone.url}/v3",
            ca="ca.pem",
            deadline=timedelta(seconds=deadline),
        )
        return open_upstream(rule, Secret((issued or self.issued).file), self.directory)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("barbican")
    authority = Authority(directory, "ca")
    with (
        Lab(directory) as lab,
        Front(lab.keystone.port, authority.serve()) as keystone,
        Front(lab.barbican.port, authority.serve()) as barbican,
    ):
        project = lab.project("shop-0417")
        ends = datetime.now(UTC) + timedelta(hours=2)
        yield Site(
            lab=lab,
            project=project,
            issued=lab.issue(project, ends),
            ends=ends,
            authority=authority,
            fronts=(keystone, barbican),
            directory=directory,
        )


def fetched(upstream: Upstream, name: str) -> Fetched:
    got = upstream.fetch(name)
    assert isinstance(got, Fetched), got
    return got


def gone(upstream: Upstream, name: str) -> Gone:
    got = upstream.fetch(name)
    assert isinstance(got, Gone), got
    return got


def trouble(upstream: Upstream, name: str) -> Trouble:
    got = upstream.fetch(name)
    assert isinstance(got, Trouble), got
    return got


def test_a_secret_is_fetched_byte_by_byte(site: Site) -> None:
    value = bytes(range(256)) * 4
    site.lab.store(site.project, "pos/bytes", value)
    got = fetched(site.upstream(), "pos/bytes")
    assert got.value.reveal() == value
    assert got.not_after is None
    assert abs(got.version / 1e6 - time.time()) < 3600


def test_the_longest_secret_is_fetched_and_a_longer_one_is_not(site: Site) -> None:
    site.lab.store(site.project, "pos/long", b"x" * 65_536)
    site.lab.store(site.project, "pos/longer", b"x" * 65_537)
    assert len(fetched(site.upstream(), "pos/long").value) == 65_536
    assert "longer than 65536 bytes" in trouble(site.upstream(), "pos/longer").sentence


def test_a_text_is_fetched_as_its_bytes(site: Site) -> None:
    wanted = {"name": "pos/text", "payload": "Grüße", "payload_content_type": "text/plain"}
    assert site.lab.ask("POST", "/v1/secrets", wanted, site.lab.token(site.project)).status == 201
    assert fetched(site.upstream(), "pos/text").value.reveal() == "Grüße".encode()


def test_rotation_gives_a_higher_version(site: Site) -> None:
    upstream = site.upstream()
    site.lab.store(site.project, "pos/rotated", b"first")
    first = fetched(upstream, "pos/rotated")
    assert fetched(upstream, "pos/rotated").version == first.version
    site.lab.store(site.project, "pos/rotated", b"second")
    second = fetched(upstream, "pos/rotated")
    assert second.version > first.version
    assert second.value.reveal() == b"second"


def test_a_deleted_secret_is_gone(site: Site) -> None:
    upstream = site.upstream()
    reference = site.lab.store(site.project, "pos/deleted", b"value")
    fetched(upstream, "pos/deleted")
    site.lab.delete(site.project, reference)
    got = gone(upstream, "pos/deleted")
    assert got.status == 404 and "no active secret pos/deleted" in got.sentence


def test_an_expired_secret_is_gone_and_said_to_end_before(site: Site) -> None:
    upstream = site.upstream()
    ends = datetime.now(UTC) + timedelta(seconds=8)
    site.lab.store(site.project, "pos/dated", b"value", expires=ends)
    got = fetched(upstream, "pos/dated")
    assert got.not_after == int(ends.timestamp())
    while isinstance(upstream.fetch("pos/dated"), Fetched):
        assert datetime.now(UTC) < ends + timedelta(minutes=1)
    assert gone(upstream, "pos/dated").status == 404


def test_another_projects_secret_is_not_seen(site: Site) -> None:
    other = site.lab.project("shop-0999")
    site.lab.store(other, "pos/theirs", b"value")
    assert gone(site.upstream(), "pos/theirs").status == 404


def test_a_colleagues_private_secret_is_refused_and_so_gone(site: Site) -> None:
    colleague = site.lab.colleague(site.project, "colleague")
    reference = site.lab.store(colleague, "pos/private", b"value")
    fetched(site.upstream(), "pos/private")
    access = {"read": {"project-access": False, "users": []}}
    path = reference.removeprefix(site.lab.barbican.url) + "/acl"
    assert site.lab.ask("PUT", path, access, site.lab.token(colleague)).status == 200
    got = gone(site.upstream(), "pos/private")
    assert got.status == 403 and "may not read pos/private" in got.sentence


def test_names_that_sql_finds_alike_are_kept_apart(site: Site) -> None:
    upstream = site.upstream()
    site.lab.store(site.project, "till_one", b"ours")
    site.lab.store(site.project, "till-one", b"like it, for an underscore is any letter")
    site.lab.store(site.project, "TILL_ONE", b"like it, for case does not matter")
    assert fetched(upstream, "till_one").value.reveal() == b"ours"
    assert gone(upstream, "till_on_").status == 404


def test_many_old_ones_do_not_hide_the_newest(site: Site) -> None:
    token = site.lab.token(site.project)
    wanted = {"name": "pos/many", "payload_content_type": "text/plain"}
    for number in range(103):
        body = {**wanted, "payload": str(number)}
        assert site.lab.ask("POST", "/v1/secrets", body, token).status == 201
    assert fetched(site.upstream(), "pos/many").value.reveal() == b"102"


@pytest.mark.parametrize("which", ["barbican", "keystone"])
def test_killed_it_is_trouble_and_restarted_it_is_as_before(site: Site, which: str) -> None:
    site.lab.store(site.project, f"pos/{which}", b"value")
    service = getattr(site.lab, which)
    service.kill()
    try:
        got = trouble(site.upstream(deadline=5), f"pos/{which}")
        assert not got.login
    finally:
        service.start()
    assert fetched(site.upstream(), f"pos/{which}").value.reveal() == b"value"


def test_an_adapter_outlives_the_restart_of_both(site: Site) -> None:
    upstream = site.upstream()
    site.lab.store(site.project, "pos/both", b"value")
    before = fetched(upstream, "pos/both")
    site.lab.barbican.kill()
    site.lab.keystone.kill()
    try:
        trouble(upstream, "pos/both")
    finally:
        site.lab.keystone.start()
        site.lab.barbican.start()
    assert fetched(upstream, "pos/both").version == before.version


@pytest.mark.parametrize("which", [0, 1], ids=["keystone", "barbican"])
def test_another_certificate_is_trouble(site: Site, which: int, tmp_path: Path) -> None:
    site.lab.store(site.project, "pos/tls", b"value")
    upstream = site.upstream()
    fetched(upstream, "pos/tls")
    front = site.fronts[which]
    right, front.wire.tls = front.wire.tls, Authority(tmp_path, "other").serve()
    try:
        got = trouble(site.upstream(), "pos/tls")
        assert "certificate is not believed" in got.sentence and not got.login
        assert front.url in got.sentence
        if which == 1:
            assert "certificate is not believed" in trouble(upstream, "pos/tls").sentence
    finally:
        front.wire.tls = right
    fetched(upstream, "pos/tls")


class TestCredential:
    """The login itself: its end, its loss, and what it may do."""

    def test_its_end_is_what_was_set(self, site: Site) -> None:
        assert site.upstream().credential_ends() == int(site.ends.timestamp())

    def test_one_without_an_end(self, site: Site) -> None:
        endless = site.upstream(site.lab.issue(site.project, None))
        site.lab.store(site.project, "pos/endless", b"value")
        assert endless.credential_ends() is None
        fetched(endless, "pos/endless")

    def test_one_that_ended(self, site: Site) -> None:
        ends = datetime.now(UTC) + timedelta(seconds=8)
        upstream = site.upstream(site.lab.issue(site.project, ends))
        site.lab.store(site.project, "pos/ended", b"value")
        fetched(upstream, "pos/ended")
        assert upstream.credential_ends() == int(ends.timestamp())
        while isinstance(got := upstream.fetch("pos/ended"), Fetched):
            assert datetime.now(UTC) < ends + timedelta(minutes=1)
        assert isinstance(got, Trouble) and got.login
        assert "give this site a new one" in got.sentence
        assert upstream.credential_ends() == int(ends.timestamp()), "what was learned last"

    def test_one_that_was_deleted(self, site: Site) -> None:
        issued = site.lab.issue(site.project, None)
        upstream = site.upstream(issued)
        site.lab.store(site.project, "pos/taken", b"value")
        fetched(upstream, "pos/taken")
        site.lab.take_away(site.project, issued)
        assert trouble(upstream, "pos/taken").login

    def test_one_with_another_secret(self, site: Site) -> None:
        wrong = Issued(credential_id=site.issued.credential_id, secret="wrong")
        got = trouble(site.upstream(wrong), "pos/any")
        assert got.login and "wrong" not in got.sentence

    def test_one_that_may_not_list_purges_nothing(self, site: Site) -> None:
        reader = site.upstream(site.lab.issue(site.project, None, role="reader"))
        site.lab.store(site.project, "pos/listed", b"value")
        assert trouble(reader, "pos/listed").login

    def test_it_can_read_and_nothing_else(self, site: Site) -> None:
        token = site.lab.token_of(site.issued)
        reference = site.lab.store(site.project, "pos/kept", b"value")
        path = reference.removeprefix(site.lab.barbican.url)
        wanted = {"name": "pos/new", "payload": "x", "payload_content_type": "text/plain"}
        assert site.lab.ask("GET", path, None, token).status == 200
        assert site.lab.ask("POST", "/v1/secrets", wanted, token).status in (401, 403)
        assert site.lab.ask("DELETE", path, None, token).status in (401, 403)
        assert site.lab.ask("PUT", f"{path}/acl", {"read": {}}, token).status in (401, 403)
        assert fetched(site.upstream(), "pos/kept").value.reveal() == b"value"


def test_no_secret_and_no_token_in_any_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.lab.store(site.project, "pos/canary", CANARY)
    upstream = site.upstream()
    got = fetched(upstream, "pos/canary")
    upstream.credential_ends()
    shown = caplog.text + repr(got) + repr(vars(upstream))
    tokens = {
        request.headers["x-auth-token"]
        for front in site.fronts
        for request in front.wire.requests
        if "x-auth-token" in request.headers
    }
    assert tokens and got.value.reveal() == CANARY
    for hidden in (CANARY.decode(), site.issued.secret, *tokens):
        assert hidden not in shown


def test_the_page_says_which_access_rules_are_enough() -> None:
    page = (ROOT / "docs" / "upstreams.md").read_text()
    printed = re.search(r"--access-rules '([^']*)'", page)
    assert printed is not None
    assert json.loads(printed[1]) == list(READ_ONLY)


def test_the_pins_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    section = page.partition("\n## Upstreams in tests\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `([a-z]+)` \| ([0-9.]+) \|", section, re.M)
    assert {f"{name}=={pin}" for name, pin in found} == set(PINS)
