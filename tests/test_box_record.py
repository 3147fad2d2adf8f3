"""What a site knows of a box: its place on the note, who holds that, and what was accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bootstrap
from attest.anchors import Anchors
from attest.transcript import SiteIdentity
from bootstrap.enrolment import Stage
from bootstrap.record import box_record, place_holder
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from bootstrap.site import decode_site
from keys.note import Entry

EXAMPLE = Path(bootstrap.__file__).parent / "example"
SETTINGS = Settings(
    site=decode_site((EXAMPLE / "site.toml").read_bytes()),
    note=None,
    note_problem=None,
    root_pem=b"",
    identity=SiteIdentity(site_id="shop-0417", root=bytes(32)),
    anchors=Anchors(certificates=()),
    templates={},
)
NEW = BoxRow(
    box="new",
    ek_name=b"ek-new",
    ek_public=b"",
    stage=Stage.CONTACTED,
    since=0.0,
    first=0.0,
    facts={"smbios": {"product_serial": "S-1"}, "memory_mib": 4096},
)
OLD = replace(NEW, box="old", ek_name=b"ek-old", stage=Stage.READY, place="S-1", hostname="pos-01")
ENTRY = Entry(serial="S-1", model=None, ek_sha256=b"e" * 32, role=None, name=None)


def test_a_place_that_another_ek_holds_is_named() -> None:
    assert place_holder([NEW, OLD], NEW, ENTRY) is OLD
    assert box_record(SETTINGS, NEW, ENTRY, [OLD]).replaces == "pos-01"
    assert box_record(SETTINGS, NEW, ENTRY, [replace(OLD, hostname=None)]).replaces == "old"


def test_an_unlisted_box_that_says_a_serial_of_the_note_claims_that_place() -> None:
    assert place_holder([OLD], NEW, None) is OLD
    other = replace(NEW, facts={"smbios": {"product_serial": "S-2"}})
    assert place_holder([OLD], other, None) is None


def test_a_serial_that_no_note_holds_is_no_place() -> None:
    """Makers write `Default string` and the like into many machines."""
    junk = replace(NEW, facts={"smbios": {"product_serial": "Default string"}})
    same = replace(OLD, place=None, facts=junk.facts)
    assert place_holder([same], junk, None) is None
    assert place_holder([same], replace(junk, facts={}), None) is None
    assert place_holder([same], replace(junk, facts={"smbios": [1]}), None) is None


def test_an_entry_by_name_claims_the_place_of_who_has_it() -> None:
    entry = replace(ENTRY, serial="S-9", name="pos-01")
    assert place_holder([OLD], NEW, entry) is OLD
    assert place_holder([OLD], NEW, replace(entry, name="pos-02")) is None


def test_a_box_holds_its_own_place_and_what_is_gone_holds_none() -> None:
    assert place_holder([OLD], replace(OLD, place=None), ENTRY) is None
    for stage in (Stage.REVOKED, Stage.REPLACED):
        assert place_holder([replace(OLD, stage=stage)], NEW, ENTRY) is None


def test_a_place_given_by_a_person_stays_so_until_the_hand_over() -> None:
    """Cut off in between, the same approval must fit the next try."""
    gone, begun = replace(OLD, stage=Stage.REPLACED), replace(NEW, replaces="old")
    assert place_holder([gone], begun, ENTRY) is gone


def test_what_was_accepted_is_given_to_the_next_appraisal() -> None:
    known = replace(NEW, tpm_firmware=7, firmware=b"f" * 32, reset_count=3, restart_count=1)
    found = box_record(SETTINGS, known, ENTRY, [])
    assert (found.tpm_firmware, found.firmware) == (7, b"f" * 32)
    assert (found.reset_count, found.restart_count, found.clock) == (3, 1, None)
    assert (found.listed, found.note_names_ek, found.replaces) == (True, True, "")
    assert not box_record(SETTINGS, known, None, []).listed


def test_the_role_is_that_of_the_signed_note_and_of_nobody_else() -> None:
    """It may stand for a missing Secure Boot, so no person's later choice gives it."""
    default = next(role.name for role in SETTINGS.site.roles if role.default)
    assert box_record(SETTINGS, NEW, ENTRY).role == default
    assert box_record(SETTINGS, NEW, replace(ENTRY, role=default)).role == default
    assert box_record(SETTINGS, NEW, replace(ENTRY, role="nowhere")).role == ""
    assert box_record(SETTINGS, replace(NEW, role=default), None).role == ""
