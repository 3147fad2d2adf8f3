"""Is a box's firmware one that headquarters knows, or released for this very box?

PCR 0, 2, 3 and 6 of a machine are held against the signed baseline of its maker, model and version.
One entry must explain all of them in every quoted bank: values of two versions never mix. What the
box says it is (SMBIOS) is a claim; it chooses the entries, and a wrong claim finds none that fits.
TCG PFP 1.06, 3.3.4.1 to 3.3.4.7.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from attest.baseline import Baseline, FirmwareEntry, Machine, firmware_digest, machine_text
from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType, type_name
from attest.evidence import Outcome
from attest.quote import Values
from attest.reasons import Finding, Reason
from attest.uefi import ImageLoad, device_path_text

MAX_FACTS = 64 << 10
MAX_CLAIM = 60
_NO_ACTION = int(EventType.NO_ACTION)
_SHOWN = 3
_SHOWN_VERSIONS = 8
_SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff")
# Two equal cards bring the same option ROM, and it is measured each time (PFP 1.06, 3.3.4.3).
_REPEATED = frozenset({2})
# A step of the platform's own firmware that is missing is a step that was left out.
_COMPLETE = frozenset({0})
_DRIVERS = (
    EventType.EFI_BOOT_SERVICES_APPLICATION,
    EventType.EFI_BOOT_SERVICES_DRIVER,
    EventType.EFI_RUNTIME_SERVICES_DRIVER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFirmware:
    """What became of the firmware's PCRs; `digest` is what a release for this box would cover.

    `source` says where the word comes from that the firmware passed by.
    """

    findings: tuple[Finding, ...] = ()
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    digest: bytes = b""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The firmware's measurements: quoted values, the log that explains them, key certificates.

    `log` is None unless it replays to `values`. `keys` are SHA-256 of the certificates in PK, KEK
    and db, where no policy lists those that are allowed.
    """

    values: Values
    log: EventLog | None
    keys: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """What a log says was extended into one PCR; `closed`: its last event is the separator.

    `digests` is without that one; `distinct` are the same as a set.
    """

    events: tuple[Event, ...]
    digests: tuple[bytes, ...]
    distinct: frozenset[bytes]
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One box to be judged."""

    measured: Measured
    machine: Machine | None
    indices: tuple[int, ...]
    extended: Mapping[tuple[str, int], Extended]


def machine_of(facts: bytes | None) -> Machine | None:
    """Read what a box says it is out of its facts; None where it does not say, or is not read."""
    if not facts or len(facts) > MAX_FACTS:
        return None
    try:
        smbios = json.loads(facts)["smbios"]
        parts = [smbios[name] for name in ("sys_vendor", "product_name", "bios_version")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = [machine_text(part) if isinstance(part, str) else "" for part in parts]
    if not all(texts):
        return None
    return Machine(vendor=texts[0], model=texts[1], version=texts[2])


def check_firmware(
    measured: Measured,
    *,
    baseline: Baseline,
    machine: Machine | None,
    indices: Sequence[int],
    released: bytes = b"",
) -> CheckedFirmware:
    """Hold the PCRs `indices` against the baseline, or against a release for this box alone.

    `released`: `firmware_digest` of what a person released for this EK; empty where nobody did.
    """
    if not indices:
        return CheckedFirmware()
    digest = firmware_digest(measured.values, indices, measured.keys)
    case = _Case(
        measured=measured,
        machine=machine,
        indices=tuple(indices),
        extended=_extended(measured, indices),
    )
    entries = [entry for entry in baseline.entries if entry.machine == machine]
    for entry in entries:
        if not _unknown(entry, case) and measured.keys <= entry.keys:
            source = entry.source or "the firmware baseline"
            return _all(case, Outcome.BASELINE, digest, source)
    if released == digest:
        return _all(case, Outcome.RELEASED, digest, "released for this box")
    return _held(case, baseline, entries, digest)


def _extended(measured: Measured, indices: Sequence[int]) -> dict[tuple[str, int], Extended]:
    """Gather what was extended, once for all entries; nothing where no log replays."""
    log = measured.log
    if log is None:
        return {}
    found = _by_pcr(log, indices)
    return {(bank, i): _gathered(found[i], bank) for bank in measured.values for i in indices}


def extended(log: EventLog, bank: str, index: int) -> Extended:
    """Take what a log says of one PCR out of it; the label of an event counts for nothing."""
    return _gathered(_by_pcr(log, (index,))[index], bank)


def _by_pcr(log: EventLog, indices: Sequence[int]) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = {index: [] for index in indices}
    for event in log.events:
        if event.pcr in found and event.type != _NO_ACTION:
            found[event.pcr].append(event)
    return found


def _gathered(events: Sequence[Event], bank: str) -> Extended:
    digests = tuple(event.digests.get(bank, b"") for event in events)
    closed = bool(digests) and digests[-1] in _separators(bank)
    kept = digests[:-1] if closed else digests
    return Extended(events=tuple(events), digests=kept, distinct=frozenset(kept), closed=closed)


@lru_cache(maxsize=16)
def _separators(bank: str) -> frozenset[bytes]:
    return frozenset(hashlib.new(bank, content).digest() for content in _SEPARATORS)


def _all(case: _Case, outcome: Outcome, digest: bytes, source: str) -> CheckedFirmware:
    outcomes = dict.fromkeys(case.indices, outcome)
    return CheckedFirmware(outcomes=outcomes, digest=digest, source=source)


def _unknown(entry: FirmwareEntry, case: _Case) -> list[int]:
    """List the PCRs that an entry does not explain in every quoted bank."""
    banks = case.measured.values
    return [
        index
        for index in case.indices
        if not banks or not all(_explains(entry, case, bank, index) for bank in banks)
    ]


def _explains(entry: FirmwareEntry, case: _Case, bank: str, index: int) -> bool:
    value = case.measured.values[bank].get(index)
    if value is None:
        return False
    if entry.values.get(bank, {}).get(index) == value:
        return True
    known = entry.events.get(bank, {}).get(index)
    seen = case.extended.get((bank, index))
    if known is None or seen is None or not seen.closed:
        return False
    if index not in _REPEATED and len(seen.distinct) < len(seen.digests):
        return False
    return seen.distinct == known if index in _COMPLETE else seen.distinct <= known


def _held(
    case: _Case, baseline: Baseline, entries: Sequence[FirmwareEntry], digest: bytes
) -> CheckedFirmware:
    """Make the one finding, with the entry that comes nearest."""
    relatives = [entry for entry in baseline.entries if _same_model(entry.machine, case.machine)]
    ranked = sorted(entries or relatives, key=lambda entry: _distance(entry, case))
    nearest = ranked[0] if ranked else None
    unknown = list(case.indices) if nearest is None else _unknown(nearest, case)
    finding = Finding(
        reason=Reason.FIRMWARE_UNKNOWN,
        detail="; ".join(_details(case, relatives, nearest, unknown)),
        told=_told(case.machine, relatives, bool(entries), bool(unknown)),
    )
    known = set(case.indices) - set(unknown) if entries and unknown else set()
    outcomes = {
        index: Outcome.BASELINE if index in known else Outcome.UNKNOWN for index in case.indices
    }
    return CheckedFirmware(findings=(finding,), outcomes=outcomes, digest=digest)


def _distance(entry: FirmwareEntry, case: _Case) -> tuple[int, int]:
    return len(_unknown(entry, case)), len(case.measured.keys - entry.keys)


def _same_model(one: Machine, other: Machine | None) -> bool:
    return other is not None and (one.vendor, one.model) == (other.vendor, other.model)


def _told(
    machine: Machine | None, relatives: Sequence[FirmwareEntry], same: bool, unknown: bool
) -> str:
    if machine is None:
        return "The box does not say which firmware it runs, so nobody can know it."
    name = f"{machine.vendor} {machine.model}"
    if not relatives:
        return f"No firmware of this model ({name}) is known to headquarters yet."
    if not same:
        return f"The firmware version {machine.version} of this model ({name}) was not seen before."
    if unknown:
        return (
            f"The firmware of this box says that it is version {machine.version} of this model"
            f" ({name}), but is not what headquarters knows by that name."
        )
    return (
        f"The Secure Boot keys of this box are not those that headquarters knows of its model"
        f" ({name})."
    )


def _details(
    case: _Case,
    relatives: Sequence[FirmwareEntry],
    nearest: FirmwareEntry | None,
    unknown: Sequence[int],
) -> Iterator[str]:
    yield f"PCR {', '.join(map(str, unknown))}" if unknown else "values known, keys not"
    if case.machine is not None:
        yield f"the box says {_name(case.machine)}"
    if nearest is not None:
        versions = sorted({entry.machine.version for entry in relatives})
        more = ", …" if len(versions) > _SHOWN_VERSIONS else ""
        yield f"known on this model: {', '.join(versions[:_SHOWN_VERSIONS])}{more}"
        yield f"nearest: version {nearest.machine.version}"
        strange = case.measured.keys - nearest.keys
        if strange:
            yield f"{len(strange)} key certificates not in it, {min(strange).hex()} first"
    for index in unknown:
        yield from _of_pcr(case, nearest, index)


def _name(machine: Machine) -> str:
    return f"{machine.vendor} {machine.model} {machine.version}"


def _of_pcr(case: _Case, nearest: FirmwareEntry | None, index: int) -> Iterator[str]:
    """Describe what one PCR holds that the nearest entry does not have."""
    banks = sorted(case.measured.values)
    if nearest is not None:
        lacking = [bank for bank in banks if not _speaks(nearest, bank, index)]
        if lacking:
            yield f"PCR {index}: the entry has nothing for {', '.join(lacking)}"
    bank = max(banks, default="")
    seen = case.extended.get((bank, index))
    if seen is None:
        return
    if not seen.closed:
        yield f"PCR {index} does not end with its separator"
    known = {} if nearest is None else nearest.events.get(bank, {})
    events = [
        event
        for event, digest in zip(seen.events, seen.digests, strict=False)
        if digest not in known.get(index, ())
    ]
    if events:
        word = "new" if index in known else "measured"
        shown = ", ".join(_event_text(event, bank) for event in events[:_SHOWN])
        rest = f" and {len(events) - _SHOWN} more" if len(events) > _SHOWN else ""
        yield f"{word} in PCR {index}: {shown}{rest}"


def _speaks(entry: FirmwareEntry, bank: str, index: int) -> bool:
    return index in entry.values.get(bank, {}) or index in entry.events.get(bank, {})


def _event_text(event: Event, bank: str) -> str:
    claim = _claim(event)
    told = f" (calls itself {claim!r})" if claim else ""
    return f"{type_name(event.type)} {event.digests.get(bank, b'').hex()}{told}"


def _claim(event: Event) -> str:
    """Give what the log says an event was, where that is text; nothing proves it."""
    if event.type in _DRIVERS:
        try:
            return device_path_text(ImageLoad.decode(event.data).path)[:MAX_CLAIM]
        except EvidenceError:
            return ""
    text = event.data[: 4 * MAX_CLAIM].replace(b"\0", b"")
    if not text.isascii() or not text.decode("ascii").isprintable():
        return ""
    return text.decode("ascii")[:MAX_CLAIM]
