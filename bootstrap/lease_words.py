"""What an operator reads about the lease of this controller: in words, with what to do next.

Pure: the answer of keys (`lease_show`) and the time go in. It never says "until" of powered hours
without saying that switched-off time does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bootstrap.lease_desk import plural, span

RENEW_SECONDS = 3 * 86_400
"""When less than this of a lease is left, the words say to renew."""
RENEW = "renew it now: `doorstep lease request` here, `doorstep lease issue` at headquarters"
CLOSED = (
    "Boxes that start meanwhile get address and name and then wait: none is enrolled, none gets a "
    "secret. What is enrolled keeps what it has."
)


def shown_words(shown: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Say all about the lease, one thing a line."""
    lines = _closed(shown) if shown["closed"] else _running(shown, now)
    for one in shown["waiting"]:
        state = ", ".join(map(str, one["pcrs"])) or "none"
        lines.append(f"lease {one['counter']} waits for other software (PCR {state})")
    counters = shown["counters"]
    lines.append(
        f"the TPM counts leases to {counters['lease']}, revocations to {counters['epoch']}, "
        f"its starts to {counters['reset_count']}"
    )
    if not counters["safe"]:
        lines.append("the TPM lost power unprepared: a little of its clock may be missing")
    return tuple(lines)


def _closed(shown: Mapping[str, Any]) -> list[str]:
    return [f"the cache is closed: {shown['closed']['sentence']}", CLOSED]


def _running(shown: Mapping[str, Any], now: float) -> list[str]:
    left = shown["left"]
    lines = [
        f"lease {shown['lease']['counter']} runs: the cache is open",
        f"it lasts {span(left['powered_seconds'])} more of being switched on: until "
        f"{day(now + left['powered_seconds'])} if this controller is never off, longer if it is",
        f"{starts_words(left['starts'])}; {plural(left['suspends'], 'suspend')} more",
    ]
    if left["powered_seconds"] < RENEW_SECONDS or not left["starts"]:
        lines.append(RENEW)
    return lines


def starts_words(starts: int) -> str:
    """Say how many starts a lease still has."""
    if starts <= 0:
        return "no start is left: the next restart of this controller closes the cache"
    return f"{plural(starts, 'start')} more; the one after closes the cache"


def day(at: float) -> str:
    """Write a moment in UTC, as far as anybody needs it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")
