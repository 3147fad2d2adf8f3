"""Which Secure Boot keys a box may trust, and what its dbx must hold."""

import hashlib
from dataclasses import dataclass, field

import pytest

from attest.errors import EvidenceError
from attest.reasons import Reason
from attest.secureboot import check_keys, check_not_forbidden, key_lists
from attest.uefi import CERT_SHA256, CERT_X509, SHIM_LOCK, Signature
from attest.variables import SecureBootVariables

GOOD, EVIL = b"0 a certificate", b"0 another certificate"
IMAGE = hashlib.sha256(b"an image").digest()


def fingerprint(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def lists(kind, *contents: bytes) -> bytes:
    entries = [Signature(type=kind, owner=SHIM_LOCK, data=content) for content in contents]
    return b"".join(entry.encode_list() for entry in entries)


def variables(**changes: bytes) -> SecureBootVariables:
    good = lists(CERT_X509, GOOD)
    contents = {"pk": good, "kek": good, "db": good, "dbx": b""}
    return SecureBootVariables(secure_boot=True, **{**contents, **changes})


@dataclass(frozen=True)
class Image:
    image: dict[str, bytes] = field(default_factory=lambda: {"sha256": IMAGE})


@dataclass(frozen=True)
class Facts:
    kernel: Image = field(default_factory=Image)


@pytest.mark.parametrize(("name", "database"), [("pk", "PK"), ("kek", "KEK"), ("db", "db")])
def test_a_key_that_is_not_listed_is_named_with_its_database(name: str, database: str) -> None:
    found = key_lists(variables(**{name: lists(CERT_X509, GOOD, EVIL)}))
    (finding,) = check_keys(found, frozenset({fingerprint(GOOD)}), frozenset())
    assert finding.reason is Reason.SECURE_BOOT_KEYS
    assert finding.detail.startswith(f"{database}: ")
    assert fingerprint(EVIL).hex() in finding.detail


def test_an_entry_that_is_no_certificate_is_not_listed_either() -> None:
    found = key_lists(variables(db=lists(CERT_X509, GOOD) + lists(CERT_SHA256, IMAGE)))
    (finding,) = check_keys(found, frozenset({fingerprint(GOOD)}), frozenset())
    assert finding.reason is Reason.SECURE_BOOT_KEYS
    assert IMAGE.hex() in finding.detail


def test_listed_keys_pass_and_without_a_list_all_do() -> None:
    found = key_lists(variables())
    assert not list(check_keys(found, frozenset({fingerprint(GOOD)}), frozenset()))
    assert not list(check_keys(key_lists(variables(db=lists(CERT_X509, EVIL))), None, frozenset()))
    assert list(check_keys(found, frozenset(), frozenset()))


def test_dbx_holds_the_minimum_and_may_hold_more() -> None:
    old, new = (hashlib.sha256(bytes([number])).digest() for number in (1, 2))
    found = key_lists(variables(dbx=lists(CERT_SHA256, old)))
    assert not list(check_keys(found, None, frozenset({old})))
    (finding,) = check_keys(found, None, frozenset({old, new}))
    assert finding.reason is Reason.DBX_OUTDATED
    assert new.hex() in finding.detail
    larger = key_lists(variables(dbx=lists(CERT_SHA256, old, new, IMAGE)))
    assert not list(check_keys(larger, None, frozenset({old, new})))


def test_a_firmware_that_ignores_its_own_dbx_is_found() -> None:
    ignored = key_lists(variables(dbx=lists(CERT_SHA256, IMAGE)))
    (finding,) = check_not_forbidden(ignored, Facts())
    assert finding.reason is Reason.SECURE_BOOT_KEYS
    assert not list(check_not_forbidden(key_lists(variables()), Facts()))
    of_a_certificate = key_lists(variables(dbx=lists(CERT_X509, IMAGE)))
    assert not list(check_not_forbidden(of_a_certificate, Facts()))


def test_a_database_that_is_no_signature_list_is_an_error() -> None:
    with pytest.raises(EvidenceError):
        key_lists(variables(db=b"x"))
