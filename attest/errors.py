"""The errors of this package: the evidence is wrong, or the site is."""

from attest.reasons import Reason


class AttestError(Exception):
    """Base of all errors of `attest`."""


class EvidenceError(AttestError):
    """What a box sent is not acceptable evidence."""


class CheckError(EvidenceError):
    """A check of evidence failed; `reason` is the finding, `detail` what differed."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        """Keep the reason for whoever turns this into a finding."""
        super().__init__(f"{reason.code}: {detail}" if detail else reason.code)
        self.reason = reason
        self.detail = detail


class AttestSiteError(AttestError):
    """A file or setting of this site is wrong."""
