"""The threads that push answers: each once, all before the loop goes on, none is lost quietly."""

import threading
from collections.abc import Iterator

import pytest

from netboot.io.senders import Senders


class Work:
    """Counts how often and by whom it is pushed."""

    def __init__(self) -> None:
        self.pushed_by: list[int] = []

    def push(self) -> None:
        self.pushed_by.append(threading.get_ident())


class Meeting(Work):
    """Is pushed when all who take part in the meeting are being pushed."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self._barrier = barrier

    def push(self) -> None:
        self._barrier.wait(10)
        super().push()


class Fault(Work):
    """Has a fault of ours, which the loop must not survive."""

    def push(self) -> None:
        raise ZeroDivisionError


@pytest.fixture
def senders() -> Iterator[Senders]:
    made = Senders(threads=2)
    yield made
    made.close()


def test_each_is_pushed_once_before_the_loop_goes_on(senders: Senders) -> None:
    for count in (0, 1, 2, 3, 50):
        work = [Work() for _ in range(count)]
        for turn in range(1, 20):
            senders.push(work)
            assert [len(one.pushed_by) for one in work] == [turn] * count


def test_two_are_pushed_at_the_same_time_and_one_by_the_loop_itself(senders: Senders) -> None:
    barrier = threading.Barrier(2)
    work = [Meeting(barrier), Meeting(barrier)]
    senders.push(work)
    assert len({thread for one in work for thread in one.pushed_by}) == 2
    alone = Work()
    senders.push([alone])
    assert alone.pushed_by == [threading.get_ident()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_another_thread_ends_the_loop_too(senders: Senders) -> None:
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        senders.push([Fault(), Fault()])


def test_no_thread_is_left_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    made = Senders(threads=3)
    made.push([Work() for _ in range(3)])
    assert len(set(threading.enumerate()) - before) == 2
    made.close()
    assert set(threading.enumerate()) == before
