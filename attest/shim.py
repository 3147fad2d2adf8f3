"""What a shim brings with it: its vendor's key and revocation list, and its SBAT level.

It only reads; who trusts the key is asked elsewhere. shim `README.tpm` and `SBAT.md`.
"""

import struct
from dataclasses import dataclass

from attest.errors import AttestSiteError
from attest.pe import Pe


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimTables:
    """The vendor certificate (DER), its revocation list as it stands, and the level as text."""

    vendor_cert: bytes
    vendor_dbx: bytes
    sbat_level: bytes


def read_shim(image: Pe) -> ShimTables:
    """Read the tables of a shim; raise AttestSiteError for other programs."""
    vendor_cert, vendor_dbx = _vendor(image)
    return ShimTables(vendor_cert=vendor_cert, vendor_dbx=vendor_dbx, sbat_level=_sbat_level(image))


def _vendor(shim: Pe) -> tuple[bytes, bytes]:
    """Read certificate and revocation list out of shim's .vendor_cert table."""
    table = shim.section(".vendor_cert")
    if table is None or len(table) < 16:
        raise AttestSiteError("the first boot program is not shim: it has no .vendor_cert")
    cert_size, dbx_size, cert, dbx = struct.unpack_from("<IIII", table)
    if not cert_size or cert + cert_size > len(table) or dbx + dbx_size > len(table):
        raise AttestSiteError("the .vendor_cert of shim is empty or malformed")
    certificate = table[cert : cert + cert_size]
    if certificate[:1] != b"\x30":
        raise AttestSiteError("the .vendor_cert of shim holds a key list, not one certificate")
    return certificate, table[dbx : dbx + dbx_size]


def _sbat_level(shim: Pe) -> bytes:
    """Give the level that shim sets on its own: the one called "previous"."""
    section = shim.section(".sbatlevel")
    if section is None or len(section) < 12:
        raise AttestSiteError("shim has no .sbatlevel section")
    version, previous = struct.unpack_from("<II", section)
    text = section[4 + previous :].split(b"\0")[0]
    if version != 0 or not text.startswith(b"sbat,1,"):
        raise AttestSiteError("the .sbatlevel section of shim is of an unknown kind")
    return text
