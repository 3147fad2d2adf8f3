"""Revocation lists: a second opinion, hostile input, and lists of a hundred thousand entries."""

from datetime import UTC, datetime

import ek_forge as make
import forge
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attest.crl import (
    MAX_CRL,
    MAX_ENTRIES,
    Crl,
    check_revocation,
    decode_crl,
    is_crl,
    is_crl_signed_by,
    is_list_of,
)
from attest.der import decode_certificate
from attest.errors import EvidenceError

ROOT = decode_certificate(make.ca())
LEAF = decode_certificate(make.ek())


def theirs(*serials: int, key=None, scheme=None) -> bytes:
    """Make a list with another implementation."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker TPM Root CA")]))
        .last_update(datetime(2026, 10, 1, tzinfo=UTC))
        .next_update(datetime(2027, 1, 1, tzinfo=UTC))
        .add_extension(x509.CRLNumber(9), critical=False)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        entry = entry.revocation_date(datetime(2026, 9, 1, tzinfo=UTC))
        reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
        builder = builder.add_revoked_certificate(entry.add_extension(reason, False).build())
    key = key or forge.private_key("maker root")
    signed = builder.sign(key, hashes.SHA256(), rsa_padding=scheme)
    return signed.public_bytes(serialization.Encoding.DER)


def test_lists_of_another_implementation_are_read() -> None:
    found = decode_crl(theirs(1, 0x1267, 2**159 - 1))
    assert found.revoked == {1, 0x1267, 2**159 - 1}
    assert found.number == 9
    assert found.title == "Maker TPM Root CA"
    assert (found.this_update, found.next_update) == (make.at(2026, 10, 1), make.at(2027, 1, 1))
    assert is_list_of(found, ROOT)
    assert len(found.fingerprint) == 32


def test_lists_signed_with_rsa_verify() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(make.DER, make.SPKI)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    for scheme in (None, pss):
        assert is_crl_signed_by(decode_crl(theirs(1, key=key, scheme=scheme)), public)
        assert not is_crl_signed_by(decode_crl(theirs(1)), public)


def test_ours_are_read_by_another_implementation() -> None:
    found = x509.load_der_x509_crl(make.crl(b"\1", b"\x12\x67"))
    assert {entry.serial_number for entry in found} == {1, 0x1267}
    assert found.is_signature_valid(forge.private_key("maker root").public_key())


def test_a_list_has_a_title_whatever_its_issuer_is_called() -> None:
    maker = decode_crl(make.crl(name_of_issuer=make.name(("2.5.4.6", "TW"), ("2.5.4.10", "Maker"))))
    assert maker.title == "TW, Maker"
    both = make.name(("2.5.4.10", "Maker"), (make.COMMON_NAME, "Maker TPM CA 1"))
    assert decode_crl(make.crl(name_of_issuer=both)).title == "Maker TPM CA 1"
    nameless = decode_crl(make.crl(name_of_issuer=make.seq()))
    assert nameless.title == nameless.fingerprint.hex()[:16]


def test_a_changed_list_is_not_of_its_ca() -> None:
    data = bytearray(make.crl(b"\1"))
    data[data.index(b"\2\1\1\x17") + 2] ^= 1
    assert not is_list_of(decode_crl(bytes(data)), ROOT)
    assert not is_list_of(decode_crl(make.crl()), decode_certificate(make.ca("Other")))
    assert not is_crl_signed_by(decode_crl(make.crl()), b"\x30\0")


def test_a_list_is_told_from_a_certificate() -> None:
    assert is_crl(make.crl())
    assert is_crl(theirs(1))

    assert not is_crl(make.ca())
    assert not is_crl(make.crl()[:3])
    assert not is_crl(b"")
    assert is_crl(make.crl(version=b""))
    assert not is_crl(make.ek(version=b""))
    assert not is_crl(make.seq(make.seq(make.seq(), make.seq())))
    assert not is_crl(make.seq(make.seq(b"\5\0", make.seq(), make.time("260101000000Z"))))


def test_a_hundred_thousand_entries_are_read() -> None:
    serials = [number.to_bytes(16, "big") for number in range(1, 100_001)]
    data = make.crl(*serials)
    assert len(data) > 3 << 20
    found = decode_crl(data)
    assert len(found.revoked) == 100_000
    assert is_list_of(found, ROOT)
    told = check_revocation((LEAF, ROOT), [found], forge.NOW)
    assert told.findings[0].reason.code == "EK-CERT-REVOKED"


def test_sizes_are_bounded() -> None:
    with pytest.raises(EvidenceError, match="too long"):
        decode_crl(bytes(MAX_CRL + 1))
    with pytest.raises(EvidenceError, match="too long"):
        decode_crl(make.crl(bytes(65)))
    with pytest.raises(EvidenceError, match="too long"):
        decode_crl(make.crl(*[b"\1"] * (MAX_ENTRIES + 1)))
    assert len(decode_crl(make.crl(b"\1", b"\2", b"\3")).revoked) == 3


def parts(data: bytes) -> bytes:
    return make.seq(data, make.seq(make.oid("1.2.840.10045.4.3.2")), make.bit_string(b"x"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make.seq(), "not the shape"),
        (b"\x31" + make.crl()[1:], "not the shape"),
        (parts(make.seq()), "not the shape"),
        (parts(make.seq(make.integer(1))), "not the shape"),
        (make.crl(b""), "an entry that is none"),
        (make.crl(b"\1").replace(b"\2\1\1\x17", b"\4\1\1\x17"), "an entry that is none"),
        (
            make.crl(b"\1").replace(b"\x30\x12\2\1\1\x17", b"\x31\x12\2\1\1\x17"),
            "an entry that is none",
        ),
        (make.crl(this_update="261301000000Z"), "date that is none"),
        (make.crl(extensions=[make.extension("2.5.29.20", b"\4\1\1")]), "serial number"),
    ],
)
def test_malformed_lists_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(EvidenceError, match=told):
        decode_crl(data)


def test_an_entry_that_is_longer_than_the_list_is_refused() -> None:
    data = make.crl(b"\1")
    at = data.index(b"\2\1\1\x17") - 1
    with pytest.raises(EvidenceError):
        decode_crl(data[:at] + bytes([data[at] + 9]) + data[at + 1 :])


def test_a_path_of_one_has_nothing_to_be_revoked() -> None:
    told = check_revocation((ROOT,), [], forge.NOW)
    assert (told.findings, told.told, told.unrevoked) == ((), (), "no list")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_our_error(noise: bytes) -> None:
    data = make.crl(b"\1", b"\2")
    for attempt in (noise, data[: len(noise)] + noise, data + noise):
        try:
            assert isinstance(decode_crl(attempt), Crl)
        except EvidenceError:
            continue


@given(st.data())
def test_a_changed_list_is_ours_no_more(data) -> None:
    changed = bytearray(make.crl(b"\1", b"\x12\x67"))
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode_crl(bytes(changed))
    except EvidenceError:
        return
    assert not is_list_of(found, ROOT)
