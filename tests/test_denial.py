"""What NSEC and NSEC3 records prove, and what they must not be taken to prove."""

from __future__ import annotations

import hashlib
from base64 import b32hexencode

import pytest

from netboot.denial import MAX_ITERATIONS, Denial, Proof
from netboot.names import Labels, labels, wire
from netboot.nsec3 import bitmap
from netboot.rdata import Rtype
from netboot.zone import RRset

NET, EXAMPLE = labels("net"), labels("example.net")
CUT = (Rtype.NS, Rtype.DS, Rtype.RRSIG)
APEX = (Rtype.NS, Rtype.SOA, Rtype.RRSIG)


def nsec(owner: str, following: str, *types: int, zone: Labels = EXAMPLE) -> tuple[RRset, Labels]:
    data = wire(labels(following)) + bitmap(types)
    return RRset(owner=labels(owner), rtype=Rtype.NSEC, ttl=60, rdatas=(data,)), zone


def hashed(name: str, salt: bytes = b"", iterations: int = 0) -> bytes:
    found = wire(labels(name))
    for _ in range(iterations + 1):
        found = hashlib.sha1(found + salt).digest()
    return found


def nsec3(
    start: bytes,
    end: bytes,
    *types: int,
    zone: Labels = EXAMPLE,
    flags: int = 0,
    salt: bytes = b"",
    iterations: int = 0,
    kind: int = 1,
) -> tuple[RRset, Labels]:
    head = bytes((kind, flags)) + iterations.to_bytes(2, "big") + bytes((len(salt),)) + salt
    data = head + bytes((len(end),)) + end + bitmap(types)
    owner = (b32hexencode(start).lower(), *zone)
    return RRset(owner=owner, rtype=Rtype.NSEC3, ttl=60, rdatas=(data,)), zone


def at(name: str, *types: int, **how) -> tuple[RRset, Labels]:
    """A record that begins at a name and ends just after it."""
    start = hashed(name, how.get("salt", b""), how.get("iterations", 0))
    return nsec3(start, after(start), *types, **how)


def over(name: str, **how) -> tuple[RRset, Labels]:
    """A record whose span holds a name's hash and hardly another."""
    middle = hashed(name, how.get("salt", b""), how.get("iterations", 0))
    return nsec3(before(middle), after(middle), Rtype.A, **how)


def after(data: bytes) -> bytes:
    return (int.from_bytes(data) + 1).to_bytes(20, "big")


def before(data: bytes) -> bytes:
    return (int.from_bytes(data) - 1).to_bytes(20, "big")


def test_a_name_between_two_others_is_not_there() -> None:
    proof = Denial([nsec("a.example.net", "c.example.net", Rtype.A)])
    assert proof.denies_name(labels("b.example.net")) is Proof.NONE  # a wildcard might answer
    proof = Denial(
        [
            nsec("a.example.net", "c.example.net", Rtype.A),
            nsec("example.net", "a.example.net", *APEX),
        ]
    )
    assert proof.denies_name(labels("b.example.net")) is Proof.HOLDS
    assert proof.denies_name(labels("a.example.net")) is Proof.NONE
    assert proof.denies_name(labels("d.example.net")) is Proof.NONE


def test_the_last_name_is_followed_by_the_first() -> None:
    alone = Denial([nsec("example.net", "example.net", *APEX)])
    assert alone.denies_name(labels("www.example.net")) is Proof.HOLDS
    assert alone.denies_type(EXAMPLE, Rtype.A) is Proof.HOLDS
    assert alone.denies_type(EXAMPLE, Rtype.SOA) is Proof.NONE


