"""One test for each check of quotes, keys and public areas, named after it.

Where two checks would refuse the same evidence, the test makes the evidence that only one of them
refuses, or looks at what it said: deleting any one fails here (`make mutants`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import forge
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from eventlog_forge import SHA256, agile, encode, header, with_events

from attest.ak import AK_TEMPLATE, ECDSA, RSAPSS, RSASSA, check_ak
from attest.certify import DEVICE_TEMPLATE, check_device_key
from attest.credential import check_keys
from attest.ektemplate import TEMPLATES, check_ek_template
from attest.errors import CheckError, EvidenceError
from attest.eventlog import Bank, Event, EventLog, EventType, LogFormat, decode
from attest.quote import BOOT_PCRS, VerifiedQuote, check_coverage, check_quote, join_quotes
from attest.reasons import Reason
from attest.replay import pcr_5_with_exit_events, replay
from attest.wire import (
    Attest,
    BankSelection,
    CertifyInfo,
    EcdsaSignature,
    QuoteInfo,
    RsaSignature,
    decode_attest,
    decode_signature,
    encode_signature,
)
from keys.errors import PeerError
from keys.tpm_public import (
    HASH_IDS,
    RSAES,
    Attributes,
    Curve,
    EccPublic,
    PublicArea,
    Reader,
    RsaPublic,
    Scheme,
    Symmetric,
    sealed_object,
)

BOX = forge.Box()
NONCE = b"nonce"
ALGORITHMS = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
SHA256_VALUES = {"sha256": {index: bytes([index]) * 32 for index in range(16)}}
SEALED = replace(
    sealed_object(policy=bytes(32), unique=bytes(32)), attributes=AK_TEMPLATE.attributes
)

# --- keys and quotes in software, of every kind that TPMs make


@cache
def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=exponent, key_size=bits)


def ecc_key(curve: Curve) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(0xD00B5733, curve.algorithm())


def ak_of(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, scheme: Scheme | None, **changes: object
) -> PublicArea:
    """Give the AK that holds a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        public: RsaPublic | EccPublic = RsaPublic(
            symmetric=None,
            scheme=scheme,
            bits=key.key_size,
            exponent=0 if numbers.e == 65537 else numbers.e,
            modulus=numbers.n.to_bytes(key.key_size // 8, "big"),
        )
    else:
        curve = Curve.P256 if key.key_size == 256 else Curve.P384
        point = key.public_key().public_numbers()
        x, y = (number.to_bytes(curve.size, "big") for number in (point.x, point.y))
        public = EccPublic(symmetric=None, scheme=scheme, curve=curve, kdf=None, x=x, y=y)
    return replace(AK_TEMPLATE, key=public, **changes)


def scheme(algorithm: int, hash_name: str = "sha256") -> Scheme:
    return Scheme(algorithm=algorithm, hash_alg=HASH_IDS[hash_name])


def sign(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    data: bytes,
    hash_name: str = "sha256",
    *,
    pss: bool = False,
    salt: int | None = None,
) -> RsaSignature | EcdsaSignature:
    """Sign as a TPM with that key would."""
    algorithm = ALGORITHMS[hash_name]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = key.key_size // 8
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True)))
        return EcdsaSignature(
            hash_name=hash_name, r=r.to_bytes(size, "big"), s=s.to_bytes(size, "big")
        )
    used: padding.AsymmetricPadding = padding.PKCS1v15()
    if pss:
        length = padding.PSS.MAX_LENGTH if salt is None else salt
        used = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=length)
    signature = key.sign(data, used, algorithm)
    return RsaSignature(hash_name=hash_name, pss=pss, signature=signature)


def values_in(*banks: str, indices: range = range(16)) -> dict[str, dict[int, bytes]]:
    return {bank: {index: bytes([index + 1]) * SIZES[bank] for index in indices} for bank in banks}


