"""RSA certificates and malformed ones: what the tolerant reader takes and what it does not."""

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

from attest import asn1, x509keys
from attest.der import decode_certificate, is_signed_by, public_key, weak_signature
from attest.errors import EvidenceError
from attest.usage import general_names

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


# --- elements


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\x81" * 64 + b"\1", "too long"),
        (b"\x55\x9d", "cut short"),
    ],
)
def test_object_identifiers_are_bounded(content: bytes, told: str) -> None:
    with pytest.raises(EvidenceError, match=told):
        asn1.oid_text(content)


def test_object_identifiers_are_written_with_dots() -> None:
    assert asn1.oid_text(bytes.fromhex("5504 03")) == "2.5.4.3"
    assert asn1.oid_text(bytes.fromhex("2a8648ce3d0301 07")) == "1.2.840.10045.3.1.7"
    assert asn1.oid_text(b"\x09\x01") == "0.9.1"
    assert asn1.oid_text(b"\x81" * 63 + b"\1").startswith("2.")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("491231235959Z", make.at(2050, 1, 1) - 1),
        ("500101000000Z", make.at(1950, 1, 1)),
        ("2001010000Z", make.at(2020, 1, 1)),
        ("200101000000+0130", make.at(2020, 1, 1) - 5400),
        ("200101000000-0130", make.at(2020, 1, 1) + 5400),
        ("99991231235959Z", 253402300799),
        ("99991231235959-0100", 253402300799 + 3600),
        ("20200101000000.123Z", make.at(2020, 1, 1)),
        ("20200101000000Z", make.at(2020, 1, 1)),
    ],
)
def test_dates_are_read(text: str, seconds: int) -> None:
    assert asn1.time(asn1.read(make.time(text))) == seconds


@pytest.mark.parametrize(
    "text", ["", "Z", "20200101000000", "20201301000000Z", "2020010100000\u00b2Z", "1" * 60]
)
def test_other_texts_are_no_dates(text: str) -> None:
    with pytest.raises(EvidenceError, match="date"):
        asn1.time(asn1.read(make.tlv(0x18, text.encode())))


def test_names_are_compared_by_their_text() -> None:
    one = make.name(("2.5.4.3", "Maker  CA"), tag=0x0C)
    other = make.name(("2.5.4.3", "Maker CA "), tag=0x13)
    wide = make.seq(
        make.tlv(
            0x31, make.seq(make.oid("2.5.4.3"), make.tlv(0x1E, "Maker CA".encode("utf-16-be")))
        )
    )
    names = {asn1.directory_name(asn1.read(data).content) for data in (one, other, wide)}
    assert names == {(("2.5.4.3", "Maker CA"),)}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x30", "cut short"),
        (b"\x1f\x01\x00", "tag it cannot have"),
        (b"\x30\x80", "length that cannot be"),
        (b"\x30\x85\0\0\0\0\1", "length that cannot be"),
        (b"\x30\x82\1", "length that cannot be"),
        (b"\x30\2\0", "cut short"),
    ],
)
def test_elements_that_are_none_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(EvidenceError, match=told):
        asn1.read(data)


def test_parts_are_counted() -> None:
    assert len(list(asn1.children(b"\5\0" * 4096))) == 4096
    with pytest.raises(EvidenceError, match="too many parts"):
        list(asn1.children(b"\5\0" * 4097))
    with pytest.raises(EvidenceError, match="cut short"):
        list(asn1.children(b"\5\0\4\2\0"))


@pytest.mark.parametrize("element", [b"\2\0", b"\4\1\1", make.tlv(2, bytes(65))])
def test_serial_numbers_are_numbers_of_bounded_size(element: bytes) -> None:
    with pytest.raises(EvidenceError, match="serial number"):
        asn1.serial_number(asn1.read(element))


def test_bits_that_are_not_whole_bytes_are_refused() -> None:
    assert asn1.bits(asn1.read(b"\3\2\0\1")) == b"\1"
    for data in (b"\3\2\1\1", b"\4\2\0\1", b"\3\0"):
        with pytest.raises(EvidenceError, match="whole bytes"):
            asn1.bits(asn1.read(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_element_or_our_error(data: bytes) -> None:
    for decode in (
        asn1.oid_text,
        asn1.directory_name,
        lambda content: list(asn1.children(content)),
        lambda content: asn1.time(asn1.read(content)),
        lambda content: asn1.time(asn1.read(make.tlv(0x17, content))),
        lambda content: asn1.serial_number(asn1.read(content)),
        lambda content: x509keys.decode_spki(content),
        lambda content: x509keys.signature_hash("1.2.840.113549.1.1.10", content),
        general_names,
    ):
        try:
            decode(data)
        except EvidenceError:
            continue


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6))
def test_object_identifiers_survive(numbers: list[int]) -> None:
    text = ".".join(str(number) for number in (1, 3, *numbers))
    assert asn1.oid_text(asn1.read(make.oid(text)).content) == text


def test_signatures_of_an_unknown_kind_verify_nothing() -> None:
    known = ROOT_KEY.public_key()
    assert x509keys.signature_hash("1.2.840.113549.1.1.4", b"") is None
    assert not x509keys.verifies(known, "1.2.840.113549.1.1.4", b"", b"x", b"y")
    for parameters in (b"", make.seq(make.tlv(0xA0, make.seq(make.oid("2.25.1")))), b"\x30\5"):
        assert not x509keys.verifies(known, "1.2.840.113549.1.1.10", parameters, b"x", b"y")


def test_pss_with_sha1_is_weak() -> None:
    pss = "1.2.840.113549.1.1.10"
    assert isinstance(x509keys.signature_hash(pss, b""), hashes.SHA1)
    inner = make.seq(make.tlv(0xA0, make.seq(make.oid("2.16.840.1.101.3.4.2.1"))))
    assert isinstance(x509keys.signature_hash(pss, inner), hashes.SHA256)
    assert x509keys.signature_hash(pss, b"\x30\5") is None
