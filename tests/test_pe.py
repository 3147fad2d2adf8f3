"""PE images: our Authenticode digest against lief's, sections, certificates, malformed files."""

import hashlib
import struct
from pathlib import Path

import lief
import pytest
from boot_forge import OID_DATA, OID_SHA256, der, pe_image, signed_data, signed_image
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import AttestSiteError
from attest.pe import Pe, authenticode
from attest.pesign import Signature

# Packages shim-signed, grub-efi-amd64-signed and, where there is one, a kernel.
SIGNED = [
    *sorted(Path("/usr/lib/shim").glob("*.efi.signed")),
    *sorted(Path("/usr/lib/grub/x86_64-efi-signed").glob("*.signed")),
    *sorted(Path("/boot").glob("vmlinuz-*")),
]
UNSIGNED = sorted(Path("/usr/lib/shim").glob("*.efi"))
HASHES = {
    "sha1": lief.PE.ALGORITHMS.SHA_1,
    "sha256": lief.PE.ALGORITHMS.SHA_256,
    "sha384": lief.PE.ALGORITHMS.SHA_384,
    "sha512": lief.PE.ALGORITHMS.SHA_512,
}


def lief_digest(data: bytes, hash_name: str) -> bytes:
    image = lief.PE.parse(list(data))
    assert image is not None
    return bytes(image.authentihash(HASHES[hash_name]))


def minimal(body: bytes, trailer: bytes = b"") -> bytes:
    """Build a PE32+ image with one section and whatever follows it."""
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 0, len(body), 0, 0, 0x1000, 0x1000)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", 0x400000, 4096, 512, 0, 0, 0, 0, 5, 2, 0, 0x3000, 512, 7, 10, 0
    )
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(128)
    section = b".text\0\0\0" + struct.pack(
        "<IIIIIIHHI", len(body), 4096, len(body), 512, 0, 0, 0, 0, 0x60000020
    )
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, len(optional), 0x22)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return head.ljust(512, b"\0") + body + trailer


def test_the_signed_packages_are_there() -> None:
    names = {path.name for path in SIGNED}
    assert {"shimx64.efi.signed", "grubnetx64.efi.signed", "gcdx64.efi.signed"} <= names


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("path", SIGNED + UNSIGNED, ids=lambda path: path.name)
def test_digest_of_distribution_programs_equals_lief(path: Path, hash_name: str) -> None:
    data = path.read_bytes()
    assert authenticode(data, hash_name) == lief_digest(data, hash_name)


@pytest.mark.parametrize("trailer", [b"", b"x", b"trailing data"])
@pytest.mark.parametrize("size", [16, 512, 513, 1023])
def test_digest_covers_trailing_data_and_pads_nothing(size: int, trailer: bytes) -> None:
    data = minimal(b"\x90" * size, trailer)
    checksum, directory = 64 + 24 + 64, 64 + 24 + 112 + 32
    covered = data[:checksum] + data[checksum + 4 : directory] + data[directory + 8 :]
    assert authenticode(data, "sha256") == hashlib.sha256(covered).digest()


def test_checksum_and_signature_table_are_left_out_and_all_else_counts() -> None:
    data = bytearray(minimal(b"\x90" * 512))
    plain = authenticode(bytes(data), "sha256")
    checksum, directory = 64 + 24 + 64, 64 + 24 + 112 + 32
    data[checksum] ^= 1
    assert authenticode(bytes(data), "sha256") == plain
    signature = struct.pack("<IHH", 16, 0x200, 0x0EF1) + bytes(8)
    struct.pack_into("<II", data, directory, len(data), len(signature))
    assert authenticode(bytes(data) + signature, "sha256") == plain
    data[600] ^= 1
    assert authenticode(bytes(data) + signature, "sha256") != plain


