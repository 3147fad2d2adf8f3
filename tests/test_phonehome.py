"""Bodies of phone-home: the well formed are values, anything else is Malformed, never a crash."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.transcript import Purpose
from bootstrap import phonehome
from bootstrap.phonehome import Malformed, b64u, from_b64u

NONCE = b64u(bytes(range(32)))
HELLO: dict[str, Any] = {
    "v": 1,
    "ek_public": b64u(b"ek"),
    "ek_certificates": [b64u(b"certificate\xff\xff")],
    "ak_public": b64u(b"ak"),
    "box_nonce": NONCE,
}
EVIDENCE: dict[str, Any] = {
    "v": 1,
    "hello": b64u(json.dumps(HELLO).encode()),
    "quotes": [{"attest": b64u(b"a"), "signature": b64u(b"s")}],
    "pcrs": {"sha256": [b64u(bytes([n]) * 32) for n in range(16)]},
    "event_log": "",
    "ima_log": "",
    "facts": b64u(b"{}"),
    "ephemeral": NONCE,
    "device_public": b64u(b"d"),
    "device_attest": b64u(b"a"),
    "device_signature": b64u(b"s"),
    "ssh_host_key": "",
}
REPORT: dict[str, Any] = {"v": 1, "report": b64u(b"{}"), "signature": b64u(bytes(64))}
TROUBLE: dict[str, Any] = {"v": 1, "reason": "TPM-NONE", "facts": b64u(b"{}")}
DECODERS = {
    "hello": (phonehome.decode_hello, HELLO),
    "evidence": (phonehome.decode_evidence, EVIDENCE),
    "report": (phonehome.decode_report, REPORT),
    "trouble": (phonehome.decode_trouble, TROUBLE),
}


def test_a_hello_is_taken_apart() -> None:
    hello = phonehome.decode_hello(json.dumps(HELLO).encode())
    assert (hello.ek_public, hello.ak_public, len(hello.box_nonce)) == (b"ek", b"ak", 32)
    assert hello.ek_certificates == (b"certificate\xff\xff",)


def test_a_hello_says_that_it_renews_or_nothing() -> None:
    def decode(**changes: object) -> phonehome.Hello:
        return phonehome.decode_hello(json.dumps({**HELLO, **changes}).encode())

    assert decode().purpose is Purpose.ENROL
    assert decode(purpose="renew").purpose is Purpose.RENEW
    # "enrol" too: two spellings of one hello would be two sessions of one box
    for wrong in ("enrol", "", None, 1, True, [], {"renew": 1}, "RENEW"):
        with pytest.raises(Malformed, match="purpose"):
            decode(purpose=wrong)


def test_evidence_is_taken_apart() -> None:
    body = phonehome.decode_evidence(json.dumps(EVIDENCE).encode())
    assert body.pcrs["sha256"][15] == b"\x0f" * 32
    assert body.quotes[0].attest == b"a"
    assert json.loads(body.hello) == HELLO


def test_platform_certificates_may_be_absent_and_are_bounded() -> None:
    old = phonehome.decode_evidence(json.dumps(EVIDENCE).encode())
    assert old.platform_certificates == ()
    one = b64u(b"certificate\xff")

    def decode(value: object) -> phonehome.EvidenceBody:
        body = {**EVIDENCE, "platform_certificates": value}
        return phonehome.decode_evidence(json.dumps(body).encode())

    assert decode([]).platform_certificates == ()
    assert decode([one] * 4).platform_certificates == (b"certificate\xff",) * 4
    for wrong in ([one] * 5, one, None, {}, [1], ["Q"], [b64u(bytes(8193))]):
        with pytest.raises(Malformed, match="platform_certificates"):
            decode(wrong)


@pytest.mark.parametrize("name", list(DECODERS))
def test_a_missing_or_an_unknown_field_is_named(name: str) -> None:
    decode, good = DECODERS[name]
    for field in good:
        with pytest.raises(Malformed, match=field):
            decode(json.dumps({k: v for k, v in good.items() if k != field}).encode())
    with pytest.raises(Malformed, match="surplus: unknown"):
        decode(json.dumps({**good, "surplus": 1}).encode())


@pytest.mark.parametrize("name", list(DECODERS))
@pytest.mark.parametrize("wrong", [None, 7, -1, [], [1], {}, {"a": 1}, "~~~", "A", True])
def test_a_field_of_the_wrong_kind_is_malformed(name: str, wrong: object) -> None:
    decode, good = DECODERS[name]
    for field in good:
        if wrong == [] and field == "ek_certificates":
            continue  # a box without any certificate is well formed; the site decides
        with pytest.raises(Malformed):
            decode(json.dumps({**good, field: wrong}).encode())


def test_a_key_twice_is_malformed() -> None:
    text = json.dumps(TROUBLE)[:-1] + ',"reason":"EK-NONE"}'
    with pytest.raises(Malformed, match="a key twice"):
        phonehome.decode_trouble(text.encode())


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "Q Q", "+/", "QQ\n"])
def test_bytes_have_one_spelling(text: str) -> None:
    with pytest.raises(Malformed):
        from_b64u(text, "field", limit=10)


def test_sizes_are_bounded_before_decoding() -> None:
    with pytest.raises(Malformed, match="at most"):
        phonehome.decode_hello(b" " * (phonehome.MAX_HELLO + 1))
    with pytest.raises(Malformed, match="event_log"):
        log = b64u(bytes(phonehome.MAX_LOG + 1))
        phonehome.decode_evidence(json.dumps({**EVIDENCE, "event_log": log}).encode())


def test_report_content() -> None:
    content = {"checks": {"signature": "ok"}, "secrets": {"n": NONCE}, "medium_needed": False}
    report = phonehome.decode_report_content(json.dumps(content).encode())
    assert report.secrets["n"] == bytes(range(32))
    for field, wrong in (("checks", {"a": 1}), ("secrets", {"n": "QQ"}), ("medium_needed", 0)):
        with pytest.raises(Malformed, match=field):
            phonehome.decode_report_content(json.dumps({**content, field: wrong}).encode())


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    for decode, _ in DECODERS.values():
        with pytest.raises(Malformed):
            decode(data)
    phonehome.decode_facts(data)


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    with pytest.raises(Malformed):
        phonehome.decode_trouble(b'{"v":' + b"[" * 20000)
    assert phonehome.decode_facts(b"[" * 20000) == {}


@given(st.binary(max_size=64))
def test_b64u_round_trip(data: bytes) -> None:
    assert from_b64u(b64u(data), "field", limit=64) == data
    assert b64u(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
