"""The certificates of a site: offline root, appliance CA, box CA and what they issue.

The root signs two intermediates that one appliance keeps: `appliance` (TLS server, answer
signing) and `box` (TLS client). Pure: times, serial numbers and keys are arguments. It never
stores a key and never decides who may have a certificate. RFC 5280; the answer-signing usage is
that of docs/phone-home-v1.md, "The answer".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from keys.ca_request import Kind as Kind
from keys.ca_request import PrivateKey as PrivateKey
from keys.ca_request import Request as Request
from keys.ca_request import kind_in, request_of, site_in, site_name
from keys.ca_request import make_request as make_request
from keys.ca_request import read_request as read_request
from keys.errors import PeerError, SiteError

ANSWER_SIGNING = ObjectIdentifier("2.25.112558911838470021783907741235113412353")
ROOT_LIFETIME = timedelta(days=20 * 365)
CA_LIFETIME = timedelta(days=5 * 365)
SERVER_LIFETIME = timedelta(days=90)
ANSWER_LIFETIME = timedelta(days=90)
BACKDATED = timedelta(hours=1)
"""Certificates begin this much before they are made: the clock of the other side may be behind."""

Certificate = x509.Certificate
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


USAGES = {
    Kind.APPLIANCE: (ExtendedKeyUsageOID.SERVER_AUTH, ANSWER_SIGNING),
    Kind.BOX: (ExtendedKeyUsageOID.CLIENT_AUTH,),
}
"""Extended key usages of an intermediate; what it issues can have no other (RFC 5280, 4.2.1.12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What one certificate takes from outside: its serial number and its time."""

    serial: int
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A CA certificate with its key."""

    certificate: Certificate
    key: PrivateKey


def make_root(
    key: PrivateKey,
    *,
    site_id: str,
    domain: str,
    networks: Sequence[IPv4Network | IPv6Network],
    issue: Issue,
) -> Certificate:
    """Make the site root; it can vouch for names in `domain` and addresses in `networks` only."""
    name = site_name(site_id, "site root")
    permitted: list[x509.GeneralName] = [x509.DNSName(domain)]
    permitted += [x509.IPAddress(network) for network in networks]
    builder = _builder(name, name, key.public_key(), issue, issue.now + ROOT_LIFETIME)
    builder = _authority(builder, key.public_key(), path_length=1)
    constraints = x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)
    return builder.add_extension(constraints, critical=True).sign(key, hashes.SHA256())


def sign_intermediate(
    root: Issuer,
    request: x509.CertificateSigningRequest,
    *,
    kind: Kind,
    issue: Issue,
    lifetime: timedelta = CA_LIFETIME,
) -> Certificate:
    """Answer a request as the offline root; name and key come from it, nothing else does.

    PeerError when it is for another site or kind, or not signed with its own P-256 key.
    """
    asked, site = request_of(request), site_of(root.certificate)
    if asked.site != site:
        raise PeerError(f"the request is for the site {asked.site!r}, this root is of {site!r}")
    if asked.kind is not kind:
        raise PeerError(f"the request is for the {asked.kind.value} CA, not the {kind.value} CA")
    if issue.now >= root.certificate.not_valid_after_utc:
        raise PeerError("the site root has ended")
    key, end = asked.key, min(issue.now + lifetime, root.certificate.not_valid_after_utc)
    builder = _builder(request.subject, root.certificate.subject, key, issue, end)
    builder = _authority(builder, key, path_length=0)
    builder = builder.add_extension(x509.ExtendedKeyUsage(USAGES[kind]), critical=False)
    builder = builder.add_extension(_key_of(root.certificate), critical=False)
    if kind is Kind.BOX:
        builder = builder.add_extension(_no_server_names(), critical=True)
    return builder.sign(root.key, hashes.SHA256())


