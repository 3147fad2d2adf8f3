"""The site's authorities as this process runs them: requests, installed chain, TLS files, answers.

It never signs with a chain that `keys.ca` did not check against SITE/trust/root.pem, and it never
decides what an answer says. docs/phone-home-v1.md, "The answer"; architecture.md, "TLS names".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keys import ca
from keys.ca import Certificate, Issue, Issuer, Kind
from keys.envelope import answer_digest, answer_document
from keys.errors import PeerError, SiteError
from keys.io.files import write_file
from keys.io.layout import Layout
from keys.io.ring import ClosedError
from keys.io.rpc import Refusal
from keys.io.store import Store
from keys.io.vault import Vault
from keys.rules import SiteRules

Address = IPv4Address | IPv6Address

WRAP_KEY = "wrap"
"""The key that approves boots of boxes for what headquarters wrapped (`keys.wrap`)."""

NO_CA = (
    "this site's authorities are not signed yet: sign the requests with the site root "
    "and install the two certificates"
)


class Authority:
    """Keys and certificates of one site."""

    def __init__(self, layout: Layout, store: Store, vault: Vault, site_id: str) -> None:
        """Hold no key: each is read when it is used, so that none outlives the lease."""
        self._layout = layout
        self._store = store
        self._site_id = site_id
        self._vault = vault

    def draw(self) -> None:
        """Draw what is not there yet, so that no later transaction has to; ClosedError."""
        for kind in Kind:
            self._drop_other(kind, self._ca_key(kind).public_key())
        for name in ("answer", WRAP_KEY):
            self._vault.key_pair(name)
        self._server_key()
        self._vault.key_bytes("pseudonym")

    def _drop_other(self, kind: Kind, key: ec.EllipticCurvePublicKey) -> None:
        """Forget an intermediate whose key is not the one of now: its TPM was another, or none."""
        text = self._store.certificate(kind.value)
        if text is not None and ca.load_certificate(text).public_key() != key:
            with self._store.transaction():
                self._store.drop_certificate(kind.value)

    @property
    def ready(self) -> bool:
        """Say whether both intermediates are installed."""
        return all(self._store.certificate(kind.value) is not None for kind in Kind)

    def root(self) -> Certificate:
        """Read the site root; SiteError when it is missing or unfit."""
        path = self._layout.site / "trust" / "root.pem"
        try:
            root = ca.load_certificate(path.read_bytes())
            ca.check_root(root)
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        except PeerError as error:
            raise SiteError(f"{path}: {error}") from error
        return root

    def requests(self) -> list[dict[str, str]]:
        """Make the requests for the offline root."""
        made = []
        for kind in Kind:
            key = self._ca_key(kind)
            request = ca.make_request(key, site_id=self._site_id, kind=kind)
            made.append(
                {"kind": kind.value, "csr_pem": request.public_bytes(Encoding.PEM).decode()}
            )
        return made

    def check(self, kind: Kind, text: str, now: datetime) -> Certificate:
        """Check an intermediate that came back; PeerError with a sentence otherwise."""
        certificate = ca.load_certificate(text)
        key = self._ca_key(kind).public_key()
        ca.check_intermediate(certificate, root=self.root(), key=key, kind=kind, now=now)
        return certificate

    def install(self, kind: Kind, certificate: Certificate) -> None:
        """Store a checked intermediate, inside the caller's transaction."""
        self._store.set_certificate(kind.value, ca.pem([certificate]))

    def issuer(self, kind: Kind) -> Issuer:
        """Give an intermediate with its key; refuses with NO-CA before it is installed."""
        text = self._store.certificate(kind.value)
        if text is None:
            raise Refusal("NO-CA", NO_CA)
        return Issuer(certificate=ca.load_certificate(text), key=self._ca_key(kind))

    def end(self, name: str) -> int | None:
        """Say when an installed or issued certificate ends, in unix seconds."""
        text = self._store.certificate(name)
        if text is None:
            return None
        return int(ca.load_certificate(text).not_valid_after_utc.timestamp())

    def sign_answer(
        self, context: str, session: bytes, transcript: bytes, payload: Mapping[str, object]
    ) -> str:
        """Sign a payload for a box; gives the JSON text that it gets."""
        chain = [self._certificate("answer"), self.issuer(Kind.APPLIANCE).certificate]
        body = json.dumps(payload, separators=(",", ":")).encode()
        digest = answer_digest(context, self._site_id, session, transcript, body)
        signed = self._vault.key_pair("answer").sign(digest, ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signed)
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return answer_document(body, signature, [one.public_bytes(Encoding.DER) for one in chain])

    def issue_box(
        self, key: ec.EllipticCurvePublicKey, box: UUID, lifetime: timedelta, now: datetime
    ) -> tuple[str, int]:
        """Issue a box certificate; gives the chain as PEM and its end in unix seconds."""
        issuer = self.issuer(Kind.BOX)
        leaf = ca.issue_box(
            issuer,
            key,
            site_id=self._site_id,
            pseudonym=ca.pseudonym(self._vault.key_bytes("pseudonym").reveal(), box),
            lifetime=lifetime,
            issue=_issue(now),
        )
        chain = ca.pem([leaf, issuer.certificate])
        return chain, int(leaf.not_valid_after_utc.timestamp())

    def refresh(self, rules: SiteRules, now: datetime) -> bool:
        """Issue again what is missing, due or says other names; True when nginx must reload.

        Without a lease nothing is issued, and what was serves on: a page that says so is there.
        """
        if not self.ready:
            return False
        try:
            self._renew(rules, now)
        except ClosedError:
            if self._store.certificate("server") is None:
                raise
        return self._write_tls()

    def _renew(self, rules: SiteRules, now: datetime) -> None:
        if self._due("answer", now):
            issuer = self.issuer(Kind.APPLIANCE)
            key = self._vault.key_pair("answer").public_key()
            leaf = ca.issue_answer_leaf(issuer, key, site_id=self._site_id, issue=_issue(now))
            self._keep("answer", leaf)
        addresses = self._addresses(rules)
        wanted = {*rules.server_names, *map(str, addresses)}
        if self._due("server", now) or self._names() != wanted:
            self._keep("server", self._issue_server(rules.server_names, addresses, now))

    def _issue_server(
        self, names: Sequence[str], addresses: Sequence[Address], now: datetime
    ) -> Certificate:
        return ca.issue_server(
            self.issuer(Kind.APPLIANCE),
            self._server_key().public_key(),
            names=names,
            addresses=addresses,
            issue=_issue(now),
        )

    def _addresses(self, rules: SiteRules) -> tuple[Address, ...]:
        """Give the addresses that the root vouches for: it may be older than a network."""
        root = self.root()
        return tuple(one for one in rules.addresses if ca.may_vouch(root, one))

    def _write_tls(self) -> bool:
        directory = self._layout.run / "tls"
        chain = [self._certificate("server"), self._certificate(Kind.APPLIANCE.value)]
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key = self._server_key().private_bytes(*form)
        wrote = False
        for name, content in (("server.key", key), ("server.pem", ca.pem(chain).encode())):
            path = directory / name
            try:
                if not path.exists() or path.read_bytes() != content:
                    write_file(path, content, 0o640)
                    wrote = True
            except OSError as error:
                raise SiteError(f"{path}: {error.strerror}") from error
        return wrote

    def _server_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the key of the page and of phone-home, which answer without a lease too."""
        return self._vault.key_pair("server", on_device=True)

    def _ca_key(self, kind: Kind) -> ec.EllipticCurvePrivateKey:
        return self._vault.signing_key(f"{kind.value}-ca")

    def _certificate(self, name: str) -> Certificate:
        text = self._store.certificate(name)
        if text is None:
            raise Refusal("NO-CA", NO_CA)
        return ca.load_certificate(text)

    def _due(self, name: str, now: datetime) -> bool:
        text = self._store.certificate(name)
        if text is None:
            return True
        found = ca.load_certificate(text)
        signed_by = self._certificate(Kind.APPLIANCE.value)
        return now >= ca.renew_at(found) or not _issued_by(found, signed_by)

    def _keep(self, name: str, certificate: Certificate) -> None:
        with self._store.transaction():
            self._store.set_certificate(name, ca.pem([certificate]))

    def _names(self) -> set[str]:
        found = self._certificate("server").extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return {str(name.value) for name in names}


def _issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    return certificate.issuer == issuer.subject and (
        certificate.not_valid_after_utc <= issuer.not_valid_after_utc
    )


def _issue(now: datetime) -> Issue:
    return Issue(serial=x509.random_serial_number(), now=now)
