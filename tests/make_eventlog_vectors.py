"""Writes the vectors of the rules over boot event logs, the same bytes every time.

Run as `python tests/make_eventlog_vectors.py`.
A vector is data: the log as the box sent it, the quoted PCRs, and `expect`, the reason to be found,
empty for a log that is accepted; `says` is part of the finding's detail, `workarounds` are the
quirks to be named, `lines` those of the attestation checklist. `tests/test_logrules.py` reads them.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from eventlog_forge import (  # noqa: E402
    Step,
    agile,
    header,
    held,
    legacy,
    logged,
    logged_in_sha1,
)

from attest.eventlog import PADDED_LOCALITY, VIRTUAL_PCR, EventType  # noqa: E402
from attest.logrules import (  # noqa: E402
    AUTHORITY_LAST_BYTE,
    BOOT_VALUE_ALONE,
    NOT_CALLED,
    PADDED_SEPARATOR,
)
from attest.replay import MISSING_EXIT_EVENTS  # noqa: E402
from attest.uefi import EFI_GLOBAL, IMAGE_SECURITY, SHIM_LOCK, Variable  # noqa: E402

VECTORS = HERE / "vectors" / "eventlog-rules"
Pcrs = dict[str, dict[int, bytes]]
ZEROS, ONES = bytes(4), b"\xff" * 4
CONFIG, AUTHORITY = EventType.EFI_VARIABLE_DRIVER_CONFIG, EventType.EFI_VARIABLE_AUTHORITY
PROGRAM, ACTION = EventType.EFI_BOOT_SERVICES_APPLICATION, EventType.EFI_ACTION
SEPARATOR, NO_ACTION = EventType.SEPARATOR, EventType.NO_ACTION
LOCALITY = b"StartupLocality\0"


def record(name: str, data: bytes, guid: UUID = EFI_GLOBAL) -> bytes:
    """Give a variable as firmware measures it."""
    return Variable(guid=guid, name=name, data=data).encode()


def action(pcr: int, text: str) -> Step:
    """Give an EV_EFI_ACTION."""
    return Step(pcr=pcr, kind=ACTION, data=text.encode())


def program(pcr: int, name: str, kind: int = PROGRAM) -> Step:
    """Give an image: its digest is not that of the data."""
    path = struct.pack("<QQQQ", 0x1000, 64, 0, 4) + b"\x7f\xff\x04\x00"
    return Step(pcr=pcr, kind=kind, data=path, content=name.encode())


VERSION = Step(pcr=0, kind=EventType.S_CRTM_VERSION, data=b"1\0.\x000\0\0\0")
BLOB = Step(
    pcr=0,
    kind=EventType.EFI_PLATFORM_FIRMWARE_BLOB,
    data=struct.pack("<QQ", 0x820000, 0xE0000),
    content=b"firmware",
)
SECURE_BOOT = Step(pcr=7, kind=CONFIG, data=record("SecureBoot", b"\1"))
CONFIGS = [
    SECURE_BOOT,
    Step(pcr=7, kind=CONFIG, data=record("PK", b"platform key")),
    Step(pcr=7, kind=CONFIG, data=record("KEK", b"exchange keys")),
    Step(pcr=7, kind=CONFIG, data=record("db", b"allowed", IMAGE_SECURITY)),
    Step(pcr=7, kind=CONFIG, data=record("dbx", b"forbidden", IMAGE_SECURITY)),
]
ORDER = Step(pcr=1, kind=EventType.EFI_VARIABLE_BOOT2, data=record("BootOrder", b"\0\0"))
DRIVER = program(2, "driver", EventType.EFI_BOOT_SERVICES_DRIVER)
CALL = action(4, "Calling EFI Application from Boot Option")
CLOSED = {pcr: Step(pcr=pcr, kind=SEPARATOR, data=ZEROS) for pcr in range(8)}
GPT = Step(pcr=5, kind=EventType.EFI_GPT_EVENT, data=b"EFI PART" + bytes(40))
DB = Step(pcr=7, kind=AUTHORITY, data=record("db", b"allowed", IMAGE_SECURITY))
LOADER = program(4, "loader")
COMMAND = Step(pcr=8, kind=EventType.IPL, data=b"grub_cmd: boot\0", content=b"boot")
LINUX = Step(pcr=9, kind=EventType.IPL, data=b"/vmlinuz\0", content=b"kernel")
EXIT = [
    action(5, "Exit Boot Services Invocation"),
    action(5, "Exit Boot Services Returned with Success"),
]
FAILURE = action(5, "Exit Boot Services Returned with Failure")
BEFORE = [VERSION, BLOB, *CONFIGS, CLOSED[7], ORDER, DRIVER, CALL]
AFTER = [*(CLOSED[pcr] for pcr in range(7)), GPT, DB, LOADER, COMMAND, LINUX]
HONEST = [*BEFORE, *AFTER, *EXIT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One vector; `says` is looked for in the first finding's detail."""

    name: str
    sent: bytes
    pcrs: Pcrs
    expect: str = ""
    says: str = ""
    lines: tuple[int, ...] = ()
    workarounds: tuple[str, ...] = ()

    def toml(self) -> str:
        """Write the vector's text."""
        text = [
            f'expect = "{self.expect}"',
            f'says = "{self.says}"',
            f"lines = {list(self.lines)}",
            f'log = "{self.name}.bin"',
            "workarounds = [" + ", ".join(f'"{each}"' for each in self.workarounds) + "]",
        ]
        for bank, values in self.pcrs.items():
            text += ["", f"[pcrs.{bank}]"]
            text += [f'{index} = "{value.hex()}"' for index, value in sorted(values.items())]
        return "\n".join(text) + "\n"


