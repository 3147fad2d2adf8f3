"""The scheduler of sync: what is asked when, for every clock, outage and number of sites."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.renewal import (
    BURST,
    HOUR,
    LOGIN_PAUSES,
    LONGEST_RETRY_AFTER,
    MINUTE,
    MISSING_PAUSE,
    RATE,
    ROW_PAUSES,
    SECOND,
    UPSTREAM_PAUSES,
    Changes,
    Line,
    Renewal,
    Row,
    Wanted,
)
from keys.rules import LOOKS, look_every
from keys.upstream import Source, Trouble

NOW = 1_795_000_000_000
DAY = 24 * HOUR
YEAR = 366 * DAY
DOWN = Trouble(sentence="cannot be reached")


def source(upstream: str = "hq", path: str = "a") -> Source:
    return Source(upstream=upstream, path=path)


def wanted(name: str = "a", upstream: str = "hq", **changes) -> Wanted:
    fields = {
        "name": name,
        "source": source(upstream, name),
        "ttl": timedelta(days=14),
        "missing": False,
        "expires": NOW + 10 * DAY,
    }
    return Wanted(**(fields | changes))


def engine(*names: str, upstream: str = "hq", **changes) -> Renewal:
    made = Renewal()
    made.want([wanted(name, upstream, **changes) for name in names or ("a",)], {upstream: 1})
    return made


def serve(made: Renewal, now: int, upstream: str = "hq", drawn: float = 0.0) -> list[str]:
    """Take everything that may be taken now, and say that all of it was given."""
    given = []
    while (row := made.take(upstream, now)) is not None:
        given.append(row.name)
        made.learned(row, now, drawn, left=14 * DAY)
    return given


def taken(made: Renewal, now: int, upstream: str = "hq") -> Row:
    row = made.take(upstream, now)
    assert row is not None
    return row


def test_a_secret_is_asked_for_at_once_then_four_times_in_its_ttl_or_every_six_hours() -> None:
    made = engine(ttl=timedelta(hours=8))
    assert serve(made, NOW) == ["a"]
    assert serve(made, NOW) == []
    assert serve(made, NOW + 2 * HOUR - 1) == []
    assert serve(made, NOW + 2 * HOUR) == ["a"]
    assert look_every(timedelta(days=90)) == LOOKS[1] == timedelta(hours=6)
    assert look_every(timedelta(seconds=2)) == LOOKS[0]


def test_jitter_asks_up_to_a_quarter_sooner_never_later() -> None:
    for drawn, first in ((0.0, 6 * HOUR), (0.5, 6 * HOUR * 7 // 8), (1.0, 6 * HOUR * 3 // 4)):
        made = engine()
        serve(made, NOW, drawn=drawn)
        assert serve(made, NOW + first - 1) == []
        assert serve(made, NOW + first) == ["a"]


def test_what_is_taken_is_not_given_twice() -> None:
    made = engine("a", "b")
    assert {taken(made, NOW).name, taken(made, NOW).name} == {"a", "b"}
    assert made.take("hq", NOW) is None
    assert not made.is_idle()


def test_what_is_missing_comes_first_then_what_ends_first() -> None:
    made = Renewal()
    made.want(
        [
            wanted("late", expires=NOW + 9 * DAY),
            wanted("soon", expires=NOW + 1 * DAY),
            wanted("gone", missing=True, expires=None),
        ],
        {"hq": 1},
    )
    assert serve(made, NOW) == ["gone", "soon", "late"]


def test_without_a_login_nothing_is_asked() -> None:
    made = Renewal()
    made.want([wanted()], {"hq": None})
    assert serve(made, NOW) == []
    made.want([wanted()], {"hq": 1})
    assert serve(made, NOW) == ["a"]


@pytest.mark.parametrize("jump", [-20 * YEAR, -DAY, -1, DAY, 20 * YEAR])
def test_threat_8_no_jump_of_the_clock_skips_a_renewal(jump: int) -> None:
    """Whatever the clock did, the next look is due within one interval, and is one look."""
    made = engine()
    assert serve(made, NOW) == ["a"]
    later = NOW + HOUR + jump
    after = [name for step in range(7) for name in serve(made, later + step * HOUR)]
    assert after[:1] == ["a"]
    assert len(after) <= 2


def test_threat_8_times_are_longer_than_32_bits() -> None:
    """2^31 ms are 25 days: a value and an outage of forty."""
    made = engine(ttl=timedelta(days=40))
    serve(made, NOW)
    row, now = taken(made, NOW + 40 * DAY), NOW + 40 * DAY
    made.failed(row, DOWN, now, 0.5)
    again = Renewal(made.rows("hq"), made.lines())
    again.want([wanted(ttl=timedelta(days=40))], {"hq": 1})
    assert again.lines()[0].trouble_since == now > 1 << 40
    assert serve(again, now + 40 * DAY) == ["a"]


@pytest.mark.parametrize("jump", [-20 * YEAR, -DAY])
def test_a_pause_does_not_outlast_a_clock_that_was_set_back(jump: int) -> None:
    made = engine()
    for _ in range(12):
        made.failed(taken(made, NOW), DOWN, NOW, 0.0)
        made.look_now()
    made.failed(taken(made, NOW), DOWN, NOW, 1.0)
    assert made.take("hq", NOW + 1) is None
    assert made.take("hq", NOW + jump) is not None


def test_an_upstream_that_fails_is_asked_less_and_less() -> None:
    made, now, asked = engine(*map(str, range(50))), NOW, []
    while now < NOW + 2 * HOUR:
        if (row := made.take("hq", now)) is not None:
            asked.append(now)
            made.failed(row, DOWN, now, 0.999)
        now += SECOND
    gaps = [b - a for a, b in zip(asked, asked[1:], strict=False)]
    assert gaps[0] == UPSTREAM_PAUSES[0]
    assert all(a <= b for a, b in zip(gaps, gaps[1:], strict=False))
    assert gaps[-1] == UPSTREAM_PAUSES[1]
    assert len(asked) < 2 * HOUR / UPSTREAM_PAUSES[1] + 10


def test_one_upstream_that_fails_delays_no_other() -> None:
    made = Renewal()
    made.want([wanted("a", "hq"), wanted("b", "spare")], {"hq": 1, "spare": 1})
    for _ in range(5):
        made.failed(taken(made, NOW, "hq"), DOWN, NOW, 1.0)
        made.look_now("hq")
    made.failed(taken(made, NOW, "hq"), DOWN, NOW, 1.0)
    assert made.take("hq", NOW) is None
    assert serve(made, NOW, "spare") == ["b"]


def test_one_secret_that_fails_delays_no_other_and_waits_longer_each_time() -> None:
    made, now, asked = engine("bad", "good", ttl=timedelta(minutes=4)), NOW, Counter()
    while now < NOW + 6 * HOUR:
        while (row := made.take("hq", now)) is not None:
            asked[row.name] += 1
            if row.name == "good":
                made.learned(row, now, 0.0, left=4 * MINUTE)
            else:
                made.failed(row, DOWN, now, 0.5)
        now += SECOND
    assert asked["good"] >= 6 * 60 - 10
    assert asked["bad"] < 20
    assert ROW_PAUSES[1] == HOUR


def test_retry_after_is_heeded_but_not_for_ever() -> None:
    made = engine()
    made.failed(taken(made, NOW), Trouble(sentence="busy", retry_after=600), NOW, 0.0)
    made.want([wanted(missing=True)], {"hq": 1})
    assert made.lines()[0].wait == 600 * SECOND
    made = engine()
    made.failed(taken(made, NOW), Trouble(sentence="busy", retry_after=10**9), NOW, 0.0)
    assert made.lines()[0].wait == LONGEST_RETRY_AFTER
    made = engine()
    made.failed(taken(made, NOW), Trouble(sentence="busy", retry_after=-5), NOW, 0.0)
    assert made.lines()[0].wait == UPSTREAM_PAUSES[0] // 2


def test_a_refused_login_does_not_hammer_and_a_new_one_is_tried_at_once() -> None:
    made, now, tries = engine(*map(str, range(9))), NOW, 0
    refused = Trouble(sentence="the login is refused", login=True)
    while now < NOW + DAY:
        if (row := made.take("hq", now)) is not None:
            tries += 1
            made.failed(row, refused, now, 0.5)
        now += 10 * SECOND
    assert 20 < tries < 45
    assert made.lines()[0].is_login_refused
    assert {row.failures for row in made.rows("hq")} == {0}  # no secret's fault
    made.want([wanted(str(n)) for n in range(9)], {"hq": 2})
    assert len(serve(made, now)) == 9
    assert not made.lines()[0].is_login_refused
    assert LOGIN_PAUSES[0] >= MINUTE


def test_what_keys_refuses_waits_and_its_upstream_does_not() -> None:
    made = engine("a", "b")
    made.refused(taken(made, NOW), "VERSION-LOWER", NOW, 0.5)
    assert made.lines()[0].trouble is None
    assert made.rows("hq")[0].sentence == "VERSION-LOWER"
    assert serve(made, NOW) == ["b"]
    assert serve(made, NOW + ROW_PAUSES[0]) == ["a"]
    assert made.rows("hq")[0].sentence is None


def test_what_keys_lost_is_fetched_again_but_not_in_a_loop() -> None:
    made = engine()
    serve(made, NOW)
    made.want([wanted(missing=True, expires=None)], {"hq": 1})
    assert serve(made, NOW + MISSING_PAUSE - 1) == []
    assert serve(made, NOW + MISSING_PAUSE) == ["a"]
    assert serve(made, NOW + MISSING_PAUSE) == []


def test_a_value_that_ends_before_its_ttl_is_looked_at_before() -> None:
    made = engine()
    made.learned(taken(made, NOW), NOW, 0.0, left=2 * HOUR)
    assert serve(made, NOW + HOUR - 1) == []
    assert serve(made, NOW + HOUR) == ["a"]


def test_somebody_may_ask_now_and_pauses_end() -> None:
    made = Renewal()
    made.want([wanted("a", "hq"), wanted("b", "spare")], {"hq": 1, "spare": 1})
    serve(made, NOW, "hq")
    made.failed(taken(made, NOW, "spare"), DOWN, NOW, 1.0)
    assert made.look_now("hq") == 1
    assert (serve(made, NOW, "hq"), serve(made, NOW, "spare")) == (["a"], [])
    assert made.look_now() == 2
    assert (serve(made, NOW, "hq"), serve(made, NOW, "spare")) == (["a"], ["b"])


def test_another_source_is_asked_at_once_and_a_late_answer_of_the_first_is_nothing() -> None:
    made = engine()
    late = taken(made, NOW)
    made.want([wanted("a", "spare")], {"spare": 1})
    made.learned(late, NOW, 0.0, left=DAY)
    assert serve(made, NOW, "spare") == ["a"]
    made.want([], {})
    assert made.rows("spare") == [] and made.lines() == []
    changes = made.changes()
    assert (changes.dropped, changes.dropped_lines) == (["a"], ["hq", "spare"])
    assert not made.changes()


def test_what_is_written_down_goes_on_where_it_was() -> None:
    made = engine("a", "b")
    serve(made, NOW)
    made.failed(taken(made, NOW + 6 * HOUR), DOWN, NOW + 6 * HOUR, 1.0)
    made.logged_in("hq", 1_800_000_000)
    changes = made.changes()
    again = Renewal(changes.rows, changes.lines)
    assert again.take("hq", NOW) is None  # nobody has said yet what is wanted
    again.want([wanted("a"), wanted("b")], {"hq": 1})
    assert (again.rows("hq"), again.lines()) == (made.rows("hq"), made.lines())
    assert again.lines()[0].login_ends == 1_800_000_000
    assert again.take("hq", NOW + 6 * HOUR) is None
    assert sorted(serve(again, NOW + 12 * HOUR)) == ["a", "b"]


def test_threat_7_after_an_outage_a_thousand_secrets_are_spread() -> None:
    names = [f"s{n:04}" for n in range(1000)]
    made, now = engine(*names), NOW
    per_second: Counter[int] = Counter()
    while len(serve(made, now)) or made.due("hq", now):
        now += 2 * SECOND
    now += 14 * DAY  # cut off: every secret is due, some were tried
    for _ in range(40):
        while (row := made.take("hq", now)) is None:
            now += SECOND
        made.failed(row, DOWN, now, random.Random(now).random())
    back = now
    while made.due("hq", now) or now == back:
        per_second[(now - back) // SECOND] += len(serve(made, now))
        now += SECOND // 4
    assert sum(per_second.values()) == 1000
    assert max(per_second.values()) <= RATE + BURST
    assert now - back <= UPSTREAM_PAUSES[1] + 1000 / RATE * SECOND + 10 * SECOND


def test_threat_7_two_thousand_sites_that_return_at_once_come_one_after_another() -> None:
    """The WAN of all comes back in the same second; each site asks once before it asks more."""
    firsts: Counter[int] = Counter()
    draw = random.Random(7)
    for _ in range(2000):
        made, now = engine(), NOW
        while now < NOW + 2 * HOUR:
            if (row := made.take("hq", now)) is not None:
                made.failed(row, DOWN, now, draw.random())
            line = made.lines()[0]
            now = max(
                now + SECOND, line.since + line.wait, made.rows("hq")[0].due(now, missing=False)
            )
        firsts[(now - NOW - 2 * HOUR) // (10 * SECOND)] += 1
    assert max(firsts.values()) < 2000 / 20
    assert len(firsts) > 30


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**11), 10**11),
            st.sampled_from(["learned", "failed", "login", "refused", "now", "look"]),
            st.floats(0, 1, exclude_max=True),
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_whatever_happens_a_day_later_everything_was_asked_for(story) -> None:
    """No state is a dead end, whichever way the clock went."""
    made, now = engine("a", "b", "c"), NOW
    for step, what, drawn in story:
        now = max(0, now + step)
        row = made.take("hq", now)
        if what == "look":
            made.look_now("hq")
        if row is None:
            continue
        if what == "learned":
            made.learned(row, now, drawn, left=DAY)
        elif what == "refused":
            made.refused(row, "no", now, drawn)
        elif what in ("failed", "login"):
            made.failed(row, Trouble(sentence="x", login=what == "login"), now, drawn)
        else:
            made.put_back(row)
    made = Renewal(made.rows("hq"), made.lines())
    made.want([wanted(name) for name in "abc"], {"hq": 1})
    seen: set[str] = set()
    for minute in range(0, 25 * 60, 5):
        seen |= set(serve(made, now + minute * MINUTE))
    assert seen == {"a", "b", "c"}


def test_what_is_nearly_due_is_asked_with_what_is_due() -> None:
    """A thousand secrets that were drawn apart are a few rounds, not a thousand events a day."""
    names = [f"s{n:03}" for n in range(200)]
    made, now, draw = engine(*names), NOW, random.Random(3)
    moments, asked = [], Counter()
    while now < NOW + 2 * DAY:
        while (row := made.take("hq", now)) is not None:
            asked[row.name] += 1
            moments.append(now)
            made.learned(row, now, draw.random(), left=14 * DAY)
        now += MINUTE
    rounds = 1 + sum(b - a > 5 * MINUTE for a, b in zip(moments, moments[1:], strict=False))
    assert set(asked.values()) <= set(range(8, 15))
    assert rounds < 60


def test_a_round_takes_what_is_due_within_an_eighth_and_no_more() -> None:
    made = engine("a", "b", "c")
    drawn = {"a": 0.6, "b": 0.25, "c": 0.0}  # 5 h 6 min, 5 h 37 min 30 s, 6 h
    for _ in drawn:
        row = taken(made, NOW)
        made.learned(row, NOW, drawn[row.name], left=14 * DAY)
    first = NOW + 51 * HOUR // 10
    assert serve(made, first - 1) == []
    assert serve(made, first) == ["a", "b"]
    assert serve(made, NOW + 6 * HOUR - 1) == []
    assert serve(made, NOW + 6 * HOUR) == ["c"]


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_round_takes_nothing_that_waits_for_a_reason(is_missing: bool) -> None:
    made = engine("a", "b")
    for row in (taken(made, NOW), taken(made, NOW)):
        if row.name == "a" or is_missing:
            made.learned(row, NOW, 0.0, left=14 * DAY)
        else:
            made.refused(row, "no", NOW, 1.0)
    now = NOW + (MISSING_PAUSE if is_missing else ROW_PAUSES[0]) - 1
    made.want([wanted("a"), wanted("b", missing=is_missing), wanted("c")], {"hq": 1})
    assert serve(made, now) == ["c"]
    assert "b" in serve(made, now + 1)


def test_a_missing_secret_that_fails_waits_as_long_as_any_other() -> None:
    made = engine(missing=True, expires=None)
    for failures in range(6):
        made.refused(taken(made, NOW + failures * DAY), "no", NOW + failures * DAY, 1.0)
    last = NOW + 5 * DAY
    assert made.take("hq", last + MISSING_PAUSE) is None
    assert made.take("hq", last + min(ROW_PAUSES[0] * 2**5, ROW_PAUSES[1])) is not None


def test_of_two_that_are_missing_either_may_have_an_end() -> None:
    made = Renewal()
    made.want([wanted("a", missing=True), wanted("b", missing=True, expires=None)], {"hq": 1})
    assert serve(made, NOW) == ["b", "a"]


def test_nobody_is_asked_for_what_is_of_another_upstream() -> None:
    made = Renewal()
    made.want([wanted("a", "hq"), wanted("b", "spare")], {"hq": 1, "spare": 1})
    assert made.take("nobody", NOW) is None
    assert [row.name for row in made.rows("spare")] == ["b"]
    made.failed(taken(made, NOW, "spare"), DOWN, NOW, 1.0)
    more = [wanted("a", "hq"), wanted("b", "spare"), wanted("c", "spare")]
    made.want(more, {"hq": 1, "spare": 1})
    made.look_now("hq")
    assert made.take("spare", NOW) is None  # its pause is its own
    made.look_now("spare")
    assert made.take("spare", NOW) is not None


def test_a_new_login_forgets_the_end_of_the_one_before_and_no_success() -> None:
    made = engine()
    serve(made, NOW)
    made.logged_in("hq", 1_800_000_000)
    made.changes()
    made.logged_in("hq", None)
    made.logged_in("hq", 1_800_000_000)
    made.logged_in("nobody", 5)
    assert made.lines()[0].login_ends == 1_800_000_000
    assert not made.changes()
    made.want([wanted()], {"hq": 2})
    (line,) = made.lines()
    assert (line.login, line.login_ends, line.success) == (2, None, NOW)


def test_trouble_is_told_from_its_first_moment_and_ends_with_any_answer() -> None:
    made = engine("a", "b", "c")
    made.failed(taken(made, NOW), DOWN, NOW, 0.0)
    made.failed(taken(made, NOW + MINUTE), DOWN, NOW + MINUTE, 0.0)
    (line,) = made.lines()
    assert (line.trouble_since, line.failures, line.trouble) == (NOW, 2, DOWN.sentence)
    made.refused(taken(made, NOW + HOUR), "older", NOW + HOUR, 0.0)
    (line,) = made.lines()
    assert (line.failures, line.trouble, line.success) == (0, None, NOW + HOUR)


def test_what_failed_in_an_outage_is_asked_for_as_soon_as_it_is_over() -> None:
    made = Renewal()
    both = [wanted(name, "hq") for name in "abcd"] + [wanted("z", "spare")]
    made.want(both, {"hq": 1, "spare": 1})
    made.failed(taken(made, NOW, "spare"), DOWN, NOW, 1.0)
    healthy = taken(made, NOW)
    made.learned(healthy, NOW, 0.0, left=14 * DAY)
    now = NOW
    for _ in range(3):
        made.failed(taken(made, now), DOWN, now, 0.0)
        now += MINUTE // 2
    later = now + 2 * HOUR
    made.learned(taken(made, later), later, 0.0, left=14 * DAY)
    assert {row.name: row.failures for row in made.rows("hq")} == dict.fromkeys("abcd", 0)
    assert made.rows("hq")[0].wait == 6 * HOUR  # who was well is not asked again
    assert sorted(serve(made, later)) == sorted(set("abcd") - {healthy.name} - {_last(made, later)})
    assert made.rows("spare")[0].failures == 1


def _last(made: Renewal, now: int) -> str:
    """Name the one that was answered first when the outage was over."""
    return next(row.name for row in made.rows("hq") if row.looked == now)


def test_late_answers_about_what_is_no_longer_wanted_are_nothing() -> None:
    made = engine("a", "b", "c")
    rows = [taken(made, NOW) for _ in range(3)]
    made.want([wanted("c", "spare")], {"spare": 1})
    made.changes()
    made.learned(rows[0], NOW, 0.0, left=DAY)
    made.refused(rows[1], "no", NOW, 0.0)
    made.failed(rows[2], DOWN, NOW, 0.0)
    assert not made.changes()
    assert made.rows("hq") == []
    assert (made.rows("spare")[0].failures, made.is_idle()) == (0, True)


def test_what_was_put_back_is_given_again() -> None:
    made = engine()
    row = taken(made, NOW)
    assert made.take("hq", NOW) is None
    made.put_back(row)
    assert taken(made, NOW) == row


@pytest.mark.parametrize("left", [None, 0, -DAY])
def test_without_an_end_that_lies_ahead_it_is_looked_at_as_usual(left: int | None) -> None:
    made = engine()
    made.learned(taken(made, NOW), NOW, 0.0, left=left)
    assert made.rows("hq")[0].wait == 6 * HOUR


@pytest.mark.parametrize(
    "changes",
    [
        Changes(rows=[Row(name="a", source=source())]),
        Changes(lines=[Line(name="a")]),
        Changes(dropped=["a"]),
        Changes(dropped_lines=["a"]),
    ],
)
def test_every_change_is_one(changes: Changes) -> None:
    assert changes
    assert not Changes()


def test_a_line_is_paused_for_its_time_alone() -> None:
    line = Line(name="hq", since=NOW, wait=SECOND, failures=1)
    assert [line.is_paused(NOW + at) for at in (-1, 0, SECOND - 1, SECOND)] == [
        False,
        True,
        True,
        False,
    ]
