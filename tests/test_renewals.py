"""Who may renew: the rules as tables, then control and keys against boxes that lie or are late."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from control_site import ControlSite, boot_log
from test_agent_renew import STAYS, StayingBox
from tpm2_pytss.constants import ESYS_TR
from tpm2_pytss.types import TPM2B_EVENT

from attest.expectation import SetState
from attest.reasons import Reason
from attest.transcript import opened_value
from bootstrap.agent.errors import SiteRefusalError
from bootstrap.agent.protocol import Fields, unb64u
from bootstrap.enrolment import Finding, Outcome, Stage
from bootstrap.io import openings
from bootstrap.io.site_store import SiteStore
from bootstrap.judgement import RELEASE, Judgement
from bootstrap.phonehome import b64u
from bootstrap.renewing import (
    Opening,
    base_digest,
    certificate_text,
    decide,
    expected_opened,
    is_overdue,
)
from bootstrap.rows import BoxRow, SessionRow
from keys.io.rpc import RpcError

# The rules

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


# Control and keys


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    site = ControlSite(settings=STAYS)
    site.made = [StayingBox(site, tmp_path_factory.mktemp(f"box{n}"), n) for n in (1, 2, 3, 4)]
    for box in site.made:
        site.trust(box.swtpm)
    site.deliver(*(box.entry(role="kiosk") for box in site.made[:3]))  # the last is unlisted
    site.manifest = site.build()
    site.publish(site.manifest)
    try:
        site.start()
        site.log_of_boot = boot_log(site, site.manifest)
        for box in site.made:
            site.lease(box.mac, box.address)
        yield site
    finally:
        for box in site.made:
            box.swtpm.stop()
        site.close()


@pytest.fixture
def box(site: ControlSite) -> StayingBox:
    return fresh(site, 0)


def fresh(site: ControlSite, number: int) -> StayingBox:
    site.restart("control")
    box = site.made[number].power_on()
    box.said.clear()
    box.carrier.sent.clear()
    return box


def edit(site: ControlSite, query: str, *values: object) -> None:
    """Change control's database while it is down."""
    site.processes["control"].kill()
    with closing(sqlite3.connect(site.layout.state / "site/site.db")) as database:
        database.execute(query, values)
        database.commit()
    site.restart("control")


def told(box: StayingBox, path: str, body: bytes) -> tuple[int, str]:
    with pytest.raises(SiteRefusalError) as refused:
        box.carrier.post(path, body)
    return refused.value.status, refused.value.reason


def carried(box: StayingBox, ending: str) -> tuple[str, bytes]:
    return next(one for one in reversed(box.carrier.sent) if one[0].endswith(ending))


def with_hello(body: bytes, hello: bytes) -> bytes:
    return json.dumps({**json.loads(body), "hello": b64u(hello)}).encode()


