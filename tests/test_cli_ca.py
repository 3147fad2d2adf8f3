"""`doorstep ca` from one end to the other: headquarters with the root, an appliance with a TPM."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from keys_site import KeysSite, request
from test_lease_service import LeasedSite

from bootstrap.cli.main import main
from bootstrap.io.offline_keys import FORM, read_root_key, read_sign_key
from bootstrap.io.offline_root import OfflineRoot
from keys import ca, ca_proof, crl, manifest, note
from keys.ca import Issue, Issuer, Kind
from keys.envelope import unb64u
from keys.secret import Secret

PHRASE = b"correct horse battery staple"
SITE, DOMAIN, NETWORK = "shop-0417", "shop-0417.example.net", "10.41.7.0/24"


POINT = (Encoding.X962, PublicFormat.UncompressedPoint)


def doorstep(*words: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in words], input=given)


class Desk:
    """Headquarters: a root under a passphrase, and the commands that work beside it."""

    def __init__(self, place: Path) -> None:
        self.place, self.root, self.phrase = place, place / "root", place / "phrase"

    def make(self) -> Desk:
        """Make the root; scrypt takes its time, so that most tests have a copy of one."""
        self.place.mkdir(exist_ok=True)
        self.phrase.write_bytes(PHRASE + b"\n")
        made = doorstep("ca", "init", self.root, *self.of(), *self.open)
        assert made.exit_code == 0, made.output
        return self

    def copy(self, place: Path) -> Desk:
        """Give another directory with the same root."""
        shutil.copytree(self.place, place)
        return Desk(place)

    @property
    def open(self) -> tuple[object, ...]:
        return "--passphrase-file", self.phrase

    def of(self) -> tuple[object, ...]:
        return "--site-id", SITE, "--domain", DOMAIN, "--network", NETWORK

    def sign(self, out: Path, *requests: Path, answer: str = "y\n") -> Result:
        words = ("--root", self.root, "--out", out, *self.open)
        return doorstep("ca", "sign", *requests, *words, given=answer)

    def issuer(self) -> Issuer:
        text = (self.root / "root.pem").read_bytes()
        if text not in ISSUERS:
            ISSUERS[text] = OfflineRoot(self.root).open(lambda _: Secret(PHRASE))
        return ISSUERS[text]


ISSUERS: dict[bytes, Issuer] = {}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("headquarters")).make()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The root of somebody else, for a site of the same name."""
    return Desk(tmp_path_factory.mktemp("elsewhere")).make()


@pytest.fixture
def desk(tmp_path: Path, first: Desk) -> Desk:
    return first.copy(tmp_path / "headquarters")


class Appliance:
    """A controller that trusts the desk's root, and its command line."""

    def __init__(self, site: KeysSite, desk: Desk) -> None:
        self.site = site
        for name in ("root.pem", "root.pub"):
            site.write(f"trust/{name}", (desk.root / name).read_text())
        site.start()

    def ca(self, *words: object) -> Result:
        layout = self.site.layout
        options = ("--site", layout.site, "--state", layout.state, "--run", layout.run)
        return doorstep("ca", *words, *options)

    def requests(self, out: Path) -> tuple[Path, Path]:
        done = self.ca("request", "--out", out)
        assert done.exit_code == 0, done.output
        return out / "appliance.csr", out / "box.csr"

    def certificates(self) -> dict[str, object]:
        found: dict[str, object] = self.site.operator("status")["certificates"]
        return found

    @property
    def ready(self) -> bool:
        return bool(self.site.operator("status")["ready"])


@pytest.fixture
def appliance(desk: Desk) -> Iterator[Appliance]:
    """One without a TPM, which is quicker."""
    site = KeysSite()
    try:
        yield Appliance(site, desk)
    finally:
        site.close()


