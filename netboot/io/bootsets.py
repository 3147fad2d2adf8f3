"""The store of boot sets: files by SHA-256, sets by digest, under STATE/bootsets.

Written by the command line as root; every write is a temporary file, fsync and rename, so a power
cut leaves the old or the new. It never decides what is served, and never signs.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from keys.signed import BOOT_SET, check_signed
from netboot.bootset import BootFile, BootSetManifest, decode_manifest
from netboot.errors import PeerError, SiteError

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.minisig"
REHEARSAL = "rehearsal.json"
REHEARSAL_SIGNATURE = "rehearsal.json.minisig"
_DOCUMENTS = frozenset({SIGNATURE, REHEARSAL, REHEARSAL_SIGNATURE})
_HEX = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class BootSetStore:
    """Files and sets under one directory."""

    def __init__(self, directory: Path) -> None:
        """Use `directory` (STATE/bootsets); nothing is made before the first write."""
        self.directory = directory
        self._files = directory / "files"
        self._sets = directory / "sets"

    def file(self, sha256: bytes) -> Path:
        """Path of a stored file; SiteError when it is missing."""
        path = self._files / sha256.hex()
        if not path.is_file():
            raise SiteError(f"{path} is missing: import the boot set again")
        return path

    def add_file(self, data: bytes, name: str) -> BootFile:
        """Store a file and return its name, digest and size."""
        digest = hashlib.sha256(data).digest()
        path = self._files / digest.hex()
        if not path.is_file():
            _write(path, data)
        return BootFile(name=name, sha256=digest, size=len(data))

    def take_file(self, source: BinaryIO, wanted: BootFile) -> None:
        """Copy a file that is not believed; PeerError, and nothing stored, when it is another."""
        path = self._files / wanted.sha256.hex()
        if path.is_file() and path.stat().st_size == wanted.size and _sha256(path) == wanted.sha256:
            return
        _write_checked(path, source, wanted)

    def take_set(self, manifest: BootSetManifest, documents: Mapping[str, bytes]) -> bytes:
        """Store a manifest that came with its signature, its files being there; gives its digest.

        All `documents` (by name, the manifest's own bytes among them) appear at once, as one
        directory; in a set that is there already those that it lacks.
        """
        self.check_files(manifest)
        digest = manifest.digest
        if not set(documents) <= _DOCUMENTS | {MANIFEST}:
            raise ValueError("a document that no boot set has")
        if (self._sets / digest.hex() / MANIFEST).exists():
            for name in sorted(set(documents) - {MANIFEST}):
                _write(self._sets / digest.hex() / name, documents[name])
        else:
            _write_directory(self._sets / digest.hex(), documents)
        return digest

    def check_files(self, manifest: BootSetManifest) -> None:
        """Read every file of a set and compare size and digest; SiteError names the damaged one."""
        for role, file in manifest.roles.items():
            path = self.file(file.sha256)
            if path.stat().st_size != file.size or _sha256(path) != file.sha256:
                raise SiteError(f"{path} ({role}) is damaged: remove it, import the set again")

    def add_set(self, manifest: BootSetManifest, signature: bytes | None = None) -> bytes:
        """Store a manifest, its files being there, and return its digest.

        A set of the same digest keeps its manifest: name, version and release text of the first.
        """
        self.check_files(manifest)
        digest = manifest.digest
        path = self._sets / digest.hex() / MANIFEST
        if not path.exists():
            _write(path, manifest.encode())
        if signature is not None:
            self.put(digest, SIGNATURE, signature)
        return digest

    def manifest(self, digest: bytes) -> BootSetManifest:
        """Read a set; SiteError when it is missing or its content has another digest."""
        manifest = decode_manifest(self.get(digest, MANIFEST))
        if manifest.digest != digest:
            raise SiteError(f"{self._sets / digest.hex()}: the manifest has another digest")
        return manifest

    def verified_manifest(self, digest: bytes, public_key: bytes) -> BootSetManifest:
        """Read a set whose manifest the site signed (`public_key`: content of root.pub).

        keys' ManifestError when the signature is not by that key over these bytes.
        """
        manifest = self.manifest(digest)
        data, signature = self.get(digest, MANIFEST), self.get(digest, SIGNATURE)
        signed = check_signed(BOOT_SET, data, signature, public_key=public_key, site_id="")
        said = f"version={signed.counter} digest={signed.fields['digest']}"
        if said != manifest.signature_comment:
            raise SiteError(f"boot set {digest.hex()}: signed as {said!r}; sign it again")
        return manifest

    def digests(self) -> Iterator[bytes]:
        """Give the digest of every set, sorted."""
        if self._sets.is_dir():
            names = sorted(path.name for path in self._sets.iterdir())
            yield from (bytes.fromhex(name) for name in names if _HEX.fullmatch(name))

    def find(self, text: str) -> bytes:
        """Find a set by name (the highest version) or by a unique start of its digest."""
        known = {digest: self.manifest(digest) for digest in self.digests()}
        named = [digest for digest, manifest in known.items() if manifest.name == text]
        if named:
            return max(named, key=lambda digest: known[digest].version)
        starts = [digest for digest in known if len(text) >= 6 and digest.hex().startswith(text)]
        if len(starts) != 1:
            raise SiteError(f"no boot set {text!r}: `doorstep bootset list` shows what there is")
        return starts[0]

    def get(self, digest: bytes, name: str) -> bytes:
        """Read one document of a set; SiteError when it is missing."""
        path = self._sets / digest.hex() / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error

    def has(self, digest: bytes, name: str) -> bool:
        """Tell whether a set has a document."""
        return (self._sets / digest.hex() / name).is_file()

    def put(self, digest: bytes, name: str, data: bytes) -> None:
        """Write one document beside a manifest (signature, rehearsal)."""
        if name not in _DOCUMENTS:
            raise ValueError(f"{name} is no document of a boot set")
        _write(self._sets / digest.hex() / name, data)


def _sha256(path: Path) -> bytes:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.digest()


def _write_checked(path: Path, source: BinaryIO, wanted: BootFile) -> None:
    hasher, left = hashlib.sha256(), wanted.size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                while chunk := _read(source, min(_CHUNK, left + 1), wanted.name):
                    hasher.update(chunk)
                    file.write(chunk)
                    left -= len(chunk)
                    if left < 0:
                        break
                file.flush()
                os.fsync(file.fileno())
            if left or hasher.digest() != wanted.sha256:
                raise PeerError(
                    f"{wanted.name}: it is not the file that the manifest names: copy it again"
                )
            Path(temporary).chmod(0o644)
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise SiteError(f"cannot write {path}: {error.strerror}") from error


def _read(source: BinaryIO, size: int, name: str) -> bytes:
    try:
        return source.read(size)
    except OSError as error:
        why = error.strerror or "an error"
        raise PeerError(f"{name} cannot be read to its end ({why}): copy it again") from error


def _write_directory(path: Path, documents: Mapping[str, bytes]) -> None:
    """Make a directory with files in it, at once: its renaming is the moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # one that has no manifest, of a release that wrote it file by file
            for name in sorted(documents, key=lambda one: one == MANIFEST):
                _write(path / name, documents[name])
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as made:
            inner = Path(made) / "set"
            inner.mkdir(mode=0o755)
            for name, data in documents.items():
                _write(inner / name, data)
            inner.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise SiteError(f"cannot write {path}: {error.strerror}") from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise SiteError(f"cannot write {path}: {error.strerror}") from error
