"""A predicted boot: its events in order, the PCR values that follow, and what every boot begins and
ends with, whatever the loader.

It knows no boot program; what a firmware measures before it starts one, and by which key it starts
it, follows from its key databases. TCG PFP 1.06, 3.3.4 (PCR use); UEFI 2.10, 32.4.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from attest.errors import AttestSiteError, EvidenceError
from attest.imagefacts import BANKS, Digests, ImageFacts, chains_to
from attest.replay import extend, start_value
from attest.uefi import CERT_SHA256, CERT_X509, IMAGE_SECURITY, Variable, decode_signatures
from attest.variables import DATABASES, SecureBootVariables

PREDICTED_PCRS = (4, 5, 7, 8, 9, 11, 12, 13, 14, 15)

_MAX_DB_CERTIFICATES = 64
_SEPARATOR = bytes(4)


class Subject(Enum):
    """What an event is about, in the order in which a difference matters to a person."""

    SECURE_BOOT = "the Secure Boot state"
    INITRD = "the initrd"
    KERNEL = "the kernel"
    GRUB_CFG = "grub.cfg"
    COMMAND_LINE = "the kernel command line"
    LOADER = "the boot loader"
    PARAMETERS = "extra parameters"
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
class Step:
    """An event before its bank is chosen: bytes to hash, or digests known already."""

    pcr: int
    subject: Subject
    label: str
    content: bytes | Digests
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """All predicted events in order; PCRs that none names stay zero."""

    steps: tuple[Step, ...]

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


def _digest(content: bytes | Digests, bank: str) -> bytes:
    if bank not in BANKS:
        raise AttestSiteError(f"nothing is predicted for the {bank} bank")
    return hashlib.new(bank, content).digest() if isinstance(content, bytes) else content[bank]


def variable_step(variable: Variable, subject: Subject, label: str) -> Step:
    """Give the measurement of a variable in PCR 7."""
    text = f"{variable.name} ({len(variable.data)} bytes)"
    return Step(pcr=7, subject=subject, label=label, content=variable.encode(), text=text)


def _separator(pcr: int) -> Step:
    return Step(pcr=pcr, subject=Subject.FIRMWARE, label="separator", content=_SEPARATOR)


def firmware_steps(variables: SecureBootVariables) -> Iterator[Step]:
    """What the firmware measures before it starts a boot program (PFP 3.3.4.5 and 3.3.4.8)."""
    if variables.before:
        yield from (_as_measured(data) for data in variables.before)
    else:
        yield from _databases(variables)
    yield _separator(7)
    calling = b"Calling EFI Application from Boot Option"
    yield Step(
        pcr=4,
        subject=Subject.FIRMWARE,
        label="firmware starts a boot option",
        content=calling,
        text=calling.decode(),
    )
    yield _separator(4)
    yield _separator(5)


def _as_measured(data: bytes) -> Step:
    """Take over what the firmware remarked beside its keys; the log has proved each of them."""
    return Step(pcr=7, subject=Subject.KEYS, label="a key or remark of the firmware", content=data)


def _databases(variables: SecureBootVariables) -> Iterator[Step]:
    contents = (
        b"\1" if variables.secure_boot else b"\0",
        variables.pk,
        variables.kek,
        variables.db,
        variables.dbx,
    )
    for (name, guid), data in zip(DATABASES, contents, strict=True):
        subject = Subject.SECURE_BOOT if name == "SecureBoot" else Subject.KEYS
        yield variable_step(Variable(guid=guid, name=name, data=data), subject, name)
    for variable in variables.others:
        yield variable_step(variable, Subject.KEYS, variable.name)
    for variable in variables.authorities:
        yield variable_step(variable, Subject.KEYS, "db key that verified a driver")


def program(label: str, subject: Subject, image: ImageFacts) -> Step:
    """Give the measurement of a program that is started, in PCR 4."""
    return Step(pcr=4, subject=subject, label=label, content=image.image)


def authority_steps(
    authority: Variable | None, variables: SecureBootVariables, name: str
) -> Iterator[Step]:
    """Give the db entry by which the firmware started our first program; EvidenceError for none."""
    if authority is None:
        raise EvidenceError(
            f"no key in the db of the box signed {name}, which its boot set starts with"
        )
    # Firmware logs each authority once a boot, so a driver's may have come before.
    if authority not in variables.authorities:
        yield variable_step(authority, Subject.KEYS, f"db key that verified {name}")


def db_authority(
    signers: tuple[tuple[bytes, ...], ...], image: Digests | None, variables: SecureBootVariables
) -> Variable | None:
    """Give the db entry that vouches for the first signature that has one, or for the digest."""
    entries = decode_signatures(variables.db)
    certificates = [entry for entry in entries if entry.type == CERT_X509]
    # The box wrote its db: each entry costs signature checks.
    if len(certificates) > _MAX_DB_CERTIFICATES:
        raise EvidenceError(f"the db of the box holds {len(certificates)} certificates")
    for chain in signers:
        for entry in certificates:
            if chains_to(chain, entry.data):
                return Variable(guid=IMAGE_SECURITY, name="db", data=entry.encode())
    for entry in entries:
        if image is not None and entry.type == CERT_SHA256 and entry.data == image["sha256"]:
            return Variable(guid=IMAGE_SECURITY, name="db", data=entry.encode())
    return None


def kernel_steps(options: bytes, text: str, initrd: Digests) -> Iterator[Step]:
    """Give what a kernel measures that was started as an EFI program: options and initrd."""
    yield Step(
        pcr=9,
        subject=Subject.COMMAND_LINE,
        label="load options seen by the kernel",
        content=options,
        text=text,
    )
    yield Step(pcr=9, subject=Subject.INITRD, label="initrd seen by the kernel", content=initrd)


def exit_steps() -> Iterator[Step]:
    """Give what the firmware measures when it hands over to the kernel."""
    for text, label in (
        ("Exit Boot Services Invocation", "exit boot services"),
        ("Exit Boot Services Returned with Success", "exit boot services ok"),
    ):
        yield Step(pcr=5, subject=Subject.FIRMWARE, label=label, content=text.encode(), text=text)
