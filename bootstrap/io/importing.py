"""`doorstep import`: what was brought is recognised, judged and shown, then taken one by one.

A file that is refused changes nothing; one that is taken is looked at again right before. Two
imports never run at once. It never believes a name. docs/signed-inputs.md.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attest.errors import AttestError
from bootstrap.errors import BootstrapError, PeerError, SiteError
from bootstrap.importing import SIGNED, SNIFFED, Sort, State, Verdict, recognise
from bootstrap.io import site_dir
from bootstrap.io.import_answers import ANSWERS, is_of_a_site
from bootstrap.io.import_desk import Desk, Handler, Item
from bootstrap.io.import_documents import DOCUMENTS
from bootstrap.io.import_sets import SETS
from bootstrap.io.stick import Folder, Found, folder_of, shown, walk
from keys.errors import KeysError
from keys.io.rpc import RpcUnavailableError
from keys.io.signed_files import SIGNATURE
from keys.manifest import MAX_FILE
from keys.signed import size_text
from netboot.errors import NetbootError
from netboot.io.bootsets import MANIFEST

MAX_DOCUMENT = 8 << 20
"""No document is larger; a tar file with a boot set may be."""
MAX_READ = 1 << 30
"""Bytes of documents that are read of one directory."""
HANDLERS: Mapping[Sort, Handler] = {**DOCUMENTS, **ANSWERS, **SETS}
_SILENT = frozenset({Sort.SIGNATURE, Sort.UNKNOWN, Sort.REHEARSAL})
"""What in a directory is nothing to be taken: parts of something else, or none of ours."""
_REFUSALS: Mapping[Sort, str] = {
    Sort.UNKNOWN: "it is nothing that Doorstep takes: ask headquarters what it is",
    Sort.SIGNATURE: "it is a signature: give the file beside it, which it is of",
    Sort.REHEARSAL: f"it is a part of a boot set: give the {MANIFEST} beside it",
    Sort.BACKUP: "it comes back by `doorstep restore`, or `doorstep replace-appliance`",
    Sort.PRIVATE_KEY: "it is a private key: take it away from here, it belongs to headquarters",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A verdict with the document that it is about; `item` is None where nothing can be taken."""

    verdict: Verdict
    item: Item | None = None


def look(desk: Desk, paths: Iterable[Path]) -> tuple[tuple[Looked, ...], int]:
    """Judge files and all that is in directories; gives verdicts in the order of taking.

    The number is how many files of directories were nothing to be taken.
    """
    found: list[Looked] = []
    skipped = 0
    for path in paths:
        if path.is_dir():
            for one in _in_directory(desk, path):
                if one is None:
                    skipped += 1
                else:
                    found.append(one)
        else:
            folder, name = folder_of(path)
            found.append(_judged(desk, Found(folder=folder, name=name), str(path)))
    return tuple(sorted(found, key=_order)), skipped


def take(desk: Desk, looked: Looked) -> tuple[Verdict, tuple[str, ...]]:
    """Look once more and take it; gives the verdict of now, and what else is to be said."""
    assert looked.item is not None
    now = _verdict(desk, looked.item)
    if now.state is not State.NEW:
        return now, ()
    handler = HANDLERS[looked.item.sort]
    told: tuple[str, ...] = ()

    def act() -> Verdict:
        nonlocal told
        told = handler.take(desk, looked.item)  # type: ignore[arg-type]
        return now

    return _guarded(looked.item, act), told


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the site's directory against another import; SiteError when one runs."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SiteError(f"{directory}: {error.strerror}: give --site") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise SiteError(f"{directory}: another import runs: wait until it is done") from None
    finally:
        os.close(descriptor)


def _order(one: Looked) -> tuple[int, int, str]:
    verdict = one.verdict
    return verdict.sort.rank, verdict.counter or 0, verdict.file


