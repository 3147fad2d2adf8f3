"""Event logs: both wire forms, every bound, replay against what TPMs held, forged logs."""

import hashlib
import struct
import tomllib
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from eventlog_forge import SHA256, agile, encode, header, legacy, with_events
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.errors import EvidenceError
from attest.eventlog import EventLog, EventType, LogFormat
from attest.replay import (
    extend,
    has_exit_events,
    pcr_5_with_exit_events,
    replay,
    start_value,
    values_with_exit_events,
)
from attest.uefi import (
    ImageLoad,
    Signature,
    Variable,
    decode_signatures,
    device_path_text,
)

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "boots.toml").read_text())
LOGGED = [name for name, boot in BOOTS.items() if "log" in boot]
HEADER = header([(0x000B, 32)])
ONE = agile(4, EventType.EFI_ACTION, [(0x000B, bytes(32))], b"text")
LOCALITY = b"StartupLocality\0"
LOCALITY_EVENT = agile(0, EventType.NO_ACTION, [(0x000B, bytes(32))], LOCALITY + b"\3")
TWO = header([(0x000B, 32), (0x0004, 20)])


def load(name: str) -> tuple[EventLog, dict[int, bytes]]:
    boot = BOOTS[name]
    values = {int(pcr): bytes.fromhex(value) for pcr, value in boot["pcrs"].items()}
    return eventlog.decode((VECTORS / boot["log"]).read_bytes()), values


@pytest.mark.parametrize("name", LOGGED)
def test_replay_gives_what_the_tpm_held(name: str) -> None:
    log, values = load(name)
    assert log.format is LogFormat.CRYPTO_AGILE
    replayed = replay(log, "sha256")
    assert {pcr: replayed[pcr] for pcr in values} == values
    assert sorted(replayed) == list(range(24))
    assert replayed[17] == b"\xff" * 32
    assert replayed[23] == bytes(32)


@pytest.mark.parametrize("padding", [b"", b"\xff" * 4096, bytes(4096), b"\0", b"\xff"])
@pytest.mark.parametrize("name", LOGGED)
def test_buffer_padding_changes_nothing(name: str, padding: bytes) -> None:
    raw = (VECTORS / BOOTS[name]["log"]).read_bytes()
    assert eventlog.decode(raw + padding) == eventlog.decode(raw)


def test_events_that_end_in_padding_bytes_are_kept() -> None:
    for data in (b"\xff" * 9, bytes(9)):
        event = agile(4, 5, [(0x000B, b"\x01" * 32)], data)
        log = eventlog.decode(HEADER + event)
        assert [found.data for found in log.events[1:]] == [data]


def test_a_log_above_64_kib_is_read() -> None:
    log = eventlog.decode(HEADER + ONE * 4000)
    assert len(log.events) == 4001
    assert log.banks == (SHA256,)


def test_as_many_events_are_read_as_are_allowed() -> None:
    log = eventlog.decode(HEADER + ONE * (eventlog.MAX_EVENTS - 1))
    assert len(log.events) == eventlog.MAX_EVENTS


def test_an_unknown_hash_is_passed_over_by_its_size() -> None:
    log = eventlog.decode(
        header([(0x0042, 7), (0x000B, 32)])
        + agile(4, 5, [(0x0042, b"unknown"), (0x000B, b"\1" * 32)], b"a")
        + agile(4, 5, [(0x000B, b"\2" * 32), (0x0042, b"UNKNOWN")], b"b")
    )
    assert [(bank.name, bank.known) for bank in log.banks] == [("0x0042", False), ("sha256", True)]
    assert log.events[2].digests == {"sha256": b"\2" * 32, "0x0042": b"UNKNOWN"}
    value = extend(extend(bytes(32), b"\1" * 32, "sha256"), b"\2" * 32, "sha256")
    assert replay(log, "sha256")[4] == value
    with pytest.raises(EvidenceError, match="no 0x0042 digests are computed here"):
        replay(log, "0x0042")


