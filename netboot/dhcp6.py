"""The DHCPv6 server as an engine: a datagram and the time in, replies, events and writes out.

It never opens a socket, reads a clock or sends: a REPLY that promises an address leaves only after
the writes beside it are durable. It is authoritative for its links. RFC 8415, 16 and 18.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv6Address

from netboot.bootchoice import BootFile, BootTable, NoLoader
from netboot.dhcp import Sighting
from netboot.dhcp6_boot import BootClient6, choose6
from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import (
    Association,
    Code6,
    Lent,
    Status,
    StatusCode,
    duid_uuid,
)
from netboot.dhcp6_reply import FIRST_CHOICE, Arrival6, Send6, lend, reply6, send6, settings
from netboot.errors import PeerError, SiteError
from netboot.events import Detail, Event, EventKind
from netboot.leases import LeaseState
from netboot.leases6 import Client6, Lease6, LeaseTable6, LeaseWrite6, Link, check_plan6, subnet_of
from netboot.network import OptionValue, Reservation6, Subnet6Plan

DAMPING_SECONDS = 60.0
DAMPING_ENTRIES = 4096
"""More clients than this in a minute are a flood, and are told of as one event."""
MAX_ASSOCIATIONS = 16
"""IAs in one message; a box has one for each NIC."""
_NOWHERE = IPv6Address(0)
_ETHERNET = b"\x00\x01"

_TO_US = frozenset({Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE})
"""Messages that must name their server (RFC 8415, 16)."""
_TO_ALL = frozenset({Kind6.SOLICIT, Kind6.CONFIRM, Kind6.REBIND})
"""Messages that must name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp6Config:
    """What the plan says about DHCPv6; `boot` None means that nothing is served for booting.

    `options` are the site's; those of a subnet and of a reservation are nearer.
    """

    subnets: tuple[Subnet6Plan, ...]
    reservations: tuple[Reservation6, ...] = ()
    boot: BootTable | None = None
    domain: str = ""
    options: tuple[OptionValue, ...] = ()
    quarantine: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome6:
    """What to send, what happened, and what to make durable first.

    `assigned` are addresses with the boot set that their client was just offered.
    """

    sends: tuple[Send6, ...] = ()
    events: tuple[Event, ...] = ()
    writes: tuple[LeaseWrite6, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    assigned: tuple[tuple[IPv6Address, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A message with what belongs to it: who sent it, on which link, when."""

    packet: Packet6
    client: Client6
    link: Link
    arrival: Arrival6
    now: float

    @property
    def message(self) -> Message6:
        return self.packet.message

    @property
    def iaids(self) -> frozenset[int]:
        return frozenset(one.iaid for one in self.message.options.associations)

    def others(self, iaid: int) -> frozenset[int]:
        return self.iaids - {iaid}


@dataclass(slots=True, kw_only=True)
class _Answer:
    """A reply while it grows."""

    kind: Kind6
    associations: list[Association] = field(default_factory=list)
    items: list[tuple[int, bytes]] = field(default_factory=list)
    writes: list[LeaseWrite6] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    addresses: list[IPv6Address] = field(default_factory=list)


def check_config6(config: Dhcp6Config) -> None:
    """Refuse addresses given twice, and options that no client may be sent; SiteError."""
    check_plan6(config.subnets, config.reservations)
    levels = [config.options, *(one.options for one in config.subnets)]
    levels += [one.options for one in config.reservations]
    for option in (option for level in levels for option in level):
        if option.code == Code6.BOOT_PARAMETERS:
            raise SiteError("DHCPv6 option 60 is never sent: UEFI firmware drops such an offer")
        if option.code in _OURS or not 0 < option.code < 0x10000:
            raise SiteError(f"DHCPv6 option {option.code} is the server's own, not the site's")


_OURS = frozenset(range(1, 15)) | {
    Code6.INTERFACE_ID,
    Code6.IA_PD,
    Code6.ECHO_REQUEST,
    Code6.LINK_LAYER_ADDRESS,
}


def eui64_mac(address: IPv6Address) -> bytes | None:
    """Read the Ethernet address in a link-local address made of it; None for every other."""
    raw = address.packed
    if not address.is_link_local or raw[11:13] != b"\xff\xfe":
        return None
    return bytes((raw[8] ^ 2,)) + raw[9:11] + raw[13:]


def client_of6(packet: Packet6, source: IPv6Address) -> Client6:
    """Say who asks; PeerError when there is no DUID. The NIC is what relay or address tell."""
    duid = packet.message.options.client_id
    if duid is None:
        raise PeerError("no client identifier")
    told = packet.relays[-1].options.get(Code6.LINK_LAYER_ADDRESS) if packet.relays else None
    if told is not None and told[:2] == _ETHERNET and len(told) == 8:
        return Client6(duid=duid, mac=told[2:])
    return Client6(duid=duid, mac=eui64_mac(packet.relays[-1].peer if packet.relays else source))


class Dhcp6Engine:
    """The server's state: configuration, lease table, and which events were told of lately."""

    def __init__(self, config: Dhcp6Config, leases: Iterable[Lease6], duid: bytes) -> None:
        """Serve this; `duid` is the server's own, the same for ever. SiteError."""
        check_config6(config)
        self._table = LeaseTable6(config.subnets, config.reservations, leases)
        self._config = config
        self._duid = duid
        self._told: dict[tuple[EventKind, bytes], float] = {}
        self._handlers: Mapping[Kind6, Callable[[_Request], Outcome6]] = {
            Kind6.SOLICIT: self._solicit,
            Kind6.REQUEST: self._request,
            Kind6.CONFIRM: self._confirm,
            Kind6.RENEW: self._renew,
            Kind6.REBIND: self._renew,
            Kind6.RELEASE: self._release,
            Kind6.DECLINE: self._decline,
        }

    def replace(self, config: Dhcp6Config) -> None:
        """Take another configuration and keep the leases; SiteError, and the old one stays."""
        check_config6(config)
        self._table.replace(config.subnets, config.reservations)
        self._config = config

    def leases(self, now: float) -> tuple[Lease6, ...]:
        """Every lease that its holder may use now."""
        return tuple(lease for lease in self._table.leases() if lease.is_bound(now))

    def tick(self, now: float) -> None:
        """Forget dampings whose time is over."""
        while self._told:
            key, until = next(iter(self._told.items()))
            if now < until <= now + DAMPING_SECONDS:
                break  # insertion order is the order of time, unless the clock was set back
            del self._told[key]

    def receive(self, data: bytes, arrival: Arrival6, now: float) -> Outcome6:
        """Answer one datagram to port 547."""
        try:
            return self._receive(Packet6.decode(data), arrival, now)
        except PeerError as error:
            event = Event(
                at=now,
                kind=EventKind.MALFORMED,
                address=arrival.source,
                detail=(("sentence", str(error)), ("interface", arrival.interface)),
            )
            return Outcome6(events=self._tell(EventKind.MALFORMED, arrival.source.packed, event))

    def _receive(self, packet: Packet6, arrival: Arrival6, now: float) -> Outcome6:
        message, link = packet.message, self._link(packet, arrival)
        if not link or not self._is_for_us(message):
            return Outcome6()
        if any(relay.kind is not Kind6.RELAY_FORWARD for relay in packet.relays):
            return Outcome6()
        if message.kind is Kind6.INFORMATION_REQUEST:
            if packet.relays or arrival.multicast:
                return self._inform(packet, link, arrival, now)
            return Outcome6()
        handler = self._handlers.get(message.kind)
        if handler is None:
            return Outcome6()
        client = client_of6(packet, arrival.source)
        if len(message.options.associations) > MAX_ASSOCIATIONS:
            raise PeerError(f"more than {MAX_ASSOCIATIONS} IAs")
        request = _Request(packet=packet, client=client, link=link, arrival=arrival, now=now)
        if not packet.relays and not arrival.multicast:
            return self._unicast(request)
        return handler(request)

    def _is_for_us(self, message: Message6) -> bool:
        """Discard what names another server, or names one where it must not (RFC 8415, 16)."""
        server = message.options.get(Code6.SERVER_ID)
        if message.kind in _TO_ALL:
            return server is None
        if message.kind in _TO_US:
            return server == self._duid
        return server is None or server == self._duid

    def _unicast(self, request: _Request) -> Outcome6:
        """We send no option 12: what needs no multicast is told so (RFC 8415, 18.4)."""
        if request.message.kind not in _TO_US:
            return Outcome6()
        status = Status(code=StatusCode.USE_MULTICAST, text="ask by multicast")
        items = [(int(Code6.STATUS), status.encode())]
        reply = reply6(Kind6.REPLY, request.message, items, self._duid)
        return Outcome6(sends=(send6(request.packet, reply, request.arrival, promises=False),))

    def _link(self, packet: Packet6, arrival: Arrival6) -> Link:
        """Find the served subnets of the client's link: its relay says which (RFC 8415, 13.1)."""
        served = [subnet for subnet in self._config.subnets if subnet.dhcp != "off"]
        named = (relay.link for relay in reversed(packet.relays))
        link = next((one for one in named if one != _NOWHERE and not one.is_link_local), None)
        if link is not None:
            on_link = [one for one in served if link in one.network or link in one.relays]
        else:
            on_link = [
                one for one in served if one.interface == arrival.interface and not one.relayed
            ]
        shared = {one.shared for one in on_link if one.shared is not None}
        return tuple(one for one in served if one in on_link or one.shared in shared)

    # SOLICIT and REQUEST

    def _solicit(self, request: _Request) -> Outcome6:
        seen = self._see(request)
        is_rapid = request.message.options.get(Code6.RAPID_COMMIT) is not None and any(
            subnet.rapid_commit for subnet in request.link
        )
        answer = _Answer(kind=Kind6.REPLY if is_rapid else Kind6.ADVERTISE)
        if is_rapid:
            answer.items.append((Code6.RAPID_COMMIT, b""))
        else:
            answer.items.append((Code6.PREFERENCE, bytes((FIRST_CHOICE,))))
        for asked in request.message.options.associations:
            self._give(request, asked, answer, is_bound=is_rapid)
        answer.items += _refused(request.message, StatusCode.NO_PREFIX)
        outcome = self._finish(request, answer, EventKind.ACK if is_rapid else EventKind.OFFER)
        return _joined(seen, outcome)

    def _request(self, request: _Request) -> Outcome6:
        answer = _Answer(kind=Kind6.REPLY)
        for asked in request.message.options.associations:
            if all(subnet_of(one.address, request.link) for one in asked.addresses):
                self._give(request, asked, answer, is_bound=True)
            else:
                text = "this address is of another network"
                answer.associations.append(_denied(asked, StatusCode.NOT_ON_LINK, text))
        answer.items += _refused(request.message, StatusCode.NO_PREFIX)
        return self._finish(request, answer, EventKind.ACK)

    def _give(
        self, request: _Request, asked: Association, answer: _Answer, *, is_bound: bool
    ) -> None:
        address = self._table.choose(
            request.client,
            asked.iaid,
            request.link,
            wanted=[one.address for one in asked.addresses],
            others=request.others(asked.iaid),
            taken=answer.addresses,
            now=request.now,
        )
        subnet = None if address is None else subnet_of(address, request.link)
        if address is None or subnet is None:
            text = "no address is left for you on this network"
            answer.associations.append(_denied(asked, StatusCode.NO_ADDRESSES, text))
            if any(one.dhcp == "stateful" for one in request.link):
                answer.events += self._event(request, EventKind.POOL_EMPTY, damped=True)
            return
        answer.associations.append(lend(asked.iaid, address, subnet))
        answer.addresses.append(address)
        if is_bound:
            self._bind(request, asked.iaid, address, answer)

    def _bind(self, request: _Request, iaid: int, address: IPv6Address, answer: _Answer) -> None:
        answer.writes += self._table.bind(
            request.client,
            iaid,
            address,
            request.link,
            others=request.others(iaid),
            now=request.now,
        )

    # CONFIRM, RENEW, REBIND

    def _confirm(self, request: _Request) -> Outcome6:
        """Say whether the client is still on its link; silence when it names no address."""
        asked = request.message.options.associations
        addresses = [one.address for association in asked for one in association.addresses]
        if not addresses:
            return Outcome6()
        is_here = all(subnet_of(address, request.link) for address in addresses)
        code = StatusCode.SUCCESS if is_here else StatusCode.NOT_ON_LINK
        text = "these addresses are of this network" if is_here else "this is another network"
        answer = _Answer(kind=Kind6.REPLY)
        answer.items.append((Code6.STATUS, Status(code=code, text=text).encode()))
        return self._finish(request, answer, EventKind.ACK if is_here else EventKind.NAK)

    def _renew(self, request: _Request) -> Outcome6:
        answer = _Answer(kind=Kind6.REPLY)
        for asked in request.message.options.associations:
            self._extend(request, asked, answer)
        answer.items += _refused(request.message, StatusCode.NO_BINDING)
        return self._finish(request, answer, EventKind.ACK)

    def _extend(self, request: _Request, asked: Association, answer: _Answer) -> None:
        """Lengthen the IA's lease; addresses that are not its own end (RFC 8415, 18.3.4)."""
        others = request.others(asked.iaid)
        row = self._table.row(request.client, asked.iaid, request.link, others)
        address = None
        if row is not None and row.state is LeaseState.BOUND:
            address = self._table.choose(
                request.client,
                asked.iaid,
                request.link,
                wanted=(),
                others=others,
                taken=answer.addresses,
                now=request.now,
            )
        ended = tuple(
            Lent(address=one.address, preferred=0, valid=0)
            for one in asked.addresses
            if one.address != address
        )
        subnet = None if address is None else subnet_of(address, request.link)
        if address is None or subnet is None:
            status = Status(code=StatusCode.NO_BINDING, text="this address is not yours")
            off = tuple(one for one in ended if subnet_of(one.address, request.link) is None)
            said = None if off else status
            answer.associations.append(Association(iaid=asked.iaid, addresses=off, status=said))
            return
        lent = lend(asked.iaid, address, subnet)
        answer.associations.append(
            Association(iaid=lent.iaid, t1=lent.t1, t2=lent.t2, addresses=(*lent.addresses, *ended))
        )
        answer.addresses.append(address)
        self._bind(request, asked.iaid, address, answer)

    # RELEASE and DECLINE

    def _release(self, request: _Request) -> Outcome6:
        return self._end(request, EventKind.RELEASE, LeaseState.RELEASED, request.now)

    def _decline(self, request: _Request) -> Outcome6:
        """Quarantine what the client holds; anybody else could poison the pool."""
        until = request.now + self._config.quarantine.total_seconds()
        return self._end(request, EventKind.DECLINE, LeaseState.DECLINED, until)

    def _end(self, request: _Request, kind: EventKind, state: LeaseState, until: float) -> Outcome6:
        answer = _Answer(kind=Kind6.REPLY)
        answer.items.append((Code6.STATUS, Status(code=StatusCode.SUCCESS).encode()))
        for asked in request.message.options.associations:
            row = self._table.row(
                request.client, asked.iaid, request.link, request.others(asked.iaid)
            )
            named = {one.address for one in asked.addresses}
            if row is None or row.address not in named or not row.is_bound(request.now):
                text = "this address is not yours"
                answer.associations.append(_denied(asked, StatusCode.NO_BINDING, text))
                continue
            answer.writes += self._table.end(row, state, until)
            entry = self._table.reservation(request.client, request.link)
            is_reserved = entry is not None and entry.address == row.address
            reason = None
            if kind is EventKind.DECLINE:
                reason = "RESERVED-IN-USE" if is_reserved else "IN-USE"
            answer.events += self._event(request, kind, row.address, reason=reason)
        return self._finish(request, answer, None)

    # INFORMATION-REQUEST

    def _inform(self, packet: Packet6, link: Link, arrival: Arrival6, now: float) -> Outcome6:
        """Give settings without an address; a client need not say who it is (RFC 8415, 18.2.6)."""
        options = packet.message.options
        if any(options.all(code) for code in (Code6.IA_NA, Code6.IA_TA, Code6.IA_PD)):
            return Outcome6()
        if options.client_id is None:
            client = Client6(duid=b"\0" + arrival.source.packed, mac=None)
        else:
            client = client_of6(packet, arrival.source)
        request = _Request(packet=packet, client=client, link=link, arrival=arrival, now=now)
        return _joined(
            self._see(request),
            self._finish(request, _Answer(kind=Kind6.REPLY), EventKind.INFORM),
        )

    # Replies

    def _finish(self, request: _Request, answer: _Answer, kind: EventKind | None) -> Outcome6:
        """Add settings and identities, and say what happened."""
        items = [(int(Code6.IA_NA), one.encode()) for one in answer.associations]
        boot, events = None, tuple(answer.events)
        if kind is not None:
            subnet = next(
                (one for a in answer.addresses if (one := subnet_of(a, request.link))),
                request.link[0],
            )
            boot, told = self._boot(request, subnet)
            events += told
            items = [*self._settings(request, subnet, boot), *items]
        reply = reply6(answer.kind, request.message, [*items, *answer.items], self._duid)
        events += self._told_of(request, answer, kind, boot)
        assigned = boot.boot_set if boot is not None else None
        return Outcome6(
            sends=(send6(request.packet, reply, request.arrival, promises=bool(answer.writes)),),
            events=events,
            writes=tuple(answer.writes),
            assigned=tuple((one, assigned) for one in answer.addresses if assigned is not None),
        )

    def _settings(
        self, request: _Request, subnet: Subnet6Plan, boot: BootFile | None
    ) -> tuple[tuple[int, bytes], ...]:
        entry = self._table.reservation(request.client, request.link)
        return settings(
            request.message.options,
            subnet,
            domain=self._config.domain,
            levels=(
                entry.options if entry is not None else (),
                subnet.options,
                self._config.options,
            ),
            boot=boot,
        )

    def _boot(
        self, request: _Request, subnet: Subnet6Plan
    ) -> tuple[BootFile | None, tuple[Event, ...]]:
        if self._config.boot is None or not subnet.boot:
            return None, ()
        entry = self._table.reservation(request.client, request.link)
        client = BootClient6(
            options=request.message.options,
            mac=request.client.told_mac,
            uuid=duid_uuid(request.client.duid),
            is_known=entry is not None,
            boot_set=entry.boot_set if entry is not None else None,
        )
        choice = choose6(client, self._config.boot, subnet.appliance)
        if not isinstance(choice, NoLoader):
            return choice, ()
        detail: Detail = (
            ("architectures", " ".join(f"{value:#06x}" for value in choice.architectures)),
            ("vendor_class", _printable(client.vendor_class)),
        )
        return None, self._event(
            request, EventKind.ARCHITECTURE, reason="ARCH", detail=detail, damped=True
        )

    # Events

    def _told_of(
        self,
        request: _Request,
        answer: _Answer,
        kind: EventKind | None,
        boot: BootFile | None,
    ) -> tuple[Event, ...]:
        if kind is None:
            return ()
        detail: Detail = (
            ("protocol", "dhcpv6"),
            ("boot_file", boot.name if boot is not None else ""),
        )
        if kind in (EventKind.INFORM, EventKind.NAK):
            return self._event(request, kind, request.arrival.source, detail=detail, damped=True)
        expires = {
            write.address: (write.lease.expires, write.lease.name or "")
            for write in answer.writes
            if write.lease is not None
        }
        events: tuple[Event, ...] = ()
        for address in answer.addresses:
            more: Detail = ()
            if address in expires:
                more = (("expires", expires[address][0]), ("name", expires[address][1]))
            is_offer = kind is EventKind.OFFER
            events += self._event(request, kind, address, detail=(*more, *detail), damped=is_offer)
        return events

    def _see(self, request: _Request) -> Outcome6:
        """Tell of a client at most once a minute."""
        options, client = request.message.options, request.client
        uuid = duid_uuid(client.duid)
        vendor = next((one for v in options.vendor_classes for one in v.classes), b"")
        sighting = Sighting(
            at=request.now,
            key=client.told_mac or client.duid,
            mac=client.told_mac,
            interface=request.arrival.interface,
            vendor_class=vendor,
            architectures=options.architectures,
            uuid=None if uuid is None else b"\0" + uuid,
            host_name=options.host_name,
        )
        detail: Detail = (
            ("protocol", "dhcpv6"),
            ("duid", client.duid.hex()),
            ("vendor_class", _printable(vendor)),
            ("architectures", " ".join(f"{value:#06x}" for value in options.architectures)),
            ("host_name", options.host_name or ""),
            ("interface", request.arrival.interface),
        )
        events = self._event(request, EventKind.DISCOVER, detail=detail, damped=True)
        is_told = any(event.kind is EventKind.DISCOVER for event in events)
        return Outcome6(events=events, sightings=(sighting,) if is_told else ())

    def _event(
        self,
        request: _Request,
        kind: EventKind,
        address: IPv6Address | None = None,
        *,
        reason: str | None = None,
        detail: Detail = (),
        damped: bool = False,
    ) -> tuple[Event, ...]:
        event = Event(
            at=request.now,
            kind=kind,
            mac=request.client.told_mac,
            address=address,
            reason=reason,
            detail=detail,
        )
        return self._tell(kind, request.client.duid, event) if damped else (event,)

    def _tell(self, kind: EventKind, key: bytes, event: Event) -> tuple[Event, ...]:
        """Pass an event once a minute per kind and client; beyond the limit, one FLOOD for all."""
        self.tick(event.at)
        if (kind, key) in self._told:
            return ()
        if len(self._told) < DAMPING_ENTRIES:
            self._told[kind, key] = event.at + DAMPING_SECONDS
            return (event,)
        if (EventKind.FLOOD, b"") in self._told:
            return ()
        self._told[EventKind.FLOOD, b""] = event.at + DAMPING_SECONDS
        return (Event(at=event.at, kind=EventKind.FLOOD),)


def _joined(one: Outcome6, two: Outcome6) -> Outcome6:
    return Outcome6(
        sends=one.sends + two.sends,
        events=one.events + two.events,
        writes=one.writes + two.writes,
        sightings=one.sightings + two.sightings,
        assigned=one.assigned + two.assigned,
    )


def _denied(asked: Association, code: StatusCode, text: str) -> Association:
    return Association(iaid=asked.iaid, status=Status(code=code, text=text))


def _refused(message: Message6, code: StatusCode) -> list[tuple[int, bytes]]:
    """Refuse prefixes: this server delegates none (RFC 8415, 18.3.1); temporary ones likewise."""
    refused = []
    for kind, size in ((Code6.IA_PD, 12), (Code6.IA_TA, 4)):
        status = Status(
            code=StatusCode.NO_ADDRESSES
            if kind is Code6.IA_TA and code is StatusCode.NO_PREFIX
            else code
        ).encode()
        option = int(Code6.STATUS).to_bytes(2, "big") + len(status).to_bytes(2, "big") + status
        for data in message.options.all(kind)[:MAX_ASSOCIATIONS]:
            if len(data) < size:
                raise PeerError(f"option {kind} has {len(data)} bytes")
            refused.append((int(kind), data[:4] + bytes(size - 4) + option))
    return refused


def _printable(data: bytes) -> str:
    text = data.rstrip(b"\0").decode("ascii", "replace")
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
