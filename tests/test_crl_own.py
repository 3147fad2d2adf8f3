"""Who was revoked, for others: our lists with openssl, nginx and curl as those who check them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from control_site import running as running_site
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keys_site import EK, OTHER_EK, SITE_TOML, USERS, KeysSite, code, entry, request
from test_lease_service import LeasedSite

import bootstrap
from bootstrap.io.nginx import nginx_conf
from bootstrap.site import decode_site
from keys import ca, crl
from keys.ca import Issue, Issuer, Kind
from keys.envelope import b64u
from keys.errors import PeerError, SiteError
from keys.io.issuing import Issued, Issuing
from keys.io.service import Service
from keys.io.store import Store
from keys.tpm_public import PublicArea

NOW = datetime.now(UTC).replace(microsecond=0)
EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
NAME = "appliance.shop-0417.example.net"


def authority(name: str = "a") -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    root = ca.make_root(
        key,
        site_id=name,
        domain="shop.example",
        networks=[],
        issue=Issue(serial=1, now=NOW - timedelta(days=30)),
    )
    return Issuer(certificate=root, key=key)


ROOT, OTHER = authority(), authority()
"""Two of one name."""


def made(*serials: int, number: int = 7, now: datetime = NOW, issuer: Issuer = ROOT):
    revoked = [crl.Revoked(serial=serial, at=now) for serial in serials]
    return crl.make(issuer, revoked, number=number, now=now)


# the form


def test_a_list_says_who_and_for_how_long() -> None:
    found = crl.load(crl.pem(made(9, 5)))
    assert crl.serials(found) == {5, 9}
    assert (crl.number(found), crl.begin(found), crl.end(found)) == (7, NOW, NOW + crl.BOX_LIFETIME)
    assert crl.renew_at(found) == NOW + crl.BOX_LIFETIME / 2
    assert found.last_update_utc == NOW - ca.BACKDATED  # for clocks that are behind
    crl.check(found, ROOT.certificate, NOW)


@pytest.mark.parametrize("now", [NOW - timedelta(hours=2), NOW + crl.BOX_LIFETIME])
def test_a_list_out_of_its_time_is_refused(now: datetime) -> None:
    with pytest.raises(PeerError, match="not valid today"):
        crl.check(made(), ROOT.certificate, now)


def test_a_list_of_another_of_the_same_name_is_refused() -> None:
    with pytest.raises(PeerError, match="not signed by the site root"):
        crl.check(made(issuer=OTHER), ROOT.certificate, NOW)
    with pytest.raises(PeerError, match="not signed by the site root"):
        crl.check(made(issuer=authority("b")), ROOT.certificate, NOW)


def test_a_list_by_the_root_s_key_for_another_name_is_refused() -> None:
    """One key may not speak for an authority that is called otherwise."""
    named = Issuer(certificate=authority("b").certificate, key=ROOT.key)
    with pytest.raises(PeerError, match="not signed by the site root"):
        crl.check(made(issuer=named), ROOT.certificate, NOW)


def test_a_list_is_not_of_an_authority_whose_key_is_of_another_kind() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(
        subject_name=ROOT.certificate.subject,
        issuer_name=ROOT.certificate.subject,
        public_key=x25519.X25519PrivateKey.generate().public_key(),
        serial_number=1,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    assert not crl.is_of(made(), builder.sign(key, None))


def der(tag: int, body: bytes) -> bytes:
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag]) + (size if len(body) < 128 else bytes([0x80 | len(size)]) + size) + body


def test_a_list_without_an_end_is_refused() -> None:
    """It would be believed for ever (RFC 5280, 5.1.2.5 asks for one)."""
    tbs = made().tbs_certlist_bytes
    at = tbs.index(b"\x17\x0d", tbs.index(b"\x17\x0d") + 1)
    changed = der(0x30, tbs[3:at] + tbs[at + 15 :])
    signature = ROOT.key.sign(changed, ec.ECDSA(ca.hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    parts = changed, algorithm, der(0x03, b"\0" + signature)
    found = x509.load_der_x509_crl(der(0x30, b"".join(parts)))
    assert crl.is_of(found, ROOT.certificate)
    with pytest.raises(PeerError, match="has no end"):
        crl.check(found, ROOT.certificate, NOW)


def test_a_list_without_a_number_is_refused() -> None:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT.certificate.subject)
    builder = builder.last_update(NOW).next_update(NOW + timedelta(days=1))
    with pytest.raises(PeerError, match="no number"):
        crl.check(builder.sign(ROOT.key, ca.hashes.SHA256()), ROOT.certificate, NOW)


def test_no_list_outlives_its_authority() -> None:
    end = ROOT.certificate.not_valid_after_utc
    assert crl.end(made(now=end - timedelta(days=1))) == end
    with pytest.raises(SiteError, match="has ended"):
        made(now=end)


@given(
    data=st.binary(max_size=400)
    | st.binary(max_size=400).map(
        lambda body: b"-----BEGIN X509 CRL-----\n" + body + b"\n-----END X509 CRL-----\n"
    )
)
@settings(max_examples=100)
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        crl.check(crl.load(data), ROOT.certificate, NOW)


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
@settings(max_examples=100)
@example(at=9, bit=0)  # a version that no list has
def test_any_bit_that_fell_over_is_found(at: int, bit: int) -> None:
    der = bytearray(LIST.public_bytes(Encoding.DER))
    der[at % len(der)] ^= 1 << bit
    text = b"-----BEGIN X509 CRL-----\n" + b64encode(der) + b"\n-----END X509 CRL-----\n"
    try:
        found = crl.load(text)
        crl.check(found, ROOT.certificate, NOW)
    except PeerError:
        return
    # The count of unused bits of the signature's BIT STRING may say that its last zeros are none.
    assert found.tbs_certlist_bytes == LIST.tbs_certlist_bytes


LIST = made(5, 9)


# the table


@pytest.fixture
def issuing(tmp_path: Path) -> Iterator[Issuing]:
    store = Store(tmp_path / "keys.db")
    yield Issuing(store)
    store.close()


def give(issuing: Issuing, serial: int, days: float, ek: bytes = b"ek") -> None:
    end = int((NOW + timedelta(days=days)).timestamp())
    one = Issued(
        serial=serial, kind="box", ek_name=ek, subject="a", at=NOW.timestamp(), not_after=end
    )
    with issuing._store.transaction():
        issuing.add(one)


def revoke(issuing: Issuing, ek: bytes = b"ek") -> None:
    with issuing._store.transaction():
        issuing._store.revoke(ek, NOW.timestamp())


def listed(issuing: Issuing, now: datetime) -> frozenset[int]:
    issuing.make_list(ROOT, now)
    found = issuing.current()
    assert found is not None
    return crl.serials(found)


def test_all_of_one_box_are_revoked_and_nobody_else_s(issuing: Issuing) -> None:
    give(issuing, 1, 7)
    give(issuing, 2, 7)
    give(issuing, 3, 7, b"other")
    assert listed(issuing, NOW) == frozenset()
    revoke(issuing)
    assert listed(issuing, NOW) == {1, 2}
    assert [one.revoked for one in issuing.of(b"ek")] == [NOW.timestamp()] * 2
    assert [one.revoked for one in issuing.of(b"other")] == [None]
    found = issuing.current()
    assert found is not None
    assert {one.revocation_date_utc for one in found} == {NOW}


def test_an_entry_stays_until_one_list_after_its_end_had_it(issuing: Issuing) -> None:
    """RFC 5280, 3.3."""
    give(issuing, 1, 1)
    revoke(issuing)
    day = timedelta(days=1)
    assert listed(issuing, NOW) == {1}
    assert listed(issuing, NOW + 2 * day) == {1}
    assert listed(issuing, NOW + 3 * day) == frozenset()


def test_rows_go_long_after_their_certificates(issuing: Issuing) -> None:
    give(issuing, 1, 1)
    listed(issuing, NOW + timedelta(days=80))
    assert issuing.of(b"ek")
    listed(issuing, NOW + timedelta(days=100))
    assert not issuing.of(b"ek")


def test_a_damaged_list_is_made_again_with_everybody_on_it(issuing: Issuing) -> None:
    give(issuing, 1, 7)
    revoke(issuing)
    issuing.make_list(ROOT, NOW)
    with issuing._store.transaction():
        issuing._store.set_certificate("box-crl", "junk")
    assert issuing.is_due(ROOT.certificate, NOW)
    assert listed(issuing, NOW) == {1}


def test_no_number_comes_twice(issuing: Issuing) -> None:
    """Not within a second, not when the clock was set back, not from an older copy of the disk."""
    numbers = []
    for now in (NOW, NOW, NOW - timedelta(days=3), NOW + timedelta(days=1)):
        listed(issuing, now)
        found = issuing.current()
        assert found is not None
        numbers.append(crl.number(found))
    assert numbers == sorted(set(numbers))
    assert numbers[0] >= NOW.timestamp()


def test_a_list_is_made_again_at_half_of_its_life_and_for_another_key(issuing: Issuing) -> None:
    assert issuing.is_due(ROOT.certificate, NOW)
    issuing.make_list(ROOT, NOW)
    assert not issuing.is_due(ROOT.certificate, NOW + crl.BOX_LIFETIME / 2 - timedelta(seconds=1))
    assert issuing.is_due(ROOT.certificate, NOW + crl.BOX_LIFETIME / 2)
    assert issuing.is_due(OTHER.certificate, NOW)
    give(issuing, 1, 7)
    assert not issuing.is_due(ROOT.certificate, NOW)
    revoke(issuing)
    assert issuing.is_due(ROOT.certificate, NOW)


# the process


class Here:
    """The keys process in this one, on a site of its own; its clock is ours."""

    def __init__(self, site: KeysSite) -> None:
        self.site, self.wall = site, time.time()
        site.deliver(1, entry(EK), entry(OTHER_EK, "S2"))
        self.service = Service(site.layout, wall=lambda: self.wall)
        asked = self.call("ca_requests")["requests"]
        signed = {
            f"{one['kind']}_pem": site.sign_request(one["kind"], one["csr_pem"]) for one in asked
        }
        issuer = Issuer(certificate=site.root, key=site.root_key)
        lifetime = crl.ROOT_LIFETIME
        empty = crl.make(issuer, (), number=1, now=datetime.now(UTC), lifetime=lifetime)
        self.call("ca_install", **signed, root_crl_pem=crl.pem(empty))

    def call(self, method: str, **params: object):
        return self.service.methods()[method].handler("operator", params)

    def box(self, directory: Path, ek: PublicArea = EK, days: int = 7) -> Box:
        """Issue as a hand-over does; what it gives is sealed for a TPM."""
        key = ec.generate_private_key(ec.SECP256R1())
        with self.service._store.transaction():
            chain, _ = self.service._authority.issue_box(
                key.public_key(),
                UUID(int=secrets.randbits(100)),
                timedelta(days=days),
                ca.at(self.wall),
                ek_name=ek.name(),
            )
        return Box(directory, key, chain, ek)

    def revoke(self, box: Box) -> None:
        self.call("revoke", ek_name=b64u(box.ek.name()))

    def listed(self) -> crl.RevocationList:
        """Read what nginx serves."""
        return x509.load_der_x509_crl((self.tls / "box-ca.crl").read_bytes())

    @property
    def tls(self) -> Path:
        return self.site.layout.run / "tls"


class Box:
    """A box's certificate and key in files, as a client takes them."""

    def __init__(
        self, directory: Path, key: ec.EllipticCurvePrivateKey, chain: str, ek: PublicArea
    ) -> None:
        self.ek, self.leaf = ek, x509.load_pem_x509_certificates(chain.encode())[0]
        self.chain = directory / f"{self.leaf.serial_number:x}.pem"
        self.key = self.chain.with_suffix(".key")
        self.chain.write_text(chain)
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.key.write_bytes(key.private_bytes(*form))

    @property
    def serial(self) -> int:
        return self.leaf.serial_number

    def get(self, port: int, cafile: Path) -> str:
        """Ask a server that wants a certificate; gives its first line, or what refused us."""
        context = ssl.create_default_context(cafile=cafile)
        context.check_hostname = False
        context.load_cert_chain(self.chain, self.key)
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            try:
                with context.wrap_socket(raw, server_hostname=NAME) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    return sock.recv(1000).split(b"\r\n")[0].decode()
            except ssl.SSLError as error:
                return str(error.reason)


