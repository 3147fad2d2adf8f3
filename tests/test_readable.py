"""Who only reports of secrets decrypts none; a row that is damaged is told of all the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys_site import USERS, KeysSite

from keys.cache import Label
from keys.errors import SiteError
from keys.io.layout import Layout
from keys.io.ring import FileRing
from keys.io.store import Store
from keys.io.vault import Vault
from keys.rules import Tier
from keys.secret import Secret

NAME = "pos-api-token"


class Counted(Store):
    """A store that counts how often a whole row is read."""

    whole = 0

    def secret(self, name: str):  # type: ignore[no-untyped-def]
        self.whole += 1
        return super().secret(name)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Counted, Vault, Path]]:
    layout = Layout(site=tmp_path, state=tmp_path, run=tmp_path, users={})
    (tmp_path / "keys").mkdir()
    store = Counted(tmp_path / "keys.db")
    vault = Vault(store, FileRing(layout, is_new=True), "shop-0417")
    put(store, vault)
    yield store, vault, tmp_path / "keys.db"
    store.close()


def put(store: Store, vault: Vault, version: int = 1, tier: Tier = Tier.SITE) -> None:
    label = Label(name=NAME, version=version, tier=tier, set_at=1, expires=2)
    with store.transaction():
        vault.lock(Secret(b"value"), label)


def check(store: Store, vault: Vault) -> None:
    found = store.kept(NAME)
    assert found is not None
    vault.check(*found)


def damage(path: Path, change: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE secrets SET {change} WHERE name=?", (NAME,))
    other.close()


def test_a_row_that_opened_is_not_read_again(kept: tuple[Counted, Vault, Path]) -> None:
    store, vault, _ = kept
    for _ in range(3):
        check(store, vault)
    assert store.whole == 1
    put(store, vault, version=2)
    for _ in range(3):
        check(store, vault)
    assert store.whole == 2


@pytest.mark.parametrize(
    "change",
    [
        "sealed=zeroblob(40)",
        "wrapped=zeroblob(60)",
        "version=9",
        "tier='boot'",
        "tier='odd'",
        "expires=999",
        "set_at=0",
    ],
)
@pytest.mark.parametrize("was_tried", [True, False])
def test_a_row_that_somebody_changed_is_noticed(
    kept: tuple[Counted, Vault, Path], change: str, was_tried: bool
) -> None:
    store, vault, path = kept
    if was_tried:
        check(store, vault)
    damage(path, change)
    for _ in range(2):  # and stays so
        with pytest.raises(SiteError):
            check(store, vault)


def test_a_row_that_did_not_open_for_a_box_is_told_of_from_then_on(
    kept: tuple[Counted, Vault, Path],
) -> None:
    """A bit that falls over in the file is no write: the first who reads the value sees it."""
    store, vault, _ = kept
    check(store, vault)
    row = store.secret(NAME)
    assert row is not None
    with store.transaction():  # by this very connection: no other wrote
        store.execute("UPDATE secrets SET sealed=zeroblob(40) WHERE name=?", NAME)
    check(store, vault)
    damaged = store.secret(NAME)
    assert damaged is not None
    with pytest.raises(SiteError):
        vault.unlock(damaged)
    with pytest.raises(SiteError):
        check(store, vault)


class Machine(FileRing):
    """Keys in files, and a machine that may start again under them."""

    restarted = False

    def key(self, name: str) -> Secret:
        return Secret(bytes(32)) if name == "boot" and self.restarted else super().key(name)


def test_another_key_makes_all_unknown(tmp_path: Path) -> None:
    layout = Layout(site=tmp_path, state=tmp_path, run=tmp_path, users={})
    (tmp_path / "keys").mkdir()
    store, ring = Store(tmp_path / "keys.db"), Machine(layout, is_new=True)
    vault = Vault(store, ring, "shop-0417")
    put(store, vault, tier=Tier.BOOT)
    check(store, vault)
    ring.restarted = True
    with pytest.raises(SiteError):
        check(store, vault)
    store.close()


@pytest.fixture
def site() -> Iterator[KeysSite]:
    one = KeysSite()
    yield one
    one.close()


def test_a_status_says_what_is_damaged_while_it_serves_and_after_a_start(site: KeysSite) -> None:
    site.ready()
    site.put()
    assert site.control("status")["secrets"] == {"usable": 1, "withheld": 2}
    damage(site.layout.state / "keys/keys.db", "sealed=zeroblob(40)")
    for _ in range(2):
        assert site.control("status")["secrets"] == {"usable": 0, "withheld": 3}
        (end,) = [one for one in site.control("status")["ends"] if one["name"] == NAME]
        assert end["reason"] == "SECRET-UNREADABLE"
        site.kill()
        site.start()
    site.put()
    assert site.control("status")["secrets"]["usable"] == 1
    assert (site.layout.state / "keys/keys.db").stat().st_uid == USERS["keys"]
