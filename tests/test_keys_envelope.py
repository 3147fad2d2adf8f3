"""The bundle opens in the TPM and boot that it was made for, and nowhere else (swtpm)."""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from software_tpm import SoftwareTpm, create_ek
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_EO, TPM2_SE, TPM2_SU
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_NONCE,
    TPM2B_OPERAND,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TPMU_HA,
)

from keys.envelope import (
    SEALED_PCRS,
    Binding,
    Boot,
    Randomness,
    b64u,
    bind,
    content_key,
    seal,
    secret_digest,
    unb64u,
)
from keys.errors import PeerError
from keys.secret import Secret
from keys.tpm_public import Curve, EccPublic, PublicArea, RsaPublic, Symmetric

# TCG EK Credential Profile 2.6, B.3.3, B.3.4, B.4.5 (templates L-1, L-2, H-3) and B.6.
POLICY_A = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
POLICY_B_384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca"
    "cb47ba09699646150f9fc000f3f80e12"
)
AES_128, AES_256 = (Symmetric(algorithm=6, bits=bits, mode=0x43) for bits in (128, 256))
TEMPLATES = {
    "rsa-2048": PublicArea(
        name_alg=0x000B,
        attributes=0x000300B2,
        auth_policy=POLICY_A,
        key=RsaPublic(symmetric=AES_128, scheme=None, bits=2048, exponent=0, modulus=bytes(256)),
    ),
    "ecc-p256": PublicArea(
        name_alg=0x000B,
        attributes=0x000300B2,
        auth_policy=POLICY_A,
        key=EccPublic(
            symmetric=AES_128, scheme=None, curve=Curve.P256, kdf=None, x=bytes(32), y=bytes(32)
        ),
    ),
    "ecc-p384": PublicArea(
        name_alg=0x000C,
        attributes=0x000300F2,
        auth_policy=POLICY_B_384,
        key=EccPublic(symmetric=AES_256, scheme=None, curve=Curve.P384, kdf=None, x=b"", y=b""),
    ),
}
BOX_KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PLAINTEXT = Secret(b'{"type":"application/vnd.doorstep.handoff.v1+json"}')
SELECTION = TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, SEALED_PCRS)))


class Box:
    """What the agent does with its TPM, in the order of the specification."""

    def __init__(self, esys, template):
        self.esys = esys
        self.template = template
        self.handle, self.ek = create_ek(esys, template)

    def session(self, kind=TPM2_SE.POLICY):
        return self.esys.start_auth_session(
            tpm_key=ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            auth_hash=TPM2_ALG.SHA256,
        )

    def authorize_ek(self):
        if self.template.attributes & 0x40:
            return ESYS_TR.PASSWORD
        session = self.session()
        self.esys.policy_secret(
            ESYS_TR.ENDORSEMENT, session, TPM2B_NONCE(), TPM2B_DIGEST(), TPM2B_NONCE(), 0
        )
        return session

    def release(self, session):
        if session != ESYS_TR.PASSWORD:
            self.esys.flush_context(session)

    def load(self, bundle):
        public, _ = TPMT_PUBLIC.unmarshal(bundle.sealed_public)
        area = TPM2B_PUBLIC(publicArea=public)
        session = self.authorize_ek()
        private = self.esys.import_(
            self.handle,
            TPM2B_DATA(),
            area,
            TPM2B_PRIVATE.unmarshal(bundle.duplicate)[0],
            TPM2B_ENCRYPTED_SECRET.unmarshal(bundle.seed)[0],
            TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
            session1=session,
        )
        self.release(session)
        session = self.authorize_ek()
        loaded = self.esys.load(self.handle, private, area, session1=session)
        self.release(session)
        return loaded

    def unseal(self, loaded, boot):
        session = self.session()
        esys = self.esys
        try:
            for offset, size, value, operation in (
                (16, 4, boot.reset_count, TPM2_EO.EQ),
                (20, 4, boot.restart_count, TPM2_EO.EQ),
                (8, 8, boot.clock_before, TPM2_EO.UNSIGNED_LT),
            ):
                operand = TPM2B_OPERAND(value.to_bytes(size, "big"))
                esys.policy_counter_timer(session, operand, operation, offset=offset)
            esys.policy_pcr(session, TPM2B_DIGEST(), SELECTION)
            esys.policy_command_code(session, TPM2_CC.Unseal)
            return bytes(esys.unseal(loaded, session1=session))
        finally:
            esys.flush_context(session)

    def extend(self, index, value):
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=value))
        self.esys.pcr_extend(
            ESYS_TR(index), TPML_DIGEST_VALUES([digest]), session1=ESYS_TR.PASSWORD
        )

    def boot(self):
        """Measure some things, as firmware does; the same at every boot."""
        for index in (0, 2, 4, 7, 8, 9):
            self.extend(index, hashlib.sha256(b"measured %d" % index).digest())

    def attested(self, milliseconds=600_000):
        info = self.esys.read_clock().clockInfo
        values = {}
        for index in SEALED_PCRS:
            _, _, read = self.esys.pcr_read(TPML_PCR_SELECTION.parse(f"sha256:{index}"))
            values[index] = bytes(read[0])
        return Boot(
            reset_count=info.resetCount,
            restart_count=info.restartCount,
            clock_before=info.clock + milliseconds,
            pcrs=values,
        )


