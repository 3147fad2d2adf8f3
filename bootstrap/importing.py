"""What a file from headquarters is, by its content, and what taking it would change.

Pure: bytes in, a `Sort` or lines for people out. It never judges a signature, reads a file or goes
by a name. docs/signed-inputs.md.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from attest.baseline import Baseline, FirmwareEntry
from attest.firmwarefile import BASELINE_TYPE, entry_id
from attest.policy import POLICY_TYPE
from bootstrap import site_plan
from bootstrap.backup import Form
from keys import approval, wrap
from keys.lease import HEADER as LEASE_HEADER
from keys.note import HEADER as NOTE_HEADER
from keys.note import Entry
from keys.signed import (
    APPROVAL,
    BACKUP_KEY,
    BOOT_SET,
    FIRMWARE,
    NOTE,
    PLAN,
    POLICY,
    REHEARSAL,
    SEED,
    WRAPPED,
    Kind,
    claimed_kind,
)
from netboot.bootset import TYPE as BOOT_SET_TYPE

MAX_LINES = 40
SNIFFED = 4096
"""Bytes from which a file is told that is too large to be read whole."""
_AGE = (b"age-encryption.org/v1", b"-----BEGIN AGE ENCRYPTED FILE-----")
_BACKUPS = {form.value.rstrip() for form in Form}
_SIGNATURE = b"untrusted comment: "
_TAR_MAGIC, _TAR_AT = b"ustar", 257
_REHEARSAL_TYPE = "doorstep/rehearsal/v1"


class Sort(Enum):
    """What a file is; the value is what people call it. In the order in which they are taken."""

    PLAN = PLAN.title
    POLICY = POLICY.title
    FIRMWARE = FIRMWARE.title
    TRUST = "certificates of TPM makers"
    NOTE = NOTE.title
    BACKUP_KEY = BACKUP_KEY.title
    BOOT_SET = BOOT_SET.title
    BOOT_SET_TAR = "boot set in a tar file"
    INTERMEDIATE = "certificate from the site's root"
    LEASE = "lease"
    SEED = SEED.title
    WRAPPED = WRAPPED.title
    APPROVAL = APPROVAL.title
    REHEARSAL = REHEARSAL.title
    SIGNATURE = "signature"
    PRIVATE_KEY = "private key"
    BACKUP = "backup"
    UNKNOWN = "something else"

    @property
    def rank(self) -> int:
        """Where it stands in the order of taking."""
        return list(Sort).index(self)


SIGNED: Mapping[Sort, Kind] = {
    Sort.PLAN: PLAN,
    Sort.POLICY: POLICY,
    Sort.FIRMWARE: FIRMWARE,
    Sort.NOTE: NOTE,
    Sort.BACKUP_KEY: BACKUP_KEY,
    Sort.BOOT_SET: BOOT_SET,
    Sort.SEED: SEED,
    Sort.WRAPPED: WRAPPED,
    Sort.APPROVAL: APPROVAL,
    Sort.REHEARSAL: REHEARSAL,
}
"""The sorts that have a `.minisig` beside them, each with its row in the table of kinds."""

_BY_TYPE: Mapping[str, Sort] = {
    BASELINE_TYPE: Sort.FIRMWARE,
    POLICY_TYPE: Sort.POLICY,
    BOOT_SET_TYPE: Sort.BOOT_SET,
    _REHEARSAL_TYPE: Sort.REHEARSAL,
    approval.TYPE: Sort.APPROVAL,
    site_plan.TYPE: Sort.PLAN,
    wrap.TYPE: Sort.WRAPPED,
}
_BY_KIND = {kind.name: sort for sort, kind in SIGNED.items()}


class State(Enum):
    """What an import of a file would do."""

    NEW = "new"
    SAME = "taken before"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of one file before anything is done with it.

    `signer` names the key; `counter` and `before` are its own and the newest that was taken.
    `changes` are lines for people; `sentence` says of a refused one why, and what to do.
    """

    file: str
    sort: Sort
    state: State
    signer: str | None = None
    site: str | None = None
    counter: int | None = None
    before: int | None = None
    changes: tuple[str, ...] = ()
    sentence: str | None = None


def recognise(data: bytes, signatures: Sequence[bytes] = ()) -> Sort:
    """Say what a file is by its content; a damaged one is what its signature claims."""
    found = _plain_sort(data)
    if found is None:
        found = _typed(data)
    if found is None:
        kind = next(filter(None, map(claimed_kind, signatures)), None)
        found = None if kind is None else _BY_KIND.get(kind.name)
    return found or Sort.UNKNOWN


