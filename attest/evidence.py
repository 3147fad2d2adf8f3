"""What a box sent, as appraisal takes it, and what appraisal says of it.

Evidence is bytes that nobody has judged yet; a result is a value that can be kept and compared.
Terms: RFC 9334 (RATS). It never decides anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from attest.quote import Values
from attest.reasons import Finding, Reason
from attest.wire import ClockInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """One TPMS_ATTEST with its TPMT_SIGNATURE, as marshalled."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of one session; `nonce` is the whole expected extraData of the quotes (Q).

    Public areas are TPMT_PUBLIC. An empty log means that the box sent none.
    """

    nonce: bytes
    ek_public: bytes
    ek_certificates: tuple[bytes, ...]
    ak_public: bytes
    quotes: tuple[Signed, ...]
    pcrs: Values
    event_log: bytes
    ima_log: bytes = b""
    facts: bytes = b""
    device_public: bytes = b""
    device: Signed | None = None


class Verdict(Enum):
    """What follows for the box."""

    ACCEPTED = "accepted"
    HELD = "held"
    REFUSED = "refused"


class Tier(Enum):
    """How much of the boot was proved."""

    BOOT_VERIFIED = "boot-verified, firmware not checked"
    NOT_VERIFIED = "not verified"


class Outcome(Enum):
    """What became of one PCR."""

    EQUAL = "equal"
    DIFFERS = "differs"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSetMatch:
    """The one boot set that a box matched as a whole."""

    digest: bytes
    name: str
    version: int
    transport: str
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """Everything that was found, in order of rank.

    `released` holds findings that the site's signed delivery note released. `values` are the
    quoted PCRs (empty when no quote held), `clock` the counters that the TPM signed with them.
    """

    verdict: Verdict
    tier: Tier
    findings: tuple[Finding, ...]
    released: tuple[Finding, ...] = ()
    boot_set: BootSetMatch | None = None
    pcrs: Mapping[int, Outcome] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    clock: ClockInfo | None = None
    firmware_version: int | None = None
    workarounds: tuple[str, ...] = ()
    tpm: str = ""
    policy_digest: bytes = b""
    expectation_digest: bytes = b""

    @property
    def reasons(self) -> frozenset[Reason]:
        """The reasons found."""
        return frozenset(finding.reason for finding in self.findings)

    @property
    def measurements(self) -> bytes:
        """Digest of all quoted values: what an approval is bound to."""
        return measurements_digest(self.values)

    def to_json(self) -> str:
        """Give the result as one JSON document with sorted keys, for the archive."""
        document = {
            "type": "doorstep/attestation-result/v1",
            "verdict": self.verdict.value,
            "tier": self.tier.value,
            "findings": [_plain(finding) for finding in self.findings],
            "released": [_plain(finding) for finding in self.released],
            "boot_set": None if self.boot_set is None else _boot_set(self.boot_set),
            "pcrs": {str(index): outcome.value for index, outcome in self.pcrs.items()},
            "measurements": self.measurements.hex(),
            "clock": None if self.clock is None else _clock(self.clock),
            "firmware_version": self.firmware_version,
            "workarounds": list(self.workarounds),
            "tpm": self.tpm,
            "policy": self.policy_digest.hex(),
            "expectation": self.expectation_digest.hex(),
        }
        return json.dumps(document, sort_keys=True, indent=1) + "\n"


def measurements_digest(values: Values) -> bytes:
    """Hash banks, indices and values in one fixed order."""
    state = hashlib.sha256(b"doorstep/v1/measurements\0")
    for bank in sorted(values):
        for index in sorted(values[bank]):
            state.update(f"{bank}:{index}=".encode() + values[bank][index].hex().encode() + b"\n")
    return state.digest()


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "reason": finding.reason.code,
        "sentence": finding.sentence,
        "detail": finding.detail,
        "releasable_by": finding.reason.releasable_by.value,
    }


def _boot_set(match: BootSetMatch) -> dict[str, str | int]:
    return {
        "digest": match.digest.hex(),
        "name": match.name,
        "version": match.version,
        "transport": match.transport,
        "server": match.server,
    }


def _clock(clock: ClockInfo) -> dict[str, int | bool]:
    return {
        "clock": clock.clock,
        "reset_count": clock.reset_count,
        "restart_count": clock.restart_count,
        "safe": clock.safe,
    }
