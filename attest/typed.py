"""What a boot log says, as typed facts: each proven by its digest in one bank, or a claim.

Proven means that what is told hashes to the digest of its event. That the digests are those of a
TPM only a quote shows, and that is the caller's comparison. It never judges what it tells.
TCG PFP 1.06, 3.3.4 and 10.4; GRUB manual 2.12, 17.2; systemd-stub(7) for PCR 11 to 13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attest.der import decode_certificate
from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType
from attest.replay import hash_of
from attest.uefi import (
    CERT_SHA256,
    CERT_X509,
    EFI_GLOBAL,
    IMAGE_SECURITY,
    ImageLoad,
    Signature,
    Variable,
    decode_signatures,
    device_path_text,
)

MAX_TEXT = 4096
MAX_CERTIFICATES = 256
"""So many certificates of one database are read; the rest is counted."""

ON, OFF, UNKNOWN = "on", "off", "unknown"

# What GRUB writes before the text that it measures: 2.04 and later, and that of RHEL 8.
_COMMANDS = (b"grub_cmd: ", b"grub_cmd ")
_LINES = (b"kernel_cmdline: ", b"grub_kernel_cmdline ")
# Tags of TCG_PCClientTaggedEvent that the kernel's EFI stub writes (`efi.h` of Linux).
_INITRD_TAG, _OPTIONS_TAG = 0x8F3B22EC, 0x8F3B22ED
_TAG_HEADER = 8
_GRUB_FILES, _STUB_SECTIONS, _STUB_PARAMETERS, _SHIM = 9, 11, (12, 13), 14
_MODES = ("SetupMode", "AuditMode", "DeployedMode")
_RECORDS = frozenset(
    (
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_AUTHORITY,
        EventType.EFI_VARIABLE_BOOT,
        EventType.EFI_VARIABLE_BOOT2,
    )
)
_IMAGES = frozenset(
    (
        EventType.EFI_BOOT_SERVICES_APPLICATION,
        EventType.EFI_BOOT_SERVICES_DRIVER,
        EventType.EFI_RUNTIME_SERVICES_DRIVER,
    )
)
_MARK = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One event for a person: `text` is proven, `claim` is not; `proven` may be without text."""

    text: str | None
    proven: bool
    claim: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One measured thing: `number` of its event, its digest, and what it is said to be.

    `proven`: the text hashes to the digest. A program's or a file's name never does.
    """

    number: int
    pcr: int
    digest: bytes
    text: str
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A certificate: the SHA-256 of its DER and its subject, empty where that cannot be read."""

    sha256: bytes
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A key database; `hashes` and `others` count entries that are no certificates."""

    name: str
    number: int
    certificates: tuple[Key, ...]
    hashes: int
    others: int
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """What let a program start; `key` is None where it is no certificate (as with SbatLevel)."""

    number: int
    name: str
    key: Key | None
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """What a log says in one bank, in the order of the log."""

    bank: str
    secure_boot: str
    modes: Mapping[str, str]
    databases: tuple[Database, ...]
    authorities: tuple[Authority, ...]
    programs: tuple[Fact, ...]
    drivers: tuple[Fact, ...]
    commands: tuple[Fact, ...]
    command_lines: tuple[Fact, ...]
    files: tuple[Fact, ...]
    sections: tuple[Fact, ...]
    owner_keys: tuple[Fact, ...]


def proven_content(event: Event, bank: str) -> bytes | None:
    """Give what was measured, if the log holds it: whatever of the data hashes to the digest."""
    digest = event.digests.get(bank)
    if digest is None:
        return None
    make = hash_of(bank)
    for content in _candidates(event):
        if make(content).digest() == digest:
            return content
    return None


def _candidates(event: Event) -> Iterator[bytes]:
    """Give the forms in which honest boot programs measure the data of their event."""
    data = event.data
    yield data
    if event.type == EventType.IPL:
        bare = data.removesuffix(b"\0")
        yield bare
        said = _said(bare)
        if said is not bare:
            yield said
            yield said + b"\0"
        # systemd-boot before version 251 leaves out the last byte of its UTF-16.
        yield data + b"\0"
        if event.pcr == _STUB_SECTIONS:
            yield _section_name(data).encode() + b"\0"
    elif event.type == EventType.EVENT_TAG:
        yield data[_TAG_HEADER:]
    elif event.type == EventType.EFI_VARIABLE_AUTHORITY:
        yield data[:-1]
    elif event.type == EventType.EFI_VARIABLE_BOOT:
        record = _record(data)
        if record is not None:
            yield record.data


def _said(bare: bytes) -> bytes:
    """Take off what GRUB writes before the text that it measures."""
    for prefix in (*_COMMANDS, *_LINES):
        if bare.startswith(prefix):
            return bare[len(prefix) :]
    return bare


def _section_name(data: bytes) -> str:
    return data[:128].decode("utf-16-le", "replace").split("\0")[0]


def _record(data: bytes) -> Variable | None:
    try:
        return Variable.decode(data)
    except EvidenceError:
        return None


def _begun_record(data: bytes) -> Variable | None:
    """Read a record with bytes behind it, as older shims write authorities."""
    try:
        return Variable.decode_beginning(data)[0]
    except EvidenceError:
        return None


def describe(event: Event, bank: str) -> Description:
    """Say what an event is about, apart what its digest proves and what it merely claims."""
    content = proven_content(event, bank)
    if event.type in _IMAGES:
        return Description(text=None, proven=False, claim=_path(event) or None)
    if event.type in _RECORDS:
        told = _variable_text(event)
        # The digest of a value alone covers no name.
        whole = content is not None and len(content) >= len(event.data) - 1
        return Description(
            text=told if whole else None,
            proven=content is not None,
            claim=None if whole else told,
        )
    if content is None:
        return Description(text=None, proven=False, claim=_readable(event, event.data))
    return Description(text=_readable(event, content), proven=True, claim=None)


def _words(told: Description) -> str:
    return told.text or told.claim or ""


def _variable_text(event: Event) -> str | None:
    record = _begun_record(event.data)
    return None if record is None else clean(f"{record.name} ({len(record.data)} bytes)")


def _path(event: Event) -> str:
    """Give the path that the record of a program names; nothing proves it."""
    try:
        return clean(device_path_text(ImageLoad.decode(event.data).path))
    except EvidenceError:
        return ""


def _readable(event: Event, content: bytes) -> str | None:
    """Give content as text, None where it is none."""
    if event.type == EventType.SEPARATOR:
        return None
    if event.type == EventType.EVENT_TAG and content == event.data:
        content = content[_TAG_HEADER:]
    text = _text(content)
    return text if text and _MARK not in text else None


def clean(text: str) -> str:
    """Replace what could steer a terminal or reorder a line."""
    return "".join(char if char.isprintable() or char == "\n" else _MARK for char in text)


def extract(log: EventLog, bank: str) -> LogFacts:
    """Read the facts of a log by the digests of `bank`; raise EvidenceError if it has none."""
    if bank not in {known.name for known in log.banks}:
        raise EvidenceError(f"the event log has no {bank} digests")
    events = tuple(enumerate(log.events))
    before, after = _around_separator([pair for pair in events if pair[1].pcr == 7])
    variables = _variables(before, bank)
    commands, lines = _commands(events, bank)
    return LogFacts(
        bank=bank,
        secure_boot=_state(variables, "SecureBoot"),
        modes={
            name: _state(variables, name)
            for name in _MODES
            if any(record.name == name for _, record, _ in variables)
        },
        databases=tuple(_databases(variables)),
        authorities=tuple(_authorities([*before, *after], bank)),
        programs=tuple(_images(events, (EventType.EFI_BOOT_SERVICES_APPLICATION,), bank)),
        drivers=tuple(_images(events, _IMAGES - {EventType.EFI_BOOT_SERVICES_APPLICATION}, bank)),
        commands=commands,
        command_lines=(*lines, *_load_options(events, lines, bank)),
        files=tuple(_files(events, bank)),
        sections=tuple(_sections(events, bank)),
        owner_keys=tuple(_named(events, _SHIM, EventType.IPL, bank)),
    )


_Numbered = Sequence[tuple[int, Event]]
_Found = Sequence[tuple[int, Variable, bool]]


def _around_separator(events: _Numbered) -> tuple[_Numbered, _Numbered]:
    for at, (_, event) in enumerate(events):
        if event.type == EventType.SEPARATOR:
            return events[:at], events[at + 1 :]
    return events, ()


def _variables(events: _Numbered, bank: str) -> _Found:
    """Read the variables of PCR 7 before its separator; later ones say nothing of the boot."""
    found = []
    for number, event in events:
        record = _record(event.data)
        if event.type == EventType.EFI_VARIABLE_DRIVER_CONFIG and record is not None:
            found.append((number, record, proven_content(event, bank) is not None))
    return found


def _state(variables: _Found, name: str) -> str:
    """Tell a switch: on or off only where one proven variable of one byte says so."""
    values = [
        (record.data, proven)
        for _, record, proven in variables
        if record.name == name and record.guid == EFI_GLOBAL
    ]
    match values:
        case [(b"\1", True)]:
            return ON
        case [(b"\0", True)]:
            return OFF
    return UNKNOWN


def _databases(variables: _Found) -> Iterator[Database]:
    for number, record, proven in variables:
        if record.guid not in (EFI_GLOBAL, IMAGE_SECURITY) or record.name in (
            "SecureBoot",
            *_MODES,
        ):
            continue
        try:
            signatures = decode_signatures(record.data)
        except EvidenceError:
            yield _database(record.name, number, (), proven=False)
            continue
        yield _database(record.name, number, signatures, proven=proven)


def _database(name: str, number: int, signatures: Sequence[Signature], *, proven: bool) -> Database:
    certificates = [entry.data for entry in signatures if entry.type == CERT_X509]
    hashes = sum(entry.type == CERT_SHA256 for entry in signatures)
    told = certificates[:MAX_CERTIFICATES]
    return Database(
        name=clean(name),
        number=number,
        certificates=tuple(_key(der) for der in told),
        hashes=hashes,
        others=len(signatures) - hashes - len(told),
        proven=proven,
    )


def _key(der: bytes) -> Key:
    try:
        pairs = decode_certificate(der).subject
    except EvidenceError:
        pairs = ()
    subject = clean(", ".join(text for _, text in pairs))
    return Key(sha256=hashlib.sha256(der).digest(), subject=subject)


def _authorities(events: _Numbered, bank: str) -> Iterator[Authority]:
    for number, event in events:
        if event.type != EventType.EFI_VARIABLE_AUTHORITY:
            continue
        content = proven_content(event, bank)
        record = _begun_record(event.data)
        yield Authority(
            number=number,
            name="" if record is None else clean(record.name),
            key=None if record is None else _authority_key(record),
            proven=content is not None,
        )


def _authority_key(record: Variable) -> Key | None:
    """Find the certificate in an EFI_SIGNATURE_DATA, or bare as older shims measure it."""
    for der in (record.data[16:], record.data):
        if der[:2] == b"\x30\x82":
            return _key(der)
    return None


def _fact(number: int, event: Event, bank: str, text: str, *, proven: bool) -> Fact:
    digest = event.digests.get(bank, b"")
    return Fact(number=number, pcr=event.pcr, digest=digest, text=text, proven=proven)


def _images(events: _Numbered, types: Sequence[int] | frozenset[int], bank: str) -> Iterator[Fact]:
    for number, event in events:
        if event.type in types:
            yield _fact(number, event, bank, _path(event), proven=False)


def _commands(events: _Numbered, bank: str) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """Part GRUB's commands from the kernel command lines that it gave."""
    commands: list[Fact] = []
    lines: list[Fact] = []
    for number, event in events:
        if event.type != EventType.IPL or event.pcr != 8:
            continue
        content = proven_content(event, bank)
        bare = event.data.removesuffix(b"\0")
        # systemd-boot measures the options of the kernel here, in UTF-16.
        is_line = bare.startswith(_LINES) or _is_wide(bare)
        said = _said(bare) if content is None else content
        fact = _fact(number, event, bank, _text(said), proven=content is not None)
        (lines if is_line else commands).append(fact)
    return tuple(commands), tuple(lines)


