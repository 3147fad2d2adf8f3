"""GRUB images: the embedded configuration in both kinds of memory disk, unknown builds refused."""

import struct

import pytest
from boot_forge import fat12, grub_image, pe_image, squashfs
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.errors import AttestSiteError
from attest.grub import GrubKind, inspect, profile_of, version_of
from attest.memdisk import read_file
from attest.pe import Pe

NETWORK_206 = b"""if [ -e $prefix/x86_64-efi/grub.cfg ]; then
\tsource $prefix/x86_64-efi/grub.cfg
else
\tsource $prefix/grub.cfg
fi
"""
NETWORK_212 = b"""if [ -e $prefix/x86_64-efi/grub.cfg ]; then
\tsource $prefix/x86_64-efi/grub.cfg
elif [ -e $prefix/grub.cfg-amd64 ]; then
\tsource $prefix/grub.cfg-default-amd64
else
\tsource $prefix/grub.cfg
fi
"""


@pytest.mark.parametrize("text", [b"", b"short", bytes(range(256)) * 9], ids=len)
def test_a_file_is_read_from_every_kind_of_disk(text: bytes) -> None:
    assert read_file(fat12(text), "grub.cfg") == text
    for packed in (True, False):
        for fragment in (True, False):
            disk = squashfs(text, packed=packed, fragment=fragment)
            assert read_file(disk, "grub.cfg") == text


def patched_root(kind: bytes) -> bytes:
    """Change the type of the root directory's inode."""
    disk = squashfs(b"x", packed=False)
    at = struct.unpack_from("<Q", disk, 64)[0] + 2 + 32
    return disk[:at] + kind + disk[at + 1 :]


def short_block() -> bytes:
    """Let a file claim more than its block holds."""
    disk = squashfs(b"x", packed=False)
    at = struct.unpack_from("<Q", disk, 64)[0] + 2 + 28
    return disk[:at] + b"\x09" + disk[at + 1 :]


@pytest.mark.parametrize(
    "disk",
    [
        fat12(b"x", b"GRUB    BAK"),
        squashfs(b"x", b"grub.bak"),
        fat12(b"x")[:-512],
        fat12(b"x" * 513)[:-600],
        squashfs(b"x" * 70000),
        squashfs(b"x").replace(b"\xfd7zXZ", b"\xfd7zXY"),
        squashfs(b"x")[:90],
        b"ISO image" * 100,
        fat12(b"x")[:11] + b"\7\0" + fat12(b"x")[13:],
        fat12(b"x")[:54] + b"FAT16" + fat12(b"x")[59:],
        fat12(b"x" * 70000),
        squashfs(b"x")[:28] + b"\3" + squashfs(b"x")[29:],
        squashfs(b"x")[:20] + b"\2" + squashfs(b"x")[21:],
        patched_root(b"\2"),
        squashfs(b"x", packed=False)[:80] + b"\xff" * 8 + squashfs(b"x", packed=False)[88:],
        short_block(),
        b"",
    ],
)
def test_disks_without_a_readable_file_are_refused(disk: bytes) -> None:
    with pytest.raises(AttestSiteError, match="memory disk of GRUB"):
        read_file(disk, "grub.cfg")


def test_zlib_is_read_too() -> None:
    assert read_file(squashfs(b"text", codec="gzip"), "grub.cfg") == b"text"


def test_a_decompression_bomb_is_cut_short() -> None:
    bomb = squashfs(bytes(40 << 20))
    assert len(bomb) < 100000
    with pytest.raises(AttestSiteError, match="memory disk of GRUB|small plain file"):
        read_file(bomb, "grub.cfg")


