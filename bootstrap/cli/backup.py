"""`doorstep backup`, `restore` and `replace-appliance`.

`backup init` and `backup reseal` run at headquarters, without a running site. Exit codes: 0 done;
1 the answer is no; 2 wrong usage, or a file, a disk or the site is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import SITE, Place, as_json, print_json, with_place
from bootstrap.cli.lease import AUTHORITY

if TYPE_CHECKING:
    from bootstrap.io.restore import Restored

IDENTITY = Path.home() / ".config" / "doorstep" / "backup.age"
SECONDS = 120.0
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW = click.Path(path_type=Path, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_identity = click.option(
    "--identity",
    type=_NEW,
    default=IDENTITY,
    envvar="DOORSTEP_BACKUP_IDENTITY",
    show_default="~/.config/doorstep/backup.age",
    help="The off-site key, under its passphrase.",
)
_passphrase = click.option(
    "--passphrase-file", type=_FILE, help="Where the passphrase is, in its first line."
)
_offline = click.option(
    "--offline", type=_DIRECTORY, help="Where the offline keys are, unless SITE/offline."
)
_site = click.option(
    "--site", type=_DIRECTORY, default=SITE, show_default=True, help="The site's files."
)


@click.group(
    short_help="Save everything, for a key that is elsewhere.", invoke_without_command=True
)
@with_place
@click.option("--out", type=_NEW, help="The file to write.")
@click.option("--boot-sets", is_flag=True, help="With the boot files: several hundred MB.")
@click.option("--evidence", is_flag=True, help="With the evidence of all boxes.")
@click.pass_context
def backup(
    context: click.Context, place: Place, out: Path | None, boot_sets: bool, evidence: bool
) -> None:
    """Write a backup of this running appliance: doorstep backup --out FILE.

    Only the off-site key opens it. Secrets are encrypted inside keys; this command never sees one.
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise click.UsageError("say where to: doorstep backup --out FILE")
    from bootstrap.io.backup import make
    from keys.io.rpc import call

    def ask(method: str, params: Any) -> Any:
        return call(place.socket("keys"), method, params, SECONDS)

    made = make(place.layout(), ask, out, with_boot_sets=boot_sets, with_evidence=evidence)
    for line in made.left:
        click.echo(f"left out: {line}", err=True)
    click.echo(f"wrote {out}: {made.files} files, {made.header.secrets} secrets, {made.size} bytes")
    if not boot_sets:
        click.echo("boot files are listed, not held: build or copy them again, or --boot-sets")


@backup.command(short_help="Make the off-site key (at headquarters).")
@_identity
@_passphrase
@_offline
@click.option("--site", type=_DIRECTORY, help="Name the key to this site: SITE/trust/backup.txt.")
def init(
    identity: Path, passphrase_file: Path | None, offline: Path | None, site: Path | None
) -> None:
    """Draw the key that opens backups, under a passphrase; or name it to a SITE, signed.

    One key may serve many sites: call it again with another --site. Keep a copy of the file
    elsewhere: without it no backup ever opens.
    """
    from bootstrap.cli.lease import passphrase_from
    from bootstrap.io import offsite
    from keys.io.age import public_half

    if site is None or not identity.exists():
        phrase = passphrase_from(passphrase_file, "off-site key", confirm=True)
        recipient = offsite.make_identity(identity, phrase)
        click.echo(f"made {identity}: keep it, with a copy, off every appliance")
    else:
        phrase = passphrase_from(passphrase_file, "off-site key")
        recipient = public_half(offsite.open_identity(identity, phrase))
    if site is not None:
        path = offsite.install(site, recipient, offline, time.time())
        click.echo(f"wrote {path} and its .minisig: take both to the appliance")


@backup.command(short_help="Say what a backup is of; opens nothing.")
@as_json
@click.argument("file", type=_FILE)
def show(as_json: bool, file: Path) -> None:
    """Read what FILE says of itself; nothing is checked."""
    from bootstrap.backup import header_words
    from bootstrap.io.backup_file import BackupFile

    found = BackupFile(file)
    if as_json:
        click.echo(found.header.encode().decode())
        return
    for line in (found.front.form.name.lower(), *header_words(found.header)):
        click.echo(line)


