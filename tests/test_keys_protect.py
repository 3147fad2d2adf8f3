"""What we encrypt for a TPM opens in a real one, under every kind of EK that we meet."""

import secrets
from pathlib import Path

import pytest
from software_tpm import SoftwareTpm, activate, create_child, create_ek, import_object
from tpm2_pytss import TSS2_Exception

from attest.ak import AK_TEMPLATE
from attest.ektemplate import TEMPLATES
from keys.errors import PeerError
from keys.protect import (
    RANDOM_BYTES,
    cfb_encrypt,
    duplicate,
    encrypt_seed,
    kdfa,
    kdfe,
    make_credential,
)
from keys.tpm_public import (
    Attributes,
    PublicArea,
    sealed_object,
    sealed_sensitive,
    sealed_unique,
)

PROVED = [known for known in TEMPLATES if known.name in ("L-1", "L-2", "H-1", "H-2", "H-3")]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory):
    software = SoftwareTpm(Path(tmp_path_factory.mktemp("tpm")))
    yield software
    software.stop()


@pytest.mark.parametrize("template", PROVED, ids=lambda known: known.name)
def test_a_credential_opens_in_the_tpm_that_holds_both_keys(tpm, template):
    with tpm.open() as esys:
        handle, ek = create_ek(esys, template.public)
        ak_handle, ak = create_child(esys, handle, ek, AK_TEMPLATE)
        secret = secrets.token_bytes(32)
        wrapped = make_credential(ek, ak.name(), secret, secrets.token_bytes(RANDOM_BYTES))
        opened = activate(esys, ak_handle, handle, ek, wrapped.blob, wrapped.encrypted_seed)
        assert opened == secret
        other = make_credential(
            ek, b"\0\x0b" + bytes(32), secret, secrets.token_bytes(RANDOM_BYTES)
        )
        with pytest.raises(TSS2_Exception):
            activate(esys, ak_handle, handle, ek, other.blob, other.encrypted_seed)
        esys.flush_context(ak_handle)
        esys.flush_context(handle)


@pytest.mark.parametrize("template", PROVED, ids=lambda known: known.name)
def test_a_duplicate_is_imported_and_unsealed(tpm, template):
    share, seed = secrets.token_bytes(32), secrets.token_bytes(32)
    attributes = Attributes.NO_DA | Attributes.USER_WITH_AUTH
    public = sealed_object(
        policy=b"", unique=sealed_unique(seed, share), attributes=int(attributes)
    )
    with tpm.open() as esys:
        handle, ek = create_ek(esys, template.public)
        blob, encrypted = duplicate(
            ek, sealed_sensitive(seed, share), public, secrets.token_bytes(RANDOM_BYTES)
        )
        item = import_object(esys, handle, ek, public, blob, encrypted)
        assert bytes(esys.unseal(item_handle=item).buffer) == share
        esys.flush_context(item)
        changed = bytearray(blob)
        changed[-1] ^= 1
        with pytest.raises(TSS2_Exception):
            import_object(esys, handle, ek, public, bytes(changed), encrypted)
        esys.flush_context(handle)


def test_kdfa_gives_the_blocks_of_sp800_108():
    long = kdfa("sha256", b"key", b"STORAGE", b"u", b"v", 512)
    assert len(long) == 64
    assert long[:32] != kdfa("sha256", b"key", b"STORAGE", b"u", b"v", 256)
    assert kdfe("sha384", b"z", b"DUPLICATE", b"u", b"v", 384) != bytes(48)


@pytest.mark.parametrize("bits", [0, 7])
def test_kdfs_give_whole_bytes_only(bits):
    with pytest.raises(ValueError, match="whole bytes"):
        kdfa("sha256", b"", b"", b"", b"", bits)


def test_cfb_matches_nist_sp800_38a():
    # F.3.13 CFB128-AES128 has an IV; its first block with a zero IV is AES of zero.
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    stream = bytes.fromhex("7df76b0c1ab899b33e42f047b91b546f")
    assert cfb_encrypt(key, bytes(16)) == stream
    assert cfb_encrypt(key, bytes(5)) == stream[:5]


def test_a_seed_needs_enough_randomness_and_a_parent_that_can_hold_children():
    low = TEMPLATES[1].public
    with pytest.raises(ValueError, match="random bytes"):
        encrypt_seed(low, b"DUPLICATE", b"short")
    with pytest.raises(PeerError):
        encrypt_seed(low, b"DUPLICATE", bytes(RANDOM_BYTES))
    sealed = sealed_object(policy=b"", unique=bytes(32))
    with pytest.raises(PeerError):
        encrypt_seed(sealed, b"DUPLICATE", bytes(RANDOM_BYTES))


def test_sha1_parents_are_refused():
    area = TEMPLATES[1].public
    weak = PublicArea(name_alg=4, attributes=area.attributes, auth_policy=b"", key=area.key)
    with pytest.raises(PeerError):
        encrypt_seed(weak, b"IDENTITY", bytes(RANDOM_BYTES))