def test_sections_and_signers_of_shim() -> None:
    image = Pe.decode(Path("/usr/lib/shim/shimx64.efi.signed").read_bytes())
    assert (image.section(".sbat") or b"").startswith(b"sbat,1,")
    assert image.section(".vendor_cert")
    assert image.section(".nothing") is None
    assert image.signers
    for chain in image.signers:
        subjects = [x509.load_der_x509_certificate(cert).subject.rfc4514_string() for cert in chain]
        assert any("Microsoft" in subject for subject in subjects)


def test_an_unsigned_image_has_no_signers() -> None:
    assert Pe.decode(minimal(b"\x90" * 512)).signers == ()


def patched(at: int, patch: bytes) -> bytes:
    data = minimal(b"\x90" * 512)
    return data[:at] + patch + data[at + len(patch) :]


MALFORMED = {
    "empty": b"",
    "no PE": b"\x7fELF" + bytes(600),
    "PE offset outside": b"MZ" + bytes(58) + b"\xff" * 4,
    "wrong magic": minimal(b"\x90" * 512).replace(b"PE\0\0", b"NE\0\0"),
    "cut in the headers": minimal(b"\x90" * 512)[:300],
    "section outside": minimal(b"\x90" * 512)[:-1],
    "no MZ": b"NZ" + minimal(b"\x90" * 512)[2:],
    "unknown optional header": patched(64 + 24, b"\x07\x01"),
    "too few directories": patched(64 + 24 + 108, b"\x04\0\0\0"),
    "headers outside": patched(64 + 24 + 60, b"\xff\xff\0\0"),
    "too many sections": patched(64 + 6, b"\x61\0") + bytes(8000),
    "signatures outside": patched(64 + 24 + 112 + 32, struct.pack("<II", 1000, 100)),
    "signatures before the end": patched(64 + 24 + 112 + 32, struct.pack("<II", 600, 8)),
    "signatures over a section": patched(64 + 24 + 112 + 32, struct.pack("<II", 1016, 8)),
    "too many directories": patched(64 + 20, struct.pack("<H", 248)).replace(
        struct.pack("<I", 16) + bytes(128), struct.pack("<I", 17) + bytes(128)
    ),
    "more directories than header": patched(64 + 24 + 108, b"\x0f\0\0\0"),
    "headers shorter than their table": patched(64 + 24 + 60, struct.pack("<I", 300)),
    "a section over the headers": patched(64 + 24 + 240 + 20, struct.pack("<I", 256)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_images_are_refused(name: str) -> None:
    with pytest.raises(AttestSiteError, match="PE image"):
        authenticode(MALFORMED[name], "sha256")


def test_sections_that_overlap_are_refused_and_empty_ones_lie_nowhere() -> None:
    data = bytearray(pe_image({".one": b"1" * 512, ".two": b"2" * 512}))
    second = 64 + 24 + 240 + 40
    assert authenticode(bytes(data), "sha256") == lief_digest(bytes(data), "sha256")
    struct.pack_into("<I", data, second + 20, 1024 + 511)
    with pytest.raises(AttestSiteError, match="sections overlap"):
        authenticode(bytes(data), "sha256")
    struct.pack_into("<II", data, second + 16, 0, 0xFFFFFFFF)
    struct.pack_into("<I", data, second + 8, 0)
    assert Pe.decode(bytes(data)).sections[1].data == b""


def test_many_sections_over_one_place_are_refused_before_they_are_cut_out() -> None:
    data = bytearray(pe_image({f".{index:03}": b"x" for index in range(10)}))
    for index in range(10):
        struct.pack_into("<II", data, 64 + 24 + 240 + 40 * index + 16, 2048, 1024)
    with pytest.raises(AttestSiteError, match="sections overlap"):
        Pe.decode(bytes(data))


def test_signatures_that_something_follows_are_refused() -> None:
    data = bytearray(minimal(b"\x90" * 512, bytes(16)))
    directory = 64 + 24 + 112 + 32
    struct.pack_into("<II", data, directory, 1024, 8)
    with pytest.raises(AttestSiteError, match="signatures of the PE image are not at its end"):
        Pe.decode(bytes(data))
    struct.pack_into("<II", data, directory, 1024, 0)
    assert Pe.decode(bytes(data)).signatures == ()


def with_sections(count: int, headers: int) -> bytes:
    """Build an image whose sections all have no bytes, or none at all."""
    image = bytearray(pe_image({".text": b""})[: 64 + 24 + 240])
    struct.pack_into("<H", image, 64 + 6, count)
    struct.pack_into("<I", image, 64 + 24 + 60, headers)
    return bytes(image + bytes(40 * count)).ljust(4608, b"\0")


def test_the_number_of_sections_and_the_size_of_headers_are_bounded() -> None:
    assert len(Pe.decode(with_sections(96, 4608)).sections) == 96
    assert Pe.decode(with_sections(0, 4608)).sections == ()
    for count, headers in ((97, 4608), (0, 4609), (2, 64 + 24 + 240 + 79)):
        with pytest.raises(AttestSiteError, match="its headers"):
            Pe.decode(with_sections(count, headers))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        *((b"/4", ""), (b"/abc", "/abc"), (b"/", "/"), (b"x123", "x123")),
        *((b"eightlet", "eightlet"), (b"\xff", "\ufffd")),
    ],
)
def test_section_names_as_they_are_written(written: bytes, told: str) -> None:
    data = b"MZ__text" + patched(64 + 24 + 240, written.ljust(8, b"\0"))[8:]
    assert Pe.decode(data).sections[0].name == told


