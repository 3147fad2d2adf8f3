"""What a client would be told, and why: a packet as it would send it, through the real engine.

Nothing is sent and nothing is written; leases are what the caller gives. What the engine decided is
read from its answer, so this cannot say what it would not do. RFC 2131, 4578, 5970, 3046.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.asking import Asking, discover, request_after
from netboot.bootchoice import ARCHITECTURE_NAMES, BootFile, BootTable, NoLoader, choose
from netboot.dhcp import DhcpEngine
from netboot.dhcp_config import Book, DhcpConfig
from netboot.dhcp_message import BOOTREPLY, CLIENT_PORT, SERVER_PORT, Message
from netboot.dhcp_options import Code, MessageType
from netboot.dhcp_outcome import Outcome
from netboot.dhcp_reply import Send, Via
from netboot.dhcp_request import Arrival, Request, read_request
from netboot.events import EventKind
from netboot.leases import Lease, LeaseTable
from netboot.links import Network
from netboot.network import NOTHING
from netboot.option_words import name_of
from netboot.proxy import PXE_PORT, ProxyEngine

_NOWHERE = IPv4Address(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The packet as it was asked, the answer as it would leave (None: silence), and why."""

    request: bytes
    reply: Send | None
    reasons: tuple[str, ...]


def explain(
    asking: Asking,
    config: DhcpConfig,
    leases: Iterable[Lease],
    now: float,
    rules: tuple[str, ...] = (),
) -> Explanation:
    """Say what the client is told; `rules` are the names of the table's first rules."""
    arrival = Arrival(
        interface=_interface(asking, config), source=asking.relay or IPv4Address("0.0.0.0")
    )
    leases = tuple(leases)
    if _is_beside(arrival.interface, config) and asking.relay is None:
        return _beside(asking, config, arrival, now)
    engine = DhcpEngine(config, leases)
    message = discover(asking)
    outcome = engine.receive(message.encode(), arrival, now)
    if asking.kind is MessageType.REQUEST and outcome.sends:
        offer = Message.decode(outcome.sends[0].data)
        message = request_after(message, offer)
        outcome = engine.receive(message.encode(), arrival, now)
    reply = outcome.sends[0] if outcome.sends else None
    why = _Why(config, LeaseTable(config.subnets, config.reservations, leases), rules)
    return Explanation(
        request=message.encode(),
        reply=reply,
        reasons=tuple(why.reasons(message, arrival, outcome, now)),
    )


def _is_beside(interface: str, config: DhcpConfig) -> bool:
    """Tell whether another server gives the addresses here."""
    here = [one for one in config.subnets if one.interface == interface and not one.relayed]
    return bool(here) and all(one.dhcp == "proxy" for one in here)


def _beside(asking: Asking, config: DhcpConfig, arrival: Arrival, now: float) -> Explanation:
    """Say what proxyDHCP tells: an OFFER on port 67, or the file on port 4011."""
    engine, message = ProxyEngine(config), discover(asking)
    port, listener = CLIENT_PORT, SERVER_PORT
    if asking.kind is MessageType.REQUEST:
        port, listener = PXE_PORT, PXE_PORT
        message = request_after(message, Message(op=BOOTREPLY, xid=message.xid, chaddr=asking.mac))
    outcome = engine.receive(message.encode(), arrival, now, listener=listener, port=port)
    plan = next(one for one in config.subnets if one.interface == arrival.interface)
    reasons = [f"subnet: {plan.name}, {plan.network}: another server gives the addresses (proxy)"]
    if not outcome.sends:
        reasons.append("nothing is answered: there is no boot file for this client")
        return Explanation(request=message.encode(), reply=None, reasons=tuple(reasons))
    sent = outcome.sends[0]
    answer = Message.decode(sent.data)
    name = answer.file.decode("ascii", "replace") or answer.options.text(Code.BOOT_FILE)
    where = f"port {listener}"
    reasons.append(f"boot: {name}" if name else f"boot: asked for again, on port {PXE_PORT}")
    reasons.append(
        f"sent: from {sent.source}:{sent.listener} to {sent.destination}:{sent.port}, "
        f"for what came to {where}"
    )
    via = Via.BROADCAST if sent.destination == IPv4Address("255.255.255.255") else Via.UNICAST
    reply = Send(
        via=via,
        interface=sent.interface,
        source=sent.source,
        destination=sent.destination,
        port=sent.port,
        mac=None,
        data=sent.data,
        promises=False,
    )
    return Explanation(request=message.encode(), reply=reply, reasons=tuple(reasons))


