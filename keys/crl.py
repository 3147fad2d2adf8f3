"""Lists of revoked certificates, as the site's authorities sign them (RFC 5280, 5).

Nothing of Doorstep asks them: a revoked box is refused by its EK. They are for other servers of the
site. Pure: number, time and key are arguments. Lists of TPM makers are read by `attest.crl`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from keys.ca import BACKDATED, CA_LIFETIME, Certificate, Issuer
from keys.errors import PeerError, SiteError

BOX_LIFETIME = timedelta(days=7)
ROOT_LIFETIME = CA_LIFETIME
"""The root is offline: its list holds as long as the longest intermediate that it signs."""

RevocationList = x509.CertificateRevocationList


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """One certificate that ended before its time."""

    serial: int
    at: datetime


def make(
    issuer: Issuer,
    revoked: Iterable[Revoked],
    *,
    number: int,
    now: datetime,
    lifetime: timedelta = BOX_LIFETIME,
) -> RevocationList:
    """Sign a list of an authority; `number` is higher than that of every list of it before.

    SiteError when the authority itself has ended.
    """
    end = min(now + lifetime, issuer.certificate.not_valid_after_utc)
    if end <= now:
        raise SiteError("the intermediate has ended: sign a new one with the site root")
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - BACKDATED)
        .next_update(end)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_key_of(issuer.certificate), critical=False)
    )
    for one in sorted(revoked, key=lambda one: one.serial):
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(one.at).build())
    return builder.sign(issuer.key, hashes.SHA256())


def load(text: str | bytes) -> RevocationList:
    """Read one list in PEM; PeerError otherwise."""
    data = text.encode() if isinstance(text, str) else text
    try:
        return x509.load_pem_x509_crl(data)
    except (ValueError, x509.InvalidVersion):
        raise PeerError("not a list of revoked certificates in PEM") from None


def check(found: RevocationList, issuer: Certificate, now: datetime) -> None:
    """Check a list that somebody brought; PeerError with a sentence when it is unfit."""
    check_signed(found, issuer)
    if not found.last_update_utc <= now < end(found):
        raise PeerError("the list of revoked certificates is not valid today")
    number(found)


def check_signed(found: RevocationList, issuer: Certificate) -> None:
    """Check that an authority signed a list; PeerError otherwise."""
    if not is_of(found, issuer):
        raise PeerError("the list of revoked certificates is not signed by the site root")


def is_of(found: RevocationList, issuer: Certificate) -> bool:
    """Say whether that very key of that name signed a list."""
    try:
        is_signed = found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return is_signed and found.issuer == issuer.subject


def number(found: RevocationList) -> int:
    """Give the number of a list; PeerError when it has none."""
    try:
        return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise PeerError("the list of revoked certificates has no number") from None


def begin(found: RevocationList) -> datetime:
    """Give the time at which a list was made."""
    return found.last_update_utc + BACKDATED


def end(found: RevocationList) -> datetime:
    """Give the time after which nobody believes a list; PeerError when it has none."""
    if found.next_update_utc is None:
        raise PeerError("the list of revoked certificates has no end")
    return found.next_update_utc


def renew_at(found: RevocationList) -> datetime:
    """Say when a list wants to be made again: at half of its life."""
    return begin(found) + (end(found) - begin(found)) / 2


def serials(found: RevocationList) -> frozenset[int]:
    """Give the serial numbers that a list names."""
    return frozenset(one.serial_number for one in found)


def pem(found: RevocationList) -> str:
    """Write a list as PEM."""
    return found.public_bytes(Encoding.PEM).decode()


def _key_of(certificate: Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
