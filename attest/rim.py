"""A maker's reference measurements: TCG RIM bundles as entries of the firmware baseline.

A base RIM is a SWID tag that names support RIMs with their hashes; a support RIM is a boot log. The
tag's XML signature is not checked: an entry counts only once headquarters signs the file it goes
into, and its source says so. Nothing is fetched and nothing in the XML is resolved.
TCG Reference Integrity Manifest Information Model 1.1; PC Client RIM 1.04; ISO/IEC 19770-2:2015.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from attest.baseline import FirmwareEntry, Machine
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog, EventType, decode
from attest.firmwarefile import FIRMWARE_PCRS
from attest.replay import replay

MAX_TAG = 1 << 20
_SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASHES = {
    "{http://www.w3.org/2001/04/xmlenc#sha256}hash": "sha256",
    "{http://www.w3.org/2001/04/xmlenc#sha512}hash": "sha512",
    "{http://www.w3.org/2001/04/xmldsig-more#sha384}hash": "sha384",
}
_DOCTYPE = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)
SOURCE = "maker's RIM, its own signature not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRim:
    """What a base RIM says: the machine, and the hashes of its support RIMs by file name."""

    machine: Machine
    support: Mapping[str, tuple[str, bytes]]


def decode_base_rim(data: bytes, name: str, *, version: str = "") -> BaseRim:
    """Read a SWID tag; AttestSiteError says what it lacks.

    `version` is the firmware's version as the box says it, where the tag's own is another.
    """
    if len(data) > MAX_TAG:
        raise AttestSiteError(f"{name}: it is larger than {MAX_TAG} bytes")
    if _DOCTYPE.search(data):
        raise AttestSiteError(f"{name}: it declares a document type, which no RIM needs")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AttestSiteError(f"{name}: it is not XML: {error}") from None
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise AttestSiteError(f"{name}: it is no SWID tag (ISO/IEC 19770-2:2015)")
    facts = {
        key.rpartition("}")[2]: value
        for meta in root.iter(f"{_SWID}Meta")
        for key, value in meta.attrib.items()
    }
    vendor, model = facts.get("platformManufacturerStr", ""), facts.get("platformModel", "")
    known = version or facts.get("platformVersion", "") or root.attrib.get("version", "")
    if not (vendor and model and known):
        raise AttestSiteError(f"{name}: it does not name manufacturer, model and version")
    support = dict(_support(root, name))
    if not support:
        raise AttestSiteError(f"{name}: it names no support RIM with a hash known here")
    return BaseRim(machine=Machine(vendor=vendor, model=model, version=known), support=support)


def _support(root: ElementTree.Element, name: str) -> Iterator[tuple[str, tuple[str, bytes]]]:
    payload = root.find(f"{_SWID}Payload")
    for file in payload.iter(f"{_SWID}File") if payload is not None else ():
        for key, hash_name in _HASHES.items():
            text = file.attrib.get(key)
            if text is None:
                continue
            try:
                yield file.attrib.get("name", ""), (hash_name, bytes.fromhex(text))
            except ValueError:
                raise AttestSiteError(f"{name}: the hash of a support RIM is none") from None
            break


def rim_entry(base: BaseRim, support: Mapping[str, bytes]) -> FirmwareEntry:
    """Make an entry of a base RIM and its support files; AttestSiteError where a hash differs."""
    logs: list[EventLog] = []
    for name, (hash_name, digest) in base.support.items():
        data = support.get(name)
        if data is None:
            raise AttestSiteError(f"{name}: the base RIM names this support RIM: give it too")
        if hashlib.new(hash_name, data).digest() != digest:
            raise AttestSiteError(f"{name}: it is not the support RIM that the base RIM names")
        try:
            logs.append(decode(data))
        except EvidenceError as error:
            raise AttestSiteError(f"{name}: {error}") from None
    if len(logs) != 1:
        raise AttestSiteError("a base RIM with one support RIM is expected")
    return log_entry(base.machine, logs[0], SOURCE)


def log_entry(machine: Machine, log: EventLog, source: str) -> FirmwareEntry:
    """Make an entry of a reference boot log: its values, and the events before the separator."""
    values, events = {}, {}
    for bank in (known.name for known in log.banks if known.name.startswith("sha")):
        if bank not in ("sha256", "sha384", "sha512"):
            continue
        try:
            replayed = replay(log, bank)
        except EvidenceError as error:
            raise AttestSiteError(f"the support RIM: {error}") from None
        measured = {index: _before_separator(log, bank, index) for index in FIRMWARE_PCRS}
        used = [index for index in FIRMWARE_PCRS if index != 1 and measured[index]]
        values[bank] = {index: replayed[index] for index in used}
        events[bank] = {index: measured[index] for index in used}
    if not any(values.values()):
        raise AttestSiteError("the support RIM holds no measurement of the firmware in SHA-2")
    return FirmwareEntry(machine=machine, values=values, events=events, source=source)


def _before_separator(log: EventLog, bank: str, index: int) -> frozenset[bytes]:
    found = set()
    for event in log.events:
        if event.pcr != index or event.type == EventType.NO_ACTION:
            continue
        if event.type == EventType.SEPARATOR:
            break
        found.add(event.digests[bank])
    return frozenset(found)
