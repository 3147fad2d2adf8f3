"""Watches the links of the boxes' networks; ends the lease when all were gone for too long.

Off unless site.toml says `link_loss` in [controller], and without a TPM: nothing would hold it. An
interface that is missing has no link. `keys.link_loss` judges.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from keys.io.ring import Ring
from keys.io.site_files import SiteFiles
from keys.io.store import Event, Store
from keys.io.tpm_ring import TpmRing
from keys.link_loss import LinkLoss

SEEN = "link-seen"


def has_link(interfaces: Iterable[str]) -> bool:
    """Tell whether one of them has a carrier (the kernel's word)."""
    return any(_carrier(Path("/sys/class/net") / name / "carrier") for name in interfaces)


class LinkWatch:
    """Remembers, across restarts, at which TPM clock a link was seen last."""

    def __init__(
        self,
        store: Store,
        ring: Ring,
        files: SiteFiles,
        linked: Callable[[Iterable[str]], bool] = has_link,
    ) -> None:
        """`linked` tells whether one of some interfaces has a link."""
        self._store, self._ring, self._files, self._linked = store, ring, files, linked
        self.sentence: str | None = None

    def look(self, now: float) -> None:
        """Note a link, or end the lease when there was none for as long as is allowed."""
        limit, self.sentence = self._files.rules.controller.link_loss, None
        if limit is None or not isinstance(self._ring, TpmRing) or self._ring.lease is None:
            return
        clock, number = self._ring.counters().clock, self._ring.lease.lease.terms.counter
        seen = self._seen(number)
        if seen is None or self._linked(self._files.rules.interfaces):
            with self._store.transaction():
                self._store.set_meta(SEEN, struct.pack(">QQ", clock, number))
            return
        judge, seen = LinkLoss(limit=limit), min(seen, clock)
        if not judge.is_over(seen, clock):
            self.sentence = judge.sentence(seen, clock)
            return
        self._ring.end()
        with self._store.transaction():
            event = Event(kind="link-lost", detail={"hours": round((clock - seen) / 3.6e6, 1)})
            self._store.record(now, "keys", event)

    def _seen(self, number: int) -> int | None:
        """Give the clock at which a link was seen under the lease of this number."""
        stored = self._store.meta(SEEN)
        if stored is None:
            return None
        clock, under = struct.unpack(">QQ", stored)
        return int(clock) if under == number else None


def _carrier(path: Path) -> bool:
    try:
        return path.read_text().strip() == "1"
    except OSError:  # missing, or switched off
        return False
