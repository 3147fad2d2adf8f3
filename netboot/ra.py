"""Router advertisements as an engine: solicitations and the time in, advertisements out.

What they say follows from what DHCPv6 serves on the link (V6-4): M for addresses, O for settings,
and a prefix to make addresses of only where DHCPv6 gives none. It opens no socket and reads no
clock. RFC 4861, 6.2 and 4.2; 8106 (DNS), 4862 (A flag).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network

from netboot.dhcp6_options import encode_names
from netboot.errors import PeerError
from netboot.network import Subnet6Plan

ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")
SOLICITATION, ADVERTISEMENT = 133, 134
HOP_LIMIT = 255
"""What has passed a router is not of this link (RFC 4861, 6.1.1)."""
INTERVAL_SECONDS = 200.0
"""Most time between two; less by up to a quarter, so that appliances do not fall into step."""
FIRST_SECONDS, FIRST_COUNT = 16.0, 3
"""MAX_INITIAL_RTR_ADVERT_INTERVAL and MAX_INITIAL_RTR_ADVERTISEMENTS (RFC 4861, 10)."""
PAUSE_SECONDS = 3.0
"""MIN_DELAY_BETWEEN_RAS: advertisements to everybody are no closer."""
ROUTER_SECONDS = 1800
ESCORT_SECONDS = 60
"""How long firmware that boots from us believes that we are a router."""
ESCORTED_SECONDS = 15.0
"""How long after its lease firmware may still wait for a route."""
MAX_ESCORTED = 256
DNS_SECONDS = 600
VALID_SECONDS, PREFERRED_SECONDS = 2592000, 604800
"""Lifetimes of a prefix (RFC 4861, 6.2.1)."""
_HOPS = 64
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_NOWHERE = IPv6Address(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A prefix of the link; `autonomous` lets clients make addresses of it."""

    network: IPv6Network
    autonomous: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """What is said to a link; `mac` 6 bytes or None, `mtu` None to say nothing of it."""

    managed: bool
    other: bool
    router_seconds: int
    prefixes: tuple[Prefix, ...]
    dns: tuple[IPv6Address, ...]
    domain: str = ""
    mtu: int | None = None
    mac: bytes | None = None

    def encode(self) -> bytes:
        """Write the ICMPv6 message; its checksum is left to the kernel."""
        flags = (_MANAGED if self.managed else 0) | (_OTHER if self.other else 0)
        head = struct.pack(
            "!BBHBBHII", ADVERTISEMENT, 0, 0, _HOPS, flags, self.router_seconds, 0, 0
        )
        return head + b"".join(self._options())

    def _options(self) -> Iterable[bytes]:
        if self.mac is not None:
            yield _option(1, self.mac)
        if self.mtu is not None:
            yield _option(5, struct.pack("!HI", 0, self.mtu))
        for prefix in self.prefixes:
            flags = _ON_LINK | (_AUTONOMOUS if prefix.autonomous else 0)
            lifetimes = (VALID_SECONDS, PREFERRED_SECONDS, 0)
            head = struct.pack("!BBIII", prefix.network.prefixlen, flags, *lifetimes)
            yield _option(3, head + prefix.network.network_address.packed)
        if self.dns:
            addresses = b"".join(address.packed for address in self.dns)
            yield _option(25, struct.pack("!HI", 0, DNS_SECONDS) + addresses)
        if self.domain:
            yield _option(31, struct.pack("!HI", 0, DNS_SECONDS) + encode_names([self.domain]))


def _option(kind: int, body: bytes) -> bytes:
    """Write an option, padded to units of 8 bytes (RFC 4861, 4.6)."""
    units = (2 + len(body) + 7) // 8
    return (bytes((kind, units)) + body).ljust(8 * units, b"\0")


def advertisement(
    subnets: Iterable[Subnet6Plan],
    interface: str,
    *,
    domain: str,
    mtu: int | None,
    mac: bytes | None,
) -> Advertisement | None:
    """Say what DHCPv6 serves on an interface; None when it serves nothing there."""
    here = [
        one
        for one in subnets
        if one.interface == interface and one.dhcp != "off" and not one.relayed
    ]
    if not here:
        return None
    return Advertisement(
        managed=any(one.dhcp == "stateful" for one in here),
        other=True,
        router_seconds=ROUTER_SECONDS if any(one.router for one in here) else 0,
        prefixes=tuple(
            Prefix(network=one.network, autonomous=one.dhcp == "stateless") for one in here
        ),
        dns=tuple(one.appliance for one in here),
        domain=domain,
        mtu=mtu,
        mac=mac,
    )


