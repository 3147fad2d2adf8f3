"""`doorstep run`, `rehearse` and the hidden `service`: processes in the foreground."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

import click

from bootstrap.cli.common import SITE, Place, with_place

SITE_FILE = "site.toml"
_PATH = click.Path(path_type=Path, file_okay=False)


@click.command(short_help="Run the whole appliance (as root).")
@with_place
def run(place: Place) -> None:
    """Run every process of the appliance as its own user, until SIGTERM.

    One line is printed for each event. On a machine with systemd, the units do the same.
    """
    from bootstrap.io.supervisor import run as supervise

    supervise(place.layout(), _report)


@click.command(short_help="Enrol a virtual box before anybody travels.")
@click.option("--site", type=_PATH, help=f"Settings; {SITE}, or the shipped example without one.")
@click.option("--work", type=_PATH, help="Where the rehearsal works; kept afterwards.")
@click.option(
    "--via",
    type=click.Choice(["pxe", "http", "iso"]),
    default="pxe",
    show_default=True,
    help="How the box is started.",
)
@click.option("--attacks", is_flag=True, help="Then attack the site, and show what is refused.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON at the end; the story to stderr.")
def rehearse(site: Path | None, work: Path | None, via: str, attacks: bool, as_json: bool) -> None:
    """Boot a virtual box with firmware, Secure Boot and TPM and enrol it at a copy of the site.

    It has its own state, root, anchors and secrets, in a network of its own; the real site is only
    read. Exit code 1: something did not go as it must.
    """
    from bootstrap.rehearsal.run import rehearse as play

    if site is None and (SITE / SITE_FILE).exists():
        site = SITE
    result = play(
        site=site.absolute() if site else None,
        work=work.absolute() if work else None,
        via=via,
        as_json=as_json,
        attacks=attacks,
    )
    if not result.ok:
        raise SystemExit(1)


@click.group(hidden=True)
def service() -> None:
    """Run one process in the foreground, as the units and `doorstep run` do."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


@service.command()
@with_place
def keys(place: Place) -> None:
    """Run the only process that can read a secret."""
    import_module("keys.io.service").main(place.layout())


@service.command()
@with_place
def control(place: Place) -> None:
    """Run the process that appraises and decides."""
    import_module("bootstrap.io.control").main(place.layout())


@service.command()
@with_place
def netboot(place: Place) -> None:
    """Run DHCP, TFTP, HTTP boot files and DNS."""
    import_module("netboot.io.service").main(place.layout())


@service.command()
@with_place
def watch(place: Place) -> None:
    """Run the watch for others who serve on the site's networks."""
    import_module("bootstrap.io.rogue_watch").main(place.layout())


@service.command()
@with_place
def sync(place: Place) -> None:
    """Run what fetches secrets from upstreams and hands them to keys."""
    import_module("bootstrap.io.sync").main(place.layout())


@service.command()
@with_place
def nginx(place: Place) -> None:
    """Run TLS in front of phone-home and page."""
    import_module("bootstrap.io.nginx").main(place.layout())


@service.command()
@with_place
def enroll(place: Place) -> None:
    """Run the courier between boxes and control."""
    from bootstrap.io import enroll as module
    from bootstrap.io.nginx import HTTP_SOCKET
    from bootstrap.io.wsgi import serve

    app = module.create_app(place.socket("control"))
    serve(app, place.run / "enroll" / HTTP_SOCKET, threads=16, seconds=60)


@service.command()
@with_place
def page(place: Place) -> None:
    """Run the technician's page."""
    from bootstrap.io import page as module
    from bootstrap.io.nginx import HTTP_SOCKET
    from bootstrap.io.wsgi import serve

    app = module.create_app(place.socket("control"))
    serve(app, place.run / "page" / HTTP_SOCKET, threads=40, seconds=60)


def _report(line: str) -> None:
    click.echo(f"doorstep: {line}")
