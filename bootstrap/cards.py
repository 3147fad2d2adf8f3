"""What the technician sees of each box: one card with a stage, its age, a reason and a next step.

Pure: rows and `now` in, cards out. No secret, no configuration and no evidence ever enters a card,
and no text of a box enters one but through `harmless`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from bootstrap.enrolment import Stage
from bootstrap.next_steps import NEXT_STEP

STAGE_WORDS: Mapping[Stage, str] = {
    Stage.EXPECTED: "Expected",
    Stage.HEARD: "Heard",
    Stage.BOOTING: "Loading",
    Stage.CONTACTED: "Proving itself",
    Stage.VERIFIED: "Accepted",
    Stage.HELD: "Waits for a decision",
    Stage.REFUSED: "Refused",
    Stage.ENROLLED: "Configured, finishing",
    Stage.READY: "Ready",
    Stage.STALE: "Not heard for long",
    Stage.REVOKED: "Out of service",
    Stage.REPLACED: "Replaced",
}
"""What people call a stage."""

TRACK = (
    Stage.HEARD,
    Stage.BOOTING,
    Stage.CONTACTED,
    Stage.VERIFIED,
    Stage.ENROLLED,
    Stage.READY,
)
"""The way of a box that meets no trouble, step by step."""

USUAL: Mapping[Stage, timedelta] = {
    Stage.HEARD: timedelta(seconds=20),
    Stage.BOOTING: timedelta(seconds=60),
    Stage.CONTACTED: timedelta(seconds=20),
    Stage.VERIFIED: timedelta(seconds=10),
    Stage.ENROLLED: timedelta(seconds=30),
}
"""How long a box usually stays in a stage; three times that turns its card amber."""

SILENT: Mapping[Stage, str] = {
    Stage.HEARD: "It has an address and did not ask for its start file.",
    Stage.BOOTING: "It stopped loading.",
    Stage.CONTACTED: "It began to prove itself and fell silent.",
    Stage.VERIFIED: "It is accepted, and the site has not finished its configuration.",
    Stage.ENROLLED: "It has its configuration and did not report.",
}
"""What is missing when a stage is quiet for too long."""

SILENT_CODE: Mapping[Stage, str] = {
    Stage.HEARD: "DHCP-NOBOOT",
    Stage.BOOTING: "BOOT-STALL",
    Stage.CONTACTED: "PROOF-STALL",
    Stage.VERIFIED: "HANDOVER-STALL",
    Stage.ENROLLED: "REPORT-STALL",
}
"""The reason code of a stage that is quiet for too long."""

SERVICES: Mapping[str, tuple[str, str]] = {
    "control": ("Controller", "No box is judged, and nothing new is shown here."),
    "keys": ("Key service", "No box can be given its configuration or its secrets."),
    "netboot": ("Network boot", "No box gets an address or its start file."),
    "watch": ("Network watch", "Nobody notices another server on the network."),
    "sync": ("Secrets from afar", "No secret is renewed; what is here lasts until its end."),
}
"""Of each service: what people call it, and what its silence means."""

_GENERAL = "Switch the box off and on once. If the same comes again, unplug it and call."
_DECIDE = "Call headquarters: a person must decide."
_SPACES = frozenset({"Zs", "Zl", "Zp", "Cc"})
_HIDDEN = frozenset({"Cf", "Cs", "Co", "Cn"})
_MARKS = frozenset({"Mn", "Me"})
_MAX_MARKS = 2
_STRETCH = 4
"""A text is cut to so many times its limit before it is looked at, whatever a box sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One box, or one MAC that no box has claimed. Times are unix seconds."""

    key: str
    title: str
    stage: Stage
    since: float
    first: float
    attempt: int
    facts: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    sentence: str | None
    next_step: str | None
    quiet: str | None
    stopped_at: Stage | None = None
    quiet_code: str | None = None

    @property
    def tone(self) -> str:
        """One of bad, wait, good, busy: what colour and sign the card has."""
        if self.stage in (Stage.REFUSED, Stage.REVOKED, Stage.REPLACED):
            return "bad"
        if self.quiet or self.stage in (Stage.HELD, Stage.STALE):
            return "wait"
        if self.reasons and self.stage is not Stage.READY:
            return "wait"
        return "good" if self.stage is Stage.READY else "busy"

    @property
    def code(self) -> str | None:
        """The one reason code to read over the phone; None when nothing is wrong."""
        if self.reasons:
            return self.reasons[0]
        return (self.quiet_code or SILENT_CODE[self.stage]) if self.quiet else None

    @property
    def usual(self) -> float | None:
        """Seconds that a box usually stays in this stage; None for a stage that lasts."""
        span = USUAL.get(self.stage)
        return span.total_seconds() if span else None

    @property
    def step(self) -> int | None:
        """Which step of TRACK the box is at, or was stopped at; from 1."""
        at = self.stage if self.stage in TRACK else self.stopped_at
        return TRACK.index(at) + 1 if at else None


def next_step(stage: Stage, reasons: tuple[str, ...]) -> str | None:
    """Say what a technician does now; None when nothing is to be done."""
    if not reasons:
        return None
    known = NEXT_STEP.get(reasons[0])
    if known or stage in (Stage.ENROLLED, Stage.READY):
        return known
    return _DECIDE if stage is Stage.HELD else _GENERAL


def quiet(stage: Stage, since: float, now: float) -> str | None:
    """Say what is missing when the stage has lasted three times as long as usual."""
    usual = USUAL.get(stage)
    if usual is None or now - since < 3 * usual.total_seconds():
        return None
    return SILENT[stage]


def age(seconds: float) -> str:
    """Write a span as a person says it: `12 s`, `4 min`, `3 h 5 min`, `2 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def harmless(text: object, limit: int) -> str:
    """Make text of a box fit to be shown: at most `limit` characters on one line.

    Controls become spaces; bidi overrides, zero-width characters and whatever has no shape become
    U+FFFD (they can make one serial look like another, CVE-2021-42574); piled-up marks are dropped.
    """
    out: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", str(text)[: _STRETCH * limit]):
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        if marks > _MAX_MARKS:
            continue
        if category in _SPACES:
            character = " "
        elif category in _HIDDEN:
            character = "\ufffd"
        out.append(character)
    line = " ".join("".join(out).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def full_sentence(text: str | None) -> str | None:
    """Begin with a capital and end with a full stop, as every sentence of the page does."""
    if not text:
        return None
    line = harmless(text, 300)
    if not line:
        return None
    return line[:1].upper() + line[1:] + ("" if line[-1] in ".!?…" else ".")


_NUMBER = re.compile(r"\+?[0-9][0-9 ()/.-]{4,24}[0-9]")


def phone_number(help_text: str) -> str | None:
    """Find the number to dial in the site's help text (RFC 3966, digits and plus); None without."""
    found = _NUMBER.search(help_text)
    return re.sub(r"[^0-9+]", "", found[0].replace("(0)", "")) if found else None
