"""Comparison of measured logs with predictions: what is named, in which order, with which text."""

import hashlib
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from eventlog_forge import with_events

from attest import eventlog
from attest.compare import Comparison, Kind, compare, proven_text
from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType
from attest.predict import (
    FileFacts,
    Prediction,
    Subject,
    Transport,
    predict,
    variables_from_log,
    variables_from_store,
)

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "boots.toml").read_text())
LOGGED = [name for name, boot in BOOTS.items() if "log" in boot]
KEYS = variables_from_store(Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").read_bytes())


def log_of(name: str) -> EventLog:
    return eventlog.decode((VECTORS / BOOTS[name]["log"]).read_bytes())


def facts_of(name: str) -> FileFacts:
    return FileFacts.from_json((VECTORS / BOOTS[name]["facts"]).read_text())


def prediction_of(name: str, **changes: object) -> Prediction:
    boot = BOOTS[name]
    return predict(
        replace(facts_of(name), **changes),
        transport=Transport(boot["transport"]),
        server=boot["server"],
        drive=boot.get("drive", 0),
        variables=variables_from_log(log_of(name), "sha256"),
    )


def other(data: bytes) -> dict[str, bytes]:
    return {"sha1": b"", "sha256": hashlib.sha256(data).digest(), "sha384": b"", "sha512": b""}


def subjects(comparison: Comparison) -> list[Subject]:
    return [difference.subject for difference in comparison.differences]


def extend_log(name: str, after: str, event: Event) -> EventLog:
    """Give the log with one more event behind the one whose data holds `after`."""
    log = log_of(name)
    at = next(i for i, found in enumerate(log.events) if after.encode() in found.data)
    return with_events(log, [*log.events[1 : at + 1], event, *log.events[at + 1 :]])


def ipl(pcr: int, data: bytes, measured: bytes) -> Event:
    digest = hashlib.sha256(measured).digest()
    return Event(pcr=pcr, type=EventType.IPL, digests={"sha256": digest}, data=data)


@pytest.mark.parametrize("name", LOGGED)
def test_a_boot_equals_its_own_prediction(name: str) -> None:
    comparison = compare(log_of(name), prediction_of(name), "sha256")
    assert comparison.equal
    assert comparison.differences == ()
    assert comparison.matched >= 27


@pytest.mark.parametrize("name", LOGGED)
@pytest.mark.parametrize("against", LOGGED)
def test_only_its_own_prediction_fits_a_boot(name: str, against: str) -> None:
    same = name == against or {name, against} == {"debian13-cd", "debian13-cd-image-over-http"}
    assert compare(log_of(name), prediction_of(against), "sha256").equal is same


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("debian12-tftp", "initrds", [(9, "file initrd")] * 2),
        ("debian13-tftp", "initrds", [(9, "file initrd")] * 2),
        ("debian13-tftp", "initrd_loaded", [(9, "initrd seen by the kernel")]),
        ("debian13-tftp", "grub_cfg", [(9, "file grub.cfg")]),
    ],
)
def test_a_changed_file_is_named(name: str, field: str, expected: list[tuple[int, str]]) -> None:
    facts = facts_of(name)
    changed = other(b"x") if field != "initrds" else (other(b"x"), other(b"y"))
    found = compare(log_of(name), prediction_of(name, **{field: changed}), "sha256").differences
    assert [(difference.pcr, difference.label) for difference in found] == expected
    assert {difference.kind for difference in found} == {Kind.CHANGED}
    assert {difference.text for difference in found} == {None}
    assert facts.initrds


@pytest.mark.parametrize(("name", "images"), [("debian12-tftp", 2), ("debian13-tftp", 1)])
def test_another_kernel_is_a_kernel_as_file_and_as_image(name: str, images: int) -> None:
    kernel = replace(facts_of(name).kernel, file=other(b"x"), image=other(b"y"))
    comparison = compare(log_of(name), prediction_of(name, kernel=kernel), "sha256")
    assert subjects(comparison) == [Subject.KERNEL] * (images + 1)
    assert {difference.pcr for difference in comparison.differences} == {4, 9}


def test_everything_changed_is_told_in_order_of_rank() -> None:
    name = "debian13-tftp"
    facts = facts_of(name)
    prediction = predict(
        replace(
            facts,
            initrds=(other(b"1"), facts.initrds[1]),
            initrd_loaded=other(b"2"),
            kernel=replace(facts.kernel, file=other(b"3"), image=other(b"4")),
            grub_cfg=other(b"5"),
            commands=("linux /vmlinuz quiet", *facts.commands[1:]),
            grub=replace(facts.grub, image=other(b"6")),
            vendor_dbx=b"7",
        ),
        transport=Transport.TFTP,
        server="10.77.0.1",
        variables=KEYS,
    )
    found = subjects(compare(log_of("debian13-tftp-off"), prediction, "sha256"))
    order = [
        Subject.SECURE_BOOT,
        Subject.INITRD,
        Subject.KERNEL,
        Subject.GRUB_CFG,
        Subject.COMMAND_LINE,
        Subject.LOADER,
        Subject.KEYS,
        Subject.OWNER_KEYS,
    ]
    assert list(dict.fromkeys(found)) == order


