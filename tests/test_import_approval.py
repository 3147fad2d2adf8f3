"""An approval that headquarters signed, from the held box to its hand-over; and a lease on a stick.

The boxes are software TPMs, keys and control run as they do at a site.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from control_site import CLAIM, Box, ControlSite, row, running
from keys_site import USERS
from test_cli_lease_site import LeasedControlSite

from bootstrap.cli.main import main

pytestmark = pytest.mark.boots
World = tuple[ControlSite, list[Box]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running(tmp_path, boxes=2) as (site, boxes):
        site.deliver(boxes[0].entry())
        site.reload()
        yield site, boxes


@pytest.fixture
def site(world: World) -> ControlSite:
    return world[0]


@pytest.fixture
def box(world: World) -> Box:
    """A box that is on no delivery note."""
    return world[1][1].boot(world[0].log_of_boot)


def held(box: Box) -> str:
    """Let it be held; gives what the site shows of it, for headquarters."""
    _, answer = box.attest()
    assert answer.status == "held", answer
    shown = box.site.doorstep("box", "show", box.id, "--json")
    path = box.site.base / "offer.json"
    path.write_text(shown.output)
    return str(path)


def signed(site: ControlSite, offer: str, *words: str) -> str:
    """Sign at headquarters, which has the site's files and the offline key."""
    out = str(site.base / "approval.json")
    command = ["sign", "approval", offer, "--out", out, "--yes", "--site", str(site.layout.site)]
    done = CliRunner().invoke(main, [*command, *words])
    assert done.exit_code == 0, done.output
    return out


def allowances(site: ControlSite) -> int:
    return row(site.layout.state / "keys/keys.db", "SELECT count(*) FROM allowed")[0]


def test_headquarters_lets_a_box_through_that_nobody_at_the_site_decides_about(
    site: ControlSite, box: Box
) -> None:
    offer = held(box)
    approval = signed(site, offer, "--claim", CLAIM)
    looked = site.doorstep("import", "--dry-run", approval)
    assert "EK-UNLISTED" in looked.output and CLAIM in looked.output, looked.output
    assert (looked.exit_code, allowances(site)) == (0, 0)
    told = site.doorstep("import", "--yes", approval)
    assert told.exit_code == 0, told.output
    assert allowances(site) == 1
    # the very same again: it waits still, and nothing else is allowed
    assert site.doorstep("import", "--yes", approval).exit_code == 0
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"
    assert allowances(site) == 0
    # once: the box that starts again is held again, and the same file lets nobody through
    box.boot(site.log_of_boot)
    held(box)
    again = site.doorstep("import", "--yes", approval)
    assert (again.exit_code, "nothing changes" in again.output) == (0, True), again.output
    assert allowances(site) == 0
    audited = site.doorstep("audit", "verify")
    assert audited.exit_code == 0, audited.output


def test_an_approval_for_another_state_of_the_box_changes_nothing(
    site: ControlSite, box: Box
) -> None:
    approval = signed(site, held(box), "--claim", CLAIM)
    box.memory = 100
    try:
        box.boot(site.log_of_boot)
        held(box)
        told = site.doorstep("import", "--yes", approval)
        assert told.exit_code == 1 and "ask headquarters" in told.output, told.output
    finally:
        box.memory = 2048
    assert allowances(site) == 0
    floors = site.operator("keys", "input_floors")["floors"]
    assert [one for one in floors if one["kind"] == "box-approval"] == []
    # what it says holds again: it is still good
    box.boot(site.log_of_boot)
    held(box)
    assert site.doorstep("import", "--yes", approval).exit_code == 0


def test_an_approval_of_a_box_that_is_not_held_or_not_known_is_refused(
    site: ControlSite, box: Box, world: World
) -> None:
    approval = signed(site, held(box), "--claim", CLAIM)
    document = json.loads(Path(approval).read_text())
    listed = world[1][0].boot(site.log_of_boot)
    assert listed.enrol().status == "ready"
    shown = json.loads(site.doorstep("box", "show", listed.id, "--json").output)
    assert shown["approval"] is None
    offer = site.base / "of-ready.json"
    offer.write_text(json.dumps(shown))
    refused = site.doorstep("sign", "approval", str(offer), "--yes")
    assert "No such option" in refused.output or refused.exit_code == 2
    assert site.doorstep("box", "refuse", box.id, "--yes").exit_code == 0
    told = site.doorstep("import", "--yes", approval)
    assert told.exit_code == 1 and "not to be approved now" in told.output, told.output
    assert allowances(site) == 0 and document["type"] == "doorstep/approval/v1"


def test_control_that_does_not_answer_leaves_a_file_that_can_be_imported_again(
    site: ControlSite, box: Box
) -> None:
    approval = signed(site, held(box), "--claim", CLAIM)
    site.processes["control"].kill()
    told = site.doorstep("import", "--yes", approval)
    assert (told.exit_code, "start the appliance" in told.output) == (2, True), told.output
    assert allowances(site) == 0
    site.processes["control"].start()
    site.wait_for("control")
    held(box.boot(site.log_of_boot))
    assert site.doorstep("import", "--yes", approval).exit_code == 0


def test_a_lease_comes_on_a_stick(tmp_path: Path) -> None:
    site = LeasedControlSite(tmp_path)
    try:
        site.processes["keys"].start()
        site.wait_for("keys")
        asked = site.doorstep("lease", "request", "--challenge", "12")
        words = ("issue", "--challenge", "12", "--days", "30", "--starts", "1", "--new")
        issued = site.headquarters_do(*words, given=asked.stdout)
        path = site.base / "from-headquarters.txt"
        path.write_text(issued.stdout)
        looked = site.doorstep("import", "--dry-run", str(path))
        assert looked.exit_code == 0 and "meant until" in looked.output, looked.output
        text = issued.stdout.strip()
        for damaged in (text[:-20], text[:-40] + "A" * 9 + text[-31:], text + "A"):
            path.write_text(damaged)
            told = site.doorstep("import", "--yes", str(path))
            assert told.exit_code == 1, told.output
            assert site.operator("keys", "lease_show")["lease"] is None
        path.write_text(issued.stdout)
        told = site.doorstep("import", "--yes", str(path))
        assert (told.exit_code, "the cache is open" in told.output) == (0, True), told.output
        a_raised_floor_ends_the_epoch(site)
    finally:
        site.close()


def a_raised_floor_ends_the_epoch(site: ControlSite) -> None:
    """A copy of keys.db of before, with the floor of before, is refused on this TPM."""
    database = site.layout.state / "keys/keys.db"
    assert site.doorstep("ca", "sign").exit_code == 0
    site.put_secret()
    site.processes["keys"].kill()
    old = {path: path.read_bytes() for path in database.parent.glob("keys.db*")}
    site.restart("keys")
    before = site.operator("keys", "lease_show")["counters"]["epoch"]
    newer = site.base / "newer.csv"
    newer.write_bytes(b"serial,model,ek_sha256,role,name\nS9,M,,pos,\n")
    command = ("sign", "file", str(newer), "--counter", "7", "--site", str(site.layout.site))
    assert CliRunner().invoke(main, command).exit_code == 0
    assert site.doorstep("import", "--yes", str(newer)).exit_code == 0
    assert site.operator("keys", "lease_show")["counters"]["epoch"] == before + 1
    site.processes["keys"].kill()
    for path in database.parent.glob("keys.db*"):
        path.unlink()
    for path, data in old.items():
        path.write_bytes(data)
        os.chown(path, USERS["keys"], USERS["keys"])
    with pytest.raises(AssertionError, match=r"keys\.db is older than the last revocation"):
        site.restart("keys")