def of(
    name: str,
    steps: Sequence[Step],
    *what: str,
    lines: tuple[int, ...],
    banks: Sequence[str] = ("sha256",),
    start: int = 0,
    workarounds: tuple[str, ...] = (),
) -> Vector:
    """Make the vector of a log; `what` are the reason and what it says."""
    expect, says = what or ("", "")
    return Vector(
        name=name,
        sent=logged(steps, banks),
        pcrs=held(steps, banks, start),
        expect=expect,
        says=says,
        lines=lines,
        workarounds=workarounds,
    )


def instead(old: Step, *new: Step) -> list[Step]:
    """Give the honest log with something in the place of a step."""
    at = HONEST.index(old)
    return [*HONEST[:at], *new, *HONEST[at + 1 :]]


def behind(old: Step, *new: Step) -> list[Step]:
    """Give the honest log with something behind a step."""
    return instead(old, old, *new)


def accepted() -> Iterator[Vector]:
    """Give what honest firmware logs."""
    yield of("accepted", HONEST, lines=(37,))
    yield of("accepted-two-banks", HONEST, lines=(45,), banks=("sha1", "sha256"))
    yield replace(
        of("accepted-one-bank-of-two", HONEST, lines=(45,), banks=("sha1", "sha256")),
        pcrs=held(HONEST, ("sha256",)),
    )
    ones = [replace(step, data=ONES) if step.kind == SEPARATOR else step for step in HONEST]
    yield of("accepted-separators-of-ones", ones, lines=(40,))
    old = Vector(
        name="accepted-sha1-form",
        sent=logged_in_sha1(HONEST),
        pcrs=held(HONEST, ("sha1",)),
        lines=(45,),
    )
    yield old
    padded = of("accepted", HONEST, lines=(46,))
    for name, byte in (("ones", b"\xff"), ("zeros", b"\0")):
        yield replace(padded, name=f"accepted-padded-with-{name}", sent=padded.sent + byte * 512)
    locality = Step(pcr=0, kind=NO_ACTION, data=LOCALITY + b"\3")
    yield of("accepted-startup-locality", [locality, *HONEST], lines=(42,), start=3)
    manifest = Step(pcr=0, kind=NO_ACTION, data=b"SP800-155 Event\0", digests={"sha256": b"1" * 32})
    yield of("accepted-reference-manifest", [manifest, *HONEST], lines=(42,))
    remarks = [Step(pcr=pcr, kind=NO_ACTION, data=b"nothing measured") for pcr in (4, 7)]
    yield of("accepted-remarks-in-pcr-4-and-7", [*HONEST, *remarks], lines=(42,))
    hcrtm = Step(pcr=0, kind=EventType.EFI_HCRTM_EVENT, data=b"HCRTM", content=b"code")
    yield of("accepted-h-crtm", [hcrtm, *HONEST], lines=(42,), start=4)
    empty = replace(SECURE_BOOT, data=record("SecureBoot", b""))
    yield of("accepted-secure-boot-unknown", instead(SECURE_BOOT, empty), lines=(41,))
    yield of("accepted-authority-of-a-driver", behind(CONFIGS[4], DB), lines=(40,))
    other = Step(pcr=7, kind=CONFIG, data=record("db", b"other", SHIM_LOCK))
    yield of("accepted-name-of-another-owner", behind(CONFIGS[4], other), lines=(40,))
    wbcl = Step(pcr=12, kind=SEPARATOR, data=b"WBCL")
    yield of("accepted-separators-of-windows", [*HONEST, wbcl, wbcl], lines=(40,))


