"""`doorstep seed`: secrets that come by stick, encrypted for one appliance and signed for its site.

`pack` runs at headquarters, without a running site; `recipient` and `take` on the appliance. Exit
codes: 0 done; 1 the site refuses it; 2 wrong usage, or a file is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import SITE, Place, plain, print_table, with_place
from bootstrap.cli.lease import AUTHORITY

if TYPE_CHECKING:
    from keys.parcel import Item

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
SECONDS = 120.0


@click.group(short_help="Secrets by stick, for one appliance.")
def seed() -> None:
    """A seed holds secrets for one appliance: made at headquarters, opened inside keys alone."""


@seed.command(short_help="Say for whom seeds are to be packed (on the appliance).")
@with_place
@click.option("--out", type=_NEW, required=True, help="The file for headquarters.")
def recipient(place: Place, out: Path) -> None:
    """Write the public half of this appliance's key for seeds; its TPM quotes it.

    It is no secret. Without a TPM, read the fingerprint out to headquarters.
    """
    from bootstrap.io import site_dir
    from keys.parcel import asked_document, fingerprint

    found = place.ask("keys", "seed_recipient")
    site_dir.write(out, asked_document(found["site"], found["recipient"], found["request"]))
    click.echo(f"wrote {out}: take it to headquarters")
    click.echo(f"fingerprint {fingerprint(found['recipient'])}")


@seed.command(short_help="Encrypt secrets for one appliance (at headquarters).")
@click.option("--for", "asker", type=_FILE, required=True, help="What `seed recipient` wrote.")
@click.option("--site", type=_DIRECTORY, default=SITE, show_default=True, help="Its site's files.")
@click.option("--counter", type=click.IntRange(1), help="Above the last one [seconds since 1970].")
@click.option("--version", "versions", multiple=True, metavar="NAME=N", help="Instead of the next.")
@click.option(
    "--until", "ends", multiple=True, metavar="NAME=DAY", help="Its last day, 2027-01-31."
)
@click.option("--authority", type=_DIRECTORY, default=AUTHORITY, help="Of leases, for its ledger.")
@click.option("--compared", is_flag=True, help="No TPM: I compared the fingerprint by telephone.")
@click.option("--offline", type=_DIRECTORY, help="Where the offline keys are, unless SITE/offline.")
@click.option("--keep-newline", is_flag=True, help="Keep a line's end at the end of the values.")
@click.option("--out", type=_NEW, default=Path("seed.age"), show_default=True)
@click.argument("secrets", nargs=-1, required=True, metavar="NAME=FILE…")
def pack(
    asker: Path,
    site: Path,
    counter: int | None,
    versions: tuple[str, ...],
    ends: tuple[str, ...],
    authority: Path,
    compared: bool,
    offline: Path | None,
    keep_newline: bool,
    out: Path,
    secrets: tuple[str, ...],
) -> None:
    """Write seed.age and seed.age.minisig: each NAME with the value that FILE holds."""
    from bootstrap.io import offsite

    wanted = recipient_of(asker, site, authority, compared=compared)
    items = _items(_pairs(secrets), _pairs(versions), _pairs(ends), keep_newline=keep_newline)
    number = counter or int(time.time())
    for path in offsite.pack(site, items, wanted, number, out, offline):
        click.echo(f"wrote {path} and {path.name}.minisig: take both to the appliance")


@seed.command(short_help="Take a seed (on the appliance).")
@with_place
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
def take(place: Place, yes: bool, files: tuple[Path, ...]) -> None:
    """Take FILE, with FILE.minisig beside it: says what it changes, then does it at once."""
    for path in files:
        signature = _beside(path)
        told = take_seed(place, path.read_bytes(), signature, look=True)
        show_seed(told)
        if not yes:
            click.confirm("Take it?", abort=True)
        take_seed(place, path.read_bytes(), signature)
        click.echo("taken: the stick may be cleared")
        if any(name.startswith("zone-ksk-") for name in told["keys"]):
            click.echo(_sign_zones(place))


def take_seed(place: Place, data: bytes, signature: bytes, *, look: bool = False) -> Any:
    """Let keys check and take a seed, or with `look` only say what it would change.

    Gives `counter`, `signer`, `secrets` (name, version, expires), `keys`, `refused` (name, reason)
    and `taken`. RpcError when keys refuses it as a whole: nothing was changed.
    """
    from keys.envelope import b64u
    from keys.io.rpc import call

    params = {"file": b64u(data), "sig": b64u(signature), "look": look}
    return call(place.socket("keys"), "seed_take", params, SECONDS)


def _sign_zones(place: Place) -> str:
    """Let netboot sign the zones with the keys of before, which boxes believe."""
    from keys.io.rpc import RpcError, RpcUnavailableError

    try:
        place.ask("netboot", "dns_sign", {})
    except (RpcError, RpcUnavailableError):
        return "restart netboot: it signs the zones with another key until then"
    return "the zones are signed with the keys of before"


def show_seed(told: Any) -> None:
    """Say what a seed changes; never a value."""
    from bootstrap.backup import time_text

    click.echo(
        f"seed {told['counter']} for {plain(told['site'])}, signed by this site's offline key "
        f"{told['signer']}"
    )
    rows = [
        (one["name"], f"version {one['version']}", time_text(one["expires"]))
        for one in told["secrets"]
    ]
    rows += [(one, "key of the appliance before", "") for one in told["keys"]]
    rows += [(one["name"], "left out", one["reason"]) for one in told["refused"]]
    print_table(("name", "what", "until"), rows)


def recipient_of(path: Path, site: Path, authority: Path, *, compared: bool) -> str:
    """Read for whom to encrypt, and check that an appliance of the site asks; SiteError."""
    from bootstrap.errors import PeerError, SiteError
    from bootstrap.io import offsite
    from bootstrap.io.lease_desk import LeaseDesk
    from keys.errors import PeerError as KeysPeerError
    from keys.parcel import fingerprint, read_asked

    try:
        asked_site, found, request = read_asked(path.read_bytes())
        offsite.check_asked(site, asked_site)
        if request is not None:
            offsite.known_asker(found, request, LeaseDesk(authority))
        elif not compared:
            raise SiteError(
                f"{path}: no TPM vouches for it: compare the fingerprint {fingerprint(found)} with "
                "the one that was shown there, by telephone, and give --compared"
            )
    except (PeerError, KeysPeerError) as error:
        raise SiteError(f"{path}: {error}") from None
    return found


def _items(
    files: dict[str, str], versions: dict[str, str], ends: dict[str, str], *, keep_newline: bool
) -> Sequence[Item]:
    from bootstrap.cli.value import check_value
    from keys.dated import read_until
    from keys.parcel import Item
    from keys.secret import Secret

    if unknown := (set(versions) | set(ends)) - set(files):
        raise click.UsageError(f"{sorted(unknown)[0]} is not among the secrets of this seed")
    if wrong := [one for one in versions.values() if not one.isdecimal() or int(one) < 1]:
        raise click.UsageError(f"--version {wrong[0]}: a number from 1 on is expected")
    items = []
    for name, place in files.items():
        path = Path(place)
        if not path.is_file():
            raise click.UsageError(f"{path} is no file: give NAME=FILE, FILE holding the value")
        data = path.read_bytes()
        value = check_value(data, name, "doorstep seed pack …", keep_newline=keep_newline)
        items.append(
            Item(
                name=name,
                version=int(versions[name]) if name in versions else None,
                not_after=read_until(ends[name]) if name in ends else None,
                value=Secret(value),
            )
        )
    return items


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name or not value or name in pairs:
            raise click.UsageError("give NAME=… once for each secret; a value is never given here")
        pairs[name] = value
    return pairs


def _beside(path: Path) -> bytes:
    from bootstrap.errors import SiteError

    signature = path.with_name(f"{path.name}.minisig")
    try:
        return signature.read_bytes()
    except OSError as error:
        raise SiteError(f"{signature}: {error.strerror}: it comes with the file") from error
