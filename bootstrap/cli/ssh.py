"""`doorstep ssh`: what SSH clients need to know this site's boxes, and to refuse those taken away.

It asks keys alone and holds no key. Exit codes: 0 done; 1 refused; 2 wrong usage, or no answer.
"""

from __future__ import annotations

from pathlib import Path

import click

from bootstrap.cli.common import Place, as_json, print_json, with_place

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(short_help="Let SSH clients know this site's boxes.")
def ssh() -> None:
    """Host certificates of boxes: whom clients trust, and whom they refuse."""


@ssh.command(short_help="Print the key that certifies host keys.")
@with_place
@as_json
def ca(place: Place, as_json: bool) -> None:
    """Print the public key of this site's SSH authority, and its fingerprint to compare."""
    found = place.ask("keys", "ssh_ca")
    if as_json:
        print_json({name: found[name] for name in ("public", "fingerprint")})
    else:
        click.echo(found["public"])
        click.echo(found["fingerprint"], err=True)


@ssh.command(name="known-hosts", short_help="Print the line that trusts this site's boxes.")
@with_place
def known_hosts(place: Place) -> None:
    """Print a line for known_hosts: clients that have it ask about no box of this site.

    Whoever takes it over a network compares the key with `doorstep ssh ca` at the appliance.
    """
    click.echo(place.ask("keys", "ssh_ca")["known_hosts"])


@ssh.command(short_help="Write the list of certificates to refuse.")
@with_place
@click.option("--out", type=_FILE, required=True, help="The file for RevokedHostKeys.")
def krl(place: Place, out: Path) -> None:
    """Write the list of host certificates that were taken back, for `RevokedHostKeys`.

    A client whose file is missing refuses every host: put it there before the option.
    """
    from bootstrap.io import site_dir
    from keys.envelope import unb64u

    answer = place.ask("keys", "ssh_krl")
    site_dir.write(out, unb64u(answer["krl"]))
    click.echo(
        f"wrote {out}: every certificate of {answer['boxes']} revoked boxes, "
        f"and {answer['certificates']} by number"
    )