def accepted_in_pcr_4_and_7() -> Iterator[Vector]:
    """Give the rarer events that the profile knows there."""
    texts = {
        "booting-to": action(4, "Booting to Boot0001 Option"),
        "returning": action(4, "Returning from EFI Application from Boot Option"),
        "action-with-nul": action(4, "Booting to Boot0001 Option\0"),
        "action-of-128-bytes": action(4, "x" * 128),
        "old-action": Step(pcr=4, kind=EventType.ACTION, data=b"Calling INT 19h"),
        "omitted": Step(
            pcr=4, kind=EventType.OMIT_BOOT_DEVICE_EVENTS, data=b"BOOT ATTEMPTS OMITTED"
        ),
        "driver": program(4, "driver", EventType.EFI_BOOT_SERVICES_DRIVER),
        "runtime-driver": program(4, "driver", EventType.EFI_RUNTIME_SERVICES_DRIVER),
        "device-policy": Step(
            pcr=7, kind=EventType.EFI_SPDM_DEVICE_POLICY, data=record("devdb", b"certificates")
        ),
        "device-authority": Step(
            pcr=7, kind=EventType.EFI_SPDM_DEVICE_AUTHORITY, data=record("devdb", b"certificate")
        ),
        "sbat-level": Step(
            pcr=7, kind=AUTHORITY, data=record("SbatLevel", b"sbat,1,2021030218\n", SHIM_LOCK)
        ),
    }
    for name, step in texts.items():
        yield of(f"accepted-{name}", behind(GPT, step), lines=(36,))


