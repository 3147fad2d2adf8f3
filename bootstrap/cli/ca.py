"""`doorstep ca`: the offline root's answers to the appliance, and what it lists as revoked.

`init`, `revoke` and `sign` with files need no appliance and no site: they work where the root is.
Exit codes: 0 done; 1 the answer is no; 2 wrong usage, or a file is wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import Place, plain, with_place

if TYPE_CHECKING:
    from keys import ca as authorities
    from keys.secret import Secret

MAX_FILE = 65536
_PATH = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_passphrase = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    envvar="DOORSTEP_PASSPHRASE_FILE",
    help="Where the root's passphrase is, in its first line, instead of being typed.",
)
_root = click.option("--root", type=_PATH, help="Directory of the offline root.")
_offline = click.option(
    "--offline", type=_PATH, help="Where the offline keys are now, unless SITE/offline."
)
_LISTS = "root.crl"


@click.group(name="ca", short_help="The offline root, and the authorities of the appliance.")
def authority() -> None:
    """The site's certificates: the offline root and the two authorities of this appliance."""


# where the root is


@authority.command(short_help="Make an offline root (at headquarters).")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--site-id", required=True, help="`id` of the site; it is permanent.")
@click.option("--domain", required=True, help="`domain` of the site: no other name is vouched for.")
@click.option("--network", "networks", multiple=True, required=True, help="Once for each network.")
@_passphrase
def init(
    directory: Path,
    site_id: str,
    domain: str,
    networks: tuple[str, ...],
    passphrase_file: Path | None,
) -> None:
    """Draw the root's key and the key that signs documents into DIRECTORY, under a passphrase.

    Copy root.pem and root.pub into SITE/trust; the rest stays off every appliance, with a copy of
    it elsewhere. Every command with --offline takes this directory.
    """
    from bootstrap.io.offline_root import OfflineRoot, RootOf
    from bootstrap.site_types import Domain, Label

    _check_typed("--site-id", Label, site_id)
    _check_typed("--domain", Domain, domain)
    try:
        known = [ip_network(one) for one in networks]
    except ValueError as error:
        raise click.UsageError(f"--network: {error}") from None
    of = RootOf(site_id=site_id, domain=domain, networks=known)
    phrase = _passphrase_from(passphrase_file, directory, confirm=True)
    for path in OfflineRoot(directory).make(of, phrase):
        click.echo(f"made {path}")
    click.echo("copy root.pem and root.pub to SITE/trust; keep the rest off every appliance")


@authority.command(short_help="Sign requests: of the running service, or files.")
@with_place
@click.argument("requests", nargs=-1, type=_FILE)
@_root
@_offline
@click.option("--days", type=click.IntRange(min=1, max=20 * 365), help="How long, unless 5 years.")
@click.option("--out", type=_PATH, default=Path(), help="Directory to write into (here).")
@click.option("--yes", is_flag=True, help="Do not ask; I compared the fingerprints.")
@_passphrase
def sign(place: Place, requests: tuple[Path, ...], **said: Any) -> None:
    """Sign the REQUESTs of an appliance with the offline root, which needs no site here.

    Shows of which site, kind, appliance and key each is before it signs. Without a REQUEST: take
    them from the running site, sign with the keys that are beside it, install the certificates.
    """
    if not requests:
        _sign_running(place, said["offline"] or said["root"], said["days"], said["passphrase_file"])
        return
    if said["root"] is None:
        raise click.UsageError("say with --root where the offline root is")
    _sign_files(requests, **said)


def _sign_files(
    paths: tuple[Path, ...],
    *,
    root: Path,
    offline: Path | None,
    days: int | None,
    out: Path,
    yes: bool,
    passphrase_file: Path | None,
) -> None:
    from bootstrap.errors import PeerError as DeskError
    from bootstrap.io.offline_root import OfflineRoot
    from bootstrap.io.site_dir import write
    from keys.errors import PeerError

    desk = OfflineRoot(root)
    try:
        asked = [(path, _request(path)) for path in paths]
        _check_asked(desk.certificate(), asked)
        for line in [line for path, one in asked for line in _request_words(path, one)]:
            click.echo(plain(line))
        if not yes:
            click.confirm("Compare with what the appliance shows. Sign?", abort=True)
        issuer = desk.open(lambda path: _passphrase_from(passphrase_file, path))
        signed = {f"{one.kind.value}.pem": desk.sign(issuer, one, days) for _, one in asked}
        signed[_LISTS] = desk.list_revoked(issuer)
    except (PeerError, DeskError) as error:
        raise _no(error) from None
    for name, text in signed.items():
        write(out / name, text.encode())
        click.echo(f"wrote {out / name}")
    names = " ".join(str(out / name) for name in signed)
    click.echo(f"on the appliance: doorstep ca install {names}")


