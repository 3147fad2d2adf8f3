"""`doorstep autonomy`: what of this site ends without the WAN, the first one first."""

from __future__ import annotations

import time
from typing import Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, print_table, with_place


@click.command(short_help="Say until when the site runs on its own.")
@with_place
@as_json
def autonomy(place: Place, as_json: bool) -> None:
    """List what ends without a line to the WAN: leases, secrets, certificates, boot sets, lists.

    Days are those of this controller's clock. A lease counts switched-on time and starts: its day
    comes later where the controller is off, sooner where it is restarted. Exit
    code 1: something that somebody must renew has ended.
    """
    from bootstrap.cards import age

    answer = place.ask("control", "services")["autonomy"]
    now = time.time()
    if as_json:
        print_json(answer)
    else:
        click.echo(plain(answer["sentence"]))
        rows = [
            (_day(one), _left(one, now, age), one["kind"], one["name"], one["renewed"])
            for one in answer["all"]
        ]
        print_table(("ends", "in", "what", "name", "renewed by"), rows)
        for one in answer["first"]:
            click.echo(f"{plain(one['kind'])} {plain(one['name'])}: then {plain(one['then'])}.")
            click.echo(f"  {plain(one['remedy'])}")
    if any(one["ends"] <= now for one in answer["first"]):
        raise SystemExit(1)


def _day(one: dict[str, Any]) -> str:
    from bootstrap.lease_words import day

    if one["ends"] is None:
        return "never"
    return f"{day(one['ends'])}{' switched on' if one['powered'] else ''}"


def _left(one: dict[str, Any], now: float, age: Any) -> str:
    if one["ends"] is None:
        return ""
    left = one["ends"] - now
    return str(age(left)) if left > 0 else "ended"
