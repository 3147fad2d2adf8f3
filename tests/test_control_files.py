"""What the operator changes while control runs: taken over when it holds, kept before when not."""

from __future__ import annotations

import json
import os
import time

import pytest
from control_site import boot_log, running

from bootstrap.io import site_dir
from bootstrap.phonehome import b64u
from keys.io.rpc import RpcError
from netboot.io.bootsets import MANIFEST, REHEARSAL, REHEARSAL_SIGNATURE, SIGNATURE

pytestmark = pytest.mark.boots


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running(tmp_path_factory.mktemp("tpms"), boxes=2) as made:
        yield made


@pytest.fixture
def site(world):
    site = world[0]
    if site.posts > 4:
        site.restart("control")
    yield site
    assert not site.processes["control"].ended(), site.log("control")


@pytest.fixture
def box(world, site):
    return world[1][0].boot(site.log_of_boot)


@pytest.fixture
def kept(site):
    """Put every file of the site and of `published.json` back afterwards."""
    paths = [path for path in site.layout.site.rglob("*") if path.is_file()]
    paths.append(site.layout.state / "bootsets/published.json")
    before = {path: path.read_bytes() for path in paths}
    yield
    for path, data in before.items():
        if path.name != "delivery.csv.minisig":
            site_dir.write(path, data)
    # signed again: a note with a lower counter than one that was seen is refused
    site_dir.sign_note(site.layout.site, site_dir.load(site.layout.site))
    site.reload()
    site.restart("keys")


def notices(site):
    return " | ".join(site.operator("control", "services")["notices"])


def published(site):
    return site.layout.state / "bootsets/published.json"


def test_a_broken_site_file_keeps_the_settings_before(site, box, kept):
    path = site.layout.site / "site.toml"
    path.write_bytes(path.read_bytes() + b"\nnonsense = [")
    assert "kept the settings before" in site.reload()["kept"]
    assert "kept the settings before" in notices(site)
    assert box.enrol().status == "ready"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("templates/pos.yaml.j2", b"\xff\xfe", "templates/pos.yaml.j2"),
        ("trust/ek/other.pem", b"none", "other.pem"),
    ],
)
def test_other_files_that_do_not_hold(site, box, kept, name, data, said):
    path = site.layout.site / name
    path.write_bytes(data)
    try:
        answer = site.reload()
        assert "kept the settings before" in answer["kept"]
        assert said in answer["kept"]
        assert box.attest()[1].status == "enrolled"
    finally:
        if name == "trust/ek/other.pem":
            path.unlink()


def test_a_root_that_cannot_be_read(site, box, kept):
    path = site.layout.site / "trust/root.pem"
    good = path.read_bytes()
    path.write_bytes(b"none")
    assert "trust/root.pem" in site.reload()["kept"]
    # keys cannot hand over; that is no fault of the box, which tries again
    dance = box.begin()
    with pytest.raises(RpcError):
        box.give(dance)
    assert site.card(box.id)["box"]["stage"] == "verified"
    path.write_bytes(good)
    assert box.read(dance, box.give(dance)).status == "enrolled"


def test_a_note_that_is_not_signed_lists_nobody(site, box, kept):
    path = site.layout.site / "delivery.csv"
    path.write_bytes(path.read_bytes() + b"S9,M," + b"0" * 64 + b",pos,\n")
    site.reload()
    assert "no box is on the delivery note" in notices(site)
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "EK-UNLISTED")


def test_a_change_is_taken_over_without_a_word(site, box, kept):
    path = site.layout.site / "site.toml"
    path.write_bytes(path.read_bytes().replace(b"memory_mib_min = 900", b"memory_mib_min = 9000"))
    site.until(lambda: site.operator("control", "reload")["kept"] is None)
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "FACTS-DIFFER")


def test_a_zone_of_the_operator_is_in_the_plan_and_a_broken_one_keeps_the_one_before(
    site, box, kept
):
    path, zone = site.layout.site / "site.toml", site.layout.site / "example.zone"
    zone.write_text("$TTL 60\n@ SOA ns hm 1 60 60 60 60\n@ NS ns\nns A 192.0.2.1\n")
    tables = '\n[[zone]]\nname = "example.org"\nfile = "example.zone"\n'
    tables += '[[record]]\nname = "www"\ntype = "CAA"\nvalue = \'0 issue "ca.example"\'\n'
    path.write_bytes(path.read_bytes() + tables.encode())
    try:
        site.until(lambda: site.plan().get("zones"))
        (planned,) = site.plan()["zones"]
        store = site.layout.state / "plan/files"
        assert (store / planned["digest"]).read_bytes() == zone.read_bytes()
        assert ("www.shop-0417.example.net", "CAA") in {
            (one["name"], one["type"]) for one in site.plan()["records"]
        }
        zone.write_text("@ SOA\n")
        site.until(lambda: "example.zone" in notices(site))
        assert site.plan()["zones"] == [planned]
    finally:
        zone.unlink()


