"""Event logs as a test wants them: encoders for both wire forms (TCG PFP 1.06, section 10.2)."""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attest.eventlog import Bank, Event, EventLog, EventType, LogFormat

SPEC_ID = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
NUMBERS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is measured: `data` is logged, `content` was hashed (the data, if None).

    `silent`: measured and not logged. `told`: logged and not measured. `digests`: other digests by
    bank than those of the content; None for none.
    """

    pcr: int
    kind: int
    data: bytes
    content: bytes | None = None
    silent: bool = False
    told: bool = False
    digests: Mapping[str, bytes | None] = field(default_factory=dict)

    def digest(self, bank: str) -> bytes | None:
        """Give the digest that is logged for a bank."""
        if bank in self.digests:
            return self.digests[bank]
        if self.kind == EventType.NO_ACTION:
            return bytes(hashlib.new(bank).digest_size)
        content = self.data if self.content is None else self.content
        return hashlib.new(bank, content).digest()


def logged(steps: Iterable[Step], banks: Sequence[str] = ("sha256",)) -> bytes:
    """Give the crypto-agile log of what was measured."""
    sizes = [(NUMBERS[bank], hashlib.new(bank).digest_size) for bank in banks]
    found = header(sizes)
    for step in steps:
        if not step.silent:
            digests = [(NUMBERS[bank], step.digest(bank)) for bank in banks]
            told = [(number, digest) for number, digest in digests if digest is not None]
            found += agile(step.pcr, step.kind, told, step.data)
    return found


def logged_in_sha1(steps: Iterable[Step]) -> bytes:
    """Give the SHA-1 log of what was measured."""
    return b"".join(
        legacy(step.pcr, step.kind, step.digest("sha1") or b"", step.data)
        for step in steps
        if not step.silent
    )


def held(
    steps: Iterable[Step], banks: Sequence[str] = ("sha256",), start: int = 0
) -> dict[str, dict[int, bytes]]:
    """Give PCR 0 to 15 as a TPM then holds them; `start` is the last byte of PCR 0 before."""
    steps = list(steps)
    values: dict[str, dict[int, bytes]] = {}
    for bank in banks:
        size = hashlib.new(bank).digest_size
        pcrs = {index: bytes(size) for index in range(16)}
        pcrs[0] = bytes(size - 1) + bytes([start])
        for step in steps:
            if step.kind != EventType.NO_ACTION and not step.told:
                digest = step.digest(bank) or bytes(size)
                pcrs[step.pcr] = hashlib.new(bank, pcrs[step.pcr] + digest).digest()
        values[bank] = pcrs
    return values
