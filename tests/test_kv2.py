"""The KV v2 adapter against a double of ours (upstream_doubles): no real server can be had here."""

import json
from pathlib import Path

import pytest

from keys.io.upstreams import open_upstream
from keys.secret import Secret
from keys.upstream import Fetched, Gone, Trouble, Upstream, UpstreamKind, UpstreamRule
from tests.upstream_doubles import (
    SECRET_ID,
    TOKEN,
    Authority,
    Kv2Double,
    Reply,
    Request,
    Wire,
    http,
    say,
)

TOKEN_FILE = {"token": TOKEN}
APPROLE_FILE = {"role_id": "role-5521", "secret_id": SECRET_ID}
BOTH = pytest.mark.parametrize("login", [TOKEN_FILE, APPROLE_FILE], ids=["token", "approle"])
ENDS = 1_801_396_800
"""2027-01-31T12:00:00Z."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    Authority(path, "ca")
    return path


@pytest.fixture
def double() -> Kv2Double:
    double = Kv2Double()
    double.put("pos/token", value="one")
    return double


def upstream(wire: Wire, directory: Path, login: dict[str, str], **more: str) -> Upstream:
    rule = UpstreamRule(name="hq", kind=UpstreamKind.KV2, url=wire.url, ca="ca.pem", **more)
    return open_upstream(rule, Secret(json.dumps(login).encode()), directory)


@BOTH
def test_the_newest_version_is_fetched(double: Kv2Double, directory: Path, login) -> None:
    with Wire(double.answer) as wire:
        hq = upstream(wire, directory, login)
        assert hq.fetch("pos/token") == Fetched(version=1, value=Secret(b"one"))
        double.put("pos/token", value="two")
        assert hq.fetch("pos/token") == Fetched(version=2, value=Secret(b"two"))
    assert double.logins == (login is APPROLE_FILE), "one login is enough"


def test_a_field_is_taken_by_its_name(double: Kv2Double, directory: Path) -> None:
    double.put("wifi", psk="clé", ssid="shop", count=7, none=None, empty="")
    with Wire(double.answer) as wire:
        hq = upstream(wire, directory, TOKEN_FILE)
        assert hq.fetch("wifi#psk") == Fetched(version=1, value=Secret("clé".encode()))
        for path in ("wifi", "wifi#other", "wifi#count", "wifi#none"):
            got = hq.fetch(path)
            assert isinstance(got, Trouble) and "has no field" in got.sentence
            assert "shop" not in got.sentence
        got = hq.fetch("wifi#empty")
        assert isinstance(got, Trouble) and "is empty" in got.sentence


def test_mounts_and_the_namespace_are_those_of_the_site_file(directory: Path) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Reply:
        seen.append(request)
        if request.path == "/v1/auth/team/approle/login":
            return say(200, {"auth": {"client_token": TOKEN}})
        return say(404, {"errors": []})

    with Wire(answer) as wire:
        hq = upstream(
            wire,
            directory,
            APPROLE_FILE,
            mount="team/kv",
            login_mount="team/approle",
            namespace="n1",
        )
        assert isinstance(hq.fetch("pos/token"), Gone)
    assert [request.path for request in seen] == [
        "/v1/auth/team/approle/login",
        "/v1/team/kv/data/pos/token",
    ]
    assert all(request.headers["x-vault-namespace"] == "n1" for request in seen)


@BOTH
class TestGone:
    """What purges: the server says so in its own form, to a login that is good."""

    def test_never_there(self, double: Kv2Double, directory: Path, login) -> None:
        with Wire(double.answer) as wire:
            got = upstream(wire, directory, login).fetch("pos/none")
        assert isinstance(got, Gone) and got.status == 404
        assert got.sentence == f"upstream hq ({wire.url}): there is no secret pos/none"

    def test_deleted(self, double: Kv2Double, directory: Path, login) -> None:
        double.versions["pos/token"][-1].deletion_time = "2026-01-01T00:00:00.123456789Z"
        with Wire(double.answer) as wire:
            got = upstream(wire, directory, login).fetch("pos/token")
        assert isinstance(got, Gone) and got.status == 404 and "was deleted" in got.sentence

    def test_destroyed(self, double: Kv2Double, directory: Path, login) -> None:
        double.versions["pos/token"][-1].destroyed = True
        with Wire(double.answer) as wire:
            got = upstream(wire, directory, login).fetch("pos/token")
        assert isinstance(got, Gone) and got.status == 404 and "was deleted" in got.sentence

    def test_not_allowed(self, double: Kv2Double, directory: Path, login) -> None:
        double.forbidden.add("pos/token")
        with Wire(double.answer) as wire:
            got = upstream(wire, directory, login).fetch("pos/token")
        assert isinstance(got, Gone) and got.status == 403 and "may not read" in got.sentence


class TestTrouble:
    """What keeps the cache as it is."""

    @BOTH
    def test_sealed(self, double: Kv2Double, directory: Path, login) -> None:
        double.sealed = True
        with Wire(double.answer) as wire:
            got = upstream(wire, directory, login).fetch("pos/token")
        assert isinstance(got, Trouble) and "503" in got.sentence
        assert got.retry_after == 30 and not got.login

    def test_a_token_that_ended_does_not_purge(self, double: Kv2Double, directory: Path) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, TOKEN_FILE)
            assert isinstance(hq.fetch("pos/token"), Fetched)
            double.tokens.clear()
            got = hq.fetch("pos/token")
        assert isinstance(got, Trouble) and got.login and "give this site a new one" in got.sentence

    def test_a_token_that_is_good_again_is_used_again(
        self, double: Kv2Double, directory: Path
    ) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, TOKEN_FILE)
            double.tokens.clear()
            assert isinstance(hq.fetch("pos/token"), Trouble)
            double.tokens.add(TOKEN)
            assert isinstance(hq.fetch("pos/token"), Fetched)

    def test_approle_gets_a_new_token_when_the_old_one_ended(
        self, double: Kv2Double, directory: Path
    ) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, APPROLE_FILE)
            assert isinstance(hq.fetch("pos/token"), Fetched)
            double.tokens.clear()
            assert isinstance(hq.fetch("pos/token"), Fetched)
        assert double.logins == 2

    def test_a_secret_id_that_ended(self, double: Kv2Double, directory: Path) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, APPROLE_FILE)
            assert isinstance(hq.fetch("pos/token"), Fetched)
            double.tokens.clear()
            double.secret_ids.clear()
            got = hq.fetch("pos/token")
        assert isinstance(got, Trouble) and got.login

    def test_tokens_that_never_know_themselves(self, directory: Path) -> None:
        logins = []

        def answer(request: Request) -> Reply:
            if request.path.endswith("/login"):
                logins.append(request)
                return say(200, {"auth": {"client_token": TOKEN}})
            return say(403, {"errors": ["permission denied"]})

        with Wire(answer) as wire:
            got = upstream(wire, directory, APPROLE_FILE).fetch("pos/token")
        assert isinstance(got, Trouble) and got.login and len(logins) == 2

    @pytest.mark.parametrize(
        ("lie", "word"),
        [
            (http(200, b"<html>", "text/html"), "portal"),
            (say(200, {"data": {}}), "form"),
            (say(200, []), "form"),
            (say(503, {"errors": ["sealed"]}), "503"),
        ],
    )
    def test_no_answer_to_the_question_about_the_token_is_no_deletion(
        self, lie: bytes, word: str, double: Kv2Double, directory: Path
    ) -> None:
        def answer(request: Request) -> Reply:
            if request.path.endswith("lookup-self"):
                return lie
            return double.answer(request)

        double.forbidden.add("pos/token")
        with Wire(answer) as wire:
            got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
        assert isinstance(got, Trouble) and word in got.sentence

    @pytest.mark.parametrize(
        "body",
        [
            {"data": {"data": {"value": "x"}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 0, "destroyed": False}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": True, "destroyed": False}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": "1", "destroyed": False}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 2**63, "destroyed": False}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 1, "destroyed": True}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 1}}},
            {"data": {"data": None, "metadata": {"version": 1, "destroyed": False}}},
            {"data": {"data": {"value": "\ud800"}, "metadata": {"version": 1, "destroyed": False}}},
            {"data": {"value": "of KV version 1"}},
        ],
    )
    def test_a_secret_of_another_form(self, body: object, directory: Path) -> None:
        with Wire(lambda _request: say(200, body)) as wire:
            got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
        assert isinstance(got, Trouble) and "form" in got.sentence

    @pytest.mark.parametrize(
        "body",
        [
            {"data": {"data": None, "metadata": {"version": 1, "destroyed": False}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 1, "destroyed": True}}},
            {"data": {"metadata": {"version": 1, "destroyed": True}}},
            {"data": None},
            {"errors": "none"},
            {"errors": [7]},
        ],
    )
    def test_a_404_of_another_form(self, body: object, directory: Path) -> None:
        with Wire(lambda _request: say(404, body)) as wire:
            got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
        assert isinstance(got, Trouble) and "404" in got.sentence

    @pytest.mark.parametrize("status", [201, 400])
    @pytest.mark.parametrize(
        "body",
        [
            {"errors": []},
            {"data": {"data": None, "metadata": {"version": 1, "destroyed": True}}},
            {"data": {"data": {"value": "x"}, "metadata": {"version": 1, "destroyed": False}}},
        ],
    )
    def test_another_status(self, status: int, body: object, directory: Path) -> None:
        with Wire(lambda _request: say(status, body)) as wire:
            got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
        assert isinstance(got, Trouble) and str(status) in got.sentence


@pytest.mark.parametrize(
    ("deletion_time", "custom", "not_after"),
    [
        ("", None, None),
        ("", {}, None),
        ("", {"owner": "hq"}, None),
        ("", {"not_after": "2027-01-31T12:00:00Z"}, ENDS),
        ("", {"not_after": "2027-01-31T14:00:00+02:00"}, ENDS),
        ("2027-01-31T12:00:00.999999999Z", None, ENDS),
        ("2027-02-28T00:00:00Z", {"not_after": "2027-01-31T12:00:00Z"}, ENDS),
        ("2027-01-31T12:00:00Z", {"not_after": "2027-02-28T00:00:00Z"}, ENDS),
    ],
)
def test_its_end_is_the_first_that_is_stated(
    deletion_time: str, custom, not_after: int | None, double: Kv2Double, directory: Path
) -> None:
    double.versions["pos/token"][-1].deletion_time = deletion_time
    if custom is not None:
        double.custom["pos/token"] = custom
    with Wire(double.answer) as wire:
        got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
    assert got == Fetched(version=1, value=Secret(b"one"), not_after=not_after)


@pytest.mark.parametrize("text", ["31.1.2027", "", "soon", "2027-01-31T25:00:00Z"])
def test_an_end_that_nobody_can_read_is_said(text: str, double: Kv2Double, directory: Path) -> None:
    double.custom["pos/token"] = {"not_after": text}
    with Wire(double.answer) as wire:
        got = upstream(wire, directory, TOKEN_FILE).fetch("pos/token")
    assert isinstance(got, Trouble) and "not_after there is no time like" in got.sentence


@BOTH
class TestEndOfTheLogin:
    """What the server says of our own token or secret id."""

    def test_it_is_told(self, double: Kv2Double, directory: Path, login) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, login)
            assert hq.credential_ends() == ENDS
            assert hq.credential_ends() == ENDS
        assert double.logins == (login is APPROLE_FILE), "one login is enough"

    def test_it_has_none(self, double: Kv2Double, directory: Path, login) -> None:
        double.expire_time = None
        with Wire(double.answer) as wire:
            assert upstream(wire, directory, login).credential_ends() is None

    def test_the_last_known_stays_while_nothing_is_learned(
        self, double: Kv2Double, directory: Path, login
    ) -> None:
        with Wire(double.answer) as wire:
            hq = upstream(wire, directory, login)
            assert hq.credential_ends() == ENDS
            double.sealed = True
            assert hq.credential_ends() == ENDS


def test_no_token_of_the_environment_is_used(
    double: Kv2Double, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".vault-token").write_text("of-the-home")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_TOKEN", "of-the-environment")
    with Wire(double.answer) as wire:
        assert isinstance(upstream(wire, directory, APPROLE_FILE).fetch("pos/token"), Fetched)
    shown = [request.headers.get("x-vault-token") for request in wire.requests]
    assert shown[0] is None and all(one is None or one.startswith(TOKEN) for one in shown)