def test_a_person_for_each_box(site, box, kept):
    path = site.layout.site / "site.toml"
    path.write_bytes(path.read_bytes().replace(b'approve = "ek-listed"', b'approve = "never"'))
    site.reload()
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "APPROVAL-NEEDED")
    # without a word of the role, it is the one on the note
    approved = site.doorstep("box", "approve", box.id, "--yes")
    assert approved.exit_code == 0, approved.output
    assert "approved as pos until" in approved.output
    assert box.enrol().status == "ready"


def test_the_role_on_the_note(site, box, world, kept):
    other = world[1][1].boot(site.log_of_boot)
    box.attest()
    other.attest()
    name = site.card(other.id)["box"]["hostname"]
    box.boot(site.log_of_boot)
    site.deliver(box.entry(role="kiosk"), other.entry())
    site.reload()
    site.restart("keys")
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "FACTS-DIFFER")
    assert "16000" in str(site.card(box.id))
    box.memory = 32000
    try:
        assert box.enrol().status == "ready"
    finally:
        box.memory = 2048
    shown = site.card(box.id)["box"]
    assert (shown["hostname"], shown["role"]) == ("kiosk-01", "kiosk")
    # the number that became free is not given to a box that has one
    other.boot(site.log_of_boot)
    assert other.attest()[1].status == "enrolled"
    assert site.card(other.id)["box"]["hostname"] == name


def test_a_box_without_a_role_waits_for_the_site(site, box, world, kept):
    path = site.layout.site / "site.toml"
    path.write_bytes(path.read_bytes().replace(b"default = true", b"default = false"))
    site.deliver(box.entry(role=None), world[1][1].entry())
    assert site.reload()["kept"] is None
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "SITE-SETTINGS")
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=box.id, role="pos")
    assert refused.value.code == "NOT-HELD"


def test_a_box_that_netboot_did_not_see_booting_is_joined_by_its_lease(site, world):
    box = world[1][1]
    first, box.mac, box.address = (box.mac, box.address), "52:54:00:00:00:77", "10.41.7.177"
    try:
        lease = {"address": box.address, "mac": "52:54:00:00:00:77"}
        for told in ({"leases": [5]}, {}, {"leases": [{"mac": "x"}]}, {"leases": [lease]}):
            site.leases.write_text(json.dumps(told))
            box.boot(site.log_of_boot)
            box.attest()
            known = site.card(box.id)["box"]["mac"]
            assert (known == box.mac) == (told == {"leases": [lease]})
        site.leases.write_text(json.dumps({"leases": [lease | {"mac": "52:54:00:00:00:78"}]}))
        box.boot(site.log_of_boot)
        box.attest()
        assert site.card(box.id)["box"]["mac"] == box.mac, "a lease of a MAC it does not name"
    finally:
        box.mac, box.address = first
        site.leases.write_text('{"leases":[]}')


@pytest.mark.parametrize("name", ["evidence", "plan"])
def test_a_disk_that_takes_nothing(site, box, name):
    path = site.layout.state / name
    if name == "plan":
        (path / "plan.json").unlink()
    os.chown(path, 0, 0)
    path.chmod(0o700)
    dance = box.begin()
    try:
        with pytest.raises(RpcError) as refused:
            box.give(dance)
        assert refused.value.code == "SITE-FAULT"
        assert site.operator("control", "services")["services"]
    finally:
        os.chown(path, site.layout.users["control"], site.layout.users["control"])
        path.chmod(0o755 if name == "plan" else 0o700)
    assert box.read(dance, box.give(dance)).status == "enrolled"
    assert site.plan()["reservations"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"type":"x","sets":[]}'])
def test_a_bad_published_json_changes_nothing(site, box, kept, data):
    published(site).write_bytes(data)
    assert "kept the boot sets before" in site.reload()["kept"]
    assert "kept the boot sets before" in notices(site)
    assert box.enrol().status == "ready"
    assert site.plan()["boot"]["sets"][0]["boot_set"] == site.manifest.digest.hex()


