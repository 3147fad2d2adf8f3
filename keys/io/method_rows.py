"""What one method of the keys process is: who may call it, and what holds for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from keys.io.layout import OPERATOR
from keys.io.rpc import Params

CONTROL, NETBOOT, SYNC = "control", "netboot", "sync"
OPERATOR_ALONE = frozenset({OPERATOR})
CONTROL_ALONE = frozenset({CONTROL})
BOTH = frozenset({CONTROL, OPERATOR})

Serve = Callable[[str, Params, float], Mapping[str, Any]]
"""Answers a call of a user, with the time that leases are judged by."""


class Record(Protocol):
    """Writes an event and its audit entry, inside the caller's transaction."""

    def __call__(self, now: float, user: str, kind: str, **detail: Any) -> None:
        """Write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """One method.

    `administrative`: served before the authorities are signed. `adding`: refused on a full disk,
    and judged by the time that is believed. `anchored`: in the audit's anchor before its reply
    leaves. `under_lease`: the TPM is asked first whether the lease still runs.
    """

    serve: Serve
    users: frozenset[str]
    administrative: bool = False
    adding: bool = False
    anchored: bool = False
    under_lease: bool = False


class Part(Protocol):
    """A part of the process, with its methods."""

    def methods(self) -> Mapping[str, MethodRow]:
        """Give its rows of the socket table."""