def _sign_running(
    place: Place, offline: Path | None, days: int | None, passphrase_file: Path | None
) -> None:
    from bootstrap.errors import SiteError
    from bootstrap.io.offline_root import OfflineRoot
    from keys.ca import Kind, read_request
    from keys.errors import PeerError

    desk = OfflineRoot(offline or place.site / "offline", place.site / "trust/root.pem")
    requests = place.ask("keys", "ca_requests")["requests"]
    issuer = desk.open(lambda path: _passphrase_from(passphrase_file, path))
    try:
        signed = {
            f"{one['kind']}_pem": desk.sign(issuer, read_request(one["csr_pem"]), days)
            for one in requests
        }
    except PeerError as error:
        raise SiteError(f"the requests cannot be signed: {error}") from error
    try:
        signed["root_crl_pem"] = desk.list_revoked(issuer)
    except SiteError as error:  # a stick may be read-only, and what is needed now are certificates
        click.echo(f"the root's list of revoked certificates stays as it was: {error}", err=True)
    answer = place.ask("keys", "ca_install", signed)
    for kind in Kind:
        end = answer.get(f"{kind.value}_not_after")
        click.echo(f"installed: {kind.value} CA" + (f", until {_time(end)}" if end else ""))


@authority.command(short_help="Revoke intermediates (at headquarters).")
@click.argument("certificates", nargs=-1, required=True, type=_FILE)
@click.option("--root", type=_PATH, required=True, help="Directory of the offline root.")
@_passphrase
def revoke(certificates: tuple[Path, ...], root: Path, passphrase_file: Path | None) -> None:
    """List CERTIFICATEs that this root signed as revoked: of an appliance that was lost.

    Bring root.crl to each appliance of the site that is left, and to whoever checks certificates.
    """
    from bootstrap.io.offline_root import OfflineRoot
    from keys.ca import is_issued_by, kind_of, load_certificate
    from keys.errors import PeerError

    desk = OfflineRoot(root)
    try:
        found = [(path, load_certificate(path.read_bytes()[:MAX_FILE])) for path in certificates]
        for path, one in found:
            kind_of(one)
            if not is_issued_by(one, desk.certificate()):
                raise PeerError(f"{path} is not a certificate of this root")
    except PeerError as error:
        raise _no(error) from None
    issuer = desk.open(lambda path: _passphrase_from(passphrase_file, path))
    desk.list_revoked(issuer, [one.serial_number for _, one in found])
    click.echo(f"wrote {root / _LISTS}: on each appliance, doorstep ca install {_LISTS}")


# the appliance


@authority.command(short_help="Write the requests for the offline root (on the appliance).")
@with_place
@click.option("--out", type=_PATH, default=Path(), help="Directory to write into (here).")
def request(place: Place, out: Path) -> None:
    """Write appliance.csr and box.csr; they are no secret.

    What is shown goes to headquarters by another way, to be compared there.
    """
    from bootstrap.io.site_dir import write
    from keys.ca import read_request

    for one in place.ask("keys", "ca_requests")["requests"]:
        path = out / f"{one['kind']}.csr"
        write(path, one["csr_pem"].encode())
        for line in _request_words(path, read_request(one["csr_pem"])):
            click.echo(plain(line))


@authority.command(short_help="Install what the offline root signed (on the appliance).")
@with_place
@click.argument("files", nargs=-1, required=True, type=_FILE)
def install(place: Place, files: tuple[Path, ...]) -> None:
    """Install certificates of the intermediates, and the root's list: all FILES, or none."""
    from keys.ca import Kind
    from keys.errors import PeerError

    params: dict[str, str] = {}
    try:
        for path in files:
            name, text = _installable(path)
            if name in params:
                raise PeerError(f"{path}: another of these files is of the same kind")
            params[name] = text
    except PeerError as error:
        raise _no(error) from None
    answer = place.ask("keys", "ca_install", params)
    for kind in Kind:
        end = answer.get(f"{kind.value}_not_after")
        if end and f"{kind.value}_pem" in params:
            click.echo(f"installed: {kind.value} CA, until {_time(end)}")
    if "root_crl_pem" in params:
        click.echo("installed: the root's list of revoked certificates")


