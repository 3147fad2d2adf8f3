"""The policy file: what it may say, what it may not, and that no rule can be weakened by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import AttestSiteError
from attest.policy import DAY, DEFAULT_RULES, WAIVABLE, Policy, Rule
from attest.reasons import Reason, Releaser

HEAD = 'type = "doorstep/policy/v1"\n'


def test_the_built_in_policy_is_what_an_empty_file_says() -> None:
    assert Policy.from_toml(HEAD) == Policy()


digests = st.frozensets(st.binary(min_size=32, max_size=32), max_size=3)
policies = st.builds(
    Policy,
    secure_boot_required=st.booleans(),
    without_secure_boot=st.frozensets(st.sampled_from(["pos", "kiosk-2", "a"])),
    rehearsal=st.booleans(),
    sha1_alone=st.booleans(),
    rules=st.sampled_from([DEFAULT_RULES, {**DEFAULT_RULES, 0: Rule.LOG, 1: Rule.BASELINE}]),
    waived=st.frozensets(st.sampled_from(sorted(WAIVABLE, key=lambda reason: reason.rank))),
    allowed_keys=st.none() | digests,
    dbx_minimum=digests,
    bad_tpm_firmware=st.frozensets(st.just("4E544300:0007000200010000")),
    crl_max_age=st.integers(1, 3650).map(lambda days: days * DAY),
)


@given(policies)
def test_a_policy_is_read_as_it_was_written(policy: Policy) -> None:
    again = Policy.from_toml(policy.to_toml())
    assert again == policy
    assert again.digest == policy.digest


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_sentence(text: str) -> None:
    try:
        Policy.from_toml(text)
    except AttestSiteError as error:
        assert str(error).startswith("policy.toml: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "policy.toml: it is not TOML"),
        ("x = " + "[" * 5000, "policy.toml: it is not TOML"),
        ("", 'policy.toml: type: write type = "doorstep/policy/v1" in its first line'),
        (HEAD + "secureboot = true", "policy.toml: secureboot: there is no such key"),
        (HEAD + 'secure_boot_required = "no"', "secure_boot_required: write true or false"),
        (HEAD + "crl_max_age_days = 0", "crl_max_age_days: write a number of days from 1 to 3650"),
        (HEAD + "crl_max_age_days = true", "crl_max_age_days: write a number of days"),
        (HEAD + "crl_max_age_days = 3651", "crl_max_age_days: write a number of days"),
        (HEAD + 'crl_max_age_days = "9"', "crl_max_age_days: write a number of days"),
        (HEAD + '[pcr]\n0 = ["log"]', "pcr.0: it must be one of: baseline, log"),
        (HEAD + 'waive = "CRL-STALE"', "waive: write a list of texts"),
        (HEAD + "waive = [1]", "waive: write a list of texts"),
        (HEAD + 'waive = ["SECURE-BOOT-OFF"]', "waive: SECURE-BOOT-OFF cannot be waived"),
        (HEAD + 'waive = ["TPM-CLEARED"]', "waive: TPM-CLEARED cannot be waived"),
        (HEAD + 'allowed_keys = ["AB"]', "allowed_keys: 'AB' is no SHA-256"),
        (HEAD + 'bad_tpm_firmware = ["7.2"]', "bad_tpm_firmware: '7.2': write"),
        (HEAD + "without_secure_boot = true", "without_secure_boot: write a list of texts"),
        (HEAD + 'without_secure_boot = [""]', "without_secure_boot: '' is no name of a role"),
        (HEAD + 'without_secure_boot = ["a,b"]', "'a,b' is no name of a role"),
        (HEAD + "pcr = 4", "policy.toml: pcr: write a table"),
        (HEAD + '[pcr]\n4 = "log"', "pcr.4: it must be one of: predicted"),
        (HEAD + '[pcr]\n7 = "log"', "pcr.7: it must be one of: keys"),
        (HEAD + '[pcr]\n10 = "log"', "pcr.10: it must be one of: ima"),
        (HEAD + "[pcr]\n0 = 1", "pcr.0: it must be one of: baseline, log"),
        (HEAD + '[pcr]\n16 = "log"', "pcr.16: there are rules for PCR 0 to 15"),
        (HEAD + '[pcr]\nx = "log"', "pcr.x: there are rules for PCR 0 to 15"),
        (HEAD + "#" * (1 << 18), "policy.toml: it is larger than"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(text: str, told: str) -> None:
    with pytest.raises(AttestSiteError, match="^policy.toml: ") as error:
        Policy.from_toml(text)
    assert told in str(error.value)


def test_only_what_headquarters_alone_releases_can_be_waived_and_never_a_missing_log() -> None:
    released = {each for each in Reason if each.releasable_by is Releaser.HEADQUARTERS}
    assert released - {Reason.LOG_MISSING} == WAIVABLE


def test_a_policy_that_names_no_role_has_the_digest_that_it_had_before_there_were_any() -> None:
    assert "without_secure_boot" not in Policy().to_toml()
    assert Policy(without_secure_boot=frozenset({"pos"})).digest != Policy().digest
