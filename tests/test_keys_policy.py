"""Policy digests against trial sessions of a real TPM (swtpm)."""

import hashlib

import pytest
from software_tpm import SoftwareTpm
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_EO, TPM2_SE
from tpm2_pytss.types import TPM2B_OPERAND, TPML_PCR_SELECTION, TPMT_SYM_DEF

from keys.policy import CommandCode, Comparison, TimeField, TpmPolicy, pcr_digest

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


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        TpmPolicy().counter_timer(TimeField.RESET_COUNT, 1 << 32, Comparison.EQUAL)
    with pytest.raises(ValueError, match="no PCR 24"):
        TpmPolicy().pcr({24: bytes(32)})
    with pytest.raises(ValueError, match="32 bytes"):
        TpmPolicy().pcr({0: bytes(20)})
