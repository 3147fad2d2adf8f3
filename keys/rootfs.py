"""What protects the file system that the controller's programs are on, as the kernel tells it.

Pure: the text of /proc/self/mountinfo and what sysfs says of block devices go in. It sees that
dm-verity or encryption is there, not who holds the key, nor whether the boot chain checked the
root hash: that is what PCRs in a lease are for. Linux Documentation/filesystems/proc.rst, 3.5
(mountinfo); dm/uuid prefixes as cryptsetup writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from keys.rules import Controller, RootFs

MAX_DEPTH = 16
"""So many layers of devices at most: deeper is not believed."""
_KINDS = {
    "CRYPT-VERITY-": RootFs.VERITY,
    "CRYPT-LUKS1-": RootFs.ENCRYPTED,
    "CRYPT-LUKS2-": RootFs.ENCRYPTED,
    "CRYPT-PLAIN-": RootFs.ENCRYPTED,
}
_STRENGTH = (RootFs.NONE, RootFs.ENCRYPTED, RootFs.VERITY)
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo; `number` is major:minor, `source` what was mounted."""

    number: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A block device: its name, the dm/uuid (empty for what device-mapper did not make), slaves."""

    name: str
    uuid: str = ""
    slaves: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found: `root` is None where it cannot be told; `where` says what lies on what."""

    root: RootFs | None
    where: str

    def doubt(self, said: RootFs) -> str:
        """Say in one text what speaks against the word of site.toml; empty when nothing does."""
        if said in (RootFs.NONE, self.root):
            return ""
        claim = f"site.toml says {said.value}"
        if self.root is None:
            return f"{claim}; {self.where}: whether that holds cannot be told from here"
        if self.root is RootFs.NONE:
            return f"{claim}, {self.where}: nothing protects it"
        return f"{claim}, {self.where}: that is {self.root.value}"

    def believed(self, said: RootFs) -> RootFs:
        """Give the lesser of what is said and what was found; what is said, if that is all."""
        if self.root is None:
            return said
        return min(said, self.root, key=_STRENGTH.index)


def compared(controller: Controller, seen: Seen) -> Controller:
    """Take the site file's word for the root only as far as nothing speaks against it."""
    if controller.tcti is None:
        return controller  # nothing measures what was started: the word promises nothing
    root, doubt = seen.believed(controller.root), seen.doubt(controller.root)
    return replace(controller, root=root, doubt=doubt)


def decode_mounts(text: str) -> tuple[Mount, ...]:
    """Read mountinfo; a line of another form is left out."""
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        first, last = head.split(" "), tail.split(" ")
        if len(first) >= 6 and len(last) >= 2:
            found.append(
                Mount(number=first[2], point=_plain(first[4]), kind=last[0], source=_plain(last[1]))
            )
    return tuple(found)


def mount_of(mounts: Iterable[Mount], path: str) -> Mount | None:
    """Find what a path is on: the deepest mount point above it, of several the last."""
    above = {str(one) for one in (PurePosixPath(path), *PurePosixPath(path).parents)}
    known = [one for one in mounts if one.point in above]
    if not known:
        return None
    deepest = max(len(one.point) for one in known)
    return [one for one in known if len(one.point) == deepest][-1]


def judge(mounts: Iterable[Mount], devices: Mapping[str, Device], paths: Iterable[str]) -> Seen:
    """Say what protects the programs at these paths: the least protected of them counts.

    `devices` are by major:minor; what is on no block device cannot be judged.
    """
    known = tuple(mounts)
    seen = [_judge_path(known, devices, path) for path in paths]
    told = [(_STRENGTH.index(one.root), one.where) for one in seen if one.root is not None]
    unknown = [one for one in seen if one.root is None]
    weakest, where = min(told, key=lambda one: one[0], default=(len(_STRENGTH), ""))
    if unknown and weakest > 0:
        return unknown[0]
    if not told:
        return Seen(root=None, where="no program was looked for")
    return Seen(root=_STRENGTH[weakest], where=where)


def _judge_path(mounts: Iterable[Mount], devices: Mapping[str, Device], path: str) -> Seen:
    mount = mount_of(mounts, path)
    if mount is None:
        return Seen(root=None, where=f"nothing is known of {path}")
    return _judge_mount(mount, devices.get(mount.number))


def _judge_mount(mount: Mount, device: Device | None) -> Seen:
    if device is None:
        return Seen(root=None, where=f"{mount.point} is {mount.kind}, on no block device")
    where = f"{mount.point} is on {mount.kind} on {_chain(device)}"
    return Seen(root=_protection(device), where=where)


def _protection(device: Device, depth: int = 0) -> RootFs:
    """Say what a device gives; of several below it the least."""
    kind = next((kind for start, kind in _KINDS.items() if device.uuid.startswith(start)), None)
    if kind is not None:
        return kind
    if not device.slaves or depth >= MAX_DEPTH:
        return RootFs.NONE
    below = (_protection(one, depth + 1) for one in device.slaves)
    return min(below, key=_STRENGTH.index)


def _chain(device: Device) -> str:
    kind = device.uuid.split("-", 2)[:2]
    made = f" ({'-'.join(kind)})" if device.uuid else ""
    below = f" on {' and '.join(one.name for one in device.slaves)}" if device.slaves else ""
    return f"{device.name}{made}{below}"


def _plain(text: str) -> str:
    """Undo the octal escapes of blanks and backslashes (proc.rst)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
