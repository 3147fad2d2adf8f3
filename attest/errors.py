"""The errors of this package: the evidence is wrong, or the site is."""


class AttestError(Exception):
    """Base of all errors of `attest`."""


class EvidenceError(AttestError):
    """What a box sent is not acceptable evidence."""


class AttestSiteError(AttestError):
    """A file or setting of this site is wrong."""
