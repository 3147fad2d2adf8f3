"""The offline root of a site, in a directory of its own on a machine that is no appliance.

It answers requests and keeps the list of what it revoked. It never overwrites a key, and signs
nothing that `keys.ca` did not check. docs/identities.md.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bootstrap.errors import SiteError
from bootstrap.io.offline_keys import Ask, lock, read_root_key
from bootstrap.io.site_dir import write
from keys import ca, crl, manifest
from keys.errors import PeerError
from keys.secret import Secret

ROOT_KEY, SIGN_KEY, ROOT_PEM, ROOT_PUB = "root.key", "sign.key", "root.pem", "root.pub"
ROOT_LIST = "root.crl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootOf:
    """What a root is of: it vouches for names in `domain` and addresses in `networks` alone."""

    site_id: str
    domain: str
    networks: Sequence[IPv4Network | IPv6Network]


class OfflineRoot:
    """A directory with `root.key`; the certificate is beside it unless it is named."""

    def __init__(self, directory: Path, certificate: Path | None = None) -> None:
        """Look at nothing yet."""
        self._directory = directory
        self._certificate = certificate or directory / ROOT_PEM

    def make(self, of: RootOf, passphrase: Secret) -> tuple[Path, ...]:
        """Draw both keys under a passphrase and make the certificate; gives the files.

        SiteError when there is a root already, or something does not fit.
        """
        paths = [self._directory / name for name in (ROOT_KEY, SIGN_KEY, ROOT_PEM, ROOT_PUB)]
        for path in paths:
            if path.exists():
                raise SiteError(f"{path} exists: a site hangs on it, choose another directory")
        root, signing = (
            ec.generate_private_key(ec.SECP256R1()),
            ed25519.Ed25519PrivateKey.generate(),
        )
        try:
            certificate = ca.make_root(
                root, site_id=of.site_id, domain=of.domain, networks=of.networks, issue=_issue()
            )
        except ValueError as error:
            raise SiteError(f"no root can be made of that: {error}") from None
        contents = (
            (lock(root, passphrase), 0o600),
            (lock(signing, passphrase), 0o600),
            (ca.pem([certificate]).encode(), 0o644),
            (manifest.PublicKey.of(signing.public_key()).encode(), 0o644),
        )
        for path, (content, mode) in zip(paths, contents, strict=True):
            write(path, content, mode)
        self._directory.chmod(0o700)
        return tuple(paths)

    def certificate(self) -> ca.Certificate:
        """Read the root's certificate; SiteError when it is missing or unfit."""
        try:
            found = ca.load_certificate(self._certificate.read_bytes())
            ca.check_root(found)
            ca.site_of(found)
        except OSError as error:
            raise SiteError(
                f"{self._certificate}: {error.strerror}: make a root with `doorstep ca init`, "
                "or name its directory with --root"
            ) from error
        except PeerError as error:
            raise SiteError(f"{self._certificate}: {error}") from error
        return found

    def open(self, ask: Ask | None = None) -> ca.Issuer:
        """Open the key, for the call; SiteError when it is not the certificate's."""
        certificate, path = self.certificate(), self._directory / ROOT_KEY
        key = read_root_key(path, ask)
        if certificate.public_key() != key.public_key():
            raise SiteError(f"{path} is not the key of {self._certificate}: bring the right stick")
        return ca.Issuer(certificate=certificate, key=key)

    def sign(self, issuer: ca.Issuer, request: ca.Request, days: int | None = None) -> str:
        """Answer a request; gives the certificate as PEM. PeerError when it may not be."""
        lifetime = ca.CA_LIFETIME if days is None else timedelta(days=days)
        signed = ca.sign_intermediate(
            issuer, request.csr, kind=request.kind, issue=_issue(), lifetime=lifetime
        )
        return ca.pem([signed])

    def list_revoked(self, issuer: ca.Issuer, more: Iterable[int] = ()) -> str:
        """Sign the list again, with more serial numbers, and keep it; gives it as PEM.

        The list of before is where it is known what was revoked: SiteError when it is damaged.
        """
        now, path = ca.at(time.time()), self._directory / ROOT_LIST
        entries, number = {}, int(now.timestamp())
        if path.exists():
            before = self._known_list(path, issuer.certificate)
            number = max(number, crl.number(before) + 1)
            entries = {one.serial_number: one.revocation_date_utc for one in before}
        for serial in more:
            entries.setdefault(serial, now)
        revoked = [crl.Revoked(serial=serial, at=at) for serial, at in entries.items()]
        made = crl.make(issuer, revoked, number=number, now=now, lifetime=crl.ROOT_LIFETIME)
        write(path, crl.pem(made).encode())
        return crl.pem(made)

    def _known_list(self, path: Path, root: ca.Certificate) -> crl.RevocationList:
        try:
            found = crl.load(path.read_bytes())
            crl.check_signed(found, root)
            crl.number(found)
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        except PeerError as error:
            raise SiteError(f"{path}: {error}: take the copy of it") from error
        return found


def _issue() -> ca.Issue:
    return ca.Issue(serial=secrets.randbits(159) | 1, now=ca.at(time.time()))
