"""The look for other DHCP servers: nothing is served on an interface where another one answers.

It looks before anything is bound, in a thread of its own, and looks again while it was refused. One
that comes later is told of, and DHCP goes on: who is right, a person decides.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

from netboot.errors import SiteError
from netboot.events import Event, EventKind
from netboot.io.files import Told
from netboot.io.probe import ForeignServer, refuse_foreign

LOOK_AGAIN_SECONDS = 60.0
LOOK_OUT_SECONDS = 600.0
"""Between looks for servers that came later."""
LOOK_SOON_SECONDS = 5.0
"""After which an interface that could not be used is tried again."""

Probe = Callable[[Iterable[str]], tuple[ForeignServer, ...]]
"""Asks on all these interfaces; SiteError when one cannot be used."""

_Looked = tuple[frozenset[str], tuple[ForeignServer, ...] | SiteError]


class Lookout:
    """Which interfaces are ours to serve; `turn` is called now and then by one thread.

    `clear` are those where nobody answered, `foreign` who keeps us from serving, `rivals` who came
    while we served.
    """

    def __init__(
        self, probe: Probe, kind: EventKind, tell: Told, look_out: float = LOOK_OUT_SECONDS
    ) -> None:
        """Look at nothing yet; servers are told of as `kind`, `look_out` seconds lie between."""
        self._probe, self._kind, self._tell, self._look_out = probe, kind, tell, look_out
        self._wanted: frozenset[str] = frozenset()
        self._looked: queue.SimpleQueue[_Looked] = queue.SimpleQueue()
        self._looking: frozenset[str] = frozenset()
        self._look_at = 0.0
        self.clear: frozenset[str] = frozenset()
        self.foreign: tuple[ForeignServer, ...] = ()
        self.rivals: tuple[ForeignServer, ...] = ()
        self.trouble: str | None = None

    def sentence(self, name: str) -> str | None:
        """Say who else serves `name` here, or why nobody could be asked; None when all is well."""
        for servers, what in (
            (self.foreign, f"{name} is not served"),
            (self.rivals, f"{name} is served beside another server that came later"),
        ):
            try:
                refuse_foreign(servers)
            except SiteError as error:
                return f"{what}: {error}"
        return f"{name}: {self.trouble}" if self.trouble else None

    def watch(self, interfaces: frozenset[str]) -> None:
        """Look at these from now on; those that are new come first."""
        self._wanted = interfaces
        self.clear &= interfaces
        self.foreign = tuple(one for one in self.foreign if one.interface in interfaces)
        self.rivals = tuple(one for one in self.rivals if one.interface in interfaces)
        if interfaces - self.clear:
            self._look_at = 0.0

    def distrust(self, sentence: str) -> None:
        """Nothing could be served, whatever nobody answered: look at all of it again soon."""
        self.trouble = sentence
        self.clear = frozenset()
        self._look_at = time.monotonic() + LOOK_SOON_SECONDS

    def turn(self) -> bool:
        """Take what was found, and look where that is due; True when `clear` may have changed."""
        is_new = self._take()
        if not self._looking and time.monotonic() >= self._look_at:
            self._look(self._wanted - self.clear or self.clear)
        return is_new

    def _look(self, interfaces: frozenset[str]) -> None:
        if interfaces:
            self._looking = interfaces
            threading.Thread(target=self._ask, args=(interfaces,), daemon=True).start()

    def _ask(self, interfaces: frozenset[str]) -> None:
        try:
            self._looked.put((interfaces, self._probe(sorted(interfaces))))
        except SiteError as error:
            self._looked.put((interfaces, error))

    def _take(self) -> bool:
        is_new = False
        while not self._looked.empty():
            interfaces, found = self._looked.get()
            self._looking = frozenset()
            if isinstance(found, SiteError):
                self.trouble = str(found)
                self._look_at = time.monotonic() + LOOK_SOON_SECONDS
                continue
            self.trouble = None
            self._tell_foreign(found)
            is_new |= self._judge(interfaces, found)
        return is_new

    def _judge(self, interfaces: frozenset[str], found: tuple[ForeignServer, ...]) -> bool:
        """Serve where nobody answered; where we serve already, keep who came later."""
        found = tuple(one for one in found if one.interface in self._wanted)
        is_new = not interfaces <= self.clear
        if is_new:
            self.foreign = found
            self.clear |= interfaces & self._wanted - {server.interface for server in found}
        else:
            self.rivals = found
        pause = LOOK_AGAIN_SECONDS if self.foreign or self.rivals else self._look_out
        if self._wanted - self.clear - {server.interface for server in self.foreign}:
            pause = 0.0  # a plan came while we looked
        self._look_at = time.monotonic() + pause
        return is_new

    def _tell_foreign(self, found: Iterable[ForeignServer]) -> None:
        self._tell(
            Event(
                at=time.time(),
                kind=self._kind,
                mac=server.mac,
                address=server.address,
                reason="FOREIGN-DHCP",
                detail=(("interface", server.interface),),
            )
            for server in found
            if server not in (*self.foreign, *self.rivals)
        )
