"""The trust anchors of a site: CA certificates of TPM makers, and their revocation lists.

Files are told apart by what is in them: PEM with any number of blocks, DER one after another, or
PKCS #7 that only carries certificates (RFC 2315, 9.1). It never reads a file (see
`attest.io.trust`) and never fetches one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from attest.asn1 import OID, SEQUENCE, Name, children, header, oid_text, read
from attest.crl import Crl, decode_crl, is_crl, is_list_of
from attest.der import Certificate, decode_certificate, public_key
from attest.errors import AttestSiteError, EvidenceError
from attest.usage import DIGITAL_SIGNATURE, is_ca, usage

MAX_BLOCKS = 4096
VIRTUAL = re.compile(
    r"swtpm|vtpm|virtual|nitro ?tpm|simulat|emulat|qemu|vsphere|cloud_host|EK/AK CA", re.IGNORECASE
)
"""Words in the names of CAs and models of TPMs in software."""
_PEM = re.compile(
    rb"-----BEGIN (CERTIFICATE|X509 CERTIFICATE|X509 CRL|PKCS7)-----"
    rb"([A-Za-z0-9+/=\s]+)-----END \1-----"
)
_SIGNED_DATA = "1.2.840.113549.1.7.2"

Part = Certificate | Crl


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The CA certificates that this site trusts for EKs, and the revocation lists it has."""

    certificates: tuple[Certificate, ...]
    crls: tuple[Crl, ...] = ()


def decode_anchors(
    files: Iterable[tuple[str, bytes]], *, rehearsal: bool, platform: bool = False
) -> Anchors:
    """Read anchor files (PEM with any number of parts, or DER) given by name.

    `platform`: they are for platform certificates, not for EKs.

    AttestSiteError names the file that holds nothing of use, an end entity, the CA of a virtual
    TPM outside a rehearsal, or a revocation list that its CA did not sign.
    """
    found: dict[bytes, Certificate] = {}
    lists: dict[bytes, tuple[str, Crl]] = {}
    for name, data in files:
        for part in _checked_parts(name, data, rehearsal, platform):
            if isinstance(part, Crl):
                lists[part.der] = (name, part)
            else:
                found[part.der] = part
    for name, crl in lists.values():
        check_list(name, crl, found.values())
    return Anchors(certificates=tuple(found.values()), crls=tuple(crl for _, crl in lists.values()))


def check_anchor(
    name: str, certificate: Certificate, *, rehearsal: bool, platform: bool = False
) -> None:
    """Check that a certificate may be an anchor; AttestSiteError says why not.

    A maker of machines may sign with a certificate that is no CA (RFC 5755, 4.5).
    """
    try:
        public_key(certificate)
    except EvidenceError as error:
        raise AttestSiteError(f"{name}: {error}") from None
    signs = platform and usage(certificate, DIGITAL_SIGNATURE) is True
    if not is_ca(certificate) and not signs:
        raise AttestSiteError(
            f"{name}: {certificate.title} is not a CA certificate, so it cannot be a trust anchor"
        )
    if is_virtual_ca(certificate) and not rehearsal:
        raise AttestSiteError(
            f"{name}: {certificate.title} vouches for TPMs in software;"
            " it may be a trust anchor in a rehearsal only: remove it"
        )


def is_virtual_ca(certificate: Certificate) -> bool:
    """Tell whether the names of a CA say that it vouches for TPMs in software."""
    return is_virtual_name(certificate.subject + certificate.issuer)


@lru_cache(maxsize=256)
def is_virtual_name(name: Name) -> bool:
    """Tell whether a name says that it is of TPMs in software."""
    return any(VIRTUAL.search(text) for _, text in name)


def check_list(name: str, crl: Crl, certificates: Iterable[Certificate]) -> bool:
    """Check a list against the CA of its name; False where that is not known here.

    AttestSiteError when the CA is known and did not sign it: somebody made it up, or it is broken.
    """
    issuers = [each for each in certificates if each.subject == crl.issuer]
    if issuers and not any(is_list_of(crl, issuer) for issuer in issuers):
        raise AttestSiteError(
            f"{name}: the revocation list of {crl.title} is not signed by that CA:"
            " get it again from the maker"
        )
    return bool(issuers)


@lru_cache(maxsize=1024)
def decode_parts(name: str, data: bytes) -> tuple[Part, ...]:
    """Read all certificates and lists of a file; AttestSiteError names it."""
    try:
        parts = tuple(_decode(block) for block in _blocks(data))
    except EvidenceError as error:
        raise AttestSiteError(f"{name}: {error}") from None
    except ValueError:
        raise AttestSiteError(f"{name}: it holds damaged base64") from None
    if not parts:
        raise AttestSiteError(f"{name}: there is no certificate in it")
    return parts


# A site decodes the same files for each verdict.
@lru_cache(maxsize=1024)
def _checked_parts(name: str, data: bytes, rehearsal: bool, platform: bool) -> tuple[Part, ...]:
    parts = decode_parts(name, data)
    for part in parts:
        if isinstance(part, Certificate):
            check_anchor(name, part, rehearsal=rehearsal, platform=platform)
    return parts


def _decode(block: bytes) -> Part:
    return decode_crl(block) if is_crl(block) else decode_certificate(block)


def _blocks(data: bytes) -> Iterator[bytes]:
    pem = _PEM.findall(data)
    if len(pem) > MAX_BLOCKS:
        raise EvidenceError("it holds too many certificates")
    if b"-----BEGIN" in data and not pem:
        return
    for _, block in pem:
        yield from _elements(base64.b64decode(block, validate=False))
    if not pem:
        yield from _elements(data)


def _elements(data: bytes) -> Iterator[bytes]:
    """Split DER that lies one after another; what follows the last one is padding."""
    offset, count = 0, 0
    while not count or data[offset : offset + 1] == b"\x30":
        if count == MAX_BLOCKS:
            raise EvidenceError("it holds too many certificates")
        tag, _, end = header(data, offset)
        if tag != SEQUENCE:
            # A padded or stored certificate, or none: its own decoder says which.
            yield data[offset:]
            return
        element = data[offset:end]
        yield from _carried(element) if _is_signed_data(element) else (element,)
        offset, count = end, count + 1


def _is_signed_data(element: bytes) -> bool:
    content = read(element).content
    if content[:1] != bytes([OID]):
        return False
    return oid_text(read(content).content) == _SIGNED_DATA


def _carried(element: bytes) -> Iterator[bytes]:
    """Give certificates [0] and lists [1] of SignedData; nobody's signature is looked at."""
    _kind, *content = children(read(element).content)
    for part in content:
        for field in children(read(part.content).content):
            if field.tag in (0xA0, 0xA1):
                yield from (carried.raw for carried in children(field.content))
