"""Keys of authorities in the controller's TPM: what it signs, and refuses past our checks."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path
from uuid import UUID

import pytest
from cache_lab import HOUR, NOW, SITE, Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from keys_site import code, request
from test_lease_service import LeasedSite
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST
from tpm2_pytss.types import TPMT_SIG_SCHEME, TPMT_TK_HASHCHECK

from keys import ca, crl
from keys.ca import Issue, Issuer, Kind
from keys.errors import SiteError
from keys.io.ring import ClosedError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_key import TpmKey
from keys.io.tpm_link import TpmRefusedError
from keys.io.tpm_made import Made
from keys.io.tpm_policies import Satisfy
from keys.io.tpm_ring import TpmRing
from keys.io.tpm_signing import TpmSigning
from keys.lease import SignedLease
from keys.policy import CommandCode
from keys.tpm_objects import Blob, Index
from keys.tpm_public import Attributes, PublicArea

ECDSA = ec.ECDSA(hashes.SHA256())
DIGEST = bytes(range(32))
NAME = "box-ca"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    one = Controller(tmp_path)
    yield one
    one.close()


def stored_key(store: Store, name: str = NAME) -> tuple[Blob, int | None]:
    """Read a signing key as the database has it."""
    kept: list[tuple[Blob, int | None]] = []

    def note(blob: Blob, unmoved: int | None, _: bytes) -> tuple[int, int]:
        kept.append((blob, unmoved))
        return 1, 1

    TpmKey.read(store.meta(f"signing-key:{name}") or b"", note).sign(b"", ECDSA)
    return kept[0]


class Thief:
    """Whoever has the disk of a controller and its TPM, and asks the TPM past our code."""

    def __init__(self, controller: Controller, store: Store) -> None:
        self._tcti = controller.tpm.tcti
        self.made = Made.read(store.meta("tpm") or b"")
        self.leases = [SignedLease.read(text) for text in store.leases()]
        self.blob, self.unmoved = stored_key(store)
        self.reference = self.made.reference(SITE)

    def tpm(self) -> Tpm:
        return Tpm(self._tcti, storage_name=self.made.storage_name)

    def sessions(self, tpm: Tpm) -> dict[str, Satisfy]:
        """Give all that a thief can say in a session for a signature."""
        signing = TpmSigning(tpm, self.made.authority_key, self.reference)
        held = tpm.counter(Index.LEASE)
        every: dict[str, Satisfy] = {
            "no assertion": lambda session: None,
            "the command alone": tpm.anytime,
            "the counter of the key": signing.allowing(self.unmoved or 0, None),
            "the counter of now": signing.allowing(held, None),
            "the counter of now, bare": tpm.at_counter(Index.LEASE, held, CommandCode.SIGN),
            "the counter of now, to unseal": tpm.at_counter(Index.LEASE, held),
        }
        for number, lease in enumerate(self.leases):
            authority = self.made.authority_key
            every[f"lease {number}"] = signing.allowing(self.unmoved, lease)
            every[f"lease {number}, bare"] = tpm.under_lease(lease, authority, CommandCode.SIGN)
            every[f"lease {number}, to unseal"] = tpm.under_lease(lease, authority)
        return every

    def signs(self) -> set[str]:
        """Name what the TPM signed for."""
        with self.tpm() as tpm:
            return {name for name, satisfy in self.sessions(tpm).items() if self._can(tpm, satisfy)}

    def _can(self, tpm: Tpm, satisfy: Satisfy) -> bool:
        try:
            tpm.sign(self.blob, DIGEST, satisfy)
        except (TpmRefusedError, SiteError, TSS2_Exception):
            return False
        return True


def by_hours(controller: Controller, ring: TpmRing) -> None:
    with Tpm(controller.tpm.tcti, storage_name=ring.storage_name) as tpm:
        tpm.advance_clock(controller.counters().clock + 2 * HOUR)


def by_starts(controller: Controller, ring: TpmRing) -> None:
    for _ in range(2):
        controller.tpm.power_cycle()


def by_hand(controller: Controller, ring: TpmRing) -> None:
    ring.end()


def by_software(controller: Controller, ring: TpmRing) -> None:
    controller.tpm.extend(9, bytes(31) + b"\1")


@pytest.mark.parametrize("end", [by_hours, by_starts, by_hand, by_software])
@pytest.mark.parametrize("made", ["day 0", "under the lease"])
def test_when_the_lease_ends_the_tpm_signs_for_nobody(
    controller: Controller, end: Callable[[Controller, TpmRing], None], made: str
) -> None:
    with controller.started() as (store, ring, vault):
        if made == "day 0":
            vault.signing_key(NAME).sign(b"csr", ECDSA)
        now = controller.counters()
        terms = controller.pcr_terms(
            9, clock_before=now.clock + HOUR, resets_at_most=now.reset_count + 1
        )
        ring.apply(controller.lease(ring, terms), NOW)
        vault.signing_key(NAME).sign(b"certificate", ECDSA)
        thief = Thief(controller, store)
        # while it runs exactly one of a thief's sessions signs: that of the lease
        expected = {"lease 0"} | ({"lease 0, bare"} if made == "under the lease" else set())
        assert thief.signs() == expected
        end(controller, ring)
    assert thief.signs() == set()
    with controller.started() as (_, _, vault), pytest.raises(ClosedError):
        vault.signing_key(NAME).sign(b"certificate", ECDSA)


def test_what_opens_the_cache_does_not_sign_and_what_signs_does_not_open_it(
    controller: Controller,
) -> None:
    with controller.started() as (store, ring, vault):
        vault.signing_key(NAME)
        ring.apply(controller.lease(ring), NOW)
        thief = Thief(controller, store)
    lease, authority = thief.leases[0], thief.made.authority_key
    signing = thief.tpm()
    with signing as tpm:
        opens, signs = (
            tpm.under_lease(lease, authority, code)
            for code in (CommandCode.UNSEAL, CommandCode.SIGN)
        )
        tpm.unseal(thief.made.lease_share, opens)
        with pytest.raises(TpmRefusedError, match="policy does not hold"):
            tpm.unseal(thief.made.lease_share, signs)
        both = TpmSigning(tpm, authority, thief.reference).allowing(thief.unmoved, lease)
        with pytest.raises(TpmRefusedError):
            tpm.unseal(thief.made.lease_share, both)
        with pytest.raises(TpmRefusedError):
            tpm.sign(thief.blob, DIGEST, opens)
        tpm.sign(thief.blob, DIGEST, both)


def test_an_empty_password_signs_nothing(controller: Controller) -> None:
    with controller.started() as (store, _, vault):
        vault.signing_key(NAME).sign(b"csr", ECDSA)
        thief = Thief(controller, store)
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL, digest=b"")
    with (
        thief.tpm() as tpm,
        tpm._loaded(thief.blob) as key,
        pytest.raises(TSS2_Exception, match="authPolicy is not available"),
    ):
        tpm._esys.sign(
            key_handle=key,
            digest=DIGEST,
            in_scheme=scheme,
            validation=ticket,
            session1=ESYS_TR.PASSWORD,
        )


def test_the_private_half_is_nowhere_but_in_the_tpm(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        ring.apply(controller.lease(ring), NOW)
        key = vault.signing_key(NAME)
        blob, _ = stored_key(store)
        area = PublicArea.decode(blob.public)
        kept = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.SENSITIVE_DATA_ORIGIN
        assert area.attributes & kept == kept
        assert not area.attributes & Attributes.USER_WITH_AUTH
        for export in (key.private_numbers, key.private_bytes):
            with pytest.raises(TypeError, match="never leaves"):
                export()
        names = [name for name, _ in store.materials(store.epoch)]
        assert NAME not in names


def test_the_database_signs_with_no_other_tpm(controller: Controller, tmp_path: Path) -> None:
    with controller.started() as (store, ring, vault):
        vault.signing_key(NAME).sign(b"csr", ECDSA)
        ring.apply(controller.lease(ring), NOW)
        thief = Thief(controller, store)
    (tmp_path / "second").mkdir()
    other = Controller(tmp_path / "second")
    try:
        with other.started() as (store, ring, _):
            made = ring.storage_name
        with Tpm(other.tpm.tcti, storage_name=made) as tpm:
            for name, satisfy in thief.sessions(tpm).items():
                with pytest.raises(TpmRefusedError, match="not of this TPM"):
                    tpm.sign(thief.blob, DIGEST, satisfy)
                assert name
        shutil.copy(controller.layout.state / "keys/keys.db", other.layout.state / "keys/keys.db")
        message = "not the TPM that the cache was made with"
        with pytest.raises(SiteError, match=message), other.started():
            pass
    finally:
        other.close()


def test_a_key_of_the_tpm_makes_certificates_and_lists(controller: Controller) -> None:
    """The whole chain from keys that cannot be exported, before the lease and under it."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    now = ca.at(NOW)
    root = ca.make_root(
        root_key,
        site_id=SITE,
        domain="shop.example",
        networks=[IPv4Network("10.41.7.0/24")],
        issue=Issue(serial=1, now=now),
    )
    with controller.started() as (_, ring, vault):
        key = vault.signing_key(NAME)
        asked = ca.make_request(key, site_id=SITE, kind=Kind.BOX, appliance=vault.appliance)
        read = ca.read_request(asked.public_bytes(ca.Encoding.PEM))
        assert read.appliance == ring.appliance
        ring.apply(controller.lease(ring), NOW)
        signed = ca.sign_intermediate(
            Issuer(certificate=root, key=root_key),
            asked,
            kind=Kind.BOX,
            issue=Issue(serial=2, now=now),
        )
        issuer = Issuer(certificate=signed, key=vault.signing_key(NAME))
        leaf = ca.issue_box(
            issuer,
            ec.generate_private_key(ec.SECP256R1()).public_key(),
            site_id=SITE,
            pseudonym="a",
            lifetime=timedelta(days=7),
            issue=Issue(serial=3, now=now),
        )
        leaf.verify_directly_issued_by(signed)
        listed = crl.make(issuer, [crl.Revoked(serial=3, at=now)], number=1, now=now)
        assert listed.is_signature_valid(key.public_key())
        ring.end()
        with pytest.raises(ClosedError) as caught:
            crl.make(issuer, (), number=2, now=now)
        assert caught.value.code == "LEASE-ENDED"


