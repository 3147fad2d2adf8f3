"""What the DHCP engine gives back for a packet: replies, events, writes, sightings.

Values and how they are made from a request; what to answer is `netboot.dhcp`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile
from netboot.dhcp_options import Code
from netboot.dhcp_reply import Grant, Send
from netboot.dhcp_request import Request
from netboot.events import Detail, Event, EventKind
from netboot.leases import LeaseWrite

_ACK = EventKind.ACK
"""By a name of our own: looking up a member of an enum costs 0.3 us in Python 3.11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A client that was heard: everything here is a claim. `uuid` is option 97 as it came."""

    at: float
    key: bytes
    mac: bytes | None
    interface: str
    vendor_class: bytes
    architectures: tuple[int, ...]
    uuid: bytes | None
    host_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The boot set whose fixed file names are meant when this client address asks for them."""

    client: IPv4Address
    boot_set: bytes


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What to send, what happened, and what to make durable first.

    Nobody changes it; not frozen, being made for each packet.
    """

    sends: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    writes: tuple[LeaseWrite, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    assignments: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An address to ask for by ARP before a stranger gets it; `source` is ours there."""

    interface: str
    source: IPv4Address
    address: IPv4Address


def sighting_of(request: Request) -> Sighting:
    """Say what was heard."""
    options = request.message.options
    return Sighting(
        at=request.now,
        key=request.client.key,
        mac=request.client.mac,
        interface=request.arrival.interface,
        vendor_class=request.facts.vendor_class,
        architectures=request.facts.architectures,
        uuid=options.get(Code.CLIENT_UUID),
        host_name=options.text(Code.HOST_NAME),
    )


def discovered(request: Request) -> Event:
    """Tell of a DISCOVER."""
    options = request.message.options
    return Event(
        at=request.now,
        kind=EventKind.DISCOVER,
        mac=request.client.mac,
        detail=(
            ("vendor_class", options.text(Code.VENDOR_CLASS) or ""),
            ("architectures", " ".join(f"{value:#06x}" for value in request.facts.architectures)),
            ("host_name", options.text(Code.HOST_NAME) or ""),
            ("interface", request.arrival.interface),
            *uuid_texts(options.get(Code.CLIENT_UUID)),
        ),
    )


def acknowledged(request: Request, grant: Grant, address: IPv4Address, expires: float) -> Event:
    """Tell of an address that was given until `expires`, in seconds of unix time."""
    boot = grant.boot
    return Event(
        at=request.now,
        kind=_ACK,
        mac=request.client.mac,
        address=address,
        detail=(
            ("expires", expires),
            ("name", grant.settings.name or ""),
            ("boot_file", boot.name if boot is not None else ""),
        ),
    )


def went_elsewhere(request: Request, server: IPv4Address) -> Event:
    """Tell of a server that is not ours and that a client chose."""
    mac = request.client.mac
    return Event(
        at=request.now,
        kind=EventKind.FOREIGN,
        address=server,
        reason="FOREIGN-DHCP",
        detail=(
            ("client", mac.hex(":") if mac else ""),
            ("interface", request.arrival.interface),
        ),
    )


def assigned(boot: BootFile | None, address: IPv4Address) -> tuple[Assignment, ...]:
    """Say which boot set's file names this address means from now on."""
    if boot is None or boot.boot_set is None:
        return ()
    return (Assignment(client=address, boot_set=boot.boot_set),)


def uuid_texts(uuid: bytes | None) -> Detail:
    """Print option 97 both ways, as little-endian GUID and as written: makers differ."""
    if uuid is None or len(uuid) != 17 or not any(uuid[1:]):
        return ()
    raw = uuid[1:]
    little = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
    return (("uuid", _dashed(little)), ("uuid_as_written", _dashed(raw)))


def _dashed(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
