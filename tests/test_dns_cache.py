"""The cache of what others answered: fresh, stale, pinned, negative, failed, dumped and loaded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dns_cache import (
    FIRST_FAILURE_SECONDS,
    MAX_FAILURE_SECONDS,
    MAX_NEGATIVE_TTL,
    MAX_TTL,
    STALE_SECONDS,
    STALE_TTL,
    DnsCache,
    Known,
    Trust,
    ttl_of,
)
from netboot.names import labels
from netboot.rdata import Rtype, encode
from netboot.zone import Rcode, RRset

WWW, NTP = labels("www.example.org"), labels("ntp.example.org")
A = bytes((192, 0, 2, 1))


def answer(ttl: int = 300, name=WWW, trust: Trust = Trust.INSECURE) -> Known:
    rrset = RRset(owner=name, rtype=Rtype.A, ttl=ttl, rdatas=(A,))
    return Known(rcode=Rcode.NOERROR, answers=(rrset,), trust=trust)


def missing(rcode: Rcode = Rcode.NXDOMAIN, ttl: int = 600, minimum: int = 120) -> Known:
    soa = encode(Rtype.SOA, f"a. b. 1 2 3 4 {minimum}")
    rrset = RRset(owner=labels("example.org"), rtype=Rtype.SOA, ttl=ttl, rdatas=(soa,))
    return Known(rcode=rcode, authority=(rrset,))


def test_an_answer_counts_down_and_ends() -> None:
    cache = DnsCache()
    cache.store(WWW, Rtype.A, answer(trust=Trust.SECURE), 1000.0)
    found = cache.find(WWW, Rtype.A, 1100.0)
    assert found is not None and found.answers[0].ttl == 200
    assert (found.trust, found.age, found.is_stale) == (Trust.SECURE, 100.0, False)
    assert cache.find(WWW, Rtype.AAAA, 1100.0) is None
    assert cache.find(WWW, Rtype.A, 1300.0) is None


def test_n28_stale_answers_have_a_ttl_of_30_and_an_end() -> None:
    cache = DnsCache()
    cache.store(WWW, Rtype.A, answer(), 0.0)
    found = cache.find_stale(WWW, Rtype.A, 300.0 + STALE_SECONDS)
    assert found is not None and found.is_stale and found.answers[0].ttl == STALE_TTL
    assert cache.find_stale(WWW, Rtype.A, 301.0 + STALE_SECONDS) is None


def test_n28_never_stale_over_a_fresh_nxdomain() -> None:
    cache = DnsCache()
    cache.store(WWW, Rtype.A, answer(), 0.0)
    cache.store(WWW, Rtype.A, missing(), 400.0)
    found = cache.find_stale(WWW, Rtype.A, 410.0)
    assert found is not None and found.rcode is Rcode.NXDOMAIN
    cache.store(WWW, Rtype.A, Known(rcode=Rcode.NXDOMAIN), 420.0)  # without an SOA: not kept
    assert cache.find_stale(WWW, Rtype.A, 420.0) is None


def test_n29_pinned_names_answer_without_a_limit_and_are_never_dropped() -> None:
    cache = DnsCache([NTP], limit=10)
    cache.store(NTP, Rtype.A, answer(name=NTP), 0.0)
    for number in range(50):
        cache.store(labels(f"n{number}.example.org"), Rtype.A, answer(), 1.0)
    year = 365 * 86400.0
    assert len(cache) == 10
    found = cache.find_stale(NTP, Rtype.A, year)
    assert found is not None and found.age == year
    assert cache.prune(year) == 9 and len(cache) == 1
    assert cache.ages(year) == {NTP: year}


def test_n12_ttls_of_what_is_not_there() -> None:
    assert ttl_of(missing(ttl=600, minimum=120)) == 120
    assert ttl_of(missing(ttl=60, minimum=120)) == 60
    assert ttl_of(missing(Rcode.NOERROR)) == 120
    assert ttl_of(missing(ttl=1 << 30, minimum=1 << 30)) == MAX_NEGATIVE_TTL
    assert ttl_of(missing(Rcode.SERVFAIL)) == 0
    assert ttl_of(answer(1 << 30)) == MAX_TTL
    assert ttl_of(answer(1 << 31)) == 0
    assert ttl_of(Known(rcode=Rcode.NOERROR)) == 0


def test_n14_nothing_is_below_a_name_that_is_not_there() -> None:
    cache = DnsCache()
    cache.store(WWW, Rtype.A, missing(), 0.0)
    below = labels("a.b.www.example.org")
    found = cache.find(below, Rtype.MX, 100.0)
    assert found is not None and found.rcode is Rcode.NXDOMAIN
    assert found.authority[0].ttl == 500
    assert cache.find(labels("xwww.example.org"), Rtype.A, 100.0) is None
    assert cache.find(below, Rtype.A, 121.0) is None
    cache.store(WWW, Rtype.A, answer(), 100.0)
    assert cache.find(below, Rtype.A, 101.0) is None


def test_n30_failures_are_kept_from_5_to_300_seconds() -> None:
    cache = DnsCache()
    now, pauses = 0.0, []
    for _ in range(9):
        cache.fail(WWW, Rtype.A, now)
        start = now
        while cache.has_failed(WWW, Rtype.A, now):
            now += 1
        pauses.append(now - start)
    assert pauses[:3] == [FIRST_FAILURE_SECONDS, 10.0, 20.0]
    assert pauses[-1] == MAX_FAILURE_SECONDS
    cache.fail(WWW, Rtype.A, now)
    cache.forgive()
    assert not cache.has_failed(WWW, Rtype.A, now)
    cache.fail(WWW, Rtype.A, now)
    cache.store(WWW, Rtype.A, answer(), now)
    assert not cache.has_failed(WWW, Rtype.A, now)


def test_n36_the_least_lately_used_go_first_and_the_rest_survives_a_restart() -> None:
    cache = DnsCache(limit=3)
    names = [labels(f"n{number}.example.org") for number in range(4)]
    for name in names[:3]:
        cache.store(name, Rtype.A, answer(name=name), 0.0)
    assert cache.find(names[0], Rtype.A, 1.0)
    cache.store(names[3], Rtype.A, missing(), 1.0)
    assert cache.find(names[1], Rtype.A, 1.0) is None
    again = DnsCache()
    rows = list(cache.dump())
    again.load([*rows, (b"\1a\0", 1, b"junk"), (b"\1A\0", 1, rows[0][2]), (b"", 1, rows[0][2])])
    assert list(again.dump()) == rows
    assert again.find(labels("x.n3.example.org"), Rtype.A, 2.0) == cache.find(
        labels("x.n3.example.org"), Rtype.A, 2.0
    )


NAMES = st.sampled_from([labels(text) for text in ("a.b", "b", "x.a.b", "c")])
TYPES = st.sampled_from([Rtype.A, Rtype.MX])
STEPS = st.lists(
    st.tuples(NAMES, TYPES, st.integers(0, 100), st.booleans(), st.integers(0, 50)), max_size=30
)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_what_is_found_was_stored_and_is_not_over(steps) -> None:
    cache, model, now = DnsCache(limit=5), {}, 0.0
    for name, qtype, ttl, is_there, pause in steps:
        known = answer(ttl, name) if is_there else missing(minimum=ttl)
        cache.store(name, qtype, known, now)
        model[name, qtype] = (known, now + ttl)
        now += pause
        for (one, kind), (kept, until) in model.items():
            found = cache.find(one, kind, now)
            if found is None or found.rcode is Rcode.NXDOMAIN:
                continue
            assert now < until
            assert found.answers[0].rdatas == kept.answers[0].rdatas
            assert found.answers[0].ttl <= until - now + 1
        assert len(cache) <= 5


@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_dumped_bytes_are_read_or_left_out(name: bytes, data: bytes) -> None:
    cache = DnsCache()
    cache.load([(name, 1, data), (b"\1a\0", 1, data)])
    assert len(cache) <= 2