def quoted(
    values: dict[str, dict[int, bytes]] | None = None, hash_name: str = "sha256", width: int = 3
) -> Attest:
    info = forge.quote_info(values or SHA256_VALUES, hash_name)
    chosen = tuple(replace(each, width=width) for each in info.selection)
    return BOX.attest(replace(info, selection=chosen), NONCE)


def check(
    attest: Attest,
    signature: RsaSignature | EcdsaSignature | bytes,
    ak: PublicArea,
    values: dict[str, dict[int, bytes]] | None = None,
    **more: object,
) -> VerifiedQuote:
    return check_quote(
        attest=attest.encode(),
        signature=signature if isinstance(signature, bytes) else encode_signature(signature),
        ak=ak,
        extra_data=NONCE,
        values=SHA256_VALUES if values is None else values,
        **more,
    )


def refused(reason: Reason, told: str, call: object, *arguments: object, **more: object) -> None:
    """Call and see it refused for that reason, in those words."""
    with pytest.raises(CheckError, match=told) as found:
        call(*arguments, **more)  # type: ignore[operator]
    assert found.value.reason is reason


# --- signatures that honest TPMs make


@pytest.mark.parametrize("banks", [("sha1", "sha256"), ("sha256", "sha384"), ("sha512",)])
@pytest.mark.parametrize("hash_name", ALGORITHMS)
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("P256", ECDSA),
        ("P384", ECDSA),
        (2048, RSASSA),
        (2048, RSAPSS),
        (3072, RSASSA),
        (3072, RSAPSS),
        (4096, RSASSA),
    ],
)
def test_every_scheme_hash_and_bank_that_tpms_have_is_accepted(key, algorithm, hash_name, banks):
    private = ecc_key(Curve[key]) if isinstance(key, str) else rsa_key(key)
    ak = ak_of(private, scheme(algorithm, hash_name))
    check_ak(ak)
    assert PublicArea.decode(ak.encode()) == ak
    values = values_in(*banks)
    attest = quoted(values, hash_name)
    signature = sign(private, attest.encode(), hash_name, pss=algorithm == RSAPSS)
    verified = check(attest, signature, ak, values)
    assert verified.values == values
    assert check_coverage((verified,), frozenset(banks)) == values


@pytest.mark.parametrize("salt", [0, 32, None])
def test_rsapss_salts_of_any_length_are_accepted(salt):
    attest, key = quoted(), rsa_key(2048)
    signature = sign(key, attest.encode(), pss=True, salt=salt)
    assert check(attest, signature, ak_of(key, scheme(RSAPSS))).values == SHA256_VALUES


@pytest.mark.parametrize(
    ("attributes"), [0x50072, 0x50076, 0x50472, 0x50032, 0x500F2], ids=lambda bits: f"{bits:x}"
)
def test_harmless_attributes_of_real_aks_are_accepted(attributes):
    check_ak(replace(BOX.ak, attributes=attributes))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_selections_of_one_to_three_bytes_are_accepted(width):
    values = values_in("sha256", indices=range(8))
    attest = quoted(values, width=width)
    signature = sign(ecc_key(Curve.P256), attest.encode())
    ak = ak_of(ecc_key(Curve.P256), scheme(ECDSA))
    assert check(attest, signature, ak, values).values == values


def test_several_quotes_join_to_all_banks():
    key = ecc_key(Curve.P256)
    verified = []
    for banks in (("sha256",), ("sha384", "sha512")):
        attest = quoted(values_in(*banks))
        signature = sign(key, attest.encode())
        verified.append(check(attest, signature, ak_of(key, scheme(ECDSA)), values_in(*banks)))
    together = values_in("sha256", "sha384", "sha512")
    assert check_coverage(tuple(verified), frozenset(together)) == together
    assert join_quotes(tuple(verified[:1])) == values_in("sha256")
    refused(Reason.QUOTE_SELECTION, "twice", join_quotes, (verified[0], verified[0]))
    refused(Reason.QUOTE_SELECTION, "sha1", check_coverage, tuple(verified), frozenset({"sha1"}))


