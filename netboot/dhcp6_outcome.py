"""What the DHCPv6 engine gives back for a datagram: replies, events, writes, sightings.

Values and how they are made from a request; what to answer is `netboot.dhcp6`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from netboot.bootchoice import BootFile
from netboot.dhcp6_message import Kind6
from netboot.dhcp6_options import Association
from netboot.dhcp6_reply import Send6
from netboot.dhcp6_request import Request6
from netboot.dhcp_outcome import Sighting, uuid_texts
from netboot.events import Detail, Event, EventKind
from netboot.leases6 import LeaseWrite6


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome6:
    """What to send, what happened, and what to make durable first.

    `assigned` are addresses with the boot set that their client was just offered, `escorted` are
    link-local addresses of firmware that is about to fetch its loader from us.
    """

    sends: tuple[Send6, ...] = ()
    events: tuple[Event, ...] = ()
    writes: tuple[LeaseWrite6, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    assigned: tuple[tuple[IPv6Address, bytes], ...] = ()
    escorted: tuple[IPv6Address, ...] = ()


@dataclass(slots=True, kw_only=True)
class Answer6:
    """A reply while it grows; `event` is how it is told of, None when `events` say all."""

    kind: Kind6
    event: EventKind | None
    associations: list[Association] = field(default_factory=list)
    items: list[tuple[int, bytes]] = field(default_factory=list)
    writes: list[LeaseWrite6] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    addresses: list[IPv6Address] = field(default_factory=list)


def event6(
    request: Request6,
    kind: EventKind,
    address: IPv6Address | None = None,
    *,
    reason: str | None = None,
    detail: Detail = (),
) -> Event:
    """Tell of a request."""
    return Event(
        at=request.now,
        kind=kind,
        mac=request.client.told_mac,
        address=address,
        reason=reason,
        detail=(*detail, ("protocol", "dhcpv6")),
    )


def sighting_of6(request: Request6) -> Sighting:
    """Say what was heard; the UUID as option 97 of DHCPv4 would hold it."""
    client, uuid = request.client, request.facts.uuid
    return Sighting(
        at=request.now,
        key=client.told_mac or client.duid,
        mac=client.told_mac,
        interface=request.arrival.interface,
        vendor_class=request.facts.vendor_class,
        architectures=request.facts.architectures,
        uuid=None if uuid is None else b"\0" + uuid,
        host_name=request.message.options.host_name,
    )


def discovered6(request: Request6) -> Event:
    """Tell of a client that was heard."""
    seen = sighting_of6(request)
    detail: Detail = (
        ("vendor_class", printable(seen.vendor_class)),
        ("architectures", " ".join(f"{value:#06x}" for value in seen.architectures)),
        ("host_name", seen.host_name or ""),
        ("interface", seen.interface),
        ("duid", request.client.duid.hex()),
        *uuid_texts(seen.uuid),
    )
    return event6(request, EventKind.DISCOVER, detail=detail)


def given6(
    request: Request6, answer: Answer6, kind: EventKind, boot: BootFile | None
) -> list[Event]:
    """Tell of each address that an answer holds."""
    leases = {write.address: write.lease for write in answer.writes}
    events = []
    for address in answer.addresses:
        lease = leases.get(address)
        detail: Detail = (("boot_file", boot.name if boot is not None else ""),)
        if lease is not None:
            detail = (("expires", lease.expires), ("name", lease.name or ""), *detail)
        events.append(event6(request, kind, address, detail=detail))
    return events


def printable(data: bytes) -> str:
    """Give bytes of a client as text that a log can hold."""
    text = data.rstrip(b"\0").decode("ascii", "replace")
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