# what stays loaded


def loaded(controller: Controller) -> tuple[int, int]:
    """Count the transient objects and the loaded sessions of the TPM."""
    counts = []
    for first in (0x80000000, 0x02000000):
        body = struct.pack(">III", 1, first, 64)  # TPM2_CAP_HANDLES
        reply = controller.tpm.command(struct.pack(">HII", 0x8001, 22, 0x17A) + body)
        counts.append(int(struct.unpack_from(">I", reply, 15)[0]))
    return counts[0], counts[1]


def test_one_key_and_one_session_stay_and_are_let_go(controller: Controller) -> None:
    with controller.started() as (_, ring, vault):
        ring.apply(controller.lease(ring), NOW)
        first, second = vault.signing_key(NAME), vault.signing_key("appliance-ca")
        assert loaded(controller) == (0, 0)
        for key in (first, first, second, first):
            key.public_key().verify(key.sign(b"x", ECDSA), b"x", ECDSA)
            assert loaded(controller) == (1, 1)
        ring.open()  # unseals: what was kept makes room first
        assert loaded(controller) == (0, 0)
        first.sign(b"x", ECDSA)
    assert loaded(controller) == (0, 0)


def test_a_signature_outlives_a_reset_under_us(controller: Controller) -> None:
    """Threat 23: the connection holds, key and session are gone; the lease allows the restart."""
    with controller.started() as (_, ring, vault):
        ring.apply(controller.lease(ring), NOW)
        key = vault.signing_key(NAME)
        key.sign(b"x", ECDSA)
        reset(controller)
        assert loaded(controller) == (0, 0)
        key.public_key().verify(key.sign(b"x", ECDSA), b"x", ECDSA)
        for _ in range(3):
            reset(controller)
        with pytest.raises(ClosedError, match="reset count"):
            key.sign(b"x", ECDSA)


