"""The operator's files as control runs them: all that holds, or what was before with a sentence."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.firmwarefile import CONTEXT as FIRMWARE_CONTEXT
from attest.firmwarefile import encode_baseline
from attest.policy import Policy
from attest.reasons import Reason
from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.input_floors import InputFloors
from bootstrap.io.judge import policy_in_force
from bootstrap.io.live_settings import LiveSettings
from bootstrap.io.site_dir import NewSite
from keys import note


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


# The policy


def test_without_a_policy_file_the_built_in_policy_holds(site: Path) -> None:
    assert LiveSettings(site, rehearsal=False)().policy == Policy()


def test_a_policy_file_is_read_and_read_again(site: Path) -> None:
    (site / "policy.toml").write_text('type = "doorstep/policy/v1"\nwaive = ["FIRMWARE-UNKNOWN"]\n')
    live = LiveSettings(site, rehearsal=False)
    assert live().policy.waived == {Reason.FIRMWARE_UNKNOWN}
    before = live().basis
    (site / "policy.toml").unlink()
    assert live.refresh()
    assert live().policy == Policy()
    assert live().basis != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "policy.toml: type"),
        (b'type = "doorstep/policy/v1"\nwaive = ["SECURE-BOOT-OFF"]\n', "policy.toml: waive"),
        (b'type = "doorstep/policy/v1"\nwave = []\n', "policy.toml: wave"),
        (b'type = "doorstep/policy/v1"\n[pcr]\n4 = "log"\n', "policy.toml: pcr.4"),
        (b"\xff", "policy.toml: is not UTF-8"),
        (b'type = "doorstep/policy/v1"\nrehearsal = true\n', "policy.toml: rehearsal"),
    ],
)
def test_a_policy_that_does_not_hold_names_file_and_key(site: Path, text: bytes, said: str) -> None:
    live = LiveSettings(site, rehearsal=False)
    before = live()
    (site / "policy.toml").write_bytes(text)
    assert not live.refresh()
    assert live() is before
    assert said in str(live.kept)
    with pytest.raises(SiteError, match=said.replace(".", r"\.")):
        LiveSettings(site, rehearsal=False)


def test_a_rehearsal_may_have_a_rehearsals_policy(site: Path) -> None:
    (site / "policy.toml").write_text('type = "doorstep/policy/v1"\nrehearsal = true\n')
    assert LiveSettings(site, rehearsal=True)().policy.rehearsal


@pytest.mark.parametrize("rehearsal", [False, True])
def test_only_a_rehearsal_lets_virtual_boxes_and_their_firmware_in(rehearsal: bool) -> None:
    written = Policy(rehearsal=True, waived=frozenset({Reason.CRL_STALE}))
    found = policy_in_force(written, rehearsal=rehearsal)
    assert found.rehearsal is rehearsal
    assert (Reason.FIRMWARE_UNKNOWN in found.waived) is rehearsal
    assert Reason.CRL_STALE in found.waived


# The firmware baseline

ENTRY = FirmwareEntry(
    machine=Machine(vendor="V", model="M", version="1.0"),
    values={"sha256": {0: b"0" * 32}},
    source="headquarters, 2026-11",
)


def sign_baseline(site: Path, counter: int, *entries: FirmwareEntry) -> None:
    data = encode_baseline(Baseline(entries=entries))
    signed = site_dir.sign_document(site, data, f"firmware counter={counter}", FIRMWARE_CONTEXT)
    (site / "trust/firmware.toml").write_bytes(data)
    (site / "trust/firmware.toml.minisig").write_bytes(signed)


def test_a_site_without_a_baseline_knows_no_firmware_and_has_no_problem(site: Path) -> None:
    found = LiveSettings(site, rehearsal=False)()
    assert found.baseline.entries == ()
    assert found.problems == ()


def test_a_signed_baseline_is_used(site: Path) -> None:
    live = LiveSettings(site, rehearsal=False)
    before = live().basis
    sign_baseline(site, 1, ENTRY)
    assert live.refresh()
    assert live().baseline.entries == (ENTRY,)
    assert live().problems == ()
    assert live().basis != before


@pytest.mark.parametrize("name", ["firmware.toml", "firmware.toml.minisig", "root.pub"])
def test_a_baseline_that_does_not_verify_is_not_used_and_says_so(site: Path, name: str) -> None:
    sign_baseline(site, 1, ENTRY)
    live = LiveSettings(site, rehearsal=False)
    path = site / "trust" / name
    good = path.read_bytes()
    for damaged in (good + b"x", good[:-9], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert live.refresh()
        assert live().baseline.entries == ()
        assert "no firmware is known" in " ".join(live().problems)
    path.write_bytes(good)
    assert live.refresh()
    assert (live().baseline.entries, live().problems) == ((ENTRY,), ())


def test_a_note_signature_does_not_serve_for_a_baseline(site: Path) -> None:
    data = encode_baseline(Baseline(entries=(ENTRY,)))
    signed = site_dir.sign_document(site, data, "firmware counter=1", note.CONTEXT)
    (site / "trust/firmware.toml").write_bytes(data)
    (site / "trust/firmware.toml.minisig").write_bytes(signed)
    found = LiveSettings(site, rehearsal=False)()
    assert found.baseline.entries == ()
    assert "another purpose" in " ".join(found.problems)


def test_an_older_baseline_is_not_taken_back_also_after_a_start(site: Path) -> None:
    sign_baseline(site, 5, ENTRY)
    live = LiveSettings(site, rehearsal=False)
    floors = InputFloors()
    assert LiveSettings(site, rehearsal=False, floors=floors)().problems == ()
    sign_baseline(site, 4, ENTRY)
    for found in (live, LiveSettings(site, rehearsal=False, floors=floors)):
        found.refresh()
        assert found().baseline.entries == ()
        assert "counter 4, this site has seen 5" in " ".join(found().problems)
    sign_baseline(site, 6)
    assert live.refresh()
    assert live().problems == ()


def test_a_baseline_that_was_here_and_is_gone_is_missed(site: Path) -> None:
    sign_baseline(site, 5, ENTRY)
    live = LiveSettings(site, rehearsal=False)
    (site / "trust/firmware.toml").unlink()
    assert live.refresh()
    assert "put it back" in " ".join(live().problems)
