"""Event logs as a test wants them: encoders for both wire forms (TCG PFP 1.06, section 10.2)."""

import struct
from collections.abc import Iterable

from attest.eventlog import Bank, Event, EventLog, LogFormat

SPEC_ID = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
SHA256 = Bank(name="sha256", algorithm=0x000B, size=32)


def header(pairs: Iterable[tuple[int, int]], *, vendor: bytes = b"\0") -> bytes:
    """Give the first event of a crypto-agile log that declares (algorithm, size) pairs."""
    pairs = list(pairs)
    data = SPEC_ID + struct.pack("<I", len(pairs))
    data += b"".join(struct.pack("<HH", *pair) for pair in pairs) + vendor
    return struct.pack("<II20sI", 0, 3, b"", len(data)) + data


def agile(pcr: int, kind: int, digests: Iterable[tuple[int, bytes]], data: bytes) -> bytes:
    """Give one event of a crypto-agile log."""
    digests = list(digests)
    body = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests)
    return struct.pack("<III", pcr, kind, len(digests)) + body + struct.pack("<I", len(data)) + data


def legacy(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    """Give one event of a SHA-1 log."""
    return struct.pack("<II20sI", pcr, kind, digest, len(data)) + data


def encode(log: EventLog) -> bytes:
    """Give the wire form of a log, the first event included."""
    first = log.events[0]
    start = legacy(first.pcr, first.type, first.digests["sha1"], first.data)
    if log.format is LogFormat.SHA1:
        rest = (legacy(e.pcr, e.type, e.digests["sha1"], e.data) for e in log.events[1:])
    else:
        numbers = {bank.name: bank.algorithm for bank in log.banks}
        rest = (
            agile(e.pcr, e.type, [(numbers[n], d) for n, d in e.digests.items()], e.data)
            for e in log.events[1:]
        )
    return start + b"".join(rest)


def with_events(log: EventLog, events: Iterable[Event]) -> EventLog:
    """Give the log with other events after its header."""
    return EventLog(
        format=log.format,
        banks=log.banks,
        events=(log.events[0], *events),
        startup_locality=log.startup_locality,
    )
