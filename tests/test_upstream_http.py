"""Upstreams that lie, stall, redirect or change their certificate: nothing is ever believed."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys.upstream import Fetched, Gone, Trouble, UpstreamKind
from keys.upstream_answers import MAX_ANSWER
from tests.upstream_doubles import (
    NAME,
    REFERENCE,
    SHORT,
    TOKEN,
    VALUE,
    Authority,
    Liar,
    Reply,
    Request,
    Wire,
    drip,
    flood,
    http,
    keystone_token,
    kv2_step,
    openstack,
    openstack_step,
    reset_after,
    say,
    silence,
    upstream,
)

HTML = b"<html><body>Welcome to the hotel. <a href=/>Accept</a></body></html>"
DEEP = b'{"secrets":' + b"[" * 3000 + b"]" * 3000 + b"}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    Authority(path, "ca")
    return path


STEPS = [
    (UpstreamKind.BARBICAN, "login"),
    (UpstreamKind.BARBICAN, "list"),
    (UpstreamKind.BARBICAN, "payload"),
    (UpstreamKind.KV2, "login"),
    (UpstreamKind.KV2, "read"),
]
LIES: dict[str, tuple[Reply, str]] = {
    "portal 200": (http(200, HTML, "text/html; charset=utf-8"), "portal or proxy"),
    "portal 401": (http(401, HTML, "text/html"), "portal or proxy"),
    "portal 403": (http(403, HTML, "text/html"), "portal or proxy"),
    "portal 404": (http(404, HTML, "text/html"), "portal or proxy"),
    "portal that says JSON": (http(404, HTML), "none"),
    "404 of another service": (say(404, {"message": "no Route matched"}), ""),
    "404 that is a list": (say(404, []), ""),
    "403 of another service": (say(403, {"error": {"code": 403, "message": "blocked"}}), ""),
    "redirect": (http(302, b"", more={"Location": "http://127.0.0.1:1/"}), "redirect"),
    "permanent redirect": (http(308, b"{}", more={"Location": "/v1/secrets"}), "redirect"),
    "not modified": (http(304, b""), "redirect"),
    "no content": (b"HTTP/1.1 204 X\r\n\r\n", "204"),
    "bad gateway": (http(502, HTML, "text/html"), "502"),
    "not JSON but said so": (http(200, b"secret"), "JSON"),
    "plain text": (http(200, b"secret", "text/plain"), "portal or proxy"),
    "no type": (b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}", "portal or proxy"),
    "empty": (http(200, b""), ""),
    "a list": (say(200, []), ""),
    "a number": (say(200, 7), ""),
    "null": (say(200, None), ""),
    "null fields": (say(200, dict.fromkeys(("token", "secrets", "total", "data", "auth"))), ""),
    "not a number": (http(200, b'{"data": NaN}'), "JSON"),
    "deep": (http(200, DEEP), ""),
    "very deep": (http(200, b"[" * 200_000), ""),
    "invalid UTF-8": (http(200, b'{"data": "\xff\xfe"}'), "JSON"),
    "truncated JSON": (http(200, b'{"data": {"data": {"value": "sec'), "JSON"),
    "truncated body": (http(200, b'{"data": 1}')[:-4], "amid"),
    "without its length": (b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n{}", "amid"),
    "oversized": (http(200, b" " * (MAX_ANSWER + 1)), "too long"),
    "oversized by its word": (
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
        "too long",
    ),
    "packed": (
        http(200, gzip.compress(b" " * 10_000_000), more={"Content-Encoding": "gzip"}),
        "packed",
    ),
    "chunk without end": (
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"ffffffffffff\r\n{",
        "amid",
    ),
    "chunk of less than nothing": (
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"-1\r\n{}",
        "",
    ),
    "endless body": (
        flood(
            b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"1000\r\n" + b" " * 4096 + b"\r\n",
        ),
        "too long",
    ),
    "endless line": (flood(b"HTTP/1.1 200 ", b"x" * 4096), "no HTTP"),
    "endless header fields": (flood(b"HTTP/1.1 200 X\r\n", b"A: b\r\n" * 512), "no HTTP"),
    "endless early answers": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "too long"),
    "not HTTP": (b"220 mail.example ESMTP\r\n", "no HTTP"),
    "hang up": (b"", ""),
    "reset in the middle": (
        reset_after(http(200, b'{"data": 1}')[:-4]),
        "",
    ),
}
SLOW: dict[str, Reply] = {
    "silence": silence,
    "slow header": drip(b"HTTP/1.1 200 X\r\nServer: "),
    "slow body": drip(
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    ),
}


@pytest.mark.parametrize(("kind", "step"), STEPS, ids=lambda one: getattr(one, "value", one))
@pytest.mark.parametrize(("lie", "word"), LIES.values(), ids=LIES)
def test_a_lie_is_neither_a_secret_nor_its_end(
    kind: UpstreamKind, step: str, lie: Reply, word: str, directory: Path
) -> None:
    with Wire(Liar(kind, step, lie)) as wire:
        got = upstream(kind, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble), got
    assert got.sentence.startswith(f"upstream hq ({wire.url}): ")
    assert not got.login or step == "login"
    if step != "payload":  # there some of them are bytes of the wrong type, before all else
        assert word in got.sentence


@pytest.mark.parametrize(("kind", "step"), STEPS, ids=lambda one: getattr(one, "value", one))
@pytest.mark.parametrize("lie", SLOW.values(), ids=SLOW)
def test_who_is_slow_is_cut_off(kind: UpstreamKind, step: str, lie: Reply, directory: Path) -> None:
    with Wire(Liar(kind, step, lie)) as wire:
        got = upstream(kind, wire.url, directory, SHORT).fetch(NAME)
    assert isinstance(got, Trouble)
    if step != "payload" or lie is not SLOW["slow body"]:  # there it is bytes of the wrong type
        assert "no whole answer within 0.5 s" in got.sentence


def test_bytes_that_come_slowly_are_cut_off_too(directory: Path) -> None:
    head = (
        b"HTTP/1.1 200 X\r\nContent-Type: application/octet-stream\r\nContent-Length: 60000\r\n\r\n"
    )
    with Wire(Liar(UpstreamKind.BARBICAN, "payload", drip(head))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory, SHORT).fetch(NAME)
    assert isinstance(got, Trouble) and "no whole answer" in got.sentence


PAYLOADS = {
    "empty": (http(200, b"", "application/octet-stream"), "empty"),
    "longer than a secret": (http(200, b"x" * 65_537, "application/octet-stream"), "65536"),
    "half of it": (http(200, VALUE, "application/octet-stream")[:-3], "amid"),
    "until the connection ends": (
        b"HTTP/1.1 200 X\r\nContent-Type: application/octet-stream\r\n\r\nhalf a sec",
        "amid",
    ),
    "JSON in its place": (say(200, {"payload": "x"}), "another type"),
    "packed": (
        http(200, gzip.compress(VALUE), "application/octet-stream", {"Content-Encoding": "gzip"}),
        "packed",
    ),
    "reset": (reset_after(http(200, VALUE, "application/octet-stream")[:-3]), ""),
}


@pytest.mark.parametrize(("lie", "word"), PAYLOADS.values(), ids=PAYLOADS)
def test_a_payload_that_is_not_whole_is_not_taken(lie: Reply, word: str, directory: Path) -> None:
    with Wire(Liar(UpstreamKind.BARBICAN, "payload", lie)) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and word in got.sentence


@pytest.mark.parametrize(
    ("status", "outcome", "word"),
    [(403, Gone, "may not read"), (404, Gone, "there is no secret"), (400, Trouble, "status 400")],
)
def test_a_secret_that_is_denied_or_deleted_after_it_was_listed(
    status: int, outcome: type, word: str, directory: Path
) -> None:
    body = {"code": status, "title": "No", "description": "not for you"}
    with Wire(Liar(UpstreamKind.BARBICAN, "payload", say(status, body))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, outcome) and word in got.sentence


@pytest.mark.parametrize(("kind", "step"), STEPS, ids=lambda one: getattr(one, "value", one))
def test_an_answer_in_chunks_is_an_answer(kind: UpstreamKind, step: str, directory: Path) -> None:
    liar = Liar(kind, "", b"")

    def answer(request: Request) -> Reply:
        reply = liar(request)
        asked = (openstack_step if kind is UpstreamKind.BARBICAN else kv2_step)(request)
        return in_chunks(reply) if isinstance(reply, bytes) and asked == step else reply

    with Wire(answer) as wire:
        got = upstream(kind, wire.url, directory).fetch(NAME)
    assert isinstance(got, Fetched) and got.value.reveal().startswith(b"a secret of the upstream")


def in_chunks(reply: bytes) -> bytes:
    """Send the same body without its length, in pieces of seven bytes. RFC 9112, 7.1."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)] + [b""]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", chunks])