def reset(controller: Controller) -> None:
    """Reset the TPM without ending it, as a pulse on its reset line does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(controller.tpm.sockets[1]))
        sock.sendall(struct.pack(">II", 2, 0))  # CMD_INIT of swtpm's control channel
        assert sock.recv(4) == bytes(4)
    controller.tpm.command(struct.pack(">HIIH", 0x8001, 12, 0x144, 0))  # TPM2_Startup(CLEAR)


def test_a_cache_of_a_release_before_has_keys_for_leases_alone(controller: Controller) -> None:
    """It did not say where the lease counter stood at first."""
    with controller.started() as (store, ring, vault):
        ring.apply(controller.lease(ring), NOW)
        document = json.loads(store.meta("tpm") or b"")
        del document["first"]
        with store.transaction():
            store.set_meta("tpm", json.dumps(document).encode())
    with controller.started() as (store, ring, vault):
        key = vault.signing_key(NAME)
        assert stored_key(store)[1] is None
        with pytest.raises(ClosedError):
            key.sign(b"x", ECDSA)
        ring.open()
        key.sign(b"x", ECDSA)


def test_a_ticket_is_for_one_lease(controller: Controller) -> None:
    """What the TPM verified for a lease is no word for the next, nor for an edited one."""
    with controller.started() as (_, ring, vault):
        key = vault.signing_key(NAME)
        for _ in range(2):
            ring.apply(controller.lease(ring), NOW)
            key.sign(b"x", ECDSA)
        ticket = ring._tpm._verified
        assert ticket is not None
        ring._tpm._verified = ticket[0], type(ticket[1])(tag=TPM2_ST.VERIFIED, digest=bytes(32))
        key.sign(b"x", ECDSA)  # a ticket that is none is made again
        assert ring._tpm._verified is not None


# the service


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


def test_a_site_says_why_its_authorities_do_not_sign(site: LeasedSite) -> None:
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    reply = site.control("handover", **request())
    assert reply["certificate_not_after"] > 0
    site.operator("lease_end")
    assert code(site.control, "handover", **request(reset_count=8)) == "LEASE-ENDED"
    answer = {"status": "held", "session": "x", "transcript": "x", "box": str(UUID(int=1))}
    assert code(site.control, "answer", context="answer", payload=answer) == "LEASE-ENDED"
    assert code(site.operator, "ca_requests") == "LEASE-ENDED"
    (said,) = site.operator("status")["sentences"]
    assert said.startswith("the lease was ended")
    assert "doorstep lease request" in said
    for name in ("server.pem", "box-ca.crl"):  # what was made serves on
        assert (site.layout.run / "tls" / name).exists()


def test_what_a_killed_process_left_in_the_tpm_is_forgotten(site: LeasedSite) -> None:
    """Three objects and three sessions are all that a TPM must hold."""
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    for boot in range(5):
        site.control("handover", **request(reset_count=20 + boot))
        site.kill()
        site.start()
    assert site.control("handover", **request(reset_count=40))["digests"] is not None


def test_a_key_of_a_release_before_is_not_used_beside_a_tpm(site: LeasedSite) -> None:
    """Its private half was under the cache key: whoever had the open cache may have it."""
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    site.stop()
    database = site.layout.state / "keys/keys.db"
    names = [f"{kind.value}-ca" for kind in Kind]
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("DELETE FROM meta WHERE name LIKE 'signing-key:%-ca'")
        for kind, name in zip(Kind, names, strict=True):
            key = ec.generate_private_key(ec.SECP256R1())
            asked = ca.make_request(key, site_id="shop-0417", kind=kind)
            text = site.sign_request(kind.value, asked.public_bytes(ca.Encoding.PEM).decode())
            db.execute("UPDATE certificates SET pem=? WHERE name=?", (text, kind.value))
            db.execute("INSERT INTO material VALUES(?,?,?)", (name, 1, b"a key in software"))
    site.start()
    status = site.operator("status")
    assert (status["ready"], status["reason"]) == (False, "NO-CA")
    assert any("not signed yet" in one for one in status["sentences"])
    assert code(site.control, "handover", **request()) == "NO-CA"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        kept = {name for (name,) in db.execute("SELECT name FROM material")}
        assert not kept & set(names)
    site.sign_authorities()
    assert site.control("handover", **request())["digests"] is not None
    chain = x509.load_pem_x509_certificates((site.layout.run / "tls/server.pem").read_bytes())
    chain[0].verify_directly_issued_by(chain[1])  # the one that the old key signed is gone
