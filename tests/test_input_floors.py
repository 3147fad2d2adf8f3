"""Floors of signed documents: taken over, remembered by control; and whole imports that are cut."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import make_signed_vectors as make
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from test_importing import Cut, CutDisk

from bootstrap.importing import Sort, State
from bootstrap.io import site_dir
from bootstrap.io.import_desk import Desk, Item
from bootstrap.io.importing import HANDLERS
from bootstrap.io.input_floors import InputFloors
from bootstrap.io.live_settings import LiveSettings
from bootstrap.io.site_store import SiteStore
from bootstrap.io.stick import Folder
from bootstrap.site_plan import make_plan
from keys.envelope import b64u, unb64u
from keys.io.rpc import RpcUnavailableError
from keys.io.schema import MIGRATIONS
from keys.io.signed_files import Disk, RealDisk
from keys.io.store import Store
from keys.manifest import sign
from keys.signed import FIRMWARE, KINDS, NOTE, POLICY, Floor, Kind, check_signed

# keys.db of before


@pytest.mark.parametrize("counter", [0, 1, 7, 255, 256, 10**18 - 1])
def test_the_floor_of_the_note_is_taken_over(tmp_path: Path, counter: int) -> None:
    path = tmp_path / "keys.db"
    digest = sha256(b"note").digest()
    database = sqlite3.connect(path)
    database.executescript("".join(MIGRATIONS[:4]) + "PRAGMA user_version=4;")
    value = struct.pack(">Q", counter) + digest
    database.execute("INSERT INTO meta VALUES('note-floor', ?)", (value,))
    database.commit()
    database.close()
    store = Store(path)
    rows = store.execute("SELECT kind, scope, counter, digest FROM floors").fetchall()
    assert rows == [("delivery-note", "", counter, digest)]
    assert store.meta("note-floor") is None
    store.close()


def test_without_a_note_there_is_no_floor(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    database = sqlite3.connect(path)
    database.executescript("".join(MIGRATIONS[:4]) + "PRAGMA user_version=4;")
    database.close()
    store = Store(path)
    assert store.execute("SELECT * FROM floors").fetchall() == []
    store.close()


# control's own memory


def checked(counter: int, kind: Kind = FIRMWARE, site: str = "*"):
    data = b"%d" % counter
    signature = sign(
        make.KEY, data, trusted_comment=f"site={site} counter={counter}", context=kind.context
    )
    return check_signed(kind, data, signature, public_key=make.PUBLIC.encode(), site_id=make.SITE)


def test_control_remembers_floors_while_keys_is_silent(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "site.db")
    floors = InputFloors(store, tmp_path / "no-socket")
    assert floors.floor(FIRMWARE.name) is None
    floors.saw(checked(3))
    floors.saw(checked(2, POLICY))
    assert not floors.turn(), "keys does not answer, and nothing was raised"
    for one in (floors, InputFloors(store), InputFloors(SiteStore(tmp_path / "site.db"))):
        assert one.floor(FIRMWARE.name) == checked(3).floor
        assert one.floor(POLICY.name) == checked(2, POLICY).floor


def test_a_floor_of_an_older_release_is_still_one(tmp_path: Path) -> None:
    store = SiteStore(tmp_path / "site.db")
    store.set_floor("firmware-floor", Floor(counter=9, digest=bytes(32)))
    assert InputFloors(store).floor(FIRMWARE.name) == Floor(counter=9, digest=bytes(32))


def test_a_note_is_remembered_and_not_told(tmp_path: Path) -> None:
    floors = InputFloors(None, tmp_path / "no-socket")
    floors.saw(checked(4, NOTE, make.SITE))
    assert floors.floor(NOTE.name) == checked(4, NOTE, make.SITE).floor


# whole imports, cut anywhere


class Keys:
    """What an import asks: floors, and to take a document. The real one is in test_cli_import."""

    def __init__(self) -> None:
        self.floors: dict[tuple[str, str], Floor] = {}

    def __call__(self, service: str, method: str, params: Mapping[str, Any]) -> Any:
        if service != "keys":
            raise RpcUnavailableError("not here")
        if method == "input_floors":
            rows = [
                {"kind": k, "subject": s, "counter": one.counter, "digest": b64u(one.digest)}
                for (k, s), one in self.floors.items()
            ]
            return {"floors": rows}
        data = unb64u(params["file"])
        kind = KINDS[params["kind"]]
        counter = int(unb64u(params["sig"]).split(b"counter=")[1].split()[0])
        self.floors[kind.name, ""] = Floor(counter=counter, digest=sha256(data).digest())
        return {}


class Headquarters:
    """A site as `doorstep init` makes it, and documents signed for it."""

    def __init__(self, directory: Path) -> None:
        self.site = directory / "site"
        new = site_dir.NewSite(
            id="shop-0417",
            domain="shop-0417.example.net",
            interface="eth1",
            network=IPv4Network("10.41.7.0/24"),
        )
        site_dir.init(self.site, new)
        pem = (self.site / "offline/sign.key").read_bytes()
        key = load_pem_private_key(pem, password=None)
        assert isinstance(key, Ed25519PrivateKey)
        self.key = key
        self.keys = Keys()

    def item(self, sort: Sort, kind: Kind, data: bytes, counter: int) -> Item:
        comment = f"site={'*' if kind is FIRMWARE else 'shop-0417'} counter={counter}"
        signature = sign(self.key, data, trusted_comment=comment, context=kind.context)
        beside = Folder(path=self.site, name="stick")
        return Item(
            shown="x", name="x", sort=sort, data=data, signatures=(signature,), beside=beside
        )

    def plan(self, counter: int) -> Item:
        text = (self.site / "site.toml").read_text().replace('title = "shop-0417"', 'title = "T0"')
        text = text.replace(f'title = "T{counter - 1}"', f'title = "T{counter}"')
        site = site_dir.load(self.site)
        templates = {role.config: f"#cloud-config\n# T{counter}\n" for role in site.roles}
        return self.item(
            Sort.PLAN, KINDS["site-plan"], make_plan(text, templates).encode(), counter
        )

    def policy(self, counter: int) -> Item:
        text = f'type = "doorstep/policy/v1"\ncrl_max_age_days = {counter}\n'
        return self.item(Sort.POLICY, POLICY, text.encode(), counter)

    def desk(self, disk: Disk) -> Desk:
        return Desk(
            directory=self.site,
            state=self.site.parent / "state",
            ask=self.keys,
            now=1_800_000_000.0,
            disk=disk,
        )


def take(desk: Desk, item: Item) -> None:
    handler = HANDLERS[item.sort]
    assert handler.look(desk, item).state is State.NEW
    handler.take(desk, item)


def test_a_plan_that_is_cut_anywhere_is_the_old_site_or_the_new_one(tmp_path: Path) -> None:
    """Site file and templates always fit: what control would load is of one plan."""
    place = Headquarters(tmp_path)
    take(place.desk(RealDisk()), place.plan(1))
    counter, cuts = 2, 0
    for left in range(20):
        item = place.plan(counter)
        disk = CutDisk(left)
        try:
            take(place.desk(disk), item)
        except Cut:
            cuts += 1
        live = LiveSettings(place.site, rehearsal=True)()
        title = live.site.site.title
        assert title in (f"T{counter - 1}", f"T{counter}")
        assert {text.rpartition("# ")[2] for text in live.templates.values()} == {f"{title}\n"}
        if HANDLERS[Sort.PLAN].look(place.desk(RealDisk()), item).state is State.NEW:
            take(place.desk(RealDisk()), item)
        live = LiveSettings(place.site, rehearsal=True)()
        assert live.site.site.title == f"T{counter}"
        counter += 1
    assert 5 < cuts < 20, "an import has so many steps, and ends"


def test_a_policy_that_is_cut_anywhere_is_the_old_or_the_new(tmp_path: Path) -> None:
    place = Headquarters(tmp_path)
    take(place.desk(RealDisk()), place.policy(1))
    for left in range(8):
        counter = left + 2
        item = place.policy(counter)
        try:
            take(place.desk(CutDisk(left)), item)
        except Cut:
            days = LiveSettings(place.site, rehearsal=True)().policy.crl_max_age / 86400
            assert days in (counter - 1, counter)
            take(place.desk(RealDisk()), item)
        assert LiveSettings(place.site, rehearsal=True)().policy.crl_max_age == counter * 86400