def check_intermediate(
    certificate: Certificate,
    *,
    root: Certificate,
    key: ec.EllipticCurvePublicKey,
    kind: Kind,
    now: datetime,
) -> None:
    """Check what came back for a request of ours; PeerError with a sentence when it is unfit."""
    _check_signed(certificate, root)
    if certificate.public_key() != key:
        raise PeerError(f"the {kind.value} certificate is for another key than the one requested")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise PeerError(f"the {kind.value} certificate is not valid today")
    _check_authority(certificate, kind)
    if not now < root.not_valid_after_utc:
        raise PeerError("the site root has ended")


def kind_of(certificate: Certificate) -> Kind:
    """Say which intermediate a certificate calls itself; PeerError when it is none."""
    return kind_in(certificate.subject, "the certificate")


def site_of(certificate: Certificate) -> str:
    """Say which site a root or an intermediate is of; PeerError when it is of none."""
    return site_in(certificate.subject, "the certificate")


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Name a key, to be read out: half of the SHA-256 of its SubjectPublicKeyInfo, in groups."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return grouped(hashlib.sha256(spki).digest()[:16].hex())


def grouped(text: str) -> str:
    """Write letters in groups of four, to be read out."""
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Say whether that very key signed it, and it does not outlive its issuer."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return certificate.not_valid_after_utc <= issuer.not_valid_after_utc


def check_root(root: Certificate) -> None:
    """Check that a certificate can be a site root: self-signed CA with name constraints."""
    _check_signed(root, root)
    if not _extension(root, x509.BasicConstraints, "site root").ca:
        raise PeerError("the site root is no CA")
    constraints = _extension(root, x509.NameConstraints, "site root")
    if not constraints.permitted_subtrees:
        raise PeerError("the site root does not say which names it may vouch for")


def may_vouch(root: Certificate, address: IPv4Address | IPv6Address) -> bool:
    """Tell whether a root vouches for an address.

    One address in a certificate that it does not vouch for makes the whole certificate worthless
    (RFC 5280, 4.2.1.10), for IPv6 too where it permits IPv4 networks alone.
    """
    constraints = _extension(root, x509.NameConstraints, "site root")
    return any(
        isinstance(one.value, IPv4Network | IPv6Network) and address in one.value
        for one in constraints.permitted_subtrees or ()
    )


def issue_server(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    *,
    names: Sequence[str],
    addresses: Sequence[IPv4Address | IPv6Address],
    issue: Issue,
) -> Certificate:
    """Issue the TLS server certificate of the appliance; the first name is its common name."""
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(address) for address in addresses]
    builder = _leaf(issuer, _common_name(names[0]), key, issue, issue.now + SERVER_LIFETIME)
    builder = _use(builder, ExtendedKeyUsageOID.SERVER_AUTH)
    names_extension = x509.SubjectAlternativeName(alternatives)
    return builder.add_extension(names_extension, critical=False).sign(issuer.key, hashes.SHA256())


def issue_answer_leaf(
    issuer: Issuer, key: ec.EllipticCurvePublicKey, *, site_id: str, issue: Issue
) -> Certificate:
    """Issue the certificate of the key that signs answers; it serves for nothing else."""
    subject = site_name(site_id, "answers")
    builder = _leaf(issuer, subject, key, issue, issue.now + ANSWER_LIFETIME)
    return _use(builder, ANSWER_SIGNING).sign(issuer.key, hashes.SHA256())


def issue_box(
    issuer: Issuer,
    key: ec.EllipticCurvePublicKey,
    *,
    site_id: str,
    pseudonym: str,
    lifetime: timedelta,
    issue: Issue,
) -> Certificate:
    """Issue the client certificate of a box for its TPM-resident device key.

    It names the pseudonym of the box at this site and nothing that a server could be called.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise PeerError("a device key is on the curve P-256")
    builder = _leaf(issuer, _common_name(pseudonym), key, issue, issue.now + lifetime)
    builder = _use(builder, ExtendedKeyUsageOID.CLIENT_AUTH)
    uri = x509.UniformResourceIdentifier(f"urn:doorstep:{site_id}:box:{pseudonym}")
    alternative = x509.SubjectAlternativeName([uri])
    return builder.add_extension(alternative, critical=False).sign(issuer.key, hashes.SHA256())


def pseudonym(key: bytes, box: UUID) -> str:
    """Name a box for one site; two sites, or two owners, cannot tell that it is the same box."""
    return hmac.digest(key, b"doorstep/v1/pseudonym\0" + box.bytes, "sha256")[:16].hex()


def pem(certificates: Sequence[Certificate]) -> str:
    """Write certificates one after the other, leaf first."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates).decode()


