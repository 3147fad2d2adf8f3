"""Backups on other paths: without a TPM, cut in the middle, large; headquarters' own commands."""

from __future__ import annotations

import io
import os
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest
from backup_lab import USERS_TEXT, Appliance, Headquarters, Machine, take_over
from click.testing import CliRunner
from control_site import ControlSite
from keys_site import USERS
from small_disk import run
from test_cli_lease_site import PHRASE

from bootstrap.cli.main import main
from bootstrap.errors import PeerError as BackupError
from bootstrap.io import offsite
from bootstrap.io.backup import make
from bootstrap.io.backup_file import BackupFile
from keys.envelope import b64u
from keys.errors import SiteError as KeysSiteError
from keys.io import age
from keys.io.layout import Layout
from keys.io.restored import Copy, bring_back
from keys.io.rpc import call
from keys.secret import Secret

pytestmark = pytest.mark.boots

BIG = 96 << 20


class Plain(ControlSite):
    """An appliance without a TPM, and headquarters."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        (directory / "phrase").write_text(PHRASE)
        self.hq = Headquarters(directory)
        self.deliver()
        self.publish(self.build())
        self.start()
        done = self.hq.init("--site", self.layout.site)
        assert done.exit_code == 0, done.output
        self.hq.keep(self)

    def backup(self, name: str, *words: str) -> Path:
        """Write a backup."""
        out = self.directory / name
        done = self.doorstep("backup", "--out", str(out), "--users", USERS_TEXT, *words)
        assert done.exit_code == 0, done.output
        return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    one = Plain(tmp_path_factory.mktemp("plain"))
    try:
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


def off_site(plain: Plain) -> Secret:
    return offsite.open_identity(plain.hq.identity, Secret(PHRASE.encode()))


def keys_db(plain: Plain, path: Path) -> bytes:
    """Open a backup; gives the keys.db inside."""
    found: dict[str, bytes] = {}

    def take(name: str, size: int, content: IO[bytes]) -> None:
        found[name] = content.read()

    file = BackupFile(path)
    file.unpack(off_site(plain), file.digest(), take)
    return found["db/keys.db"]


def reasons(site: ControlSite) -> dict[str, str | None]:
    secrets = site.operator("keys", "secret_list")["secrets"]
    return {one["name"]: one["reason"] for one in secrets}


def test_without_a_tpm_secrets_come_back_through_headquarters_too(
    plain: Plain, machine: Machine
) -> None:
    done = take_over(machine, plain.hq, plain.backup("one", "--boot-sets"))
    assert done.exit_code == 0, done.output
    machine.run()
    machine.sign_authorities(plain.hq.site)
    assert reasons(machine)["pos-api-token"] == "SECRET-MISSING"
    asked, seed = machine.base / "recipient", machine.base / "seed.age"
    machine.command("seed", "recipient", "--out", asked)
    done = plain.hq.reseal(plain.directory / "one", asked, seed)
    assert done.exit_code == 0, done.output
    done = machine.doorstep("secret", "seed", "--yes", str(seed))
    assert done.exit_code == 0, done.output
    assert "pos-api-token" in done.output
    assert reasons(machine)["pos-api-token"] is None
    done = machine.doorstep("seed", "take", "--yes", str(seed))
    assert done.exit_code == 1
    assert "was taken before" in done.output


def test_a_cut_in_the_middle_is_finished_by_the_same_command(
    plain: Plain, machine: Machine
) -> None:
    backup = plain.backup("cut", "--boot-sets")
    stage = machine.layout.state / ".restore/keys"
    stage.mkdir(parents=True)
    (stage / "keys.db").write_bytes(b"half")
    machine.layout.site.mkdir()
    placed = (plain.hq.site / "site.toml").read_bytes()
    (machine.layout.site / "site.toml").write_bytes(placed)
    done = take_over(machine, plain.hq, backup)
    assert done.exit_code == 0, done.output
    assert "left 1 files as they were here" in done.output
    assert not stage.exists()
    machine.run()
    assert machine.operator("keys", "status")["site"] == "shop-0417"


def test_a_large_backup_is_never_in_memory(plain: Plain) -> None:
    evidence = plain.layout.state / "evidence" / "large"
    evidence.mkdir()
    with (evidence / "log").open("wb") as file:
        file.truncate(BIG)
    for path in (evidence, evidence / "log"):
        os.chown(path, USERS["control"], USERS["control"])
    (evidence / "link").symlink_to("/etc/shadow")

    def ask(method: str, params: object) -> object:
        return call(plain.layout.socket("keys"), method, params)  # type: ignore[arg-type]

    tracemalloc.start()
    try:
        made = make(plain.layout, ask, plain.directory / "large", with_evidence=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.size > BIG
    assert peak < BIG // 8
    assert made.left == ("state/evidence/large/link: a link, or no file",)


def test_private_keys_are_left_at_home(plain: Plain) -> None:
    path = plain.layout.site / "trust/mine.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    try:
        out = plain.directory / "private"
        done = plain.doorstep("backup", "--out", str(out), "--users", USERS_TEXT)
        assert "left out: site/trust/mine.pem: a private key is in it" in done.output
    finally:
        path.unlink()


def test_the_off_site_key_is_drawn_once_and_opens_for_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "backup.age"
    recipient = offsite.make_identity(path, Secret(PHRASE.encode()))
    assert recipient.startswith("age1")
    with pytest.raises(offsite.SiteError, match="make none over it"):
        offsite.make_identity(path, Secret(PHRASE.encode()))
    with pytest.raises(offsite.SiteError, match="too short"):
        offsite.make_identity(tmp_path / "other", Secret(b"short"))
    with pytest.raises(offsite.SiteError, match="wrong passphrase"):
        offsite.open_identity(path, Secret(b"another passphrase"))
    path.chmod(0o644)
    with pytest.raises(offsite.SiteError, match="can be read by others"):
        offsite.open_identity(path, Secret(PHRASE.encode()))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(offsite.SiteError, match="does not open"):
        offsite.open_identity(path, Secret(PHRASE.encode()))


WRONG = {
    "no-file": (["pos-api-token=/nowhere"], "is no file"),
    "value-in-place-of-file": (["pos-api-token"], "a value is never given here"),
    "twice": (["pos-api-token=VALUE", "pos-api-token=VALUE"], "once for each secret"),
    "version": (["pos-api-token=VALUE", "--version", "pos-api-token=new"], "a number from 1 on"),
    "other-name": (["pos-api-token=VALUE", "--until", "wifi=2030-01-01"], "is not among"),
    "not-compared": (
        ["pos-api-token=VALUE", "--not-compared"],
        "by telephone, and give --compared",
    ),
    "no-recipient": (["pos-api-token=VALUE", "--for", "VALUE"], "this is no recipient file"),
}


@pytest.mark.parametrize("name", ["", *WRONG])
def test_headquarters_packs_what_fits(plain: Plain, tmp_path: Path, name: str) -> None:
    asked, out, value = tmp_path / "asked", tmp_path / "seed.age", tmp_path / "value"
    value.write_bytes(b"packed value\n")
    plain.doorstep("seed", "recipient", "--out", str(asked))
    words, says = WRONG.get(name, (["pos-api-token=VALUE"], ""))
    words = [one.replace("VALUE", str(value)) for one in words]
    if "--not-compared" in words:
        words.remove("--not-compared")
    else:
        words.append("--compared")
    if "--for" not in words:
        words += ["--for", str(asked)]
    places = ("--site", str(plain.hq.site), "--out", str(out))
    done = CliRunner().invoke(main, ["seed", "pack", *places, *words])
    if says:
        assert done.exit_code == 2, done.output
        assert says in done.output
        assert not out.exists()
        return
    assert done.exit_code == 0, done.output
    assert b64u(b"packed value").encode() not in out.read_bytes()
    before = plain.operator("keys", "secret_list")["secrets"]
    done = plain.doorstep("seed", "take", "--yes", str(out))
    assert done.exit_code == 0, done.output
    versions = [
        one["version"] for one in (before[0], *plain.operator("keys", "secret_list")["secrets"])
    ]
    assert versions[1] == versions[0] + 1


def test_a_box_of_another_appliance_s_recipient_is_not_served(
    plain: Plain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A thief's recipient, quoted by a TPM that has no lease of ours, gets nothing."""
    other = Appliance(tmp_path_factory.mktemp("thief"))
    try:
        other.ready()
        asked, out = other.directory / "asked", other.directory / "out"
        other.doorstep("seed", "recipient", "--out", str(asked))
        done = plain.hq.reseal(plain.backup("thief"), asked, out)
        assert done.exit_code == 2
        assert "it has no lease from here" in done.output
        assert not out.exists()
    finally:
        other.close()