def test_the_operators_boot_files_are_taken_and_those_before_stay(site, box, kept):
    files = site.layout.site / "files"
    files.mkdir(mode=0o755)
    (files / "menu.ipxe").write_text("#!ipxe")
    path = site.layout.site / "site.toml"
    path.write_bytes(path.read_bytes().replace(b"[boot]", b'[boot]\nfiles = "files"'))
    assert site.reload()["kept"] is None
    first = site.plan()["boot"]["files"]["/menu.ipxe"]
    assert (site.layout.state / "plan" / "files" / first).read_text() == "#!ipxe"
    (files / "menu.ipxe").write_text("#!ipxe again")
    end = time.monotonic() + 20
    while site.plan()["boot"]["files"]["/menu.ipxe"] == first:
        assert time.monotonic() < end, "the plan stayed as it was"
        time.sleep(0.05)
    (files / "a name").write_text("")
    site.reload()
    assert "no client can ask for this name" in notices(site)
    assert "/menu.ipxe" in site.plan()["boot"]["files"]
    assert box.enrol().status == "ready"


def test_a_bad_published_json_at_start(site, box, kept):
    good = published(site).read_bytes()
    published(site).write_bytes(b"{")
    site.restart("control")
    assert "published.json" in notices(site)
    assert "No boot set is served" in notices(site)
    _, answer = box.attest()
    assert answer.status == "refused"
    site_dir.write(published(site), good)
    site.until(lambda: "published.json" not in notices(site))
    box.boot(site.log_of_boot)
    assert box.enrol().status == "ready"


def damaged(site, manifest, what):
    """Damage one thing of a set; gives what puts it back."""
    folder = site.layout.state / "bootsets/sets" / manifest.digest.hex()
    anchor = site.layout.state / "bootsets/files" / manifest.roles["anchor"].sha256.hex()
    path, data = {
        "manifest": (folder / MANIFEST, b"{}"),
        "changed manifest": (
            folder / MANIFEST,
            (folder / MANIFEST).read_bytes().replace(b'"version": 1', b'"version": 2'),
        ),
        "signature": (folder / SIGNATURE, b"none"),
        "record": (folder / REHEARSAL, (folder / REHEARSAL).read_bytes() + b" "),
        "record's signature": (folder / REHEARSAL_SIGNATURE, b""),
        "file": (anchor, anchor.read_bytes()[:-1] + b"x"),
        "missing file": (anchor, None),
        "missing record": (folder / REHEARSAL, None),
    }[what]
    before = path.read_bytes()
    path.unlink() if data is None else path.write_bytes(data)
    return lambda: site_dir.write(path, before)


@pytest.mark.parametrize(
    "what",
    ["manifest", "changed manifest", "signature", "record", "record's signature", "file"]
    + ["missing file", "missing record"],
)
def test_a_set_that_does_not_hold_is_not_used_and_named(site, box, what):
    restore = damaged(site, site.manifest, what)
    try:
        site.reload()
        name = site.manifest.digest.hex()[:12]
        assert f"boot set {name} is not used" in notices(site)
        assert "boot" not in site.plan()
        _, answer = box.attest()
        assert answer.status == "refused"
    finally:
        restore()
        site.reload()
    assert "is not used" not in notices(site)
    box.boot(site.log_of_boot)
    assert box.attest()[1].status == "enrolled"


def test_a_record_of_other_files_is_none(site, box):
    site.rehearse(site.manifest, core=b"x" * 32)
    try:
        site.reload()
        assert "its rehearsal was of other files" in notices(site)
        assert box.attest()[1].status == "refused"
    finally:
        site.rehearse(site.manifest)
        site.reload()


def test_an_older_set_is_accepted_until_its_time_is_over(site, world, kept):
    _, (box, other) = world
    new = site.build(2)
    site.publish(new, keep=3)
    site.reload()
    assert site.plan()["boot"]["sets"][0]["boot_set"] == new.digest.hex()
    assert f"/f/{new.roles['anchor'].sha256[:8].hex()}/anchor.img" in site.plan()["boot"]["files"]
    box.boot(site.log_of_boot)
    assert box.attest()[1].status == "enrolled"
    other.boot(boot_log(site, new))
    assert other.attest()[1].status == "enrolled"
    assert site.card(other.id)["box"]["hostname"] == "pos-02"
    end = max(one["until"] or 0 for one in json.loads(published(site).read_bytes())["sets"])
    while time.time() < end + 1.5:  # nobody reloads: control looks at the clock
        time.sleep(0.1)
    box.boot(site.log_of_boot)
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("refused", "BOOT-SET-WITHDRAWN")


def test_a_withdrawn_set(site, world, kept):
    _, (box, _) = world
    site.publish(site.build(3))
    site.shelf.withdraw(site.manifest.digest)
    site.reload()
    box.boot(site.log_of_boot)
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("refused", "BOOT-SET-WITHDRAWN")


def test_keys_keeps_a_withdrawal_that_the_file_forgets(site, world):
    _, (box, _) = world
    new = site.build(4)
    site.publish(new)
    site.reload()
    site.operator("keys", "withdraw", boot_set=b64u(new.digest))
    box.boot(boot_log(site, new))
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("refused", "BOOT-SET-WITHDRAWN")