def _in_directory(desk: Desk, path: Path) -> Iterator[Looked | None]:
    """Judge what is in a directory; None for each file that is nothing to be taken."""
    left = MAX_READ
    for found in walk(Folder(path=path, name=str(path))):
        if found.problem is not None:
            yield _refused(found.shown, Sort.UNKNOWN, found.problem)
            continue
        left -= found.size if found.size <= MAX_DOCUMENT else 0
        if left < 0:
            told = f"more than {size_text(MAX_READ)} to be read: give a directory with less in it"
            yield _refused(found.shown, Sort.UNKNOWN, told)
            return
        one = _judged(desk, found, found.shown)
        is_nothing = one.item is None and one.verdict.sort in _SILENT
        yield None if is_nothing and not _is_damaged(found, one.verdict.sort) else one


def _is_damaged(found: Found, sort: Sort) -> bool:
    """Tell whether somebody signed what is nothing: then it is damaged, not a stranger's."""
    if sort is not Sort.UNKNOWN or found.name.endswith(SIGNATURE):
        return False
    return found.folder.size(found.name + SIGNATURE) is not None


def _judged(desk: Desk, found: Found, where: str) -> Looked:
    try:
        item = _item(desk, found, where)
    except (PeerError, KeysError) as error:
        return _refused(shown_path(where), Sort.UNKNOWN, str(error))
    if item.sort not in HANDLERS:
        return _refused(item.shown, item.sort, _REFUSALS[item.sort])
    verdict = _verdict(desk, item)
    # What is not taken is not kept in memory either: a stick may hold a thousand of them.
    return Looked(verdict=verdict, item=item if verdict.state is State.NEW else None)


def _item(desk: Desk, found: Found, where: str) -> Item:
    """Read a document with its signature; PeerError when it is none, or too large."""
    folder, name = found.folder, found.name
    size = folder.size(name)
    if size is None:
        raise PeerError("there is no such file: look at its name")
    signatures = _signatures(folder, name)
    if size > MAX_DOCUMENT:
        start = folder.start(name, SNIFFED)
        sort = recognise(start, signatures)
        if sort is not Sort.BOOT_SET_TAR:
            kind = SIGNED.get(sort)
            what = "any document" if kind is None else f"a {kind.title} may be"
            raise PeerError(f"it is larger than {what}: {size_text(MAX_DOCUMENT)} is the limit")
        data = b""
    else:
        data = folder.read(name, MAX_DOCUMENT) or b""
        sort = recognise(data, signatures)
        if sort is Sort.TRUST and is_of_a_site(data, _root(desk)):
            sort = Sort.INTERMEDIATE
    return Item(
        shown=shown_path(where),
        name=name,
        sort=sort,
        data=b"" if sort is Sort.BOOT_SET_TAR else data,
        signatures=signatures,
        beside=folder,
    )


def _signatures(folder: Folder, name: str) -> tuple[bytes, ...]:
    if name.endswith(SIGNATURE):
        return ()
    found = folder.read(name + SIGNATURE, MAX_FILE)
    return () if found is None else (found,)


def _root(desk: Desk) -> bytes | None:
    return desk.disk.read(desk.directory / site_dir.ROOT_PEM, MAX_DOCUMENT)


def _verdict(desk: Desk, item: Item) -> Verdict:
    return _guarded(item, lambda: HANDLERS[item.sort].look(desk, item))


def _guarded(item: Item, act: Callable[[], Verdict]) -> Verdict:
    """Make what is wrong with a document its verdict; what is wrong with the site is raised."""
    try:
        return act()
    except (SiteError, RpcUnavailableError):
        raise
    except (KeysError, AttestError, NetbootError, BootstrapError) as error:
        return _refused(item.shown, item.sort, str(error)).verdict


def _refused(file: str, sort: Sort, sentence: str) -> Looked:
    verdict = Verdict(file=file, sort=sort, state=State.REFUSED, sentence=sentence)
    return Looked(verdict=verdict)


def shown_path(where: str) -> str:
    """Write a path for people: each of its names without control characters."""
    return "/".join(shown(part) for part in where.split("/"))
