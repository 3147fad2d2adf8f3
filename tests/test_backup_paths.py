"""Backups on other paths: without a TPM, cut in the middle, large; headquarters' own commands."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from backup_lab import USERS_TEXT, Appliance, Headquarters, Machine, take_over
from click.testing import CliRunner
from control_site import ControlSite
from keys_site import USERS
from test_cli_lease_site import PHRASE

from bootstrap.cli.main import main
from bootstrap.io import offsite
from bootstrap.io.backup import make
from keys.envelope import b64u
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
