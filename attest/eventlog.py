"""The boot event log of a box, as its firmware and boot programs wrote it.

Both wire forms are read: the SHA-1 form of TPM 1.2 times and the crypto-agile form.
Nothing in here is trusted: types and data are claims; only digests that replay to quoted values
count. What honest firmware does wrong is read only where it has a name in `workarounds`.
It never interprets event data, apart from the two EV_NO_ACTION events that steer decoding.
TCG PC Client Platform Firmware Profile 1.06, section 10 (event logging).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from operator import itemgetter

from attest.errors import EvidenceError

MAX_LOG = 8 << 20
MAX_EVENTS = 50_000
MAX_BANKS = 16
MAX_DIGEST = 128
PCR_COUNT = 24

PADDED_LOCALITY = "StartupLocality event padded with zeros"
"""coreboot writes entries of one size (Dasharo/coreboot #699)."""
VIRTUAL_PCR = "EV_NO_ACTION in the virtual PCR -1"
"""The boot manager of Windows logs what belongs to no PCR there (grawity/tpm_futurepcr)."""

_NO_ACTION = 3
_VIRTUAL = 0xFFFFFFFF
_SPEC_ID_AGILE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_LEGACY = struct.Struct("<II20sI")
_HEAD = struct.Struct("<III")
# TCG Algorithm Registry 1.34, table 3: identifier, name and digest size of each hash.
_ALGORITHMS = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3_256", 32),
    0x0027: ("sha3_256", 32),
    0x0028: ("sha3_384", 48),
    0x0029: ("sha3_512", 64),
}


class LogFormat(Enum):
    """The two wire forms of TCG PFP 10.2.1."""

    SHA1 = "sha1"
    CRYPTO_AGILE = "crypto-agile"


class EventType(IntEnum):
    """Event types of TCG PFP 10.4.1; an unknown number stays a plain int."""

    PREBOOT_CERT = 0x0
    POST_CODE = 0x1
    NO_ACTION = 0x3
    SEPARATOR = 0x4
    ACTION = 0x5
    EVENT_TAG = 0x6
    S_CRTM_CONTENTS = 0x7
    S_CRTM_VERSION = 0x8
    CPU_MICROCODE = 0x9
    PLATFORM_CONFIG_FLAGS = 0xA
    TABLE_OF_DEVICES = 0xB
    COMPACT_HASH = 0xC
    IPL = 0xD
    IPL_PARTITION_DATA = 0xE
    NONHOST_CODE = 0xF
    NONHOST_CONFIG = 0x10
    NONHOST_INFO = 0x11
    OMIT_BOOT_DEVICE_EVENTS = 0x12
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EFI_HANDOFF_TABLES2 = 0x8000000B
    EFI_VARIABLE_BOOT2 = 0x8000000C
    EFI_GPT_EVENT2 = 0x8000000D
    EFI_HCRTM_EVENT = 0x80000010
    EFI_VARIABLE_AUTHORITY = 0x800000E0
    EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """One hash for which the log declares digests; `size` in bytes.

    A hash that the registry did not know has its number as name: the log tells its size so that the
    other banks can be read all the same (PFP 10.4.5.1).
    """

    name: str
    algorithm: int
    size: int

    @property
    def known(self) -> bool:
        """Tell whether the registry knows the hash."""
        return self.algorithm in _ALGORITHMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record; `digests` is keyed by bank name, `data` is whatever the writer put there."""

    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes


# Events are filled through their slots: the __init__ of a frozen class takes more than half of the
# time of the longest log that is read, and that is to stay below a tenth of a second.
_set_pcr, _set_type, _set_digests, _set_data = (
    Event.__dict__[name].__set__ for name in Event.__slots__
)


def _event(pcr: int, event_type: int, digests: Mapping[str, bytes], data: bytes) -> Event:
    event = Event.__new__(Event)
    _set_pcr(event, pcr)
    _set_type(event, event_type)
    _set_digests(event, digests)
    _set_data(event, data)
    return event


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A decoded log in its order; `startup_locality` is None where the log names none.

    `workarounds` names what honest firmware does wrong and was read all the same.
    """

    format: LogFormat
    banks: tuple[Bank, ...]
    events: tuple[Event, ...]
    startup_locality: int | None
    workarounds: tuple[str, ...] = ()

    @property
    def hcrtm(self) -> bool:
        """Tell whether PCR 0 begins with an H-CRTM, which starts it at 4 (Library, Part 1, 34)."""
        for event in self.events:
            if event.pcr == 0 and event.type != _NO_ACTION:
                return event.type == EventType.EFI_HCRTM_EVENT
        return False

    @property
    def start_of_pcr_0(self) -> int:
        """Give the last byte of PCR 0 before its first event (PFP 10.4.5.3)."""
        return 4 if self.hcrtm else self.startup_locality or 0


