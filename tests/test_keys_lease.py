"""The text of a lease and what it allows: each word is checked, nothing is read two ways."""

from __future__ import annotations

from base64 import b32decode, b32encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from forge import private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import PeerError
from keys.lease import (
    HEADER,
    MAX_SITE,
    MAX_TEXT,
    SIGNATURE_SIZE,
    Counters,
    Lease,
    Purpose,
    SignedLease,
    Terms,
    authority_area,
    lease_policy,
    reference,
    sign,
    signing_branches,
    signing_policy,
)
from keys.policy import CommandCode, Comparison, TimeField
from keys.tpm_objects import Index

AUTHORITY = private_key("lease authority")
NV_NAME = Index.LEASE.nv_name
TERMS = Terms(
    clock_before=10_000,
    resets_at_most=3,
    restarts_at_most=2,
    counter=5,
    pcrs=frozenset({0, 7, 23}),
    pcr_digest=bytes(range(32)),
)
LEASE = Lease(
    site="shop-0417",
    purpose=Purpose.CACHE,
    terms=TERMS,
    reference=bytes(32),
    issued=1_795_000_000,
    ends=1_795_086_400,
)
SIGNED = sign(LEASE, AUTHORITY, NV_NAME)
TEXT = SIGNED.text()


def letters(data: bytes) -> str:
    return HEADER + b32encode(data).decode().rstrip("=")


def body() -> bytes:
    return LEASE.encode() + SIGNED.approval + SIGNED.seal


# what it allows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"clock": 9_999, "reset_count": 3, "restart_count": 2}, None),
        ({"clock": 10_000}, "powered hours"),
        ({"reset_count": 4}, "started more often"),
        ({"restart_count": 3}, "suspended more often"),
    ],
)
def test_a_lease_ends_when_its_first_bound_is_passed(
    changes: dict[str, int], said: str | None
) -> None:
    now = Counters(**{"clock": 0, "reset_count": 0, "restart_count": 0, **changes})
    ended = TERMS.ended(now)
    assert (ended is None) == (said is None)
    assert said is None or said in str(ended)


def test_the_policy_holds_each_bound_and_the_software_only_where_it_is_bound() -> None:
    known = {TERMS.policy(NV_NAME).digest}
    for changes in (
        {"clock_before": 10_001},
        {"resets_at_most": 4},
        {"restarts_at_most": 1},
        {"counter": 6},
        {"pcr_digest": bytes(32)},
        {"pcrs": frozenset({0, 7})},
    ):
        digest = replace(TERMS, **changes).policy(NV_NAME).digest  # type: ignore[arg-type]
        assert digest not in known
        known.add(digest)
    assert TERMS.policy(b"\0\x0b" + bytes(32)).digest not in known
    free = replace(TERMS, pcrs=frozenset())
    assert free.policy(NV_NAME) == replace(free, pcr_digest=bytes(32)).policy(NV_NAME)


def test_the_bounds_of_time_are_strict_for_the_clock_alone() -> None:
    assert TERMS.timers() == (
        (TimeField.CLOCK, 10_000, Comparison.UNSIGNED_LESS),
        (TimeField.RESET_COUNT, 3, Comparison.UNSIGNED_AT_MOST),
        (TimeField.RESTART_COUNT, 2, Comparison.UNSIGNED_AT_MOST),
    )


# the text


def test_it_is_read_as_people_bring_it() -> None:
    assert SignedLease.read(TEXT) == SIGNED
    broken = "\r\n".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60)).lower()
    assert SignedLease.read(f"\t{broken}\n ") == SIGNED
    SIGNED.check(AUTHORITY.public_key(), NV_NAME)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this is no lease: it begins with"),
        (TEXT.removeprefix(HEADER), "this is no lease"),
        (f"X{TEXT}", "this is no lease"),
        (TEXT + "A" * MAX_TEXT, "this is no lease"),
        (f"{HEADER}{'A' * 32}", "cut short"),
        (f"{HEADER}0189", "letters that no lease has"),
        (f"{HEADER}A", "letters that no lease has"),
        (f"{TEXT}AAAAAAAA", "bytes left over"),
        (letters(body()[1:]), "form that this release does not know|left over"),
        (letters(b"\x02" + body()[1:]), "form that this release does not know"),
        (letters(body()[:1] + b"\x63" + body()[2:]), "form that this release does not know"),
    ],
)
def test_what_is_no_lease(text: str, sentence: str) -> None:
    with pytest.raises(PeerError, match=sentence):
        SignedLease.read(text)