def _spoiled(path: Path, query: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(query)
        database.commit()


SPOILED = {
    "UPDATE meta SET value=CAST('shop-0001' AS BLOB) WHERE name='site-id'": "is not of the site",
    "UPDATE audit SET entry='{}' WHERE n=3": "audit entry 3 was changed or removed",
    "DELETE FROM audit WHERE n=2": "audit entry 2 was changed or removed",
    "PRAGMA user_version=99": "has schema 99",
}


@pytest.mark.parametrize("query", SPOILED)
def test_a_keys_db_that_does_not_hold_together_is_not_taken(
    plain: Plain, tmp_path: Path, query: str
) -> None:
    copy = tmp_path / "keys.db"
    copy.write_bytes(keys_db(plain, plain.backup("spoiled")))
    _spoiled(copy, query)
    layout = Layout(site=tmp_path, state=tmp_path / "state", run=tmp_path, users=USERS)
    with pytest.raises(KeysSiteError, match=SPOILED[query]):
        bring_back(Copy(path=copy, at=1, is_stale=False, now=2), layout, "shop-0417", None)
    assert not layout.state.exists()


def test_a_file_that_changes_while_it_is_read_is_not_believed(plain: Plain) -> None:
    """Whoever holds the stick can encrypt to the same key: what was checked is what is used."""
    file = BackupFile(plain.backup("checked"))
    digest, key, inside = file.digest(), off_site(plain), io.BytesIO()
    file.open(key, inside.write, digest)
    size = file.size - file.front.size - len(file.trailer) - 2
    recipient, plaintext = age.public_half(key), Secret(inside.getvalue())
    tries = (age.encrypt(plaintext, recipient) for _ in range(20_000))
    again = next(one for one in tries if len(one) == size)  # age's own padding is of any length
    with file.path.open("r+b") as target:
        target.seek(file.front.size)
        target.write(again)
    seen: list[str] = []
    with pytest.raises(BackupError, match="was changed while it was read"):
        file.unpack(key, digest, lambda name, size, content: seen.append(name))
    assert "db/keys.db" in seen


def test_a_disk_that_fills_while_it_is_unpacked_is_as_before(
    plain: Plain, machine: Machine
) -> None:
    backup = plain.backup("fills", "--boot-sets")
    asked, resealed = machine.base / "asked", machine.base / "resealed"
    machine.command("restore", "--ask", asked)
    assert plain.hq.reseal(backup, asked, resealed).exit_code == 0
    key = (machine.layout.state / "restore.key").read_bytes()
    size = 2 * resealed.stat().st_size + (1 << 20)
    run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=12", "test", machine.layout.state)
    try:
        (machine.layout.state / "restore.key").write_bytes(key)
        done = machine.command("restore", "--key", plain.hq.site / "trust/root.pub", resealed)
        assert done.exit_code == 2
        assert "No space left on device: nothing was changed" in done.output
        assert [path.name for path in machine.layout.state.iterdir()] == ["restore.key"]
        assert not machine.layout.site.exists()
    finally:
        run("umount", "-l", machine.layout.state)


def test_what_the_root_revoked_and_who_holds_a_name_outlive_the_appliance(
    plain: Plain, tmp_path: Path
) -> None:
    path = tmp_path / "keys.db"
    found: dict[str, bytes] = {}
    file = BackupFile(plain.backup("lists"))
    file.unpack(
        off_site(plain), file.digest(), lambda name, _, one: found.update({name: one.read()})
    )
    path.write_bytes(found["db/keys.db"])
    _spoiled(path, "INSERT OR REPLACE INTO certificates VALUES('root-crl', 'a list')")
    _spoiled(path, "INSERT INTO meta VALUES('ssh-name:pos-01', x'0102')")
    _spoiled(path, "INSERT INTO allowed VALUES(x'01', 'pos', '[]', 9e9, x'')")
    layout = Layout(site=tmp_path, state=tmp_path / "state", run=tmp_path, users=USERS)
    bring_back(Copy(path=path, at=1, is_stale=False, now=2), layout, "shop-0417", None)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM certificates").fetchall() == [("root-crl", "a list")]
        names = {name for (name,) in database.execute("SELECT name FROM meta")}
        assert names >= {"site-id", "ssh-name:pos-01"}
        assert "key-check" not in names
        for table in ("secrets", "material", "allowed"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
