"""TFTP rules T1 to T21 against the engine: bytes and a number for the time, no socket."""

import pytest
from tftp_lab import (
    BOX,
    BOX6,
    DIGESTS,
    SMALL,
    STORE,
    US,
    US6,
    ack,
    answer,
    code_of,
    details,
    engine,
    error,
    fetch,
    numbers,
    options_of,
    packets,
    rrq,
)

from netboot.files import FileMap
from netboot.tftp import MAX_NETASCII, Outcome, TftpEngine
from netboot.tftp_message import ErrorCode
from netboot.tftp_transfer import BytesContent


def test_t1_size_probe_ends_at_once_without_an_event_and_the_next_request_is_served() -> None:
    server = engine()
    outcome = server.receive(rrq("shimx64.efi", ("tsize", 0)), BOX, US, 0.0)
    assert options_of(outcome) == [("tsize", "1280")]
    ended = server.receive_on(outcome.sends[0].transfer, error(8), BOX, 0.1)
    assert ended.closed == (0,)
    assert ended.events == ()
    assert len(server) == 0
    assert fetch(server, rrq("shimx64.efi")) == SMALL


def test_t2_no_option_that_was_not_asked() -> None:
    outcome = engine().receive(rrq("shimx64.efi"), BOX, US, 0.0)
    assert outcome.sends[0].data[:4] == b"\0\3\0\1"
    assert options_of(engine().receive(rrq("exact", ("blksize", 1024)), BOX, US, 0.0)) == [
        ("blksize", "1024")
    ]
    unknown = engine().receive(rrq("exact", ("colour", 7)), BOX, US, 0.0)
    assert unknown.sends[0].data[:2] == b"\0\3"


@pytest.mark.parametrize("order", [("tsize", "blksize"), ("blksize", "tsize")])
def test_t3_options_in_the_order_of_the_request(order) -> None:
    outcome = engine().receive(rrq("exact", *((name, 512) for name in order)), BOX, US, 0.0)
    assert tuple(name for name, _ in options_of(outcome)) == order


def test_t4_names_and_mode_are_case_blind_and_the_first_of_two_counts() -> None:
    request = rrq("exact", ("BlkSize", 600), ("BLKSIZE", 700), mode="OcTeT")
    assert options_of(engine().receive(request, BOX, US, 0.0)) == [("BlkSize", "600")]


@pytest.mark.parametrize("value", ["0", "7", "abc", "-5", "", "5 ", "٣", "9" * 30])
def test_t5_a_senseless_blksize_is_ignored(value) -> None:
    outcome = engine().receive(rrq("shimx64.efi", ("blksize", value)), BOX, US, 0.0)
    assert outcome.sends[0].data[:2] == b"\0\3"
    assert len(outcome.sends[0].data) == 516


def test_t5_and_t6_blksize_is_clamped() -> None:
    request = rrq("shimx64.efi", ("blksize", 65500))
    assert options_of(engine(70000).receive(request, BOX, US, 0.0)) == [("blksize", "65464")]
    assert options_of(engine(1500).receive(request, BOX, US, 0.0)) == [("blksize", "1468")]
    files = FileMap(DIGESTS)
    six = TftpEngine(files, lambda entry: BytesContent(STORE[entry.path]), 1500)
    outcome = six.receive(request, BOX6, US6, 0.0)
    assert options_of(outcome) == [("blksize", "1452")]


@pytest.mark.parametrize(("asked", "window"), [(1, 1), (4, 4), (64, 64), (65535, 64)])
def test_t7_windows(asked, window) -> None:
    request = rrq("large", ("windowsize", asked), ("blksize", 1468))
    outcome = engine().receive(request, BOX, US, 0.0)
    assert options_of(outcome)[0] == ("windowsize", str(window))
    server = engine()
    assert len(fetch(server, request, window=window)) == 40 << 20
    ignored = engine().receive(rrq("exact", ("windowsize", 0)), BOX, US, 0.0)
    assert ignored.sends[0].data[:2] == b"\0\3"


def test_t8_block_numbers_wrap_to_zero() -> None:
    assert len(fetch(engine(), rrq("large"))) == 40 << 20


def test_t9_an_exact_multiple_ends_with_an_empty_block() -> None:
    server = engine()
    number = server.receive(rrq("exact"), BOX, US, 0.0).sends[0].transfer
    server.receive_on(number, ack(1), BOX, 0.0)
    outcome = server.receive_on(number, ack(2), BOX, 0.0)
    assert outcome.sends[0].data == b"\0\3\0\3"
    assert fetch(engine(), rrq("empty")) == b""


def test_t10_a_lost_last_ack_counts_as_sent() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 0.0).sends[0].transfer
    server.receive_on(number, ack(1), BOX, 0.0)
    server.receive_on(number, ack(2), BOX, 0.0)
    ended = [server.tick(float(second)) for second in range(40)]
    (detail,) = [one for outcome in ended for one in details(outcome)]
    assert detail["done"] is True
    assert detail["sent"] == 1280
    assert len(server) == 0


