"""What headquarters believes of a request: a TPM's word for its key, true and false."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from cache_lab import NOW, SITE, Controller
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME,
)

from bootstrap.ca_desk import check_proof
from bootstrap.errors import PeerError
from keys import ca
from keys.ca import Kind
from keys.ca_proof import MAX_BYTES, Proof, proof_digest
from keys.errors import PeerError as KeysPeerError
from keys.io.tpm import Tpm
from keys.io.tpm_key import TpmKey
from keys.io.tpm_policies import area_of
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease_request import appliance_name
from keys.policy import TpmPolicy
from keys.tpm_objects import AK_TEMPLATE, Blob, signing_template
from keys.tpm_public import Attributes, PublicArea

NAME = "box-ca"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """An appliance whose keys can be asked for more than it would say."""

    ring: TpmRing
    key: TpmKey
    proof: Proof
    appliance: str

    @property
    def tpm(self) -> Tpm:
        return self.ring._tpm

    def request(self, proof: Proof | None, **changes: object) -> ca.Request:
        wanted = {
            "key": self.key,
            "site_id": SITE,
            "kind": Kind.BOX,
            "appliance": self.appliance,
            "proof": None if proof is None else proof.encode(),
        } | changes
        made = ca.make_request(wanted.pop("key"), **wanted)  # type: ignore[arg-type]
        return ca.read_request(made.public_bytes(Encoding.PEM))

    def digest(self, kind: Kind = Kind.BOX, public: bytes | None = None) -> bytes:
        public = self.proof.public if public is None else public
        return proof_digest(site=SITE, kind=kind.value, public=public)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    controller = Controller(tmp_path_factory.mktemp("controller"))
    try:
        with controller.started() as (_, ring, vault):
            key = vault.signing_key(NAME)
            assert isinstance(key, TpmKey)
            text = vault.prove(NAME, "box")
            assert text is not None
            appliance = vault.appliance
            assert appliance is not None
            proof = Proof.decode(text)
            yield Lab(ring=ring, key=key, proof=proof, appliance=appliance)
    finally:
        controller.close()


def test_a_tpm_vouches_for_its_key(lab: Lab) -> None:
    proven = check_proof(lab.request(lab.proof))
    assert proven is not None
    assert proven.appliance == lab.appliance
    assert proven.authority == lab.ring._made.authority_key


def test_a_key_of_after_the_first_lease_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    controller = Controller(tmp_path_factory.mktemp("leased"))
    try:
        with controller.started() as (_, ring, vault):
            ring.apply(controller.lease(ring), NOW)
            proven = check_proof(request_of(ring, vault))
            assert proven is not None
            assert proven.authority == controller.authority.public_key()
    finally:
        controller.close()


def request_of(ring: TpmRing, vault: Vault) -> ca.Request:
    key = vault.signing_key(NAME)
    proof = vault.prove(NAME, "box")
    made = ca.make_request(key, site_id=SITE, kind=Kind.BOX, appliance=ring.appliance, proof=proof)
    return ca.read_request(made.public_bytes(Encoding.PEM))


def test_a_key_in_software_has_nobody_s_word(lab: Lab) -> None:
    assert check_proof(lab.request(None)) is None


def another_point() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def of_another_hierarchy(lab: Lab) -> ca.Request:
    """A key that the appliance's owner could load with any content: of the null hierarchy."""
    tpm = lab.tpm
    with tpm._primary(ESYS_TR.NULL, AK_TEMPLATE) as (ak, public), tpm._loaded(lab.key.blob) as key:
        attest, signature = tpm._esys.certify(
            object_handle=key,
            sign_handle=ak,
            qualifying_data=TPM2B_DATA(lab.digest()),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
    said = {"attest": bytes(attest.attestationData), "signature": bytes(signature.marshal())}
    return lab.request(replace(lab.proof, ak=public, **said))


def by_a_key_that_signs_anything(lab: Lab) -> ca.Request:
    """Not restricted: its owner can have it sign a word that no TPM gave."""
    free = replace(AK_TEMPLATE, attributes=AK_TEMPLATE.attributes & ~Attributes.RESTRICTED)
    tpm = lab.tpm
    with tpm._primary(ESYS_TR.ENDORSEMENT, free) as (ak, public), tpm._loaded(lab.key.blob) as key:
        attest, signature = tpm._esys.certify(
            object_handle=key,
            sign_handle=ak,
            qualifying_data=TPM2B_DATA(lab.digest()),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
    said = {"attest": bytes(attest.attestationData), "signature": bytes(signature.marshal())}
    name = appliance_name(SITE, lab.proof.ek, public)
    return lab.request(replace(lab.proof, ak=public, **said), appliance=name)


def for_another_key(lab: Lab) -> ca.Request:
    """Another key of this TPM is certified, with the words for this one."""
    other = TpmKey.read(lab.ring.make_signing_key(), lab.ring._sign)
    said = lab.tpm.certify(other.blob, lab.digest())
    return lab.request(replace(lab.proof, attest=said.attest, signature=said.signature))


def quoted(lab: Lab) -> ca.Request:
    """A quote over the right bytes is no word for a key."""
    said = lab.tpm.quote((0,), lab.digest())
    return lab.request(replace(lab.proof, attest=said.attest, signature=said.signature))


def opened_by_a_password(lab: Lab) -> ca.Request:
    """A key in the TPM that signs for everybody there."""
    template = signing_template(TpmPolicy())
    template = replace(template, attributes=template.attributes | Attributes.USER_WITH_AUTH)
    tpm = lab.tpm
    tpm._let_go()
    private, public, *_ = tpm._esys.create(
        parent_handle=tpm._storage(),
        in_sensitive=TPM2B_SENSITIVE_CREATE(),
        in_public=area_of(template.encode()),
        outside_info=TPM2B_DATA(),
        creation_pcr=TPML_PCR_SELECTION(),
    )
    area = bytes(public.publicArea.marshal())
    said = tpm.certify(Blob(public=area, private=bytes(private.buffer)), lab.digest(public=area))
    proof = replace(lab.proof, public=area, attest=said.attest, signature=said.signature)
    # its owner signs the request: here it is made to look so
    return replace(lab.request(proof), key=ca_key(area))


def ca_key(area: bytes) -> ec.EllipticCurvePublicKey:
    key = PublicArea.decode(area).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


LIES: dict[str, tuple[Callable[[Lab], ca.Request], str]] = {
    "other kind": (lambda lab: lab.request(lab.proof, kind=Kind.APPLIANCE), "another request"),
    "other site": (lambda lab: lab.request(lab.proof, site_id="shop-1"), "another request"),
    "key in software": (
        lambda lab: lab.request(lab.proof, key=ec.generate_private_key(ec.SECP256R1())),
        "not one that signs under leases",
    ),
    "other appliance": (
        lambda lab: lab.request(lab.proof, appliance="0" * 32),
        "not that of the appliance",
    ),
    "no appliance": (
        lambda lab: lab.request(lab.proof, appliance=None),
        "not that of the appliance",
    ),
    "other authority": (
        lambda lab: lab.request(replace(lab.proof, authority=another_point())),
        "not one that signs under leases",
    ),
    "no authority": (lambda lab: lab.request(replace(lab.proof, authority=b"\4")), "does not hold"),
    "other counter": (
        lambda lab: lab.request(replace(lab.proof, unmoved=(lab.proof.unmoved or 0) + 1)),
        "not one that signs under leases",
    ),
    "no counter": (
        lambda lab: lab.request(replace(lab.proof, unmoved=None)),
        "not one that signs under leases",
    ),
    "edited": (
        lambda lab: lab.request(replace(lab.proof, attest=lab.proof.attest[:-1] + b"\0")),
        "does not hold",
    ),
    "other signature": (
        lambda lab: lab.request(replace(lab.proof, signature=lab.proof.signature[:-1] + b"\0")),
        "does not hold",
    ),
    "no AK": (lambda lab: lab.request(replace(lab.proof, ak=lab.proof.public)), "does not hold"),
    "other EK": (
        lambda lab: lab.request(replace(lab.proof, ek=lab.proof.ak)),
        "not one that signs under leases",
    ),
    "other hierarchy": (of_another_hierarchy, "no primary key of the endorsement"),
    "key that signs anything": (by_a_key_that_signs_anything, "does not hold"),
    "other key": (for_another_key, "vouched for another key"),
    "quote": (quoted, "vouched for another key"),
    "password": (opened_by_a_password, "not one that signs under leases"),
    "damaged": (
        lambda lab: replace(lab.request(lab.proof), proof=b"{}"),
        "does not hold",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_word_that_does_not_hold(lab: Lab, name: str) -> None:
    make, sentence = LIES[name]
    with pytest.raises(PeerError, match=sentence):
        check_proof(make(lab))


def test_a_key_elsewhere_in_the_request_is_found(lab: Lab) -> None:
    """The word of one key in the request of another of the same TPM."""
    said = lab.tpm.certify(lab.key.blob, lab.digest(public=b"other"))
    proof = replace(lab.proof, attest=said.attest, signature=said.signature)
    with pytest.raises(PeerError, match="another request"):
        check_proof(lab.request(proof))


@pytest.mark.parametrize("unmoved", [-1, 1 << 63, True, "1", 1.0, [1]])
def test_a_counter_that_is_none_is_refused(lab: Lab, unmoved: object) -> None:
    document = json.loads(lab.proof.encode()) | {"unmoved": unmoved}
    with pytest.raises(KeysPeerError, match="damaged"):
        Proof.decode(json.dumps(document).encode())


def test_a_word_too_long_is_refused(lab: Lab) -> None:
    text = lab.proof.encode()
    Proof.decode(text + b" " * (MAX_BYTES - len(text)))
    with pytest.raises(KeysPeerError, match="damaged"):
        Proof.decode(text + b" " * (MAX_BYTES - len(text) + 1))


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@settings(max_examples=100)
def test_any_bytes_are_a_proof_or_refused(data: bytes) -> None:
    with pytest.raises(KeysPeerError):
        Proof.decode(data)


@given(
    parts=st.lists(st.binary(max_size=40), min_size=6, max_size=6),
    unmoved=st.none() | st.integers(0, (1 << 63) - 1),
)
@settings(max_examples=100)
def test_a_proof_is_read_as_it_was_written(parts: list[bytes], unmoved: int | None) -> None:
    names = ("ek", "ak", "public", "attest", "signature", "authority")
    one = Proof(**dict(zip(names, parts, strict=True)), unmoved=unmoved)
    assert Proof.decode(one.encode()) == one
