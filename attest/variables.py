"""Where a box's key databases come from: its own log, proven by digest, or a variable store.

A log is believed only as far as each record hashes to its measured digest; the caller still
compares the replay with a quote. It never says whether a key is a good one.
TCG PFP 1.06, 3.3.4.8 (PCR 7); UEFI 2.10, 32.3; EDK II `VariableFormat.h` for the store.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import Event, EventLog, EventType, type_name
from attest.logrules import proves
from attest.uefi import EFI_GLOBAL, IMAGE_SECURITY, SHIM_LOCK, Variable

DATABASES = (
    ("SecureBoot", EFI_GLOBAL),
    ("PK", EFI_GLOBAL),
    ("KEK", EFI_GLOBAL),
    ("db", IMAGE_SECURITY),
    ("dbx", IMAGE_SECURITY),
)
"""The variables that every firmware measures, in this order."""

_SEPARATOR = bytes(4)
_NO_ACTION = int(EventType.NO_ACTION)
_CONFIG = int(EventType.EFI_VARIABLE_DRIVER_CONFIG)
_AUTHORITY = int(EventType.EFI_VARIABLE_AUTHORITY)
_REMARKS = (
    EventType.EFI_ACTION,
    EventType.EFI_SPDM_DEVICE_POLICY,
    EventType.EFI_SPDM_DEVICE_AUTHORITY,
)
_STORE_GUID = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_ENABLE_GUID = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
_MAX_STORE = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBootVariables:
    """Key databases of a box: raw variable contents (signature lists; empty if not there).

    `others` are further variables that the firmware measures before the separator, and
    `authorities` those of drivers that it started before it. `sbat_level` counts only where it is
    newer than the one that shim brings. `before` is the data of every event before the separator
    in its order, where not all of them are variables; else it is empty.
    """

    secure_boot: bool
    pk: bytes
    kek: bytes
    db: bytes
    dbx: bytes
    others: tuple[Variable, ...] = ()
    authorities: tuple[Variable, ...] = ()
    sbat_level: bytes | None = None
    before: tuple[bytes, ...] = ()


def variables_from_log(log: EventLog, bank: str) -> SecureBootVariables:
    """Read the databases that PCR 7's own digests prove; raise EvidenceError on any oddity."""
    before, after = _split(
        [event for event in log.events if event.pcr == 7 and event.type != _NO_ACTION],
        bank,
    )
    configs = [_proven(event, bank) for event in before if event.type == _CONFIG]
    authorities = [_proven(event, bank) for event in before if event.type == _AUTHORITY]
    remarks = [event for event in before if event.type not in (_CONFIG, _AUTHORITY)]
    for event in remarks:
        _check_remark(event, bank)
    if any(event.type != _AUTHORITY for event in after):
        raise EvidenceError("PCR 7 holds more than authorities after its separator")
    levels = _levels(after, bank)
    names = [(variable.name, variable.guid) for variable in configs]
    if len(set(names)) != len(names):
        raise EvidenceError("PCR 7 holds a variable twice")
    if tuple(names[: len(DATABASES)]) != DATABASES:
        raise EvidenceError("PCR 7 does not begin with SecureBoot, PK, KEK, db and dbx")
    return SecureBootVariables(
        secure_boot=_secure_boot(configs[0].data),
        pk=configs[1].data,
        kek=configs[2].data,
        db=configs[3].data,
        dbx=configs[4].data,
        others=tuple(configs[len(DATABASES) :]),
        authorities=tuple(authorities),
        sbat_level=levels[0] if len(levels) == 1 else None,
        before=tuple(event.data for event in before) if remarks else (),
    )


def _check_remark(event: Event, bank: str) -> None:
    """Refuse all but what firmware says of itself and of devices; `attest.logrules` reads it."""
    if event.type not in _REMARKS or not proves(event, bank, event.data):
        raise EvidenceError(f"PCR 7 holds an event of type {type_name(event.type)}")


def _split(events: list[Event], bank: str) -> tuple[list[Event], list[Event]]:
    """Cut at the one separator; a second, an error value or none is refused."""
    places = [at for at, event in enumerate(events) if event.type == EventType.SEPARATOR]
    if len(places) != 1:
        raise EvidenceError("PCR 7 does not hold exactly one plain separator")
    # coreboot pads the data; what was measured is four zeros all the same.
    separator = events[places[0]]
    if any(separator.data) or not proves(separator, bank, _SEPARATOR):
        raise EvidenceError("PCR 7 does not hold exactly one plain separator")
    return events[: places[0]], events[places[0] + 1 :]


def _proven(event: Event, bank: str) -> Variable:
    if not proves(event, bank, event.data):
        raise EvidenceError("a variable in PCR 7 does not hash to its measured digest")
    return Variable.decode(event.data)


def _levels(events: list[Event], bank: str) -> list[bytes]:
    """Find the proven SbatLevel; other authorities are left to the comparison."""
    found = []
    for event in events:
        try:
            variable = _proven(event, bank)
        except EvidenceError:
            continue
        if (variable.name, variable.guid) == ("SbatLevel", SHIM_LOCK):
            found.append(variable.data)
    return found


def _secure_boot(value: bytes) -> bool:
    if value not in (b"\0", b"\1"):
        raise EvidenceError("the log does not say whether Secure Boot is on")
    return value == b"\1"


def variables_from_store(data: bytes) -> SecureBootVariables:
    """Read an EDK II variable store file; raise AttestSiteError."""
    if len(data) > _MAX_STORE:
        raise AttestSiteError("the variable store is too large")
    found = _store_variables(data)
    contents = {name: found.get((name, guid), b"") for name, guid in DATABASES}
    enable = found.get(("SecureBootEnable", _ENABLE_GUID), b"\1")
    return SecureBootVariables(
        secure_boot=bool(contents["PK"]) and enable == b"\1",
        pk=contents["PK"],
        kek=contents["KEK"],
        db=contents["db"],
        dbx=contents["dbx"],
        sbat_level=found.get(("SbatLevel", SHIM_LOCK)),
    )


def _store_variables(data: bytes) -> Mapping[tuple[str, UUID], bytes]:
    """Walk the authenticated variables that are in state "added"."""
    found: dict[tuple[str, UUID], bytes] = {}
    try:
        if data[40:44] != b"_FVH":
            raise AttestSiteError("the file is not a variable store")
        (header,) = struct.unpack_from("<H", data, 48)
        if UUID(bytes_le=data[header : header + 16]) != _STORE_GUID:
            raise AttestSiteError("the variable store is of an unknown kind")
        (size,) = struct.unpack_from("<I", data, header + 16)
        at, end = header + 28, min(header + size, len(data))
        while at + 60 <= end and data[at : at + 2] == b"\xaa\x55":
            name_size, data_size = struct.unpack_from("<II", data, at + 36)
            start = at + 60 + name_size
            if start + data_size > end:
                raise AttestSiteError("the variable store is malformed")
            if data[at + 2] == 0x3F:
                guid = UUID(bytes_le=data[at + 44 : at + 60])
                name = data[at + 60 : start].decode("utf-16-le").rstrip("\0")
                found[name, guid] = data[start : start + data_size]
            at = (start + data_size + 3) & ~3
    except (struct.error, ValueError) as error:
        raise AttestSiteError("the variable store is malformed") from error
    return found
