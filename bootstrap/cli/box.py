"""`doorstep box`, `events` and `services`: what the running site knows, what a person decides."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, print_table, with_place
from keys.errors import KeysError

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
@click.option("--events", "--changes", "changes", is_flag=True, help="Event by event, with PCRs.")
@as_json
def show(place: Place, key: str, changes: bool, as_json: bool) -> None:
    """Show a box's stage, findings, facts and story.

    With --events also what the box measured in its last session: each event that differs from the
    nearest boot set. What is not proven by a digest is marked as a claim.
    """
    asked = {"box": _full(place, key), "changes": changes or as_json}
    answer = place.ask("control", "box", asked)
    if as_json:
        print_json(answer)
        return
    card = answer["card"]
    click.echo(f"{plain(card['title'])}: {card['stage']} for {_age(time.time() - card['since'])}")
    for name, text in card["facts"]:
        click.echo(f"  {plain(name)}: {plain(text)}")
    for label in ("sentence", "next_step", "quiet"):
        if card[label]:
            click.echo(f"  {label.replace('_', ' ')}: {plain(card[label])}")
    if answer["box"] and answer["box"]["tier"]:
        click.echo(f"  proved: {plain(answer['box']['tier'])}")
    if answer["evidence"]:
        click.echo(f"  judge it again: doorstep verify {plain(answer['evidence'])}")
    _print_findings("findings", answer["findings"])
    _print_findings("released by note or policy", answer["released"])
    if answer["box"]:
        _print_withheld(answer["box"]["withheld"])
    if changes and answer["result"]:
        _print_result(answer["result"])
    _print_served(answer["served"])
    click.echo("\nstory:")
    for event in answer["events"]:
        _print_event(event)


def _print_findings(title: str, findings: list[dict[str, Any]]) -> None:
    if not findings:
        return
    click.echo(f"\n{title}:")
    for one in findings:
        click.echo(f"  {plain(one['code'])}: {plain(one['sentence'])}")
        for label in ("detail", "releasable_by", "next_step"):
            if one[label]:
                click.echo(f"    {label.replace('_', ' ')}: {plain(one[label])}")


def _print_withheld(secrets: list[dict[str, Any]]) -> None:
    if secrets:
        click.echo("\nsecrets that it runs without:")
    for one in secrets:
        said = f" (its screen says {one['said']})" if one.get("said") else ""
        click.echo(f"  {plain(one['name'])}: {plain(one['reason'])}{plain(said)}")
        if one.get("next_step"):
            click.echo(f"    next step: {plain(one['next_step'])}")


def _print_served(files: list[dict[str, Any]]) -> None:
    """List what the last start was sent, in order, with the boot set that it was sent for."""
    if not files:
        return
    for boot_set in dict.fromkeys(one["boot_set"] for one in files):
        click.echo(f"\nwas sent, of boot set {plain(boot_set or 'unknown')}:")
        for one in files:
            if one["boot_set"] == boot_set:
                whole = "whole" if one["done"] else f"{one['sent']} of"
                about = f"{whole} {one['size']} bytes by {one['transport']}"
                click.echo(f"  {_time(one['at'])} {plain(one['name'])}: {plain(about)}")
                if one["sha256"]:
                    click.echo(f"    sha256 {plain(one['sha256'])}")


_CHANGES = ("pcr", "kind", "what", "expected", "measured", "expected text", "proven", "unproven")


def _print_result(result: dict[str, Any]) -> None:
    if result.get("problem"):
        click.echo(f"\nthe archive: {plain(result['problem'])}")
        return
    click.echo(f"\nlast session: {plain(result['verdict'])}, {plain(result['tier'])}")
    for title in ("not_checked", "workarounds", "not_covered"):
        for one in result[title]:
            click.echo(f"  {title.replace('_', ' ')}: {plain(one)}")
    if not result["changes"]:
        click.echo("no event of the boot differs from what was predicted")
        return
    click.echo(f"\nevents that differ from {plain(result['nearest'])}:")
    rows = [
        (
            one.get("pcr"),
            one.get("kind"),
            one.get("label"),
            str(one.get("expected") or "")[:16],
            str(one.get("measured") or "")[:16],
            one.get("expected_text"),
            one.get("text"),
            f"claim: {one['claim']}" if one.get("claim") else None,
        )
        for one in result["changes"]
    ]
    print_table(_CHANGES, rows)
    if result["more_changes"]:
        click.echo(f"and {result['more_changes']} more: see `doorstep verify`")


@box.command(short_help="Let a box through in spite of what holds it.")
@with_place
@click.argument("key", metavar="BOX")
@click.option("--role", help="What it becomes; the default role unless given.")
@click.option("--claim", default="", help="What the technician beside the box reads on its label.")
@click.option("--reason", "reasons", multiple=True, help="Only if exactly these hold it (repeat).")
@click.option("--yes", is_flag=True, help="Do not ask.")
def approve(
    place: Place, key: str, role: str | None, claim: str, reasons: tuple[str, ...], yes: bool
) -> None:
    """Approve a held box: exactly what holds it now, for 24 hours and one use.

    Its next attempt, a new proof, goes through if nothing else is against it.
    """
    full = _full(place, key)
    answer = place.ask("control", "box", {"box": full})
    card, offered = answer["card"], answer["approval"] or {}
    click.echo(f"{plain(card['title'])} is {card['stage']}: {plain(card['sentence'])}")
    _print_findings("reasons", answer["findings"])
    _check_offer(card, offered, claim, reasons)
    click.echo(f"measurements: {plain(offered['measurements'])}")
    if claim:
        click.echo(f"the technician says: {plain(claim)}")
    if not yes:
        click.confirm("Let it through?", abort=True)
    seen = {name: offered[name] for name in ("reasons", "measurements")}
    _allow(place, offered, role or offered["role"], claim)
    try:
        done = place.ask(
            "control",
            "approve",
            {"box": full, "claim": claim, **seen, **({"role": role} if role else {})},
        )
    except KeysError:
        # What control does not approve, keys is not to allow.
        place.ask("keys", "disallow", {"ek_name": offered["ek_name"]})
        raise
    click.echo(f"approved as {plain(done['role'])} until {_time(done['expires'])}")


def _check_offer(
    card: dict[str, Any], offered: dict[str, Any], claim: str, reasons: tuple[str, ...]
) -> None:
    """Stop with a sentence before anything is allowed anywhere."""
    if not offered:
        offered = {"problem": f"only a held box can be approved: this one is {card['stage']}"}
    if "problem" in offered:
        raise click.ClickException(plain(offered["problem"]))
    if reasons and set(reasons) != set(offered["reasons"]):
        held = ", ".join(map(plain, offered["reasons"]))
        raise click.ClickException(f"it is held for {held}: nothing was approved")
    if offered["needs_claim"] and not claim.strip():
        raise click.ClickException(
            "a reason needs the word of the technician beside the box as well: say with --claim"
            " what is written on its label"
        )


def _allow(place: Place, offered: dict[str, Any], role: str | None, claim: str) -> None:
    """Tell keys first: a box that control lets through is not turned away there."""
    if role is None:
        raise click.ClickException("no role is the default: say with --role what it becomes")
    params = {name: offered[name] for name in ("ek_name", "reasons", "sealed")}
    place.ask(
        "keys", "allow", {**params, "role": role, "claim": claim, "seconds": APPROVAL_SECONDS}
    )


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
