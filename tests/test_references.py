"""Which boot sets control believes, and until when; the processes are in test_control_files.py."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.references import PublishedManifest, References, load_references
from bootstrap.io.site_dir import NewSite
from bootstrap.published import PublishedSet, PublishedState
from netboot.bootset import BootSetManifest

MANIFEST = BootSetManifest(name="e", version=1, created=0, release="r", roles={})


def references(*untils: int | None) -> References:
    return References(
        manifests=tuple(
            PublishedManifest(
                published=PublishedSet(
                    digest=bytes([number]) * 32, state=PublishedState.ACCEPTED, until=until
                ),
                manifest=MANIFEST,
            )
            for number, until in enumerate(untils)
        )
    )


@pytest.mark.parametrize(
    ("untils", "loaded", "now", "outdated"),
    [
        ((), 1, 9, False),
        ((None,), 1, 9, False),
        ((5,), 1, 4, False),
        ((5,), 1, 5, True),
        ((5,), 5, 9, False),
        ((None, 5), 1, 9, True),
        ((20, 5), 6, 9, False),
    ],
)
def test_when_a_time_ended(untils, loaded: float, now: float, outdated: bool) -> None:
    assert references(*untils).is_outdated(loaded, now) is outdated


@pytest.fixture
def site(tmp_path: Path):
    new = NewSite(
        id="shop-0417",
        domain="shop-0417.example.net",
        interface="eth1",
        network=IPv4Network("10.41.7.0/24"),
    )
    site_dir.init(tmp_path / "site", new)
    return site_dir.load(tmp_path / "site")


def test_nothing_is_published_where_there_is_no_file(tmp_path: Path, site) -> None:
    assert load_references(tmp_path, site, b"", 0.0) == References()
    assert References().served() == ()


def test_a_published_json_that_cannot_be_read(tmp_path: Path, site) -> None:
    (tmp_path / "published.json").mkdir()
    with pytest.raises(SiteError, match="published.json"):
        load_references(tmp_path, site, b"", 0.0)


def test_a_set_that_is_not_there_is_named(tmp_path: Path, site) -> None:
    text = '{"type":"doorstep/published/v1","sets":[{"digest":"%s","state":"served","until":null}]}'
    (tmp_path / "published.json").write_text(text % ("ab" * 32))
    found = load_references(tmp_path, site, b"", 0.0)
    assert (found.manifests, found.sets) == ((), ())
    assert found.problems[0].startswith("boot set abababababab is not used")
