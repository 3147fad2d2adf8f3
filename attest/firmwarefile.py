"""The firmware baseline as a file: TOML that people can read, signed by headquarters' offline key.

`verify_baseline` is the one way from a file to a baseline that counts. The file is the same for all
sites, so it names none; its counter is in the trusted comment of the signature. It never reads a
file. docs/verifier.md, "The firmware baseline".
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from attest.baseline import Baseline, FirmwareEntry, Machine, machine_text
from attest.errors import AttestSiteError
from keys.errors import KeysError
from keys.signed import FIRMWARE, Floor, SignedInput, check_either

BASELINE_FILE = "trust/firmware.toml"
BASELINE_TYPE = "doorstep/firmware/v1"
CONTEXT = FIRMWARE.context
MAX_BASELINE = FIRMWARE.max_bytes
MAX_ENTRIES = 4096
MAX_SOURCE = 200
BANKS: Mapping[str, int] = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""The banks that an entry may speak of, with the length of their digests."""
INDICES = (0, 1, 2, 3, 6)
"""The PCRs that an appraisal policy may hold against the baseline."""
GATED = (0, 2, 3, 6)
"""Those of them that imports take along; PCR 1 is another at each boot of most machines."""

_HEX = re.compile(r"(?:[0-9a-f]{2})+", re.ASCII)
_TEXTS = ("vendor", "model", "version")
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBaseline:
    """A baseline whose signature and counter were checked, with the file that it was read from."""

    baseline: Baseline
    signed: SignedInput

    @property
    def counter(self) -> int:
        """Give the counter of its signature."""
        return self.signed.floor.counter


def verify_baseline(
    data: bytes,
    signature: bytes,
    *,
    public_key: bytes,
    floor: Floor | None = None,
    name: str = BASELINE_FILE,
    further: Sequence[bytes] = (),
) -> SignedBaseline:
    """Check signature and counter, then read the entries; AttestSiteError otherwise.

    `public_key` is the site's, as a file of minisign. `floor` is the newest one that was accepted,
    `further` what else lies beside the file as a signature.
    """
    try:
        found = check_either(
            FIRMWARE,
            data,
            (signature, *further),
            public_key=public_key,
            site_id="*",
            floors=lambda kind, subject: floor,
        )
    except KeysError as error:
        raise AttestSiteError(f"{name}: {error} (with `doorstep firmware sign`)") from None
    return SignedBaseline(baseline=decode_baseline(data, name), signed=found)


def encode_baseline(baseline: Baseline) -> bytes:
    """Write a baseline, to be signed: the same bytes for the same entries in the same order."""
    lines = [f"type = {_quoted(BASELINE_TYPE)}"]
    for entry in baseline.entries:
        lines += ["", *_entry_lines(entry)]
    return ("\n".join(lines) + "\n").encode()


def entry_text(entry: FirmwareEntry) -> str:
    """Write one entry as it stands in the file."""
    return "\n".join(_entry_lines(entry))


def entry_id(entry: FirmwareEntry) -> str:
    """Name an entry by its content: 16 hexadecimal digits."""
    return sha256(entry_text(entry).encode()).hexdigest()[:16]


def _entry_lines(entry: FirmwareEntry) -> Iterator[str]:
    yield "[[firmware]]"
    for name in _TEXTS:
        yield f"{name} = {_quoted(getattr(entry.machine, name))}"
    yield f"source = {_quoted(entry.source)}"
    if entry.keys:
        yield f"keys = {_list(key.hex() for key in sorted(entry.keys))}"
    for bank, values in sorted(entry.values.items()):
        yield f"[firmware.values.{bank}]"
        yield from (f"{index} = {_quoted(value.hex())}" for index, value in sorted(values.items()))
    for bank, events in sorted(entry.events.items()):
        yield f"[firmware.events.{bank}]"
        for index, digests in sorted(events.items()):
            yield f"{index} = {_list(digest.hex() for digest in sorted(digests))}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(texts: Iterator[str]) -> str:
    return "[" + "".join(f"\n  {_quoted(text)}," for text in texts) + "\n]"


