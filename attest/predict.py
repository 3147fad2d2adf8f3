"""Boot prediction: the events and PCR values that the files of a boot set must lead to.

Values come from what the site serves, its address and the key databases alone. It never looks at
the log of the boot that it judges, apart from key databases that their own digests prove.
TCG PFP 1.06, 3.3.4 (PCR use); shim `README.tpm`; GRUB manual 2.12, 17.2; Linux `efistub` tags.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from attest.bootfacts import BANKS, BootFiles, Digests, FileFacts, ImageFacts, chains_to
from attest.errors import AttestSiteError, EvidenceError
from attest.grub import PROFILES, GrubKind, GrubProfile
from attest.replay import extend, start_value
from attest.uefi import (
    CERT_X509,
    IMAGE_SECURITY,
    SHIM_LOCK,
    Signature,
    Variable,
    decode_signatures,
)
from attest.variables import (
    DATABASES,
    SecureBootVariables,
    variables_from_log,
    variables_from_store,
)

__all__ = [
    "CD_DRIVES",
    "PREDICTED_PCRS",
    "BootFiles",
    "FileFacts",
    "PredictedEvent",
    "Prediction",
    "SecureBootVariables",
    "Subject",
    "Transport",
    "predict",
    "variables_from_log",
    "variables_from_store",
]

PREDICTED_PCRS = (4, 5, 7, 8, 9, 11, 12, 13, 14, 15)

CD_DRIVES = range(4)
"""The drive numbers worth trying: real drive, two virtual ones of a BMC, one to spare."""

_MAX_DB_CERTIFICATES = 64
_SEPARATOR = bytes(4)
_SBAT_OFF = b"sbat,1,2021030218\n"
# Module lists that GRUB 2.12 asks for over HTTP; our "not found" is measured as an empty file.
_HTTP_LISTS = ("command.lst", "fs.lst", "crypto.lst", "terminal.lst")


class Transport(Enum):
    """How the box gets the files; it decides GRUB's device name."""

    TFTP = "tftp"
    HTTP = "http"
    ISO = "iso"


class Subject(Enum):
    """What an event is about, in the order in which a difference matters to a person."""

    SECURE_BOOT = "the Secure Boot state"
    INITRD = "the initrd"
    KERNEL = "the kernel"
    GRUB_CFG = "grub.cfg"
    COMMAND_LINE = "the kernel command line"
    LOADER = "the boot loader"
    PROGRAM = "another program"
    KEYS = "the key databases"
    OWNER_KEYS = "the machine owner keys"
    GRUB_COMMAND = "a GRUB command"
    FIRMWARE = "a step of the firmware"
    OTHER = "something else"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedEvent:
    """One extend; `text` is what `digest` is over, where that is text."""

    pcr: int
    digest: bytes
    label: str
    subject: Subject
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """An event before its bank is chosen: bytes to hash, or digests known already."""

    pcr: int
    subject: Subject
    label: str
    content: bytes | Digests
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """All predicted events in order; PCRs that none names stay zero."""

    steps: tuple[_Step, ...]

    def events(self, bank: str) -> tuple[PredictedEvent, ...]:
        """Give the events with their digests in `bank`."""
        return tuple(
            PredictedEvent(
                pcr=step.pcr,
                digest=_digest(step.content, bank),
                label=step.label,
                subject=step.subject,
                text=step.text,
            )
            for step in self.steps
        )

    def pcr(self, bank: str, index: int) -> bytes:
        """Give the value of one of PREDICTED_PCRS."""
        if index not in PREDICTED_PCRS:
            raise AttestSiteError(f"PCR {index} is not predicted")
        value = start_value(index, bank)
        for step in self.steps:
            if step.pcr == index:
                value = extend(value, _digest(step.content, bank), bank)
        return value


def predict(
    files: BootFiles | FileFacts,
    *,
    transport: Transport,
    server: str,
    variables: SecureBootVariables,
    drive: int = 0,
) -> Prediction:
    """Predict a boot; `server` is the address as GRUB names it.

    `drive` is GRUB's number of the CD drive, which is not 0 where the firmware finds another medium
    first (seen with two drives); a verifier tries CD_DRIVES in turn.

    Raise AttestSiteError for files that do not fit together or to the transport, EvidenceError for
    key databases with which these files could not have started.
    """
    facts = files if isinstance(files, FileFacts) else FileFacts.compute(files)
    profile = _profile(facts, transport)
    is_medium = transport is Transport.ISO
    root = f"(cd{drive})" if is_medium else f"({transport.value},{server})"
    prefix = root + facts.grub_prefix
    return Prediction(
        steps=(
            *_firmware(variables),
            *_shim(facts, variables),
            *_grub_start(facts, prefix, transport),
            *_grub_cfg(facts, profile, variables.secure_boot),
            *_kernel(facts, profile),
        )
    )


