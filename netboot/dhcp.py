"""The DHCPv4 server as an engine: a packet and the time in, replies, events and writes out.

It never opens a socket, reads a clock or sends: a reply that promises an address leaves only after
the writes beside it are durable. RFC 2131, 4.3; RFC 1534 (BOOTP), 4039 (rapid commit), 5107
(82.11).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile, Loading, NoLoader, choose
from netboot.damping import Damping
from netboot.dhcp_config import Book, DhcpConfig, check_config
from netboot.dhcp_levels import Settings
from netboot.dhcp_message import BOOTREQUEST, Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_outcome import (
    Assignment,
    Candidate,
    Outcome,
    Sighting,
    acknowledged,
    assigned,
    discovered,
    sighting_of,
    uuid_texts,
    went_elsewhere,
)
from netboot.dhcp_reply import FOR_EVER, Grant, bootp_reply, nak, reply
from netboot.dhcp_request import Arrival, Request, read_request
from netboot.errors import PeerError
from netboot.events import Detail, Event, EventKind
from netboot.leases import Client, Lease, LeaseTable
from netboot.links import Network

__all__ = [
    "Arrival",
    "Assignment",
    "Candidate",
    "DhcpConfig",
    "DhcpEngine",
    "Outcome",
    "Sighting",
    "check_config",
    "uuid_texts",
]

_NOWHERE = IPv4Address(0)


_DISCOVERED, _OFFERED = EventKind.DISCOVER, EventKind.OFFER
_OFFER, _ACK = MessageType.OFFER, MessageType.ACK
_LEASE_TIME = int(Code.LEASE_TIME)
"""By names of our own: looking up a member of an enum costs 0.3 us in Python 3.11."""
_NOTHING_DONE = Outcome()
"""One value for every packet that gets no answer."""


class DhcpEngine:
    """The server's state: configuration, lease table, and which events were told of lately."""

    def __init__(self, config: DhcpConfig, leases: Iterable[Lease]) -> None:
        check_config(config)
        self._table = LeaseTable(config.subnets, config.reservations, leases)
        self._config = config
        self._book = Book(config)
        self._damping = Damping()
        self._now = 0.0
        self._handlers: dict[MessageType | None, Callable[[Request], Outcome]] = {
            MessageType.DISCOVER: self._discover,
            MessageType.REQUEST: self._request,
            MessageType.DECLINE: self._decline,
            MessageType.RELEASE: self._release,
            MessageType.INFORM: self._inform,
            None: self._bootp,
        }

    def replace(self, config: DhcpConfig, now: float) -> None:
        """Take another configuration and keep the leases; SiteError, and the old one stays."""
        check_config(config)
        self._table.replace(config.subnets, config.reservations)
        self._config = config
        self._book = Book(config)
        self._table.expire(now)

    def leases(self, now: float) -> tuple[Lease, ...]:
        """Every lease that its holder may use now."""
        return tuple(lease for lease in self._table.leases() if lease.is_bound(now))

    def tick(self, now: float) -> Outcome:
        """Forget offers and dampings whose time is over."""
        self._now = now
        self._table.expire(now)
        self._damping.tick(now)
        return _NOTHING_DONE

    def deadline(self) -> float | None:
        """When `tick` next has something to do, in seconds of unix time."""
        return self._table.deadline()

    def receive(self, data: bytes, arrival: Arrival, now: float) -> Outcome:
        """Answer one datagram to port 67."""
        self.tick(now)
        try:
            return self._receive(Message.decode(data), arrival, now)
        except PeerError as error:
            sentence = str(error)
            return Outcome(
                events=self._damping.tell(
                    EventKind.MALFORMED,
                    str(arrival.source).encode(),
                    now,
                    lambda: Event(
                        at=now,
                        kind=EventKind.MALFORMED,
                        address=arrival.source,
                        detail=(("sentence", sentence),),
                    ),
                )
            )

    def _receive(self, message: Message, arrival: Arrival, now: float) -> Outcome:
        if message.op != BOOTREQUEST:
            return _NOTHING_DONE
        kind = message.options.message_type
        place = self._table.links.place_of(message, arrival.interface)
        if place is None:
            is_request = kind is MessageType.REQUEST and message.giaddr != _NOWHERE
            return self._unserved(message, arrival) if is_request else _NOTHING_DONE
        request = read_request(message, place, arrival, now, self._config, self._table)
        handler = self._handlers.get(kind)
        if handler is None or not self._book.ignored.isdisjoint(request.client.classes):
            return _NOTHING_DONE
        return handler(request)

    def _unserved(self, message: Message, arrival: Arrival) -> Outcome:
        """Refuse a REQUEST that names us and comes from a link that we do not serve."""
        server_id = message.options.get(Code.SERVER_ID)
        for link in self._table.links.all:
            for network in link.networks:
                if network.plan.appliance.packed == server_id and network.plan.authoritative:
                    settings = Settings(network.plan, (), domain="", reservation=None)
                    text = "this network is not served"
                    refusal = nak(message, settings, server_id, text, arrival.interface)
                    return Outcome(sends=(refusal,))
        return _NOTHING_DONE

    # DISCOVER

    def _discover(self, request: Request) -> Outcome:
        if request.server_id is not None:
            return _NOTHING_DONE  # RFC 2131, table 5: must not
        events, sightings = self._see(request)
        wanted = int(request.wanted) if request.wanted is not None else None
        address = self._table.choose(request.client, wanted, request.now)
        if address is None:
            events += self._damped(request, EventKind.POOL_EMPTY)
            return Outcome(events=events, sightings=sightings)
        network = self._network(request, address)
        typed = IPv4Address(address)
        if network.plan.rapid_commit and Code.RAPID_COMMIT in request.message.options:
            return self._ack(request, typed, _NOWHERE, rapid=True, told=(events, sightings))
        # ciaddr of a DISCOVER is ignored: old ROMs fill it.
        grant, told = self._grant(request, network, typed, _NOWHERE)
        offer = reply(_OFFER, request, grant)
        self._table.offer(request.client, address, request.now)
        return Outcome(
            sends=(offer,),
            events=events + told + self._damped(request, _OFFERED, typed),
            sightings=sightings,
            assignments=assigned(grant.boot, typed),
        )

    def _network(self, request: Request, address: int) -> Network:
        network = request.client.place.link.network_of(address)
        return network if network is not None else request.client.place.network

    def _see(self, request: Request) -> tuple[tuple[Event, ...], tuple[Sighting, ...]]:
        """Tell of a client at most once a minute."""
        events = self._damping.tell(
            _DISCOVERED, request.client.key, request.now, lambda: discovered(request)
        )
        if not events or events[0].kind is not _DISCOVERED:
            return events, ()
        return events, (sighting_of(request),)

    # What is granted

    def _grant(
        self,
        request: Request,
        network: Network,
        address: IPv4Address | None,
        ciaddr: IPv4Address,
        *,
        rapid: bool = False,
        target: IPv4Address | None = None,
    ) -> tuple[Grant, tuple[Event, ...]]:
        """Say what the client is told; with an address, for how long too."""
        number = int(address) if address is not None else None
        settings = self._book.settings(request.client, network, number)
        boot, events = self._boot(request, settings)
        seconds = None
        if address is not None:
            seconds = settings.seconds(request.message.options.by_code.get(_LEASE_TIME))
        server_id = request.override or settings.server_id
        grant = Grant(
            settings=settings,
            server_id=server_id,
            address=address,
            seconds=seconds,
            boot=boot,
            domain=self._config.domain,
            ciaddr=ciaddr,
            rapid=rapid,
            target=target,
        )
        return grant, events

    def _boot(
        self, request: Request, settings: Settings
    ) -> tuple[BootFile | None, tuple[Event, ...]]:
        name = settings.boot_file
        if name is not None:
            loading = Loading.HTTP if "://" in name else Loading.TFTP
            return BootFile(loading=loading, name=name), ()
        table, plan = self._config.boot, settings.subnet
        if table is None or not plan.boot or not request.says_how_it_boots:
            return None, ()
        facts = request.facts
        reservation = request.client.reservation
        boot_set = reservation.boot_set if reservation is not None else None
        choice = choose(facts, table, plan.appliance, boot_set)
        if not isinstance(choice, NoLoader):
            return choice, ()
        detail: Detail = (
            ("architectures", " ".join(f"{value:#06x}" for value in choice.architectures)),
            ("vendor_class", request.message.options.text(Code.VENDOR_CLASS) or ""),
        )
        return None, self._damped(request, EventKind.ARCHITECTURE, reason="ARCH", detail=detail)

    # REQUEST: selecting, init-reboot, renewing, rebinding (RFC 2131, 4.3.2)

    def _request(self, request: Request) -> Outcome:
        is_for_us = request.names(self._book.server_ids)
        if request.server_id is not None and not is_for_us:
            return self._elsewhere(request)
        ciaddr = request.message.ciaddr
        if request.wanted is not None:
            if is_for_us:  # whatever the xid: U-Boot requests with the first of its four
                return self._confirm(request, request.wanted, _NOWHERE)
            if request.wanted != ciaddr or not int(ciaddr):
                return self._init_reboot(request, request.wanted)
        if int(ciaddr):  # with 50 too it is a renewal: dhcping asks so
            return self._renewing(request, ciaddr)
        if is_for_us:
            return self._accepting(request)
        return _NOTHING_DONE  # INIT-REBOOT without option 50: nothing can be confirmed

    def _elsewhere(self, request: Request) -> Outcome:
        """The client chose another server: free its offer and stay silent."""
        self._table.withdraw(request.client)
        server = IPv4Address(request.server_id or 0)
        if any(server == subnet.appliance for subnet in self._config.subnets):
            return _NOTHING_DONE
        event = went_elsewhere(request, server)
        chose = (("server", str(server)),)
        return Outcome(
            events=(
                *self._damping.tell(EventKind.FOREIGN, server.packed, request.now, lambda: event),
                *self._damped(request, EventKind.ELSEWHERE, reason="OTHER-DHCP", detail=chose),
            )
        )

    def _accepting(self, request: Request) -> Outcome:
        """Serve a client that names us and forgets what we offered."""
        address = self._table.choose(request.client, None, request.now)
        if address is None:
            return Outcome(events=self._damped(request, EventKind.POOL_EMPTY))
        return self._ack(request, IPv4Address(address), _NOWHERE)

    def _init_reboot(self, request: Request, wanted: IPv4Address) -> Outcome:
        client = request.client
        if client.link.network_of(int(wanted)) is None:
            return self._nak(request, wanted, "WRONG-NET", "this address is of another network")
        if self._table.held(client) is None and not _has_address(client):
            return _NOTHING_DONE  # we know nothing of it (RFC 2131, 4.3.2: remain silent)
        return self._confirm(request, wanted, _NOWHERE)

    def _renewing(self, request: Request, ciaddr: IPv4Address) -> Outcome:
        if request.client.link.network_of(int(ciaddr)) is None:
            return self._nak(request, ciaddr, "WRONG-NET", "this address is of another network")
        return self._confirm(request, ciaddr, ciaddr)

    def _confirm(self, request: Request, address: IPv4Address, ciaddr: IPv4Address) -> Outcome:
        """Extend the lease, unless another address is reserved for the client or it is taken."""
        reservation = request.client.reservation
        reserved = reservation.address if reservation is not None else None
        if reserved not in (None, address) and self._may_have(request, reserved):
            return self._nak(request, address, "RESERVED", "another address is reserved for you")
        if self._may_have(request, address):
            return self._ack(request, address, ciaddr)
        return self._nak(request, address, "NOT-YOURS", "this address is not yours")

    def _may_have(self, request: Request, address: IPv4Address | None) -> bool:
        return address is not None and self._table.may_have(
            request.client, int(address), request.now
        )

    def _ack(
        self,
        request: Request,
        address: IPv4Address,
        ciaddr: IPv4Address,
        *,
        rapid: bool = False,
        told: tuple[tuple[Event, ...], tuple[Sighting, ...]] = ((), ()),
    ) -> Outcome:
        number = int(address)
        network = self._network(request, number)
        grant, events = self._grant(request, network, address, ciaddr, rapid=rapid)
        ack = reply(_ACK, request, grant)
        expires = request.now + (grant.seconds or 0)
        return Outcome(
            sends=(ack,),
            events=(*told[0], *events, acknowledged(request, grant, address, expires)),
            writes=self._table.bind(request.client, address, expires),
            sightings=told[1],
            assignments=assigned(grant.boot, address),
        )

    def _nak(self, request: Request, address: IPv4Address, reason: str, text: str) -> Outcome:
        """Refuse; where we are not authoritative, only a client that we know or that names us."""
        network = self._network(request, int(address))
        is_known = (
            request.names(self._book.server_ids) or self._table.held(request.client) is not None
        )
        if not network.plan.authoritative and not is_known:
            return _NOTHING_DONE
        settings = self._book.settings(request.client, network, None)
        server_id = request.override or settings.server_id
        where = request.arrival.interface, request.relay_port
        refusal = nak(request.message, settings, server_id, text, *where)
        return Outcome(
            sends=(refusal,),
            events=self._damped(request, EventKind.NAK, address, reason=reason),
        )

    # BOOTP

    def _bootp(self, request: Request) -> Outcome:
        """Give a reserved address, or one of a pool for BOOTP, for ever: it never asks again.

        Strangers get silence: their addresses would never come back (RFC 1534, 2).
        """
        request.client.bootp = True
        events, sightings = self._see(request)
        wanted = int(request.message.ciaddr) or None
        address = self._table.choose(request.client, wanted, request.now)
        if address is None:
            return Outcome(events=events, sightings=sightings)
        network, typed = self._network(request, address), IPv4Address(address)
        grant, told = self._grant(request, network, typed, request.message.ciaddr)
        grant.seconds = FOR_EVER
        expires = request.now + FOR_EVER
        return Outcome(
            sends=(bootp_reply(request, grant),),
            events=(*events, *told, acknowledged(request, grant, typed, expires)),
            writes=self._table.bind(request.client, typed, expires),
            sightings=sightings,
            assignments=assigned(grant.boot, typed),
        )

    # DECLINE, RELEASE, INFORM

    def _decline(self, request: Request) -> Outcome:
        """Quarantine the address, if its holder says so; anybody else could poison the pool."""
        wanted = request.wanted
        if wanted is None or not request.names(self._book.server_ids):
            return _NOTHING_DONE
        table, client, number = self._table, request.client, int(wanted)
        if client.link.network_of(number) is None:
            return _NOTHING_DONE
        if not request.holds(table.lease_at(number)) and table.offered(client) != number:
            return _NOTHING_DONE
        is_reserved = table.reserved_at(number) is not None
        until = request.now + self._config.quarantine.total_seconds()
        event = Event(
            at=request.now,
            kind=EventKind.DECLINE,
            mac=client.mac,
            address=wanted,
            reason="RESERVED-IN-USE" if is_reserved else "IN-USE",
        )
        return Outcome(
            events=(event,),
            writes=table.quarantine(number, until, key=client.key, mac=client.mac),
        )

    def _release(self, request: Request) -> Outcome:
        ciaddr = request.message.ciaddr
        if (
            not request.names(self._book.server_ids)
            or request.client.link.network_of(int(ciaddr)) is None
        ):
            return _NOTHING_DONE
        lease = self._table.lease_at(int(ciaddr))
        if not request.holds(lease):
            return _NOTHING_DONE
        event = Event(
            at=request.now, kind=EventKind.RELEASE, mac=request.client.mac, address=ciaddr
        )
        return Outcome(events=(event,), writes=self._table.release(int(ciaddr), request.now))

    def _inform(self, request: Request) -> Outcome:
        """Give settings without a lease to a client that has an address here."""
        if request.server_id is not None and not request.names(self._book.server_ids):
            return _NOTHING_DONE
        ciaddr = request.message.ciaddr
        address = ciaddr if int(ciaddr) else request.arrival.source
        network = request.client.link.network_of(int(address))
        if network is None:
            return _NOTHING_DONE
        grant, events = self._grant(request, network, None, ciaddr, target=address)
        ack = reply(_ACK, request, grant)
        return Outcome(
            sends=(ack,),
            events=events + self._damped(request, EventKind.INFORM, address),
            assignments=assigned(grant.boot, address),
        )

    # Probing ahead of time

    def candidates(self, count: int) -> tuple[Candidate, ...]:
        """Give the addresses that the next strangers would get, about `count` of each pool.

        As of the last `tick`; without those asked for lately and what ARP does not reach.
        """
        return tuple(
            Candidate(
                interface=network.plan.interface,
                source=network.plan.appliance,
                address=IPv4Address(number),
            )
            for network, number in self._table.upcoming(count, self._now)
        )

    def probed(self, address: IPv4Address, now: float) -> None:
        """Take note that nobody answered for an address."""
        self._table.probed(int(address), now)

    def in_use(self, address: IPv4Address, mac: bytes | None, now: float) -> Outcome:
        """Quarantine an address that answered ARP, unless it is its holder's who did."""
        self.tick(now)
        table, number = self._table, int(address)
        place, lease = table.links.at(number), table.lease_at(number)
        reserved = table.reserved_at(number)
        if place is None or (reserved is not None and mac is not None and reserved.mac == mac):
            return _NOTHING_DONE
        if reserved is None and place.network.pool_of(number) is None:
            return _NOTHING_DONE
        if lease is not None and lease.blocks(now):
            return _NOTHING_DONE
        event = Event(
            at=now,
            kind=EventKind.IN_USE,
            mac=mac,
            address=address,
            reason="RESERVED-IN-USE" if reserved is not None else "IN-USE",
        )
        until = now + self._config.quarantine.total_seconds()
        return Outcome(events=(event,), writes=table.quarantine(number, until, mac=mac))

    # Events

    def _damped(
        self,
        request: Request,
        kind: EventKind,
        address: IPv4Address | None = None,
        *,
        reason: str | None = None,
        detail: Detail = (),
    ) -> tuple[Event, ...]:
        """Tell of something once a minute for each client."""
        client, now = request.client, request.now
        return self._damping.tell(
            kind,
            client.key,
            now,
            lambda: Event(
                at=now, kind=kind, mac=client.mac, address=address, reason=reason, detail=detail
            ),
        )


def _has_address(client: Client) -> bool:
    return client.reservation is not None and client.reservation.address is not None
