"""EK certificates: every vector is judged as it says, and what the vectors cannot show."""

import base64
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import ek_forge as make
import forge
import make_ek_vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest import der
from attest.anchors import MAX_BLOCKS, Anchors, decode_anchors
from attest.der import MAX_PARTS, decode_certificate, is_signed_by, join, split
from attest.ekcert import EkTrust, check_ek_certificate
from attest.ektemplate import TEMPLATES, check_ek_template, reconstruct_ek
from attest.errors import AttestSiteError, EvidenceError
from attest.platformcert import check_platform_certificate
from attest.reasons import Reason
from keys.tpm_public import PublicArea

VECTORS = sorted((Path(__file__).parent / "vectors" / "ek").glob("*.toml"))
REFUSED = [path for path in VECTORS if "import" in tomllib.loads(path.read_text())]
JUDGED = [path for path in VECTORS if path not in REFUSED]


@cache
def load(path: Path) -> dict:
    return tomllib.loads(path.read_text())


def raw(vector: dict, name: str) -> list[bytes]:
    return [bytes.fromhex(item) for item in vector[name]]


def anchors(vector: dict, *names: str, platform: bool = False) -> Anchors:
    files = [(f"file-{n}", data) for name in names for n, data in enumerate(raw(vector, name))]
    rehearsal = vector.get("rehearsal", False)
    return decode_anchors(files, rehearsal=rehearsal, platform=platform)


def judge(vector: dict) -> EkTrust:
    return check_ek_certificate(
        raw(vector, "certificates"),
        anchors(vector, "anchors", "crls"),
        PublicArea.decode(bytes.fromhex(vector["ek"])),
        vector["now"],
        rehearsal=vector.get("judged_in_rehearsal", vector.get("rehearsal", False)),
        crl_max_age=vector.get("crl_max_age"),
    )


def findings_of(vector: dict) -> list:
    trust = judge(vector)
    found = [*trust.findings]
    if "platform" in vector:
        sent, _ = join(raw(vector, "certificates"))
        judged = check_platform_certificate(
            bytes.fromhex(vector["platform"]),
            sent[0],
            anchors(vector, "machines", platform=True),
            vector["now"],
            sent=sent,
        )
        found += judged.findings
    return sorted(found, key=lambda finding: finding.reason.rank)


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)
def test_certificates_are_judged_as_their_vector_says(path: Path) -> None:
    vector = load(path)
    found = findings_of(vector)
    gating = [each.reason.code for each in found if each.reason.gates]
    told = [(each.reason.code, each.detail) for each in found]
    assert set(gating) == {vector["expect"]} - {""}, told
    assert [each.reason.code for each in found if not each.reason.gates] == vector["notes"], told


@pytest.mark.parametrize("path", JUDGED, ids=lambda path: path.stem)
def test_what_lists_said_and_what_was_borne_is_told(path: Path) -> None:
    vector = load(path)
    trust = judge(vector)
    assert trust.unrevoked == vector["unrevoked"]
    assert list(trust.workarounds) == vector["workarounds"]
    assert len(trust.revocation) == max(0, len(trust.chain) - 1)


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_anchors_that_cannot_be_are_refused_at_once(path: Path) -> None:
    vector = load(path)
    with pytest.raises(AttestSiteError, match=vector["import"]) as refused:
        anchors(vector, "anchors", "crls")
    assert str(refused.value).startswith("file-0: ")


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert make_ek_vectors.files() == {path: path.read_bytes() for path in VECTORS}


def test_a_chain_goes_up_to_the_root() -> None:
    trust = judge(load(make_ek_vectors.VECTORS / "intermediate-in-store.toml"))
    assert trust.chain[1:] == ("Maker TPM CA 1", "Maker TPM Root CA")
    assert trust.path[0].fingerprint == trust.fingerprint
    assert (trust.maker, trust.model, trust.version) == ("id:4E544300", "NPCT75x", "id:00070002")


def test_details_name_the_certificate_and_the_day() -> None:
    (expired,) = judge(load(make_ek_vectors.VECTORS / "root-expired.toml")).findings
    assert expired.detail == "Maker TPM Root CA is valid from 2020-01-01 to 2021-01-01"
    trust = judge(load(make_ek_vectors.VECTORS / "crl-of-both.toml"))
    assert trust.revocation[1] == "Maker TPM CA 1: not on the list of 2026-10-01"
    trust = judge(load(make_ek_vectors.VECTORS / "crl-of-one-of-two.toml"))
    assert trust.revocation[0].endswith("no list of Maker TPM CA 1")


