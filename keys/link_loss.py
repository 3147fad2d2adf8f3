"""When a controller whose links are all gone ends its lease: somebody may have carried it off.

Pure. The time that counts is the TPM's clock, which runs only with the power on and which a restart
does not set back. design.md, "Secrets"; checklist 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

HOUR = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLoss:
    """How long the boxes' networks may all be without a link; clocks in milliseconds."""

    limit: timedelta

    def is_over(self, seen: int, clock: int) -> bool:
        """Tell whether the link has been gone for as long as is allowed."""
        return clock - seen >= self.limit / timedelta(milliseconds=1)

    def sentence(self, seen: int, clock: int) -> str:
        """Say how long there was none, and what follows."""
        gone, left = clock - seen, self.limit / timedelta(milliseconds=1) - (clock - seen)
        return (
            f"no network of boxes has had a link for {gone / HOUR:.1f} hours: in "
            f"{max(left, 0) / HOUR:.1f} powered hours this controller ends its lease by itself. "
            "Put the cable back"
        )
