"""All that is told of one box beside its card: row, findings, what an approval would cover.

Pure: rows and events in, JSON values for control's socket out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bootstrap.approval import Offer
from bootstrap.next_steps import NEXT_STEP
from bootstrap.phonehome import b64u
from bootstrap.rows import BoxRow


def findings_of(events: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Give the findings of the last verdict among events, each with its next step."""
    kept = (one["detail"][name] for one in reversed(events) if name in one["detail"])
    return [
        {**one, "next_step": NEXT_STEP.get(one["code"])} for one in map(_finding, next(kept, []))
    ]


def _finding(kept: Any) -> Mapping[str, Any]:
    if isinstance(kept, dict):
        return kept
    code, sentence = kept  # of an event before findings had details
    return {"code": code, "sentence": sentence, "detail": "", "releasable_by": ""}


def story_detail(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give an event's detail without what is told beside the story."""
    beside = ("findings", "released")
    return {name: value for name, value in event["detail"].items() if name not in beside}


def offer_json(row: BoxRow, offered: Offer) -> Mapping[str, Any]:
    """Write what an approval would cover."""
    return {
        "ek_name": b64u(row.ek_name),
        "reasons": [code for code, _ in offered.reasons],
        "releasable_by": [who for _, who in offered.reasons],
        "measurements": b64u(offered.measurements),
        "sealed": b64u(offered.sealed),
        "needs_claim": offered.needs_claim,
    }


def box_json(row: BoxRow) -> Mapping[str, Any]:
    """Write what is kept of a box, without its keys."""
    return {
        "box": row.box,
        "stage": row.stage.value,
        "role": row.role,
        "hostname": row.hostname,
        "address": row.address,
        "mac": row.mac,
        "boot_set": row.boot_set.hex() if row.boot_set else None,
        "reset_count": row.reset_count,
        "restart_count": row.restart_count,
        "evidence": row.evidence,
        "tier": row.tier,
        "place": row.place,
        "firmware_released": row.firmware.hex() if row.firmware else None,
        "tpm_firmware": None if row.tpm_firmware is None else f"{row.tpm_firmware:016x}",
        "withheld": [{**one, "next_step": NEXT_STEP.get(one["reason"])} for one in row.withheld],
        "certificate_until": row.certificate_until,
        "renew": row.renew,
        "proved": row.proved,
        "renewals": row.renewals,
        "facts": dict(row.facts),
    }