@pytest.fixture
def here() -> Iterator[Here]:
    site = KeysSite()
    one = Here(site)
    yield one
    one.service.close()
    site.close()


@pytest.fixture
def root_pem(here: Here, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_text(ca.pem([here.site.root]))
    return path


def test_a_revoked_box_is_listed_at_once(here: Here, tmp_path: Path) -> None:
    first, second, other = here.box(tmp_path), here.box(tmp_path), here.box(tmp_path, OTHER_EK)
    before = here.listed()
    assert crl.serials(before) == frozenset()
    here.revoke(first)
    after = here.listed()
    assert crl.serials(after) == {first.serial, second.serial}
    assert crl.number(after) > crl.number(before)
    here.revoke(first)
    assert crl.serials(here.listed()) == {first.serial, second.serial}
    here.revoke(other)
    assert crl.serials(here.listed()) == {first.serial, second.serial, other.serial}
    given = here.call("ca_crl")
    assert (given["revoked"], given["number"]) == (3, crl.number(here.listed()))
    assert given["pem"] == (here.tls / "crl.pem").read_text()


def test_the_list_is_kept_fresh_while_nobody_is_revoked(here: Here) -> None:
    first = crl.number(here.listed())
    for days, renewed in ((3, False), (4, True), (7, False), (8, True)):
        before = crl.number(here.listed())
        here.wall = NOW.timestamp() + days * 86400
        here.service.tick()
        assert (crl.number(here.listed()) > before) is renewed, days
    assert crl.number(here.listed()) > first
    assert not any("list of" in one for one in here.call("status")["sentences"])


def test_an_operator_is_told_when_the_list_has_ended(here: Here) -> None:
    """Where it cannot be signed: here the box CA itself is gone."""
    here.service._store.drop_certificate("box")
    here.wall += 8 * 86400
    here.service.tick()
    said = here.call("status")["sentences"]
    assert any("list of revoked box certificates has ended" in one for one in said)


def verify(leaf: Path, root: Path, lists: Path, *more: str) -> str:
    """Let openssl verify a box's chain with the lists."""
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", *more]
        + ["-CAfile", root, "-CRLfile", lists, "-untrusted", leaf, leaf],
        capture_output=True,
        text=True,
        check=False,
    )
    return "OK" if done.returncode == 0 else done.stderr


