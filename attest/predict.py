"""Boot prediction: the events and PCR values that the files of a boot set must lead to.

Values come from what the site serves, its address and the key databases alone. It never looks at
the log of the boot that it judges, apart from key databases that their own digests prove.
TCG PFP 1.06, 3.3.4 (PCR use); shim `README.tpm`; GRUB manual 2.12, 17.2; Linux `efistub` tags.
"""

from collections.abc import Iterator
from enum import Enum

from attest.bootfacts import Digests, Facts, FileFacts, IpxeFacts, UkiFacts, chains_to
from attest.errors import AttestSiteError
from attest.grub import GrubKind, GrubProfile, profile_of
from attest.prediction import (
    PREDICTED_PCRS,
    PredictedEvent,
    Prediction,
    Step,
    Subject,
    authority_steps,
    db_authority,
    exit_steps,
    firmware_steps,
    kernel_steps,
    program,
    variable_step,
)
from attest.predictipxe import ipxe_steps
from attest.predictuki import uki_steps
from attest.uefi import CERT_X509, SHIM_LOCK, Signature, Variable
from attest.variables import SecureBootVariables, variables_from_log, variables_from_store

__all__ = [
    "CD_DRIVES",
    "PREDICTED_PCRS",
    "FileFacts",
    "IpxeFacts",
    "PredictedEvent",
    "Prediction",
    "SecureBootVariables",
    "Subject",
    "Transport",
    "UkiFacts",
    "predict",
    "variables_from_log",
    "variables_from_store",
]

CD_DRIVES = range(4)
"""The drive numbers worth trying: real drive, two virtual ones of a BMC, one to spare."""

_SBAT_OFF = b"sbat,1,2021030218\n"
# Module lists that GRUB 2.12 asks for over HTTP; our "not found" is measured as an empty file.
_HTTP_LISTS = ("command.lst", "fs.lst", "crypto.lst", "terminal.lst")


class Transport(Enum):
    """How the box gets the files; it decides GRUB's device name, or that there is no GRUB."""

    TFTP = "tftp"
    HTTP = "http"
    HTTPS = "https"
    ISO = "iso"
    IPXE = "ipxe"


_BY_HTTP = (Transport.HTTP, Transport.HTTPS)


def predict(
    facts: Facts,
    *,
    transport: Transport,
    server: str,
    variables: SecureBootVariables,
    drive: int = 0,
) -> Prediction:
    """Predict a boot; `server` is the address as GRUB names it, other loaders need none.

    GRUB names the port too where the URL had one (seen over HTTPS: `(https,10.77.0.2:8444)`).

    `drive` is GRUB's number of the CD drive, which is not 0 where the firmware finds another medium
    first (seen with two drives); a verifier tries CD_DRIVES in turn.

    Raise AttestSiteError for files that do not fit together or to the transport, EvidenceError for
    key databases with which these files could not have started.
    """
    if isinstance(facts, UkiFacts):
        return Prediction(steps=uki_steps(facts, variables))
    if isinstance(facts, IpxeFacts):
        return Prediction(steps=ipxe_steps(facts, variables))
    profile = _profile(facts, transport)
    is_medium = transport is Transport.ISO
    root = f"(cd{drive})" if is_medium else f"({transport.value},{server})"
    prefix = root + facts.grub_prefix
    return Prediction(
        steps=(
            *firmware_steps(variables),
            *_shim(facts, variables),
            *_grub_start(facts, prefix, transport),
            *_grub_cfg(facts, profile, variables.secure_boot),
            *_kernel(facts, profile),
            *exit_steps(),
        )
    )


def _profile(facts: FileFacts, transport: Transport) -> GrubProfile:
    name = f"GRUB {facts.grub_version}"
    profile = profile_of(name, facts.grub_family, facts.architecture)
    wanted = GrubKind.MEDIUM if transport is Transport.ISO else GrubKind.NETWORK
    if facts.grub_kind is not wanted:
        raise AttestSiteError(f"this image of {name} does not boot by {transport.value}")
    if transport in _BY_HTTP and not profile.http:
        raise AttestSiteError(f"{name} cannot boot over HTTP: it has no http module")
    return profile


