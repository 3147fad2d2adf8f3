"""`doorstep watch`: who else serves on the site's networks, and who of them belongs there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bootstrap.cli.common import SITE, as_json, plain, print_json, print_table

if TYPE_CHECKING:
    from netboot.events import Event

_PATH = click.Path(path_type=Path, file_okay=False)
_site = click.option(
    "--site", type=_PATH, default=SITE, show_default=True, help="The site's files."
)
_seconds = click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=20, show_default=True, help="How long."
)


@click.group()
def watch() -> None:
    """Hear other DHCP, boot and TFTP servers, IPv6 routers, and changed gateways."""


@watch.command("run")
@_site
@click.option("--seconds", type=click.FloatRange(min=1), help="End after this time.")
@as_json
def run_watch(site: Path, seconds: float | None, as_json: bool) -> None:
    """Print what is heard, without the other services, until interrupted.

    Exit code 1 when anybody was heard who is not on the list.
    """
    found: list[Event] = []

    def tell(events: Iterable[Event]) -> None:
        for event in events:
            found.append(event)
            _print(event, as_json)

    _listen(site, seconds, tell)
    if any(event.reason for event in found):
        raise SystemExit(1)


@watch.command()
@_site
@_seconds
@click.option("--yes", is_flag=True, help="Allow everybody who is heard without asking.")
def learn(site: Path, seconds: float, yes: bool) -> None:
    """Listen, then ask about each sender whether it belongs here, and keep the answers.

    Do this at set-up, when only what you know is plugged in.
    """
    from bootstrap.io.rogue_watch import read_allowed
    from bootstrap.io.site_dir import write
    from netboot.allowed import FILE, encode_allowed
    from netboot.watch import Allowed, Role

    heard: dict[Allowed, str] = dict.fromkeys(read_allowed(site), "")

    def tell(events: Iterable[Event]) -> None:
        for event in events:
            detail = dict(event.detail)
            if event.mac is None:
                continue
            one = Allowed(
                role=Role(str(detail["role"])), mac=event.mac, address=str(detail["sender"])
            )
            heard.setdefault(one, plain(detail.get("maker", "")))

    known = set(heard)
    click.echo(f"listening for {seconds:.0f} s")
    _listen(site, seconds, tell)
    for one in [one for one in heard if one not in known]:
        text = f"{one.role} {one.address} ({one.mac.hex(':')}, {heard[one] or 'unknown maker'})"
        if not (yes or click.confirm(f"{text}: does it belong here?")):
            del heard[one]
    if set(heard) == known:
        click.echo("nothing new is allowed")
        return
    write(site / FILE, encode_allowed(heard.items()))
    click.echo(f"{site / FILE}: {len(heard)} allowed")


@watch.command("list")
@_site
@as_json
def list_allowed(site: Path, as_json: bool) -> None:
    """List who is allowed beside us."""
    from bootstrap.io.rogue_watch import read_allowed

    rows = [(one.role.value, one.mac.hex(":"), one.address or "any") for one in read_allowed(site)]
    if as_json:
        print_json([dict(zip(("role", "mac", "address"), row, strict=True)) for row in rows])
        return
    print_table(("ROLE", "MAC", "ADDRESS"), rows)


def _listen(site: Path, seconds: float | None, tell: object) -> None:
    from bootstrap.io.rogue_watch import RogueWatch

    rogue = RogueWatch(site, tell)  # type: ignore[arg-type]
    end = None if seconds is None else time.monotonic() + seconds
    said: set[str] = set()
    try:
        while end is None or time.monotonic() < end:
            rogue.turn(0.25)
            for sentence in rogue.sentences(time.time()):
                if sentence not in said and not sentence.startswith("another"):
                    said.add(sentence)
                    click.echo(plain(sentence), err=True)
    except KeyboardInterrupt:
        pass
    finally:
        rogue.close()


def _print(event: Event, as_json: bool) -> None:
    document = {
        "at": event.at,
        "kind": event.kind.value,
        "mac": event.mac.hex(":") if event.mac else None,
        "reason": event.reason,
        "detail": dict(event.detail),
    }
    if as_json:
        print_json(document)
        return
    detail = " ".join(f"{key}={value}" for key, value in event.detail)
    click.echo(plain(f"{event.kind.value} mac={document['mac']} {detail}"))