@backup.command(short_help="Open a backup for an appliance (at headquarters).")
@_site
@_identity
@_passphrase
@_offline
@click.option("--for", "asker", type=_FILE, required=True, help="Who asks: see below.")
@click.option("--authority", type=_DIRECTORY, default=AUTHORITY, help="Of leases, for ledgers.")
@click.option("--authority-passphrase-file", type=_FILE, help="Of the lease authority.")
@click.option("--compared", is_flag=True, help="I compared the fingerprint by telephone.")
@click.option("--replaces", is_flag=True, help="With secrets: it takes the other's place for good.")
@click.option("--out", type=_NEW, required=True)
@click.argument("file", type=_FILE)
def reseal(
    site: Path,
    identity: Path,
    passphrase_file: Path | None,
    offline: Path | None,
    asker: Path,
    authority: Path,
    authority_passphrase_file: Path | None,
    compared: bool,
    replaces: bool,
    out: Path,
    file: Path,
) -> None:
    """Check FILE, and encrypt it for who asks.

    What `doorstep restore --ask` or `replace-appliance --ask` wrote gets everything but the
    secrets. What `doorstep seed recipient` wrote, on an appliance with a lease, gets the secrets,
    as a seed; not of a backup that is older than a revocation that is known here.
    """
    from bootstrap.errors import PeerError
    from bootstrap.io import offsite
    from bootstrap.io.lease_desk import LeaseDesk

    desk = LeaseDesk(authority)
    try:
        opened = offsite.open_backup(file, site, desk)
        _tell(opened.header)
        wants_secrets, recipient = _asker(asker, site, authority, compared=compared)
        key = offsite.open_identity(identity, _phrase(passphrase_file, "off-site key"))
        if not wants_secrets:
            statement = offsite.reseal(opened, key, recipient, site, out, offline)
            click.echo(f"wrote {out}: everything but the secrets")
            if statement.stale:
                click.echo(f"note: {opened.stale}", err=True)
                click.echo(_STALE, err=True)
            return
        items = offsite.living(offsite.secrets_of(opened, key), time.time())
        if not items:
            raise PeerError("nothing in this backup has not ended: seed the secrets anew")
        paths = offsite.pack(site, items, recipient, int(time.time()), out, offline)
    except PeerError as error:
        raise _no(error) from None
    for path in paths:
        click.echo(f"wrote {path} and {path.name}.minisig: `doorstep seed take` there takes it")
    if replaces and opened.header.ek:
        phrase = _phrase(authority_passphrase_file, "lease authority")
        desk.retire(opened.header.site, opened.header.ek, desk.unlock(phrase), time.time())
        click.echo("the appliance of this backup gets no lease any more")


_STALE = (
    "boxes that were revoked since must not come back: take them off the delivery note and sign it "
    "again; until then the restored appliance hands nothing over. Withdraw boot sets that were "
    "withdrawn since"
)


@click.command(short_help="Put this appliance's state back from a backup.")
@with_place
@click.option("--ask", type=_NEW, help="Write for whom headquarters is to open a backup.")
@click.option("--key", type=_FILE, help="trust/root.pub of the site, unless it is here.")
@as_json
@click.argument("file", type=_FILE, required=False)
def restore(
    place: Place, ask: Path | None, key: Path | None, as_json: bool, file: Path | None
) -> None:
    """Put everything but the secrets back, from FILE that `doorstep backup reseal` wrote.

    First `--ask FILE`, for headquarters. Services do not run meanwhile; what is here already stays.
    On the TPM that the backup is of, secrets come back too, unless something was revoked since.
    """
    restored = _restore(place, ask, key, file)
    if restored is None:
        return
    if as_json:
        print_json({"keys": restored.keys, "placed": restored.placed, "kept": restored.kept})
        return
    for line in _restored_words(restored):
        click.echo(line)


@click.command(name="replace-appliance", short_help="Take the place of a dead appliance.")
@with_place
@click.option("--ask", type=_NEW, help="Write for whom headquarters is to open the backup.")
@click.option("--from", "file", type=_FILE, help="What headquarters resealed.")
@click.option("--key", type=_FILE, help="trust/root.pub of the site, from headquarters.")
@click.option("--check", is_flag=True, help="Afterwards: is anything left to do?")
def replace_appliance(
    place: Place, ask: Path | None, file: Path | None, key: Path | None, check: bool
) -> None:
    """Make this machine the appliance of a site whose one is dead; no box is touched.

    Same site root, so the same boot sets; same boxes, names, addresses and revocations; a TPM,
    intermediates and a lease of its own. Run it with --ask, then --from, then --check.
    """
    if check:
        left = _left(place)
        for line in left or ("everything is done: boxes enrol and renew here",):
            click.echo(line)
        click.echo(_here_since(place))
        if left:
            raise SystemExit(1)
        return
    restored = _restore(place, ask, key, file)
    if restored is None:
        return
    for line in (*_restored_words(restored), *_steps(restored)):
        click.echo(line)


def _restore(
    place: Place, ask: Path | None, key: Path | None, file: Path | None
) -> Restored | None:
    """Ask, or restore; None when it asked."""
    from bootstrap.errors import PeerError, SiteError
    from bootstrap.io import site_dir
    from bootstrap.io.restore import ask_recipient
    from bootstrap.io.restore import restore as put_back
    from keys.parcel import asked_document, fingerprint

    if (ask is None) == (file is None):
        raise click.UsageError("say --ask FILE first; then what headquarters made of it")
    if ask is not None:
        found = ask_recipient(place.state)
        site_dir.write(ask, asked_document("*", found, None))
        click.echo(f"wrote {ask}: take it to headquarters, and read the fingerprint out there")
        click.echo(f"fingerprint {fingerprint(found)}")
        return None
    assert file is not None
    public = key or place.site / site_dir.ROOT_PUB
    try:
        return put_back(place.layout(), file, public.read_bytes())
    except OSError as error:
        raise SiteError(
            f"{public}: {error.strerror}: give --key, the site's trust/root.pub from headquarters"
        ) from error
    except PeerError as error:
        raise _no(error) from None


