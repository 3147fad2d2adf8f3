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

from attest.counters import Since
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

    Public areas are TPMT_PUBLIC. An empty log means that the box sent none. None means that it was
    not kept, as in evidence made elsewhere: the result then says what was not checked, and is never
    "accepted". A box's own session has no None in it but for a device key that it did not send.
    """

    nonce: bytes | None
    ek_public: bytes | None
    ek_certificates: tuple[bytes, ...]
    ak_public: bytes | None
    quotes: tuple[Signed, ...] | None
    pcrs: Values | None
    event_log: bytes | None
    ima_log: bytes | None = b""
    facts: bytes | None = b""
    device_public: bytes | None = b""
    device: Signed | None = None
    platform_certificates: tuple[bytes, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is missing, as in what a box sent in a session of this site."""
        return None not in (
            self.nonce,
            self.ek_public,
            self.ak_public,
            self.quotes,
            self.pcrs,
            self.event_log,
            self.ima_log,
            self.facts,
            self.device_public,
        )


NOT_COVERED = (
    "a listener or forger on the bus between processor and TPM",
    "a TPM that is reset alone while the machine runs",
    "what happens after the quote was made",
    "firmware that lies to the TPM about itself, where no baseline holds its measurements",
)
"""What no verdict of a TPM quote proves; every result says so."""


class Verdict(Enum):
    """What follows for the box."""

    ACCEPTED = "accepted"
    HELD = "held"
    REFUSED = "refused"
    INCOMPLETE = "incomplete"


class Tier(Enum):
    """How much of the boot was proved."""

    VERIFIED = "boot and firmware verified"
    PROVISIONAL = "boot verified, firmware provisional"
    NOT_VERIFIED = "not verified"


class Outcome(Enum):
    """What became of one PCR."""

    EQUAL = "equal"
    DIFFERS = "differs"
    BASELINE = "in the firmware baseline"
    RELEASED = "released for this box"
    UNKNOWN = "not in the firmware baseline"
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
class Change:
    """One event in which a boot differs from the nearest set, for the auditor.

    Digests are None where there is no such event. Texts are proven by their digests; `claim` is
    what the log says beside.
    """

    pcr: int
    kind: str
    label: str
    expected: bytes | None
    measured: bytes | None
    expected_text: str | None = None
    text: str | None = None
    claim: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """Everything that was found, in order of rank.

    `released` holds findings that the site's signed delivery note or its policy released. `values`
    are the quoted PCRs (empty when no quote held), `clock` the counters that the TPM signed with
    them. `not_checked` names what was missing; `changes` compares with the set called `nearest`.
    `since` tells what the counters say of the time since the box was last here. `firmware` is the
    digest that a release for this box alone is bound to, `firmware_source` who vouches for it.
    """

    verdict: Verdict
    tier: Tier
    findings: tuple[Finding, ...]
    released: tuple[Finding, ...] = ()
    not_checked: tuple[str, ...] = ()
    boot_set: BootSetMatch | None = None
    nearest: str = ""
    changes: tuple[Change, ...] = ()
    pcrs: Mapping[int, Outcome] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    clock: ClockInfo | None = None
    since: Since | None = None
    firmware_version: int | None = None
    firmware: bytes = b""
    firmware_source: str = ""
    workarounds: tuple[str, ...] = ()
    tpm: str = ""
    platform: Mapping[str, str] = field(default_factory=dict)
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

    @property
    def sentence(self) -> str:
        """What a technician reads: the first finding that stands in the way, or that none does."""
        gating = (each for each in self.findings if each.reason.gates)
        first = next(gating, None)
        if first is not None:
            return first.sentence
        if self.verdict is Verdict.INCOMPLETE:
            return "Nothing speaks against this box, but not everything could be checked."
        return _SENTENCES[self.tier]

    def to_json(self) -> str:
        """Give the result as one JSON document with sorted keys, for the archive."""
        document = {
            "type": "doorstep/attestation-result/v1",
            "verdict": self.verdict.value,
            "tier": self.tier.value,
            "sentence": self.sentence,
            "findings": [_plain(finding) for finding in self.findings],
            "released": [_plain(finding) for finding in self.released],
            "not_checked": list(self.not_checked),
            "not_covered": list(NOT_COVERED),
            "nearest": self.nearest,
            "changes": [_change(change) for change in self.changes],
            "since": None if self.since is None else self.since.value,
            "platform": dict(sorted(self.platform.items())),
            "firmware": self.firmware.hex(),
            "firmware_source": self.firmware_source,
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


_SENTENCES = {
    Tier.VERIFIED: "The box is what it should be, and runs what this site serves.",
    Tier.PROVISIONAL: "The box runs what this site serves; its firmware is not confirmed yet.",
    Tier.NOT_VERIFIED: "The box could not be verified.",
}


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


def _change(change: Change) -> dict[str, str | int | None]:
    return {
        "pcr": change.pcr,
        "kind": change.kind,
        "label": change.label,
        "expected": None if change.expected is None else change.expected.hex(),
        "measured": None if change.measured is None else change.measured.hex(),
        "expected_text": change.expected_text,
        "text": change.text,
        "claim": change.claim,
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