def test_another_command_line_is_shown_with_both_proven_texts() -> None:
    name = "debian13-tftp"
    commands = ("linux /vmlinuz console=ttyS0", *facts_of(name).commands[1:])
    found = compare(log_of(name), prediction_of(name, commands=commands), "sha256").differences
    texts = {(d.label, d.expected_text, d.text) for d in found}
    assert texts == {
        (
            "grub command",
            "linux /vmlinuz console=ttyS0",
            "linux /vmlinuz console=ttyS0 panic=-1 quiet",
        ),
        (
            "kernel command line",
            "/vmlinuz console=ttyS0",
            "/vmlinuz console=ttyS0 panic=-1 quiet",
        ),
        ("load options seen by the kernel", "BOOT_IMAGE=/vmlinuz console=ttyS0", None),
    }


def test_a_spoofed_text_is_never_shown() -> None:
    name = "debian12-tftp"
    log = log_of(name)
    bad = [
        replace(event, data=event.data.replace(b"panic=-1", b"panic=99")) for event in log.events
    ]
    spoofed = with_events(log, bad[1:])
    commands = ("linux /vmlinuz console=ttyS0 panic=99 quiet", *facts_of(name).commands[1:])
    comparison = compare(spoofed, prediction_of(name, commands=commands), "sha256")
    assert not comparison.equal
    assert {difference.text for difference in comparison.differences} == {None}


def test_differences_stand_opposite_to_what_they_are_of() -> None:
    log = log_of("debian13-tftp-off")
    prediction = predict(
        facts_of("debian13-tftp"), transport=Transport.TFTP, server="10.77.0.1", variables=KEYS
    )
    found = compare(log, prediction, "sha256").differences
    kinds = {difference.label: difference.kind for difference in found}
    assert kinds == {
        "SecureBoot": Kind.CHANGED,
        "kernel": Kind.MISSING,
        "PK": Kind.CHANGED,
        "KEK": Kind.CHANGED,
        "db": Kind.CHANGED,
        "dbx": Kind.CHANGED,
        "db key that verified shim": Kind.MISSING,
        "SbatLevel": Kind.CHANGED,
        "shim key that verified GRUB": Kind.MISSING,
    }
    texts = {difference.label: difference.text for difference in found}
    assert texts["SecureBoot"] == "SecureBoot (1 bytes)"
    assert texts["SbatLevel"] == "SbatLevel (18 bytes)"


def test_a_command_in_the_place_of_another_kind_is_no_change_of_it() -> None:
    log = log_of("debian13-tftp")
    line = next(e for e in log.events if e.data.startswith(b"kernel_cmdline"))
    events = [event for event in log.events[1:] if event is not line]
    at = next(i for i, e in enumerate(events) if e.data.startswith(b"grub_cmd: initrd"))
    events[at] = ipl(8, b"grub_cmd: initrd /evil\0", b"initrd /evil")
    found = compare(with_events(log, events), prediction_of("debian13-tftp"), "sha256").differences
    assert [(d.kind, d.label, d.text) for d in found] == [
        (Kind.MISSING, "kernel command line", None),
        (Kind.CHANGED, "grub command", "initrd /evil"),
    ]


def test_a_missing_initrd_is_not_taken_for_the_kernels_own_event() -> None:
    log = log_of("debian13-tftp")
    events = [event for event in log.events[1:] if event.data != b"/anchor.img\0"]
    at = max(i for i, event in enumerate(events) if event.type == EventType.EVENT_TAG)
    events[at] = replace(events[at], digests={"sha256": b"\1" * 32})
    found = compare(with_events(log, events), prediction_of("debian13-tftp"), "sha256").differences
    assert [(difference.kind, difference.label) for difference in found] == [
        (Kind.MISSING, "file initrd"),
        (Kind.CHANGED, "initrd seen by the kernel"),
    ]