BINDING = Binding(
    box=UUID(int=5), session=b"s" * 16, transcript=b"x" * 32, boot_set=b"b" * 32, expires=1795000600
)


def sealed(ek, boot, binding=BINDING):
    return seal(
        ek=ek,
        box_ephemeral=BOX_KEY.public_key().public_bytes_raw(),
        boot=boot,
        binding=binding,
        plaintext=PLAINTEXT,
        randomness=Randomness.cut(os.urandom(Randomness.SIZE)),
    )


def opened(share, bundle, transcript=BINDING.transcript, aad=None):
    shared = BOX_KEY.exchange(X25519PublicKey.from_public_bytes(bundle.ephemeral))
    key = content_key(share, shared, transcript)
    aad = BINDING.associated_data() if aad is None else aad
    return AESGCM(key.reveal()).decrypt(bundle.nonce, bundle.ciphertext, aad)


@pytest.fixture
def tpm(tmp_path):
    tpm = SoftwareTpm(tmp_path)
    yield tpm
    tpm.stop()


def refused_by(call, *arguments):
    """Name the TPM error of a call that must fail."""
    with pytest.raises(TSS2_Exception) as refused:
        call(*arguments)
    return str(refused.value)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_opens_in_the_attested_boot_only(tpm, template):
    with tpm.open() as esys:
        box = Box(esys, template)
        box.boot()
        boot = box.attested()
        bundle = sealed(box.ek, boot)
        loaded = box.load(bundle)
        assert opened(box.unseal(loaded, boot), bundle) == PLAINTEXT.reveal()
        box.extend(15, hashlib.sha256(b"doorstep/v1/opened\0" + BINDING.transcript).digest())
        assert "policy check failed" in refused_by(box.unseal, loaded, boot)
    tpm.stop()
    with tpm.open() as esys:
        box = Box(esys, template)
        box.boot()
        after = box.attested()
        assert after.pcrs == boot.pcrs
        assert after.reset_count == boot.reset_count + 1
        loaded = box.load(bundle)
        session = box.session()
        reset = TPM2B_OPERAND(boot.reset_count.to_bytes(4, "big"))
        said = refused_by(esys.policy_counter_timer, session, reset, TPM2_EO.EQ, 16)
        assert "policy" in said
        esys.flush_context(session)
        # An attacker who leaves the counters out, or states those of now, gets no further.
        assert "policy check failed" in refused_by(box.unseal, loaded, after)


def test_clock_limit_is_the_tpms(tpm):
    with tpm.open() as esys:
        box = Box(esys, TEMPLATES["ecc-p256"])
        boot = box.attested(milliseconds=5000)
        bundle = sealed(box.ek, boot)
        loaded = box.load(bundle)
        assert box.unseal(loaded, boot)
        esys.clock_set(boot.clock_before)
        assert "policy" in refused_by(box.unseal, loaded, boot)
        with pytest.raises(TSS2_Exception):
            esys.clock_set(boot.clock_before - 4000)


def test_a_saved_state_and_a_cold_start_raise_the_restart_count_alone(tpm):
    with tpm.open() as esys:
        box = Box(esys, TEMPLATES["ecc-p256"])
        boot = box.attested()
        bundle = sealed(box.ek, boot)
        esys.shutdown(TPM2_SU.STATE)
    tpm.stop()
    with tpm.open() as esys:
        box = Box(esys, TEMPLATES["ecc-p256"])
        after = box.attested()
        assert (after.reset_count, after.restart_count) == (
            boot.reset_count,
            boot.restart_count + 1,
        )
        loaded = box.load(bundle)
        assert "policy" in refused_by(box.unseal, loaded, boot)
        assert "policy check failed" in refused_by(box.unseal, loaded, after)