def _digest(content: bytes | Digests, bank: str) -> bytes:
    if bank not in BANKS:
        raise AttestSiteError(f"nothing is predicted for the {bank} bank")
    return hashlib.new(bank, content).digest() if isinstance(content, bytes) else content[bank]


def _profile(facts: FileFacts, transport: Transport) -> GrubProfile:
    name = f"GRUB {facts.grub_version}"
    profile = PROFILES.get(facts.grub_family)
    if profile is None:
        raise AttestSiteError(f"there is no boot profile for {name}")
    wanted = GrubKind.MEDIUM if transport is Transport.ISO else GrubKind.NETWORK
    if facts.grub_kind is not wanted:
        raise AttestSiteError(f"this image of {name} does not boot by {transport.value}")
    if transport is Transport.HTTP and not profile.http:
        raise AttestSiteError(f"{name} cannot boot over HTTP: it has no http module")
    return profile


def _variable_step(variable: Variable, subject: Subject, label: str) -> _Step:
    text = f"{variable.name} ({len(variable.data)} bytes)"
    return _Step(pcr=7, subject=subject, label=label, content=variable.encode(), text=text)


def _separator(pcr: int) -> _Step:
    return _Step(pcr=pcr, subject=Subject.FIRMWARE, label="separator", content=_SEPARATOR)


def _firmware(variables: SecureBootVariables) -> Iterator[_Step]:
    """What the firmware measures before it starts shim (PFP 3.3.4.5 and 3.3.4.8)."""
    contents = (
        b"\1" if variables.secure_boot else b"\0",
        variables.pk,
        variables.kek,
        variables.db,
        variables.dbx,
    )
    for (name, guid), data in zip(DATABASES, contents, strict=True):
        subject = Subject.SECURE_BOOT if name == "SecureBoot" else Subject.KEYS
        yield _variable_step(Variable(guid=guid, name=name, data=data), subject, name)
    for variable in variables.others:
        yield _variable_step(variable, Subject.KEYS, variable.name)
    for variable in variables.authorities:
        yield _variable_step(variable, Subject.KEYS, "db key that verified a driver")
    yield _separator(7)
    calling = b"Calling EFI Application from Boot Option"
    yield _Step(
        pcr=4,
        subject=Subject.FIRMWARE,
        label="firmware starts a boot option",
        content=calling,
        text=calling.decode(),
    )
    yield _separator(4)
    yield _separator(5)


def _program(label: str, subject: Subject, image: ImageFacts) -> _Step:
    return _Step(pcr=4, subject=subject, label=label, content=image.image)


def _shim(facts: FileFacts, variables: SecureBootVariables) -> Iterator[_Step]:
    """Shim as firmware measures it, what shim measures, and GRUB as shim measures it."""
    seen = list(variables.authorities)
    if variables.secure_boot:
        authority = _db_authority(facts.signers, variables)
        if authority is None:
            raise EvidenceError("no key in the db of the box signed the shim of the boot set")
        # Firmware logs each authority once a boot, so a driver's may have come before.
        if authority not in seen:
            seen.append(authority)
            yield _variable_step(authority, Subject.KEYS, "db key that verified shim")
    yield _program("shim", Subject.LOADER, facts.shim)
    vendor = Signature(type=CERT_X509, owner=SHIM_LOCK, data=facts.vendor_cert)
    level = _sbat_level(facts, variables)
    yield _mok("MokList", vendor.encode_list())
    yield _mok("MokListX", facts.vendor_dbx)
    yield _variable_step(
        Variable(guid=SHIM_LOCK, name="SbatLevel", data=level), Subject.KEYS, "SbatLevel"
    )
    yield _mok("MokListTrusted", b"\1")
    if variables.secure_boot:
        yield from _shim_authorities(facts, variables, vendor)
    yield _program("GRUB", Subject.LOADER, facts.grub)


def _sbat_level(facts: FileFacts, variables: SecureBootVariables) -> bytes:
    """Shim raises the level of the box to its own and never lowers it (shim `SBAT.md`)."""
    if not variables.secure_boot:
        return _SBAT_OFF
    found = variables.sbat_level or b""
    return found if _sbat_date(found) > _sbat_date(facts.sbat_level) else facts.sbat_level


