"""Decoders of TPM structures and certificates: any bytes give a value or our own error."""

import hashlib
from dataclasses import replace

import forge
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm2_pytss.types import TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE

from attest.ak import check_ak
from attest.der import cut, decode_certificate, is_signed_by, oid_text, public_key, read
from attest.ekcert import check_ek_certificate, decode_anchors
from attest.ektemplate import TEMPLATES, check_ek_template
from attest.errors import AttestError, AttestSiteError, CheckError, EvidenceError
from attest.quote import BOOT_PCRS, VerifiedQuote, check_quote
from attest.reasons import Reason
from attest.wire import (
    Attest,
    BankSelection,
    CertifyInfo,
    ClockInfo,
    EcdsaSignature,
    QuoteInfo,
    RsaSignature,
    decode_attest,
    decode_signature,
    encode_signature,
)
from keys.errors import PeerError
from keys.tpm_public import (
    Attributes,
    PublicArea,
    Reader,
    RsaPublic,
    Scheme,
    sealed_object,
    sealed_sensitive,
)

FEW = settings(max_examples=60, deadline=None)
BANKS = {"sha1": 20, "sha256": 32, "sha384": 48}
BOX = forge.Box()
ROOT = forge.root_certificate()
LEAF = forge.ek_certificate(BOX.ek)
VALUES = {"sha256": {index: hashlib.sha256(bytes([index])).digest() for index in BOOT_PCRS}}
QUOTED = BOX.attest(forge.quote_info(VALUES), b"nonce")

clocks = st.builds(
    ClockInfo,
    clock=st.integers(0, 2**64 - 1),
    reset_count=st.integers(0, 2**32 - 1),
    restart_count=st.integers(0, 2**32 - 1),
    safe=st.booleans(),
)
selections = st.lists(
    st.builds(
        BankSelection,
        bank=st.sampled_from(sorted(BANKS)),
        indices=st.sets(st.integers(0, 23)).map(lambda found: tuple(sorted(found))),
    ),
    max_size=3,
    unique_by=lambda chosen: chosen.bank,
).map(tuple)
attested = st.one_of(
    st.builds(QuoteInfo, selection=selections, digest=st.binary(max_size=64)),
    st.builds(CertifyInfo, name=st.binary(max_size=66), qualified_name=st.binary(max_size=66)),
)
attests = st.builds(
    Attest,
    qualified_signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=66),
    clock=clocks,
    firmware_version=st.integers(0, 2**64 - 1),
    attested=attested,
)
signatures = st.one_of(
    st.builds(
        EcdsaSignature,
        hash_name=st.sampled_from(sorted(BANKS)),
        r=st.binary(max_size=66),
        s=st.binary(max_size=66),
    ),
    st.builds(
        RsaSignature,
        hash_name=st.sampled_from(sorted(BANKS)),
        pss=st.booleans(),
        signature=st.binary(max_size=512),
    ),
)


@FEW
@given(attests)
def test_an_attestation_survives_its_encoding(attest):
    data = attest.encode()
    assert decode_attest(data) == attest
    theirs, rest = TPMS_ATTEST.unmarshal(data)
    assert rest in (b"", len(data))
    assert theirs.marshal() == data


@FEW
@given(signatures)
def test_a_signature_survives_its_encoding(signature):
    assert decode_signature(encode_signature(signature)) == signature


def test_our_signatures_are_what_the_second_implementation_reads():
    data = encode_signature(forge.sign(forge.private_key("x"), b"data"))
    theirs, _ = TPMT_SIGNATURE.unmarshal(data)
    assert theirs.marshal() == data


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_our_error(data):
    for decode in (decode_attest, decode_signature, decode_certificate):
        with pytest.raises(EvidenceError):
            decode(data)
    with pytest.raises(PeerError):
        PublicArea.decode(data)


@FEW
@given(st.data())
def test_changed_structures_give_a_value_or_our_error(data):
    sources = ((QUOTED.encode(), decode_attest), (LEAF, decode_certificate))
    for source, decode in (*sources, (BOX.ek.encode(), PublicArea.decode)):
        changed = bytearray(source)
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
        try:
            decode(bytes(changed))
        except (AttestError, PeerError):
            continue