def test_digests_come_in_any_order_and_may_be_fewer_than_declared() -> None:
    first, second = b"\1" * 32, b"\2" * 20
    log = eventlog.decode(
        TWO
        + agile(4, 5, [(0x000B, first), (0x0004, second)], b"in order")
        + agile(4, 5, [(0x0004, second), (0x000B, first)], b"turned")
        + agile(4, 5, [(0x0004, second)], b"one alone")
        + agile(4, 5, [], b"none")
    )
    assert [event.digests for event in log.events[1:]] == [
        {"sha256": first, "sha1": second},
        {"sha256": first, "sha1": second},
        {"sha1": second},
        {},
    ]
    assert [event.data for event in log.events[1:]] == [
        b"in order",
        b"turned",
        b"one alone",
        b"none",
    ]


def test_every_bank_that_a_tpm_can_have_replays() -> None:
    sizes = {0x0027: 32, 0x0028: 48, 0x0029: 64, 0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64}
    digests = [(algorithm, b"\1" * size) for algorithm, size in sizes.items()]
    log = eventlog.decode(header(sizes.items()) + agile(4, 5, digests, b"x"))
    for bank in log.banks:
        wanted = hashlib.new(bank.name, bytes(bank.size) + b"\1" * bank.size).digest()
        assert replay(log, bank.name)[4] == wanted


def test_no_action_in_the_virtual_pcr_is_a_named_workaround() -> None:
    event = agile(0xFFFFFFFF, EventType.NO_ACTION, [(0x000B, bytes(32))], b"aggregation")
    log = eventlog.decode(HEADER + event + ONE)
    assert log.workarounds == (eventlog.VIRTUAL_PCR,)
    assert replay(log, "sha256") == replay(eventlog.decode(HEADER + ONE), "sha256")
    old = legacy(0, 8, b"\1" * 20, b"v") + legacy(0xFFFFFFFF, 3, bytes(20), b"aggregation")
    assert eventlog.decode(old).workarounds == (eventlog.VIRTUAL_PCR,)


def test_digests_that_are_not_computed_here_are_read() -> None:
    log = eventlog.decode(header([(0x0012, 32)]) + agile(4, 5, [(0x0012, b"\1" * 32)], b"x"))
    assert [(bank.name, bank.known) for bank in log.banks] == [("sm3_256", True)]
    assert log.events[1].digests == {"sm3_256": b"\1" * 32}


def test_start_values_are_those_of_the_profile() -> None:
    assert start_value(0, "sha256") == start_value(0, "sha256", 0) == bytes(32)
    assert start_value(0, "sha1", 4) == bytes(19) + b"\4"
    assert start_value(1, "sha256", 3) == bytes(32)
    assert [start_value(pcr, "sha1")[0] for pcr in (16, 17, 22, 23)] == [0, 255, 255, 0]


def test_the_locality_is_told_by_ev_no_action_alone() -> None:
    text = agile(0, EventType.IPL, [(0x000B, bytes(32))], LOCALITY + b"\3")
    assert eventlog.decode(HEADER + text).startup_locality is None


def test_a_padded_startup_locality_is_a_named_workaround() -> None:
    event = agile(0, EventType.NO_ACTION, [(0x000B, bytes(32))], LOCALITY + b"\3" + bytes(30))
    log = eventlog.decode(HEADER + event)
    assert log.startup_locality == 3
    assert log.workarounds == (eventlog.PADDED_LOCALITY,)
    assert eventlog.decode(HEADER + LOCALITY_EVENT).workarounds == ()


@pytest.mark.parametrize("locality", [b"", LOCALITY_EVENT])
def test_an_h_crtm_starts_pcr_0_at_four(locality: bytes) -> None:
    kind, digest = EventType.EFI_HCRTM_EVENT, b"\7" * 32
    other = agile(4, 5, [(0x000B, digest)], b"")
    log = eventlog.decode(HEADER + locality + other + agile(0, kind, [(0x000B, digest)], b"HCRTM"))
    assert log.start_of_pcr_0 == 4
    assert replay(log, "sha256")[0] == extend(bytes(31) + b"\4", digest, "sha256")
    late = agile(0, 8, [(0x000B, digest)], b"") + agile(0, kind, [(0x000B, digest)], b"HCRTM")
    assert eventlog.decode(HEADER + late).start_of_pcr_0 == 0


