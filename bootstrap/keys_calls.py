"""What control asks keys about a proved session: parameters of its calls, and the event beside.

Pure. docs/architecture.md, "keys `handover`", "keys `renew`", "keys `answer`".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bootstrap.judgement import Judgement, Proved
from bootstrap.phonehome import b64u
from bootstrap.rows import BoxRow, Event, SessionRow


class Case(Protocol):
    """A proved session that is being answered."""

    @property
    def session(self) -> SessionRow:
        """Its row."""

    @property
    def now(self) -> float:
        """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gift:
    """What a box is to be given: `document` is the hand-off, `boot_set` the digest it booted."""

    role: str
    boot_set: bytes
    reasons: Iterable[str]
    document: Mapping[str, Any]


def wrap_parameters(
    box: BoxRow, judgement: Judgement, proved: Proved, gift: Gift
) -> Mapping[str, Any]:
    """Give the parameters of `handover` and of `renew`."""
    return {
        "ek_public": b64u(box.ek_public),
        "box": box.box,
        "session": b64u(proved.session.session),
        "transcript": b64u(proved.transcript),
        "ephemeral": b64u(proved.evidence.ephemeral),
        "device_public": b64u(proved.evidence.device_public),
        "ssh_public": b64u(proved.evidence.ssh_host_key),
        "reset_count": judgement.reset_count,
        "restart_count": judgement.restart_count,
        "clock": judgement.clock,
        "pcrs": {str(index): b64u(value) for index, value in judgement.pcrs.items()},
        "boot_set": b64u(gift.boot_set),
        "role": gift.role,
        "reasons": sorted(gift.reasons),
        "handoff": gift.document,
    }


def answer_parameters(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the parameters of `answer` for a payload, which names its session and transcript."""
    bound = {name: payload[name] for name in ("session", "transcript")}
    return {"context": "answer", "payload": payload, **bound}


def event_of(
    case: Case, box: BoxRow, kind: str, detail: Mapping[str, Any], reason: str | None = None
) -> Event:
    """Say what happened to a box in a session."""
    return Event(
        at=case.now,
        kind=kind,
        box=box.box,
        mac=box.mac,
        address=case.session.address,
        reason=reason,
        detail=detail,
    )
