"""One test for each check of the readers below the verifier: certificates, keys, UEFI, results.

Beside `test_attest_checks.py`, for the same reason: deleting any one fails here (`make mutants`).
"""

from __future__ import annotations

import hashlib
import json
import struct
from datetime import UTC, datetime
from uuid import UUID

import boot_forge
import ek_forge as make
import forge
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from eventlog_forge import agile, header

from attest.counters import Since
from attest.der import (
    MAX_CERTIFICATE,
    MAX_PARTS,
    cut,
    decode_certificate,
    decode_extensions,
    is_signed_by,
    join,
    public_key,
    split,
    weak_signature,
)
from attest.ektemplate import TEMPLATES, policy_a, policy_b, policy_c
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog, EventType, decode
from attest.evidence import (
    NOT_COVERED,
    AttestationResult,
    BootSetMatch,
    Change,
    Tier,
    Verdict,
    measurements_digest,
)
from attest.memdisk import read_file
from attest.reasons import Finding, Reason
from attest.uefi import (
    CERT_SHA256,
    IMAGE_SECURITY,
    SHIM_LOCK,
    Signature,
    Variable,
    decode_signatures,
    device_path_text,
)
from attest.variables import DATABASES, variables_from_log, variables_from_store
from attest.wire import ClockInfo
from attest.x509keys import decode_spki
from keys.tpm_public import EccPublic, RsaPublic

LEAF = make.ek()
ROOT = make.ca()

# --- what an NV index holds


def test_a_title_is_the_common_name_or_the_subject_or_the_fingerprint() -> None:
    names = make.name((make.COMMON_NAME, "Maker"), ("2.5.4.10", "Maker Inc."))
    assert decode_certificate(make.ek(subject=names)).title == "Maker"
    names = make.name(("2.5.4.10", "Maker Inc."), ("2.5.4.6", "DE"))
    assert decode_certificate(make.ek(subject=names)).title == "Maker Inc., DE"
    plain = decode_certificate(LEAF)
    assert plain.title == plain.fingerprint.hex()[:16]


def test_what_is_cut_out_is_a_sequence_of_bounded_size() -> None:
    assert cut(LEAF + b"\xff") == LEAF
    big = make.seq(bytes(MAX_CERTIFICATE))
    for stored in (make.tlv(0x31, bytes(8)), big):
        with pytest.raises(EvidenceError, match="there is no certificate"):
            cut(stored)


def test_only_certificates_of_bounded_size_are_split_off() -> None:
    most = make.seq(bytes(MAX_CERTIFICATE - 4))
    assert len(most) == MAX_CERTIFICATE
    assert split(LEAF + most) == ((LEAF, most), b"")
    for stranger in (make.tlv(0x31, bytes(8)), make.seq(bytes(MAX_CERTIFICATE - 3))):
        assert split(LEAF + stranger + LEAF) == ((LEAF,), b"")
        assert split(LEAF + stranger[:-1]) == ((LEAF,), b"")
    assert split(b"\xff" * 40) == ((), b"")


def test_certificates_of_one_index_are_counted() -> None:
    assert len(split(LEAF * (MAX_PARTS + 1))[0]) == MAX_PARTS
    decoded, broken = join([LEAF] * (MAX_PARTS + 3))
    assert (len(decoded), broken) == (MAX_PARTS, [])
    decoded, broken = join([b""] * (MAX_PARTS - 1) + [LEAF] * 3)
    assert (len(decoded), len(broken)) == (1, MAX_PARTS - 1)


def test_a_certificate_over_two_indices_is_put_together() -> None:
    half = len(LEAF) // 2
    decoded, broken = join([LEAF[:half], LEAF[half:]])
    assert ([each.der for each in decoded], broken) == ([LEAF], [])
    # The second begins anew: the first stays cut short, and nothing else is wrong.
    decoded, broken = join([LEAF[:half], ROOT])
    assert [each.der for each in decoded] == [ROOT]
    assert broken == ["a certificate is cut short"]
    decoded, broken = join([ROOT, LEAF[:half]])
    assert [each.der for each in decoded] == [ROOT]
    assert broken == ["a certificate is cut short"]
    assert join([b"\xff" * 8]) == ([], ["there is no certificate"])
    decoded, broken = join([LEAF[:half], LEAF[half:-1], ROOT])
    assert [each.der for each in decoded] == [ROOT]
    assert broken[0] == "a certificate is cut short"