def test_openssl_and_gnutls_refuse_a_revoked_box(
    here: Here, root_pem: Path, tmp_path: Path
) -> None:
    lists = here.tls / "crl.pem"
    box, other = here.box(tmp_path), here.box(tmp_path, OTHER_EK)
    checks = (("-crl_check",), ("-crl_check_all",))
    for words in checks:
        assert verify(box.chain, root_pem, lists, *words) == "OK"
    assert certtool(box, root_pem, lists) == "OK"
    here.revoke(box)
    for words in checks:
        assert "certificate revoked" in verify(box.chain, root_pem, lists, *words)
        assert verify(other.chain, root_pem, lists, *words) == "OK"
    assert "revoked" in certtool(box, root_pem, lists)
    assert certtool(other, root_pem, lists) == "OK"
    # a list too old is none: who checks does not take yesterday's word for ever
    long = here.box(tmp_path, OTHER_EK, days=30)
    late = str(int(time.time()) + 8 * 86400)
    said = verify(long.chain, root_pem, lists, "-crl_check", "-attime", late)
    assert "CRL has expired" in said


def certtool(box: Box, root: Path, lists: Path) -> str:
    done = subprocess.run(
        ["certtool", "--verify", "--infile", box.chain]
        + ["--load-ca-certificate", root, "--load-crl", lists],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    return "OK" if done.returncode == 0 and "Verified. The certificate is trusted" in said else said


def test_the_list_of_one_appliance_revokes_nothing_of_the_other(tmp_path: Path) -> None:
    """A pair, or one that took another's place: the same serial number, under the same root."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = ca.make_root(
        key,
        site_id="shop-1",
        domain="shop.example",
        networks=[IPv4Network("10.41.7.0/24")],
        issue=Issue(serial=1, now=NOW),
    )
    leaves, lists = [], []
    for number, appliance in enumerate(("0" * 32, "1" * 32)):
        own = ec.generate_private_key(ec.SECP256R1())
        asked = ca.make_request(own, site_id="shop-1", kind=Kind.BOX, appliance=appliance)
        middle = ca.sign_intermediate(
            Issuer(certificate=root, key=key),
            asked,
            kind=Kind.BOX,
            issue=Issue(serial=10 + number, now=NOW),
        )
        issuer = Issuer(certificate=middle, key=own)
        leaf = ca.issue_box(
            issuer,
            own.public_key(),
            site_id="shop-1",
            pseudonym="a",
            lifetime=timedelta(days=7),
            issue=Issue(serial=77, now=NOW),
        )
        revoked = [crl.Revoked(serial=77, at=NOW)] if number == 0 else []
        lists.append(crl.pem(crl.make(issuer, revoked, number=1, now=NOW)))
        leaves.append(tmp_path / f"{number}.pem")
        leaves[-1].write_text(ca.pem([leaf, middle]))
    (tmp_path / "root.pem").write_text(ca.pem([root]))
    (tmp_path / "crl.pem").write_text("".join(lists))
    places = tmp_path / "root.pem", tmp_path / "crl.pem"
    first, second = (verify(leaf, *places, "-crl_check") for leaf in leaves)
    assert ("certificate revoked" in first, second) == (True, "OK")


# servers that check it


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def server_files(here: Here, tmp_path: Path) -> tuple[Path, Path]:
    """Give another server of the site a certificate; the page's will do."""
    pair = tmp_path / "server.pem", tmp_path / "server.key"
    for path in pair:
        path.write_bytes((here.tls / path.name).read_bytes())
    return pair


@contextmanager
def running(command: list[object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [str(one) for one in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, command
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def test_a_server_of_openssl_lets_a_revoked_box_in_no_more(
    here: Here, root_pem: Path, tmp_path: Path
) -> None:
    (chain, key), lists = server_files(here, tmp_path), here.tls / "crl.pem"
    box, other = here.box(tmp_path), here.box(tmp_path, OTHER_EK)

    def ask(*boxes: Box) -> list[str]:
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www", "-quiet"]
        command += ["-cert", chain, "-cert_chain", chain, "-key", key, "-CAfile", root_pem]
        command += ["-Verify", "3", "-verify_return_error", "-crl_check", "-CRL", lists]
        with running(command, port):
            return [one.get(port, root_pem) for one in boxes]

    assert ask(box, other) == ["HTTP/1.0 200 ok"] * 2
    here.revoke(box)
    refused, let_in = ask(box, other)
    assert (refused, let_in) == ("SSLV3_ALERT_CERTIFICATE_REVOKED", "HTTP/1.0 200 ok")


def test_an_nginx_lets_a_revoked_box_in_no_more(here: Here, root_pem: Path, tmp_path: Path) -> None:
    """ssl_crl asks for the lists of the whole chain: the root's is in the file too."""
    (chain, key), port = server_files(here, tmp_path), free_port()
    lists = tmp_path / "crl.pem"
    lists.write_bytes((here.tls / "crl.pem").read_bytes())
    box, other = here.box(tmp_path), here.box(tmp_path, OTHER_EK)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"""daemon off; master_process on; user root; pid {tmp_path}/pid;
        error_log stderr crit; events {{}}
        http {{ access_log off; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;
        fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
        server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};
        ssl_client_certificate {root_pem}; ssl_verify_client on; ssl_verify_depth 2;
        ssl_crl {lists}; location / {{ return 200 "in"; }} }} }}"""
    )
    command = ["nginx", "-p", tmp_path, "-e", "stderr", "-c", conf]
    with running(command, port) as process:
        assert [one.get(port, root_pem) for one in (box, other)] == ["HTTP/1.1 200 OK"] * 2
        here.revoke(box)
        lists.write_bytes((here.tls / "crl.pem").read_bytes())
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while "200" in (said := box.get(port, root_pem)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert said == "HTTP/1.1 400 Bad Request"
        assert other.get(port, root_pem) == "HTTP/1.1 200 OK"


# nginx of the appliance


LOOPBACK = "127.83.7."


def test_the_appliance_gives_its_list_and_drops_nobody_when_its_certificate_changes(
    tmp_path: Path,
) -> None:
    """`https://appliance.<domain>/box-ca.crl`, while the chain is renewed under load."""
    site = KeysSite()
    try:
        site.root = ca.make_root(
            site.root_key,
            site_id="shop-0417",
            domain="shop-0417.example.net",
            networks=[IPv4Network(f"{LOOPBACK}0/24")],
            issue=site.issue(),
        )
        site.write("trust/root.pem", ca.pem([site.root]))
        site.write("site.toml", SITE_TOML.replace("10.41.7.", LOOPBACK))
        here = Here(site)
        with appliance_nginx(site) as process:
            root = site.layout.site / "trust/root.pem"
            check_list(here, root)
            check_reload(here, root, process)
        here.service.close()
    finally:
        site.close()


@contextmanager
def appliance_nginx(site: KeysSite) -> Iterator[subprocess.Popen[bytes]]:
    own, user = site.layout.run / "nginx", USERS["nginx"]
    own.mkdir()
    os.chown(own, user, user)
    text = nginx_conf(decode_site(EXAMPLE.replace("10.41.7.", LOOPBACK).encode()), site.layout.run)
    (own / "nginx.conf").write_text(text)
    for path in (site.layout.run / "tls").iterdir():
        os.chown(path, USERS["keys"], user)
    rights = "-all,+net_bind_service"
    command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    command += ["--inh-caps", rights, "--ambient-caps", rights, "--bounding-set", rights, "--"]
    command += ["nginx", "-p", str(own), "-e", "stderr", "-c", str(own / "nginx.conf")]
    process = subprocess.Popen(command, stderr=(site.base / "nginx.log").open("wb"))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def curl(root: Path, name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    to = ["--resolve", f"{NAME}:443:{LOOPBACK}2", "--cacert", str(root)]
    retry = ["--retry", "40", "--retry-connrefused", "--retry-delay", "1"]
    command = ["curl", "-sS", *retry, *to, *words, f"https://{NAME}/{name}"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def check_list(here: Here, root: Path) -> None:
    done = curl(root, "box-ca.crl", "-D", "-")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"Content-Type: application/pkix-crl" in head, (head, done.stderr)
    assert x509.load_der_x509_crl(body) == here.listed()
    done = curl(root, "crl.pem")
    assert done.stdout == (here.tls / "crl.pem").read_bytes()
    assert b"405" in curl(root, "box-ca.crl", "-i", "-X", "POST").stdout


def check_reload(here: Here, root: Path, process: subprocess.Popen[bytes]) -> None:
    """Every one of many new connections is answered, and one that was open goes on."""
    context = ssl.create_default_context(cafile=root)
    seen, old = set(), open_connection(context)
    for number in range(120):
        if number == 40:
            more = f'[[subnet]]\nname = "b"\nnetwork = "{LOOPBACK}128/25"\n'
            more += f'appliance = "{LOOPBACK}130"\n'
            text = SITE_TOML.replace("10.41.7.", LOOPBACK).replace(".0/24", ".0/25")
            here.site.write("site.toml", text + more)
            here.service.tick()  # it has another address: issued again
            for path in here.tls.iterdir():
                os.chown(path, USERS["keys"], USERS["nginx"])
            process.send_signal(signal.SIGHUP)
        with open_connection(context) as sock:
            seen.add(sock.getpeercert()["serialNumber"])
            assert get(sock).startswith(b"HTTP/1.1 200"), number
        if len(seen) > 1 and number > 60:
            break
    assert len(seen) == 2
    with old:
        assert get(old).startswith(b"HTTP/1.1 200")


def open_connection(context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection((f"{LOOPBACK}2", 443), 10)
    return context.wrap_socket(raw, server_hostname=NAME)


def get(sock: ssl.SSLSocket) -> bytes:
    sock.sendall(f"GET /crl.pem HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    return sock.recv(65536)


# under a lease


def test_without_a_lease_a_box_is_revoked_and_listed_with_the_next_lease() -> None:
    site = LeasedSite()
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        site.control("handover", **request())
        path = site.layout.run / "tls/box-ca.crl"
        before = path.read_bytes()
        site.operator("lease_end")
        site.operator("revoke", ek_name=b64u(EK.name()))
        assert path.read_bytes() == before
        assert code(site.control, "handover", **request(reset_count=8)) == "LEASE-ENDED"
        site.operator("lease_apply", lease=site.issue_lease())
        assert len(x509.load_der_x509_crl(path.read_bytes())) == 1
        assert code(site.control, "handover", **request(reset_count=9)) == "EK-NOT-ALLOWED"
    finally:
        site.close()


# a box of a whole site


@pytest.mark.boots
def test_a_box_that_is_refused_loses_name_service_and_certificate_at_once(tmp_path: Path) -> None:
    """Control, keys and two boxes with TPMs; the certificate is the one that a box opened."""
    with running_site(tmp_path, boxes=2) as (site, boxes):
        given = {}
        for box in boxes:
            box.boot(site.log_of_boot)
            dance, answer = box.attest()
            assert answer.status == "enrolled", answer
            opened = box.open(dance, answer)
            given[box] = json.loads(opened.document)
            status, _ = box.post("report", box.report(dance, opened), dance.session)
            assert status == 200
        lost, kept = boxes
        root, lists = site.layout.site / "trust/root.pem", tmp_path / "crl.pem"
        leaves = {}
        for number, box in enumerate(boxes):
            leaves[box] = tmp_path / f"{number}.pem"
            leaves[box].write_text(given[box]["identity"]["chain_pem"])

        def judged() -> list[str]:
            done = site.doorstep("ca", "crl", "--out", str(lists))
            assert done.exit_code == 0, done.output
            return [verify(leaves[box], root, lists, "-crl_check") for box in boxes]

        def known(box: Any) -> bool:
            return any(given[box]["fqdn"] in one["name"] for one in site.plan()["records"])

        assert judged() == ["OK", "OK"]
        assert known(lost)
        done = site.doorstep("box", "refuse", lost.id, "--yes")
        assert done.exit_code == 0, done.output
        said, other = judged()
        assert ("certificate revoked" in said, other) == (True, "OK")
        assert (known(lost), known(kept)) == (False, True)
        lost.boot(site.log_of_boot)
        again = lost.begin()
        status, body = lost.post("evidence", again.body, again.session)
        assert (status, json.loads(body)["reason"]) == (403, "REVOKED")
        kept.boot(site.log_of_boot)
        assert kept.enrol().status == "ready"
