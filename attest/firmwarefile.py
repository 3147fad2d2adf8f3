"""The firmware baseline as a file that headquarters signs, and the plain list it can be made from.

`verify_baseline` is the only way by which a file becomes a baseline that counts. The file is for
the whole fleet: a model's firmware is the same at every site. It never reads a file.
docs/verifier.md, "The firmware baseline".
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.errors import AttestSiteError
from keys.errors import PeerError
from keys.manifest import verify

CONTEXT = "doorstep/v1/firmware-baseline"
TYPE = "doorstep/firmware/v1"
HEADER = ("vendor", "model", "version", "bank", "pcr", "value", "source")
MAX_FILE = 4 << 20
MAX_ENTRIES = 4096
FIRMWARE_PCRS = (0, 1, 2, 3, 6)
_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_COMMENT = re.compile(r"firmware counter=([0-9]{1,18})", re.ASCII)
_TEXTS = ("vendor", "model", "version", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBaseline:
    """A baseline whose signature and counter were checked; `digest` is SHA-256 of its file."""

    baseline: Baseline
    counter: int
    digest: bytes


def verify_baseline(
    data: bytes, signature: bytes, *, public_key: bytes, floor: SignedBaseline | None = None
) -> SignedBaseline:
    """Check signature and counter and read the file; AttestSiteError otherwise.

    `floor` is the newest one that was accepted: an older one is refused.
    """
    try:
        said = verify(public_key, data, signature, context=CONTEXT)
    except PeerError as error:
        raise AttestSiteError(f"firmware.toml: {error}") from None
    found = _COMMENT.fullmatch(said)
    if not found:
        raise AttestSiteError("firmware.toml: its trusted comment is not `firmware counter=…`")
    counter, digest = int(found[1]), hashlib.sha256(data).digest()
    if floor is not None and counter < floor.counter:
        raise AttestSiteError(
            f"firmware.toml: it has counter {counter}, this site has seen {floor.counter}:"
            " put the newer one back"
        )
    if floor is not None and counter == floor.counter and digest != floor.digest:
        raise AttestSiteError(
            f"firmware.toml: another one with counter {counter} was seen before: sign it again"
        )
    return SignedBaseline(baseline=decode_baseline(data), counter=counter, digest=digest)


def decode_baseline(data: bytes, name: str = "firmware.toml") -> Baseline:
    """Read the file; AttestSiteError names entry and key. It says nothing about who wrote it."""
    if len(data) > MAX_FILE:
        raise AttestSiteError(f"{name}: it is larger than {MAX_FILE} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AttestSiteError(f"{name}: it is not TOML: {error}") from None
    if document.pop("type", None) != TYPE:
        raise AttestSiteError(f'{name}: type: write type = "{TYPE}" in its first line')
    rows = document.pop("firmware", [])
    if document:
        raise AttestSiteError(f"{name}: {min(document)}: there is no such key")
    if not isinstance(rows, list) or len(rows) > MAX_ENTRIES:
        raise AttestSiteError(f"{name}: firmware: write at most {MAX_ENTRIES} [[firmware]] tables")
    return Baseline(
        entries=tuple(_entry(f"{name}: firmware {at}", row) for at, row in enumerate(rows, 1))
    )


def encode_baseline(baseline: Baseline) -> bytes:
    """Write the file in one fixed order, to be signed."""
    lines = [f'type = "{TYPE}"']
    for plain in baseline.plain():
        lines += ["", "[[firmware]]", *(f"{key} = {_quoted(plain[key])}" for key in _TEXTS)]
        lines.append(f"keys = {_array(plain['keys'])}")
        for bank, values in plain["values"].items():
            lines += [f"[firmware.values.{bank}]"]
            lines += [f"{index} = {_quoted(value)}" for index, value in values.items()]
        for bank, events in plain["events"].items():
            lines += [f"[firmware.events.{bank}]"]
            lines += [f"{index} = {_array(digests)}" for index, digests in events.items()]
    return ("\n".join(lines) + "\n").encode()


def decode_list(data: bytes, name: str) -> Baseline:
    """Read a plain list (CSV): one PCR value a line; AttestSiteError names the line.

    Lines of one vendor, model and version make one entry.
    """
    if len(data) > MAX_FILE:
        raise AttestSiteError(f"{name}: it is larger than {MAX_FILE} bytes")
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise AttestSiteError(f"{name}: it is no CSV in UTF-8") from None
    if not rows or tuple(rows[0]) not in (HEADER, HEADER[:-1]):
        raise AttestSiteError(f"{name}: line 1: it must be {','.join(HEADER)}")
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, row in enumerate(rows[1:], 2):
        if row:
            _add_line(found, row, len(rows[0]), f"{name}: line {number}")
    entries = tuple(_entry(name, plain) for plain in found.values())
    if len(entries) > MAX_ENTRIES:
        raise AttestSiteError(f"{name}: it holds more than {MAX_ENTRIES} firmware versions")
    return Baseline(entries=entries)


def merge(base: Baseline, more: Baseline) -> Baseline:
    """Add entries; one for the same maker, model, version and values is there once."""
    known = [_key(entry) for entry in base.entries]
    new = tuple(entry for entry in more.entries if _key(entry) not in known)
    return Baseline(entries=(*base.entries, *new))


def _key(entry: FirmwareEntry) -> tuple[object, ...]:
    return entry.machine, entry.values, entry.events, entry.keys


def _add_line(
    found: dict[tuple[str, ...], dict[str, Any]], row: list[str], width: int, where: str
) -> None:
    if len(row) != width:
        raise AttestSiteError(f"{where}: it has {len(row)} columns, {width} are expected")
    vendor, model, version, bank, pcr, value = (text.strip() for text in row[:6])
    source = row[6].strip() if width == len(HEADER) else ""
    plain = found.setdefault(
        (vendor, model, version),
        {"vendor": vendor, "model": model, "version": version, "source": source, "values": {}},
    )
    values = plain["values"].setdefault(bank, {})
    if values.setdefault(pcr, value.lower()) != value.lower():
        raise AttestSiteError(f"{where}: PCR {pcr[:20]} of {bank[:20]} has another value above")


def _entry(where: str, row: Any) -> FirmwareEntry:
    if not isinstance(row, dict):
        raise AttestSiteError(f"{where}: write a [[firmware]] table")
    strange = set(row) - {*_TEXTS, "keys", "values", "events"}
    if strange:
        raise AttestSiteError(f"{where}: {min(strange)[:80]}: there is no such key")
    texts = {key: _text(f"{where}: {key}", row.get(key, ""), key) for key in _TEXTS}
    keys = row.get("keys", [])
    if not isinstance(keys, list):
        raise AttestSiteError(f"{where}: keys: write a list of SHA-256 digests")
    entry = FirmwareEntry(
        machine=Machine(vendor=texts["vendor"], model=texts["model"], version=texts["version"]),
        values=_by_bank(f"{where}: values", row.get("values", {}), _hex),
        events=_by_bank(f"{where}: events", row.get("events", {}), _hex_set),
        keys=frozenset(_hex(f"{where}: keys", key, 32) for key in keys),
        source=texts["source"],
    )
    if not entry.values and not entry.events:
        raise AttestSiteError(f"{where}: it has neither values nor events")
    return entry


def _text(where: str, value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 200:
        raise AttestSiteError(f"{where}: write a text of at most 200 characters")
    if key != "source" and not value.strip():
        raise AttestSiteError(f"{where}: it is missing; write it as the box says it (SMBIOS)")
    return " ".join(value.split())


def _by_bank(where: str, table: Any, read: Callable[[str, Any, int], Any]) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise AttestSiteError(f"{where}: write one table for each bank")
    found: dict[str, dict[int, Any]] = {}
    for bank, rows in table.items():
        if bank not in _SIZES or not isinstance(rows, dict):
            raise AttestSiteError(f"{where}.{bank[:20]}: banks are {', '.join(_SIZES)}")
        found[bank] = {}
        for index, value in rows.items():
            if not index.isdecimal() or int(index) not in FIRMWARE_PCRS:
                told = ", ".join(map(str, FIRMWARE_PCRS))
                raise AttestSiteError(f"{where}.{bank}.{index[:20]}: firmware is in PCR {told}")
            place = f"{where}.{bank}.{index}"
            found[bank][int(index)] = read(place, value, _SIZES[bank])
    return found


def _hex(where: str, value: Any, size: int) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value):
        raise AttestSiteError(f"{where}: write {2 * size} lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _hex_set(where: str, value: Any, size: int) -> frozenset[bytes]:
    if not isinstance(value, list):
        raise AttestSiteError(f"{where}: write a list of digests")
    return frozenset(_hex(where, item, size) for item in value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(texts: list[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"
