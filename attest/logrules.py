"""What may stand where in a boot event log, and which data must hash to its digest.

No digest covers an event's type, so a type is believed only where the PCR knows it and, for the
types below, the data hashes to the digest: then nothing was relabelled. What honest firmware does
wrong has a name and is told (`workarounds`). It needs no quoted value and never says whether a boot
was a good one; a finding says why a log may not be used as proof.
TCG PFP 1.06, 3.3.4 (PCR use), 10.4.1 (event types), 10.4.4 (EV_EFI_ACTION);
go-attestation, docs/event-log-disclosure.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType, type_name
from attest.reasons import Finding, Reason
from attest.replay import hash_of
from attest.uefi import Variable

BOOT_VALUE_ALONE = "VARIABLE_BOOT digest over the value alone"
"""EDK II and what is made from it; PFP 1.06 wants the whole record."""
AUTHORITY_LAST_BYTE = "shim AUTHORITY without its last byte"
"""Shims without commit 8a27a480 log one byte more than they measure (go-attestation #157)."""
PADDED_SEPARATOR = "EV_SEPARATOR data padded with zeros"
"""coreboot writes entries of one size (StarLabsLtd/firmware #437)."""
NOT_CALLED = "a program in PCR 4 without the Calling EFI Application action before it"
"""Firmware may leave the action out (PFP 10.4.4); the digest of the program counts all the same."""

FIRMWARE_PCRS = range(8)
SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff")
_ERROR = b"\1\0\0\0"
CALLING = b"Calling EFI Application from Boot Option"
DEBUG_MODE = b"UEFI Debug Mode"
NO_DMA_PROTECTION = b"DMA Protection Disabled"

MAX_FINDINGS = 32
_TEXT = re.compile(rb"[ -~]{1,128}\0?")
_NO_ACTION = int(EventType.NO_ACTION)
_SEPARATOR = int(EventType.SEPARATOR)
_CONFIG = int(EventType.EFI_VARIABLE_DRIVER_CONFIG)
_AUTHORITY = int(EventType.EFI_VARIABLE_AUTHORITY)
_EFI_ACTION = int(EventType.EFI_ACTION)
_BOOT = int(EventType.EFI_VARIABLE_BOOT)
PROGRAMS = frozenset(
    {
        int(EventType.EFI_BOOT_SERVICES_APPLICATION),
        int(EventType.EFI_BOOT_SERVICES_DRIVER),
        int(EventType.EFI_RUNTIME_SERVICES_DRIVER),
    }
)
"""Images; their digest is no hash of the data, which only claims a path."""
# What the profile lets into the two PCRs of which a verifier reads the events.
_BESIDE_PROGRAMS = frozenset(
    {_SEPARATOR, _EFI_ACTION, int(EventType.ACTION), int(EventType.OMIT_BOOT_DEVICE_EVENTS)}
)
_IN_PCR_7 = frozenset(
    {
        _CONFIG,
        _AUTHORITY,
        _EFI_ACTION,
        _SEPARATOR,
        int(EventType.EFI_SPDM_DEVICE_POLICY),
        int(EventType.EFI_SPDM_DEVICE_AUTHORITY),
    }
)
# Types whose data is what was measured, in whatever PCR.
_HASHED = frozenset({_CONFIG, _SEPARATOR, _EFI_ACTION, int(EventType.EFI_GPT_EVENT)})
# These configure; as the key that let a program start one could only be a relabelled event.
_NO_AUTHORITY = frozenset({"SecureBoot", "PK", "KEK", "dbx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EventChecks:
    """What the events of a log say against it, and the workarounds that were needed."""

    findings: tuple[Finding, ...]
    workarounds: tuple[str, ...]


def check_events(log: EventLog, banks: Sequence[str]) -> EventChecks:
    """Hold each event against the rules; `banks` are those whose digests are looked at."""
    walk = _Walk(banks=[(bank, hash_of(bank)) for bank in banks])
    for bank in log.banks:
        if not bank.known:
            walk.refuse(Reason.LOG_BANK, f"the log declares the unknown hash {bank.name}")
    for number, event in enumerate(log.events):
        if event.type != _NO_ACTION:
            _check_event(walk, number, event)
    workarounds = dict.fromkeys((*log.workarounds, *walk.workarounds))
    return EventChecks(findings=tuple(walk.findings), workarounds=tuple(workarounds))


def check_separators(log: EventLog, bank: str) -> Iterator[Finding]:
    """Every PCR of the firmware ends with a separator, or the operating system wrote it.

    One that tells an error ends it too: the firmware was there (see `check_events`).
    """
    allowed = _endings(bank)
    closed = {
        event.pcr
        for event in log.events
        if event.type == _SEPARATOR and event.digests.get(bank) in allowed
    }
    missing = [index for index in FIRMWARE_PCRS if index not in closed]
    if missing:
        detail = f"{bank}: PCR {', '.join(map(str, missing))} without separator"
        yield Finding(reason=Reason.BANK_UNEXTENDED, detail=detail)


@lru_cache(maxsize=16)
def _endings(bank: str) -> frozenset[bytes]:
    return frozenset(hash_of(bank)(content).digest() for content in (*SEPARATORS, _ERROR))


def banks_of(log: EventLog) -> tuple[str, ...]:
    """Name the banks of a log that can be computed here."""
    found = []
    for bank in log.banks:
        try:
            hash_of(bank.name)
        except EvidenceError:
            continue
        found.append(bank.name)
    return tuple(found)


def proves(event: Event, bank: str, content: bytes) -> bool:
    """Tell whether the measured digest is the hash of `content`."""
    return bool(hash_of(bank)(content).digest() == event.digests.get(bank))


def boot_value(event: Event) -> bytes | None:
    """Give the value in the record of a boot variable, None where it is no record."""
    try:
        return Variable.decode(event.data).data
    except EvidenceError:
        return None


@dataclass(slots=True, kw_only=True)
class _Walk:
    """What was seen so far."""

    banks: list[tuple[str, Callable[[bytes], Any]]]
    findings: list[Finding] = field(default_factory=list)
    workarounds: list[str] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)
    variables: set[tuple[str, UUID]] = field(default_factory=set)
    called: bool = False

    def refuse(self, reason: Reason, detail: str) -> None:
        """Note a finding; a hostile log could make one of each event."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(reason=reason, detail=detail))

    def differing(self, event: Event, content: bytes) -> list[str]:
        """Name the banks in which the digest is not the hash of `content`."""
        found: list[str] = []
        for bank, make in self.banks:
            digest = event.digests.get(bank)
            if digest is not None and make(content).digest() != digest:
                found.append(bank)
        return found


def _is_expected(event: Event) -> bool:
    if event.pcr == 4:
        return event.type in PROGRAMS or event.type in _BESIDE_PROGRAMS
    return event.pcr != 7 or event.type in _IN_PCR_7


def _measures_data(event: Event) -> bool:
    """Tell whether data and digest must agree: in PCR 4 for all but programs, in PCR 7 for all."""
    if event.pcr == 4:
        return event.type not in PROGRAMS
    return event.pcr == 7 or event.type in _HASHED


def _check_event(walk: _Walk, number: int, event: Event) -> None:
    if not _is_expected(event):
        walk.refuse(Reason.LOG_EVENT, f"event {number}: {type_name(event.type)} in PCR {event.pcr}")
        return
    measured = _check_digest(walk, number, event)
    if measured is None:
        return
    if event.pcr in FIRMWARE_PCRS and event.type == _SEPARATOR:
        _check_separator(walk, number, event)
    elif event.pcr == 7:
        _check_pcr_7(walk, number, event, measured)
    elif event.pcr == 4:
        _check_pcr_4(walk, number, event)
    # Lenovo's firmware calls its boot options in PCR 5.
    if event.pcr in (4, 5) and event.data == CALLING:
        walk.called = True


def _check_digest(walk: _Walk, number: int, event: Event) -> bytes | None:
    """Compare data with digests where they must agree; give the data that was measured, if so."""
    if event.type == _BOOT:
        _check_boot_variable(walk, event)
        return event.data
    if not _measures_data(event):
        return event.data
    differing = walk.differing(event, event.data)
    if not differing:
        return event.data
    measured, workaround = _shortened(event)
    if not walk.differing(event, measured):
        walk.workarounds.append(workaround)
        return measured
    walk.refuse(
        Reason.LOG_EVENT,
        f"event {number}: the data of {type_name(event.type)} in PCR {event.pcr} does not hash to"
        f" its digest ({', '.join(differing)})",
    )
    return None


def _shortened(event: Event) -> tuple[bytes, str]:
    """Give what firmware or shim may have measured of the data, and what that quirk is called."""
    if event.type == _AUTHORITY:
        return event.data[:-1], AUTHORITY_LAST_BYTE
    if event.type == _SEPARATOR and _is_padded(event.data):
        return event.data[:4], PADDED_SEPARATOR
    return event.data, ""


def _is_padded(data: bytes) -> bool:
    return data[:4] in SEPARATORS and not any(data[4:])


def _check_boot_variable(walk: _Walk, event: Event) -> None:
    """Name the workaround; what hashes to neither form is unproven, and PCR 1 never gates."""
    value = boot_value(event)
    if value is None or not walk.differing(event, event.data):
        return
    if not walk.differing(event, value):
        walk.workarounds.append(BOOT_VALUE_ALONE)


def _check_separator(walk: _Walk, number: int, event: Event) -> None:
    if not _is_padded(event.data):
        walk.refuse(
            Reason.LOG_EVENT, f"event {number}: the separator of PCR {event.pcr} tells an error"
        )
    if event.pcr in walk.closed:
        walk.refuse(Reason.LOG_EVENT, f"event {number}: a second separator in PCR {event.pcr}")
    walk.closed.add(event.pcr)


def _check_pcr_7(walk: _Walk, number: int, event: Event, measured: bytes) -> None:
    if event.type == _EFI_ACTION:
        _check_policy_action(walk, number, event)
        return
    try:
        variable, size = Variable.decode_beginning(measured)
        if size != len(event.data) and measured is event.data:
            raise EvidenceError("a UEFI variable record has a wrong size")
    except EvidenceError as error:
        walk.refuse(Reason.LOG_EVENT, f"event {number}: PCR 7: {error}")
        return
    if event.type == _CONFIG:
        _check_config(walk, number, variable)
    elif variable.name in _NO_AUTHORITY:
        walk.refuse(Reason.LOG_EVENT, f"event {number}: {variable.name} let no program start")


def _check_config(walk: _Walk, number: int, variable: Variable) -> None:
    key = (variable.name, variable.guid)
    if key in walk.variables:
        walk.refuse(Reason.LOG_EVENT, f"event {number}: {variable.name} stands in PCR 7 twice")
    if 7 in walk.closed:
        walk.refuse(
            Reason.LOG_EVENT, f"event {number}: {variable.name} stands after PCR 7's separator"
        )
    walk.variables.add(key)


def _check_policy_action(walk: _Walk, number: int, event: Event) -> None:
    """PFP 1.06, 3.3.4.8; Microsoft, Kernel DMA Protection for OEMs."""
    text = event.data.removesuffix(b"\0")
    if text == DEBUG_MODE:
        walk.refuse(Reason.FIRMWARE_DEBUG, f"event {number}: {DEBUG_MODE.decode()}")
    elif text == NO_DMA_PROTECTION:
        walk.refuse(Reason.DMA_PROTECTION_OFF, f"event {number}: {NO_DMA_PROTECTION.decode()}")
    else:
        walk.refuse(Reason.LOG_EVENT, f"event {number}: an unknown action in PCR 7")


def _check_pcr_4(walk: _Walk, number: int, event: Event) -> None:
    if event.type in PROGRAMS:
        if not walk.called:
            walk.workarounds.append(NOT_CALLED)
    elif not _is_text(event.data):
        # What a program's digest is made over would hash to it as well, but is no text.
        walk.refuse(Reason.LOG_EVENT, f"event {number}: an action in PCR 4 that is no text")


def _is_text(data: bytes) -> bool:
    return _TEXT.fullmatch(data) is not None
