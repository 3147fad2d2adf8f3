"""How many events are told one by one."""

from __future__ import annotations

from dhcp_lab import NOW

from netboot.event_rate import BURST, PER_SECOND, EventRate
from netboot.events import Event, EventKind


def acks(count: int, now: float) -> list[Event]:
    return [Event(at=now, kind=EventKind.ACK)] * count


def summaries(events: list[Event] | tuple[Event, ...]) -> list[dict[str, object]]:
    return [dict(event.detail) for event in events if event.kind is EventKind.FLOOD]


def test_a_power_cut_of_a_site_is_told_one_by_one() -> None:
    rate = EventRate()
    assert len(rate.fold(acks(BURST, NOW), NOW)) == BURST
    assert rate.due(NOW + 10) == ()


def test_a_flood_is_told_as_a_number_each_second() -> None:
    rate = EventRate()
    assert len(rate.fold(acks(BURST + 500, NOW), NOW)) == BURST
    assert rate.due(NOW + 0.5) == ()
    told = rate.fold(acks(300, NOW + 1), NOW + 1)
    assert len(told) == PER_SECOND + 1
    assert summaries(told) == [{"kind": "dhcp-ack", "count": 700}]
    assert rate.due(NOW + 5) == ()


def test_one_kind_does_not_hide_another() -> None:
    rate = EventRate()
    rate.fold(acks(BURST + 1, NOW), NOW)
    other = [Event(at=NOW, kind=EventKind.DECLINE)]
    assert rate.fold(other, NOW) == other


def test_a_clock_set_back_hides_nothing() -> None:
    rate = EventRate()
    rate.fold(acks(BURST + 3, NOW), NOW)
    assert summaries(rate.due(NOW - 1000)) == [{"kind": "dhcp-ack", "count": 3}]
    told = rate.fold(acks(5, NOW - 1000), NOW - 1000)
    assert summaries(told) == []
    assert summaries(rate.due(NOW - 998)) == [{"kind": "dhcp-ack", "count": 5}]
