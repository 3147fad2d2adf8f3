"""Prediction of the boot of a unified kernel image, which is the same over every transport.

The firmware starts the stub, the stub measures the image's sections and starts its kernel.
systemd-stub(7); Linux `efistub` tags; UAPI Group, TPM2 PCR Measurements Made by systemd.
"""

from collections.abc import Iterator

from attest.imagefacts import Digests
from attest.prediction import (
    Step,
    Subject,
    authority_steps,
    db_authority,
    exit_steps,
    firmware_steps,
    kernel_steps,
    program,
)
from attest.uki import StubProfile, profile_of
from attest.ukifacts import UkiFacts
from attest.variables import SecureBootVariables

SECTION_NAME, SECTION = "UKI section name", "UKI section"
_SUBJECTS = {
    ".linux": Subject.KERNEL,
    ".initrd": Subject.INITRD,
    ".cmdline": Subject.COMMAND_LINE,
}


def section_subject(name: str) -> Subject:
    """Say what a section of the image is about."""
    return _SUBJECTS.get(name, Subject.LOADER)


def uki_steps(facts: UkiFacts, variables: SecureBootVariables) -> tuple[Step, ...]:
    """Predict the boot; raise AttestSiteError for a stub without profile, else as `predict`."""
    profile = profile_of(facts.stub_version, facts.stub_family)
    # The stub hands the NUL over with the options.
    options = f"{facts.command_line}\0".encode("utf-16-le")
    return (
        *firmware_steps(variables),
        *_image(facts, variables),
        *_sections(facts),
        *_kernel(facts, profile, variables),
        *kernel_steps(options, facts.command_line, facts.initrd_loaded),
        *exit_steps(),
    )


def _image(facts: UkiFacts, variables: SecureBootVariables) -> Iterator[Step]:
    if variables.secure_boot:
        authority = db_authority(facts.signers, facts.image.image, variables)
        yield from authority_steps(authority, variables, "the UKI")
    yield program("UKI", Subject.LOADER, facts.image)


def _sections(facts: UkiFacts) -> Iterator[Step]:
    for section in facts.sections:
        name = f"{section.name}\0".encode()
        yield _section(f"{SECTION_NAME} {section.name}", section.name, name)
        yield _section(f"{SECTION} {section.name}", section.name, section.content)


def _section(label: str, name: str, content: bytes | Digests) -> Step:
    return Step(pcr=11, subject=section_subject(name), label=label, content=content)


def _kernel(
    facts: UkiFacts, profile: StubProfile, variables: SecureBootVariables
) -> Iterator[Step]:
    """With Secure Boot on the stub vouches for its kernel and the firmware never sees it."""
    if profile.starts_by_firmware and not variables.secure_boot:
        yield program("kernel in the UKI", Subject.KERNEL, facts.kernel)
