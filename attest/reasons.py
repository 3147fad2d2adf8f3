"""Every reason for which a box is not simply accepted: code, sentence, who may release it, rank.

One table: the code is at once the log field, the journal column, the API's code and the `expect`
of the test vectors. It never decides anything (see `attest.appraise`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Releaser(Enum):
    """Who may let a box through in spite of a finding."""

    NOBODY = "nobody"
    HEADQUARTERS = "headquarters"
    TECHNICIAN_AND_HEADQUARTERS = "technician and headquarters"
    SIGNED_NOTE = "a signed delivery note that names the EK"
    ANYBODY = "no release needed"


class Reason(Enum):
    """A finding's reason, in order of rank: the first one found is what the technician reads."""

    code: str
    sentence: str
    releasable_by: Releaser

    def __new__(cls, code: str, releasable_by: Releaser, sentence: str) -> Reason:
        """Make the code the value, so that `Reason("EK-UNKNOWN")` finds it."""
        member = object.__new__(cls)
        member._value_ = code
        member.code = code
        member.sentence = sentence
        member.releasable_by = releasable_by
        return member

    @property
    def rank(self) -> int:
        """Place in this table; a lower rank is told first."""
        return _RANKS[self]

    @property
    def gates(self) -> bool:
        """Tell whether it stands in the way at all."""
        return self.releasable_by is not Releaser.ANYBODY

    SESSION_UNKNOWN = (
        "SESSION-UNKNOWN",
        Releaser.NOBODY,
        "This session is not one of this site, or its time is over: the box begins a new one.",
    )
    REPLAY = (
        "REPLAY",
        Releaser.NOBODY,
        "Other evidence was already given in this session: the box begins a new one.",
    )
    TPM_NONE = (
        "TPM-NONE",
        Releaser.NOBODY,
        "The box says that it has no TPM 2.0: switch it on in the firmware setup.",
    )
    TPM_OWNED = (
        "TPM-OWNED",
        Releaser.NOBODY,
        "The box says that somebody else's password locks its TPM: clear the TPM in the"
        " firmware setup.",
    )
    EK_NONE = (
        "EK-NONE",
        Releaser.NOBODY,
        "The box says that its TPM holds no endorsement key certificate of a kind known here.",
    )
    EK_STRUCTURE = (
        "EK-STRUCTURE",
        Releaser.NOBODY,
        "The endorsement key that the box sent cannot be read.",
    )
    EK_TEMPLATE = (
        "EK-TEMPLATE",
        Releaser.NOBODY,
        "The endorsement key was not made from a template of the TCG, so it proves no TPM.",
    )
    AK_ATTRIBUTES = (
        "AK-ATTRIBUTES",
        Releaser.NOBODY,
        "The attestation key is not one that only signs what its TPM made.",
    )
    QUOTE_STRUCTURE = (
        "QUOTE-STRUCTURE",
        Releaser.NOBODY,
        "What the box sent as a quote is none.",
    )
    QUOTE_SIGNATURE = (
        "QUOTE-SIGNATURE",
        Releaser.NOBODY,
        "The quote is not signed by the attestation key.",
    )
    AK_NOT_UNDER_EK = (
        "AK-NOT-UNDER-EK",
        Releaser.NOBODY,
        "The attestation key was not made under the endorsement key of this box.",
    )
    QUOTE_NONCE = (
        "QUOTE-NONCE",
        Releaser.NOBODY,
        "The quote was made for another session or another box.",
    )
    QUOTE_SELECTION = (
        "QUOTE-SELECTION",
        Releaser.NOBODY,
        "The quotes do not cover PCR 0 to 15 of every active bank exactly once.",
    )
    QUOTE_DIGEST = (
        "QUOTE-DIGEST",
        Releaser.NOBODY,
        "The measurements that the box sent are not those that its TPM signed.",
    )
    DEVICE_KEY = (
        "DEVICE-KEY",
        Releaser.NOBODY,
        "The key of the box for its certificate is not proved to live in its TPM.",
    )
    BANK_SHA1_ONLY = (
        "BANK-SHA1-ONLY",
        Releaser.NOBODY,
        "The TPM measures with SHA-1 alone: switch on its SHA-256 bank in the firmware setup.",
    )
    BANK_UNEXTENDED = (
        "BANK-UNEXTENDED",
        Releaser.NOBODY,
        "The firmware left an active bank of the TPM empty, so its values prove nothing:"
        " update the firmware or switch that bank off.",
    )
    COUNTER_BACK = (
        "COUNTER-BACK",
        Releaser.NOBODY,
        "A counter of the TPM went back: the evidence is older than what the box showed before.",
    )
    TPM_FIRMWARE_BAD = (
        "TPM-FIRMWARE-BAD",
        Releaser.HEADQUARTERS,
        "The TPM of this box runs a firmware that the policy of this site calls bad: update it.",
    )
    SECURE_BOOT_OFF = (
        "SECURE-BOOT-OFF",
        Releaser.NOBODY,
        "Secure Boot is off: switch it on in the firmware setup and start the box again.",
    )
    SECURE_BOOT_UNPROVED = (
        "SECURE-BOOT-UNPROVED",
        Releaser.NOBODY,
        "The boot log does not prove whether Secure Boot is on and with which keys: set up Secure"
        " Boot in the firmware setup and start the box again.",
    )
    FIRMWARE_DEBUG = (
        "FIRMWARE-DEBUG",
        Releaser.NOBODY,
        "The firmware of the box runs in debug mode: switch that off in the firmware setup.",
    )
    DMA_PROTECTION_OFF = (
        "DMA-PROTECTION-OFF",
        Releaser.HEADQUARTERS,
        "The firmware's protection against DMA attacks is off: switch it on in the firmware setup.",
    )
    INITRD_UNKNOWN = (
        "INITRD-UNKNOWN",
        Releaser.NOBODY,
        "The box loaded an initrd that is in no boot set this site accepts.",
    )
    BOOT_SET_WITHDRAWN = (
        "BOOT-SET-WITHDRAWN",
        Releaser.NOBODY,
        "This box still runs a boot set that was withdrawn: start it again from the network.",
    )
    KERNEL_UNKNOWN = (
        "KERNEL-UNKNOWN",
        Releaser.NOBODY,
        "The box loaded a kernel that is in no boot set this site accepts.",
    )
    OTHER_PROGRAM = (
        "OTHER-PROGRAM",
        Releaser.NOBODY,
        "Another program ran before the boot loader: remove it, boot from the network once,"
        " and switch the power off and on.",
    )
    LOADER_UNKNOWN = (
        "LOADER-UNKNOWN",
        Releaser.NOBODY,
        "The box ran a boot loader that is in no boot set this site accepts.",
    )
    GRUB_CFG_UNKNOWN = (
        "GRUB-CFG-UNKNOWN",
        Releaser.NOBODY,
        "The box read a grub.cfg that is in no boot set this site accepts.",
    )
    COMMAND_LINE_UNKNOWN = (
        "COMMAND-LINE-UNKNOWN",
        Releaser.NOBODY,
        "The kernel was started with a command line that is in no boot set this site accepts.",
    )
    MOK_ENROLLED = (
        "MOK-ENROLLED",
        Releaser.NOBODY,
        "A machine owner key is enrolled: reset the MOK list of the box.",
    )
    SECURE_BOOT_KEYS = (
        "SECURE-BOOT-KEYS",
        Releaser.NOBODY,
        "The Secure Boot keys of the box do not lead to the loader that this site serves.",
    )
    DBX_OUTDATED = (
        "DBX-OUTDATED",
        Releaser.NOBODY,
        "The list of forbidden boot programs (dbx) of the box is too old: update its firmware.",
    )
    EXTRA_PARAMETERS = (
        "EXTRA-PARAMETERS",
        Releaser.NOBODY,
        "Somebody passed extra parameters to the boot image: boot it from this site alone.",
    )
    PCR_MISMATCH = (
        "PCR-MISMATCH",
        Releaser.NOBODY,
        "The box did not boot what this site serves.",
    )
    LOG_MISSING = (
        "LOG-MISSING",
        Releaser.HEADQUARTERS,
        "The box sent no boot log, so its firmware and Secure Boot keys cannot be explained.",
    )
    LOG_MALFORMED = (
        "LOG-MALFORMED",
        Releaser.NOBODY,
        "The boot log of the box cannot be read.",
    )
    LOG_SHA1 = (
        "LOG-SHA1",
        Releaser.NOBODY,
        "The boot log of the box has the old form that knows SHA-1 alone: update its firmware.",
    )
    LOG_BANK = (
        "LOG-BANK",
        Releaser.NOBODY,
        "The boot log of the box lacks the digests of a bank that its TPM uses.",
    )
    LOG_EVENT = (
        "LOG-EVENT",
        Releaser.NOBODY,
        "The boot log of the box holds an event that cannot stand there.",
    )
    LOG_REPLAY = (
        "LOG-REPLAY",
        Releaser.NOBODY,
        "The boot log does not explain the measurements that the TPM signed.",
    )
    PCR_UNEXPLAINED = (
        "PCR-UNEXPLAINED",
        Releaser.NOBODY,
        "Something was measured that the boot log of the box does not mention.",
    )
    IMA_MALFORMED = (
        "IMA-MALFORMED",
        Releaser.NOBODY,
        "The list of what the kernel loaded cannot be read.",
    )
    IMA_REPLAY = (
        "IMA-REPLAY",
        Releaser.NOBODY,
        "The list of what the kernel loaded does not explain what the TPM signed.",
    )
    IMA_VIOLATION = (
        "IMA-VIOLATION",
        Releaser.NOBODY,
        "A file changed on the box while its kernel measured it.",
    )
    MODULE_UNKNOWN = (
        "MODULE-UNKNOWN",
        Releaser.NOBODY,
        "The box loaded a kernel module that is not part of its boot set.",
    )
    IMA_MISSING = (
        "IMA-MISSING",
        Releaser.HEADQUARTERS,
        "The box did not send the list of what its kernel loaded.",
    )
    VERIFIER_FAULT = (
        "VERIFIER-FAULT",
        Releaser.NOBODY,
        "The evidence could not be judged; this is a fault of this site: call the help desk.",
    )
    EK_CERT_MISMATCH = (
        "EK-CERT-MISMATCH",
        Releaser.NOBODY,
        "The endorsement certificate belongs to another key than the one the box uses.",
    )
    EK_CERT_REVOKED = (
        "EK-CERT-REVOKED",
        Releaser.NOBODY,
        "The maker of the TPM revoked the endorsement certificate of this box.",
    )
    EK_VIRTUAL = (
        "EK-VIRTUAL",
        Releaser.NOBODY,
        "The endorsement certificate is that of a TPM in software, which proves no machine.",
    )
    EK_CERT_INVALID = (
        "EK-CERT-INVALID",
        Releaser.SIGNED_NOTE,
        "The endorsement certificate of the box does not have the form that the TCG demands.",
    )
    EK_UNKNOWN = (
        "EK-UNKNOWN",
        Releaser.SIGNED_NOTE,
        "No maker that this site trusts vouches for the TPM of this box.",
    )
    EK_CERT_EXPIRED = (
        "EK-CERT-EXPIRED",
        Releaser.HEADQUARTERS,
        "The endorsement certificate of the box, or one above it, is out of date.",
    )
    CRL_STALE = (
        "CRL-STALE",
        Releaser.HEADQUARTERS,
        "The maker's list of revoked certificates is older than this site's policy allows.",
    )
    PLATFORM_CERT = (
        "PLATFORM-CERT",
        Releaser.HEADQUARTERS,
        "The platform certificate of the box does not hold or belongs to another box.",
    )
    EK_UNLISTED = (
        "EK-UNLISTED",
        Releaser.TECHNICIAN_AND_HEADQUARTERS,
        "This box is not on the delivery note.",
    )
    BOX_REPLACES = (
        "BOX-REPLACES",
        Releaser.TECHNICIAN_AND_HEADQUARTERS,
        "Another box of this site has its place already: a person must replace that one.",
    )
    TPM_CLEARED = (
        "TPM-CLEARED",
        Releaser.TECHNICIAN_AND_HEADQUARTERS,
        "The TPM of this box was cleared since it was last here.",
    )
    FACTS_DIFFER = (
        "FACTS-DIFFER",
        Releaser.TECHNICIAN_AND_HEADQUARTERS,
        "The box is not what the delivery note or its role says.",
    )
    FIRMWARE_UNKNOWN = (
        "FIRMWARE-UNKNOWN",
        Releaser.HEADQUARTERS,
        "The firmware of this box was not seen before on this model.",
    )
    TPM_FIRMWARE_CHANGED = (
        "TPM-FIRMWARE-CHANGED",
        Releaser.ANYBODY,
        "The TPM of this box has another firmware than when it was last here.",
    )
    POWER_CUT = (
        "POWER-CUT",
        Releaser.ANYBODY,
        "The power of the box was cut, so the clock of its TPM fell a little: that is normal.",
    )
    EK_CERT_SHA1 = (
        "EK-CERT-SHA1",
        Releaser.ANYBODY,
        "A certificate of the maker of the TPM is signed with SHA-1, as many old ones are.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason found in evidence; `detail` is for the log, `sentence` for the technician."""

    reason: Reason
    detail: str = ""
    told: str = ""

    @property
    def sentence(self) -> str:
        """The reason's sentence, or the one that fits this case better."""
        return self.told or self.reason.sentence


_RANKS = {reason: rank for rank, reason in enumerate(Reason)}
