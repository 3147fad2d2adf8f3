"""The certificates of a site, with openssl as the second opinion."""

import subprocess
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import ca
from keys.ca import Issue, Issuer, Kind
from keys.errors import PeerError, SiteError

NOW = datetime.now(UTC).replace(microsecond=0)
KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(6)]
SITE = "shop-0417"
DOMAIN = "shop-0417.example.net"
NETWORK = IPv4Network("10.41.7.0/24")
SERIALS = iter(range(1000, 9999))


def issue(now=NOW):
    return Issue(serial=next(SERIALS), now=now)


def build_root(key=KEYS[0], now=NOW, networks=()):
    site = {"site_id": SITE, "domain": DOMAIN, "networks": networks or [NETWORK]}
    certificate = ca.make_root(key, **site, issue=issue(now))
    return Issuer(certificate=certificate, key=key)


ROOT = build_root()


def intermediate(kind, key, root=ROOT, now=NOW):
    request = ca.make_request(key, site_id=SITE, kind=kind)
    certificate = ca.sign_intermediate(root, request, kind=kind, issue=issue(now))
    return Issuer(certificate=certificate, key=key)


APPLIANCE = intermediate(Kind.APPLIANCE, KEYS[1])
BOX = intermediate(Kind.BOX, KEYS[2])


def server(issuer=APPLIANCE, name=f"appliance.{DOMAIN}", address="10.41.7.2"):
    addresses = [ip_address(address)]
    key = KEYS[3].public_key()
    return ca.issue_server(issuer, key, names=[name], addresses=addresses, issue=issue())


def box(issuer=BOX, name="6f1c0a52", days=7):
    return ca.issue_box(
        issuer,
        KEYS[4].public_key(),
        site_id=SITE,
        pseudonym=name,
        lifetime=timedelta(days=days),
        issue=issue(),
    )


