"""PCR values that follow from an event log.

It only computes; whether the values are those that a TPM signed is the caller's comparison.
TCG PC Client Platform Firmware Profile 1.06, sections 3.3 (PCR use) and 10.4.5 (EV_NO_ACTION).
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from attest.errors import EvidenceError
from attest.eventlog import PCR_COUNT, EventLog, EventType

MISSING_EXIT_EVENTS = "missing ExitBootServices events in PCR 5"
"""Kernels before 5.3 leave out the final events table (TCG EFI Protocol 7), and some firmware."""

# SM3 is left out: OpenSSL may be built without it, and a verdict must not hang on that.
_HASHES: Mapping[str, Callable[[bytes], Any]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    "sha3_256": hashlib.sha3_256,
    "sha3_384": hashlib.sha3_384,
    "sha3_512": hashlib.sha3_512,
}
_NO_ACTION = int(EventType.NO_ACTION)
_INVOCATION = b"Exit Boot Services Invocation"
_FAILURE = b"Exit Boot Services Returned with Failure"
_SUCCESS = b"Exit Boot Services Returned with Success"
# Firmware may refuse the first call (go-attestation, eventlog_workarounds.go).
_ENDINGS = (
    (_INVOCATION, _SUCCESS),
    (_INVOCATION, _FAILURE),
    (_INVOCATION, _FAILURE, _SUCCESS),
)
# PCRs of a dynamic launch stand at all ones until one happens (TCG PTP 1.05, table 7).
_DYNAMIC = range(17, 23)


def hash_of(bank: str) -> Callable[[bytes], Any]:
    """Give the hash of a bank as a function; raise EvidenceError where there is none here."""
    found = _HASHES.get(bank)
    if found is None:
        raise EvidenceError(f"no {bank} digests are computed here")
    return found


def extend(value: bytes, digest: bytes, bank: str) -> bytes:
    """Give the PCR value after one TPM2_PCR_Extend."""
    return bytes(hash_of(bank)(value + digest).digest())


@lru_cache(maxsize=256)
def start_value(pcr: int, bank: str, startup_locality: int | None = None) -> bytes:
    """Give the value of a PCR right after TPM2_Startup(CLEAR), or after an H-CRTM (locality 4)."""
    size: int = hash_of(bank)(b"").digest_size
    if pcr in _DYNAMIC:
        return b"\xff" * size
    if pcr == 0 and startup_locality:
        return bytes(size - 1) + bytes([startup_locality])
    return bytes(size)


def has_exit_events(log: EventLog, bank: str) -> bool:
    """Tell whether the log says that the operating system took over."""
    invocation = hash_of(bank)(_INVOCATION).digest()
    return any(
        event.digests.get(bank) == invocation
        for event in log.events
        if event.pcr == 5 and event.type != _NO_ACTION
    )


def values_with_exit_events(value: bytes, bank: str) -> tuple[bytes, ...]:
    """Give the values of PCR 5 after what firmware measures when it hands over (PFP 10.4.4)."""
    found = []
    for texts in _ENDINGS:
        reached = value
        for text in texts:
            reached = extend(reached, hash_of(bank)(text).digest(), bank)
        found.append(reached)
    return tuple(found)


def pcr_5_with_exit_events(log: EventLog, bank: str) -> bytes | None:
    """Give PCR 5 as it is where the kernel did not append the ExitBootServices events to the log.

    None where the log has them. A value reached only so is a workaround to be named in the result
    (MISSING_EXIT_EVENTS).
    """
    if has_exit_events(log, bank):
        return None
    return values_with_exit_events(replay(log, bank)[5], bank)[0]


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """Give all 24 PCR values of `bank`; raise EvidenceError if an event lacks its digest."""
    if bank not in {known.name for known in log.banks}:
        raise EvidenceError(f"the event log has no {bank} digests")
    make = hash_of(bank)
    start = log.start_of_pcr_0
    values = {pcr: start_value(pcr, bank, start) for pcr in range(PCR_COUNT)}
    for event in log.events:
        if event.type == _NO_ACTION:
            continue
        pcr = event.pcr
        digest = event.digests.get(bank)
        if digest is None:
            raise EvidenceError(f"an event of PCR {pcr} lacks its {bank} digest")
        values[pcr] = make(values[pcr] + digest).digest()
    return values
