"""Boot programs as a test wants them: PE images, GRUB's module area, FAT12 and squashfs disks."""

import lzma
import struct
import zlib

ALIGNMENT = 512


def pe_image(sections: dict[str, bytes]) -> bytes:
    """Build an unsigned PE32+ image with these sections, each name at most eight bytes."""
    optional = struct.pack("<HBBIIIII", 0x20B, 2, 0, 0, 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<QII", 0x400000, 4096, ALIGNMENT) + bytes(12)
    optional += struct.pack("<IIIIHH", 0, 0x10000, ALIGNMENT * 2, 7, 10, 0)
    optional += bytes(36) + struct.pack("<I", 16) + bytes(128)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22)
    table, body = b"", b""
    for name, data in sections.items():
        padded = data + bytes(-len(data) % ALIGNMENT)
        offset = ALIGNMENT * 2 + len(body)
        table += name.encode().ljust(8, b"\0")
        table += struct.pack("<IIII", len(data), 4096, len(padded), offset) + bytes(16)
        body += padded
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + table
    return head.ljust(ALIGNMENT * 2, b"\0") + body


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes([tag, 0x82]) + struct.pack(">H", len(content)) + content


OID_DATA = bytes.fromhex("06092a864886f70d010702")
OID_SHA256 = bytes.fromhex("0609608648016503040201")


def signed_data(
    digest: bytes, oid: bytes = OID_SHA256, certificates: int = 1, parts: int = 0
) -> bytes:
    """Build a SignedData around an SpcIndirectDataContent, as far as anybody here reads it."""
    info = der(0x30, der(0x30, oid), der(0x04, digest))
    content = der(0x30, OID_DATA, der(0xA0, der(0x30, der(0x30), info)))
    certs = der(0xA0, *[der(0x30, b"\x05\x00")] * certificates)
    signer = der(0x30, b"\x02\x01\x01", der(0x30, der(0x30, b"\x05\x00"), b"\x02\x01\x07"))
    more = [b"\x05\x00"] * parts
    inner = der(0x30, b"\x02\x01\x01", der(0x31), content, certs, *more, der(0x31, signer))
    return der(0x30, OID_DATA, der(0xA0, inner))


def signed_image(*signatures: bytes) -> bytes:
    """Build an image whose certificate table holds these signatures."""
    table = b""
    for blob in signatures:
        entry = struct.pack("<IHH", 8 + len(blob), 0x200, 2) + blob
        table += entry + bytes(-len(entry) % 8)
    image = bytearray(pe_image({".text": b"\x90"}))
    struct.pack_into("<II", image, 64 + 24 + 112 + 32, len(image), len(table))
    return bytes(image) + table


Sections = dict[str, bytes | None]


def uki_image(stub: str = "257.13-1~deb13u1", replaced: Sections | None = None) -> bytes:
    """Build a unified kernel image as ukify does; `replaced` gives, adds or takes out sections."""
    sections: Sections = {
        ".text": b"\x90",
        ".sbat": b"sbat,1,SBAT Version,sbat,1,x\nsystemd-stub,1,x,systemd,257,x\n",
        ".sdmagic": f"#### LoaderInfo: systemd-stub {stub} ####\0".encode(),
        ".osrel": b"ID=test",
        ".cmdline": b"console=ttyS0 quiet\n",
        ".uname": b"6.12",
        ".initrd": b"initrd",
        ".linux": pe_image({".text": b"kernel"}),
    }
    sections |= replaced or {}
    return pe_image({name: data for name, data in sections.items() if data is not None})


def grub_image(
    memdisk: bytes,
    *,
    prefix: bytes = b"/grub",
    config: bytes = b"normal (memdisk)/grub.cfg\n",
    family: str = "2.06",
    version: str = "2.06-test1",
    left_out: int | None = None,
) -> bytes:
    """Build what a signed GRUB image looks like to a reader; `left_out` is a kind of object."""
    kinds = ((0, b"ELF"), (1, memdisk), (2, config + b"\0"), (3, prefix + b"\0"))
    objects = b"".join(
        struct.pack("<II", kind, 8 + len(data)) + data for kind, data in kinds if kind != left_out
    )
    mods = struct.pack("<IIQQ", 0x676D696D, 0, 24, 24 + len(objects)) + objects
    sbat = f"grub,cut short\nsbat,1,SBAT Version,sbat,1,x\ngrub,5,FSF,grub,{family},x\n"
    sbat += f"grub.debian,5,Debian,grub2,{version},x\n"
    return pe_image({".text": b"\x90", "mods": mods, ".sbat": sbat.encode()})


