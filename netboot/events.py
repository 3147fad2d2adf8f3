"""What happened, as values that the event log numbers and keeps.

Never more than facts about a packet or a file that was sent: what they mean is control's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

Detail = tuple[tuple[str, str | int | float | bool], ...]


class EventKind(StrEnum):
    """Kinds of events; the text is what the log and control's cursor see."""

    DISCOVER = "dhcp-discover"
    OFFER = "dhcp-offer"
    ACK = "dhcp-ack"
    NAK = "dhcp-nak"
    RELEASE = "dhcp-release"
    DECLINE = "dhcp-decline"
    INFORM = "dhcp-inform"
    ELSEWHERE = "dhcp-elsewhere"
    MALFORMED = "dhcp-malformed"
    POOL_EMPTY = "dhcp-pool-empty"
    FLOOD = "dhcp-flood"
    FOREIGN = "foreign-dhcp"
    FOREIGN_PROXY = "foreign-proxy-dhcp"
    FOREIGN_DHCP6 = "foreign-dhcp6"
    FOREIGN_ROUTER = "foreign-router"
    FOREIGN_TFTP = "foreign-tftp"
    GATEWAY_SEEN = "gateway-seen"
    GATEWAY_CHANGED = "gateway-changed"
    WATCH_FLOOD = "watch-flood"
    ARCHITECTURE = "arch-unknown"
    BOOT_FILE = "boot-file"
    DNS_HIJACK = "dns-hijack"
    IN_USE = "address-in-use"
    DISK_REFUSED = "disk-refused"
    DISK_WORKS = "disk-works"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `at` in seconds of unix time, `mac` as 6 bytes, `reason` a code or None."""

    at: float
    kind: EventKind
    mac: bytes | None = None
    address: IPv4Address | IPv6Address | None = None
    reason: str | None = None
    detail: Detail = ()
