"""What DHCPv4 suites ask of reservations, relays, shared networks and identity.

RFC 2131, 3011, 3046, 3527, 4039, 5107.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Network

import pytest
from dhcp_cases import (
    ACK,
    DISCOVER,
    FROM_US,
    INFORM,
    NAK,
    OFFER,
    ONE,
    RELEASE,
    TWO,
    WANT_ONE,
    A,
    B,
    C,
    Case,
    Say,
    address,
    bound,
    client_id,
    converse,
    discover,
    ip,
    plan,
    pool,
    request,
    said,
    select,
    subnet,
    wishes,
)

from netboot.dhcp_reply import Via
from netboot.network import ClientClass, Identify, Match, Reservation

IN_POOL = subnet(pools=(pool(ONE, "192.0.2.60"),))
UUID = bytes(range(16))
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
            (
                "remote-id",
                {"remote_id": b"switch 3"},
                ((82, b"\x01\x06port 9\x02\x08switch 3"),),
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
        "a relay that asks from another port is answered there",
        BOTH,
        (
            discover(OFFER, (82, b"\x13\x00"), header=VIA, arrival=6767, has={"to": (RELAY, 6767)}),
            discover(OFFER, (82, b"\x01\x01x"), header=VIA, arrival=6767, has={"to": (RELAY, 67)}),
            request(
                NAK,
                ip("requested_addr", "10.9.9.9"),
                (82, b"\x13\x00"),
                header=VIA,
                arrival=6767,
                has={"to": (RELAY, 6767)},
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

CASES = (*RESERVING, *RELAYING, *SHARING, *RAPID, *IDENTITY, *WAYS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_conversation_goes_as_the_standards_say(case: Case) -> None:
    converse(case)
