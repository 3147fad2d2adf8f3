"""DNS as this process runs it: zones of the plan with the names of leases, signed, and forwarding.

Zones are made anew as a whole when leases changed, so forward and reverse names come and go in one
generation (N22); under load that is done a few times a second. It never reads a file or asks the
key service: what takes long comes ready from the main thread (`netboot.io.zones`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from netboot.dns import DnsEngine, Generation, signed_zones
from netboot.dnssec import ZoneKeys, ZoneSigner
from netboot.io.dns import PORT, DnsRunner
from netboot.io.forwarding import Forwarding
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import current_leases6
from netboot.names import Labels
from netboot.plan import Plan
from netboot.zone import Rcode, Zone, Zones
from netboot.zone_build import LeaseName, build

PAUSE_SECONDS = 0.25
"""Between two generations, at least; a change after a quiet time is served at once."""
SHARE = 10
"""How many times as long as the last generation took the next one is put off."""


class NameService:
    """The DNS runner with what it answers from; its thread alone calls it but for the readers."""

    def __init__(
        self, store: NetbootStore, forwarding: Forwarding, secret: bytes, port: int = PORT
    ) -> None:
        """Serve nothing yet; `secret` keys the cookies."""
        self._store, self.forwarding = store, forwarding
        self._engine = DnsEngine(Zones(()), socket.gethostname(), secret)
        self._dns = DnsRunner(self._engine, port, resolver=forwarding)
        self._plan: Plan | None = None
        self._files: tuple[Zone, ...] = ()
        self._keys: Mapping[Labels, ZoneKeys] = {}
        self._signers: dict[Labels, tuple[Zone, ZoneKeys, ZoneSigner]] = {}
        self._until, self._again = 0.0, 0.0
        self._are_old = True
        self._serial = 0
        self.names: tuple[LeaseName, ...] = ()
        self.generation = Generation(zones=Zones(()))

    def replace(self, plan: Plan, files: tuple[Zone, ...], keys: Mapping[Labels, ZoneKeys]) -> None:
        """Serve the names of another plan, or with other keys; SiteError for what cannot be."""
        self._plan, self._files, self._keys = plan, files, keys
        self.names = self._read()
        self._build(plan)
        self._dns.listen(plan.listening())
        self.forwarding.replace(plan.resolver() if plan.dns.forward else None)

    def may_differ(self) -> None:
        """Have the names of leases read again; called by the threads of DHCP."""
        self._are_old = True
        self._dns.wake()

    def turn(self, timeout: float) -> None:
        """Answer for a while; look at leases first, where they may have changed."""
        wait = timeout
        if self._plan is not None:
            now, mono = time.time(), time.monotonic()
            if self._are_old or self._until <= now:
                if self._again <= mono:
                    self._look_at_leases(self._plan)
                else:
                    wait = min(wait, self._again - mono)
            wait = max(0.0, min(wait, self._until - now)) if self._until > now else wait
        self._dns.turn(wait)

    def _look_at_leases(self, plan: Plan) -> None:
        begun = time.monotonic()
        names = self._read()
        if names != self.names:
            self.names = names
            self._build(plan)
        ended = time.monotonic()
        self._again = ended + max(PAUSE_SECONDS, SHARE * (ended - begun))

    def _read(self) -> tuple[LeaseName, ...]:
        """Read the names of leases in force; first, so that a change meanwhile is seen again."""
        self._are_old = False
        now = time.time()
        found: list[tuple[str, IPv4Address | IPv6Address, float]] = []
        found += [
            (one.name, one.address, one.expires)
            for one in self._store.current_leases(now)
            if one.name
        ]
        found += [
            (six.name, six.address, six.expires)
            for six in current_leases6(self._store, now)
            if six.name
        ]
        self._until = min((expires for *_, expires in found), default=float("inf"))
        return tuple(LeaseName(name=name, address=address) for name, address, _ in found)

    def _build(self, plan: Plan) -> None:
        self._serial = max(self._serial + 1, int(time.time()))
        zones = build(plan, self.names, self._serial, self._files)
        signers = {zone.origin: self._signer(zone) for zone in zones if zone.origin in self._keys}
        self.generation = Generation(
            zones=signed_zones(zones, signers),
            signers=signers,
            views=plan.views(),
            forwards=plan.dns.forward,
        )
        self._dns.replace(self.generation)

    def _signer(self, zone: Zone) -> ZoneSigner:
        """Give what signs a zone; of a master file that did not change, the one before."""
        keys = self._keys[zone.origin]
        known = self._signers.get(zone.origin)
        if known is not None and known[0] is zone and known[1] is keys:
            return known[2]
        signer = ZoneSigner(zone, keys, None if known is None else known[2])
        self._signers[zone.origin] = zone, keys, signer
        return signer

    def status(self) -> Mapping[str, Any]:
        """Give what was answered so far, by view and code, and what was asked of others."""
        counts = self._engine.counts
        own = (sum(codes) for codes in zip(*(one.own for one in counts.values()), strict=True))
        forwarding = dict(self.forwarding.status())
        forwarding["cached"] += sum(one.repeated for one in counts.values())
        return {
            "answered": _named(own),
            "views": {
                view.name.lower(): {"own": _named(one.own), "others": _named(one.others)}
                for view, one in counts.items()
            },
            "dropped": self._engine.dropped,
            "connections": self._dns.connected,
            "zones": len(tuple(self.generation.zones)),
            "signatures": sum(signer.made for *_, signer in tuple(self._signers.values())),
            **forwarding,
        }

    def close(self) -> None:
        """Close all sockets, and keep the cache."""
        self._dns.close()
        self.forwarding.close()


_CODES = {one.value: one.name for one in Rcode if one.value < 16}


def _named(codes: Iterable[int]) -> dict[str, int]:
    """Give counts by the names of their codes, those that are not 0."""
    return {_CODES.get(code, str(code)): count for code, count in enumerate(codes) if count}