def worked_around() -> Iterator[Vector]:
    """Give what honest firmware and shims do wrong."""
    boot = Step(pcr=1, kind=EventType.EFI_VARIABLE_BOOT, data=record("Boot0000", b"path"))
    for name, content, told in (
        ("value-alone", b"path", (BOOT_VALUE_ALONE,)),
        ("whole", boot.data, ()),
        ("neither", b"something else", ()),
    ):
        steps = behind(ORDER, replace(boot, content=content))
        yield of(f"boot-variable-{name}", steps, lines=(38, 39), workarounds=told)
    nothing = replace(boot, data=b"no record", content=b"path")
    yield of("boot-variable-no-record", behind(ORDER, nothing), lines=(39,))
    for name, data in (("", DB.data), ("-and-five", DB.data + bytes(5))):
        stray = replace(DB, data=data + b"\xaf", content=data)
        told = (AUTHORITY_LAST_BYTE,)
        yield of(f"authority-last-byte{name}", instead(DB, stray), lines=(38,), workarounds=told)
    padded = replace(CLOSED[3], data=bytes(50), content=ZEROS)
    steps = instead(CLOSED[3], padded)
    yield of("separator-padded", steps, lines=(38,), workarounds=(PADDED_SEPARATOR,))
    without = [step for step in HONEST if step is not CALL]
    yield of("program-not-called", without, lines=(38,), workarounds=(NOT_CALLED,))
    called = instead(CALL, replace(CALL, pcr=5))
    yield of("program-called-in-pcr-5", called, lines=(38,))
    elsewhere = instead(CALL, replace(CALL, pcr=6))
    yield of("program-called-in-pcr-6", elsewhere, lines=(38,), workarounds=(NOT_CALLED,))
    early = instead(DRIVER, LOADER, DRIVER)
    yield of("program-before-the-call", early, lines=(38,), workarounds=(NOT_CALLED,))
    invocation, success = EXIT
    for name, texts in (
        ("", [invocation, success]),
        ("-failed", [invocation, FAILURE]),
        ("-failed-once", [invocation, FAILURE, success]),
    ):
        silent = [replace(step, silent=True) for step in texts]
        steps = [*BEFORE, *AFTER, *silent]
        told = (MISSING_EXIT_EVENTS,)
        yield of(f"exit-events-missing{name}", steps, lines=(38,), workarounds=told)
    coreboot = Step(pcr=0, kind=NO_ACTION, data=LOCALITY + b"\3" + bytes(33))
    told = (PADDED_LOCALITY,)
    yield of("locality-padded", [coreboot, *HONEST], lines=(38, 42), start=3, workarounds=told)
    windows = Step(pcr=0xFFFFFFFF, kind=NO_ACTION, data=b"trust point")
    yield of("virtual-pcr", [*HONEST, windows], lines=(38, 42), workarounds=(VIRTUAL_PCR,))


def unexpected_types() -> Iterator[Vector]:
    """Give events whose type PCR 4 and 7 do not know."""
    kinds = {
        "unknown": 0xABCD,
        "ipl": EventType.IPL,
        "event-tag": EventType.EVENT_TAG,
        "compact-hash": EventType.COMPACT_HASH,
        "blob": EventType.EFI_PLATFORM_FIRMWARE_BLOB,
    }
    for pcr in (4, 7):
        for name, kind in kinds.items():
            step = Step(pcr=pcr, kind=kind, data=b"text")
            says = f"in PCR {pcr}"
            yield of(f"type-{name}-in-pcr-{pcr}", behind(DB, step), "LOG-EVENT", says, lines=(36,))
    for pcr, kind in ((4, CONFIG), (4, AUTHORITY), (7, PROGRAM), (7, EventType.EFI_VARIABLE_BOOT)):
        step = Step(pcr=pcr, kind=kind, data=SECURE_BOOT.data)
        name = f"type-{kind:x}-in-pcr-{pcr}"
        yield of(name, behind(DB, step), "LOG-EVENT", f"in PCR {pcr}", lines=(36,))
    image = Step(pcr=4, kind=ACTION, data=b"MZ\x90\0 an image", content=None)
    says = "an action in PCR 4 that is no text"
    yield of("program-as-action", behind(LOADER, image), "LOG-EVENT", says, lines=(36,))
    texts = {
        "empty": b"",
        "long": b"x" * 129,
        "of-two-nuls": b"x\0\0",
        "with-escape": b"\x1b[2J",
        "not-ascii": b"Gr\xc3\xbc\xc3\x9fe",
    }
    for name, data in texts.items():
        step = Step(pcr=4, kind=ACTION, data=data)
        yield of(f"action-{name}", behind(LOADER, step), "LOG-EVENT", says, lines=(36,))


