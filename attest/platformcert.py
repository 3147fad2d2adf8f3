"""Platform certificates: what a maker of machines says is in the machine around a TPM.

An attribute certificate whose holder is the EK certificate, as in NV index 0x01C08000 or a file;
or, as swtpm makes it, a certificate over the EK itself. What it lists are the maker's words at the
time of delivery: facts to compare, never a proof of what is in the machine now.
TCG Platform Certificate Profile 1.1, 3.1 and 3.2; RFC 5755, 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from attest.anchors import Anchors
from attest.asn1 import (
    SEQUENCE,
    Element,
    Name,
    bits,
    children,
    directory_name,
    oid_text,
    read,
    serial_number,
    time,
)
from attest.chain import expired, find_path
from attest.crl import check_revocation, is_list_of
from attest.der import (
    Certificate,
    Extension,
    decode_certificate,
    decode_extensions,
    public_key,
)
from attest.errors import EvidenceError
from attest.platformfacts import PlatformFacts, decode_facts
from attest.reasons import Finding, Reason
from attest.usage import (
    ANY_USAGE,
    CERT_SIGN,
    DIGITAL_SIGNATURE,
    SAN,
    UNDERSTOOD,
    extended,
    general_names,
    usage,
)
from attest.x509keys import decode_spki, verifies

__all__ = [
    "PlatformCertificate",
    "PlatformFacts",
    "PlatformTrust",
    "check_platform_certificate",
    "decode_platform_certificate",
    "is_platform_certificate",
]

MAX_PLATFORM = 1 << 16
PLATFORM_USAGE = "2.23.133.8.2"
_USAGES = frozenset({PLATFORM_USAGE, "2.23.133.8.4", ANY_USAGE})
_DELTAS = frozenset({"2.23.133.8.5", "2.23.133.8.6"})
_CREDENTIAL_TYPE = "2.23.133.2.25"
_DIRECTORY_ATTRIBUTES = "2.5.29.9"
_NO_REVOCATION = "2.5.29.56"
_VERSION_2 = b"\2\1\1"
_STORED = b"\x10\x01\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformCertificate:
    """A decoded platform certificate; `holder` names the EK certificate, `key` is the EK itself.

    One of the two is None. Times in unix seconds.
    """

    facts: PlatformFacts
    holder: tuple[Name, int] | None
    key: bytes | None
    issuer: Name
    serial: int
    not_before: int
    not_after: int
    delta: bool
    extensions: Mapping[str, Extension]
    tbs: bytes
    algorithm: str
    parameters: bytes
    signature: bytes
    der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformTrust:
    """Facts, and why they may not be believed; `chain` has titles from the signer to an anchor."""

    facts: PlatformFacts | None
    findings: tuple[Finding, ...]
    chain: tuple[str, ...] = ()
    fingerprint: bytes | None = None


def check_platform_certificate(
    data: bytes,
    ek_certificate: Certificate,
    anchors: Anchors,
    now: float,
    *,
    sent: Sequence[Certificate] = (),
) -> PlatformTrust:
    """Judge a platform certificate beside the EK certificate of the same box.

    `anchors` are those for makers of machines; `sent` what came along, which is never an anchor.
    """
    try:
        found = decode_platform_certificate(data)
    except EvidenceError as error:
        return PlatformTrust(facts=None, findings=_findings([str(error)]))
    path = _find_signer(found, anchors, sent, now)
    told = [*_faults(found, ek_certificate, now), *_path_faults(found, path, anchors, now)]
    return PlatformTrust(
        facts=found.facts,
        findings=_findings(told),
        chain=tuple(each.title for each in path),
        fingerprint=hashlib.sha256(found.der).digest(),
    )


def decode_platform_certificate(stored: bytes) -> PlatformCertificate:
    """Read a platform certificate as it is stored; EvidenceError when it is none."""
    element = read(stored, 7 if stored.startswith(_STORED) else 0)
    if element.tag != SEQUENCE or len(element.raw) > MAX_PLATFORM:
        raise EvidenceError("there is no platform certificate")
    first = read(read(element.content).content)
    try:
        # AttCertVersion is a bare number; a certificate's version is tagged.
        if first.raw == _VERSION_2:
            return _decode_attributes(element)
        return _decode_key_form(decode_certificate(element.raw))
    except (ValueError, IndexError):
        raise EvidenceError("a platform certificate has not the shape of one") from None


def is_platform_certificate(stored: bytes) -> bool:
    """Tell whether stored bytes are a platform certificate of either form."""
    try:
        decode_platform_certificate(stored)
    except EvidenceError:
        return False
    return True


def _decode_attributes(whole: Element) -> PlatformCertificate:
    """Read an AttributeCertificate (RFC 5755, 4.1)."""
    tbs, algorithm, signature = children(whole.content)
    _version, holder, issuer, inner, serial, validity, attributes, *rest = children(tbs.content)
    if inner.raw != algorithm.raw:
        raise EvidenceError("a platform certificate names two signature algorithms")
    before, after = children(validity.content)
    parts = list(children(algorithm.content))
    extensions = decode_extensions(
        next((part.content for part in rest if part.tag == SEQUENCE), b"")
    )
    values = dict(_attributes(attributes.content))
    san = extensions.get(SAN)
    return PlatformCertificate(
        facts=decode_facts(general_names(san.value) if san else {}, values),
        holder=_holder(holder),
        key=None,
        issuer=_issuer(issuer),
        serial=serial_number(serial),
        not_before=time(before),
        not_after=time(after),
        delta=_is_delta(values),
        extensions=extensions,
        tbs=tbs.raw,
        algorithm=oid_text(parts[0].content),
        parameters=parts[1].raw if len(parts) > 1 else b"",
        signature=bits(signature),
        der=whole.raw,
    )


def _decode_key_form(certificate: Certificate) -> PlatformCertificate:
    usages = extended(certificate) or frozenset()
    if not usages & (_USAGES | _DELTAS) - {ANY_USAGE}:
        raise EvidenceError("a certificate is none of a platform")
    directory = certificate.extensions.get(_DIRECTORY_ATTRIBUTES)
    values = dict(_attributes(read(directory.value).content)) if directory else {}
    san = certificate.extensions.get(SAN)
    return PlatformCertificate(
        facts=decode_facts(general_names(san.value) if san else {}, values),
        holder=None,
        key=certificate.spki,
        issuer=certificate.issuer,
        serial=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        delta=bool(usages & _DELTAS),
        extensions=certificate.extensions,
        tbs=certificate.tbs,
        algorithm=certificate.algorithm,
        parameters=certificate.parameters,
        signature=certificate.signature,
        der=certificate.der,
    )


def _holder(element: Element) -> tuple[Name, int] | None:
    """Read baseCertificateID [0]: IssuerSerial of the EK certificate (profile 1.1, 3.1.3)."""
    for part in children(element.content):
        if part.tag == 0xA0:
            names, serial, *_ = children(part.content)
            return _directory(names.content), serial_number(serial)
    return None


def _issuer(element: Element) -> Name:
    """Read AttCertIssuer: V2Form with the issuer's name (RFC 5755, 4.2.3 wants no other)."""
    for part in children(element.content):
        return _directory(part.content)
    return ()


