"""`doorstep pe`: what boot programs are, offline: digests, signers, sections, SBAT.

With --json one object on one line; of several files the first, with the others under "more":
`path`, `size` (bytes), `kind` (shim, grub, kernel, uki, ipxe, other), `title`, `architecture`,
`profile` (true when its boot can be predicted) and `problem` (why not, else empty); `digests` and
`authenticode`: {sha1, sha256, sha384, sha512} in hex; `sections`: name, offset, raw_size, address,
virtual_size, sha256 (of the bytes that are in memory); `signers`, one for each signature:
digest_algorithm and digest (what it signs), matches (true when that is the image's digest),
certificates: subject, issuer, serial, sha256, not_before, not_after (UTC), signed (true for the one
that made the signature); `sbat`: rows of fields. A file that is no PE image or malformed has `path`
and `error` alone. No signature is checked. What a file says cannot move the terminal.
Exit codes: 0 every file was read; 1 one is no PE image or malformed; 2 wrong usage, or a file that
cannot be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from attest.der import Certificate, decode_certificate
from attest.errors import AttestSiteError, EvidenceError
from attest.imagefacts import image_facts
from attest.pe import Pe
from attest.pesign import Signature
from attest.program import identify, sbat_rows
from bootstrap.cli.common import as_json, plain, print_json, print_table

MAX_FILE = 1 << 30
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, readable=True)
_ATTRIBUTES = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
}


@click.command(short_help="Explain boot programs: digests, signers, sections.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
@as_json
def pe(files: tuple[Path, ...], as_json: bool) -> None:
    """Explain FILES: shim, GRUB, kernels, unified kernel images, any other PE image."""
    reports = [_report(path) for path in files]
    if as_json:
        print_json({**reports[0], "more": reports[1:]})
    for report in reports:
        if "error" in report:
            click.echo(f"{plain(report['path'])}: {plain(report['error'])}", err=True)
        elif not as_json:
            _print(report)
    if any("error" in report for report in reports):
        raise SystemExit(1)


def _report(path: Path) -> dict[str, Any]:
    name = plain(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise click.UsageError(f"{name} is larger than {MAX_FILE} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{name}: {error.strerror}") from error
    try:
        image = Pe.decode(data)
    except AttestSiteError as error:
        return {"path": name, "error": str(error)}
    facts, program = image_facts(data, image), identify(data, image)
    return {
        "path": name,
        "size": len(data),
        "kind": program.kind.value,
        "title": plain(program.title),
        "architecture": image.architecture,
        "profile": not program.problem,
        "problem": _text(program.problem),
        "digests": _hex(facts.file),
        "authenticode": _hex(facts.image),
        "sections": [
            {
                "name": plain(section.name),
                "offset": section.offset,
                "raw_size": section.raw_size,
                "address": section.address,
                "virtual_size": section.virtual_size,
                "sha256": sha256(section.data).hexdigest(),
            }
            for section in image.sections
        ],
        "signers": [_signer(signature, facts.image) for signature in image.signatures],
        "sbat": [[_text(field) for field in row] for row in sbat_rows(image)],
    }


def _hex(values: Any) -> dict[str, str]:
    return {bank: digest.hex() for bank, digest in values.items()}


def _text(text: str) -> str:
    return plain(text) if text else ""


def _signer(signature: Signature, image: Any) -> dict[str, Any]:
    known = image.get(signature.digest_name)
    return {
        "digest_algorithm": signature.digest_name or "unknown",
        "digest": signature.digest.hex(),
        "matches": known is not None and known == signature.digest,
        "certificates": [_certificate(der, signature) for der in signature.certificates],
    }


def _certificate(der: bytes, signature: Signature) -> dict[str, Any]:
    """Describe a certificate; one that cannot be read has its digest alone."""
    try:
        known = decode_certificate(der)
    except EvidenceError as error:
        return {"sha256": sha256(der).hexdigest(), "error": str(error)}
    return {
        "subject": _name(known.subject),
        "issuer": _name(known.issuer),
        "serial": f"{known.serial:x}",
        "sha256": known.fingerprint.hex(),
        "not_before": _date(known.not_before),
        "not_after": _date(known.not_after),
        "signed": _has_signed(known, signature),
    }


def _has_signed(certificate: Certificate, signature: Signature) -> bool:
    return (
        bool(signature.serial)
        and certificate.serial == int.from_bytes(signature.serial, "big")
        and signature.issuer in certificate.tbs
    )


def _name(name: tuple[tuple[str, str], ...]) -> str:
    return plain(", ".join(f"{_ATTRIBUTES.get(oid, oid)}={text}" for oid, text in name))


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _print(report: dict[str, Any]) -> None:
    click.echo(f"{report['path']}: {report['title']}, {report['architecture']}")
    click.echo(f"  {report['problem'] or 'its boot can be predicted'}")
    for bank, digest in report["authenticode"].items():
        click.echo(f"  Authenticode {bank:7} {digest}")
    for bank, digest in report["digests"].items():
        click.echo(f"  file         {bank:7} {digest}")
    for number, signer in enumerate(report["signers"], 1):
        told = "of this image" if signer["matches"] else "of something else"
        click.echo(f"  signature {number} over {signer['digest_algorithm']} {told}")
        for certificate in signer["certificates"]:
            _print_certificate(certificate)
    if not report["signers"]:
        click.echo("  not signed")
    for row in report["sbat"]:
        click.echo(f"  SBAT {','.join(row)}")
    header = ("SECTION", "OFFSET", "SIZE", "IN MEMORY", "SHA-256")
    keys = ("name", "offset", "raw_size", "virtual_size", "sha256")
    print_table(header, [[section[key] for key in keys] for section in report["sections"]])


def _print_certificate(certificate: dict[str, Any]) -> None:
    if "error" in certificate:
        click.echo(f"    unreadable certificate {certificate['sha256']}: {certificate['error']}")
        return
    role = "signed by" if certificate["signed"] else "beside it"
    click.echo(f"    {role} {certificate['subject']}")
    click.echo(f"      issuer {certificate['issuer']}")
    click.echo(f"      SHA-256 {certificate['sha256']}")
    click.echo(f"      valid {certificate['not_before']} to {certificate['not_after']}")