def type_name(event_type: int) -> str:
    """Give the EV_ name of a type, or its number in hexadecimal."""
    try:
        return f"EV_{EventType(event_type).name}"
    except ValueError:
        return f"0x{event_type:08x}"


def decode(data: bytes) -> EventLog:
    """Decode a whole log; raise EvidenceError, with the offset, on anything that is not one."""
    if len(data) > MAX_LOG:
        raise EvidenceError(f"the event log is larger than {MAX_LOG} bytes")
    first, offset = _legacy_event(data, 0)
    is_header = first.pcr == 0 and first.type == _NO_ACTION
    # Logs are read out of fixed buffers that firmware filled with FF or 00 beforehand.
    end = min(len(data.rstrip(b"\xff")), len(data.rstrip(b"\0")))
    events = [first]
    if is_header and first.data.startswith(_SPEC_ID_AGILE):
        banks = _spec_id(first.data)
        _agile_events(data, offset, end, banks, events)
        log_format = LogFormat.CRYPTO_AGILE
    else:
        banks = (Bank(name="sha1", algorithm=4, size=20),)
        _legacy_events(data, offset, end, events)
        log_format = LogFormat.SHA1
    remarks = [event for event in events if event.type == _NO_ACTION]
    locality, workarounds = _startup_locality(remarks)
    if any(event.pcr == _VIRTUAL for event in remarks):
        workarounds.append(VIRTUAL_PCR)
    return EventLog(
        format=log_format,
        banks=banks,
        events=tuple(events),
        startup_locality=locality,
        workarounds=tuple(workarounds),
    )


def _cut_off(offset: int) -> EvidenceError:
    return EvidenceError(f"the event log is cut off in the event at offset {offset}")


def _check_pcr(pcr: int, event_type: int, offset: int) -> None:
    if pcr >= PCR_COUNT and (pcr != _VIRTUAL or event_type != _NO_ACTION):
        raise EvidenceError(f"the event at offset {offset} names PCR {pcr}, which does not exist")


def _too_many() -> EvidenceError:
    return EvidenceError(f"the event log holds more than {MAX_EVENTS} events")


def _legacy_event(data: bytes, offset: int) -> tuple[Event, int]:
    """Read a TCG_PCClientPCREvent (PFP 10.2.1); give it and the offset behind it."""
    start = offset + _LEGACY.size
    if start > len(data):
        raise _cut_off(offset)
    pcr, event_type, digest, size = _LEGACY.unpack_from(data, offset)
    _check_pcr(pcr, event_type, offset)
    if size > len(data) - start:
        raise _cut_off(offset)
    end = start + size
    return _event(pcr, event_type, {"sha1": digest}, data[start:end]), end


def _legacy_events(data: bytes, offset: int, end: int, events: list[Event]) -> None:
    while offset < end:
        if len(events) >= MAX_EVENTS:
            raise _too_many()
        event, offset = _legacy_event(data, offset)
        events.append(event)


def _agile_events(
    data: bytes, offset: int, end: int, banks: tuple[Bank, ...], events: list[Event]
) -> None:
    """Read each TCG_PCR_EVENT2 (PFP 10.2.2), mostly with all digests in the order of the header."""
    layout = struct.Struct("<III" + "".join(f"H{bank.size}s" for bank in banks) + "I")
    expected = (len(banks), *(bank.algorithm for bank in banks))
    # The count stands before the first algorithm, a digest behind each.
    heads = itemgetter(2, *range(3, 3 + 2 * len(banks), 2))
    names = [bank.name for bank in banks]
    total, size_of = len(data), layout.size
    while offset < end:
        if len(events) >= MAX_EVENTS:
            raise _too_many()
        start = offset + size_of
        fields = layout.unpack_from(data, offset) if start <= total else ()
        if fields and heads(fields) == expected:
            pcr, event_type, size = fields[0], fields[1], fields[-1]
            digests = dict(zip(names, fields[4::2], strict=True))
        else:
            pcr, event_type, digests, size, start = _agile_head(data, offset, banks)
        if pcr >= PCR_COUNT:
            _check_pcr(pcr, event_type, offset)
        if size > total - start:
            raise _cut_off(offset)
        offset = start + size
        events.append(_event(pcr, event_type, digests, data[start:offset]))


