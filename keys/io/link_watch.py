"""Watches the links of the boxes' networks; ends the lease when all were gone for too long.

Off unless site.toml says `link_loss` in [controller], and without a TPM: nothing would hold it. An
interface that is missing has no link. `keys.link_loss` judges.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from keys.io.ring import Ring
from keys.io.site_files import SiteFiles
from keys.io.store import Event, Store
from keys.io.tpm_ring import TpmRing
from keys.link_loss import LinkLoss

SEEN = "link-seen"
SYS = Path("/sys")


def machine_sys(run: Path) -> Path:
    """Find the sysfs that shows the machine's networks.

    Under systemd this process has no network, so that /sys shows it none: its unit binds the
    machine's own below RUN.
    """
    bound = run / "sys"
    return bound if (bound / "class/net").is_dir() else SYS


def has_link(interfaces: Iterable[str], sys: Path = SYS) -> bool:
    """Tell whether one of them has a carrier (the kernel's word)."""
    return any(_carrier(sys / "class/net" / name / "carrier") for name in interfaces)


class LinkWatch:
    """Remembers, across restarts, at which TPM clock a link was seen last."""

    def __init__(self, store: Store, ring: Ring, files: SiteFiles, run: Path) -> None:
        """`run` is where the machine's sysfs may be bound."""
        self._store, self._ring, self._files, self._run = store, ring, files, run
        self.sentence: str | None = None

    def look(self, now: float) -> None:
        """Note a link, or end the lease when there was none for as long as is allowed."""
        limit, self.sentence = self._files.rules.controller.link_loss, None
        if limit is None or not isinstance(self._ring, TpmRing) or self._ring.lease is None:
            return
        clock, number = self._ring.counters().clock, self._ring.lease.lease.terms.counter
        seen = self._seen(number)
        if seen is None or self._is_linked():
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

    def _is_linked(self) -> bool:
        return has_link(self._files.rules.interfaces, machine_sys(self._run))

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