def test_the_date_of_a_certificate_of_nobody_known_is_told_too() -> None:
    trust = check_ek_certificate(
        (make.ek(until="250101000000Z"),),
        Anchors(certificates=()),
        forge.Box().ek,
        forge.NOW,
        rehearsal=False,
    )
    found = {each.reason for each in trust.findings}
    assert found == {Reason.EK_UNKNOWN, Reason.EK_CERT_EXPIRED}


def test_in_one_set_or_in_three_the_names_are_the_same() -> None:
    for name in ("san-in-one-set", "san-printable", "san-two-names"):
        trust = judge(load(make_ek_vectors.VECTORS / f"{name}.toml"))
        assert (trust.maker, trust.model) == ("id:4E544300", "NPCT75x")


@pytest.mark.parametrize("known", TEMPLATES, ids=lambda known: known.name)
def test_the_public_area_follows_from_a_certificate(known) -> None:
    key = known.public.key
    if hasattr(key, "bits"):
        certificate = make.ek(key=make.rsa_spki(key.bits))
    else:
        private = forge.ec.derive_private_key(0x7777, key.curve.algorithm())
        certificate = make.ek(key=make.spki(private))
    made = reconstruct_ek(decode_certificate(certificate))
    assert known in {check_ek_template(area) for area in made}
    assert len({area.name() for area in made}) == len(made)


def test_the_public_area_of_a_certificate_is_that_of_its_box() -> None:
    assert forge.Box().ek in reconstruct_ek(decode_certificate(make.ek()))


@pytest.mark.parametrize(
    "spki",
    [
        make.rsa_spki(1024),
        make.spki(forge.ec.derive_private_key(7, forge.ec.SECP521R1())),
        make.rsa_spki().replace(b"\2\3\1\0\1", b"\2\3\1\0\3"),
    ],
    ids=["rsa-1024", "p-521", "exponent"],
)
def test_a_key_that_fits_no_template_has_no_public_area(spki) -> None:
    assert reconstruct_ek(decode_certificate(make.ek(key=spki))) == ()


def test_a_modulus_or_exponent_that_costs_seconds_is_refused() -> None:
    wide = make.seq(make.integer(make.rsa_modulus(2048)), make.integer(2**65 + 1))
    for spki in (
        make.rsa_spki(16384),
        make.seq(make.seq(make.oid("1.2.840.113549.1.1.1"), b"\5\0"), make.bit_string(wide)),
    ):
        with pytest.raises(EvidenceError, match="too long"):
            reconstruct_ek(decode_certificate(make.ek(key=spki)))


def test_a_box_does_not_buy_time_with_many_intermediates() -> None:
    same = make.common("Loop")
    loops = [
        make.certificate(
            issuer=same,
            subject=same,
            key=make.spki(forge.private_key(f"loop {n}")),
            signer=f"loop {n + 1}",
            extensions=(make.basic(ca=True), make.extension("2.25.1", bytes([n]))),
        )
        for n in range(60)
    ]
    leaf = make.ek(issuer=same, signer="loop 0")
    before = der._is_signed_by.cache_info().misses
    trust = check_ek_certificate(
        (leaf, *loops), Anchors(certificates=()), forge.Box().ek, forge.NOW, rehearsal=False
    )
    assert {each.reason for each in trust.findings} == {Reason.EK_UNKNOWN}
    assert der._is_signed_by.cache_info().misses - before <= 17 * 16
    assert len(join([leaf, *loops])[0]) == MAX_PARTS


def test_both_caches_are_bounded() -> None:
    for cached in (der._decode, der._is_signed_by):
        assert cached.cache_info().maxsize <= 4096


def test_a_signature_is_looked_at_for_each_key() -> None:
    leaf = decode_certificate(make.ek())
    assert is_signed_by(leaf, decode_certificate(make.ca()))
    assert not is_signed_by(leaf, decode_certificate(make.ca(key="liar")))


@given(st.binary(max_size=400), st.integers(0, 400))
def test_nv_contents_are_certificates_or_our_error(noise: bytes, place: int) -> None:
    data = make.ek()
    for stored in (noise, data[:place] + noise, noise + data, data + noise):
        found, rest = split(stored)
        assert all(part in stored for part in (*found, rest))
        decoded, broken = join([stored])
        assert decoded or broken
        for part in (stored, *found):
            try:
                assert decode_certificate(part).der in part
            except EvidenceError:
                continue


@given(st.data())
def test_a_changed_certificate_never_passes(data) -> None:
    changed = bytearray(make_ek_vectors.LEAF)
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    known = decode_anchors([("root", make_ek_vectors.ROOT)], rehearsal=False)
    trust = check_ek_certificate(
        (bytes(changed),), known, forge.Box().ek, forge.NOW, rehearsal=False
    )
    assert any(each.reason.gates for each in trust.findings)


