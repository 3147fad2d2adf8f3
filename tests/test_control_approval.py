"""A person's release end to end: what is shown, whose word it needs, what it is bound to, once."""

from __future__ import annotations

import json
import signal
import sqlite3

import pytest
from control_site import CLAIM, carried, row, running

from bootstrap.phonehome import b64u
from keys.io.rpc import RpcError, RpcUnavailableError

pytestmark = pytest.mark.boots


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running(tmp_path_factory.mktemp("tpms"), boxes=3) as (site, boxes):
        site.deliver(boxes[0].entry())
        site.reload()
        yield site, boxes


@pytest.fixture
def site(world):
    """The site, without any approval."""
    site = world[0]
    site.processes["control"].kill()
    change(site, "DELETE FROM approvals")
    site.restart("control")
    return site


def change(site, statement, *values):
    database = sqlite3.connect(site.layout.state / "site/site.db", isolation_level=None)
    database.execute(statement, values)
    database.close()


@pytest.fixture
def unlisted(world, site):
    box = world[1][1]
    box.memory = 2048
    return box.boot(site.log_of_boot)


@pytest.fixture
def third(world, site):
    return world[1][2].boot(site.log_of_boot)


def held(box, *reasons):
    """Attest and be held for exactly these."""
    _, answer = box.attest()
    assert answer.status == "held", answer
    assert box.site.card(box.id)["card"]["reasons"] == list(reasons)


def approvals(site):
    return row(site.layout.state / "site/site.db", "SELECT count(*) FROM approvals WHERE used=0")[0]


def allowances(site):
    return row(site.layout.state / "keys/keys.db", "SELECT count(*) FROM allowed")[0]


# What a person sees and must say


def test_it_shows_what_it_releases_and_wants_the_word_of_the_technician(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    before = allowances(site)
    shown = site.doorstep("box", "approve", unlisted.id, "--yes")
    assert shown.exit_code == 1
    for wanted in (
        "EK-UNLISTED: This box is not on the delivery note.",
        "releasable by: technician and headquarters",
        "--claim",
    ):
        assert wanted in shown.output, shown.output
    assert (approvals(site), allowances(site)) == (0, before), "nothing was allowed anywhere"
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=unlisted.id)
    assert refused.value.code == "CLAIM-NEEDED"
    shown = site.approve(unlisted)
    assert shown.exit_code == 0, shown.output
    digest = site.card(unlisted.id)["approval"]["measurements"]
    assert f"measurements: {digest}" in shown.output
    assert CLAIM in shown.output


