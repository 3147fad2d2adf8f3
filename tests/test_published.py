"""What is published: one set served, what was before accepted for a while, nothing comes back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.errors import SiteError
from bootstrap.published import Published, PublishedSet, PublishedState, decode_published

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


def test_the_set_before_stays_accepted_until_its_date() -> None:
    published = Published().serve(A, keep_until=None).serve(B, keep_until=1000)
    assert [one.digest for one in published.served] == [B]
    assert [one.digest for one in published.accepted(999.0)] == [A, B]
    assert [one.digest for one in published.accepted(1000.0)] == [B]


def test_each_architecture_has_a_set_of_its_own() -> None:
    published = Published().serve(A, keep_until=None).serve(B, keep_until=9, architecture="arm64")
    assert [one.digest for one in published.served] == [A, B]
    published = published.serve(C, keep_until=9, architecture="arm64")
    assert [one.digest for one in published.served] == [A, C]
    assert decode_published(published.encode()) == published
    assert b"amd64" not in published.encode()  # what older releases read stays as it was


def test_serving_the_same_set_again_changes_nothing() -> None:
    once = Published().serve(A, keep_until=None)
    assert once.serve(A, keep_until=5) == once


def test_a_withdrawn_set_never_comes_back() -> None:
    published = Published().serve(A, keep_until=None).withdraw(A)
    assert published.served == ()
    assert published.accepted(0.0) == ()
    with pytest.raises(SiteError, match="was withdrawn"):
        published.serve(A, keep_until=None)


def test_a_set_that_was_never_published_can_be_withdrawn() -> None:
    found = Published().withdraw(C).find(C)
    assert found is not None
    assert found.state is PublishedState.WITHDRAWN


GOOD = {"digest": A.hex(), "state": "served", "until": None}
OTHER = {"digest": B.hex(), "state": "served", "until": None}
TYPE = "doorstep/published/v1"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "exactly the keys"),
        ({"type": TYPE}, "exactly the keys"),
        ({"type": "x", "sets": []}, "not of the type"),
        ({"type": TYPE, "sets": {}}, "not of the type"),
        ({"type": TYPE, "sets": [1]}, "without exactly"),
        ({"type": TYPE, "sets": [GOOD, GOOD]}, "twice"),
        ({"type": TYPE, "sets": [GOOD, OTHER]}, "more than one"),
        ({"type": TYPE, "sets": [{**GOOD, "architecture": "riscv"}]}, "unknown architecture"),
        ({"type": TYPE, "sets": [{**GOOD, "digest": "00"}]}, "64 hex"),
        ({"type": TYPE, "sets": [{**GOOD, "digest": 5}]}, "64 hex"),
        ({"type": TYPE, "sets": [{**GOOD, "state": "x"}]}, "unknown state"),
        ({"type": TYPE, "sets": [{**GOOD, "state": []}]}, "unknown state"),
        ({"type": TYPE, "sets": [{**GOOD, "until": True}]}, "unix seconds"),
        ({"type": TYPE, "sets": [{**GOOD, "until": -1}]}, "unix seconds"),
        ({"type": TYPE, "sets": [{**GOOD, "until": 1 << 41}]}, "unix seconds"),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(document: object, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        decode_published(json.dumps(document).encode())


SETS = st.lists(
    st.builds(
        PublishedSet,
        digest=st.binary(min_size=32, max_size=32),
        state=st.sampled_from([PublishedState.ACCEPTED, PublishedState.WITHDRAWN]),
        until=st.none() | st.integers(0, (1 << 40) - 1),
    ),
    max_size=5,
    unique_by=lambda one: one.digest,
)


@settings(max_examples=40, deadline=None)
@given(SETS)
def test_what_is_written_is_read(sets: list[PublishedSet]) -> None:
    published = Published(tuple(sets))
    assert decode_published(published.encode()) == published


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    try:
        decode_published(data)
    except SiteError as error:
        assert "published.json" in str(error)