@pytest.mark.parametrize(
    "item",
    [
        make.seq(make.oid("2.5.29.15")),
        make.seq(make.oid("2.5.29.15"), make.TRUE, make.tlv(4), make.tlv(4)),
        make.seq(make.tlv(4, b"value")),
        make.seq(make.oid("2.5.29.15"), make.tlv(3, b"\0")),
    ],
    ids=["no-value", "four-parts", "no-name", "no-octets"],
)
def test_an_extension_has_a_name_a_flag_and_octets(item: bytes) -> None:
    with pytest.raises(EvidenceError, match="extension that is none"):
        decode_extensions(item)


def test_an_extension_is_critical_where_it_says_so() -> None:
    for flag, critical in ((b"", False), (make.FALSE, False), (make.TRUE, True)):
        found = decode_extensions(make.extension("2.5.29.15", b"\5\0", flag))
        assert found["2.5.29.15"].critical is critical
        assert found["2.5.29.15"].value == b"\5\0"


def test_a_field_before_the_extensions_is_no_extension() -> None:
    key = make.spki(forge.private_key("ek of box A"))
    inside = make.tlv(0x81, make.seq(make.seq(make.oid("2.5.29.15"), make.tlv(4))))
    assert decode_certificate(make.ek(key=key + inside, extensions=())).extensions == {}
    found = decode_certificate(make.ek(key=key + inside, extensions=[make.basic()])).extensions
    assert found.keys() == {make.BASIC}


# --- keys and signatures


def certificate(key, algorithm, scheme=None) -> bytes:
    """Give a certificate that another implementation signed."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 1, 1, tzinfo=UTC))
    )
    signed = builder.sign(key, algorithm, rsa_padding=scheme)
    return signed.public_bytes(serialization.Encoding.DER)


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
HASHES = (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())


@pytest.mark.parametrize("algorithm", HASHES, ids=lambda known: known.name)
@pytest.mark.parametrize("kind", ["ecdsa", "rsassa", "rsapss"])
def test_every_signature_of_makers_verifies(kind: str, algorithm: hashes.HashAlgorithm) -> None:
    key = ec.derive_private_key(7, ec.SECP384R1()) if kind == "ecdsa" else RSA_KEY
    pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=algorithm.digest_size)
    decoded = decode_certificate(certificate(key, algorithm, pss if kind == "rsapss" else None))
    assert is_signed_by(decoded, decoded)
    assert not weak_signature(decoded)
    assert not is_signed_by(decoded, decode_certificate(ROOT))


def renamed(old: str, new: str, data: bytes) -> bytes:
    """Call the signature algorithm by another name of the same length, inside and outside."""
    assert data.count(make.oid(old)) == 2
    return data.replace(make.oid(old), make.oid(new))


def test_sha1_signatures_verify_and_are_weak() -> None:
    old = decode_certificate(make.ca(hash_name="sha1"))
    assert weak_signature(old)
    assert is_signed_by(old, old)
    # Libraries do not make RSA signatures with SHA-1 certificates any more, so one is put together.
    name = "1.2.840.113549.1.1.11", "1.2.840.113549.1.1.5"
    whole = renamed(*name, certificate(RSA_KEY, hashes.SHA256()))
    decoded = decode_certificate(whole)
    signature = RSA_KEY.sign(decoded.tbs, padding.PKCS1v15(), hashes.SHA1())
    made = decode_certificate(whole[: -len(signature)] + signature)
    assert weak_signature(made)
    assert is_signed_by(made, made)
    assert not is_signed_by(decoded, decoded)


def pss_parameters(number: str) -> bytes:
    algorithm = make.seq(make.oid(number), b"\5\0")
    mask = make.seq(make.oid("1.2.840.113549.1.1.8"), algorithm)
    return make.seq(make.tlv(0xA0, algorithm), make.tlv(0xA1, mask))


def test_pss_may_name_sha1_or_leave_it_out() -> None:
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA1()), salt_length=20)
    for parameters in (pss_parameters("1.3.14.3.2.26"), make.seq(), b""):
        algorithm = make.seq(make.oid("1.2.840.113549.1.1.10"), parameters)
        parts = make.certificate(
            issuer=make.common("CA"),
            subject=make.common("CA"),
            key=RSA_KEY.public_key().public_bytes(make.DER, make.SPKI),
            signer="maker root",
            inner=algorithm,
        )
        # Only its to-be-signed part is of use.
        start = 4
        size = int.from_bytes(parts[start + 2 : start + 4], "big") + 4
        body = parts[start : start + size]
        signature = RSA_KEY.sign(body, scheme, hashes.SHA1())
        made = decode_certificate(make.seq(body, algorithm, make.bit_string(signature)))
        assert weak_signature(made)
        assert is_signed_by(made, made)


@pytest.mark.parametrize("number", ["1", "7", "10"])
def test_rsa_keys_by_each_of_their_names_are_read(number: str) -> None:
    numbers = RSA_KEY.public_key().public_numbers()
    key = make.seq(make.integer(numbers.n), make.integer(numbers.e))
    algorithm = make.seq(make.oid(f"1.2.840.113549.1.1.{number}"), b"\5\0")
    spki = make.seq(algorithm, make.bit_string(key))
    assert decode_spki(spki).public_numbers() == numbers


def explicit(curve: ec.EllipticCurve, prime: int, b: int, order: int, **changes: object) -> bytes:
    """Write a curve's numbers out in a key of the number 7."""
    size = curve.key_size // 8
    form = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    one, seven = (
        ec.derive_private_key(number, curve).public_key().public_bytes(*form) for number in (1, 7)
    )
    fields: dict = {"field": "1.2.840.10045.1.1", "a": prime - 3, "base": one} | changes
    domain = make.seq(
        make.integer(1),
        make.seq(make.oid(fields["field"]), make.integer(prime)),
        make.seq(
            make.tlv(4, fields["a"].to_bytes(size, "big")), make.tlv(4, b.to_bytes(size, "big"))
        ),
        make.tlv(4, fields["base"]),
        make.integer(order),
        make.integer(1),
    )
    algorithm = make.seq(make.oid("1.2.840.10045.2.1"), domain)
    return make.seq(algorithm, make.bit_string(seven))


