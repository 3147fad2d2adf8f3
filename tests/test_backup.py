"""Backups: complete, closed, signed; refused when they are not whole, ours or new enough."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from backup_lab import USERS_TEXT, Appliance, Machine, take_over
from keys_site import USERS
from small_disk import fill, run
from test_cli_lease_site import PHRASE

from bootstrap.backup import Form, front, read_front
from bootstrap.io import offsite, site_dir
from bootstrap.io.backup_file import BackupFile
from bootstrap.io.lease_desk import LeaseDesk
from keys.envelope import b64u
from keys.io import parcels, restored
from keys.io.store import Store
from keys.parcel import Header
from keys.secret import Secret
from keys.tpm_public import PublicArea
from netboot.io.leases import NetbootStore

pytestmark = pytest.mark.boots

CANARY = b"backup-canary-e07d"
EK_NAME = b"\0\x0b" + bytes(range(32))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A running appliance with a lease, a secret, and something in each of its databases."""
    one = Appliance(tmp_path_factory.mktemp("saved"))
    try:
        one.deliver()
        one.publish(one.build())
        netboot = one.layout.state / "netboot" / "netboot.db"
        NetbootStore(netboot).close()
        for path in netboot.parent.iterdir():
            os.chown(path, USERS["netboot"], USERS["netboot"])
        one.ready()
        one.put_secret(CANARY)
        one.first = one.backup("first", "--boot-sets")
        yield one
    finally:
        one.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    one = Machine(tpm=False)
    try:
        yield one
    finally:
        one.close()


def identity(site: Appliance) -> Secret:
    return offsite.open_identity(site.hq.identity, Secret(PHRASE.encode()))


def inside(site: Appliance, path: Path) -> dict[str, bytes]:
    """Open a backup as headquarters does; gives its files."""
    found = {}

    def take(name: str, size: int, content: Any) -> None:
        found[name] = content.read()
        assert len(found[name]) == size

    file = BackupFile(path)
    file.unpack(identity(site), file.digest(), take)
    file.close()
    return found


