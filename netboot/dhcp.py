"""The DHCPv4 server as an engine: a packet and the time in, replies, events and writes out.

It never opens a socket, reads a clock or sends: a reply that promises an address leaves only after
the writes beside it are durable. RFC 2131, 4.3; authoritative for the subnets of its plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile, BootTable, NoLoader, choose
from netboot.client import facts_of
from netboot.dhcp_message import BOOTREQUEST, Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_reply import Grant, Send, nak, reply, send
from netboot.errors import PeerError, SiteError
from netboot.events import Detail, Event, EventKind
from netboot.leases import Client, Lease, LeaseTable, LeaseWrite, check_plan
from netboot.network import NOTHING, ClientClass, Identify, Parameters, Reservation, SubnetPlan

DAMPING_SECONDS = 60.0
DAMPING_ENTRIES = 4096
"""More clients than this in a minute are a flood, and are told of as one event."""
LONGEST_NAME = 120
"""The boot file in the header has 127 bytes."""
_NOWHERE = IPv4Address(0)
_LINK_SELECTION = 5
"""Sub-option of 82: the subnet to choose from, when it is not giaddr's (RFC 3527)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpConfig:
    """What the plan says about DHCP; `boot` None means that nothing is served for booting.

    `parameters` are the site's own, the last level; `quarantine` is how long a declined address
    rests: until a wrong cable is found, not until tomorrow.
    """

    subnets: tuple[SubnetPlan, ...]
    reservations: tuple[Reservation, ...]
    boot: BootTable | None
    domain: str
    classes: tuple[ClientClass, ...] = ()
    parameters: Parameters = NOTHING
    identify: Identify = Identify.MAC
    quarantine: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Where a packet came in: the interface's name and the source address of the datagram."""

    interface: str
    source: IPv4Address


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to send, what happened, and what to make durable first."""

    sends: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    writes: tuple[LeaseWrite, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    assignments: tuple[Assignment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A message with what belongs to it: who sent it, into which subnet, when."""

    message: Message
    client: Client
    subnet: SubnetPlan
    interface: str
    now: float

    @property
    def server_id(self) -> IPv4Address | None:
        return self.message.options.address(Code.SERVER_ID)

    @property
    def wanted(self) -> IPv4Address | None:
        return self.message.options.address(Code.REQUESTED_ADDRESS)

    @property
    def is_for_us(self) -> bool:
        return self.server_id == self.subnet.appliance


def client_of(message: Message) -> Client:
    """Say who asks; PeerError when there is neither a hardware address nor a client-id."""
    if message.mac is not None:
        return Client(key=message.mac, mac=message.mac)
    if message.chaddr:
        return Client(key=b"hardware:" + bytes((message.htype,)) + message.chaddr, mac=None)
    client_id = message.options.get(Code.CLIENT_ID)
    if not client_id:
        raise PeerError("neither a hardware address nor a client-id")
    return Client(key=b"client-id:" + client_id, mac=None)


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


def check_config(config: DhcpConfig) -> None:
    """Refuse addresses given twice and names that no reply could carry; SiteError."""
    check_plan(config.subnets, config.reservations)
    names = [config.domain, *(entry.name for entry in config.reservations if entry.name)]
    if config.boot is not None:
        names += [rule.file for rule in config.boot.rules]
    for name in names:
        if not name.isascii() or len(name) > LONGEST_NAME:
            raise SiteError(f"name {name!r} does not fit into a DHCP reply")


