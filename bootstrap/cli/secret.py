"""`doorstep secret` and `ca`: what keys keeps, and the offline root's answers to it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from bootstrap.cli.common import Place, as_json, print_json, print_table, with_place
from bootstrap.cli.value import check_value, no_value_here, read_input
from bootstrap.cli.wrap import import_

_PATH = click.Path(path_type=Path, file_okay=False)


@click.group(short_help="Store, list and remove secrets.")
def secret() -> None:
    """Secrets, by the names in site.toml. A value comes from standard input and is never shown."""


secret.add_command(import_)


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


@click.group(name="ca", short_help="Answer the appliance's certificate requests.")
def authority() -> None:
    """The site's certificates: the offline root and the two authorities of this appliance."""


@authority.command(short_help="Sign the requests of the running keys service.")
@with_place
@click.option("--offline", type=_PATH, help="Where the offline keys are now, unless SITE/offline.")
def sign(place: Place, offline: Path | None) -> None:
    """Take the requests from the running site, sign them with the offline root, install them."""
    from bootstrap.io.site_dir import sign_intermediate
    from keys.ca import Kind

    requests = place.ask("keys", "ca_requests")["requests"]
    signed = {
        f"{one['kind']}_pem": sign_intermediate(
            place.site, one["csr_pem"].encode(), Kind(one["kind"]), offline
        )
        for one in requests
    }
    answer = place.ask("keys", "ca_install", signed)
    for kind in Kind:
        end = answer.get(f"{kind.value}_not_after")
        click.echo(f"installed: {kind.value} CA" + (f", until {_time(end)}" if end else ""))


@authority.command(short_help="Write the CA of HTTPS boot, for the firmware of boxes.")
@with_place
@click.option("--out", type=_PATH, default=Path(), help="Directory to write into (here).")
def boot(place: Place, out: Path) -> None:
    """Write boot-ca.pem, and boot-ca.esl: the EFI_SIGNATURE_LIST that a firmware's TLS store takes.

    The running site makes it when site.toml says `https = true` in [boot].
    """
    from keys.boot_ca import signature_list
    from keys.ca import load_certificate

    pem = place.ask("keys", "boot_ca")["pem"]
    for name, content in (
        ("boot-ca.pem", pem.encode()),
        ("boot-ca.esl", signature_list(load_certificate(pem))),
    ):
        (out / name).write_bytes(content)
        click.echo(f"wrote {out / name}")


@authority.command(short_help="Make the root certificate again, with the same key.")
@with_place
@click.option("--offline", type=_PATH, help="Where the offline keys are now, unless SITE/offline.")
def root(place: Place, offline: Path | None) -> None:
    """Fit trust/root.pem to the domain and networks of site.toml.

    Boot sets that were built before hold the root before: build again and publish.
    """
    from bootstrap.io.site_dir import load, remake_root

    path = remake_root(place.site, load(place.site), offline)
    click.echo(f"made {path}: now run `doorstep ca sign`, and build the boot set again")


def _time(seconds: float | str) -> str:
    if isinstance(seconds, str):
        return seconds
    days = (seconds - time.time()) / 86400
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
    return f"{text} ({days:.0f} days)"
