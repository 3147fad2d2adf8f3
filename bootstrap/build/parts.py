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
from bootstrap.build.machines import MACHINES, Machine, own_machine
from bootstrap.errors import SiteError
from bootstrap.module_list import encode_modules
from netboot.bootset import (
    AMD64,
    ARM64,
    COMMAND_LINES,
    GRUB_CFG,
    Architecture,
    BootFile,
    BootSetManifest,
    Role,
    check_manifest,
)
from netboot.io.bootsets import BootSetStore

SUITE = "trixie"
_LOCKS: Mapping[Architecture, str] = {AMD64: "bootset.lock", ARM64: "bootset-arm64.lock"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The files of a boot set by role, without the anchor, and the kernel package's version."""

    files: Mapping[Role, bytes] = field(repr=False)
    kernel_version: str
    architecture: Architecture = AMD64


def committed_lock(architecture: Architecture = AMD64) -> Lock:
    """Read the lock that this release of Doorstep was made with."""
    path = resources.files("netboot").joinpath(_LOCKS[architecture])
    return decode_lock(path.read_text(encoding="utf-8"))


def default_cache() -> Path:
    """Where downloaded packages are kept between builds (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "doorstep" / "packages"


def resolve(architecture: Architecture = AMD64) -> Lock:
    """Resolve a new lock from what the machine's mirror has now; takes seconds and the network."""
    machine = MACHINES[architecture]
    names = [*tree.RUNTIME, *machine.more, *tree.TOOLS, *machine.loaders, machine.kernel]
    names += machine.ipxe[:1] if machine.ipxe else ()
    return apt.resolve_lock(names, SUITE, apt.find_mirrors(), architecture)


def build_parts(
    lock: Lock,
    cache: Path,
    *,
    source: Path | None = None,
    agent: str = AGENT,
    ipxe: bool = False,
) -> Parts:
    """Download what the lock names into `cache` and build every part but the anchor.

    `source` is the directory of our own packages; by default the ones that run now. `agent` is the
    module whose `main` is started in the box; `ipxe` adds what starts it without Secure Boot.
    LockStaleError when the mirror dropped a package.
    """
    kernel, machine = _kernel_package(lock), MACHINES[lock.architecture]
    mirrors = apt.find_mirrors()
    loaders = {**machine.loader_files, **(_ipxe(machine) if ipxe else {})}
    names = [*tree.RUNTIME, *machine.more, *tree.TOOLS, kernel]
    names += sorted({package for package, _ in loaders.values()})
    packages = apt.fetch(lock, names, cache, mirrors)
    own_tools, tools = own_machine(), None
    if own_tools is not machine:
        running = committed_lock(own_tools.architecture)
        tools = apt.fetch(running, [*tree.RUNTIME, *tree.TOOLS], cache, mirrors)
    files = {}
    for role, (package, path) in loaders.items():
        files[role] = _file_of(packages[package], path)
    image = kernel.removeprefix("linux-image-")
    files[Role.KERNEL] = _file_of(packages[kernel], f"boot/vmlinuz-{image}")
    own = source or Path(__file__).parents[2]
    files[Role.GENERIC] = build_generic(
        packages, kernel, own, agent=agent, machine=machine, tools=tools
    )
    files[Role.MODULES] = encode_modules(read_modules(packages[kernel]))
    return Parts(
        files=files,
        kernel_version=lock.package(kernel).version,
        architecture=lock.architecture,
    )


def assemble(
    store: BootSetStore,
    parts: Parts,
    anchor: bytes,
    *,
    name: str,
    version: int,
    created: int,
    release: str,
    command_line: str | None = None,
    grub_cfg: str = GRUB_CFG,
) -> BootSetManifest:
    """Put the parts and an anchor into the store and return the manifest, stored too."""
    contents = {**parts.files, Role.ANCHOR: anchor}
    names = MACHINES[parts.architecture].names
    roles: dict[Role, BootFile] = {
        role: store.add_file(data, names[role]) for role, data in contents.items()
    }
    manifest = BootSetManifest(
        name=name,
        version=version,
        created=created,
        release=release,
        roles=roles,
        grub_cfg=grub_cfg,
        command_line=command_line or COMMAND_LINES[parts.architecture],
        architecture=parts.architecture,
    )
    check_manifest(manifest)
    store.add_set(manifest)
    return manifest


def _ipxe(machine: Machine) -> Mapping[Role, tuple[str, str]]:
    if machine.ipxe is None:
        raise SiteError(f"no boot by iPXE is known for {machine.architecture}: build it without")
    return {Role.IPXE: machine.ipxe}


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