P384 = (
    ec.SECP384R1(),
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
)
P256 = (ec.SECP256R1(), make.P256_PRIME, make.P256_B, make.P256_ORDER)


@pytest.mark.parametrize("numbers", [P256, P384], ids=["p256", "p384"])
def test_a_curve_in_numbers_is_known_by_all_of_them(numbers: tuple) -> None:
    curve, prime, *_ = numbers
    key = decode_spki(explicit(*numbers))
    assert key.public_numbers() == ec.derive_private_key(7, curve).public_key().public_numbers()
    form = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    three = ec.derive_private_key(3, curve).public_key().public_bytes(*form)
    for changes in ({"field": "1.2.840.10045.1.2"}, {"a": prime - 4}, {"base": three}):
        with pytest.raises(EvidenceError, match="unknown kind"):
            decode_spki(explicit(*numbers, **changes))


def test_a_key_without_a_curve_or_of_another_kind_is_none() -> None:
    point = (
        forge.private_key("x")
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    curve = make.oid("1.2.840.10045.3.1.7")
    for algorithm in (
        make.seq(make.oid("1.2.840.10045.2.1")),
        make.seq(make.oid("1.3.132.1.12"), curve),
        make.seq(make.oid("1.2.840.10045.2.1"), make.oid("1.3.132.0.10")),
    ):
        with pytest.raises(EvidenceError, match="unknown kind"):
            decode_spki(make.seq(algorithm, make.bit_string(point)))
    good = make.seq(make.seq(make.oid("1.2.840.10045.2.1"), curve), make.bit_string(point))
    assert decode_spki(good) == forge.private_key("x").public_key()
    assert public_key(decode_certificate(LEAF)) == forge.Box().ek.public_key()


# --- templates


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda known: known.name)
def test_the_unique_field_of_a_template_is_zeros_in_the_low_range_alone(template) -> None:
    low, key = template.name.startswith("L-"), template.public.key
    if isinstance(key, RsaPublic):
        assert key.modulus == (bytes(256) if low else b"")
    else:
        assert isinstance(key, EccPublic)
        assert key.x == key.y == (bytes(32) if low else b"")
    name_hash = template.public.name_hash
    wanted = policy_a(name_hash) if low else policy_b(name_hash)
    assert template.public.auth_policy == wanted
    assert len(policy_c(name_hash)) == len(wanted)
    assert bool(template.public.attributes & 0x40) is not low


# --- UEFI


