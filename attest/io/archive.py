"""The evidence archive: one directory for each session, so that a verdict can be checked again.

A directory appears whole or not at all: written under a temporary name, flushed to disk, renamed.
Nothing in it is ever changed. It never judges; `appraise` does that again from what is kept.
Layout: docs/architecture.md, "Directories".
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import PCR_COUNT
from attest.evidence import AttestationResult, Evidence, Signed
from attest.expectation import Expectation
from attest.policy import Policy
from attest.quote import Values
from attest.transcript import Enrolment, Session, SiteIdentity
from keys.tpm_public import sized

_MAX_FILE = 8 << 20


def write_evidence(
    directory: Path,
    *,
    evidence: Evidence,
    transcript: Mapping[str, str],
    expectation: Expectation,
    policy: Policy,
    result: AttestationResult,
    appraised: float,
) -> Path:
    """Write all of one session as `directory`, which must not exist; give its path.

    `transcript`: see `transcript_fields`. AttestSiteError when the disk refuses or it exists.
    """
    files = _files(evidence)
    files["transcript.json"] = _json({"type": "doorstep/transcript/v1", **transcript})
    files["expectation.json"] = expectation.to_json().encode()
    files["policy.toml"] = policy.to_toml().encode()
    files["result.json"] = _json({**json.loads(result.to_json()), "appraised": appraised})
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if directory.exists():
            raise AttestSiteError(f"{directory}: there is evidence of this session already")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        for name, content in files.items():
            _write(temporary / name, content)
        _sync(temporary)
        temporary.rename(directory)
        _sync(directory.parent)
    except OSError as error:
        raise AttestSiteError(f"{directory}: the evidence cannot be kept: {error}") from error
    return directory


def transcript_fields(
    site: SiteIdentity, session: Session, enrolment: Enrolment, transcript: bytes
) -> dict[str, str]:
    """Give what nonce.bin is computed from (Q, docs/phone-home-v1.md), bytes as hexadecimal."""
    found: dict[str, str] = {"site_id": site.site_id, "root": site.root.hex()}
    for part in (session, enrolment):
        for item in fields(part):
            found[item.name] = getattr(part, item.name).hex()
    return {**found, "transcript": transcript.hex()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a directory holds; None for what is absent. `appraised` is unix time."""

    evidence: Evidence
    expectation: Expectation | None
    policy: Policy | None
    appraised: float | None


def read_kept(directory: Path) -> Kept:
    """Read evidence with what it was judged by, of this archive or made elsewhere.

    EvidenceError for a file of the evidence that is none, AttestSiteError for one of the site's.
    """
    policy = _optional(directory / "policy.toml")
    expectation = _optional(directory / "expectation.json")
    result = _optional(directory / "result.json")
    try:
        read_policy = None if policy is None else Policy.from_toml(policy.decode())
        appraised = None if result is None else float(json.loads(result)["appraised"])
    except (ValueError, KeyError, TypeError) as error:
        raise AttestSiteError(f"{directory}: result.json or policy.toml: {error!r}") from error
    rehearsal = read_policy is not None and read_policy.rehearsal
    return Kept(
        evidence=read_evidence(directory),
        expectation=None
        if expectation is None
        else Expectation.from_json(expectation, rehearsal=rehearsal),
        policy=read_policy,
        appraised=appraised,
    )


def read_evidence(directory: Path) -> Evidence:
    """Read evidence back, to appraise it again; what has no file is None.

    EvidenceError for a file that is none, AttestSiteError where the disk refuses.
    """
    quotes = tuple(_signed(path) for path in sorted(directory.glob("quote*.attest")))
    # A session of this site without a quote sent none; elsewhere it was not kept.
    is_session = (directory / "transcript.json").exists()
    device = directory / "device.attest"
    return Evidence(
        nonce=_optional(directory / "nonce.bin"),
        ek_public=_public(directory / "ek.pub"),
        ek_certificates=_all(directory, "ek*.crt"),
        ak_public=_public(directory / "ak.pub"),
        quotes=quotes if quotes or is_session else None,
        pcrs=_pcrs(_optional(directory / "pcrs.json")),
        event_log=_optional(directory / "eventlog.bin"),
        ima_log=_optional(directory / "ima.bin"),
        facts=_optional(directory / "facts.json"),
        device_public=_public(directory / "device.pub"),
        device=_signed(device) if device.exists() else None,
        platform_certificates=_all(directory, "platform*.crt"),
    )


def _pcrs(data: bytes | None) -> Values | None:
    """Read `{bank: {index: hex}}`."""
    if data is None:
        return None
    try:
        return {
            bank: {_index(index): bytes.fromhex(value) for index, value in values.items()}
            for bank, values in json.loads(data).items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceError(f"pcrs.json is not {{bank: {{index: hex}}}}: {error}") from error


def _index(text: str) -> int:
    if not text.isdecimal() or int(text) >= PCR_COUNT:
        raise ValueError(f"{text[:20]!r} is no PCR")
    return int(text)


def _public(path: Path) -> bytes | None:
    """Read a TPM2B_PUBLIC without its size; what has another form is left for its decoder."""
    data = _optional(path)
    if data is None or int.from_bytes(data[:2], "big") != len(data) - 2:
        return data
    return data[2:]


def _all(directory: Path, pattern: str) -> tuple[bytes, ...]:
    return tuple(_read(path) for path in sorted(directory.glob(pattern)))


def _optional(path: Path) -> bytes | None:
    return _read(path) if path.exists() else None


def _files(evidence: Evidence) -> dict[str, bytes]:
    pcrs = {
        bank: {str(index): value.hex() for index, value in sorted(values.items())}
        for bank, values in (evidence.pcrs or {}).items()
    }
    parts = {
        "nonce.bin": evidence.nonce,
        "ak.pub": evidence.ak_public and sized(evidence.ak_public),
        "ek.pub": evidence.ek_public and sized(evidence.ek_public),
        "device.pub": evidence.device_public and sized(evidence.device_public),
        "pcrs.json": None if evidence.pcrs is None else _json(pcrs),
        "eventlog.bin": evidence.event_log,
        "ima.bin": evidence.ima_log,
        "facts.json": evidence.facts,
    }
    found = {name: content for name, content in parts.items() if content is not None}
    for number, certificate in enumerate(evidence.ek_certificates):
        found[f"ek{number}.crt"] = certificate
    for number, certificate in enumerate(evidence.platform_certificates):
        found[f"platform{number}.crt"] = certificate
    for number, signed in enumerate(evidence.quotes or ()):
        found |= _signed_files(f"quote{number}", signed)
    if evidence.device is not None:
        found |= _signed_files("device", evidence.device)
    return found


def _signed_files(name: str, signed: Signed) -> dict[str, bytes]:
    return {f"{name}.attest": signed.attest, f"{name}.sig": signed.signature}


def _signed(path: Path) -> Signed:
    return Signed(attest=_read(path), signature=_read(path.with_suffix(".sig")))


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise AttestSiteError(f"{path}: it cannot be read: {error.strerror}") from error
    if len(content) > _MAX_FILE:
        raise EvidenceError(f"{path.name} is larger than {_MAX_FILE} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
