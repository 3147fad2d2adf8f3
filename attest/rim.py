"""Reference integrity manifests of makers (TCG RIM): a SWID tag and the logs that it names by hash.

The XML signature of a tag is not checked: an entry counts because headquarters signs the baseline
that it goes into, and the entry's source says so. Entities and document types are refused, nothing
is fetched. TCG PC Client RIM 1.04 (SWID binding); ISO/IEC 19770-2:2015; TCG PFP 1.06, 10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from attest.baseline import FirmwareEntry, Machine, machine_text
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog, decode
from attest.firmware import Extended, extended
from attest.firmwarefile import BANKS, GATED, check_entry
from attest.replay import replay

MAX_TAG = 1 << 20
MAX_FILES = 64
NOT_CHECKED = "signature not checked, headquarters signs for it"

_HASHES = {
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
}
"""Namespaces of the `hash` attribute (RFC 6931); weaker hashes name nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportFile:
    """A file that a tag names: digests by hash name, size in bytes or None."""

    name: str
    size: int | None
    digests: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRim:
    """What a tag says: of which machine it is (empty texts where it does not say), and its files.

    `sha256` is over the tag itself.
    """

    vendor: str
    model: str
    version: str
    tag_id: str
    sha256: bytes
    files: tuple[SupportFile, ...]


def decode_tag(data: bytes, name: str) -> BaseRim:
    """Read a base RIM; AttestSiteError says why it is none that can be used."""
    root = _xml(data, name)
    if _local(root.tag) != "SoftwareIdentity":
        raise AttestSiteError(f"{name}: it is no SWID tag (SoftwareIdentity)")
    for kind in ("supplemental", "patch"):
        if root.get(kind, "false") not in ("false", "0"):
            raise AttestSiteError(
                f"{name}: it is a {kind} tag: give the base RIM that it belongs to"
            )
    meta = _attributes(root, "Meta")
    files = tuple(_file(element, name) for element in root.iter() if _is(element, "File"))
    if not files or len(files) > MAX_FILES:
        raise AttestSiteError(f"{name}: it names no support RIM, or more than {MAX_FILES}")
    return BaseRim(
        vendor=machine_text(meta.get("platformManufacturerStr", "")),
        model=machine_text(meta.get("platformModel", "")),
        version=machine_text(meta.get("firmwareVersion", "")),
        tag_id=machine_text(root.get("tagId", "")),
        sha256=hashlib.sha256(data).digest(),
        files=files,
    )


def _xml(data: bytes, name: str) -> ElementTree.Element[str]:
    if len(data) > MAX_TAG:
        raise AttestSiteError(f"{name}: it is larger than {MAX_TAG} bytes")
    try:
        # A text, so that no declaration of another encoding hides anything from the next lines.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AttestSiteError(f"{name}: it is no XML in UTF-8") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AttestSiteError(f"{name}: it declares a document type or entities: refused")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise AttestSiteError(f"{name}: it is no XML: {error}") from None


def _local(name: str) -> str:
    """Give a name without its namespace."""
    return name.rpartition("}")[2]


def _is(element: ElementTree.Element[str], name: str) -> bool:
    return _local(element.tag) == name


def _attributes(root: ElementTree.Element[str], name: str) -> dict[str, str]:
    """Give the attributes of the elements of one name, without namespaces."""
    found: dict[str, str] = {}
    for element in root.iter():
        if _is(element, name):
            found |= {_local(key): value for key, value in element.attrib.items()}
    return found


def _file(element: ElementTree.Element[str], name: str) -> SupportFile:
    digests = dict(_digests(element, name))
    shown = machine_text(element.get("name", ""))
    if not digests:
        raise AttestSiteError(f"{name}: {shown} has no SHA-256, SHA-384 or SHA-512 hash")
    size = element.get("size", "")
    return SupportFile(
        name=shown,
        size=int(size) if size.isascii() and size.isdecimal() and len(size) < 16 else None,
        digests=digests,
    )


def _digests(element: ElementTree.Element[str], name: str) -> Iterator[tuple[str, bytes]]:
    for key, value in element.attrib.items():
        algorithm = _HASHES.get(key.removeprefix("{").rpartition("}")[0])
        if algorithm is None or _local(key) != "hash":
            continue
        try:
            yield algorithm, bytes.fromhex(value)
        except ValueError:
            raise AttestSiteError(f"{name}: a hash is not hexadecimal") from None


def entry_from_rim(
    tag: BaseRim, supports: Sequence[tuple[str, bytes]], machine: Machine, name: str
) -> FirmwareEntry:
    """Make an entry of a tag and all its support RIMs, given as (name, content) in any order.

    `machine` is what boxes of this model say of themselves, which may differ from the tag's words.
    AttestSiteError when a support RIM is missing, is another one, or cannot be read.
    """
    taken = [_named(tag, *support) for support in supports]
    missing = [file.name for file in tag.files if file not in taken]
    if missing:
        raise AttestSiteError(f"{name}: give its support RIMs too: {', '.join(missing)}")
    values: dict[str, dict[int, bytes]] = {}
    events: dict[str, dict[int, frozenset[bytes]]] = {}
    for support, data in supports:
        try:
            log = decode(data)
            _gather(log, values, events, support)
        except EvidenceError as error:
            raise AttestSiteError(f"{support}: it is no event log: {error}") from None
    entry = FirmwareEntry(
        machine=machine,
        values=values,
        events=events,
        source=f"maker's RIM {tag.tag_id or name} ({NOT_CHECKED})",
    )
    return check_entry(entry, name)


def _named(tag: BaseRim, name: str, data: bytes) -> SupportFile:
    """Find the file of the tag that `data` is, by every hash that the tag gives."""
    for file in tag.files:
        equal = all(
            hashlib.new(algorithm, data).digest() == digest
            for algorithm, digest in file.digests.items()
        )
        if equal and file.size in (None, len(data)):
            return file
    raise AttestSiteError(f"{name}: it is no support RIM of this tag: no hash in it fits")


def _gather(
    log: EventLog,
    values: dict[str, dict[int, bytes]],
    events: dict[str, dict[int, frozenset[bytes]]],
    name: str,
) -> None:
    """Take values where the log has the whole PCR, events where it has not, and option ROMs."""
    for bank in (bank.name for bank in log.banks if bank.name in BANKS):
        replayed = replay(log, bank)
        for index in GATED:
            part = extended(log, bank, index)
            if not part.events:
                continue
            if index in values.get(bank, {}) or index in events.get(bank, {}):
                raise AttestSiteError(f"{name}: two support RIMs speak of {bank} PCR {index}")
            if part.closed:
                values.setdefault(bank, {})[index] = replayed[index]
            if _as_events(part, index):
                events.setdefault(bank, {})[index] = part.distinct


def _as_events(part: Extended, index: int) -> bool:
    return bool(part.digests) and (index == 2 or not part.closed)