def node(kind: int, subtype: int, body: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body


END = node(0x7F, 0xFF, b"")


@pytest.mark.parametrize(
    ("kind", "subtype", "body", "text"),
    [
        (1, 1, b"\2\x1f", "Pci(0x1f,0x2)"),
        (2, 1, struct.pack("<II", 0x0A0341D0, 0), "Acpi(0xa0341d0,0x0)"),
        (3, 2, struct.pack("<HH", 1, 2), "Scsi(0x1,0x2)"),
        (3, 5, b"\3\1", "Usb(0x3,0x1)"),
        (3, 17, b"\5", "Lun(0x5)"),
        (3, 18, struct.pack("<HHH", 1, 0xFFFF, 0), "Sata(0x1,0xffff,0x0)"),
        (3, 23, struct.pack("<I", 1) + bytes(8), "NVMe(0x1)"),
        (4, 1, struct.pack("<I", 1) + bytes(38), "HD(0x1)"),
        (4, 2, struct.pack("<I", 1) + bytes(16), "CDROM(0x1)"),
        (4, 9, struct.pack("<QQ", 1, 2) + bytes(18), "RamDisk(0x1,0x2)"),
        (3, 11, bytes.fromhex("525400123456") + bytes(27), "MAC(52:54:00:12:34:56)"),
        (3, 12, bytes(4) + b"\x0a\x4d\0\1" + bytes(11), "IPv4(10.77.0.1)"),
        (3, 12, bytes(4), "IPv4()"),
        (3, 12, bytes(7), "IPv4()"),
        (3, 12, bytes(3), "Path(3,12)"),
        (3, 13, bytes(56), "IPv6()"),
        (3, 24, b"http://a\x1f\x20\x7e\x7f\xff\0", "Uri(http://a? ~??)"),
        (4, 4, "\\EFI\\a\x07.efi".encode("utf-16-le") + bytes(2), "File(\\EFI\\a?.efi)"),
        (4, 6, SHIM_LOCK.bytes_le, f"FvFile({SHIM_LOCK})"),
        (4, 7, SHIM_LOCK.bytes_le, f"Fv({SHIM_LOCK})"),
        (4, 7, bytes(15), "Path(4,7)"),
        (0x7F, 0x01, b"", "Path(127,1)"),
        (0x01, 0xFF, b"", "Path(1,255)"),
        (9, 9, b"anything", "Path(9,9)"),
    ],
)
def test_a_node_of_a_device_path_reads_as_a_person_knows_it(
    kind: int, subtype: int, body: bytes, text: str
) -> None:
    assert device_path_text(node(kind, subtype, body) + END) == text
    assert device_path_text(node(kind, subtype, body) + node(3, 13, b"") + END) == f"{text}/IPv6()"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (b"\4\4\3\0", "wrong size"),
        (b"\4\4\0\0", "wrong size"),
        (b"\4\4\5\0", "wrong size"),
        (b"\4\4\4", "cut off"),
        (node(1, 1, b"\1"), "Pci node"),
        (node(2, 1, bytes(7)), "Acpi node"),
        (node(3, 13, b"") * 64, "too many nodes"),
    ],
)
def test_a_device_path_that_cannot_be_is_refused(path: bytes, told: str) -> None:
    with pytest.raises(EvidenceError, match=told):
        device_path_text(path)


@pytest.mark.parametrize(
    ("sizes", "rest"),
    [
        ((29, 0, 48), 1),
        ((28 + 48, 0, 15), 48),
        ((28 + 48, 0, 0), 48),
        ((28 + 48, 0, 48), 47),
        ((27, 0, 48), 0),
        ((28 + 48, 60, 48), 48),
    ],
)
def test_a_signature_list_of_a_wrong_size_is_refused(sizes: tuple, rest: int) -> None:
    data = CERT_SHA256.bytes_le + struct.pack("<III", *sizes) + bytes(rest)
    with pytest.raises(EvidenceError, match="wrong size"):
        decode_signatures(data)


def test_a_signature_list_that_is_all_header_and_less_is_refused() -> None:
    # What stands behind is a good list: only the size of the first one is wrong.
    good = Signature(type=CERT_SHA256, owner=SHIM_LOCK, data=bytes(32)).encode_list()
    bad = CERT_SHA256.bytes_le + struct.pack("<III", 28, 48, 48)
    with pytest.raises(EvidenceError, match="wrong size"):
        decode_signatures(bad + good)