# --- signatures that are refused


@pytest.mark.parametrize("used", ["sha384", "sha512"])
def test_a_hash_other_than_the_keys_own_is_refused(used):
    attest, key = quoted(hash_name=used), ecc_key(Curve.P256)
    signature = sign(key, attest.encode(), used)
    refused(Reason.QUOTE_SIGNATURE, "scheme", check, attest, signature, ak_of(key, scheme(ECDSA)))


@pytest.mark.parametrize("pss", [False, True])
def test_an_rsa_scheme_other_than_the_keys_own_is_refused(pss):
    attest, key = quoted(), rsa_key(2048)
    ak = ak_of(key, scheme(RSASSA if pss else RSAPSS))
    signature = sign(key, attest.encode(), pss=pss)
    refused(Reason.QUOTE_SIGNATURE, "scheme", check, attest, signature, ak)


def test_a_scheme_without_a_hash_signs_nothing():
    attest, key = quoted(), rsa_key(2048)
    ak = ak_of(key, Scheme(algorithm=RSAES))
    refused(Reason.QUOTE_SIGNATURE, "scheme", check, attest, sign(key, attest.encode()), ak)


@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_rsa_signature_is_refused(place):
    attest, key = quoted(), rsa_key(2048)
    made = sign(key, attest.encode())
    changed = bytearray(made.signature)
    changed[place] ^= 1
    for bytes_ in (bytes(changed), made.signature[:-1], b"", b"\0" + made.signature):
        signature = replace(made, signature=bytes_)
        refused(
            Reason.QUOTE_SIGNATURE,
            "verify",
            check,
            attest,
            signature,
            ak_of(key, scheme(RSASSA)),
        )


def test_a_signature_of_another_kind_than_the_key_is_refused():
    attest = quoted()
    small, large = ecc_key(Curve.P256), rsa_key(2048)
    for signer, holder in ((small, large), (large, small)):
        ak = ak_of(holder, None)
        signature = sign(signer, attest.encode())
        refused(Reason.QUOTE_SIGNATURE, "kind", check, attest, signature, ak)


def test_a_quote_of_a_key_that_is_none_is_refused():
    attest = quoted()
    signature = sign(ecc_key(Curve.P256), attest.encode())
    refused(Reason.AK_ATTRIBUTES, "no public key", check, attest, signature, SEALED)
    off = replace(BOX.ak, key=replace(BOX.ak.key, y=bytes(32)))
    refused(Reason.AK_ATTRIBUTES, "not on its curve", check, attest, signature, off)


@pytest.mark.parametrize("part", ["r", "s"])
@pytest.mark.parametrize("change", ["zero", "empty", "longer"])
def test_ecdsa_numbers_out_of_range_are_refused(part, change):
    attest, key = quoted(), ecc_key(Curve.P256)
    made = sign(key, attest.encode())
    number = getattr(made, part)
    # The longer one is the same number: it would verify.
    value = {"zero": bytes(32), "empty": b"", "longer": b"\0" + number}[change]
    ak = ak_of(key, scheme(ECDSA))
    assert check(attest, made, ak).values == SHA256_VALUES
    signature = replace(made, **{part: value})
    refused(Reason.QUOTE_SIGNATURE, "out of range", check, attest, signature, ak)


def test_ecdsa_numbers_may_lack_their_leading_zeros():
    key = ecc_key(Curve.P256)
    ak = ak_of(key, scheme(ECDSA))
    for count in range(4096):
        attest = replace(quoted(), firmware_version=count)
        made = sign(key, attest.encode())
        if made.r[0] == 0:
            break
    assert made.r[0] == 0
    assert check(attest, replace(made, r=made.r.lstrip(b"\0")), ak).firmware_version == count


# --- selections


