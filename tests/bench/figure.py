"""What a benchmark gives: samples of ours and of a named peer, and how they are written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.lab import Lab


class BenchError(Exception):
    """A figure could not be taken; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure; less is better in all of them, so `ratio` is the peer's over ours."""

    name: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    peer_name: str

    @property
    def ratio(self) -> float:
        """Above 1: we are better. By medians."""
        return median(self.peer) / median(self.ours)

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.name}: {_spread(self.ours)} {self.unit}; "
            f"{self.peer_name}: {_spread(self.peer)} {self.unit}; ratio {self.ratio:.3g}"
        )

    def document(self) -> dict[str, str | float]:
        """The same for machines; `ours` and `peer` are medians."""
        return {
            "name": self.name,
            "ours": median(self.ours),
            "peer": median(self.peer),
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "unit": self.unit,
        }


Measure = Callable[["Lab"], list[Figure]]


def _spread(samples: tuple[float, ...]) -> str:
    """Write one sample, or min/median/max of several."""
    if len(samples) == 1:
        return f"{samples[0]:.4g}"
    return "/".join(f"{value:.4g}" for value in (min(samples), median(samples), max(samples)))
