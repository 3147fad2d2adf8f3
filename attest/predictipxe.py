"""Prediction of a boot by iPXE, whose script loads a kernel that starts by its own EFI stub.

The firmware measures iPXE and the kernel, the kernel measures its options and its initrd. It is the
same over every transport, because no digest covers where a program came from.
TCG PFP 1.06, 3.3.4.5 (PCR 4); Linux `efistub` tags.
"""

from collections.abc import Iterator

from attest.errors import EvidenceError
from attest.ipxe import profile_of
from attest.ipxefacts import IpxeFacts
from attest.prediction import Step, Subject, exit_steps, firmware_steps, kernel_steps, program
from attest.variables import SecureBootVariables


def ipxe_steps(facts: IpxeFacts, variables: SecureBootVariables) -> tuple[Step, ...]:
    """Predict the boot; raise AttestSiteError for an iPXE without profile.

    Raise EvidenceError for key databases with Secure Boot on: nobody signs this iPXE, so whatever
    ran there was let in by a key or digest that no boot set knows.
    """
    if variables.secure_boot:
        raise EvidenceError("iPXE is not signed: with Secure Boot on it cannot have started")
    options = f"{facts.command_line}\0".encode("utf-16-le")
    return (
        *firmware_steps(variables),
        *_programs(facts),
        *kernel_steps(options, facts.command_line, facts.initrd_loaded),
        *exit_steps(),
    )


def _programs(facts: IpxeFacts) -> Iterator[Step]:
    yield program("iPXE", Subject.LOADER, facts.ipxe)
    for _ in range(profile_of(facts.ipxe_version, facts.ipxe_family).kernel_images):
        yield program("kernel", Subject.KERNEL, facts.kernel)