def load_certificate(text: str | bytes) -> Certificate:
    """Read the one certificate of a PEM text; PeerError when there is none or more."""
    data = text.encode() if isinstance(text, str) else text
    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        raise PeerError("not a PEM certificate") from None
    if len(found) != 1:
        raise PeerError("exactly one certificate is expected")
    return found[0]


def renew_at(certificate: Certificate) -> datetime:
    """Say when a certificate wants to be issued again: at two thirds of its life."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def at(seconds: float) -> datetime:
    """Give a unix time as certificates have it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issue: Issue,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(issue.serial)
        .not_valid_before(issue.now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, *, path_length: int
) -> x509.CertificateBuilder:
    if not isinstance(key.curve, ec.SECP256R1):
        raise PeerError("the keys of a site are on the curve P-256")
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(
        _key_usage(certificates=True), critical=True
    )


def _leaf(
    issuer: Issuer,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issue: Issue,
    end: datetime,
) -> x509.CertificateBuilder:
    end = min(end, issuer.certificate.not_valid_after_utc)
    if end <= issue.now:
        raise SiteError("the intermediate has ended: sign a new one with the site root")
    builder = _builder(subject, issuer.certificate.subject, key, issue, end)
    none = x509.BasicConstraints(ca=False, path_length=None)
    return builder.add_extension(none, critical=True).add_extension(
        _key_of(issuer.certificate), critical=False
    )


def _use(builder: x509.CertificateBuilder, usage: ObjectIdentifier) -> x509.CertificateBuilder:
    usages = x509.ExtendedKeyUsage([usage])
    return builder.add_extension(usages, critical=False).add_extension(
        _key_usage(certificates=False), critical=True
    )


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _no_server_names() -> x509.NameConstraints:
    every = (
        x509.DNSName(""),
        x509.IPAddress(IPv4Network("0.0.0.0/0")),
        x509.IPAddress(IPv6Network("::/0")),
    )
    return x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=every)


def _check_signed(certificate: Certificate, root: Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        raise PeerError("not signed by the site root") from None


def _check_authority(certificate: Certificate, kind: Kind) -> None:
    what = f"{kind.value} certificate"
    basic = _extension(certificate, x509.BasicConstraints, what)
    if basic.path_length != 0:  # only a CA can have one (RFC 5280, 4.2.1.9)
        raise PeerError(f"the {what} must be a CA with path length 0")
    usage = _extension(certificate, x509.KeyUsage, what)
    if not usage.key_cert_sign or not usage.crl_sign:
        raise PeerError(f"the {what} may not sign certificates and their revocation")
    if usage != _key_usage(certificates=True):
        raise PeerError(f"the {what} has more key usages than its kind")
    if set(_extension(certificate, x509.ExtendedKeyUsage, what)) != set(USAGES[kind]):
        raise PeerError(f"the {what} has not the extended key usages of its kind")
    if kind is Kind.BOX and _extension(certificate, x509.NameConstraints, what) != (
        _no_server_names()
    ):
        raise PeerError("the box certificate must exclude every server name")


def _extension(certificate: Certificate, kind: type[_Extension], what: str) -> _Extension:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise PeerError(f"the {what} has no {kind.__name__}") from None


def _key_of(certificate: Certificate) -> x509.AuthorityKeyIdentifier:
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])
