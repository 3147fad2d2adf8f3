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
from dataclasses import fields
from pathlib import Path
from typing import Any

from attest.errors import AttestSiteError
from attest.evidence import AttestationResult, Evidence, Signed
from attest.policy import Expectation, Policy
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


def read_evidence(directory: Path) -> Evidence:
    """Read evidence back, to appraise it again; AttestSiteError when files are missing."""
    try:
        pcrs = json.loads(_read(directory / "pcrs.json"))
        device = directory / "device.attest"
        return Evidence(
            nonce=_read(directory / "nonce.bin"),
            ek_public=_read(directory / "ek.pub")[2:],
            ek_certificates=tuple(_read(path) for path in sorted(directory.glob("ek*.crt"))),
            ak_public=_read(directory / "ak.pub")[2:],
            quotes=tuple(_signed(path) for path in sorted(directory.glob("quote*.attest"))),
            pcrs={
                bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
                for bank, values in pcrs.items()
            },
            event_log=_read(directory / "eventlog.bin"),
            ima_log=_read(directory / "ima.bin"),
            facts=_read(directory / "facts.json"),
            device_public=_read(directory / "device.pub")[2:],
            device=_signed(device) if device.exists() else None,
        )
    except (OSError, ValueError, AttributeError) as error:
        raise AttestSiteError(f"{directory}: the evidence cannot be read: {error}") from error


def _files(evidence: Evidence) -> dict[str, bytes]:
    pcrs = {
        bank: {str(index): value.hex() for index, value in sorted(values.items())}
        for bank, values in evidence.pcrs.items()
    }
    found = {
        "nonce.bin": evidence.nonce,
        "ak.pub": sized(evidence.ak_public),
        "ek.pub": sized(evidence.ek_public),
        "device.pub": sized(evidence.device_public),
        "pcrs.json": _json(pcrs),
        "eventlog.bin": evidence.event_log,
        "ima.bin": evidence.ima_log,
        "facts.json": evidence.facts,
    }
    for number, certificate in enumerate(evidence.ek_certificates):
        found[f"ek{number}.crt"] = certificate
    for number, signed in enumerate(evidence.quotes):
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
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ValueError(f"{path.name} is too large")
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
