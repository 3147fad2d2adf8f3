"""`doorstep trust`: which TPM makers a site trusts, where their certificates came from, and when.

Exit codes: 0 done; 1 something was refused; 2 wrong usage, or a file of this site is wrong.
`doorstep ek` is beside it (see `bootstrap.cli.ek`).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from attest.crl import Crl
from attest.io.trust import (
    PLATFORM,
    Entry,
    Imported,
    Outcome,
    import_trust,
    list_trust,
    remove_trust,
)
from bootstrap.cli.common import SITE, as_json, plain, print_json, print_table
from bootstrap.cli.ek import ek
from bootstrap.io import site_dir

__all__ = ["ek", "trust"]

_SITE = click.option(
    "--site",
    type=click.Path(path_type=Path, file_okay=False),
    default=SITE,
    show_default=True,
    help="The site's files.",
)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_PLATFORM = click.option(
    "--platform", is_flag=True, help="What makers of machines sign platform certificates with."
)
_DAY = 86_400


@click.group(short_help="Say which makers of TPMs the site trusts.")
def trust() -> None:
    """CA certificates of TPM makers, and their lists of revoked certificates.

    Nothing is ever fetched: get the files yourself, look where they came from, and import them.
    """


@trust.command(name="import", short_help="Take certificates and revocation lists into the store.")
@_SITE
@as_json
@_PLATFORM
@click.option("--from", "source", required=True, help="Where they came from, in your words.")
@click.option("--rehearsal", is_flag=True, help="Let CAs of TPMs in software in.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
def import_(
    site: Path,
    as_json: bool,
    platform: bool,
    source: str,
    rehearsal: bool,
    files: tuple[Path, ...],
) -> None:
    """Import FILES: PEM with any number of parts, DER, or PKCS #7 of certificates.

    Each certificate and list is judged by itself. Exit code 1: one of them was refused.
    """
    answers = import_trust(
        _store(site),
        [(path.name, path.read_bytes()) for path in files],
        source=source,
        now=time.time(),
        rehearsal=rehearsal,
        platform=platform,
    )
    if as_json:
        print_json({"imported": [_imported(answer) for answer in answers]})
    else:
        for answer in answers:
            if answer.outcome is not Outcome.STORED or answer.told:
                notes = "; ".join(plain(text) for text in answer.told)
                tail = f": {notes}" if notes else ""
                click.echo(f"{answer.outcome.value}: {plain(answer.title)}{tail}")
        counts = {each: sum(answer.outcome is each for answer in answers) for each in Outcome}
        click.echo(", ".join(f"{count} {each.value}" for each, count in counts.items()))
    if any(answer.outcome is Outcome.REFUSED for answer in answers):
        raise SystemExit(1)


@trust.command(name="list", short_help="Show what is trusted, and how old the lists are.")
@_SITE
@as_json
def list_(site: Path, as_json: bool) -> None:
    """List certificates and revocation lists, with their source and age."""
    now = time.time()
    store = _store(site)
    found = [(entry, False) for entry in list_trust(store)]
    found += [(entry, True) for entry in list_trust(store / PLATFORM)]
    if as_json:
        print_json({"entries": [_document(entry, platform, now) for entry, platform in found]})
        return
    header = ("title", "maker", "kind", "valid until", "fingerprint", "from", "imported", "file")
    print_table(header, [_row(entry, platform, now) for entry, platform in found])
    if not found:
        click.echo("nothing is trusted yet: boxes pass by the EK in the delivery note alone")


@trust.command(short_help="Stop trusting a certificate.")
@_SITE
@_PLATFORM
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("key", metavar="FINGERPRINT|FILE")
def remove(site: Path, platform: bool, yes: bool, key: str) -> None:
    """Remove by file name, or by a start of the fingerprint.

    Boxes whose EK certificate leads to it alone are held from then on, as EK-UNKNOWN.
    """
    store = _store(site)
    if not yes:
        click.confirm(f"Remove {plain(key)} from the trust store?", abort=True)
    removed = remove_trust(store / PLATFORM if platform else store, key)
    for entry in removed.entries:
        click.echo(f"removed: {plain(entry.title)} ({entry.kind.value}, {entry.fingerprint[:16]})")
        if not isinstance(entry.part, Crl):
            click.echo("  boxes whose EK certificate leads to it alone are now EK-UNKNOWN")
        else:
            click.echo("  nothing that it revoked is refused any more, unless another list does")
    for entry in removed.orphans:
        loss = "is not used" if isinstance(entry.part, Crl) else "is trusted by itself now"
        click.echo(f"  without its issuer: {plain(entry.title)} {loss}")


def _store(site: Path) -> Path:
    return site / site_dir.load(site).trust.ek_anchors


def _imported(answer: Imported) -> dict[str, Any]:
    return {
        "outcome": answer.outcome.name.lower(),
        "title": answer.title,
        "fingerprint": answer.fingerprint,
        "file": answer.file or None,
        "told": list(answer.told),
    }


def _document(entry: Entry, platform: bool, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": entry.title,
        "maker": entry.maker or None,
        "kind": _kind(entry, platform),
        "valid_until": None if entry.until is None else _date(entry.until),
        "fingerprint": entry.fingerprint,
        "source": entry.source,
        "imported": None if entry.imported is None else _date(entry.imported),
        "file": entry.file,
        "expired": entry.until is not None and entry.until < now,
    }
    if isinstance(entry.part, Crl):
        found |= {
            "this_update": _date(entry.part.this_update),
            "next_update": found["valid_until"],
            "age_days": int((now - entry.part.this_update) // _DAY),
            "revoked": len(entry.part.revoked),
        }
    return found


def _row(entry: Entry, platform: bool, now: float) -> tuple[object, ...]:
    until = "-" if entry.until is None else _date(entry.until)
    if entry.until is not None and entry.until < now:
        until += " (past)"
    if isinstance(entry.part, Crl):
        until += f", {int((now - entry.part.this_update) // _DAY)} days old"
    imported = None if entry.imported is None else _date(entry.imported)
    return (
        entry.title,
        entry.maker,
        _kind(entry, platform),
        until,
        entry.fingerprint[:16],
        entry.source,
        imported,
        entry.file,
    )


def _kind(entry: Entry, platform: bool) -> str:
    return f"platform {entry.kind.value}" if platform else entry.kind.value


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
