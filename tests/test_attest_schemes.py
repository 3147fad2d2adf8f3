"""Attestation keys of every scheme in a real software TPM: its quotes are what we verify."""

from dataclasses import replace
from pathlib import Path

import pytest
from software_tpm import SoftwareTpm, activate, create_child, create_ek, quote

from attest.ak import AK_TEMPLATE, ECDSA, RSAPSS, RSASSA, check_ak, check_under_ek
from attest.credential import RANDOM_BYTES, check_keys, make_challenge
from attest.ektemplate import TEMPLATES
from attest.errors import CheckError
from attest.quote import check_coverage, check_quote
from attest.reasons import Reason
from keys.tpm_public import HASH_IDS, Curve, EccPublic, PublicArea, RsaPublic, Scheme

BANKS = ("sha1", "sha256", "sha384", "sha512")
LOW, HIGH = "0,1,2,3,4,5,6,7", "8,9,10,11,12,13,14,15"


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory):
    directory = Path(tmp_path_factory.mktemp("schemes"))
    software = SoftwareTpm(directory, banks=",".join(BANKS))
    yield software
    software.stop()


def ecc(curve: Curve, hash_name: str) -> EccPublic:
    scheme = Scheme(algorithm=ECDSA, hash_alg=HASH_IDS[hash_name])
    return EccPublic(symmetric=None, scheme=scheme, curve=curve, kdf=None, x=b"", y=b"")


def rsa(bits: int, algorithm: int, hash_name: str) -> RsaPublic:
    scheme = Scheme(algorithm=algorithm, hash_alg=HASH_IDS[hash_name])
    return RsaPublic(symmetric=None, scheme=scheme, bits=bits, exponent=0, modulus=b"")


def template(key: EccPublic | RsaPublic, attributes: int | None = None) -> PublicArea:
    chosen = AK_TEMPLATE.attributes if attributes is None else attributes
    return replace(AK_TEMPLATE, key=key, attributes=chosen)


def ek_named(name: str) -> PublicArea:
    return next(known.public for known in TEMPLATES if known.name == name)


def values_of(esys, bank: str, indices: str) -> dict[int, bytes]:
    found = {}
    for index in map(int, indices.split(",")):
        answer = esys.pcr_read(pcr_selection_in=f"{bank}:{index}")
        digests = answer[2]
        found[index] = bytes(digests.digests[0].buffer)
    return found


def quoted(esys, handle, ak: PublicArea, selection: str):
    """Quote and verify, with the values that the TPM reads out."""
    values = {
        bank: values_of(esys, bank, indices)
        for bank, indices in (part.split(":") for part in selection.split("+"))
    }
    attest, signature = quote(esys, handle, selection, b"nonce")
    return check_quote(
        attest=attest, signature=signature, ak=ak, extra_data=b"nonce", values=values
    )


@pytest.mark.parametrize(
    "key",
    [
        ecc(Curve.P256, "sha256"),
        ecc(Curve.P256, "sha384"),
        ecc(Curve.P384, "sha384"),
        ecc(Curve.P384, "sha512"),
        rsa(2048, RSASSA, "sha256"),
        rsa(2048, RSASSA, "sha384"),
        rsa(2048, RSASSA, "sha512"),
        rsa(2048, RSAPSS, "sha256"),
        rsa(2048, RSAPSS, "sha384"),
        rsa(3072, RSASSA, "sha384"),
        rsa(3072, RSAPSS, "sha256"),
    ],
    ids=lambda key: (
        f"{getattr(key, 'bits', 0) or key.curve.name}-{key.scheme.algorithm:x}-"
        f"{key.scheme.hash_alg:x}"
    ),
)
def test_quotes_of_every_scheme_verify_over_every_bank(tpm, key):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, ek_named("L-1"))
        handle, ak = create_child(esys, ek_handle, ek, template(key))
        esys.flush_context(ek_handle)
        check_ak(ak)
        # As a TPM that cannot hold four banks in one quote is asked: bank by bank, in halves.
        quotes = tuple(
            quoted(esys, handle, ak, f"{bank}:{half}") for bank in BANKS for half in (LOW, HIGH)
        )
        both = quoted(esys, handle, ak, f"sha1:{LOW},{HIGH}+sha256:{LOW},{HIGH}")
        esys.flush_context(handle)
    for verified in (*quotes, both):
        check_under_ek(verified.qualified_signer, ek, ak)
    values = check_coverage(quotes, frozenset(BANKS))
    assert {bank: set(given) for bank, given in values.items()} == {
        bank: set(range(16)) for bank in BANKS
    }
    assert check_coverage((both,), frozenset({"sha1", "sha256"})) == {
        bank: values[bank] for bank in ("sha1", "sha256")
    }


