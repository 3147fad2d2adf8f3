"""`doorstep wrap`, `wrap-key` and `secret import`: secrets that the appliance passes on unread.

`wrap` runs at headquarters, needs no TPM and no running site: it encrypts a value for the one TPM
that the signed delivery note names. Exit codes: 0 done; 1 the site refuses it, or a person said no;
2 wrong usage, or a file does not fit.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import SITE, Place, plain, with_place
from bootstrap.cli.value import no_value_here, read_value

if TYPE_CHECKING:
    from keys.note import Entry
    from keys.tpm_public import PublicArea
    from keys.wrap import Label, WrappedSecret

WRAP_KEY = "trust/wrap.json"
FOLDER = "wrapped"
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z0-9 ]+-----")
_STRANGE = re.compile(r"[^A-Za-z0-9._-]")
_NO_EK = (
    "give --ek: the EK certificate of this box (PEM or DER, from its maker or read from its TPM), "
    "or its public area ek.pub; the delivery note holds its hash alone"
)


@click.command(name="wrap-key", short_help="Write the key that headquarters wraps secrets for.")
@with_place
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help=f"SITE/{WRAP_KEY}")
def wrap_key(place: Place, out: Path | None) -> None:
    """Write the public half of this site's wrap key, signed by the site, for headquarters.

    It is no secret; `doorstep wrap` checks that it comes from a site of its root.
    """
    from bootstrap.io import site_dir

    path = out or place.site / WRAP_KEY
    answer = place.ask("keys", "wrap_key")
    site_dir.write(path, answer["key"].encode() + b"\n")
    click.echo(f"wrote {path}: take it to headquarters, beside the site's site.toml")


@click.command(short_help="Wrap a secret for one box: doorstep wrap NAME … < FILE")
@click.argument("name")
@click.option("--note", type=_FILE, required=True, help="The signed delivery note.")
@click.option("--serial", required=True, help="The box, as the note has it.")
@click.option("--ek", "eks", multiple=True, type=_FILE, help="Its EK certificate, or ek.pub.")
@click.option("--site", type=_DIRECTORY, default=SITE, show_default=True, help="Its site's files.")
@click.option("--key", type=_FILE, help=f"What `doorstep wrap-key` wrote [SITE/{WRAP_KEY}].")
@click.option("--offline", type=_DIRECTORY, help="Where the offline keys are, unless SITE/offline.")
@click.option("--version", type=click.IntRange(1), help="Instead of one more than the file has.")
@click.option("--ttl", help="How long it may be given, as 30d [ttl in site.toml].")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option("--revoke", is_flag=True, help="Take all versions so far away; reads no value.")
@click.option("--keep-newline", is_flag=True, help="Keep a line's end at the end of the value.")
@click.argument("value", nargs=-1, metavar="")
def wrap(
    name: str,
    note: Path,
    serial: str,
    eks: tuple[Path, ...],
    site: Path,
    key: Path | None,
    offline: Path | None,
    version: int | None,
    ttl: str | None,
    out: Path | None,
    revoke: bool,
    keep_newline: bool,
    value: tuple[str, ...],
) -> None:
    """Encrypt a value so that it opens in one box alone, in a boot that its site attested.

    Writes FILE and FILE.minisig; at the site, `doorstep secret import FILE` takes them.
    """
    from bootstrap.io import site_dir
    from keys.wrap import CONTEXT, Label
    from keys.wrap import revoke as revoked

    command = f"doorstep wrap {name} …"
    no_value_here(value, command)
    path = out or site / FOLDER / f"{name}.{_STRANGE.sub('_', serial)}.json"
    seconds, entry, before = _ttl(site, name, ttl), _entry(site, note, serial), _before(path)
    now, ek = int(time.time()), None
    if revoke and not eks and before is not None:
        ek_name = before.ek_name
    else:
        ek = _ek_area(eks, entry.ek_sha256 or b"")
        ek_name = ek.name()
    label = Label(
        site=site_dir.load(site).site.id,
        name=name,
        serial=serial,
        version=version or (before.version if before else 0) + 1,
        issued=now,
        expires=now + seconds,
        ek_name=ek_name,
        key_name=_site_key(site, key or site / WRAP_KEY),
    )
    if revoke or ek is None:
        one = revoked(label)
    else:
        one = _seal(label, ek, read_value(name, command, keep_newline=keep_newline))
    data = one.encode()
    signature = site_dir.sign_document(site, data, label.comment(), CONTEXT, offline)
    site_dir.write(path, data)
    site_dir.write(path.with_name(f"{path.name}.minisig"), signature)
    click.echo(f"{'revoked' if revoke else 'wrapped'} {_sentence(one)}")
    click.echo(f"wrote {path} and {path.name}.minisig: take both to the site")


def _seal(label: Label, ek: PublicArea, value: bytes) -> WrappedSecret:
    from keys.secret import Secret
    from keys.wrap import Randomness
    from keys.wrap import wrap as seal

    randomness = Randomness.cut(os.urandom(Randomness.SIZE))
    return seal(label, Secret(value), ek=ek, randomness=randomness)


def _ttl(site: Path, name: str, given: str | None) -> int:
    """Give the seconds that it may be given; SiteError when the site has no such secret."""
    from bootstrap.errors import SiteError
    from bootstrap.io import site_dir
    from keys.rules import duration

    rule = next((one for one in site_dir.load(site).secrets if one.name == name), None)
    if rule is None or rule.tier != "box":
        raise SiteError(f"{site}/site.toml has no [[secret]] {name!r} of tier box: add it first")
    if given is not None:
        return int(duration(given, "--ttl").total_seconds())
    if rule.ttl is None:
        raise SiteError(f"site.toml gives no ttl of {name}: say --ttl, until the day that it ends")
    return int(rule.ttl.total_seconds())


def _entry(site: Path, path: Path, serial: str) -> Entry:
    """Find a box in the note, whose signature is checked; SiteError when no EK is named."""
    from bootstrap.errors import SiteError
    from bootstrap.io import site_dir
    from keys.note import DeliveryNote

    found = DeliveryNote.verify(
        path.read_bytes(),
        _read(path.with_name(f"{path.name}.minisig")),
        public_key=_read(site / site_dir.ROOT_PUB),
        site_id=site_dir.load(site).site.id,
        floor=None,
    )
    entry = next((one for one in found.entries if one.serial == serial), None)
    if entry is None:
        raise SiteError(f"{path}: no box has the serial {serial!r}")
    if entry.ek_sha256 is None:
        raise SiteError(
            f"{path}: the box {serial} has no ek_sha256, so nobody vouches for its TPM: ask its "
            "maker for it, enter it and sign the note again"
        )
    return entry


def _ek_area(paths: tuple[Path, ...], wanted: bytes) -> PublicArea:
    """Find the EK that the note names in the files; SiteError when it is in none of them."""
    from attest.ektemplate import check_ek_template
    from attest.errors import CheckError
    from bootstrap.errors import SiteError

    if not paths:
        raise SiteError(_NO_EK)
    found = next((area for area in _areas(paths) if sha256(area.encode()).digest() == wanted), None)
    if found is None:
        names = ", ".join(str(path) for path in paths)
        raise SiteError(
            f"{names}: not the EK that the note names for this box, of SHA-256 {wanted.hex()}: "
            + _NO_EK
        )
    try:
        check_ek_template(found)
    except CheckError as error:
        raise SiteError(f"the key that the note names is no endorsement key: {error}") from None
    return found


def _areas(paths: tuple[Path, ...]) -> list[PublicArea]:
    """Give every public area that a file holds, or that an EK with a certificate's key may have."""
    from attest.der import join
    from attest.ektemplate import reconstruct_ek
    from attest.errors import EvidenceError

    areas: list[PublicArea] = []
    stored: list[bytes] = []
    for path in paths:
        for data in _blocks(path.read_bytes()):
            area = _public_area(data)
            if area is None:
                stored.append(data)
            else:
                areas.append(area)
    for certificate in join(stored)[0]:
        try:
            areas += reconstruct_ek(certificate)
        except EvidenceError:  # of a CA that stands beside it
            continue
    return areas