def software(attest: Attest) -> tuple[Attest, EcdsaSignature, PublicArea]:
    key = ecc_key(Curve.P256)
    return attest, sign(key, attest.encode()), ak_of(key, scheme(ECDSA))


@pytest.mark.parametrize(
    "selection",
    [
        (),
        (BankSelection(bank="sha256", indices=()),),
        (BankSelection(bank="sha256", indices=(7,)), BankSelection(bank="sha384", indices=())),
    ],
    ids=["none", "empty", "one-empty"],
)
def test_a_selection_of_nothing_is_refused(selection):
    joined = SHA256_VALUES["sha256"][7] if len(selection) == 2 else b""
    digest = hashlib.sha256(joined).digest()
    attest = BOX.attest(QuoteInfo(selection=selection, digest=digest), NONCE)
    for more in ({}, {"any_pcr": True}):
        refused(Reason.QUOTE_SELECTION, "nothing", check, *software(attest), **more)


@pytest.mark.parametrize("index", [16, 17, 22, 23])
def test_a_pcr_that_carries_no_boot_claim_is_refused(index):
    values = {"sha256": {**SHA256_VALUES["sha256"], index: bytes(32)}}
    attest = quoted(values)
    refused(Reason.QUOTE_SELECTION, "no boot claim", check, *software(attest), values)
    for more in ({"any_pcr": True}, {"selection": {"sha256": frozenset(values["sha256"])}}):
        assert check(*software(attest), values, **more).values == values


def test_another_selection_than_the_one_asked_for_is_refused():
    attest = quoted()
    for asked in (
        {"sha384": BOOT_PCRS},
        {"sha256": BOOT_PCRS - {7}},
        {"sha256": BOOT_PCRS | {23}},
        {"sha256": BOOT_PCRS, "sha384": BOOT_PCRS},
        {},
    ):
        refused(
            Reason.QUOTE_SELECTION, "another selection", check, *software(attest), selection=asked
        )
    assert check(*software(attest), selection={"sha256": BOOT_PCRS}).values == SHA256_VALUES


def test_the_digest_is_over_the_schemes_hash_not_the_banks():
    values = values_in("sha384")
    attest = quoted(values, "sha384")
    refused(Reason.QUOTE_DIGEST, "signed digest", check, *software(attest), values)
    attest = quoted(values, "sha256")
    assert check(*software(attest), values).values == values


def test_a_value_of_another_banks_size_is_refused():
    short = {"sha256": {**SHA256_VALUES["sha256"], 3: bytes(20)}}
    attest = quoted(short)
    refused(Reason.QUOTE_DIGEST, "PCR 3 has no value", check, *software(attest), short)


def test_a_value_beside_the_signed_selection_is_not_taken_over():
    attest = quoted(values_in("sha256", indices=range(8)))
    verified = check(*software(attest), values_in("sha256", "sha384"))
    assert verified.values == values_in("sha256", indices=range(8))


# --- wire forms


def test_a_yes_or_no_field_that_is_neither_is_refused():
    data = quoted().encode()
    at = 4 + 2 + 2 + 34 + 2 + len(NONCE) + 16
    for value in (0, 1):
        assert decode_attest(data[:at] + bytes([value]) + data[at + 1 :]).clock.safe == bool(value)
    for value in (2, 255):
        with pytest.raises(EvidenceError, match="yes-or-no"):
            decode_attest(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize("number", [0x0000, 0x0005, 0x0010, 0x0015, 0x001A, 0x001B, 0x001C])
def test_another_signature_scheme_is_refused(number):
    data = encode_signature(sign(ecc_key(Curve.P256), b"data"))
    with pytest.raises(EvidenceError, match=f"scheme 0x{number:04x}"):
        decode_signature(number.to_bytes(2, "big") + data[2:])


@pytest.mark.parametrize("number", [0x0000, 0x0010, 0x0012, 0x0027, 0x00FF])
def test_another_hash_is_refused(number):
    data = encode_signature(sign(ecc_key(Curve.P256), b"data"))
    with pytest.raises(EvidenceError, match=f"hash algorithm 0x{number:04x}"):
        decode_signature(data[:2] + number.to_bytes(2, "big") + data[4:])


@pytest.mark.parametrize("kind", range(0x8014, 0x801D))
def test_every_attestation_but_quote_and_certification_is_refused(kind):
    certified = BOX.attest(CertifyInfo(name=b"n", qualified_name=b"q"), NONCE).encode()
    data = certified[:4] + kind.to_bytes(2, "big") + certified[6:]
    if kind == 0x8017:
        assert decode_attest(data).attested == CertifyInfo(name=b"n", qualified_name=b"q")
        return
    with pytest.raises(EvidenceError):
        decode_attest(data)


def test_a_count_of_selections_is_no_size_to_allocate():
    data = quoted().encode()
    at = data.index(b"\0\0\0\1\0\x0b\3")
    with pytest.raises(EvidenceError):
        decode_attest(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])


