"""Files out of the memory disk inside a GRUB image: FAT12 (GRUB 2.06) or squashfs (GRUB 2.12).

It reads one small file of the root directory and nothing else; every size is bounded.
Microsoft FAT specification 1.03; squashfs 4.0 as in the Linux kernel's `squashfs_fs.h`.
"""

import lzma
import struct
import zlib

from attest.errors import AttestSiteError

MAX_FILE = 64 << 10

_METADATA = 8192
_MAX_BLOCKS = 4 * MAX_FILE // _METADATA
_MAX_BLOCK = 1 << 20
_LZMA_MEMORY = 64 << 20
_NO_FRAGMENT = 0xFFFFFFFF


def read_file(disk: bytes, name: str) -> bytes:
    """Give a file of the root directory; `name` has the 8.3 form; raise AttestSiteError."""
    try:
        if disk[:4] == b"hsqs":
            return _Squashfs(disk).read(name.encode())
        return _read_fat(disk, name)
    except (struct.error, IndexError, OverflowError, lzma.LZMAError, zlib.error) as error:
        raise AttestSiteError("the memory disk of GRUB cannot be read") from error


def _read_fat(disk: bytes, name: str) -> bytes:
    sector, per_cluster, reserved, fats, entries = struct.unpack_from("<HBHBH", disk, 11)
    (fat_size,) = struct.unpack_from("<H", disk, 22)
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or disk[54:59] != b"FAT12":
        raise AttestSiteError("the memory disk of GRUB is neither FAT12 nor squashfs")
    fat = disk[reserved * sector : (reserved + fat_size) * sector]
    root = (reserved + fats * fat_size) * sector
    first_data = root + entries * 32
    base, _, suffix = name.upper().partition(".")
    wanted = base.ljust(8).encode() + suffix.ljust(3).encode()
    for at in range(root, first_data, 32):
        if disk[at : at + 11] == wanted and not disk[at + 11] & 0x18:
            cluster, size = struct.unpack_from("<HI", disk, at + 26)
            break
    else:
        raise AttestSiteError(f"the memory disk of GRUB has no {name}")
    if size > MAX_FILE:
        raise AttestSiteError(f"{name} in the memory disk of GRUB is too large")
    data = b""
    step = per_cluster * sector
    while len(data) < size and 2 <= cluster < 0xFF7:
        start = first_data + (cluster - 2) * step
        piece = disk[start : start + step]
        # A chain may turn in a circle outside the disk.
        if not piece:
            break
        data += piece
        (pair,) = struct.unpack_from("<H", fat, cluster * 3 // 2)
        cluster = pair >> 4 if cluster & 1 else pair & 0xFFF
    if len(data) < size:
        raise AttestSiteError(f"{name} in the memory disk of GRUB is cut off")
    return data[:size]


class _Squashfs:
    """A squashfs 4.0 image compressed with xz or zlib."""

    __slots__ = ("_compression", "_directories", "_disk", "_fragments", "_inodes", "_root")

    def __init__(self, disk: bytes) -> None:
        self._disk = disk
        self._compression, _, _, _, major = struct.unpack_from("<HHHHH", disk, 20)
        self._root, _, _, _, self._inodes, self._directories, self._fragments = struct.unpack_from(
            "<7Q", disk, 32
        )
        if major != 4 or self._compression not in (1, 4):
            raise AttestSiteError("the memory disk of GRUB is an unknown kind of squashfs")

    def read(self, name: bytes) -> bytes:
        """Give a file that fits into one block or fragment."""
        reference = self._lookup(name)
        inode = self._inode(reference, 36)
        kind, start, fragment, offset, size = struct.unpack_from("<H14xIIII", inode)
        if kind != 2 or size > MAX_FILE:
            raise AttestSiteError("the file in the memory disk of GRUB is not a small plain file")
        if fragment == _NO_FRAGMENT:
            offset, length = 0, struct.unpack_from("<I", inode, 32)[0]
        else:
            (table,) = struct.unpack_from("<Q", self._disk, self._fragments + fragment // 512 * 8)
            entry = self._metadata(table, fragment % 512 * 16, 16)
            start, length = struct.unpack_from("<QI", entry)
        data = self._block(start, length & 0xFFFFFF, not length & 1 << 24, _MAX_BLOCK)
        if offset + size > len(data):
            raise AttestSiteError("the file in the memory disk of GRUB is cut off")
        return data[offset : offset + size]

    def _lookup(self, name: bytes) -> int:
        inode = self._inode(self._root, 32)
        kind, block, _, size, offset = struct.unpack_from("<H14xIIHH", inode)
        if kind != 1:
            raise AttestSiteError("the memory disk of GRUB has an unknown root directory")
        listing = self._metadata(self._directories + block, offset, max(size - 3, 0))
        at = 0
        while at < len(listing):
            count, inode_block, _ = struct.unpack_from("<III", listing, at)
            at += 12
            for _ in range(min(count + 1, 256)):
                inode_offset, _, _, length = struct.unpack_from("<HhHH", listing, at)
                at += 8 + length + 1
                if listing[at - length - 1 : at] == name:
                    return int(inode_block) << 16 | int(inode_offset)
        raise AttestSiteError(f"the memory disk of GRUB has no {name.decode()}")

    def _inode(self, reference: int, size: int) -> bytes:
        return self._metadata(self._inodes + (reference >> 16), reference & 0xFFFF, size)

    def _metadata(self, at: int, offset: int, size: int) -> bytes:
        """Read `size` bytes, or what there is, from the metadata block at `at` on."""
        data = b""
        for _ in range(_MAX_BLOCKS):
            if len(data) >= offset + size or at + 2 >= len(self._disk):
                break
            (header,) = struct.unpack_from("<H", self._disk, at)
            length = header & 0x7FFF
            data += self._block(at + 2, length, not header & 0x8000, _METADATA)
            at += 2 + length
        return data[offset : offset + size]

    def _block(self, at: int, length: int, packed: bool, limit: int) -> bytes:
        raw = self._disk[at : at + length]
        if not packed:
            return raw
        if self._compression == 1:
            return zlib.decompressobj().decompress(raw, limit)
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
        return decompressor.decompress(raw, limit)