def _blocks(data: bytes) -> list[bytes]:
    """Give the DER of each PEM part, or the file as it is."""
    from base64 import b64decode

    try:
        return [b64decode(part) for part in _PEM.findall(data)] or [data]
    except ValueError:
        return []


def _public_area(data: bytes) -> PublicArea | None:
    """Read a TPM2B_PUBLIC or a TPMT_PUBLIC."""
    from keys.errors import PeerError
    from keys.tpm_public import PublicArea

    sized = len(data) > 2 and int.from_bytes(data[:2], "big") == len(data) - 2
    try:
        return PublicArea.decode(data[2:] if sized else data)
    except PeerError:
        return None


def _before(path: Path) -> Label | None:
    """Read what the file says that is written over."""
    from bootstrap.errors import SiteError
    from keys.errors import PeerError
    from keys.wrap import WrappedSecret

    if not path.exists():
        return None
    try:
        return WrappedSecret.decode(path.read_bytes()).label
    except PeerError as error:
        raise SiteError(f"{path}: {error}: move it away, and give --version") from None


def _site_key(site: Path, path: Path) -> bytes:
    """Read the site's wrap key, as a site of this root signed it; gives its TPM name."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from bootstrap.agent.errors import AgentError
    from bootstrap.agent.protocol import Fields, unb64u
    from bootstrap.agent.signature import check_signed
    from bootstrap.errors import SiteError
    from bootstrap.io import site_dir
    from keys.ca import load_certificate
    from keys.envelope import answer_digest
    from keys.errors import PeerError
    from keys.wrap import KEY_CONTEXT, decode_key

    site_id = site_dir.load(site).site.id
    data = _read(path, "let the running site write it with `doorstep wrap-key`, and bring it here")
    root = load_certificate(_read(site / site_dir.ROOT_PEM)).public_bytes(Encoding.DER)
    try:
        outer = Fields.read(data, {"v", "answer", "signature", "chain"})
        payload = outer.data("answer")
        message = answer_digest(KEY_CONTEXT, site_id, b"", b"", payload)
        chain = [unb64u(one) for one in outer.take("chain", list)]
        check_signed(root, chain, message, outer.data("signature", 64))
        return decode_key(Fields.read(payload, {"site", "public"}).data("public")).name()
    except (AgentError, PeerError) as error:
        raise SiteError(f"{path}: no wrap key of this site: {error}") from None


def _read(path: Path, remedy: str = "it belongs beside the others") -> bytes:
    from bootstrap.errors import SiteError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}: {remedy}") from error


@click.command(name="import", short_help="Take wrapped secrets from headquarters.")
@with_place
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("files", nargs=-1, required=True, type=_FILE)
def import_(place: Place, yes: bool, files: tuple[Path, ...]) -> None:
    """Take what `doorstep wrap` made: FILE, with FILE.minisig beside it.

    Says what it is, for whom and who signed it, and what it changes. The value stays closed here.
    """
    from keys.envelope import b64u

    for path in files:
        signature = _read(path.with_name(f"{path.name}.minisig"), "it comes with the file")
        params = {"file": b64u(path.read_bytes()), "sig": b64u(signature)}
        looked = place.ask("keys", "secret_import", {**params, "look": True})
        click.echo(f"{path}: {_told(looked)}")
        if looked["before"] == looked["version"]:
            click.echo("  it was taken before: nothing changes")
            continue
        if not yes:
            click.confirm("Take it?", abort=True)
        place.ask("keys", "secret_import", params)
        click.echo("  taken")


def _told(answer: dict[str, Any]) -> str:
    ek_name = answer["ek_name"]
    lines = [
        f"{plain(answer['name'])}, version {answer['version']}, for the box "
        f"{plain(answer['serial'])} (EK {ek_name[:12]}…)",
        f"wrapped {_date(answer['issued'])}, may be given until {_date(answer['expires'])}",
        f"signed by this site's offline key {answer['signer']}",
    ]
    before = answer["before"]
    if answer["revokes"]:
        lines[1] = f"revoked {_date(answer['issued'])}: the box gets no version of it any more"
    elif before is None:
        lines.append("it is the first for this box")
    elif before != answer["version"]:
        lines.append(f"it replaces version {before}")
    if not answer["on_note"]:
        lines.append("note: the delivery note that this site has taken names no such serial")
    return "\n  ".join(lines)


def _sentence(one: WrappedSecret) -> str:
    label = one.label
    end = "" if one.sealed is None else f", may be given until {_date(label.expires)}"
    return f"{label.name}, version {label.version}, for the box {label.serial}{end}"


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