def test_a_root_is_made_off_site_and_only_its_passphrase_opens_it(desk: Desk) -> None:
    names = {path.name for path in desk.root.iterdir()}
    assert names == {"root.key", "sign.key", "root.pem", "root.pub"}
    for name in ("root.key", "sign.key"):
        path = desk.root / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE KEY" not in path.read_bytes()
        opened = FORM.open(path.read_bytes(), Secret(PHRASE))
        assert opened not in path.read_bytes()
    assert desk.root.stat().st_mode & 0o777 == 0o700
    key = read_root_key(desk.root / "root.key", lambda _: Secret(PHRASE))
    root = ca.load_certificate((desk.root / "root.pem").read_bytes())
    assert root.public_key() == key.public_key()
    ca.check_root(root)
    signing = read_sign_key(desk.root / "sign.key", lambda _: Secret(PHRASE))
    public = manifest.PublicKey.of(signing.public_key()).encode()
    assert public == (desk.root / "root.pub").read_bytes()

    again = doorstep("ca", "init", desk.root, *desk.of(), *desk.open)
    assert (again.exit_code, "exists: a site hangs on it" in again.output) == (2, True)
    assert root == ca.load_certificate((desk.root / "root.pem").read_bytes())


@pytest.mark.parametrize(
    ("phrase", "words", "sentence"),
    [
        (b"short", (), "passphrase is too short"),
        (PHRASE, ("--network", "10.41.7.1/24"), "--network"),
        (PHRASE, ("--network", "shop"), "--network"),
        (PHRASE, ("--site-id", "Shop 417"), "--site-id"),
        (PHRASE, ("--domain", "example"), "--domain"),
        (PHRASE, ("--domain", "*.example.net"), "--domain"),
    ],
)
def test_a_root_that_is_not_made(
    tmp_path: Path, phrase: bytes, words: tuple[str, ...], sentence: str
) -> None:
    secret = tmp_path / "phrase"
    secret.write_bytes(phrase)
    of = ("--site-id", SITE, "--domain", DOMAIN, "--network", NETWORK, *words)
    done = doorstep("ca", "init", tmp_path / "root", *of, "--passphrase-file", secret)
    assert (done.exit_code, sentence in done.output) == (2, True), done.output
    assert not (tmp_path / "root").exists()


def test_the_whole_way_with_a_tpm(desk: Desk, tmp_path: Path) -> None:
    """Day 0: requests before the first lease, answers by stick, then boxes under the lease."""
    site = LeasedSite()
    try:
        one = Appliance(site, desk)
        assert not one.ready
        shown = one.ca("request", "--out", tmp_path)
        paths = tmp_path / "appliance.csr", tmp_path / "box.csr"
        done = desk.sign(tmp_path / "answer", *paths)
        assert done.exit_code == 0, done.output
        for line in shown.output.splitlines():
            assert line in done.output  # fingerprints to compare
        authority = ca.fingerprint(site.authority.public_key())
        assert done.output.count(f"in its TPM, for leases of the authority {authority}") == 2
        layout = site.layout
        asked = doorstep(
            *("lease", "request", "--site", layout.site, "--state", layout.state),
            *("--run", layout.run),
        )
        named = asked.stderr.partition("fingerprint ")[2].strip()
        assert named in shown.output  # it is the appliance that headquarters knows from leases
        installed = one.ca("install", *(tmp_path / "answer").iterdir())
        assert installed.exit_code == 0, installed.output
        assert "installed: box CA, until" in installed.output
        assert one.ready

        site.deliver(1)
        site.sign_key = read_sign_key(desk.root / "sign.key", lambda _: Secret(PHRASE))
        site.deliver(1)
        site.operator("lease_apply", lease=site.issue_lease())
        reply = site.control("handover", **request())
        answer = json.loads(reply["answer"])
        middle = x509.load_der_x509_certificate(unb64u(answer["chain"][1]))
        middle.verify_directly_issued_by(desk.issuer().certificate)

        lists = one.ca("crl", "--out", tmp_path / "crl.pem")
        assert lists.exit_code == 0, lists.output
        assert "0 revoked" in lists.output
        text = (tmp_path / "crl.pem").read_text()
        assert text.count("BEGIN X509 CRL") == 2  # the box CA's and the root's
        assert one.ca("crl").output == text
    finally:
        site.close()


