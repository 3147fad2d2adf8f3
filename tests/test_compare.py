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
from attest.prediction import Step
from attest.uefi import EFI_GLOBAL, Variable

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


@pytest.mark.parametrize(
    ("pcr", "subject", "label"),
    [
        (7, Subject.KEYS, "a key or variable"),
        (8, Subject.GRUB_COMMAND, "grub command"),
        (9, Subject.OTHER, "a file"),
        (11, Subject.LOADER, "UKI section \ufffd\ufffd"),
        (12, Subject.PARAMETERS, "extra parameters"),
        (13, Subject.PARAMETERS, "a system extension"),
        (14, Subject.OWNER_KEYS, "machine owner keys"),
        (15, Subject.OTHER, "EV_IPL"),
    ],
)
def test_any_event_in_a_pcr_that_has_none_or_others_is_extra(
    pcr: int, subject: Subject, label: str
) -> None:
    event = ipl(pcr, b"\x80\xdc\0", b"\x80\xdc\0")
    log = extend_log("debian12-tftp", "grub_cmd: boot", event)
    (found,) = compare(log, prediction_of("debian12-tftp"), "sha256").differences
    assert (found.kind, found.pcr) == (Kind.EXTRA, pcr)
    assert (found.subject, found.label) == (subject, label)
    assert found.text is not None


def step(pcr: int, label: str, subject: Subject, text: str | None = None) -> Step:
    return Step(pcr=pcr, subject=subject, label=label, content=b"predicted", text=text)