def check_solicitation(data: bytes, source: IPv6Address, hop_limit: int) -> None:
    """Check a router solicitation (RFC 4861, 6.1.1); PeerError when it is to be dropped."""
    if hop_limit != HOP_LIMIT:
        raise PeerError(f"a solicitation with hop limit {hop_limit} is not of this link")
    if len(data) < 8 or data[0] != SOLICITATION or data[1] != 0:
        raise PeerError("no router solicitation")
    at = 8
    while at < len(data):
        size = 8 * data[at + 1] if at + 1 < len(data) else 0
        if size == 0 or at + size > len(data):
            raise PeerError("an option of a solicitation has a wrong length")
        if data[at] == 1 and source == _NOWHERE:
            raise PeerError("a solicitation from nowhere names a link-layer address")
        at += size


@dataclass(frozen=True, slots=True, kw_only=True)
class RaSend:
    """An ICMPv6 message to send with hop limit 255."""

    data: bytes
    destination: IPv6Address


class RaEngine:
    """What one interface is told and when.

    A client that asks by name is answered at once, so that a booting box waits 0 s; everybody else
    hears it on time. `fraction` is a random number from 0 to 1 that the runner draws.
    """

    def __init__(self, said: Advertisement, now: float) -> None:
        """Begin at once."""
        self._said = said
        self._sent = 0
        self._last = now - PAUSE_SECONDS
        self._due = now
        self._escorted: dict[IPv6Address, float] = {}

    def receive(
        self, data: bytes, source: IPv6Address, hop_limit: int, now: float
    ) -> tuple[RaSend, ...]:
        """Answer a solicitation; PeerError for what must be dropped."""
        check_solicitation(data, source, hop_limit)
        if source == _NOWHERE:
            self._due = min(self._due, max(now, self._last + PAUSE_SECONDS))
            return ()
        if self._escorted.get(source, now) > now:
            return (self._as_router(source),)
        return (RaSend(data=self._said.encode(), destination=source),)

    def tick(self, now: float, fraction: float) -> Sequence[RaSend]:
        """Advertise to everybody when that is due; `now` is monotonic."""
        if now < self._due:
            return ()
        self._sent += 1
        self._last = now
        most = FIRST_SECONDS if self._sent < FIRST_COUNT else INTERVAL_SECONDS
        self._due = now + most * (1 - fraction / 4)
        self._escorted = {one: until for one, until in self._escorted.items() if until > now}
        # What everybody is told takes the route back: so those who wait for one are told again.
        return (
            RaSend(data=self._said.encode(), destination=ALL_NODES),
            *map(self._as_router, self._escorted),
        )

    def escort(self, destination: IPv6Address, now: float) -> RaSend:
        """Tell firmware alone that we are a router, for the time that it needs to fetch its loader.

        edk2 waits 10 s for a route through some router, even to a server on its own link
        (PxeBcCheckRouteTable, HttpBootCheckRouteTable).
        """
        self._escorted.pop(destination, None)
        while len(self._escorted) >= MAX_ESCORTED:
            del self._escorted[next(iter(self._escorted))]
        self._escorted[destination] = now + ESCORTED_SECONDS
        return self._as_router(destination)

    def _as_router(self, destination: IPv6Address) -> RaSend:
        seconds = max(self._said.router_seconds, ESCORT_SECONDS)
        said = replace(self._said, router_seconds=seconds)
        return RaSend(data=said.encode(), destination=destination)

    def postpone(self, now: float) -> None:
        """Try again soon what could not be sent: a link that comes up has no address at first."""
        self._sent = max(0, self._sent - 1)
        self._due = now + PAUSE_SECONDS

    def farewell(self) -> Sequence[RaSend]:
        """Say to everybody that we are a router no longer (RFC 4861, 6.2.5)."""
        if not self._said.router_seconds:
            return ()
        said = replace(self._said, router_seconds=0)
        return (RaSend(data=said.encode(), destination=ALL_NODES),)

    def deadline(self) -> float:
        """When `tick` is next due."""
        return self._due
