"""Is a box's firmware one that headquarters knows, or released for this very box?

PCR 0, 2, 3 and 6 of a machine are held against the signed baseline of its maker, model and version.
One entry must explain all of them: values of two versions never mix. What the box says it is
(SMBIOS) is a claim; it chooses the entry, and a wrong claim finds none that fits.
TCG PFP 1.06, 3.3.4.1 to 3.3.4.7.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from attest.baseline import Baseline, FirmwareEntry, Machine, firmware_digest
from attest.eventlog import EventLog, EventType, type_name
from attest.evidence import Outcome
from attest.quote import Values
from attest.reasons import Finding, Reason

MAX_TEXT = 60
_SHOWN = 3
_SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFirmware:
    """What became of the firmware's PCRs; `digest` is what a release for this box would cover."""

    findings: tuple[Finding, ...] = ()
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    digest: bytes = b""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The firmware's measurements: quoted values, the log that explains them, key certificates."""

    values: Values
    log: EventLog | None
    keys: frozenset[bytes]


def machine_of(facts: bytes | None) -> Machine | None:
    """Read what a box says it is out of its facts; None where it does not say."""
    try:
        smbios = json.loads(facts or b"")["smbios"]
        parts = [smbios[name] for name in ("sys_vendor", "product_name", "bios_version")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(part, str) and part.strip() for part in parts):
        return None
    vendor, model, version = (_clean(part) for part in parts)
    return Machine(vendor=vendor, model=model, version=version)


def _clean(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text[: 4 * MAX_TEXT])
    return " ".join(printable.split())[:MAX_TEXT]


def check_firmware(
    measured: Measured,
    *,
    baseline: Baseline,
    machine: Machine | None,
    indices: Sequence[int],
    released: bytes = b"",
) -> CheckedFirmware:
    """Hold the PCRs `indices` against the baseline, or against a release for this box alone."""
    if not indices:
        return CheckedFirmware()
    digest = firmware_digest(measured.values, indices, measured.keys)
    entries = [entry for entry in baseline.entries if entry.machine == machine]
    for entry in entries:
        if not _unknown(entry, measured, indices) and measured.keys <= entry.keys:
            return _all(indices, Outcome.BASELINE, digest, entry.source)
    if released and released == digest:
        return _all(indices, Outcome.RELEASED, digest, "released for this box")
    nearest = min(entries, key=lambda one: len(_unknown(one, measured, indices)), default=None)
    unknown = list(indices) if nearest is None else _unknown(nearest, measured, indices)
    finding = Finding(
        reason=Reason.FIRMWARE_UNKNOWN,
        detail="; ".join(_details(measured, baseline, machine, nearest, unknown)),
        told=_told(baseline, machine),
    )
    outcomes = {
        index: Outcome.UNKNOWN if index in unknown else Outcome.BASELINE for index in indices
    }
    return CheckedFirmware(findings=(finding,), outcomes=outcomes, digest=digest)


def _all(indices: Sequence[int], outcome: Outcome, digest: bytes, source: str) -> CheckedFirmware:
    return CheckedFirmware(outcomes=dict.fromkeys(indices, outcome), digest=digest, source=source)


def _unknown(entry: FirmwareEntry, measured: Measured, indices: Sequence[int]) -> list[int]:
    """List the PCRs that an entry does not explain in every quoted bank."""
    return [
        index
        for index in indices
        if not all(_explains(entry, measured, bank, index) for bank in measured.values)
    ]


def _explains(entry: FirmwareEntry, measured: Measured, bank: str, index: int) -> bool:
    value = measured.values[bank].get(index)
    if value is not None and entry.values.get(bank, {}).get(index) == value:
        return True
    known = entry.events.get(bank, {}).get(index)
    if known is None or value is None or measured.log is None:
        return False
    return not _new_events(measured.log, bank, index, known)


def _new_events(log: EventLog, bank: str, index: int, known: frozenset[bytes]) -> list[str]:
    """Describe what is extended before the one separator and not known; a list never empty by luck.

    An event may stand there once: a driver that runs twice is another boot.
    """
    separators = {hashlib.new(bank, content).digest() for content in _SEPARATORS}
    found: list[str] = []
    seen: Counter[bytes] = Counter()
    closed = False
    for event in log.events:
        if event.pcr != index or event.type == EventType.NO_ACTION:
            continue
        digest = event.digests.get(bank, b"")
        seen[digest] += 1
        if event.type == EventType.SEPARATOR and digest in separators and not closed:
            closed = True
        elif closed or digest not in known or seen[digest] > 1:
            found.append(f"{type_name(event.type)} {digest.hex()}")
    return found if closed else [*found, "no separator"]


def _told(baseline: Baseline, machine: Machine | None) -> str:
    if machine is None:
        return "The box does not say which firmware it runs, so nobody can know it."
    name = f"{machine.vendor} {machine.model}"
    if not any(_same_model(entry.machine, machine) for entry in baseline.entries):
        return f"No firmware of this model ({name}) is known to headquarters yet."
    return f"The firmware version {machine.version} of this model ({name}) was not seen before."


def _same_model(one: Machine, other: Machine) -> bool:
    return (one.vendor, one.model) == (other.vendor, other.model)


def _details(
    measured: Measured,
    baseline: Baseline,
    machine: Machine | None,
    nearest: FirmwareEntry | None,
    unknown: Sequence[int],
) -> Iterator[str]:
    yield f"PCR {', '.join(map(str, unknown))}" if unknown else "PCRs known, keys not"
    if machine is not None:
        yield f"the box says {machine.vendor} {machine.model} {machine.version}"
        versions = sorted(
            {e.machine.version for e in baseline.entries if _same_model(e.machine, machine)}
        )
        if versions:
            yield f"known on this model: {', '.join(versions[:8])}"
    if nearest is not None:
        strange = measured.keys - nearest.keys
        if strange:
            yield f"{len(strange)} key certificates not in the entry, {min(strange).hex()} first"
        yield from _events_of(measured, nearest, unknown)


def _events_of(measured: Measured, entry: FirmwareEntry, unknown: Sequence[int]) -> Iterator[str]:
    bank = min(measured.values)
    for index in unknown:
        known = entry.events.get(bank, {}).get(index)
        if measured.log is not None and known is not None:
            new = _new_events(measured.log, bank, index, known)
            yield f"new in PCR {index}: {', '.join(new[:_SHOWN])}"
