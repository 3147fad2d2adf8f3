"""The EK certificate: does a maker that this site trusts vouch for this endorsement key?

Anchors come from the site's directory alone; nothing is ever fetched. A TPM in software vouches
for nothing, so its CA is an anchor in a rehearsal only and its EK is refused everywhere else.
RFC 5280, 6.1; TCG EK Credential Profile 2.5, 3.2 (fields of an EK certificate).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attest.der import (
    Certificate,
    children,
    decode_certificate,
    directory_name,
    is_signed_by,
    oid_text,
    public_key,
    read,
    weak_signature,
)
from attest.errors import AttestSiteError, EvidenceError
from attest.reasons import Finding, Reason
from keys.tpm_public import PublicArea

MAX_DEPTH = 6
EK_USAGE = "2.23.133.8.1"
_BASIC, _KEY_USAGE, _EXTENDED, _SAN = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"
_POLICIES = "2.5.29.32"
_MAKER, _MODEL, _VERSION = "2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"
# RFC 5280, 4.2.1.3: bit numbers of KeyUsage.
_KEY_ENCIPHERMENT, _KEY_AGREEMENT, _CERT_SIGN = 2, 4, 5

# TCG TPM Vendor ID Registry 1.07: IBM (swtpm, in both spellings), Google, VMware, Amazon.
_VIRTUAL_MAKERS = frozenset({"id:00001014", "id:49424D00", "id:474F4F47", "id:564D5700"})
_VIRTUAL = re.compile(
    r"swtpm|vtpm|virtual|nitro ?tpm|simulat|emulat|qemu|vsphere|cloud_host|EK/AK CA", re.IGNORECASE
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The CA certificates that this site trusts for EKs."""

    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EkTrust:
    """What the certificates say about an EK; `findings` is empty when its chain holds.

    `chain` holds titles from the EK certificate to the anchor; `fingerprint` is that of the EK
    certificate (SHA-256 of the DER), None where none belongs to the key.
    """

    findings: tuple[Finding, ...]
    maker: str = ""
    model: str = ""
    version: str = ""
    chain: tuple[str, ...] = ()
    fingerprint: bytes | None = None
    workarounds: tuple[str, ...] = ()


def decode_anchors(files: Iterable[tuple[str, bytes]], *, rehearsal: bool) -> Anchors:
    """Read anchor files (PEM with any number of certificates, or one DER) given by name.

    AttestSiteError names the file that holds no certificate, an end entity, or the CA of a
    virtual TPM outside a rehearsal.
    """
    found: dict[bytes, Certificate] = {}
    for name, data in files:
        for certificate in _anchor_file(name, data):
            _check_anchor(name, certificate, rehearsal=rehearsal)
            found[certificate.fingerprint] = certificate
    return Anchors(certificates=tuple(found.values()))


def check_ek_certificate(
    chain: Iterable[bytes], anchors: Anchors, ek: PublicArea, now: float, *, rehearsal: bool
) -> EkTrust:
    """Judge an EK by the certificates of its box, as read from NV, in any order."""
    decoded, broken = _decode_all(chain)
    leaf = next((each for each in decoded if _holds(each, ek)), None)
    if leaf is None:
        return EkTrust(findings=(_no_leaf(decoded, broken),))
    findings = [Finding(reason=Reason.EK_CERT_INVALID, detail=text) for text in _leaf_faults(leaf)]
    maker, model, version = _description(leaf)
    if _is_virtual(leaf, maker, model) and not rehearsal:
        findings.append(Finding(reason=Reason.EK_VIRTUAL, detail=f"{maker} {model}"))
    path = _find_path(leaf, decoded, anchors)
    if path is None:
        issuer = dict(leaf.issuer).get("2.5.4.3", "")
        findings.append(Finding(reason=Reason.EK_UNKNOWN, detail=f"issued by {issuer!r}"))
    for certificate in path or (leaf,):
        if not certificate.not_before <= now <= certificate.not_after:
            findings.append(Finding(reason=Reason.EK_CERT_EXPIRED, detail=certificate.title))
    return EkTrust(
        findings=tuple(findings),
        maker=maker,
        model=model,
        version=version,
        chain=tuple(certificate.title for certificate in path or ()),
        fingerprint=leaf.fingerprint,
        workarounds=tuple(
            f"EK chain: {certificate.title} is signed with SHA-1"
            for certificate in (path or ())[:-1]
            if weak_signature(certificate)
        ),
    )


def _anchor_file(name: str, data: bytes) -> Iterator[Certificate]:
    try:
        blocks = [base64.b64decode(block) for block in _PEM.findall(data)]
    except ValueError:
        raise AttestSiteError(f"{name}: it holds damaged base64") from None
    if not blocks and b"-----" in data:
        raise AttestSiteError(f"{name}: there is no certificate in it")
    for block in blocks or [data]:
        try:
            certificate = decode_certificate(block)
            public_key(certificate)
        except EvidenceError as error:
            raise AttestSiteError(f"{name}: {error}") from None
        yield certificate


def _check_anchor(name: str, certificate: Certificate, *, rehearsal: bool) -> None:
    if not _is_ca(certificate):
        raise AttestSiteError(
            f"{name}: {certificate.title} is not a CA certificate, so it cannot be a trust anchor"
        )
    texts = [text for _, text in certificate.subject + certificate.issuer]
    if not rehearsal and any(_VIRTUAL.search(text) for text in texts):
        raise AttestSiteError(
            f"{name}: {certificate.title} vouches for TPMs in software;"
            " it may be a trust anchor in a rehearsal only: remove it"
        )


