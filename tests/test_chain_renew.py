"""A box that stays, on a real boot: firmware, shim, GRUB, Linux and the agent, which renews twice.

IMA's list, the boot log and PCR 15 are those of a kernel that runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bootstrap.io import site_dir
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import DEMO
from bootstrap.rehearsal.run import Rehearsal
from bootstrap.site import SITE_FILE
from netboot.bootset import AMD64
from tests.chain_lab import public_directory, until
from tests.test_chain_enrol import ENROL_SECONDS, publish

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

STAYS = 'after = "stay"\nrenew = "15s"\n'
ENDS = ("held", "refused", "trouble", "renewal-held", "renewal-refused")


def write_site(directory: Path) -> Path:
    """Make a site whose boxes stay and renew every fifteen seconds."""
    site_dir.init(directory, DEMO)
    path = directory / SITE_FILE
    text, count = re.subn(r'^after = "power-off".*\n', STAYS, path.read_text(), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    return directory


@contextmanager
def started(work: Path) -> Iterator[tuple[Rehearsal, VirtualBox, Lan, Appliance]]:
    rehearsal = Rehearsal(work, write_site(work / "source"), print)
    box = VirtualBox(
        work / "box",
        mac="52:54:00:d0:09:01",
        tpm_ca=TpmCa(work / "tpm-ca"),
        serial_number="RENEW-1",
    )
    rehearsal.boxes[:] = [box]
    rehearsal.prepare_boxes()
    publish(rehearsal, AMD64)
    with rehearsal.started() as (lan, appliance):
        try:
            yield rehearsal, box, lan, appliance
        finally:
            box.stop()


def of_box(appliance: Appliance, box: VirtualBox) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    last = 0
    while page := appliance.ask("control", "events", {"after": last})["events"]:
        found += [one for one in page if one["mac"] == box.mac]
        last = page[-1]["n"]
    return found


def test_a_box_that_stays_renews_twice() -> None:
    with public_directory() as work, started(work) as (_, box, lan, appliance):

        def times(kind: str) -> int:
            events = of_box(appliance, box)
            assert not [one for one in events if one["kind"] in ENDS], events[-1]
            return [one["kind"] for one in events].count(kind)

        def told() -> str:
            return box.console[-2500:].decode(errors="replace")

        box.start(Way.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        until(lambda: times("renewed") >= 2, told, ENROL_SECONDS)
        until(lambda: times("ready") >= 3, told, ENROL_SECONDS)
        events = of_box(appliance, box)
        (enrolled,) = [one for one in events if one["kind"] == "enrolled"]
        shown = appliance.ask("control", "box", {"box": enrolled["box"]})
        assert shown["box"]["stage"] == "ready"
        assert shown["box"]["renewals"] >= 2
        assert "renewed" in dict(shown["card"]["facts"])["Certificate"]
        console = box.console.decode(errors="replace")
        assert console.count("doorstep: renewed") >= 1
        keys = set(re.findall(r"ssh host key (\S+)", console))
        assert len(keys) == 1
        directory = Path(shown["evidence"])
        result = json.loads((directory / "result.json").read_text())
        assert result["boot_set"]["digest"] == shown["box"]["boot_set"]
        assert (directory / "ima.bin").stat().st_size > 0
        assert result["pcrs"]["10"] == "equal", result["pcrs"]
