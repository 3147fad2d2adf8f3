"""Which file a client means: names of TFTP and HTTP to digests of the file store.

It never touches a file system: what is not in the plan's map does not exist, so no name can lead
out of it. RFC 1350 and RFC 3986 leave names free; the tolerances are those that clients need.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from netboot.events import Detail, Event, EventKind

Address = IPv4Address | IPv6Address

MAX_NAME = 512
QUIET_SECONDS = 60.0
"""One client asking for pieces of one file is told of once in this time."""
PROGRESS_SECONDS = 2.0
"""One file on its way to one client, or broken off, is told of once in this time."""
LARGE = 1 << 20
"""Bytes from which on progress is told: people wait for these."""
MAX_QUIET = 4096
MAX_ASSIGNED = 65536

_DRIVE = re.compile(r"[A-Za-z]:")
_SAFE = re.compile(r"[\x21-\x7e]+")


class Missing(StrEnum):
    """Why there is no file for a name; the text is all that a client is told."""

    NOT_FOUND = "no such file"
    FORBIDDEN = "this name is not allowed"
    NOT_HERE = "nothing is booted from this network"
    LOST = "the file is missing on the appliance"


class Transport(StrEnum):
    """How a file was sent."""

    TFTP = "tftp"
    HTTP = "http"


class Phase(StrEnum):
    """What an event of the serve record tells of a file."""

    START = "start"
    PROGRESS = "progress"
    END = "end"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file that may be sent: its path in the plan and the SHA-256 that names it in the store.

    `boot_set` is the set for which it is sent, None when that is not known.
    """

    path: str
    sha256: bytes
    boot_set: bytes | None = None


@lru_cache(maxsize=256)
def normal_path(name: str) -> str | None:
    """Give the path a name means, with one leading slash; None when it is not allowed.

    `\\` is `/`; a drive, leading and doubled slashes and trailing 0xFF (old PXE ROMs) are dropped.
    """
    name = _DRIVE.sub("", name.rstrip("\xff").replace("\\", "/"), count=1)
    if len(name) > MAX_NAME or not _SAFE.fullmatch(name):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/" + "/".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSet:
    """A boot set that is offered: its loader, and the fixed names that mean its own files.

    `names` are paths whose content differs from set to set (`/shimx64.efi`, `/grub/grub.cfg`) with
    SHA-256 digests; `loader` is one of them. `architecture` is "amd64" or "arm64".
    """

    boot_set: bytes
    architecture: str
    loader: str
    names: Mapping[str, bytes] = field(default_factory=dict)


class _Names:
    """Some names with what they mean; case-blind only where that is unique."""

    def __init__(self, names: Mapping[str, bytes], boot_set: bytes | None) -> None:
        self._entries = {
            path: Entry(path=path, sha256=digest, boot_set=boot_set)
            for path, digest in names.items()
        }
        folded: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            folded.setdefault(entry.path.lower(), []).append(entry)
        self._folded = {path: found[0] for path, found in folded.items() if len(found) == 1}

    @classmethod
    def of_set(cls, one: ServedSet) -> Self:
        return cls(one.names, one.boot_set)

    def find(self, path: str) -> Entry | None:
        return self._entries.get(path) or self._folded.get(path.lower())


class FileMap:
    """The names of one plan; never changed, a new plan makes a new one."""

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        addresses: Iterable[Address] | None = None,
        *,
        sets: Iterable[ServedSet] = (),
    ) -> None:
        """Take what names mean for everybody, our addresses (None: all), and the boot sets.

        The first set of an architecture is its default, the others are for boxes that were offered
        them.
        """
        self._addresses = None if addresses is None else {one.packed for one in addresses}
        self._files = _Names(files or {}, None)
        self._sets = {one.boot_set: (one.architecture, _Names.of_set(one)) for one in sets}
        self._defaults: dict[str, _Names] = {}
        for architecture, names in self._sets.values():
            self._defaults.setdefault(architecture, names)

    def find(self, name: str, local: Address, boot_set: bytes | None = None) -> Entry | Missing:
        """Find what a client that reached us at `local` and was offered `boot_set` means.

        Its own set first, then the default sets of other architectures (of all, without a set of
        its own), then the files that are the same for everybody.
        """
        if self._addresses is not None and local.packed not in self._addresses:
            return Missing.NOT_HERE
        path = normal_path(name)
        if path is None:
            return Missing.FORBIDDEN
        own = None if boot_set is None else self._sets.get(boot_set)
        candidates = self._defaults if own is None else {own[0]: own[1], **self._others(own[0])}
        for names in candidates.values():
            found = names.find(path)
            if found is not None:
                return found
        shared = self._files.find(path)
        if shared is None:
            return Missing.NOT_FOUND
        return shared if own is None else replace(shared, boot_set=boot_set)

    def _others(self, architecture: str) -> Mapping[str, _Names]:
        return {name: names for name, names in self._defaults.items() if name != architecture}


