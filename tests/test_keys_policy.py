"""Policy digests against trial sessions of a real TPM (swtpm)."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from software_tpm import SoftwareTpm
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2_EO,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPMA_NV,
)
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_NAME,
    TPM2B_NONCE,
    TPM2B_NV_PUBLIC,
    TPM2B_OPERAND,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF,
    TPMT_TK_VERIFIED,
)

from keys.policy import (
    WIDTHS,
    CommandCode,
    Comparison,
    TimeField,
    TpmPolicy,
    approved,
    pcr_digest,
)

PCRS = {index: hashlib.sha256(bytes([index])).digest() for index in (0, 7, 8, 15, 23)}


@pytest.fixture(scope="module")
def esys(tmp_path_factory):
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm"))
    with tpm.open() as esys:
        yield esys
    tpm.stop()


def trial(esys, *steps):
    session = esys.start_auth_session(
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.TRIAL,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        auth_hash=TPM2_ALG.SHA256,
    )
    try:
        for step in steps:
            step(session)
        return bytes(esys.policy_get_digest(session))
    finally:
        esys.flush_context(session)


@pytest.mark.parametrize("comparison", Comparison)
@pytest.mark.parametrize(
    ("field", "size", "value"),
    [
        (TimeField.RESET_COUNT, 4, 0),
        (TimeField.RESET_COUNT, 4, 0xFFFFFFFF),
        (TimeField.RESTART_COUNT, 4, 7),
        (TimeField.CLOCK, 8, 0x1_0000_0002),
    ],
)
def test_counter_timer(esys, comparison, field, size, value):
    operand = TPM2B_OPERAND(value.to_bytes(size, "big"))
    seen = trial(
        esys, lambda s: esys.policy_counter_timer(s, operand, TPM2_EO(comparison), offset=field)
    )
    assert TpmPolicy().counter_timer(field, value, comparison).digest == seen


def test_pcr(esys):
    selection = TPML_PCR_SELECTION.parse("sha256:0,7,8,15,23")
    seen = trial(esys, lambda s: esys.policy_pcr(s, pcr_digest(PCRS), selection))
    assert TpmPolicy().pcr(PCRS).digest == seen


def test_command_code_after_another(esys):
    selection = TPML_PCR_SELECTION.parse("sha256:0,7,8,15,23")
    seen = trial(
        esys,
        lambda s: esys.policy_pcr(s, pcr_digest(PCRS), selection),
        lambda s: esys.policy_command_code(s, TPM2_CC.Unseal),
    )
    assert TpmPolicy().pcr(PCRS).command_code(CommandCode.UNSEAL).digest == seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities:
    """What a policy may name: an NV index, a key, a hierarchy."""

    esys: Any
    index: Any
    index_name: bytes
    key: Any
    key_name: bytes


ENDORSEMENT = int(TPM2_RH.ENDORSEMENT).to_bytes(4, "big")
Step = tuple[
    Callable[[TpmPolicy, Entities], TpmPolicy], Callable[[Any, Entities], Callable[[Any], object]]
]
"""The same assertion for the calculator and for a session."""


@pytest.fixture(scope="module")
def entities(esys):
    public = TPM2B_NV_PUBLIC(
        nvPublic=TPMS_NV_PUBLIC(
            nvIndex=0x01D0E000,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE | TPMA_NV.NO_DA,
            dataSize=8,
        )
    )
    index = esys.nv_define_space(
        auth=None, public_info=public, auth_handle=ESYS_TR.OWNER, session1=ESYS_TR.PASSWORD
    )
    esys.nv_write(nv_index=index, data=bytes(8), offset=0, auth_handle=index)
    template = TPM2B_PUBLIC.parse(
        "ecc256:ecdsa-sha256:null", objectAttributes="sign|userwithauth|sensitivedataorigin"
    )
    key, *_ = esys.create_primary(in_sensitive=None, in_public=template)
    yield Entities(
        esys=esys,
        index=index,
        index_name=bytes(esys.tr_get_name(index)),
        key=key,
        key_name=bytes(esys.tr_get_name(key)),
    )
    esys.flush_context(key)


def counter(field: TimeField, value: int, comparison: Comparison) -> Step:
    operand = TPM2B_OPERAND(value.to_bytes(WIDTHS[field], "big"))
    return (
        lambda policy, _: policy.counter_timer(field, value, comparison),
        lambda esys, _: (
            lambda session: esys.policy_counter_timer(
                session, operand, TPM2_EO(comparison), offset=field
            )
        ),
    )


def pcrs(indices: frozenset[int]) -> Step:
    values = {index: hashlib.sha256(bytes([index])).digest() for index in indices}
    selection = TPML_PCR_SELECTION.parse(f"sha256:{','.join(map(str, sorted(indices)))}")
    return (
        lambda policy, _: policy.pcr(values),
        lambda esys, _: lambda session: esys.policy_pcr(session, pcr_digest(values), selection),
    )


def nv(value: bytes, comparison: Comparison) -> Step:
    return (
        lambda policy, about: policy.nv(about.index_name, value, comparison),
        lambda esys, about: (
            lambda session: esys.policy_nv(
                nv_index=about.index,
                policy_session=session,
                operand_b=TPM2B_OPERAND(value),
                operation=TPM2_EO(comparison),
                auth_handle=about.index,
            )
        ),
    )


def signed(reference: bytes) -> Step:
    return (
        lambda policy, about: policy.signed(about.key_name, reference),
        lambda esys, about: (
            lambda session: esys.policy_signed(
                auth_object=about.key,
                policy_session=session,
                nonce_tpm=TPM2B_NONCE(),
                cp_hash_a=TPM2B_DIGEST(),
                policy_ref=TPM2B_NONCE(reference),
                expiration=0,
                auth=some_signature(),
            )
        ),
    )


def some_signature() -> TPMT_SIGNATURE:
    """What a trial session does not look into."""
    head = int(TPM2_ALG.ECDSA).to_bytes(2, "big") + int(TPM2_ALG.SHA256).to_bytes(2, "big")
    half = (32).to_bytes(2, "big") + bytes(31) + b"\1"
    return TPMT_SIGNATURE.unmarshal(head + half + half)[0]


def secret(reference: bytes) -> Step:
    return (
        lambda policy, _: policy.secret(ENDORSEMENT, reference),
        lambda esys, _: (
            lambda session: esys.policy_secret(
                auth_handle=ESYS_TR.ENDORSEMENT,
                policy_session=session,
                nonce_tpm=TPM2B_NONCE(),
                cp_hash_a=TPM2B_DIGEST(),
                policy_ref=TPM2B_NONCE(reference),
                expiration=0,
            )
        ),
    )


def authorize(reference: bytes) -> Step:
    ticket = TPMT_TK_VERIFIED(tag=TPM2_ST.VERIFIED, hierarchy=TPM2_RH.OWNER)
    return (
        lambda policy, about: policy.authorize(about.key_name, reference),
        lambda esys, about: (
            lambda session: esys.policy_authorize(
                policy_session=session,
                approved_policy=esys.policy_get_digest(session),
                policy_ref=TPM2B_NONCE(reference),
                key_sign=TPM2B_NAME(about.key_name),
                check_ticket=ticket,
            )
        ),
    )


def any_of(others: tuple[bytes, ...]) -> Step:
    branches = [TpmPolicy(digest=one) for one in others]
    return (
        lambda policy, _: policy.any_of(branches),
        lambda esys, _: (
            lambda session: esys.policy_or(
                session, TPML_DIGEST([TPM2B_DIGEST(one) for one in others])
            )
        ),
    )


def command(code: CommandCode) -> Step:
    return (
        lambda policy, _: policy.command_code(code),
        lambda esys, _: lambda session: esys.policy_command_code(session, TPM2_CC(code)),
    )


def timers() -> st.SearchStrategy[Step]:
    def of(field: TimeField) -> st.SearchStrategy[Step]:
        values = st.integers(0, 256 ** WIDTHS[field] - 1)
        return st.builds(counter, st.just(field), values, st.sampled_from(Comparison))

    return st.one_of(map(of, TimeField))


COMPARED = st.sampled_from(Comparison)
REFERENCES = st.binary(max_size=32)
STEPS = st.one_of(
    timers(),
    st.builds(pcrs, st.frozensets(st.integers(0, 23), min_size=1, max_size=8)),
    st.builds(nv, st.binary(min_size=1, max_size=8), COMPARED),
    st.builds(signed, REFERENCES),
    st.builds(secret, REFERENCES),
    st.builds(authorize, REFERENCES),
    st.builds(
        any_of, st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=8).map(tuple)
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=6), last=st.none() | st.sampled_from(CommandCode))
def test_any_policy_is_that_of_a_trial_session(entities, steps, last):
    """A session takes one command code only: it stands at the end."""
    if last is not None:
        steps = [*steps, command(last)]
    policy = TpmPolicy()
    for ours, _ in steps:
        policy = ours(policy, entities)
    theirs = [step(entities.esys, entities) for _, step in steps]
    assert policy.digest == trial(entities.esys, *theirs)


def test_what_is_approved_is_the_policy_and_its_reference():
    policy = TpmPolicy().command_code(CommandCode.UNSEAL)
    assert approved(policy, b"ref") == hashlib.sha256(policy.digest + b"ref").digest()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_choice_has_two_to_eight_branches(count):
    with pytest.raises(ValueError, match="2 to 8"):
        TpmPolicy().any_of([TpmPolicy()] * count)


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        TpmPolicy().counter_timer(TimeField.RESET_COUNT, 1 << 32, Comparison.EQUAL)
    with pytest.raises(ValueError, match="no PCR -1"):
        TpmPolicy().pcr({-1: bytes(32)})
    with pytest.raises(ValueError, match="no PCR 24"):
        TpmPolicy().pcr({24: bytes(32)})
    with pytest.raises(ValueError, match="32 bytes"):
        TpmPolicy().pcr({0: bytes(20)})