def test_story_and_audit_keep_reasons_digest_and_claim(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    offered, start = site.card(unlisted.id)["approval"], site.last()
    assert site.approve(unlisted).exit_code == 0
    (event,) = [one for one in site.events(start) if one["kind"] == "approved"]
    assert (event["box"], event["detail"]["reasons"]) == (unlisted.id, ["EK-UNLISTED"])
    assert event["detail"]["claim"] == CLAIM
    measured = bytes.fromhex(event["detail"]["measurements"])
    assert b64u(measured) == offered["measurements"]
    audit = row(site.layout.state / "keys/keys.db", "SELECT entry FROM audit ORDER BY n DESC")[0]
    for wanted in (CLAIM, "EK-UNLISTED", "allowed"):
        assert wanted in audit


def test_exactly_the_reasons_that_were_named_or_nothing(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    for words in (["FIRMWARE-UNKNOWN"], ["EK-UNLISTED", "FIRMWARE-UNKNOWN"]):
        options = [word for reason in words for word in ("--reason", reason)]
        found = site.approve(unlisted, *options)
        assert (found.exit_code, "it is held for EK-UNLISTED" in found.output) == (1, True)
    assert approvals(site) == 0
    assert site.approve(unlisted, "--reason", "EK-UNLISTED").exit_code == 0


def test_what_was_looked_at_is_what_is_approved(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    seen = site.card(unlisted.id)["approval"]
    unlisted.memory = 100
    held(unlisted, "EK-UNLISTED", "FACTS-DIFFER")
    about = {name: seen[name] for name in ("reasons", "measurements")}
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=unlisted.id, claim=CLAIM, **about)
    assert refused.value.code == "CHANGED"
    assert approvals(site) == 0


def test_a_claim_cannot_move_the_terminal_of_who_reads_it(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=unlisted.id, claim="a\x1b[2J")
    assert refused.value.code == "CLAIM-NEEDED"


# Both tables, in the order that leaves nothing half done


def test_keys_that_do_not_answer_leave_no_approval_in_control(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    site.processes["keys"].kill()
    try:
        assert site.approve(unlisted).exit_code == 2
        assert approvals(site) == 0
    finally:
        site.processes["keys"].start()
        site.wait_for("keys")


def test_what_control_does_not_approve_keys_does_not_keep(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    before = allowances(site)
    assert site.approve(unlisted, "--role", "nothing").exit_code == 1
    assert (approvals(site), allowances(site)) == (0, before)


def test_an_approved_box_passes_at_its_very_next_try(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    assert unlisted.enrol().status == "ready"
    assert approvals(site) == 0


def test_an_approval_that_keys_does_not_know_is_used_up_and_the_box_is_held(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    name = site.card(unlisted.id)["approval"]["ek_name"]
    site.operator("keys", "disallow", ek_name=name)
    held(unlisted, "EK-UNLISTED")
    assert approvals(site) == 0
    assert site.approve(unlisted).exit_code == 0
    assert unlisted.enrol().status == "ready"


# What it is bound to


def test_more_reasons_than_were_approved(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    unlisted.memory = 100
    held(unlisted, "EK-UNLISTED", "FACTS-DIFFER")
    assert approvals(site) == 1


def test_fewer_reasons_than_were_approved(site, unlisted):
    unlisted.memory = 100
    held(unlisted, "EK-UNLISTED", "FACTS-DIFFER")
    assert site.approve(unlisted).exit_code == 0
    unlisted.memory = 2048
    held(unlisted, "EK-UNLISTED")
    assert approvals(site) == 1


def test_another_ek_than_was_approved(site, unlisted, third):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    held(third, "EK-UNLISTED")
    assert approvals(site) == 1


def test_the_role_that_was_approved_and_no_other(site, unlisted):
    unlisted.memory = 32000
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted, "--role", "kiosk").exit_code == 0
    assert unlisted.enrol().status == "ready"
    assert site.card(unlisted.id)["box"]["role"] == "kiosk"


def test_an_approval_whose_24_hours_are_over(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    site.processes["control"].kill()
    change(site, "UPDATE approvals SET expires = expires - 86400")
    site.restart("control")
    held(unlisted, "EK-UNLISTED")


def test_an_approval_is_used_once(site, unlisted):
    held(unlisted, "EK-UNLISTED")
    assert site.approve(unlisted).exit_code == 0
    assert unlisted.enrol().status == "ready"
    unlisted.boot(site.log_of_boot)
    held(unlisted, "EK-UNLISTED")


# A box in the place of another


@pytest.fixture
def place(tmp_path_factory):
    """A site of its own: the first box is enrolled, the second claims its place."""
    with running(tmp_path_factory.mktemp("place"), boxes=2) as (site, (old, new)):
        site.deliver(old.entry())
        site.reload()
        old.boot(site.log_of_boot)
        assert old.enrol().status == "ready"
        new.serial = old.serial
        new.boot(site.log_of_boot)
        yield site, old, new


def check_replaced(site, old, new):
    gone, here = site.card(old.id), site.card(new.id)
    assert (gone["box"]["stage"], gone["card"]["reasons"]) == ("replaced", ["REPLACED"])
    assert gone["card"]["next_step"].startswith("Unplug")
    assert (here["box"]["stage"], here["box"]["hostname"]) == ("ready", "pos-01")
    assert here["box"]["place"] == old.serial
    names = [one["name"] for one in site.plan()["records"]]
    assert names.count("pos-01.shop-0417.example.net") == 1
    old.boot(site.log_of_boot)
    dance = old.begin()
    status, body = old.post("evidence", dance.body, dance.session)
    assert (status, json.loads(body)["reason"]) == (403, "REVOKED")
    revoked = row(site.layout.state / "keys/keys.db", "SELECT count(*) FROM revoked")
    assert revoked == (1,)


def test_a_box_in_the_place_of_another_waits_for_a_person_who_replaces_that_one(place):
    site, old, new = place
    held(new, "EK-UNLISTED", "BOX-REPLACES")
    assert site.card(old.id)["box"]["stage"] == "ready", "a claim alone takes nothing away"
    found = [one for one in site.card(new.id)["findings"] if one["code"] == "BOX-REPLACES"]
    assert found[0]["detail"] == "pos-01"
    assert site.approve(new).exit_code == 0
    assert site.card(old.id)["box"]["stage"] == "ready", "nor does the approval"
    assert new.enrol().status == "ready"
    check_replaced(site, old, new)


def test_a_new_ek_on_the_note_for_a_serial_that_another_holds(place):
    site, old, new = place
    site.deliver(new.entry(serial=old.serial))
    site.reload()
    site.restart("keys")
    held(new, "BOX-REPLACES")
    assert site.approve(new).exit_code == 0
    assert new.enrol().status == "ready"
    check_replaced(site, old, new)


def test_keys_killed_in_the_middle_of_a_replacement(place):
    site, old, new = place
    held(new, "EK-UNLISTED", "BOX-REPLACES")
    assert site.approve(new).exit_code == 0
    new.boot(site.log_of_boot)
    dance = new.begin()
    site.processes["keys"].signal(signal.SIGSTOP)
    courier = site.courier("enroll")
    courier.send("control", "evidence", carried(dance.body, dance.session, new.address))
    site.until(lambda: site_stage(site, old) == "replaced")
    site.processes["control"].kill()
    site.processes["keys"].kill()
    with pytest.raises(RpcUnavailableError):
        courier.receive()
    for name in ("keys", "control"):
        site.processes[name].start()
        site.wait_for(name)
    names = [one["name"] for one in site.plan()["records"]]
    assert names.count("pos-01.shop-0417.example.net") == 1
    # the same evidence, or a new session of a new start: the same approval fits
    new.boot(site.log_of_boot)
    assert new.enrol().status == "ready"
    check_replaced(site, old, new)


def site_stage(site, box):
    return row(site.layout.state / "site/site.db", "SELECT stage FROM boxes WHERE box=?", box.id)[0]