def event(pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    digest = hashlib.sha256(data if measured is None else measured).digest()
    return Event(pcr=pcr, type=kind, digests={"sha256": digest}, data=data)


def only(steps: list[Step], events: list[Event]) -> Comparison:
    log = with_events(log_of("debian12-tftp"), events)
    return compare(log, Prediction(steps=tuple(steps)), "sha256")


def variable(name: str) -> bytes:
    return Variable(guid=EFI_GLOBAL, name=name, data=b"\1").encode()


def wide(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le")


SEPARATOR = step(4, "separator", Subject.FIRMWARE)
ACTION = step(4, "firmware starts a boot option", Subject.FIRMWARE, "Calling")
SHIM = step(4, "shim", Subject.LOADER)
KEY = step(7, "PK", Subject.KEYS, "PK (1 bytes)")
REMARK = step(7, "a key or remark of the firmware", Subject.KEYS)
COMMAND = step(8, "grub command", Subject.GRUB_COMMAND, "initrd /a")
LINE = step(8, "kernel command line", Subject.COMMAND_LINE, "/vmlinuz quiet")
FILE = step(9, "file initrd", Subject.INITRD)
SEEN = step(9, "initrd seen by the kernel", Subject.INITRD)
SECTION = step(11, "UKI section .linux", Subject.KERNEL)
NAME = step(11, "UKI section name .linux", Subject.KERNEL)
IMAGE, IPL = EventType.EFI_BOOT_SERVICES_APPLICATION, EventType.IPL
DRIVER, TAG = EventType.EFI_VARIABLE_DRIVER_CONFIG, EventType.EVENT_TAG

COUNTERPARTS = [
    (SEPARATOR, event(4, EventType.SEPARATOR, b"\1\0\0\0")),
    (ACTION, event(4, EventType.EFI_ACTION, b"Returning")),
    (SHIM, event(4, IMAGE, b"any")),
    (KEY, event(7, DRIVER, variable("PK"))),
    (COMMAND, event(8, IPL, b"grub_cmd: initrd /b\0", b"initrd /b")),
    (COMMAND, event(8, IPL, b"grub_cmd: spoofed\0", b"initrd /b")),
    (LINE, event(8, IPL, b"kernel_cmdline: /other quiet\0", b"/other quiet")),
    (FILE, event(9, IPL, b"/b\0")),
    (SEEN, event(9, TAG, b"any")),
    (SECTION, event(11, IPL, wide(".linux"), b"content")),
    (NAME, event(11, IPL, wide(".linux"), b".linux\0")),
]


@pytest.mark.parametrize(("wanted", "measured"), COUNTERPARTS)
def test_what_stands_in_the_place_of_the_same_kind_is_its_change(
    wanted: Step, measured: Event
) -> None:
    (found,) = only([wanted], [measured]).differences
    assert (found.kind, found.label) == (Kind.CHANGED, wanted.label)


STRANGERS = [
    (SEPARATOR, event(4, EventType.EFI_ACTION, b"Returning")),
    (SEPARATOR, event(4, IMAGE, b"any")),
    (SHIM, event(4, EventType.SEPARATOR, b"\1\0\0\0")),
    (SHIM, event(4, EventType.EFI_ACTION, b"Returning")),
    (ACTION, event(4, IMAGE, b"any")),
    (KEY, event(7, DRIVER, variable("KEK"))),
    (KEY, event(7, EventType.EFI_VARIABLE_BOOT, variable("PK"))),
    (KEY, event(7, DRIVER, b"no variable")),
    (REMARK, event(7, DRIVER, variable("PK"))),
    (COMMAND, event(8, IPL, b"grub_cmd: boot\0", b"boot")),
    (COMMAND, event(8, IPL, b"kernel_cmdline: spoofed\0", b"/vmlinuz")),
    (LINE, event(8, IPL, b"grub_cmd: spoofed\0", b"/vmlinuz")),
    (FILE, event(9, TAG, b"any")),
    (SEEN, event(9, IPL, b"/b\0")),
    (SECTION, event(11, IPL, wide(".initrd"), b"content")),
    (SECTION, event(11, IPL, wide(".linux"), b".linux\0")),
    (SECTION, event(11, TAG, wide(".linux"), b"content")),
]


@pytest.mark.parametrize(("wanted", "measured"), STRANGERS)
def test_what_is_of_another_kind_is_no_change(wanted: Step, measured: Event) -> None:
    found = {(d.kind, d.pcr) for d in only([wanted], [measured]).differences}
    assert found == {(Kind.MISSING, wanted.pcr), (Kind.EXTRA, measured.pcr)}


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (event(8, IPL, b"x"), "x"),
        (event(12, IPL, wide("quiet")), "quiet"),
        (event(12, IPL, b"x y"), "x y"),
        (event(8, IPL, b"a\nb\0"), "a\nb"),
        (event(9, TAG, b"identity" + b"content", b"content"), "content"),
        (event(9, IPL, b"identity" + b"content", b"content"), None),
        (event(8, IPL, b"grub_cmd: boot\0", b"boot"), "boot"),
        (event(8, EventType.EFI_ACTION, b"grub_cmd: boot\0", b"boot"), None),
        (event(8, EventType.EFI_ACTION, b"boot\0", b"boot"), None),
        (event(11, IPL, wide(".linux"), b".linux\0"), ".linux"),
        (event(12, IPL, wide(".linux"), b".linux\0"), None),
        (event(7, DRIVER, variable("PK")), "PK (1 bytes)"),
        (event(7, DRIVER, b"no variable"), None),
        (event(4, EventType.SEPARATOR, bytes(4)), None),
    ],
)
def test_a_text_is_given_where_its_digest_proves_it(measured: Event, text: str | None) -> None:
    assert proven_text(measured, "sha256") == text


def image_load(path: bytes) -> bytes:
    return struct.pack("<QQQQ", 0, 0, 0, len(path)) + path


@pytest.mark.parametrize(
    ("measured", "claim"),
    [
        (event(4, IMAGE, image_load(b"\4\4\6\0x\0")), "File(x)"),
        (event(4, IMAGE, image_load(b"")), None),
        (event(4, IMAGE, b"no record"), None),
        (event(4, EventType.EFI_ACTION, image_load(b"\4\4\6\0x\0")), None),
        (event(9, IPL, b"/evil\0"), "/evil"),
        (event(8, IPL, b"/evil\0"), None),
        (event(9, TAG, b"/evil\0"), None),
    ],
)
def test_only_programs_and_files_claim_a_path(measured: Event, claim: str | None) -> None:
    (found,) = only([], [measured]).differences
    assert found.claim == claim


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
