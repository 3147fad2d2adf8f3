"""How pytest and hypothesis run here: quiet, the same every time, and nothing kept."""

from __future__ import annotations

from pathlib import Path

from hypothesis import Phase, settings

ROOT = Path(__file__).parents[2]


def options() -> list[str]:
    """Give pytest's options; hypothesis is set as a side effect.

    What a mutant breaks is not kept for other runs, and no time goes into making it small.
    """
    settings.register_profile(
        "mutants",
        database=None,
        derandomize=True,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile("mutants")
    quiet = ["-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider", "-s"]
    return [*quiet, "-o", "timeout=20", "--continue-on-collection-errors", f"--rootdir={ROOT}"]
