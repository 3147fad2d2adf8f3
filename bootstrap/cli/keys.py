"""`doorstep keys`: what of the cache can be given, until when, and who can end or read it."""

from __future__ import annotations

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, with_place


@click.group(short_help="Explain what the cache of secrets holds.")
def keys() -> None:
    """The cache of secrets, explained. Values are never shown."""


@keys.command(short_help="Each secret: given now, until when, ended and read by whom.")
@with_place
@as_json
@click.argument("name", required=False)
def explain(place: Place, as_json: bool, name: str | None) -> None:
    """Explain every secret of site.toml, or the one of a NAME.

    Exit code 1: one of them cannot be given now.
    """
    from bootstrap.explain_keys import explain as explained

    answer = place.ask("keys", "keys_explain")
    found = explained(answer, name)
    if name is not None and not found:
        raise click.UsageError(f"site.toml has no [[secret]] named {name!r}")
    if as_json:
        print_json(
            {
                "secrets": [one.document() for one in found],
                "kept_in": answer["where"],
                "not_covered": answer["not_covered"] or None,
            }
        )
    else:
        for one in found:
            for line in one.lines():
                click.echo(plain(line))
        if answer["not_covered"]:
            click.echo(f"note: {plain(answer['not_covered'])}")
    if not all(one.served for one in found):
        raise SystemExit(1)
