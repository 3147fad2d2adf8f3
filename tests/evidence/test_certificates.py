"""EK certificates and CAs of real makers (make test-evidence)."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from attest.der import Certificate, decode_certificate, is_signed_by, public_key
from attest.ekcert import Anchors, check_ek_certificate, decode_anchors
from attest.ektemplate import TEMPLATES
from attest.errors import AttestSiteError
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


def test_every_intermediate_is_signed_by_one_that_is_known(evidence: Path) -> None:
    roots = pems(evidence / "roots" / "tpm-roots.pem")
    between = pems(evidence / "roots" / "tpm-intermediates.pem")
    assert len(between) == 143
    for certificate in between:
        issuers = [each for each in roots + between if each.subject == certificate.issuer]
        assert any(is_signed_by(certificate, issuer) for issuer in issuers), certificate.title


def test_intermediates_are_anchors_too(evidence: Path) -> None:
    path = evidence / "roots" / "tpm-intermediates.pem"
    assert len(decode_anchors([(path.name, path.read_bytes())], rehearsal=False).certificates) > 100


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
