"""Who asks too often waits, whatever the clock does, and memory stays bounded."""

from bootstrap.io.phonehome import QUOTA, QUOTA_SECONDS, TRACKED, Quota


def test_so_many_in_a_minute() -> None:
    quota = Quota()
    assert all(quota.admit("a", 100.0 + n) for n in range(QUOTA))
    assert not quota.admit("a", 100.0 + QUOTA)
    assert quota.admit("b", 100.0 + QUOTA)
    assert not quota.admit("a", 100.0 + QUOTA_SECONDS - 0.1)
    assert quota.admit("a", 100.0 + QUOTA_SECONDS)


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    quota = Quota()
    assert all(quota.admit("a", 1e9) for _ in range(QUOTA))
    assert quota.admit("a", 1e9 - 3600)


def test_memory_is_bounded_and_those_who_are_known_are_served() -> None:
    quota = Quota()
    assert quota.admit("known", 0.0)
    assert [quota.admit(n, 1.0) for n in range(TRACKED)].count(True) == TRACKED - 1
    assert not quota.admit("new", 2.0)
    assert quota.admit("known", 2.0)
    assert quota.admit("new", 1.0 + QUOTA_SECONDS)
