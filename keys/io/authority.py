"""The site's authorities as this process runs them: requests, installed chain, TLS files, answers.

It never signs with a chain that `keys.ca` did not check against SITE/trust/root.pem, and it never
decides what an answer says. docs/phone-home-v1.md, "The answer"; architecture.md, "TLS names".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keys import ca, crl
from keys.ca import Certificate, Issue, Issuer, Kind
from keys.crl import RevocationList
from keys.envelope import answer_digest, answer_document
from keys.errors import PeerError, SiteError
from keys.io.files import write_file
from keys.io.issuing import BOX, Issued, Issuing
from keys.io.layout import Layout
from keys.io.ring import ClosedError
from keys.io.rpc import Refusal
from keys.io.store import Store
from keys.io.vault import Vault
from keys.rules import SiteRules

Address = IPv4Address | IPv6Address

WRAP_KEY = "wrap"
"""The key that approves boots of boxes for what headquarters wrapped (`keys.wrap`)."""

ROOT_LIST = "root-crl"
LISTS = "box-ca.crl", "crl.pem"
"""What nginx gives to whoever asks: the box CA's list (DER), and both lists (PEM)."""

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
        self.issuing = Issuing(store)

    def draw(self) -> None:
        """Draw what is not there yet, so that no later transaction has to; ClosedError."""
        for kind in Kind:
            self._drop_other(kind, self._ca_key(kind).public_key())
        for name in ("answer", WRAP_KEY):
            self._vault.key_pair(name)
        self._server_key()
        self._vault.key_bytes("pseudonym")

    def _drop_other(self, kind: Kind, key: ec.EllipticCurvePublicKey) -> None:
        """Forget an intermediate whose key is not the one of now: its TPM was another, or none.

        A key in software, of a release before, goes too: what the TPM holds signs for it.
        """
        text = self._store.certificate(kind.value)
        if text is None or ca.load_certificate(text).public_key() == key:
            return
        with self._store.transaction():
            self._store.drop_certificate(kind.value)
            query = "DELETE FROM material WHERE name=?"
            self._store.execute(query, f"{kind.value}-ca")

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
            request = ca.make_request(
                key,
                site_id=self._site_id,
                kind=kind,
                appliance=self._vault.appliance,
                proof=self._vault.prove(f"{kind.value}-ca", kind.value),
            )
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

    def check_root_list(self, text: str, now: datetime) -> RevocationList:
        """Check the offline root's list; PeerError when it is unfit, or older than what is here."""
        found, before = crl.load(text), self._root_list()
        crl.check(found, self.root(), now)
        if before is not None and crl.number(found) < crl.number(before):
            raise PeerError("a newer list of revoked certificates of the root is installed")
        return found

    def check_unrevoked(
        self, brought: Mapping[Kind, Certificate], root_list: RevocationList | None
    ) -> None:
        """Check what will be installed against the root's list that will be; PeerError."""
        known = root_list or self._root_list()
        if known is None:
            return
        for kind in Kind:
            text = self._store.certificate(kind.value)
            one = brought.get(kind) or (ca.load_certificate(text) if text else None)
            if one is not None and one.serial_number in crl.serials(known):
                raise PeerError(
                    f"the site root revoked this {kind.value} certificate: have a new one signed"
                )

    def _root_list(self) -> RevocationList | None:
        text = self._store.certificate(ROOT_LIST)
        return None if text is None else crl.load(text)

    def install_root_list(self, found: RevocationList) -> None:
        """Store a checked list, inside the caller's transaction."""
        self._store.set_certificate(ROOT_LIST, crl.pem(found))

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
        self,
        key: ec.EllipticCurvePublicKey,
        box: UUID,
        lifetime: timedelta,
        now: datetime,
        *,
        ek_name: bytes,
    ) -> tuple[str, int]:
        """Issue a box certificate and write it down, in the caller's transaction.

        Gives the chain as PEM and its end in unix seconds.
        """
        issuer = self.issuer(Kind.BOX)
        named = ca.pseudonym(self._vault.key_bytes("pseudonym").reveal(), box)
        leaf = ca.issue_box(
            issuer,
            key,
            site_id=self._site_id,
            pseudonym=named,
            lifetime=lifetime,
            issue=_issue(now),
        )
        end = int(leaf.not_valid_after_utc.timestamp())
        self.issuing.add(
            Issued(
                serial=leaf.serial_number,
                kind=BOX,
                ek_name=ek_name,
                subject=named,
                at=now.timestamp(),
                not_after=end,
            )
        )
        return ca.pem([leaf, issuer.certificate]), end

    # the lists of revoked certificates

    def refresh_list(self, now: datetime) -> None:
        """Sign the box CA's list again when it is due, and write it for nginx.

        Without a lease the one before stays: no box waits for it, and a revoked one gets nothing.
        """
        issuer = self._store.certificate(Kind.BOX.value)
        if issuer is None:
            return
        if self.issuing.is_due(ca.load_certificate(issuer), now):
            with suppress(ClosedError):
                self.issuing.make_list(self.issuer(Kind.BOX), now)
        found = self.issuing.current()
        if found is not None:
            both = crl.pem(found) + (self._store.certificate(ROOT_LIST) or "")
            for name, content in zip(
                LISTS, (found.public_bytes(Encoding.DER), both.encode()), strict=True
            ):
                self._write(name, content)

    def lists(self) -> tuple[RevocationList, str]:
        """Give the box CA's list, and both lists as PEM; refuses with NO-CA before there is one."""
        found = self.issuing.current()
        if found is None:
            raise Refusal("NO-CA", NO_CA)
        return found, crl.pem(found) + (self._store.certificate(ROOT_LIST) or "")

    def list_ends(self) -> dict[str, float]:
        """Say when the lists of revoked certificates end, in unix seconds, by whose they are."""
        found = {"box CA": self.issuing.current(), "site root": self._root_list()}
        return {name: crl.end(one).timestamp() for name, one in found.items() if one is not None}

    def sentences(self, now: datetime) -> list[str]:
        """Say what has ended of what others rely on."""
        found = self.issuing.current()
        if found is None or now < crl.end(found):
            return []
        return [
            "the list of revoked box certificates has ended: servers that check it refuse every "
            "box until this controller may sign again"
        ]

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
        self.refresh_list(now)
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
        chain = [self._certificate("server"), self._certificate(Kind.APPLIANCE.value)]
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key = self._server_key().private_bytes(*form)
        wrote = self._write("server.key", key)
        return self._write("server.pem", ca.pem(chain).encode()) or wrote

    def _write(self, name: str, content: bytes) -> bool:
        """Write a file for nginx; True when it was another."""
        path = self._layout.run / "tls" / name
        try:
            if path.exists() and path.read_bytes() == content:
                return False
            write_file(path, content, 0o640)
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        return True

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
        return now >= ca.renew_at(found) or not ca.is_issued_by(found, signed_by)

    def _keep(self, name: str, certificate: Certificate) -> None:
        with self._store.transaction():
            self._store.set_certificate(name, ca.pem([certificate]))

    def _names(self) -> set[str]:
        found = self._certificate("server").extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return {str(name.value) for name in names}


def _issue(now: datetime) -> Issue:
    return Issue(serial=x509.random_serial_number(), now=now)
