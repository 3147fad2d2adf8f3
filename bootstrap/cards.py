"""What the technician sees of each box: one card with a stage, its age, a reason and a next step.

Pure: rows and `now` in, cards out. No secret, no configuration and no evidence ever enters a card.
Source: the 36 behaviours a field page needs; the codes are those of `attest.reasons` and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from bootstrap.enrolment import Stage

USUAL: Mapping[Stage, timedelta] = {
    Stage.HEARD: timedelta(seconds=20),
    Stage.BOOTING: timedelta(seconds=60),
    Stage.CONTACTED: timedelta(seconds=20),
    Stage.VERIFIED: timedelta(seconds=10),
    Stage.ENROLLED: timedelta(seconds=30),
}
"""How long a box usually stays in a stage; three times that turns its card amber."""

SILENT: Mapping[Stage, str] = {
    Stage.HEARD: "It has an address but did not ask for its start file: set network boot first.",
    Stage.BOOTING: "It stopped loading: power it off and on once, then swap the cable.",
    Stage.CONTACTED: "It began to prove itself and fell silent: power it off and on once.",
    Stage.VERIFIED: "It is accepted and the site has not finished: look at the services below.",
    Stage.ENROLLED: "It has its configuration and did not report: wait, then power-cycle it.",
}
"""What is missing when a stage is quiet for too long."""

NEXT_STEP: Mapping[str, str] = {
    "NO-DHCP": "Check cable and port light, then the boot order.",
    "DHCP-NOBOOT": "Set network boot as the first boot option.",
    "BOOT-STALL": "Power it off and on once, then swap the cable.",
    "OTHER-DHCP": "Unplug the other device, or call.",
    "ARCH": "This box needs another kind of start file: call, and say its model.",
    "SECURE-BOOT-OFF": "Switch Secure Boot on in the firmware, then power-cycle.",
    "TPM-NONE": "Switch the security chip (TPM) on in the firmware, then power-cycle.",
    "TPM-OWNED": "Clear the security chip (TPM) in the firmware, then power-cycle.",
    "EK-NONE": "Call: this security chip has no identity of its own.",
    "EK-UNKNOWN": "Call headquarters: they decide about this maker's chip.",
    "EK-UNLISTED": "Call headquarters: this box is not on the delivery note.",
    "REPLAY": "Power-cycle it. If it comes again, treat it as tampering and call.",
    "FACTS-DIFFER": "Compare the label with the order; if they agree, call headquarters.",
    "SECRET-EXPIRED": "Call: the site needs a line, or a new lease by hand.",
    "SECRET-MISSING": "Call: the operator has not stored this secret yet.",
    "HANDED-OVER": "Power-cycle it: one hand-over is made for each start.",
    "SITE-NOT-READY": "Wait a minute; then look at the services below.",
}
"""What to do now, by reason; any other refusal has the general step."""

_GENERAL = "Power it off and on once. If the same comes again, unplug it and call."


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

    @property
    def tone(self) -> str:
        """One of bad, wait, good, busy: what colour and sign the card has."""
        if self.stage in (Stage.REFUSED, Stage.REVOKED):
            return "bad"
        if self.stage is Stage.HELD or self.quiet:
            return "wait"
        return "good" if self.stage is Stage.READY else "busy"


def next_step(stage: Stage, reasons: tuple[str, ...]) -> str | None:
    """Say what a technician does now; None when nothing is to be done."""
    if not reasons:
        return None
    known = NEXT_STEP.get(reasons[0])
    if known or stage in (Stage.ENROLLED, Stage.READY):
        return known
    return "Call headquarters: a person must decide." if stage is Stage.HELD else _GENERAL


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
