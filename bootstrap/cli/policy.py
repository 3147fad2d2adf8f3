"""`doorstep policy`: show the appraisal policy in force, and check one before it is used."""

from __future__ import annotations

from pathlib import Path

import click

from attest.policy import Policy
from attest.reasons import Reason
from bootstrap.cli.common import SITE, as_json, print_json, print_table

POLICY_FILE = "policy.toml"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group()
def policy() -> None:
    """Show or check how evidence is appraised."""


@policy.command()
@click.option("--site", type=_DIRECTORY, default=SITE, show_default=True, help="The site's files.")
@as_json
def show(site: Path, as_json: bool) -> None:
    """Print the policy in force as a file that can be changed and put into the site's directory."""
    path = site / POLICY_FILE
    found = Policy.from_toml(path.read_text(), str(path)) if path.exists() else Policy()
    if as_json:
        print_json({"file": str(path) if path.exists() else None, **_plain(found)})
        return
    origin = f"from {path}" if path.exists() else f"built in; {path} would replace it"
    click.echo(f"# {origin}\n{found.to_toml()}", nl=False)


@policy.command()
@click.argument("file", type=_FILE)
@as_json
def check(file: Path, as_json: bool) -> None:
    """Check FILE: exit code 0 when it holds, 2 with a sentence when it does not."""
    found = Policy.from_toml(file.read_text(), str(file))
    if as_json:
        print_json({"file": str(file), **_plain(found)})
        return
    click.echo(f"{file} holds; its digest is {found.digest.hex()}.")


@policy.command()
@as_json
def reasons(as_json: bool) -> None:
    """List every reason for which a box is not simply accepted, and who may release it."""
    rows = [(each.code, each.releasable_by.value, each.sentence) for each in Reason]
    if as_json:
        names = ("reason", "releasable_by", "sentence")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    print_table(("REASON", "RELEASED BY", "SENTENCE"), rows)


def _plain(found: Policy) -> dict[str, object]:
    return {
        "digest": found.digest.hex(),
        "secure_boot_required": found.secure_boot_required,
        "without_secure_boot": sorted(found.without_secure_boot),
        "rehearsal": found.rehearsal,
        "sha1_alone": found.sha1_alone,
        "crl_max_age_seconds": found.crl_max_age,
        "waive": sorted(reason.code for reason in found.waived),
        "bad_tpm_firmware": sorted(found.bad_tpm_firmware),
        "dbx_minimum": sorted(digest.hex() for digest in found.dbx_minimum),
        "allowed_keys": None
        if found.allowed_keys is None
        else sorted(digest.hex() for digest in found.allowed_keys),
        "pcr": {str(index): rule.value for index, rule in found.rules.items()},
    }
