"""`doorstep audit`: whether what this site wrote down is whole."""

from __future__ import annotations

import click

from bootstrap.cli.common import Place, as_json, print_json, with_place


@click.group(short_help="Check the record of every read, refusal, lease and revocation.")
def audit() -> None:
    """The audit of keys: one chain of entries, anchored in the controller's TPM."""


@audit.command(short_help="Find entries that were cut off, changed, moved or put back.")
@with_place
@as_json
def verify(place: Place, as_json: bool) -> None:
    """Check the whole chain against itself and against the TPM. Exit code 1: it does not hold."""
    found = place.ask("keys", "audit_verify")
    if as_json:
        print_json(found)
    else:
        for text in found["problems"]:
            click.echo(f"problem: {text}")
        verdict = "does not hold" if found["problems"] else "holds"
        click.echo(
            f"the audit {verdict}: {found['entries']} entries, "
            f"{found['anchored']} of them anchored in the TPM"
        )
        for text in found["notes"]:
            click.echo(f"note: {text}")
    if found["problems"]:
        raise SystemExit(1)
