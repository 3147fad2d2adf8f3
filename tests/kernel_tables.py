"""What a kernel says of mounts and block devices, as files: tables for controllers of all kinds.

The lines and names are those of real machines (Debian 12 and 13); `write` lays them out as proc and
sys do, for the real reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROC = "22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A device as sysfs shows it: name, the dm/uuid, the major:minor of its slaves."""

    name: str
    uuid: str | None = None
    slaves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One machine: its mountinfo, its devices by major:minor."""

    mounts: str
    blocks: Mapping[str, Block] = field(default_factory=dict)


def root_on(number: str, kind: str = "ext4", source: str = "/dev/root") -> str:
    """Give the line of a root file system."""
    return f"27 1 {number} / / rw,relatime shared:1 - {kind} {source} rw\n"


SDA = {"8:0": Block(name="sda"), "8:2": Block(name="sda2"), "8:3": Block(name="sda3")}
VERITY_UUID = "CRYPT-VERITY-9e2b7c0f4f1d4c6c8a7d5b1e0c3f2a11-root"
LUKS_UUID = "CRYPT-LUKS2-0d2c1d7f6a7e4c55a6f2b1a0c9d8e7f6-cryptroot"
VERITY = Kernel(
    mounts=root_on("253:0", "erofs", "/dev/mapper/root") + PROC,
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=VERITY_UUID, slaves=("8:2", "8:3"))},
)
LUKS = Kernel(
    mounts=root_on("253:0", "ext4", "/dev/mapper/cryptroot") + PROC,
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=LUKS_UUID, slaves=("8:3",))},
)
LUKS1 = Kernel(
    mounts=root_on("253:0"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid="CRYPT-LUKS1-0d2c1d7f-x", slaves=("8:3",))},
)
DM_CRYPT = Kernel(
    mounts=root_on("253:0"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid="CRYPT-PLAIN-root", slaves=("8:3",))},
)
PLAIN = Kernel(mounts=root_on("8:2", source="/dev/sda2") + PROC, blocks=SDA)
LVM_ON_LUKS = Kernel(
    mounts=root_on("253:1", source="/dev/mapper/vg-root"),
    blocks=SDA
    | {
        "253:0": Block(name="dm-0", uuid=LUKS_UUID, slaves=("8:3",)),
        "253:1": Block(name="dm-1", uuid="LVM-aBcDeFvgroot", slaves=("253:0",)),
    },
)
LVM = Kernel(
    mounts=root_on("253:0", source="/dev/mapper/vg-root"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid="LVM-aBcDeFvgroot", slaves=("8:3",))},
)
HALF_LUKS = Kernel(
    mounts=root_on("9:0", source="/dev/md0"),
    blocks=SDA
    | {
        "253:0": Block(name="dm-0", uuid=LUKS_UUID, slaves=("8:3",)),
        "9:0": Block(name="md0", slaves=("253:0", "8:2")),
    },
)
RAID_ON_VERITY_OF_ANOTHER_NAME = Kernel(
    mounts=root_on("253:0"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid="MY-CRYPT-VERITY-1-root", slaves=("8:2",))},
)
USR_ON_VERITY = Kernel(
    mounts=root_on("8:2") + "31 27 253:0 / /usr ro,relatime - erofs /dev/mapper/usr ro\n",
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=VERITY_UUID, slaves=("8:3",))},
)
USR_NOT = Kernel(
    mounts=root_on("253:0") + "31 27 8:3 / /usr ro,relatime - ext4 /dev/sda3 ro\n",
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=VERITY_UUID, slaves=("8:2",))},
)
MOUNTED_OVER = Kernel(
    mounts=root_on("253:0", "erofs") + root_on("8:2"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=VERITY_UUID, slaves=("8:3",))},
)
OVERLAY = Kernel(mounts=root_on("0:52", "overlay", "overlay") + PROC)
TMPFS = Kernel(mounts=root_on("0:2", "rootfs", "none"))
NOTHING = Kernel(mounts="")
BTRFS_ON_LUKS = Kernel(
    mounts=root_on("0:31", "btrfs", "/dev/mapper/cryptroot"),
    blocks=SDA | {"253:0": Block(name="dm-0", uuid=LUKS_UUID, slaves=("8:3",))},
)

CAPTURED = Kernel(
    mounts=(
        "1 1 0:2 / / rw - rootfs rootfs rw,size=490316k,nr_inodes=122579,inode64\n"
        "22 1 0:20 / /proc rw,relatime - proc proc rw\n"
        "26 1 254:0 / /new ro,relatime - ext4 /dev/mapper/root ro\n"
        "27 1 254:1 / /crypt rw,relatime - ext4 /dev/mapper/cryptroot rw\n"
    ),
    blocks={
        "7:0": Block(name="loop0"),
        "7:1": Block(name="loop1"),
        "7:2": Block(name="loop2"),
        "254:0": Block(
            name="dm-0",
            uuid="CRYPT-VERITY-e3db691c649e46258d6ecfc9668da519-root",
            slaves=("7:0", "7:1"),
        ),
        "254:1": Block(
            name="dm-1",
            uuid="CRYPT-LUKS2-31ff2c4436c84ee88039de9d51f8a662-cryptroot",
            slaves=("7:2",),
        ),
    },
)
"""Of a virtual machine: kernel 6.1 (Debian 12), veritysetup, cryptsetup 2.6.1, loop devices."""


def write(directory: Path, kernel: Kernel) -> Path:
    """Lay a machine out below a directory as proc and sys do; gives the directory."""
    proc, block = directory / "proc/self", directory / "sys/dev/block"
    for place in (proc, block, directory / "sys/devices"):
        place.mkdir(parents=True, exist_ok=True)
    (proc / "mountinfo").write_text(kernel.mounts)
    for number, one in kernel.blocks.items():
        device = directory / "sys/devices" / one.name
        device.mkdir(exist_ok=True)
        (device / "dev").write_text(f"{number}\n")
        (block / number).unlink(missing_ok=True)
        (block / number).symlink_to(device)
        if one.uuid is not None:
            (device / "dm").mkdir(exist_ok=True)
            (device / "dm/uuid").write_text(f"{one.uuid}\n")
        if one.slaves:
            (device / "slaves").mkdir(exist_ok=True)
    for one in kernel.blocks.values():
        for number in one.slaves:
            name = kernel.blocks[number].name
            link = directory / "sys/devices" / one.name / "slaves" / name
            link.unlink(missing_ok=True)
            link.symlink_to(directory / "sys/devices" / name)
    return directory
