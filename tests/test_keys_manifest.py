"""Signed documents: vectors made with stock minisign, and our own signatures."""

import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import PeerError
from keys.manifest import ManifestError, ManifestReason, PublicKey, sign, verify

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