# --- AK


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name_alg": HASH_IDS["sha1"]}, "name hash is sha1"),
        ({"attributes": AK_TEMPLATE.attributes | Attributes.DECRYPT}, "decrypt"),
        ({"attributes": AK_TEMPLATE.attributes & ~Attributes.RESTRICTED}, "lacks restricted"),
        ({"attributes": 0}, "restricted, sign, fixedTPM, fixedParent, sensitiveDataOrigin"),
        ({"key": SEALED.key}, "no signing scheme"),
        ({"key": replace(BOX.ak.key, scheme=None)}, "no signing scheme"),
        ({"key": replace(BOX.ak.key, scheme=scheme(0x0019))}, "scheme is not accepted"),
        ({"key": replace(BOX.ak.key, scheme=scheme(0x001C))}, "scheme is not accepted"),
        ({"key": replace(BOX.ak.key, scheme=scheme(ECDSA, "sha1"))}, "weak hash"),
    ],
)
def test_an_ak_of_another_kind_is_refused(changes, told):
    refused(Reason.AK_ATTRIBUTES, told, check_ak, replace(BOX.ak, **changes))


def test_an_ak_that_is_no_point_of_its_curve_is_refused():
    off = replace(BOX.ak, key=replace(BOX.ak.key, y=bytes(32)))
    refused(Reason.AK_ATTRIBUTES, "curve", check_keys, BOX.ek.encode(), off.encode())


def test_keys_of_a_hello_that_cannot_be_are_refused():
    ek, ak = BOX.ek.encode(), BOX.ak.encode()
    assert check_keys(ek, ak).template is TEMPLATES[0]
    refused(Reason.EK_STRUCTURE, "cut short", check_keys, ek[:-1], ak)
    refused(Reason.EK_TEMPLATE, "attributes", check_keys, ak, ak)
    refused(Reason.AK_ATTRIBUTES, "cut short", check_keys, ek, ak[:-1])
    refused(Reason.AK_ATTRIBUTES, "lacks", check_keys, ek, ek)


# --- device key


def certified(area: PublicArea, attested: CertifyInfo | QuoteInfo | None = None) -> dict:
    """Give the arguments with which a device key is checked."""
    info = attested or CertifyInfo(name=area.name(), qualified_name=b"")
    signed = BOX.sign(BOX.attest(info, NONCE))
    return {
        "public": area.encode(),
        "attest": signed.attest,
        "signature": signed.signature,
        "ak": BOX.ak,
        "extra_data": NONCE,
    }


def test_a_device_key_is_certified_not_quoted():
    assert check_device_key(**certified(BOX.device))[0] == BOX.device
    info = forge.quote_info(SHA256_VALUES)
    refused(Reason.DEVICE_KEY, "no certification", check_device_key, **certified(BOX.device, info))


