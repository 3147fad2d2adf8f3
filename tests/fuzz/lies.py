"""What becomes of changed evidence, and whether taking it was wrong (see the package's text).

Each function gives "taken" or "refused" and raises `Lie`; whatever else it raises is a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from attest.appraise import appraise
from attest.der import decode_certificate, split
from attest.ekcert import check_ek_certificate
from attest.errors import CheckError, EvidenceError
from attest.eventlog import EventLog, EventType, decode
from attest.evidence import Evidence, Signed, Verdict
from attest.expectation import Expectation
from attest.logcheck import REPLAYED_PCRS, check_log
from attest.policy import Policy
from attest.quote import Values, check_quote
from attest.reasons import Finding, Reason, Releaser
from attest.variables import SecureBootVariables, variables_from_log
from attest.wire import QuoteInfo, decode_attest
from tests import forge
from tests.fuzz.material import (
    VECTORS,
    CertificateCase,
    QuoteCase,
    expectation,
    vector_fields,
)

BankFacts = tuple[str, Mapping[int, list[bytes]], SecureBootVariables | None]
TAKEN, REFUSED = "taken", "refused"
_EXIT = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


class Lie(AssertionError):  # noqa: N818 - what it is, not what went wrong
    """Changed evidence was taken."""


def judge_quote(case: QuoteCase, attest: bytes, signature: bytes, values: Values) -> str:
    """Check a quote that was made from a case by changing something, or nothing."""
    try:
        verified = check_quote(
            attest=attest,
            signature=signature,
            ak=case.ak,
            extra_data=case.nonce,
            values=values,
        )
    except CheckError:
        return REFUSED
    signed = decode_attest(case.attest).attested
    assert isinstance(signed, QuoteInfo)
    proved = {
        chosen.bank: {index: case.values[chosen.bank][index] for index in chosen.indices}
        for chosen in signed.selection
    }
    if attest != case.attest or verified.values != proved:
        raise Lie("a changed quote verified")
    return TAKEN


def judge_certificates(case: CertificateCase, chain: Sequence[bytes]) -> str:
    """Check the certificates of an EK."""
    trust = check_ek_certificate(chain, case.anchors, case.ek, case.now, rehearsal=False)
    if _gated(trust.findings):
        return REFUSED
    if any(each.tbs not in _honest() for each in trust.path):
        raise Lie("a changed EK certificate was trusted")
    return TAKEN


@cache
def _honest() -> frozenset[bytes]:
    """Give the to-be-signed parts of all that the makers of our vectors ever signed."""
    fields = "ek_certificates", "certificates", "anchors"
    stored = [split(data)[0] or (data,) for data in vector_fields(*fields)]
    found = {_signed_part(der) for parts in stored for der in parts}
    return frozenset(tbs for tbs in found if tbs is not None)


def _signed_part(stored: bytes) -> bytes | None:
    try:
        return decode_certificate(stored).tbs
    except EvidenceError:
        return None


def _gated(findings: Sequence[Finding]) -> bool:
    return any(finding.reason.releasable_by is not Releaser.ANYBODY for finding in findings)


def judge_log(original: bytes, data: bytes, values: Values) -> str:
    """Decode, replay and check a log against the values of the log that it was made from."""
    checked = check_log(data, values)
    if checked.log is None or _gated(checked.findings):
        return REFUSED
    if not _says_no_more(checked.log, original):
        raise Lie("a changed log proved something else")
    return TAKEN


def _says_no_more(log: EventLog, original: bytes) -> bool:
    """Tell whether a log proves what its original does, or less of the key databases."""
    start, banks = _facts(log)
    honest_start, honest_banks = _facts_of(original)
    return start == honest_start and all(
        mine[:2] == theirs[:2] and mine[2] in (None, theirs[2], _without_level(theirs[2]))
        for mine, theirs in zip(banks, honest_banks, strict=True)
    )


def _without_level(variables: SecureBootVariables | None) -> SecureBootVariables | None:
    return variables and replace(variables, sbat_level=None)


@cache
def _facts_of(data: bytes) -> tuple[int, list[BankFacts]]:
    return _facts(decode(data))


def _facts(log: EventLog) -> tuple[int, list[BankFacts]]:
    """Give what a log that replays proves: start of PCR 0, extended digests, key databases."""
    return log.startup_locality or 0, [
        (bank.name, _digests(log, bank.name), _variables(log, bank.name)) for bank in log.banks
    ]


def _digests(log: EventLog, bank: str) -> Mapping[int, list[bytes]]:
    exits = [hashlib.new(bank, text).digest() for text in _EXIT]
    found: dict[int, list[bytes]] = {}
    for event in log.events:
        if event.type != EventType.NO_ACTION and event.pcr in REPLAYED_PCRS:
            found.setdefault(event.pcr, []).append(event.digests[bank])
    if found.get(5, [])[-2:] == exits:
        del found[5][-2:]
    return found


def _variables(log: EventLog, bank: str) -> SecureBootVariables | None:
    try:
        return variables_from_log(log, bank)
    except EvidenceError:
        return None


# --- whole evidence


@cache
def good_evidence() -> Evidence:
    """Give evidence that is accepted."""
    return forge.evidence((VECTORS / "eventlog" / "debian12-tftp.bin").read_bytes())


@cache
def expected() -> tuple[Expectation, Policy]:
    """Give what the site expects of it."""
    policy = Policy(waived=frozenset({Reason.FIRMWARE_UNKNOWN, Reason.IMA_MISSING}))
    return expectation(), policy


FIELDS = (
    "nonce",
    "ek_public",
    "ek_certificates",
    "ak_public",
    "quote.attest",
    "quote.signature",
    "pcrs",
    "event_log",
    "ima_log",
    "facts",
    "device_public",
    "device.attest",
    "device.signature",
    "platform_certificates",
)
_NOT_PROVED_HERE = ("facts", "ima_log", "platform_certificates")


def field_of(evidence: Evidence, name: str) -> bytes:
    """Give one field as bytes."""
    match name:
        case "quote.attest" | "quote.signature":
            return getattr(evidence.quotes[0], name.partition(".")[2])
        case "device.attest" | "device.signature":
            return getattr(evidence.device, name.partition(".")[2])
        case "pcrs":
            return b"".join(evidence.pcrs["sha256"][index] for index in range(16))
        case "ek_certificates":
            return evidence.ek_certificates[0]
        case "platform_certificates":
            return b""
    return getattr(evidence, name)


def with_field(evidence: Evidence, name: str, value: bytes) -> Evidence:
    """Put bytes into one field."""
    part = name.partition(".")[2]
    match name:
        case "quote.attest" | "quote.signature":
            return replace(evidence, quotes=(_changed(evidence.quotes[0], part, value),))
        case "device.attest" | "device.signature":
            return replace(evidence, device=_changed(evidence.device, part, value))
        case "pcrs":
            parts = {index: value[32 * index : 32 * index + 32] for index in range(16)}
            return replace(evidence, pcrs={"sha256": parts})
        case "ek_certificates" | "platform_certificates":
            return replace(evidence, **{name: (value,)})
    return replace(evidence, **{name: value})


def _changed(signed: Signed, part: str, value: bytes) -> Signed:
    return replace(signed, **{part: value})


def judge_evidence(name: str, value: bytes) -> str:
    """Appraise good evidence with one field replaced."""
    good = good_evidence()
    changed = with_field(good, name, value)
    result = appraise(changed, *expected(), forge.NOW)
    if result.verdict is not Verdict.ACCEPTED:
        return REFUSED
    if name in _NOT_PROVED_HERE or field_of(good, name) == field_of(changed, name):
        return TAKEN
    if name.endswith(".signature"):
        # Over the same attestation; ECDSA has two signatures for each.
        return TAKEN
    if name == "ek_certificates" and _signed_part(value) == _signed_part(good.ek_certificates[0]):
        return TAKEN
    if name == "event_log" and _says_no_more(decode(value), good.event_log):
        return TAKEN
    raise Lie(f"evidence with another {name} was accepted")
