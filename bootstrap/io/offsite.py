"""Headquarters' side of backups and seeds: the off-site key, what it opens, and for whom.

The off-site key lies under a passphrase in age's own form, so that `age -d` opens a backup when
nothing of ours is left. Whom a secret is encrypted for is judged here. docs/backup.md.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootstrap.backup import (
    Form,
    Statement,
    check_appliance,
    front,
    resealed_trailer,
    stale,
)
from bootstrap.errors import PeerError, SiteError
from bootstrap.io import site_dir
from bootstrap.io.backup_file import CHUNK, BackupFile, Pipe, Sink, new_file
from bootstrap.io.lease_desk import LeaseDesk
from bootstrap.lease_authority import MIN_PASSPHRASE
from bootstrap.lease_desk import Asked, check_known, check_request
from bootstrap.lease_ledger import Ledger
from keys.ca import load_certificate
from keys.errors import PeerError as KeysPeerError
from keys.io import age
from keys.parcel import Header, Item, Part, Seed, What, gather
from keys.secret import Secret
from keys.signed import BACKUP_KEY, RESEALED, SEED, standard_comment

RECIPIENT = Path("trust/backup.txt")
MAX_PART = 16 << 20
MAX_IDENTITY = 4096
SEED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A backup whose signature was checked, and why its secrets stay closed (None: they do not)."""

    file: BackupFile
    digest: bytes
    stale: str | None

    @property
    def header(self) -> Header:
        """What it is of."""
        return self.file.header


def make_identity(path: Path, passphrase: Secret) -> str:
    """Draw the off-site key into a file that only the passphrase opens; gives its recipient."""
    if path.exists():
        raise SiteError(f"{path} exists: backups were made for it, make none over it")
    if len(passphrase) < MIN_PASSPHRASE:
        raise SiteError(f"the passphrase is too short: take at least {MIN_PASSPHRASE} letters")
    identity = age.draw()
    site_dir.write(path, age.lock(identity, passphrase), 0o600)
    return age.public_half(identity)


def open_identity(path: Path, passphrase: Secret) -> Secret:
    """Open it; SiteError when it is missing, when others can read it, or for a wrong passphrase."""
    try:
        data = path.read_bytes()[:MAX_IDENTITY]
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SiteError(
            f"{path}: {error.strerror}: make an off-site key with `doorstep backup init`"
        ) from error
    if mode & 0o077:
        raise SiteError(f"{path} can be read by others: chmod 600 {path}")
    try:
        return age.unlock(data, passphrase)
    except KeysPeerError as error:
        raise SiteError(f"{path}: {error}") from None


def install(site: Path, recipient: str, offline: Path | None, now: float) -> Path:
    """Name the off-site key to a site, signed: root on its appliance could name one of its own."""
    path = site / RECIPIENT
    data = f"{recipient}\n".encode()
    comment = standard_comment(site_dir.load(site).site.id, int(now))
    signature = site_dir.sign_document(site, data, comment, BACKUP_KEY.context, offline)
    site_dir.write(path, data)
    site_dir.write(path.with_name(f"{path.name}.minisig"), signature)
    return path


def open_backup(path: Path, site: Path, desk: LeaseDesk) -> Opened:
    """Check that an appliance of the site made a backup; PeerError when it may not be used."""
    file = BackupFile(path)
    if file.front.form is not Form.BACKUP:
        raise PeerError("this backup was resealed already: bring the one that the appliance wrote")
    site_id = site_dir.load(site).site.id
    if file.header.site != site_id:
        raise PeerError(f"this backup is of the site {file.header.site}, not of {site_id}")
    digest = file.digest()
    check_appliance(file.trailer, file.header, digest, _root(site))
    ledger = desk.ledger(site_id, file.header.ek) if file.header.ek else None
    return Opened(file=file, digest=digest, stale=stale(file.header, ledger))


def check_asked(site: Path, asked_site: str) -> None:
    """Check that somebody asks for this site; PeerError otherwise."""
    site_id = site_dir.load(site).site.id
    if asked_site != site_id:
        raise PeerError(f"it asks for the site {asked_site}, not for {site_id}")