def test_a_first_event_without_header_is_an_event() -> None:
    log = eventlog.decode(legacy(0, 3, bytes(20), LOCALITY + b"\3"))
    assert log.format is LogFormat.SHA1
    assert replay(log, "sha1")[0] == bytes(19) + b"\3"
    elsewhere = eventlog.decode(legacy(1, 3, bytes(20), HEADER[32:]))
    assert elsewhere.format is LogFormat.SHA1
    other_type = eventlog.decode(legacy(0, 5, bytes(20), HEADER[32:]))
    assert other_type.format is LogFormat.SHA1


def test_the_vendor_of_a_header_may_say_what_it_likes() -> None:
    log = eventlog.decode(header([(0x000B, 32)], vendor=b"\4coreboot"[:5]) + ONE)
    assert log.banks == (SHA256,)


def test_the_sha1_form_is_told_apart() -> None:
    data = legacy(0, 8, b"\1" * 20, b"v") + legacy(7, 4, b"\2" * 20, bytes(4))
    log = eventlog.decode(data)
    assert log.format is LogFormat.SHA1
    assert [bank.name for bank in log.banks] == ["sha1"]
    assert replay(log, "sha1")[7] == extend(bytes(20), b"\2" * 20, "sha1")
    with pytest.raises(EvidenceError, match="no sha256"):
        replay(log, "sha256")


def test_no_action_never_extends_and_locality_sets_pcr_0() -> None:
    event = agile(0, EventType.NO_ACTION, [(0x000B, bytes(32))], LOCALITY + b"\3")
    log = eventlog.decode(HEADER + event + agile(3, EventType.NO_ACTION, [], b"SP800-155 Event"))
    assert log.startup_locality == 3
    assert replay(log, "sha256")[0] == bytes(31) + b"\3" == start_value(0, "sha256", 3)
    assert replay(log, "sha256")[3] == bytes(32)


