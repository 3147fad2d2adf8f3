"""What the TFTP engine remembers, tells and survives: T22, floods, failing disks, bad networks."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

from netboot.errors import PeerError, SiteError
from netboot.files import Assignments, Entry, FileMap, ServedSet, normal_path
from netboot.tftp import MAX_TRANSFERS, MAX_TRANSFERS_EACH, STALLED_SECONDS, Outcome, TftpEngine
from netboot.tftp_message import (
    ErrorCode,
    Mode,
    accept_options,
    decode_ack,
    decode_request,
    encode_oack,
)
from netboot.tftp_transfer import GIVE_UP_SECONDS, BytesContent


def test_t22_repeats_after_1_2_4_seconds_and_gives_up_after_30() -> None:
    server = engine()
    server.receive(rrq("shimx64.efi"), BOX, US, 0.0)
    sent = []
    for tenth in range(400):
        outcome = server.tick(tenth / 10)
        sent += [tenth / 10 for _ in outcome.sends]
        if outcome.closed:
            assert tenth / 10 == GIVE_UP_SECONDS
            break
    assert sent == [1.0, 3.0, 7.0, 15.0]
    assert server.deadline() is None


def test_t22_a_timeout_option_sets_the_first_pause() -> None:
    server = engine()
    outcome = server.receive(rrq("exact", ("timeout", 4)), BOX, US, 0.0)
    assert options_of(outcome) == [("timeout", "4")]
    assert server.deadline() == 4.0
    silent = engine().receive(rrq("exact", ("timeout", 200)), BOX, US, 0.0)
    assert silent.sends[0].data[:2] == b"\0\3"


def dead(server: TftpEngine, count: int, address: str | None = None, now: float = 0.0) -> list[int]:
    """Ask from so many ports or addresses and never answer; return the transfers that ended."""
    closed = []
    for number in range(count):
        peer = (address or f"10.{42 + number // 65000}.{number % 250}.9", 5000 + number % 60000)
        closed += server.receive(rrq("large", ("tsize", 0)), peer, US, now).closed
    return closed


def test_t22_dead_clients_leave_nothing_and_are_bounded() -> None:
    server = engine()
    closed = dead(server, 10_000)
    assert len(server) == MAX_TRANSFERS
    assert len(closed) == 10_000 - MAX_TRANSFERS
    assert fetch(server, rrq("shimx64.efi")) == SMALL
    for second in range(45):
        closed += server.tick(float(second)).closed
    assert len(closed) == len(set(closed)) == 9_999  # the one that was served took a place
    assert len(server) == 0
    assert server.deadline() is None


def test_t22_ten_thousand_dead_clients_do_not_end_one_that_answers() -> None:
    server = engine()
    number = server.receive(rrq("large"), BOX, US, 0.0).sends[0].transfer
    answer(server, number, ack(1))
    assert number not in dead(server, 10_000)
    assert number not in dead(server, 10_000, address=BOX[0])
    assert numbers(packets(answer(server, number, ack(2)))) == [3]


def test_one_client_address_cannot_take_all_places_nor_lock_itself_out() -> None:
    server = engine()
    dead(server, 1000, address=BOX[0])
    assert len(server) == MAX_TRANSFERS_EACH
    assert fetch(server, rrq("shimx64.efi"), peer=("10.41.7.101", 1)) == SMALL
    assert fetch(server, rrq("shimx64.efi")) == SMALL


def test_when_all_places_are_in_use_the_one_that_stalled_longest_gives_way() -> None:
    server = engine()
    for number in range(MAX_TRANSFERS):
        peer = (f"10.42.{number % 250}.9", 5000 + number)
        server.receive(rrq("large"), peer, US, 0.0)
        answer(server, number, ack(1), peer, 0.001 * number)
    assert server.receive(rrq("shimx64.efi"), BOX, US, STALLED_SECONDS - 0.1) == Outcome()
    outcome = server.receive(rrq("shimx64.efi"), BOX, US, STALLED_SECONDS)
    assert outcome.closed == (0,)
    assert [dict(event.detail)["sent"] for event in outcome.events] == [512]
    assert packets(outcome)[0][:4] == b"\0\3\0\1"


def test_t22_a_client_that_goes_on_is_never_repeated_to_and_one_that_stops_is() -> None:
    server = engine()
    number = server.receive(rrq("large"), BOX, US, 0.0).sends[0].transfer
    for tenth in range(1, 100):
        assert numbers(packets(answer(server, number, ack(tenth), now=tenth / 10))) == [tenth + 1]
        assert server.tick(tenth / 10) == Outcome()
    assert packets(server.tick(10.85)) == []
    assert numbers(packets(server.tick(10.9))) == [100]
    assert numbers(packets(server.tick(12.9))) == [100]
    # whoever comes back after longer and longer pauses waits a second again, not four
    assert numbers(packets(answer(server, number, ack(100), now=13.0))) == [101]
    assert numbers(packets(server.tick(14.0))) == [101]


@pytest.mark.parametrize("begin", [0.1, 1.1, 1 / 3, 12345.678, 8.1e5 + 0.7])
def test_t22_giving_up_does_not_hang_on_how_the_clock_is_rounded(begin) -> None:
    server = engine()
    server.receive(rrq("shimx64.efi"), BOX, US, begin)
    while (due := server.deadline()) is not None:
        outcome = server.tick(due)
        assert outcome.sends or outcome.closed
    assert due is None
    assert outcome.closed == (0,)


def test_a_usual_client_costs_few_timers() -> None:
    server = engine()
    for round_ in range(50):
        for port in range(100):
            fetch(server, rrq("shimx64.efi"), peer=(BOX[0], 3000 + port), now=round_ / 100)
    assert len(server) == 0
    assert server.tick(0.5) == Outcome()
    assert server.tick(2.0) == Outcome()
    assert server.deadline() is None


def test_a_request_that_comes_twice_is_one_transfer_and_a_new_one_replaces_it() -> None:
    server = engine()
    first = server.receive(rrq("shimx64.efi"), BOX, US, 0.0)
    assert server.receive(rrq("shimx64.efi"), BOX, US, 0.5) == first
    server.receive_on(0, ack(1), BOX, 0.6)
    other = server.receive(rrq("shimx64.efi"), BOX, US, 0.7)
    assert other.closed == (0,)
    assert other.sends[0].transfer == 1
    assert len(server) == 1


def test_start_and_end_are_told_with_size_and_bytes() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 5.0).sends[0].transfer
    (start,) = details(server.receive_on(number, ack(1), BOX, 5.0))
    server.receive_on(number, ack(2), BOX, 5.0)
    ended = server.receive_on(number, ack(3), BOX, 6.0)
    (end,) = details(ended)
    assert (start["phase"], start["name"], start["size"]) == ("start", "/shimx64.efi", 1280)
    assert (end["phase"], end["sent"], end["done"]) == ("end", 1280, True)
    assert ended.events[0].address == IPv4Address(BOX[0])
    assert ended.events[0].at == 6.0


def test_a_large_file_under_way_is_told_of_every_two_seconds() -> None:
    server = engine()
    number = server.receive(rrq("large"), BOX, US, 0.0).sends[0].transfer
    told = []
    for block in range(1, 100):
        told += details(answer(server, number, ack(block), now=block / 8))
    assert [one["phase"] for one in told] == ["start"] + ["progress"] * 6
    assert [one["sent"] for one in told] == [0, *(512 * (1 + 16 * part) for part in range(1, 7))]


def test_an_ipv6_client_is_served_and_named_by_its_address() -> None:
    server = TftpEngine(FileMap(DIGESTS), lambda entry: BytesContent(STORE[entry.path]), 1500)
    outcome = server.receive(rrq("shimx64.efi"), BOX6, US6, 0.0)
    assert outcome.sends[0].peer == BOX6
    started = server.receive_on(0, ack(1), BOX6, 0.0)
    assert started.events[0].address == IPv6Address("fe80::5054:ff:fe12:3456")


def test_a_fixed_name_means_the_boot_set_that_dhcp_offered() -> None:
    old, new = bytes([1]) * 32, bytes([2]) * 32
    sets = [
        ServedSet(boot_set=one, architecture="amd64", loader="/shimx64.efi", names=names)
        for one, names in ((old, {"/shimx64.efi": old}), (new, {"/shimx64.efi": new}))
    ]
    assignments = Assignments()
    assignments.assign(IPv4Address(BOX[0]), new)
    server = TftpEngine(
        FileMap(sets=sets), lambda entry: BytesContent(entry.sha256), 1500, assignments
    )
    assert fetch(server, rrq("shimx64.efi")) == new
    assert fetch(server, rrq("shimx64.efi"), peer=("10.41.7.9", 1)) == old


def test_nothing_is_served_on_a_network_that_does_not_boot() -> None:
    outcome = engine().receive(rrq("shimx64.efi"), BOX, IPv4Address("10.42.0.2"), 0.0)
    assert code_of(outcome) == ErrorCode.ACCESS
    assert outcome.events[0].reason == "NOT-HERE"


def test_a_file_that_the_store_lost_is_told_apart_from_an_unknown_one() -> None:
    server = TftpEngine(FileMap(DIGESTS), lambda entry: None, 1500)
    outcome = server.receive(rrq("exact"), BOX, US, 0.0)
    assert code_of(outcome) == ErrorCode.UNDEFINED
    assert outcome.events[0].reason == "LOST"


class Broken(BytesContent):
    """A file on a disk that fails behind its first block."""

    def read(self, offset: int, length: int) -> bytes:
        if offset:
            raise SiteError("the file cannot be read")
        return super().read(offset, length)


def test_a_disk_error_ends_the_transfer_and_never_a_short_file() -> None:
    server = TftpEngine(FileMap(DIGESTS), lambda entry: Broken(SMALL), 1500)
    number = server.receive(rrq("exact"), BOX, US, 0.0).sends[0].transfer
    outcome = server.receive_on(number, ack(1), BOX, 0.0)
    assert code_of(outcome) == ErrorCode.UNDEFINED
    assert outcome.closed == (number,)
    assert details(outcome)[-1]["done"] is False


def test_a_new_plan_serves_other_files_and_lets_transfers_end() -> None:
    server = engine()
    number = server.receive(rrq("shimx64.efi"), BOX, US, 0.0).sends[0].transfer
    server.replace(FileMap({}), 1500)
    assert server.receive_on(number, ack(1), BOX, 0.0).sends
    missing = server.receive(rrq("shimx64.efi"), (BOX[0], 1), US, 0.0)
    assert code_of(missing) == ErrorCode.NOT_FOUND


PACKETS = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 65535).map(ack),
    st.integers(0, 9).map(error),
    st.builds(
        lambda name, option, value, mode: rrq(name, (option, value), mode=mode),
        st.sampled_from(sorted(STORE)).map(str.encode) | st.binary(max_size=30),
        st.sampled_from(["blksize", "tsize", "windowsize", "timeout", "x"]),
        st.integers(-1, 1 << 40) | st.text(max_size=5),
        st.sampled_from(["octet", "netascii", "mail"]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), PACKETS, st.floats(0, 3)), max_size=25))
def test_any_packets_leave_a_bounded_engine_that_still_serves(steps) -> None:
    server = engine()
    now = 0.0
    for port, data, pause in steps:
        now += pause
        outcome = server.receive(data, (BOX[0], 1000 + port), US, now)
        for number in {send.transfer for send in outcome.sends} - {None}:
            server.receive_on(number, data, (BOX[0], 1000 + port), now)
        server.tick(now)
        assert len(server) <= 4
    assert fetch(server, rrq("shimx64.efi"), now=now) == SMALL
    for second in range(40):
        server.tick(now + second)
    assert len(server) == 0


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_give_a_request_or_our_error(data: bytes) -> None:
    try:
        request = decode_request(b"\0\1" + data)
    except PeerError:
        return
    assert isinstance(request.mode, Mode)
    accepted = accept_options(request.options, size=5, max_block=1468)
    assert 8 <= accepted.blksize <= 1468
    assert 1 <= accepted.windowsize <= 64
    encode_oack(accepted.answer)
    decode_ack(data)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=80))
def test_no_name_leads_out(name: str) -> None:
    path = normal_path(name)
    assert path is None or (path.startswith("/") and ".." not in path.split("/"))
    assert path is None or normal_path(path) == path
    entry = FileMap(DIGESTS).find(name, US)
    assert not isinstance(entry, Entry) or entry.path in STORE


class Client:
    """A client by RFC 7440: acknowledges the end of a window, or where a gap begins."""

    def __init__(self, block: int, window: int) -> None:
        self.content = bytearray()
        self._block, self._window, self._next, self._in_window = block, window, 1, 0
        self.is_done = False

    def receive(self, data: bytes) -> list[bytes]:
        if data[:2] == b"\0\6":
            return [ack(0)]
        number = struct.unpack("!H", data[2:4])[0]
        if number != self._next & 0xFFFF or self.is_done:
            self._in_window = 0
            return [ack(self._next - 1)]
        self.content += data[4:]
        self._next += 1
        self._in_window += 1
        self.is_done = len(data) - 4 < self._block
        if self.is_done or self._in_window == self._window:
            self._in_window = 0
            return [ack(number)]
        return []


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 5]),
    st.integers(0, 4000),
    st.lists(st.sampled_from(["pass", "pass", "drop", "twice", "late"]), max_size=60),
)
def test_a_bad_network_never_changes_the_content(window: int, size: int, fates: list[str]) -> None:
    content = bytes(number % 251 for number in range(size))
    server = TftpEngine(FileMap(DIGESTS), lambda entry: BytesContent(content), 1500)
    client, fate, now = Client(100, window), iter(fates), 0.0
    options = (("blksize", 100), ("windowsize", window))
    flying: list[tuple[bool, bytes]] = []

    def put(is_to_client: bool, sent: list[bytes]) -> None:
        for packet in sent:
            what = next(fate, "pass")
            copies = {"drop": 0, "twice": 2}.get(what, 1)
            flying.extend([(is_to_client, packet)] * copies)
            if what == "late" and len(flying) > 1:
                flying.insert(0, flying.pop())

    number = 0
    put(True, packets(server.receive(rrq("exact", *options), BOX, US, now)))
    for _ in range(5000):
        if client.is_done and not flying:
            break
        if not flying:
            now += 0.5
            put(True, packets(server.tick(now)))
            continue
        is_to_client, packet = flying.pop(0)
        if is_to_client:
            put(False, client.receive(packet))
        else:
            outcome = answer(server, number, packet, now=now)
            put(True, packets(outcome))
    assert content.startswith(client.content)
    assert not client.is_done or bytes(client.content) == content
    # sent at 0, 1, 3, 7 and 15 seconds: whoever loses all five is given up
    assert client.is_done or fates.count("drop") >= 5
    for second in range(40):
        server.tick(now + second)
    assert len(server) == 0


def test_only_what_is_due_is_repeated() -> None:
    server = engine()
    server.receive(rrq("shimx64.efi"), BOX, US, 0.0)
    server.receive(rrq("shimx64.efi"), (BOX[0], 7), US, 0.9)
    assert [send.peer for send in server.tick(1.0).sends] == [BOX]
