"""What headquarters and sites send each other: each check of a form, and each sentence about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keys import crl
from keys.approval import MAX_CLAIM, MAX_REASONS, SignedApproval
from keys.envelope import b64u
from keys.errors import PeerError
from keys.manifest import ManifestError, ManifestReason, PublicKey, sign
from keys.parcel import (
    Header,
    Item,
    Part,
    Seed,
    asked_document,
    check_recipient,
    identity,
    read_asked,
    recipient,
)
from keys.secret import Secret
from keys.signed import (
    APPROVAL,
    BOOT_SET,
    FIRMWARE,
    NOTE,
    REHEARSAL,
    SignedError,
    SignedReason,
    check_either,
    check_signed,
    size_text,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PublicKey.of(KEY.public_key()).encode()
PRIVATE = Secret(bytes(range(32)))
Change = Callable[[dict[str, Any]], object]


def signed(kind: Any, comment: str, data: bytes = b"d") -> bytes:
    return sign(KEY, data, trusted_comment=comment, context=kind.context)


def check(kind: Any, comment: str, data: bytes = b"d") -> Any:
    signature = signed(kind, comment, data)
    return check_signed(kind, data, signature, public_key=PUBLIC, site_id="s")


# signed inputs


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1025, "1025 bytes"),
        (1536 * 1024, "1536 KiB"),
        (4 << 20, "4 MiB"),
    ],
)
def test_a_limit_is_written_in_its_largest_unit(size: int, said: str) -> None:
    assert size_text(size) == said


def test_for_which_site_a_document_is() -> None:
    assert check(NOTE, "site=s counter=3").site == "s"
    assert check(FIRMWARE, "firmware counter=3").site == "*", "the form of before said none"
    assert check(FIRMWARE, "site=* counter=3").site == "*"
    assert check(REHEARSAL, "any text").site is None


@pytest.mark.parametrize(
    ("kind", "comment", "said"),
    [
        (
            NOTE,
            "site=t counter=3",
            "the delivery note is for site t, this is s: ask headquarters for the one of this site",
        ),
        (
            FIRMWARE,
            "site=s counter=3",
            "the firmware baseline is for site s, it must be for all sites: "
            "ask headquarters for the one of this site",
        ),
    ],
)
def test_a_document_of_another_site_is_told_whose_it_is(kind: Any, comment: str, said: str) -> None:
    with pytest.raises(SignedError) as refused:
        check(kind, comment)
    assert str(refused.value) == said
    assert refused.value.reason is SignedReason.OTHER_SITE


def test_of_two_signatures_the_first_ones_fault_is_told() -> None:
    others = signed(NOTE, "site=t counter=3"), signed(NOTE, "site=s counter=3", b"other")
    for signatures, reason in (
        (others, SignedReason.OTHER_SITE),
        (others[::-1], ManifestReason.WRONG),
    ):
        with pytest.raises((SignedError, ManifestError)) as refused:
            check_either(NOTE, b"d", signatures, public_key=PUBLIC, site_id="s")
        assert refused.value.reason is reason


@pytest.mark.parametrize("name", ["", "x" * 201, 5, None, ["n"]])
def test_a_document_that_names_no_subject(name: object) -> None:
    with pytest.raises(SignedError, match="is signed, but has no name"):
        check(BOOT_SET, "version=3 digest=ab", json.dumps({"name": name}).encode())


def test_the_longest_subject() -> None:
    data = json.dumps({"name": "x" * 200}).encode()
    assert check(BOOT_SET, "version=3 digest=ab", data).subject == "x" * 200


# approvals

GIVEN = SignedApproval(
    site="s" * 63,
    ek_name=b"\0\x0b" + bytes(32),
    role="pos",
    reasons=frozenset({"EK-UNLISTED"}),
    measurements=bytes(32),
    sealed=bytes(32),
    until=1_795_000_000,
    claim="the label says S-2",
)
NO_APPROVAL = "this is no approval of a box, or it is damaged"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ek_name": bytes(50)},
        {"ek_name": bytes(66)},
        {"claim": "x" * MAX_CLAIM},
        {"until": 1},
        {"until": (1 << 53) - 1},
        {"reasons": frozenset(f"A-{n}" for n in range(MAX_REASONS))},
    ],
)
def test_an_approval_is_read_as_it_was_written(changes: dict[str, Any]) -> None:
    one = replace(GIVEN, **changes)
    assert SignedApproval.decode(one.encode()) == one


def test_another_spelling_of_an_approval_is_refused() -> None:
    with pytest.raises(PeerError, match="not written as approvals are"):
        SignedApproval.decode(GIVEN.encode().strip())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(site="s" * 64), NO_APPROVAL),
        (lambda d: d.update(site="s\x1b[2J"), NO_APPROVAL),
        (lambda d: d.update(site=""), NO_APPROVAL),
        (lambda d: d.update(reasons={"EK-UNLISTED": 1}), NO_APPROVAL),
        (lambda d: d.update(reasons=[]), NO_APPROVAL),
        (lambda d: d.update(reasons=[f"A-{n}" for n in range(MAX_REASONS + 1)]), NO_APPROVAL),
        (lambda d: d.update(reasons=["ek unlisted"]), NO_APPROVAL),
        (
            lambda d: d.update(reasons=["EK-UNLISTED", "EK-UNLISTED"]),
            "not written as approvals are",
        ),
        (lambda d: d.update(role="../pos"), NO_APPROVAL),
        (lambda d: d.update(until=0), NO_APPROVAL),
        (lambda d: d.update(until=1 << 53), NO_APPROVAL),
        (lambda d: d.update(until=1.5), NO_APPROVAL),
        (lambda d: d.update(until=True), NO_APPROVAL),
        (lambda d: d.update(claim="x" * (MAX_CLAIM + 1)), NO_APPROVAL),
        (lambda d: d.update(claim="a\nb"), NO_APPROVAL),
        (lambda d: d.update(more=1), NO_APPROVAL),
        (lambda d: d.update(type="doorstep/seed/v1"), NO_APPROVAL),
        (lambda d: d.update(sealed=b64u(bytes(31))), NO_APPROVAL),
        (lambda d: d.update(ek_name=b64u(bytes(35))), NO_APPROVAL),
        (lambda d: d.update(claim="x" * APPROVAL.max_bytes), "an approval has at most 16 KiB"),
    ],
)
def test_what_is_no_approval(change: Change, sentence: str) -> None:
    document = json.loads(GIVEN.encode())
    change(document)
    with pytest.raises(PeerError, match=sentence):
        SignedApproval.decode(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


# parcels

ITEM = Item(name="token", version=4, not_after=1_800_000_000, value=Secret(b"v"))
SEED = Seed(site="s", counter=3, items=(ITEM,))
PART = Part(site="s", listing=bytes(32), number=1, is_last=True, items=(ITEM,))
HEADER = Header(
    site="s",
    ek=b"",
    at=1,
    epoch=2,
    lease_counter=3,
    audit_number=4,
    audit_hash=bytes(32),
    secrets=1,
    listing=bytes(32),
    recipient=recipient(PRIVATE),
)


def changed(data: bytes, change: Change) -> bytes:
    document = json.loads(data)
    change(document)
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(counter=None),
        lambda d: d.update(counter=3.0),
        lambda d: d.update(counter=True),
        lambda d: d.update(counter=-1),
        lambda d: d.update(counter=1 << 62),
        lambda d: d.update(type="doorstep/backup-secrets/v1"),
        lambda d: d.update(more=1),
        lambda d: d.update(items=[]),
        lambda d: d["items"].append(d["items"][0]),
        lambda d: d["items"][0].update(version=0),
        lambda d: d["items"][0].update(not_after=2.5),
    ],
)
def test_what_is_no_seed(change: Change) -> None:
    assert Seed.decode(SEED.encode()) == SEED
    with pytest.raises(PeerError, match="pack it again"):
        Seed.decode(changed(SEED.encode(), change))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(number=None),
        lambda d: d.update(number=1.0),
        lambda d: d.update(type="doorstep/seed/v1"),
        lambda d: d.update(more=1),
        lambda d: d["items"][0].update(name=["token"]),
        lambda d: d["items"][0].update(name="x" * 65),
    ],
)
def test_what_is_no_part_of_a_backup(change: Change) -> None:
    assert Part.decode(PART.encode()) == PART
    with pytest.raises(PeerError, match="damaged: take another"):
        Part.decode(changed(PART.encode(), change))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(at=None),
        lambda d: d.update(epoch=1.0),
        lambda d: d["audit"].update(n=None),
        lambda d: d["audit"].update(n=1e999),
        lambda d: d.update(type="doorstep/seed/v1"),
        lambda d: d.update(recipient="age1"),
    ],
)
def test_what_is_no_header_of_a_backup(change: Change) -> None:
    assert Header.decode(HEADER.encode()) == HEADER
    with pytest.raises(PeerError, match="not those of a backup"):
        Header.decode(changed(HEADER.encode(), change))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(request=5),
        lambda d: d.update(request=["x"]),
        lambda d: d.update(more=1),
        lambda d: d.pop("request"),
        lambda d: d.update(type="doorstep/seed/v1"),
    ],
)
def test_what_is_no_recipient_file(change: Change) -> None:
    for request in (None, "DOORSTEP-LEASE-REQUEST-1:AA"):
        good = asked_document("s", HEADER.recipient, request)
        assert read_asked(good) == ("s", HEADER.recipient, request)
        with pytest.raises(PeerError, match="this is no recipient file"):
            read_asked(changed(good, change))


def test_a_private_key_is_never_taken_for_a_recipient() -> None:
    """Both have as many letters and a good checksum; only the first word differs."""
    with pytest.raises(PeerError, match="no age recipient"):
        check_recipient(identity(PRIVATE).reveal().decode().lower())


def test_a_letter_that_is_none_is_refused_even_under_a_checksum_made_for_it() -> None:
    letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    body = HEADER.recipient.removeprefix("age1")[:-6]
    values = [letters.index(one) for one in body]
    values[10] = -1  # as `find` says of "b"
    state = [ord(one) >> 5 for one in "age"] + [0] + [ord(one) & 31 for one in "age"]
    summed = _polymod([*state, *values, *[0] * 6]) ^ 1
    tail = "".join(letters[summed >> 5 * (5 - at) & 31] for at in range(6))
    with pytest.raises(PeerError, match="no age recipient"):
        check_recipient(f"age1{body[:10]}b{body[11:]}{tail}")


def _polymod(values: list[int]) -> int:
    """BIP 173."""
    found = 1
    for value in values:
        top, found = found >> 25, (found & 0x1FFFFFF) << 5 ^ value
        for at, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            found ^= term if top >> at & 1 else 0
    return found


# lists of revoked certificates


def sequence(content: bytes) -> bytes:
    """Write a SEQUENCE of 128 to 255 bytes (X.690, 8.1.3)."""
    assert 127 < len(content) < 256
    return b"\x30\x81" + bytes([len(content)]) + content


def test_a_list_without_an_end_is_refused() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "r" * 48)])
    now, key = datetime(2026, 11, 21, tzinfo=UTC), ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    found = builder.next_update(now + timedelta(days=1)).sign(key, hashes.SHA256())
    assert crl.end(found) == now + timedelta(days=1)
    whole, tbs = found.public_bytes(Encoding.DER), found.tbs_certlist_bytes
    next_update = b"\x17\x0d261122000000Z"
    content = tbs[-tbs[1] :] if tbs[1] < 128 else tbs[-tbs[2] :]
    assert content.count(next_update) == 1
    shorter = b"\x30" + bytes([len(content) - 15]) + content.replace(next_update, b"")
    assert len(content) - 15 < 128
    endless = x509.load_der_x509_crl(sequence(shorter + whole[whole.index(tbs) + len(tbs) :]))
    assert endless.next_update_utc is None
    with pytest.raises(PeerError, match="has no end"):
        crl.end(endless)


def test_a_list_is_of_nobody_whose_key_cannot_sign() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    now, key = datetime(2026, 11, 21, tzinfo=UTC), ec.generate_private_key(ec.SECP256R1())

    def certificate(public: Any, subject: x509.Name = name) -> x509.Certificate:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(name).serial_number(1)
        made = made.public_key(public).not_valid_before(now)
        return made.not_valid_after(now + timedelta(days=9)).sign(key, hashes.SHA256())

    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    found = builder.next_update(now + timedelta(days=1)).sign(key, hashes.SHA256())
    assert crl.is_of(found, certificate(key.public_key()))
    renamed = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another root")])
    assert not crl.is_of(found, certificate(key.public_key(), renamed))
    other = ec.generate_private_key(ec.SECP256R1())
    assert not crl.is_of(found, certificate(other.public_key()))
    assert not crl.is_of(found, certificate(X25519PrivateKey.generate().public_key()))
