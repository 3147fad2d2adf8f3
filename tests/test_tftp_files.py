"""Names of boot files and the serve record: what is told, once a minute, and bounded."""

from ipaddress import IPv4Address

from netboot.files import MAX_QUIET, QUIET_SECONDS, Entry, Missing, ServeRecord, Transport

BOX = IPv4Address("10.41.7.100")
OTHER = IPv4Address("10.41.7.101")
ENTRY = Entry(path="/vmlinuz", sha256=bytes(32))


def refused(record: ServeRecord, name: str, now: float, box: IPv4Address = BOX) -> int:
    return len(record.refused(Transport.TFTP, box, name, Missing.NOT_FOUND, now))


def test_the_same_refusal_is_told_once_a_minute_for_each_client() -> None:
    record = ServeRecord()
    assert refused(record, "x", 0.0) == 1
    assert refused(record, "x", 1.0) == 0
    assert refused(record, "y", 1.0) == 1
    assert refused(record, "x", 1.0, OTHER) == 1
    assert refused(record, "x", QUIET_SECONDS + 1.0) == 1


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    record = ServeRecord()
    assert refused(record, "x", 1000.0) == 1
    assert refused(record, "x", 0.0) == 1


def test_what_is_remembered_is_bounded() -> None:
    record = ServeRecord()
    told = [refused(record, f"{number}", 0.0) for number in range(MAX_QUIET + 1)]
    assert sum(told) == MAX_QUIET + 1
    assert refused(record, "0", 0.0) == 1


def test_whole_files_are_told_each_time_and_pieces_once_a_minute() -> None:
    record = ServeRecord()

    def end(sent: int, now: float) -> int:
        return len(record.end(Transport.HTTP, BOX, ENTRY, 100, now, sent=sent))

    assert [end(100, 0.0), end(100, 0.0), end(10, 0.0), end(20, 1.0)] == [1, 1, 1, 0]
    assert end(10, QUIET_SECONDS + 1) == 1


def test_a_name_that_a_client_made_up_is_told_in_plain_ascii_and_short() -> None:
    record = ServeRecord()
    (event,) = record.refused(Transport.TFTP, BOX, "\xff\n" * 900, Missing.FORBIDDEN, 0.0)
    name = dict(event.detail)["name"]
    assert str(name).isascii()
    assert len(str(name)) < 3000
    assert event.reason == "FORBIDDEN"
