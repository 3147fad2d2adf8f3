"""Which file a client means: names of TFTP and HTTP to digests of the file store.

It never touches a file system: what is not in the plan's map does not exist, so no name can lead
out of it. RFC 1350 and RFC 3986 leave names free; the tolerances are those that clients need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.events import Event, EventKind

MAX_NAME = 512
QUIET_SECONDS = 60.0
"""One client asking for pieces of one file is told of once in this time."""
MAX_QUIET = 4096

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file that may be sent: its path in the plan and the SHA-256 that names it in the store."""

    path: str
    sha256: bytes


def normal_path(name: str) -> str | None:
    """Give the path a name means, with one leading slash; None when it is not allowed.

    `\\` is `/`; a drive, leading and doubled slashes and trailing 0xFF (old PXE ROMs) are dropped.
    """
    name = _DRIVE.sub("", name.rstrip("\xff").replace("\\", "/"), count=1)
    if len(name) > MAX_NAME or not _SAFE.fullmatch(name):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/" + "/".join(parts)


class FileMap:
    """The names of one plan; never changed, a new plan makes a new one."""

    def __init__(
        self,
        names: Mapping[str, bytes],
        addresses: Iterable[IPv4Address] | None = None,
    ) -> None:
        """Take URL paths with digests and our addresses that files are served on (None: all)."""
        self._entries = {path: Entry(path=path, sha256=digest) for path, digest in names.items()}
        self._addresses = None if addresses is None else frozenset(addresses)
        folded: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            folded.setdefault(entry.path.lower(), []).append(entry)
        self._folded = {path: found[0] for path, found in folded.items() if len(found) == 1}

    def find(self, name: str, local: IPv4Address) -> Entry | Missing:
        """Find what a client that reached us at `local` means; case-blind only where unique."""
        if self._addresses is not None and local not in self._addresses:
            return Missing.NOT_HERE
        path = normal_path(name)
        if path is None:
            return Missing.FORBIDDEN
        found = self._entries.get(path) or self._folded.get(path.lower())
        return found or Missing.NOT_FOUND


class ServeRecord:
    """What was sent to whom, as events; pieces of one file are damped to one event a minute."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: dict[tuple[IPv4Address, str, str], float] = {}

    def _is_told(self, address: IPv4Address, path: str, what: str, now: float) -> bool:
        key = (address, path, what)
        told = self._told.get(key)
        if told is not None and 0 <= now - told < QUIET_SECONDS:
            return True
        if len(self._told) >= MAX_QUIET:
            self._told.clear()
        self._told[key] = now
        return False

    def start(
        self, transport: Transport, address: IPv4Address, entry: Entry, size: int, now: float
    ) -> tuple[Event, ...]:
        """Tell that a file begins to be sent, once a minute for one client and file."""
        if self._is_told(address, entry.path, "start", now):
            return ()
        return (_event(transport, address, entry, size, now, sent=0, phase="start", done=False),)

    def end(
        self,
        transport: Transport,
        address: IPv4Address,
        entry: Entry,
        size: int,
        now: float,
        *,
        sent: int,
    ) -> tuple[Event, ...]:
        """Tell how much was sent; pieces, once a minute."""
        done = sent == size
        if not done and self._is_told(address, entry.path, "part", now):
            return ()
        return (_event(transport, address, entry, size, now, sent=sent, phase="end", done=done),)

    def refused(
        self, transport: Transport, address: IPv4Address, name: str, why: Missing, now: float
    ) -> tuple[Event, ...]:
        """Tell that a name was not served; the sentence says not allowed and not found apart."""
        name = name[:MAX_NAME].encode("ascii", "backslashreplace").decode()
        if self._is_told(address, name, why.value, now):
            return ()
        detail = (("transport", transport.value), ("name", name), ("phase", "refused"))
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
    address: IPv4Address,
    entry: Entry,
    size: int,
    now: float,
    *,
    sent: int,
    phase: str,
    done: bool,
) -> Event:
    return Event(
        at=now,
        kind=EventKind.BOOT_FILE,
        address=address,
        detail=(
            ("transport", transport.value),
            ("name", entry.path),
            ("phase", phase),
            ("sent", sent),
            ("size", size),
            ("done", done),
        ),
    )
