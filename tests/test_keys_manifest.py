"""Signed documents: vectors made with stock minisign, and our own signatures."""

import base64
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import PeerError
from keys.manifest import MAX_FILE, ManifestError, ManifestReason, PublicKey, sign, verify

VECTORS = sorted((Path(__file__).parent / "vectors/manifest").glob("*.toml"))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PublicKey.of(KEY.public_key()).encode()


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path):
    vector = tomllib.loads(path.read_text())
    arguments = [vector[name].encode() for name in ("public_key", "data", "signature")]
    if vector["expect"] == "ok":
        assert verify(*arguments, context=vector["context"]) == "site=shop-0417 counter=3"
        return
    with pytest.raises(ManifestError) as refused:
        verify(*arguments, context=vector["context"])
    assert refused.value.reason.value == vector["expect"]


SIGNED = sign(KEY, b"d", trusted_comment="site=s", context="c")
UNTRUSTED, TRUSTED = b"untrusted comment: ", b"trusted comment: "


def said_by(comment: bytes) -> bytes:
    """Sign a trusted comment as a signer may write it, who does not ask `sign`."""
    lines = SIGNED.split(b"\n")
    first = base64.b64decode(lines[1])[10:]
    second = base64.b64encode(KEY.sign(first + comment))
    return b"\n".join((*lines[:2], TRUSTED + comment, second, b""))


def line(number: int, old: bytes, new: bytes) -> bytes:
    lines = SIGNED.split(b"\n")
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new)
    return b"\n".join(lines)


def other_spelling(text: bytes) -> bytes:
    """Set a bit of the last letter that stands for nothing (RFC 4648, 3.5)."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body, padding = text.rstrip(b"="), b"=" * text.count(b"=")
    last = letters[letters.index(body[-1:]) + 1 :][:1]
    assert base64.b64decode(body[:-1] + last + padding) == base64.b64decode(text)
    return body[:-1] + last + padding


MALFORMED = ManifestReason.MALFORMED


@pytest.mark.parametrize(
    ("signature", "reason", "sentence"),
    [
        (line(0, UNTRUSTED, b"comment: "), MALFORMED, "has four lines"),
        (line(2, TRUSTED, b"comment: "), MALFORMED, "has four lines"),
        (SIGNED + b"more\n", MALFORMED, "has four lines"),
        (line(1, b"RU", b"QU"), MALFORMED, "algorithm ED"),
        (SIGNED.replace(b"=\n", b"\n"), MALFORMED, "not base64"),
        (
            b"\n".join((*SIGNED.split(b"\n")[:3], other_spelling(SIGNED.split(b"\n")[3]), b"")),
            MALFORMED,
            "expected 64 bytes in base64",
        ),
        (
            b"\n".join((*SIGNED.split(b"\n")[:3], base64.b64encode(bytes(63)), b"")),
            MALFORMED,
            "expected 64 bytes in base64",
        ),
        (SIGNED + b"x" * MAX_FILE, MALFORMED, "larger than"),
        (said_by(b"c"), ManifestReason.CONTEXT, "for another purpose than c"),
        (said_by(b"c \xff"), MALFORMED, "not UTF-8"),
        (line(2, b"site=s", b"site=t"), ManifestReason.COMMENT, "the trusted comment is not"),
    ],
)
def test_what_is_wrong_with_a_signature_is_said(signature, reason, sentence):
    with pytest.raises(ManifestError, match=sentence) as refused:
        verify(PUBLIC, b"d", signature, context="c")
    assert refused.value.reason is reason


def test_another_document_is_said():
    assert verify(PUBLIC, b"d", SIGNED, context="c") == "site=s"
    assert verify(PUBLIC, b"d", said_by(b"c site=t"), context="c") == "site=t"
    with pytest.raises(ManifestError) as refused:
        verify(PUBLIC, b"e", SIGNED, context="c")
    assert str(refused.value) == "the document is not what was signed"


def test_a_public_key_may_come_without_its_comment():
    comment, key, _ = PUBLIC.split(b"\n")
    assert PublicKey.decode(key).encode() == PUBLIC
    raw = base64.b64decode(key)
    for wrong in (
        b"",
        comment,
        PUBLIC + key,
        key + b"\n" + key,
        base64.b64encode(raw[:-1]),
        base64.b64encode(raw + b"x"),
    ):
        with pytest.raises(ManifestError) as refused:
            PublicKey.decode(wrong)
        assert refused.value.reason is MALFORMED


def test_every_reason_has_a_vector():
    seen = {tomllib.loads(path.read_text())["expect"] for path in VECTORS}
    assert seen == {"ok"} | {reason.value for reason in ManifestReason}


def test_public_key_file_comes_back():
    assert PublicKey.decode(PUBLIC).encode() == PUBLIC
    vector = tomllib.loads(next(p for p in VECTORS if p.stem == "good").read_text())
    assert PublicKey.decode(vector["public_key"].encode()).encode().decode() == vector["public_key"]


@given(st.binary(max_size=200), st.text("abc=0123 é", max_size=30))
@settings(max_examples=40, deadline=None)
def test_what_we_sign_verifies_for_its_purpose_only(data, comment):
    signed = sign(KEY, data, trusted_comment=comment, context="doorstep/v1/a")
    assert verify(PUBLIC, data, signed, context="doorstep/v1/a") == comment
    with pytest.raises(ManifestError) as refused:
        verify(PUBLIC, data, signed, context="doorstep/v1/ab")
    assert refused.value.reason is ManifestReason.CONTEXT


def test_sign_takes_one_line_only():
    for comment, context in (("a\nb", "c"), ("a", "two words"), ("a", "")):
        with pytest.raises(ValueError, match="one line"):
            sign(KEY, b"", trusted_comment=comment, context=context)


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_as_the_peers_fault(junk):
    for arguments in (
        (PUBLIC, b"", junk),
        (junk, b"", sign(KEY, b"", trusted_comment="", context="c")),
    ):
        with pytest.raises(PeerError):
            verify(*arguments, context="c")
