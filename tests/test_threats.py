"""The threats to the secret cache by number, each with the tests that show what is done about it.

Where software cannot show it, or nothing is done yet, the line says so. A test that is named here
and does not exist fails this one.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
THIRTY = "test_cache_thirty_days::test_thirty_days"

SHOWN: dict[int, tuple[str, ...]] = {
    1: (
        "test_tpm_ring::test_the_key_is_dropped_when_the_lease_ends",
        "test_keys_clock::test_a_clock_set_back_goes_on_from_the_mark",
        "test_keys_store::test_a_clock_set_back_revives_and_extends_nothing",
        THIRTY,
    ),
    2: (
        "test_keys_clock::test_a_leap_counts_but_is_not_kept",
        "test_keys_clock::test_a_signed_time_bears_a_leap_out_and_no_other",
        "test_keys_clock::test_what_begins_in_a_leap_begins_at_the_time_that_is_believed",
        THIRTY,
    ),
    3: ("test_keys_clock::test_a_clock_set_back_goes_on_from_the_mark", THIRTY),
    4: (THIRTY, "test_sync::test_threats_4_and_6_a_dead_upstream_ends_nothing_before_its_time"),
    5: (THIRTY,),
    6: (
        THIRTY,
        "test_keys_store::test_past_its_lease_a_secret_is_withheld",
        "test_sync::test_threats_4_and_6_a_dead_upstream_ends_nothing_before_its_time",
    ),
    7: (
        "test_renewal::test_threat_7_after_an_outage_a_thousand_secrets_are_spread",
        "test_renewal::test_threat_7_two_thousand_sites_that_return_at_once_come_one_after_another",
    ),
    8: (
        THIRTY,
        "test_renewal::test_threat_8_no_jump_of_the_clock_skips_a_renewal",
        "test_renewal::test_threat_8_times_are_longer_than_32_bits",
    ),
    9: (
        "test_syncing::test_threat_9_what_is_withdrawn_is_purged_at_once",
        "test_sync::test_threat_9_withdrawn_is_purged_at_once",
        "test_sync::test_threats_9_and_12_what_is_no_answer_changes_nothing",
        "test_sync::test_a_withdrawal_reaches_keys_though_both_were_killed",
    ),
    10: (
        "test_autonomy::test_the_line_names_the_first_that_somebody_must_renew",
        "test_upstream_words::test_threat_10_a_login_that_ends_is_told_of_in_time",
        "test_sync::test_threat_10_the_end_of_a_login_is_told_before",
    ),
    11: (
        "test_sync::test_threat_11_another_authority_is_not_believed",
        "test_tpm_ring::test_leases_that_are_not_for_us_are_refused_with_a_sentence",
        "test_tpm_ring::test_the_tpm_itself_opens_nothing_after_the_lease",
    ),
    12: ("test_sync::test_threats_9_and_12_what_is_no_answer_changes_nothing",),
    13: (
        "test_syncing::test_threat_13_a_version_that_nobody_confirmed_may_be_stale",
        "test_upstream_words::test_threat_13_what_may_be_stale_is_explained_with_its_version",
    ),
    14: (
        "test_tpm_ring::test_secrets_of_this_boot_end_with_it",
        "test_tpm_ring::test_restarts_beyond_the_lease_close_it",
        "test_tpm_ring::test_an_orderly_suspend_counts_too",
        "test_tpm_ring::test_other_software_gets_nothing",
    ),
    15: (
        "test_link_watch::test_no_link_for_two_days_ends_the_lease_for_good",
        "test_tpm_ring::test_the_key_is_dropped_when_the_lease_ends",
        THIRTY,
    ),
    16: ("test_tpm_ring::test_another_tpm_opens_nothing",),
    17: (
        "test_tpm_ring::test_an_old_copy_of_the_disk_brings_back_nothing",
        "test_cache_faults::test_random_schedules_hold",
        THIRTY,
    ),
    18: ("test_tpm_ring::test_another_tpm_opens_nothing", THIRTY),
    19: (
        "test_tpm_ring::test_a_cut_in_a_revocation_leaves_the_one_or_the_other",
        "test_cache_faults::test_an_effect_cut_at_any_tpm_command_is_done_or_not_begun",
        "test_cache_faults::test_an_effect_cut_at_any_statement_is_done_or_not_begun",
        "test_cache_faults::test_a_start_cut_anywhere_is_followed_by_one_that_is_whole",
        "test_cache_faults::test_a_set_up_that_was_cut_is_made_again",
    ),
    20: (
        "test_tpm_ring::test_a_power_cut_sets_the_clock_back_to_where_it_was",
        "test_tpm_ring::test_restarts_beyond_the_lease_close_it",
    ),
    21: ("test_tpm_ring::test_power_cuts_lock_nothing",),
    22: (
        "test_cache_canary::test_nothing_of_a_secret_is_left_anywhere",
        "test_cache_canary::test_the_search_would_find_it",
    ),
    23: ("test_tpm_ring::test_a_tpm_that_was_reset_under_us_is_asked_again",),
    24: (
        "test_wrap_site::test_a_value_goes_from_headquarters_to_the_box_and_is_seen_by_nobody_between",
    ),
    25: (
        "test_tpm_ring::test_a_lease_for_the_software_of_tomorrow_waits_for_it",
        "test_tpm_ring::test_two_leases_of_one_number_are_for_two_states_and_either_opens",
    ),
    26: (
        "test_keys_envelope::test_opens_in_the_attested_boot_only",
        "test_keys_envelope::test_a_saved_state_and_a_cold_start_raise_the_restart_count_alone",
    ),
    27: (
        "test_keys_service::test_the_same_question_gets_the_same_answer_once_a_boot",
        "test_attacks::test_a_captured_bundle",
    ),
    28: ("test_enrolment::test_box_id_is_the_uuid_of_the_ek_name",),
    29: ("test_lease_desk::test_a_key_below_another_is_not_the_appliance_s",),
    30: (
        "test_keys_service::test_revoked_and_withdrawn_get_nothing_also_not_again",
        "test_keys_service::test_a_serial_belongs_to_one_ek_until_that_is_revoked",
        "test_naming::test_nothing_is_given_twice",
    ),
    31: (
        "test_keys_service::test_hand_overs_are_limited_for_the_whole_site",
        "test_keys_service::test_the_same_question_gets_the_same_answer_once_a_boot",
        "test_control_quota::test_so_many_in_a_minute",
    ),
    33: (
        "test_cache_canary::test_nothing_of_a_secret_is_left_anywhere",
        "test_cache_canary::test_a_crash_leaves_no_core",
        "test_witness::test_memory_that_may_be_swapped_is_told",
        "test_witness::test_the_process_locks_its_memory_where_it_may",
        "test_keys_secret::test_nothing_is_shown",
        "test_keys_store::test_a_removed_secret_leaves_no_ciphertext",
    ),
    34: ("test_cache_thirty_days::test_what_ended_long_ago_is_shredded",),
    35: (THIRTY,),
    36: (
        "test_keys_store::test_a_changed_row_fails_alone",
        "test_cache_faults::test_damaged_rows_close_nothing_else",
        THIRTY,
    ),
    37: (THIRTY, "test_wrap::test_a_row_that_was_moved_is_not_given"),
    38: (
        "test_auditing::test_a_restored_copy_is_found_and_stays_found",
        "test_lease_desk::test_a_number_is_given_once_but_for_other_software",
        "test_tpm_ring::test_another_tpm_opens_nothing",
    ),
    39: ("test_cache_faults::test_a_copy_put_back_uses_no_nonce_again",),
    40: (
        "test_auditing::test_the_last_entries_with_their_anchor_are_missed",
        "test_auditing::test_what_was_done_to_the_file_is_found",
        THIRTY,
    ),
    41: (
        "test_auditing::test_anchors_come_once_a_minute_or_at_once",
        "test_cache_faults::test_reading_and_putting_write_nothing_in_the_tpm",
        "test_syncing::test_threat_41_an_upstream_that_changes_all_the_time_wears_no_tpm_out",
    ),
    42: (
        "test_witness::test_a_clock_more_than_two_percent_off_is_told",
        "test_witness::test_a_clock_that_is_off_is_an_event_and_a_sentence",
    ),
}

NOT_SHOWN: dict[int, str] = {
    32: "no technician has a key that opens anything: a lease is headquarters' alone",
}


def test_every_threat_has_a_line() -> None:
    assert sorted([*SHOWN, *NOT_SHOWN]) == list(range(1, 43))
    assert all(SHOWN.values())
    assert all(len(why) > 20 for why in NOT_SHOWN.values())


@pytest.mark.parametrize("number", SHOWN)
def test_the_tests_of_a_threat_exist(number: int) -> None:
    for name in SHOWN[number]:
        module, _, wanted = name.partition("::")
        tree = ast.parse((HERE / f"{module}.py").read_text())
        found = {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
        assert wanted in found, name