def spoofed_data() -> Iterator[Vector]:
    """Give events whose data is not what was measured."""
    steps = {
        "config": SECURE_BOOT,
        "action": CALL,
        "exit-action": EXIT[0],
        "gpt": GPT,
        "authority": DB,
        "config-in-pcr-1": Step(pcr=1, kind=CONFIG, data=record("Setup", b"\1")),
        "separator-in-pcr-12": Step(pcr=12, kind=SEPARATOR, data=b"WBCL"),
        "device-policy": Step(
            pcr=7, kind=EventType.EFI_SPDM_DEVICE_POLICY, data=record("devdb", b"certificates")
        ),
        "omitted": Step(
            pcr=4, kind=EventType.OMIT_BOOT_DEVICE_EVENTS, data=b"BOOT ATTEMPTS OMITTED"
        ),
        "old-action": Step(pcr=4, kind=EventType.ACTION, data=b"Calling INT 19h"),
    }
    says = "does not hash to its digest"
    for name, step in steps.items():
        spoofed = replace(step, content=b"something else")
        log = instead(step, spoofed) if step in HONEST else behind(LOADER, spoofed)
        told = (NOT_CALLED,) if step is CALL else ()
        name = f"data-of-{name}-spoofed"
        yield of(name, log, "LOG-EVENT", says, lines=(37,), workarounds=told)
    spoofed = replace(CLOSED[2], content=b"something else")
    says = "sha256: PCR 2 without separator"
    name = "data-of-separator-spoofed"
    yield of(name, instead(CLOSED[2], spoofed), "BANK-UNEXTENDED", says, lines=(37, 40))
    says = "does not hash to its digest"
    two = replace(DB, data=DB.data + b"\0\0", content=DB.data)
    yield of("authority-two-bytes-more", instead(DB, two), "LOG-EVENT", says, lines=(38,))
    more = replace(CLOSED[3], data=ZEROS + b"\0\1", content=ZEROS)
    yield of("separator-with-more", instead(CLOSED[3], more), "LOG-EVENT", says, lines=(38,))
    padded = replace(GPT, data=bytes(50), content=ZEROS)
    yield of("gpt-like-a-separator", instead(GPT, padded), "LOG-EVENT", says, lines=(38,))
    one = replace(GPT, digests={"sha1": b"\1" * 20})
    yield of(
        "data-spoofed-in-one-bank",
        instead(GPT, one),
        "LOG-EVENT",
        "(sha1)",
        lines=(37,),
        banks=("sha256", "sha1"),
    )


def strange_policies() -> Iterator[Vector]:
    """Give what PCR 7 may not hold, and separators."""
    last, event = CONFIGS[4], "LOG-EVENT"
    late, twice = "SecureBoot stands after", "SecureBoot stands in PCR 7 twice"
    once = [step for step in HONEST if step is not SECURE_BOOT]
    yield of("variable-twice", behind(last, SECURE_BOOT), event, twice, lines=(40,))
    at = once.index(DB)
    moved = [*once[:at], SECURE_BOOT, *once[at:]]
    yield of("variable-after-the-separator", moved, event, late, lines=(40,))
    broken = replace(SECURE_BOOT, data=b"no record")
    yield of("variable-no-record", instead(SECURE_BOOT, broken), event, "cut off", lines=(37,))
    more = replace(SECURE_BOOT, data=SECURE_BOOT.data + b"\0")
    yield of("variable-with-more", instead(SECURE_BOOT, more), event, "wrong size", lines=(37,))
    for name in ("SecureBoot", "PK", "KEK", "dbx"):
        hidden = Step(pcr=7, kind=AUTHORITY, data=record(name, b"\1"))
        says = f"{name} let no program start"
        yield of(f"authority-{name.lower()}", behind(DB, hidden), event, says, lines=(36,))
    second = "a second separator in PCR 6"
    yield of("separator-twice", behind(CLOSED[6], CLOSED[6]), event, second, lines=(40,))
    error = replace(CLOSED[1], data=b"\1\0\0\0")
    says = "the separator of PCR 1 tells an error"
    yield of("separator-error", instead(CLOSED[1], error), event, says, lines=(40,))
    missing = [step for step in HONEST if step is not CLOSED[3]]
    says = "sha256: PCR 3 without separator"
    yield of("separator-missing", missing, "BANK-UNEXTENDED", says, lines=(40, 44))
    relabelled = instead(CLOSED[3], replace(CLOSED[3], kind=EventType.POST_CODE))
    yield of("separator-relabelled", relabelled, "BANK-UNEXTENDED", says, lines=(40, 44))
    for name, text, reason in (
        ("debug-mode", "UEFI Debug Mode", "FIRMWARE-DEBUG"),
        ("debug-mode-with-nul", "UEFI Debug Mode\0", "FIRMWARE-DEBUG"),
        ("dma-protection-off", "DMA Protection Disabled", "DMA-PROTECTION-OFF"),
        ("action-unknown-in-pcr-7", "Unlocked", event),
    ):
        says = "unknown action in PCR 7" if reason == event else text.rstrip("\0")
        yield of(name, instead(VERSION, VERSION, action(7, text)), reason, says, lines=(40,))


