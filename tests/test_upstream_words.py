"""What of upstreams is told of, where, and when not yet."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_site import EXAMPLE
from upstream_doubles import Authority

from bootstrap.autonomy import Known, Renewed, first, horizons, sentence
from bootstrap.check_upstreams import check_upstreams
from bootstrap.explain_keys import explain
from bootstrap.metrics import exposition
from bootstrap.renewal import Line, Row
from bootstrap.site import Severity, Site, Upstream, decode_site
from bootstrap.upstream_words import DAY, LOGIN_AHEAD, OFFLINE_AHEAD, SILENT_AFTER
from bootstrap.upstream_words import document as upstream_document
from bootstrap.upstream_words import sentences as upstream_sentences
from keys.upstream import Source

NOW = 1_795_000_000.0
MS = int(NOW * 1000)


def said(*, rows: int = 1, **changes: Any) -> list[str]:
    """Say what there is to say of one upstream."""
    line = Line(**({"name": "hq", "login": 1, "success": MS - 1000} | changes))
    source = Source.parse("hq:a")
    known = [Row(name=f"s{number}", source=source) for number in range(rows)]
    return upstream_sentences([upstream_document(line, known, 0, NOW)], NOW)


def silent(seconds: int) -> dict[str, Any]:
    return {"trouble": "upstream hq: no answer", "trouble_since": MS - seconds * 1000}


def test_an_upstream_in_order_is_nobody_s_business() -> None:
    assert said() == []
    assert said(login_ends=int(NOW) + LOGIN_AHEAD + 1) == []
    assert said(**silent(SILENT_AFTER - 1)) == []


def test_a_site_without_login_is_told_of_if_it_has_anything_to_fetch() -> None:
    (text,) = said(login=None)
    assert "has no login" in text and "doorstep upstream login hq < FILE" in text
    assert said(login=None, rows=0) == []


def test_silence_is_told_of_after_a_quarter_of_an_hour_and_what_it_means() -> None:
    (text,) = said(**silent(3 * 3600))
    assert text.startswith("no answer for 3 h: upstream hq: no answer")
    assert "kept until its own end" in text


def test_a_document_has_times_in_seconds_and_none_for_never() -> None:
    line = Line(name="hq", login=None, login_ends=5, since=MS, wait=90_000, failures=1)
    one = upstream_document(line, [], 0, NOW)
    assert (one["paused_until"], one["success"]) == (NOW + 90, None)
    later = upstream_document(line, [], 0, NOW + 91)
    assert later["paused_until"] is None
    assert upstream_sentences([one], NOW) == []  # an old login that nobody has ends for nobody


def test_a_refused_login_is_told_of_at_once() -> None:
    (text,) = said(is_login_refused=True, **silent(0))
    assert "refuses the login" in text


@pytest.mark.parametrize(
    ("ends", "is_silent", "words"),
    [
        (LOGIN_AHEAD - 60, False, "ends on"),
        (OFFLINE_AHEAD - 60, True, "there is no line"),
        (OFFLINE_AHEAD - 60, False, None),
        (OFFLINE_AHEAD + 60, True, None),
        (-60, False, "ended on"),
        (-60, True, "ended on"),
    ],
)
def test_threat_10_a_login_that_ends_is_told_of_in_time(
    ends: int, is_silent: bool, words: str | None
) -> None:
    """Seven days ahead; thirty while there is no line to fetch a new one by."""
    found = said(login_ends=int(NOW) + ends, **(silent(3600) if is_silent else {}))
    about = [text for text in found if "the login of upstream hq" in text]
    assert [words in text for text in about] == ([] if words is None else [True])
    assert len(found) == len(about) + is_silent


def test_what_keys_refused_is_told_of_secret_by_secret_up_to_five() -> None:
    source = Source.parse("hq:a")
    rows = [Row(name=f"s{n}", source=source, failures=1, sentence="lower") for n in range(9)]
    found = upstream_sentences([upstream_document(Line(name="hq", login=1), rows, 0, NOW)], NOW)
    assert found[:2] == ["secret s0: lower", "secret s1: lower"]
    assert found[5:] == ["upstream hq: 4 more secrets are not renewed"]


STATUS = {
    "upstreams": [
        upstream_document(
            Line(name="hq", login=1, login_ends=int(NOW) + 5 * DAY, success=MS - 60_000), [], 3, NOW
        ),
        upstream_document(Line(name="spare", login=None), [], 0, NOW),
    ]
}


def test_the_meter_has_the_end_of_a_login_and_says_who_renews_a_fetched_secret() -> None:
    ends = {"name": "token", "tier": "site", "reason": None, "usable_until": NOW + 9 * DAY}
    keys = {"ends": [{**ends, "source": "hq:pos/token"}]}
    found = horizons(Known(keys=keys, root_ends=NOW + 999 * DAY, sync=STATUS), NOW)
    assert [(one.kind, one.name, one.renewed) for one in found[:2]] == [
        ("login of upstream", "hq", Renewed.HEADQUARTERS),
        ("secret", "token", Renewed.UPSTREAM),
    ]
    assert "doorstep upstream login hq" in found[0].remedy
    assert "sync does it while hq:pos/token answers" in found[1].remedy
    assert "login of upstream hq ends" in sentence(found, NOW)
    assert found[1] in first(found)  # without a line it ends


def test_metrics_have_the_upstreams() -> None:
    text = exposition({}, sync=STATUS).decode()
    found = {
        (sample.name, sample.labels["upstream"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "upstream" in sample.labels
    }
    assert found["doorstep_upstream_last_answer_timestamp_seconds", "hq"] == NOW - 60
    assert found["doorstep_upstream_login_end_timestamp_seconds", "hq"] == NOW + 5 * DAY
    assert found["doorstep_upstream_due_secrets", "hq"] == 3
    assert ("doorstep_upstream_last_answer_timestamp_seconds", "spare") not in found


def test_threat_13_what_may_be_stale_is_explained_with_its_version() -> None:
    one = {
        "name": "token",
        "tier": "site",
        "reason": None,
        "kind": "secret",
        "roles": ["pos"],
        "usable_until": NOW + DAY,
        "max_stale": 0.0,
        "source": "hq:pos/token",
        "upstream_version": 7,
        "seen": NOW - 2 * DAY,
        "maybe_stale": True,
        "gone": None,
    }
    answer = {"now": NOW, "secrets": [one], "lease": None, "has_tpm": False, "not_covered": ""}
    (told,) = explain(answer)
    assert "version 7 of hq:pos/token, confirmed 2026-11-16" in told.time
    assert told.time.endswith("may be stale")
    (fresh,) = explain({**answer, "secrets": [{**one, "maybe_stale": False}]})
    assert "stale" not in fresh.time
    assert any("purged" in text for text in fresh.enders)
    gone = {**one, "reason": "SECRET-GONE", "usable_until": None}
    assert "withdrawn upstream" in explain({**answer, "secrets": [gone]})[0].now


# the site file

HQ = (
    '[[upstream]]\nname = "hq"\nkind = "kv2"\nurl = "https://v.example:8200"\nca = "trust/hq.pem"\n'
)


with TemporaryDirectory() as _place:
    TRUST = Authority(Path(_place), "hq").file.read_bytes()


BARBICAN = HQ.replace("kv2", "barbican") + 'auth_url = "https://k.example/v3"\n'


def site(upstream: str = HQ, source: str = "hq:pos/token", **changes: str) -> Site:
    text = EXAMPLE.replace('tier = "site" ', f'source = "{source}" # x\ntier = "site" ')
    for old, new in changes.items():
        text = text.replace(old, new)
    return decode_site((text + upstream).encode())


def problems(one: Site, pem: bytes = TRUST) -> dict[str, str]:
    found = check_upstreams(one, {"trust/hq.pem": pem or None})
    return {problem.key: problem.what for problem in found if problem.severity is Severity.ERROR}


def test_a_site_with_an_upstream_is_in_order() -> None:
    made = site()
    assert problems(made) == {}
    assert made.secrets[0].source == "hq:pos/token"
    assert isinstance(made.upstreams[0], Upstream)


@pytest.mark.parametrize(
    ("upstream", "source", "key", "what"),
    [
        (HQ, "nowhere:x", "secret.pos-api-token.source", "there is no [[upstream]] 'nowhere'"),
        (HQ, "no colon", "secret.pos-api-token.source", "is no source like"),
        (HQ + HQ, "hq:x", "upstream.name", "hq is there twice"),
        (HQ + 'auth_url = "https://k/v3"\n', "hq:x", "upstream.hq", "auth_url is unknown"),
        (HQ.replace("https", "http"), "hq:x", "upstream.hq", "begins with https://"),
        (HQ + 'deadline = "1d"\n', "hq:x", "upstream.hq", "from 1s to 5m"),
        (BARBICAN, "hq:x#field", "secret.pos-api-token.source", "has no fields"),
    ],
)
def test_what_cannot_be_is_named(upstream: str, source: str, key: str, what: str) -> None:
    assert what in problems(site(upstream, source))[key]


@pytest.mark.parametrize(("pem", "what"), [(b"", "cannot read"), (b"x", "no certificate as PEM")])
def test_an_authority_that_is_not_there_is_named(pem: bytes, what: str) -> None:
    assert what in problems(site(), pem)["upstream.hq.ca"]


def test_a_secret_of_tier_box_has_no_source() -> None:
    made = site(**{'tier = "site" ': 'tier = "box" '})
    assert "tier box" in problems(made)["secret.pos-api-token.source"]


def test_a_wrong_upstream_is_one_problem_and_other_secrets_have_no_source() -> None:
    made = site(HQ.replace("https", "http") + '[[secret]]\nname = "b"\ntier = "site"\nttl = "1d"\n')
    assert list(problems(made)) == ["upstream.hq"]


def test_an_upstream_that_nothing_comes_from_is_worth_a_note() -> None:
    spare = HQ.replace('"hq"', '"spare"')
    found = list(check_upstreams(site(HQ + spare), {"trust/hq.pem": TRUST}))
    assert [(one.key, one.severity) for one in found] == [("upstream.spare", Severity.NOTE)]
