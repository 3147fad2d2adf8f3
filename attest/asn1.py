"""DER elements as TPM makers write them: a small tolerant reader that bounds what it reads.

Tolerant: sets in any order, lengths with leading zeros, names in any string type. It never judges,
and it looks no deeper than it is asked. X.690 (DER); X.501 (names); RFC 5280, 4.1.2.5 (times).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from attest.errors import EvidenceError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x01, 0x02, 0x03, 0x04, 0x06
SEQUENCE, SET = 0x30, 0x31
MAX_CHILDREN = 4096
MAX_OID, MAX_INTEGER = 64, 64
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_TIME = re.compile(r"([0-9]{10}(?:[0-9]{2}){0,2})(?:[.,][0-9]{1,9})?(Z|[+-][0-9]{4})")

Name = tuple[tuple[str, str], ...]
"""(OID, text) pairs in order."""


class Element(NamedTuple):
    """One DER element; `raw` is header and content. There are dozens in every certificate."""

    tag: int
    content: bytes
    raw: bytes


def header(data: bytes, offset: int = 0) -> tuple[int, int, int]:
    """Give tag, start and end of the content of the element at `offset`, which may be cut short."""
    first = data[offset : offset + 2]
    if len(first) < 2 or first[0] & 0x1F == 0x1F:
        raise EvidenceError("a certificate is cut short or holds a tag it cannot have")
    size, start = first[1], offset + 2
    if size >= 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or start + count > len(data):
            raise EvidenceError("a certificate holds a length that cannot be")
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    return first[0], start, start + size


def read(data: bytes, offset: int = 0) -> Element:
    """Read the element that starts at `offset`; EvidenceError when it is none."""
    tag, start, end = header(data, offset)
    if end > len(data):
        raise EvidenceError("a certificate is cut short")
    return Element(tag, data[start:end], data[offset:end])


def children(data: bytes, most: int = MAX_CHILDREN) -> Iterator[Element]:
    """Read the elements that lie one after another in `data`, at most `most` of them."""
    offset, count = 0, 0
    while offset < len(data):
        if count == most:
            raise EvidenceError("a certificate holds too many parts")
        tag, start, end = header(data, offset)
        if end > len(data):
            raise EvidenceError("a certificate is cut short")
        yield Element(tag, data[start:end], data[offset:end])
        offset, count = end, count + 1


@lru_cache(maxsize=512)
def oid_text(content: bytes) -> str:
    """Give an object identifier with dots."""
    if not content or len(content) > MAX_OID or content[-1] & 0x80:
        raise EvidenceError("an object identifier is empty, too long or cut short")
    numbers, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(number) for number in (first, numbers[0] - 40 * first, *numbers[1:]))


def serial_number(element: Element) -> int:
    """Give a serial number, without a sign.

    Makers write negative and badly padded ones (an STMicroelectronics CA has 00000006); the same
    number in a revocation list may be written well.
    """
    if element.tag != INTEGER or not 1 <= len(element.content) <= MAX_INTEGER:
        raise EvidenceError("a certificate holds a serial number that is none")
    return int.from_bytes(element.content, "big")


def is_true(element: Element) -> bool:
    """Read a BOOLEAN; TPM makers write FALSE where DER leaves it out."""
    return element.tag == BOOLEAN and element.content != b"\0"


def bits(element: Element) -> bytes:
    """Give a BIT STRING of whole bytes."""
    if element.tag != BIT_STRING or element.content[:1] != b"\0":
        raise EvidenceError("a certificate holds bits that are not whole bytes")
    return element.content[1:]


def text(value: Element) -> str:
    """Give a string of any type, its white space folded."""
    encoding = "utf-16-be" if value.tag == 0x1E else "utf-8"
    return " ".join(value.content.decode(encoding, "replace").split())


def directory_name(content: bytes) -> Name:
    """Read an RDNSequence's content, folded so that equal names compare equal."""
    pairs = []
    try:
        for relative in children(content):
            found = []
            for attribute in children(relative.content):
                identifier, value = children(attribute.content)
                found.append((oid_text(identifier.content), text(value)))
            # Four Nuvoton roots put these SETs in another order than DER does.
            pairs += sorted(found)
    except ValueError:
        raise EvidenceError("a certificate holds a name that cannot be read") from None
    return tuple(pairs)


def time(element: Element) -> int:
    """Give a UTCTime or GeneralizedTime in unix seconds."""
    if element.tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise EvidenceError("a certificate holds a date of an unknown kind")
    written = element.content[:40].decode("ascii", "replace")
    if element.tag == _UTC_TIME:
        written = ("20" if written[:1] < "5" else "19") + written
    match = _TIME.fullmatch(written)
    if match is None:
        raise EvidenceError("a certificate holds a date that is none")
    digits, zone = match[1].ljust(14, "0"), match[2]
    try:
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise EvidenceError("a certificate holds a date that is none") from None
    # A zone beside Z is no DER; seconds are taken off as numbers, for 9999-12-31 has no day after.
    offset = 0 if zone == "Z" else int(zone[:1] + "1") * (int(zone[1:3]) * 60 + int(zone[3:])) * 60
    return int(moment.timestamp()) - offset
