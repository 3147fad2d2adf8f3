"""What HTTPS boot needs of `keys`: its RSA authority, and the server certificate beside nginx.

Nothing is drawn before the site file asks for `[boot] https`. keys.boot_ca.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keys import boot_ca, ca
from keys.boot_ca import BootIssuer
from keys.ca import Certificate, Issue
from keys.errors import SiteError
from keys.io.files import write_file
from keys.io.layout import Layout
from keys.io.rpc import Refusal
from keys.io.store import Store
from keys.io.vault import Vault
from keys.rules import SiteRules

CA, SERVER = "boot-ca", "boot-server"
OFF = "site.toml does not ask for HTTPS boot: set https = true in [boot]"


class BootTls:
    """Keys and certificates of HTTPS boot."""

    def __init__(self, layout: Layout, store: Store, vault: Vault, site_id: str) -> None:
        """Draw nothing yet."""
        self._layout = layout
        self._store = store
        self._vault = vault
        self._site_id = site_id

    def refresh(self, rules: SiteRules, now: datetime) -> bool:
        """Issue what is missing, due or says other names; True when nginx must reload."""
        if not rules.https_boot:
            return False
        issuer = self._issuer(now)
        key = self._vault.rsa_key(SERVER, boot_ca.SERVER_BITS)
        leaf = self._load(SERVER)
        if leaf is None or now >= _renew_at(leaf) or _names(leaf) != _wanted(rules):
            leaf = boot_ca.issue_boot_server(
                issuer,
                key.public_key(),
                names=rules.server_names,
                addresses=rules.addresses,
                issue=_issue(now),
            )
            self._keep(SERVER, leaf)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._write((("boot.key", private), ("boot.pem", ca.pem([leaf]).encode())))

    def authority(self, rules: SiteRules, now: datetime) -> Certificate:
        """Give the certificate for the firmware of boxes; a Refusal where HTTPS boot is off."""
        if not rules.https_boot:
            raise Refusal("HTTPS-OFF", OFF)
        return self._issuer(now).certificate

    def _issuer(self, now: datetime) -> BootIssuer:
        key = self._vault.rsa_key(CA, boot_ca.CA_BITS)
        certificate = self._load(CA)
        if certificate is None:
            certificate = boot_ca.make_boot_ca(key, site_id=self._site_id, issue=_issue(now))
            self._keep(CA, certificate)
        return BootIssuer(certificate=certificate, key=key)

    def _load(self, name: str) -> Certificate | None:
        text = self._store.certificate(name)
        return None if text is None else ca.load_certificate(text)

    def _keep(self, name: str, certificate: Certificate) -> None:
        with self._store.transaction():
            self._store.set_certificate(name, ca.pem([certificate]))

    def _write(self, files: tuple[tuple[str, bytes], ...]) -> bool:
        wrote = False
        for name, content in files:
            path = self._layout.run / "tls" / name
            try:
                if not path.exists() or path.read_bytes() != content:
                    write_file(path, content, 0o640)
                    wrote = True
            except OSError as error:
                raise SiteError(f"{path}: {error.strerror}") from error
        return wrote


def _renew_at(certificate: Certificate) -> datetime:
    """Say when to issue again: a third of its life before its end; it begins long before today."""
    return certificate.not_valid_after_utc - boot_ca.SERVER_LIFETIME / 3


def _names(certificate: Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {str(name.value) for name in found.value}


def _wanted(rules: SiteRules) -> set[str]:
    return {*rules.server_names, *map(str, rules.addresses)}


def _issue(now: datetime) -> Issue:
    return Issue(serial=x509.random_serial_number(), now=now)
