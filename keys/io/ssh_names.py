"""Which box each SSH name was certified for last: two boxes in service never share one.

Control says how a box is called. A control that lies could have a box certified as another one;
here it meets what was certified before. Everything runs in the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keys.errors import SiteError
from keys.io.store import Store

_HOLDER, _HELD = "ssh-name:", "ssh-names:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The names of a box's newest certificate, and when that ends (unix seconds)."""

    names: tuple[str, ...] = ()
    until: int = 0


class SshNames:
    """Names and their boxes, in the rows of `meta`."""

    def __init__(self, store: Store) -> None:
        """Look at nothing yet."""
        self._store = store

    def of(self, ek_name: bytes) -> Held:
        """Give what a box was certified for last."""
        stored = self._store.meta(_HELD + ek_name.hex())
        if stored is None:
            return Held()
        try:
            found: dict[str, Any] = json.loads(stored)
            return Held(names=tuple(map(str, found["names"])), until=int(found["until"]))
        except (ValueError, KeyError, TypeError):
            raise SiteError("keys.db: the SSH names of a box are damaged") from None

    def taken(self, names: Iterable[str], ek_name: bytes, now: float) -> str | None:
        """Find a name that the newest certificate of another box has, which runs and is valid."""
        for name in names:
            holder = self._store.meta(_HOLDER + name)
            if holder is None or holder == ek_name or self._store.is_revoked(holder):
                continue
            held = self.of(holder)
            if name in held.names and now < held.until:
                return name
        return None

    def take(self, names: tuple[str, ...], ek_name: bytes, until: int) -> None:
        """Note the names of a box's newest certificate."""
        for name in names:
            self._store.set_meta(_HOLDER + name, ek_name)
        document = json.dumps({"names": names, "until": until}).encode()
        self._store.set_meta(_HELD + ek_name.hex(), document)