def test_signature_lists_with_a_header_are_read() -> None:
    one = Signature(type=CERT_SHA256, owner=SHIM_LOCK, data=bytes(32))
    plain = one.encode_list()
    headed = plain[:16] + struct.pack("<III", 28 + 4 + 48, 4, 48) + b"head" + one.encode()
    assert decode_signatures(plain + headed) == (one, one)


# --- memory disks


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


TEXT = b"set timeout=0\n" * 80


@pytest.mark.parametrize(
    ("at", "value"),
    [(11, b"\0\1"), (11, b"\0\0"), (13, b"\0"), (54, b"FAT16")],
    ids=["sector-256", "sector-0", "no-cluster", "fat16"],
)
def test_a_disk_of_another_geometry_is_refused(at: int, value: bytes) -> None:
    disk = boot_forge.fat12(TEXT)
    assert read_file(disk, "grub.cfg") == TEXT
    with pytest.raises(AttestSiteError, match="neither FAT12 nor squashfs"):
        read_file(changed(disk, at, value), "grub.cfg")


@pytest.mark.parametrize("flag", [0x10, 0x08], ids=["directory", "label"])
def test_a_directory_or_label_of_the_name_is_no_file(flag: int) -> None:
    disk = boot_forge.fat12(TEXT)
    at = disk.index(b"GRUB    CFG") + 11
    with pytest.raises(AttestSiteError, match="has no grub.cfg"):
        read_file(changed(disk, at, bytes([flag])), "grub.cfg")


@pytest.mark.parametrize("cluster", [0, 1, 0xFF7, 0xFF8, 0xFFF])
def test_a_chain_ends_at_a_number_that_is_no_cluster(cluster: int) -> None:
    disk = boot_forge.fat12(b"x" * 500)
    at = disk.index(b"GRUB    CFG") + 26
    with pytest.raises(AttestSiteError, match="cut off"):
        read_file(changed(disk, at, struct.pack("<H", cluster)), "grub.cfg")


def test_reading_ends_with_the_size_though_the_chain_goes_in_a_circle() -> None:
    disk = boot_forge.fat12(b"x" * 500)
    assert disk[512:516] == b"\0\0\0\xff"
    circle = changed(disk, 515, b"\2\0")
    assert read_file(circle, "grub.cfg") == b"x" * 500


def test_a_link_of_the_name_is_no_file() -> None:
    disk = boot_forge.squashfs(TEXT, packed=False, codec="gzip")
    assert read_file(disk, "grub.cfg") == TEXT
    at = disk.index(struct.pack("<HH", 2, 0o644))
    with pytest.raises(AttestSiteError, match="not a small plain file"):
        read_file(changed(disk, at, b"\3"), "grub.cfg")


# --- variables


def event(kind: EventType, data: bytes, measured: bytes | None = None) -> bytes:
    digest = hashlib.sha256(data if measured is None else measured).digest()
    return agile(7, kind, [(0x000B, digest)], data)


def variable(name: str, guid: UUID, data: bytes) -> bytes:
    return Variable(guid=guid, name=name, data=data).encode()


CONFIGS = [
    event(EventType.EFI_VARIABLE_DRIVER_CONFIG, variable(name, guid, b"\1"))
    for name, guid in DATABASES
]
SEPARATOR = event(EventType.SEPARATOR, bytes(4))


def log(*events: bytes) -> EventLog:
    return decode(header([(0x000B, 32)]) + b"".join(events))


def test_authorities_count_where_they_stand_and_are_proven() -> None:
    driver, level = variable("db", IMAGE_SECURITY, b"x"), variable("SbatLevel", SHIM_LOCK, b"sbat")
    found = variables_from_log(
        log(
            *CONFIGS,
            event(EventType.EFI_VARIABLE_AUTHORITY, driver),
            SEPARATOR,
            # As shim measures without the last byte: left to the comparison.
            event(EventType.EFI_VARIABLE_AUTHORITY, variable("Shim", SHIM_LOCK, b"s"), b"else"),
            event(EventType.EFI_VARIABLE_AUTHORITY, level),
        ),
        "sha256",
    )
    assert [each.data for each in found.authorities] == [b"x"]
    assert found.sbat_level == b"sbat"


def stored(name: str, guid: UUID, data: bytes, state: int = 0x3F) -> bytes:
    text = name.encode("utf-16-le") + bytes(2)
    record = b"\xaa\x55" + bytes([state, 0]) + bytes(32)
    record += struct.pack("<II", len(text), len(data)) + guid.bytes_le + text + data
    return record + bytes(-len(record) % 4)