def test_a_device_key_that_cannot_be_read_is_refused():
    arguments = {**certified(BOX.device), "public": b"\0\x23"}
    refused(Reason.DEVICE_KEY, "cut short", check_device_key, **arguments)
    off = replace(BOX.device, key=replace(BOX.device.key, y=bytes(32)))
    refused(Reason.DEVICE_KEY, "curve", check_device_key, **certified(off))


def test_a_device_key_of_another_algorithm_is_refused():
    attributes = DEVICE_TEMPLATE.attributes
    for area in (
        ak_of(rsa_key(2048), scheme(RSASSA), attributes=attributes),
        ak_of(rsa_key(2048), scheme(ECDSA), attributes=attributes),
        ak_of(ecc_key(Curve.P384), scheme(ECDSA), attributes=attributes),
        ak_of(ecc_key(Curve.P256), scheme(ECDSA, "sha384"), attributes=attributes),
        ak_of(ecc_key(Curve.P256), None, attributes=attributes),
    ):
        refused(Reason.DEVICE_KEY, "ECDSA P-256", check_device_key, **certified(area))


# --- EK


def test_an_ek_that_is_no_asymmetric_key_is_refused():
    refused(Reason.EK_TEMPLATE, "asymmetric", check_ek_template, SEALED)


def test_the_exponent_of_an_ek_is_65537_however_it_is_written():
    (template,) = (known for known in TEMPLATES if known.name == "H-1")

    def ek(exponent: int) -> PublicArea:
        modulus = rsa_key(2048).public_key().public_numbers().n.to_bytes(256, "big")
        key = replace(template.public.key, exponent=exponent, modulus=modulus)
        return replace(template.public, key=key)

    assert check_ek_template(ek(0)) is check_ek_template(ek(65537)) is template
    refused(Reason.EK_TEMPLATE, "attributes", check_ek_template, ek(3))


# --- public areas


def test_a_field_that_runs_past_the_end_is_refused():
    with pytest.raises(PeerError, match="cut short"):
        Reader(b"\0\4abc").sized()
    assert Reader(b"\0\3abc").sized() == b"abc"


def area_with(key: object) -> bytes:
    return replace(BOX.ek, key=key).encode()


AES_CFB = Symmetric(algorithm=0x0006, bits=128, mode=0x0043)
RSA_PUBLIC = RsaPublic(symmetric=AES_CFB, scheme=None, bits=2048, exponent=0, modulus=bytes(256))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (replace(BOX.ek.key, symmetric=replace(AES_CFB, algorithm=0x0013)), "symmetric algorithm"),
        (replace(BOX.ek.key, symmetric=replace(AES_CFB, bits=64)), "AES with 64 bits"),
        (replace(BOX.ek.key, scheme=scheme(0x001A)), "key scheme 0x001a"),
        (replace(BOX.ek.key, scheme=Scheme(algorithm=ECDSA, hash_alg=0x0012)), "hash algorithm"),
        (replace(BOX.ek.key, kdf=scheme(0x0023)), "key derivation 0x0023"),
        (replace(BOX.ek.key, kdf=Scheme(algorithm=0x0007, hash_alg=0x0012)), "hash algorithm"),
        (replace(BOX.ek.key, curve=0x0005), "curve 0x0005"),
        (replace(BOX.ek.key, x=bytes(33)), "too long"),
        (replace(RSA_PUBLIC, bits=1024, modulus=bytes(128)), "RSA key of 1024 bits"),
        (replace(RSA_PUBLIC, modulus=bytes(255)), "has not the size"),
        (replace(RSA_PUBLIC, modulus=bytes(384)), "has not the size"),
    ],
)
def test_a_public_area_with_an_unknown_part_is_refused(key, told):
    with pytest.raises(PeerError, match=told):
        PublicArea.decode(area_with(key))