MALFORMED = {
    "empty": (b"", "cut off"),
    "header cut off": (HEADER[:-3], "cut off"),
    "header with a hole": (header([(0x000B, 32)], vendor=b"\5"), "wrong size"),
    "header too short": (legacy(0, 3, bytes(20), b"Spec ID Event03\0"), "cut off"),
    "header with too much": (header([(0x000B, 32)], vendor=b"\0more"), "wrong size"),
    "no bank": (header([]), "declares 0 banks"),
    "huge number of banks": (
        legacy(0, 3, bytes(20), HEADER[32:56] + b"\xff" * 4 + HEADER[60:]),
        "declares 4294967295 banks",
    ),
    "an unknown hash without size": (header([(0x0042, 0)]), "0x0042 digests of 0 bytes"),
    "an unknown hash of many bytes": (header([(0x0042, 129)]), "0x0042 digests of 129 bytes"),
    "an unknown hash twice": (header([(0x0042, 32), (0x0042, 32)]), "0x0042 twice"),
    "digest size of another hash": (header([(0x000B, 20)]), "sha256 digests of 20 bytes"),
    "a bank twice": (header([(0x000B, 32), (0x000B, 32)]), "sha256 twice"),
    "PCR 24": (HEADER + agile(24, 5, [(0x000B, bytes(32))], b""), "PCR 24"),
    "PCR 24 in a SHA-1 log": (
        legacy(0, 8, bytes(20), b"v") + legacy(24, 8, bytes(20), b"v"),
        "PCR 24",
    ),
    "digests of undeclared banks": (
        HEADER + agile(1, 5, [(0x000C, bytes(48))], b""),
        "does not declare",
    ),
    "a digest twice": (
        header([(0x000B, 32), (0x0004, 20)])
        + agile(1, 5, [(0x000B, bytes(32)), (0x000B, bytes(32))], b""),
        "does not declare",
    ),
    "huge digest count": (HEADER + struct.pack("<III", 1, 5, 1 << 31) + b"\1", "has 2147483648"),
    "event cut off": (HEADER + ONE[:-1], rf"cut off in the event at offset {len(HEADER)}"),
    "event cut off before its size": (HEADER + ONE + ONE[:-9], "cut off"),
    "event cut off in its digest": (HEADER + ONE[:30], "cut off"),
    "event cut off in its head": (HEADER + ONE[:11], "cut off"),
    "event of another order cut off in its size": (
        TWO + agile(1, 5, [(0x0004, bytes(20)), (0x000B, bytes(32))], b"")[:-2],
        "cut off",
    ),
    "SHA-1 event cut off": (legacy(0, 8, bytes(20), b"version")[:-1], "cut off"),
    "SHA-1 event cut off in its head": (
        legacy(0, 8, bytes(20), b"v") + bytes(11) + b"x",
        "cut off",
    ),
    "huge event": (HEADER + ONE[:-8] + b"\xff\xff\xff\x7f" + b"text", "cut off"),
    "junk after the padding": (HEADER + ONE + b"\xff" * 64 + b"x", "PCR 4294967295"),
    "locality twice": (HEADER + LOCALITY_EVENT * 2, "twice or wrongly"),
    "locality 2": (HEADER + LOCALITY_EVENT[:-1] + b"\2", "impossible startup locality 2"),
    "locality without value": (
        HEADER + agile(0, 3, [(0x000B, bytes(32))], LOCALITY),
        "twice or wrongly",
    ),
    "locality with more than zeros behind it": (
        HEADER + agile(0, 3, [(0x000B, bytes(32))], LOCALITY + b"\3\0\1"),
        "more than a startup locality",
    ),
    "virtual PCR of another type": (
        HEADER + agile(0xFFFFFFFF, 5, [(0x000B, bytes(32))], b"x"),
        f"offset {len(HEADER)} names PCR 4294967295",
    ),
    "PCR 24 of EV_NO_ACTION": (HEADER + agile(24, 3, [(0x000B, bytes(32))], b"x"), "PCR 24"),
    "PCR 24 with few digests": (TWO + agile(24, 5, [(0x000B, bytes(32))], b""), "PCR 24"),
    "PCR 24 in the first event": (legacy(24, 3, bytes(20), b"v"), "offset 0 names PCR 24"),
    "locality in PCR 1": (
        HEADER + agile(1, 3, [(0x000B, bytes(32))], LOCALITY + b"\3"),
        "twice or wrongly",
    ),
    "too many events": (HEADER + agile(1, 5, [], b"x") * 50_000, "more than 50000 events"),
    "too many SHA-1 events": (legacy(1, 5, b"1" * 20, b"x") * 50_001, "more than 50000 events"),
    "too large": (HEADER + bytes(8 << 20), "larger than"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_logs_are_refused(name: str) -> None:
    data, sentence = MALFORMED[name]
    with pytest.raises(EvidenceError, match=sentence):
        eventlog.decode(data)


def test_an_event_without_the_digest_of_the_bank_does_not_replay() -> None:
    log = eventlog.decode(header([(0x000B, 32), (0x0004, 20)]) + ONE)
    assert replay(log, "sha256")
    with pytest.raises(EvidenceError, match="lacks its sha1 digest"):
        replay(log, "sha1")


FORGERIES = {
    "an event dropped": lambda events: events[:20] + events[21:],
    "all events dropped": lambda _: [],
    "relabelled as EV_NO_ACTION": lambda events: [
        replace(event, type=EventType.NO_ACTION) if index == 20 else event
        for index, event in enumerate(events)
    ],
    "two events of PCR 7 swapped": lambda events: sorted(
        events, key=lambda event: event.data[32:52] == "SecureBoot".encode("utf-16-le")
    ),
    "moved to another PCR": lambda events: [
        replace(event, pcr=16) if index == 20 else event for index, event in enumerate(events)
    ],
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_logs_do_not_replay_to_the_quoted_values(name: str) -> None:
    log, values = load("debian12-tftp")
    forged = with_events(log, FORGERIES[name](list(log.events[1:])))
    replayed = replay(eventlog.decode(encode(forged)), "sha256")
    assert {pcr: replayed[pcr] for pcr in values} != values


def test_a_log_of_another_boot_does_not_replay() -> None:
    _, values = load("debian12-tftp")
    replayed = replay(load("debian13-tftp")[0], "sha256")
    assert {pcr: replayed[pcr] for pcr in values} != values


events = st.builds(
    eventlog.Event,
    pcr=st.integers(0, 23),
    type=st.sampled_from([4, 5, 6, 13, 0x80000003, 0x800000E0, 0xABCD]),
    digests=st.fixed_dictionaries({"sha256": st.binary(min_size=32, max_size=32).filter(any)}),
    data=st.binary(max_size=40),
)


@settings(max_examples=50)
@given(st.lists(events, max_size=6))
def test_what_is_encoded_is_decoded(found: list[eventlog.Event]) -> None:
    log = eventlog.decode(HEADER)
    built = with_events(log, found)
    assert eventlog.decode(encode(built)) == built


@settings(max_examples=100)
@given(st.binary(max_size=200), st.integers(0, 3))
@example(b"\xff" * 60, 0)
def test_any_bytes_give_a_log_or_our_error(data: bytes, start: int) -> None:
    prefix = (b"", HEADER, HEADER + ONE, HEADER[:-1])[start]
    try:
        eventlog.decode(prefix + data)
    except EvidenceError:
        return


@settings(max_examples=50)
@given(st.uuids(), st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.binary())
def test_variables_round_trip(guid: object, name: str, data: bytes) -> None:
    variable = Variable(guid=guid, name=name, data=data)
    assert Variable.decode(variable.encode()) == variable


@settings(max_examples=50)
@given(st.lists(st.tuples(st.uuids(), st.uuids(), st.binary(max_size=30)), max_size=4))
def test_signature_lists_round_trip(entries: list[tuple]) -> None:
    wanted = tuple(Signature(type=kind, owner=owner, data=data) for kind, owner, data in entries)
    assert decode_signatures(b"".join(entry.encode_list() for entry in wanted)) == wanted


@settings(max_examples=200)
@given(st.binary(max_size=120))
def test_any_bytes_give_a_uefi_value_or_our_error(data: bytes) -> None:
    for decode in (Variable.decode, ImageLoad.decode, decode_signatures, device_path_text):
        try:
            decode(data)
        except EvidenceError:
            continue


def test_device_paths_read_as_uefi_writes_them() -> None:
    log, _ = load("debian13-cd")
    paths = [
        device_path_text(ImageLoad.decode(event.data).path)
        for event in log.events
        if event.type == EventType.EFI_BOOT_SERVICES_APPLICATION
    ]
    assert paths[0].endswith(r"Scsi(0x0,0x0)/CDROM(0x0)/HD(0x1)/File(\EFI\BOOT\BOOTX64.EFI)")
    assert paths[1] == r"File(\EFI\BOOT\grubx64.efi)"
    over_http, _ = load("debian13-http")
    first = next(e for e in over_http.events if e.type == EventType.EFI_BOOT_SERVICES_APPLICATION)
    text = device_path_text(ImageLoad.decode(first.data).path)
    assert "MAC(52:54:00:aa:bb:01)" in text
    assert text.endswith("Uri(http://10.77.0.1/bootx64.efi)")


@pytest.mark.parametrize(
    "path", [b"\1\1\2\0", b"\1\1\x10\0", b"\1", b"\4\4\4\0" * 65, b"\3\x12\5\0\0"]
)
def test_malformed_device_paths_are_refused(path: bytes) -> None:
    with pytest.raises(EvidenceError, match="device path"):
        device_path_text(path)


def test_type_names() -> None:
    assert eventlog.type_name(0x800000E0) == "EV_EFI_VARIABLE_AUTHORITY"
    assert eventlog.type_name(0xABCD) == "0x0000abcd"


RECORD = Variable(guid=UUID(int=1), name="db", data=b"12").encode()
ONE_LIST = Signature(type=UUID(int=2), owner=UUID(int=3), data=b"12").encode_list()
BAD_UEFI = {
    "variable with bytes left": (Variable.decode, RECORD + b"x"),
    "variable cut off": (Variable.decode, RECORD[:-1]),
    "variable without its head": (Variable.decode, RECORD[:31]),
    "variable name of half a character": (
        Variable.decode,
        RECORD[:16] + struct.pack("<QQ", 1, 0) + b"\x00\xd8",
    ),
    "list cut off": (decode_signatures, ONE_LIST[:-1]),
    "list head cut off": (decode_signatures, ONE_LIST[:27]),
    "list of entries without owner": (
        decode_signatures,
        ONE_LIST[:16] + struct.pack("<III", 28 + 15, 0, 15) + bytes(15),
    ),
    "list of no size": (decode_signatures, ONE_LIST[:16] + struct.pack("<III", 0, 0, 18)),
    "list that its entries do not fill": (
        decode_signatures,
        ONE_LIST[:16] + struct.pack("<III", 28 + 19, 0, 18) + bytes(19),
    ),
    "image load cut off": (ImageLoad.decode, bytes(31)),
    "image load with a path outside": (ImageLoad.decode, struct.pack("<QQQQ", 0, 0, 0, 1)),
}


@pytest.mark.parametrize("name", BAD_UEFI)
def test_malformed_uefi_records_are_refused(name: str) -> None:
    decode, data = BAD_UEFI[name]
    with pytest.raises(EvidenceError, match="cut off|wrong size|not UTF-16"):
        decode(data)


def test_a_record_may_begin_what_an_old_shim_measured() -> None:
    variable = Variable(guid=UUID(int=1), name="db", data=b"12")
    assert Variable.decode_beginning(RECORD) == (variable, len(RECORD))
    assert Variable.decode_beginning(RECORD + b"stray") == (variable, len(RECORD))
    with pytest.raises(EvidenceError, match="wrong size"):
        Variable.decode_beginning(RECORD[:-1])


def test_bytes_behind_the_path_of_an_image_are_no_part_of_it() -> None:
    record = struct.pack("<QQQQ", 0, 0, 0, 4) + b"\x7f\xff\4\0" + b"junk"
    assert ImageLoad.decode(record).path == b"\x7f\xff\4\0"


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (b"\1\1\6\0\2\3", "Pci(0x3,0x2)"),
        (b"\3\5\6\0\1\2", "Usb(0x1,0x2)"),
        (b"\4\7\x14\0" + bytes(16), f"Fv({UUID(int=0)})"),
        (b"\4\6\x14\0" + bytes(16), f"FvFile({UUID(int=0)})"),
        (b"\3\x0d\4\0", "IPv6()"),
        (b"\3\x0c\x08\0\0\0\0\0", "IPv4()"),
        (b"\4\4\x0a\0a\0\x1b\0\0\0", "File(a?)"),
        (b"\x05\1\4\0", "Path(5,1)"),
    ],
)
def test_device_path_nodes(node: bytes, text: str) -> None:
    assert device_path_text(node + b"\x7f\xff\4\0") == text


def test_firmware_may_have_failed_to_hand_over_once() -> None:
    texts = ["Invocation", "Returned with Failure", "Returned with Success"]
    steps = [hashlib.sha256(f"Exit Boot Services {text}".encode()).digest() for text in texts]
    ended = []
    for order in ((0, 2), (0, 1), (0, 1, 2)):
        value = bytes(32)
        for step in order:
            value = extend(value, steps[step], "sha256")
        ended.append(value)
    assert values_with_exit_events(bytes(32), "sha256") == tuple(ended)


def test_exit_events_count_only_where_they_extend() -> None:
    text = b"Exit Boot Services Invocation"
    digest = [(0x000B, hashlib.sha256(text).digest())]
    told = {
        (pcr, kind): has_exit_events(
            eventlog.decode(HEADER + agile(pcr, kind, digest, text)), "sha256"
        )
        for pcr in (4, 5)
        for kind in (3, 0x80000007)
    }
    assert told == {(4, 3): False, (4, 0x80000007): False, (5, 3): False, (5, 0x80000007): True}


def test_exit_events_are_added_only_where_the_log_lacks_them() -> None:
    log, values = load("debian13-tftp")
    assert pcr_5_with_exit_events(log, "sha256") is None
    cut = with_events(log, [event for event in log.events[1:] if b"Exit Boot" not in event.data])
    assert replay(cut, "sha256")[5] != values[5]
    assert pcr_5_with_exit_events(cut, "sha256") == values[5]
