"""Digests of boot programs, who signed them, and how facts about them are kept as JSON.

It checks no program's signature: it asks only whose certificate issued which signer, as firmware
and shim will. UEFI 2.10, 32.4.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from attest.pe import Pe, image_digests

BANKS = ("sha1", "sha256", "sha384", "sha512")

Digests = Mapping[str, bytes]
"""Digests keyed by bank name."""

# The box chose what stands in its db; a certificate of real keys is a tenth of this.
_MAX_CERTIFICATE = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Digests of a boot program by bank: of the file, and Authenticode."""

    file: Digests
    image: Digests


def digests(data: bytes) -> dict[str, bytes]:
    """Give the digests of `data` in every bank."""
    return {bank: hashlib.new(bank, data).digest() for bank in BANKS}


def image_facts(data: bytes, image: Pe) -> ImageFacts:
    """Give the digests of a program that was decoded from `data`."""
    return ImageFacts(file=digests(data), image=image_digests(data, image, BANKS))


def chains_to(chain: tuple[bytes, ...], authority: bytes) -> bool:
    """Tell whether a signature with the certificates `chain` is one that `authority` vouches for.

    Both are DER; a certificate that cannot be read vouches for nothing.
    """
    if len(authority) > _MAX_CERTIFICATE:
        return False
    return any(
        certificate == authority or _is_issuer(authority, certificate) for certificate in chain
    )


# Asked for each boot set, transport and drive of each verdict, mostly about the same few keys.
@lru_cache(maxsize=1024)
def _is_issuer(authority: bytes, certificate: bytes) -> bool:
    try:
        child = x509.load_der_x509_certificate(certificate)
        child.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def to_plain(value: Any) -> Any:
    """Turn a value of facts into JSON values; bytes become base64, mappings stay mappings."""
    match value:
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {key: to_plain(part) for key, part in value.items()}
        case tuple():
            return [to_plain(part) for part in value]
        case Enum():
            return value.value
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    return value


def read_bytes(value: Any) -> bytes:
    """Read base64; ValueError or TypeError on anything else, like all readers here."""
    return b64decode(value, validate=True)


def read_text(value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise TypeError
    return value


def read_digests(value: Any) -> dict[str, bytes]:
    """Read the digests of every bank."""
    found = {bank: read_bytes(value[bank]) for bank in BANKS}
    if len(value) != len(BANKS) or any(
        len(found[bank]) != hashlib.new(bank).digest_size for bank in BANKS
    ):
        raise ValueError
    return found


def read_image(value: Any) -> ImageFacts:
    """Read the digests of a program."""
    return ImageFacts(file=read_digests(value["file"]), image=read_digests(value["image"]))


def read_tuple(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Make a reader of lists out of the reader of one."""

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError
        return tuple(read(part) for part in value)

    return read_all


READ_SIGNERS = read_tuple(read_tuple(read_bytes))