def test_the_running_site_s_requests_are_signed_with_the_keys_beside_it(
    appliance: Appliance, desk: Desk
) -> None:
    """As `doorstep init` makes them, in PEM; and by stick, under the passphrase."""
    bare = appliance.ca("sign")
    assert (bare.exit_code, "is not here" in bare.output) == (2, True)
    offline = appliance.site.layout.site / "offline"
    offline.mkdir()
    pem = desk.issuer().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (offline / "root.key").write_bytes(pem)
    done = appliance.ca("sign")
    assert done.exit_code == 0, done.output
    assert "installed: appliance CA, until" in done.output
    assert appliance.ready
    assert (offline / "root.crl").exists()
    (offline / "root.crl").write_text("damaged, or on a stick that cannot be written")
    done = appliance.ca("sign")
    assert (done.exit_code, "stays as it was" in done.stderr) == (0, True), done.output
    (offline / "root.crl").unlink()
    wrong = ec.generate_private_key(ec.SECP256R1())
    pem = wrong.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (offline / "root.key").write_bytes(pem)
    done = appliance.ca("sign")
    assert (done.exit_code, "bring the right stick" in done.output) == (2, True)
    done = appliance.ca("sign", "--offline", desk.root, *desk.open)
    assert done.exit_code == 0, done.output


def test_a_passphrase_is_asked_for_only_when_it_could_help(
    appliance: Appliance, desk: Desk, tmp_path: Path
) -> None:
    paths = appliance.requests(tmp_path)
    desk.phrase.write_bytes(b"correct horse battery stapler")
    wrong = desk.sign(tmp_path / "out", *paths)
    assert (wrong.exit_code, "wrong passphrase" in wrong.output) == (2, True)
    no = desk.sign(tmp_path / "out", *paths, answer="n\n")
    assert no.exit_code == 1
    (desk.root / "root.key").chmod(0o644)
    seen = desk.sign(tmp_path / "out", *paths)
    assert (seen.exit_code, "can be read by others" in seen.output) == (2, True)
    (desk.root / "root.key").chmod(0o600)
    damaged = (desk.root / "root.key").read_text().replace('"salt"', '"salz"')
    (desk.root / "root.key").write_text(damaged)
    torn = desk.sign(tmp_path / "out", *paths)
    assert (torn.exit_code, "damaged" in torn.output) == (2, True)
    assert not (tmp_path / "out").exists()


def csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, site: str = SITE, name: str = "box CA"
) -> bytes:
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"Doorstep {site}"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def flipped() -> bytes:
    """Give a request whose key was exchanged: the signature is of the one before."""
    first, second = (x509.load_pem_x509_csr(csr(p256())) for _ in range(2))
    before, after = (one.public_key().public_bytes(*POINT) for one in (first, second))
    der = first.public_bytes(Encoding.DER)
    assert der.count(before) == 1
    return x509.load_der_x509_csr(der.replace(before, after)).public_bytes(Encoding.PEM)


def nameless() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(p256(), hashes.SHA256()).public_bytes(Encoding.PEM)


REQUESTS: dict[str, Callable[[], bytes]] = {
    "is for the site 'shop-9999'": lambda: csr(p256(), "shop-9999"),
    "was changed": flipped,
    "on the curve P-256: this": lambda: csr(ec.generate_private_key(ec.SECP384R1())),
    "P-256: this request names another": lambda: csr(rsa.generate_private_key(65537, 2048)),
    "neither the appliance CA nor the box CA": lambda: csr(p256(), name="site root"),
    "not a certificate request in PEM": lambda: b"junk",
    "names no site": nameless,
    "too large": lambda: bytes(70000),
}


@pytest.mark.parametrize("sentence", REQUESTS)
def test_a_request_that_is_refused_leaves_nothing(
    desk: Desk, tmp_path: Path, sentence: str
) -> None:
    bad, good = tmp_path / "bad.csr", tmp_path / "good.csr"
    bad.write_bytes(REQUESTS[sentence]())
    good.write_bytes(csr(p256(), name="appliance CA"))
    done = desk.sign(tmp_path / "out", good, bad)
    assert (done.exit_code, sentence in done.output) == (1, True), done.output
    assert str(bad) in done.output
    assert not (tmp_path / "out").exists()
    assert not (desk.root / "root.crl").exists()