@pytest.mark.parametrize(
    "key",
    [
        replace(RSA_PUBLIC, scheme=Scheme(algorithm=RSAES)),
        replace(RSA_PUBLIC, scheme=scheme(0x0017)),
        replace(BOX.ek.key, kdf=scheme(0x0020)),
        replace(BOX.ek.key, symmetric=replace(AES_CFB, bits=256)),
        replace(BOX.ek.key, symmetric=None),
    ],
)
def test_a_public_area_with_known_parts_survives_its_encoding(key):
    data = area_with(key)
    assert PublicArea.decode(data).encode() == data
    assert PublicArea.decode(data).key == key


@pytest.mark.parametrize(
    "number", [0x0014, 0x0016, 0x0017, 0x0018, 0x0019, 0x001B, 0x001C, 0x001D], ids=hex
)
@pytest.mark.parametrize("hash_name", sorted(SIZES))
def test_every_key_scheme_with_a_hash_survives_its_encoding(number, hash_name):
    key = replace(BOX.ek.key, scheme=scheme(number, hash_name))
    assert PublicArea.decode(area_with(key)).key == key


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_every_rsa_size_that_tpms_have_survives_its_encoding(bits):
    key = replace(RSA_PUBLIC, bits=bits, modulus=b"\xff" * (bits // 8))
    assert PublicArea.decode(area_with(key)).key == key


def test_a_keyed_hash_that_is_a_key_is_refused():
    data = SEALED.encode()
    at = data.rindex(b"\0\x10\0\x20")
    with pytest.raises(PeerError, match="sealed data"):
        PublicArea.decode(data[:at] + b"\0\5\0\x0b" + data[at + 2 :])


def test_an_rsa_modulus_with_leading_zeros_is_no_key():
    short = replace(BOX.ek, key=replace(RSA_PUBLIC, modulus=b"\0" + b"\xff" * 255))
    with pytest.raises(PeerError, match="size that its key says"):
        short.public_key()


@pytest.mark.parametrize("exponent", [1, 2, 4])
def test_an_rsa_exponent_that_cannot_be_is_no_key(exponent):
    key = replace(RSA_PUBLIC, exponent=exponent, modulus=b"\xff" * 256)
    with pytest.raises(PeerError, match="no valid RSA key"):
        replace(BOX.ek, key=key).public_key()


def test_an_rsa_exponent_other_than_the_usual_is_kept():
    modulus = rsa_key(2048).public_key().public_numbers().n.to_bytes(256, "big")
    for exponent, wanted in ((0, 65537), (3, 3), (65537, 65537)):
        area = replace(BOX.ek, key=replace(RSA_PUBLIC, exponent=exponent, modulus=modulus))
        assert area.public_key().public_numbers().e == wanted


# --- replay


def test_a_check_names_its_reason_and_what_differed():
    assert str(CheckError(Reason.QUOTE_NONCE, "extraData differs")) == (
        "QUOTE-NONCE: extraData differs"
    )
    assert str(CheckError(Reason.QUOTE_NONCE)) == "QUOTE-NONCE"


def test_a_bank_whose_hash_is_not_computed_here_does_not_replay():
    log = decode(header([(0x0012, 32)]) + agile(0, 4, [(0x0012, bytes(32))], b""))
    with pytest.raises(EvidenceError, match="no sm3_256 digests"):
        replay(log, "sm3_256")


def test_exit_events_count_in_pcr_5_alone():
    text = b"Exit Boot Services Invocation"
    digests = {"sha256": hashlib.sha256(text).digest()}

    def log(pcr: int) -> EventLog:
        event = Event(pcr=pcr, type=EventType.EFI_ACTION, digests=digests, data=text)
        base = decode(header([(0x000B, 32)]))
        return decode(encode(with_events(base, [event])))

    assert log(5).banks == (Bank(name="sha256", algorithm=SHA256.algorithm, size=32),)
    assert log(5).format is LogFormat.CRYPTO_AGILE
    assert pcr_5_with_exit_events(log(5), "sha256") is None
    assert pcr_5_with_exit_events(log(4), "sha256") is not None