@pytest.mark.parametrize(("size", "length"), [(0, 512), (7, 7), (512, 512), (4096, 512)])
def test_the_bytes_of_a_section_end_with_its_size_in_memory(size: int, length: int) -> None:
    data = patched(64 + 24 + 240 + 8, struct.pack("<I", size))
    (section,) = Pe.decode(data).sections
    assert (section.virtual_size, len(section.data)) == (size, length)


def test_an_image_without_a_place_for_signatures_is_hashed_whole() -> None:
    data = bytearray(minimal(b"\x90" * 512, b"trailer"))
    directories = 64 + 24 + 112
    struct.pack_into("<I", data, directories - 4, 4)
    struct.pack_into("<H", data, 64 + 20, 112 + 32)
    table = bytes(data[directories + 128 : directories + 168])
    data[directories + 32 : directories + 72] = table
    checksum = 64 + 24 + 64
    covered = data[:checksum] + data[checksum + 4 :]
    assert Pe.decode(bytes(data)).directory_offset is None
    assert authenticode(bytes(data), "sha256") == hashlib.sha256(covered).digest()


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        *((0x8664, "amd64"), (0xAA64, "arm64"), (0x14C, "i386"), (0x1234, "0x1234")),
        *((0x1C0, "arm"), (0x1C2, "arm"), (0x1C4, "arm")),
        *((0x5064, "riscv64"), (0x6264, "loongarch64")),
    ],
)
def test_the_processor_is_named(machine: int, name: str) -> None:
    assert Pe.decode(patched(64 + 4, struct.pack("<H", machine))).architecture == name


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.name)
def test_each_signature_of_a_distribution_is_over_the_image_and_names_its_signer(
    path: Path,
) -> None:
    data = path.read_bytes()
    signatures = Pe.decode(data).signatures
    assert signatures
    for one in signatures:
        assert one.digest == authenticode(data, one.digest_name)
        certificates = [x509.load_der_x509_certificate(der) for der in one.certificates]
        named = (one.issuer, int.from_bytes(one.serial, "big"))
        assert named in [(cert.issuer.public_bytes(), cert.serial_number) for cert in certificates]


def test_both_signatures_of_shim_are_read() -> None:
    assert len(Pe.decode(Path("/usr/lib/shim/shimx64.efi.signed").read_bytes()).signatures) == 2


