"""The floors of signed documents as control knows them.

keys keeps them for the site; control asks it, and shows it each newer document that it accepted
itself, so that a file which was put there by hand counts like one that was imported. While keys is
silent, control goes by what it has heard and seen. docs/signed-inputs.md, "Floors".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from keys.envelope import b64u, unb64u
from keys.errors import KeysError
from keys.io.rpc import RpcError, RpcUnavailableError, call
from keys.signed import FIRMWARE, NOTE, Floor, SignedInput

CALL_SECONDS = 2.0
STORED_AS: Mapping[str, str] = {FIRMWARE.name: "firmware-floor"}
"""Names of floors that control's database knew before keys kept them."""


class FloorStore(Protocol):
    """Where control remembers floors itself."""

    def floor(self, key: str) -> Floor | None:
        """Read one."""

    def set_floor(self, key: str, floor: Floor) -> None:
        """Write one."""


class InputFloors:
    """Floors by kind; only kinds of the whole site are asked for here."""

    def __init__(self, store: FloorStore | None = None, keys: Path | None = None) -> None:
        """Use control's own store, and the socket of keys; without them remember for now alone."""
        self._store, self._keys = store, keys
        self._heard: Mapping[str, Floor] | None = None
        self._seen: dict[str, Floor] = {}
        self._untold: dict[str, SignedInput] = {}

    def floor(self, kind: str, subject: str = "") -> Floor | None:
        """Give the highest floor that is known."""
        stored = None if self._store is None else self._store.floor(_stored_as(kind))
        heard = (self._heard or {}).get(kind)
        known = [one for one in (heard, self._seen.get(kind), stored) if one is not None]
        return max(known, key=lambda one: one.counter, default=None)

    def saw(self, found: SignedInput) -> None:
        """Remember a document that was accepted, and that keys is to be told of it."""
        kind, own = found.kind.name, found.floor
        before = self.floor(kind)
        if own == before and (self._heard is None or self._heard.get(kind) == own):
            return
        self._seen[kind] = own
        if found.kind is NOTE:
            return  # keys reads it itself
        if self._store is not None and own != before:
            self._store.set_floor(_stored_as(kind), own)
        self._untold[kind] = found

    def turn(self) -> bool:
        """Ask keys if it was not asked yet, tell it what is new; True when floors were raised."""
        raised = self._heard is None and self.ask()
        for kind, found in list(self._untold.items()):
            params = {"kind": kind, "file": b64u(found.data), "sig": b64u(found.signature)}
            try:
                self._call("input_take", params)
            except RpcUnavailableError:
                return raised
            except RpcError:
                raised = self.ask() or raised  # it knows a newer one
            del self._untold[kind]
        return raised

    def ask(self) -> bool:
        """Ask keys for all floors; True when one was raised."""
        try:
            rows = self._call("input_floors", {})["floors"]
            heard = {
                str(row["kind"]): Floor(counter=int(row["counter"]), digest=unb64u(row["digest"]))
                for row in rows
                if row["subject"] == ""
            }
        except (KeysError, ValueError, KeyError, TypeError):
            return False
        before = {kind: self.floor(kind) for kind in heard}
        self._heard = heard
        return any(self.floor(kind) != one for kind, one in before.items())

    def _call(self, method: str, params: Mapping[str, Any]) -> Any:
        if self._keys is None:
            raise RpcUnavailableError("keys is not asked here")
        return call(self._keys, method, params, timeout=CALL_SECONDS)


def _stored_as(kind: str) -> str:
    return STORED_AS.get(kind, f"input-floor:{kind}")
