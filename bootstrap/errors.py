"""Errors of `bootstrap`: either the peer did wrong, or this site is wrong."""


class BootstrapError(Exception):
    """Base of every error that leaves this package."""


class PeerError(BootstrapError):
    """The other side sent what must not be accepted; refuse it and go on."""


class SiteError(BootstrapError):
    """What the operator wrote, or a disk, tool or interface of this site, is wrong.

    The text is one sentence: what, where, what to do.
    """