def not_explained() -> Iterator[Vector]:
    """Give logs that do not lead to the quoted values, or not in every bank."""
    good = of("x", HONEST, lines=())
    silent = replace(LINUX, pcr=12, silent=True)
    yield of("pcr-12-unexplained", [*HONEST, silent], "PCR-UNEXPLAINED", "PCR 12", lines=(43,))
    remark = Step(pcr=12, kind=NO_ACTION, data=b"nothing measured")
    steps = [*HONEST, remark, silent]
    yield of("pcr-12-remarked", steps, "PCR-UNEXPLAINED", "PCR 12", lines=(43,))
    hidden = [step for step in HONEST if step.pcr != 3] + [replace(CLOSED[3], silent=True)]
    yield replace(
        of("firmware-pcr-not-logged", hidden, "LOG-REPLAY", "sha256: PCR 3", lines=(43,)),
        expect="BANK-UNEXTENDED",
        says="PCR 3 without separator",
    )
    told = [*HONEST, replace(LINUX, told=True)]
    yield of("event-never-measured", told, "LOG-REPLAY", "sha256: PCR 9", lines=(43,))
    ima = {bank: {**values, 10: b"\7" * 32} for bank, values in good.pcrs.items()}
    yield replace(good, name="accepted-pcr-10-of-the-kernel", pcrs=ima, lines=(43,))
    part = {"sha256": {index: good.pcrs["sha256"][index] for index in (0, 7)}}
    yield replace(good, name="accepted-two-pcrs-quoted", pcrs=part, lines=(43,))
    yield of("locality-not-told", HONEST, "LOG-REPLAY", "sha256: PCR 0", lines=(42,), start=3)
    locality = Step(pcr=0, kind=NO_ACTION, data=LOCALITY + b"\3")
    steps = [locality, *HONEST]
    yield of("locality-told-falsely", steps, "LOG-REPLAY", "sha256: PCR 0", lines=(42,))
    relabelled = instead(LOADER, replace(LOADER, kind=NO_ACTION, digests={"sha256": b"1" * 32}))
    real = held(HONEST)
    yield replace(
        of("program-as-no-action", relabelled, "LOG-REPLAY", "sha256: PCR 4", lines=(42,)),
        pcrs=real,
    )
    failed = [*BEFORE, *AFTER, replace(FAILURE, silent=True)]
    yield of("exit-events-of-no-order", failed, "LOG-REPLAY", "sha256: PCR 5", lines=(38,))
    more = {**good.pcrs, "sha384": held(HONEST, ("sha384",))["sha384"]}
    says = "the event log has no sha384 digests"
    yield replace(
        good, name="bank-not-in-log", pcrs=more, expect="LOG-BANK", says=says, lines=(45,)
    )
    yield replace(
        good,
        name="sha1-form-of-sha256",
        sent=logged_in_sha1(HONEST),
        expect="LOG-SHA1",
        says="the event log has no sha256 digests",
        lines=(45,),
    )
    fewer = instead(LINUX, replace(LINUX, digests={"sha256": None}))
    says = "an event of PCR 9 lacks its sha256 digest"
    banks = ("sha1", "sha256")
    yield of("event-without-digest", fewer, "LOG-BANK", says, lines=(45,), banks=banks)
    gpt = instead(GPT, replace(GPT, digests={"sha256": None}))
    says = "an event of PCR 5 lacks its sha256 digest"
    yield of("gpt-without-digest", gpt, "LOG-BANK", says, lines=(45,), banks=banks)
    boot = Step(pcr=1, kind=EventType.EFI_VARIABLE_BOOT, data=record("Boot0000", b"path"))
    without = behind(ORDER, replace(boot, digests={"sha256": None}))
    says = "an event of PCR 1 lacks its sha256 digest"
    yield of("boot-variable-without-digest", without, "LOG-BANK", says, lines=(45,))
    unknown = header([(0x000B, 32), (0x0042, 8)])
    for step in HONEST:
        digests = [(0x000B, step.digest("sha256")), (0x0042, b"whatever")]
        unknown += agile(step.pcr, step.kind, digests, step.data)
    says = "declares the unknown hash 0x0042"
    yield replace(
        good, name="unknown-hash", sent=unknown, expect="LOG-BANK", says=says, lines=(45,)
    )