def test_a_client_that_never_answered_was_sent_nothing() -> None:
    server = engine()
    server.receive(rrq("grub/grub.cfg"), BOX, US, 0.0)
    (detail,) = [one for second in range(40) for one in details(server.tick(float(second)))]
    assert (detail["done"], detail["sent"]) == (False, 0)


def test_an_abort_in_the_last_block_is_no_success() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 0.0).sends[0].transfer
    server.receive_on(number, ack(1), BOX, 0.0)
    server.receive_on(number, ack(2), BOX, 0.0)
    (detail,) = details(server.receive_on(number, error(3), BOX, 0.0))
    assert (detail["done"], detail["sent"]) == (False, 1024)


def test_t11_a_duplicate_ack_does_not_double_the_flow() -> None:
    server = engine()
    number = server.receive(rrq("large"), BOX, US, 0.0).sends[0].transfer
    sent = packets(answer(server, number, ack(1)))
    for block in (1, 0) * 5:
        sent += packets(answer(server, number, ack(block)))
    assert numbers(sent) == [2]
    sent = packets(answer(server, number, ack(2)))
    for block in (2, 1, 0) * 5:
        sent += packets(answer(server, number, ack(block)))
    assert numbers(sent) == [3]
    assert packets(answer(server, number, ack(9))) == []


def windowed(window: int = 4) -> TftpEngine:
    """Give a server that has sent the first window of transfer 0 to BOX."""
    server = engine()
    server.receive(rrq("large", ("windowsize", window)), BOX, US, 0.0)
    assert numbers(packets(answer(server, 0, ack(0)))) == list(range(1, window + 1))
    return server


def sent(server: TftpEngine, number: int, now: float = 0.0) -> list[int]:
    return numbers(packets(answer(server, 0, ack(number), now=now)))


def test_t7_t11_a_lost_first_block_of_a_window_is_sent_again_once() -> None:
    server = windowed()
    assert sent(server, 0) == [1, 2, 3, 4]
    assert sent(server, 0) == []
    assert sent(server, 4) == [5, 6, 7, 8]
    assert sent(server, 4) == [5, 6, 7, 8]
    assert sent(server, 4) == []


def test_t7_t11_a_block_lost_inside_a_window_is_sent_again_once_with_what_follows() -> None:
    server = windowed()
    assert sent(server, 2) == [3, 4, 5, 6]
    # each later block of the broken window makes a client repeat itself
    assert [sent(server, 2) for _ in range(3)] == [[], [], []]
    assert sent(server, 6) == [7, 8, 9, 10]


def test_t7_an_ack_of_an_older_window_or_of_what_was_not_sent_changes_nothing() -> None:
    server = windowed()
    assert sent(server, 4) == [5, 6, 7, 8]
    assert [sent(server, number) for number in (3, 1, 0, 9, 40000)] == [[]] * 5
    assert sent(server, 8) == [9, 10, 11, 12]


def test_t7_silence_repeats_the_window_from_the_last_acknowledged_block() -> None:
    server = windowed()
    assert sent(server, 3) == [4, 5, 6, 7]
    assert numbers(packets(server.tick(1.0))) == [4, 5, 6, 7]
    assert sent(server, 7, 1.1) == [8, 9, 10, 11]
    assert numbers(packets(server.tick(2.1))) == [8, 9, 10, 11]


def test_t7_a_window_that_no_buffer_holds_is_made_smaller() -> None:
    request = rrq("large", ("windowsize", 64), ("blksize", 65464))
    outcome = engine(65536).receive(request, BOX, US, 0.0)
    assert options_of(outcome) == [("windowsize", "2"), ("blksize", "65464")]
    assert len(fetch(engine(65536), request, window=2)) == 40 << 20


def test_t7_t8_windows_wrap_too() -> None:
    request = rrq("large", ("windowsize", 7))
    assert len(fetch(engine(), request, window=7)) == 40 << 20


def test_t12_another_tid_gets_error_5_and_the_transfer_goes_on() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 0.0).sends[0].transfer
    stranger = (BOX[0], 9999)
    outcome = server.receive_on(number, ack(1), stranger, 0.0)
    assert code_of(outcome) == ErrorCode.UNKNOWN_TID
    assert outcome.sends[0].peer == stranger
    assert server.receive_on(number, error(0), stranger, 0.0) == Outcome()
    assert server.receive_on(number, ack(1), BOX, 0.0).sends[0].data[:4] == b"\0\3\0\2"