def test_what_a_signature_signs_is_read_out_of_it() -> None:
    digest = hashlib.sha256(b"other").digest()
    (one,) = Pe.decode(signed_image(signed_data(digest))).signatures
    assert (one.digest_name, one.digest) == ("sha256", digest)
    assert (one.issuer, one.serial) == (der(0x30, b"\x05\x00"), b"\x07")
    assert one.certificates == (der(0x30, b"\x05\x00"),)
    (other,) = Pe.decode(signed_image(signed_data(digest, oid=b"\x06\x01\x2a"))).signatures
    assert (other.digest_name, other.digest) == ("", digest)
    bare = der(0x30, OID_DATA, der(0xA0, der(0x30, b"\x02\x01\x01")))
    (empty,) = Pe.decode(signed_image(bare)).signatures
    assert (empty.certificates, empty.digest, empty.issuer, empty.serial) == ((), b"", b"", b"")


@pytest.mark.parametrize(
    ("oid", "name"),
    [
        ("06052b0e03021a", "sha1"),
        ("0609608648016503040201", "sha256"),
        ("0609608648016503040202", "sha384"),
        ("0609608648016503040203", "sha512"),
    ],
)
def test_each_digest_that_signatures_use_is_named(oid: str, name: str) -> None:
    (one,) = Pe.decode(signed_image(signed_data(b"x", oid=bytes.fromhex(oid)))).signatures
    assert (one.digest_name, one.digest) == (name, b"x")


def swapped(old: bytes, new: bytes) -> Signature:
    """Read a signature in which one element has become another of the same size."""
    blob = signed_data(b"digest", certificates=2)
    assert blob.count(old) == 1
    (one,) = Pe.decode(signed_image(blob.replace(old, new))).signatures
    return one


def test_parts_of_another_type_are_left_out() -> None:
    issuer = der(0x30, der(0x30, b"\x05\x00"), b"\x02\x01\x07")
    no_serial = swapped(issuer, issuer[:-3] + b"\x04\x01\x07")
    assert (no_serial.issuer, no_serial.serial) == (der(0x30, b"\x05\x00"), b"")
    no_issuer = swapped(issuer, issuer[:4] + b"\x31" + issuer[5:])
    assert (no_issuer.issuer, no_issuer.serial) == (b"", b"\x07")
    assert swapped(issuer, b"\x31" + issuer[1:]).serial == b""
    assert swapped(b"\x04\x82\0\x06digest", b"\x0c\x82\0\x06digest").digest == b""
    assert swapped(OID_SHA256, b"\x04" + OID_SHA256[1:]).digest_name == ""
    certificates = der(0x30, b"\x05\x00") * 2
    one = swapped(certificates, b"\xa1" + certificates[1:])
    assert one.certificates == (der(0x30, b"\x05\x00"),)


def test_a_part_that_is_missing_is_left_out() -> None:
    short = der(0x30, der(0x30, OID_SHA256))
    content = der(0x30, OID_DATA, der(0xA0, der(0x30, der(0x30), short)))
    inner = der(0x30, b"\x02\x01\x01", der(0x31), content, der(0x31, der(0x30, b"\x02\x01\x01")))
    (one,) = Pe.decode(signed_image(der(0x30, OID_DATA, der(0xA0, inner)))).signatures
    assert (one.digest_name, one.digest, one.issuer) == ("sha256", b"", b"")