def test_pkcs7_and_bundles_are_read(tmp_path: Path) -> None:
    root, middle = make.ca(), make.between()
    content = make.seq(
        make.integer(1),
        make.tlv(0x31),
        make.seq(make.oid("1.2.840.113549.1.7.1")),
        make.tlv(0xA0, root, middle),
        make.tlv(0xA1, make.crl(b"\1")),
        make.tlv(0x31),
    )
    signed = make.seq(make.oid("1.2.840.113549.1.7.2"), make.tlv(0xA0, content))
    for data in (
        signed,
        root + middle + make.crl(b"\1"),
        root + middle + make.crl(b"\1") + b"\xff" * 9,
    ):
        found = decode_anchors([("bundle", data)], rehearsal=False)
        assert [each.title for each in found.certificates] == [
            "Maker TPM Root CA",
            "Maker TPM CA 1",
        ]
        assert [each.revoked for each in found.crls] == [frozenset({1})]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cut short"),
        (b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----", "damaged base64"),
        (b"-----BEGIN CERTIFICATE-----\n", "no certificate"),
        (make.seq(make.oid("1.2.840.113549.1.7.2")), "no certificate"),
        (make.seq(make.oid("1.2.840.113549.1.7.2"), make.tlv(0xA0, b"\x30\x05")), "cut short"),
    ],
)
def test_a_file_of_no_use_is_named(data: bytes, told: str) -> None:
    with pytest.raises(AttestSiteError, match=f"maker.pem: .*{told}"):
        decode_anchors([("maker.pem", data)], rehearsal=False)


def test_numbers_of_certificates_in_a_file_are_bounded() -> None:
    block = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    pem = block % base64.b64encode(make.ca())
    assert len(decode_anchors([("two", pem * 2)], rehearsal=False).certificates) == 1
    with pytest.raises(AttestSiteError, match="too many"):
        decode_anchors([("many", pem * (MAX_BLOCKS + 1))], rehearsal=False)
    with pytest.raises(AttestSiteError, match="too many"):
        decode_anchors([("der", make.ca() * (MAX_BLOCKS + 1))], rehearsal=False)


def test_a_maker_of_machines_that_may_not_sign_is_no_anchor() -> None:
    for may_sign, use in ((True, make.key_usage(0)), (False, make.key_usage(4)), (False, b"")):
        files = [("machines.pem", make.ek(use=use))]
        if may_sign:
            assert decode_anchors(files, rehearsal=False, platform=True).certificates
            continue
        with pytest.raises(AttestSiteError, match="machines.pem: .* is not a CA"):
            decode_anchors(files, rehearsal=False, platform=True)


def test_an_anchor_as_it_lies_in_nv_is_read() -> None:
    stored = b"\x10\1\0\3\xb5\x10\2" + make.ca() + b"\xff" * 9
    (found,) = decode_anchors([("stored", stored)], rehearsal=False).certificates
    assert found.der == make.ca()
    with pytest.raises(AttestSiteError, match="cut short"):
        decode_anchors([("cut", make.ca() + make.between()[:-1])], rehearsal=False)


@given(st.binary(max_size=300))
def test_any_anchor_file_is_anchors_or_our_error(data: bytes) -> None:
    for file in (data, make.ca() + data, b"\x30\x82\1\0" + data):
        try:
            decode_anchors([("file", file)], rehearsal=False)
        except AttestSiteError as error:
            assert str(error).startswith("file: ")


def test_an_ek_without_asymmetric_key_holds_nothing() -> None:
    box = forge.Box()
    other = replace(box, label="box B")
    trust = check_ek_certificate(
        (make.ek(),), Anchors(certificates=()), other.ek, forge.NOW, rehearsal=False
    )
    assert [each.reason for each in trust.findings] == [Reason.EK_CERT_MISMATCH]


@pytest.mark.parametrize(("issuer", "virtual"), [("swtpm-localca", True), ("Maker CA 9", False)])
def test_a_name_of_an_unknown_issuer_tells_a_tpm_in_software(issuer: str, virtual: bool) -> None:
    """No path leads to the issuer, and the certificate itself names a real maker and model."""
    leaf = make.ek(issuer=make.common(issuer), signer="somebody")
    none = Anchors(certificates=())
    trust = check_ek_certificate((leaf,), none, forge.Box().ek, forge.NOW, rehearsal=False)
    found = {each.reason for each in trust.findings}
    assert Reason.EK_UNKNOWN in found
    assert (Reason.EK_VIRTUAL in found) is virtual
