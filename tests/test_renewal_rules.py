"""Who may renew, as tables: what a box shows, what the site says of its boot, who is late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attest.expectation import SetState
from attest.reasons import Reason
from attest.transcript import opened_value
from bootstrap.enrolment import Finding, Outcome, Stage
from bootstrap.io import openings
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import RELEASE, Judgement
from bootstrap.renewing import (
    Opening,
    base_digest,
    certificate_text,
    decide,
    expected_opened,
    is_overdue,
)
from bootstrap.rows import BoxRow, SessionRow

PCRS = {
    bank: tuple(bytes([index]) * size for index in range(15)) + (bytes(size),)
    for bank, size in (("sha256", 32), ("sha384", 48))
}


def opening(**changes: object) -> Opening:
    fields: dict = {
        "session": b"s" * 16,
        "box": "b",
        "transcript": b"1" * 32,
        "reset_count": 7,
        "restart_count": 2,
        "boot_set": b"set",
        "keys": b"keys",
        "base": base_digest(PCRS),
        "before": {bank: values[15] for bank, values in PCRS.items()},
    }
    return Opening(**(fields | changes))


def finding(reason: Reason) -> Finding:
    release = RELEASE[reason.releasable_by]
    return Finding(code=reason.code, sentence=reason.sentence, release=release)


def judged(*reasons: Reason, **changes: object) -> Judgement:
    fields: dict = {
        "findings": tuple(map(finding, reasons)),
        "tier": "verified",
        "measurements": b"",
        "boot_set": b"set",
        "pcrs": {},
        "reset_count": 7,
        "restart_count": 2,
        "clock": 5001,
        "archive": "",
    }
    return Judgement(**(fields | changes))


HANDOVER = opening()
SHOWN = opening(session=b"t" * 16, transcript=b"2" * 32, before=HANDOVER.after)


@pytest.mark.parametrize(
    ("shown", "judgement", "state", "outcome", "code"),
    [
        ({}, judged(), SetState.SERVED, Outcome.ACCEPT, None),
        ({}, judged(), SetState.ACCEPTED, Outcome.ACCEPT, None),
        ({}, judged(Reason.POWER_CUT), SetState.SERVED, Outcome.ACCEPT, None),
        ({"reset_count": 8}, judged(), SetState.SERVED, Outcome.REFUSE, "RENEWAL-OTHER-BOOT"),
        ({"restart_count": 3}, judged(), SetState.SERVED, Outcome.REFUSE, "RENEWAL-OTHER-BOOT"),
        ({}, judged(reset_count=None), SetState.SERVED, Outcome.REFUSE, "RENEWAL-OTHER-BOOT"),
        ({}, judged(clock=5000), SetState.SERVED, Outcome.REFUSE, "COUNTER-BACK"),
        ({"keys": b"other"}, judged(), SetState.SERVED, Outcome.REFUSE, "RENEWAL-OTHER-KEYS"),
        ({"base": b"other"}, judged(), SetState.SERVED, Outcome.REFUSE, "PCR-MISMATCH"),
        ({}, judged(Reason.QUOTE_DIGEST), SetState.SERVED, Outcome.REFUSE, "QUOTE-DIGEST"),
        (
            {"keys": b"other"},
            judged(Reason.DEVICE_KEY),
            SetState.SERVED,
            Outcome.REFUSE,
            "DEVICE-KEY",
        ),
        ({}, judged(Reason.MODULE_UNKNOWN), SetState.SERVED, Outcome.REFUSE, "MODULE-UNKNOWN"),
        # what the site no longer says of a boot is no fault of the box
        ({}, judged(Reason.VERIFIER_FAULT), SetState.SERVED, Outcome.HOLD, "VERIFIER-FAULT"),
        ({}, judged(Reason.CRL_STALE), SetState.SERVED, Outcome.HOLD, "CRL-STALE"),
        ({}, judged(Reason.EK_UNLISTED), SetState.SERVED, Outcome.HOLD, "EK-UNLISTED"),
        ({}, judged(Reason.FACTS_DIFFER), SetState.SERVED, Outcome.ACCEPT, None),
        ({}, judged(Reason.BOOT_SET_WITHDRAWN), SetState.OLDER, Outcome.HOLD, "BOOT-SET-OLD"),
        ({}, judged(Reason.INITRD_UNKNOWN), None, Outcome.HOLD, "BOOT-SET-OLD"),
        (
            {},
            judged(Reason.BOOT_SET_WITHDRAWN, Reason.MODULE_UNKNOWN),
            SetState.OLDER,
            Outcome.REFUSE,
            "MODULE-UNKNOWN",
        ),
        (
            {},
            judged(Reason.BOOT_SET_WITHDRAWN),
            SetState.WITHDRAWN,
            Outcome.REFUSE,
            "BOOT-SET-WITHDRAWN",
        ),
    ],
)
def test_a_renewal_is_decided(
    shown: dict, judgement: Judgement, state: SetState | None, outcome: Outcome, code: str | None
) -> None:
    released = replace(HANDOVER, reasons=frozenset({"FACTS-DIFFER"}))
    decided = decide([released], replace(SHOWN, **shown), judgement, clock=5000, state=state)
    assert (decided.outcome, decided.finding and decided.finding.code) == (outcome, code)


def test_the_base_is_all_but_pcr_10_and_15_in_every_bank() -> None:
    for bank, values in PCRS.items():
        for index in range(16):
            changed = [*values]
            changed[index] = b"\xff" * len(values[index])
            same = base_digest({**PCRS, bank: tuple(changed)}) == base_digest(PCRS)
            assert same is (index in (10, 15)), (bank, index)
    assert base_digest({"sha256": PCRS["sha256"]}) != base_digest(PCRS)


def quoted(after: Opening | None) -> dict:
    values = {bank: bytes(len(given[15])) for bank, given in PCRS.items()}
    values = dict(after.after) if after else values
    return {bank: (*given[:15], values[bank]) for bank, given in PCRS.items()}


def test_pcr_15_is_expected_in_every_bank_of_the_bundle_that_was_opened() -> None:
    lost = replace(SHOWN, transcript=b"3" * 32)
    known = [lost, SHOWN, HANDOVER]
    for one in known:
        assert expected_opened(known, quoted(one)) == one.after
    mixed = {**quoted(SHOWN), "sha384": quoted(lost)["sha384"]}
    assert expected_opened(known, mixed) == lost.after != {b: v[15] for b, v in mixed.items()}
    assert expected_opened(known, quoted(None)) == lost.after
    assert expected_opened(known, mixed, forgot=True) == {b: v[15] for b, v in mixed.items()}
    assert expected_opened(known, quoted(None), forgot=True) == lost.after
    zero = bytes(48)
    assert HANDOVER.after["sha384"] == opened_value("sha384", zero, HANDOVER.transcript)


def box_row(**changes: object) -> BoxRow:
    fields: dict = {
        "box": "b",
        "ek_name": b"e",
        "ek_public": b"p",
        "stage": Stage.READY,
        "since": 0.0,
        "first": 0.0,
        "renew": 43200.0,
        "proved": 1000.0,
        "facts": {},
    }
    return BoxRow(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "now", "started", "late"),
    [
        ({}, 1000 + 1.5 * 43200 + 61, 0, True),
        ({}, 1000 + 1.5 * 43200 + 59, 0, False),
        ({"stage": Stage.ENROLLED}, 1e9, 0, True),
        ({"stage": Stage.STALE}, 1e9, 0, False),
        ({"stage": Stage.REVOKED}, 1e9, 0, False),
        ({"renew": None}, 1e9, 0, False),
        ({"proved": None}, 1e9, 0, False),
        ({}, 1e9, 1e9 - 599, False),
        ({}, 1e9, 1e9 - 601, True),
        ({"renew": 10.0}, 1026, 0, True),
        ({"renew": 10.0}, 1024, 0, False),
    ],
)
def test_a_box_is_overdue_after_half_a_renewal_more(
    changes: dict, now: float, started: float, late: bool
) -> None:
    assert is_overdue(box_row(**changes), now, started) is late


def test_a_certificate_is_told_in_whole_hours() -> None:
    box = box_row(certificate_until=1_795_000_000.0, renewals=0)
    assert certificate_text(box, 2000) == "until 2026-11-18 11:06 UTC"
    box = replace(box, renewals=1)
    assert certificate_text(box, 4599).endswith(", renewed once, last less than 1 h ago")
    box = replace(box, renewals=3)
    assert certificate_text(box, 1000 + 5 * 3600 + 60).endswith(", renewed 3 times, last 5 h ago")
    assert certificate_text(box, 1000 + 50 * 3600).endswith("last 2 d 2 h ago")
    assert certificate_text(replace(box, stage=Stage.REVOKED), 0) == ""


def test_a_boot_keeps_its_hand_over_and_the_last_renewals(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "site.db")
    store.save_box(box_row())

    def made(number: int) -> Opening:
        session = number.to_bytes(16, "big")
        store.save_session(
            SessionRow(
                session=session,
                box="b",
                at=0.0,
                address=None,
                body_digest=b"",
                transcript=b"",
                device_public=b"",
            )
        )
        return opening(session=session, reasons=frozenset({"FACTS-DIFFER"}))

    first = made(0)
    openings.begin(store, made(99))
    openings.begin(store, first)
    for number in range(1, 31):
        openings.add(store, made(number))
    found = openings.of_box(store, "b")
    assert found[-1] == first
    assert [int.from_bytes(one.session, "big") for one in found[:-1]] == [*range(30, 14, -1)]
    assert openings.of_box(store, "other") == []
