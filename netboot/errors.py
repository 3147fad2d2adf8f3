"""Errors of `netboot`: either the peer did wrong, or this site is wrong."""


class NetbootError(Exception):
    """Base of every error that leaves this package."""


class PeerError(NetbootError):
    """A client or another server sent what must not be accepted; drop it and go on."""


class SiteError(NetbootError):
    """Configuration, disk or interface of this site is wrong; the text says what to do."""