def _is_wide(content: bytes) -> bool:
    return len(content) > 2 and bool(content[0]) and not any(content[1:MAX_TEXT:2])


def _text(content: bytes) -> str:
    """Read UTF-8, or the UTF-16 of EFI programs, without the NUL at its end."""
    form = "utf-16-le" if _is_wide(content) else "utf-8"
    return clean(content[:MAX_TEXT].decode(form, "replace").rstrip("\0"))


def _load_options(events: _Numbered, lines: Sequence[Fact], bank: str) -> Iterator[Fact]:
    """Find the command lines that an EFI program saw; the log holds their digests, not the text.

    A line that GRUB named proves one where it hashes to it in the form that the kernel measures.
    """
    make = hash_of(bank)
    seen = {
        make(f"BOOT_IMAGE={line.text}{end}".encode("utf-16-le", "replace")).digest(): line.text
        for line in lines
        for end in ("", "\0")
    }
    for number, event in events:
        parameters = event.type == EventType.IPL and event.pcr in _STUB_PARAMETERS
        if not parameters and _tag(event) != _OPTIONS_TAG:
            continue
        text = seen.get(event.digests.get(bank, b""))
        if text is None:
            told = describe(event, bank)
            yield _fact(number, event, bank, _words(told), proven=told.text is not None)
        else:
            yield _fact(number, event, bank, f"BOOT_IMAGE={text}", proven=True)


