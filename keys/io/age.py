"""age (age-encryption.org/v1) through pyrage: encrypts to one X25519 recipient, opens with one key.

It authenticates nobody: whoever calls it has verified a signature before. Random bytes are drawn
inside the library.
"""

from __future__ import annotations

from collections.abc import Callable

import pyrage
from pyrage import x25519

from keys.errors import PeerError
from keys.parcel import check_recipient
from keys.secret import Secret

NOT_OURS = "it was encrypted for another key, or was damaged on the way"


def encrypt(data: Secret, recipient: str) -> bytes:
    """Encrypt a parcel; PeerError when there is no such recipient."""
    made: bytes = pyrage.encrypt(data.reveal(), [_recipient(recipient)])
    return made


def decrypt(data: bytes, identity: Secret) -> Secret:
    """Open a parcel; PeerError when it is not for this key or is not whole."""
    try:
        return Secret(pyrage.decrypt(data, [_identity(identity)]))
    except pyrage.DecryptError:
        raise PeerError(NOT_OURS) from None


def encrypt_stream(
    read: Callable[[int], bytes], write: Callable[[bytes], object], recipient: str
) -> None:
    """Encrypt what `read(n)` gives until it gives nothing, in the memory of a few chunks.

    What `read` and `write` raise is raised.
    """
    source, sink = _Source(read), _Sink(write)
    try:
        pyrage.encrypt_io(source, sink, [_recipient(recipient)])
    except (pyrage.EncryptError, OSError):
        if source.error is None and sink.error is None:
            raise
    _raise(source, sink)


def decrypt_stream(
    read: Callable[[int], bytes], write: Callable[[bytes], object], identity: Secret
) -> None:
    """Open what `read(n)` gives; PeerError when it ends early: what came before was written."""
    source, sink = _Source(read), _Sink(write)
    try:
        pyrage.decrypt_io(source, sink, [_identity(identity)])
    except (pyrage.DecryptError, OSError):
        if source.error is None and sink.error is None:
            raise PeerError(NOT_OURS) from None
    _raise(source, sink)


def draw() -> Secret:
    """Draw an identity."""
    return Secret(str(x25519.Identity.generate()).encode())


def public_half(identity: Secret) -> str:
    """Give the recipient of an identity; PeerError when it is none."""
    return str(_identity(identity).to_public())


def lock(identity: Secret, passphrase: Secret) -> bytes:
    """Encrypt an identity under a passphrase, as `age -p` does: age itself can open it."""
    made: bytes = pyrage.passphrase.encrypt(identity.reveal(), passphrase.reveal().decode())
    return made


def unlock(data: bytes, passphrase: Secret) -> Secret:
    """Open it again; PeerError when the passphrase is another or the file is damaged."""
    try:
        return Secret(pyrage.passphrase.decrypt(data, passphrase.reveal().decode()).strip())
    except (pyrage.DecryptError, UnicodeDecodeError):
        raise PeerError("the off-site key does not open: wrong passphrase") from None


def _recipient(text: str) -> x25519.Recipient:
    return x25519.Recipient.from_str(check_recipient(text))


def _identity(identity: Secret) -> x25519.Identity:
    try:
        return x25519.Identity.from_str(identity.reveal().decode())
    except (pyrage.IdentityError, UnicodeDecodeError):
        raise PeerError("this is no age identity (AGE-SECRET-KEY-…)") from None


class _Source:
    """Where pyrage reads; it keeps what went wrong, which pyrage tells as text or not at all."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """Read nothing yet."""
        self._read = read
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        """Give up to so many bytes."""
        try:
            return self._read(size)
        except BaseException as error:
            self.error = error
            raise


class _Sink:
    """Where pyrage writes; an error of its last write would be lost in it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Write nothing yet."""
        self._write = write
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Take all of it."""
        if self.error is None:
            try:
                self._write(bytes(data))
            except BaseException as error:
                self.error = error
                raise
        return len(data)

    def flush(self) -> None:
        """Hold nothing back that could be flushed."""


def _raise(source: _Source, sink: _Sink) -> None:
    error = source.error or sink.error
    if error is not None:
        raise error