DENIED = {"code": 403, "title": "Forbidden", "description": "not for you"}
NO_TOKEN = {"error": {"code": 401, "title": "Unauthorized", "message": "no"}}


@pytest.mark.parametrize("step", ["list", "payload"])
def test_a_login_that_barbican_refuses(step: str, directory: Path) -> None:
    with Wire(Liar(UpstreamKind.BARBICAN, step, say(401, NO_TOKEN))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and got.login
    logins = [one for one in wire.requests if openstack_step(one) == "login"]
    assert len(logins) == 2, "once more with a new token, and no more"


def test_a_list_that_we_may_not_see_is_about_the_login(directory: Path) -> None:
    with Wire(Liar(UpstreamKind.BARBICAN, "list", say(403, DENIED))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and got.login


def test_a_list_that_is_not_there_is_no_word_about_a_secret(directory: Path) -> None:
    absent = {"code": 404, "title": "Not Found", "description": "Not Found"}
    with Wire(Liar(UpstreamKind.BARBICAN, "list", say(404, absent))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and not got.login and "status 404" in got.sentence


def test_what_barbican_is_asked(directory: Path) -> None:
    with Wire(openstack) as wire:
        assert isinstance(upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME), Fetched)
    asked = [(one.method, one.path, dict(one.query)) for one in wire.requests]
    assert asked == [
        ("POST", "/v3/auth/tokens", {}),
        (
            "GET",
            "/v1/secrets",
            {"name": [NAME], "sort": ["created:desc"], "limit": ["100"], "offset": ["0"]},
        ),
        ("GET", f"/v1/secrets/{REFERENCE}/payload", {}),
    ]
    assert not {"cookie", "authorization"} & {key for one in wire.requests for key in one.headers}


def test_an_empty_list_is_the_end_of_a_secret(directory: Path) -> None:
    with Wire(Liar(UpstreamKind.BARBICAN, "list", say(200, {"secrets": [], "total": 0}))) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Gone) and got.status == 404
    assert got.sentence.endswith("there is no active secret pos/token")


def test_a_list_that_never_ends_is_given_up(directory: Path) -> None:
    page = say(200, {"secrets": [], "total": 1000})
    with Wire(Liar(UpstreamKind.BARBICAN, "list", page)) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and "more than 500 secrets" in got.sentence
    asked = [one.query["offset"] for one in wire.requests if openstack_step(one) == "list"]
    assert asked == [["0"], ["100"], ["200"], ["300"], ["400"]]


TOKENS = {
    "no token in the header": (say(201, keystone_token()), "form"),
    "no body": (say(201, {}), "form"),
    "a body that is a list": (say(201, []), "form"),
    "an empty token": (say(201, keystone_token(), {"X-Subject-Token": ""}), "form"),
    "a token of control characters": (
        say(201, keystone_token(), {"X-Subject-Token": "a\x01\x0b"}),
        "refused",
    ),
    "another token": (say(201, keystone_token(), {"X-Subject-Token": "other"}), "refused"),
}


@pytest.mark.parametrize(("login", "word"), TOKENS.values(), ids=TOKENS)
def test_a_login_of_another_form_gives_nothing(login: bytes, word: str, directory: Path) -> None:
    def answer(request: Request) -> Reply:
        if request.path.startswith("/v1/") and request.headers.get("x-auth-token") != TOKEN:
            return say(401, {"error": {"code": 401, "title": "Unauthorized", "message": "no"}})
        return login if openstack_step(request) == "login" else openstack(request)

    with Wire(answer) as wire:
        got = upstream(UpstreamKind.BARBICAN, wire.url, directory).fetch(NAME)
    assert isinstance(got, Trouble) and word in got.sentence
    assert got.login == (word == "refused")


@pytest.mark.parametrize("about", [None, [], {"expires_at": "soon"}, {"expires_at": 7}])
@pytest.mark.parametrize("first", ["fetch", "credential_ends"])
def test_a_token_that_says_no_end_is_forgotten(about: object, first: str, directory: Path) -> None:
    liar = Liar(
        UpstreamKind.BARBICAN, "login", say(201, {"token": about}, {"X-Subject-Token": TOKEN})
    )
    with Wire(liar) as wire:
        barbican = upstream(UpstreamKind.BARBICAN, wire.url, directory)
        got = barbican.fetch(NAME) if first == "fetch" else barbican.credential_ends()
        assert got is None or (isinstance(got, Trouble) and "form" in got.sentence)
        wire.answer = openstack
        assert isinstance(barbican.fetch(NAME), Fetched)


@given(body=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["token", "expires_at", "issued_at", "project", "auth", "client_token",
                         "metadata", "secrets", "total", "data", "name", "errors", "code"]),
        inner, max_size=4,
    ),
    max_leaves=8,
), step=st.sampled_from(STEPS))  # fmt: skip
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_json_breaks_an_adapter(body: object, step: tuple[UpstreamKind, str]) -> None:
    kind, name = step
    with Wire(Liar(kind, name, say(200, body, {"X-Subject-Token": TOKEN}))) as wire:
        adapter = upstream(kind, wire.url, HYPOTHESIS_SITE)
        got = adapter.fetch(NAME)
        adapter.credential_ends()
    is_empty_list = body == {"secrets": [], "total": 0} and name == "list"
    assert not isinstance(got, Gone) or is_empty_list


HYPOTHESIS_SITE: Path


@pytest.fixture(scope="module", autouse=True)
def _site_of_hypothesis(directory: Path) -> None:
    global HYPOTHESIS_SITE
    HYPOTHESIS_SITE = directory
