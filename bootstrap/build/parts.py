"""The parts of a boot set out of locked packages, and a manifest over them.

The parts are the same for the whole fleet; only the anchor is the site's. It never signs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from bootstrap.build import apt, tree
from bootstrap.build.initrd import AGENT, build_generic, read_deb, read_modules
from bootstrap.build.lock import Lock, decode_lock
from bootstrap.errors import SiteError
from bootstrap.module_list import encode_modules
from netboot.bootset import (
    COMMAND_LINE,
    GRUB_CFG,
    BootFile,
    BootSetManifest,
    Role,
    check_manifest,
)
from netboot.io.bootsets import BootSetStore

SUITE = "trixie"
_GRUB = "usr/lib/grub/x86_64-efi-signed/"
_LOADER_FILES = {
    Role.SHIM: ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
    Role.GRUB: ("grub-efi-amd64-signed", f"{_GRUB}grubnetx64.efi.signed"),
    Role.CDGRUB: ("grub-efi-amd64-signed", f"{_GRUB}gcdx64.efi.signed"),
}
NAMES = {
    Role.SHIM: "shimx64.efi",
    Role.GRUB: "grubx64.efi",
    Role.CDGRUB: "gcdx64.efi",
    Role.KERNEL: "vmlinuz",
    Role.GENERIC: "generic.img",
    Role.ANCHOR: "anchor.img",
    Role.MODULES: "modules.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The files of a boot set by role, without the anchor, and the kernel package's version."""

    files: Mapping[Role, bytes] = field(repr=False)
    kernel_version: str


def committed_lock() -> Lock:
    """Read the lock that this release of Doorstep was made with."""
    text = resources.files("netboot").joinpath("bootset.lock").read_text(encoding="utf-8")
    return decode_lock(text)


def default_cache() -> Path:
    """Where downloaded packages are kept between builds (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "doorstep" / "packages"


def resolve() -> Lock:
    """Resolve a new lock from what the machine's mirror has now; takes seconds and the network."""
    names = (*tree.RUNTIME, *tree.TOOLS, *tree.LOADERS, *tree.KERNELS)
    return apt.resolve_lock(names, SUITE, apt.find_mirrors())


def build_parts(
    lock: Lock, cache: Path, *, source: Path | None = None, agent: str = AGENT
) -> Parts:
    """Download what the lock names into `cache` and build every part but the anchor.

    `source` is the directory of our own packages; by default the ones that run now. `agent` is the
    module whose `main` is started in the box. LockStaleError when the mirror dropped a package.
    """
    kernel = _kernel_package(lock)
    names = [*tree.RUNTIME, *tree.TOOLS, *tree.LOADERS, kernel]
    packages = apt.fetch(lock, names, cache, apt.find_mirrors())
    files = {}
    for role, (package, path) in _LOADER_FILES.items():
        files[role] = _file_of(packages[package], path)
    image = kernel.removeprefix("linux-image-")
    files[Role.KERNEL] = _file_of(packages[kernel], f"boot/vmlinuz-{image}")
    own = source or Path(__file__).parents[2]
    files[Role.GENERIC] = build_generic(packages, kernel, own, agent=agent)
    files[Role.MODULES] = encode_modules(read_modules(packages[kernel]))
    return Parts(files=files, kernel_version=lock.package(kernel).version)


def assemble(
    store: BootSetStore,
    parts: Parts,
    anchor: bytes,
    *,
    name: str,
    version: int,
    created: int,
    release: str,
    command_line: str = COMMAND_LINE,
    grub_cfg: str = GRUB_CFG,
) -> BootSetManifest:
    """Put the parts and an anchor into the store and return the manifest, stored too."""
    contents = {**parts.files, Role.ANCHOR: anchor}
    roles: dict[Role, BootFile] = {
        role: store.add_file(data, NAMES[role]) for role, data in contents.items()
    }
    manifest = BootSetManifest(
        name=name,
        version=version,
        created=created,
        release=release,
        roles=roles,
        grub_cfg=grub_cfg,
        command_line=command_line,
    )
    check_manifest(manifest)
    store.add_set(manifest)
    return manifest


def _kernel_package(lock: Lock) -> str:
    kernels = [p.name for p in lock.packages if p.name.startswith("linux-image-")]
    if len(kernels) != 1:
        raise SiteError("bootset.lock: exactly one linux-image package is expected")
    return kernels[0]


def _file_of(package: Path, path: str) -> bytes:
    entry = read_deb(package).get(path)
    if entry is None:
        raise SiteError(f"{package.name} does not hold {path}: the package changed its layout")
    return entry.data
