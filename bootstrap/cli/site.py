"""`doorstep init`, `check` and `note`: a site's own files, offline."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import click

from bootstrap.cli.common import Place, as_json, print_json, with_place
from bootstrap.io import site_dir
from bootstrap.site import Problem, Severity, SiteFileError

_PATH = click.Path(path_type=Path, file_okay=False)
_OFFLINE = click.option(
    "--offline", type=_PATH, help="Where the offline keys are now (a stick), unless SITE/offline."
)


class _Parsed(click.ParamType[Any]):
    """An address or a network."""

    def __init__(self, name: str, parse: Any) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; the error names the option."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="Make a new site that works as it is.")
@click.argument("directory", type=_PATH)
@click.option("--id", "site_id", default="shop-0417", show_default=True, help="Permanent.")
@click.option("--domain", help="Served at the site; <id>.example.net unless given.")
@click.option("--title", help="What people call the site.")
@click.option("--interface", default="eth1", show_default=True, help="Where the boxes are.")
@click.option(
    "--network",
    type=_Parsed("network", IPv4Network),
    default="10.41.7.0/24",
    show_default=True,
    help="Of that interface.",
)
@click.option("--appliance", type=_Parsed("address", IPv4Address), help="Our address in it.")
def init(
    directory: Path,
    site_id: str,
    domain: str | None,
    title: str | None,
    interface: str,
    network: IPv4Network,
    appliance: IPv4Address | None,
) -> None:
    """Make DIRECTORY with a site file, a template, the site's keys and an empty delivery note.

    Nothing that is there is overwritten.
    """
    new = site_dir.NewSite(
        id=site_id,
        domain=domain or f"{site_id}.example.net",
        interface=interface,
        network=network,
        appliance=appliance,
        title=title,
    )
    for path in site_dir.init(directory, new):
        click.echo(f"made {path}")
    click.echo(_NEXT.format(site=directory))


_NEXT = """
What comes next:
 1. Read {site}/site.toml and make it yours; after a change of domain or networks run
    `doorstep ca root --site {site}`.
 2. `doorstep check --site {site}` says what is wrong, all at once.
 3. List your boxes in {site}/delivery.csv and sign it: `doorstep note sign --site {site}`.
 4. Move {site}/offline to a stick and keep that away from here: its two keys are the site.
    `note sign`, `ca sign` and `bootset build` need them (--offline).
 5. `doorstep bootset build`, `rehearse`, `publish`: what the boxes will start.
 6. `doorstep rehearse --site {site}` enrols a virtual box before anybody travels.
 7. `doorstep run --site {site}`, then once `doorstep ca sign`, and
    `doorstep secret put NAME < FILE` for each secret."""


@click.command(short_help="List everything that is wrong with a site.")
@with_place
@as_json
def check(place: Place, as_json: bool) -> None:
    """Check the site file and all that lies beside it, offline. Exit code 1: there are errors."""
    try:
        site, problems = site_dir.check_site(place.site, place.state)
    except SiteFileError as error:
        site, problems = None, error.problems
    errors = site_dir.errors_of(problems)
    if as_json:
        print_json({"ok": not errors, "problems": [_document(one) for one in problems]})
    else:
        for one in problems:
            click.echo(f"{one.severity.value}: {one}")
        name = site.site.id if site else "the site"
        click.echo(f"{name}: {len(errors)} errors" if errors else f"{name} is in order")
    if errors:
        raise SystemExit(1)


def _document(problem: Problem) -> dict[str, object]:
    return {
        "severity": problem.severity.value,
        "file": problem.file,
        "key": problem.key or None,
        "what": problem.what,
        "remedy": problem.remedy,
        "stops": problem.severity is Severity.ERROR,
    }


@click.group(short_help="Sign the delivery note with the offline key.")
def note() -> None:
    """The signed list of the boxes that were sent here."""


@note.command(short_help="Sign delivery.csv, its counter one above the last.")
@with_place
@_OFFLINE
def sign(place: Place, offline: Path | None) -> None:
    """Sign the delivery note; an older signature is refused by the site from then on."""
    site = site_dir.load(place.site)
    path, counter = site_dir.sign_note(place.site, site, offline)
    click.echo(f"signed {path} with counter {counter}")
