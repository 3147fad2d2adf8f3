"""One pool: what comes next, at any size, whatever was given and came back before."""

from __future__ import annotations

from dataclasses import dataclass

from dhcp_lab import ADDRESS
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.network import Pool
from netboot.pools import PoolState

FIRST = int(ADDRESS("10.0.0.0"))
NOW = 100.0


@dataclass
class Row:
    expires: float


def pool(size: int, *excluded: int) -> PoolState:
    plan = Pool(first=ADDRESS("10.0.0.0"), last=ADDRESS("10.0.0.0") + size - 1)
    return PoolState(plan, frozenset(FIRST + number for number in excluded))


def nobody(address: int) -> bool:
    return False


def test_the_lowest_fresh_address_comes_first_and_what_is_excluded_never() -> None:
    state, taken = pool(4, 0, 2), set[int]()
    for number in (1, 3):
        address = state.fresh(taken.__contains__)
        assert address == FIRST + number
        assert state.fresh(taken.__contains__) == address
        taken.add(address)
    assert state.fresh(taken.__contains__) is None
    taken.clear()
    for number in (3, 2, 1, 1, 9):
        state.give_back(FIRST + number)
    assert state.fresh(taken.__contains__) == FIRST + 1
    taken.add(FIRST + 1)
    assert state.fresh(taken.__contains__) == FIRST + 3


def test_a_pool_of_a_million_is_not_walked_twice() -> None:
    state, asked = pool(1_048_576), []

    def is_taken(address: int) -> bool:
        asked.append(address)
        return address < FIRST + 1000

    for _ in range(50):
        assert state.fresh(is_taken) == FIRST + 1000
    assert len(asked) < 1100


def test_the_row_that_ended_first_is_the_oldest_and_one_that_lasts_is_none() -> None:
    rows = {FIRST: Row(90.0), FIRST + 1: Row(80.0), FIRST + 2: Row(150.0)}
    state = pool(3)
    for address, row in rows.items():
        state.note(address, row.expires, rows)
    assert state.oldest(rows, nobody, NOW) == (80.0, FIRST + 1)
    rows[FIRST + 1].expires = 200.0
    state.note(FIRST + 1, 200.0, rows)
    assert state.oldest(rows, nobody, NOW) == (90.0, FIRST)
    assert state.oldest(rows, {FIRST}.__contains__, NOW) is None
    assert state.oldest(rows, nobody, NOW) is None  # until the end of the offer notes it again
    state.note(FIRST, 90.0, rows)
    assert state.oldest(rows, nobody, NOW) == (90.0, FIRST)
    del rows[FIRST]
    assert state.oldest(rows, nobody, NOW) is None
    assert state.oldest(rows, nobody, 160.0) == (150.0, FIRST + 2)


def test_renewals_leave_no_notes_behind() -> None:
    rows = {FIRST + number: Row(0.0) for number in range(10)}
    state = pool(10)
    for turn in range(1000):
        for address, row in rows.items():
            row.expires = float(turn)
            state.note(address, row.expires, rows)
    assert len(state._ends) <= 2 * 10 + 64
    assert state.oldest(rows, nobody, 2000.0) == (999.0, FIRST)


@given(
    st.integers(1, 40),
    st.sets(st.integers(0, 39)),
    st.dictionaries(st.integers(0, 39), st.floats(0, 200), max_size=40),
    st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_what_is_upcoming_is_free_in_turn_and_takes_nothing(
    size: int, excluded: set[int], ends: dict[int, float], wanted: int
) -> None:
    state = pool(size, *excluded)
    rows = {FIRST + number: Row(end) for number, end in ends.items() if number < size}
    for address, row in rows.items():
        state.note(address, row.expires, rows)
    named = list(state.upcoming(wanted, rows, nobody, NOW))
    assert len(named) == len(set(named)) <= wanted
    for address in named:
        assert address in state
        assert address not in rows or rows[address].expires <= NOW
    fresh = state.fresh(rows.__contains__)
    oldest = state.oldest(rows, nobody, NOW)
    expected = fresh if fresh is not None else oldest[1] if oldest is not None else None
    assert named[:1] == ([expected] if expected is not None else [])
