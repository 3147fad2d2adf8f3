"""Conversations with the DHCPv4 engine as a table: what is said, what must come back, by scapy.

A codec that is not ours writes the packets and reads the replies. One network, 192.0.2.0/24, and we
are 192.0.2.2; the pool has one address unless said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP

from netboot.dhcp import Arrival, DhcpConfig, DhcpEngine
from netboot.dhcp_reply import Send
from netboot.network import OptionValue, Parameters, Pool, SubnetPlan

US = "192.0.2.2"
ONE = "192.0.2.50"
TWO = "192.0.2.51"
NOW = 1_800_000_000.0
A = bytes.fromhex("02aa00000001")
B = bytes.fromhex("02aa00000002")
C = bytes.fromhex("02aa00000003")
NO_MAC = bytes(6)
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = (
    "discover",
    "offer",
    "request",
    "decline",
    "ack",
    "nak",
    "release",
    "inform",
)


def address(text: str) -> IPv4Address:
    return IPv4Address(text)


def pool(first: str = ONE, last: str | None = None, **more: Any) -> Pool:
    return Pool(first=address(first), last=address(last or first), **more)


def subnet(**changes: Any) -> SubnetPlan:
    values: dict[str, Any] = {
        "name": "one",
        "interface": "eth0",
        "network": IPv4Network("192.0.2.0/24"),
        "appliance": address(US),
        "gateway": None,
        "pools": (pool(),),
        "lease": timedelta(seconds=4000),
        "dhcp": "server",
        "boot": False,
        "enrols": False,
    }
    return SubnetPlan(**(values | changes))


def plan(*subnets: SubnetPlan, **changes: Any) -> DhcpConfig:
    values: dict[str, Any] = {
        "subnets": subnets or (subnet(),),
        "reservations": (),
        "boot": None,
        "domain": "example.net",
    }
    return DhcpConfig(**(values | changes))


@dataclass(frozen=True)
class Say:
    """One packet, and the reply that must come; `kind` None: none may come."""

    what: str
    reply: str | None = None
    chaddr: bytes = A
    options: tuple[Any, ...] = ()
    header: Mapping[str, Any] = field(default_factory=dict)
    has: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str | int, ...] = ()
    after: float = 0.0
    arrival: int = 67


@dataclass(frozen=True)
class Case:
    name: str
    plan: DhcpConfig
    says: tuple[Say, ...]


def ip(name: str, value: str) -> tuple[str, str]:
    return (name, value)


FROM_US = ip("server_id", US)
WANT_ONE = ip("requested_addr", ONE)


def discover(reply: str | None = OFFER, *options: Any, **more: Any) -> Say:
    return Say(DISCOVER, reply, options=options, **more)


def request(reply: str | None = ACK, *options: Any, **more: Any) -> Say:
    return Say(REQUEST, reply, options=options, **more)


def select(reply: str | None = ACK, wanted: str = ONE, *options: Any, **more: Any) -> Say:
    chosen = (FROM_US, ip("requested_addr", wanted), *options)
    return Say(REQUEST, reply, options=chosen, **more)


def bound(chaddr: bytes = A, at: str = ONE, *options: Any) -> tuple[Say, Say]:
    return (
        discover(OFFER, *options, chaddr=chaddr, has={"yiaddr": at}),
        select(ACK, at, *options, chaddr=chaddr, has={"yiaddr": at}),
    )


def client_id(text: str) -> tuple[str, bytes]:
    return ("client_id", bytes.fromhex(text))


def wishes(*codes: int) -> tuple[str, list[int]]:
    return ("param_req_list", list(codes))


def option(code: int, data: bytes, *, always: bool = False) -> OptionValue:
    return OptionValue(code=code, data=data, always=always)


def said(*options: OptionValue, **more: Any) -> Parameters:
    return Parameters(options=options, **more)


def packet(say: Say) -> bytes:
    """Write a packet with scapy; options that it has no name for go in as bytes."""
    raw = b"".join(
        bytes((code, len(data))) + data for code, data in say.options if isinstance(code, int)
    )
    named = [entry for entry in say.options if isinstance(entry[0], str)]
    header = {"op": 1, "chaddr": say.chaddr, "xid": 9} | dict(say.header)
    data = bytes(BOOTP(**header) / DHCP(options=[("message-type", say.what), *named]))
    return data + raw + b"\xff"


def read(sent: Send) -> dict[Any, Any]:
    """Read a reply with scapy: fields, options by scapy's names, and how it leaves."""
    message = BOOTP(sent.data)
    fields = ("xid", "secs", "hops", "htype", "ciaddr", "yiaddr", "siaddr", "giaddr")
    found: dict[Any, Any] = {name: getattr(message, name) for name in fields}
    found["flags"] = int(message.flags)
    found |= {name: getattr(message, name).rstrip(b"\0") for name in ("sname", "file")}
    for entry in message[DHCP].options:
        if isinstance(entry, tuple):
            found[entry[0]] = entry[1]
    codes = [code for code, _ in wire_options(sent.data[240:])]
    found["order"] = [code for code in codes if code not in (53, 54, 51, 58, 59, 6, 15)]
    found["last"] = codes[-1]
    found |= {code: data for code, data in wire_options(sent.data[240:]) if code in (80, 118)}
    found["via"], found["to"] = sent.via, (str(sent.destination), sent.port)
    return found


def wire_options(area: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while area[at] != 255:
        yield area[at], area[at + 2 : at + 2 + area[at + 1]]
        at += 2 + area[at + 1]


def converse(case: Case) -> None:
    """Hold one conversation with an engine of its own; AssertionError where it goes wrong."""
    engine = DhcpEngine(case.plan, ())
    now = NOW
    for number, say in enumerate(case.says):
        now += say.after
        arrival = Arrival(interface="eth0", source=IPv4Address(0), port=say.arrival)
        sends = engine.receive(packet(say), arrival, now).sends
        where = f"{case.name}, packet {number}: {say.what}"
        if say.reply is None:
            assert sends == (), f"{where} got {read(sends[0])}"
            continue
        assert len(sends) == 1, f"{where} got no reply"
        found = read(sends[0])
        kinds = {2: OFFER, 5: ACK, 6: NAK}
        assert kinds[found["message-type"]] == say.reply, where
        assert BOOTP(sends[0].data).chaddr[:6] == say.chaddr, where
        for name, value in say.has.items():
            assert found.get(name) == value, f"{where}: {name} is {found.get(name)!r}"
        for name in say.lacks:
            assert name not in found, f"{where}: {name} is there"
