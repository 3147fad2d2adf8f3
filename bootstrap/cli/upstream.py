"""`doorstep upstream`: where secrets come from, and this site's logins there."""

from __future__ import annotations

import time
import tomllib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, print_table, with_place

if TYPE_CHECKING:
    from keys.upstream import UpstreamRule


@click.group(short_help="Log in where secrets come from; look at it.")
def upstream() -> None:
    """Upstreams, by the names of [[upstream]] in site.toml: Barbican, or KV v2 of a vault."""


@upstream.command(short_help="Store a login: doorstep upstream login NAME < FILE")
@with_place
@click.argument("name")
@click.argument("value", nargs=-1, metavar="")
def login(place: Place, name: str, value: tuple[str, ...]) -> None:
    """Store the login of this site at an upstream, as JSON; the one before is forgotten.

    It lies in the cache as a secret of tier site: without a lease nobody logs in with it.
    `doorstep secret remove upstream/NAME` forgets it.
    """
    from bootstrap.cli.value import no_value_here, read_value
    from keys.envelope import b64u
    from keys.io.rpc import RpcUnavailableError
    from keys.secret import Secret
    from keys.upstream_credentials import read_credential

    command = f"doorstep upstream login {name}"
    no_value_here(value, command)
    data = read_value(name, command, keep_newline=False)
    read_credential(_rule(place, name), Secret(data))
    stored = place.ask("keys", "upstream_login", {"upstream": name, "login": b64u(data)})
    click.echo(f"stored the login of {name}, version {stored['version']}: it is tried now")
    with suppress(RpcUnavailableError):
        place.ask("sync", "renew", {"upstream": name})


@upstream.command(name="list", short_help="When each answered last, and what is wrong.")
@with_place
@as_json
def list_(place: Place, as_json: bool) -> None:
    """List the upstreams and what came from them; never a value.

    A version that was not confirmed for twice as long as usual may be stale. Exit code 1: something
    needs a person, as `doorstep services` says too.
    """
    status = place.ask("sync", "status")
    secrets = [one for one in place.ask("keys", "secret_list")["secrets"] if one.get("source")]
    if as_json:
        print_json({**status, "secrets": secrets})
    else:
        _print(status, secrets)
    if status["sentences"] or any(one["reason"] for one in secrets):
        raise SystemExit(1)


@upstream.command(short_help="Ask for its secrets now.")
@with_place
@click.argument("name", required=False)
def renew(place: Place, name: str | None) -> None:
    """Ask one upstream, or all, for every secret now, whatever sync waits for."""
    params = {} if name is None else {"upstream": name}
    count = place.ask("sync", "renew", params)["secrets"]
    click.echo(f"{count} secrets are asked for: `doorstep upstream list` shows what came of it")


def _rule(place: Place, name: str) -> UpstreamRule:
    """Read one [[upstream]] and nothing else of the site file."""
    from bootstrap.errors import SiteError
    from keys.upstream import upstream_rules

    path = place.site / "site.toml"
    try:
        rule = upstream_rules(tomllib.loads(path.read_text())).get(name)
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}: correct it") from error
    if rule is None:
        raise click.UsageError(f"{path} has no [[upstream]] named {name}: add it")
    return rule


def _print(status: dict[str, Any], secrets: list[dict[str, Any]]) -> None:
    now = time.time()
    print_table(
        ("upstream", "kind", "answered", "login ends", "secrets", "due", "trouble"),
        [
            (
                one["name"],
                one["kind"],
                _ago(one["success"], now),
                "no login" if one["login"] is None else _day(one["login_ends"]),
                one["secrets"],
                one["due"],
                one["trouble"],
            )
            for one in status["upstreams"]
        ],
    )
    if secrets:
        click.echo()
        print_table(
            ("secret", "source", "version", "confirmed", "reason"),
            [
                (
                    one["name"],
                    one["source"],
                    one["upstream_version"],
                    _ago(one["seen"], now) + (", may be stale" if one["maybe_stale"] else ""),
                    one["reason"],
                )
                for one in secrets
            ],
        )
    for text in status["sentences"]:
        click.echo(f"note: {plain(text)}")


def _ago(at: float | None, now: float) -> str:
    from bootstrap.cards import age

    return "never" if at is None else f"{age(now - at)} ago"


def _day(at: float | None) -> str:
    from bootstrap.lease_words import day

    return "not known" if at is None else day(at)
