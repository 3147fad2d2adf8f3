"""What a certificate is for: CA flag, path length, key usage, critical extensions.

It reads; it never judges a whole certificate (see `attest.ekcert`). RFC 5280, 4.2.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from attest.asn1 import INTEGER, children, directory_name, is_true, oid_text, read
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
    if extension is None:
        return False
    try:
        flags = list(children(read(extension.value).content))
    except EvidenceError:
        return False
    return bool(flags) and is_true(flags[0])


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
    try:
        bits = read(extension.value).content[1:]
    except EvidenceError:
        return False
    return bit < 8 * len(bits) and bool(bits[bit // 8] >> (7 - bit % 8) & 1)


def extended(certificate: Certificate) -> frozenset[str] | None:
    """Give the extended key usages; None where there is no such extension."""
    extension = certificate.extensions.get(EXTENDED)
    if extension is None:
        return None
    try:
        return frozenset(oid_text(item.content) for item in children(read(extension.value).content))
    except EvidenceError:
        return frozenset()


def alternative_names(certificate: Certificate) -> dict[str, str]:
    """Give the attributes of all directory names in the subject alternative name.

    Makers put one attribute in each SET, or all three in one; both are read alike.
    """
    extension = certificate.extensions.get(SAN)
    return {} if extension is None else general_names(extension.value)


def general_names(value: bytes) -> dict[str, str]:
    """Give the attributes of the directory names of GeneralNames; nothing of what is malformed."""
    found: dict[str, str] = {}
    try:
        for name in children(read(value).content):
            if name.tag == 0xA4:
                found.update(directory_name(read(name.content).content))
    except EvidenceError:
        return {}
    return found


def critical_faults(certificate: Certificate) -> Iterator[str]:
    """Name the critical extensions that are not understood here (RFC 5280, 4.2)."""
    for name, extension in certificate.extensions.items():
        if extension.critical and name not in UNDERSTOOD:
            yield f"{certificate.title} has the critical extension {name}, unknown here"