def _plain_sort(data: bytes) -> Sort | None:
    """Recognise what its first bytes tell."""
    start = data[:SNIFFED].lstrip()
    if start.upper().startswith(LEASE_HEADER.encode()):
        return Sort.LEASE
    if start.startswith(_AGE):
        return Sort.SEED
    if b"PRIVATE KEY-----" in start or start.startswith(b"AGE-SECRET-KEY-"):
        return Sort.PRIVATE_KEY
    if (b"-----BEGIN " in start and b"\0" not in start) or _is_der(data):
        return Sort.TRUST
    if start.startswith(_SIGNATURE):
        return Sort.SIGNATURE
    if data[_TAR_AT : _TAR_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return Sort.BOOT_SET_TAR
    first = data.split(b"\n", 1)[0].rstrip(b"\r")
    if first == ",".join(NOTE_HEADER).encode():
        return Sort.NOTE
    if first in _BACKUPS:
        return Sort.BACKUP
    if start.startswith(b"age1"):
        return Sort.BACKUP_KEY
    return None


def _is_der(data: bytes) -> bool:
    """Tell whether it is one DER SEQUENCE of two length bytes or more, to its end."""
    if len(data) < 64 or data[0] != 0x30 or data[1] not in (0x82, 0x83):
        return False
    count = data[1] - 0x80
    return int.from_bytes(data[2 : 2 + count], "big") == len(data) - 2 - count


def _typed(data: bytes) -> Sort | None:
    """Recognise JSON and TOML by their `type`."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    for read in (json.loads, tomllib.loads):
        try:
            document = read(text)
        except (ValueError, RecursionError):
            continue
        named = document.get("type") if isinstance(document, dict) else None
        return _BY_TYPE.get(named) if isinstance(named, str) else None
    return None


# what would change


def note_changes(before: Iterable[Entry], after: Iterable[Entry]) -> tuple[str, ...]:
    """Say by serial which boxes a note adds, removes and changes."""
    old, new = ({one.serial: one for one in entries} for entries in (before, after))
    added = [f"+ {_box(new[serial])}" for serial in new if serial not in old]
    gone = [f"- {_box(old[serial])}" for serial in old if serial not in new]
    other = [
        f"~ {serial}: {_box(old[serial])} becomes {_box(new[serial])}"
        for serial in new
        if serial in old and new[serial] != old[serial]
    ]
    told = f"{len(new)} boxes: {len(added)} added, {len(gone)} removed, {len(other)} changed"
    return told, *shortened([*added, *gone, *other])


def _box(entry: Entry) -> str:
    words = [entry.serial, entry.model, entry.role, entry.name]
    key = f"EK {entry.ek_sha256.hex()[:12]}…" if entry.ek_sha256 else "any TPM"
    return " ".join([*(word for word in words if word), key])


def baseline_changes(before: Baseline, after: Baseline) -> tuple[str, ...]:
    """Say which entries of the firmware baseline come and go."""
    old, new = ({entry_id(one): one for one in found.entries} for found in (before, after))
    added = [f"+ {_firmware(name, new[name])}" for name in new if name not in old]
    gone = [f"- {_firmware(name, old[name])}" for name in old if name not in new]
    told = f"{len(new)} entries: {len(added)} added, {len(gone)} removed"
    return told, *shortened([*added, *gone])


def _firmware(name: str, entry: FirmwareEntry) -> str:
    machine = entry.machine
    return f"{name} {machine.vendor} {machine.model} {machine.version} ({entry.source})"


def text_changes(name: str, before: str, after: str) -> tuple[str, ...]:
    """Say which lines of a text come and go."""
    if before == after:
        return (f"{name}: no line changes",)
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))
    told = [line for line in lines[2:] if line[:1] in "+-"]
    added = sum(line.startswith("+") for line in told)
    head = f"{name}: {added} lines added, {len(told) - added} removed"
    return head, *shortened(f"{line[0]} {line[1:]}" for line in told)


def shortened(lines: Iterable[str]) -> tuple[str, ...]:
    """Keep so many lines as a person reads, and say how many there are more."""
    found = tuple(lines)
    if len(found) <= MAX_LINES:
        return found
    return *found[:MAX_LINES], f"and {len(found) - MAX_LINES} more"