class DhcpEngine:
    """The server's state: configuration, lease table, and which events were told of lately."""

    def __init__(self, config: DhcpConfig, leases: Iterable[Lease]) -> None:
        check_config(config)
        self._table = LeaseTable(config.subnets, config.reservations, leases)
        self._config = config
        self._told: dict[tuple[EventKind, bytes], float] = {}

    def replace(self, config: DhcpConfig, now: float) -> None:
        """Take another configuration and keep the leases; SiteError, and the old one stays."""
        check_config(config)
        self._table.replace(config.subnets, config.reservations)
        self._config = config
        self._table.expire(now)

    def leases(self, now: float) -> tuple[Lease, ...]:
        """Every lease that its holder may use now."""
        return tuple(lease for lease in self._table.leases() if lease.is_bound(now))

    def tick(self, now: float) -> Outcome:
        """Forget offers and dampings whose time is over."""
        self._table.expire(now)
        while self._told:
            key, until = next(iter(self._told.items()))
            if now < until <= now + DAMPING_SECONDS:
                break  # insertion order is the order of time, unless the clock was set back
            del self._told[key]
        return Outcome()

    def deadline(self) -> float | None:
        """When `tick` next has something to do, in seconds of unix time."""
        return self._table.deadline()

    def receive(self, data: bytes, arrival: Arrival, now: float) -> Outcome:
        """Answer one datagram to port 67."""
        try:
            return self._receive(Message.decode(data), arrival, now)
        except PeerError as error:
            return Outcome(
                events=self._tell(
                    EventKind.MALFORMED,
                    str(arrival.source).encode(),
                    Event(
                        at=now,
                        kind=EventKind.MALFORMED,
                        address=arrival.source,
                        detail=(("sentence", str(error)),),
                    ),
                )
            )

    def _receive(self, message: Message, arrival: Arrival, now: float) -> Outcome:
        subnet = self._subnet(message, arrival.interface)
        if message.op != BOOTREQUEST or subnet is None:
            return Outcome()
        request = _Request(
            message=message,
            client=client_of(message),
            subnet=subnet,
            interface=arrival.interface,
            now=now,
        )
        match message.options.message_type:
            case MessageType.DISCOVER:
                return self._discover(request)
            case MessageType.REQUEST:
                return self._request(request)
            case MessageType.DECLINE:
                return self._decline(request)
            case MessageType.RELEASE:
                return self._release(request)
            case MessageType.INFORM:
                return self._inform(request)
            case _:
                return Outcome()

    def _subnet(self, message: Message, interface: str) -> SubnetPlan | None:
        """Find the served subnet: of the relay's link, else of the arrival interface."""
        served = (subnet for subnet in self._config.subnets if subnet.dhcp == "server")
        if message.giaddr != _NOWHERE:
            link = _link_selection(message) or message.giaddr
            return next((subnet for subnet in served if link in subnet.network), None)
        return next((subnet for subnet in served if subnet.interface == interface), None)

    # DISCOVER

    def _discover(self, request: _Request) -> Outcome:
        seen = self._see(request)
        address = self._table.choose(request.client, request.subnet, request.wanted, request.now)
        if address is None:
            events = self._event(request, EventKind.POOL_EMPTY, damped=True)
            return Outcome(events=seen.events + events, sightings=seen.sightings)
        boot, events = self._boot(request)
        # ciaddr of a DISCOVER is ignored: old ROMs fill it.
        offer = reply(
            MessageType.OFFER,
            request.message,
            request.subnet,
            self._grant(request, address, boot),
            ciaddr=_NOWHERE,
        )
        self._table.offer(request.client, request.subnet, address, request.now)
        events += self._event(request, EventKind.OFFER, address, damped=True)
        return Outcome(
            sends=(send(offer, request.subnet, request.interface, promises=False),),
            events=seen.events + events,
            sightings=seen.sightings,
        )

    def _see(self, request: _Request) -> Outcome:
        """Tell of a client at most once a minute."""
        options = request.message.options
        sighting = Sighting(
            at=request.now,
            key=request.client.key,
            mac=request.client.mac,
            interface=request.interface,
            vendor_class=options.vendor_class,
            architectures=options.architectures,
            uuid=options.get(Code.CLIENT_UUID),
            host_name=options.text(Code.HOST_NAME),
        )
        detail: Detail = (
            ("vendor_class", options.text(Code.VENDOR_CLASS) or ""),
            ("architectures", " ".join(f"{value:#06x}" for value in options.architectures)),
            ("host_name", sighting.host_name or ""),
            ("interface", request.interface),
            *uuid_texts(sighting.uuid),
        )
        events = self._event(request, EventKind.DISCOVER, detail=detail, damped=True)
        is_told = any(event.kind is EventKind.DISCOVER for event in events)
        return Outcome(events=events, sightings=(sighting,) if is_told else ())

    def _boot(self, request: _Request) -> tuple[BootFile | None, tuple[Event, ...]]:
        if self._config.boot is None or not request.subnet.boot:
            return None, ()
        options = request.message.options
        choice = choose(facts_of(request.message), self._config.boot, request.subnet.appliance)
        if not isinstance(choice, NoLoader):
            return choice, ()
        detail: Detail = (
            ("architectures", " ".join(f"{value:#06x}" for value in choice.architectures)),
            ("vendor_class", options.text(Code.VENDOR_CLASS) or ""),
        )
        return None, self._event(
            request, EventKind.ARCHITECTURE, reason="ARCH", detail=detail, damped=True
        )

    def _grant(
        self, request: _Request, address: IPv4Address | None, boot: BootFile | None
    ) -> Grant:
        reservation = self._table.reservation(request.client, request.subnet)
        return Grant(
            address=address,
            domain=self._config.domain,
            name=reservation.name if reservation is not None else None,
            boot=boot,
        )

    # REQUEST: selecting, init-reboot, renewing, rebinding (RFC 2131, 4.3.2)

    def _request(self, request: _Request) -> Outcome:
        if request.server_id is not None and not request.is_for_us:
            return self._elsewhere(request)
        ciaddr = request.message.ciaddr
        if request.wanted is not None:
            if request.server_id is not None:
                return self._selecting(request, request.wanted)
            return self._init_reboot(request, request.wanted)
        if ciaddr != _NOWHERE:
            return self._renewing(request, ciaddr)
        return Outcome()  # INIT-REBOOT without option 50: nothing can be confirmed

    def _elsewhere(self, request: _Request) -> Outcome:
        """The client chose another server: free its offer and stay silent."""
        self._table.withdraw(request.client, request.subnet)
        server = request.server_id
        if server is None or any(server == subnet.appliance for subnet in self._config.subnets):
            return Outcome()
        mac = request.client.mac
        event = Event(
            at=request.now,
            kind=EventKind.FOREIGN,
            address=server,
            reason="FOREIGN-DHCP",
            detail=(("client", mac.hex(":") if mac else ""), ("interface", request.interface)),
        )
        return Outcome(events=self._tell(EventKind.FOREIGN, server.packed, event))

    def _selecting(self, request: _Request, wanted: IPv4Address) -> Outcome:
        """Serve whatever the xid: U-Boot requests with the first of its four."""
        if self._table.may_have(request.client, request.subnet, wanted, request.now):
            return self._ack(request, wanted, _NOWHERE)
        return self._nak(request, wanted, "NOT-YOURS", "this address is not offered to you")

    def _init_reboot(self, request: _Request, wanted: IPv4Address) -> Outcome:
        if wanted not in request.subnet.network:
            return self._nak(request, wanted, "WRONG-NET", "this address is of another network")
        table, client, subnet = self._table, request.client, request.subnet
        if table.held(client, subnet) is None and table.reservation(client, subnet) is None:
            return Outcome()  # we know nothing of it (RFC 2131, 4.3.2: remain silent)
        return self._confirm(request, wanted, _NOWHERE)

    def _renewing(self, request: _Request, ciaddr: IPv4Address) -> Outcome:
        if ciaddr not in request.subnet.network:
            return self._nak(request, ciaddr, "WRONG-NET", "this address is of another network")
        return self._confirm(request, ciaddr, ciaddr)

    def _confirm(self, request: _Request, address: IPv4Address, ciaddr: IPv4Address) -> Outcome:
        """Extend the lease, unless another address is reserved for the client or it is taken."""
        reservation = self._table.reservation(request.client, request.subnet)
        if (
            reservation is not None
            and reservation.address is not None
            and reservation.address != address
            and self._may_have(request, reservation.address)
        ):
            return self._nak(request, address, "RESERVED", "another address is reserved for you")
        if self._may_have(request, address):
            return self._ack(request, address, ciaddr)
        return self._nak(request, address, "NOT-YOURS", "this address is not yours")

    def _may_have(self, request: _Request, address: IPv4Address) -> bool:
        return self._table.may_have(request.client, request.subnet, address, request.now)

    def _ack(self, request: _Request, address: IPv4Address, ciaddr: IPv4Address) -> Outcome:
        boot, events = self._boot(request)
        grant = self._grant(request, address, boot)
        ack = reply(MessageType.ACK, request.message, request.subnet, grant, ciaddr=ciaddr)
        writes = self._table.bind(request.client, request.subnet, address, request.now)
        detail: Detail = (
            ("expires", request.now + request.subnet.lease.total_seconds()),
            ("name", grant.name or ""),
            ("boot_file", boot.name if boot is not None else ""),
        )
        events += self._event(request, EventKind.ACK, address, detail=detail)
        return Outcome(
            sends=(send(ack, request.subnet, request.interface, promises=True),),
            events=events,
            writes=writes,
        )

    def _nak(self, request: _Request, address: IPv4Address, reason: str, text: str) -> Outcome:
        refusal = nak(request.message, request.subnet, text)
        return Outcome(
            sends=(send(refusal, request.subnet, request.interface, promises=False),),
            events=self._event(request, EventKind.NAK, address, reason=reason, damped=True),
        )

    # DECLINE, RELEASE, INFORM

    def _decline(self, request: _Request) -> Outcome:
        """Quarantine the address, if its holder says so; anybody else could poison the pool."""
        wanted = request.wanted
        if wanted is None or not request.is_for_us:
            return Outcome()
        table, client, subnet = self._table, request.client, request.subnet
        held = table.held(client, subnet)
        is_held = held is not None and held.address == wanted and held.is_bound(request.now)
        if not is_held and table.offered(client, subnet, request.now) != wanted:
            return Outcome()
        reservation = table.reservation(client, subnet)
        is_reserved = reservation is not None and reservation.address == wanted
        return Outcome(
            events=self._event(
                request,
                EventKind.DECLINE,
                wanted,
                reason="RESERVED-IN-USE" if is_reserved else "IN-USE",
            ),
            writes=table.quarantine(client, subnet, wanted, request.now),
        )

    def _release(self, request: _Request) -> Outcome:
        held = self._table.held(request.client, request.subnet)
        if not request.is_for_us or held is None or held.address != request.message.ciaddr:
            return Outcome()
        if not held.is_bound(request.now):
            return Outcome()
        return Outcome(
            events=self._event(request, EventKind.RELEASE, held.address),
            writes=self._table.release(request.client, request.subnet, request.now),
        )

    def _inform(self, request: _Request) -> Outcome:
        """Give settings without a lease to a client that has an address here."""
        ciaddr = request.message.ciaddr
        if ciaddr not in request.subnet.network:
            return Outcome()
        boot, events = self._boot(request)
        grant = self._grant(request, None, boot)
        ack = reply(MessageType.ACK, request.message, request.subnet, grant, ciaddr=ciaddr)
        events += self._event(request, EventKind.INFORM, ciaddr, damped=True)
        return Outcome(
            sends=(send(ack, request.subnet, request.interface, promises=False),), events=events
        )

    # Events

    def _event(
        self,
        request: _Request,
        kind: EventKind,
        address: IPv4Address | None = None,
        *,
        reason: str | None = None,
        detail: Detail = (),
        damped: bool = False,
    ) -> tuple[Event, ...]:
        event = Event(
            at=request.now,
            kind=kind,
            mac=request.client.mac,
            address=address,
            reason=reason,
            detail=detail,
        )
        return self._tell(kind, request.client.key, event) if damped else (event,)

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


def _link_selection(message: Message) -> IPv4Address | None:
    """Read sub-option 5 of option 82; None when there is none of 4 bytes."""
    data = message.options.get(Code.RELAY_AGENT) or b""
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        if data[at] == _LINK_SELECTION and data[at + 1] == 4 and end <= len(data):
            return IPv4Address(data[at + 2 : end])
        at = end
    return None
