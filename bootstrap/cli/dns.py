"""`doorstep dns`: what would be answered and why, trust anchors, their roll, zones as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import RUN, as_json, plain, print_json, print_table
from bootstrap.cli.netboot import SITE, STATE

if TYPE_CHECKING:
    from bootstrap.io.dns_offline import Offline

_PATH = click.Path(path_type=Path)
_run = click.option("--run", type=_PATH, default=RUN, show_default=True, help="Sockets.")
_file = click.option(
    "--file", type=_PATH, help="The site file of `doorstep netboot run`, instead of an appliance."
)
_state = click.option(
    "--state", type=_PATH, default=STATE, show_default=True, help="Its state, with --file."
)


@click.group(short_help="Explain answers, print trust anchors, dump zones.")
def dns() -> None:
    """Names: what would be answered to whom, and the keys that sign them."""


@dns.command(short_help="Say what would be answered, to whom, and why.")
@click.argument("name")
@click.argument("kind", metavar="[TYPE]", default="A")
@click.option("--from", "peer", default="127.0.0.1", show_default=True, help="Who asks.")
@_run
@_file
@_state
@as_json
def lookup(
    name: str, kind: str, peer: str, run: Path, file: Path | None, state: Path, as_json: bool
) -> None:
    """Show the answer to a question and the way it took; nothing is asked of others.

    Exit code 1: the answer would be an error, or would be asked of others first.
    """
    found = _lookup(name, kind.upper(), peer, _offline(file, state), run)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['code'] or 'not known yet'}")
        for line in (*found["answers"], *found["reasons"]):
            click.echo(plain(line))
    if found["code"] != "NOERROR":
        raise SystemExit(1)


def _lookup(
    name: str, kind: str, peer: str, offline: Offline | None, run: Path
) -> Mapping[str, Any]:
    if offline is None:
        answer: Mapping[str, Any] = _ask(
            run, "netboot", "dns_lookup", {"name": name, "type": kind, "peer": peer}
        )
        return answer
    from ipaddress import ip_address

    from netboot.names import labels
    from netboot.rdata import number_of

    try:
        address = str(ip_address(peer))
    except ValueError as error:
        raise click.UsageError(f"--from: {error}") from None
    said = offline.lookup(labels(name), number_of(kind), address)
    return {
        "code": said.code,
        "answers": list(said.answers),
        "reasons": list(said.reasons),
        "age": said.age,
    }


@dns.command(short_help="Print the trust anchors: DS and DNSKEY.")
@click.option("--zone", help="Another zone of this site than its domain; one key signs all.")
@_run
@_file
@_state
@as_json
def anchor(zone: str | None, run: Path, file: Path | None, state: Path, as_json: bool) -> None:
    """Print what a validator is told to trust, as lines of a zone file.

    The DS is for the parent zone, or for systemd-resolved; the DNSKEY for `delv -a` and unbound.
    """
    from keys.envelope import unb64u

    offline = _offline(file, state)
    if offline is not None:
        domain, keys = offline.plan.domain, offline.anchors()
    else:
        answer = _ask(run, "keys", "zone_anchors", {})
        domain = answer["domain"]
        keys = tuple(unb64u(one["dnskey"]) for one in answer["anchors"])
    _print_anchors(zone or domain, keys, as_json)


def _print_anchors(zone: str, keys: Iterable[bytes], as_json: bool) -> None:
    from keys.zone_keys import ds, ds_text
    from netboot.names import labels, text, wire
    from netboot.rdata import Rtype, show

    owner = labels(zone)
    rows = [
        {"ds": ds_text(ds(wire(owner), key)), "dnskey": show(Rtype.DNSKEY, key)} for key in keys
    ]
    if as_json:
        print_json({"zone": text(owner), "anchors": rows})
        return
    for row in rows:
        click.echo(f"{text(owner)} IN DS {row['ds']}")
        click.echo(f"{text(owner)} 3600 IN DNSKEY {row['dnskey']}")


@dns.command(short_help="Begin or finish to roll the key that is trusted.")
@click.option("--finish", is_flag=True, help="Drop the old key: every validator knows the new one.")
@_run
def roll(finish: bool, run: Path) -> None:
    """Draw a new key-signing key; both sign until --finish, so that nobody loses trust.

    Boxes that are handed over from now on trust both. Finish when no box knows the old one alone.
    """
    answer = _ask(run, "keys", "zone_roll", {"step": "finish" if finish else "begin"})
    tags = ", ".join(str(one["tag"]) for one in answer["anchors"])
    _ask(run, "netboot", "dns_sign", {})
    click.echo(f"zones are signed by {tags}")


@dns.command(short_help="Write a zone as a master file.")
@click.argument("zone")
@click.option("--signed", is_flag=True, help="With signatures, keys and NSEC3.")
@_run
@_file
@_state
def dump(zone: str, signed: bool, run: Path, file: Path | None, state: Path) -> None:
    """Print every record of a zone, as it is served now."""
    offline = _offline(file, state)
    if offline is None:
        answer = _ask(run, "netboot", "dns_dump", {"zone": zone, "signed": signed})
        click.echo(answer["text"], nl=False)
        return
    from netboot.plan_dns import origin_of

    click.echo(offline.dump(origin_of(zone), signed=signed), nl=False)


@dns.command(short_help="Show how old the answers of pinned names are.")
@_run
@as_json
def pinned(run: Path, as_json: bool) -> None:
    """List the pinned names with the age of what is remembered of each."""
    ages = _ask(run, "netboot", "dns_pinned", {})["pinned"]
    if as_json:
        print_json(ages)
        return
    rows = [(name, "never answered" if age is None else _age(age)) for name, age in ages.items()]
    print_table(("NAME", "AGE"), rows)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"


def _ask(run: Path, service: str, method: str, params: Mapping[str, Any]) -> Any:
    from keys.io.rpc import call

    return call(run.absolute() / service / "socket", method, params)


def _offline(file: Path | None, state: Path) -> Offline | None:
    if file is None:
        return None
    from bootstrap.io.dns_offline import Offline

    named = file / SITE.name if file.is_dir() else file
    return Offline(named.absolute(), state.absolute())