def _directory(general: bytes) -> Name:
    for name in children(general):
        if name.tag == 0xA4:
            return directory_name(read(name.content).content)
    return ()


def _attributes(content: bytes) -> Iterator[tuple[str, Element]]:
    for attribute in children(content):
        identifier, values = children(attribute.content)
        if values.content:
            yield oid_text(identifier.content), read(values.content)


def _is_delta(values: Mapping[str, Element]) -> bool:
    kind = values.get(_CREDENTIAL_TYPE)
    if kind is None:
        return False
    return oid_text(read(kind.content).content) in _DELTAS


def _find_signer(
    found: PlatformCertificate, anchors: Anchors, sent: Sequence[Certificate], now: float
) -> tuple[Certificate, ...]:
    """Give the path from the signer to an anchor; empty where none holds.

    RFC 5755, 4.5 wants a signer that is no CA; makers use their CA too.
    """
    for signer in (*anchors.certificates, *sent):
        if signer.subject != found.issuer or not _may_sign(signer) or not _signed(found, signer):
            continue
        path = find_path(signer, sent, anchors.certificates, PLATFORM_USAGE, now)
        if path is None and signer in anchors.certificates:
            path = (signer,)
        if path is not None:
            return path
    return ()


def _may_sign(signer: Certificate) -> bool:
    usages = extended(signer)
    if usages is not None and not usages & _USAGES:
        return False
    return usage(signer, DIGITAL_SIGNATURE) is not False or usage(signer, CERT_SIGN) is True


def _signed(found: PlatformCertificate, signer: Certificate) -> bool:
    try:
        key = decode_spki(signer.spki)
    except EvidenceError:
        return False
    return verifies(key, found.algorithm, found.parameters, found.signature, found.tbs)


def _faults(found: PlatformCertificate, ek: Certificate, now: float) -> Iterator[str]:
    if not _is_of(found, ek):
        yield "it belongs to another EK certificate"
    if found.delta:
        yield "it only changes another platform certificate (delta): give the whole one"
    if not found.not_before <= now <= found.not_after:
        yield f"it is valid from {_day(found.not_before)} to {_day(found.not_after)}"
    if not (found.facts.manufacturer and found.facts.model and found.facts.version):
        yield "it does not name maker, model and version of the machine"
    for name, extension in found.extensions.items():
        if extension.critical and name not in UNDERSTOOD | {_NO_REVOCATION}:
            yield f"it has the critical extension {name}, unknown here"


def _is_of(found: PlatformCertificate, ek: Certificate) -> bool:
    if found.key is None:
        return found.holder == (ek.issuer, ek.serial)
    try:
        ours, theirs = decode_spki(found.key), public_key(ek)
    except EvidenceError:
        return False
    return ours.public_numbers() == theirs.public_numbers()


def _path_faults(
    found: PlatformCertificate, path: tuple[Certificate, ...], anchors: Anchors, now: float
) -> Iterator[str]:
    if not path:
        names = ", ".join(name for _, name in found.issuer)
        yield f"no maker of machines that this site trusts signed it; issued by {names!r}"
        return
    for each in expired(path, now):
        yield f"{each.title} is valid from {_day(each.not_before)} to {_day(each.not_after)}"
    if any(found.serial in crl.revoked for crl in anchors.crls if is_list_of(crl, path[0])):
        yield f"{path[0].title} revoked it"
    for finding in check_revocation(path, anchors.crls, now).findings:
        yield finding.detail


def _findings(told: Sequence[str]) -> tuple[Finding, ...]:
    return tuple(Finding(reason=Reason.PLATFORM_CERT, detail=detail) for detail in told)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
