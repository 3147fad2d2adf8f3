"""`doorstep box`, `events` and `services`: what the running site knows, what a person decides."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, print_table, with_place

APPROVAL_SECONDS = 86400
FOLLOW_SECONDS = 1.0
PAGE = 200


@click.group(short_help="Look at boxes; approve or refuse one.")
def box() -> None:
    """Boxes, by id, by the start of an id (6 digits or more) or by hostname."""


@box.command(name="list", short_help="One line for each box.")
@with_place
@as_json
def list_(place: Place, as_json: bool) -> None:
    """List the boxes that this site knows or has heard, the newest change first."""
    answer = place.ask("control", "boxes")
    if as_json:
        print_json(answer)
        return
    now = time.time()
    print_table(
        ("box", "title", "stage", "since", "reason", "next"),
        [
            (
                card["key"],
                card["title"],
                card["stage"],
                _age(now - card["since"]),
                (card["reasons"] or [None])[0],
                card["next_step"] or card["quiet"],
            )
            for card in answer["cards"]
        ],
    )


@box.command(short_help="Everything about one box.")
@with_place
@click.argument("key", metavar="BOX")
@as_json
def show(place: Place, key: str, as_json: bool) -> None:
    """Show a box's stage, findings, facts and story."""
    answer = place.ask("control", "box", {"box": _full(place, key)})
    if as_json:
        print_json(answer)
        return
    card = answer["card"]
    click.echo(f"{plain(card['title'])}: {card['stage']} for {_age(time.time() - card['since'])}")
    for name, text in card["facts"]:
        click.echo(f"  {plain(name)}: {plain(text)}")
    for finding in answer["findings"]:
        click.echo(f"  {plain(finding['code'])}: {plain(finding['sentence'])}")
    for label in ("sentence", "next_step", "quiet"):
        if card[label]:
            click.echo(f"  {label.replace('_', ' ')}: {plain(card[label])}")
    for event in answer["events"]:
        _print_event(event)


@box.command(short_help="Let a box through in spite of what holds it.")
@with_place
@click.argument("key", metavar="BOX")
@click.option("--role", help="What it becomes; the default role unless given.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def approve(place: Place, key: str, role: str | None, yes: bool) -> None:
    """Approve a held box: exactly what holds it now, for 24 hours and one use.

    Its next attempt, a new proof, goes through if nothing else is against it.
    """
    full = _full(place, key)
    card = place.ask("control", "box", {"box": full})["card"]
    click.echo(f"{plain(card['title'])} is {card['stage']}: {plain(card['sentence'])}")
    click.echo(f"reasons: {', '.join(map(plain, card['reasons'])) or '-'}")
    if not yes:
        click.confirm("Let it through?", abort=True)
    params = {"box": full} | ({"role": role} if role else {})
    answer = place.ask("control", "approve", params)
    allowed = {"ek_name": answer["ek_name"], "role": answer["role"], "reasons": answer["reasons"]}
    place.ask("keys", "allow", {**allowed, "seconds": APPROVAL_SECONDS})
    click.echo(f"approved as {plain(answer['role'])} until {_time(answer['expires'])}")


@box.command(short_help="Take a box out of service.")
@with_place
@click.argument("key", metavar="BOX")
@click.option("--yes", is_flag=True, help="Do not ask.")
def refuse(place: Place, key: str, yes: bool) -> None:
    """Refuse a box for good: nothing is handed over to it again, and its name is gone from DNS."""
    full = _full(place, key)
    if not yes:
        click.confirm(f"Take {plain(full)} out of service?", abort=True)
    answer = place.ask("control", "refuse", {"box": full})
    place.ask("keys", "revoke", {"ek_name": answer["ek_name"]})
    click.echo(f"refused: {answer['box']}")


@click.command(short_help="Show what happened, and what happens.")
@with_place
@as_json
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--last", default=50, show_default=True, help="How many to begin with.")
def events(place: Place, as_json: bool, follow: bool, last: int) -> None:
    """Print events, one on each line, the oldest first."""
    newest = place.ask("control", "events", {"after": -1})["last"]
    after = max(0, newest - max(0, last))
    while True:
        answer = place.ask("control", "events", {"after": after, "limit": PAGE})
        for event in answer["events"]:
            print_json(event) if as_json else _print_event(event)
        after = max(after, answer["last"])
        if answer["events"]:
            continue
        if not follow:
            return
        time.sleep(FOLLOW_SECONDS)


@click.command(short_help="Show what each process does.")
@with_place
@as_json
def services(place: Place, as_json: bool) -> None:
    """Show which process answers. Exit code 1: one of them does not."""
    from bootstrap.io import health

    answer = health.services(place.run)
    if as_json:
        print_json(answer)
    else:
        rows = [
            (one["name"], _state(one["ok"]), _since(one["since"]), one["sentence"])
            for one in answer["services"]
        ]
        print_table(("service", "state", "since", "why"), rows)
        for notice in answer["notices"]:
            click.echo(f"note: {plain(notice)}")
    if not all(one["ok"] for one in answer["services"]):
        raise SystemExit(1)


def _full(place: Place, key: str) -> str:
    """Find the one box that a start of an id, or a hostname, means; else give the text back."""
    cards: list[dict[str, Any]] = place.ask("control", "boxes")["cards"]
    found = [card["key"] for card in cards if key in (card["key"], card["title"])]
    if not found and len(key) >= 6:
        found = [card["key"] for card in cards if card["key"].startswith(key)]
    return str(found[0]) if len(found) == 1 else key


def _print_event(event: dict[str, Any]) -> None:
    who = plain(event["box"] or event["mac"] or event["address"])
    reason = f" [{plain(event['reason'])}]" if event["reason"] else ""
    click.echo(f"{_time(event['at'])}  {who}  {plain(event['sentence'])}{reason}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _state(ok: bool) -> str:
    return "answers" if ok else "silent"


def _since(seconds: float | None) -> str:
    return "-" if seconds is None else _time(seconds)


def _age(seconds: float) -> str:
    from bootstrap.cards import age

    return age(seconds)
