"""Asks by ARP, ahead of time, whether anybody uses the addresses that are lent next.

So no OFFER ever waits for an answer (RFC 2131, 3.1 would have the server ask first; a ping of 3 s
is what boxes then wait). It asks as a host does that has no address yet, sender 0.0.0.0 (RFC 5227,
2.1.1), in a thread of its own, and never says what becomes of an address.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

from netboot.dhcp import Candidate
from netboot.errors import SiteError
from netboot.io.frame import ETHERTYPE_ARP, arp_probe, interface_mac, read_arp

PAUSES = (0.4, 0.4, 1.2)
"""Seconds after each of three probes; a round is over after their sum."""
CLAIMS = 16
"""So many addresses one device may say are its own; more are a lie, or a router's proxy ARP."""
ALL_CLAIMS = 64
CLAIM_SECONDS = 3600.0

Verdict = Callable[[Candidate, bytes | None], None]


class Claims:
    """Who said lately that addresses are theirs: nobody may talk us out of a whole pool."""

    def __init__(self) -> None:
        """Begin with no claims."""
        self._claims: list[tuple[float, bytes]] = []

    def is_credible(self, mac: bytes, now: float) -> bool:
        """Count one more claim; `now` in seconds of a clock that only goes forward."""
        self._claims = [claim for claim in self._claims if claim[0] > now - CLAIM_SECONDS]
        if len(self._claims) >= ALL_CLAIMS:
            return False
        if sum(claim[1] == mac for claim in self._claims) >= CLAIMS:
            return False
        self._claims.append((now, mac))
        return True


class ArpProber:
    """A thread that asks for one round of addresses at a time."""

    def __init__(self, verdict: Verdict) -> None:
        """Call `verdict`, in the thread, with who answered for a candidate, None for nobody."""
        self._verdict = verdict
        self._rounds: queue.SimpleQueue[tuple[Candidate, ...]] = queue.SimpleQueue()
        self._claims = Claims()
        self._is_ending = False
        self._is_busy = False
        self._thread = threading.Thread(target=self._run, name="arp", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Tell whether a round is under way; another is then refused."""
        return self._is_busy

    def ask(self, candidates: Iterable[Candidate]) -> None:
        """Begin a round, unless one is under way."""
        candidates = tuple(candidates)
        if candidates and not self._is_busy:
            self._is_busy = True
            self._rounds.put(candidates)

    def close(self) -> None:
        """End, in the middle of a round too."""
        self._is_ending = True
        self._rounds.put(())
        self._thread.join()

    def _run(self) -> None:
        while not self._is_ending:
            self._round(self._rounds.get())
            self._is_busy = False

    def _round(self, candidates: Iterable[Candidate]) -> None:
        """Ask three times; what answers is told at once, and what does not at the end."""
        with ExitStack() as stack, selectors.DefaultSelector() as selector:
            wires: dict[str, socket.socket] = {}
            for name in {candidate.interface for candidate in candidates}:
                try:
                    wires[name] = stack.enter_context(_listen(name))
                except SiteError:
                    continue  # what cannot be asked stays unasked
                selector.register(wires[name], selectors.EVENT_READ, name)
            open_ = {
                (one.interface, one.address): one for one in candidates if one.interface in wires
            }
            for pause in PAUSES:
                for key in [key for key in open_ if not _ask(wires[key[0]], *key)]:
                    del open_[key]
                for key, mac in self._hear(selector, pause):
                    self._take(open_, key, mac)
            for candidate in () if self._is_ending else open_.values():
                self._verdict(candidate, None)

    def _take(
        self,
        open_: dict[tuple[str, IPv4Address], Candidate],
        key: tuple[str, IPv4Address],
        mac: bytes,
    ) -> None:
        candidate = open_.pop(key, None)
        if candidate is not None and self._claims.is_credible(mac, time.monotonic()):
            self._verdict(candidate, mac)

    def _hear(
        self, selector: selectors.BaseSelector, seconds: float
    ) -> Iterator[tuple[tuple[str, IPv4Address], bytes]]:
        """Give ((interface, address), MAC) of all ARP senders for so long."""
        end = time.monotonic() + seconds
        while not self._is_ending and (left := end - time.monotonic()) > 0:
            if not selector.get_map():
                return
            for key, _ in selector.select(min(left, 0.2)):
                wire: socket.socket = key.fileobj  # type: ignore[assignment]
                try:
                    frame, address = wire.recvfrom(128)
                except OSError:
                    continue
                heard = None if address[2] == socket.PACKET_OUTGOING else read_arp(frame)
                if heard is not None:
                    yield (key.data, heard[1]), heard[0]


def _ask(wire: socket.socket, name: str, address: IPv4Address) -> bool:
    try:
        wire.send(arp_probe(interface_mac(name), address))
    except (OSError, SiteError):
        return False
    return True


def _listen(name: str) -> socket.socket:
    wire = socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE_ARP)
    )
    try:
        wire.bind((name, ETHERTYPE_ARP))
    except OSError as error:
        wire.close()
        raise SiteError(f"interface {name}: {error.strerror}") from error
    return wire
