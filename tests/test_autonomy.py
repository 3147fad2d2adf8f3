"""The autonomy meter: what ends without the WAN, in which order, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from control_site import ControlSite
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bootstrap.autonomy import FIRST, Horizon, Known, Renewed, first, horizons, sentence
from bootstrap.metrics import exposition

NOW = 1_795_000_000.0
DAY = 86_400


def status(**changes: Any) -> dict[str, Any]:
    return {
        "lease": {
            "closed": None,
            "counter": 4,
            "left": {"powered_seconds": 10 * DAY, "starts": 2, "suspends": 0},
        },
        "ends": [
            {"name": "token", "tier": "site", "reason": None, "usable_until": NOW + 3 * DAY},
            {"name": "psk", "tier": "boot", "reason": None, "usable_until": NOW + 20 * DAY},
            {"name": "disk", "tier": "box", "reason": None, "usable_until": NOW + 5 * DAY},
            {"name": "never", "tier": "site", "reason": "SECRET-MISSING", "usable_until": None},
        ],
        "certificates": {
            "appliance": NOW + 900 * DAY,
            "box": NOW + 901 * DAY,
            "server": NOW + 60 * DAY,
            "answer": NOW + 61 * DAY,
            "boot": NOW + 62 * DAY,
            "boot CA": NOW + 902 * DAY,
        },
        "lists": {"box CA": NOW + 6 * DAY, "site root": NOW + 903 * DAY},
    } | changes


def known(**changes: Any) -> Known:
    fields: dict[str, Any] = {
        "keys": status(),
        "root_ends": NOW + 7000 * DAY,
        "boxes": [("pos-01", NOW + 1 * DAY)],
        "sets": [
            ("generic 3", "served", None),
            ("generic 2", "accepted", NOW + 2 * DAY),
            ("generic 1", "withdrawn", None),
        ],
        "lists": [("Maker A", NOW + 4 * DAY), ("Maker B", None)],
        "makers": [("Root of A", NOW + 3000 * DAY)],
        "note": 7,
    }
    return Known(**(fields | changes))


def names(found: tuple[Horizon, ...]) -> list[str]:
    return [f"{one.kind} {one.name}" for one in found]


def test_what_ends_first_is_first_and_what_never_ends_is_last() -> None:
    assert names(horizons(known(), NOW)) == [
        "box pos-01",
        "boot set generic 2",
        "secret token",
        "revocation list Maker A",
        "secret disk",
        "revocation list box CA",
        "lease 4",
        "secret psk",
        "certificate server",
        "certificate answer",
        "certificate boot",
        "certificate appliance",
        "certificate box",
        "certificate boot CA",
        "revocation list site root",
        "TPM maker Root of A",
        "certificate site root",
        "delivery note 7",
        "revocation list Maker B",
        "boot set generic 3",
    ]


def test_what_the_site_renews_by_itself_does_not_bound_it() -> None:
    found = horizons(known(), NOW)
    assert names(first(found)) == ["boot set generic 2", "secret token", "revocation list Maker A"]
    alone = {one.name for one in found if one.renewed.is_alone}
    assert alone == {"pos-01", "server", "answer", "boot", "box CA", "generic 3", "7"}
    assert len(first(found)) == FIRST


def test_the_line_names_the_first_that_somebody_must_renew() -> None:
    said = sentence(horizons(known(), NOW), NOW)
    assert said == (
        "This site runs on its own until 2026-11-20 11:06Z, for 2 d: then boot set generic 2 ends."
    )
    quiet = known(keys=None, sets=(), lists=(), makers=(), root_ends=NOW + 30 * DAY)
    assert "then certificate site root ends" in sentence(horizons(quiet, NOW), NOW)
    assert sentence((), NOW) == "Nothing here ends that somebody must renew."


def test_switched_on_time_and_starts_are_not_sold_as_days() -> None:
    only = known(keys=status(ends=[]), sets=(), lists=())
    found = horizons(only, NOW)
    assert sentence(found, NOW) == (
        "This site runs on its own until 2026-11-28 11:06Z, for 10 d of being switched on and "
        "2 starts more: then lease 4 ends."
    )
    lease = next(one for one in found if one.kind == "lease")
    assert (lease.powered, lease.starts) == (True, 2)
    assert "the one after closes the cache" in lease.then
    assert [one for one in found if one.powered] == [lease]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"lease": {"closed": {"code": "LEASE-ENDED", "sentence": "x"}, "left": None}},
            "lease of the cache has ended",
        ),
        (
            {
                "ends": [
                    {"name": "old", "tier": "site", "reason": "SECRET-EXPIRED", "since": NOW - 1}
                ]
            },
            "secret old has ended",
        ),
    ],
)
def test_what_has_ended_is_said(changes: dict[str, Any], said: str) -> None:
    told = sentence(horizons(known(keys=status(**changes)), NOW), NOW)
    assert told.startswith("This site does not run on its own in full")
    assert said in told


def test_without_a_tpm_no_lease_bounds_the_site() -> None:
    assert not any(one.kind == "lease" for one in horizons(known(keys=status(lease=None)), NOW))


def test_a_secret_of_a_boot_says_that_a_restart_ends_it() -> None:
    found = {one.name: one for one in horizons(known(), NOW)}
    assert "next restart" in found["psk"].then
    assert "next restart" not in found["token"].then
    assert found["disk"].renewed is Renewed.HEADQUARTERS
    assert found["token"].renewed is Renewed.OPERATOR
    assert "never" not in found


@given(
    st.lists(st.tuples(st.text(max_size=4), st.floats(0, 1e10)), max_size=6),
    st.lists(st.tuples(st.text(max_size=4), st.none() | st.floats(0, 1e10)), max_size=6),
)
def test_the_order_is_by_end_whatever_there_is(
    boxes: list[tuple[str, float]], lists: list[tuple[str, float | None]]
) -> None:
    found = horizons(known(boxes=boxes, lists=lists), NOW)
    ends = [one.ends for one in found if one.ends is not None]
    assert ends == sorted(ends)
    assert all(one.ends is None for one in found[len(ends) :])
    assert {one.ends for one in first(found)} <= set(ends)


def test_prometheus_reads_each_end() -> None:
    ends = [one.document() for one in horizons(known(), NOW)]
    text = exposition({}, None, ends).decode()
    found = {
        (one.labels["kind"], one.labels["name"], one.labels["renewed"]): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "doorstep_end_timestamp_seconds"
    }
    assert found["lease", "4", "headquarters"] == NOW + 10 * DAY
    assert found["certificate", "server", "here"] == NOW + 60 * DAY
    assert len(found) == sum(one["ends"] is not None for one in ends)
    assert b"doorstep_end" not in exposition({}, None, [])


# at a site


@pytest.fixture(scope="module")
def site() -> Iterator[ControlSite]:
    one = ControlSite()
    try:
        one.start()
        yield one
    finally:
        one.close()


def test_a_running_site_says_until_when_it_runs(site: ControlSite) -> None:
    site.put_secret()
    site.until(lambda: "pos-api-token" in site.doorstep("autonomy").output)
    shown = site.doorstep("autonomy")
    assert shown.exit_code == 0, shown.output
    assert "for 13 d 23 h: then secret pos-api-token ends." in shown.output
    for name in ("site root", "appliance", "answer"):
        assert name in shown.output
    assert "doorstep secret put pos-api-token" in shown.output
    services = site.operator("control", "services")
    assert services["autonomy"]["first"][0]["name"] == "pos-api-token"
    assert shown.output.count("secret") >= 2
    document = json.loads(site.doorstep("autonomy", "--json").output)
    kinds = [one["kind"] for one in document["all"]]
    assert kinds[:2] == ["revocation list", "secret"]  # the first is made again by keys itself


def test_the_page_is_told_the_first_three_alone(site: ControlSite) -> None:
    told = site.courier("page").ask("control", "services", {})["autonomy"]
    assert set(told) == {"sentence", "first"}
    assert len(told["first"]) == FIRST
