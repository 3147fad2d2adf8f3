"""What a certificate is for: CA flag, path length, key usage, critical extensions.

It reads; it never judges a whole certificate (see `attest.ekcert`). RFC 5280, 4.2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from attest.asn1 import INTEGER, Name, children, directory_name, is_true, oid_text, read
from attest.der import Certificate
from attest.errors import EvidenceError

# RFC 5280, 4.2.1.3: bit numbers of KeyUsage.
DIGITAL_SIGNATURE, KEY_ENCIPHERMENT, KEY_AGREEMENT, CERT_SIGN, CRL_SIGN = 0, 2, 4, 5, 6
ANY_USAGE = "2.5.29.37.0"
MAX_DEPTH = 6
BASIC, KEY_USAGE, EXTENDED, SAN = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"
# What is read here or cannot make a certificate mean less: policies, subject directory attributes,
# key identifiers, and the addresses that are never fetched.
UNDERSTOOD = frozenset(
    {BASIC, KEY_USAGE, EXTENDED, SAN, "2.5.29.32", "2.5.29.9", "2.5.29.14", "2.5.29.35"}
    | {"2.5.29.31", "1.3.6.1.5.5.7.1.1"}
)


def is_ca(certificate: Certificate) -> bool:
    """Tell whether the basic constraints say CA."""
    extension = certificate.extensions.get(BASIC)
    return extension is not None and _says_ca(extension.value)


def path_length(certificate: Certificate) -> int:
    """Give how many further CA certificates may follow below a CA certificate."""
    fields = children(read(certificate.extensions[BASIC].value).content)
    numbers = [field for field in fields if field.tag == INTEGER]
    return int.from_bytes(numbers[0].content[:8], "big") if numbers else MAX_DEPTH


def usage(certificate: Certificate, bit: int) -> bool | None:
    """Tell whether a KeyUsage bit is set; None where there is no KeyUsage."""
    extension = certificate.extensions.get(KEY_USAGE)
    if extension is None:
        return None
    bits = _bits(extension.value)
    return bit < 8 * len(bits) and bool(bits[bit // 8] >> (7 - bit % 8) & 1)


def extended(certificate: Certificate) -> frozenset[str] | None:
    """Give the extended key usages; None where there is no such extension."""
    extension = certificate.extensions.get(EXTENDED)
    return None if extension is None else _usages(extension.value)


def alternative_names(certificate: Certificate) -> dict[str, str]:
    """Give the attributes of all directory names in the subject alternative name.

    Makers put one attribute in each SET, or all three in one; both are read alike.
    """
    extension = certificate.extensions.get(SAN)
    return {} if extension is None else general_names(extension.value)


def general_names(value: bytes) -> dict[str, str]:
    """Give the attributes of the directory names of GeneralNames; nothing of what is malformed."""
    return dict(_directory_names(value))


def critical_faults(certificate: Certificate) -> Iterator[str]:
    """Name the critical extensions that are not understood here (RFC 5280, 4.2)."""
    for name, extension in certificate.extensions.items():
        if extension.critical and name not in UNDERSTOOD:
            yield f"{certificate.title} has the critical extension {name}, unknown here"


# A maker writes the same into each certificate of a model; all are part of one of bounded size.
_remembered = lru_cache(maxsize=256)


@_remembered
def _says_ca(constraints: bytes) -> bool:
    try:
        flags = list(children(read(constraints).content))
    except EvidenceError:
        return False
    return bool(flags) and is_true(flags[0])


@_remembered
def _bits(key_usage: bytes) -> bytes:
    """Give the bits of KeyUsage; none where it cannot be read."""
    try:
        return read(key_usage).content[1:]
    except EvidenceError:
        return b""


@_remembered
def _usages(value: bytes) -> frozenset[str]:
    try:
        return frozenset(oid_text(item.content) for item in children(read(value).content))
    except EvidenceError:
        return frozenset()


@_remembered
def _directory_names(value: bytes) -> Name:
    found: list[tuple[str, str]] = []
    try:
        for name in children(read(value).content):
            if name.tag == 0xA4:
                found += directory_name(read(name.content).content)
    except EvidenceError:
        return ()
    return tuple(found)
