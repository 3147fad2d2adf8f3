"""The keys that everything stored hangs on, and whether they may be used now.

Three keys: `site` (stored secrets and the authorities' keys), `boot` (secrets of this boot of the
controller), `device` (what serves on without a lease: the zones' keys). `FileRing` keeps them in
files and says what that is worth; `keys.io.tpm_ring` gets them from a TPM, under a lease. Neither
decides who may have a secret. design.md, "Secrets".
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from keys.errors import SiteError
from keys.io.files import read_or_draw
from keys.io.layout import Layout
from keys.secret import Secret


class ClosedError(SiteError):
    """There is no key now; `code` is what control shows, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code


class Ring(Protocol):
    """Keys by what they protect."""

    @property
    def maker(self) -> str | None:
        """Name the TPM's maker; None without a TPM."""

    @property
    def appliance(self) -> str | None:
        """Give the fingerprint of the TPM, 32 letters; None without a TPM."""

    @property
    def where(self) -> str:
        """Say where the keys are, for a sentence."""

    @property
    def epoch(self) -> int:
        """Number the revocations of this cache, as far as anything holds them."""

    def check(self) -> None:
        """Look whether the keys may be used for a box now; ClosedError when not."""

    def key(self, name: str) -> Secret:
        """Give `site`, `boot` or `device`; ClosedError when there is none now."""

    def next_site_key(self) -> Secret | None:
        """Draw the site key of the next epoch, in the caller's transaction; None: it stays."""

    def advance(self) -> None:
        """Make the next epoch this one: what the one before protected is closed for good."""

    def keep_time(self) -> None:
        """Store how far the TPM's clock is, in the caller's transaction."""

    def make_signing_key(self) -> bytes | None:
        """Make a key in the TPM and give what is stored of it; None without a TPM."""

    def signing_key(self, stored: bytes) -> ec.EllipticCurvePrivateKey:
        """Give a key that `make_signing_key` made."""

    def prove(self, stored: bytes, kind: str) -> bytes | None:
        """Let the TPM vouch for such a key (`keys.ca_proof`); None without a TPM."""

    def audit_value(self) -> bytes | None:
        """Read what the audit is anchored to; None without a TPM."""

    def extend_audit(self, head: bytes) -> None:
        """Anchor the head of the audit."""

    def close(self) -> None:
        """Let go of the TPM."""


class FileRing:
    """Keys in files: a copy of the disk is a copy of them, and no revocation holds against one."""

    maker = None
    appliance = None
    epoch = 0

    def __init__(self, layout: Layout, *, is_new: bool) -> None:
        """Read or draw; SiteError when the file of a database that exists is missing."""
        path = layout.state / "keys" / "cache.key"
        if not is_new and not path.exists():
            raise SiteError(f"{path} is missing: put it back, without it keys.db stays closed")
        self.where = str(path)
        self._base = read_or_draw(path)
        self._boot = read_or_draw(layout.run / "keys" / "boot.key")

    def check(self) -> None:
        """Files are always there."""

    def key(self, name: str) -> Secret:
        """Give a key."""
        return self._boot if name == "boot" else self._base

    def next_site_key(self) -> None:
        """Have no other key to give."""

    def advance(self) -> None:
        """Count nothing: nothing would hold it."""

    def keep_time(self) -> None:
        """Have no clock of its own."""

    def make_signing_key(self) -> None:
        """Have nothing that would hold one."""

    def signing_key(self, stored: bytes) -> NoReturn:
        """Refuse: the database is of a controller with a TPM."""
        raise SiteError("keys.db: its signing keys are in a TPM that this controller has not")

    def prove(self, stored: bytes, kind: str) -> None:
        """Have nobody who would vouch."""

    def audit_value(self) -> None:
        """Have nothing that an audit could be held against."""

    def extend_audit(self, head: bytes) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Hold nothing open."""
