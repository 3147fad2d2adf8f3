"""Puts an appliance's state back from a resealed backup, onto this machine or another.

Everything is unpacked and checked beside the place where it goes, then renamed into it: a cut or a
refusal leaves nothing behind, and a file that is here already is never written over. Services do
not run meanwhile. docs/backup.md.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from bootstrap.backup import Form, Statement, check_resealed
from bootstrap.errors import PeerError, SiteError
from bootstrap.io import site_dir
from bootstrap.io.as_owner import as_owner
from bootstrap.io.backup import BOOT_FILES, DATABASES
from bootstrap.io.backup_file import CHUNK, BackupFile
from bootstrap.io.supervisor import directories, gid_of
from bootstrap.io.tpm_device import device_of, group_of
from bootstrap.published import PublishedState
from bootstrap.site import SITE_FILE, Site
from keys.io import age
from keys.io.layout import Layout
from keys.parcel import MAX_HEADER, Header
from keys.rules import SiteRules
from keys.secret import Secret
from netboot.bootset import Role
from netboot.io.bootsets import BootSetStore

IDENTITY = "restore.key"
STAGE, FITTED = ".restore", "keys/keys.db"
OWNERS = {"plan": "control", "evidence": "control"}
LEFT_OUT = ("secrets/", "header.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was put back; `keys` is how much of keys.db could be used (`keys.io.restored`).

    `kept` counts files that were here already; `missing` are boot files (digests) of its boot sets.
    """

    header: Header
    statement: Statement
    keys: str
    placed: int
    kept: int
    missing: tuple[str, ...]


@dataclass(slots=True)
class _Stage:
    """What is unpacked, before it is anywhere."""

    base: Path
    header: bytes = b""

    def take(self, name: str, size: int, content: IO[bytes]) -> None:
        """Write one file; what is for headquarters alone is left out."""
        if name == "header.json":
            self.header = content.read(MAX_HEADER)
        if name.startswith(LEFT_OUT):
            return
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found = sha256()
        with path.open("xb") as file:
            while data := content.read(CHUNK):
                file.write(data)
                found.update(data)
        if path.stat().st_size != size:
            raise PeerError(f"{name} is not whole: make another backup")
        if name.startswith(f"{BOOT_FILES}/") and path.name != found.hexdigest():
            raise PeerError(f"{name} is not the file of that digest: make another backup")


def ask_recipient(state: Path) -> str:
    """Draw the key that a backup is resealed to, or read it; gives its public half."""
    path = state / IDENTITY
    if not path.exists():
        site_dir.write(path, age.draw().reveal() + b"\n", 0o600)
    return age.public_half(_identity(state))


def restore(layout: Layout, path: Path, public_key: bytes) -> Restored:
    """Check everything, then put it in place; SiteError or PeerError, and nothing was changed."""
    if os.geteuid() != 0:
        raise SiteError("an appliance is restored by root: use sudo")
    _check_quiet(layout)
    file = BackupFile(path)
    stage = _Stage(layout.state / STAGE)
    try:
        if file.front.form is not Form.RESEALED:
            raise PeerError(
                "this backup opens at headquarters alone: `doorstep backup reseal` there makes of "
                "it what this machine can open"
            )
        digest = file.digest()
        statement = check_resealed(file.trailer, file.header, digest, public_key)
        with _told(layout.state, "nothing was changed"):
            _check_room(layout.state, file.size)
            shutil.rmtree(stage.base, ignore_errors=True)
            stage.base.mkdir(parents=True, mode=0o711)
        with _told(layout.state, "nothing was changed"):
            _unpack(file, _identity(layout.state), digest, stage)
        with _told(layout.state, "do the same again: what is in place stays"):
            return _place(layout, stage, file.header, statement)
    finally:
        file.close()
        shutil.rmtree(stage.base, ignore_errors=True)


@contextmanager
def _told(state: Path, remedy: str) -> Iterator[None]:
    """Make a sentence of what the disk says."""
    try:
        yield
    except OSError as error:
        text = f"{error.filename or state}: {error.strerror or error}"
        raise SiteError(f"{text}: {remedy}") from error


def _unpack(file: BackupFile, identity: Secret, digest: bytes, stage: _Stage) -> None:
    try:
        file.unpack(identity, digest, stage.take)
    except (ValueError, KeyError, TypeError, FileExistsError):
        raise PeerError("what is inside is no backup: make another") from None
    if stage.header != file.header.encode():
        raise PeerError("what is inside is another backup than it says outside: make another")


def _place(layout: Layout, stage: _Stage, header: Header, statement: Statement) -> Restored:
    site = site_dir.load(stage.base / "site")
    here = site_dir.load(layout.site) if (layout.site / SITE_FILE).exists() else site
    if not site.site.id == here.site.id == header.site:
        raise SiteError(
            f"this machine is of the site {here.site.id}, the backup of {header.site}: give --site "
            "and --state of an empty appliance"
        )
    for directory in directories(layout):
        directory.make()
    keys = _fit_keys(layout, stage, header, statement, here)
    os.sync()
    placed = kept = 0
    for top, base in (("site", layout.site), ("state", layout.state)):
        moved, left = _move_tree(layout, stage.base / top, base)
        placed, kept = placed + moved, kept + left
    for name, file, user in DATABASES:  # keys.db last: it makes the appliance this site's
        source = stage.base / (FITTED if user == "keys" else f"db/{file}")
        if user in layout.users and source.exists():
            is_new = _move_database(source, layout.state / name / file, layout.users[user])
            placed, kept = placed + is_new, kept + (not is_new)
    os.sync()
    (layout.state / IDENTITY).unlink(missing_ok=True)
    missing = missing_files(layout.state)
    return Restored(
        header=header, statement=statement, keys=keys, placed=placed, kept=kept, missing=missing
    )