def fat12(text: bytes, name: bytes = b"GRUB    CFG") -> bytes:
    """Build a FAT12 disk with one file whose clusters of 512 bytes are chained backwards."""
    clusters = max(1, -(-len(text) // 512))
    chain = list(range(1 + clusters, 1, -1))
    entries = dict(zip(chain, [*chain[1:], 0xFFF], strict=True))
    fat = bytearray(512)
    for cluster, following in entries.items():
        at = cluster * 3 // 2
        (pair,) = struct.unpack_from("<H", fat, at)
        pair |= following << 4 if cluster & 1 else following
        struct.pack_into("<H", fat, at, pair & 0xFFFF)
    boot = bytearray(512)
    struct.pack_into("<HBHBH", boot, 11, 512, 1, 1, 1, 16)
    struct.pack_into("<H", boot, 22, 1)
    boot[54:62] = b"FAT12   "
    label = b"LABEL      \x08" + bytes(20)
    entry = name + b"\x20" + bytes(14) + struct.pack("<HI", chain[0], len(text))
    data = bytearray(512 * clusters)
    for index, cluster in enumerate(chain):
        piece = text[512 * index : 512 * index + 512]
        start = (cluster - 2) * 512
        data[start : start + len(piece)] = piece
    return bytes(boot + fat + (label + entry).ljust(512, b"\0") + data)


def _pack(data: bytes, codec: str) -> bytes:
    if codec == "gzip":
        return zlib.compress(data)
    return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32)


def _metadata(data: bytes, packed: bool, codec: str) -> bytes:
    if not packed:
        return struct.pack("<H", len(data) | 0x8000) + data
    body = _pack(data, codec)
    return struct.pack("<H", len(body)) + body


def squashfs(
    text: bytes,
    name: bytes = b"grub.cfg",
    *,
    packed: bool = True,
    fragment: bool = True,
    codec: str = "xz",
) -> bytes:
    """Build a squashfs with a font before one file, which lies in a fragment or a block."""
    content = (b"font" + text) if fragment else text
    body = _pack(content, codec) if packed else content
    size_word = len(body) | (0 if packed else 1 << 24)
    offset, number = (4, 0) if fragment else (0, 0xFFFFFFFF)
    start = 0 if fragment else 96
    file = struct.pack("<HHHHII", 2, 0o644, 0, 0, 0, 1)
    file += struct.pack("<IIII", start, number, offset, len(text))
    file += b"" if fragment else struct.pack("<I", size_word)
    listing = struct.pack("<III", 0, 0, 1) + struct.pack("<HhHH", 0, 0, 2, len(name) - 1) + name
    root = struct.pack("<HHHHII", 1, 0o755, 0, 0, 0, 2)
    root += struct.pack("<IIHHI", 0, 2, len(listing) + 3, 0, 3)
    inodes = _metadata(file + root, packed, codec)
    directories = _metadata(listing, packed, codec)
    fragments = _metadata(struct.pack("<QII", 96, size_word, 0), packed, codec)
    inode_table = 96 + len(body)
    directory_table = inode_table + len(inodes)
    fragment_entries = directory_table + len(directories)
    fragment_table = fragment_entries + len(fragments)
    head = b"hsqs" + struct.pack("<IIII", 2, 0, 131072, 1)
    head += struct.pack("<HHHHHH", 1 if codec == "gzip" else 4, 17, 0, 1, 4, 0)
    head += struct.pack(
        "<QQQQQQQQ", len(file), 0, 0, 0, inode_table, directory_table, fragment_table, 0
    )
    disk = head + body + inodes + directories + fragments
    return disk + struct.pack("<Q", fragment_entries)
