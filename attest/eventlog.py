"""The boot event log of a box, as its firmware and boot programs wrote it.

Both wire forms are read: the SHA-1 form of TPM 1.2 times and the crypto-agile form.
Nothing in here is trusted: types and data are claims; only digests that replay to quoted values
count.
It never interprets event data, apart from the two EV_NO_ACTION events that steer decoding.
TCG PC Client Platform Firmware Profile 1.06, section 10 (event logging).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

from attest.errors import EvidenceError

MAX_LOG = 8 << 20
MAX_EVENTS = 65536
MAX_BANKS = 16
PCR_COUNT = 24

_SPEC_ID_AGILE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """One hash for which the log declares digests; `size` in bytes."""

    name: str
    algorithm: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record; `digests` is keyed by bank name, `data` is whatever the writer put there."""

    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A decoded log in its order; `startup_locality` is None where the log names none."""

    format: LogFormat
    banks: tuple[Bank, ...]
    events: tuple[Event, ...]
    startup_locality: int | None


def type_name(event_type: int) -> str:
    """Give the EV_ name of a type, or its number in hexadecimal."""
    try:
        return f"EV_{EventType(event_type).name}"
    except ValueError:
        return f"0x{event_type:08x}"


def decode(data: bytes) -> EventLog:
    """Decode a whole log; raise EvidenceError on anything that is not one."""
    if len(data) > MAX_LOG:
        raise EvidenceError(f"the event log is larger than {MAX_LOG} bytes")
    reader = _Reader(data)
    first = _legacy_event(reader)
    is_header = first.pcr == 0 and first.type == EventType.NO_ACTION
    if is_header and first.data.startswith(_SPEC_ID_AGILE):
        banks = _spec_id(first.data)
        events = (first, *_events(reader, {bank.algorithm: bank for bank in banks}))
        log_format = LogFormat.CRYPTO_AGILE
    else:
        banks = (Bank(name="sha1", algorithm=4, size=20),)
        events = (first, *_events(reader, None))
        log_format = LogFormat.SHA1
    return EventLog(
        format=log_format, banks=banks, events=events, startup_locality=_startup_locality(events)
    )


class _Reader:
    """A cursor over the log that refuses to run past its end."""

    __slots__ = ("_data", "_end", "offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        # Logs are read out of fixed buffers that firmware filled with FF or 00 beforehand.
        self._end = min(len(data.rstrip(b"\xff")), len(data.rstrip(b"\0")))
        self.offset = 0

    def at_end(self) -> bool:
        """Tell whether only padding of one kind is left."""
        return self.offset >= self._end

    def take(self, size: int) -> bytes:
        """Give the next `size` bytes."""
        end = self.offset + size
        if end > len(self._data):
            raise EvidenceError(f"the event log is cut off at offset {self.offset}")
        part = self._data[self.offset : end]
        self.offset = end
        return part

    def u16(self) -> int:
        """Give the next little-endian 16 bits."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Give the next little-endian 32 bits."""
        return int.from_bytes(self.take(4), "little")


def _events(reader: _Reader, banks: Mapping[int, Bank] | None) -> Iterator[Event]:
    count = 1
    while not reader.at_end():
        count += 1
        if count > MAX_EVENTS:
            raise EvidenceError(f"the event log holds more than {MAX_EVENTS} events")
        yield _legacy_event(reader) if banks is None else _agile_event(reader, banks)


def _checked_pcr(reader: _Reader) -> int:
    pcr = reader.u32()
    if pcr >= PCR_COUNT:
        raise EvidenceError(f"the event log names PCR {pcr}, which does not exist")
    return pcr


def _legacy_event(reader: _Reader) -> Event:
    """Read a TCG_PCClientPCREvent (PFP 10.2.1)."""
    pcr = _checked_pcr(reader)
    event_type = reader.u32()
    digest = reader.take(20)
    return Event(pcr=pcr, type=event_type, digests={"sha1": digest}, data=reader.take(reader.u32()))


def _agile_event(reader: _Reader, banks: Mapping[int, Bank]) -> Event:
    """Read a TCG_PCR_EVENT2 (PFP 10.2.2)."""
    pcr = _checked_pcr(reader)
    event_type = reader.u32()
    count = reader.u32()
    if count > len(banks):
        raise EvidenceError(f"an event of PCR {pcr} has {count} digests, the log declares fewer")
    digests: dict[str, bytes] = {}
    for _ in range(count):
        bank = banks.get(reader.u16())
        if bank is None or bank.name in digests:
            raise EvidenceError(f"an event of PCR {pcr} has a digest that the log does not declare")
        digests[bank.name] = reader.take(bank.size)
    return Event(pcr=pcr, type=event_type, digests=digests, data=reader.take(reader.u32()))


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
        name, known_size = _ALGORITHMS.get(algorithm, ("", 0))
        if not name:
            raise EvidenceError(f"the event log declares the unknown hash 0x{algorithm:04x}")
        if size != known_size:
            raise EvidenceError(f"the event log declares {name} digests of {size} bytes")
        if any(bank.name == name for bank in banks):
            raise EvidenceError(f"the event log declares {name} twice")
        banks.append(Bank(name=name, algorithm=algorithm, size=size))
    return tuple(banks)


def _startup_locality(events: tuple[Event, ...]) -> int | None:
    """Find the locality of TPM2_Startup (PFP 10.4.5.3), which sets the start value of PCR 0."""
    found: int | None = None
    for event in events:
        if event.type != EventType.NO_ACTION or not event.data.startswith(_STARTUP_LOCALITY):
            continue
        if found is not None or event.pcr != 0 or len(event.data) != len(_STARTUP_LOCALITY) + 1:
            raise EvidenceError("the event log names the startup locality twice or wrongly")
        found = event.data[-1]
        if found not in (0, 3, 4):
            raise EvidenceError(f"the event log names the impossible startup locality {found}")
    return found
