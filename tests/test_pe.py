"""PE images: our Authenticode digest against lief's, sections, certificates, malformed files."""

import hashlib
import struct
from pathlib import Path

import lief
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import AttestSiteError
from attest.pe import Pe, authenticode

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
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_images_are_refused(name: str) -> None:
    with pytest.raises(AttestSiteError, match="PE image"):
        authenticode(MALFORMED[name], "sha256")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (struct.pack("<IHH", 7, 0x200, 2), "malformed"),
        (struct.pack("<IHH", 99, 0x200, 2), "malformed"),
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