def test_t13_netascii_translates_and_tells_no_size() -> None:
    request = rrq("text", ("tsize", 0), mode="netascii")
    assert fetch(engine(), request) == b"one\r\ntwo\r\0\r\n"
    assert engine().receive(request, BOX, US, 0.0).sends[0].data[:2] == b"\0\3"
    assert len(STORE["/large"]) > MAX_NETASCII
    refused = engine().receive(rrq("large", mode="netascii"), BOX, US, 0.0)
    assert code_of(refused) == ErrorCode.UNDEFINED


@pytest.mark.parametrize("mode", ["mail", "binary", "", "octet2"])
def test_t14_other_modes_get_error_4_once(mode) -> None:
    server = engine()
    assert code_of(server.receive(rrq("text", mode=mode), BOX, US, 0.0)) == ErrorCode.ILLEGAL
    assert len(server) == 0
    assert server.tick(5.0) == Outcome()


@pytest.mark.parametrize("data", [error(8), ack(0), ack(7), b"\0\3\0\1data", b"\0\6a\0b\0"])
def test_t15_strays_at_port_69_get_no_answer(data) -> None:
    assert engine().receive(data, BOX, US, 0.0) == Outcome()


@pytest.mark.parametrize(
    "name",
    [
        "\\grub\\grub.cfg",
        "//grub//grub.cfg",
        "C:\\grub\\grub.cfg",
        "./grub/./grub.cfg",
        "/grub/grub.cfg",
        b"grub/grub.cfg\xff",
    ],
)
def test_t16_and_t18_tolerated_names(name) -> None:
    assert fetch(engine(), rrq(name)) == b"boot\n"


@pytest.mark.parametrize(
    "name",
    ["../etc/passwd", "/grub/../../x", "..\\x", "a/..", b"\x01", "/", "http://10.0.0.1/\x7f"],
)
def test_t16_names_that_lead_out_get_one_constant_text(name) -> None:
    outcome = engine().receive(rrq(name), BOX, US, 0.0)
    assert code_of(outcome) == ErrorCode.ACCESS
    assert outcome.sends[0].data[4:] == b"this name is not allowed\0"
    assert outcome.events[0].reason == "FORBIDDEN"


def test_t17_case_blind_only_where_unique() -> None:
    assert fetch(engine(), rrq("PXELINUX.CFG/DEFAULT")) == b"x"
    assert fetch(engine(), rrq("Twin")) == b"1"
    outcome = engine().receive(rrq("TWIN"), BOX, US, 0.0)
    assert code_of(outcome) == ErrorCode.NOT_FOUND


def test_t19_missing_and_directories_are_error_1_at_once_for_a_whole_walk() -> None:
    server = engine()
    names = ["grub", "grub/", *(f"pxelinux.cfg/{'0A2907'[:size]}" for size in range(1, 7))]
    for port, name in enumerate(names):
        peer = (BOX[0], 3000 + port)
        assert code_of(server.receive(rrq(name), peer, US, 0.0)) == ErrorCode.NOT_FOUND
    assert len(server) == 0


def test_t20_write_requests_are_refused() -> None:
    wrq = b"\0\2" + rrq("x")[2:]
    assert code_of(engine().receive(wrq, BOX, US, 0.0)) == ErrorCode.ACCESS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\1",
        b"\0\1",
        b"\0\1\0",
        b"\0\1name",
        b"\0\1name\0",
        b"\0\1name\0octet",
        b"\0\1\0octet\0",
        b"\0\1name\0octet\0blksize\0",
        b"\0\1" + b"n" * 600 + b"\0octet\0",
        b"\0\7name\0octet\0",
        b"\1\0name\0octet\0",
    ],
)
def test_t21_malformed_packets_get_nothing_or_error_4(data) -> None:
    server = engine()
    outcome = server.receive(data, BOX, US, 0.0)
    assert not outcome.sends or code_of(outcome) == ErrorCode.ILLEGAL
    assert len(server) == 0


def test_t13_netascii_is_translated_once_for_all_who_read_it() -> None:
    reads = []

    class Counted(BytesContent):
        def read(self, offset: int, length: int) -> bytes:
            reads.append(length)
            return super().read(offset, length)

    server = TftpEngine(FileMap(DIGESTS), lambda entry: Counted(b"a\n" * 9999), 1500)
    for port in range(100):
        server.receive(rrq("text", mode="netascii"), (BOX[0], 5000 + port), US, 0.0)
    assert len(server) == 100
    assert reads == [2 * 9999]


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\4", b"\0\4\0", b"\0\3\0\1"])
def test_shreds_on_a_transfer_are_ignored(data: bytes) -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 0.0).sends[0].transfer
    assert server.receive_on(number, data, BOX, 0.0) == Outcome()
    assert len(server) == 1


def test_data_flows_only_after_the_oack_was_acknowledged() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi", ("blksize", 512)), BOX, US, 0.0).sends[0].transfer
    assert server.receive_on(number, ack(1), BOX, 0.0) == Outcome()
    assert server.receive_on(number, ack(0), BOX, 0.0).sends[0].data[:4] == b"\0\3\0\1"