class Assignments:
    """Which boot set each client was offered last; one for DHCP, TFTP and HTTP together.

    Bounded: the client that was heard of longest ago is forgotten first. Threads may share it: each
    step is one operation of an OrderedDict, which the interpreter does not interrupt.
    """

    def __init__(self, most: int = MAX_ASSIGNED) -> None:
        """Remember nothing yet, and at most so many clients."""
        self._most = most
        self._sets: OrderedDict[bytes, bytes] = OrderedDict()

    def assign(self, client: Address, boot_set: bytes) -> None:
        """Note what a client was offered, by the address that it has or gets."""
        self._sets.pop(client.packed, None)
        self._sets[client.packed] = boot_set
        if len(self._sets) > self._most:
            self._sets.popitem(last=False)

    def of(self, client: Address) -> bytes | None:
        """Tell which set a client was offered."""
        return self._sets.get(client.packed)

    def find(self, files: FileMap, name: str, local: Address, client: Address) -> Entry | Missing:
        """Find what this client means, and note the set whose loader or file it is given.

        So a client that another DHCP server brought here keeps to one set too.
        """
        assigned = self.of(client)
        found = files.find(name, local, assigned)
        if isinstance(found, Entry) and found.boot_set not in (None, assigned):
            self.assign(client, found.boot_set)
        return found


class ServeRecord:
    """What was sent to whom, for which boot set and how far, as events; repetition is damped.

    Whole files are told each time, what is on its way and what broke off every two seconds, and
    the same start, piece or refusal once a minute for one client and file.
    """

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: dict[tuple[bytes, str, str], float] = {}
        self._reached: dict[tuple[bytes, str], int] = {}

    def _is_told(
        self, address: Address, path: str, what: str, now: float, seconds: float = QUIET_SECONDS
    ) -> bool:
        key = (address.packed, path, what)
        told = self._told.get(key)
        if told is not None and 0 <= now - told < seconds:
            return True
        if len(self._told) >= MAX_QUIET:
            self._told.clear()
        self._told[key] = now
        return False

    def start(
        self, transport: Transport, address: Address, entry: Entry, size: int, now: float
    ) -> tuple[Event, ...]:
        """Tell that a file begins to be sent, once a minute for one client and file."""
        if self._is_told(address, entry.path, "start", now):
            return ()
        self._is_told(address, entry.path, "progress", now)
        return (_event(transport, address, entry, size, now, Phase.START, sent=0),)

    def progress(
        self,
        transport: Transport,
        address: Address,
        entry: Entry,
        size: int,
        now: float,
        *,
        sent: int,
        offset: int = 0,
    ) -> tuple[Event, ...]:
        """Tell how far a large file has come; call it as often as you like."""
        if size < LARGE or self._is_told(address, entry.path, "progress", now, PROGRESS_SECONDS):
            return ()
        reached = self._reach(address, entry, offset, sent)
        if reached is None:
            return ()
        return (_event(transport, address, entry, size, now, Phase.PROGRESS, sent=reached),)

    def end(
        self,
        transport: Transport,
        address: Address,
        entry: Entry,
        size: int,
        now: float,
        *,
        sent: int,
        offset: int = 0,
        broke: bool = True,
    ) -> tuple[Event, ...]:
        """Tell how much was sent from `offset`; `broke`: less than the client had asked for.

        Pieces that follow each other count as one file: it is done when the last has its end.
        """
        reached = self._reach(address, entry, offset, sent)
        is_whole = sent == size
        if not is_whole and reached == size:
            broke = False
        seconds = PROGRESS_SECONDS if broke else QUIET_SECONDS
        what = "broke" if broke else "done" if reached == size else "part"
        if not is_whole and self._is_told(address, entry.path, what, now, seconds):
            return ()
        if reached is None:
            return (
                _event(transport, address, entry, size, now, Phase.END, sent=sent, offset=offset),
            )
        return (_event(transport, address, entry, size, now, Phase.END, sent=reached),)

    def _reach(self, address: Address, entry: Entry, offset: int, sent: int) -> int | None:
        """Say how far the client has the file without a gap; None for a piece after a gap."""
        key = (address.packed, entry.path)
        before = self._reached.get(key, 0) if offset else 0
        if offset > before:
            return None
        if len(self._reached) >= MAX_QUIET:
            self._reached.clear()
        self._reached[key] = reached = max(before, offset + sent)
        return reached

    def refused(
        self, transport: Transport, address: Address, name: str, why: Missing, now: float
    ) -> tuple[Event, ...]:
        """Tell that a name was not served; the sentence says not allowed and not found apart."""
        name = name[:MAX_NAME].encode("ascii", "backslashreplace").decode()
        if self._is_told(address, name, why.value, now):
            return ()
        detail = (("transport", transport.value), ("name", name), ("phase", Phase.REFUSED.value))
        reason = why.name.replace("_", "-")
        return (
            Event(
                at=now,
                kind=EventKind.BOOT_FILE,
                address=address,
                reason=reason,
                detail=(*detail, ("sentence", why.value), ("done", False)),
            ),
        )


def _event(
    transport: Transport,
    address: Address,
    entry: Entry,
    size: int,
    now: float,
    phase: Phase,
    *,
    sent: int,
    offset: int = 0,
) -> Event:
    detail: Detail = (
        ("transport", transport.value),
        ("name", entry.path),
        ("phase", phase.value),
        ("sent", sent),
        ("size", size),
        ("done", phase is Phase.END and sent == size),
    )
    if offset:
        detail += (("offset", offset),)
    if phase is not Phase.PROGRESS:
        detail += (("sha256", entry.sha256.hex()),)
    if entry.boot_set is not None:
        detail += (("boot_set", entry.boot_set.hex()),)
    return Event(at=now, kind=EventKind.BOOT_FILE, address=address, detail=detail)