def _shim(facts: FileFacts, variables: SecureBootVariables) -> Iterator[Step]:
    """Shim as firmware measures it, what shim measures, and GRUB as shim measures it."""
    if variables.secure_boot:
        authority = db_authority(facts.signers, facts.shim.image, variables)
        yield from authority_steps(authority, variables, "shim")
    yield program("shim", Subject.LOADER, facts.shim)
    vendor = Signature(type=CERT_X509, owner=SHIM_LOCK, data=facts.vendor_cert)
    level = _sbat_level(facts, variables)
    yield _mok("MokList", vendor.encode_list())
    yield _mok("MokListX", facts.vendor_dbx)
    yield variable_step(
        Variable(guid=SHIM_LOCK, name="SbatLevel", data=level), Subject.KEYS, "SbatLevel"
    )
    yield _mok("MokListTrusted", b"\1")
    if variables.secure_boot:
        yield from _shim_authorities(facts, variables, vendor)
    yield program("GRUB", Subject.LOADER, facts.grub)


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


def _mok(label: str, content: bytes) -> Step:
    return Step(pcr=14, subject=Subject.OWNER_KEYS, label=label, content=content)


def _shim_authorities(
    facts: FileFacts, variables: SecureBootVariables, vendor: Signature
) -> Iterator[Step]:
    """The keys by which shim let GRUB start; db comes first, then shim's own key."""
    authority = db_authority(facts.grub_signers, None, variables)
    if authority is None:
        if not any(chains_to(chain, facts.vendor_cert) for chain in facts.grub_signers):
            raise AttestSiteError(
                f"GRUB {facts.grub_version} is not signed by the key that this shim holds"
            )
        authority = Variable(guid=SHIM_LOCK, name="MokListRT", data=vendor.encode())
    if not any(chains_to(chain, facts.vendor_cert) for chain in facts.kernel_signers):
        raise AttestSiteError("the kernel is not signed by the key that this shim holds")
    yield variable_step(authority, Subject.KEYS, "shim key that verified GRUB")


def _command(text: str) -> Step:
    return Step(
        pcr=8,
        subject=Subject.COMMAND_LINE if text.startswith("linux ") else Subject.GRUB_COMMAND,
        label="grub command",
        content=text.encode(),
        text=text,
    )


def _file(label: str, subject: Subject, content: bytes | Digests) -> Step:
    return Step(pcr=9, subject=subject, label=label, content=content)


def _grub_start(facts: FileFacts, prefix: str, transport: Transport) -> Iterator[Step]:
    if transport in _BY_HTTP:
        for name in _HTTP_LISTS:
            yield _file(f"no {name}", Subject.OTHER, b"")
    for template in facts.grub_commands:
        yield _command(template.format(prefix=prefix))
    yield _file("file grub.cfg", Subject.GRUB_CFG, facts.grub_cfg)


def _grub_cfg(facts: FileFacts, profile: GrubProfile, secure_boot: bool) -> Iterator[Step]:
    for command in facts.commands:
        yield _command(command)
        name, _, arguments = command.partition(" ")
        if name == "linux":
            yield _file("file kernel", Subject.KERNEL, facts.kernel.file)
            # With Secure Boot off GRUB does not ask shim, so nobody measures the image.
            for _ in range(profile.kernel_images if secure_boot else 0):
                yield program("kernel", Subject.KERNEL, facts.kernel)
            yield Step(
                pcr=8,
                subject=Subject.COMMAND_LINE,
                label="kernel command line",
                content=arguments.encode(),
                text=arguments,
            )
        elif name == "initrd":
            for digests in facts.initrds:
                yield _file("file initrd", Subject.INITRD, digests)


def _kernel(facts: FileFacts, profile: GrubProfile) -> Iterator[Step]:
    if profile.kernel_tags:
        linux = next(command for command in facts.commands if command.startswith("linux "))
        text = "BOOT_IMAGE=" + linux.removeprefix("linux ")
        yield from kernel_steps(text.encode("utf-16-le"), text, facts.initrd_loaded)
