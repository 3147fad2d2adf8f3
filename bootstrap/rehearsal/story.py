"""A rehearsal as it is told: what happened to a box, when, in one line each; and as data.

It follows control's events and waits for the one that ends a chapter. It judges nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bootstrap.errors import SiteError
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import VirtualBox
from keys.io.rpc import RpcUnavailableError

Say = Callable[[str], None]
BOX_SECONDS = 300.0
_POLL_SECONDS = 0.2
_TOLD = (
    "dhcp-discover",
    "dhcp-ack",
    "session",
    "verified",
    "held",
    "refused",
    "enrolled",
    "ready",
    "report",
    "trouble",
    "replay",
)
"""Kinds of events that are part of a box's story; the rest is in the journal."""


_MARKS = {
    "dhcp-discover": "heard",
    "dhcp-ack": "address",
    "boot-file": "all files",
    "session": "phoned home",
    "verified": "verified",
    "enrolled": "enrolled",
    "ready": "ready",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of the story: seconds since power-on, the event's kind, the sentence."""

    seconds: float
    kind: str
    sentence: str
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class Chapter:
    """One power-on of one box, and how it ended."""

    title: str
    moments: list[Moment] = field(default_factory=list)
    end: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, kind: str) -> float | None:
        """When the first event of a kind happened, since power-on."""
        return next((one.seconds for one in self.moments if one.kind == kind), None)

    def timeline(self) -> str:
        """Name what was reached and when, in one line."""
        reached = {moment.kind: moment.seconds for moment in reversed(self.moments)}
        reached["boot-file"] = max(
            (one.seconds for one in self.moments if one.kind == "boot-file"), default=0.0
        )
        return ", ".join(
            f"{word} {reached[kind]:.1f} s" for kind, word in _MARKS.items() if reached.get(kind)
        )


class Storyteller:
    """Follows the events of one appliance."""

    def __init__(self, appliance: Appliance, say: Say) -> None:
        """Begin after what has happened so far."""
        self._appliance = appliance
        self._say = say
        self._last = int(appliance.ask("control", "events", {"after": -1})["last"])

    def follow(
        self, chapter: Chapter, box: VirtualBox, ends: tuple[str, ...], power_on: float
    ) -> Mapping[str, Any]:
        """Tell a box's events until one of the kinds `ends` comes, and return that event.

        SiteError with the end of its console when the box stops or nothing comes.
        """
        deadline = time.monotonic() + BOX_SECONDS
        seen: set[str] = set()
        while time.monotonic() < deadline:
            for event in self._new_events():
                if event["mac"] not in (box.mac, None) or not _is_told(event):
                    continue
                self._tell(chapter, event, power_on, seen)
                if event["kind"] in ends:
                    chapter.end = event
                    return event
            time.sleep(_POLL_SECONDS)
        raise SiteError(
            f"{chapter.title}: none of {', '.join(ends)} in {BOX_SECONDS:.0f} s; its console ends "
            f"with:\n{box.console[-1500:].decode(errors='replace')}"
        )

    def _new_events(self) -> Iterator[Mapping[str, Any]]:
        try:
            answer = self._appliance.ask("control", "events", {"after": self._last})
        except RpcUnavailableError:
            return
        self._last = int(answer["last"])
        yield from answer["events"]

    def _tell(
        self, chapter: Chapter, event: Mapping[str, Any], power_on: float, seen: set[str]
    ) -> None:
        moment = Moment(
            seconds=max(0.0, float(event["at"]) - power_on),
            kind=str(event["kind"]),
            sentence=str(event["sentence"]),
            reason=event["reason"],
        )
        chapter.moments.append(moment)
        if moment.sentence not in seen:
            seen.add(moment.sentence)
            self._say(f"{moment.seconds:7.1f} s  {moment.sentence}")


def _is_told(event: Mapping[str, Any]) -> bool:
    """Tell whether an event is part of a box's story: of boot files only those it has whole."""
    if event["kind"] == "boot-file":
        return bool(event["detail"].get("done"))
    return event["kind"] in _TOLD