@pytest.mark.parametrize("name", ["L-2", "L-1", "H-1", "H-2", "H-3", "H-6"])
def test_an_ak_under_every_kind_of_ek_opens_its_challenge(tpm, name):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, ek_named(name))
        handle, ak = create_child(esys, ek_handle, ek, AK_TEMPLATE)
        keys = check_keys(ek.encode(), ak.encode())
        assert keys.template.name == name
        made = make_challenge(keys, b"secret of 32 bytes for the box!!", bytes(range(RANDOM_BYTES)))
        blob, seed = made.credential_blob[2:], made.encrypted_secret[2:]
        opened = activate(esys, handle, ek_handle, ek, blob, seed)
        assert opened == b"secret of 32 bytes for the box!!"
        esys.flush_context(ek_handle)
        verified = quoted(esys, handle, ak, f"sha256:{LOW}")
        esys.flush_context(handle)
        other_handle, other = create_ek(esys, ek_named("L-1" if name != "L-1" else "L-2"))
        esys.flush_context(other_handle)
    check_under_ek(verified.qualified_signer, ek, ak)
    with pytest.raises(CheckError) as refused:
        check_under_ek(verified.qualified_signer, other, ak)
    assert refused.value.reason is Reason.AK_NOT_UNDER_EK


@pytest.mark.parametrize("attributes", [0x50072, 0x50076, 0x50472], ids=hex)
def test_harmless_attributes_of_real_aks_are_accepted(tpm, attributes):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, ek_named("L-1"))
        handle, ak = create_child(
            esys, ek_handle, ek, template(ecc(Curve.P256, "sha256"), attributes)
        )
        esys.flush_context(ek_handle)
        verified = quoted(esys, handle, ak, f"sha256:{LOW}")
        esys.flush_context(handle)
    assert ak.attributes == attributes
    check_ak(ak)
    check_under_ek(verified.qualified_signer, ek, ak)


@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_the_name_of_an_ak_is_by_its_own_hash(tpm, hash_name):
    area = replace(AK_TEMPLATE, name_alg=HASH_IDS[hash_name])
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, ek_named("L-1"))
        handle, ak = create_child(esys, ek_handle, ek, area)
        keys = check_keys(ek.encode(), ak.encode())
        made = make_challenge(keys, bytes(32), bytes(range(RANDOM_BYTES)))
        blob, seed = made.credential_blob[2:], made.encrypted_secret[2:]
        assert activate(esys, handle, ek_handle, ek, blob, seed) == bytes(32)
        esys.flush_context(ek_handle)
        verified = quoted(esys, handle, ak, f"sha256:{LOW}")
        esys.flush_context(handle)
    check_under_ek(verified.qualified_signer, ek, ak)


def test_a_real_quote_of_the_debug_pcr_is_refused(tpm):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, ek_named("L-1"))
        handle, ak = create_child(esys, ek_handle, ek, AK_TEMPLATE)
        esys.flush_context(ek_handle)
        values = {"sha256": values_of(esys, "sha256", "23")}
        attest, signature = quote(esys, handle, "sha256:23", b"nonce")
        esys.flush_context(handle)
    with pytest.raises(CheckError) as refused:
        check_quote(attest=attest, signature=signature, ak=ak, extra_data=b"nonce", values=values)
    assert refused.value.reason is Reason.QUOTE_SELECTION
