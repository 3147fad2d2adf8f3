"""What control remembers, as values: boxes, sessions, sightings, events.

Kept by `bootstrap/io/site_store.py`; nothing here decides or stores anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bootstrap.enrolment import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRow:
    """All that control knows of one box; times are unix seconds, the clock milliseconds.

    `measurements` is what an approval is bound to at control, `sealed` the same at keys (digest of
    the SHA-256 bank alone). `place` is the serial of the entry of the note that it was accepted
    under, `replaces` the box whose place it was given and has not taken yet. `firmware` is the
    digest of the measurements that a person released for this EK, `tpm_firmware` the version last
    accepted. `basis` names policy and baseline of the last appraisal, `tier` what that proved.
    `device_public` (TPMT_PUBLIC) and `ssh_host_key` (OpenSSH) are of the last accepted evidence.
    `renew` says after how many seconds it is to renew, None for never; `proved` when it last had a
    bundle, `renewals` how many of them since its hand-over were renewals.
    """

    box: str
    ek_name: bytes
    ek_public: bytes
    stage: Stage
    since: float
    first: float
    attempt: int = 0
    reasons: tuple[str, ...] = ()
    sentence: str | None = None
    measurements: bytes | None = None
    role: str | None = None
    number: int | None = None
    hostname: str | None = None
    address: str | None = None
    mac: str | None = None
    boot_set: bytes | None = None
    reset_count: int | None = None
    restart_count: int | None = None
    clock: int | None = None
    evidence: str | None = None
    withheld: tuple[Mapping[str, Any], ...] = ()
    certificate_until: float | None = None
    tier: str | None = None
    sealed: bytes | None = None
    place: str | None = None
    replaces: str | None = None
    firmware: bytes | None = None
    tpm_firmware: int | None = None
    basis: bytes | None = None
    device_public: bytes | None = None
    ssh_host_key: bytes | None = None
    renew: float | None = None
    proved: float | None = None
    renewals: int = 0
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One session whose secret was proved; `digests` are those of its hand-over, None without."""

    session: bytes
    box: str
    at: float
    address: str | None
    body_digest: bytes
    transcript: bytes
    device_public: bytes
    answer: str | None = None
    digests: Mapping[str, str] | None = None
    report_digest: bytes | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What netboot saw of one MAC that no box has claimed yet, or of the box that did."""

    mac: str
    stage: Stage
    since: float
    first: float
    address: str | None = None
    reason: str | None = None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the story; `n` is given by the store."""

    at: float
    kind: str
    box: str | None = None
    mac: str | None = None
    address: str | None = None
    reason: str | None = None
    detail: Mapping[str, Any]
