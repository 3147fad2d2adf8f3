"""Boot chains that end enrolled: firmware with Secure Boot and a TPM, our shim, GRUB and Linux.

One site; for each way of starting a box of its own. By PXE with TFTP it is `test_rehearsal`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.run import READY, Rehearsal
from bootstrap.rehearsal.story import Chapter, Storyteller
from tests.chain_lab import Served, public_directory

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running site whose boot set was measured and published."""

    rehearsal: Rehearsal
    lan: Lan
    appliance: Appliance
    served: Served

    def power_on(self, number: int, way: Way) -> Chapter:
        """Boot a box until it is ready, or was turned away."""
        teller = Storyteller(self.appliance, self.rehearsal.say)
        box = self.rehearsal.boxes[number]
        try:
            return self.rehearsal.power_on(f"box {number}", box, self.lan, teller, READY, way=way)
        finally:
            box.stop()

    def row(self, chapter: Chapter) -> Mapping[str, Any]:
        """Give what control knows of the box of a chapter."""
        found = self.appliance.ask("control", "box", {"box": chapter.end["box"]})["box"]
        assert isinstance(found, Mapping)
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with public_directory() as work:
        rehearsal = Rehearsal(work, None, print)
        rehearsal.prepare_boxes()
        rehearsal.prepare_boot_sets()
        with rehearsal.started() as (lan, appliance):
            served = Served(lambda method, **params: appliance.ask("netboot", method, params))
            yield Site(rehearsal=rehearsal, lan=lan, appliance=appliance, served=served)


def check_enrolled(site: Site, chapter: Chapter, number: int) -> None:
    """It is ready, by what the served set predicts, and kept one address through all its rounds."""
    assert chapter.end["kind"] == "ready", chapter.end
    row = site.row(chapter)
    box = site.rehearsal.boxes[number]
    assert (row["stage"], row["mac"]) == ("ready", box.mac)
    rounds = site.served.addresses(box.mac)
    assert len(rounds) >= 2, "the firmware and our agent each ask"
    assert len(set(rounds)) == 1, rounds


def test_uefi_http_boot_ends_enrolled(site: Site) -> None:
    """D17, D18, T23: an HTTPClient is given a URL; all files go by HTTP, in the chain's order."""
    chapter = site.power_on(0, Way.HTTP)
    check_enrolled(site, chapter, 0)
    files = site.served.files(site.rehearsal.boxes[0].mac)
    assert {transport for transport, _ in files} == {"http"}
    assert names(files) == [
        "shimx64.efi",
        "grubx64.efi",
        "grub.cfg",
        "vmlinuz",
        "generic.img",
        "anchor.img",
    ]


def names(files: list[tuple[str, str]]) -> list[str]:
    return [path.rpartition("/")[2] for _, path in files]