def test_a_key_in_software_is_told_from_one_in_a_tpm(
    appliance: Appliance, desk: Desk, tmp_path: Path
) -> None:
    done = desk.sign(tmp_path / "out", *appliance.requests(tmp_path))
    assert done.exit_code == 0
    assert done.output.count("nothing proves it") == 2
    assert "in its TPM" not in done.output
    # and a word that is none is no such request, but a refused one
    name = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"Doorstep {SITE}")
    kind = x509.NameAttribute(x509.NameOID.COMMON_NAME, "box CA")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([name, kind]))
    builder = builder.add_attribute(ca_proof.ATTRIBUTE, b"{}")
    lie = tmp_path / "lie.csr"
    lie.write_bytes(builder.sign(p256(), hashes.SHA256()).public_bytes(Encoding.PEM))
    refused = desk.sign(tmp_path / "other", lie)
    assert (refused.exit_code, "word of a TPM does not hold" in refused.output) == (1, True)
    assert not (tmp_path / "other").exists()


def test_two_requests_of_one_kind_are_refused(desk: Desk, tmp_path: Path) -> None:
    paths = [tmp_path / "one.csr", tmp_path / "two.csr"]
    for path in paths:
        path.write_bytes(csr(p256()))
    done = desk.sign(tmp_path / "out", *paths)
    assert (done.exit_code, "another of these" in done.output) == (1, True)


def test_a_request_is_signed_for_as_many_days_as_are_said(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "box.csr"
    path.write_bytes(csr(p256()))
    words = ("--root", desk.root, "--out", tmp_path, "--days", 90, "--yes", *desk.open)
    done = doorstep("ca", "sign", path, *words)
    assert done.exit_code == 0, done.output
    made = ca.load_certificate((tmp_path / "box.pem").read_bytes())
    left = made.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=89) < left < timedelta(days=90, minutes=1)


class Forge:
    """What somebody with the right or the wrong root brings to an appliance."""

    def __init__(self, desk: Desk, appliance: Appliance, place: Path) -> None:
        self.place, self.issuer = place, desk.issuer()
        paths = appliance.requests(place)
        read = [ca.read_request(path.read_bytes()) for path in paths]
        self.asked = {one.kind: one for one in read}

    def sign(self, kind: Kind, issuer: Issuer | None = None, **changes: object) -> Path:
        """Sign a request as it should be, or not quite; gives the file."""
        asked = self.asked[kind]
        wanted = {"now": datetime.now(UTC), "csr": asked.csr, "lifetime": ca.CA_LIFETIME} | changes
        made = ca.sign_intermediate(
            issuer or self.issuer,
            wanted["csr"],  # type: ignore[arg-type]
            kind=kind,
            issue=Issue(serial=x509.random_serial_number(), now=wanted["now"]),  # type: ignore[arg-type]
            lifetime=wanted["lifetime"],  # type: ignore[arg-type]
        )
        return self.write(f"{kind.value}.pem", ca.pem([made]))

    def reshape(self, kind: Kind, add: x509.ExtensionType) -> Path:
        """Replace one extension, as who signs with another program may."""
        good = ca.load_certificate(self.sign(kind).read_bytes())
        builder = x509.CertificateBuilder(
            subject_name=good.subject,
            issuer_name=good.issuer,
            public_key=good.public_key(),
            serial_number=good.serial_number,
            not_valid_before=good.not_valid_before_utc,
            not_valid_after=good.not_valid_after_utc,
        )
        for extension in good.extensions:
            if not isinstance(extension.value, type(add)):
                builder = builder.add_extension(extension.value, extension.critical)
        made = builder.add_extension(add, critical=True).sign(self.issuer.key, hashes.SHA256())
        return self.write(f"{kind.value}.pem", ca.pem([made]))

    def write(self, name: str, text: str) -> Path:
        path = self.place / name
        path.write_text(text)
        return path