def _fit_keys(
    layout: Layout, stage: _Stage, header: Header, statement: Statement, site: Site
) -> str:
    """Let the keys user fit keys.db to this machine: nobody else opens it."""
    from keys.io.restored import Copy, bring_back

    source, uid = stage.base / "db" / "keys.db", layout.users["keys"]
    if not source.exists():
        raise PeerError("there is no keys.db in this backup: make another")
    fitted = stage.base / FITTED
    fitted.parent.mkdir(mode=0o700)
    _move(source, fitted, uid, 0o600)
    os.chown(fitted.parent, uid, gid_of(uid))
    copy = Copy(path=fitted, at=header.at, is_stale=statement.stale, now=time.time())
    place = layout.site if (layout.site / SITE_FILE).exists() else stage.base / "site"
    rules = SiteRules.of(_toml(place / SITE_FILE))
    device = device_of(site)
    group = None if device is None else group_of(device)

    def work() -> Mapping[str, Any]:
        return bring_back(copy, layout, header.site, rules.controller.tcti)

    done = as_owner(uid, work, () if group is None else (group,))
    return str(done["outcome"])


def _move_tree(layout: Layout, source: Path, target: Path) -> tuple[int, int]:
    """Put files where nothing is yet; gives how many were put and how many were there."""
    moved = kept = 0
    for path in sorted(source.rglob("*")) if source.exists() else []:
        relative = path.relative_to(source)
        place = target / relative
        user = OWNERS.get(relative.parts[0]) if target == layout.state else None
        owner = 0 if user is None else layout.users[user]
        is_closed = owner != 0 and relative.parts[0] == "evidence"
        if path.is_dir():
            if not place.exists():
                place.mkdir(parents=True)
                os.chown(place, owner, gid_of(owner))
                place.chmod(0o700 if is_closed else 0o755)
        elif place.exists():
            kept += 1
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            _move(path, place, owner, 0o600 if is_closed else 0o644)
            moved += 1
    return moved, kept


def _move_database(source: Path, target: Path, uid: int) -> bool:
    """Put a database where there is none; what an older one left beside it is no part of it."""
    if target.exists():
        return False
    for end in ("-wal", "-shm"):
        target.with_name(target.name + end).unlink(missing_ok=True)
    _move(source, target, uid, 0o600)
    return True


def _move(source: Path, target: Path, uid: int, mode: int) -> None:
    os.chown(source, uid, gid_of(uid))
    source.chmod(mode)
    try:
        source.rename(target)
    except OSError:
        temporary = target.with_name(f".{target.name}.new")  # SITE is on another file system
        shutil.copyfile(source, temporary)
        os.chown(temporary, uid, gid_of(uid))
        temporary.chmod(mode)
        temporary.rename(target)


def missing_files(state: Path) -> tuple[str, ...]:
    """Name the files (SHA-256) that boot sets here are made of and that are not here."""
    store = BootSetStore(state / "bootsets")
    wanted = {
        file.sha256 for digest in store.digests() for file in store.manifest(digest).roles.values()
    }
    held = state / "bootsets" / "files"
    return tuple(sorted(one.hex() for one in wanted if not (held / one.hex()).exists()))


def sets_of_other_roots(site: Path, state: Path) -> tuple[str, ...]:
    """Name the boot sets in use whose boxes would not believe this site's root."""
    store, root = BootSetStore(state / "bootsets"), (site / site_dir.ROOT_PEM).read_bytes().strip()
    published, strange = site_dir.load_published(state), []
    for one in published.sets:
        if one.state is PublishedState.WITHDRAWN:
            continue
        manifest = store.manifest(one.digest)
        anchor = state / "bootsets" / "files" / manifest.roles[Role.ANCHOR].sha256.hex()
        if anchor.exists() and root not in anchor.read_bytes():
            strange.append(one.digest.hex()[:12])
    return tuple(strange)


def _check_quiet(layout: Layout) -> None:
    """Refuse while a service runs: it would not notice what lies under it."""
    for name in ("keys", "control", "netboot"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            try:
                sock.connect(str(layout.socket(name)))
            except OSError:
                continue
            raise SiteError(f"{name} is running here: stop the appliance first")


def _check_room(state: Path, size: int) -> None:
    state.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(state)
    free = room.f_bavail * room.f_frsize
    if free < 2 * size:
        raise SiteError(
            f"{state} has {free >> 20} MiB free, and {2 * size >> 20} are needed: make room"
        )


def _identity(state: Path) -> Secret:
    path = state / IDENTITY
    try:
        return Secret(path.read_bytes().strip())
    except OSError as error:
        raise SiteError(
            f"{path}: {error.strerror}: this machine has asked for no backup yet, or has taken it: "
            "begin with --ask FILE"
        ) from error


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}") from error