def test_an_image_of_32_bits_is_read_as_lief_does() -> None:
    """The directories lie 16 bytes nearer (Microsoft PE format, optional header)."""
    wide = pe_image({".text": b"\x90"})
    optional = 64 + 24
    head = bytearray(wide[:optional] + wide[optional : optional + 24])
    head[optional : optional + 2] = struct.pack("<H", 0x10B)
    head += struct.pack("<II", 0, 0x400000) + wide[optional + 32 : optional + 72]
    head += struct.pack("<IIIIII", 0, 0, 0, 0, 0, 16) + bytes(128)
    struct.pack_into("<HH", head, 64 + 4, 0x14C, 1)
    struct.pack_into("<H", head, 64 + 20, 224)
    data = bytes(head + wide[optional + 240 : optional + 280]).ljust(1024, b"\0") + wide[1024:]
    image = Pe.decode(data)
    assert (image.architecture, image.sections[0].name) == ("i386", ".text")
    assert authenticode(data, "sha256") == lief_digest(data, "sha256")


def test_the_numbers_of_signatures_certificates_and_parts_are_bounded() -> None:
    blob = signed_data(b"x")
    assert len(Pe.decode(signed_image(*[blob] * 8)).signatures) == 8
    with pytest.raises(AttestSiteError, match="more than 8 signatures"):
        Pe.decode(signed_image(*[blob] * 9))
    assert len(Pe.decode(signed_image(signed_data(b"x", certificates=32))).signers[0]) == 32
    with pytest.raises(AttestSiteError, match="too many certificates"):
        Pe.decode(signed_image(signed_data(b"x", certificates=33)))
    with pytest.raises(AttestSiteError, match="too many parts"):
        Pe.decode(signed_image(signed_data(b"x", parts=70)))


def test_a_part_that_is_longer_than_what_holds_it_is_refused() -> None:
    blob = b"\x30\x09" + OID_DATA[:2] + b"\x00" * 7 + b"\x00" * 16
    with pytest.raises(AttestSiteError, match="cut off"):
        Pe.decode(signed_image(blob))


@settings(max_examples=150)
@given(st.data())
def test_any_damage_to_signatures_gives_an_image_or_our_error(data: st.DataObject) -> None:
    blob = bytearray(signed_data(hashlib.sha256(b"x").digest()))
    at = data.draw(st.integers(0, len(blob) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=4))
    blob[at : at + len(patch)] = patch
    try:
        found = Pe.decode(signed_image(bytes(blob))).signatures
    except AttestSiteError:
        return
    assert len(found) == 1


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (struct.pack("<IHH", 7, 0x200, 2), "malformed"),
        (struct.pack("<IHH", 99, 0x200, 2), "malformed"),
        (struct.pack("<IHH", 9, 0x200, 2) + b"\x30", "a signature in the PE image is cut off"),
        (struct.pack("<IHH", 15, 0x200, 2) + b"\x30\x85\0\0\0\0\0", "not DER"),
        (struct.pack("<IHH", 14, 0x200, 2) + b"\x30\x04\x02\0\x30\0", "not PKCS #7"),
        (struct.pack("<IHH", 10, 0x200, 2) + b"\x30\x84", "cut off"),
        (struct.pack("<IHH", 12, 0x200, 2) + b"\x30\x05\x02\x01", "cut off"),
        (struct.pack("<IHH", 10, 0x200, 2) + b"\x30\x80", "not DER"),
        (struct.pack("<IHH", 13, 0x200, 2) + b"\x30\x03\x02\x01\x05", "not PKCS #7"),
    ],
)
def test_malformed_signatures_are_refused(table: bytes, sentence: str) -> None:
    data = bytearray(minimal(b"\x90" * 512))
    struct.pack_into("<II", data, 64 + 24 + 112 + 32, len(data), len(table))
    with pytest.raises(AttestSiteError, match=sentence):
        Pe.decode(bytes(data) + table)


@settings(max_examples=150)
@given(st.integers(0, 511), st.binary(min_size=1, max_size=8), st.integers(0, 600))
def test_any_damage_gives_an_image_or_our_error(at: int, patch: bytes, cut: int) -> None:
    data = bytearray(minimal(b"\x90" * 512, b"trailer"))
    data[at : at + len(patch)] = patch
    try:
        authenticode(bytes(data[: len(data) - cut]), "sha256")
    except AttestSiteError:
        return
