"""The audit's anchor in a TPM: what was cut off, changed or put back shows; a power cut not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cache_lab import NOW, Controller

from keys.io.auditing import ANCHOR_SECONDS, NO_ANCHOR, Auditing
from keys.io.ring import FileRing
from keys.io.store import Anchor, Event, Store


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    one = Controller(tmp_path)
    yield one
    one.close()


@contextmanager
def started(controller: Controller, now: float = NOW) -> Iterator[tuple[Store, Auditing]]:
    with controller.started() as (store, ring, _):
        auditing = Auditing(store, ring)
        auditing.begin(now)
        yield store, auditing


def write(store: Store, count: int = 1) -> None:
    for number in range(count):
        with store.transaction():
            store.record(NOW, "operator", Event(kind="test", detail={"number": number}))


def problems(auditing: Auditing) -> str:
    return "; ".join(auditing.check().problems)


def change(controller: Controller, statement: str) -> None:
    """Do to the database what somebody with its file can do."""
    store = Store(controller.layout.state / "keys/keys.db")
    with store.transaction():
        store._db.execute(statement)
    store.close()


def test_an_audit_that_nobody_touched_holds(controller: Controller) -> None:
    for start in range(3):
        with started(controller) as (store, auditing):
            write(store, 3)
            auditing.anchor(NOW, at_once=True)
            found = auditing.check()
            assert (found.problems, found.notes) == ((), ())
            assert found.entries == found.anchored == 1 + 4 * start + 3
            write(store)
            found = auditing.check()
            assert found.problems == ()
            assert found.notes == ("the last 1 entries are not anchored yet",)


def test_the_last_entries_with_their_anchor_are_missed(controller: Controller) -> None:
    """The file alone, without the TPM's word, would look whole."""
    with started(controller) as (store, auditing):
        for _ in range(3):
            write(store)
            auditing.anchor(NOW, at_once=True)
        last = store.audit_head()[0]
        change(controller, f"DELETE FROM audit WHERE n>={last - 1}")
        change(controller, f"DELETE FROM anchors WHERE number>={last - 1}")
        assert "does not end where its TPM says" in problems(auditing)


def test_anchors_come_once_a_minute_or_at_once(controller: Controller) -> None:
    with started(controller) as (store, auditing):
        before = len(store.anchors())
        write(store)
        auditing.anchor(NOW + 1)
        assert len(store.anchors()) == before
        auditing.anchor(NOW + 2, at_once=True)
        assert len(store.anchors()) == before + 1
        auditing.anchor(NOW + 10 * ANCHOR_SECONDS)  # nothing new
        assert len(store.anchors()) == before + 1
        write(store)
        auditing.anchor(NOW + 11 * ANCHOR_SECONDS)
        assert len(store.anchors()) == before + 2
        write(store)
        auditing.anchor(NOW - 100 * ANCHOR_SECONDS)  # a clock set back stops nothing
        assert len(store.anchors()) == before + 3


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM audit WHERE n>3", "is missing or is not the one that was anchored"),
        ("UPDATE audit SET entry=replace(entry,'test','rest') WHERE n=2", "entry 2 was changed"),
        ("UPDATE audit SET n=-n WHERE n=2", "entry 1 was changed"),
        ("UPDATE anchors SET value=zeroblob(32) WHERE i=2", "was changed"),
        ("DELETE FROM anchors", "does not end where its TPM says"),
    ],
)
def test_what_was_done_to_the_file_is_found(
    controller: Controller, statement: str, said: str
) -> None:
    """Threat 40."""
    with started(controller) as (store, auditing):
        for _ in range(4):
            write(store, 2)
            auditing.anchor(NOW, at_once=True)
        change(controller, statement)
        assert said in problems(auditing)
        assert bool(problems(auditing))


def test_a_restored_copy_is_found_and_stays_found(controller: Controller) -> None:
    """Threats 17, 38 and 40: the database of before, whole in itself."""
    with started(controller) as (store, auditing):
        write(store, 3)
        auditing.anchor(NOW, at_once=True)
    copy = controller.directory / "copy"
    shutil.copytree(controller.layout.state, copy)
    with started(controller) as (store, auditing):
        write(store, 3)
        auditing.anchor(NOW, at_once=True)
    shutil.rmtree(controller.layout.state)
    shutil.copytree(copy, controller.layout.state)
    for _ in range(2):
        with started(controller) as (store, auditing):
            write(store)
            auditing.anchor(NOW, at_once=True)
            assert "a copy was restored" in problems(auditing)
            kinds = [event["kind"] for event in store.events(0, 100)]
            assert kinds.count("audit-broken") == 1


def test_a_cut_between_disk_and_tpm_is_no_break(controller: Controller) -> None:
    with started(controller) as (store, auditing):
        write(store)
        number, head = store.audit_head()
        value = hashlib.sha256(store.anchors()[-1].value + head).digest()
        with store.transaction():  # and then the power goes
            store.add_anchor(Anchor(number=number, head=head, value=value))
    with started(controller) as (store, auditing):
        assert auditing.check().problems == ()
        write(store)
        auditing.anchor(NOW, at_once=True)
        assert auditing.check().problems == ()


def test_without_a_tpm_the_audit_says_what_it_cannot_tell(controller: Controller) -> None:
    store = Store(controller.layout.state / "keys/keys.db")
    auditing = Auditing(store, FileRing(controller.layout, is_new=True))
    auditing.begin(NOW)
    write(store, 3)
    auditing.anchor(NOW, at_once=True)
    found = auditing.check()
    assert (found.entries, found.anchored, found.problems) == (3, 0, ())
    assert found.notes == (NO_ANCHOR,)
    store.close()
