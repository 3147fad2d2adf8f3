"""A boot set as an ISO for virtual media and USB sticks: UEFI, Secure Boot with stock keys.

El Torito with one UEFI entry whose FAT image holds shim and Debian's signed CD GRUB; kernel and
initrds lie beside it under the paths they have on the appliance. The same set gives the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bootstrap.build.machines import MACHINES
from bootstrap.errors import SiteError
from netboot.bootset import BootSetManifest, Role, iso_grub_cfg
from netboot.io.bootsets import BootSetStore

LABEL = "DOORSTEP"
_TOOLS = {"mformat": "mtools", "mmd": "mtools", "mcopy": "mtools", "xorriso": "xorriso"}
_FAT_KIB = 16384
_SERIAL = "44530001"
_EPOCH = 1_700_000_000
_INFO = "Doorstep enrolment medium\n"


def build_iso(manifest: BootSetManifest, store: BootSetStore, out: Path) -> None:
    """Write the ISO; SiteError names a missing tool, a missing role or what xorriso said."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise SiteError(f"{tool} is missing: apt-get install {package}")
    if Role.CDGRUB not in manifest.roles:
        raise SiteError(f"boot set {manifest.name} has no cdgrub: it cannot be put on an ISO")
    store.check_files(manifest)
    with tempfile.TemporaryDirectory(prefix=".iso-", dir=out.parent) as directory:
        tree, image = Path(directory) / "tree", Path(directory) / "new.iso"
        _write_tree(manifest, store, tree)
        _make_iso(tree, image)
        image.rename(out)


def _write_tree(manifest: BootSetManifest, store: BootSetStore, tree: Path) -> None:
    grub = tree / "boot" / "grub"
    grub.mkdir(parents=True)
    (tree / ".disk").mkdir()
    (tree / ".disk" / "info").write_text(_INFO)
    (grub / "grub.cfg").write_bytes(iso_grub_cfg(manifest))
    for role in (Role.KERNEL, Role.GENERIC, Role.ANCHOR):
        file = manifest.roles[role]
        target = tree / file.path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.file(file.sha256), target)
    short = MACHINES[manifest.architecture].short
    loaders = {
        f"BOOT{short.upper()}.EFI": Role.SHIM,
        f"grub{short}.efi": Role.CDGRUB,
        f"mm{short}.efi": Role.MOKMANAGER,
    }
    found = {
        n: store.file(manifest.roles[r].sha256) for n, r in loaders.items() if r in manifest.roles
    }
    _make_fat(grub / "efi.img", found)
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (_EPOCH, _EPOCH))


def _make_fat(image: Path, files: dict[str, Path]) -> None:
    with image.open("wb") as file:
        file.truncate(_FAT_KIB * 1024)
    geometry = ["-T", str(_FAT_KIB * 2), "-h", "16", "-s", "32", "-N", _SERIAL]
    _run(["mformat", "-i", str(image), *geometry, "::"])
    _run(["mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"])
    for name, path in files.items():
        _run(["mcopy", "-i", str(image), str(path), f"::/EFI/BOOT/{name}"])


def _make_iso(tree: Path, image: Path) -> None:
    options = ["-V", LABEL, "-J", "-R", "-o", str(image)]
    boot = ["-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot"]
    _run(["xorriso", "-as", "mkisofs", *options, *boot, str(tree)])


def _run(command: list[str]) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH), "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SiteError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()[-600:]}")