def decode_baseline(data: bytes, name: str = BASELINE_FILE) -> Baseline:
    """Read a baseline that nobody has vouched for yet; AttestSiteError says what is wrong where."""
    if len(data) > MAX_BASELINE:
        raise AttestSiteError(f"{name}: it is larger than {MAX_BASELINE} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise AttestSiteError(f"{name}: it is no TOML in UTF-8: {str(error)[:200]}") from None
    if document.pop("type", None) != BASELINE_TYPE:
        raise AttestSiteError(f'{name}: type: write type = "{BASELINE_TYPE}" in its first line')
    tables = document.pop("firmware", [])
    _none_left(document, name)
    if not isinstance(tables, list) or len(tables) > MAX_ENTRIES:
        raise AttestSiteError(f"{name}: firmware: write at most {MAX_ENTRIES} [[firmware]] tables")
    entries = tuple(
        _entry(table, f"{name}: firmware {number}") for number, table in enumerate(tables, 1)
    )
    names = [entry_id(entry) for entry in entries]
    if len(set(names)) < len(names):
        raise AttestSiteError(f"{name}: firmware: the same entry stands there twice: remove one")
    return Baseline(entries=entries)


def check_entry(entry: FirmwareEntry, where: str) -> FirmwareEntry:
    """Check an entry by the rules of the file it is going into; AttestSiteError names what."""
    return _entry(Baseline(entries=(entry,)).plain()[0], where)


def _entry(table: Any, where: str) -> FirmwareEntry:
    if not isinstance(table, dict):
        raise AttestSiteError(f"{where}: write a [[firmware]] table")
    rest = dict(table)
    vendor, model, version = (_text(rest.pop(key, None), f"{where}: {key}") for key in _TEXTS)
    entry = FirmwareEntry(
        machine=Machine(vendor=vendor, model=model, version=version),
        source=_source(rest.pop("source", ""), f"{where}: source"),
        keys=_digests(rest.pop("keys", []), BANKS["sha256"], f"{where}: keys"),
        values=_banks(rest.pop("values", {}), _value, f"{where}: values"),
        events=_banks(rest.pop("events", {}), _digests, f"{where}: events"),
    )
    _none_left(rest, where)
    if not entry.values and not entry.events:
        raise AttestSiteError(f"{where}: it has neither values nor events: remove it")
    return entry


def _none_left(table: Mapping[str, Any], where: str) -> None:
    for key in table:
        raise AttestSiteError(f"{where}: {key[:80]}: there is no such key")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or value != machine_text(value):
        raise AttestSiteError(
            f"{where}: write the text that the box shows, at most 60 characters, in single blanks"
        )
    return value


def _source(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_SOURCE or not value.isprintable():
        raise AttestSiteError(f"{where}: write one line of at most {MAX_SOURCE} characters")
    return value


def _banks(
    value: Any, read: Callable[[Any, int, str], _Read], where: str
) -> dict[str, dict[int, _Read]]:
    """Read a table of banks with a table of PCRs in each."""
    found: dict[str, dict[int, _Read]] = {}
    for bank, given in _table(value, where).items():
        if bank not in BANKS:
            raise AttestSiteError(f"{where}.{bank[:80]}: known banks are {', '.join(BANKS)}")
        at = f"{where}.{bank}"
        found[bank] = {
            _index(key, at): read(item, BANKS[bank], f"{at}.{key}")
            for key, item in _table(given, at).items()
        }
        if not found[bank]:
            raise AttestSiteError(f"{at}: it is empty: remove it")
    return found


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AttestSiteError(f"{where}: write a table")
    return value


def _index(key: str, where: str) -> int:
    if key not in map(str, INDICES):
        raise AttestSiteError(
            f"{where}.{key[:80]}: firmware is measured into PCR {', '.join(map(str, INDICES))}"
        )
    return int(key)


def _value(value: Any, size: int, where: str) -> bytes:
    """Read a digest; one of zeros alone is a PCR that nobody extended."""
    if not isinstance(value, str) or len(value) != 2 * size or not _HEX.fullmatch(value):
        raise AttestSiteError(f"{where}: write {2 * size} hexadecimal digits, lower case")
    found = bytes.fromhex(value)
    if not any(found):
        raise AttestSiteError(f"{where}: it is zero: nothing was measured: remove it")
    return found


def _digests(value: Any, size: int, where: str) -> frozenset[bytes]:
    if not isinstance(value, list):
        raise AttestSiteError(f"{where}: write a list of digests")
    return frozenset(_value(item, size, where) for item in value)
