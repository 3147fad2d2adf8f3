"""What the figures share: a rehearsal's site and the parts of a boot set, made once when needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from bootstrap.build.apt import LockStaleError
from bootstrap.build.parts import build_parts, committed_lock, default_cache, resolve
from bootstrap.rehearsal.box import TpmCa, VirtualBox
from bootstrap.rehearsal.place import make_boot_set
from bootstrap.rehearsal.run import Rehearsal
from netboot.bootset import BootSetManifest, Role


class Lab:
    """A directory to work in, how many runs to make, and the site that is measured."""

    def __init__(self, work: Path, runs: int, say: Callable[[str], None]) -> None:
        """Keep the choices; nothing is made before it is asked for."""
        self.work = work
        self.runs = runs
        self.say = say

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """A site of its own with one empty, expected box for each run."""
        rehearsal = Rehearsal(self.work / "site", None, self.say)
        ca = rehearsal.boxes[0].tpm_ca
        rehearsal.boxes[:] = [self._box(f"box-{n}", n, ca) for n in range(1, self.runs + 1)]
        rehearsal.prepare_boxes()
        return rehearsal

    @cached_property
    def boot_set(self) -> BootSetManifest:
        """A boot set of the site, for its files; not published."""
        try:
            parts = build_parts(committed_lock(), default_cache())
        except LockStaleError as error:
            self.say(f"           {error}; taking what the mirror has now instead")
            parts = build_parts(resolve(), default_cache())
        place = self.rehearsal.place
        return make_boot_set(place, parts, version=1, release="benchmark")

    @cached_property
    def published(self) -> BootSetManifest:
        """The boot set that the site serves, measured and published."""
        return self.rehearsal.prepare_boot_sets()[0]

    def file(self, role: Role) -> Path:
        """One file of the boot set."""
        manifest = self.boot_set
        return self.rehearsal.shelf.store.file(manifest.roles[role].sha256)

    def peer_box(self, number: int) -> VirtualBox:
        """Make another box of the same build, for a peer to boot."""
        ca = TpmCa(self.work / "peer-tpm-ca")
        return self._box(f"peer-box-{number}", 100 + number, ca)

    def _box(self, name: str, number: int, ca: TpmCa) -> VirtualBox:
        mac = f"52:54:00:d0:01:{number:02x}"
        return VirtualBox(self.work / name, mac=mac, tpm_ca=ca, serial_number=f"BENCH-{number}")
