"""The finite-field group ffdhe2048, for firmware that offers DHE-RSA and no elliptic curve.

RFC 7919, appendix A.1: the prime is made of the digits of e, so it is computed, not copied.
"""

from __future__ import annotations

import base64

BITS = 2048
_OFFSET = 560316
_GUARD = 64


def prime() -> int:
    """Give 2^2048 - 2^1984 + (floor(2^1918 e) + 560316) 2^64 - 1."""
    digits = _scaled_e(BITS - 130)
    return (1 << BITS) - (1 << BITS - 64) + ((digits + _OFFSET) << 64) - 1


def pem() -> bytes:
    """Write the group as DH PARAMETERS: prime and generator (PKCS #3)."""
    body = _der(2, prime().to_bytes(BITS // 8 + 1, "big")) + _der(2, b"\x02")
    text = base64.encodebytes(_der(0x30, body))
    return b"-----BEGIN DH PARAMETERS-----\n" + text + b"-----END DH PARAMETERS-----\n"


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


def _scaled_e(bits: int) -> int:
    """Give floor(2^bits e), from the series of 1/k! with some bits to spare."""
    term = total = 1 << bits + _GUARD
    number = 1
    while term:
        term //= number
        total += term
        number += 1
    return total >> _GUARD