@FEW
@given(st.data())
def test_what_is_read_as_a_public_area_has_no_second_encoding(data):
    """A name is made over the bytes that came; an area made anew has none but its fields."""
    source = data.draw(st.sampled_from([known.public for known in TEMPLATES] + [BOX.ek, BOX.ak]))
    changed = bytearray(source.encode())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    try:
        area = PublicArea.decode(bytes(changed))
    except PeerError:
        return
    again = replace(area)
    assert again.encode() == area.encode() == changed
    assert again.name() == area.name()


@FEW
@given(st.data())
def test_changed_certificates_never_break_the_check(data):
    changed = bytearray(LEAF)
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    anchors = decode_anchors([("root", ROOT)], rehearsal=False)
    trust = check_ek_certificate((bytes(changed),), anchors, BOX.ek, forge.NOW, rehearsal=False)
    assert trust.findings


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda known: known.name)
def test_public_areas_survive_and_the_second_implementation_agrees(template):
    data = template.public.encode()
    assert PublicArea.decode(data) == template.public
    theirs, _ = TPMT_PUBLIC.unmarshal(data)
    assert theirs.marshal() == data
    assert bytes(theirs.get_name()) == template.public.name()
    for end in (data + b"\0", data[:-1]):
        with pytest.raises(PeerError):
            PublicArea.decode(end)


def test_policies_of_the_templates_are_those_of_the_profile():
    low, high = TEMPLATES[0].public, TEMPLATES[4].public
    assert low.auth_policy.hex().startswith("837197674484b3f81a90cc8d46a5d724")
    assert high.auth_policy.hex().startswith("b26e7d28d11a50bc53d882bcf5fd3a1a")


def test_sealed_objects_are_what_the_protocol_says():
    public = sealed_object(policy=bytes(32), unique=bytes(32))
    assert public.attributes == Attributes.NO_DA
    assert PublicArea.decode(public.encode()) == public
    with pytest.raises(PeerError, match="no public key"):
        public.public_key()
    assert sealed_sensitive(b"seed", b"data") == b"\0\x08\0\0\0\x04seed\0\x04data"


@pytest.mark.parametrize(
    ("offset", "value", "told"),
    [
        (0, b"\0\x25", "type"),
        (2, b"\0\x12", "hash"),
        (8, b"\0\x01\0", "policy"),
    ],
)
def test_public_areas_with_unknown_parts_are_refused(offset, value, told):
    data = bytearray(TEMPLATES[0].public.encode())
    data[offset : offset + len(value)] = value
    with pytest.raises(PeerError, match=told):
        PublicArea.decode(bytes(data))


def test_points_off_the_curve_and_short_moduli_are_no_keys():
    for template in TEMPLATES[:2]:
        with pytest.raises(PeerError):
            template.public.public_key()
        with pytest.raises(PeerError):
            check_ek_template(template.public)


def test_a_reader_bounds_its_fields():
    with pytest.raises(PeerError, match="too long"):
        Reader(b"\0\x05hello").sized(4)


def test_only_the_check_makes_a_verified_quote():
    signed = BOX.sign(QUOTED)
    arguments = {
        "attest": signed.attest,
        "signature": signed.signature,
        "ak": BOX.ak,
        "extra_data": b"nonce",
        "values": VALUES,
    }
    asked = {"sha256": BOOT_PCRS}
    verified = check_quote(**arguments, selection=asked)
    assert verified.values == VALUES
    with pytest.raises(CheckError) as refused:
        check_quote(**arguments, selection={"sha256": frozenset({1})})
    assert refused.value.reason is Reason.QUOTE_SELECTION
    with pytest.raises(TypeError):
        VerifiedQuote(
            qualified_signer=b"",
            extra_data=b"nonce",
            clock=verified.clock,
            firmware_version=0,
            values=VALUES,
            maker=None,
        )


@pytest.mark.parametrize(("width", "indices"), [(0, ()), (4, (0, 1))])
def test_selections_of_other_widths_are_refused(width, indices):
    chosen = BankSelection(bank="sha256", indices=indices, width=width)
    quoted = replace(QUOTED, attested=QuoteInfo(selection=(chosen,), digest=bytes(32)))
    with pytest.raises(EvidenceError, match="PCR selection"):
        decode_attest(quoted.encode())


