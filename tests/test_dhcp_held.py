"""Replies and packets that wait: what is sent when, and what is given up."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest
from dhcp6_lab import FIRST, NOW, duid_ll, mac, until

from netboot.io.held import BACKLOG, HELD, STALE_SECONDS, Backlog, HeldReplies
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import load_leases6
from netboot.leases import LeaseState
from netboot.leases6 import Lease6, LeaseWrite6


def test_the_oldest_packets_are_taken_first_and_no_more_than_asked_for() -> None:
    backlog = Backlog[int]()
    for number in range(5):
        backlog.add(number, NOW)
    assert backlog.take(3, NOW) == [0, 1, 2]
    assert backlog.take(3, NOW) == [3, 4]
    assert not backlog
    assert backlog.unanswered() == 0


def test_what_waited_too_long_or_came_from_the_future_is_given_up_and_counted() -> None:
    backlog = Backlog[str]()
    backlog.add("old", NOW)
    backlog.add("of a clock that was set back", NOW + 10)
    backlog.add("new", NOW + 1)
    assert backlog.take(9, NOW + STALE_SECONDS) == ["new"]
    assert backlog.unanswered() == 2
    assert backlog.unanswered() == 0


def test_of_a_flood_the_newest_are_kept() -> None:
    backlog = Backlog[int]()
    for number in range(BACKLOG + 3):
        backlog.add(number, NOW)
    assert backlog.take(1, NOW) == [3]
    assert backlog.unanswered() == 3


def lease(number: int, name: str | None = None) -> LeaseWrite6:
    address = IPv6Address(int(FIRST) + number)
    row = Lease6(
        subnet="tills",
        address=address,
        duid=duid_ll(mac(number)),
        iaid=1,
        mac=None,
        uuid=None,
        state=LeaseState.BOUND,
        expires=NOW,
        name=name,
    )
    return LeaseWrite6(address=address, lease=row)


class Desk:
    """Held replies with what was sent of them, and how often names may have changed."""

    def __init__(self, store: NetbootStore) -> None:
        self.sent: list[str] = []
        self.renamed = 0
        self.held = HeldReplies[str](store, self.sent.append, self._rename)

    def _rename(self) -> None:
        self.renamed += 1

    def woken(self) -> None:
        """Wait until the writer has said something, as a runner's selector does."""
        self.held.woken.setblocking(True)
        self.held.woken.settimeout(20)
        self.held.woken.recv(4096)


@pytest.fixture
def store(tmp_path: Path) -> NetbootStore:
    return NetbootStore(tmp_path / "netboot.db")


def test_a_reply_leaves_when_its_lease_is_on_the_disk_and_in_the_thread_that_sends(
    store: NetbootStore,
) -> None:
    desk = Desk(store)
    desk.held.submit([lease(1)], (), (), ["one"])
    desk.woken()
    assert desk.sent == []
    assert [row.address for row in load_leases6(store)] == [lease(1).address]
    desk.held.send()
    assert (desk.sent, desk.renamed) == (["one"], 0)
    desk.held.submit([lease(2, "till-2")], (), (), ["two"])
    desk.woken()
    desk.held.send()
    assert (desk.sent, desk.renamed) == (["one", "two"], 1)
    desk.held.close()
    store.close()


def test_what_the_disk_refused_is_never_sent_and_written_when_it_works(
    store: NetbootStore,
) -> None:
    desk = Desk(store)
    store._db.execute("PRAGMA query_only = ON")
    desk.held.submit([lease(1)], (), (), ["refused"])
    desk.woken()
    desk.held.send()
    assert desk.sent == []
    assert store.trouble is not None
    store._db.execute("PRAGMA query_only = OFF")
    until(lambda: store.trouble is None)
    assert [row.address for row in load_leases6(store)] == [lease(1).address]
    desk.held.send()
    assert desk.sent == []
    desk.held.close()
    store.close()


def test_when_the_disk_is_far_behind_clients_are_left_to_ask_again(store: NetbootStore) -> None:
    desk = Desk(store)
    with store._lock:  # no commit can end
        desk.held.submit([], (), (), ["x"] * HELD)
        desk.held.submit([lease(1)], (), (), ["too many"])
    until(lambda: load_leases6(store) != ())
    desk.woken()
    desk.held.send()
    until(lambda: desk.held._waiting == 0 or desk.held.send())
    assert len(desk.sent) == HELD
    assert "too many" not in desk.sent
    desk.held.close()
    store.close()
