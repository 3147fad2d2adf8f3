"""Firmware at a real site: held until headquarters knows it or releases it for one box.

No rehearsal: the boxes are on the signed note, and their TPMs have no certificate that would give
them away as software.
"""

from __future__ import annotations

import json
import sqlite3
import time

import pytest
from control_site import CLAIM, Box, ControlSite, boot_log, make_tpm, row

from attest import eventlog
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.evidence import Tier
from attest.firmwarefile import CONTEXT, encode_baseline
from attest.io.archive import read_evidence
from attest.secureboot import key_lists
from attest.variables import variables_from_log
from bootstrap.io import site_dir

pytestmark = pytest.mark.boots

WAIVED = 'type = "doorstep/policy/v1"\nwaive = ["FIRMWARE-UNKNOWN"]\n'


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A real site with two listed boxes."""
    base = tmp_path_factory.mktemp("tpms")
    site = ControlSite(rehearsal=False)
    boxes = []
    for number in (1, 2):
        mac, address = f"52:54:00:00:00:0{number}", f"10.41.7.10{number}"
        boxes.append(Box(site, make_tpm(base / f"tpm{number}"), mac=mac, address=address))
        boxes[-1].with_certificate = False
    site.deliver(*(box.entry() for box in boxes))
    site.manifest = site.build()
    site.publish(site.manifest)
    try:
        site.start()
        site.log_of_boot = boot_log(site, site.manifest)
        for box in boxes:
            site.lease(box.mac, box.address)
        yield site, boxes
    finally:
        for box in boxes:
            box.off()
        site.close()


@pytest.fixture
def site(world):
    """The site without policy and without a baseline it can use, as others left it."""
    site = world[0]
    (site.layout.site / "policy.toml").unlink(missing_ok=True)
    site.processes["control"].kill()
    database = sqlite3.connect(site.layout.state / "site/site.db", isolation_level=None)
    database.execute("UPDATE boxes SET firmware=NULL")
    database.execute("DELETE FROM approvals")
    database.close()
    site.restart("control")
    sign(site)
    return site


@pytest.fixture
def box(world, site):
    world[1][0].bios = "1.0"
    return world[1][0].boot(site.log_of_boot)


@pytest.fixture
def other(world, site):
    return world[1][1].boot(site.log_of_boot)


_counter = iter(range(1, 1000))


def sign(site, *entries):
    """Sign a firmware baseline of these, newer than the one before."""
    data = encode_baseline(Baseline(entries=entries))
    folder = site.layout.site / "trust"
    comment = f"firmware counter={next(_counter)}"
    signed = site_dir.sign_document(site.layout.site, data, comment, CONTEXT)
    site_dir.write(folder / "firmware.toml", data)
    site_dir.write(folder / "firmware.toml.minisig", signed)
    site.reload()


def policy(site, text):
    site_dir.write(site.layout.site / "policy.toml", text.encode())
    assert site.reload()["kept"] is None


def entry_of(site, box):
    """Make the entry of headquarters for what a box measured."""
    kept = read_evidence(site.layout.state / "evidence" / site.card(box.id)["box"]["evidence"])
    variables = variables_from_log(eventlog.decode(kept.event_log), "sha256")
    return FirmwareEntry(
        machine=Machine(vendor="V", model="M", version=box.bios),
        values={"sha256": {index: kept.pcrs["sha256"][index] for index in (0, 2, 3, 6)}},
        keys=key_lists(variables).fingerprints,
        source="lab 2026-11",
    )


def with_another_firmware(log):
    import eventlog_forge

    decoded = eventlog.decode(log)
    extra = eventlog.Event(pcr=0, type=1, digests={"sha256": b"f" * 32}, data=b"f")
    return eventlog_forge.encode(eventlog_forge.with_events(decoded, (extra, *decoded.events[1:])))


def of_kind(site, start, kind):
    return [event for event in site.events(start) if event["kind"] == kind]


def held(box):
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "FIRMWARE-UNKNOWN")


# The policy


def test_a_policy_that_waives_the_firmware_lets_it_pass_provisionally(site, box):
    held(box)
    policy(site, WAIVED)
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"
    shown = site.card(box.id)
    assert shown["box"]["tier"] == Tier.PROVISIONAL.value
    assert ["Firmware", "not confirmed yet"] in shown["card"]["facts"]
    assert "FIRMWARE-UNKNOWN" in [one["code"] for one in shown["released"]]
    kept = site.layout.state / "evidence" / shown["box"]["evidence"]
    assert 'waive = ["FIRMWARE-UNKNOWN"]' in (kept / "policy.toml").read_text()


def test_a_policy_that_does_not_hold_keeps_the_one_before_and_says_where(site, box):
    policy(site, WAIVED)
    path = site.layout.site / "policy.toml"
    path.write_text(WAIVED + "nonsense = 1\n")
    assert "policy.toml: nonsense" in site.reload()["kept"]
    assert box.enrol().status == "ready"


# The baseline


def test_a_firmware_that_headquarters_signed_is_verified(site, box):
    held(box)
    sign(site, entry_of(site, box))
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"
    shown = site.card(box.id)
    assert shown["box"]["tier"] == Tier.VERIFIED.value
    assert ["Firmware", "known"] in shown["card"]["facts"]


def test_a_baseline_that_does_not_verify_counts_for_nothing_and_is_told(site, box):
    held(box)
    sign(site, entry_of(site, box))
    path = site.layout.site / "trust/firmware.toml"
    path.write_bytes(path.read_bytes() + b"\n")
    site.reload()
    notices = site.operator("control", "services")["notices"]
    assert [one for one in notices if "no firmware is known" in one], notices
    box.boot(site.log_of_boot)
    held(box)


def test_an_older_baseline_is_not_taken_also_after_a_restart(site, box):
    held(box)
    folder = site.layout.site / "trust"
    sign(site, entry_of(site, box))
    old = {
        name: (folder / name).read_bytes() for name in ("firmware.toml", "firmware.toml.minisig")
    }
    sign(site)
    for name, data in old.items():
        site_dir.write(folder / name, data)
    site.reload()
    site.restart("control")
    notices = site.operator("control", "services")["notices"]
    assert [one for one in notices if "this site has seen" in one], notices
    box.boot(site.log_of_boot)
    held(box)


# A person's release


def test_a_release_of_the_firmware_lasts_for_this_box_and_this_firmware_alone(site, box, other):
    held(box)
    held(other)
    approved = site.approve(box)
    assert approved.exit_code == 0, approved.output
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"
    shown = site.card(box.id)["box"]
    assert shown["firmware_released"]
    assert shown["tier"] == Tier.PROVISIONAL.value
    # the same firmware of the same box: not held again
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"
    # another box with the same firmware: held
    other.boot(site.log_of_boot)
    held(other)
    # another firmware of the same box: held
    box.boot(with_another_firmware(site.log_of_boot))
    held(box)
    # and the first one again: passes
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"


def test_an_approval_that_was_not_used_releases_no_firmware(site, other):
    held(other)
    assert site.approve(other).exit_code == 0
    assert site.card(other.id)["box"]["firmware_released"] is None
    other.boot(with_another_firmware(site.log_of_boot))
    held(other)
    assert site.card(other.id)["box"]["firmware_released"] is None


def test_the_firmware_of_the_tpm_is_kept_with_the_accepted_counters(site, box):
    policy(site, WAIVED)
    box.enrol()
    shown = site.card(box.id)["box"]
    kept = site.layout.state / "evidence" / shown["evidence"]
    version = json.loads((kept / "result.json").read_text())["firmware_version"]
    assert shown["tpm_firmware"] == f"{version:016x}"
    expectation = json.loads((kept / "expectation.json").read_text())
    box.boot(site.log_of_boot)
    box.enrol()
    shown = site.card(box.id)["box"]
    kept = site.layout.state / "evidence" / shown["evidence"]
    later = json.loads((kept / "expectation.json").read_text())
    assert later["record"]["tpm_firmware"] == version
    assert expectation["sets"] == later["sets"]


# Judged again


def test_a_provisional_box_is_verified_without_it_when_headquarters_signs(site, box):
    policy(site, WAIVED)
    assert box.enrol().status == "ready"
    start, known = site.last(), entry_of(site, box)
    box.off()
    sign(site, known)

    def told() -> list[dict]:
        # another box may become known by the policy at the same time
        return [one for one in of_kind(site, start, "firmware-known") if one["box"] == box.id]

    site.until(told)
    (event,) = told()
    assert event["sentence"] == "its firmware is known now: headquarters' entry lab 2026-11"
    shown = site.card(box.id)
    assert shown["box"]["stage"] == "ready"
    assert shown["box"]["tier"] == Tier.VERIFIED.value
    assert ["Firmware", "known"] in shown["card"]["facts"]
    assert "lab 2026-11" in site.doorstep("box", "show", box.id).output
    # once, not each second and not after a restart
    site.restart("control")
    time.sleep(1.5)
    assert len(told()) == 1


def test_a_held_box_whose_firmware_becomes_known_is_told_to_start_again(site, other):
    held(other)
    start = site.last()
    handed = row(site.layout.state / "keys/keys.db", "SELECT count(*) FROM handovers")
    sign(site, entry_of(site, other))
    site.until(lambda: of_kind(site, start, "firmware-known"))
    card = site.card(other.id)["card"]
    assert (card["stage"], card["reasons"]) == ("held", ["FIRMWARE-KNOWN"])
    assert card["next_step"].startswith("Switch the box off and on")
    # never a hand-over from an old quote
    assert row(site.layout.state / "keys/keys.db", "SELECT count(*) FROM handovers") == handed
    refused = site.approve(other)
    assert (refused.exit_code, "not for a person" in refused.output) == (1, True), refused.output
    other.boot(site.log_of_boot)
    assert other.enrol().status == "ready"


def test_what_else_holds_a_box_still_does(site, other):
    other.memory = 100
    try:
        _, answer = other.attest()
        assert answer.status == "held"
        assert set(site.card(other.id)["card"]["reasons"]) == {"FACTS-DIFFER", "FIRMWARE-UNKNOWN"}
        start = site.last()
        sign(site, entry_of(site, other))
        site.until(lambda: of_kind(site, start, "firmware-known"))
        card = site.card(other.id)["card"]
        assert (card["stage"], card["reasons"]) == ("held", ["FACTS-DIFFER"])
    finally:
        other.memory = 2048


def test_killed_while_it_judges_again_nothing_is_lost(site, box, other):
    policy(site, WAIVED)
    assert box.enrol().status == "ready"
    assert other.enrol().status == "ready"
    start, known = site.last(), entry_of(site, box)
    database = site.layout.state / "site/site.db"
    site.processes["control"].kill()
    data_signed(site, known)
    for pause in (0.0, 0.05, 0.2, 0.4):
        site.processes["control"].start()
        site.wait_for("control")
        time.sleep(pause)
        site.processes["control"].kill()
    site.processes["control"].start()
    site.wait_for("control")
    verified = "SELECT count(*) FROM boxes WHERE tier=?"
    site.until(lambda: row(database, verified, Tier.VERIFIED.value) == (2,))
    assert sorted(one["box"] for one in of_kind(site, start, "firmware-known")) == sorted(
        (box.id, other.id)
    )


def data_signed(site, *entries):
    """Sign as `sign` does, while control does not run."""
    data = encode_baseline(Baseline(entries=entries))
    folder = site.layout.site / "trust"
    comment = f"firmware counter={next(_counter)}"
    signed = site_dir.sign_document(site.layout.site, data, comment, CONTEXT)
    site_dir.write(folder / "firmware.toml", data)
    site_dir.write(folder / "firmware.toml.minisig", signed)


def test_evidence_that_cannot_be_judged_again_takes_trust_away(site, box):
    policy(site, WAIVED)
    dance, answer = box.attest()
    assert answer.status == "enrolled"
    body = box.report(dance, box.open(dance, answer))
    assert box.post("report", body, dance.session)[0] == 200
    assert site.card(box.id)["box"]["stage"] == "ready"
    kept = site.layout.state / "evidence" / site.card(box.id)["box"]["evidence"]
    entry, start = entry_of(site, box), site.last()
    (kept / "pcrs.json").write_bytes(b"{")
    sign(site, entry)
    site.until(lambda: of_kind(site, start, "doubted"))
    shown = site.card(box.id)
    assert (shown["box"]["stage"], shown["box"]["tier"]) == ("refused", Tier.NOT_VERIFIED.value)
    assert shown["card"]["reasons"] == ["VERIFIER-FAULT"]
    # its session is of no use any more
    assert box.post("report", body, dance.session)[0] == 404
    # and a new one, with new evidence, is judged for itself
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"


def test_evidence_that_was_cleared_away_takes_nothing_away(site, box):
    policy(site, WAIVED)
    assert box.enrol().status == "ready"
    kept = site.layout.state / "evidence" / site.card(box.id)["box"]["evidence"]
    entry, start = entry_of(site, box), site.last()
    kept.rename(kept.with_name("moved"))
    sign(site, entry)
    site.until(lambda: of_kind(site, start, "not-appraised"))
    assert site.card(box.id)["box"]["stage"] == "ready"
    assert site.card(box.id)["box"]["tier"] == Tier.PROVISIONAL.value


# A known box that fails later


def test_a_ready_box_whose_next_session_is_refused_is_not_ready_and_gets_nothing(site, box):
    policy(site, WAIVED)
    assert box.enrol().status == "ready"
    handed = "SELECT count(*) FROM handovers"
    keys = site.layout.state / "keys/keys.db"
    before = row(keys, handed)
    box.boot(site.log_of_boot)
    dance = box.begin(log=b"no log at all" * 9)
    answer = box.read(dance, box.give(dance))
    assert answer.status == "refused"
    shown = site.card(box.id)
    assert (shown["box"]["stage"], shown["box"]["tier"]) == ("refused", Tier.NOT_VERIFIED.value)
    assert row(keys, handed) == before
    assert site.approve(box).exit_code == 1


def test_the_explanation_at_three_levels(site, box):
    held(box)
    listed = site.doorstep("box", "list").output
    assert "FIRMWARE-UNKNOWN" in listed
    shown = site.doorstep("box", "show", box.id).output
    for wanted in (
        "FIRMWARE-UNKNOWN",
        "releasable by: headquarters",
        "doorstep verify ",
        "detail:",
    ):
        assert wanted in shown, shown
    changed = site.doorstep("box", "show", box.id, "--events").output
    assert "last session: held" in changed
    everything = json.loads(site.doorstep("box", "show", box.id, "--json").output)
    assert everything["result"]["verdict"] == "held"
    assert everything["approval"]["needs_claim"] is False
    assert everything["findings"][0]["releasable_by"] == "headquarters"
    assert CLAIM not in shown