def test_another_tpm_cannot_import(tpm, tmp_path_factory):
    with tpm.open() as esys:
        box = Box(esys, TEMPLATES["ecc-p256"])
        bundle = sealed(box.ek, box.attested())
    other = SoftwareTpm(tmp_path_factory.mktemp("other"))
    with other.open() as esys:
        assert "integrity" in refused_by(Box(esys, TEMPLATES["ecc-p256"]).load, bundle)
    other.stop()


def load_vector():
    path = Path(__file__).parent / "vectors/envelope/bundle.toml"
    return tomllib.loads(path.read_text())


def vector_bundle(vector):
    return seal(
        ek=PublicArea.decode(bytes.fromhex(vector["ek_public"])),
        box_ephemeral=bytes.fromhex(vector["box_ephemeral"]),
        boot=Boot(
            reset_count=vector["reset_count"],
            restart_count=vector["restart_count"],
            clock_before=vector["clock_before"],
            pcrs={int(i): bytes.fromhex(value) for i, value in vector["pcrs"].items()},
        ),
        binding=Binding(
            box=UUID(vector["box"]),
            session=bytes.fromhex(vector["session"]),
            transcript=bytes.fromhex(vector["transcript"]),
            boot_set=bytes.fromhex(vector["boot_set"]),
            expires=vector["expires"],
        ),
        plaintext=Secret(vector["plaintext"].encode()),
        randomness=Randomness.cut(bytes.fromhex(vector["randomness"])),
    )


def test_vector():
    vector = load_vector()
    bundle = vector_bundle(vector)
    assert bundle.document() == vector["bundle"]
    assert bundle.boot.policy().digest.hex() == vector["policy_digest"]
    assert bundle.content_key.reveal().hex() == vector["content_key"]
    digest = secret_digest(bundle.content_key, "pos-api-token", Secret(b"value"))
    assert digest.hex() == vector["secret_digest"]


@pytest.mark.parametrize("field", ["box", "session", "transcript", "boot_set", "expires"])
def test_a_swapped_field_does_not_open(field):
    vector = load_vector()
    bundle = vector_bundle(vector)
    share = bytes.fromhex(vector["randomness"])[:32]
    assert opened(share, bundle, bundle.binding.transcript, bundle.binding.associated_data())
    other = {name: getattr(bundle.binding, name) for name in Binding.__dataclass_fields__}
    other[field] = {"box": UUID(int=9), "expires": vector["expires"] + 1}.get(field, b"y" * 32)
    swapped = Binding(**other)
    with pytest.raises(InvalidTag):
        opened(share, bundle, swapped.transcript, swapped.associated_data())
    with pytest.raises(InvalidTag):
        opened(share, bundle, bundle.binding.transcript, swapped.associated_data())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({15: b"\1" * 32}, "PCR 15 does not hold"),
        ({4: None}, "says nothing about PCR 4"),
    ],
)
def test_a_boot_that_must_not_be_sealed_to(change, sentence):
    values = {index: bytes(32) for index in SEALED_PCRS} | change
    values = {index: value for index, value in values.items() if value is not None}
    with pytest.raises(PeerError, match=sentence):
        Boot(reset_count=1, restart_count=0, clock_before=1, pcrs=values).policy()


@pytest.mark.parametrize("ephemeral", [bytes(32), b"short", b"\1" + bytes(31)])
def test_a_weak_ephemeral_key_is_refused(ephemeral):
    vector = load_vector() | {"box_ephemeral": ephemeral.hex()}
    with pytest.raises(PeerError, match="X25519"):
        vector_bundle(vector)


def test_fields_cannot_slide_into_each_other():
    assert bind("c", b"ab", b"c") != bind("c", b"a", b"bc") != bind("c", b"abc")
    assert bind("c", 1) == bind("c", (1).to_bytes(8, "big")) != bind("c", "1")


@given(st.binary(max_size=60))
def test_base64url_has_one_spelling(data):
    text = b64u(data)
    assert unb64u(text) == data
    for other in (text + "=", text + "\n", text.replace("_", "/") + " "):
        with pytest.raises(ValueError, match="base64|spelling|padding|multiple"):
            unb64u(other)


def test_nothing_is_shown():
    bundle = vector_bundle(load_vector())
    shown = f"{bundle!r} {bundle} {Randomness.cut(bytes(Randomness.SIZE))!r}"
    assert load_vector()["content_key"] not in shown
    assert bundle.content_key.reveal().hex() not in shown
    assert json.dumps(bundle.document())
