"""Event logs: both wire forms, every bound, replay against what TPMs held, forged logs."""

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
from attest.replay import extend, pcr_5_with_exit_events, replay, start_value
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


LOCALITY_EVENT = agile(0, EventType.NO_ACTION, [(0x000B, bytes(32))], LOCALITY + b"\3")
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
    "unknown hash": (header([(0x0042, 32)]), "unknown hash 0x0042"),
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
    "event cut off": (HEADER + ONE[:-1], "cut off"),
    "huge event": (HEADER + ONE[:-8] + b"\xff\xff\xff\x7f" + b"text", "cut off"),
    "junk after the padding": (HEADER + ONE + b"\xff" * 64 + b"x", "PCR 4294967295"),
    "locality twice": (HEADER + LOCALITY_EVENT * 2, "twice or wrongly"),
    "locality 2": (HEADER + LOCALITY_EVENT[:-1] + b"\2", "impossible startup locality 2"),
    "locality without value": (
        HEADER + agile(0, 3, [(0x000B, bytes(32))], LOCALITY),
        "twice or wrongly",
    ),
    "locality in PCR 1": (
        HEADER + agile(1, 3, [(0x000B, bytes(32))], LOCALITY + b"\3"),
        "twice or wrongly",
    ),
    "too many events": (HEADER + agile(1, 5, [], b"x") * 65536, "more than 65536 events"),
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


def test_exit_events_are_added_only_where_the_log_lacks_them() -> None:
    log, values = load("debian13-tftp")
    assert pcr_5_with_exit_events(log, "sha256") is None
    cut = with_events(log, [event for event in log.events[1:] if b"Exit Boot" not in event.data])
    assert replay(cut, "sha256")[5] != values[5]
    assert pcr_5_with_exit_events(cut, "sha256") == values[5]
