"""RSA certificates and malformed ones: what the tolerant reader takes and what it does not."""

from datetime import UTC, datetime

import forge
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from attest.der import decode_certificate, is_signed_by, public_key, weak_signature
from attest.errors import EvidenceError

LEAF = forge.ek_certificate(forge.Box().ek)
ROOT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


def certificate(key: rsa.RSAPrivateKey, scheme=None, algorithm=None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RSA root")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 1, 1, tzinfo=UTC))
    )
    signed = builder.sign(key, algorithm or hashes.SHA256(), rsa_padding=scheme)
    return signed.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("scheme", "algorithm"), [(None, hashes.SHA256()), (PSS, hashes.SHA384())], ids=["v15", "pss"]
)
def test_rsa_signatures_verify(scheme, algorithm):
    data = certificate(ROOT_KEY, scheme, algorithm)
    decoded = decode_certificate(data)
    assert is_signed_by(decoded, decoded)
    assert not weak_signature(decoded)
    assert not is_signed_by(decode_certificate(data[:-1] + bytes([data[-1] ^ 1])), decoded)


def test_keys_of_rsaes_oaep_are_read():
    data = certificate(ROOT_KEY)
    at = data.rindex(bytes.fromhex("2a864886f70d010101"))
    oaep = decode_certificate(data[: at + 8] + b"\x07" + data[at + 9 :])
    assert public_key(oaep).public_numbers() == ROOT_KEY.public_key().public_numbers()


def test_a_short_rsa_key_vouches_for_nothing():
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    decoded = decode_certificate(certificate(short))
    assert not is_signed_by(decoded, decoded)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0603551d0f", "0603551d25", "twice"),
        ("170d323030313031", "160d323030313031", "date of an unknown kind"),
        ("170d323030313031", "170d323039393031", "date that is none"),
    ],
)
def test_malformed_certificates_are_refused(old, new, told):
    with pytest.raises(EvidenceError, match=told):
        decode_certificate(LEAF.replace(bytes.fromhex(old), bytes.fromhex(new)))


def test_two_signature_algorithms_are_refused():
    oid = bytes.fromhex("2a8648ce3d040302")
    at = LEAF.rindex(oid)
    with pytest.raises(EvidenceError, match="two signature algorithms"):
        decode_certificate(LEAF[: at + 7] + b"\x03" + LEAF[at + 8 :])
