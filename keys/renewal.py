"""What a renewal of a box must show beside its boot: PCR 15 as its own bundles left it, and how
often it may come.

Pure: rows of hand-over and renewals in, answers out. docs/phone-home-v1.md, "Renewal".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from keys.envelope import ZERO_PCR

RENEWALS_PER_MINUTE = 60
"""Site-wide, beside the hand-overs: boxes that renew keep none from being enrolled."""
LEAST_PER_DAY = 24
DAY = timedelta(days=1)
REMEMBERED = 16
"""How many bundles of one boot are looked at: every one but the last few is below another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A bundle of this boot: what PCR 15 (SHA-256) held when it was sealed, and its transcript."""

    before: bytes = ZERO_PCR
    transcript: bytes

    @property
    def after(self) -> bytes:
        """What PCR 15 holds once the box opened it: TPM2_PCR_Event (Part 3, 22.3)."""
        event = hashlib.sha256(b"doorstep/v1/opened\0" + self.transcript).digest()
        return hashlib.sha256(self.before + event).digest()


def has_opened(pcr: bytes, openings: Iterable[Opening], *, forgot: bool = False) -> bool:
    """Tell whether PCR 15 is what one of these bundles left, so that nothing else moved it.

    A bundle that the box never opened (a lost answer) is passed over; zero is never right. Who came
    out of a backup since (`forgot`) may not know the last ones: once, any other value is.
    """
    if forgot and pcr not in (ZERO_PCR, b""):
        return True
    return any(one.after == pcr for one in openings)


def most_per_day(renew: timedelta) -> int:
    """Say how many renewals a box may have in a day: twice as many as it needs, 24 at least."""
    return max(LEAST_PER_DAY, 2 * (DAY // renew + 1))
