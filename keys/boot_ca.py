"""The RSA authority that firmware trusts for HTTPS boot, and the form in which firmware takes it.

UEFI HTTP boot speaks TLS 1.2 with RSA certificates and knows no other root than those in its own
store: so it is a CA of its own, apart from the site root, and vouches for boot files alone, which
are no secret. Pure: times, serial numbers and keys are arguments. RFC 5280; UEFI, 32.4.1.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keys.ca import Certificate, Issue
from keys.errors import SiteError

CA_BITS, SERVER_BITS = 3072, 2048
CA_LIFETIME = timedelta(days=20 * 365)
SERVER_LIFETIME = timedelta(days=90)
BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""A box whose clock has lost its battery boots too; a date that early gives nobody anything."""
_CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
"""EFI_CERT_X509_GUID."""
_OWNER = uuid.UUID("0f7d5bd4-1b0f-4a8e-9d05-3f5b3f6d2c11")
"""Who put an entry into a firmware's store; ours."""
_HEADER = 16 + 3 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BootIssuer:
    """The CA's certificate with its key."""

    certificate: Certificate
    key: rsa.RSAPrivateKey


def make_boot_ca(key: rsa.RSAPrivateKey, *, site_id: str, issue: Issue) -> Certificate:
    """Make the certificate that goes into the firmware of boxes."""
    name = _name(site_id, "boot file CA")
    builder = _builder(name, name, key.public_key(), issue, issue.now + CA_LIFETIME)
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    builder = builder.add_extension(constraints, critical=True)
    return builder.add_extension(_usage(ca=True), critical=True).sign(key, hashes.SHA256())


def issue_boot_server(
    issuer: BootIssuer,
    key: rsa.RSAPublicKey,
    *,
    names: Sequence[str],
    addresses: Sequence[IPv4Address | IPv6Address],
    issue: Issue,
) -> Certificate:
    """Issue the certificate of the HTTPS boot server; the first name is its common name."""
    end = min(issue.now + SERVER_LIFETIME, issuer.certificate.not_valid_after_utc)
    if end <= issue.now:
        raise SiteError("the CA of HTTPS boot has ended: boxes need another one in their firmware")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, issuer.certificate.subject, key, issue, end)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(address) for address in addresses]
    own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (above, False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (_usage(ca=False), True),
        (x509.SubjectAlternativeName(alternatives), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer.key, hashes.SHA256())


def signature_list(certificate: Certificate) -> bytes:
    """Write a certificate as the one EFI_SIGNATURE_LIST that a firmware's TLS store takes."""
    data = _OWNER.bytes_le + certificate.public_bytes(Encoding.DER)
    sizes = (_HEADER + len(data), 0, len(data))
    return _CERT_X509.bytes_le + b"".join(size.to_bytes(4, "little") for size in sizes) + data


def _name(site_id: str, what: str) -> x509.Name:
    unit = x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"Doorstep {site_id}")
    return x509.Name([unit, x509.NameAttribute(NameOID.COMMON_NAME, what)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, issue: Issue, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(issue.serial)
        .not_valid_before(BEGIN)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    """Give a key's uses; a server's key deciphers too, where the firmware knows plain RSA alone."""
    return x509.KeyUsage(
        digital_signature=not ca,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
