"""`doorstep lease`: at headquarters, the lease authority; on the appliance, its lease.

`init`, `issue`, `issued` and `escrow` need no appliance, no site and no TPM. Exit codes: 0 done; 1
the answer is no; 2 wrong usage, or a file is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, print_table, with_place

AUTHORITY = Path.home() / ".config" / "doorstep" / "lease"
MAX_TEXT = 65536
_LINE = 72
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_authority = click.option(
    "--authority",
    type=_DIRECTORY,
    default=AUTHORITY,
    envvar="DOORSTEP_LEASE_AUTHORITY",
    show_default="~/.config/doorstep/lease",
    help="Directory of the lease authority, at headquarters.",
)
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Where the passphrase is, in its first line, instead of being typed.",
)
_qr = click.option(
    "--qr/--no-qr", default=None, help="Draw a QR code too; a terminal gets one by itself."
)
_CHALLENGE = "Words or digits that headquarters names, so that the request is new."


@click.group(short_help="Leases: how long the cache may be opened.")
def lease() -> None:
    """A lease lets the TPM of an appliance open its cache of secrets for a while.

    The appliance asks (`request`), headquarters signs (`issue`), the appliance takes it (`apply`):
    by mail, on a stick, or by telephone and camera.
    """


# headquarters


@lease.command(short_help="Make the lease authority (at headquarters).")
@_authority
@_passphrase
@click.option("--site", type=_DIRECTORY, help="Write trust/lease.pub of this site too.")
def init(authority: Path, passphrase_file: Path | None, site: Path | None) -> None:
    """Draw the key that signs leases, under a passphrase; or give its public half to a SITE.

    One authority may serve many sites: call it again with another --site. Keep the directory off
    every appliance, and a copy of it elsewhere: without it no lease is ever issued again.
    """
    from bootstrap.io.lease_desk import KEY, LeaseDesk

    desk = LeaseDesk(authority)
    if site is None or not (authority / KEY).exists():
        path = desk.make(passphrase_from(passphrase_file, confirm=True))
        click.echo(f"made {path}: keep it, with a copy, off every appliance")
    if site is not None:
        click.echo(f"wrote {desk.install(site)}")


@lease.command(short_help="Sign a lease for an appliance (at headquarters).")
@_authority
@_passphrase
@click.argument("request", type=click.File("r"), default="-")
@click.option("--hours", type=click.IntRange(min=1), help="How long it may be switched on.")
@click.option("--days", type=click.IntRange(min=1), help="The same in days.")
@click.option("--starts", type=click.IntRange(min=0), required=True, help="How often it may start.")
@click.option("--suspends", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--pcrs", default="", help="Bind it to the software of these PCRs, as 0,2,4,7.")
@click.option("--pcrs-from", type=click.File("r"), help="To software to come: what PCRs will hold.")
@click.option("--challenge", help="What you told the appliance to quote.")
@click.option("--new", "is_new", is_flag=True, help="I compared the fingerprint of this appliance.")
@click.option("--out", type=_FILE, help="Write the lease there instead of showing it.")
@_qr
def issue(
    authority: Path,
    passphrase_file: Path | None,
    request: Any,
    hours: int | None,
    days: int | None,
    **said: Any,
) -> None:
    """Judge REQUEST (a file, or standard input) and sign a lease for what its TPM counts.

    Hours count while the appliance is switched on. The first lease of an appliance needs --new:
    compare the fingerprint with the one that `doorstep lease request` printed there.
    """
    from bootstrap.errors import PeerError
    from bootstrap.io.lease_desk import LeaseDesk
    from bootstrap.lease_desk import Wanted, asked_words, check_request, lease_words, planned_values

    if (hours is None) == (days is None):
        raise click.UsageError("say --hours or --days")
    planned = None if said["pcrs_from"] is None else said["pcrs_from"].read(MAX_TEXT)
    indices = _indices(said["pcrs"])
    if planned is not None and not indices:
        raise click.UsageError("--pcrs-from needs --pcrs: which of them bind")
    now, desk = time.time(), LeaseDesk(authority)
    try:
        asked = check_request(request.read(MAX_TEXT), challenge=said["challenge"])
        _tell(asked_words(asked, now))
        known = desk.ledger(asked.request.site, asked.ek_name)
        if known is not None:
            _tell(known.unknown_words(asked.request.lease_counter, asked.request.epoch))
        wanted = Wanted(
            hours=hours or 24 * (days or 0),
            starts=said["starts"],
            suspends=said["suspends"],
            pcrs=indices,
            planned=None if planned is None else planned_values(planned),
        )
        key = desk.unlock(passphrase_from(passphrase_file))
        signed = desk.issue(asked, wanted, key, is_new=said["is_new"], now=now)
    except PeerError as error:
        raise _no(error) from None
    _tell(lease_words(signed.lease, wanted))
    _give(signed.text(), said["out"], qr=said["qr"])


@lease.command(short_help="List what was issued (at headquarters).")
@_authority
@as_json
@click.option("--site", "site_id", help="Only the appliances of this site id.")
@click.option("--again", type=int, metavar="NUMBER", help="Print the leases of this number again.")
@_qr
def issued(
    authority: Path, as_json: bool, site_id: str | None, again: int | None, qr: bool | None
) -> None:
    """List the appliances that are known and every lease that they were given."""
    from bootstrap.io.lease_desk import LeaseDesk

    found = [
        (ledger.appliance.site, one)
        for ledger in LeaseDesk(authority).ledgers()
        for one in ledger.leases
        if site_id in (None, ledger.appliance.site) and again in (None, one.counter)
    ]
    if as_json:
        print_json(
            {
                "leases": [
                    {"site": site, "number": one.counter, "issued": one.at, "lease": one.text}
                    for site, one in found
                ]
            }
        )
    elif again is not None:
        for site, one in found:
            _tell((f"lease {one.counter} of {site}, issued {_time(one.at)}",))
            _give(one.text, None, qr=qr)
    else:
        rows = [(site, one.counter, _time(one.at), _pcrs(one.pcrs)) for site, one in found]
        print_table(("site", "number", "issued", "PCRs"), rows)
    if again is not None and not found:
        raise SystemExit(1)


@lease.command(short_help="Open an appliance's TPM passwords (at headquarters).")
@_authority
@_passphrase
@click.argument("request", type=click.File("r"), default="-")
@click.option("--out", type=_FILE, required=True, help="A new file for them; they are not shown.")
def escrow(authority: Path, passphrase_file: Path | None, request: Any, out: Path) -> None:
    """Decrypt the owner's and lockout passwords that REQUEST carries, into a file of mode 0600.

    They are needed to clear or repair the TPM of that appliance, and for nothing else.
    """
    from bootstrap.errors import PeerError, SiteError
    from bootstrap.io.lease_desk import LeaseDesk
    from bootstrap.io.site_dir import write
    from bootstrap.lease_desk import check_request

    if out.exists():
        raise SiteError(f"{out} exists: name a new file")
    desk = LeaseDesk(authority)
    try:
        asked = check_request(request.read(MAX_TEXT))
        owner, lockout = desk.passwords(asked, desk.unlock(passphrase_from(passphrase_file)))
    except PeerError as error:
        raise _no(error) from None
    write(out, f"owner hex:{owner.hex()}\nlockout hex:{lockout.hex()}\n".encode(), 0o600)
    click.echo(f"wrote {out}: destroy it when the TPM is cleared or repaired")


# the appliance


@lease.command(short_help="Ask for a lease (on the appliance).")
@with_place
@click.option("--challenge", default="", help=_CHALLENGE)
@click.option("--out", type=_FILE, help="Write the request there instead of showing it.")
def request(place: Place, challenge: str, out: Path | None) -> None:
    """Let the TPM quote itself for headquarters. The request is no secret."""
    from bootstrap.lease_desk import fingerprint
    from keys.lease_request import LeaseRequest

    text = place.ask("keys", "lease_request", {"challenge": challenge})["request"]
    name = fingerprint(LeaseRequest.read(text))
    _tell((f"this appliance has the fingerprint {name}",))
    if out is None:
        click.echo(_folded(text))
    else:
        out.write_text(_folded(text) + "\n")
        _tell((f"wrote {out}: bring it to headquarters",))


@lease.command(short_help="Take a lease (on the appliance).")
@with_place
@click.argument("file", type=click.File("r"), default="-")
def apply(place: Place, file: Any) -> None:
    """Take a lease from FILE, or pasted on standard input and ended with Ctrl-D.

    Exit code 1: it is not for this appliance, was used, or has ended.
    """
    answer = place.ask("keys", "lease_apply", {"lease": file.read(MAX_TEXT)})
    number = answer["lease"]["counter"]
    if answer["open"]:
        click.echo(f"lease {number} runs: the cache is open")
    else:
        click.echo(f"lease {number} waits for other software, and opens the cache when that runs")


@lease.command(short_help="How long the lease runs (on the appliance).")
@with_place
@as_json
def show(place: Place, as_json: bool) -> None:
    """Say which lease runs, what is left of it and what to do. Exit code 1: the cache is closed."""
    from bootstrap.lease_words import shown_words

    shown = place.ask("keys", "lease_show")
    if as_json:
        print_json(shown)
    else:
        for line in shown_words(shown, time.time()):
            click.echo(plain(line))
    if shown["closed"]:
        raise SystemExit(1)


@lease.command(short_help="End every lease, at once (on the appliance).")
@with_place
@click.option("--yes", is_flag=True, help="Do not ask.")
def end(place: Place, yes: bool) -> None:
    """Close the cache now: no lease that was ever issued opens it again, a new one does."""
    if not yes:
        click.confirm("No box gets a secret until headquarters sent a new lease. End?", abort=True)
    place.ask("keys", "lease_end")
    click.echo("every lease has ended; ask for a new one: doorstep lease request")


def passphrase_from(
    path: Path | None, what: str = "lease authority", *, confirm: bool = False
) -> Any:
    """Read a passphrase from a file's first line, or have it typed unseen; gives a Secret."""
    from keys.secret import Secret

    if path is not None:
        lines = path.read_bytes().splitlines()
        return Secret(lines[0] if lines else b"")
    if not _has_terminal():
        # The request may come on standard input: a passphrase never does.
        raise click.UsageError("give --passphrase-file, or call this at a terminal")
    text = click.prompt(
        f"Passphrase of the {what}", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return Secret(str(text).encode())


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _indices(text: str) -> frozenset[int]:
    from keys.lease_request import QUOTED_PCRS

    try:
        found = frozenset(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = frozenset({-1})
    if not found <= set(QUOTED_PCRS):
        raise click.UsageError("--pcrs: numbers from 0 to 15 with commas, as 0,2,4,7")
    return found


def _give(text: str, out: Path | None, *, qr: bool | None) -> None:
    """Write a lease to a file, or show it as text and as a QR code."""
    if out is not None:
        out.write_text(_folded(text) + "\n")
        _tell((f"wrote {out}: bring it to the appliance",))
        return
    click.echo(_folded(text))
    if sys.stdout.isatty() if qr is None else qr:
        click.echo(qr_code(text))


def qr_code(text: str) -> str:
    """Draw a QR code for a terminal; the letters of a lease need no more than 5.5 bits each."""
    import segno

    drawn = StringIO()
    segno.make_qr(text, mode="alphanumeric", error="l", boost_error=False).terminal(
        drawn, compact=True
    )
    return drawn.getvalue()


def _folded(text: str) -> str:
    return "\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))


def _tell(lines: tuple[str, ...]) -> None:
    """Say something beside the text that is copied."""
    for line in lines:
        click.echo(plain(line), err=True)


def _no(error: Exception) -> click.ClickException:
    from bootstrap.cli.main import Failure

    return Failure(f"refused: {error}", code=1)


def _pcrs(indices: frozenset[int]) -> str:
    return ",".join(map(str, sorted(indices))) or "any software"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
