"""The signature under a site's answer: a chain of three certificates and ECDSA P-256.

Only the root of the anchor is trusted. Dates are ignored on purpose: the box's clock is not trusted
and freshness is the challenge's. docs/phone-home-v1.md, "The answer"; RFC 5280.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import ObjectIdentifier

from bootstrap.agent.errors import Code, PeerError

ANSWER_SIGNING = ObjectIdentifier("2.25.112558911838470021783907741235113412353")


def check_signed(root: bytes, chain: list[bytes], message: bytes, signature: bytes) -> None:
    """Check chain (leaf, intermediate; DER) and signature (r‖s) over `message`; PeerError."""
    if len(chain) != 2:
        raise _chain("the chain of the answer has not two certificates")
    try:
        leaf, middle = (x509.load_der_x509_certificate(one) for one in chain)
        anchor = x509.load_der_x509_certificate(root)
        middle.verify_directly_issued_by(anchor)
        leaf.verify_directly_issued_by(middle)
    except (ValueError, TypeError, InvalidSignature):
        raise _chain("the chain of the answer does not end in the root of this site") from None
    _check_authority(middle)
    _check_leaf(leaf)
    if not verify_pair(leaf.public_key(), message, signature):
        raise PeerError(Code.ANSWER_SIGNATURE, "the signature of the answer is wrong")


def verify_pair(key: Any, message: bytes, signature: bytes) -> bool:
    """Verify r‖s by a P-256 key with SHA-256 over a message."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        return False
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def leaf_key(chain_pem: bytes) -> Any:
    """Give the public key of the first certificate of a PEM chain; PeerError HANDOFF."""
    try:
        return x509.load_pem_x509_certificates(chain_pem)[0].public_key()
    except (ValueError, IndexError):
        raise PeerError(Code.HANDOFF, "the identity in the hand-off is no certificate") from None


def _check_authority(middle: x509.Certificate) -> None:
    basic = _extension(middle, x509.BasicConstraints)
    usage = _extension(middle, x509.KeyUsage)
    if not basic.ca or not usage.key_cert_sign:
        raise _chain("the intermediate of the answer may not sign certificates")
    if ANSWER_SIGNING not in _extension(middle, x509.ExtendedKeyUsage):
        raise _chain("the intermediate of the answer is not the one for answers")


def _check_leaf(leaf: x509.Certificate) -> None:
    basic = _extension(leaf, x509.BasicConstraints)
    if basic.ca or not _extension(leaf, x509.KeyUsage).digital_signature:
        raise _chain("the certificate of the answer is not for signatures")
    if list(_extension(leaf, x509.ExtendedKeyUsage)) != [ANSWER_SIGNING]:
        raise _chain("the certificate of the answer is not for answers")


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise _chain(f"a certificate of the answer has no {kind.__name__}") from None


def _chain(sentence: str) -> PeerError:
    return PeerError(Code.ANSWER_CHAIN, sentence)
