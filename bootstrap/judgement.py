"""What appraisal says of one session, as the enrolment needs it (see `bootstrap/io/judge.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from attest.reasons import Reason, Releaser
from attest.transcript import Enrolment, Session
from bootstrap.enrolment import Finding, Release
from bootstrap.phonehome import EvidenceBody, Hello

RELEASE: Mapping[Releaser, Release] = {
    Releaser.NOBODY: Release.NEVER,
    Releaser.HEADQUARTERS: Release.PERSON,
    Releaser.TECHNICIAN_AND_HEADQUARTERS: Release.CLAIM,
    Releaser.SIGNED_NOTE: Release.NOTE,
    Releaser.ANYBODY: Release.FREE,
}
"""What the verifier's releasers are here: whoever has root decides for headquarters, and gives
the technician's word where that is asked for."""
_REASONS = {reason.code: reason for reason in Reason}


def releasable_by(code: str) -> Releaser | None:
    """Say who may release a reason of the verifier; None for a code of this site's own rules."""
    known = _REASONS.get(code)
    return known.releasable_by if known else None


MAX_TOLD, MAX_DETAIL = 40, 300
"""How many findings are kept with an event, and how many characters of what is said of each."""


def told(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Write findings for an event: code, sentence, detail, who may release it."""
    found = []
    for one in islice(findings, MAX_TOLD):
        who = releasable_by(one.code)
        found.append(
            {
                "code": one.code,
                "sentence": one.sentence[: 2 * MAX_DETAIL],
                "detail": one.detail[:MAX_DETAIL],
                "releasable_by": who.value if who else one.release.value,
            }
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A session whose credential secret the box has proved; all hashes are of what it sent."""

    session: Session
    hello: Hello
    evidence: EvidenceBody
    enrolment: Enrolment
    ek_name: bytes
    ak_name: bytes
    enrol_data: bytes
    transcript: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Findings in order of rank, and what the TPM said; `clock` in milliseconds.

    `measurements` is the digest that an approval is bound to; `boot_set` the one set that matched;
    `released` what note or policy released; `firmware` the digest that a release of the firmware
    covers; `sealed` what keys binds an approval to; `basis` names the policy and firmware baseline
    that it was judged by.
    """

    findings: tuple[Finding, ...]
    released: tuple[Finding, ...] = ()
    tier: str
    measurements: bytes
    boot_set: bytes | None
    pcrs: Mapping[int, bytes]
    reset_count: int | None
    restart_count: int | None
    clock: int | None
    archive: str
    sealed: bytes | None = None
    firmware: bytes = b""
    tpm_firmware: int | None = None
    basis: bytes = b""
