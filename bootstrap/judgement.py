"""What appraisal says of one session, as the enrolment needs it (see `bootstrap/io/judge.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attest.reasons import Releaser
from attest.transcript import Enrolment, Session
from bootstrap.enrolment import Finding, Release
from bootstrap.phonehome import EvidenceBody, Hello

RELEASE: Mapping[Releaser, Release] = {
    Releaser.NOBODY: Release.NEVER,
    Releaser.HEADQUARTERS: Release.PERSON,
    Releaser.TECHNICIAN_AND_HEADQUARTERS: Release.PERSON,
    Releaser.SIGNED_NOTE: Release.NOTE,
    Releaser.ANYBODY: Release.FREE,
}
"""What the verifier's releasers are here: whoever has root decides as a person."""


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

    `measurements` is the digest that an approval is bound to; `boot_set` the one set that matched.
    """

    findings: tuple[Finding, ...]
    tier: str
    measurements: bytes
    boot_set: bytes | None
    pcrs: Mapping[int, bytes]
    reset_count: int | None
    restart_count: int | None
    clock: int | None
    archive: str