def test_another_spelling_of_the_last_letter_is_refused() -> None:
    """The last letter holds bits that stand for nothing (RFC 4648, 6)."""
    data = b32decode(TEXT.removeprefix(HEADER) + "=" * (-len(TEXT.removeprefix(HEADER)) % 8))
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567":
        other = TEXT[:-1] + letter
        rest = other.removeprefix(HEADER)
        if other == TEXT or b32decode(rest + "=" * (-len(rest) % 8)) != data:
            continue
        with pytest.raises(PeerError, match="not written as leases are"):
            SignedLease.read(other)
        return
    raise AssertionError("this lease has no letter with free bits: choose another length")


@pytest.mark.parametrize("site", ["", "x" * (MAX_SITE + 1), "\u00e9" * MAX_SITE])
def test_a_site_id_that_does_not_fit_is_not_written(site: str) -> None:
    with pytest.raises(ValueError, match="a site id has 1 to"):
        replace(LEASE, site=site).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_before": 1 << 64},
        {"clock_before": -1},
        {"resets_at_most": 1 << 32},
        {"counter": -1},
        {"pcrs": frozenset({24})},
    ],
)
def test_terms_that_do_not_fit_are_not_written(changes: dict[str, object]) -> None:
    terms = replace(TERMS, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a lease: "):
        replace(LEASE, terms=terms).encode()


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (b"\x09shop-041", "names no site, or has bytes left over"),
        (b"\x09shop-04177", "names no site, or has bytes left over"),
        (b"\x00", "names no site, or has bytes left over"),
        (b"\x09shop-\xff417"[:10], "names no site$"),
        (bytes([MAX_SITE + 1]) + b"x" * (MAX_SITE + 1), "names no site, or has bytes left over"),
    ],
)
def test_the_site_of_a_lease(tail: bytes, sentence: str) -> None:
    head = LEASE.encode()[: -len("shop-0417") - 1]
    assert Lease.decode(head + b"\x09shop-0417") == LEASE
    with pytest.raises(PeerError, match=sentence):
        Lease.decode(head + tail)


def test_a_site_of_the_longest_name() -> None:
    longest = replace(LEASE, site="x" * MAX_SITE)
    assert Lease.decode(longest.encode()) == longest
    assert len(sign(longest, AUTHORITY, NV_NAME).text()) <= MAX_TEXT


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_bytes_are_a_lease_or_refused(data: bytes) -> None:
    for text in (letters(data), letters(LEASE.encode() + data)):
        try:
            found = SignedLease.read(text)
        except PeerError:
            continue
        assert found.text() == text


# who signed it


def test_both_signatures_are_checked_and_what_they_are_over() -> None:
    public = AUTHORITY.public_key()
    other = sign(LEASE, ec.generate_private_key(ec.SECP256R1()), NV_NAME)
    changed = replace(LEASE, ends=LEASE.ends + 1)
    for wrong, sentence in (
        (replace(SIGNED, seal=other.seal), "the lease is not signed"),
        (replace(SIGNED, approval=other.approval), "the lease is not signed"),
        (other, "the lease is not signed"),
        (replace(SIGNED, lease=changed), "the lease is not signed"),
        (replace(SIGNED, seal=bytes(SIGNATURE_SIZE)), "the lease is not signed"),
    ):
        with pytest.raises(PeerError, match=sentence):
            wrong.check(public, NV_NAME)
    # sealed by the authority all the same: the policy was approved for another counter
    with pytest.raises(PeerError, match="the policy of the lease is not signed"):
        SIGNED.check(public, b"\0\x0b" + bytes(32))


def test_an_approval_is_for_one_appliance_site_counter_and_purpose() -> None:
    named = {"site": "s", "ek_name": b"e", "counter_name": b"c", "purpose": Purpose.CACHE}
    known = {reference(**named)}  # type: ignore[arg-type]
    for changes in ({"site": "t"}, {"ek_name": b"f"}, {"counter_name": b"d"}):
        digest = reference(**{**named, **changes})  # type: ignore[arg-type]
        assert digest not in known
        known.add(digest)


# what it opens


def test_a_key_of_before_the_first_lease_signs_once_without_one_and_later_ones_never() -> None:
    public = AUTHORITY.public_key()
    leased = lease_policy(public, bytes(32), CommandCode.SIGN)
    assert signing_policy(public, bytes(32), NV_NAME, None) == leased
    first, unmoved = signing_branches(public, bytes(32), NV_NAME, 4)
    assert first == leased
    assert signing_policy(public, bytes(32), NV_NAME, 4).digest not in (
        leased.digest,
        unmoved.digest,
    )
    assert signing_policy(public, bytes(32), NV_NAME, 4) != signing_policy(
        public, bytes(32), NV_NAME, 5
    )
    assert leased != lease_policy(public, bytes(32), CommandCode.UNSEAL)
    assert authority_area(public).public_key() == public
