"""What other services tell is read whole or not at all; nonsense is theirs, never control's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.enrolment import Stage
from bootstrap.errors import PeerError
from bootstrap.io.collector import FORGET_SECONDS, Collector, read_events
from bootstrap.io.site_store import SiteStore
from bootstrap.rows import Event

GOOD = {"n": 4, "at": 1.5, "kind": "dhcp-ack", "mac": "m", "detail": {"a": 1}}


def told(*raws: object, last: object = 9) -> dict:
    return {"events": list(raws), "last": last}


def test_events_are_read() -> None:
    (event,), last = read_events(told(GOOD), 3)
    assert (event.kind, event.mac, event.box, event.at, last) == ("dhcp-ack", "m", None, 1.5, 9)
    assert read_events(told(), 3) == ([], 9)


@pytest.mark.parametrize(
    "changes",
    [{"n": 5}, {"n": "4"}, {"n": None}, {"at": "soon"}, {"at": float("nan")}, {"at": -1}]
    + [{"at": 1e300}, {"mac": 5}, {"box": []}, {"detail": 5}, {"detail": {"x": float("inf")}}],
)
def test_nonsense(changes: dict) -> None:
    with pytest.raises(PeerError):
        read_events(told(GOOD | changes), 3)


def test_a_gap_is_nonsense() -> None:
    with pytest.raises(PeerError, match="gaps"):
        read_events(told(GOOD, GOOD | {"n": 6}), 3)


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["events", "last", "n", "at", "kind", "detail"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_answer_is_read_or_refused(answer: object) -> None:
    try:
        read_events(json.loads(json.dumps(answer)), 0)
    except PeerError as error:
        assert "events" in str(error)


@pytest.fixture
def store(tmp_path: Path) -> SiteStore:
    return SiteStore(tmp_path / "site.db")


def hear(store: SiteStore, *events: Event) -> None:
    collector = Collector(store, {})
    for event in events:
        collector._keep(event)


def event(at: float, kind: str, **fields: object) -> Event:
    return Event(**({"at": at, "kind": kind, "mac": "m", "detail": {}} | fields))


BOOTS = {"vendor_class": "PXEClient:Arch:00007"}


def test_only_what_asks_to_boot_becomes_a_card(store: SiteStore) -> None:
    hear(store, event(1.0, "dhcp-discover", detail={"vendor_class": "printer"}))
    assert store.sightings() == []
    hear(store, event(2.0, "boot-file"))
    assert store.sightings() == []
    hear(store, event(3.0, "dhcp-discover", detail=BOOTS))
    assert [one.stage for one in store.sightings()] == [Stage.HEARD]
    assert store.last_event() == 3


def test_the_way_of_one_boot(store: SiteStore) -> None:
    hear(
        store,
        event(1.0, "dhcp-discover", detail=BOOTS),
        event(2.0, "dhcp-ack", address="10.41.7.100"),
        event(3.0, "boot-file", mac=None, address="10.41.7.100"),
        event(4.0, "other"),
    )
    (seen,) = store.sightings()
    assert (seen.stage, seen.since, seen.address) == (Stage.BOOTING, 3.0, "10.41.7.100")


def test_after_a_day_a_new_life_begins(store: SiteStore) -> None:
    hear(store, event(1.0, "dhcp-discover", detail=BOOTS, address="10.41.7.100"))
    late = 2.0 + FORGET_SECONDS
    hear(store, event(late, "dhcp-discover", detail=BOOTS))
    assert [(one.first, one.address) for one in store.sightings()] == [(late, None)]