def test_a_zone_denies_only_what_it_may_have() -> None:
    """Somebody's own signed zone, whose last record wraps round, or that names whom it likes."""
    evil = labels("evil.net")
    wraps = Denial([nsec("evil.net", "evil.net", *APEX, zone=evil)])
    assert wraps.denies_name(labels("www.example.net")) is Proof.NONE
    assert wraps.denies_type(labels("www.example.net"), Rtype.A) is Proof.NONE
    assert wraps.denies_closer(labels("any.example.net"), 2, EXAMPLE) is Proof.NONE
    names_us = Denial([at("www.example.net", Rtype.TXT, zone=evil)])
    assert names_us.denies_type(labels("www.example.net"), Rtype.A) is Proof.NONE
    covers_us = Denial([at("example.net", *APEX, zone=evil), over("www.example.net", zone=evil)])
    assert covers_us.denies_name(labels("www.example.net")) is Proof.NONE
    assert covers_us.denies_zone(labels("www.example.net")) is None


def test_an_nsec3_of_another_zones_name_is_not_this_zones() -> None:
    record, _ = at("www.example.net", Rtype.TXT, zone=labels("deep.example.net"))
    assert Denial([(record, EXAMPLE)]).denies_type(labels("www.example.net"), Rtype.A) is Proof.NONE


@pytest.mark.parametrize("types", [CUT, (Rtype.NS,), (Rtype.DNAME, Rtype.RRSIG)])
def test_what_is_below_a_cut_is_not_denied_from_above(types: tuple[int, ...]) -> None:
    name = labels("www.example.net")
    hashes = Denial(
        [
            at("example.net", *types, zone=NET),
            over("www.example.net", zone=NET),
            over("*.example.net", zone=NET),
        ]
    )
    assert hashes.denies_name(name) is Proof.NONE
    assert hashes.denies_type(name, Rtype.A) is Proof.NONE
    names = Denial([nsec("example.net", "zzz.net", *types, zone=NET)])
    assert names.denies_name(name) is Proof.NONE
    assert names.denies_type(name, Rtype.A) is Proof.NONE


def test_a_cut_denies_its_ds_and_a_dname_its_other_types_alone() -> None:
    cut = Denial([nsec("example.net", "zzz.net", Rtype.NS, zone=NET)])
    assert cut.denies_type(EXAMPLE, Rtype.DS) is Proof.HOLDS
    assert cut.denies_type(EXAMPLE, Rtype.A) is Proof.NONE
    moved = Denial([nsec("old.example.net", "p.example.net", Rtype.DNAME)])
    assert moved.denies_type(labels("old.example.net"), Rtype.A) is Proof.HOLDS
    assert moved.denies_type(labels("a.old.example.net"), Rtype.A) is Proof.NONE


def test_the_child_says_nothing_of_its_own_ds() -> None:
    child = Denial([nsec("example.net", "a.example.net", *APEX), at("example.net", *APEX)])
    assert child.denies_type(EXAMPLE, Rtype.DS) is Proof.NONE
    assert child.denies_zone(EXAMPLE) is None


def test_a_delegation_without_ds_is_told_from_what_is_none() -> None:
    name = labels("sub.example.net")
    for types, expected in (
        ((Rtype.NS,), True),
        (CUT, False),
        (APEX, False),
        ((Rtype.A,), False),
    ):
        assert Denial([nsec("sub.example.net", "t.example.net", *types)]).denies_zone(name) is (
            expected
        )
        assert Denial([at("sub.example.net", *types)]).denies_zone(name) is expected
    gone = [at("example.net", *APEX), over("sub.example.net")]
    assert Denial(gone).denies_zone(name) is False
    assert Denial(gone[:1]).denies_zone(name) is None
    assert Denial([]).denies_zone(name) is None
    between = Denial([nsec("a.example.net", "x.sub.example.net", Rtype.A)])
    assert between.denies_zone(name) is False
    assert between.denies_type(name, Rtype.A) is Proof.HOLDS