def _interface(asking: Asking, config: DhcpConfig) -> str:
    if asking.interface is not None:
        return asking.interface
    direct = [one.interface for one in config.subnets if not one.relayed and one.dhcp != "off"]
    return direct[0] if direct else ""


class _Why:
    """Reads from the plan what the engine went by, for one packet."""

    def __init__(self, config: DhcpConfig, table: LeaseTable, rules: tuple[str, ...]) -> None:
        self._config, self._table, self._rules = config, table, rules

    def reasons(
        self, message: Message, arrival: Arrival, outcome: Outcome, now: float
    ) -> Iterator[str]:
        """Say what chose what, in the order of the decisions."""
        place = self._table.links.place_of(message, arrival.interface)
        if place is None:
            yield self._no_place(message, arrival)
            return
        request = read_request(message, place, arrival, now, self._config, self._table)
        yield from self._client(request)
        if not outcome.sends:
            yield from self._silence(request, outcome)
            return
        sent = outcome.sends[0]
        answer = Message.decode(sent.data)
        network = place.link.network_of(int(answer.yiaddr)) or place.network
        yield from self._subnet(request, network)
        if answer.options.message_type is MessageType.NAK:
            yield f"refused: {answer.options.text(Code.MESSAGE) or 'without a word'}"
            return
        yield from self._address(request, network, answer)
        yield from self._levels(request, network, answer)
        yield from self._boot(request, network, answer)
        yield _way(sent)

    def _no_place(self, message: Message, arrival: Arrival) -> str:
        if message.giaddr != _NOWHERE:
            return (
                f"nothing is answered: no served subnet holds the relay's address "
                f"{message.giaddr}, and no subnet names it in relays"
            )
        return (
            f'nothing is answered: no subnet with dhcp = "server" is on interface '
            f"{arrival.interface or '(none)'}"
        )

    def _client(self, request: Request) -> Iterator[str]:
        facts = request.facts
        named = [_architecture(one) for one in facts.architectures]
        said = f", architecture {', '.join(named)}" if named else ""
        yield f"client: asks as {facts.kind.value}{said}"
        reservation = request.client.reservation
        if reservation is not None:
            keys = ("mac", "uuid", "client_id", "circuit_id", "remote_id")
            key = next(key for key in keys if getattr(reservation, key) is not None)
            yield (
                f"reservation: {reservation.name or reservation.address or 'without a name'}, "
                f"known by its {key}"
            )
        if request.client.classes:
            in_order = (one.name for one in self._config.classes)
            names = [name for name in in_order if name in request.client.classes]
            yield f"classes: {', '.join(names)}"

    def _subnet(self, request: Request, network: Network) -> Iterator[str]:
        plan, message = network.plan, request.message
        if message.giaddr != _NOWHERE:
            why = f"the relay {message.giaddr} stands for it"
        else:
            why = f"it is on interface {request.arrival.interface}"
        if network is not request.client.place.network:
            why = (
                f"it shares {plan.shared or 'a link'} with {request.client.place.network.plan.name}"
            )
        yield f"subnet: {plan.name}, {plan.network}: {why}"

    def _address(self, request: Request, network: Network, answer: Message) -> Iterator[str]:
        number, client = int(answer.yiaddr), request.client
        reservation = client.reservation
        pool = network.range_of(number)
        held = self._table.held(client)
        if reservation is not None and reservation.address == answer.yiaddr:
            why = "reserved"
        elif held is not None and held.address == answer.yiaddr:
            why = "it had it before"
        else:
            why = "free"
        where = f" of pool {pool.plan.first}-{pool.plan.last}" if pool is not None else ""
        yield f"address: {answer.yiaddr}{where}: {why}"
        seconds = answer.options.number(Code.LEASE_TIME, 4)
        if seconds is not None:
            yield f"lease: {seconds} seconds"

    def _levels(self, request: Request, network: Network, answer: Message) -> Iterator[str]:
        """Say which level each of the operator's options is of."""
        pool = network.range_of(int(answer.yiaddr))
        client = request.client
        levels = [
            ("the reservation", client.reservation.parameters if client.reservation else NOTHING),
            *(
                (f"class {one.name}", one.parameters)
                for one in self._config.classes
                if one.name in client.classes
            ),
            ("the pool", pool.plan.parameters if pool else NOTHING),
            (f"subnet {network.plan.name}", network.plan.parameters),
            ("the site", self._config.parameters),
        ]
        for code, _ in answer.options.items:
            for level, said in levels:
                if any(option.code == code for option in said.options):
                    yield f"option {name_of(code)}: of {level}"
                    break

    def _boot(self, request: Request, network: Network, answer: Message) -> Iterator[str]:
        settings = Book(self._config).settings(request.client, network, int(answer.yiaddr))
        if settings.boot_file is not None:
            yield f"boot: {settings.boot_file}, the boot_file of a level of the site file"
            return
        table, facts = self._config.boot, request.facts
        if not facts.wants_boot:
            yield "boot: nothing, the client does not ask to boot"
        elif table is None or not network.plan.boot:
            yield "boot: nothing, this subnet boots nothing from here"
        else:
            reservation = request.client.reservation
            own = reservation.boot_set if reservation is not None else None
            choice = choose(facts, table, network.plan.appliance, own)
            if isinstance(choice, BootFile):
                rule = self._rule(request, table, choice)
                yield f"boot: {choice.name} by {choice.loading.value}, {rule}"
            elif isinstance(choice, NoLoader):
                named = ", ".join(map(_architecture, choice.architectures)) or "none named"
                yield f"boot: nothing, no rule and no boot set is for architecture {named}"
            else:
                yield f"boot: nothing, no rule is for {facts.kind.value}"

    def _rule(self, request: Request, table: BootTable, chosen: BootFile) -> str:
        appliance = request.client.place.network.plan.appliance
        for index, rule in enumerate(table.rules):
            alone = BootTable(rules=(rule,), https_port=table.https_port)
            if choose(request.facts, alone, appliance, rule.boot_set) != chosen:
                continue
            if index < len(self._rules):
                return f"by [[boot.rule]] {self._rules[index]}"
            digest = rule.boot_set.hex()[:12] if rule.boot_set else "of its own"
            return f"of boot set {digest}"
        return "by the table"

    def _silence(self, request: Request, outcome: Outcome) -> Iterator[str]:
        place = request.client.place
        names = ", ".join(network.plan.name for network in place.link.networks)
        kinds = {event.kind for event in outcome.events}
        if EventKind.POOL_EMPTY in kinds:
            yield from self._empty(request, names)
        elif EventKind.MALFORMED in kinds:
            said = [dict(event.detail).get("sentence") for event in outcome.events]
            yield f"nothing is answered: {'; '.join(map(str, filter(None, said)))}"
        else:
            yield f"nothing is answered on {names}: the message asks for nothing that is ours"

    def _empty(self, request: Request, names: str) -> Iterator[str]:
        pools = [pool.plan for net in request.client.place.in_order for pool in net.pools]
        mine = [one for one in pools if not one.classes or one.classes & request.client.classes]
        if not pools:
            yield f"nothing is answered: {names} has no pool, nothing is reserved for this client"
        elif not mine:
            wanted = sorted({name for one in pools for name in one.classes})
            yield (
                f"nothing is answered: every pool of {names} is for classes that this client is "
                f"not in: {', '.join(wanted)}"
            )
        else:
            yield f"nothing is answered: no address of {names} is free for this client"


def _architecture(number: int) -> str:
    name = next((name for name, one in ARCHITECTURE_NAMES.items() if one == number), "unknown")
    return f"{number} ({name})"


def _way(sent: Send) -> str:
    how = {
        Via.FRAME: "a frame to the client's MAC, without ARP",
        Via.BROADCAST: "a broadcast",
        Via.UNICAST: "a datagram",
    }[sent.via]
    later = f" after {sent.delay:g} s" if sent.delay else ""
    return (
        f"sent{later}: as {how}, from {sent.source}:67 to {sent.destination}:{sent.port} "
        f"on {sent.interface or 'the way to the relay'}"
    )