def _sbat_date(level: bytes) -> int:
    match level.split(b"\n")[0].split(b","):
        case [b"sbat", b"1", date, *_] if date.isdigit() and len(date) == 10:
            return int(date)
    return 0


def _mok(label: str, content: bytes) -> _Step:
    return _Step(pcr=14, subject=Subject.OWNER_KEYS, label=label, content=content)


def _shim_authorities(
    facts: FileFacts, variables: SecureBootVariables, vendor: Signature
) -> Iterator[_Step]:
    """The keys by which shim let GRUB start; db comes first, then shim's own key."""
    authority = _db_authority(facts.grub_signers, variables)
    if authority is None:
        if not any(chains_to(chain, facts.vendor_cert) for chain in facts.grub_signers):
            raise AttestSiteError(
                f"GRUB {facts.grub_version} is not signed by the key that this shim holds"
            )
        authority = Variable(guid=SHIM_LOCK, name="MokListRT", data=vendor.encode())
    if not any(chains_to(chain, facts.vendor_cert) for chain in facts.kernel_signers):
        raise AttestSiteError("the kernel is not signed by the key that this shim holds")
    yield _variable_step(authority, Subject.KEYS, "shim key that verified GRUB")


def _db_authority(
    signers: tuple[tuple[bytes, ...], ...], variables: SecureBootVariables
) -> Variable | None:
    """Give the db entry that vouches for the first signature that has one."""
    entries = [entry for entry in decode_signatures(variables.db) if entry.type == CERT_X509]
    # The box wrote its db: each entry costs signature checks.
    if len(entries) > _MAX_DB_CERTIFICATES:
        raise EvidenceError(f"the db of the box holds {len(entries)} certificates")
    for chain in signers:
        for entry in entries:
            if chains_to(chain, entry.data):
                return Variable(guid=IMAGE_SECURITY, name="db", data=entry.encode())
    return None


def _command(text: str) -> _Step:
    return _Step(
        pcr=8,
        subject=Subject.COMMAND_LINE if text.startswith("linux ") else Subject.GRUB_COMMAND,
        label="grub command",
        content=text.encode(),
        text=text,
    )


def _file(label: str, subject: Subject, content: bytes | Digests) -> _Step:
    return _Step(pcr=9, subject=subject, label=label, content=content)


def _grub_start(facts: FileFacts, prefix: str, transport: Transport) -> Iterator[_Step]:
    if transport is Transport.HTTP:
        for name in _HTTP_LISTS:
            yield _file(f"no {name}", Subject.OTHER, b"")
    for template in facts.grub_commands:
        yield _command(template.format(prefix=prefix))
    yield _file("file grub.cfg", Subject.GRUB_CFG, facts.grub_cfg)


def _grub_cfg(facts: FileFacts, profile: GrubProfile, secure_boot: bool) -> Iterator[_Step]:
    for command in facts.commands:
        yield _command(command)
        name, _, arguments = command.partition(" ")
        if name == "linux":
            yield _file("file kernel", Subject.KERNEL, facts.kernel.file)
            # With Secure Boot off GRUB does not ask shim, so nobody measures the image.
            for _ in range(profile.kernel_images if secure_boot else 0):
                yield _program("kernel", Subject.KERNEL, facts.kernel)
            yield _Step(
                pcr=8,
                subject=Subject.COMMAND_LINE,
                label="kernel command line",
                content=arguments.encode(),
                text=arguments,
            )
        elif name == "initrd":
            for digests in facts.initrds:
                yield _file("file initrd", Subject.INITRD, digests)


def _kernel(facts: FileFacts, profile: GrubProfile) -> Iterator[_Step]:
    if profile.kernel_tags:
        linux = next(command for command in facts.commands if command.startswith("linux "))
        text = "BOOT_IMAGE=" + linux.removeprefix("linux ")
        yield _Step(
            pcr=9,
            subject=Subject.COMMAND_LINE,
            label="load options seen by the kernel",
            content=text.encode("utf-16-le"),
            text=text,
        )
        yield _file("initrd seen by the kernel", Subject.INITRD, facts.initrd_loaded)
    for text, label in (
        ("Exit Boot Services Invocation", "exit boot services"),
        ("Exit Boot Services Returned with Success", "exit boot services ok"),
    ):
        yield _Step(pcr=5, subject=Subject.FIRMWARE, label=label, content=text.encode(), text=text)