def everything() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def other_root(forge: Forge, elsewhere: Desk) -> Path:
    return forge.sign(Kind.BOX, elsewhere.issuer())


def other_key(forge: Forge, _: Desk) -> Path:
    name = x509.load_pem_x509_csr(csr(p256()))
    return forge.sign(Kind.BOX, csr=name)


def swapped(forge: Forge, _: Desk) -> Path:
    """Give the appliance's key the powers and the name of the box CA."""
    key = forge.asked[Kind.APPLIANCE].csr.public_key()
    good = ca.load_certificate(forge.sign(Kind.BOX).read_bytes())
    builder = x509.CertificateBuilder(
        subject_name=good.subject,
        issuer_name=good.issuer,
        public_key=key,
        serial_number=good.serial_number,
        not_valid_before=good.not_valid_before_utc,
        not_valid_after=good.not_valid_after_utc,
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return forge.write("box.pem", ca.pem([builder.sign(forge.issuer.key, hashes.SHA256())]))


ANSWERS: dict[str, Callable[[Forge, Desk], Path]] = {
    "not signed by the site root": other_root,
    "for another key than the one requested": other_key,
    "is for another key": swapped,
    "not valid today": lambda forge, _: forge.sign(
        Kind.BOX, now=datetime.now(UTC) - timedelta(days=3), lifetime=timedelta(days=2)
    ),
    "box certificate is not valid": lambda forge, _: forge.sign(
        Kind.BOX, now=datetime.now(UTC) + timedelta(days=3)
    ),
    "path length 0": lambda forge, _: forge.reshape(
        Kind.BOX, x509.BasicConstraints(ca=True, path_length=1)
    ),
    "extended key usages of its kind": lambda forge, _: forge.reshape(
        Kind.BOX,
        x509.ExtendedKeyUsage(
            [x509.ExtendedKeyUsageOID.CLIENT_AUTH, x509.ExtendedKeyUsageOID.SERVER_AUTH]
        ),
    ),
    "more key usages": lambda forge, _: forge.reshape(Kind.BOX, everything()),
    "must exclude every server name": lambda forge, _: forge.reshape(
        Kind.BOX, x509.NameConstraints(None, [x509.DNSName("example.com")])
    ),
    "neither the appliance CA nor the box CA": lambda forge, _: forge.write(
        "root.pem", ca.pem([forge.issuer.certificate])
    ),
    "not a PEM certificate": lambda forge, _: forge.write("box.pem", "junk"),
    "not a list of revoked certificates in PEM": lambda forge, _: forge.write(
        "root.crl", "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n"
    ),
    "list of revoked certificates is not signed": lambda forge, elsewhere: forge.write(
        "root.crl",
        crl.pem(crl.make(elsewhere.issuer(), (), number=1, now=datetime.now(UTC))),
    ),
}


@pytest.mark.parametrize("sentence", ANSWERS)
def test_an_answer_that_is_refused_leaves_what_was_there(
    desk: Desk, elsewhere: Desk, appliance: Appliance, tmp_path: Path, sentence: str
) -> None:
    forge = Forge(desk, appliance, tmp_path)
    bad = ANSWERS[sentence](forge, elsewhere)
    bad = bad.rename(tmp_path / f"bad-{bad.name}")
    good = forge.sign(Kind.APPLIANCE)
    for files in ((good, bad), (bad,)):
        done = appliance.ca("install", *files)
        assert (done.exit_code, sentence in done.output) == (1, True), done.output
    assert not any(appliance.certificates().values())
    assert appliance.ca("install", good, forge.sign(Kind.BOX)).exit_code == 0
    before = appliance.certificates()
    assert appliance.ready
    assert appliance.ca("install", good, bad).exit_code == 1
    assert appliance.certificates() == before


def test_each_intermediate_may_come_alone(desk: Desk, appliance: Appliance, tmp_path: Path) -> None:
    forge = Forge(desk, appliance, tmp_path)
    assert appliance.ca("install", forge.sign(Kind.BOX)).exit_code == 0
    assert not appliance.ready
    twice = appliance.ca("install", *[forge.sign(Kind.APPLIANCE)] * 2)
    assert (twice.exit_code, "of the same kind" in twice.output) == (1, True)
    assert appliance.ca("install", forge.sign(Kind.APPLIANCE)).exit_code == 0
    assert appliance.ready


def test_an_intermediate_that_was_revoked_is_told_of_and_replaced(
    desk: Desk, elsewhere: Desk, appliance: Appliance, tmp_path: Path
) -> None:
    """A dead appliance's, for whoever checks; and ours, which must not run on unseen."""
    paths = appliance.requests(tmp_path)
    assert desk.sign(tmp_path, *paths).exit_code == 0
    files = [tmp_path / name for name in ("appliance.pem", "box.pem", "root.crl")]
    assert appliance.ca("install", *files).exit_code == 0
    foreign = tmp_path / "foreign.pem"
    issue = Issue(serial=1, now=datetime.now(UTC))
    asked = x509.load_pem_x509_csr(paths[1].read_bytes())
    theirs = ca.sign_intermediate(elsewhere.issuer(), asked, kind=Kind.BOX, issue=issue)
    foreign.write_text(ca.pem([theirs]))
    for path, said in (
        (foreign, "not a certificate of this root"),
        (desk.root / "root.pem", "neither the appliance CA nor the box CA"),
    ):
        stranger = doorstep("ca", "revoke", path, "--root", desk.root, *desk.open)
        assert (stranger.exit_code, said in stranger.output) == (1, True), stranger.output
    early = crl.load((desk.root / "root.crl").read_text())
    done = doorstep("ca", "revoke", files[1], "--root", desk.root, *desk.open)
    assert done.exit_code == 0, done.output
    listed = crl.load((desk.root / "root.crl").read_text())
    serial = ca.load_certificate(files[1].read_bytes()).serial_number
    assert serial in crl.serials(listed)
    assert crl.number(listed) > crl.number(early)
    refused = appliance.ca("install", desk.root / "root.crl")
    assert (refused.exit_code, "revoked this box certificate" in refused.output) == (1, True)
    # signed again, with the list that goes with it
    assert desk.sign(tmp_path / "new", *paths).exit_code == 0
    assert serial in crl.serials(crl.load((tmp_path / "new/root.crl").read_text()))
    assert appliance.ca("install", *(tmp_path / "new").iterdir()).exit_code == 0
    older = appliance.ca("install", files[2])
    assert (older.exit_code, "newer list" in older.output) == (1, True)
    back = appliance.ca("install", files[1])
    assert (back.exit_code, "revoked this box certificate" in back.output) == (1, True)
    # openssl reads the list as we do
    said = subprocess.run(
        ["openssl", "crl", "-in", desk.root / "root.crl", "-CAfile", desk.root / "root.pem"]
        + ["-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "verify OK" in said.stderr
    assert f"{serial:X}" in said.stdout.replace("\n", "")


def test_other_offline_work_takes_the_same_directory(desk: Desk, tmp_path: Path) -> None:
    """`--offline` with a root under a passphrase: here the delivery note."""
    site = tmp_path / "site"
    made = doorstep(
        *("init", site, "--id", SITE, "--domain", DOMAIN, "--interface", "eth1"),
        *("--network", NETWORK),
    )
    assert made.exit_code == 0, made.output
    options = ("note", "sign", "--site", site, "--offline", desk.root)
    words = [str(one) for one in options]
    bare = CliRunner(env={"DOORSTEP_PASSPHRASE_FILE": ""}).invoke(main, words)
    assert (bare.exit_code, "is under a passphrase" in bare.output) == (2, True), bare.output
    named = CliRunner(env={"DOORSTEP_PASSPHRASE_FILE": str(desk.phrase)}).invoke(main, words)
    assert named.exit_code == 0, named.output
    public = (desk.root / "root.pub").read_bytes()
    text = (site / "delivery.csv").read_bytes()
    signature = (site / "delivery.csv.minisig").read_bytes()
    assert manifest.verify(public, text, signature, context=note.CONTEXT)