def _decode_all(chain: Iterable[bytes]) -> tuple[list[Certificate], list[str]]:
    decoded, broken = [], []
    for data in chain:
        try:
            decoded.append(decode_certificate(data))
        except EvidenceError as error:
            broken.append(str(error))
    return decoded, broken


def _holds(certificate: Certificate, ek: PublicArea) -> bool:
    """Compare numbers, so that an RSAES-OAEP or compressed encoding of the key is the same key."""
    try:
        key = public_key(certificate)
    except EvidenceError:
        return False
    wanted = ek.public_key()
    return type(key) is type(wanted) and key.public_numbers() == wanted.public_numbers()


def _no_leaf(decoded: list[Certificate], broken: list[str]) -> Finding:
    others = [certificate for certificate in decoded if not _is_ca(certificate)]
    if others:
        return Finding(reason=Reason.EK_CERT_MISMATCH, detail=others[0].title)
    if broken:
        return Finding(reason=Reason.EK_CERT_INVALID, detail=broken[0])
    return Finding(reason=Reason.EK_UNKNOWN, detail="the box has no EK certificate")


def _is_ca(certificate: Certificate) -> bool:
    extension = certificate.extensions.get(_BASIC)
    if extension is None:
        return False
    try:
        flags = list(children(read(extension.value).content))
    except EvidenceError:
        return False
    return bool(flags) and flags[0].tag == 1 and flags[0].content != b"\0"


def _path_length(certificate: Certificate) -> int:
    """Give how many further CA certificates may follow below this one."""
    extension = certificate.extensions.get(_BASIC)
    fields = list(children(read(extension.value).content)) if extension else []
    numbers = [field for field in fields if field.tag == 2]
    return int.from_bytes(numbers[0].content, "big") if numbers else MAX_DEPTH


def _usage(certificate: Certificate, bit: int) -> bool | None:
    """Tell whether a KeyUsage bit is set; None where there is no KeyUsage."""
    extension = certificate.extensions.get(_KEY_USAGE)
    if extension is None:
        return None
    try:
        bits = read(extension.value).content[1:]
    except EvidenceError:
        return False
    return bit < 8 * len(bits) and bool(bits[bit // 8] >> (7 - bit % 8) & 1)


def _extended(certificate: Certificate) -> frozenset[str] | None:
    extension = certificate.extensions.get(_EXTENDED)
    if extension is None:
        return None
    try:
        return frozenset(oid_text(item.content) for item in children(read(extension.value).content))
    except EvidenceError:
        return frozenset()


def _leaf_faults(leaf: Certificate) -> Iterator[str]:
    """Name what an EK certificate must have and this one has not (profile, 3.2)."""
    if _is_ca(leaf):
        yield "it is a CA certificate"
    if EK_USAGE not in (_extended(leaf) or frozenset()):
        yield "its extended key usage is not that of an EK"
    usages = [_usage(leaf, bit) for bit in (_KEY_ENCIPHERMENT, _KEY_AGREEMENT)]
    if None not in usages and not any(usages):
        yield "its key usage is not that of an EK"
    if not all(_description(leaf)):
        yield "it does not name maker, model and version of the TPM"
    yield from _critical_faults(leaf, frozenset({_BASIC, _KEY_USAGE, _EXTENDED, _SAN, _POLICIES}))


def _critical_faults(certificate: Certificate, known: frozenset[str]) -> Iterator[str]:
    for name, extension in certificate.extensions.items():
        if extension.critical and name not in known:
            yield f"{certificate.title} has the critical extension {name}, unknown here"


def _description(leaf: Certificate) -> tuple[str, str, str]:
    """Read TPM maker, model and version from the subject alternative name."""
    extension = leaf.extensions.get(_SAN)
    found: dict[str, str] = {}
    try:
        names = children(read(extension.value).content) if extension else iter(())
        for name in names:
            if name.tag == 0xA4:
                found.update(directory_name(read(name.content).content))
    except (EvidenceError, ValueError):
        return "", "", ""
    return found.get(_MAKER, ""), found.get(_MODEL, ""), found.get(_VERSION, "")


def _is_virtual(leaf: Certificate, maker: str, model: str) -> bool:
    if maker.lower() in {known.lower() for known in _VIRTUAL_MAKERS}:
        return True
    texts = [model, *(text for _, text in leaf.issuer)]
    return any(_VIRTUAL.search(text) for text in texts)


def _find_path(
    leaf: Certificate, sent: list[Certificate], anchors: Anchors
) -> tuple[Certificate, ...] | None:
    """Find a chain that holds from the leaf to an anchor; what the box sent is never an anchor."""
    between = [certificate for certificate in sent if _is_ca(certificate)]
    paths: list[tuple[Certificate, ...]] = [(leaf,)]
    for depth in range(MAX_DEPTH):
        longer: list[tuple[Certificate, ...]] = []
        for path in paths:
            for anchor in anchors.certificates:
                if _may_issue(anchor, path[-1], depth):
                    return (*path, anchor)
            longer += [
                (*path, issuer)
                for issuer in between
                if issuer not in path and _may_issue(issuer, path[-1], depth)
            ]
        paths = longer[:8]
    return None


def _may_issue(issuer: Certificate, certificate: Certificate, below: int) -> bool:
    """Check one step of a path; `below` is how many CA certificates lie under the issuer."""
    if issuer.subject != certificate.issuer:
        return False
    if _usage(issuer, _CERT_SIGN) is False or _path_length(issuer) < below:
        return False
    usages = _extended(issuer)
    if usages is not None and EK_USAGE not in usages:
        return False
    known = frozenset({_BASIC, _KEY_USAGE, _EXTENDED, _POLICIES, _SAN})
    if next(_critical_faults(issuer, known), None) is not None:
        return False
    return is_signed_by(certificate, issuer)
