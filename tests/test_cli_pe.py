"""`doorstep pe`: what it says of boot programs, as JSON and for people, and its exit codes."""

import hashlib
import json
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from boot_forge import der, pe_image, signed_data, signed_image, uki_image
from click.testing import CliRunner, Result
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.pe import Pe, authenticode
from bootstrap.cli.pe import _date, pe

SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
BANKS = {"sha1", "sha256", "sha384", "sha512"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(pe, [str(argument) for argument in arguments])


def told(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_digests_are_of_the_file_and_of_the_image() -> None:
    data = SHIM.read_bytes()
    found = told(SHIM)
    assert (found["path"], found["size"], found["more"]) == (str(SHIM), len(data), [])
    assert (found["kind"], found["architecture"]) == ("shim", "amd64")
    assert (found["profile"], found["problem"]) == (True, "")
    for bank in BANKS:
        assert found["digests"][bank] == hashlib.new(bank, data).hexdigest()
        assert found["authenticode"][bank] == authenticode(data, bank).hex()
    assert set(found["digests"]) == set(found["authenticode"]) == BANKS


def test_signers_are_given_for_each_signature() -> None:
    found = told(SHIM)
    assert len(found["signers"]) == 2
    for signer in found["signers"]:
        assert (signer["digest_algorithm"], signer["matches"]) == ("sha256", True)
        assert signer["digest"] == found["authenticode"]["sha256"]
        assert [one["signed"] for one in signer["certificates"]].count(True) == 1
        leaf = next(one for one in signer["certificates"] if one["signed"])
        assert "CN=Microsoft" in leaf["subject"]
        assert leaf["issuer"].startswith("C=US")
        assert leaf["not_before"] < leaf["not_after"]
        assert leaf["not_after"].endswith("Z")
        assert len(leaf["sha256"]) == 64


def test_certificates_are_told_as_another_library_reads_them() -> None:
    chains = Pe.decode(SHIM.read_bytes()).signers
    for signer, chain in zip(told(SHIM)["signers"], chains, strict=True):
        for one, raw in zip(signer["certificates"], chain, strict=True):
            known = x509.load_der_x509_certificate(raw)
            assert one["sha256"] == hashlib.sha256(raw).hexdigest()
            assert one["serial"] == f"{known.serial_number:x}"
            assert one["not_after"] == known.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_sections_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.efi"
    path.write_bytes(pe_image({".text": b"code", ".data": b"content"}))
    sections = told(path)["sections"]
    assert [section["name"] for section in sections] == [".text", ".data"]
    assert sections[1] == {
        "name": ".data",
        "offset": 1536,
        "raw_size": 512,
        "address": 4096,
        "virtual_size": 7,
        "sha256": hashlib.sha256(b"content").hexdigest(),
    }


def test_a_signature_over_something_else_is_told(tmp_path: Path) -> None:
    data = bytearray(SHIM.read_bytes())
    data[4096] ^= 1
    path = tmp_path / "shim.efi"
    path.write_bytes(data)
    assert [signer["matches"] for signer in told(path)["signers"]] == [False, False]
    assert "signature 1 over sha256 of something else" in run(path).stdout


def test_several_files_are_told_in_their_order(tmp_path: Path) -> None:
    uki = tmp_path / "uki.efi"
    uki.write_bytes(uki_image(stub="253"))
    found = told(SHIM, uki)
    assert (found["kind"], len(found["more"])) == ("shim", 1)
    assert found["more"][0]["title"] == "UKI with systemd-stub 253"
    assert found["more"][0]["profile"] is False
    assert "no boot profile for systemd-stub 253" in found["more"][0]["problem"]


def test_for_people_it_says_the_same() -> None:
    text = run(SHIM).stdout
    data = SHIM.read_bytes()
    for bank in BANKS:
        assert hashlib.new(bank, data).hexdigest() in text
        assert authenticode(data, bank).hex() in text
    for part in ("shim 1", "its boot can be predicted", "signed by ", "SBAT shim,", ".vendor_cert"):
        assert part in text


def test_an_unsigned_program_is_told_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "x.efi"
    path.write_bytes(pe_image({".text": b"code"}))
    assert "not signed" in run(path).stdout
    assert told(path)["signers"] == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "not a PE image"), (b"\x7fELF", "not a PE image"), (b"MZ", "cut-off PE image")],
)
def test_what_is_no_image_ends_in_1_with_a_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "x.efi"
    path.write_bytes(content)
    result = run(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    result = run(path, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert sentence in document.pop("error")
    assert document == {"path": str(path), "more": []}
    assert sentence in result.stderr


def test_one_broken_file_among_good_ones_ends_in_1(tmp_path: Path) -> None:
    path = tmp_path / "x.efi"
    path.write_bytes(b"MZ")
    result = run(SHIM, path, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["kind"] == "shim"
    assert "cut-off" in document["more"][0]["error"]


def test_wrong_usage_and_files_that_cannot_be_read_end_in_2(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(tmp_path / "nothing").exit_code == 2
    assert run(tmp_path).exit_code == 2
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((1 << 30) + 1)
    result = run(large)
    assert result.exit_code == 2
    assert "is larger than" in result.stderr


def test_what_a_file_says_cannot_move_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x9b\u202e\n"
    sbat = f"sbat,1,x,sbat,1,x\nevil,1,x,{evil[:-1]},1\x1b[0m,x\n".encode()
    path = tmp_path / "x\x1b[1m.efi"
    path.write_bytes(pe_image({".sbat": sbat, "\x1b[2J": b"\x90"}))
    for arguments in ((path,), (path, "--json")):
        text = run(*arguments).stdout
        assert all(char.isprintable() or char == "\n" for char in text)
    assert told(path)["sections"][1]["name"] == "?[2J"


def test_a_certificate_that_cannot_be_read_is_told_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "x.efi"
    path.write_bytes(signed_image(signed_data(b"digest", oid=b"\x06\x01\x2a")))
    (signer,) = told(path)["signers"]
    (certificate,) = signer["certificates"]
    assert certificate["sha256"] == hashlib.sha256(der(0x30, b"\x05\x00")).hexdigest()
    assert certificate["error"]
    assert (signer["digest_algorithm"], signer["matches"]) == ("unknown", False)
    assert f"unreadable certificate {certificate['sha256']}" in run(path).stdout


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1100), st.binary(min_size=1, max_size=8), st.integers(0, 2))
def test_any_damage_is_read_or_refused(at: int, patch: bytes, cut: int) -> None:
    data = bytearray(uki_image())
    data[at : at + len(patch)] = patch
    with TemporaryDirectory() as directory:
        path = Path(directory) / "x.efi"
        path.write_bytes(data[: len(data) - cut])
        for arguments in ((path,), (path, "--json")):
            result = run(*arguments)
            assert result.exit_code in (0, 1)
            assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_date_that_no_calendar_has_is_given_as_its_number() -> None:
    assert _date(0) == "1970-01-01T00:00:00Z"
    assert _date(1 << 62) == str(1 << 62)


def test_numbers_of_the_header_are_as_in_the_file(tmp_path: Path) -> None:
    data = bytearray(pe_image({".text": b"code"}))
    struct.pack_into("<I", data, 64 + 24 + 240 + 12, 0x7000)
    path = tmp_path / "x.efi"
    path.write_bytes(data)
    assert told(path)["sections"][0]["address"] == 0x7000
