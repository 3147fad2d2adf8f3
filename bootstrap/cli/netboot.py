"""`doorstep netboot`: DHCP, TFTP, HTTP boot files and DNS alone; what a client would be told."""

from __future__ import annotations

import sys
from pathlib import Path

import click

STATE = Path("/var/lib/doorstep-netboot")
SITE = Path("/etc/doorstep/site.toml")
_SITE = click.option(
    "--site",
    "file",
    type=click.Path(path_type=Path),
    default=SITE,
    show_default=True,
    help="The site file, or its directory.",
)
_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=STATE,
    show_default=True,
    help="Leases, and boot sets if there are any; a directory of its own.",
)


@click.group(short_help="Run netboot alone; explain an offer.")
def netboot() -> None:
    """DHCP, TFTP, HTTP boot files and DNS without the other services."""


@netboot.command(short_help="Serve in the foreground until SIGTERM.")
@_SITE
@_STATE
@click.option("--probe/--no-probe", default=True, help="Look for another DHCP server first.")
def run(file: Path, state: Path, probe: bool) -> None:
    """Serve what the site file says, as root or with CAP_NET_BIND_SERVICE and CAP_NET_RAW.

    `[site]` with id and domain and one `[[subnet]]` are enough. A change of the file takes effect
    without a restart, SIGHUP reads it at once; one that cannot be served changes nothing.
    """
    from bootstrap.io.netboot_run import serve

    serve(_file(file), state.absolute(), probe=probe, say=_say)


def _file(file: Path) -> Path:
    return (file / SITE.name if file.is_dir() else file).absolute()


def _say(sentence: str) -> None:
    sys.stderr.write(f"doorstep: {sentence}\n")
    sys.stderr.flush()
