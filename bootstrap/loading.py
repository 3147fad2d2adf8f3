"""How far a box that starts from the network has come, and what its silence means.

Pure: what netboot told of one MAC (its serve record) and the time in, words out. It never says that
a box may have anything: all of it is what somebody on the network was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bootstrap.cards import SILENT, SILENT_CODE, USUAL, harmless
from bootstrap.enrolment import Stage
from bootstrap.rows import Sighting

HEARD_LAST = "last"
"""In a sighting's detail: when netboot last told of it, in unix seconds."""
STALL_SECONDS = 30.0
"""A file that is under way and moves no further for so long has stopped."""

_WORDS = (
    ("shim", "the loader"),
    ("grub.cfg", "the boot menu"),
    ("grub", "the loader"),
    ("vmlinuz", "the kernel"),
    ("linux", "the kernel"),
    ("initrd", "the initrd"),
    ("generic", "the initrd"),
    ("anchor", "the site's anchor"),
)
"""What people call a file, by how its name begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What is missing, and its code."""

    sentence: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One file that was sent: when, how much, of which content (hex) and boot set (hex)."""

    name: str
    transport: str
    at: float
    sent: int
    size: int
    done: bool
    sha256: str | None
    boot_set: str | None


def file_name(detail: Mapping[str, Any]) -> str:
    """Name the file of an event without its path."""
    return harmless(str(detail.get("name") or "").rpartition("/")[2], 60)


def percent(detail: Mapping[str, Any]) -> int | None:
    """Say how much of a file was sent; None for all of it, a piece in its middle, or no file."""
    sent, size = detail.get("sent"), detail.get("size")
    is_under_way = detail.get("phase") in ("start", "progress", "end") and not detail.get("done")
    if not is_under_way or type(sent) is not int or type(size) is not int or size <= 0:
        return None
    return None if detail.get("offset") else min(100, 100 * max(0, sent) // size)


def portion(detail: Mapping[str, Any]) -> str:
    """Write how much of a file was sent, unless all of it was."""
    part = percent(detail) if detail.get("phase") != "start" else None
    return "" if part is None else f" to {part}\u00a0%"


def silence(sighting: Sighting, now: float) -> Silence | None:
    """Say what is missing when a box that starts has been silent for too long."""
    if sighting.stage not in (Stage.HEARD, Stage.BOOTING):
        return None
    limit = 3 * USUAL[sighting.stage].total_seconds()
    code = SILENT_CODE[sighting.stage]
    if sighting.stage is Stage.HEARD:
        if now - sighting.since < limit:
            return None
        if sighting.address is None:
            return Silence(sentence=_NO_ANSWER, code="DHCP-STALL")
        return Silence(sentence=SILENT[Stage.HEARD], code=code)
    last = sighting.detail.get(HEARD_LAST)
    quiet = now - (last if isinstance(last, float) else sighting.since)
    part = percent(sighting.detail)
    if part is not None and quiet >= STALL_SECONDS:
        return Silence(sentence=f"It stopped at {part}\u00a0% of {_called(sighting)}.", code=code)
    if part is None and quiet >= limit:
        return Silence(sentence=_sentence_at_end(sighting), code=code)
    return None


_NO_ANSWER = "It asked for an address and did not take the one that it was offered."


def _sentence_at_end(sighting: Sighting) -> str:
    if not sighting.detail.get("done"):
        return SILENT[Stage.BOOTING]
    return f"It stopped loading: it has {_called(sighting)} and asked for nothing more."


def _called(sighting: Sighting) -> str:
    name = file_name(sighting.detail)
    return next((words for start, words in _WORDS if name.lower().startswith(start)), name)


def served(events: Sequence[Mapping[str, Any]]) -> tuple[Served, ...]:
    """List what was sent in one attempt, in the order in which it was asked for.

    A file that was sent again is told once, with the last that is known of it.
    """
    files: dict[str, Served] = {}
    for event in events:
        detail = event.get("detail") or {}
        if event.get("kind") != "boot-file" or detail.get("phase") not in _SENT:
            continue
        one = _served(event, detail)
        known = files.get(one.name)
        files[one.name] = one if known is None else _later(known, one)
    return tuple(files.values())


_SENT = ("start", "progress", "end")


def _served(event: Mapping[str, Any], detail: Mapping[str, Any]) -> Served:
    return Served(
        name=harmless(detail.get("name") or "", 200),
        transport=harmless(detail.get("transport") or "", 10),
        at=float(event.get("at") or 0),
        sent=_count(detail.get("sent")),
        size=_count(detail.get("size")),
        done=detail.get("done") is True,
        sha256=_hex(detail.get("sha256")),
        boot_set=_hex(detail.get("boot_set")),
    )


def _later(known: Served, one: Served) -> Served:
    """Take what is newer; progress does not repeat which bytes they are."""
    return Served(
        name=one.name,
        transport=one.transport,
        at=known.at,
        sent=one.sent,
        size=one.size,
        done=one.done,
        sha256=one.sha256 or known.sha256,
        boot_set=one.boot_set or known.boot_set,
    )


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _hex(value: object) -> str | None:
    is_digest = (
        isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    )
    return str(value) if is_digest else None


def served_json(files: Iterable[Served]) -> list[Mapping[str, Any]]:
    """Write what was sent for the socket."""
    return [{name: getattr(one, name) for name in Served.__slots__} for one in files]