def test_a_chain_of_clusters_that_turns_in_a_circle_outside_the_disk_ends() -> None:
    disk = bytearray(fat12(b"x" * 600))
    entry = bytes(disk).index(b"GRUB    CFG")
    struct.pack_into("<H", disk, entry + 26, 300)
    struct.pack_into("<H", disk, 512 + 300 * 3 // 2, 300)
    with pytest.raises(AttestSiteError, match="grub.cfg in the memory disk of GRUB is cut off"):
        read_file(bytes(disk), "grub.cfg")


def with_empty_blocks(count: int) -> bytes:
    """Put metadata blocks of no bytes before the directory."""
    disk = bytearray(squashfs(b"text", packed=False))
    directory, fragments = struct.unpack_from("<QQ", disk, 72)
    block = disk[directory:fragments]
    struct.pack_into("<Q", disk, 72, len(disk))
    return bytes(disk) + b"\x00\x80" * count + bytes(block)


def test_metadata_blocks_without_bytes_are_bounded() -> None:
    assert read_file(with_empty_blocks(31), "grub.cfg") == b"text"
    with pytest.raises(AttestSiteError, match="memory disk of GRUB"):
        read_file(with_empty_blocks(32), "grub.cfg")


def test_known_configurations_give_their_commands() -> None:
    old = inspect(grub_image(fat12(NETWORK_206)))
    assert (old.family, old.version, old.kind) == ("2.06", "2.06-test1", GrubKind.NETWORK)
    assert old.commands == ("[ -e {prefix}/x86_64-efi/grub.cfg ]", "source {prefix}/grub.cfg")
    assert profile_of("old", old.family, "amd64").kernel_images == 2
    new = inspect(grub_image(squashfs(NETWORK_212), family="2.12"))
    assert len(new.commands) == 3
    assert profile_of("new", new.family, "amd64").kernel_tags


ARM64 = NETWORK_212.replace(b"x86_64", b"arm64").replace(b"amd64", b"arm64")
MEDIUM = b"""if [ -z "$prefix" -o ! -e "$prefix" ]; then
\tif ! search --file --set=root /.disk/info; then
\t\tsearch --file --set=root /.disk/mini-info
\tfi
\tset prefix=($root)/boot/grub
fi
if [ -e $prefix/x86_64-efi/grub.cfg ]; then
\tsource $prefix/x86_64-efi/grub.cfg
elif [ -e $prefix/grub.cfg ]; then
\tsource $prefix/grub.cfg
else
\tsource $cmdpath/grub.cfg
fi
"""


@pytest.mark.parametrize(
    ("text", "prefix", "kind", "commands"),
    [
        (
            ARM64,
            b"/grub",
            GrubKind.NETWORK,
            (
                "[ -e {prefix}/arm64-efi/grub.cfg ]",
                "[ -e {prefix}/grub.cfg-arm64 ]",
                "source {prefix}/grub.cfg",
            ),
        ),
        (
            MEDIUM.replace(b"x86_64", b"arm64"),
            b"/boot/grub",
            GrubKind.MEDIUM,
            (
                "[ -z {prefix} -o ! -e {prefix} ]",
                "[ -e {prefix}/arm64-efi/grub.cfg ]",
                "[ -e {prefix}/grub.cfg ]",
                "source {prefix}/grub.cfg",
            ),
        ),
        (
            MEDIUM,
            b"/boot/grub",
            GrubKind.MEDIUM,
            (
                "[ -z {prefix} -o ! -e {prefix} ]",
                "[ -e {prefix}/x86_64-efi/grub.cfg ]",
                "[ -e {prefix}/grub.cfg ]",
                "source {prefix}/grub.cfg",
            ),
        ),
    ],
)
def test_media_and_the_other_processor_run_other_commands(
    text: bytes, prefix: bytes, kind: GrubKind, commands: tuple[str, ...]
) -> None:
    found = inspect(grub_image(squashfs(text), prefix=prefix, family="2.12"))
    assert (found.kind, found.prefix, found.commands) == (kind, prefix.decode(), commands)


@pytest.mark.parametrize("kind", [1, 2])
def test_an_image_without_memory_disk_or_configuration_starts_in_an_unknown_way(kind: int) -> None:
    with pytest.raises(AttestSiteError, match="it starts in an unknown way"):
        inspect(grub_image(fat12(NETWORK_206), left_out=kind))


@pytest.mark.parametrize(
    "image",
    [
        grub_image(fat12(NETWORK_206 + b"set evil=1\n")),
        grub_image(squashfs(NETWORK_212[:-1])),
        grub_image(fat12(NETWORK_206), prefix=b"/boot/grub"),
        grub_image(fat12(NETWORK_206), config=b"normal (memdisk)/other.cfg\n"),
        grub_image(fat12(NETWORK_206), family="2.14"),
    ],
)
def test_unknown_builds_are_refused_by_name(image: bytes) -> None:
    with pytest.raises(AttestSiteError, match=r"no boot profile for GRUB 2\.06-test1"):
        inspect(image)


def test_a_version_is_the_distributions_and_unknown_without_rows() -> None:
    known = Pe.decode(grub_image(fat12(NETWORK_206)))
    assert version_of(known) == "2.06-test1"
    upstream = Pe.decode(pe_image({".sbat": b"grub,5,FSF,grub,2.06,x\n"}))
    assert version_of(upstream) == "2.06"
    bare = pe_image({".text": b"\x90"})
    assert version_of(Pe.decode(bare)) == "unknown"
    with pytest.raises(AttestSiteError, match="no boot profile for GRUB unknown"):
        inspect(bare)


SBAT = {".sbat": b"grub,5,FSF,grub,2.06,x\n"}


def area(size: int, *objects: tuple[int, int], magic: int = 0x676D696D, offset: int = 24) -> bytes:
    """Build a module area of objects by kind and the length that each claims."""
    return struct.pack("<IIQQ", magic, 0, offset, size) + b"".join(
        struct.pack("<II", *each) for each in objects
    )


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (SBAT, "is cut off"),
        (SBAT | {"mods": b"mimg"}, "is cut off"),
        (SBAT | {"mods": area(24, magic=0x786D696D)}, "has no module area"),
        (SBAT | {"mods": area(33, (1, 8))}, "has no module area"),
        (SBAT | {"mods": area(48, (1, 0xFF)) + bytes(40)}, "is malformed"),
        (SBAT | {"mods": area(48, (1, 7)) + bytes(40)}, "is malformed"),
        (SBAT | {"mods": area(32, (1, 0))}, "is malformed"),
        (SBAT | {"mods": area(28, (1, 8))[:28]}, "is cut off"),
    ],
)
def test_images_without_a_module_area_are_refused(sections: dict[str, bytes], told: str) -> None:
    with pytest.raises(AttestSiteError, match=told):
        inspect(pe_image(sections))


@settings(max_examples=150)
@given(st.booleans(), st.integers(0, 700), st.binary(min_size=1, max_size=6), st.integers(0, 60))
def test_any_damaged_disk_gives_a_file_or_our_error(
    fat: bool, at: int, patch: bytes, cut: int
) -> None:
    disk = bytearray(fat12(NETWORK_206) if fat else squashfs(NETWORK_206))
    disk[at : at + len(patch)] = patch
    try:
        read_file(bytes(disk[: len(disk) - cut]), "grub.cfg")
    except AttestSiteError:
        return