@pytest.fixture
def verify(tmp_path):
    def run(leaf, chain, purpose, *more, root=ROOT):
        chain = chain if isinstance(chain, list) else [chain]
        for name, certificates in (("root", [root.certificate]), ("ca", chain), ("leaf", [leaf])):
            (tmp_path / name).write_text(ca.pem(certificates))
        command = ["openssl", "verify", "-x509_strict", "-CAfile", "root", "-untrusted", "ca"]
        command += ["-purpose", purpose, *more, "leaf"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return "OK" if done.returncode == 0 else done.stderr

    return run


def test_server_certificate(verify):
    chain, host = APPLIANCE.certificate, f"appliance.{DOMAIN}"
    assert verify(server(), chain, "sslserver", "-verify_hostname", host) == "OK"
    assert verify(server(), chain, "sslserver", "-verify_ip", "10.41.7.2") == "OK"
    assert "mismatch" in verify(server(), chain, "sslserver", "-verify_hostname", f"x.{DOMAIN}")
    assert "purpose" in verify(server(), chain, "sslclient")


def test_the_root_vouches_for_its_own_names_only(verify):
    chain = APPLIANCE.certificate
    assert "permitted subtree" in verify(server(name="bank.example.com"), chain, "sslserver")
    assert "permitted subtree" in verify(server(address="10.9.9.9"), chain, "sslserver")


def test_an_ipv6_address_is_vouched_for_where_the_root_names_its_network(verify):
    """RFC 5280, 4.2.1.10: a root that permits IPv4 networks alone permits no IPv6 address."""
    six, outside = IPv6Address("fd00:41:7::2"), IPv6Address("fd00:41:8::2")
    assert "permitted subtree" in verify(server(address=six), APPLIANCE.certificate, "sslserver")
    assert not ca.may_vouch(ROOT.certificate, six)
    root = build_root(networks=[NETWORK, IPv6Network("fd00:41:7::/64")])
    appliance = intermediate(Kind.APPLIANCE, KEYS[1], root)
    for address, sentence in ((six, "OK"), (outside, "permitted subtree")):
        chain = ["-verify_ip", str(address)]
        found = verify(
            server(appliance, address=address),
            appliance.certificate,
            "sslserver",
            *chain,
            root=root,
        )
        assert sentence in found
        assert ca.may_vouch(root.certificate, address) is (sentence == "OK")
    assert ca.may_vouch(root.certificate, IPv4Address("10.41.7.2"))
    assert not ca.may_vouch(root.certificate, IPv4Address("10.9.9.9"))


def test_a_name_in_the_subject_alone_is_bound_too(verify):
    """Programs that still take the common name for a host's must not be led past the root."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank.example.com")])
    good = server()
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=good.issuer,
        public_key=good.public_key(),
        serial_number=next(SERIALS),
        not_valid_before=good.not_valid_before_utc,
        not_valid_after=good.not_valid_after_utc,
    )
    for extension in good.extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            builder = builder.add_extension(extension.value, extension.critical)
    leaf = builder.sign(APPLIANCE.key, hashes.SHA256())
    assert "permitted subtree" in verify(leaf, APPLIANCE.certificate, "sslserver")


def test_the_appliance_ca_cannot_make_a_client(verify):
    assert "purpose" in verify(box(issuer=APPLIANCE), APPLIANCE.certificate, "sslclient")


def test_certificates_out_of_their_time_and_of_another_root(verify):
    """A day too late, a day too early, and under a root of the same name."""
    for leaf, chain, purpose in (
        (box(), BOX.certificate, "sslclient"),
        (server(), APPLIANCE.certificate, "sslserver"),
    ):
        end, begin = leaf.not_valid_after_utc, leaf.not_valid_before_utc
        late, early = end + timedelta(days=1), begin - timedelta(days=1)
        assert "has expired" in verify(leaf, chain, purpose, "-attime", str(int(late.timestamp())))
        assert "not yet valid" in verify(
            leaf, chain, purpose, "-attime", str(int(early.timestamp()))
        )
        other = build_root(KEYS[5])
        assert verify(leaf, chain, purpose, root=other) != "OK"
        assert verify(leaf, chain, purpose) == "OK"


def certtool(directory, leaf, chain, root=ROOT):
    """Let GnuTLS judge a chain; gives "OK" or what it said."""
    (directory / "chain").write_text(ca.pem([leaf, chain]))
    (directory / "root").write_text(ca.pem([root.certificate]))
    command = ["certtool", "--verify", "--infile", "chain", "--load-ca-certificate", "root"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    is_trusted = "The certificate is trusted" in said and done.returncode == 0
    return "OK" if is_trusted else said.rpartition("Chain verification output:")[2]


def test_gnutls_is_of_the_same_mind(tmp_path):
    """A second opinion on name constraints; this program asks for no purpose."""
    assert certtool(tmp_path, server(), APPLIANCE.certificate) == "OK"
    assert certtool(tmp_path, box(), BOX.certificate) == "OK"
    for leaf, chain in (
        (server(name="bank.example.com"), APPLIANCE.certificate),
        (server(address="10.9.9.9"), APPLIANCE.certificate),
        (server(issuer=BOX), BOX.certificate),
    ):
        assert "violates the signer's constraints" in certtool(tmp_path, leaf, chain)
    assert certtool(tmp_path, server(), APPLIANCE.certificate, build_root(KEYS[5])) != "OK"


def test_box_certificate(verify):
    leaf = box()
    assert verify(leaf, BOX.certificate, "sslclient") == "OK"
    assert "purpose" in verify(leaf, BOX.certificate, "sslserver")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["urn:doorstep:shop-0417:box:6f1c0a52"]
    assert leaf.not_valid_after_utc == NOW + timedelta(days=7)


def test_the_box_ca_cannot_make_a_server(verify):
    said = verify(server(issuer=BOX), BOX.certificate, "any")
    assert "excluded subtree" in said
    assert "purpose" in verify(server(issuer=BOX), BOX.certificate, "sslserver")
    assert "excluded subtree" in verify(
        box(name=f"appliance.{DOMAIN}"), BOX.certificate, "sslclient"
    )


def test_answer_leaf_serves_for_answers_alone(verify):
    leaf = ca.issue_answer_leaf(APPLIANCE, KEYS[5].public_key(), site_id=SITE, issue=issue())
    assert verify(leaf, APPLIANCE.certificate, "any") == "OK"
    for purpose in ("sslserver", "sslclient"):
        assert "purpose" in verify(leaf, APPLIANCE.certificate, purpose)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == [
        "2.25.112558911838470021783907741235113412353"
    ]


def test_an_intermediate_makes_no_further_ca(verify):
    request = ca.make_request(KEYS[5], site_id=SITE, kind=Kind.APPLIANCE, appliance="other")
    below = ca.sign_intermediate(APPLIANCE, request, kind=Kind.APPLIANCE, issue=issue())
    leaf = server(issuer=Issuer(certificate=below, key=KEYS[5]))
    assert "path length" in verify(leaf, [below, APPLIANCE.certificate], "any")


def check(certificate, kind=Kind.APPLIANCE, key=KEYS[1], now=NOW, root=ROOT):
    ca.check_intermediate(
        certificate, root=root.certificate, key=key.public_key(), kind=kind, now=now
    )


def test_what_the_root_signed_is_installed():
    check(intermediate(Kind.APPLIANCE, KEYS[1]).certificate)
    check(intermediate(Kind.BOX, KEYS[2]).certificate, kind=Kind.BOX, key=KEYS[2])
    ca.check_root(build_root().certificate)


def reshape(drop, add=None, key=KEYS[1], kind=Kind.APPLIANCE, root=ROOT):
    """Sign an intermediate as a careless operator would: one extension left out or replaced."""
    good = intermediate(kind, key).certificate
    builder = x509.CertificateBuilder(
        subject_name=good.subject,
        issuer_name=good.issuer,
        public_key=good.public_key(),
        serial_number=next(SERIALS),
        not_valid_before=good.not_valid_before_utc,
        not_valid_after=good.not_valid_after_utc,
    )
    for extension in good.extensions:
        if not isinstance(extension.value, drop):
            builder = builder.add_extension(extension.value, extension.critical)
    if add is not None:
        builder = builder.add_extension(add, critical=True)
    return builder.sign(root.key, hashes.SHA256())


def usage(**changes):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment")
    names += ("key_agreement", "encipher_only", "decipher_only")
    off = dict.fromkeys(names, False)
    return x509.KeyUsage(**off | {"key_cert_sign": True, "crl_sign": True} | changes)


LONG = x509.BasicConstraints(ca=True, path_length=2)
NO_CA = x509.BasicConstraints(ca=False, path_length=None)
EVERYTHING = x509.ExtendedKeyUsage(
    [*ca.USAGES[Kind.APPLIANCE], x509.ExtendedKeyUsageOID.CLIENT_AUTH]
)


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        (lambda: intermediate(Kind.APPLIANCE, KEYS[1], build_root(KEYS[5])).certificate, "root"),
        (lambda: intermediate(Kind.APPLIANCE, KEYS[5]).certificate, "another key"),
        (lambda: intermediate(Kind.BOX, KEYS[1]).certificate, "usages"),
        (lambda: reshape(x509.BasicConstraints, LONG), "path length 0"),
        (lambda: reshape(x509.BasicConstraints, NO_CA), "path length 0"),
        (lambda: reshape(x509.BasicConstraints), "no BasicConstraints"),
        (lambda: reshape(x509.ExtendedKeyUsage), "no ExtendedKeyUsage"),
        (lambda: reshape(x509.ExtendedKeyUsage, EVERYTHING), "usages"),
        (lambda: reshape(x509.KeyUsage), "no KeyUsage"),
        (lambda: reshape(x509.KeyUsage, usage(key_cert_sign=False)), "may not sign"),
        (lambda: reshape(x509.KeyUsage, usage(crl_sign=False)), "may not sign"),
        (lambda: reshape(x509.KeyUsage, usage(digital_signature=True)), "more key usages"),
        (lambda: reshape(x509.KeyUsage, usage(key_agreement=True)), "more key usages"),
    ],
)
def test_an_unfit_appliance_certificate_is_refused(certificate, sentence):
    with pytest.raises(PeerError, match=sentence):
        check(certificate())


@pytest.mark.parametrize(
    ("add", "sentence"),
    [
        (None, "no NameConstraints"),
        (x509.NameConstraints([x509.DNSName(DOMAIN)], None), "exclude every server name"),
    ],
)
def test_a_box_ca_that_could_name_a_server_is_refused(add, sentence):
    certificate = reshape(x509.NameConstraints, add, KEYS[2], Kind.BOX)
    with pytest.raises(PeerError, match=sentence):
        check(certificate, kind=Kind.BOX, key=KEYS[2])


@pytest.mark.parametrize("now", [NOW - timedelta(hours=2), NOW + timedelta(days=6 * 365)])
def test_an_intermediate_out_of_its_time_is_refused(now):
    with pytest.raises(PeerError, match="not valid today"):
        check(APPLIANCE.certificate, now=now)


def test_a_root_that_has_ended_carries_nothing():
    old = build_root(now=NOW - ca.ROOT_LIFETIME - timedelta(days=1))
    certificate = reshape((), root=old)
    with pytest.raises(PeerError, match="root has ended"):
        check(certificate, root=old)


def test_a_request_must_be_signed_by_its_key():
    der = bytearray(
        ca.make_request(KEYS[1], site_id=SITE, kind=Kind.BOX).public_bytes(Encoding.DER)
    )
    der[-1] ^= 1
    request = x509.load_der_x509_csr(bytes(der))
    with pytest.raises(PeerError, match="not signed"):
        ca.sign_intermediate(ROOT, request, kind=Kind.BOX, issue=issue())


@given(data=st.binary(max_size=300), label=st.sampled_from(["CERTIFICATE", "CERTIFICATE REQUEST"]))
@settings(max_examples=100)
def test_any_bytes_are_read_or_refused(data, label):
    text = f"-----BEGIN {label}-----\n{b64encode(data).decode()}\n-----END {label}-----\n"
    for read in (ca.load_certificate, ca.read_request):
        for one in (data, text):
            with pytest.raises(PeerError):
                read(one)


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
@settings(max_examples=100)
def test_a_request_with_any_bit_turned_is_refused(at, bit):
    der = bytearray(REQUEST.public_bytes(Encoding.DER))
    der[at % len(der)] ^= 1 << bit
    text = b"-----BEGIN CERTIFICATE REQUEST-----\n" + b64encode(der)
    with pytest.raises(PeerError):
        ca.read_request(text + b"\n-----END CERTIFICATE REQUEST-----\n")


REQUEST = ca.make_request(KEYS[1], site_id=SITE, kind=Kind.BOX, appliance="0123")


def test_a_request_carries_the_word_of_a_tpm_as_it_is():
    asked = ca.make_request(KEYS[1], site_id=SITE, kind=Kind.BOX, proof=b"a word")
    assert ca.read_request(asked.public_bytes(Encoding.PEM)).proof == b"a word"
    assert ca.read_request(REQUEST.public_bytes(Encoding.PEM)).proof is None
    # two values where one must be (RFC 2986, 4.1): signed all the same, by who has the key
    tbs = asked.tbs_certrequest_bytes
    changed = tbs.replace(b"\x0c\x06a word", b"\x0c\x02aa\x0c\x02bb")
    assert changed != tbs
    signature = KEYS[1].sign(changed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    body = changed + algorithm + bytes((3, len(signature) + 1, 0)) + signature
    der = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    text = b"-----BEGIN CERTIFICATE REQUEST-----\n" + b64encode(der)
    with pytest.raises(PeerError, match="word of a TPM is damaged"):
        ca.read_request(text + b"\n-----END CERTIFICATE REQUEST-----\n")


def test_a_request_says_what_it_is_for():
    asked = ca.read_request(REQUEST.public_bytes(Encoding.PEM))
    assert (asked.site, asked.kind, asked.appliance) == (SITE, Kind.BOX, "0123")
    assert asked.key == KEYS[1].public_key()
    assert ca.fingerprint(asked.key) == ca.fingerprint(KEYS[1].public_key())
    assert ca.kind_of(BOX.certificate) is Kind.BOX
    assert ca.site_of(ROOT.certificate) == SITE
    with pytest.raises(PeerError, match="neither"):
        ca.kind_of(ROOT.certificate)
    with pytest.raises(PeerError, match="names no site"):
        ca.site_of(box())


def test_a_request_is_answered_by_the_root_of_its_site_for_its_kind():
    other = ca.make_request(KEYS[1], site_id="shop-1", kind=Kind.BOX)
    for request, kind, root, sentence in (
        (other, Kind.BOX, ROOT, "is for the site 'shop-1', this root is of 'shop-0417'"),
        (REQUEST, Kind.APPLIANCE, ROOT, "for the box CA, not the appliance CA"),
        (REQUEST, Kind.BOX, build_root(now=NOW - timedelta(days=8000)), "site root has ended"),
    ):
        with pytest.raises(PeerError, match=sentence):
            ca.sign_intermediate(root, request, kind=kind, issue=issue())


def test_what_another_key_of_the_same_name_signed_is_another_s():
    """Two authorities of one name: a new TPM makes new keys."""
    again = intermediate(Kind.APPLIANCE, KEYS[5])
    assert again.certificate.subject == APPLIANCE.certificate.subject
    assert ca.is_issued_by(server(), APPLIANCE.certificate)
    assert not ca.is_issued_by(server(), again.certificate)


PERMITTED = x509.NameConstraints([x509.DNSName(DOMAIN)], None)
EXCLUDED = x509.NameConstraints(None, [x509.DNSName(DOMAIN)])
ANY_CA = x509.BasicConstraints(ca=True, path_length=1)


@pytest.mark.parametrize(
    ("extensions", "sentence"),
    [
        ([ANY_CA], "no NameConstraints"),
        ([ANY_CA, EXCLUDED], "does not say which names"),
        ([NO_CA, PERMITTED], "is no CA"),
        ([PERMITTED], "no BasicConstraints"),
    ],
)
def test_what_is_no_site_root(extensions, sentence):
    builder = x509.CertificateBuilder(
        subject_name=ROOT.certificate.subject,
        issuer_name=ROOT.certificate.subject,
        public_key=ROOT.key.public_key(),
        serial_number=1,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    with pytest.raises(PeerError, match=sentence):
        ca.check_root(builder.sign(ROOT.key, hashes.SHA256()))


def test_a_root_is_signed_by_itself():
    """An intermediate with all that a root has is none: who signed it could end it."""
    lent = reshape(x509.BasicConstraints, ANY_CA)
    builder = x509.CertificateBuilder(
        subject_name=ROOT.certificate.subject,
        issuer_name=ROOT.certificate.subject,
        public_key=KEYS[5].public_key(),
        serial_number=1,
        not_valid_before=lent.not_valid_before_utc,
        not_valid_after=lent.not_valid_after_utc,
    )
    builder = builder.add_extension(ANY_CA, critical=True).add_extension(PERMITTED, critical=True)
    with pytest.raises(PeerError, match="not signed by the site root"):
        ca.check_root(builder.sign(ROOT.key, hashes.SHA256()))


def test_a_root_that_permits_nothing_vouches_for_no_address():
    builder = x509.CertificateBuilder(
        subject_name=ROOT.certificate.subject,
        issuer_name=ROOT.certificate.subject,
        public_key=ROOT.key.public_key(),
        serial_number=1,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    made = builder.add_extension(EXCLUDED, critical=True).sign(ROOT.key, hashes.SHA256())
    assert not ca.may_vouch(made, IPv4Address("10.41.7.2"))


def test_no_leaf_outlives_its_issuer():
    end = BOX.certificate.not_valid_after_utc
    assert box(days=50 * 365).not_valid_after_utc == end
    with pytest.raises(SiteError, match="intermediate has ended"):
        ca.issue_box(
            BOX,
            KEYS[4].public_key(),
            site_id=SITE,
            pseudonym="a",
            lifetime=timedelta(days=1),
            issue=issue(end),
        )


def test_keys_of_other_curves_are_refused():
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(PeerError, match="P-256"):
        build_root(other)
    for key in (other, rsa.generate_private_key(65537, 2048)):
        asked = ca.make_request(key, site_id=SITE, kind=Kind.BOX)
        with pytest.raises(PeerError, match="on the curve P-256: this request"):
            ca.read_request(asked.public_bytes(Encoding.PEM))
    with pytest.raises(PeerError, match="P-256"):
        ca.issue_box(
            BOX,
            other.public_key(),
            site_id=SITE,
            pseudonym="a",
            lifetime=timedelta(days=1),
            issue=issue(),
        )


def test_a_pseudonym_belongs_to_one_site():
    box_id = UUID(int=7)
    assert ca.pseudonym(b"a" * 32, box_id) != ca.pseudonym(b"b" * 32, box_id)
    assert ca.pseudonym(b"a" * 32, box_id) == ca.pseudonym(b"a" * 32, box_id)
    assert box_id.hex not in ca.pseudonym(b"a" * 32, box_id)


@pytest.mark.parametrize("text", ["", "junk", ca.pem([ROOT.certificate, BOX.certificate])])
def test_one_certificate_is_read(text):
    with pytest.raises(PeerError):
        ca.load_certificate(text)
    assert ca.load_certificate(ca.pem([ROOT.certificate])) == ROOT.certificate
