"""`doorstep secret`: the values that keys keeps; what comes in is never shown again."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click

from bootstrap.cli.common import Place, as_json, print_json, print_table, with_place
from bootstrap.cli.seed import take as take_seeds
from bootstrap.cli.value import check_value, no_value_here, read_input
from bootstrap.cli.wrap import import_


@click.group(short_help="Store, list and remove secrets.")
def secret() -> None:
    """Secrets, by the names in site.toml. A value comes from standard input and is never shown."""


secret.add_command(import_)
secret.add_command(take_seeds, "seed")


@secret.command(short_help="Store a value: doorstep secret put NAME < FILE")
@with_place
@click.argument("name")
@click.option("--until", metavar="DAY", help="The day a license or blob ends on: 2027-01-31.")
@click.option("--keep-newline", is_flag=True, help="Keep a line's end at the end of the value.")
@click.argument("value", nargs=-1, metavar="")
def put(
    place: Place, name: str, until: str | None, keep_newline: bool, value: tuple[str, ...]
) -> None:
    """Store a new version of a secret; its ttl begins now.

    One line's end at the end of a plain value is left away. A license, certificate or blob is a
    file: it is kept to the last byte, up to 64 KiB, and ends on its own day.
    """
    command = f"doorstep secret put {name}"
    no_value_here(value, command)
    read = read_input(name)
    data = check_value(read, name, command, keep_newline=keep_newline)
    listed = place.ask("keys", "secret_list")["secrets"]
    if any(one["name"] == name and one["kind"] != "secret" for one in listed):
        data = check_value(read, name, command, keep_newline=True)
    from keys.envelope import b64u

    asked = {"name": name, "value": b64u(data)} | ({"until": until} if until else {})
    answer = place.ask("keys", "secret_put", asked)
    click.echo(f"stored {name}, version {answer['version']}, until {_time(answer['expires'])}")
    if answer["source"]:
        click.echo(f"note: it comes from {answer['source']}: the next renewal replaces this value")


@secret.command(name="list", short_help="Which secrets can be handed over, and until when.")
@with_place
@as_json
def list_(place: Place, as_json: bool) -> None:
    """List the secrets of site.toml; never a value. Exit code 1: one cannot be handed over."""
    secrets = place.ask("keys", "secret_list")["secrets"]
    if as_json:
        print_json({"secrets": secrets})
    else:
        print_table(
            ("name", "kind", "tier", "version", "usable until", "reason"),
            [
                (
                    one["name"],
                    one["kind"],
                    one["tier"],
                    one.get("version"),
                    _time(one["usable_until"]) if "usable_until" in one else None,
                    one["reason"],
                )
                for one in secrets
            ],
        )
        for text in (place.ask("keys", "status").get("not_covered"),):
            if text:
                click.echo(f"note: {text}")
    if any(one["reason"] for one in secrets):
        raise SystemExit(1)


@secret.command(short_help="Forget a secret.")
@with_place
@click.argument("name")
def remove(place: Place, name: str) -> None:
    """Remove a secret; boxes that have it keep it. Exit code 1: there was none."""
    done = place.ask("keys", "secret_remove", {"name": name})
    if done["source"]:
        again = "what was withdrawn may come again" if done["lifted"] else "it is fetched again"
        click.echo(f"note: {name} comes from {done['source']}: {again}, unless site.toml says not")
    if not done["removed"] and not done["lifted"]:
        click.echo(f"there was no value of {name}")
        raise SystemExit(1)
    if not done["removed"]:
        return
    click.echo(f"removed {name}: change it where it is used, boxes may still have it")


def _time(seconds: float | str) -> str:
    if isinstance(seconds, str):
        return seconds
    days = (seconds - time.time()) / 86400
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
    return f"{text} ({days:.0f} days)"