@authority.command(name="crl", short_help="Print the lists of revoked certificates.")
@with_place
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write them there.")
def crl_(place: Place, out: Path | None) -> None:
    """Give the list of the box CA, and the root's where it is installed, in PEM.

    For servers of the site that check certificates of boxes: openssl -CRLfile, nginx ssl_crl.
    """
    from bootstrap.io.site_dir import write

    found = place.ask("keys", "ca_crl")
    if out is None:
        click.echo(found["pem"], nl=False)
    else:
        write(out, found["pem"].encode())
        said = f"{found['revoked']} revoked, until {_time(found['ends'])}"
        click.echo(f"wrote {out}: list {found['number']}, {said}")


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


@authority.command(name="root", short_help="Make the root certificate again, with the same key.")
@with_place
@_offline
def remake(place: Place, offline: Path | None) -> None:
    """Fit trust/root.pem to the domain and networks of site.toml.

    Boot sets that were built before hold the root before: build again and publish.
    """
    from bootstrap.io.site_dir import load, remake_root

    path = remake_root(place.site, load(place.site), offline)
    click.echo(f"made {path}: now run `doorstep ca sign`, and build the boot set again")


def _check_typed(option: str, kind: Any, value: str) -> None:
    """Hold an option to what the site file takes."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise click.UsageError(f"{option}: {error.errors()[0]['msg']}") from None


def _request(path: Path) -> authorities.Request:
    from keys.ca import read_request
    from keys.errors import PeerError

    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    try:
        if len(data) > MAX_FILE:
            raise PeerError("too large for a request")
        return read_request(data)
    except PeerError as error:
        raise PeerError(f"{path}: {error}") from None


def _check_asked(
    root: authorities.Certificate, asked: Sequence[tuple[Path, authorities.Request]]
) -> None:
    """Refuse what would not be signed, before a passphrase is asked for."""
    from keys.ca import site_of
    from keys.errors import PeerError

    kinds = set()
    for path, one in asked:
        if one.site != site_of(root):
            raise PeerError(
                f"{path} is for the site {one.site!r}, this root is of {site_of(root)!r}"
            )
        if one.kind in kinds:
            raise PeerError(f"{path}: another of these requests is for the {one.kind.value} CA")
        kinds.add(one.kind)


def _request_words(path: Path, one: authorities.Request) -> tuple[str, ...]:
    from bootstrap.ca_desk import check_proof
    from keys.ca import fingerprint, grouped

    proven = check_proof(one)
    said = "a key in software, as far as anybody can tell"
    if proven is not None:
        said = f"in its TPM, for leases of the authority {fingerprint(proven.authority)}"
    by = f"appliance {grouped(one.appliance or 'not named')}"
    return (
        f"{path}: {one.kind.value} CA of the site {one.site}",
        f"  {by}" if proven else f"  {by} (nothing proves it)",
        f"  key {fingerprint(one.key)}",
        f"  {said}",
    )


def _installable(path: Path) -> tuple[str, str]:
    """Say what a file is, by its content, and give it; PeerError when it is neither."""
    from keys.ca import kind_of, load_certificate
    from keys.errors import PeerError

    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise PeerError(f"{path} is too large")
    text = data.decode(errors="replace")
    if "BEGIN X509 CRL" in text:
        return "root_crl_pem", text
    try:
        return f"{kind_of(load_certificate(data)).value}_pem", text
    except PeerError as error:
        raise PeerError(f"{path}: {error}") from None


def _passphrase_from(path: Path | None, of: Path, *, confirm: bool = False) -> Secret:
    from bootstrap.io.offline_keys import ask_for, passphrase_in
    from keys.secret import Secret

    if path is not None:
        return passphrase_in(path)
    if not confirm:
        return ask_for(of)
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise click.UsageError("give --passphrase-file, or call this at a terminal") from None
    text = click.prompt(
        "Passphrase of the offline root", hide_input=True, confirmation_prompt=True, err=True
    )
    return Secret(str(text).encode())


def _no(error: Exception) -> click.ClickException:
    from bootstrap.cli.main import Failure

    return Failure(f"refused: {error}", code=1)


def _time(seconds: float) -> str:
    days = (seconds - time.time()) / 86400
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
    return f"{text} ({days:.0f} days)"
