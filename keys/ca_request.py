"""Requests for the certificates of a site's intermediates, and the names that they bear.

Pure. What is read here is checked for its own signature alone: `keys.ca.sign_intermediate` decides
whether it is answered. RFC 2986.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from keys import ca_proof
from keys.errors import PeerError

_OF_SITE = "Doorstep "
"""How the organization of every name of a site begins."""

PrivateKey = ec.EllipticCurvePrivateKey


class Kind(Enum):
    """The two intermediates of a site, and how their names end."""

    APPLIANCE = "appliance"
    BOX = "box"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a request for an intermediate asks for; `csr` is signed with `key`.

    `proof` is what a TPM says of the key (`keys.ca_proof`), as it came.
    """

    site: str
    kind: Kind
    appliance: str | None
    proof: bytes | None
    key: ec.EllipticCurvePublicKey
    csr: x509.CertificateSigningRequest


def make_request(
    key: PrivateKey,
    *,
    site_id: str,
    kind: Kind,
    appliance: str | None = None,
    proof: bytes | None = None,
) -> x509.CertificateSigningRequest:
    """Make the request that the offline root answers with `sign_intermediate`.

    `appliance` is the fingerprint of the TPM that holds the key: two appliances of one site, or one
    after the other, are two authorities, and no list of one revokes for the other. `proof` is what
    that TPM says of the key.
    """
    name = site_name(site_id, f"{kind.value} CA", appliance)
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if proof is not None:
        builder = builder.add_attribute(ca_proof.ATTRIBUTE, proof)
    return builder.sign(key, hashes.SHA256())


def read_request(text: str | bytes) -> Request:
    """Read a request and check its own signature; PeerError with a sentence otherwise."""
    data = text.encode() if isinstance(text, str) else text
    try:
        found = x509.load_pem_x509_csr(data)
    except (ValueError, x509.InvalidVersion):
        raise PeerError("not a certificate request in PEM") from None
    return request_of(found)


def request_of(csr: x509.CertificateSigningRequest) -> Request:
    """Take a request apart and check its own signature; PeerError otherwise."""
    try:
        key, is_signed = csr.public_key(), csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise PeerError("the request names a key of an unknown kind") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PeerError("the keys of a site are on the curve P-256: this request names another")
    if not is_signed:
        raise PeerError("the request is not signed with the key that it names: it was changed")
    return Request(
        site=site_in(csr.subject, "the request"),
        kind=kind_in(csr.subject, "the request"),
        appliance=_part(csr.subject, NameOID.SERIAL_NUMBER),
        proof=_proof(csr),
        key=key,
        csr=csr,
    )


def _proof(csr: x509.CertificateSigningRequest) -> bytes | None:
    try:
        return csr.attributes.get_attribute_for_oid(ca_proof.ATTRIBUTE).value
    except x509.AttributeNotFound:
        return None
    except ValueError:
        raise PeerError("the request's word of a TPM is damaged") from None


def site_in(subject: x509.Name, what: str) -> str:
    """Say which site a name is of; PeerError calls it `what`."""
    unit = _part(subject, NameOID.ORGANIZATION_NAME) or ""
    if not unit.startswith(_OF_SITE):
        raise PeerError(f"{what} names no site")
    return unit.removeprefix(_OF_SITE)


def kind_in(subject: x509.Name, what: str) -> Kind:
    """Say which intermediate a name is of; PeerError calls it `what`."""
    name = _part(subject, NameOID.COMMON_NAME)
    for kind in Kind:
        if name == f"{kind.value} CA":
            return kind
    raise PeerError(f"{what} is for neither the appliance CA nor the box CA")


def _part(subject: x509.Name, what: ObjectIdentifier) -> str | None:
    found = subject.get_attributes_for_oid(what)
    return str(found[0].value) if len(found) == 1 else None


def site_name(site_id: str, what: str, serial: str | None = None) -> x509.Name:
    """Name something of a site."""
    parts = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{_OF_SITE}{site_id}"),
        x509.NameAttribute(NameOID.COMMON_NAME, what),
    ]
    if serial is not None:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(parts)
