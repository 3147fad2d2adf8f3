"""The whole product on real parts: a virtual box from power-on to ready, then the attacks.

The same code is `make demo`. Nothing here is simulated but the hardware.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from keys.io.layout import SERVICES

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[1]


def play(*options: str) -> tuple[dict[str, Any], str]:
    """Run the command as an operator would and give its JSON and what it told."""
    done = subprocess.run(
        [sys.executable, "-m", "bootstrap.cli", "rehearse", "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    directory = ROOT / "build" / "rehearsal"
    shutil.rmtree(directory, ignore_errors=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def demo(work: Path) -> tuple[dict[str, Any], str]:
    return play("--attacks", "--work", str(work))


def kinds(chapter: dict[str, Any]) -> list[str]:
    return [moment["kind"] for moment in chapter["moments"]]


def test_an_empty_box_gets_from_power_on_to_ready(demo: tuple[dict[str, Any], str]) -> None:
    result, told = demo
    assert result["ok"], told
    first = result["chapters"][0]
    story = kinds(first)
    for earlier, later in (
        ("dhcp-discover", "dhcp-ack"),
        ("dhcp-ack", "boot-file"),
        ("boot-file", "session"),
        ("session", "verified"),
        ("verified", "enrolled"),
        ("enrolled", "ready"),
    ):
        assert story.index(earlier) < story.index(later)
    files = [m["sentence"] for m in first["moments"] if m["kind"] == "boot-file"]
    for name in ("shimx64.efi", "grubx64.efi", "grub.cfg", "vmlinuz", "generic.img", "anchor.img"):
        assert any(name in sentence for sentence in files), name


def test_it_got_its_name_its_address_and_a_secret(demo: tuple[dict[str, Any], str]) -> None:
    result, _ = demo
    received = result["received"]
    assert (received["hostname"], received["role"], received["withheld"]) == ("pos-01", "pos", [])
    assert len(received["secrets"]) == 1
    assert received["secrets"][0].startswith("pos-api-token sha256-keyed ")
    assert result["names"]["pos-01.rehearsal.example.net"] == received["address"]
    assert result["names"][received["address"]] == "pos-01.rehearsal.example.net."


@pytest.mark.parametrize(
    ("number", "reason", "sentence"),
    [
        (0, "INITRD-UNKNOWN", "initrd that is in no boot set this site accepts"),
        (1, "SECURE-BOOT-OFF", "Secure Boot is off"),
        (2, "BOOT-SET-WITHDRAWN", "which was withdrawn"),
        (3, "BUNDLE-OTHER-BOOT", "for another boot of this box"),
        (4, "LEASE-ENDED", "started more often than it allows"),
    ],
    ids=[
        "changed-on-the-wire",
        "secure-boot-off",
        "older-boot-set",
        "captured-bundle",
        "stolen-controller",
    ],
)
def test_each_attack_is_refused_in_one_sentence(
    demo: tuple[dict[str, Any], str], number: int, reason: str, sentence: str
) -> None:
    attack = demo[0]["attacks"][number]
    assert attack["got"] == reason
    assert sentence in attack["sentence"]


def test_its_story_is_on_disk_without_a_gap(demo: tuple[dict[str, Any], str], work: Path) -> None:
    for database, service in (("site.db", "site"), ("netboot.db", "netboot"), ("keys.db", "keys")):
        events = Database(work / "state" / service / database)["events"]
        numbers = [row["n"] for row in events.rows_where(order_by="n")]
        assert numbers == list(range(1, len(numbers) + 1)), database
    boxes = {row["hostname"]: row for row in Database(work / "state/site/site.db")["boxes"].rows}
    assert boxes["pos-01"]["stage"] == "ready"
    assert demo[0]["received"]["box"] == boxes["pos-01"]["box"]


def test_no_secret_is_in_anything_it_left_behind(
    demo: tuple[dict[str, Any], str], work: Path
) -> None:
    """Synthetic secrets begin with a word that nothing else writes."""
    for path in work.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"rehearsal-secret-" not in path.read_bytes(), path
    assert "rehearsal-secret-" not in demo[1] + json.dumps(demo[0])


def test_a_rehearsal_leaves_no_namespace_and_no_process(
    demo: tuple[dict[str, Any], str], work: Path
) -> None:
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(work) not in processes.stdout
    assert "dsl" not in listed or all(
        Path(f"/proc/{line.split('-')[0][3:]}").exists()
        for line in listed.splitlines()
        if line.startswith("dsl")
    )


def test_run_refuses_the_state_of_a_rehearsal(demo: tuple[dict[str, Any], str], work: Path) -> None:
    places = [f"--{name}={work / name}" for name in ("site", "state", "run")]
    users = ",".join(f"{name}={uid}" for uid, name in enumerate(SERVICES, 61001))
    done = subprocess.run(
        [sys.executable, "-m", "bootstrap.cli", "run", *places, f"--users={users}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "belongs to a rehearsal" in done.stderr


def test_the_same_box_enrols_from_an_iso(tmp_path: Path) -> None:
    result, told = play("--via", "iso")
    assert result["ok"], told
    story = kinds(result["chapters"][0])
    assert "boot-file" not in story
    assert story[-1] == "ready"
