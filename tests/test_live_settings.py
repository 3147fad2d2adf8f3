"""The operator's files as control runs them: all that holds, or what was before with a sentence."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.live_settings import LiveSettings
from bootstrap.io.site_dir import NewSite


@pytest.fixture
def site(tmp_path: Path) -> Path:
    new = NewSite(
        id="shop-0417",
        domain="shop-0417.example.net",
        interface="eth1",
        network=IPv4Network("10.41.7.0/24"),
    )
    site_dir.init(tmp_path / "site", new)
    return tmp_path / "site"


def test_a_new_site_as_it_is(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    assert live().site.site.id == live().identity.site_id == "shop-0417"
    assert live().note is not None
    assert list(live().templates) == ["templates/pos.yaml.j2"]
    assert (live.refresh(), live.kept) == (False, None)


def test_a_change_is_read_once(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    path = site / "site.toml"
    path.write_text(path.read_text().replace("Shop 417", "Shop four-one-seven"))
    path.write_text(path.read_text().replace('title = "shop-0417"', 'title = "Another title"'))
    assert live.refresh()
    assert live().site.site.title == "Another title"
    assert not live.refresh()


BROKEN = [
    ("site.toml", b"x"),
    ("trust/root.pem", b"x"),
    ("templates/pos.yaml.j2", b"\xff"),
    ("trust/ek/maker.pem", b"x"),
]


@pytest.mark.parametrize(("name", "data"), BROKEN, ids=[name for name, _ in BROKEN])
def test_a_file_that_does_not_hold(site: Path, name: str, data: bytes) -> None:
    live = LiveSettings(site, rehearsal=False)
    before, path = live(), site / name
    good = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    assert not live.refresh()
    assert live() is before
    assert live.kept is not None
    assert name.rpartition("/")[2] in live.kept
    with pytest.raises(SiteError):
        LiveSettings(site, rehearsal=False)
    path.unlink() if good is None else path.write_bytes(good)
    assert live.refresh()
    assert live.kept is None


@pytest.mark.parametrize("name", ["site.toml", "trust/root.pem", "templates/pos.yaml.j2"])
def test_a_file_that_is_gone(site: Path, name: str) -> None:
    live = LiveSettings(site, rehearsal=False)
    (site / name).unlink()
    assert not live.refresh()
    assert "No such file" in str(live.kept)


def test_an_anchor_that_cannot_be_read(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    (site / "trust/ek/maker.pem").mkdir()
    (site / "trust/ek/maker.pem/x").write_text("")
    assert not live.refresh()
    assert "maker.pem" in str(live.kept)


def test_a_note_that_does_not_verify_lists_nobody(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    for name in ("delivery.csv", "delivery.csv.minisig", "trust/root.pub"):
        good = (site / name).read_bytes()
        (site / name).write_bytes(good + b"x")
        assert live.refresh()
        assert live().note is None
        assert "no box is on the delivery note" in str(live().note_problem)
        (site / name).write_bytes(good)
        assert live.refresh()
        assert live().note is not None


def test_an_older_note_is_not_taken_back(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    old = (site / "delivery.csv.minisig").read_bytes()
    site_dir.sign_note(site, site_dir.load(site))
    live.refresh()
    assert live().note is not None
    (site / "delivery.csv.minisig").write_bytes(old)
    live.refresh()
    assert live().note is None


def test_the_offline_keys_are_not_looked_at(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    (site / "offline/root.key").unlink()
    assert not live.refresh()