@pytest.mark.boots
def test_evidence_of_an_enrolment_renews_nothing_and_the_other_way_round(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    enrolled = carried(box, "/evidence")
    box.renewed(kept)
    renewed = carried(box, "/evidence")
    for (path, body), drops in ((enrolled, False), (renewed, True)):
        # the same quotes with a hello of the other purpose: another session, so no such path
        hello = json.loads(unb64u(json.loads(body)["hello"]))
        hello = {**hello, "purpose": "renew"}
        if drops:
            del hello["purpose"]
        changed = with_hello(body, json.dumps(hello, separators=(",", ":")).encode())
        assert told(box, path, changed) == (409, "REPLAY")
        other = json.loads(box.carrier.post("/v1/sessions", unb64u(json.loads(changed)["hello"])))
        session = Fields(other).data("session", 16).hex()
        assert told(box, f"/v1/sessions/{session}/evidence", changed) == (400, "QUOTE-NONCE")
        assert told(box, f"/v1/sessions/{os.urandom(16).hex()}/evidence", changed) == (
            404,
            "SESSION-UNKNOWN",
        )
    assert box.shown()["box"]["renewals"] == 1


@pytest.mark.boots
def test_the_same_evidence_again_is_given_the_same_answer(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    box.renewed(kept)
    path, body = carried(box, "/evidence")
    answer = box.carrier.post(path, body)
    assert box.carrier.post(path, body) == answer
    assert box.shown()["box"]["renewals"] == 1
    assert told(box, path, body + b" ") == (409, "REPLAY")


@pytest.mark.boots
def test_another_ak_of_the_same_box_is_refused(site: ControlSite, box: StayingBox) -> None:
    kept = box.session().kept
    with box.open() as tpm:
        tpm.load_ek()
        tpm.load_ak()
        another = tpm.ak_parts
    outcome = box.renewed(replace(kept, ak=another))
    assert (outcome.status, outcome.reason) == ("refused", "RENEWAL-OTHER-KEYS")


@pytest.mark.boots
def test_the_ak_of_another_box_does_not_even_load(site: ControlSite, box: StayingBox) -> None:
    kept = box.session().kept
    other = fresh(site, 1).session().kept
    box.renewed(replace(kept, ak=kept.ak))
    outcomes: list[object] = []

    def attempt() -> None:
        outcomes.append(box.session(replace(kept, ak=other.ak)))

    with pytest.raises(Exception, match="TPM"):
        attempt()
    assert outcomes == []


@pytest.mark.boots
def test_a_box_that_did_not_open_its_hand_over_has_pcr_15_zero_and_is_refused(
    site: ControlSite, box: StayingBox
) -> None:
    class LostError(Exception):
        pass

    def lose(path: str, body: bytes, *, pauses: object = ()) -> bytes:
        answer = send(path, body, pauses=pauses)
        if path.endswith("/evidence"):
            raise LostError
        return answer

    send = box.carrier.post
    box.carrier.post = lose
    host_key, parts = kept_of(box, LostError)
    box.carrier.post = send
    outcome = box.renewed(SimpleNamespace(ak=parts, host_key=host_key, renew=43200))
    assert (outcome.status, outcome.reason) == ("refused", "PCR-MISMATCH")
    assert "start it again" in outcome.sentence


def kept_of(box: StayingBox, lost: type[Exception]) -> tuple[object, object]:
    """Enrol up to the answer, and give the keys that the box made for it."""
    from bootstrap.agent import dance
    from bootstrap.agent.protocol import Logs

    with box.open() as tpm:
        begun = dance._begin(tpm, box.carrier, box.anchor, box.facts(), box.said.append, None)
        with pytest.raises(lost):
            dance._go_on(tpm, box.carrier, begun, Logs(event_log=box.log), box.place)
        box.box_id = str(begun[0].hello.box)
        return begun[1].host_key, tpm.ak_parts


@pytest.mark.boots
@pytest.mark.parametrize(("pcr", "reason"), [(15, "PCR-MISMATCH"), (8, "PCR-MISMATCH")])
def test_whatever_else_was_measured_since_is_refused(
    site: ControlSite, box: StayingBox, pcr: int, reason: str
) -> None:
    kept = box.session().kept
    with box.open() as tpm:
        tpm.esys.pcr_event(pcr_handle=ESYS_TR(pcr), event_data=TPM2B_EVENT(b"something"))
    outcome = box.renewed(kept)
    assert (outcome.status, outcome.reason) == ("refused", reason)
    shown = box.shown()
    assert (shown["box"]["stage"], shown["card"]["tone"]) == ("refused", "bad")
    assert not any(one["type"] == "SSHFP" for one in site.plan()["records"] if mine(one, box))


def mine(record: dict, box: StayingBox) -> bool:
    return str(box.shown()["box"]["hostname"]) in record["name"]


@pytest.mark.boots
def test_a_lost_answer_does_not_end_it(site: ControlSite, box: StayingBox) -> None:
    kept = box.session().kept
    send, lost = box.carrier.post, []

    def lose(path: str, body: bytes, *, pauses: object = ()) -> bytes:
        answer = send(path, body, pauses=pauses)
        if path.endswith("/evidence") and not lost:
            lost.append(answer)
            raise SiteRefusalError(503, "SITE-NOT-READY", "the line broke")
        return answer

    box.carrier.post = lose
    with pytest.raises(SiteRefusalError):
        box.session(kept)
    for _ in range(2):
        assert box.renewed(kept).status == "ready"
    box.carrier.post = send
    assert box.shown()["box"]["renewals"] == 3


@pytest.mark.boots
def test_while_keys_are_away_nothing_is_taken_and_nothing_judged_twice(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    site.processes["keys"].kill()
    archive = site.layout.state / "evidence" / box.box_id
    before = len([*archive.iterdir()])
    for _ in range(3):
        with pytest.raises(RpcError) as silent:
            box.session(kept)
        assert silent.value.code == "KEYS-SILENT"
    assert len([*archive.iterdir()]) == before + 1
    site.restart("keys")
    site.restart("control")  # it would wait half a minute before it asks again
    assert box.shown()["box"]["stage"] == "ready"
    assert box.renewed(kept).status == "ready"


@pytest.mark.boots
def test_an_overdue_box_is_stale_until_it_renews(site: ControlSite, box: StayingBox) -> None:
    kept = box.session().kept
    edit(site, "UPDATE boxes SET renew=0.5, proved=? WHERE box=?", 1e9, box.box_id)
    site.until(lambda: box.shown()["box"]["stage"] == "stale")
    card = box.shown()["card"]
    assert (card["tone"], card["code"]) == ("wait", "RENEWAL-OVERDUE")
    assert card["sentence"] == "It did not renew its certificate in time."
    assert card["next_step"].startswith("Look at its screen and its cable.")
    shown = site.doorstep("box", "show", box.box_id)
    assert "Certificate: until 20" in shown.output
    assert box.renewed(kept).status == "ready"
    shown = box.shown()
    assert (shown["box"]["stage"], shown["card"]["code"]) == ("ready", None)
    assert shown["box"]["renew"] == 43200
    assert [one["kind"] for one in shown["events"]][-3:] == ["stale", "renewed", "ready"]


@pytest.mark.boots
def test_what_a_person_released_for_this_boot_is_released_for_its_renewals(
    site: ControlSite,
) -> None:
    box = fresh(site, 3)
    held = box.session()
    assert (held.status, held.reason) == ("held", "EK-UNLISTED")
    said = site.approve(SimpleNamespace(id=box.box_id), "--role", "kiosk")
    assert said.exit_code == 0, said.output
    kept = box.session().kept
    assert box.renewed(kept).status == "ready"
    # and nothing else is: what differs now was not what the person saw
    box.memory = 512
    outcome = box.renewed(kept)
    assert (outcome.status, outcome.reason) == ("held", "FACTS-DIFFER")
    assert box.token()
    box.memory = 16384
    assert box.renewed(kept).status == "ready"


@pytest.mark.boots
def test_a_box_that_lacked_a_secret_is_ready_once_it_renews_with_it(
    site: ControlSite, box: StayingBox
) -> None:
    site.operator("keys", "secret_remove", name="pos-api-token")
    first = box.session()
    assert (first.status, first.withheld) == ("enrolled", ("pos-api-token",))
    assert box.shown()["box"]["stage"] == "enrolled"
    assert not (box.seed / "secrets/pos-api-token").exists()
    site.put_secret(b"it came at last")
    assert box.renewed(first.kept).status == "ready"
    assert box.token() == b"it came at last"
    shown = box.shown()
    assert (shown["box"]["stage"], shown["box"]["withheld"]) == ("ready", [])
    assert shown["card"]["sentence"] is None


@pytest.mark.boots
def test_a_renewal_that_keys_gave_and_control_forgot_is_given_again(
    site: ControlSite, box: StayingBox, tmp_path: Path
) -> None:
    """Killed between the two commits, control comes to the same answer by the same evidence."""
    kept = box.session().kept
    path, copy = site.layout.state / "site/site.db", tmp_path / "site.db"

    def copied(source: Path, target: Path) -> None:
        site.processes["control"].kill()
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
            one.backup(other)
        site.restart("control")

    copied(path, copy)
    assert box.renewed(kept).status == "ready"
    where, body = carried(box, "/evidence")
    answer = box.carrier.post(where, body)
    copied(copy, path)
    assert box.shown()["box"]["renewals"] == 0
    assert box.carrier.post(where, body) == answer
    assert box.shown()["box"]["renewals"] == 1
    assert box.renewed(kept).status == "ready"


@pytest.mark.boots
def test_a_box_whose_place_was_taken_is_refused_by_a_signed_answer(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    edit(site, "UPDATE boxes SET stage='replaced' WHERE box=?", box.box_id)
    outcome = box.renewed(kept)
    edit(site, "UPDATE boxes SET stage='contacted' WHERE box=?", box.box_id)
    assert (outcome.status, outcome.reason) == ("refused", "REPLACED")
    assert not (box.seed / "secrets/pos-api-token").exists()


@pytest.mark.boots
def test_a_box_that_nobody_enrolled_is_told_so(site: ControlSite, box: StayingBox) -> None:
    kept = box.session().kept
    edit(site, "DELETE FROM openings WHERE box=?", box.box_id)
    outcome = box.renewed(kept)
    assert (outcome.status, outcome.reason) == ("held", "NO-HANDOVER")
    assert box.shown()["box"]["renewals"] == 0


@pytest.mark.boots
def test_a_set_that_is_only_old_holds_and_a_withdrawn_one_refuses(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    second = fresh(site, 2)
    other = second.session().kept
    newer = site.build(2)
    site.publish(newer, keep=1)
    site.until(lambda: time.time() > published_until(site))
    site.reload()
    outcome = box.renewed(kept)
    assert (outcome.status, outcome.reason) == ("held", "BOOT-SET-OLD")
    assert box.token()
    shown = box.shown()
    assert (shown["box"]["stage"], shown["card"]["code"]) == ("ready", "BOOT-SET-OLD")
    said = site.doorstep("bootset", "withdraw", site.manifest.digest.hex())
    assert said.exit_code == 0, said.output
    site.reload()
    outcome = second.renewed(other)
    assert (outcome.status, outcome.reason) == ("refused", "BOOT-SET-WITHDRAWN")
    assert outcome.sentence.startswith("This box still runs boot set 1 (")
    assert "which was withdrawn" in outcome.sentence
    assert not (second.seed / "secrets/pos-api-token").exists()


def published_until(site: ControlSite) -> float:
    told = json.loads((site.layout.state / "bootsets/published.json").read_text())
    return max(one["until"] or 0.0 for one in told["sets"])
