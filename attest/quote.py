"""A quote, verified: what a TPM signed about its PCRs, for this nonce, by this AK.

`check_quote` is the only maker of `VerifiedQuote`. PCR numbers come from the signed selection
alone; the list of values beside it only fills in what the signed digest then proves.
TPM 2.0 Library, Part 2, 10.12.1; Part 3, 18.4 (TPM2_Quote). CVE-2024-29038, CVE-2024-29039.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest.ak import ECDSA, RSAPSS, RSASSA
from attest.errors import CheckError, EvidenceError
from attest.reasons import Reason
from attest.replay import hash_of
from attest.wire import (
    Attest,
    BankSelection,
    ClockInfo,
    EcdsaSignature,
    QuoteInfo,
    RsaSignature,
    Signature,
    decode_attest,
    decode_signature,
)
from keys.errors import PeerError
from keys.tpm_public import DIGEST_SIZES, HASHES, KeyedHashPublic, PublicArea

Values = Mapping[str, Mapping[int, bytes]]
"""PCR values: bank name, then index."""

BOOT_PCRS = frozenset(range(16))
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ECDSA = {name: ec.ECDSA(algorithm) for name, algorithm in _HASHES.items()}
_MAKER = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """What is proved: `values` are those that the AK's TPM signed for this nonce."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    values: Values
    maker: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse to exist unless `check_quote` made it."""
        if self.maker is not _MAKER:
            raise TypeError("only check_quote makes a VerifiedQuote")


def check_quote(
    *,
    attest: bytes,
    signature: bytes,
    ak: PublicArea,
    extra_data: bytes,
    values: Values,
    selection: Mapping[str, frozenset[int]] | None = None,
    any_pcr: bool = False,
) -> VerifiedQuote:
    """Verify one quote over `values`; CheckError names what is wrong.

    `extra_data` is the whole expected nonce. `selection` is what was asked for; without it any
    choice among PCR 0 to 15 is taken (see `check_coverage`), with `any_pcr` among all.
    """
    decoded, hash_name = _check_signed(attest, signature, ak)
    quoted = decoded.attested
    if not isinstance(quoted, QuoteInfo):
        raise CheckError(Reason.QUOTE_STRUCTURE, "it is a certification, no quote")
    if not hmac.compare_digest(decoded.extra_data, extra_data):
        raise CheckError(Reason.QUOTE_NONCE, "extraData differs")
    _check_selection(quoted.selection, selection, any_pcr=any_pcr)
    proved = _check_digest(quoted, hash_name, values)
    return VerifiedQuote(
        qualified_signer=decoded.qualified_signer,
        extra_data=decoded.extra_data,
        clock=decoded.clock,
        firmware_version=decoded.firmware_version,
        values=proved,
        maker=_MAKER,
    )


def check_signed(attest: bytes, signature: bytes, ak: PublicArea) -> Attest:
    """Decode an attestation and verify its signature by `ak`; CheckError otherwise."""
    return _check_signed(attest, signature, ak)[0]


def _check_signed(attest: bytes, signature: bytes, ak: PublicArea) -> tuple[Attest, str]:
    """Give the attestation and the name of the hash of its signature."""
    try:
        decoded, signed = decode_attest(attest), decode_signature(signature)
    except EvidenceError as error:
        raise CheckError(Reason.QUOTE_STRUCTURE, str(error)) from None
    _check_signature(attest, signed, ak)
    return decoded, signed.hash_name


def check_coverage(quotes: tuple[VerifiedQuote, ...], banks: frozenset[str]) -> Values:
    """Join quotes that together hold PCR 0 to 15 of all `banks`, each once, of one boot."""
    joined = join_quotes(quotes)
    for bank in sorted(banks | joined.keys()):
        if joined.get(bank, {}).keys() != BOOT_PCRS:
            raise CheckError(Reason.QUOTE_SELECTION, f"{bank}: not PCR 0 to 15")
    return joined


def join_quotes(quotes: tuple[VerifiedQuote, ...]) -> Values:
    """Join quotes of one boot, whatever they hold, each PCR once; CheckError otherwise.

    Two quotes of one AK can come from two boots: counters must agree (a reset starts new PCRs).
    """
    boots = {(quote.clock.reset_count, quote.clock.restart_count) for quote in quotes}
    if len(boots) != 1:
        raise CheckError(Reason.QUOTE_STRUCTURE, "the quotes are of different boots, or none")
    joined: dict[str, dict[int, bytes]] = {}
    for quote in quotes:
        for bank, values in quote.values.items():
            known = joined.setdefault(bank, {})
            if known.keys() & values.keys():
                raise CheckError(Reason.QUOTE_SELECTION, f"{bank}: a PCR is quoted twice")
            known.update(values)
    return _frozen(joined)


def _check_signature(attest: bytes, signature: Signature, ak: PublicArea) -> None:
    if signature.hash_name not in _HASHES:
        raise CheckError(Reason.QUOTE_SIGNATURE, f"{signature.hash_name} is too weak to sign with")
    _check_scheme(signature, ak)
    try:
        key = ak.public_key()
    except PeerError as error:
        raise CheckError(Reason.AK_ATTRIBUTES, str(error)) from None
    algorithm = _HASHES[signature.hash_name]
    try:
        if isinstance(signature, EcdsaSignature) and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(_dss(signature, key), attest, _ECDSA[signature.hash_name])
        elif isinstance(signature, RsaSignature) and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature.signature, attest, _padding(signature, algorithm), algorithm)
        else:
            raise CheckError(Reason.QUOTE_SIGNATURE, "the signature is not of the key's kind")
    except InvalidSignature:
        raise CheckError(Reason.QUOTE_SIGNATURE, "it does not verify") from None


def _check_scheme(signature: Signature, ak: PublicArea) -> None:
    """A restricted key signs with its own scheme and hash, nothing else."""
    if isinstance(ak.key, KeyedHashPublic) or ak.key.scheme is None:
        return
    scheme = ak.key.scheme
    if isinstance(signature, EcdsaSignature):
        algorithm = ECDSA
    else:
        algorithm = RSAPSS if signature.pss else RSASSA
    name = None if scheme.hash_alg is None else HASHES[scheme.hash_alg]
    if (scheme.algorithm, name) != (algorithm, signature.hash_name):
        raise CheckError(Reason.QUOTE_SIGNATURE, "the scheme is not that of the key")


def _dss(signature: EcdsaSignature, key: ec.EllipticCurvePublicKey) -> bytes:
    """Encode the numbers for `cryptography`; one that is longer than the curve is two spellings."""
    numbers = []
    for number in (signature.r, signature.s):
        if len(number) > (key.key_size + 7) // 8 or not any(number):
            raise CheckError(Reason.QUOTE_SIGNATURE, "a number of the signature is out of range")
        numbers.append(int.from_bytes(number, "big"))
    return encode_dss_signature(numbers[0], numbers[1])


def _padding(signature: RsaSignature, algorithm: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if not signature.pss:
        return padding.PKCS1v15()
    # TPMs use the longest salt or the digest's size (Part 1, B.7): AUTO takes either.
    return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)


def _check_selection(
    signed: tuple[BankSelection, ...],
    wanted: Mapping[str, frozenset[int]] | None,
    *,
    any_pcr: bool,
) -> None:
    if not signed or not all(chosen.indices for chosen in signed):
        raise CheckError(Reason.QUOTE_SELECTION, "nothing of a bank is selected")
    if wanted is not None:
        if {chosen.bank: frozenset(chosen.indices) for chosen in signed} != dict(wanted):
            raise CheckError(Reason.QUOTE_SELECTION, "another selection was asked for")
        return
    for chosen in signed:
        if not any_pcr and not BOOT_PCRS.issuperset(chosen.indices):
            detail = f"{chosen.bank}: PCR 16 and up carry no boot claim"
            raise CheckError(Reason.QUOTE_SELECTION, detail)


def _check_digest(quoted: QuoteInfo, hash_name: str, values: Values) -> Values:
    proved: dict[str, dict[int, bytes]] = {}
    # In the order of the selection, which names each bank once (`attest.wire`).
    joined: list[bytes] = []
    for chosen in quoted.selection:
        size, given = DIGEST_SIZES[chosen.bank], values.get(chosen.bank, {})
        own = proved[chosen.bank] = {index: given.get(index, b"") for index in chosen.indices}
        for index, value in own.items():
            if len(value) != size:
                raise CheckError(Reason.QUOTE_DIGEST, f"{chosen.bank}: PCR {index} has no value")
        joined += own.values()
    # The hash is the signature scheme's, not the bank's (Part 3, 18.4.1).
    digest = hash_of(hash_name)(b"".join(joined)).digest()
    if not hmac.compare_digest(digest, quoted.digest):
        raise CheckError(Reason.QUOTE_DIGEST, "the values do not hash to the signed digest")
    return _frozen(proved)


def _frozen(values: Mapping[str, dict[int, bytes]]) -> Values:
    """Close tables that nobody else holds."""
    return MappingProxyType({bank: MappingProxyType(given) for bank, given in values.items()})