@pytest.mark.parametrize("kind", [b"\x80\x14", b"\x80\x19", b"\x80\x1a", b"\x80\x1c"])
def test_other_attestations_are_refused(kind):
    certified = replace(QUOTED, attested=CertifyInfo(name=b"n", qualified_name=b"q")).encode()
    with pytest.raises(EvidenceError, match="attestation type"):
        decode_attest(certified[:4] + kind + certified[6:])


def test_certificates_are_cut_and_split_as_makers_write_them():
    assert cut(LEAF + b"\x11" * 20) == LEAF
    certificate, root = decode_certificate(LEAF), decode_certificate(ROOT)
    assert certificate.not_after == 253402300799
    assert is_signed_by(certificate, root)
    assert not is_signed_by(root, certificate)
    assert public_key(certificate).public_numbers() == BOX.ek.public_key().public_numbers()
    assert certificate.extensions["2.5.29.17"].critical
    assert oid_text(bytes.fromhex("2a8648ce3d0301")) == "1.2.840.10045.3.1"


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x1f\x01\0", b"\x30\x80", b"\x30\x85\1\1\1\1\1", b"\x30\x05\0"]
)
def test_elements_that_cannot_be_are_refused(data):
    with pytest.raises(EvidenceError):
        read(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"-----BEGIN PUBLIC KEY-----", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nQUJD=A\n-----END CERTIFICATE-----", "vendor.pem"),
        (b"garbage", "vendor.pem"),
        (LEAF, "not a CA certificate"),
        (forge.root_certificate("Virtual TPM Root"), "rehearsal only"),
    ],
)
def test_anchor_files_are_named_in_errors(data, told):
    with pytest.raises(AttestSiteError, match=told) as refused:
        decode_anchors([("vendor.pem", data)], rehearsal=False)
    assert "vendor.pem" in str(refused.value)


@pytest.mark.parametrize(("length", "holds"), [(0, False), (1, True), (None, True)])
def test_a_path_is_no_longer_than_its_authority_allows(length, holds):
    leaf = forge.ek_certificate(BOX.ek, issuer="Maker TPM CA 1", issuer_key="maker intermediate")
    root = forge.root_certificate(path_length=length)
    anchors = decode_anchors([("root", root)], rehearsal=False)
    chain = (leaf, forge.intermediate_certificate())
    trust = check_ek_certificate(chain, anchors, BOX.ek, forge.NOW, rehearsal=False)
    assert (trust.findings == ()) is holds


@pytest.mark.parametrize(("hash_name", "holds"), [("sha256", True), ("sha1", False)])
def test_a_key_without_a_scheme_signs_with_strong_hashes_only(hash_name, holds):
    ak = replace(BOX.ak, key=replace(BOX.ak.key, scheme=None))
    data = QUOTED.encode()
    signature = encode_signature(forge.sign(forge.private_key("ak of box A"), data, hash_name))
    arguments = {"attest": data, "ak": ak, "extra_data": b"nonce", "values": VALUES}
    if holds:
        assert check_quote(signature=signature, **arguments).values == VALUES
        return
    with pytest.raises(CheckError) as refused:
        check_quote(signature=signature, **arguments)
    assert refused.value.reason is Reason.QUOTE_SIGNATURE


@pytest.mark.parametrize("pss", [False, True])
def test_rsa_quotes_verify_by_their_own_scheme(pss):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    algorithm = hashes.SHA256()
    scheme = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=32) if pss else padding.PKCS1v15()
    public = RsaPublic(
        symmetric=None,
        scheme=Scheme(algorithm=0x0016 if pss else 0x0014, hash_alg=0x000B),
        bits=2048,
        exponent=0,
        modulus=key.public_key().public_numbers().n.to_bytes(256, "big"),
    )
    ak = replace(BOX.ak, key=public)
    check_ak(ak)
    data = QUOTED.encode()
    arguments = {"attest": data, "ak": ak, "extra_data": b"nonce", "values": VALUES}
    for told in (pss, not pss):
        signature = encode_signature(
            RsaSignature(hash_name="sha256", pss=told, signature=key.sign(data, scheme, algorithm))
        )
        if told is pss:
            assert check_quote(signature=signature, **arguments).values == VALUES
            continue
        with pytest.raises(CheckError) as refused:
            check_quote(signature=signature, **arguments)
        assert refused.value.reason is Reason.QUOTE_SIGNATURE


def test_an_empty_object_identifier_is_refused():
    with pytest.raises(EvidenceError):
        oid_text(b"")