def malformed() -> Iterator[Vector]:
    """Give what is no log, or none at all."""
    good = of("x", HONEST, lines=(46,))
    first = len(header([(0x000B, 32)]))
    huge = struct.pack("<III", 1, 5, 1 << 31)
    for name, (sent, says) in {
        "cut-off": (good.sent[:-1], "cut off in the event at offset"),
        "header-cut-off": (good.sent[: first - 3], "cut off"),
        "header-of-another-size": (header([(0x000B, 32)], vendor=b"\5"), "wrong size"),
        "no-bank": (header([]), "declares 0 banks"),
        "bank-twice": (header([(0x000B, 32)] * 2), "sha256 twice"),
        "digest-size": (header([(0x000B, 20)]), "sha256 digests of 20 bytes"),
        "huge-count": (good.sent + huge + b"\1", "2147483648 digests"),
        "huge-event": (good.sent[:-44] + b"\xff\xff\xff\x7f" + good.sent[-40:], "cut off"),
        "pcr-24": (good.sent + agile(24, 5, [(0x000B, b"1" * 32)], b"x"), "PCR 24"),
        "pcr-24-in-sha1-form": (
            legacy(0, 8, b"1" * 20, b"v") + legacy(24, 8, b"1" * 20, b"v"),
            "PCR 24",
        ),
        "undeclared-hash": (good.sent + agile(1, 5, [(0x000C, bytes(48))], b"x"), "not declare"),
        "junk-behind-padding": (good.sent + b"\xff" * 64 + b"x", "PCR 4294967295"),
        "locality-twice": (
            logged([Step(pcr=0, kind=NO_ACTION, data=LOCALITY + b"\3")] * 2),
            "twice or wrongly",
        ),
        "no-log": (b"nothing of the kind", "cut off"),
    }.items():
        found = replace(good, name=f"malformed-{name}", sent=sent, says=says)
        yield replace(found, expect="LOG-MALFORMED")
    for name, sent in (("nothing", b""), ("zeros", bytes(64)), ("ones", b"\xff" * 64)):
        yield replace(good, name=f"missing-{name}", sent=sent, expect="LOG-MISSING")


def vectors() -> list[Vector]:
    """Give all of them."""
    makers = (
        accepted,
        accepted_in_pcr_4_and_7,
        worked_around,
        unexpected_types,
        spoofed_data,
        strange_policies,
        not_explained,
        malformed,
    )
    return [vector for make in makers for vector in make()]


def files() -> dict[str, bytes]:
    """Give every file by name."""
    found: dict[str, bytes] = {}
    for vector in vectors():
        assert f"{vector.name}.toml" not in found, vector.name
        found[f"{vector.name}.toml"] = vector.toml().encode()
        found[f"{vector.name}.bin"] = vector.sent
    return found


def main() -> None:
    """Write them all, and remove what is no longer one."""
    VECTORS.mkdir(exist_ok=True)
    made = files()
    for path in VECTORS.iterdir():
        if path.name not in made:
            path.unlink()
    for name, data in made.items():
        (VECTORS / name).write_bytes(data)


if __name__ == "__main__":
    main()
