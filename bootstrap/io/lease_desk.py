"""The directory of a lease authority at headquarters: its key, and a ledger of each appliance.

Nothing of it belongs on an appliance. The key is on the disk under its passphrase alone. One
command at a time: a lock is held from reading a ledger to writing it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bootstrap.errors import PeerError, SiteError
from bootstrap.io.site_dir import write
from bootstrap.lease_authority import RANDOM_SIZE, lock, public_pem, unlock
from bootstrap.lease_desk import Asked, Wanted, check_known, draw_up
from bootstrap.lease_ledger import Appliance, Ledger, decode
from keys.cachekey import open_escrow
from keys.lease import SignedLease, sign
from keys.secret import Secret
from keys.tpm_objects import Index

KEY, PUBLIC = "authority.key", "authority.pub"
LEASE_PUB = Path("trust/lease.pub")


class LeaseDesk:
    """The lease authority's directory."""

    def __init__(self, directory: Path) -> None:
        """Look at nothing yet."""
        self._directory = directory

    def make(self, passphrase: Secret) -> Path:
        """Draw the authority's key; SiteError when there is one. Gives the file of the key."""
        path = self._directory / KEY
        if path.exists():
            raise SiteError(f"{path} exists: leases of its sites hang on it, make none over it")
        key = ec.generate_private_key(ec.SECP256R1())
        data = lock(key, passphrase, os.urandom(RANDOM_SIZE))
        write(path, data, 0o600)
        self._directory.chmod(0o700)
        write(self._directory / PUBLIC, public_pem(key))
        return path

    def install(self, site: Path) -> Path:
        """Write the public half into a site; SiteError when it has another authority's."""
        path, public = site / LEASE_PUB, self._read(PUBLIC)
        if path.exists() and path.read_bytes() != public:
            raise SiteError(
                f"{path} is another authority's: what its appliance keeps opens with no other"
            )
        write(path, public)
        return path

    def unlock(self, passphrase: Secret) -> ec.EllipticCurvePrivateKey:
        """Open the authority's key; SiteError when the passphrase is wrong."""
        path = self._directory / KEY
        data = self._read(KEY)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SiteError(f"{path} can be read by others: chmod 600 {path}")
        return unlock(data, passphrase)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Read the public half."""
        try:
            key = load_pem_public_key(self._read(PUBLIC))
        except ValueError:
            raise SiteError(f"{self._directory / PUBLIC} is no public key in PEM") from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise SiteError(f"{self._directory / PUBLIC} is no P-256 key")
        return key

    def issue(
        self,
        asked: Asked,
        wanted: Wanted,
        authority: ec.EllipticCurvePrivateKey,
        *,
        is_new: bool,
        now: float,
    ) -> SignedLease:
        """Sign a lease and note it, on the disk before it is given; PeerError when it may not be.

        `is_new` says that a person compared the fingerprint of an appliance that is not known yet.
        """
        with self._alone():
            ledger = self._ledger_of(asked, is_new=is_new, now=now)
            lease = draw_up(asked, wanted, ledger, now)
            signed = sign(lease, authority, Index.LEASE.nv_name)
            request = asked.request
            self._directory.joinpath(request.site).mkdir(mode=0o700, exist_ok=True)
            ledger = ledger.after(request.lease_counter, signed, epoch=request.epoch)
            write(self._path(request.site, asked.ek_name), ledger.encode(authority), 0o600)
            return signed

    def ledger(self, site: str, ek_name: bytes) -> Ledger | None:
        """Read what is known of one appliance; None when it never had a lease from here."""
        path = self._path(site, ek_name)
        return self._decode(path) if path.exists() else None

    def retire(
        self, site: str, ek_name: bytes, authority: ec.EllipticCurvePrivateKey, now: float
    ) -> None:
        """Note that another appliance took the place of this one: it gets no lease any more."""
        with self._alone():
            known = self.ledger(site, ek_name)
            if known is not None and known.replaced is None:
                data = replace(known, replaced=int(now)).encode(authority)
                write(self._path(site, ek_name), data, 0o600)

    def passwords(self, asked: Asked, authority: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
        """Open the owner's and the lockout password of an appliance that is known."""
        check_known(asked, self._known(asked))
        opened = open_escrow(asked.request.escrow, authority, site=asked.request.site).reveal()
        return opened[: len(opened) // 2], opened[len(opened) // 2 :]

    def ledgers(self) -> list[Ledger]:
        """Read all ledgers; SiteError names one that is damaged."""
        return [self._decode(path) for path in sorted(self._directory.glob("*/*.ledger"))]

    def _ledger_of(self, asked: Asked, *, is_new: bool, now: float) -> Ledger:
        request = asked.request
        path = self._path(request.site, asked.ek_name)
        if path.exists():
            return self._decode(path)
        if not is_new:
            raise PeerError(
                "this appliance is not known: compare the fingerprint with what "
                "`doorstep lease request` prints there, and give --new"
            )
        first = Appliance(site=request.site, ek=request.ek, ak=request.ak, first=int(now))
        return Ledger(appliance=first)

    def _known(self, asked: Asked) -> Ledger:
        path = self._path(asked.request.site, asked.ek_name)
        if not path.exists():
            raise PeerError("this appliance is not known: no lease was ever issued for it here")
        return self._decode(path)

    def _decode(self, path: Path) -> Ledger:
        try:
            return decode(path.read_bytes(), self.public_key())
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        except SiteError as error:
            raise SiteError(f"{path} {error}") from None

    def _path(self, site: str, ek_name: bytes) -> Path:
        return self._directory / site / f"{ek_name[2:18].hex()}.ledger"

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise SiteError(
                f"{path}: {error.strerror}: make a lease authority with `doorstep lease init`, "
                "or name its directory with --authority"
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other command read or write ledgers meanwhile."""
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
