"""Is the word of site.toml for the root file system so? What the kernel says, and what follows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import kernel_tables
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tables import Kernel
from keys_site import code
from test_lease_service import LeasedSite

from bootstrap.check_controller import check_controller
from bootstrap.site import Severity, decode_site
from keys.io.root_device import look
from keys.rootfs import MAX_DEPTH, Device, Mount, Seen, compared, decode_mounts, judge, mount_of
from keys.rules import Controller, RootFs, Tier

NONE, VERITY, ENCRYPTED = RootFs.NONE, RootFs.VERITY, RootFs.ENCRYPTED


@pytest.mark.parametrize(
    ("name", "root", "where"),
    [
        ("VERITY", VERITY, "/ is on erofs on dm-0 (CRYPT-VERITY) on sda2 and sda3"),
        ("LUKS", ENCRYPTED, "/ is on ext4 on dm-0 (CRYPT-LUKS2) on sda3"),
        ("PLAIN", NONE, "/ is on ext4 on sda2"),
        ("LVM_ON_LUKS", ENCRYPTED, "/ is on ext4 on dm-1 (LVM-aBcDeFvgroot) on dm-0"),
        ("LVM", NONE, "dm-0 (LVM-aBcDeFvgroot) on sda3"),
        ("HALF_LUKS", NONE, "md0 on dm-0 and sda2"),
        ("RAID_ON_VERITY_OF_ANOTHER_NAME", NONE, "on dm-0 (MY-CRYPT) on sda2"),
        ("USR_ON_VERITY", NONE, "/ is on ext4 on sda2"),
        ("MOUNTED_OVER", NONE, "/ is on ext4 on sda2"),
        ("LUKS1", ENCRYPTED, "dm-0 (CRYPT-LUKS1) on sda3"),
        ("DM_CRYPT", ENCRYPTED, "dm-0 (CRYPT-PLAIN) on sda3"),
        ("OVERLAY", None, "/ is overlay, on no block device"),
        ("TMPFS", None, "/ is rootfs, on no block device"),
        ("NOTHING", None, "nothing is known of /"),
    ],
)
def test_what_the_tables_of_a_machine_say(
    tmp_path: Path, name: str, root: RootFs | None, where: str
) -> None:
    kernel: Kernel = getattr(kernel_tables, name)
    seen = look(kernel_tables.write(tmp_path, kernel))
    assert seen.root is root
    assert seen.where.endswith(where)


def test_what_veritysetup_and_cryptsetup_leave_in_a_real_kernel(tmp_path: Path) -> None:
    place = kernel_tables.write(tmp_path, kernel_tables.CAPTURED)
    verity = Seen(root=VERITY, where="/new is on ext4 on dm-0 (CRYPT-VERITY) on loop0 and loop1")
    assert look(place, ["/new/opt/doorstep"]) == verity
    luks = Seen(root=ENCRYPTED, where="/crypt is on ext4 on dm-1 (CRYPT-LUKS2) on loop2")
    assert look(place, ["/new/bin", "/crypt/opt"]) == luks
    assert look(place).root is None


def test_each_place_of_programs_counts_and_the_least_protected_decides() -> None:
    mounts = decode_mounts(kernel_tables.USR_NOT.mounts)
    devices = {
        "253:0": Device(name="dm-0", uuid=kernel_tables.VERITY_UUID),
        "8:3": Device(name="sda3"),
        "8:9": Device(name="dm-9", uuid=kernel_tables.LUKS_UUID),
    }
    assert judge(mounts, devices, ["/", "/usr/bin/python3"]).root is NONE
    assert judge(mounts, devices, ["/usr/bin/python3", "/"]).root is NONE
    assert judge(mounts, devices, ["/", "/opt/doorstep"]).root is VERITY
    opt = Mount(number="8:9", point="/opt", kind="ext4", source="x")
    for paths in (["/", "/opt/x"], ["/opt/x", "/"]):
        assert judge([*mounts, opt], devices, paths).root is ENCRYPTED
    # what cannot be judged makes the whole unknown, but for what is not protected anyway
    odd = Mount(number="0:9", point="/opt", kind="overlay", source="overlay")
    nowhere = [Mount(number="253:0", point="/srv", kind="ext4", source="x"), odd]
    assert judge(nowhere, devices, ["/usr", "/opt/x", "/srv"]).where == "nothing is known of /usr"
    assert judge([*mounts, odd], devices, ["/", "/opt/x"]).root is None
    assert judge([*mounts, odd], devices, ["/", "/opt/x", "/usr"]).root is NONE
    assert judge(mounts, devices, []).root is None


def test_btrfs_names_its_device(tmp_path: Path) -> None:
    place = kernel_tables.write(tmp_path, kernel_tables.BTRFS_ON_LUKS)
    assert look(place).root is None
    (place / "dev/mapper").mkdir(parents=True)
    os.mknod(place / "dev/mapper/cryptroot", 0o600 | stat.S_IFBLK, os.makedev(253, 0))
    assert look(place).root is ENCRYPTED


def test_no_proc_is_no_knowledge(tmp_path: Path) -> None:
    assert look(tmp_path).root is None
    assert "No such file" in look(tmp_path).where


def test_this_machine_is_read(tmp_path: Path) -> None:
    seen = look()
    assert seen.where
    kernel_tables.write(tmp_path, Kernel(mounts=Path("/proc/self/mountinfo").read_text()))
    assert look(tmp_path).root is None  # its mounts without its devices


def test_devices_that_lie_in_a_circle_or_too_deep_protect_nothing(tmp_path: Path) -> None:
    place = kernel_tables.write(
        tmp_path,
        Kernel(
            mounts=kernel_tables.root_on("253:0"),
            blocks={"253:0": kernel_tables.Block(name="dm-0", uuid="LVM-x", slaves=("253:0",))},
        ),
    )
    assert look(place).root is NONE
    device = Device(name="bottom", uuid=kernel_tables.LUKS_UUID)
    for _ in range(MAX_DEPTH + 1):
        device = Device(name="above", slaves=(device,))
    mounts = decode_mounts(kernel_tables.root_on("253:0"))
    assert judge(mounts, {"253:0": device}, ["/"]).root is NONE
    assert judge(mounts, {"253:0": device.slaves[0]}, ["/"]).root is ENCRYPTED


def test_the_deepest_mount_above_a_path_counts_and_the_last_of_several() -> None:
    def mount(number: str, point: str) -> Mount:
        return Mount(number=number, point=point, kind="ext4", source="x")

    mounts = [mount("1", "/"), mount("2", "/opt"), mount("3", "/opt/door"), mount("4", "/opt")]
    for path, number in (
        ("/", "1"),
        ("/opt", "4"),
        ("/opt/doorstep/bin", "4"),
        ("/opt/door/bin", "3"),
        ("/option", "1"),
    ):
        found = mount_of(mounts, path)
        assert found is not None and found.number == number
    assert mount_of([mount("2", "/opt")], "/usr") is None


def test_blanks_in_a_mount_point() -> None:
    line = "31 27 8:3 / /opt/a\\040b ro - ext4 /dev/a\\134b ro\n"
    (found,) = decode_mounts(line)
    assert (found.point, found.source) == ("/opt/a b", "/dev/a\\b")
    assert decode_mounts("31 27 8:3 / /opt ro\nx - y\n31 27 8:3 / /opt ro - ext4\n") == ()
    assert decode_mounts("31 27 8:3 - ext4 x\n") == ()


@given(st.text(max_size=200), st.text(max_size=40))
@settings(max_examples=100)
def test_any_text_is_mounts_or_none(text: str, path: str) -> None:
    mounts = decode_mounts(text)
    assert judge(mounts, {}, [f"/{path}"]).root is None


# what follows

SAID = "/ is on ext4 on sda2"


@pytest.mark.parametrize(
    ("said", "found", "believed", "doubt"),
    [
        (VERITY, VERITY, VERITY, ""),
        (ENCRYPTED, ENCRYPTED, ENCRYPTED, ""),
        (VERITY, NONE, NONE, f"site.toml says verity, {SAID}: nothing protects it"),
        (ENCRYPTED, NONE, NONE, f"site.toml says encrypted, {SAID}: nothing protects it"),
        (VERITY, ENCRYPTED, ENCRYPTED, f"site.toml says verity, {SAID}: that is encrypted"),
        (ENCRYPTED, VERITY, ENCRYPTED, f"site.toml says encrypted, {SAID}: that is verity"),
        (VERITY, None, VERITY, f"site.toml says verity; {SAID}: whether that holds cannot be told"),
        (NONE, VERITY, NONE, ""),
        (NONE, None, NONE, ""),
        (NONE, NONE, NONE, ""),
    ],
)
def test_the_word_counts_as_far_as_nothing_speaks_against_it(
    said: RootFs, found: RootFs | None, believed: RootFs, doubt: str
) -> None:
    seen = Seen(root=found, where=SAID)
    made = compared(Controller(tcti="device:/dev/tpmrm0", root=said), seen)
    assert made.root is believed
    assert made.doubt.startswith(doubt) and bool(made.doubt) == bool(doubt)
    assert (made.why_off(Tier.SITE) is None) == (believed is not NONE)
    named = compared(Controller(tcti="x", root=said, tiers=frozenset({Tier.SITE})), seen)
    assert named.why_off(Tier.SITE) is None
    without = Controller(root=said)
    assert compared(without, seen) == without


EXAMPLE = Path("bootstrap/example/site.toml")


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(root=VERITY, where=SAID), None),
        (None, None),
        (Seen(root=NONE, where=SAID), f"site.toml says verity, {SAID}: nothing protects it"),
        (Seen(root=None, where=SAID), "cannot be told from here"),
    ],
)
def test_doorstep_check_says_it(seen: Seen | None, words: str | None) -> None:
    text = (Path(__file__).parent.parent / EXAMPLE).read_text()
    text = text.replace('tpm = "none"', 'tpm = "/dev/tpmrm0"').replace(
        'root = "none"', 'root = "verity"'
    )
    text = text.replace('tiers = ["site"]', "tiers = []")
    found = [
        one
        for one in check_controller(decode_site(text.encode()), None, None, seen)
        if one.severity is Severity.NOTE
    ]
    about = [one for one in found if one.key == "controller.root"]
    assert [words in str(one) for one in about] == ([True] if words else [])
    off = [one for one in found if one.key == "controller.tiers"]
    assert bool(off) == (seen is not None and seen.root is NONE)


# at a site


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


def machine(site: LeasedSite, kernel: Kernel) -> None:
    kernel_tables.write(site.layout.kernel, kernel)


def test_a_root_that_is_not_what_was_said_closes_tier_site(site: LeasedSite) -> None:
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    site.put()
    assert site.given()
    assert site.operator("status")["sentences"] == []
    site.kill()
    machine(site, kernel_tables.PLAIN)
    site.start()
    said = "site.toml says verity, / is on ext4 on sda2: nothing protects it"
    status = site.control("status")
    assert said in status["sentences"]
    assert "Nothing protects the programs of this controller" in status["not_covered"]
    assert not site.given(reset_count=8)
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}
    assert listed["pos-api-token"]["reason"] == "SECRET-TIER-OFF"
    assert code(site.operator, "secret_put", name="pos-api-token", value="AA") == "SECRET-TIER-OFF"
    # the operator wants it all the same, by name
    path = site.layout.site / "site.toml"
    site.write(
        "site.toml", path.read_text().replace("[controller]", '[controller]\ntiers = ["site"]')
    )
    assert said in site.control("status")["sentences"]
    assert site.given(reset_count=9)


def test_what_cannot_be_told_is_said_and_believed(site: LeasedSite) -> None:
    machine(site, kernel_tables.OVERLAY)
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    site.put()
    assert site.given()
    (said,) = site.operator("status")["sentences"]
    assert said.startswith("site.toml says verity; / is overlay, on no block device")
