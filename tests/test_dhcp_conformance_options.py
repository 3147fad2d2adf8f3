"""What DHCPv4 suites ask of a reply's fields, times and options. RFC 2131, 2132, 4702, 6842."""

from __future__ import annotations

from datetime import timedelta

import pytest
from dhcp_cases import (
    ACK,
    NAK,
    NO_MAC,
    OFFER,
    ONE,
    TWO,
    A,
    B,
    Case,
    address,
    bound,
    client_id,
    converse,
    discover,
    option,
    plan,
    pool,
    said,
    select,
    subnet,
    wishes,
)

from netboot.network import ClientClass, Identify, Match, Reservation

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
    *(
        Case(
            f"T1 and T2 of a lease of {lease} s are whole seconds, never longer than it",
            plan(subnet(lease=timedelta(seconds=lease))),
            (discover(has={"lease_time": lease, "renewal_time": t1, "rebinding_time": t2}),),
        )
        for lease, t1, t2 in ((1, 0, 0), (7, 3, 6), (601, 300, 525))
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

CASES = (*FIELDS, *TIMES, *OPTIONS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_conversation_goes_as_the_standards_say(case: Case) -> None:
    converse(case)
