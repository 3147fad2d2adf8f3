"""Secrets with a day of their own: which day counts, what is refused, and what is told before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_site import SITE_TOML, KeysSite, code

from bootstrap.autonomy import Known, horizons
from bootstrap.cli.main import main
from bootstrap.metrics import exposition
from keys.dated import alarms, days_left, end_of, read_until
from keys.envelope import b64u
from keys.errors import PeerError, SiteError
from keys.io.rpc import RpcError
from keys.rules import MAX_AHEAD, MAX_SECRET, SecretKind, SecretRule, SiteRules, Tier

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
DAY = 86_400
KEY = ec.generate_private_key(ec.SECP256R1())
VENDOR = b"VENDOR-LICENSE v2\nseats=40\nsignature=ab==\n"
NO_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def certificate(end: datetime, begin: datetime = datetime(2020, 1, 1, tzinfo=UTC)) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "till")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(7)
    made = made.public_key(KEY.public_key()).not_valid_before(begin).not_valid_after(end)
    return made.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


LATER = datetime(2027, 3, 1, 6, tzinfo=UTC)
GOOD = certificate(LATER)
DER = x509.load_pem_x509_certificate(GOOD).public_bytes(Encoding.DER)
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def rule(kind: str, ttl: timedelta = MAX_AHEAD) -> SecretRule:
    return SecretRule(name="pos-license", tier=Tier.SITE, ttl=ttl, kind=SecretKind(kind))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2027-01-31", "2027-01-31T23:59:59+00:00"),
        ("2028-02-29", "2028-02-29T23:59:59+00:00"),
        ("2027-01-31T12:00Z", "2027-01-31T12:00:00+00:00"),
        ("2027-01-31T12:00:07Z", "2027-01-31T12:00:07+00:00"),
    ],
)
def test_a_day_is_good_to_its_end_and_a_moment_to_itself(text: str, wanted: str) -> None:
    assert read_until(text) == at(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "01-31",
        "31 January",
        "31.01.2027",
        "01/31/2027",
        "27-01-31",
        "2027-1-31",
        "2027-02-29",
        "2027-13-01",
        "0000-01-01",
        "20270131",
        "2027-W05-1",
        "2027-01-31T12:00",
        "2027-01-31T12:00+01:00",
        "2027-01-31T24:00Z",
        "\u0662\u0660\u0662\u0667-01-31",
        "2027-01-31\n",
        "tomorrow",
        "",
        "\x1b[31m",
        "9" * 50,
    ],
)
def test_what_is_no_date_or_has_no_year(text: str) -> None:
    with pytest.raises(PeerError, match="write year, month and day, as in 2027-01-31") as said:
        read_until(text)
    shown = "this" if text in ("9" * 50, "\x1b[31m", "2027-01-31\n") else repr(text)
    assert str(said.value).startswith(f"{shown} is no date: ")


@given(st.text(max_size=30) | st.datetimes().map(lambda day: day.strftime("%Y-%m-%d")))
@settings(max_examples=100)
def test_any_text_is_a_date_or_refused(text: str) -> None:
    try:
        read = read_until(text)
    except PeerError:
        return
    assert datetime.fromtimestamp(read, UTC).strftime("%Y-%m-%d") == text[:10]


@pytest.mark.parametrize(
    ("kind", "value", "until", "wanted"),
    [
        ("license", VENDOR, "2027-01-31", "2027-01-31T23:59:59+00:00"),
        ("license", VENDOR, "2026-11-21", "2026-11-21T23:59:59+00:00"),
        ("blob", GOOD, "2030-01-31", "2030-01-31T23:59:59+00:00"),
        ("license", GOOD, None, "2027-03-01T06:00:00+00:00"),
        ("license", GOOD, "2030-01-31", "2030-01-31T23:59:59+00:00"),
        ("license", b"\n" + GOOD, None, "2027-03-01T06:00:00+00:00"),
        ("certificate", GOOD, None, "2027-03-01T06:00:00+00:00"),
        ("certificate", DER, None, "2027-03-01T06:00:00+00:00"),
        ("certificate", PRIVATE + GOOD, None, "2027-03-01T06:00:00+00:00"),
        ("certificate", GOOD, "2027-01-31", "2027-01-31T23:59:59+00:00"),
        ("certificate", GOOD, "2027-03-01", "2027-03-01T06:00:00+00:00"),
        ("certificate", certificate(NO_END), "2027-01-31", "2027-01-31T23:59:59+00:00"),
    ],
)
def test_which_end_counts(kind: str, value: bytes, until: str | None, wanted: str) -> None:
    assert end_of(rule(kind), value, until, NOW) == at(wanted)


@pytest.mark.parametrize(
    ("kind", "value", "until", "sentence"),
    [
        ("secret", b"token", "2027-01-31", "is a plain secret and ends with its ttl"),
        ("license", VENDOR, None, "when does pos-license end\\?.*--until 2027-01-31"),
        ("blob", GOOD, None, "when does pos-license end"),
        ("license", VENDOR + GOOD, None, "when does pos-license end"),
        ("license", VENDOR, "2026-11-20", "ended on 2026-11-20: ask for a new one"),
        ("license", VENDOR, "1999-12-31", "ended on 1999-12-31"),
        ("license", VENDOR, "9999-12-31", "more than 30 years ahead"),
        ("license", VENDOR, "01-31", "write year, month and day"),
        ("certificate", GOOD, "31.1.27", "write year, month and day"),
        (
            "certificate",
            certificate(datetime(2026, 11, 21, 12, tzinfo=UTC)),
            None,
            "ended on 2026-11-21",
        ),
        ("certificate", GOOD + certificate(NO_END), None, "here are 2 certificates"),
        ("license", GOOD + GOOD, None, "here are 2 certificates"),
        ("certificate", GOOD + GOOD, "2027-01-31", "here are 2 certificates"),
        ("certificate", VENDOR, None, "no X.509 certificate"),
        ("certificate", VENDOR, "2027-01-31", "no X.509 certificate"),
        ("certificate", GOOD[:200], None, "no X.509 certificate"),
        ("certificate", DER[:-1], None, "no X.509 certificate"),
        ("certificate", PRIVATE, None, "no X.509 certificate"),
        ("certificate", GOOD, "2027-03-02", "itself ends on 2027-03-01, before 2027-03-02"),
        ("certificate", certificate(NO_END), None, "says that it has no end"),
        (
            "certificate",
            certificate(datetime(2080, 1, 1, tzinfo=UTC)),
            None,
            "more than 30 years ahead",
        ),
    ],
)
def test_what_is_refused(kind: str, value: bytes, until: str | None, sentence: str) -> None:
    with pytest.raises(PeerError, match=sentence) as said:
        end_of(rule(kind), value, until, NOW)
    assert "token" not in str(said.value)
    assert "seats" not in str(said.value)


def test_a_plain_secret_ends_with_its_ttl() -> None:
    assert end_of(rule("secret", timedelta(days=2)), GOOD, None, NOW) == NOW + 2 * DAY


@given(
    st.binary(max_size=200)
    | st.integers(0, len(DER) - 1).map(lambda n: DER[:n] + bytes([DER[n] ^ 1]) + DER[n + 1 :])
    | st.binary(max_size=80).map(lambda junk: b"-----BEGIN CERTIFICATE-----\n" + junk)
)
@settings(max_examples=100)
def test_any_bytes_are_a_certificate_or_refused(value: bytes) -> None:
    try:
        assert end_of(rule("certificate"), value, None, NOW) > NOW
    except PeerError as error:
        assert len(str(error)) < 200


# the site file

TABLE = '[[secret]]\nname = "pos-license"\ntier = "site"\nkind = "license"\n'


def read(table: str) -> SecretRule:
    import tomllib

    found = SiteRules.of(tomllib.loads(SITE_TOML + table))
    return found.secrets["pos-license"]


def test_the_site_file_of_a_dated_secret_needs_no_ttl() -> None:
    found = read(TABLE + 'ask = "Kassen GmbH"\n')
    assert (found.kind, found.ask, found.ttl) == (SecretKind.LICENSE, "Kassen GmbH", MAX_AHEAD)
    assert read(TABLE + 'ttl = "2d"\n').ttl == timedelta(days=2)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('kind = "license"', 'kind = "secret"', "secret.ttl is missing"),
        ('kind = "license"', 'kind = "licence"', "secret.kind: 'licence': known: secret, license"),
        ('kind = "license"', 'kind = "blob"\nmax_stale = "1d"', "max_stale: a blob that has ended"),
        ('kind = "license"', 'kind = "blob"\nttl = "soon"', "no duration"),
        ('kind = "license"', 'kind = "blob"\nask = 7', "secret.ask"),
    ],
)
def test_a_wrong_site_file(old: str, new: str, sentence: str) -> None:
    with pytest.raises(SiteError, match=sentence):
        read(TABLE.replace(old, new))


# what is told before

TOLD = {"name": "pos-license", "kind": "license", "ask": "", "roles": ["pos"], "reason": None}


@pytest.mark.parametrize(
    ("left", "changes", "wanted"),
    [
        (
            12 * DAY + 5,
            {},
            "license pos-license of pos ends in 12 days: ask its maker for a new one",
        ),
        (30 * DAY, {"ask": "Kassen GmbH"}, "ends in 30 days: ask Kassen GmbH for a new one"),
        (DAY, {}, "ends in 1 day: ask"),
        (DAY - 1, {}, "ends within a day: ask"),
        (0, {}, "ended on 2026-11-21 and is given to no box: ask its maker"),
        (-3 * DAY, {}, "ended on 2026-11-18"),
        (DAY, {"roles": ["pos", "kiosk"]}, "license pos-license of pos and kiosk ends"),
        (DAY, {"roles": []}, "license pos-license ends in 1 day"),
    ],
)
def test_the_alarm(left: int, changes: dict[str, Any], wanted: str) -> None:
    (said,) = alarms([{**TOLD, **changes, "dated": NOW + left}], NOW)
    assert wanted in said


def test_no_alarm_too_early_or_of_what_has_no_day() -> None:
    assert alarms([{**TOLD, "dated": NOW + 30 * DAY + 1}, {**TOLD, "dated": None}, TOLD], NOW) == ()


def test_the_first_to_end_is_told_first() -> None:
    both = [{**TOLD, "name": f"n{days}", "dated": NOW + days * DAY} for days in (9, 2)]
    assert [text.split()[1] for text in alarms(both, NOW)] == ["n2", "n9"]


def test_whole_days_are_counted() -> None:
    assert [days_left(NOW + left, NOW) for left in (2 * DAY, 2 * DAY - 1, 5, -DAY)] == [2, 1, 0, 0]


def test_the_meter_and_the_metrics_name_it_by_its_kind() -> None:
    end = NOW + 12 * DAY
    one = {"name": "pos-license", "tier": "site", "reason": None, "usable_until": end}
    one |= {"kind": "license", "ask": "Kassen GmbH", "dated": end}
    known = Known(
        keys={"ends": [one, {**one, "name": "short", "usable_until": end - 1}]}, root_ends=end
    )
    found = {horizon.name: horizon for horizon in horizons(known, NOW)}
    assert found["pos-license"].kind == "license"
    assert found["pos-license"].remedy.startswith("ask Kassen GmbH for a new one; put it again: ")
    assert found["short"].remedy.startswith("put it again: ")
    text = exposition({}, None, [each.document() for each in found.values()]).decode()
    assert 'kind="license",name="pos-license"' in text


# at a site


@pytest.fixture(scope="module")
def site() -> Iterator[KeysSite]:
    one = KeysSite()
    try:
        dated = "".join(
            f'[[secret]]\nname = "{kind}-1"\ntier = "site"\nkind = "{kind}"\nask = "Kassen GmbH"\n'
            for kind in ("license", "certificate", "blob")
        )
        text = SITE_TOML.replace('"wifi-psk"]', '"wifi-psk", "license-1", "certificate-1"]')
        one.write("site.toml", text + dated)
        yield one.ready()
    finally:
        one.close()


def doorstep(site: KeysSite, *words: str, value: bytes | None = None) -> Result:
    options = ["--site", site.layout.site, "--state", site.layout.state, "--run", site.layout.run]
    return CliRunner().invoke(main, [*words, *map(str, options)], input=value)


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def listed(site: KeysSite, name: str) -> dict[str, Any]:
    return next(one for one in site.operator("secret_list")["secrets"] if one["name"] == name)


def test_an_operator_stores_a_license_to_the_last_byte(site: KeysSite) -> None:
    put = doorstep(site, "secret", "put", "license-1", "--until", in_days(12.5), value=VENDOR)
    assert put.exit_code == 0, put.output
    one = listed(site, "license-1")
    assert (one["kind"], one["days_left"], one["reason"]) == ("license", 12, None)
    assert one["usable_until"] == one["dated"] == one["expires"]
    shown = doorstep(site, "secret", "list").output
    assert "(12 days)" in next(line for line in shown.splitlines() if "license-1" in line)
    explained = doorstep(site, "keys", "explain", "license-1").output
    assert "in 12 d 11 h: the day of the license itself" in explained
    status = site.control("status")
    (end,) = [one for one in status["ends"] if one["name"] == "license-1"]
    assert (end["kind"], end["ask"]) == ("license", "Kassen GmbH")
    said = "license license-1 of pos ends in 12 days: ask Kassen GmbH for a new one"
    assert status["sentences"] == [said]


def test_the_largest_and_what_is_larger_or_empty(site: KeysSite) -> None:
    whole = bytes(range(256)) * (MAX_SECRET // 256)
    until = in_days(40)
    site.operator("secret_put", name="blob-1", value=b64u(whole), until=until)
    assert listed(site, "blob-1")["days_left"] == 39
    for wrong in (whole + b"x", b""):
        assert code(site.operator, "secret_put", name="blob-1", value=b64u(wrong), until=until) == (
            "MALFORMED"
        )
        refused = doorstep(site, "secret", "put", "blob-1", "--until", until, value=wrong)
        assert refused.exit_code == 2
        assert ("64 KiB" in refused.output) == bool(wrong)
    assert listed(site, "blob-1")["version"] == 1


@pytest.mark.parametrize("until", [None, "2001-01-31", "01-31", 7, "9999-12-31", "x" * 100])
def test_a_wrong_day_leaves_what_is_stored(site: KeysSite, until: Any) -> None:
    before = listed(site, "license-1")
    given = {} if until is None else {"until": until}
    with pytest.raises(RpcError) as said:
        site.operator("secret_put", name="license-1", value=b64u(VENDOR), **given)
    assert said.value.code == "MALFORMED"
    assert listed(site, "license-1") == before
    assert code(
        site.operator, "secret_put", name="pos-api-token", value="eA", until=in_days(3)
    ) == ("MALFORMED")


def test_a_certificate_says_itself_when_it_ends_and_is_withheld_then(site: KeysSite) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    site.operator("secret_put", name="certificate-1", value=b64u(certificate(end)))
    assert listed(site, "certificate-1")["dated"] == end.timestamp()
    while listed(site, "certificate-1")["reason"] is None:
        assert datetime.now(UTC) < end + timedelta(seconds=20)
    over = listed(site, "certificate-1")
    assert (over["reason"], over["since"]) == ("SECRET-EXPIRED", int(end.timestamp()))
    assert any(
        text.startswith("certificate certificate-1 of pos ended on")
        for text in site.control("status")["sentences"]
    )
    explained = doorstep(site, "keys", "explain", "certificate-1")
    assert "its day is over: ask Kassen GmbH for a new one" in explained.output
    assert explained.exit_code == 1
    assert code(
        site.operator, "secret_put", name="certificate-1", value=b64u(certificate(end))
    ) == ("MALFORMED")
