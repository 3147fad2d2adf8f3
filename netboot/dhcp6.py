"""The DHCPv6 server as an engine: a datagram and the time in, replies, events and writes out.

It never opens a socket, reads a clock or sends: a REPLY that promises an address leaves only after
the writes beside it are durable. It is authoritative for its links. RFC 8415, 16 and 18.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address

from netboot.bootchoice import BootFile, NoLoader
from netboot.classes import classify
from netboot.damping import Damping
from netboot.dhcp6_boot import choose6, facts_of6
from netboot.dhcp6_config import Dhcp6Config, check_config6
from netboot.dhcp6_message import Kind6, Packet6
from netboot.dhcp6_options import Association, Code6, Lent, Status, StatusCode
from netboot.dhcp6_outcome import (
    Answer6,
    Outcome6,
    discovered6,
    event6,
    given6,
    printable,
    sighting_of6,
)
from netboot.dhcp6_reply import (
    FIRST_CHOICE,
    Arrival6,
    fqdn6,
    lend,
    reply6,
    send6,
    settings,
    usual_options,
)
from netboot.dhcp6_request import (
    TO_US,
    Request6,
    associations_of,
    client_of6,
    denied,
    is_for,
    is_planned,
    link_of,
    refused_others,
)
from netboot.errors import PeerError
from netboot.events import Detail, Event, EventKind
from netboot.leases import LeaseState
from netboot.leases6 import Lease6, LeaseTable6
from netboot.links6 import Link, subnet_of
from netboot.network import OptionValue, Subnet6Plan

_OF_OFFERS = frozenset({int(Code6.PREFERENCE), int(Code6.UNICAST)})
_OF_REPLIES = frozenset({int(Code6.UNICAST)})
_TO_STRANGERS = {Kind6.SOLICIT: Kind6.ADVERTISE, Kind6.REQUEST: Kind6.REPLY}


class Dhcp6Engine:
    """The server's state: configuration, lease table, and which events were told of lately."""

    def __init__(self, config: Dhcp6Config, leases: Iterable[Lease6], duid: bytes) -> None:
        """Serve this; `duid` is the server's own, the same for ever. SiteError."""
        check_config6(config)
        self._table = LeaseTable6(config.subnets, config.reservations, leases, config.identify)
        self._configure(config)
        self._duid = duid
        self._damping = Damping()
        self._handlers: Mapping[Kind6, Callable[[Request6], Outcome6]] = {
            Kind6.SOLICIT: self._solicit,
            Kind6.REQUEST: self._request,
            Kind6.CONFIRM: self._confirm,
            Kind6.RENEW: self._renew,
            Kind6.REBIND: self._renew,
            Kind6.RELEASE: self._release,
            Kind6.DECLINE: self._decline,
            Kind6.INFORMATION_REQUEST: self._inform,
        }

    def replace(self, config: Dhcp6Config) -> None:
        """Take another configuration and keep the leases; SiteError, and the old one stays."""
        check_config6(config)
        self._table.replace(config.subnets, config.reservations, config.identify)
        self._configure(config)

    def _configure(self, config: Dhcp6Config) -> None:
        self._config = config
        self._usual = {one.name: usual_options(one, config.domain) for one in config.subnets}

    def leases(self, now: float) -> tuple[Lease6, ...]:
        """Every lease that its holder may use now."""
        return tuple(lease for lease in self._table.leases() if lease.is_bound(now))

    def receive(self, data: bytes, arrival: Arrival6, now: float) -> Outcome6:
        """Answer one datagram to port 547."""
        self._damping.tick(now)
        try:
            return self._receive(Packet6.decode(data), arrival, now)
        except PeerError as error:
            event = Event(
                at=now,
                kind=EventKind.MALFORMED,
                address=arrival.source,
                detail=(("sentence", str(error)), ("interface", arrival.interface)),
            )
            kind, key = EventKind.MALFORMED, arrival.source.packed
            return Outcome6(events=self._damping.tell(kind, key, now, lambda: event))

    def _receive(self, packet: Packet6, arrival: Arrival6, now: float) -> Outcome6:
        message = packet.message
        handler = self._handlers.get(message.kind)
        link = link_of(packet, arrival, self._config.subnets)
        if handler is None or not is_for(message, self._duid):
            return Outcome6()
        if any(relay.kind is not Kind6.RELAY_FORWARD for relay in packet.relays):
            return Outcome6()
        if not link:
            return self._unserved(packet, arrival)
        request = self._read(packet, link, arrival, now)
        if any(known.ignored for known in request.classes):
            return Outcome6()
        if not packet.relays and not arrival.multicast and not self._allows_unicast(request):
            return self._unicast(request)
        return handler(request)

    def _unserved(self, packet: Packet6, arrival: Arrival6) -> Outcome6:
        """Tell a relay's client that there is nothing for it on a link that the plan has not.

        Clients pass over that where another server has more to say (RFC 8415, 18.2.9).
        """
        message = packet.message
        kind = _TO_STRANGERS.get(message.kind)
        if kind is None or not packet.relays or is_planned(packet, self._config.subnets):
            return Outcome6()
        if message.options.client_id is None:
            return Outcome6()
        text = "this network is not served"
        refused = (denied(one, StatusCode.NO_ADDRESSES, text) for one in associations_of(message))
        items = [(int(Code6.IA_NA), one.encode()) for one in refused]
        items += refused_others(message, StatusCode.NO_PREFIX)
        reply = reply6(kind, message, items, self._duid)
        return Outcome6(sends=(send6(packet, reply, arrival, promises=False),))

    def _allows_unicast(self, request: Request6) -> bool:
        """Tell whether the plan has this client ask one address (option 12; RFC 8415, 18.4)."""
        if request.message.kind not in TO_US:
            return False
        said = (one for level in self._levels(request, request.link[0]) for one in level)
        return any(one.code == Code6.UNICAST for one in said)

    def _read(self, packet: Packet6, link: Link, arrival: Arrival6, now: float) -> Request6:
        client = client_of6(packet, arrival.source)
        reservation = self._table.reservation(client, link)
        facts = facts_of6(packet, client)
        if reservation is not None:
            facts = replace(facts, known=True)
        classes = classify(facts, self._config.classes)
        if classes:
            facts = replace(facts, classes=frozenset(one.name for one in classes))
        if classes or facts.wants_boot:
            client = replace(client, boots=facts.wants_boot, classes=facts.classes)
        return Request6(
            packet=packet,
            client=client,
            facts=facts,
            classes=classes,
            reservation=reservation,
            link=link,
            arrival=arrival,
            now=now,
            associations=associations_of(packet.message),
        )

    def _unicast(self, request: Request6) -> Outcome6:
        """Without option 12 in the plan, what came to one address is told so (RFC 8415, 18.4)."""
        if request.message.kind not in TO_US:
            return Outcome6()
        status = Status(code=StatusCode.USE_MULTICAST, text="ask by multicast")
        items = [(int(Code6.STATUS), status.encode())]
        reply = reply6(Kind6.REPLY, request.message, items, self._duid)
        return Outcome6(sends=(send6(request.packet, reply, request.arrival, promises=False),))

    # SOLICIT and REQUEST

    def _solicit(self, request: Request6) -> Outcome6:
        wants_rapid = request.message.options.get(Code6.RAPID_COMMIT) is not None
        if wants_rapid and any(subnet.rapid_commit for subnet in request.link):
            answer = Answer6(kind=Kind6.REPLY, event=EventKind.ACK)
            answer.items.append((Code6.RAPID_COMMIT, b""))
        else:
            answer = Answer6(kind=Kind6.ADVERTISE, event=EventKind.OFFER)
        for asked in request.associations:
            self._give(request, asked, answer)
        answer.items += refused_others(request.message, StatusCode.NO_PREFIX)
        return self._seen(request, self._finish(request, answer))

    def _request(self, request: Request6) -> Outcome6:
        answer = Answer6(kind=Kind6.REPLY, event=EventKind.ACK)
        for asked in request.associations:
            if all(subnet_of(one.address, request.link) for one in asked.addresses):
                self._give(request, asked, answer)
            else:
                text = "this address is of another network"
                answer.associations.append(denied(asked, StatusCode.NOT_ON_LINK, text))
        answer.items += refused_others(request.message, StatusCode.NO_PREFIX)
        return self._finish(request, answer)

    def _give(self, request: Request6, asked: Association, answer: Answer6) -> None:
        """Lend the IA an address, or say that there is none."""
        if self._lend(request, asked, answer, [one.address for one in asked.addresses]):
            return
        text = "no address is left for you on this network"
        answer.associations.append(denied(asked, StatusCode.NO_ADDRESSES, text))
        if any(one.dhcp == "stateful" for one in request.link):
            answer.events += self._damped(request, event6(request, EventKind.POOL_EMPTY))

    def _lend(
        self,
        request: Request6,
        asked: Association,
        answer: Answer6,
        wanted: Iterable[IPv6Address],
        ended: Callable[[IPv6Address], tuple[Lent, ...]] = lambda _: (),
    ) -> bool:
        """Choose an address and put it into the answer, bound when that is a REPLY."""
        others = request.others(asked.iaid)
        address = self._table.choose(
            request.client,
            asked.iaid,
            request.link,
            wanted=wanted,
            others=others,
            taken=answer.addresses,
            now=request.now,
        )
        subnet = None if address is None else subnet_of(address, request.link)
        if address is None or subnet is None:
            return False
        lent = lend(asked.iaid, address, subnet)
        answer.associations.append(replace(lent, addresses=(*lent.addresses, *ended(address))))
        answer.addresses.append(address)
        if answer.kind is Kind6.REPLY:
            answer.writes += self._table.bind(
                request.client, asked.iaid, address, request.link, others=others, now=request.now
            )
        return True

    # CONFIRM, RENEW, REBIND

    def _confirm(self, request: Request6) -> Outcome6:
        """Say whether the client is still on its link; silence when it names no address."""
        addresses = [one.address for asked in request.associations for one in asked.addresses]
        if not addresses:
            return Outcome6()
        is_here = all(subnet_of(address, request.link) for address in addresses)
        code = StatusCode.SUCCESS if is_here else StatusCode.NOT_ON_LINK
        text = "these addresses are of this network" if is_here else "this is another network"
        answer = Answer6(kind=Kind6.REPLY, event=None)
        answer.items.append((Code6.STATUS, Status(code=code, text=text).encode()))
        if not is_here:
            nak = event6(request, EventKind.NAK, addresses[0], reason="WRONG-NET")
            answer.events += self._damped(request, nak)
        return self._finish(request, answer)

    def _renew(self, request: Request6) -> Outcome6:
        answer = Answer6(kind=Kind6.REPLY, event=EventKind.ACK)
        for asked in request.associations:
            self._extend(request, asked, answer)
        answer.items += refused_others(request.message, StatusCode.NO_BINDING)
        return self._finish(request, answer)

    def _extend(self, request: Request6, asked: Association, answer: Answer6) -> None:
        """Lengthen the IA's lease; what is not its own ends (RFC 8415, 18.3.4 and 18.3.5).

        An IA that we do not know gets a lease, the one that it names where that is free: after a
        loss of the database, or with another number for the network, boxes go on.
        """
        row = self._table.row(request.client, asked.iaid, request.link, request.others(asked.iaid))

        def ended(kept: IPv6Address | None) -> tuple[Lent, ...]:
            addresses = (one.address for one in asked.addresses if one.address != kept)
            return tuple(Lent(address=one, preferred=0, valid=0) for one in addresses)

        is_bound = row is not None and row.state is LeaseState.BOUND
        named = () if is_bound else tuple(one.address for one in asked.addresses)
        if self._lend(request, asked, answer, named, ended):
            return
        elsewhere = tuple(
            one for one in ended(None) if subnet_of(one.address, request.link) is None
        )
        if elsewhere:
            answer.associations.append(Association(iaid=asked.iaid, addresses=elsewhere))
            return
        text = "this address is not yours"
        answer.associations.append(denied(asked, StatusCode.NO_BINDING, text))

    # RELEASE and DECLINE

    def _release(self, request: Request6) -> Outcome6:
        return self._end(request, EventKind.RELEASE, LeaseState.RELEASED, request.now)

    def _decline(self, request: Request6) -> Outcome6:
        """Quarantine what the client holds; anybody else could poison the pool."""
        until = request.now + self._config.quarantine.total_seconds()
        return self._end(request, EventKind.DECLINE, LeaseState.DECLINED, until)

    def _end(self, request: Request6, kind: EventKind, state: LeaseState, until: float) -> Outcome6:
        answer = Answer6(kind=Kind6.REPLY, event=None)
        answer.items.append((Code6.STATUS, Status(code=StatusCode.SUCCESS).encode()))
        for asked in request.associations:
            row = self._table.row(
                request.client, asked.iaid, request.link, request.others(asked.iaid)
            )
            named = {one.address for one in asked.addresses}
            if row is None or row.address not in named or not row.is_bound(request.now):
                text = "this address is not yours"
                answer.associations.append(denied(asked, StatusCode.NO_BINDING, text))
                continue
            answer.writes += self._table.end(row, state, until)
            answer.associations.append(denied(asked, StatusCode.SUCCESS, ""))
            entry = request.reservation
            reason = None
            if kind is EventKind.DECLINE:
                is_reserved = entry is not None and entry.address == row.address
                reason = "RESERVED-IN-USE" if is_reserved else "IN-USE"
            answer.events.append(event6(request, kind, row.address, reason=reason))
        return self._finish(request, answer)

    # INFORMATION-REQUEST

    def _inform(self, request: Request6) -> Outcome6:
        """Give settings without an address; one that asks for an address so is dropped (16.12)."""
        options = request.message.options
        if any(options.all(code) for code in (Code6.IA_NA, Code6.IA_TA, Code6.IA_PD)):
            return Outcome6()
        answer = Answer6(kind=Kind6.REPLY, event=EventKind.INFORM)
        event = event6(request, EventKind.INFORM, request.arrival.source)
        answer.events += self._damped(request, event)
        return self._seen(request, self._finish(request, answer))

    # Replies

    def _finish(self, request: Request6, answer: Answer6) -> Outcome6:
        """Add settings and identities, and say what happened."""
        on_link = (subnet_of(address, request.link) for address in answer.addresses)
        subnet = next((one for one in on_link if one), request.link[0])
        items = [(int(Code6.IA_NA), one.encode()) for one in answer.associations]
        boot, events = None, list(answer.events)
        if answer.event is not None:
            boot, told = self._boot(request, subnet)
            items = [*self._settings(request, subnet, boot, answer.kind), *items]
            given = given6(request, answer, answer.event, boot)
            if answer.event is EventKind.OFFER:
                given = [event for one in given for event in self._damped(request, one)]
            events += [*told, *given]
        reply = reply6(answer.kind, request.message, [*items, *answer.items], self._duid)
        promises = bool(answer.writes)
        boot_set = boot.boot_set if boot is not None else None
        is_ours = boot is not None and f"//[{subnet.appliance}]" in boot.name
        is_escorted = is_ours and promises and not request.packet.relays
        return Outcome6(
            sends=(send6(request.packet, reply, request.arrival, promises=promises),),
            events=tuple(events),
            writes=tuple(answer.writes),
            assigned=tuple((one, boot_set) for one in answer.addresses if boot_set is not None),
            escorted=(request.arrival.source,) if is_escorted else (),
        )

    def _settings(
        self, request: Request6, subnet: Subnet6Plan, boot: BootFile | None, kind: Kind6
    ) -> tuple[tuple[int, bytes], ...]:
        is_offer = kind is Kind6.ADVERTISE
        found = settings(
            request.message.options,
            self._usual[subnet.name],
            kind=request.facts.kind,
            levels=self._levels(request, subnet),
            boot=boot,
            unasked=_OF_OFFERS if is_offer else _OF_REPLIES,
        )
        entry = request.reservation
        name = entry.name if entry is not None else None
        found += fqdn6(request.message.options, name, self._config.domain)
        if is_offer and not any(code == Code6.PREFERENCE for code, _ in found):
            return (*found, (int(Code6.PREFERENCE), bytes((FIRST_CHOICE,))))
        return found

    def _levels(
        self, request: Request6, subnet: Subnet6Plan
    ) -> tuple[tuple[OptionValue, ...], ...]:
        """Give who says options: the reservation, classes, the subnet, the site."""
        own = request.reservation.options if request.reservation is not None else ()
        of_classes = (one.options6 for one in request.classes)
        return (own, *of_classes, subnet.options, self._config.options)

    def _boot(
        self, request: Request6, subnet: Subnet6Plan
    ) -> tuple[BootFile | None, tuple[Event, ...]]:
        if self._config.boot is None or not subnet.boot:
            return None, ()
        own = request.reservation.boot_set if request.reservation is not None else None
        choice = choose6(request.facts, self._config.boot, subnet.appliance, own)
        if not isinstance(choice, NoLoader):
            return choice, ()
        detail: Detail = (
            ("architectures", " ".join(f"{value:#06x}" for value in choice.architectures)),
            ("vendor_class", printable(request.facts.vendor_class)),
        )
        event = event6(request, EventKind.ARCHITECTURE, reason="ARCH", detail=detail)
        return None, self._damped(request, event)

    # Events

    def _seen(self, request: Request6, outcome: Outcome6) -> Outcome6:
        """Tell of a client at most once a minute."""
        events = self._damped(request, discovered6(request))
        is_told = any(event.kind is EventKind.DISCOVER for event in events)
        return replace(
            outcome,
            events=events + outcome.events,
            sightings=(sighting_of6(request),) if is_told else (),
        )

    def _damped(self, request: Request6, event: Event) -> tuple[Event, ...]:
        return self._damping.tell(event.kind, request.client.duid, request.now, lambda: event)