def store(*records: bytes) -> bytes:
    body = b"".join(records)
    head = bytes(40) + b"_FVH" + bytes(4) + struct.pack("<H", 72) + bytes(22)
    guid = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    return head + guid + struct.pack("<I", 28 + len(body)) + bytes(8) + body


def test_a_store_says_whether_secure_boot_is_on() -> None:
    keys = stored("PK", DATABASES[1][1], b"key")
    switch = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
    assert variables_from_store(store(keys)).secure_boot
    assert not variables_from_store(store()).secure_boot
    for value in (b"\0", b"\1"):
        found = variables_from_store(store(keys, stored("SecureBootEnable", switch, value)))
        assert found.secure_boot is (value == b"\1")
    deleted = variables_from_store(store(stored("PK", DATABASES[1][1], b"key", state=0x3C)))
    assert deleted.pk == b""


def test_a_store_ends_where_no_whole_record_is_left() -> None:
    keys = stored("PK", DATABASES[1][1], b"key")
    assert variables_from_store(store(keys, b"\xaa\x55\x3f\0")).pk == b"key"
    with pytest.raises(AttestSiteError, match="malformed"):
        variables_from_store(store(keys, keys[:-8]))


# --- results


def result(**changes: object) -> AttestationResult:
    fields: dict = {"verdict": Verdict.ACCEPTED, "tier": Tier.VERIFIED, "findings": ()}
    return AttestationResult(**(fields | changes))


def test_a_result_tells_what_it_has_and_null_for_what_it_has_not() -> None:
    bare = json.loads(result().to_json())
    assert (bare["since"], bare["boot_set"], bare["clock"]) == (None, None, None)
    full = json.loads(
        result(
            since=Since.REBOOT,
            boot_set=BootSetMatch(
                digest=b"\1", name="enrol", version=7, transport="tftp", server="x"
            ),
            clock=ClockInfo(clock=1, reset_count=2, restart_count=3, safe=True),
            changes=(
                Change(pcr=4, kind="added", label="a", expected=None, measured=b"\2"),
                Change(pcr=9, kind="missing", label="b", expected=b"\3", measured=None),
            ),
        ).to_json()
    )
    assert full["since"] == "started again"
    assert full["boot_set"]["name"] == "enrol"
    assert full["clock"] == {"clock": 1, "reset_count": 2, "restart_count": 3, "safe": True}
    assert [(each["expected"], each["measured"]) for each in full["changes"]] == [
        (None, "02"),
        ("03", None),
    ]


def test_every_result_says_what_no_quote_covers() -> None:
    told = " ".join(json.loads(result().to_json())["not_covered"])
    assert told == " ".join(NOT_COVERED)
    for part in ("bus", "reset alone", "after the quote", "firmware that lies"):
        assert part in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "what it should be"),
        ({"tier": Tier.PROVISIONAL}, "not confirmed yet"),
        ({"tier": Tier.NOT_VERIFIED, "verdict": Verdict.REFUSED}, "could not be verified"),
        ({"tier": Tier.NOT_VERIFIED, "verdict": Verdict.INCOMPLETE}, "not everything"),
        ({"findings": (Finding(reason=Reason.POWER_CUT),)}, "what it should be"),
        (
            {
                "findings": (
                    Finding(reason=Reason.POWER_CUT),
                    Finding(reason=Reason.EK_UNLISTED),
                    Finding(reason=Reason.FACTS_DIFFER),
                )
            },
            "not on the delivery note",
        ),
    ],
)
def test_the_sentence_is_of_the_first_finding_that_stands_in_the_way(
    changes: dict, told: str
) -> None:
    assert told in result(**changes).sentence


def test_measurements_are_bound_by_bank_index_and_value() -> None:
    values = {"sha256": {0: b"\1" * 32, 7: b"\2" * 32}}
    others = (
        {"sha384": values["sha256"]},
        {"sha256": {0: b"\1" * 32, 8: b"\2" * 32}},
        {"sha256": {0: b"\1" * 32, 7: b"\3" * 32}},
        {"sha256": {0: b"\1" * 32}},
        {},
    )
    digests = {measurements_digest(each) for each in (values, *others)}
    assert len(digests) == 1 + len(others)
    again = {"sha256": dict(reversed(values["sha256"].items()))}
    assert measurements_digest(again) == measurements_digest(values)