def test_an_error_separator_is_a_changed_separator() -> None:
    log = log_of("debian13-tftp")
    separator = next(e for e in log.events if e.pcr == 4 and e.type == EventType.SEPARATOR)
    data = b"\1\0\0\0"
    bad = replace(separator, data=data, digests={"sha256": hashlib.sha256(data).digest()})
    events = [bad if event is separator else event for event in log.events[1:]]
    (found,) = compare(
        with_events(log, events), prediction_of("debian13-tftp"), "sha256"
    ).differences
    assert (found.kind, found.label, found.text) == (Kind.CHANGED, "separator", None)


def test_an_extra_grub_command_is_shown() -> None:
    event = ipl(8, b"grub_cmd: set evil=1\0", b"set evil=1")
    log = extend_log("debian12-tftp", "grub_cmd: linux", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.kind, found.subject, found.text) == (
        Kind.EXTRA,
        Subject.GRUB_COMMAND,
        "set evil=1",
    )


def test_an_extra_file_has_a_claim_and_no_text() -> None:
    event = ipl(9, b"(tftp,10.77.0.1)/evil\0", b"content of the file")
    log = extend_log("debian12-tftp", "/anchor.img\0", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.kind, found.pcr, found.text) == (Kind.EXTRA, 9, None)
    assert found.claim == "(tftp,10.77.0.1)/evil"


def test_another_program_before_ours_is_named_with_its_claimed_path() -> None:
    path = (
        b"\4\4" + struct.pack("<H", 4 + 20) + "\\EVIL.EFI\0".encode("utf-16-le") + b"\x7f\xff\4\0"
    )
    event = Event(
        pcr=4,
        type=EventType.EFI_BOOT_SERVICES_APPLICATION,
        digests={"sha256": b"\7" * 32},
        data=struct.pack("<QQQQ", 0, 0, 0, len(path)) + path,
    )
    log = extend_log("debian12-tftp", "Calling EFI Application", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.kind, found.subject, found.claim) == (
        Kind.EXTRA,
        Subject.PROGRAM,
        r"File(\EVIL.EFI)",
    )
    assert found.measured == b"\7" * 32


def test_a_refused_boot_option_before_ours_is_a_step_of_the_firmware() -> None:
    text = b"Returning from EFI Application from Boot Option"
    event = Event(
        pcr=4,
        type=EventType.EFI_ACTION,
        digests={"sha256": hashlib.sha256(text).digest()},
        data=text,
    )
    log = extend_log("debian12-tftp", "Calling EFI Application", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.subject, found.text) == (Subject.FIRMWARE, text.decode())


@pytest.mark.parametrize("pcr", [11, 12, 13, 14, 15, 7])
def test_any_event_in_a_pcr_that_has_none_or_others_is_extra(pcr: int) -> None:
    event = ipl(pcr, b"more\0", b"more\0")
    log = extend_log("debian12-tftp", "grub_cmd: boot", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.kind, found.pcr, found.text) == (Kind.EXTRA, pcr, "more")


@pytest.mark.parametrize("at", range(6, 40, 3))
def test_a_missing_event_is_named(at: int) -> None:
    log = log_of("debian13-tftp")
    own = [event for event in log.events if event.pcr in (4, 5, 7, 8, 9, 14)]
    gone = own[at % len(own)]
    events = [event for event in log.events[1:] if event is not gone]
    (found,) = compare(
        with_events(log, events), prediction_of("debian13-tftp"), "sha256"
    ).differences
    assert (found.kind, found.pcr, found.measured) == (Kind.MISSING, gone.pcr, None)
    assert found.expected == gone.digests["sha256"]


def test_relabelling_as_no_action_hides_nothing() -> None:
    log = log_of("debian12-tftp")
    events = [
        replace(event, type=EventType.NO_ACTION) if event.pcr == 9 else event
        for event in log.events[1:]
    ]
    found = compare(with_events(log, events), prediction_of("debian12-tftp"), "sha256")
    assert {difference.kind for difference in found.differences} == {Kind.MISSING}


def test_control_characters_do_not_reach_a_terminal() -> None:
    data = b"grub_cmd: set x=\x1b[2J\xe2\x80\xae\0"
    event = ipl(8, data, data[10:-1])
    assert proven_text(event, "sha256") == "set x=\ufffd[2J\ufffd"


def test_unusable_logs_are_refused() -> None:
    log = log_of("debian12-tftp")
    prediction = prediction_of("debian12-tftp")
    with pytest.raises(EvidenceError, match="no sha384 digests"):
        compare(log, prediction, "sha384")
    with pytest.raises(EvidenceError, match="513 events for PCR 11"):
        compare(with_events(log, [ipl(11, b"", b"")] * 513), prediction, "sha256")
    with pytest.raises(EvidenceError, match="lacks its sha256 digest"):
        compare(with_events(log, [replace(ipl(11, b"", b""), digests={})]), prediction, "sha256")
