"""X.509 for boxes: certificates and lists, beside the signatures of the TPM that they hang on.

The peers are in the same run, on the same software TPM: TPM2_Sign with its policy asked each time,
as bare commands without any of our code around; TPM2_Sign of a key that has no policy, which is all
that a TPM can do; ECDSA in this process; and `openssl x509`, a program with a key in a file. A real
chip takes about a hundred times as long to sign: there everything but TPM2_Sign vanishes. Here most
of the rest is tpm2-tss 3, which makes an OpenSSL context of its own for each hash of a session that
is integrity-protected (three milliseconds a signature, seen with perf).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache_lab import NOW, SITE, Controller
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from test_tpm_signing import stored_key
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_PRIVATE,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
)

from keys import ca
from keys.ca import Issue, Issuer, Kind
from keys.io.authority import Authority
from keys.io.issuing import BOX, Issued
from keys.io.store import Store
from keys.io.tpm_policies import area_of
from keys.io.tpm_ring import TpmRing
from keys.io.tpm_signing import TpmSigning
from keys.io.vault import Vault
from keys.policy import TpmPolicy
from keys.tpm_objects import signing_template
from keys.tpm_public import Attributes
from tests.bench.figure import Figure
from tests.bench.lab import Lab

TIMES, LISTED = 60, 1000
DIGEST = bytes(32)
ECDSA = ec.ECDSA(hashes.SHA256())
EK_NAME = b"\0\x0b" + bytes(32)

Work = Callable[[], object]


def measure(lab: Lab) -> list[Figure]:
    """Take all figures."""
    lab.work.mkdir(parents=True, exist_ok=True)
    place = lab.work / "identities"
    place.mkdir()
    site = Site(place)
    try:
        return _figures(lab, site)
    finally:
        site.close()


class Site:
    """The authorities of an appliance under a lease, on a software TPM."""

    def __init__(self, place: Path) -> None:
        self._controller = Controller(place)
        self._place = place
        layout = self._controller.layout
        (layout.run / "tls").mkdir()
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = ca.make_root(
            self.root_key,
            site_id=SITE,
            domain="shop.example",
            networks=[IPv4Network("10.41.7.0/24")],
            issue=Issue(serial=1, now=ca.at(NOW)),
        )
        (layout.site / "trust/root.pem").write_text(ca.pem([self.root]))
        self.store = Store(layout.state / "keys/keys.db")
        self.ring = TpmRing(layout, self.store, self._controller.tpm.tcti, SITE)
        self.vault = Vault(self.store, self.ring, SITE)
        self.authority = Authority(layout, self.store, self.vault, SITE)
        self.authority.draw()
        self._install()
        self.ring.apply(self._controller.lease(self.ring), NOW)
        self.key = self.vault.signing_key("box-ca")
        self.device = ec.generate_private_key(ec.SECP256R1())
        self._number = 0
        self._free: Work | None = None
        self._bare()

    def _install(self) -> None:
        root = Issuer(certificate=self.root, key=self.root_key)
        for one in self.authority.requests():
            kind, asked = Kind(one["kind"]), ca.read_request(one["csr_pem"])
            issue = Issue(serial=2, now=ca.at(NOW))
            signed = ca.sign_intermediate(root, asked.csr, kind=kind, issue=issue)
            with self.store.transaction():
                self.authority.install(kind, signed)

    def issue(self) -> None:
        """Issue a box certificate as a hand-over does, with its row on the disk."""
        self._number += 1
        with self.store.transaction():
            self.authority.issue_box(
                self.device.public_key(),
                UUID(int=self._number),
                timedelta(days=7),
                ca.at(NOW),
                ek_name=EK_NAME,
            )

    def row(self) -> None:
        """Write such a row alone."""
        self._number += 1
        one = Issued(
            serial=self._number, kind=BOX, ek_name=EK_NAME, subject="a", at=NOW, not_after=NOW + 1
        )
        with self.store.transaction():
            self.authority.issuing.add(one)

    def sign(self) -> None:
        """Sign with the box CA's key, as everything of ours does."""
        self.key.sign(b"a certificate", ECDSA)

    def sign_anew(self) -> None:
        """Sign as the first time after something else was opened: load, session, ticket."""
        tpm = self.ring._tpm
        tpm._let_go()
        tpm._verified = None
        self.sign()

    def make_list(self) -> None:
        """Make the list with a thousand revoked."""
        self.authority.issuing.make_list(self.authority.issuer(Kind.BOX), ca.at(NOW))

    def revoke(self, count: int) -> None:
        """Have so many certificates that were revoked."""
        with self.store.transaction():
            for number in range(count):
                self.authority.issuing.add(
                    Issued(
                        serial=1 << 150 | number,
                        kind=BOX,
                        ek_name=EK_NAME,
                        subject="a",
                        at=NOW,
                        not_after=NOW + 600000,
                        revoked=NOW,
                    )
                )

    # past our code

    def _bare(self) -> None:
        """Load what the bare signatures use, beside our own: two objects and a session."""
        blob, unmoved = stored_key(self.store)
        made = self.ring._made
        signing = TpmSigning(self.ring._tpm, made.authority_key, self.ring.reference)
        self._blob, self._satisfy = blob, signing.allowing(unmoved, self.ring.lease)

    def with_policy(self) -> Work:
        """Give TPM2_Sign with its policy asked each time, nothing loaded or opened in between."""
        tpm = self.ring._tpm
        kept = tpm._keep(self._blob)

        def work() -> None:
            tpm._esys.policy_restart(kept.session)
            self._satisfy(kept.session)
            self._sign(kept.key, kept.session)

        return work

    def without_policy(self) -> Work:
        """Give TPM2_Sign of a key that an empty password opens."""
        if self._free is not None:
            return self._free
        tpm, template = self.ring._tpm, signing_template(TpmPolicy())
        attributes = template.attributes | Attributes.USER_WITH_AUTH
        template = type(template)(
            name_alg=template.name_alg, attributes=attributes, auth_policy=b"", key=template.key
        )
        tpm._let_go()
        private, public, *_ = tpm._esys.create(
            parent_handle=tpm._storage(),
            in_sensitive=TPM2B_SENSITIVE_CREATE(),
            in_public=area_of(template.encode()),
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
        )
        key = tpm._esys.load(
            parent_handle=tpm._storage(),
            in_private=TPM2B_PRIVATE(buffer=bytes(private.buffer)),
            in_public=public,
        )
        self._free = lambda: self._sign(key, ESYS_TR.PASSWORD)
        return self._free

    def _sign(self, key: Any, session: Any) -> None:
        self.ring._tpm._esys.sign(
            key_handle=key,
            digest=DIGEST,
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
            validation=TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL, digest=b""),
            session1=session,
        )

    def openssl(self) -> Work:
        """Give `openssl x509 -req`: a program that signs a request with a key in a file."""
        key, csr = self._place / "device.key", self._place / "device.csr"
        issuer, its_key = self._place / "ca.pem", self._place / "ca.key"
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write_bytes(self.device.private_bytes(*form))
        its_key.write_bytes(self.root_key.private_bytes(*form))
        issuer.write_text(ca.pem([self.root]))
        make = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=a", "-out", csr]
        subprocess.run(make, check=True, capture_output=True)
        command = ["openssl", "x509", "-req", "-in", csr, "-CA", issuer, "-CAkey", its_key]
        command += ["-set_serial", "7", "-days", "7", "-out", os.devnull]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    def close(self) -> None:
        """End all."""
        self.ring.close()
        self.store.close()
        self._controller.close()


