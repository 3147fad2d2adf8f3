"""What the archive says of one session, cut to what fits on a page: for auditors, never to decide.

Reads result.json beside the evidence (`attest.io.archive`); every list and text is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bootstrap.errors import SiteError

MAX_FILE = 8 << 20
MAX_CHANGES, MAX_LIST, MAX_TEXT = 200, 64, 400
_CHANGE = ("pcr", "kind", "label", "expected", "measured", "expected_text", "text", "claim")
_LISTS = ("not_checked", "not_covered", "workarounds")
_VALUES = ("verdict", "tier", "nearest", "since", "tpm", "firmware", "policy", "expectation")


def read_result(directory: Path) -> Mapping[str, Any]:
    """Give verdict, lists and event-by-event changes; SiteError when the file cannot be read."""
    path = directory / "result.json"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        result = json.loads(data) if len(data) <= MAX_FILE else None
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise SiteError(f"{path}: it is no result of an appraisal")
    changes = _list(result.get("changes"))
    return {
        **{name: _cut(result.get(name)) for name in _VALUES},
        **{name: [_cut(one) for one in _list(result.get(name))[:MAX_LIST]] for name in _LISTS},
        "pcrs": _flat(result.get("pcrs")),
        "boot_set": _flat(result.get("boot_set")),
        "platform": _flat(result.get("platform")),
        "changes": [_change(one) for one in changes[:MAX_CHANGES]],
        "more_changes": max(0, len(changes) - MAX_CHANGES),
    }


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _change(value: object) -> dict[str, Any]:
    change = value if isinstance(value, dict) else {}
    return {name: _cut(change.get(name)) for name in _CHANGE}


def _flat(value: object) -> dict[str, Any]:
    """Keep an object of plain values."""
    if not isinstance(value, dict):
        return {}
    return {str(key)[:MAX_TEXT]: _cut(one) for key, one in list(value.items())[:MAX_LIST]}


def _cut(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