def _restored_words(restored: Restored) -> list[str]:
    from bootstrap.backup import header_words

    lines = [*header_words(restored.header)[:3], f"put back {restored.placed} files"]
    if restored.kept:
        lines.append(f"left {restored.kept} files as they were here")
    lines.append(_KEYS[restored.keys])
    if restored.statement.stale:
        lines.append(f"note: revocations are known that are not in it: {_STALE}")
    if restored.missing:
        count = len(restored.missing)
        lines.append(
            f"{count} boot files are not in it: copy them to STATE/bootsets/files, or build again"
        )
    return lines


_KEYS = {
    "whole": "this TPM made it and nothing was revoked since: its secrets open under its lease",
    "older": "something was revoked since: its secrets stay closed, all else is used",
    "other": "its secrets open in another TPM: they come as a seed, from headquarters",
    "merged": "keys.db is here: revocations and floors were taken over, nothing else",
}


def _steps(restored: Restored) -> list[str]:
    with_tpm = bool(restored.header.ek)
    steps = [
        "start the appliance (`doorstep run`, or its units); trust/ is the site's own",
        "here: `doorstep seed recipient --out STICK/recipient`",
        "here: `doorstep lease request --out STICK/request`" if with_tpm else "",
        "here: `doorstep ca requests --out STICK`",
        "at headquarters: `doorstep lease issue STICK/request --new …`" if with_tpm else "",
        "at headquarters: `doorstep ca sign`, with the offline root",
        "at headquarters: `doorstep backup reseal BACKUP --for STICK/recipient --replaces …`",
        "here: `doorstep lease apply STICK/lease`" if with_tpm else "",
        "here: `doorstep seed take STICK/seed.age`, before `ca install`",
        "here: `doorstep ca install`",
        "here: `doorstep replace-appliance --check`",
    ]
    told = [one for one in steps if one]
    return ["what is left:", *(f"{number}. {one}" for number, one in enumerate(told, 1))]


def _left(place: Place) -> list[str]:
    """Say what is left to do after a replacement."""
    from bootstrap.io.restore import missing_files, sets_of_other_roots

    status = place.ask("keys", "status")
    left = [str(one) for one in status["sentences"]]
    if _restored_at(place) is None:
        left.append("nothing was restored here: begin with --ask")
    for one in place.ask("keys", "secret_list")["secrets"] if status["ready"] else []:
        if one["reason"] is not None and one["tier"] != "box":
            left.append(f"secret {one['name']}: {one['reason']}: seed it, or put it again")
    if missing := missing_files(place.state):
        left.append(f"{len(missing)} boot files are missing in {place.state}/bootsets/files")
    for name in sets_of_other_roots(place.site, place.state):
        left.append(f"boot set {name} has another root than this site: build it again")
    return left


def _restored_at(place: Place) -> float | None:
    """Say when this appliance was restored last."""
    found = (one for one in _newest_first(place, "keys") if one["kind"] == "restored")
    return next((float(one["at"]) for one in found), None)


def _here_since(place: Place) -> str:
    """Say how many boxes have proved themselves here since."""
    at, seen = _restored_at(place) or 0.0, set()
    for one in _newest_first(place, "control"):
        if one["at"] > at and one["kind"] in ("enrolled", "renewed"):
            seen.add(one["box"])
    known = len(place.ask("control", "boxes")["cards"])
    return f"{len(seen)} of {known} boxes were here since: the others come by themselves"


def _newest_first(place: Place, service: str) -> Iterator[Any]:
    """Give the events of a service."""
    end = int(place.ask(service, "events", {"after": 1 << 60, "limit": 1})["last"])
    while end > 0:
        start = max(0, end - 1000)
        page = place.ask(service, "events", {"after": start, "limit": end - start})["events"]
        yield from reversed(page)
        end = start


def _asker(path: Path, site: Path, authority: Path, *, compared: bool) -> tuple[bool, str]:
    """Read who asks: whether for the secrets, and with which key."""
    from bootstrap.cli.seed import recipient_of
    from bootstrap.errors import SiteError
    from keys.errors import PeerError as KeysPeerError
    from keys.parcel import fingerprint, read_asked

    try:
        asked_site, recipient, _ = read_asked(path.read_bytes())
    except KeysPeerError as error:
        raise SiteError(f"{path}: {error}") from None
    if asked_site != "*":
        return True, recipient_of(path, site, authority, compared=compared)
    if not compared:
        raise SiteError(
            f"{path}: compare the fingerprint {fingerprint(recipient)} with the one that the new "
            "machine shows, by telephone, and give --compared"
        )
    return False, recipient


def _phrase(path: Path | None, what: str) -> Any:
    from bootstrap.cli.lease import passphrase_from

    return passphrase_from(path, what)


def _tell(header: Any) -> None:
    from bootstrap.backup import header_words

    for line in header_words(header):
        click.echo(line, err=True)


def _no(error: Exception) -> click.ClickException:
    from bootstrap.cli.main import Failure

    return Failure(f"refused: {error}", code=1)
