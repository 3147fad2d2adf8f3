"""Collects tests that need evidence of real machines only when DOORSTEP_EVIDENCE names it."""

import os
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave `tests/evidence/` out of an ordinary run (`make test-evidence` sets the variable)."""
    if "evidence" in collection_path.parts and not os.environ.get("DOORSTEP_EVIDENCE"):
        return True
    return None


@pytest.fixture(scope="session")
def evidence() -> Path:
    """Give the directory of evidence that nobody here built."""
    return Path(os.environ["DOORSTEP_EVIDENCE"])
