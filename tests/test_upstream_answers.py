"""Bodies of Keystone, Barbican and KV v2: any bytes are an answer of that form, or a PeerError."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import upstream_answers as answers
from keys.errors import PeerError
from keys.secret import Secret
from keys.upstream_answers import MAX_DEPTH, Page
from tests.upstream_doubles import CREATED, NAME, REFERENCE, entry

KEYS = (
    "secrets", "total", "name", "status", "created", "expiration", "secret_ref", "code", "title",
    "description", "application_credential", "id", "expires_at", "data", "metadata", "version",
    "destroyed", "deletion_time", "custom_metadata", "not_after", "value", "errors", "auth",
    "client_token", "role_name", "expire_time", "expiration_time",
)  # fmt: skip
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from([NAME, "ACTIVE", CREATED, REFERENCE, "2027-01-31T12:00:00Z", 1, 404, ""])
)  # fmt: skip
BODIES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
DECODERS = (
    lambda body: answers.barbican_page(body, NAME),
    lambda body: answers.application_credential_ends(body, "app1"),
    lambda body: answers.kv2_secret(body, "value"),
    answers.approle_login,
    answers.token_ends,
    answers.secret_id_ends,
    answers.decode_json,
)
QUESTIONS = (
    answers.is_kv2_deleted,
    answers.is_vault_error,
    lambda body: answers.is_barbican_error(body, 404),
)


@pytest.mark.parametrize("decoder", DECODERS)
@given(body=st.binary(max_size=80) | BODIES)
def test_any_bytes_are_an_answer_or_our_own_error(decoder, body: bytes) -> None:
    try:
        decoder(body)
    except PeerError as error:
        assert str(error)


@pytest.mark.parametrize("question", QUESTIONS)
@given(body=st.binary(max_size=80) | BODIES)
def test_any_bytes_are_an_error_of_theirs_or_not(question, body: bytes) -> None:
    assert question(body) in (True, False)


def page(*entries: object) -> Page:
    body = {"secrets": list(entries), "total": len(entries)}
    return answers.barbican_page(json.dumps(body).encode(), NAME)


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2300, 1, 1)),
    st.none() | st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2300, 1, 1)),
)
def test_times_come_back_as_they_were_written(created: datetime, ends: datetime | None) -> None:
    text = None if ends is None else ends.isoformat()
    (found,) = page(entry(created=created.isoformat(), expiration=text)).entries
    since = created - datetime(1970, 1, 1)
    assert found.created == since // timedelta(microseconds=1)
    assert found.expires == (
        None if ends is None else int(ends.replace(tzinfo=UTC).timestamp() // 1)
    )
    assert found.secret_id == UUID(REFERENCE)


LISTS = {
    "another name": {"secrets": [entry(name="pos/other")], "total": 1},
    "one of another name": {"secrets": [entry(), entry(name="pos/other")], "total": 2},
    "no name": {"secrets": [entry(name=None)], "total": 1},
    "another order": {
        "secrets": [entry(created="2026-11-20T00:00:00.000000"), entry()],
        "total": 2,
    },
    "no time": {"secrets": [entry(created=None)], "total": 1},
    "a time that is none": {"secrets": [entry(created="2026-13-41T99:00:00")], "total": 1},
    "a time before 1970": {"secrets": [entry(created="1961-04-12T06:07:00")], "total": 1},
    "an end that is none": {"secrets": [entry(expiration="tomorrow")], "total": 1},
    "a reference that leads elsewhere": {
        "secrets": [entry(secret_ref="http://127.0.0.1/../../v3/users")],
        "total": 1,
    },
    "a reference that is a number": {"secrets": [entry(secret_ref=7)], "total": 1},
    "no list": {"secrets": None, "total": 0},
    "no total": {"secrets": []},
    "a total that is a text": {"secrets": [], "total": "0"},
    "a total that is true": {"secrets": [entry()], "total": True},
    "fewer in all than on this page": {"secrets": [entry()], "total": 0},
    "nothing in it": {},
    "an entry that is a text": {"secrets": [NAME], "total": 1},
    "more than was asked for": {"secrets": [entry()] * 101, "total": 101},
}


@pytest.mark.parametrize("body", LISTS.values(), ids=LISTS)
def test_a_list_of_another_form(body: object) -> None:
    with pytest.raises(PeerError):
        answers.barbican_page(json.dumps(body).encode(), NAME)


def test_two_of_one_moment_have_no_order() -> None:
    with pytest.raises(PeerError, match="delete one there"):
        answers.newest(page(entry(), entry()).entries)


def test_what_sql_finds_alike_is_left_out() -> None:
    found = page(entry(), entry(name="POS/TOKEN"))
    assert (len(found.entries), found.count, found.total) == (1, 2, 2)


@pytest.mark.parametrize("status", ["PENDING", "ERROR", None])
def test_what_is_not_active_is_not_counted(status: str | None) -> None:
    assert page(entry(status=status)).entries == ()
    assert page(entry(status=status)).count == 1


def test_the_first_is_the_newest() -> None:
    old = entry(created="2026-11-20T00:00:00.000000")
    found = answers.newest(page(entry(), old).entries)
    assert found is not None and found.created % 1_000_000 == 432_010
    assert answers.newest(()) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"code": 404, "title": "Not Found", "description": "Secret not found."}, True),
        ({"code": 403, "title": "Not Found", "description": "Secret not found."}, False),
        ({"code": 404, "title": "Not Found"}, False),
        ({"code": 404, "title": None, "description": ""}, False),
        ({"error": {"code": 404, "title": "Not Found", "message": "no"}}, False),
        ([], False),
    ],
)
def test_the_error_of_barbican(body: object, expected: bool) -> None:
    assert answers.is_barbican_error(json.dumps(body).encode(), 404) is expected


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_only_so_deep(depth: int, brackets: tuple[str, str]) -> None:
    body = (brackets[0] * depth + "1" + brackets[1] * depth).encode()
    if depth < MAX_DEPTH:
        answers.decode_json(body)
    else:
        with pytest.raises(PeerError):
            answers.decode_json(body)


@pytest.mark.parametrize("role", ["../../sys/seal", "", ".", "..", "a b", "ä", 7, None])
def test_a_role_that_is_no_name_is_forgotten(role: object) -> None:
    body = {"auth": {"client_token": "t", "metadata": {"role_name": role}}}
    login = answers.approle_login(json.dumps(body).encode())
    assert (login.token, login.role) == (Secret(b"t"), "")


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", "x" * 4097, 7, None])
def test_a_token_that_no_header_should_hold_is_refused(token: object) -> None:
    with pytest.raises(PeerError):
        answers.approle_login(json.dumps({"auth": {"client_token": token}}).encode())


def test_the_credential_asked_for_and_no_other() -> None:
    body = {"application_credential": {"id": "app1", "expires_at": "2027-01-31T12:00:00.000000"}}
    text = json.dumps(body).encode()
    assert answers.application_credential_ends(text, "app1") == 1_801_396_800
    with pytest.raises(PeerError):
        answers.application_credential_ends(text, "app2")


@pytest.mark.parametrize("about", [{"id": "app1"}, {"id": "app1", "expires_at": 7}, None, []])
def test_a_credential_that_says_nothing_of_its_end(about: object) -> None:
    with pytest.raises(PeerError):
        answers.application_credential_ends(
            json.dumps({"application_credential": about}).encode(), "app1"
        )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-31T12:00:00Z", 0),
        ("2027-01-31T12:00:00.999999999Z", 0),
        ("2027-01-31T12:00:00", 0),
        ("2027-01-31 12:00:00", 0),
        ("2027-01-31T14:30:00+02:30", 0),
        ("2027-01-31T06:30:00-05:30", 0),
        ("2027-01-31T12:00:30.5Z", 30),
    ],
)
def test_times_of_rfc_3339(text: str, seconds: int) -> None:
    body = json.dumps({"data": {"expire_time": text, "expiration_time": text}}).encode()
    assert answers.token_ends(body) == answers.secret_id_ends(body) == 1_801_396_800 + seconds


@pytest.mark.parametrize("text", [7, None, "", "0001-01-02", "2027-01-31T12:00:00+99:00"])
def test_what_is_no_time(text: object) -> None:
    with pytest.raises(PeerError):
        answers.secret_id_ends(json.dumps({"data": {"expiration_time": text}}).encode())


def test_an_end_that_does_not_come() -> None:
    endless = {"expire_time": None, "expiration_time": "0001-01-01T00:00:00Z"}
    body = json.dumps({"data": endless}).encode()
    assert answers.token_ends(body) is None
    assert answers.secret_id_ends(body) is None
    credential = {"application_credential": {"id": "app1", "expires_at": None}}
    assert answers.application_credential_ends(json.dumps(credential).encode(), "app1") is None
    with pytest.raises(PeerError):
        answers.token_ends(b'{"data": {}}')


@pytest.mark.parametrize("version", ["1", True, 0, -1, 1.0, 2**63, None])
def test_what_is_no_version(version: object) -> None:
    about = {"version": version, "destroyed": False}
    body = {"data": {"data": {"value": "x"}, "metadata": about}}
    with pytest.raises(PeerError):
        answers.kv2_secret(json.dumps(body).encode(), "value")
