"""The delivery note: which boxes headquarters sent to this site, signed by its offline key.

`DeliveryNote.verify` is the one maker of a `DeliveryNote`; the counter floor is an argument. It
never reads a file and never says what a box without an entry may do. docs/architecture.md, "Boxes
and names".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from keys.errors import PeerError
from keys.manifest import verify

CONTEXT = "doorstep/v1/delivery-note"
HEADER = ["serial", "model", "ek_sha256", "role", "name"]
MAX_BYTES = 4 * 1024 * 1024
_COMMENT = re.compile(r"site=(\S+) counter=([0-9]{1,18})", re.ASCII)
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
class Floor:
    """The newest note that was accepted; an older one, or another with its counter, is refused."""

    counter: int
    digest: bytes


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
        said = verify(public_key, text, signature, context=CONTEXT)
        found = _COMMENT.fullmatch(said)
        if not found:
            raise PeerError("the delivery note's trusted comment is not `site=… counter=…`")
        if found[1] != site_id:
            raise PeerError(f"the delivery note is for site {found[1]}, this is {site_id}")
        own = Floor(counter=int(found[2]), digest=sha256(text).digest())
        _check_floor(own, floor)
        entries = decode(text)
        known = {entry.ek_sha256: entry for entry in entries if entry.ek_sha256 is not None}
        return cls(floor=own, entries=entries, by_ek=known)

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
        writer.writerow([one.serial, one.model or "", key, one.role or "", one.name or ""])
    return out.getvalue().encode()


def _check_floor(own: Floor, floor: Floor | None) -> None:
    if floor is None or own.counter > floor.counter:
        return
    if own.counter < floor.counter:
        raise PeerError(
            f"the delivery note has counter {own.counter}, this site has seen {floor.counter}"
        )
    if own.digest != floor.digest:
        raise PeerError(f"another delivery note with counter {own.counter} was seen before")


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
