"""When the keys that sign zones are drawn, published, used and dropped: pre-publication.

A new key is published before it signs, so that no resolver meets a signature of a key that it has
not seen; the old one stays published until its signatures are forgotten. RFC 6781, 4.1.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROLL_SECONDS = 7 * 86400.0
PUBLISH_SECONDS = 2 * 3600.0
"""Twice the TTL of a key set."""
RETIRE_SECONDS = 2 * 86400.0
"""How long after its successor began to sign a key is still published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnKey:
    """A key that signs zones: its private half as PKCS #8 DER, and when it was drawn."""

    private: bytes
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """What to do with the keys there are: publish these, sign with that; draw another or not."""

    published: tuple[DrawnKey, ...]
    signing: DrawnKey | None
    draw: bool


def roll(keys: Sequence[DrawnKey], now: float) -> Roll:
    """Decide at `now`; a clock that was set back makes no key older or younger than it is."""
    keys = sorted(keys, key=lambda key: key.created)
    if not keys:
        return Roll(published=(), signing=None, draw=True)
    ready = [key for key in keys[1:] if now - key.created >= PUBLISH_SECONDS]
    signing = ready[-1] if ready else keys[0]
    at = keys.index(signing)
    since = signing.created + PUBLISH_SECONDS
    kept = keys[at:] if at and now - since >= RETIRE_SECONDS else keys[max(0, at - 1) :]
    return Roll(published=tuple(kept), signing=signing, draw=now - keys[-1].created >= ROLL_SECONDS)
