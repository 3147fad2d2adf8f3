"""The site's SSH authority: certificates for the host keys of enrolled boxes, and who lost theirs.

Its key signs in the TPM under the lease, so nothing is certified after that has ended. It certifies
what control says was quoted, for names of this site alone (`keys.ssh_certificate`).
docs/identities.md, "SSH"; docs/architecture.md, "Hand-off document".
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any
from uuid import UUID

from keys import ca, ssh_certificate
from keys.envelope import b64u
from keys.errors import PeerError
from keys.io.authority import Authority
from keys.io.issuing import Issued, Issuing
from keys.io.method_rows import OPERATOR_ALONE, MethodRow
from keys.io.rpc import Params
from keys.io.site_files import SiteFiles
from keys.io.ssh_names import SshNames
from keys.io.store import Event, Store
from keys.io.vault import Vault

KEY = "ssh-ca"
KIND = "ssh-host"
"""Of its rows in the table `issued`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Which key is to be certified for which box; `public` is a blob that the box chose."""

    box: UUID
    ek_name: bytes
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAuthority:
    """Certificates of host keys; every certificate is a row of `issued`."""

    store: Store
    vault: Vault
    authority: Authority
    files: SiteFiles

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "ssh_ca": MethodRow(serve=self._ca, users=OPERATOR_ALONE),
            "ssh_krl": MethodRow(serve=self._krl, users=OPERATOR_ALONE),
        }

    def draw(self) -> None:
        """Make the keys if they are not there yet, so that no transaction has to; ClosedError."""
        self.vault.signing_key(KEY)
        self.vault.key_bytes("pseudonym")

    def certificate(
        self, host: Host, document: Mapping[str, Any], *, not_after: int, now: float
    ) -> str | None:
        """Certify a host key for the names in a hand-off document, in the caller's transaction.

        None for what is no key of an SSH host, as a box may have none, and where another box in
        service has such a name: an event says so. PeerError when a name is not of this site,
        ClosedError without a lease. `not_after` is that of the box's X.509 identity.
        """
        try:
            ssh_certificate.host_key(host.public)
        except PeerError:
            return None
        names = self._names(document)
        held = SshNames(self.store)
        taken = held.taken(names.principals, host.ek_name, now)
        if taken is not None:
            event = Event(
                kind="ssh-withheld",
                box=str(host.box),
                reason="NAME-TAKEN",
                detail={"name": taken, "ek_name": host.ek_name.hex()},
            )
            self.store.record(now, "keys", event)
            return None
        if held.of(host.ek_name).names not in ((), names.principals):
            Issuing(self.store).take_back(KIND, host.ek_name, now)
        held.take(names.principals, host.ek_name, not_after)
        return self._issue(host, names, not_after, now)

    def _issue(
        self, host: Host, names: ssh_certificate.HostNames, not_after: int, now: float
    ) -> str:
        identity = self._identity(host.box)
        serial = secrets.randbelow(ssh_certificate.MAX_SERIAL) + 1
        line = ssh_certificate.issue(
            self.vault.signing_key(KEY),
            public=host.public,
            identity=identity,
            names=names,
            serial=serial,
            now=int(now),
            not_after=not_after,
        )
        one = Issued(
            serial=serial,
            kind=KIND,
            ek_name=host.ek_name,
            subject=identity,
            at=now,
            not_after=not_after,
        )
        Issuing(self.store).add(one)
        return line

    def _identity(self, box: UUID) -> str:
        named = ca.pseudonym(self.vault.key_bytes("pseudonym").reveal(), box)
        return ssh_certificate.key_id(self.files.rules.site_id, named)

    def _names(self, document: Mapping[str, Any]) -> ssh_certificate.HostNames:
        hostname, fqdn = document.get("hostname"), document.get("fqdn")
        if not isinstance(hostname, str) or not isinstance(fqdn, str):
            raise PeerError("the hand-off names no host to certify")
        addresses = dict.fromkeys(self._addresses(document))
        return ssh_certificate.site_names(hostname, fqdn, addresses, self.files.rules)

    def _addresses(self, document: Mapping[str, Any]) -> Iterator[IPv4Address | IPv6Address]:
        """Give the fixed addresses; of IPv6, those of a network that the site root knows."""
        for one in document.get("network", []):
            try:
                address = ip_interface(str(one["address"])).ip
            except (ValueError, KeyError, TypeError):
                raise PeerError("the hand-off names an address that is none") from None
            if address.version == 4 or ca.may_vouch(self.authority.root(), address):
                yield address

    def _ca(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        public = self.vault.signing_key(KEY).public_key()
        line = ssh_certificate.public_line(public)
        digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
        return {
            "public": line,
            "fingerprint": f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}",
            "known_hosts": ssh_certificate.known_hosts(public, self.files.rules),
        }

    def _krl(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """List what clients must refuse: it needs no lease.

        All certificates of a box that is revoked now, by name; those that were taken back while
        their box is allowed again, by number.
        """
        revoked = "SELECT ek_name FROM revoked"
        named = f"SELECT DISTINCT subject FROM issued WHERE kind=? AND ek_name IN ({revoked})"
        key_ids = [text for (text,) in self.store.execute(named, KIND)]
        serials = [one.serial for one in Issuing(self.store).revoked(KIND, now)]
        made = ssh_certificate.revocations(
            serials=serials,
            key_ids=key_ids,
            version=self.store.last_event(),
            now=int(now),
        )
        return {"krl": b64u(made), "boxes": len(key_ids), "certificates": len(serials)}