def _figures(lab: Lab, site: Site) -> list[Figure]:
    software = ec.generate_private_key(ec.SECP256R1())
    site.revoke(LISTED)
    laps = _laps(
        lab,
        {
            "issue": (lambda: site.issue, TIMES),
            "row": (lambda: site.row, TIMES),
            "sign": (lambda: site.sign, TIMES),
            "with policy": (site.with_policy, TIMES),
            "anew": (lambda: site.sign_anew, TIMES),
            "bare": (site.without_policy, TIMES),
            "software": (lambda: lambda: software.sign(b"a certificate", ECDSA), TIMES),
            "openssl": (site.openssl, 10),
            "list": (lambda: site.make_list, 5),
        },
    )
    whole = "a box certificate, signed and on the disk"
    policy = "TPM2_Sign with its policy, bare commands"
    rows = (
        (whole, "issue", "with policy", policy),
        (whole, "issue", "bare", "TPM2_Sign without a policy, bare"),
        (whole, "issue", "software", "ECDSA in this process"),
        (whole, "issue", "openssl", "openssl x509 -req, a key in a file"),
        (whole, "issue", "row", "its row on the disk alone"),
        ("a signature of the box CA", "sign", "with policy", policy),
        ("the first signature after something else", "anew", "with policy", policy),
        (f"the list of {LISTED:,} revoked", "list", "with policy", policy),
    )
    return [_figure(name, laps[ours], laps[peer], said) for name, ours, peer, said in rows]


def _laps(
    lab: Lab, works: dict[str, tuple[Callable[[], Work], int]]
) -> dict[str, tuple[float, ...]]:
    """Give milliseconds of real time for each work, once for each run, all of them in turn.

    What makes a work is not timed, nor is its first call.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(lab.runs):
        for name, (make, times) in works.items():
            work = make()
            work()
            began = time.perf_counter()
            for _ in range(times):
                work()
            taken[name].append(1000 * (time.perf_counter() - began) / times)
    return {name: tuple(found) for name, found in taken.items()}


def _figure(name: str, ours: tuple[float, ...], peer: tuple[float, ...], peer_name: str) -> Figure:
    per_second = f" ({1000 / median(ours):.4g}/s)"
    return Figure(
        name=f"identities: {name}{per_second}", unit="ms", ours=ours, peer=peer, peer_name=peer_name
    )
