"""PCR values that follow from an event log.

It only computes; whether the values are those that a TPM signed is the caller's comparison.
TCG PC Client Platform Firmware Profile 1.06, sections 3.3 (PCR use) and 10.4.5 (EV_NO_ACTION).
"""

import hashlib

from attest.errors import EvidenceError
from attest.eventlog import PCR_COUNT, EventLog, EventType

_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_EXIT_EVENTS = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
# PCRs of a dynamic launch stand at all ones until one happens (TCG PTP 1.05, table 7).
_DYNAMIC = range(17, 23)


def extend(value: bytes, digest: bytes, bank: str) -> bytes:
    """Give the PCR value after one TPM2_PCR_Extend."""
    return hashlib.new(bank, value + digest).digest()


def start_value(pcr: int, bank: str, startup_locality: int | None = None) -> bytes:
    """Give the value of a PCR right after TPM2_Startup(CLEAR)."""
    size = _SIZES[bank]
    if pcr in _DYNAMIC:
        return b"\xff" * size
    if pcr == 0 and startup_locality:
        return bytes(size - 1) + bytes([startup_locality])
    return bytes(size)


def pcr_5_with_exit_events(log: EventLog, bank: str) -> bytes | None:
    """Give PCR 5 as it is where the kernel did not append the ExitBootServices events to the log.

    None where the log has them. A value reached only so is a workaround to be named in the result
    (kernels before 5.3 leave out the final events table, TCG EFI Protocol 7).
    """
    invocation = hashlib.new(bank, _EXIT_EVENTS[0]).digest()
    if any(event.digests.get(bank) == invocation for event in log.events if event.pcr == 5):
        return None
    value = replay(log, bank)[5]
    for text in _EXIT_EVENTS:
        value = extend(value, hashlib.new(bank, text).digest(), bank)
    return value


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """Give all 24 PCR values of `bank`; raise EvidenceError if an event lacks its digest."""
    if bank not in _SIZES or bank not in {known.name for known in log.banks}:
        raise EvidenceError(f"the event log has no {bank} digests")
    values = {pcr: start_value(pcr, bank, log.startup_locality) for pcr in range(PCR_COUNT)}
    for event in log.events:
        if event.type == EventType.NO_ACTION:
            continue
        digest = event.digests.get(bank)
        if digest is None:
            raise EvidenceError(f"an event of PCR {event.pcr} lacks its {bank} digest")
        values[event.pcr] = extend(values[event.pcr], digest, bank)
    return values
