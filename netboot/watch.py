"""Who else speaks on the site's networks: what was heard in, damped events out.

It says that somebody answers who should not, never that he is an attacker: a forgotten router is
the usual case. What a switch does not pass on is not heard. It reads no packet (`netboot.io.watch`)
and keeps no file. RFC 2131, 4.1; RFC 4861, 4.2; RFC 1350; RFC 826.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.events import Detail, Event, EventKind

QUIET_SECONDS = 3600.0
"""One sender is told of once in this time, however often it speaks."""
PRESENT_SECONDS = 900.0
"""A sender that was heard this lately is still there, for whoever looks."""
MOST_SENDERS = 256
"""More than these are made up: one event tells of them all."""


class Role(StrEnum):
    """What a sender does on the network."""

    DHCP = "dhcp"
    PROXY = "proxy-dhcp"
    DHCP6 = "dhcp6"
    ROUTER6 = "router-advertisement"
    TFTP = "tftp"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One packet of interest: `mac` is the frame's source (6 bytes), `address` as text."""

    role: Role
    interface: str
    mac: bytes
    address: str
    detail: Detail = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """A sender that belongs here, as a person confirmed; `address` None for any."""

    role: Role
    mac: bytes
    address: str | None = None

    def covers(self, heard: Heard) -> bool:
        """Tell whether this is who was heard."""
        is_same = self.role is heard.role and self.mac == heard.mac
        return is_same and self.address in (None, heard.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """Our own hardware addresses, the gateway of each interface, and who is allowed."""

    ours: frozenset[bytes]
    gateways: Mapping[str, frozenset[str]] = field(default_factory=dict)
    allowed: tuple[Allowed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Somebody who was heard, as a person is told of him; times in unix seconds."""

    heard: Heard
    maker: str | None
    port: str | None
    first: float
    last: float

    @property
    def sentence(self) -> str:
        """Say who does what, and where to look."""
        who = f"{self.heard.address} ({self.heard.mac.hex(':')}{_comma(self.maker)})"
        where = f"on {self.heard.interface}{_comma(self.port)}"
        return f"{_SENTENCES[self.heard.role]} {who}, heard {where}"


_SENTENCES = {
    Role.DHCP: "another DHCP server answers:",
    Role.PROXY: "another boot server (proxyDHCP) answers:",
    Role.DHCP6: "another DHCPv6 server answers:",
    Role.ROUTER6: "another IPv6 router advertises itself:",
    Role.TFTP: "another TFTP server answers:",
    Role.GATEWAY: "the gateway's address has another hardware address:",
}
_EVENTS = {
    Role.DHCP: (EventKind.FOREIGN, "FOREIGN-DHCP"),
    Role.PROXY: (EventKind.FOREIGN_PROXY, "FOREIGN-BOOT"),
    Role.DHCP6: (EventKind.FOREIGN_DHCP6, "FOREIGN-DHCP"),
    Role.ROUTER6: (EventKind.FOREIGN_ROUTER, "FOREIGN-ROUTER"),
    Role.TFTP: (EventKind.FOREIGN_TFTP, "FOREIGN-BOOT"),
    Role.GATEWAY: (EventKind.GATEWAY_CHANGED, "GATEWAY-CHANGED"),
}

_Key = tuple[Role, bytes, str]


class WatchEngine:
    """Who was heard lately; `maker` names the maker of a hardware address, or gives None."""

    def __init__(self, config: WatchConfig, maker: Callable[[bytes], str | None]) -> None:
        """Begin with nobody heard."""
        self._config = config
        self._maker = maker
        self._senders: dict[_Key, Sender] = {}
        self._told: dict[_Key, float] = {}
        self._gateways: dict[tuple[str, str], bytes] = {}
        self._flood_told: float | None = None

    def replace(self, config: WatchConfig) -> None:
        """Take other settings; who is allowed now was never there."""
        self._config = config
        for key, sender in tuple(self._senders.items()):
            if self._is_allowed(sender.heard):
                del self._senders[key]

    def know_gateway(self, interface: str, address: str, mac: bytes) -> None:
        """Take what was seen before the start as the gateway's hardware address."""
        self._gateways[interface, address] = mac

    def senders(self, now: float) -> tuple[Sender, ...]:
        """Give everybody who is still there and does not belong here."""
        there = (one for one in self._senders.values() if 0 <= now - one.last <= PRESENT_SECONDS)
        return tuple(there)

    def hear(self, heard: Heard, port: str | None, now: float) -> tuple[Event, ...]:
        """Take what was heard; `port` is a hint where it came from."""
        if heard.mac in self._config.ours:
            return ()
        if heard.role is Role.GATEWAY:
            return self._gateway(heard, port, now)
        return () if self._is_allowed(heard) else self._note(heard, port, now)

    def _is_allowed(self, heard: Heard) -> bool:
        return any(one.covers(heard) for one in self._config.allowed)

    def _gateway(self, heard: Heard, port: str | None, now: float) -> tuple[Event, ...]:
        """Compare with what a person confirmed, else with the first that was ever seen."""
        if heard.address not in self._config.gateways.get(heard.interface, frozenset()):
            return ()
        confirmed = {
            one.mac
            for one in self._config.allowed
            if one.role is Role.GATEWAY and one.address in (None, heard.address)
        }
        place = heard.interface, heard.address
        first = self._gateways.get(place)
        if heard.mac in confirmed or heard.mac == first:
            return ()
        if not confirmed and first is None:
            self._gateways[place] = heard.mac
            return (self._event(EventKind.GATEWAY_SEEN, None, heard, port, now),)
        before = first or min(confirmed)
        changed = Heard(
            role=heard.role,
            interface=heard.interface,
            mac=heard.mac,
            address=heard.address,
            detail=(*heard.detail, ("before", before.hex(":"))),
        )
        return self._note(changed, port, now)

    def _note(self, heard: Heard, port: str | None, now: float) -> tuple[Event, ...]:
        key = (heard.role, heard.mac, heard.address)
        known = self._senders.get(key)
        if known is None and len(self._senders) >= MOST_SENDERS:
            self._forget(now)
        if known is None and len(self._senders) >= MOST_SENDERS:
            return self._flood(heard, now)
        self._senders[key] = Sender(
            heard=heard,
            maker=self._maker(heard.mac),
            port=port,
            first=known.first if known else now,
            last=now,
        )
        told = self._told.get(key)
        if told is not None and 0 <= now - told < QUIET_SECONDS:
            return ()
        self._told[key] = now
        kind, reason = _EVENTS[heard.role]
        return (self._event(kind, reason, heard, port, now),)

    def _forget(self, now: float) -> None:
        """Make room: who was not heard for an hour is gone."""
        for key, sender in tuple(self._senders.items()):
            if not 0 <= now - sender.last < QUIET_SECONDS:
                del self._senders[key]
                self._told.pop(key, None)

    def _flood(self, heard: Heard, now: float) -> tuple[Event, ...]:
        if self._flood_told is not None and 0 <= now - self._flood_told < QUIET_SECONDS:
            return ()
        self._flood_told = now
        return (
            Event(
                at=now,
                kind=EventKind.WATCH_FLOOD,
                reason="FOREIGN-FLOOD",
                detail=(("interface", heard.interface), ("senders", MOST_SENDERS)),
            ),
        )

    def _event(
        self, kind: EventKind, reason: str | None, heard: Heard, port: str | None, now: float
    ) -> Event:
        detail: list[tuple[str, str | int | float | bool]] = [
            ("interface", heard.interface),
            ("role", heard.role.value),
            ("sender", heard.address),
            *heard.detail,
        ]
        maker = self._maker(heard.mac)
        detail += [("maker", maker)] if maker else []
        detail += [("port", port)] if port else []
        return Event(
            at=now,
            kind=kind,
            mac=heard.mac,
            address=_ipv4(heard.address),
            reason=reason,
            detail=tuple(detail),
        )


def sentences(senders: Iterable[Sender]) -> list[str]:
    """Say who should not be there, for `status` and the page."""
    return [sender.sentence for sender in senders]


def _comma(text: str | None) -> str:
    return f", {text}" if text else ""


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None