def _tag(event: Event) -> int | None:
    if event.type != EventType.EVENT_TAG or len(event.data) < _TAG_HEADER:
        return None
    return int.from_bytes(event.data[:4], "little")


def _files(events: _Numbered, bank: str) -> Iterator[Fact]:
    """List what GRUB read and the initrd that the kernel unpacked; names are claims."""
    for number, event in events:
        named = event.type == EventType.IPL and event.pcr == _GRUB_FILES
        if named or _tag(event) == _INITRD_TAG:
            told = describe(event, bank)
            yield _fact(number, event, bank, _words(told), proven=told.proven)


def _named(events: _Numbered, pcr: int, kind: int, bank: str) -> Iterator[Fact]:
    for number, event in events:
        if event.pcr == pcr and event.type == kind:
            told = describe(event, bank)
            yield _fact(number, event, bank, _words(told), proven=told.proven)


def _sections(events: _Numbered, bank: str) -> Iterator[Fact]:
    """List the sections of a unified image: the stub measures each name, then the content.

    The name is proven by the event before; the digest of the content is what was measured.
    """
    name = None
    for number, event in events:
        if event.pcr != _STUB_SECTIONS or event.type != EventType.IPL:
            continue
        said = clean(_section_name(event.data))
        if proven_content(event, bank) is not None and name is None:
            name = said
            continue
        yield _fact(number, event, bank, said, proven=name == said)
        name = None
