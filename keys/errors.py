"""Errors of `keys`: either the peer did wrong, or this site is wrong."""


class KeysError(Exception):
    """Base of every error that leaves this package."""


class PeerError(KeysError):
    """The other side sent what must not be accepted; refuse it and go on."""


class SiteError(KeysError):
    """Configuration, disk or key material of this site is wrong; the text says what to do."""
