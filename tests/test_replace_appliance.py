"""A dead appliance: another machine with another TPM takes its place, and no box is touched."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from backup_lab import Appliance, Headquarters, Machine, take_over
from click.testing import CliRunner
from control_site import KIOSK, Box, boot_log, make_tpm
from cryptography import x509
from test_agent_renew import STAYS, StayingBox

from bootstrap.cli.main import main
from bootstrap.io import site_dir
from bootstrap.io.lease_desk import LeaseDesk
from keys import note
from keys.envelope import b64u
from keys.tpm_public import PublicArea

pytestmark = pytest.mark.boots

VALUE = b"the token of the tills, 4d1f"


@dataclass
class World:
    """What happened: an appliance with two boxes died, and a machine took its place."""

    hq: Headquarters
    machine: Machine
    boxes: dict[str, Box]
    backups: dict[str, Path]
    staying: StayingBox | None = None
    kept: Any = None
    log: bytes = b""
    before: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("dead")
    first = Appliance(base)
    path = first.layout.site / "site.toml"
    path.write_text(path.read_text().replace(KIOSK, STAYS))
    machine = Machine()
    boxes: dict[str, Box] = {}
    try:
        for number, name in enumerate(("kept", "revoked"), 1):
            tpm = make_tpm(base / name)
            place = {"mac": f"52:54:00:00:00:0{number}", "address": f"10.41.7.10{number}"}
            boxes[name] = Box(first, tpm, **place)
            first.trust(tpm)
        one = World(hq=first.hq, machine=machine, boxes=boxes, backups={})
        one.staying = StayingBox(first, base, 3)
        first.trust(one.staying.swtpm)
        _live(one, first)
        first.close()
        _replace(one)
        yield one
    finally:
        for box in boxes.values():
            box.off()
        if one.staying is not None:
            one.staying.swtpm.stop()
        first.tpm.cut_power()
        machine.close()


def _live(world: World, first: Appliance) -> None:
    """Let the first appliance enrol two boxes, revoke one, and be saved before and after."""
    staying = world.staying
    assert staying is not None
    first.deliver(*(box.entry() for box in world.boxes.values()), staying.entry(role="kiosk"))
    manifest = first.build()
    first.publish(manifest)
    withdrawn = first.build(2)
    first.ready()
    first.operator("keys", "withdraw", boot_set=b64u(withdrawn.digest))
    first.put_secret(VALUE)
    world.log = boot_log(first, manifest)
    for box in world.boxes.values():
        first.lease(box.mac, box.address)
        box.memory = 2048
        assert box.boot(world.log).enrol().status == "ready"
    first.log_of_boot = world.log
    first.lease(staying.mac, staying.address)
    world.kept = staying.power_on().session().kept
    kept = world.boxes["kept"].boot(world.log)
    dance, answer = kept.attest()
    document = json.loads(kept.open(dance, answer).document)
    world.before = facts(first, kept) | {"subject": subject(document)}
    world.backups["old"] = first.backup("old")
    first.operator("keys", "revoke", ek_name=b64u(ek_name(world.boxes["revoked"])))
    first.renew("--days", "30", "--starts", "9")
    world.said["request"] = first.doorstep("lease", "request", "--challenge", "12").stdout
    world.backups["new"] = first.backup("new", "--boot-sets", "--evidence")
    world.before["revoked"] = first.operator("keys", "events", after=0)["last"]


def _replace(world: World) -> None:
    machine, hq = world.machine, world.hq
    done = take_over(machine, hq, world.backups["new"])
    assert done.exit_code == 0, done.output
    world.said["from"] = done.output
    machine.run()
    stick = machine.base / "recipient"
    asked = machine.command("seed", "recipient", "--out", stick)
    assert asked.exit_code == 0, asked.output
    world.said["check before"] = machine.command("replace-appliance", "--check").output
    seed = machine.base / "seed.age"
    refused = hq.reseal(world.backups["new"], stick, seed)
    world.said["no lease"] = refused.output
    request = machine.doorstep("lease", "request", "--challenge", "12").stdout
    lease = machine.base / "lease"
    lease.write_text(hq.lease(request, "--new"))
    world.said["old secrets"] = hq.reseal(world.backups["old"], stick, seed).output
    assert not seed.exists()
    made = hq.reseal(world.backups["new"], stick, seed, "--replaces")
    assert made.exit_code == 0, made.output
    done = machine.doorstep("lease", "apply", str(lease))
    assert "the cache is open" in done.output, done.output
    done = machine.doorstep("seed", "take", "--yes", str(seed))
    assert done.exit_code == 0, done.output
    world.said["seed"] = done.output
    machine.sign_authorities(hq.site)
    for box in world.boxes.values():
        box.site = machine
        machine.lease(box.mac, box.address)
    assert world.staying is not None
    world.staying.site = world.staying.carrier.site = machine
    machine.lease(world.staying.mac, world.staying.address)


def ek_name(box: Box) -> bytes:
    return PublicArea.decode(box.ek).name()


def facts(site: Any, box: Box) -> dict[str, Any]:
    """What a box and its surroundings know of an appliance, and must find again."""
    card = site.card(box.id)["box"]
    return {
        "hostname": card["hostname"],
        "address": card["address"],
        "anchors": site.operator("keys", "zone_anchors")["anchors"],
        "wrap": site.operator("keys", "wrap_key")["name"],
        "withdrawn": site.operator("keys", "status")["withdrawn"],
        "root": hashlib.sha256((site.layout.site / "trust/root.pem").read_bytes()).hexdigest(),
    }


def subject(document: dict[str, Any]) -> str:
    leaf = x509.load_pem_x509_certificates(document["identity"]["chain_pem"].encode())[0]
    return leaf.subject.rfc4514_string()


def test_a_box_enrols_at_the_new_appliance_as_it_did_at_the_dead_one(world: World) -> None:
    box = world.boxes["kept"].boot(world.log)
    dance, answer = box.attest()
    assert answer.status == "enrolled"
    document = json.loads(box.open(dance, answer).document)
    (secret,) = document["secrets"]
    assert secret["value"] == b64u(VALUE)
    assert (document["hostname"], document["network"][0]["address"].partition("/")[0]) == (
        world.before["hostname"],
        world.before["address"],
    )
    assert subject(document) == world.before["subject"]
    now = facts(world.machine, box)
    assert {name: world.before[name] for name in now} == now


def test_a_box_that_stays_up_renews_at_the_new_appliance(world: World) -> None:
    """The real agent, in the boot that the dead appliance handed over to."""
    box = world.staying
    assert box is not None
    before = (box.seed / "identity/chain.pem").read_bytes()
    outcome = box.renewed(world.kept)
    assert outcome.status == "ready", box.said
    assert box.token() == VALUE
    after = (box.seed / "identity/chain.pem").read_bytes()
    old, new = (x509.load_pem_x509_certificates(one) for one in (before, after))
    assert old[0].subject == new[0].subject
    assert old[1].public_key() != new[1].public_key(), "another appliance's intermediate"


def test_nothing_revoked_comes_back(world: World) -> None:
    box = world.boxes["revoked"].boot(world.log)
    dance = box.begin()
    answer = box.read(dance, box.give(dance))
    assert (answer.status, answer.reason) == ("refused", "EK-NOT-ALLOWED")
    assert len(world.before["withdrawn"]) == 1
    assert world.machine.operator("keys", "status")["withdrawn"] == world.before["withdrawn"]


def test_secrets_of_a_backup_before_a_revocation_stay_closed(world: World) -> None:
    said = world.said["old secrets"]
    assert "refused: it counts" in said
    assert "only a backup that counts at least" in said


def test_headquarters_opens_for_an_appliance_with_a_lease_alone(world: World) -> None:
    assert "it has no lease from here" in world.said["no lease"]


def test_the_dead_appliance_gets_no_lease_any_more(world: World) -> None:
    ledgers = world.hq.do("lease", "issued", "--authority", world.hq.authority, "--json")
    assert len({one["site"] for one in json.loads(ledgers.output)["leases"]}) == 1
    replaced = [one.replaced is not None for one in LeaseDesk(world.hq.authority).ledgers()]
    assert sorted(replaced) == [False, True]
    options = ("--authority", str(world.hq.authority), "--passphrase-file", str(world.hq.phrase))
    done = CliRunner().invoke(
        main,
        ["lease", "issue", *options, "--days", "3", "--starts", "1", "--new"],
        input=world.said["request"],
    )
    assert done.exit_code == 1
    assert "another appliance took the place of this one" in done.output


def test_the_record_of_before_goes_on(world: World) -> None:
    checked = world.machine.doorstep("audit", "verify")
    assert checked.exit_code == 0, checked.output
    events = world.machine.operator("keys", "events", after=0)["events"]
    kinds = [one["kind"] for one in events]
    assert kinds.index("revoked") < kinds.index("restored") < kinds.index("seed-taken")
    assert events[world.before["revoked"] - 1]["n"] == world.before["revoked"]


def test_what_is_left_is_said(world: World) -> None:
    assert "1. start the appliance" in world.said["from"]
    assert "they come as a seed" in world.said["from"]
    assert "authorities are not signed yet" in world.said["check before"]
    done = world.machine.command("replace-appliance", "--check")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("everything is done: boxes enrol and renew here\n")
    assert done.output.endswith("2 of 3 boxes were here since: the others come by themselves\n")
    root = world.machine.layout.site / "trust/root.pem"
    kept = root.read_bytes()
    try:
        root.write_bytes(kept.replace(b"A", b"B", 9))
        done = world.machine.command("replace-appliance", "--check")
        assert "has another root than this site" in done.output
    finally:
        root.write_bytes(kept)


def test_its_files_are_there(world: World) -> None:
    layout = world.machine.layout
    evidence = sorted((layout.state / "evidence").rglob("*"))
    assert any(path.is_file() for path in evidence)
    assert (layout.state / "bootsets/published.json").exists()
    assert not (layout.site / "offline").exists()
    assert not list(layout.state.glob(".restore*"))
    with sqlite3.connect(f"file:{layout.state}/site/site.db?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM boxes").fetchone()
    assert count == 3


def test_a_stale_backup_waits_for_the_next_delivery_note(world: World) -> None:
    machine = Machine()
    try:
        done = take_over(machine, world.hq, world.backups["old"])
        assert done.exit_code == 0, done.output
        assert "revocations are known that are not in it" in done.output
        machine.processes["keys"].start()
        machine.wait_for("keys")
        status = machine.operator("keys", "status")
        assert status["delivery_note"] is None
        assert any("another delivery note with counter" in one for one in status["sentences"])
        kept = world.boxes["kept"].entry()
        site_dir.write(machine.layout.site / "delivery.csv", note.encode((kept,)))
        offline = world.hq.site / "offline"
        site_dir.sign_note(machine.layout.site, site_dir.load(machine.layout.site), offline)
        status = machine.operator("keys", "status")
        assert status["delivery_note"]["entries"] == 1
    finally:
        machine.close()
