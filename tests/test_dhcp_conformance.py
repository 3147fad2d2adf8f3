"""A table of what DHCPv4 suites ask of a server, with scapy as a codec that is not ours.

Each case is a plan and a conversation; what is asked is from RFC 2131, 2132, 3011, 3046, 3527,
4039, 4702, 5107, 6842. One network, 192.0.2.0/24, and we are 192.0.2.2; the pool has one address
unless said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

from netboot.dhcp import Arrival, DhcpConfig, DhcpEngine
from netboot.dhcp_reply import Send, Via
from netboot.network import (
    ClientClass,
    Identify,
    Match,
    OptionValue,
    Parameters,
    Pool,
    Reservation,
    SubnetPlan,
)

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


SELECTING = (
    Case("a client is given the only address", plan(), bound()),
    Case(
        "a second client gets nothing when the pool is empty",
        plan(),
        (*bound(), discover(None, chaddr=B)),
    ),
    Case(
        "an open offer keeps its address from others, and for half a minute only",
        plan(),
        (
            discover(OFFER, has={"yiaddr": ONE}),
            discover(None, chaddr=B),
            discover(OFFER, chaddr=B, after=31, has={"yiaddr": ONE}),
        ),
    ),
    Case(
        "three pools of one address are used up in order",
        plan(subnet(pools=(pool(ONE), pool(TWO), pool("192.0.2.52")))),
        (*bound(A, ONE), *bound(B, TWO), *bound(C, "192.0.2.52")),
    ),
    Case(
        "a hardware address of zeros is told apart by its client-id",
        plan(),
        (
            *(
                Say(s.what, s.reply, NO_MAC, s.options, has=s.has)
                for s in bound(A, ONE, client_id("00010203040506"))
            ),
            discover(None, client_id("00020304050607"), chaddr=NO_MAC),
            discover(None, client_id("11020304050607"), chaddr=B),
            discover(
                OFFER,
                client_id("00010203040506"),
                chaddr=NO_MAC,
                has={"yiaddr": ONE, "client_id": bytes.fromhex("00010203040506")},
            ),
        ),
    ),
    Case(
        "a hardware address of zeros without a client-id is served too",
        plan(),
        bound(NO_MAC),
    ),
    Case(
        "nobody takes the address that another holds",
        plan(),
        (*bound(), select(NAK, ONE, chaddr=B, has={"yiaddr": "0.0.0.0", "server_id": US})),
    ),
    Case(
        "an address outside the pool is refused",
        plan(),
        (discover(), select(NAK, "192.0.2.99", has={"server_id": US})),
    ),
    Case(
        "an address of another network is refused",
        plan(),
        (discover(), select(NAK, "198.51.100.7")),
    ),
    Case(
        "our own address is refused",
        plan(subnet(pools=(pool("192.0.2.1", "192.0.2.9"),))),
        (discover(), select(NAK, US)),
    ),
    Case(
        "a REQUEST that names another server gets silence and frees the offer",
        plan(),
        (
            discover(),
            request(None, ip("server_id", "192.0.2.77"), WANT_ONE),
            discover(OFFER, chaddr=B, has={"yiaddr": ONE}),
        ),
    ),
    Case(
        "a REQUEST that names us and no address takes what was offered",
        plan(),
        (discover(), request(ACK, FROM_US, has={"yiaddr": ONE})),
    ),
    Case(
        "a REQUEST with another xid than the DISCOVER is served, and answered with its own",
        plan(),
        (
            discover(header={"xid": 5}, has={"xid": 5}),
            select(ACK, ONE, header={"xid": 6}, has={"xid": 6}),
        ),
    ),
    Case(
        "a REQUEST from another hardware address does not take the offer",
        plan(),
        (discover(), select(NAK, ONE, chaddr=B), select(ACK, ONE)),
    ),
    Case(
        "a DISCOVER with a server identifier is dropped",
        plan(),
        (discover(None, FROM_US), discover(None, ip("server_id", "192.0.2.9")), discover()),
    ),
    Case(
        "the address that is asked for is given where it is free",
        plan(subnet(pools=(pool(ONE, "192.0.2.60"),))),
        (
            discover(OFFER, ip("requested_addr", "192.0.2.57"), has={"yiaddr": "192.0.2.57"}),
            discover(OFFER, ip("requested_addr", "192.0.2.57"), chaddr=B, has={"yiaddr": ONE}),
            discover(OFFER, ip("requested_addr", "192.0.2.99"), chaddr=C, has={"yiaddr": TWO}),
        ),
    ),
    Case(
        "a known client asking for another free address keeps its own",
        plan(subnet(pools=(pool(ONE, "192.0.2.60"),))),
        (
            *bound(A, ONE),
            discover(OFFER, ip("requested_addr", "192.0.2.55"), has={"yiaddr": ONE}),
        ),
    ),
    Case(
        "a client whose lease is over gets the same address again",
        plan(subnet(pools=(pool(ONE, "192.0.2.60"),))),
        (*bound(A, ONE), *bound(B, TWO), discover(OFFER, after=5000, has={"yiaddr": ONE})),
    ),
    Case(
        "an address whose lease is over goes to another when nothing else is left",
        plan(subnet(lease=timedelta(seconds=3))),
        (*bound(), discover(OFFER, chaddr=B, after=4, has={"yiaddr": ONE})),
    ),
)

REBOOTING = (
    Case(
        "the address that a client has is confirmed after its restart",
        plan(),
        (*bound(), request(ACK, WANT_ONE, has={"yiaddr": ONE, "server_id": US})),
    ),
    Case(
        "a known client with an address of another network is refused",
        plan(),
        (*bound(), request(NAK, ip("requested_addr", "185.0.50.0"), has={"server_id": US})),
    ),
    Case(
        "a known client with a wrong address of this network is refused",
        plan(),
        (*bound(), request(NAK, ip("requested_addr", "192.0.2.77"))),
    ),
    Case("neither address nor server: silence", plan(), (request(None), discover(OFFER))),
    Case("an unknown client is left to other servers", plan(), (request(None, WANT_ONE),)),
    Case(
        "an unknown client with an address of another network is refused",
        plan(),
        (request(NAK, ip("requested_addr", "185.0.50.0")),),
    ),
    Case(
        "who is not authoritative leaves that to other servers",
        plan(subnet(authoritative=False)),
        (
            request(None, ip("requested_addr", "185.0.50.0")),
            request(None, header={"ciaddr": "185.0.50.0"}),
            *bound(),
            request(NAK, ip("requested_addr", "185.0.50.0")),
            select(NAK, "192.0.2.99", chaddr=B),
        ),
    ),
)

RENEWING = (
    Case(
        "a renewal extends the lease",
        plan(),
        (
            *bound(),
            request(
                ACK,
                header={"ciaddr": ONE},
                after=3000,
                has={"yiaddr": ONE, "ciaddr": ONE, "lease_time": 4000, "server_id": US},
            ),
            discover(None, chaddr=B, after=3000),
        ),
    ),
    Case(
        "another client's address is not renewed",
        plan(),
        (*bound(), request(NAK, chaddr=B, header={"ciaddr": ONE}, has={"ciaddr": "0.0.0.0"})),
    ),
    Case(
        "an address of another network is not renewed",
        plan(),
        (*bound(), request(NAK, header={"ciaddr": "198.51.100.9"}, has={"ciaddr": "0.0.0.0"})),
    ),
    Case(
        "an address that was declined is not renewed",
        plan(),
        (*bound(), Say(DECLINE, options=(FROM_US, WANT_ONE)), request(NAK, header={"ciaddr": ONE})),
    ),
)

RELEASING = (
    Case(
        "a released address goes to the next",
        plan(),
        (
            *bound(),
            Say(RELEASE, options=(FROM_US,), header={"ciaddr": ONE}),
            discover(OFFER, chaddr=B, has={"yiaddr": ONE}),
        ),
    ),
    *(
        Case(
            f"nothing is released: {why}",
            plan(),
            (
                *bound(A, ONE, client_id("01aa01")),
                Say(RELEASE, options=options, chaddr=chaddr, header=header),
                discover(None, client_id("0133"), chaddr=C),
            ),
        )
        for why, options, chaddr, header in (
            ("other hardware and client-id", (FROM_US, client_id("01bb")), B, {"ciaddr": ONE}),
            ("another client-id", (FROM_US, client_id("01bb")), A, {"ciaddr": ONE}),
            ("no client-id", (FROM_US,), A, {"ciaddr": ONE}),
            ("no server", (client_id("01aa01"),), A, {"ciaddr": ONE}),
            (
                "another server",
                (ip("server_id", "192.0.2.9"), client_id("01aa01")),
                A,
                {"ciaddr": ONE},
            ),
            ("no address", (FROM_US, client_id("01aa01")), A, {}),
            ("another address", (FROM_US, client_id("01aa01")), A, {"ciaddr": TWO}),
            (
                "an address of elsewhere",
                (FROM_US, client_id("01aa01")),
                A,
                {"ciaddr": "198.51.100.1"},
            ),
        )
    ),
    Case(
        "a client-id names its lease from other hardware too",
        plan(),
        (
            *bound(A, ONE, client_id("01aa01")),
            Say(
                RELEASE,
                options=(FROM_US, client_id("01aa01")),
                chaddr=B,
                header={"ciaddr": ONE},
            ),
            discover(OFFER, chaddr=C, has={"yiaddr": ONE}),
        ),
    ),
)

DECLINING = (
    Case(
        "a declined address rests for the time that is set, and no longer",
        plan(quarantine=timedelta(seconds=5)),
        (
            *bound(),
            Say(DECLINE, options=(FROM_US, WANT_ONE)),
            discover(None),
            discover(None, chaddr=B),
            discover(OFFER, chaddr=B, after=6, has={"yiaddr": ONE}),
        ),
    ),
    *(
        Case(
            f"nothing is declined: {why}",
            plan(),
            (
                *bound(A, ONE, client_id("01aa01")),
                Say(DECLINE, options=options, chaddr=chaddr),
                discover(None, chaddr=C),
                discover(OFFER, client_id("01aa01"), has={"yiaddr": ONE}),
            ),
        )
        for why, options, chaddr in (
            ("no server", (WANT_ONE, client_id("01aa01")), A),
            ("another server", (ip("server_id", "192.0.2.9"), WANT_ONE, client_id("01aa01")), A),
            ("no address", (FROM_US, client_id("01aa01")), A),
            ("another address", (FROM_US, ip("requested_addr", TWO), client_id("01aa01")), A),
            ("another client-id", (FROM_US, WANT_ONE, client_id("01bb")), A),
            ("no client-id", (FROM_US, WANT_ONE), A),
            ("other hardware", (FROM_US, WANT_ONE), B),
        )
    ),
)

INFORMING = (
    Case(
        "INFORM gets what it asks for, and no lease",
        plan(parameters=said(option(42, bytes((192, 0, 2, 9))), option(17, b"/root"))),
        (
            Say(
                INFORM,
                ACK,
                options=(wishes(1, 42),),
                header={"ciaddr": "192.0.2.200"},
                has={
                    "subnet_mask": "255.255.255.0",
                    "NTP_server": "192.0.2.9",
                    "yiaddr": "0.0.0.0",
                    "ciaddr": "192.0.2.200",
                    "server_id": US,
                },
                lacks=("lease_time", "renewal_time", "rebinding_time", "root_disk_path"),
            ),
        ),
    ),
    Case(
        "INFORM takes no address of the pool",
        plan(),
        (Say(INFORM, ACK, header={"ciaddr": ONE}), discover(OFFER, chaddr=B, has={"yiaddr": ONE})),
    ),
    Case(
        "INFORM from elsewhere or to another gets silence",
        plan(),
        (
            Say(INFORM, header={"ciaddr": "198.51.100.1"}),
            Say(INFORM, options=(ip("server_id", "192.0.2.9"),), header={"ciaddr": ONE}),
        ),
    ),
)

FIELDS = (
    Case(
        "xid, chaddr, flags and htype come back; hops and secs do not",
        plan(),
        (
            discover(
                header={"xid": 0xDEADBEEF, "flags": 0x8000, "secs": 7},
                has={"xid": 0xDEADBEEF, "flags": 0x8000, "secs": 0, "hops": 0, "htype": 1},
            ),
        ),
    ),
    *(
        Case(
            f"ciaddr {text} of a DISCOVER does not come back",
            plan(),
            (discover(header={"ciaddr": text}, has={"ciaddr": "0.0.0.0", "yiaddr": ONE}),),
        )
        for text in ("192.0.2.200", "255.255.255.255", "198.51.100.1")
    ),
    *(
        Case(
            f"siaddr {text} of a client does not come back",
            plan(),
            (
                discover(header={"siaddr": text}, has={"siaddr": "0.0.0.0"}),
                select(NAK, TWO, chaddr=B, header={"siaddr": text}, has={"siaddr": "0.0.0.0"}),
            ),
        )
        for text in (ONE, "255.255.255.255")
    ),
    Case(
        "a NAK has no addresses, whatever ciaddr and siaddr are",
        plan(parameters=said(next_server=address("192.0.2.234"))),
        (
            *bound(),
            select(
                NAK,
                ONE,
                chaddr=NO_MAC,
                header={"ciaddr": "255.255.255.255"},
                has={"ciaddr": "0.0.0.0", "siaddr": "0.0.0.0", "yiaddr": "0.0.0.0"},
                lacks=("lease_time", "subnet_mask", "router", "name_server", "domain"),
            ),
        ),
    ),
    Case(
        "next server, server name and boot file are where BOOTP has them",
        plan(
            parameters=said(
                next_server=address("192.0.2.234"), server_name="files", boot_file="/pxe/loader.0"
            )
        ),
        (
            discover(
                has={"siaddr": "192.0.2.234", "sname": b"files", "file": b"/pxe/loader.0"},
            ),
            select(ACK, ONE, has={"siaddr": "192.0.2.234", "file": b"/pxe/loader.0"}),
        ),
    ),
    Case(
        "next server alone",
        plan(subnet(parameters=said(next_server=address("192.0.2.234")))),
        (discover(has={"siaddr": "192.0.2.234", "file": b""}),),
    ),
)

TIMES = (
    Case(
        "lease, T1 and T2",
        plan(),
        (discover(has={"lease_time": 4000, "renewal_time": 2000, "rebinding_time": 3500}),),
    ),
    Case(
        "T1 and T2 as configured",
        plan(
            parameters=said(
                option(58, (900).to_bytes(4, "big")), option(59, (1800).to_bytes(4, "big"))
            )
        ),
        (discover(has={"lease_time": 4000, "renewal_time": 900, "rebinding_time": 1800}),),
    ),
    *(
        Case(
            f"a lease of {asked} s is asked for and {given} s are given",
            plan(
                parameters=said(
                    lease=timedelta(seconds=3000),
                    lease_min=timedelta(seconds=2000),
                    lease_max=timedelta(seconds=5000),
                )
            ),
            (discover(OFFER, ("lease_time", asked), has={"lease_time": given}),),
        )
        for asked, given in ((10, 2000), (2500, 2500), (9999, 5000), (0xFFFFFFFF, 5000))
    ),
    Case(
        "without limits our lease is the lease",
        plan(),
        (discover(OFFER, ("lease_time", 77), has={"lease_time": 4000}),),
    ),
    Case(
        "the lease of a class goes before that of the subnet",
        plan(
            classes=(
                ClientClass(
                    name="x",
                    match=Match(vendor_class=(b"x",)),
                    parameters=said(lease=timedelta(seconds=60)),
                ),
            )
        ),
        (
            discover(OFFER, ("vendor_class_id", b"xyz"), has={"lease_time": 60}),
            discover(OFFER, ("vendor_class_id", b"y"), has={"lease_time": 4000}),
        ),
    ),
)

NTP = option(42, bytes((192, 0, 2, 9)))
LEVELS = plan(
    subnet(
        pools=(pool(ONE, "192.0.2.60", parameters=said(option(7, bytes((10, 0, 0, 3))))),),
        parameters=said(option(4, bytes((10, 0, 0, 2))), option(7, bytes((10, 0, 0, 2)))),
    ),
    parameters=said(*(option(code, bytes((10, 0, 0, 1))) for code in (4, 5, 7, 9, 42))),
    classes=(
        ClientClass(
            name="x",
            match=Match(vendor_class=(b"x",)),
            parameters=said(option(9, bytes((10, 0, 0, 4))), option(42, bytes((10, 0, 0, 4)))),
        ),
    ),
    reservations=(
        Reservation(
            mac=B, address=None, name=None, parameters=said(option(42, bytes((10, 0, 0, 5))))
        ),
    ),
)
OPTIONS = (
    Case(
        "an option is sent to who asks for it, and to nobody else",
        plan(parameters=said(NTP)),
        (
            discover(OFFER, wishes(1, 42), has={"NTP_server": "192.0.2.9"}),
            discover(OFFER, wishes(1, 3), lacks=("NTP_server",)),
            discover(OFFER, lacks=("NTP_server",)),
        ),
    ),
    Case(
        "an option that is always sent is sent unasked",
        plan(parameters=said(option(42, bytes((192, 0, 2, 9)), always=True))),
        (discover(OFFER, wishes(1), has={"NTP_server": "192.0.2.9"}),),
    ),
    Case(
        "the nearest level says what an option holds",
        LEVELS,
        (
            discover(
                OFFER,
                wishes(4, 5, 7, 9, 42),
                has={
                    "time_server": "10.0.0.2",
                    "IEN_name_server": "10.0.0.1",
                    "log_server": "10.0.0.3",
                    "lpr_server": "10.0.0.1",
                    "NTP_server": "10.0.0.1",
                },
            ),
            discover(
                OFFER,
                wishes(9, 42),
                ("vendor_class_id", b"x"),
                has={"lpr_server": "10.0.0.4", "NTP_server": "10.0.0.4"},
            ),
            discover(
                OFFER,
                wishes(9, 42),
                ("vendor_class_id", b"x"),
                chaddr=B,
                has={"lpr_server": "10.0.0.4", "NTP_server": "10.0.0.5"},
            ),
        ),
    ),
    Case(
        "router, DNS and domain of the plan go before ours",
        plan(
            subnet(gateway=address("192.0.2.1")),
            parameters=said(
                option(3, bytes((192, 0, 2, 250))),
                option(6, bytes((192, 0, 2, 251))),
                option(15, b"isc.example"),
            ),
        ),
        (
            discover(
                OFFER,
                wishes(1, 3, 6, 15),
                has={
                    "router": "192.0.2.250",
                    "name_server": "192.0.2.251",
                    "domain": b"isc.example",
                    "subnet_mask": "255.255.255.0",
                },
            ),
        ),
    ),
    Case(
        "the options come in the order in which they are asked for",
        plan(parameters=said(NTP, option(4, bytes((10, 0, 0, 1))), option(17, b"/r"))),
        (discover(OFFER, wishes(17, 42, 1, 4), has={"order": [17, 42, 1, 4]}),),
    ),
    Case(
        "unknown options and wishes are no obstacle",
        plan(),
        (discover(OFFER, wishes(0, 254, 200, 1), (213, b"?"), (254, b"x"), has={"yiaddr": ONE}),),
    ),
    *(
        Case(
            f"client-id {text!r} comes back as it was",
            plan(),
            (discover(OFFER, client_id(text), has={"client_id": bytes.fromhex(text)}),),
        )
        for text in ("01", "01aa", "ff" + "00" * 20)
    ),
    Case("no client-id, none comes back", plan(), (discover(lacks=("client_id",)),)),
    Case(
        "an empty client-id is no identity",
        plan(identify=Identify.CLIENT_ID),
        (
            discover(OFFER, (61, b""), has={"yiaddr": ONE}),
            discover(None, (61, b""), chaddr=B),
        ),
    ),
    Case(
        "the name in option 81 is the site's",
        plan(reservations=(Reservation(mac=A, address=address("192.0.2.9"), name="till-1"),)),
        (
            discover(
                OFFER,
                (81, b"\x01\x00\x00mine.local"),
                has={"client_FQDN": b"\x01\xff\xfftill-1.example.net"},
            ),
            discover(
                OFFER,
                (81, b"\x05\x00\x00\x04mine\x00"),
                chaddr=B,
                has={"client_FQDN": b"\x0e\xff\xff\x04mine\x00"},
            ),
        ),
    ),
)

IN_POOL = subnet(pools=(pool(ONE, "192.0.2.60"),))
UUID = bytes(range(16))
AT_TEN = {"address": address("192.0.2.10"), "name": None}
RESERVING = (
    *(
        Case(
            f"a reservation {where} by {how}",
            plan(IN_POOL, reservations=(Reservation(address=address(at), name=None, **by),)),
            (
                discover(OFFER, *options, has={"yiaddr": at}),
                select(ACK, at, *options, has={"yiaddr": at}),
                discover(OFFER, chaddr=C, has={"yiaddr": ONE if at != ONE else TWO}),
            ),
        )
        for where, at in (("inside the pool", "192.0.2.55"), ("outside it", "192.0.2.10"))
        for how, by, options in (
            ("hardware address", {"mac": A}, ()),
            ("client-id", {"client_id": b"\x01ab"}, (("client_id", b"\x01ab"),)),
            ("UUID", {"uuid": UUID}, ((97, b"\0" + UUID),)),
            (
                "circuit",
                {"circuit_id": b"port 7"},
                ((82, b"\x01\x06port 7"),),
            ),
        )
    ),
    Case(
        "a reserved address is nobody else's",
        plan(IN_POOL, reservations=(Reservation(mac=B, address=address(ONE), name=None),)),
        (
            discover(OFFER, WANT_ONE, has={"yiaddr": TWO}),
            select(NAK, ONE, has={"yiaddr": "0.0.0.0"}),
            request(None, WANT_ONE, chaddr=C),
        ),
    ),
    Case(
        "a pool of reserved addresses is empty for others",
        plan(reservations=(Reservation(mac=B, address=address(ONE), name=None),)),
        (discover(None), *bound(B)),
    ),
    Case(
        "a reservation without address takes one of the pool and its own settings",
        plan(
            reservations=(
                Reservation(
                    mac=A, address=None, name="till-7", parameters=said(boot_file="own.efi")
                ),
            )
        ),
        (discover(has={"yiaddr": ONE, "hostname": b"till-7", "file": b"own.efi"}),),
    ),
    Case(
        "a pool for one class",
        plan(
            subnet(
                pools=(
                    pool(ONE, classes=frozenset({"x"})),
                    pool(TWO, classes=frozenset({"known"})),
                )
            ),
            classes=(
                ClientClass(name="x", match=Match(vendor_class=(b"x",))),
                ClientClass(name="known", match=Match(known=True)),
            ),
            reservations=(Reservation(mac=B, address=None, name=None),),
        ),
        (
            discover(None),
            discover(OFFER, ("vendor_class_id", b"x1"), has={"yiaddr": ONE}),
            discover(OFFER, chaddr=B, has={"yiaddr": TWO}),
        ),
    ),
)

RELAY = "192.0.2.1"
FAR = subnet(
    name="far",
    network=IPv4Network("198.51.100.0/24"),
    pools=(pool("198.51.100.50", "198.51.100.60"),),
    relayed=True,
    relays=(address("203.0.113.1"),),
)
BOTH = plan(IN_POOL, FAR)
VIA = {"giaddr": RELAY, "hops": 1}
RELAYING = (
    Case(
        "a relay's client gets an address of the relay's network; 82 comes back last",
        BOTH,
        (
            discover(
                OFFER,
                (82, b"\x01\x02ab\x02\x01z"),
                wishes(1, 3),
                header={"giaddr": "198.51.100.1", "hops": 1},
                has={
                    "yiaddr": "198.51.100.50",
                    "giaddr": "198.51.100.1",
                    "relay_agent_information": b"\x01\x02ab\x02\x01z",
                    "last": 82,
                    "to": ("198.51.100.1", 67),
                },
            ),
        ),
    ),
    Case(
        "a relay whose own address is elsewhere",
        BOTH,
        (discover(header={"giaddr": "203.0.113.1"}, has={"yiaddr": "198.51.100.50"}),),
    ),
    Case(
        "a relay that nobody knows gets silence",
        BOTH,
        (discover(None, header={"giaddr": "10.0.0.1"}),),
    ),
    Case(
        "a REQUEST to us through a relay that nobody knows is refused",
        BOTH,
        (request(NAK, FROM_US, header={"giaddr": "10.0.0.1"}, has={"to": ("10.0.0.1", 67)}),),
    ),
    Case(
        "link selection goes before giaddr",
        BOTH,
        (
            discover(
                OFFER,
                (82, b"\x05\x04\xc6\x33\x64\x00"),
                header=VIA,
                has={"yiaddr": "198.51.100.50", "giaddr": RELAY, "to": (RELAY, 67)},
            ),
            request(
                ACK,
                FROM_US,
                (82, b"\x05\x04\xc6\x33\x64\x00"),
                header={"giaddr": "10.0.0.1"},
                has={"yiaddr": "198.51.100.50"},
            ),
        ),
    ),
    Case(
        "subnet selection, by a relay and by a client, comes back",
        BOTH,
        (
            discover(
                OFFER,
                (118, b"\xc6\x33\x64\x00"),
                header=VIA,
                has={"yiaddr": "198.51.100.50", 118: b"\xc6\x33\x64\x00"},
            ),
            discover(OFFER, (118, b"\xc6\x33\x64\x00"), chaddr=B, has={"yiaddr": "198.51.100.51"}),
            discover(OFFER, (118, b"\x0a\0\0\0"), chaddr=C, has={"yiaddr": ONE}),
        ),
    ),
    Case(
        "the relay's server identifier stands for ours",
        BOTH,
        (
            discover(
                OFFER,
                (82, b"\x0b\x04\xc0\x00\x02\x63"),
                header=VIA,
                has={"server_id": "192.0.2.99"},
            ),
            request(None, ip("server_id", "192.0.2.99"), WANT_ONE),
            request(
                ACK,
                ip("server_id", "192.0.2.99"),
                WANT_ONE,
                (82, b"\x0b\x04\xc0\x00\x02\x63"),
                header=VIA,
                has={"yiaddr": ONE, "server_id": "192.0.2.99"},
            ),
        ),
    ),
    Case(
        "a client behind a relay renews past it",
        BOTH,
        (
            discover(header={"giaddr": "198.51.100.1"}),
            request(ACK, FROM_US, header={"giaddr": "198.51.100.1"}),
            request(
                ACK,
                header={"ciaddr": "198.51.100.50"},
                has={"yiaddr": "198.51.100.50", "to": ("198.51.100.50", 68)},
            ),
            Say(RELEASE, options=(FROM_US,), header={"ciaddr": "198.51.100.50"}),
            discover(
                OFFER,
                ip("requested_addr", "198.51.100.50"),
                header={"giaddr": "198.51.100.1"},
                has={"yiaddr": "198.51.100.50"},
            ),
        ),
    ),
    Case(
        "ciaddr of a DISCOVER brings nobody behind a relay",
        BOTH,
        (discover(header={"ciaddr": "198.51.100.50"}, has={"yiaddr": ONE}),),
    ),
    Case(
        "a NAK through a relay asks it to broadcast",
        BOTH,
        (
            request(
                NAK,
                ip("requested_addr", "10.9.9.9"),
                header=VIA,
                has={"flags": 0x8000, "to": (RELAY, 67)},
            ),
        ),
    ),
    Case(
        "INFORM through a relay is answered through it",
        BOTH,
        (
            Say(
                INFORM,
                ACK,
                header={"ciaddr": ONE, **VIA},
                has={"to": (RELAY, 67), "yiaddr": "0.0.0.0"},
            ),
        ),
    ),
)

SHARED = plan(
    subnet(shared="hall"),
    subnet(
        name="two",
        network=IPv4Network("198.51.100.0/24"),
        appliance=address("198.51.100.2"),
        pools=(pool("198.51.100.50"),),
        shared="hall",
        lease=timedelta(seconds=600),
    ),
)
SHARING = (
    Case(
        "a full subnet's clients get addresses of the next on the same wire",
        SHARED,
        (
            *bound(A, ONE),
            discover(
                OFFER,
                chaddr=B,
                has={
                    "yiaddr": "198.51.100.50",
                    "server_id": "198.51.100.2",
                    "lease_time": 600,
                    "subnet_mask": "255.255.255.0",
                },
            ),
            request(
                ACK,
                ip("server_id", "198.51.100.2"),
                ip("requested_addr", "198.51.100.50"),
                chaddr=B,
                has={"yiaddr": "198.51.100.50"},
            ),
            discover(None, chaddr=C),
            request(ACK, chaddr=B, header={"ciaddr": "198.51.100.50"}),
            request(ACK, ip("requested_addr", "198.51.100.50"), chaddr=B),
            Say(
                RELEASE,
                chaddr=B,
                options=(ip("server_id", "198.51.100.2"),),
                header={"ciaddr": "198.51.100.50"},
            ),
            discover(OFFER, chaddr=C, has={"yiaddr": "198.51.100.50"}),
        ),
    ),
    Case(
        "a client may choose the subnet of its wire by option 118",
        SHARED,
        (
            discover(OFFER, (118, b"\xc6\x33\x64\x00"), has={"yiaddr": "198.51.100.50"}),
            discover(OFFER, (118, b"\xc0\x00\x02\x00"), chaddr=B, has={"yiaddr": ONE}),
        ),
    ),
    Case(
        "a relay of the second subnet begins there",
        SHARED,
        (
            discover(header={"giaddr": "198.51.100.1"}, has={"yiaddr": "198.51.100.50"}),
            discover(chaddr=B, header={"giaddr": "198.51.100.1"}, has={"yiaddr": ONE}),
        ),
    ),
)

QUICK = plan(subnet(rapid_commit=True))
RAPID = (
    Case(
        "a DISCOVER with rapid commit is acknowledged at once",
        QUICK,
        (
            Say(DISCOVER, ACK, options=((80, b""),), has={"yiaddr": ONE, 80: b""}),
            discover(None, (80, b""), chaddr=B),
            request(ACK, WANT_ONE),
        ),
    ),
    Case(
        "not where the client does not ask, nor where the plan does not allow",
        plan(),
        (discover(OFFER, (80, b""), lacks=(80,)),),
    ),
)

IDENTITY = (
    Case(
        "by hardware address: one box, one address, whatever client-ids it sends",
        plan(IN_POOL),
        (
            *bound(A, ONE, client_id("01aa")),
            *bound(A, ONE),
            *bound(A, ONE, client_id("ff00112233")),
            *bound(B, TWO, client_id("01aa")),
        ),
    ),
    Case(
        "by client-id: each is a client of its own, whatever the hardware",
        plan(IN_POOL, identify=Identify.CLIENT_ID),
        (
            *bound(A, ONE, client_id("01aa")),
            *bound(A, TWO, client_id("01bb")),
            *bound(B, ONE, client_id("01aa")),
            *bound(B, "192.0.2.52"),
        ),
    ),
)

WAYS = (
    Case(
        "to the client's frame, to everybody, to its address",
        plan(),
        (
            discover(has={"via": Via.FRAME}),
            discover(header={"flags": 0x8000}, has={"to": ("255.255.255.255", 68)}),
            select(ACK, ONE, has={"via": Via.FRAME}),
            request(ACK, header={"ciaddr": ONE}, has={"via": Via.UNICAST, "to": (ONE, 68)}),
            select(NAK, TWO, chaddr=B, has={"to": ("255.255.255.255", 68)}),
            request(NAK, chaddr=B, header={"ciaddr": ONE}, has={"to": ("255.255.255.255", 68)}),
        ),
    ),
)

CASES = (
    *SELECTING,
    *REBOOTING,
    *RENEWING,
    *RELEASING,
    *DECLINING,
    *INFORMING,
    *FIELDS,
    *TIMES,
    *OPTIONS,
    *RESERVING,
    *RELAYING,
    *SHARING,
    *RAPID,
    *IDENTITY,
    *WAYS,
)


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_conversation_goes_as_the_standards_say(case: Case) -> None:
    engine = DhcpEngine(case.plan, ())
    now = NOW
    for number, say in enumerate(case.says):
        now += say.after
        arrival = Arrival(interface="eth0", source=IPv4Address(0))
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
