"""When a box that stays renews, and what becomes of it: every time is by the clock since its start.

The schedule is a value that says from which moment on a renewal is due, so that no clock step, no
suspend and no long try skips one. It never prints a secret. docs/phone-home-v1.md, "Renewal".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bootstrap.agent import seeds
from bootstrap.agent.dance import Kept, Outcome
from bootstrap.agent.errors import AgentError

Say = Callable[[str], None]

EARLY = 0.2
"""A box renews up to so much of its time early, by chance: a thousand were started at once."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """From when on a renewal is due, in seconds; `every` 0 for a box that never renews."""

    every: float
    due: float
    tries: int = 0

    @classmethod
    def after(cls, every: float, now: float, drawn: float) -> Schedule:
        """Plan the next renewal; `drawn` is a number from 0 to 1."""
        return cls(every=every, due=now + every * (1 - EARLY * drawn))

    def is_due(self, now: float) -> bool:
        """Tell whether to renew now."""
        return self.every > 0 and now >= self.due

    def later(self, now: float, drawn: float, *, least: float = 0.0) -> Schedule:
        """Plan the next try: pauses double up to the longest, and less than the time itself."""
        longest = min(LONGEST_PAUSE, self.every / 4)
        pause = max(min(FIRST_PAUSE * 2**self.tries, longest), min(least, longest))
        # Half by chance: boxes that failed together do not come again together.
        return replace(self, due=now + pause * (1 + drawn) / 2, tries=min(self.tries + 1, 16))

    def over(self) -> Schedule:
        """Never renew again."""
        return replace(self, every=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staying:
    """A box that stays: what it renews with, and when."""

    kept: Kept
    schedule: Schedule


def begin(kept: Kept, now: float, drawn: float) -> Staying:
    """Begin after an enrolment."""
    return Staying(kept=kept, schedule=Schedule.after(kept.renew, now, drawn))


def turn(
    staying: Staying,
    attempt: Callable[[Kept], Outcome],
    seed: Path,
    say: Say,
    *,
    clock: Callable[[], float],
    draw: Callable[[], float],
) -> Staying:
    """Renew if it is due; a signed refusal wipes what the seed at `seed` keeps secret.

    What is not signed, and what is held, takes nothing away: it is tried again.
    """
    schedule = staying.schedule
    if not schedule.is_due(clock()):
        return staying
    say("renewing the certificate of this box")
    try:
        outcome = attempt(staying.kept)
    except AgentError as error:
        later = schedule.later(clock(), draw())
        say(f"{error.code.value}: {error}; trying again in {_span(later, clock())}")
        return replace(staying, schedule=later)
    if outcome.status == "refused":
        count = seeds.wipe(seed)
        say(f"this box is not renewed any more: {count} files with secrets were wiped")
        return replace(staying, schedule=schedule.over())
    if outcome.kept is None:
        later = schedule.later(clock(), draw(), least=outcome.retry_seconds)
        say(f"this box keeps what it has; trying again in {_span(later, clock())}")
        return replace(staying, schedule=later)
    say("renewed")
    return begin(outcome.kept, clock(), draw())


def _span(schedule: Schedule, now: float) -> str:
    return f"{max(1, round(schedule.due - now))} seconds"