def known_asker(recipient: str, request: str, desk: LeaseDesk) -> Asked:
    """Check that the TPM of an appliance that has a lease quoted the recipient; PeerError."""
    asked = check_request(request, challenge=recipient)
    ledger: Ledger | None = desk.ledger(asked.request.site, asked.ek_name)
    if ledger is None:
        raise PeerError("it has no lease from here: issue one with `doorstep lease issue` first")
    check_known(asked, ledger)
    return asked


def reseal(
    opened: Opened, identity: Secret, recipient: str, site: Path, out: Path, offline: Path | None
) -> Statement:
    """Encrypt a backup anew for one machine and sign that; its secrets stay for us alone."""
    file, now = opened.file, int(time.time())
    with new_file(out) as target:
        sink = Sink(target)
        sink.write(front(Form.RESEALED, opened.header))
        with Pipe(lambda write: file.open(identity, write, opened.digest)) as pipe:
            age.encrypt_stream(pipe.read, sink.write, recipient)
        statement = Statement(
            site=opened.header.site,
            recipient=recipient,
            at=now,
            stale=opened.stale is not None,
            sha256=sink.digest(),
        )
        comment = standard_comment(opened.header.site, now)
        data = statement.encode()
        signature = site_dir.sign_document(site, data, comment, RESEALED.context, offline)
        target.write(b"\n" + resealed_trailer(statement, signature) + b"\n")
    return statement


def secrets_of(opened: Opened, identity: Secret) -> tuple[Item, ...]:
    """Open the secrets of a backup; PeerError when they stay closed, or are not whole."""
    if opened.stale is not None:
        raise PeerError(opened.stale)
    parts: list[Part] = []

    def take(name: str, size: int, content: IO[bytes]) -> None:
        if not name.startswith("secrets/"):
            while content.read(CHUNK):
                pass
            return
        try:
            parts.append(Part.decode(age.decrypt(content.read(MAX_PART), identity).reveal()))
        except KeysPeerError as error:
            raise PeerError(str(error)) from None

    opened.file.unpack(identity, opened.digest, take)
    try:
        return gather(parts, opened.header)
    except KeysPeerError as error:
        raise PeerError(str(error)) from None


def living(items: Sequence[Item], now: float) -> tuple[Item, ...]:
    """Leave out what has ended."""
    return tuple(one for one in items if one.not_after is None or one.not_after > now)


def pack(
    site: Path,
    items: Sequence[Item],
    recipient: str,
    counter: int,
    out: Path,
    offline: Path | None = None,
) -> list[Path]:
    """Write seeds of these items with their signatures; the second is out-2, and so on."""
    site_id, made = site_dir.load(site).site.id, list[Path]()
    for number, batch in enumerate(_batches(items)):
        path = out if number == 0 else out.with_name(f"{out.stem}-{number + 1}{out.suffix}")
        seed = Seed(site=site_id, counter=counter + number, items=tuple(batch))
        try:
            data = age.encrypt(Secret(seed.encode()), recipient)
        except ValueError as error:
            raise SiteError(str(error)) from None
        comment = standard_comment(site_id, counter + number)
        signature = site_dir.sign_document(site, data, comment, SEED.context, offline)
        site_dir.write(path, data)
        site_dir.write(path.with_name(f"{path.name}.minisig"), signature)
        made.append(path)
    return made


def _batches(items: Sequence[Item]) -> list[list[Item]]:
    """Cut items into seeds; keys and certificates come with the first."""
    ordered = sorted(items, key=lambda one: one.what is What.SECRET)
    batches: list[list[Item]] = [[]]
    size = 0
    for one in ordered:
        if batches[-1] and size + len(one.value) > SEED_BYTES * 3 // 4:
            batches.append([])
            size = 0
        batches[-1].append(one)
        size += len(one.value) + 100
    return batches


def _root(site: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    path = site / site_dir.ROOT_PEM
    try:
        return load_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}: it belongs beside site.toml") from error