def test_an_opt_out_leaves_open_what_it_covers() -> None:
    name = labels("sub.example.net")
    proof = Denial(
        [at("example.net", *APEX), over("sub.example.net", flags=1), over("*.example.net")]
    )
    assert proof.denies_name(name) is Proof.OPEN
    assert proof.denies_type(name, Rtype.DS) is Proof.OPEN
    assert proof.denies_type(name, Rtype.A) is Proof.NONE
    assert proof.denies_zone(name) is True
    assert proof.denies_zone(labels("www.sub.example.net")) is True
    assert proof.denies_closer(name, 2, EXAMPLE) is Proof.OPEN


def test_an_empty_non_terminal_is_there() -> None:
    """A wildcard must not answer for it, though its name lies in the span before it."""
    proof = Denial([nsec("a.example.net", "x.b.example.net", Rtype.A)])
    assert proof.denies_closer(labels("y.b.example.net"), 2, EXAMPLE) is Proof.NONE
    assert proof.denies_closer(labels("aa.example.net"), 2, EXAMPLE) is Proof.HOLDS


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [(0, Proof.HOLDS), (MAX_ITERATIONS, Proof.HOLDS), (MAX_ITERATIONS + 1, Proof.NONE)],
)
def test_salts_are_read_and_iterations_bounded(iterations: int, expected: Proof) -> None:
    how = {"salt": b"\xaa\xbb", "iterations": iterations}
    proof = Denial(
        [
            at("example.net", *APEX, **how),
            over("nothing.example.net", **how),
            over("*.example.net", **how),
        ]
    )
    assert proof.denies_name(labels("nothing.example.net")) is expected


def test_records_of_two_salts_are_two_chains() -> None:
    proof = Denial(
        [
            at("example.net", *APEX, salt=b"1"),
            over("nothing.example.net", salt=b"2"),
            over("*.example.net", salt=b"1"),
        ]
    )
    assert proof.denies_name(labels("nothing.example.net")) is Proof.NONE


@pytest.mark.parametrize("how", [{"kind": 2}, {"flags": 2}, {"flags": 3}])
def test_an_unknown_hash_or_flag_proves_nothing(how: dict[str, int]) -> None:
    name = labels("www.example.net")
    assert Denial([at("www.example.net", Rtype.TXT)]).denies_type(name, Rtype.A) is Proof.HOLDS
    assert Denial([at("www.example.net", Rtype.TXT, **how)]).denies_type(name, 1) is Proof.NONE


@pytest.mark.parametrize("data", [b"", b"\1\0\0\0\0", b"\1\0\0\0\xff\0", b"\1\0\0\0\1x"])
def test_a_record_cut_short_proves_nothing(data: bytes) -> None:
    owner = (b32hexencode(hashed("www.example.net")), *EXAMPLE)
    record = RRset(owner=owner, rtype=Rtype.NSEC3, ttl=60, rdatas=(data,))
    name = labels("www.example.net")
    assert Denial([(record, EXAMPLE)]).denies_type(name, Rtype.A) is Proof.NONE
    odd = RRset(owner=(b"not!hex", *EXAMPLE), rtype=Rtype.NSEC3, ttl=60, rdatas=(b"\1" + data,))
    assert Denial([(odd, EXAMPLE)]).denies_name(name) is Proof.NONE


def test_a_wildcard_that_lacks_a_type_needs_the_name_denied_too() -> None:
    name, star = labels("any.example.net"), at("*.example.net", Rtype.TXT)
    whole = [at("example.net", *APEX), over("any.example.net"), star]
    assert Denial(whole).denies_type(name, Rtype.A) is Proof.HOLDS
    assert Denial(whole).denies_type(name, Rtype.TXT) is Proof.NONE
    assert Denial([whole[0], star]).denies_type(name, Rtype.A) is Proof.NONE
    assert Denial(whole[:2]).denies_type(name, Rtype.A) is Proof.NONE
    alias = [*whole[:2], at("*.example.net", Rtype.CNAME)]
    assert Denial(alias).denies_type(name, Rtype.A) is Proof.NONE
