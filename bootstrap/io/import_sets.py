"""Boot sets from a stick, into the store; and certificates of TPM makers, into the trust store.

A set's manifest is signed, and names its files by their digests; it is never published here.
Certificates of makers nobody signs for a site: a person says where they came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from attest.anchors import decode_parts
from attest.crl import Crl
from attest.io.trust import Outcome, import_trust, list_trust
from bootstrap.errors import PeerError
from bootstrap.importing import Sort, State, Verdict, shortened
from bootstrap.io.import_desk import Desk, Handler, Item, verdict
from bootstrap.io.stick import Folder, Source, TarFolder
from bootstrap.rehearsal.record import check_record, decode_record
from keys.manifest import MAX_FILE
from keys.signed import REHEARSAL as REHEARSED
from keys.signed import SignedInput, check_signed
from netboot.bootset import MAX_MANIFEST, BootFile, BootSetManifest, decode_manifest
from netboot.io.bootsets import (
    MANIFEST,
    REHEARSAL,
    REHEARSAL_SIGNATURE,
    SIGNATURE,
    BootSetStore,
)

MIB = 1 << 20


class BootSets:
    """A directory with a manifest, its signature and its files."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Check the manifest, the rehearsal, and that every file is there in its size."""
        found, before = desk.check(item)
        manifest = _manifest(found)
        documents, store = self._documents(desk, item, found, manifest), _store(desk)
        missing = [file for file in manifest.roles.values() if not _is_stored(store, file)]
        for file in missing:
            _check_there(item.beside, file)
        newest = max(
            (one.version for one in _stored(store) if one.name == manifest.name), default=None
        )
        size = sum(file.size for file in missing) / MIB
        changes = (
            f"boot set {manifest.name} version {manifest.version}, {manifest.architecture}: "
            f"{manifest.digest.hex()[:12]}",
            f"made of {manifest.release}",
            "it is the first of this name" if newest is None else f"the store has up to {newest}",
            f"{len(missing)} of {len(manifest.roles)} files are new, {size:.1f} MiB",
            "it was rehearsed" if REHEARSAL in documents else "it was not rehearsed",
            "it is not published: `doorstep bootset publish` does that",
        )
        same = before == found.floor and not missing and _has(store, manifest, documents)
        return verdict(item, found, before, changes, same=same)

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Copy the files that are missing, checking each, then the documents, at once."""
        found, _ = desk.check(item)
        manifest, store = _manifest(found), _store(desk)
        documents = self._documents(desk, item, found, manifest)
        for file in manifest.roles.values():
            with _opened(item.beside, file) as source:
                if source is not None:
                    store.take_file(source, file)
        store.take_set(manifest, documents)
        desk.taken(found)
        return (f"next: `doorstep bootset publish {manifest.digest.hex()[:12]}`",)

    def _documents(
        self, desk: Desk, item: Item, found: SignedInput, manifest: BootSetManifest
    ) -> Mapping[str, bytes]:
        """Give the documents that belong in the store, each checked."""
        documents = {MANIFEST: found.data, SIGNATURE: found.signature}
        record = item.beside.read(REHEARSAL, MAX_MANIFEST)
        signature = item.beside.read(REHEARSAL_SIGNATURE, MAX_FILE)
        if record is not None:
            check_signed(
                REHEARSED, record, signature or b"", public_key=desk.public_key, site_id=""
            )
            check_record(decode_record(record), manifest)
            documents |= {REHEARSAL: record, REHEARSAL_SIGNATURE: signature or b""}
        return documents


class BootSetTars:
    """The same in one tar file; nothing is unpacked by the names in it."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Look at the set in it."""
        with _in_tar(item) as inner:
            return BOOT_SETS.look(desk, inner)

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Take the set in it."""
        with _in_tar(item) as inner:
            return BOOT_SETS.take(desk, inner)


@contextmanager
def _in_tar(item: Item) -> Iterator[Item]:
    file = item.beside.open(item.name)
    if file is None:
        raise PeerError(f"{item.shown} is gone: put the stick back")
    with closing(file):
        inside = TarFolder(file, item.shown)
        manifest = inside.read(MANIFEST, MAX_MANIFEST)
        if manifest is None:
            raise PeerError(f"no {MANIFEST} is in it, so it is no boot set: pack the set itself")
        signature = inside.read(SIGNATURE, MAX_FILE)
        yield Item(
            shown=item.shown,
            name=MANIFEST,
            sort=Sort.BOOT_SET,
            data=manifest,
            signatures=() if signature is None else (signature,),
            beside=inside,
        )


def _manifest(found: SignedInput) -> BootSetManifest:
    manifest = decode_manifest(found.data)
    said = f"version={found.counter} digest={found.fields['digest']}"
    if said != manifest.signature_comment or manifest.encode() != found.data:
        raise PeerError(f"the boot set is signed as {said!r}, which it is not: sign it again")
    return manifest


def _store(desk: Desk) -> BootSetStore:
    return BootSetStore(desk.state / "bootsets")


def _stored(store: BootSetStore) -> Iterator[BootSetManifest]:
    return (store.manifest(digest) for digest in store.digests())


def _has(store: BootSetStore, manifest: BootSetManifest, documents: Mapping[str, bytes]) -> bool:
    digest = manifest.digest
    return all(store.has(digest, name) for name in documents)


def _is_stored(store: BootSetStore, file: BootFile) -> bool:
    path = store.directory / "files" / file.sha256.hex()
    return path.is_file() and path.stat().st_size == file.size


def _places(source: Source, file: BootFile) -> Iterator[tuple[Source, str]]:
    """Give where a file of a set may lie: beside its manifest, or as in a copy of the store."""
    digest = file.sha256.hex()
    yield source, digest
    yield source, file.name
    if isinstance(source, Folder):
        for folder in (source.path / "files", source.path.parent.parent / "files"):
            yield Folder(path=folder, name=str(folder)), digest


def _check_there(source: Source, file: BootFile) -> None:
    sizes = [place.size(name) for place, name in _places(source, file)]
    if file.size not in sizes:
        known = [size for size in sizes if size is not None]
        what = f"has {known[0]} bytes of {file.size}" if known else "is missing"
        raise PeerError(
            f"{file.name} of the boot set {what}: copy it again, beside its manifest under that "
            f"name or as {file.sha256.hex()}"
        )


@contextmanager
def _opened(source: Source, file: BootFile) -> Iterator[BinaryIO | None]:
    """Open a file of a set where its size is right; None where only the store has it."""
    for place, name in _places(source, file):
        if place.size(name) == file.size:
            found = place.open(name)
            if found is not None:
                with closing(found):
                    yield found
                return
    yield None


class TpmMakers:
    """Certificates and revocation lists of makers of TPMs."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Say what is in the file and what the store has of it."""
        parts = decode_parts(item.shown, item.data)
        known = {entry.part.der for entry in list_trust(self._store(desk))}
        new = [part for part in parts if part.der not in known]
        if new and desk.source is None:
            raise PeerError(
                f"{parts[0].title} and what else is in it is signed by nobody for this site: say "
                "with --from where you got it"
            )
        lines = [
            f"+ {'revocation list of ' if isinstance(part, Crl) else ''}{part.title} "
            f"({part.fingerprint.hex()[:16]})"
            for part in new
        ]
        return Verdict(
            file=item.shown,
            sort=item.sort,
            state=State.NEW if new else State.SAME,
            changes=shortened(lines),
        )

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Import them; what is refused is said."""
        answers = import_trust(
            self._store(desk),
            [(item.shown, item.data)],
            source=desk.source or "",
            now=desk.now,
            rehearsal=desk.rehearsal,
        )
        refused = [one for one in answers if one.outcome is Outcome.REFUSED]
        if len(refused) == len(answers):
            raise PeerError("; ".join(refused[0].told))
        return tuple(
            f"{one.outcome.value}: {one.title}: {'; '.join(one.told)}"
            for one in answers
            if one.told
        )

    def _store(self, desk: Desk) -> Path:
        return desk.directory / desk.site.trust.ek_anchors


BOOT_SETS = BootSets()
SETS: dict[Sort, Handler] = {
    Sort.BOOT_SET: BOOT_SETS,
    Sort.BOOT_SET_TAR: BootSetTars(),
    Sort.TRUST: TpmMakers(),
}
