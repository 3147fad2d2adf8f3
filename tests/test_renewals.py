"""Renewals at control and keys, as processes, of boxes that lie, are late or were cut off."""

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

from bootstrap.agent.errors import SiteRefusalError
from bootstrap.agent.protocol import Fields, unb64u
from bootstrap.phonehome import b64u
from keys.io.rpc import RpcError


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
def test_a_box_that_renewed_after_the_backup_renews_where_it_was_restored(
    site: ControlSite, box: StayingBox
) -> None:
    kept = box.session().kept
    for _ in range(2):
        assert box.renewed(kept).status == "ready"
    site.processes["keys"].kill()
    query = "DELETE FROM renewals WHERE reply<>''"
    told = "INSERT INTO events VALUES((SELECT max(n)+1 FROM events), ?, 'restored', ?, ?, '{}')"
    with closing(sqlite3.connect(site.layout.state / "keys/keys.db")) as database:
        database.execute(query)
        database.execute(told, (time.time(), None, None))
        database.commit()
    site.restart("keys")
    where = "box=? AND session<>(SELECT session FROM openings WHERE box=? ORDER BY rowid LIMIT 1)"
    edit(site, f"DELETE FROM openings WHERE {where}", box.box_id, box.box_id)
    site.until(lambda: any(one["kind"] == "restored" for one in site.events()))
    assert box.renewed(kept).status == "ready"
    with box.open() as tpm:
        tpm.esys.pcr_event(pcr_handle=ESYS_TR(15), event_data=TPM2B_EVENT(b"something"))
    assert box.renewed(kept).reason == "PCR-MISMATCH"


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