def rows(path: Path) -> dict[str, list[Any]]:
    """Give everything in a database but what keeps time."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        return {name: database.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}


def test_everything_is_in_it_and_nothing_in_the_clear(site: Appliance, tmp_path: Path) -> None:
    found = inside(site, site.first)
    assert CANARY not in site.first.read_bytes()
    assert all(CANARY not in data for data in found.values())
    layout = site.layout
    for path in layout.site.rglob("*"):
        name = f"site/{path.relative_to(layout.site)}"
        if path.is_file():
            is_offline = name.startswith("site/offline")
            assert (found.get(name) == path.read_bytes()) != is_offline, name
    for path in (layout.state / "bootsets").rglob("*"):
        if path.is_file():
            assert found[f"state/{path.relative_to(layout.state)}"] == path.read_bytes()
    for name in ("site", "netboot"):
        copy = tmp_path / name
        copy.write_bytes(found[f"db/{name}.db"])
        held = layout.state / name / f"{name}.db"
        assert set(rows(copy)) == set(rows(held))
    assert not list(layout.state.glob(".backup-*"))
    events = site.operator("keys", "events", after=0)["events"]
    assert [one["kind"] for one in events].count("backup-made") == 1


def test_age_itself_opens_a_backup(site: Appliance, tmp_path: Path) -> None:
    """When nothing of ours is left: cut the lines off, `age -d`, `tar`."""
    file = BackupFile(site.first)
    data = site.first.read_bytes()
    end = len(data) - len(file.trailer) - 2
    (tmp_path / "payload").write_bytes(data[file.front.size : end])
    (tmp_path / "key").write_bytes(identity(site).reveal() + b"\n")
    opened = tmp_path / "opened.tar"
    command = ["age", "-d", "-i", str(tmp_path / "key"), "-o", str(opened)]
    subprocess.run([*command, str(tmp_path / "payload")], check=True, timeout=60)
    listed = subprocess.run(["tar", "tf", opened], check=True, capture_output=True, text=True)
    names = listed.stdout.split()
    assert "db/keys.db" in names
    assert "site/site.toml" in names
    subprocess.run(["tar", "xf", opened, "-C", tmp_path], check=True, timeout=60)
    secrets = tmp_path / "secrets/000001.age"
    done = subprocess.run(
        ["age", "-d", "-i", str(tmp_path / "key"), str(secrets)], capture_output=True, timeout=60
    )
    assert b64u(CANARY).encode() in done.stdout


# what is refused


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _header(data: bytes, **changes: Any) -> bytes:
    """Say something else outside."""
    found = read_front(data)
    header = Header(
        **{name: getattr(found.header, name) for name in Header.__slots__} | changes  # type: ignore[arg-type]
    )
    return front(found.form, header) + data[found.size :]


def _swap(data: bytes) -> bytes:
    """Change two pieces of what is encrypted."""
    at, size = len(data) // 2, 4096
    return (
        data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
    )


def _without_last_line(data: bytes) -> bytes:
    return data[: data.rfind(b"\n", 0, -1) + 1]


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "no backup of Doorstep"),
    "other-file": (lambda data: b"PK\3\4" + data, "no backup of Doorstep"),
    "truncated": (lambda data: data[: len(data) // 2], "the signature at its end is missing"),
    "last-line": (_without_last_line, "the signature at its end is missing"),
    "one-bit": (lambda data: _flip(data, len(data) // 2), "it was changed"),
    "reordered": (_swap, "it was changed"),
    "longer": (lambda data: data.replace(b"\n", b"\n" + bytes(1 << 16), 3), "damaged|changed"),
    "header": (lambda data: _header(data, epoch=99), "it was changed"),
    "header-spelling": (lambda data: data.replace(b'"at":', b'"at": ', 1), "damaged"),
    "header-oversized": (
        lambda data: Form.BACKUP.value + bytes(1 << 20) + data[20:],
        "has no end|damaged",
    ),
    "twice": (lambda data: data + data, "it was changed|no appliance"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_whole_backup_is_refused_at_headquarters(
    site: Appliance, tmp_path: Path, name: str
) -> None:
    make, says = BAD[name]
    path, out = tmp_path / "bad", tmp_path / "out"
    path.write_bytes(make(site.first.read_bytes()))
    with pytest.raises((offsite.PeerError, offsite.SiteError), match=says):
        offsite.open_backup(path, site.hq.site, LeaseDesk(site.hq.authority))
    assert not out.exists()


def test_a_backup_of_another_site_or_root_is_refused(site: Appliance, tmp_path: Path) -> None:
    desk = LeaseDesk(site.hq.authority)
    other = tmp_path / "other"
    shutil.copytree(site.hq.site, other)
    text = (other / "site.toml").read_text().replace('id = "shop-0417"', 'id = "shop-0001"', 1)
    (other / "site.toml").write_text(text)
    with pytest.raises(offsite.PeerError, match="is of the site shop-0417, not of shop-0001"):
        offsite.open_backup(site.first, other, desk)
    shutil.rmtree(other)
    shutil.copytree(site.hq.site, other)
    shutil.rmtree(other / "offline")
    for name in ("trust/root.pem", "trust/root.pub"):
        (other / name).unlink()
    new = tmp_path / "new"
    loaded = site_dir.load(site.hq.site)
    site_dir.init(
        new,
        site_dir.NewSite(
            id="shop-0417",
            domain=loaded.site.domain,
            interface="eth1",
            network=loaded.subnets[0].network,
        ),
    )
    shutil.copy(new / "trust/root.pem", other / "trust/root.pem")
    with pytest.raises(offsite.PeerError, match="no appliance of this site signed it"):
        offsite.open_backup(site.first, other, desk)


def _resealed(site: Appliance, machine: Machine) -> Path:
    asked, out = machine.base / "asked", machine.base / "resealed"
    done = machine.command("restore", "--ask", asked)
    assert done.exit_code == 0, done.output
    done = site.hq.reseal(site.first, asked, out)
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize("name", [*BAD, "not-resealed", "other-machine", "other-key", "no-ask"])
def test_what_headquarters_did_not_reseal_for_this_machine_changes_nothing(
    site: Appliance, machine: Machine, tmp_path: Path, name: str
) -> None:
    path, key = _resealed(site, machine), site.hq.site / "trust/root.pub"
    if name in BAD:
        make, says = BAD[name]
        data = path.read_bytes().replace(Form.RESEALED.value, Form.RESEALED.value, 1)
        path.write_bytes(make(data))
    elif name == "not-resealed":
        path, says = site.first, "opens at headquarters alone"
    elif name == "other-machine":
        (machine.layout.state / "restore.key").unlink()
        machine.command("restore", "--ask", machine.base / "again")
        says = "encrypted for another key"
    elif name == "no-ask":
        (machine.layout.state / "restore.key").unlink()
        says = "begin with --ask"
    else:
        key, says = tmp_path / "key", "another key than this site's"
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from keys.manifest import PublicKey

        key.write_bytes(PublicKey.of(Ed25519PrivateKey.generate().public_key()).encode())
    before = sorted(machine.layout.state.rglob("*"))
    done = machine.command("restore", "--key", key, path)
    assert done.exit_code in (1, 2), done.output
    assert any(word in done.output for word in says.split("|")), done.output
    assert sorted(machine.layout.state.rglob("*")) == before
    assert not machine.layout.site.exists()


def test_a_restore_does_not_touch_what_runs_or_is_here(site: Appliance, machine: Machine) -> None:
    path, key = _resealed(site, machine), site.hq.site / "trust/root.pub"
    options = ("--users", USERS_TEXT, "--key", str(key), str(path))
    done = site.doorstep("restore", *options)
    assert "is running here: stop the appliance first" in done.output
    machine.layout.site.mkdir()
    (machine.layout.site / "site.toml").write_text("mine")
    done = machine.command("restore", "--key", key, path)
    assert done.exit_code == 2, done.output
    assert (machine.layout.site / "site.toml").read_text() == "mine"


def test_a_full_disk_leaves_no_half_backup(site: Appliance, tmp_path: Path) -> None:
    small = tmp_path / "stick"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "doorstep-test", small)
    try:
        done = site.doorstep("backup", "--out", str(small / "b"), "--users", USERS_TEXT)
        assert done.exit_code == 2
        assert "No space left on device: nothing was written, make room there" in done.output
        assert list(small.iterdir()) == []
        fill(small / "filler")
        done = site.doorstep("backup", "--out", str(small / "b"), "--users", USERS_TEXT)
        assert done.exit_code == 2
        assert [path.name for path in small.iterdir()] == ["filler"]
    finally:
        run("umount", "-l", small)
    assert not list(site.layout.state.glob(".backup-*"))


def test_a_machine_without_room_says_so(site: Appliance, machine: Machine) -> None:
    path, key = _resealed(site, machine), site.hq.site / "trust/root.pub"
    identity_file = (machine.layout.state / "restore.key").read_bytes()
    run("mount", "-t", "tmpfs", "-o", "size=1M", "doorstep-test", machine.layout.state)
    try:
        (machine.layout.state / "restore.key").write_bytes(identity_file)
        done = machine.command("restore", "--key", key, path)
        assert done.exit_code == 2
        assert "are needed: make room" in done.output
    finally:
        run("umount", "-l", machine.layout.state)


def test_the_off_site_key_is_named_by_headquarters_alone(site: Appliance, tmp_path: Path) -> None:
    trust = site.layout.site / "trust"
    kept = {name: (trust / name).read_bytes() for name in ("backup.txt", "backup.txt.minisig")}
    try:
        thief = offsite.make_identity(tmp_path / "thief.age", Secret(PHRASE.encode()))
        (trust / "backup.txt").write_text(f"{thief}\n")
        done = site.doorstep("backup", "--out", str(tmp_path / "b"), "--users", USERS_TEXT)
        assert done.exit_code == 1
        assert "the document is not what was signed" in done.output
        offsite.install(site.layout.site, thief, site.hq.site / "offline", 5)
        done = site.doorstep("backup", "--out", str(tmp_path / "b"), "--users", USERS_TEXT)
        assert "has counter 5, this site has seen" in done.output
    finally:
        for name, data in kept.items():
            (trust / name).write_bytes(data)
    assert not (tmp_path / "b").exists()


def test_no_secret_leaves_without_a_lease_or_after_a_change(site: Appliance) -> None:
    header = site.operator("keys", "backup_begin")["header"]
    site.put_secret(CANARY)
    for method, params in (
        ("backup_secrets", {"number": 1, "first": 0}),
        ("backup_sign", {"digest": b64u(bytes(32))}),
    ):
        with pytest.raises(Exception, match="make it again"):
            site.operator("keys", method, header=header, **params)
    site.operator("keys", "lease_end")
    try:
        with pytest.raises(Exception, match="the lease was ended"):
            site.operator("keys", "backup_begin")
    finally:
        site.renew("--days", "30", "--starts", "9")


# back on its own hardware


def _lose_disk(site: Appliance) -> None:
    """Lose everything but the TPM."""
    for process in site.processes.values():
        process.kill()
    for path in site.layout.state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(site.layout.site)


def _put_back(site: Appliance, backup: Path) -> str:
    asked, resealed = site.directory / "asked", site.directory / "resealed"
    options = ("--users", USERS_TEXT)
    done = site.doorstep("restore", "--ask", str(asked), *options)
    assert done.exit_code == 0, done.output
    done = site.hq.reseal(backup, asked, resealed)
    assert done.exit_code == 0, done.output
    key = site.hq.site / "trust/root.pub"
    done = site.doorstep("restore", "--key", str(key), str(resealed), *options)
    assert done.exit_code == 0, done.output
    for name, process in site.processes.items():
        process.start()
        site.wait_for(name)
    return done.output


def _reason(site: Appliance) -> str | None:
    secrets = site.operator("keys", "secret_list")["secrets"]
    return next(one["reason"] for one in secrets if one["name"] == "pos-api-token")


def test_on_its_own_tpm_everything_comes_back_unless_something_was_revoked_since(
    site: Appliance, tmp_path: Path
) -> None:
    one = site.backup("before", "--boot-sets")
    held = tmp_path / "held.db"
    held.write_bytes(inside(site, one)["db/keys.db"])
    _lose_disk(site)
    assert "this TPM made it and nothing was revoked since" in _put_back(site, one)
    assert _reason(site) is None
    now, before = rows(site.layout.state / "keys/keys.db"), rows(held)
    for name in ("secrets", "slots", "leases", "revoked", "withdrawn", "versions", "material"):
        assert now[name] == before[name], name
    for name in ("audit", "events", "handovers", "issued", "floors"):
        assert now[name][: len(before[name])] == before[name], name
    assert site.doorstep("audit", "verify").exit_code == 1  # the TPM has seen more than the disk
    # a revocation, and the same backup again: nothing of before opens, the rest is used
    site.operator("keys", "revoke", ek_name=b64u(EK_NAME))
    epoch = site.operator("keys", "lease_show")["counters"]["epoch"]
    _lose_disk(site)
    said = _put_back(site, one)
    assert "something was revoked since: its secrets stay closed, all else is used" in said
    assert _reason(site) == "SECRET-MISSING"
    assert site.operator("keys", "status")["ready"]
    assert site.operator("keys", "lease_show")["counters"]["epoch"] == epoch
    site.put_secret(CANARY)
    assert _reason(site) is None
    site.restart("keys")
    assert _reason(site) is None, "what was put after it opens after a start too"


def test_into_a_keys_db_that_is_there_only_what_revokes_is_taken_over(site: Appliance) -> None:
    site.operator("keys", "revoke", ek_name=b64u(EK_NAME))
    site.operator("keys", "withdraw", boot_set=b64u(b"w" * 32))
    newer = site.backup("newer")
    for process in site.processes.values():
        process.kill()
    store = Store(site.layout.state / "keys/keys.db")
    with store.transaction():  # as if keys.db were an older copy than the backup
        store.execute("DELETE FROM revoked")
        store.execute("DELETE FROM withdrawn")
        store.execute("INSERT INTO versions VALUES('only-here', 7)")
        store.execute("UPDATE versions SET last=99 WHERE name='pos-api-token'")
    audit = store.audit_head()
    store.close()
    for path in (site.layout.state / "keys").iterdir():
        os.chown(path, USERS["keys"], USERS["keys"])
    said = _put_back(site, newer)
    assert "revocations and floors were taken over, nothing else" in said
    status = site.operator("keys", "status")
    assert (b"w" * 32).hex() in status["withdrawn"]
    for process in site.processes.values():
        process.kill()
    store = Store(site.layout.state / "keys/keys.db")
    try:
        assert store.is_revoked(EK_NAME)
        versions = dict(store.execute("SELECT * FROM versions").fetchall())
        assert (versions["only-here"], versions["pos-api-token"]) == (7, 99)
        assert store.audit_head()[0] > audit[0]
        assert list(store.audit_problems()) == []
    finally:
        store.close()
    for path in (site.layout.state / "keys").iterdir():
        os.chown(path, USERS["keys"], USERS["keys"])
    for name, process in site.processes.items():
        process.start()
        site.wait_for(name)


def test_a_backup_says_of_what_it_is(site: Appliance) -> None:
    said = site.hq.do("backup", "show", site.first)
    assert said.exit_code == 0
    assert "site shop-0417" in said.output
    status = site.operator("keys", "lease_request", challenge="1")["request"]
    from keys.lease_request import LeaseRequest

    name = PublicArea.decode(LeaseRequest.read(status).ek).name()
    assert read_front(site.first.read_bytes()).header.ek == name


def test_take_over_needs_a_person_who_compared(site: Appliance, machine: Machine) -> None:
    asked = machine.base / "asked"
    machine.command("replace-appliance", "--ask", asked)
    done = site.hq.do(
        *("backup", "reseal", "--site", site.hq.site, "--identity", site.hq.identity),
        *("--passphrase-file", site.hq.phrase, "--authority", site.hq.authority),
        *("--for", asked, "--out", machine.base / "out", site.first),
    )
    assert done.exit_code == 2
    assert "compare the fingerprint" in done.output
    assert not (machine.base / "out").exists()
    assert take_over(machine, site.hq, site.first).exit_code in (0, 2)


SITE_META = {"site-id", "time-mark", "zone-ksk", "crl-number"}
SITE_PREFIXES = ("ssh-name:", "ssh-names:")


def test_of_each_value_in_keys_db_it_is_known_whose_it_is(site: Appliance) -> None:
    """A name that is new must be put down as the appliance's own, or as the site's."""
    found = {name for name, _ in rows(site.layout.state / "keys/keys.db")["meta"]}
    own = {name for name in found if any(fnmatch(name, one) for one in restored.OWN_META)}
    left = {name for name in found - own if not name.startswith(SITE_PREFIXES)}
    assert {"tpm", "tpm-clock", "owner-escrow", "key-check", "signing-key:box-ca"} <= own
    assert left <= SITE_META, left - SITE_META


def test_of_each_key_it_is_known_whether_it_goes_into_a_backup(site: Appliance) -> None:
    """Keys that others know go along, others are drawn again; which, must be said of each."""
    found = {name for name, *_ in rows(site.layout.state / "keys/keys.db")["material"]}
    carried = {name for name in found if name in parcels.CARRIED or name.startswith(parcels.ZONES)}
    assert {"pseudonym", "wrap", "zone-ksk-1"} <= carried
    assert found - carried <= {"answer", "server", "boot-server", "seed-identity"}
