"""What the subcommands share: the options that say which site, and how answers are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from keys.io.layout import Layout, users_from_passwd, users_from_text
from keys.io.rpc import call

SITE, STATE, RUN = Path("/etc/doorstep"), Path("/var/lib/doorstep"), Path("/run/doorstep")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path, file_okay=False)


class Place:
    """The directories of the site that was asked for; users are looked up when they are needed."""

    def __init__(self, site: Path, state: Path, run: Path, users: str | None) -> None:
        """Keep what the options said."""
        self.site, self.state, self.run = site.absolute(), state.absolute(), run.absolute()
        self.users_text = users

    def layout(self) -> Layout:
        """Give the layout with the uid of every service; SiteError when one is missing."""
        users = users_from_text(self.users_text) if self.users_text else users_from_passwd()
        return Layout(site=self.site, state=self.state, run=self.run, users=users)

    def socket(self, service: str) -> Path:
        """Path of a service's socket; needs no users."""
        return Layout(site=self.site, state=self.state, run=self.run, users={}).socket(service)

    def ask(self, service: str, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a running service."""
        return call(self.socket(service), method, params)


def with_place(command: _Command) -> Callable[..., Any]:
    """Add --site, --state, --run and --users, and pass them as `place`."""

    @click.option("--site", type=_PATH, default=SITE, show_default=True, help="The site's files.")
    @click.option("--state", type=_PATH, default=STATE, show_default=True, help="What is kept.")
    @click.option("--run", type=_PATH, default=RUN, show_default=True, help="Sockets.")
    @click.option("--users", help="name=uid,… for every service, instead of system users.")
    @wraps(command)
    def wrapped(site: Path, state: Path, run: Path, users: str | None, **rest: Any) -> Any:
        return command(place=Place(site, state, run, users), **rest)

    return wrapped


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""For every command that only reads; passed as `as_json`."""


def print_json(value: object) -> None:
    """Print a value as JSON on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns under a header; what comes from a box cannot move the terminal."""
    table = [list(header), *([plain(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        line = "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def plain(value: object) -> str:
    """Write a value without control characters; a dash for nothing."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)
