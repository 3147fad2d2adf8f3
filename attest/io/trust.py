"""The trust store of a site: one file for each CA certificate and revocation list, and its source.

`*.pem` holds certificates, `*.crl` lists, `sources.json` where each came from and when; what makers
of machines sign with lies in `platform/`. Files put there by hand are read too. Each file is
written under a temporary name, flushed and renamed. Nothing is ever fetched.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from attest.anchors import (
    Anchors,
    Part,
    check_anchor,
    check_list,
    decode_anchors,
    decode_parts,
)
from attest.crl import Crl
from attest.der import Certificate, is_signed_by
from attest.errors import AttestSiteError

SOURCES, PLATFORM = "sources.json", "platform"
MAX_FILE = 32 << 20
_TYPE = "doorstep/trust-sources/v1"
_ORGANISATION = "2.5.4.10"


class Kind(Enum):
    """What one entry of the store is."""

    ROOT = "root"
    INTERMEDIATE = "intermediate"
    CRL = "revocation list"


class Outcome(Enum):
    """What became of one certificate or list that was to be imported."""

    STORED = "stored"
    KNOWN = "there already"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One certificate or list of the store; times in unix seconds.

    `until` is the end of a certificate or the next update of a list; `since` its start, or the day
    of a list. `source` and `imported` are None for a file that was put there by hand.
    """

    part: Part
    file: str
    kind: Kind
    title: str
    maker: str
    since: int
    until: int | None
    source: str | None = None
    imported: float | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, hexadecimal."""
        return self.part.fingerprint.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one certificate or list; `told` says why, or what to know of it."""

    outcome: Outcome
    title: str
    fingerprint: str
    file: str
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed, and what is left without an issuer because of it."""

    entries: tuple[Entry, ...]
    orphans: tuple[Entry, ...]


def load_trust(directory: Path, *, rehearsal: bool) -> Anchors:
    """Read the anchors and lists of a store; AttestSiteError names the file that is wrong."""
    return decode_anchors(read_files(directory), rehearsal=rehearsal)


def load_platform_trust(directory: Path, *, rehearsal: bool) -> Anchors:
    """Read what makers of machines sign with; nothing where the store has none."""
    files = read_files(directory / PLATFORM)
    return decode_anchors(files, rehearsal=rehearsal, platform=True)


def read_files(
    directory: Path, suffixes: tuple[str, ...] = (".pem", ".crl")
) -> tuple[tuple[str, bytes], ...]:
    """Give the files of a store, by name; nothing for a directory that is not there yet."""
    try:
        paths = sorted(path for path in directory.glob("*") if path.suffix in suffixes)
        return tuple((f"{directory.name}/{path.name}", _read(path)) for path in paths)
    except OSError as error:
        raise AttestSiteError(f"{error.filename}: {error.strerror}: put it back") from error


def list_trust(directory: Path) -> tuple[Entry, ...]:
    """Give all entries of a store, certificates before lists, by title."""
    sources = _read_sources(directory)
    entries = [
        _entry(part, Path(name).name, sources) for name, part in _parts(read_files(directory))
    ]
    return tuple(sorted(entries, key=lambda each: (each.kind is Kind.CRL, each.title, each.file)))


def import_trust(
    directory: Path,
    files: Iterable[tuple[str, bytes]],
    *,
    source: str,
    now: float,
    rehearsal: bool = False,
    platform: bool = False,
) -> tuple[Imported, ...]:
    """Take certificates and lists into the store, each judged by itself.

    `source` is a person's word on where they came from. AttestSiteError for a file in which there
    is nothing to import, before anything is written.
    """
    parts = sorted(_parts(files), key=lambda found: isinstance(found[1], Crl))
    place = directory / PLATFORM if platform else directory
    with _locked(place):
        store = {entry.part.der: entry for entry in list_trust(place)}
        taken: dict[bytes, Entry] = {}
        answers = []
        for name, part in parts:
            answer = _judge(name, part, {**store, **taken}, rehearsal, platform)
            if answer.outcome is Outcome.STORED:
                taken[part.der] = _entry(part, answer.file, {})
            answers.append((part, answer))
        sources = _read_sources(place)
        sources |= {
            entry.fingerprint: {"from": source, "imported": int(now), "file": entry.file}
            for entry in taken.values()
        }
        # The sources first: a certificate whose source is lost could not be told from a stranger's.
        if taken:
            _write_sources(place, sources)
        for entry in taken.values():
            _write(place / entry.file, _pem([entry.part]))
    certificates = _certificates([*store.values(), *taken.values()])
    return tuple(
        replace(answer, told=tuple(_notes(part, certificates, now)))
        if answer.outcome is Outcome.STORED
        else answer
        for part, answer in answers
    )


def remove_trust(directory: Path, key: str) -> Removed:
    """Remove by file name, or by a start of a fingerprint of at least eight digits.

    AttestSiteError when nothing or more than one entry is meant.
    """
    with _locked(directory):
        before = list_trust(directory)
        gone = _meant(before, key)
        left = tuple(entry for entry in before if entry not in gone)
        for file in sorted({entry.file for entry in gone}):
            rest = [entry.part for entry in left if entry.file == file]
            if rest:
                _write(directory / file, _pem(rest))
            else:
                (directory / file).unlink()
        sources = _read_sources(directory)
        kept = {entry.fingerprint for entry in left}
        _write_sources(directory, {name: one for name, one in sources.items() if name in kept})
    lost = {entry.part.der for entry in _orphans(left)} - {e.part.der for e in _orphans(before)}
    return Removed(entries=gone, orphans=tuple(each for each in left if each.part.der in lost))


def _meant(entries: Iterable[Entry], key: str) -> tuple[Entry, ...]:
    entries = tuple(entries)
    by_file = tuple(entry for entry in entries if entry.file == key)
    if by_file:
        return by_file
    digits = key.replace(":", "").lower()
    found = tuple(entry for entry in entries if entry.fingerprint.startswith(digits))
    if len(digits) < 8 or not found:
        raise AttestSiteError(
            f"{key!r} is no file of the trust store and no fingerprint in it:"
            " `doorstep trust list` shows both"
        )
    if len({entry.part.der for entry in found}) > 1:
        raise AttestSiteError(f"{key!r} is the start of several fingerprints: give more digits")
    return found


def _judge(
    name: str,
    part: Part,
    store: Mapping[bytes, Entry],
    rehearsal: bool,
    platform: bool,
) -> Imported:
    def answer(outcome: Outcome, file: str, told: tuple[str, ...] = ()) -> Imported:
        return Imported(
            outcome=outcome,
            title=part.title,
            fingerprint=part.fingerprint.hex(),
            file=file,
            told=told,
        )

    known = store.get(part.der)
    if known is not None:
        return answer(Outcome.KNOWN, known.file)
    try:
        if isinstance(part, Crl):
            if not check_list(name, part, _certificates(store.values())):
                return answer(Outcome.REFUSED, "", (_NO_CA.format(title=part.title),))
        else:
            check_anchor(name, part, rehearsal=rehearsal, platform=platform)
    except AttestSiteError as error:
        return answer(Outcome.REFUSED, "", (str(error),))
    return answer(Outcome.STORED, _file_name(part))


_NO_CA = "the CA {title} of this revocation list is not in the trust store: import that first"


def _notes(part: Part, certificates: Iterable[Certificate], now: float) -> Iterator[str]:
    if isinstance(part, Crl):
        if part.next_update is not None and part.next_update < now:
            yield "it is past its next update: get a newer one from the maker"
        return
    if now > part.not_after:
        yield "it is expired"
    if now < part.not_before:
        yield "it is not valid yet"
    if part.subject != part.issuer and not any(
        each.subject == part.issuer and is_signed_by(part, each) for each in certificates
    ):
        yield "its issuer is not in the trust store, so it is trusted by itself"


def _orphans(entries: Iterable[Entry]) -> list[Entry]:
    """Give the entries whose issuer is not among them."""
    entries = tuple(entries)
    certificates = _certificates(entries)
    return [
        entry
        for entry in entries
        if entry.kind is not Kind.ROOT
        and not any(each.subject == entry.part.issuer for each in certificates)
    ]


def _certificates(entries: Iterable[Entry]) -> list[Certificate]:
    return [each.part for each in entries if isinstance(each.part, Certificate)]


def _entry(part: Part, file: str, sources: Mapping[str, Mapping[str, Any]]) -> Entry:
    known = sources.get(part.fingerprint.hex(), {})
    if isinstance(part, Crl):
        kind, since, until = Kind.CRL, part.this_update, part.next_update
        names = dict(part.issuer)
    else:
        kind = Kind.ROOT if part.subject == part.issuer else Kind.INTERMEDIATE
        since, until, names = part.not_before, part.not_after, dict(part.subject)
    return Entry(
        part=part,
        file=file,
        kind=kind,
        title=part.title,
        maker=names.get(_ORGANISATION, ""),
        since=since,
        until=until,
        source=known.get("from"),
        imported=known.get("imported"),
    )


def _file_name(part: Part) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-")[:40] or "unnamed"
    suffix = "crl" if isinstance(part, Crl) else "pem"
    return f"{part.fingerprint.hex()[:12]}-{slug}.{suffix}"


def _parts(files: Iterable[tuple[str, bytes]]) -> list[tuple[str, Part]]:
    return [(name, part) for name, data in files for part in decode_parts(name, data)]


def _pem(parts: Iterable[Part]) -> bytes:
    blocks = []
    for part in parts:
        label = "X509 CRL" if isinstance(part, Crl) else "CERTIFICATE"
        text = base64.encodebytes(part.der).decode().replace("\n", "")
        lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
        blocks.append(f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
    return "".join(blocks).encode()


def _read_sources(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / SOURCES
    try:
        document = json.loads(_read(path))
        entries = document["entries"]
        if document["type"] != _TYPE or not all(isinstance(one, dict) for one in entries.values()):
            raise ValueError(document["type"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AttestSiteError(
            f"{path}: it does not say where the certificates came from ({error}):"
            " put it back or remove it"
        ) from error
    return dict(entries)


def _write_sources(directory: Path, sources: Mapping[str, Mapping[str, Any]]) -> None:
    document = {"type": _TYPE, "entries": sources}
    _write(directory / SOURCES, (json.dumps(document, sort_keys=True, indent=1) + "\n").encode())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one import or removal at a time change a store."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AttestSiteError(f"{directory}: {error.strerror}: look at its owner") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    except OSError as error:
        raise AttestSiteError(
            f"{directory}: the trust store cannot be written: {error.strerror}"
        ) from error
    finally:
        os.close(handle)


def _write(path: Path, data: bytes) -> None:
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


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise AttestSiteError(f"{path}: it is too large for a trust store")
    return content
