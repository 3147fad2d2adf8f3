"""Sources, [[upstream]] tables and credentials: what is read, and each sentence of refusal."""

import json
import tomllib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import SiteError
from keys.secret import Secret
from keys.upstream import (
    Source,
    UpstreamKind,
    UpstreamRule,
    check_source,
    is_loopback,
    split_field,
    upstream_rules,
)
from keys.upstream_credentials import (
    AppCredential,
    AppRoleCredential,
    TokenCredential,
    read_credential,
)

BARBICAN = """
[[upstream]]
name = "hq"
kind = "barbican"
url = "https://keys.hq.example:9311/"
auth_url = "https://login.hq.example:5000/v3"
ca = "trust/hq.pem"
"""
KV2 = """
[[upstream]]
name = "vault"
kind = "kv2"
url = "https://vault.hq.example:8200"
ca = "trust/hq.pem"
mount = "team/kv"
login_mount = "shops"
namespace = "retail/"
deadline = "1m"
"""


def read(text: str):
    return upstream_rules(tomllib.loads(text))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("keys.hq", "keys\\u007f.hq", "upstream.url is no address"),
        ("https://keys.hq.example", "ftp://127.0.0.1", "upstream.url begins with https://"),
        ('ca = "trust/hq.pem"', 'ca = ""', "upstream.ca is missing or no text"),
        ('ca = "trust/hq.pem"', "ca = 5", "upstream.ca is missing or no text"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_named(old: str, new: str, sentence: str) -> None:
    assert old in BARBICAN
    with pytest.raises(SiteError, match=sentence):
        read(BARBICAN.replace(old, new, 1))


@pytest.mark.parametrize("text", ['upstream = ""', "[upstream]", "upstream = [1]", "upstream = 5"])
def test_what_is_no_table_of_upstreams(text: str) -> None:
    with pytest.raises(SiteError, match="must be tables"):
        read(text)


def test_what_is_read() -> None:
    rules = read(BARBICAN + KV2)
    assert rules["hq"] == UpstreamRule(
        name="hq",
        kind=UpstreamKind.BARBICAN,
        url="https://keys.hq.example:9311",
        auth_url="https://login.hq.example:5000/v3",
        ca="trust/hq.pem",
    )
    assert rules["vault"] == UpstreamRule(
        name="vault",
        kind=UpstreamKind.KV2,
        url="https://vault.hq.example:8200",
        ca="trust/hq.pem",
        mount="team/kv",
        login_mount="shops",
        namespace="retail",
        deadline=timedelta(minutes=1),
    )
    assert read("") == {}


@pytest.mark.parametrize(
    ("text", "old", "new", "sentence"),
    [
        (BARBICAN, 'name = "hq"', "", "upstream.name is missing or no text"),
        (BARBICAN, '"hq"', '"Head quarters"', "upstream.name: 'Head quarters' may hold a-z"),
        (BARBICAN, '"barbican"', '"consul"', "'consul' is neither barbican nor kv2"),
        (BARBICAN, "kind =", "kinds =", "upstream.kind is missing"),
        (BARBICAN, "ca =", "cas =", "upstream.cas is unknown with kind barbican; did you mean ca"),
        (BARBICAN, "ca =", "xyzzy = 1\nca =", "upstream.xyzzy is unknown .* known:"),
        (
            BARBICAN,
            "ca =",
            'mount = "secret"\nca =',
            "upstream.mount is unknown with kind barbican",
        ),
        (KV2, "ca =", 'auth_url = "https://x/v3"\nca =', "upstream.auth_url is unknown with kind"),
        (BARBICAN, 'ca = "trust/hq.pem"', "", "upstream.ca is missing"),
        (BARBICAN, "auth_url", "#", "upstream.auth_url is missing"),
        (BARBICAN, "/v3", "", "upstream.auth_url is Keystone's address with /v3 at its end"),
        (BARBICAN, '"https://keys', '"http://keys', "upstream.url begins with https://"),
        (
            BARBICAN,
            "https://keys.hq.example:9311/",
            "http://localhost:9311",
            "url begins with https",
        ),
        (BARBICAN, "https://keys.hq.example:9311/", "https://", "upstream.url is no address"),
        (BARBICAN, ":9311/", ":99999/", "upstream.url is no address"),
        (BARBICAN, ":9311/", ":0/", "upstream.url is no address"),
        (BARBICAN, "keys.hq", "keys hq", "upstream.url is no address"),
        (BARBICAN, "keys.hq", "schlüssel.hq", "upstream.url is no address"),
        (BARBICAN, "//keys", "//user:pw@keys", "upstream.url has no user, password"),
        (BARBICAN, ":9311/", ":9311/?a=b", "upstream.url has no user, password, query"),
        (BARBICAN, ":9311/", ":9311/#a", "upstream.url has no user, password, query"),
        (BARBICAN, ":9311/", ":9311/\\u0001", "upstream.url is no address"),
        (BARBICAN, "https://keys.hq.example:9311/", "ftp://127.0.0.1", "upstream.url begins with"),
        (BARBICAN, '"trust/hq.pem"', '""', "upstream.ca is missing or no text"),
        (KV2, '"team/kv"', '"../sys"', "upstream.mount: '../sys' is no path"),
        (KV2, '"team/kv"', '"a#b"', "upstream.mount: 'a#b' is no path"),
        (KV2, '"team/kv"', "7", "upstream.mount is missing or no text"),
        (KV2, '"1m"', '"0s"', "upstream.deadline is from 1s to 5m"),
        (KV2, '"1m"', '"6m"', "upstream.deadline is from 1s to 5m"),
        (KV2, '"1m"', '"soon"', "upstream.deadline: 'soon' is no duration"),
        (KV2, "[[upstream]]", "[upstream]", r"\[\[upstream\]\] must be tables"),
        (KV2 + KV2, "", "", "upstream.name: 'vault' is there twice"),
    ],
)
def test_what_is_refused(text: str, old: str, new: str, sentence: str) -> None:
    with pytest.raises(SiteError, match=f"^site.toml: .*{sentence}"):
        read(text.replace(old, new) if old else text)


@pytest.mark.parametrize("text", ["upstream = 7", "upstream = [1]", "upstream = [[]]"])
def test_what_is_no_table(text: str) -> None:
    with pytest.raises(SiteError, match=r"\[\[upstream\]\] must be tables"):
        read(text)


def test_only_loopback_goes_without_tls() -> None:
    for url in ("http://127.0.0.1:9311", "http://[::1]:9311", "http://127.9.9.9"):
        assert read(BARBICAN.replace("https://keys.hq.example:9311/", url))["hq"].url == url
    assert not any(map(is_loopback, ("localhost", "192.0.2.1", "", None, "127.0.0.1.example")))


@pytest.mark.parametrize(
    ("text", "upstream", "path"),
    [
        ("hq:pos/token", "hq", "pos/token"),
        ("hq:a:b", "hq", "a:b"),
        ("h.q-1:wifi#psk", "h.q-1", "wifi#psk"),
        (f"hq:{'x' * 255}", "hq", "x" * 255),
    ],
)
def test_a_source_is_upstream_and_path(text: str, upstream: str, path: str) -> None:
    source = Source.parse(text)
    assert (source.upstream, source.path, str(source)) == (upstream, path, text)


@pytest.mark.parametrize(
    "text",
    [
        "", "hq", "hq:", ":pos", "HQ:pos", "hq:/pos", "hq:pos/", "hq:a//b", "hq:../b", "hq:a/./b",
        "hq:a b", "hq:a+b", "hq:a%2fb", "hq:a?b", "hq:a#", "hq:a#b#c", "hq:#a", "hq:é", "hq:a\n",
        "hq:a\r\nHost: x", f"hq:{'x' * 256}",
    ],
)  # fmt: skip
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(SiteError, match="is no source like hq:pos/token"):
        Source.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_source_that_comes_back_or_refused(text: str) -> None:
    try:
        source = Source.parse(text)
    except SiteError:
        return
    assert str(source) == text and Source.parse(str(source)) == source


def test_a_source_is_held_against_the_upstreams() -> None:
    rules = read(BARBICAN + KV2)
    check_source(Source.parse("hq:pos/token"), rules)
    check_source(Source.parse("vault:wifi#psk"), rules)
    with pytest.raises(SiteError, match=r"there is no \[\[upstream\]\] 'other'"):
        check_source(Source.parse("other:a"), rules)
    with pytest.raises(SiteError, match="has no fields"):
        check_source(Source.parse("hq:wifi#psk"), rules)


def test_the_field_is_value_unless_named() -> None:
    assert split_field("a/b") == ("a/b", "value")
    assert split_field("a/b#psk") == ("a/b", "psk")


HQ, VAULT = read(BARBICAN)["hq"], read(KV2)["vault"]
APP = {"application_credential_id": "0a1b", "application_credential_secret": "hush-hush"}


@pytest.mark.parametrize(
    ("rule", "texts", "form"),
    [
        (HQ, APP, AppCredential(credential_id="0a1b", secret=Secret(b"hush-hush"))),
        (VAULT, {"token": "hush"}, TokenCredential(token=Secret(b"hush"))),
        (
            VAULT,
            {"secret_id": "hush", "role_id": "r"},
            AppRoleCredential(role_id=Secret(b"r"), secret_id=Secret(b"hush")),
        ),
    ],
)
def test_a_credential_is_read_and_does_not_show_itself(rule, texts, form) -> None:
    got = read_credential(rule, Secret(json.dumps(texts).encode()))
    assert got == form
    assert "hush" not in repr(got)


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        (HQ, b""),
        (HQ, b"hush-hush"),
        (HQ, b"\xff\xfe"),
        (HQ, b'["hush-hush"]'),
        (HQ, b'{"token": "hush-hush"}'),
        (HQ, b'{"application_credential_id": "hush-hush"}'),
        (HQ, json.dumps({**APP, "more": "x"}).encode()),
        (HQ, json.dumps({**APP, "application_credential_secret": 7}).encode()),
        (HQ, json.dumps({**APP, "application_credential_secret": ""}).encode()),
        (HQ, json.dumps({**APP, "application_credential_secret": "hush-hush\r\nX: y"}).encode()),
        (HQ, json.dumps({**APP, "application_credential_secret": "hush-hush é"}).encode()),
        (HQ, json.dumps({**APP, "application_credential_id": "../hush-hush"}).encode()),
        (HQ, json.dumps(APP).encode() + b" " * 16 * 1024),
        (VAULT, json.dumps(APP).encode()),
        (VAULT, b'{"token": "hush-hush", "role_id": "r", "secret_id": "s"}'),
        (VAULT, b"[" * 5000),
    ],
)
def test_a_credential_that_is_none_is_refused_without_showing_it(rule, body: bytes) -> None:
    with pytest.raises(SiteError, match=rf"^upstream {rule.name}: .*credential") as raised:
        read_credential(rule, Secret(body))
    assert "hush-hush" not in str(raised.value)
    assert raised.value.__cause__ is None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_credential_or_refused(body: bytes) -> None:
    with pytest.raises(SiteError):
        read_credential(HQ, Secret(body))
