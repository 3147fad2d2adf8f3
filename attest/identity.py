"""Whose evidence it is: EK, AK and device key, and the proof that one TPM holds them.

Without the EK's public area (evidence made elsewhere) it is computed from the EK certificate and
the TCG templates, and counts only where the signed qualifiedSigner fits. It never trusts a name.
TPM 2.0 Library, Part 1, 16 and 36.7; TCG EK Credential Profile 2.5, B.
"""

from __future__ import annotations

from dataclasses import dataclass

from attest.ak import check_under_ek, qualified_name_under_ek
from attest.certify import check_device_key
from attest.credential import decode_ak, decode_ek
from attest.der import decode_certificate
from attest.ekcert import EkTrust, check_ek_certificate
from attest.ektemplate import reconstruct_ek
from attest.errors import CheckError, EvidenceError
from attest.evidence import Evidence, Signed
from attest.expectation import Expectation
from attest.policy import Policy
from attest.quote import VerifiedQuote, check_quote, check_signed
from attest.reasons import Reason
from attest.transcript import device_data
from attest.wire import QuoteInfo, decode_attest
from keys.tpm_public import PublicArea


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The keys of a box; `eks` holds its EK, or what its certificates let it be, or nothing.

    `trust` is None where there was nothing to judge it by.
    """

    eks: tuple[PublicArea, ...]
    ak: PublicArea | None
    trust: EkTrust | None = None
    not_checked: tuple[str, ...] = ()


def check_identity(
    evidence: Evidence, expectation: Expectation, policy: Policy, now: float
) -> Identity:
    """Decode the keys and judge the EK certificate; CheckError for keys that cannot be."""
    missing: list[str] = []
    ek = None if evidence.ek_public is None else decode_ek(evidence.ek_public)[0]
    ak = None if evidence.ak_public is None else decode_ak(evidence.ak_public)
    eks = (ek,) if ek is not None else _guesses(evidence, ak)
    if ak is None:
        missing.append("the attestation key (ak.pub)")
    trust = None
    if not eks:
        missing.append("the endorsement key (ek.pub, ek*.crt)")
    elif expectation.anchors is None:
        missing.append("who vouches for the endorsement key (trust anchors)")
    else:
        trust = check_ek_certificate(
            evidence.ek_certificates,
            expectation.anchors,
            eks[0],
            now,
            rehearsal=policy.rehearsal,
            crl_max_age=policy.crl_max_age,
        )
    return Identity(eks=eks, ak=ak, trust=trust, not_checked=tuple(missing))


def _guesses(evidence: Evidence, ak: PublicArea | None) -> tuple[PublicArea, ...]:
    """Compute what EK each certificate could be for; one that cannot be read is for none.

    Where a quote names the EK that made its AK, it is that one alone: a good certificate of another
    TPM must not vouch for it.
    """
    found: list[PublicArea] = []
    for stored in evidence.ek_certificates:
        try:
            found += reconstruct_ek(decode_certificate(stored))
        except EvidenceError:
            continue
    if ak is None or not evidence.quotes:
        return tuple(found)
    try:
        signer = decode_attest(evidence.quotes[0].attest).qualified_signer
    except EvidenceError as error:
        raise CheckError(Reason.QUOTE_STRUCTURE, str(error)) from None
    named = [each for each in found if qualified_name_under_ek(each, ak) == signer]
    return tuple(named or found)


def check_quotes(evidence: Evidence, identity: Identity) -> tuple[VerifiedQuote, ...]:
    """Verify every quote and whose it is; CheckError otherwise.

    Without `evidence.nonce` a quote is taken for whatever it was made for: nobody may call that
    fresh (see `attest.appraise`).
    """
    if identity.ak is None or evidence.quotes is None:
        return ()
    if evidence.pcrs is None:
        for signed in evidence.quotes:
            _check_without_values(signed, evidence.nonce, identity, identity.ak)
        return ()
    quotes = tuple(
        check_quote(
            attest=signed.attest,
            signature=signed.signature,
            ak=identity.ak,
            extra_data=_nonce(evidence.nonce, signed.attest),
            values=evidence.pcrs,
            any_pcr=not evidence.is_whole,
        )
        for signed in evidence.quotes
    )
    for quote in quotes:
        _check_signer(quote.qualified_signer, identity, identity.ak)
    return quotes


def _check_without_values(
    signed: Signed, nonce: bytes | None, identity: Identity, ak: PublicArea
) -> None:
    """Check whose quote it is, and for what, where nobody kept the values it is over."""
    decoded = check_signed(signed.attest, signed.signature, ak)
    if not isinstance(decoded.attested, QuoteInfo):
        raise CheckError(Reason.QUOTE_STRUCTURE, "it is a certification, no quote")
    if nonce is not None and decoded.extra_data != nonce:
        raise CheckError(Reason.QUOTE_NONCE, "extraData differs")
    _check_signer(decoded.qualified_signer, identity, ak)


def _nonce(expected: bytes | None, attest: bytes) -> bytes:
    if expected is not None:
        return expected
    try:
        return decode_attest(attest).extra_data
    except EvidenceError as error:
        raise CheckError(Reason.QUOTE_STRUCTURE, str(error)) from None


def _check_signer(qualified_signer: bytes, identity: Identity, ak: PublicArea) -> None:
    if not identity.eks:
        return
    check_under_ek(qualified_signer, identity.eks[0], ak)


def check_device(
    device: Signed, public: bytes, nonce: bytes, ak: PublicArea, quote: VerifiedQuote
) -> None:
    """Check that the device key was certified by this AK in this boot; CheckError otherwise."""
    _, certified = check_device_key(
        public=public,
        attest=device.attest,
        signature=device.signature,
        ak=ak,
        extra_data=device_data(nonce),
    )
    ours, quoted = certified.clock, quote.clock
    if (ours.reset_count, ours.restart_count) != (quoted.reset_count, quoted.restart_count):
        raise CheckError(Reason.DEVICE_KEY, "it was certified in another boot")
