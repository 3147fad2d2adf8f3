"""An approval of one held box that headquarters signs: for whom, for what, until when, once.

Pure: bytes in, values out. Who may release which reason is not decided here, and what it lets
through is compared at the hand-over. docs/signed-inputs.md, "Approvals".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys.envelope import b64u, unb64u
from keys.errors import PeerError
from keys.signed import APPROVAL

TYPE = "doorstep/approval/v1"
MAX_REASONS, MAX_CLAIM = 64, 500
MAX_NUMBER = 1 << 53
_NAME_SIZES = (34, 50, 66)
_CODE = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}", re.ASCII)
_ROLE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_KEYS = frozenset(
    {"type", "site", "ek_name", "role", "reasons", "measurements", "sealed", "until", "claim"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApproval:
    """What headquarters lets through: this EK, held for exactly these reasons, with these values.

    `measurements` is the digest of all quoted values that control compares, `sealed` that of the
    PCRs a bundle is sealed to, which keys compares (32 bytes each). `until` in unix seconds is
    when it must have been taken. `claim` is what the technician read to headquarters.
    """

    site: str
    ek_name: bytes
    role: str
    reasons: frozenset[str]
    measurements: bytes
    sealed: bytes
    until: int
    claim: str = ""

    def encode(self) -> bytes:
        """Write the document that headquarters signs."""
        document = {
            "type": TYPE,
            "site": self.site,
            "ek_name": b64u(self.ek_name),
            "role": self.role,
            "reasons": sorted(self.reasons),
            "measurements": b64u(self.measurements),
            "sealed": b64u(self.sealed),
            "until": self.until,
            "claim": self.claim,
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> SignedApproval:
        """Read what `encode` wrote, to the last byte; PeerError otherwise."""
        if len(data) > APPROVAL.max_bytes:
            raise PeerError(f"an approval has at most {APPROVAL.max_bytes // 1024} KiB")
        try:
            found = cls._read(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PeerError):
            raise PeerError(
                "this is no approval of a box, or it is damaged: copy it again"
            ) from None
        if found.encode() != data:
            raise PeerError(
                "the approval is not written as approvals are: let headquarters sign it"
            )
        return found

    @classmethod
    def _read(cls, document: Mapping[str, Any]) -> SignedApproval:
        if set(document) != _KEYS or document["type"] != TYPE:
            raise ValueError("another document")
        reasons, until, claim = document["reasons"], document["until"], document["claim"]
        if not isinstance(reasons, list) or not 0 < len(reasons) <= MAX_REASONS:
            raise ValueError("reasons")
        if type(until) is not int or not 0 < until < MAX_NUMBER:
            raise ValueError("until")
        if len(claim) > MAX_CLAIM or not (claim.isprintable()):
            raise ValueError("claim")
        return cls(
            site=_site(document["site"]),
            ek_name=_sized(document["ek_name"], _NAME_SIZES),
            role=_matching(document["role"], _ROLE),
            reasons=frozenset(_matching(one, _CODE) for one in reasons),
            measurements=_sized(document["measurements"], (32,)),
            sealed=_sized(document["sealed"], (32,)),
            until=until,
            claim=claim,
        )


def _site(value: str) -> str:
    if not 0 < len(value) <= 63 or not value.isprintable():
        raise ValueError("site")
    return value


def _matching(value: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(value):
        raise ValueError("text")
    return value


def _sized(value: str, sizes: tuple[int, ...]) -> bytes:
    data = unb64u(value)
    if len(data) not in sizes:
        raise ValueError("size")
    return data