def _agile_head(
    data: bytes, offset: int, banks: tuple[Bank, ...]
) -> tuple[int, int, dict[str, bytes], int, int]:
    """Read PCR, type, digests and size of an event with digests in any order, or fewer of them.

    Gives the offset of the data too; where that lies behind the end, the event is cut off.
    """
    at = offset + _HEAD.size
    if at > len(data):
        raise _cut_off(offset)
    pcr, event_type, count = _HEAD.unpack_from(data, offset)
    _check_pcr(pcr, event_type, offset)
    if count > len(banks):
        raise EvidenceError(
            f"the event at offset {offset} has {count} digests, the log declares {len(banks)}"
        )
    known = {bank.algorithm: bank for bank in banks}
    digests: dict[str, bytes] = {}
    for _ in range(count):
        bank = known.get(int.from_bytes(data[at : at + 2], "little"))
        if bank is None or bank.name in digests:
            raise EvidenceError(
                f"the event at offset {offset} has a digest that the log does not declare"
            )
        digests[bank.name] = data[at + 2 : at + 2 + bank.size]
        at += 2 + bank.size
    return pcr, event_type, digests, int.from_bytes(data[at : at + 4], "little"), at + 4


def _spec_id(data: bytes) -> tuple[Bank, ...]:
    """Read the banks of a TCG_EfiSpecIDEvent (PFP 10.4.5.1)."""
    offset = len(_SPEC_ID_AGILE) + 8
    try:
        (count,) = struct.unpack_from("<I", data, offset)
        if not 0 < count <= MAX_BANKS:
            raise EvidenceError(f"the event log declares {count} banks")
        pairs = [struct.unpack_from("<HH", data, offset + 4 + 4 * i) for i in range(count)]
        vendor_offset = offset + 4 + 4 * count
        vendor_end = vendor_offset + 1 + data[vendor_offset]
    except (struct.error, IndexError) as error:
        raise EvidenceError("the header of the event log is cut off") from error
    if vendor_end != len(data):
        raise EvidenceError("the header of the event log has a wrong size")
    return _banks(pairs)


def _banks(pairs: list[tuple[int, int]]) -> tuple[Bank, ...]:
    banks: list[Bank] = []
    for algorithm, size in pairs:
        name, known_size = _ALGORITHMS.get(algorithm, (f"0x{algorithm:04x}", size))
        if size != known_size or not 0 < size <= MAX_DIGEST:
            raise EvidenceError(f"the event log declares {name} digests of {size} bytes")
        if any(bank.name == name for bank in banks):
            raise EvidenceError(f"the event log declares {name} twice")
        banks.append(Bank(name=name, algorithm=algorithm, size=size))
    return tuple(banks)


def _startup_locality(remarks: Sequence[Event]) -> tuple[int | None, list[str]]:
    """Find the locality of TPM2_Startup (PFP 10.4.5.3), which sets the start value of PCR 0."""
    found: int | None = None
    workarounds: list[str] = []
    place = len(_STARTUP_LOCALITY)
    for event in remarks:
        if not event.data.startswith(_STARTUP_LOCALITY):
            continue
        if found is not None or event.pcr != 0 or len(event.data) == place:
            raise EvidenceError("the event log names the startup locality twice or wrongly")
        if any(event.data[place + 1 :]):
            raise EvidenceError("the event log names more than a startup locality in its event")
        found = event.data[place]
        if len(event.data) > place + 1:
            workarounds.append(PADDED_LOCALITY)
        if found not in (0, 3, 4):
            raise EvidenceError(f"the event log names the impossible startup locality {found}")
    return found, workarounds
