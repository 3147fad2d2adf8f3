"""The delivery note: which boxes headquarters sent to this site, signed by its offline key.

`DeliveryNote.verify` is the one maker of a `DeliveryNote`; the counter floor is an argument. It
never reads a file and never says what a box without an entry may do. docs/architecture.md, "Boxes
and names".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from keys.errors import PeerError
from keys.signed import NOTE, SignedInput, check_either
from keys.signed import Floor as Floor

CONTEXT = NOTE.context
HEADER = ["serial", "model", "ek_sha256", "role", "name"]
MAX_BYTES = NOTE.max_bytes
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One box; what the note leaves open is None. `ek_sha256` is over the EK's TPMT_PUBLIC."""

    serial: str
    model: str | None
    ek_sha256: bytes | None
    role: str | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryNote:
    """A note whose signature, site and counter were checked."""

    floor: Floor
    entries: tuple[Entry, ...]
    by_ek: Mapping[bytes, Entry]

    @classmethod
    def verify(
        cls, text: bytes, signature: bytes, *, public_key: bytes, site_id: str, floor: Floor | None
    ) -> DeliveryNote:
        """Check signature, site and counter, and take the entries apart; PeerError otherwise."""
        return cls.verify_either(
            text, (signature,), public_key=public_key, site_id=site_id, floor=floor
        )

    @classmethod
    def verify_either(
        cls,
        text: bytes,
        signatures: Sequence[bytes],
        *,
        public_key: bytes,
        site_id: str,
        floor: Floor | None,
    ) -> DeliveryNote:
        """Do the same with the signature that is the note's own among those beside it."""
        found = check_either(
            NOTE,
            text,
            signatures,
            public_key=public_key,
            site_id=site_id,
            floors=lambda kind, subject: floor,
        )
        return cls.of(found)

    @classmethod
    def of(cls, found: SignedInput) -> DeliveryNote:
        """Take the entries of a checked document apart; PeerError names the line."""
        entries = decode(found.data)
        known = {entry.ek_sha256: entry for entry in entries if entry.ek_sha256 is not None}
        return cls(floor=found.floor, entries=entries, by_ek=known)

    def entry(self, ek_public: bytes) -> Entry | None:
        """Find the entry of an EK by its TPMT_PUBLIC."""
        return self.by_ek.get(sha256(ek_public).digest())


def decode(text: bytes) -> tuple[Entry, ...]:
    """Take a note apart; PeerError names the line."""
    if len(text) > MAX_BYTES:
        raise PeerError("the delivery note is larger than 4 MiB")
    try:
        rows = list(csv.reader(io.StringIO(text.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise PeerError("the delivery note is no CSV in UTF-8") from None
    if not rows or rows[0] != HEADER:
        raise PeerError(f"the delivery note must begin with {','.join(HEADER)}")
    entries = tuple(_entry(row, number) for number, row in enumerate(rows[1:], 2) if row)
    _check_unique([entry.serial for entry in entries])
    _check_unique([entry.ek_sha256 for entry in entries if entry.ek_sha256])
    return entries


def encode(entries: tuple[Entry, ...]) -> bytes:
    """Write a note, to be signed."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for one in entries:
        key = one.ek_sha256.hex() if one.ek_sha256 else ""
        writer.writerow([one.serial, one.model, key, one.role, one.name])
    return out.getvalue().encode()


def _entry(row: list[str], number: int) -> Entry:
    if len(row) != len(HEADER):
        raise PeerError(f"delivery note, line {number}: {len(HEADER)} columns are expected")
    if not all(value.isprintable() and value == value.strip() for value in row):
        raise PeerError(f"delivery note, line {number}: blanks around a value, or no plain text")
    serial, model, key, role, name = row
    if not serial:
        raise PeerError(f"delivery note, line {number}: the serial is missing")
    if key and not _HEX.fullmatch(key):
        raise PeerError(f"delivery note, line {number}: ek_sha256 is 64 lower-case hex digits")
    return Entry(
        serial=serial,
        model=model or None,
        ek_sha256=bytes.fromhex(key) or None,
        role=role or None,
        name=name or None,
    )


def _check_unique(values: list[str] | list[bytes]) -> None:
    if len(set(values)) != len(values):
        raise PeerError("the delivery note names a serial or an EK twice")
