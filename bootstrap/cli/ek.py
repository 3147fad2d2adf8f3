"""`doorstep ek`: what the EK certificates of a box say, offline, without the box.

Files are told apart by what is in them. What a certificate says cannot move the terminal.
Exit codes: 0 the chain holds and nothing gates; 1 a finding refuses or holds the box; 2 wrong
usage, or a file that cannot be read.

With --json one object: `key` (`algorithm`, `bits`, `curve`, `spki_sha256`) or null, `certificate`
(`subject`, `serial`, `not_before`, `not_after`, `fingerprint`) or null, `tpm` (`maker`,
`maker_name`, `model`, `version`), `chain` (titles up to the anchor, empty when it breaks),
`chain_holds`, `issued_by`, `template` (names of those that fit; with ek.pub the one), `ek_name`
(with ek.pub), `revocation` (`unrevoked`, `told`), `workarounds`, `unreadable`, `platform` (list),
`findings` (`reason`, `sentence`, `detail`, `releasable_by`, `gates`), `more` (the same for each
further EK certificate).
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import click
from cryptography.hazmat.primitives.asymmetric import rsa

from attest.anchors import Anchors, decode_anchors
from attest.der import Certificate, join, public_key
from attest.ekcert import EkTrust, check_ek_certificate, check_ek_leaf, description, ek_leaves
from attest.ektemplate import check_ek_template, fitting_templates
from attest.errors import AttestSiteError, CheckError, EvidenceError
from attest.io.trust import PLATFORM, read_files
from attest.platformcert import (
    PlatformTrust,
    check_platform_certificate,
    is_platform_certificate,
)
from attest.reasons import Finding, Reason, Releaser
from attest.usage import is_ca
from attest.vendors import vendor_name
from bootstrap.cli.common import as_json, plain, print_json
from bootstrap.io import site_dir
from keys.errors import PeerError
from keys.tpm_public import PublicArea

MAX_FILE = 1 << 20
_PATH = click.Path(path_type=Path, exists=True)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z0-9 ]+-----")
_SUFFIXES = (".pem", ".crl", ".crt", ".cer", ".der", ".p7b")
_DAY = 86_400
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(slots=True, kw_only=True)
class _Given:
    """What the files hold."""

    stored: list[bytes] = field(default_factory=list)
    platform: list[bytes] = field(default_factory=list)
    decoded: list[Certificate] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    ek: PublicArea | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """What is judged by: anchors, the time, and whether this is a rehearsal."""

    anchors: Anchors
    platform: Anchors
    now: float
    rehearsal: bool
    crl_max_age: float | None


@click.command(short_help="Explain the EK certificates of a box.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@as_json
@click.option(
    "--anchors", multiple=True, type=_PATH, help="A trust store, or a file with CAs and lists."
)
@click.option("--site", type=_DIRECTORY, help="Take the anchors of this site.")
@click.option("--at", "at", type=click.DateTime(), help="Judge as of this time (UTC), not now.")
@click.option("--crl-max-age", type=click.IntRange(0), help="Days that a list may be old.")
@click.option("--rehearsal", is_flag=True, help="Let TPMs in software pass.")
def ek(
    files: tuple[Path, ...],
    as_json: bool,
    anchors: tuple[Path, ...],
    site: Path | None,
    at: datetime | None,
    crl_max_age: int | None,
    rehearsal: bool,
) -> None:
    """Explain FILES: EK certificates as read from NV, their CAs, ek.pub, a platform certificate.

    Without --anchors or --site no maker is trusted, and every chain ends in EK-UNKNOWN.
    """
    given = _sort(files)
    known, platform = _anchors(anchors, site)
    basis = _Basis(
        anchors=known,
        platform=platform,
        now=time.time() if at is None else at.replace(tzinfo=UTC).timestamp(),
        rehearsal=rehearsal,
        crl_max_age=None if crl_max_age is None else float(crl_max_age * _DAY),
    )
    reports = _reports(given, basis)
    document = {**reports[0], "more": reports[1:]}
    if as_json:
        print_json(document)
    else:
        for report in reports:
            _print(report)
        if not known.certificates:
            click.echo("no anchors were given, so nothing vouches for this key")
    if any(finding["gates"] for report in reports for finding in report["findings"]):
        raise SystemExit(1)


def _sort(files: tuple[Path, ...]) -> _Given:
    given = _Given()
    for path in files:
        try:
            data = path.read_bytes()[: MAX_FILE + 1]
        except OSError as error:
            raise AttestSiteError(f"{path}: {error.strerror}") from error
        if len(data) > MAX_FILE:
            raise AttestSiteError(f"{path}: it is too large for a certificate")
        for block in _blocks(path, data):
            _sort_one(given, block)
    given.decoded, given.broken = join(given.stored)
    if not given.decoded and given.ek is None:
        names = ", ".join(str(path) for path in files)
        told = given.broken[0] if given.broken else "there is no EK certificate and no ek.pub"
        raise AttestSiteError(f"{names}: {told}")
    return given


def _sort_one(given: _Given, data: bytes) -> None:
    area = _public_area(data)
    if area is not None:
        given.ek = area
    elif is_platform_certificate(data):
        given.platform.append(data)
    else:
        given.stored.append(data)


def _blocks(path: Path, data: bytes) -> list[bytes]:
    """Give the DER of a file: as it is, PEM, or what Intel's web service answers."""
    try:
        if data.lstrip()[:1] == b"{":
            text = unquote_to_bytes(json.loads(data)["certificate"])
            return [base64.urlsafe_b64decode(text + b"==")]
        if b"-----BEGIN" not in data:
            return [data]
        found = [base64.b64decode(block) for block in _PEM.findall(data)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AttestSiteError(f"{path}: it holds damaged base64") from None
    if not found:
        raise AttestSiteError(f"{path}: there is no certificate in it")
    return found


def _public_area(data: bytes) -> PublicArea | None:
    """Read a TPM2B_PUBLIC or a TPMT_PUBLIC."""
    sized = len(data) > 2 and int.from_bytes(data[:2], "big") == len(data) - 2
    for candidate in (data[2:] if sized else data, data):
        try:
            return PublicArea.decode(candidate)
        except PeerError:
            continue
    return None


def _anchors(given: tuple[Path, ...], site: Path | None) -> tuple[Anchors, Anchors]:
    """Read anchors for EKs and for platform certificates; one file given serves for both.

    A CA of TPMs in software may be among them: its EKs are EK-VIRTUAL all the same.
    """
    paths = [*given]
    if site is not None:
        paths.append(site / site_dir.load(site).trust.ek_anchors)
    files: list[tuple[str, bytes]] = []
    platform: list[tuple[str, bytes]] = []
    for path in paths:
        if path.is_dir():
            files += read_files(path, _SUFFIXES)
            platform += read_files(path / PLATFORM, _SUFFIXES)
        else:
            files.append((str(path), path.read_bytes()))
            platform.append(files[-1])
    return (
        decode_anchors(files, rehearsal=True),
        decode_anchors(platform, rehearsal=True, platform=True),
    )


def _reports(given: _Given, basis: _Basis) -> list[dict[str, Any]]:
    leaves = [one for one in ek_leaves(given.decoded) if not is_ca(one) or any(description(one))]
    if given.ek is not None:
        return [_with_public(given, given.ek, leaves, basis)]
    if not leaves:
        finding = Finding(reason=Reason.EK_UNKNOWN, detail="there is no EK certificate")
        return [_report(None, EkTrust(findings=(finding,)), [], given, basis)]
    reports = []
    for leaf in leaves:
        trust = check_ek_leaf(
            leaf,
            given.decoded,
            basis.anchors,
            basis.now,
            rehearsal=basis.rehearsal,
            crl_max_age=basis.crl_max_age,
        )
        reports.append(_report(leaf, trust, _fitting(leaf), given, basis))
    return reports


def _with_public(
    given: _Given,
    area: PublicArea,
    leaves: list[Certificate],
    basis: _Basis,
) -> dict[str, Any]:
    """Judge the key that the box says it uses, its template too."""
    try:
        names = [check_ek_template(area).name]
        trust = check_ek_certificate(
            given.stored,
            basis.anchors,
            area,
            basis.now,
            rehearsal=basis.rehearsal,
            crl_max_age=basis.crl_max_age,
        )
    except CheckError as error:
        names = []
        trust = EkTrust(findings=(Finding(reason=error.reason, detail=error.detail),))
    except PeerError as error:
        names = []
        trust = EkTrust(findings=(Finding(reason=Reason.EK_STRUCTURE, detail=str(error)),))
    leaf = next((one for one in leaves if one.fingerprint == trust.fingerprint), None)
    if leaf is None and leaves:
        leaf = leaves[0]
    report = _report(leaf, trust, names, given, basis)
    return {**report, "ek_name": area.name().hex()}


def _fitting(leaf: Certificate) -> list[str]:
    try:
        return [template.name for template, _ in fitting_templates(leaf)]
    except EvidenceError:
        return []


def _report(
    leaf: Certificate | None,
    trust: EkTrust,
    templates: list[str],
    given: _Given,
    basis: _Basis,
) -> dict[str, Any]:
    platforms = (
        []
        if leaf is None
        else [
            check_platform_certificate(data, leaf, basis.platform, basis.now, sent=given.decoded)
            for data in given.platform
        ]
    )
    findings = [*trust.findings]
    for one in platforms:
        findings += one.findings
    findings.sort(key=lambda finding: finding.reason.rank)
    return {
        "key": None if leaf is None else _key(leaf),
        "certificate": None if leaf is None else _certificate(leaf),
        "tpm": {
            "maker": trust.maker,
            "maker_name": vendor_name(trust.maker),
            "model": trust.model,
            "version": trust.version,
        },
        "chain": list(trust.chain),
        "chain_holds": bool(trust.chain),
        "issued_by": None if leaf is None else _name(leaf.issuer),
        "template": templates,
        "revocation": {"unrevoked": trust.unrevoked, "told": list(trust.revocation)},
        "workarounds": list(trust.workarounds),
        "unreadable": list(given.broken),
        "platform": [_platform(one) for one in platforms],
        "findings": [_finding(finding) for finding in findings],
    }


def _key(leaf: Certificate) -> dict[str, Any]:
    found: dict[str, Any] = {"spki_sha256": sha256(leaf.spki).hexdigest()}
    try:
        key = public_key(leaf)
    except EvidenceError as error:
        return {"algorithm": None, "told": str(error), **found}
    if isinstance(key, rsa.RSAPublicKey):
        return {"algorithm": "RSA", "bits": key.key_size, **found}
    curve = _CURVES.get(key.curve.name, key.curve.name)
    return {"algorithm": "ECC", "curve": curve, "bits": key.key_size, **found}


def _certificate(leaf: Certificate) -> dict[str, Any]:
    return {
        "subject": _name(leaf.subject),
        "serial": f"{leaf.serial:x}",
        "not_before": _date(leaf.not_before),
        "not_after": _date(leaf.not_after),
        "fingerprint": leaf.fingerprint.hex(),
    }


def _platform(trust: PlatformTrust) -> dict[str, Any]:
    facts = trust.facts
    return {
        "fingerprint": None if trust.fingerprint is None else trust.fingerprint.hex(),
        "manufacturer": facts.manufacturer if facts else None,
        "model": facts.model if facts else None,
        "version": facts.version if facts else None,
        "serial": facts.serial if facts else None,
        "components": [
            {
                "class": one.kind,
                "registry": one.registry,
                "manufacturer": one.manufacturer,
                "model": one.model,
                "serial": one.serial,
                "revision": one.revision,
                "addresses": [{"kind": kind, "address": text} for kind, text in one.addresses],
            }
            for one in (facts.components if facts else ())
        ],
        "chain": list(trust.chain),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "reason": finding.reason.code,
        "sentence": finding.sentence,
        "detail": finding.detail,
        "releasable_by": finding.reason.releasable_by.value,
        "gates": finding.reason.releasable_by is not Releaser.ANYBODY,
    }


def _name(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(text for _, text in pairs)


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _print(report: dict[str, Any]) -> None:
    key, certificate, tpm = report["key"], report["certificate"], report["tpm"]
    lines: list[tuple[str, object]] = []
    if key is not None:
        size = key.get("curve") or key.get("bits")
        lines += [("key", f"{key['algorithm']} {size}"), ("SPKI SHA-256", key["spki_sha256"])]
        lines += [
            ("subject", certificate["subject"]),
            ("serial", certificate["serial"]),
            ("valid", f"{certificate['not_before']} to {certificate['not_after']}"),
        ]
    maker = " ".join(part for part in (tpm["maker_name"], f"({tpm['maker']})") if part)
    lines += [
        ("TPM", f"{maker} {tpm['model']} {tpm['version']}" if tpm["maker"] else None),
        ("chain", " < ".join(report["chain"]) or f"breaks: issued by {report['issued_by']}"),
        ("template", ", ".join(report["template"]) or "none fits"),
        ("revocation", report["revocation"]["unrevoked"]),
    ]
    lines += [("", text) for text in report["revocation"]["told"]]
    lines += [("workaround", text) for text in report["workarounds"]]
    for one in report["platform"]:
        lines += [("machine", f"{one['manufacturer']} {one['model']} {one['serial']}")]
        lines += [
            ("part", f"{part['manufacturer']} {part['model']} {part['serial']}")
            for part in one["components"]
        ]
    for label, value in lines:
        click.echo(f"{label:14}{plain(value)}")
    for finding in report["findings"]:
        told = f"{finding['reason']}: {finding['sentence']} {finding['detail']}"
        click.echo(f"{plain(told)} [release: {finding['releasable_by']}]")
    if not report["findings"]:
        click.echo("nothing is against it")
