"""What DHCPv4 suites ask of a server's states, with scapy as a codec that is not ours.

RFC 2131, 4.3 and 4.4: selecting, rebooting, renewing, releasing, declining, informing.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from dhcp_cases import (
    ACK,
    DECLINE,
    FROM_US,
    INFORM,
    NAK,
    NO_MAC,
    OFFER,
    ONE,
    RELEASE,
    TWO,
    US,
    WANT_ONE,
    A,
    B,
    C,
    Case,
    Say,
    bound,
    client_id,
    converse,
    discover,
    ip,
    option,
    plan,
    pool,
    request,
    said,
    select,
    subnet,
    wishes,
)

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

CASES = (*SELECTING, *REBOOTING, *RENEWING, *RELEASING, *DECLINING, *INFORMING)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_conversation_goes_as_the_standards_say(case: Case) -> None:
    converse(case)
