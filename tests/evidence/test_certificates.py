"""EK certificates and CAs of real makers (make test-evidence)."""

import base64
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from attest.chain import find_path
from attest.der import Certificate, decode_certificate, is_signed_by, public_key
from attest.ekcert import EK_USAGE, Anchors, check_ek_certificate, decode_anchors
from attest.ektemplate import TEMPLATES, reconstruct_ek
from attest.errors import AttestSiteError
from attest.io.trust import Kind, Outcome, import_trust, list_trust, load_trust
from attest.reasons import Reason
from keys.tpm_public import EccPublic, PublicArea, RsaPublic

NOW = 1_795_000_000.0
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def pems(path: Path) -> list[Certificate]:
    return [decode_certificate(base64.b64decode(block)) for block in PEM.findall(path.read_bytes())]


def area_of(certificate: Certificate) -> PublicArea:
    """Give the low-range EK that a certificate is for."""
    numbers = public_key(certificate).public_numbers()
    ecc, rsa = TEMPLATES[0].public, TEMPLATES[1].public
    if hasattr(numbers, "n"):
        assert isinstance(rsa.key, RsaPublic)
        return replace(rsa, key=replace(rsa.key, modulus=numbers.n.to_bytes(256, "big")))
    assert isinstance(ecc.key, EccPublic)
    x, y = (value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
    return replace(ecc, key=replace(ecc.key, x=x, y=y))


def stored(path: Path) -> bytes:
    data = path.read_bytes()
    found = PEM.findall(data)
    return base64.b64decode(found[0]) if found else data


def test_all_known_roots_are_anchors(evidence: Path) -> None:
    path = evidence / "roots" / "tpm-roots.pem"
    anchors = decode_anchors([(path.name, path.read_bytes())], rehearsal=False)
    assert len(anchors.certificates) == 26
    for root in anchors.certificates:
        if root.subject == root.issuer:
            assert is_signed_by(root, root), root.title


def test_every_intermediate_leads_to_a_root(evidence: Path) -> None:
    roots = pems(evidence / "roots" / "tpm-roots.pem")
    between = pems(evidence / "roots" / "tpm-intermediates.pem")
    assert len(between) == 143
    for certificate in between:
        path = find_path(certificate, (), [*roots, *between], EK_USAGE, NOW)
        assert path is not None, certificate.title
        assert path[-1] in roots, certificate.title
        assert all(is_signed_by(one, other) for one, other in pairwise(path)), certificate.title
    lengths = Counter(len(find_path(each, between, roots, EK_USAGE, NOW) or ()) for each in between)
    assert sum(lengths.values()) == 143
    assert max(lengths) <= 5


def test_no_intermediate_leads_to_the_roots_of_others(evidence: Path) -> None:
    roots = pems(evidence / "roots" / "tpm-roots.pem")
    between = pems(evidence / "roots" / "tpm-intermediates.pem")
    for certificate in between:
        path = find_path(certificate, (), [*roots, *between], EK_USAGE, NOW)
        assert path is not None
        own = {each.subject for each in path}
        others = [root for root in roots if root.subject not in own]
        away = find_path(certificate, (), [*others, *between], EK_USAGE, NOW)
        assert away is None or away[-1] in between, certificate.title


def test_intermediates_are_anchors_too(evidence: Path) -> None:
    path = evidence / "roots" / "tpm-intermediates.pem"
    found = decode_anchors([(path.name, path.read_bytes())], rehearsal=False)
    assert len(found.certificates) == 143


def test_the_whole_bundle_is_imported_and_listed_again(evidence: Path, tmp_path: Path) -> None:
    files = [(path.name, path.read_bytes()) for path in (evidence / "roots").glob("*.pem")]
    answers = import_trust(tmp_path, files, source="the evidence", now=NOW)
    assert len(answers) == 169
    assert {answer.outcome for answer in answers} == {Outcome.STORED}
    # Microsoft's root of AMD's Pluton CA is not in the bundle.
    alone = [answer.title for answer in answers if answer.told]
    assert alone == ["AMD Pluton Global Factory ICA"]
    listed = list_trust(tmp_path)
    assert len(listed) == 169
    assert {entry.source for entry in listed} == {"the evidence"}
    assert sum(entry.kind is Kind.ROOT for entry in listed) == 23
    loaded = load_trust(tmp_path, rehearsal=False)
    assert len(loaded.certificates) == 169
    again = import_trust(tmp_path, files, source="again", now=NOW)
    assert {answer.outcome for answer in again} == {Outcome.KNOWN}


def cloud(evidence: Path) -> Anchors:
    names = ("tpm_ek_root_1.cer", "tpm_ek_intermediate_2.crt", "tpm_ek_intermediate_3.crt")
    files = [(name, stored(evidence / "certificates" / name)) for name in names]
    return decode_anchors(files, rehearsal=True)


@pytest.mark.parametrize("name", ["uca_tpm_rsa_enc_cert.pem", "uca_tpm_ecc_enc_cert.pem"])
def test_cloud_eks_hold_but_are_virtual(evidence: Path, name: str) -> None:
    data = stored(evidence / "certificates" / name)
    ek = area_of(decode_certificate(data))
    trust = check_ek_certificate((data,), cloud(evidence), ek, NOW, rehearsal=True)
    assert trust.findings == ()
    assert (trust.maker, trust.model) == ("id:474F4F47", "vTPM")
    real = check_ek_certificate((data,), cloud(evidence), ek, NOW, rehearsal=False)
    assert {each.reason for each in real.findings} == {Reason.EK_VIRTUAL}


def test_a_certificate_of_an_ak_is_not_one_of_an_ek(evidence: Path) -> None:
    data = stored(evidence / "certificates" / "uca_tpm_ecc_sign_cert.pem")
    ek = area_of(decode_certificate(data))
    trust = check_ek_certificate((data,), cloud(evidence), ek, NOW, rehearsal=True)
    assert {each.reason for each in trust.findings} == {Reason.EK_CERT_INVALID}


@pytest.mark.parametrize(
    "name", ["tpm_ek_root_1.cer", "gcp_ek_ak_ca_root.crt", "uca_tpm_rsa_enc_cert.pem"]
)
def test_cloud_certificates_are_no_anchors_of_a_site(evidence: Path, name: str) -> None:
    with pytest.raises(AttestSiteError, match=name):
        decode_anchors([(name, stored(evidence / "certificates" / name))], rehearsal=False)


@pytest.mark.parametrize("name", ["uca_tpm_rsa_enc_cert.pem", "uca_tpm_ecc_enc_cert.pem"])
def test_the_public_area_of_a_cloud_ek_is_found(evidence: Path, name: str) -> None:
    certificate = decode_certificate(stored(evidence / "certificates" / name))
    assert area_of(certificate) in reconstruct_ek(certificate)


def test_cloud_eks_without_extended_key_usage_are_borne_and_told(evidence: Path) -> None:
    data = stored(evidence / "certificates" / "uca_tpm_rsa_enc_cert.pem")
    ek = area_of(decode_certificate(data))
    trust = check_ek_certificate((data,), cloud(evidence), ek, NOW, rehearsal=True)
    usage = decode_certificate(data).extensions.get("2.5.29.37")
    assert ("no extended key usage" in " ".join(trust.workarounds)) is (usage is None)


def test_a_chain_goes_up_to_the_root_of_the_cloud(evidence: Path) -> None:
    data = stored(evidence / "certificates" / "uca_tpm_ecc_enc_cert.pem")
    ek = area_of(decode_certificate(data))
    trust = check_ek_certificate((data,), cloud(evidence), ek, NOW, rehearsal=True)
    assert [title.startswith("tpm_ek_v1_cloud_host") for title in trust.chain] == [
        False,
        True,
        True,
    ]
    assert trust.unrevoked == "no list"
