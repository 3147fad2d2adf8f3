"""ProxyDHCP as an engine: beside a foreign DHCP server, what to boot and nothing else.

It gives no address, never refuses and never answers a REQUEST for one, but notes whose address that
will be: on port 67 an OFFER without an address to whom boots by PXE or HTTP, and to our enrolment
system one that names the site; on port 4011 an ACK with the boot file. It opens no socket and reads
no clock. PXE 2.1, 2.2.3 (proxyDHCP) and 2.2.4 (port 4011); RFC 4578; RFC 5970; RFC 8572 (143).

Which OFFER a client takes differs. A BIOS ROM, a Raspberry Pi and iPXE take the file from the OFFER
(43.6 = 8). Of UEFI firmware much ignores such an OFFER (edk2 before 2018 never keeps it), while all
of it goes to port 4011 of whoever sends one without option 43. UEFI HTTP boot takes its URL from an
OFFER of class HTTPClient and knows no 4011.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile, Loading, NoLoader, choose
from netboot.classes import classify
from netboot.client import AGENT_CLASS, HTTP_CLASS, PXE_CLASS, Facts, facts_of, sub_option
from netboot.damping import Damping
from netboot.dhcp_config import DhcpConfig
from netboot.dhcp_message import (
    BOOTREQUEST,
    CLIENT_PORT,
    LONGEST_FILE,
    SERVER_PORT,
    Message,
    encode_reply,
)
from netboot.dhcp_options import Code, MessageType, Options, encode_options, encode_uris
from netboot.dhcp_outcome import Assignment, Sighting, assigned, uuid_texts
from netboot.dhcp_reply import LARGEST_REPLY, PI_BOOT, PXE_NO_DISCOVERY
from netboot.dhcp_request import Arrival
from netboot.errors import PeerError
from netboot.events import Detail, Event, EventKind
from netboot.links import identity_of
from netboot.network import (
    ClientKind,
    Parameters,
    Reservation,
    SubnetPlan,
    combine,
    swapped_uuid,
)

PXE_PORT = 4011
_EVERYBODY = IPv4Address("255.255.255.255")
_NOWHERE = IPv4Address(0)
_ZERO = bytes(4)
_BIOS = frozenset({0x00})
_BOOT_ITEM = 71
"""PXE_BOOT_ITEM of option 43: what a menu of somebody else's made the client ask for."""
_MODE: Detail = (("mode", "proxy"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A reply to send out of `interface`, from `listener` (67 or 4011) of `source`."""

    interface: str
    listener: int
    source: IPv4Address
    destination: IPv4Address
    port: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to send, what happened, who was heard, and which client address means which boot set."""

    sends: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    assignments: tuple[Assignment, ...] = ()


NOTHING = Outcome()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    message: Message
    facts: Facts
    subnet: SubnetPlan
    reservation: Reservation | None
    arrival: Arrival
    now: float


class ProxyEngine:
    """Answers on port 67 for subnets in mode "proxy", on 4011 for those in mode "server" too."""

    def __init__(self, config: DhcpConfig) -> None:
        """Take a configuration that `check_config` found right."""
        self._damping = Damping()
        self.replace(config)

    def replace(self, config: DhcpConfig) -> None:
        """Take another configuration."""
        self._config = config
        self._reservations: dict[bytes, Reservation] = {}
        for entry in config.reservations:
            self._reservations.setdefault(identity_of(entry), entry)
            if entry.uuid is not None:  # makers differ in the order of its first three fields
                self._reservations.setdefault(b"u" + swapped_uuid(entry.uuid), entry)

    def tick(self, now: float) -> None:
        """Forget of whom was told long ago."""
        self._damping.tick(now)

    def receive(
        self, data: bytes, arrival: Arrival, now: float, *, listener: int, port: int
    ) -> Outcome:
        """Answer one datagram that came to port `listener` from UDP port `port` of its source."""
        self.tick(now)
        try:
            request = self._read(Message.decode(data), arrival, now, listener)
            if request is None:
                return NOTHING
            if listener == SERVER_PORT and _kind(request) is MessageType.REQUEST:
                return self._overhear(request)
            if request.message.options.vendor_class == AGENT_CLASS:
                return self._name_site(request)
            if listener == SERVER_PORT:
                return self._discover(request)
            return self._boot_server(request, port)
        except PeerError as error:
            return self._malformed(arrival, now, str(error))

    def _malformed(self, arrival: Arrival, now: float, sentence: str) -> Outcome:
        def event() -> Event:
            detail = (("sentence", sentence), *_MODE)
            return Event(at=now, kind=EventKind.MALFORMED, address=arrival.source, detail=detail)

        key = arrival.source.packed
        return Outcome(events=self._damping.tell(EventKind.MALFORMED, key, now, event))

    def _read(
        self, message: Message, arrival: Arrival, now: float, listener: int
    ) -> _Request | None:
        """Say who asks; None for what a proxy has nothing to say to."""
        answered = _ANSWERED[listener]
        if message.op != BOOTREQUEST or message.options.message_type not in answered:
            return None
        if not message.options.vendor_class.startswith(_CLASSES[listener]):
            return None
        modes = ("proxy",) if listener == SERVER_PORT else ("proxy", "server")
        subnets = [one for one in self._config.subnets if one.dhcp in modes and one.boot]
        address = _NOWHERE if listener == SERVER_PORT else message.ciaddr
        subnet = _subnet(subnets, message, arrival, address)
        if subnet is None:
            return None
        facts = facts_of(message)
        reservation = self._reservation(message, facts)
        if reservation is not None:
            facts = facts_of(message, known=True)
        classes = classify(facts, self._config.classes)
        if any(known.ignored for known in classes):
            return None
        if classes:
            facts = replace(facts, classes=frozenset(one.name for one in classes))
        return _Request(
            message=message,
            facts=facts,
            subnet=subnet,
            reservation=reservation,
            arrival=arrival,
            now=now,
        )

    def _reservation(self, message: Message, facts: Facts) -> Reservation | None:
        client_id = message.options.get(Code.CLIENT_ID)
        known = (
            (b"m", facts.mac),
            (b"u", facts.uuid),
            (b"r", facts.circuit_id),
            (b"s", facts.remote_id),
            (b"c", client_id),
        )
        found = (self._reservations.get(letter + data) for letter, data in known if data)
        return next((entry for entry in found if entry is not None), None)

    # Port 67

    def _discover(self, request: _Request) -> Outcome:
        told, seen = self._see(request)
        boot, events = self._choose(request)
        events = told + events
        if boot is None:
            return Outcome(events=events, sightings=seen)
        is_direct = _takes_file_from_offer(request.facts)
        data = _reply(request, MessageType.OFFER, boot if is_direct else None)
        events += self._tell(request, EventKind.OFFER, None, _named(boot))
        return Outcome(sends=(_offer(request, data),), events=events, sightings=seen)

    def _see(self, request: _Request) -> tuple[tuple[Event, ...], tuple[Sighting, ...]]:
        """Tell of a client at most once a minute."""
        events = self._tell(request, EventKind.DISCOVER, None, _claims(request))
        is_told = any(event.kind is EventKind.DISCOVER for event in events)
        return events, (_sighting(request),) if is_told else ()

    def _overhear(self, request: _Request) -> Outcome:
        """Take note of the address that a client takes from the other server: it fetches by that.

        What it asks the other server for is all that anybody here hears of its lease.
        """
        options, ciaddr = request.message.options, request.message.ciaddr
        address = options.address(Code.REQUESTED_ADDRESS) or (ciaddr if int(ciaddr) else None)
        if address is None:
            return NOTHING
        detail = (*_claims(request), ("server", str(options.address(Code.SERVER_ID) or "")))
        key = request.message.chaddr + address.packed
        boot, _ = self._choose(request)
        return Outcome(
            events=self._tell(request, EventKind.ACK, address, detail, key=key),
            assignments=assigned(boot, address),
        )

    def _name_site(self, request: _Request) -> Outcome:
        """Tell our own system where it is: the other server knows nothing of a site."""
        subnet, message = request.subnet, request.message
        if not subnet.enrols or Code.SZTP_REDIRECT not in message.options.parameters:
            return NOTHING
        items = [
            (Code.MESSAGE_TYPE, bytes((MessageType.OFFER,))),
            (Code.SERVER_ID, subnet.appliance.packed),
            (Code.SZTP_REDIRECT, encode_uris([subnet.phone_home])),
            *_echoed(message),
        ]
        data = _encode(message, items, (_ZERO, _ZERO, _ZERO), b"")
        events, seen = self._see(request)
        return Outcome(sends=(_offer(request, data),), events=events, sightings=seen)

    # Port 4011

    def _boot_server(self, request: _Request, port: int) -> Outcome:
        boot, events = self._choose(request)
        if boot is None:
            return Outcome(events=events)
        message, source = request.message, request.arrival.source
        client = source if int(source) else message.ciaddr
        send = Send(
            interface=request.arrival.interface,
            listener=PXE_PORT,
            source=request.subnet.appliance,
            destination=client if int(client) else _EVERYBODY,
            port=port,
            data=_reply(request, MessageType.ACK, boot),
        )
        events += self._tell(request, EventKind.ACK, client if int(client) else None, _named(boot))
        assignments = assigned(boot, client) if int(client) else ()
        return Outcome(sends=(send,), events=events, assignments=assignments)

    # What is booted

    def _choose(self, request: _Request) -> tuple[BootFile | None, tuple[Event, ...]]:
        facts, reservation = request.facts, request.reservation
        name = combine(self._levels(request)).boot_file
        if name is not None:
            loading = Loading.HTTP if "://" in name else Loading.TFTP
            return _suited(facts, BootFile(loading=loading, name=name)), ()
        if self._config.boot is None:
            return None, ()
        boot_set = reservation.boot_set if reservation is not None else None
        choice = choose(facts, self._config.boot, request.subnet.appliance, boot_set)
        if not isinstance(choice, NoLoader):
            return choice, ()
        return None, self._tell(
            request, EventKind.ARCHITECTURE, None, _claims(request), reason="ARCH"
        )

    def _levels(self, request: _Request) -> Iterable[Parameters]:
        if request.reservation is not None:
            yield request.reservation.parameters
        for known in self._config.classes:
            if known.name in request.facts.classes:
                yield known.parameters
        yield request.subnet.parameters
        yield self._config.parameters

    def _tell(
        self,
        request: _Request,
        kind: EventKind,
        address: IPv4Address | None,
        detail: Detail,
        reason: str | None = None,
        key: bytes | None = None,
    ) -> tuple[Event, ...]:
        def event() -> Event:
            return Event(
                at=request.now,
                kind=kind,
                mac=request.facts.mac,
                address=address,
                reason=reason,
                detail=(*detail, *_MODE),
            )

        return self._damping.tell(kind, key or request.message.chaddr, request.now, event)


_CLASSES = {
    SERVER_PORT: (PXE_CLASS, HTTP_CLASS, AGENT_CLASS),
    PXE_PORT: (PXE_CLASS, HTTP_CLASS),
}
_ANSWERED = {
    SERVER_PORT: frozenset({MessageType.DISCOVER, MessageType.REQUEST}),
    PXE_PORT: frozenset({MessageType.REQUEST, MessageType.INFORM}),
}


def _subnet(
    subnets: list[SubnetPlan], message: Message, arrival: Arrival, address: IPv4Address
) -> SubnetPlan | None:
    """Find the subnet of a relay, of the client's address, or of the interface."""
    relay = message.giaddr
    for wanted in (relay, address, arrival.source):
        if not int(wanted):
            continue
        for one in subnets:
            if wanted in one.network or (wanted == relay and wanted in one.relays):
                return one
        if wanted == relay:
            return None
    near = (one for one in subnets if one.interface == arrival.interface and not one.relayed)
    return next(near, None)


def _takes_file_from_offer(facts: Facts) -> bool:
    return (
        facts.kind in (ClientKind.IPXE, ClientKind.RASPBERRY_PI, ClientKind.HTTP)
        or not facts.architectures
        or not _BIOS.isdisjoint(facts.architectures)
    )


def _suited(facts: Facts, boot: BootFile) -> BootFile | None:
    """Keep a URL from PXE and a TFTP name from HTTP boot (D18), whoever wrote the plan."""
    is_url = boot.loading is not Loading.TFTP
    if facts.kind is ClientKind.IPXE or is_url is (facts.kind is ClientKind.HTTP):
        return boot
    return None


def _reply(request: _Request, kind: MessageType, boot: BootFile | None) -> bytes:
    """Build an OFFER or ACK without an address; without `boot` it only sends to port 4011."""
    message, facts, appliance = request.message, request.facts, request.subnet.appliance
    said = message.options
    is_http = facts.kind is ClientKind.HTTP
    items = [
        (Code.MESSAGE_TYPE, bytes((kind,))),
        (Code.SERVER_ID, appliance.packed),
        (Code.VENDOR_CLASS, HTTP_CLASS if is_http else PXE_CLASS),
    ]
    uuid = said.get(Code.CLIENT_UUID)
    if uuid is not None:
        items.append((Code.CLIENT_UUID, uuid))
    file = b""
    if boot is not None:
        name = boot.name.encode("ascii")
        if not is_http:
            items.append((Code.VENDOR_SPECIFIC, _vendor(facts)))
            file = name if len(name) <= LONGEST_FILE else b""
        if is_http or not file or Code.BOOT_FILE in said.parameters:
            # edk2 writes a NUL over the next option's code where the name does not end with one.
            items.append((Code.BOOT_FILE, name + b"\0"))
    items += _echoed(message)
    ciaddr = message.ciaddr.packed if kind is MessageType.ACK else _ZERO
    return _encode(message, items, (ciaddr, _ZERO, appliance.packed), file)


def _echoed(message: Message) -> list[tuple[Code, bytes]]:
    found = ((code, message.options.get(code)) for code in (Code.CLIENT_ID, Code.RELAY_AGENT))
    return [(code, data) for code, data in found if data is not None]


def _offer(request: _Request, data: bytes) -> Send:
    relay = request.message.giaddr
    is_relayed = relay != _NOWHERE
    return Send(
        interface=request.arrival.interface,
        listener=SERVER_PORT,
        source=request.subnet.appliance,
        destination=relay if is_relayed else _EVERYBODY,
        port=SERVER_PORT if is_relayed else CLIENT_PORT,
        data=data,
    )


def _vendor(facts: Facts) -> bytes:
    """Write option 43: take this file and discover nothing, or the item that was asked for."""
    if facts.kind is ClientKind.RASPBERRY_PI:
        return PI_BOOT
    item = sub_option(facts.options.get(Code.VENDOR_SPECIFIC) or b"", _BOOT_ITEM)
    if item is not None and len(item) == 4:
        return bytes((_BOOT_ITEM, 4)) + item + bytes((Code.END,))
    return PXE_NO_DISCOVERY


def _encode(
    message: Message,
    items: list[tuple[Code, bytes]],
    addresses: tuple[bytes, bytes, bytes],
    file: bytes,
) -> bytes:
    """Write the reply; what the client chose the size of gives way when it grows too large."""
    for left_out in (None, Code.CLIENT_UUID, Code.CLIENT_ID):
        items = [item for item in items if item[0] != left_out]
        data = encode_reply(
            message,
            addresses=addresses,
            flags=message.flags,
            names=(b"", file),
            options=encode_options(Options(items=items)),
        )
        if len(data) <= LARGEST_REPLY:
            return data
    raise PeerError("its options leave no room for an answer")


def _kind(request: _Request) -> MessageType | None:
    return request.message.options.message_type


def _sighting(request: _Request) -> Sighting:
    options, facts = request.message.options, request.facts
    return Sighting(
        at=request.now,
        key=request.message.chaddr,
        mac=facts.mac,
        interface=request.arrival.interface,
        vendor_class=facts.vendor_class,
        architectures=facts.architectures,
        uuid=options.get(Code.CLIENT_UUID),
        host_name=options.text(Code.HOST_NAME),
    )


def _claims(request: _Request) -> Detail:
    options = request.message.options
    return (
        ("vendor_class", options.text(Code.VENDOR_CLASS) or ""),
        ("architectures", " ".join(f"{value:#06x}" for value in request.facts.architectures)),
        ("interface", request.arrival.interface),
        *uuid_texts(options.get(Code.CLIENT_UUID)),
    )


def _named(boot: BootFile) -> Detail:
    return (("file", boot.name),)
