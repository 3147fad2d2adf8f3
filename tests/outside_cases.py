"""The table: what is configured, what is asked, and what must come.

What is intended to differ from Kea or from the letter of an RFC says so in the case's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outside_lab import ACK, DECLINE, DISCOVER, INFORM, NAK, OFFER, RELEASE, REQUEST, US

NO_MAC = bytes(6)
FORGE = bytes.fromhex("ff010203ff04")


def _same(payload: Any) -> Any:
    return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """One packet, and the kind of the reply that must come; None: none may.

    `eventually`: it is asked again until it is answered; `raw` changes the message's bytes.
    """

    kind: int | None
    reply: int | None = None
    options: tuple[Any, ...] = ()
    mac: str | bytes = "A"
    header: Mapping[str, Any] = field(default_factory=dict)
    has: Mapping[Any, Any] = field(default_factory=dict)
    lacks: tuple[int, ...] = ()
    eventually: bool = False
    raw: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A subnet's settings, other tables of the site file, and a conversation.

    `direct` is on a wire of its own; `more` and `far` are addresses of ours and of the other end.
    """

    name: str
    says: tuple[Say, ...]
    subnet: str = ""
    site: str = ""
    direct: bool = False
    more: tuple[str, ...] = ()
    far: tuple[str, ...] = ()


def discover(reply: int | None = OFFER, *options: Any, **more: Any) -> Say:
    return Say(kind=DISCOVER, reply=reply, options=options, **more)


def request(reply: int | None = ACK, *options: Any, **more: Any) -> Say:
    return Say(kind=REQUEST, reply=reply, options=options, **more)


def select(
    reply: int | None = ACK, at: str = "@50", *options: Any, us: str = US, **more: Any
) -> Say:
    chosen = (("server_id", us), ("requested_addr", at), *options)
    return Say(kind=REQUEST, reply=reply, options=chosen, **more)


def bound(mac: str | bytes = "A", at: str = "@50", *options: Any, us: str = US) -> tuple[Say, ...]:
    return (
        discover(OFFER, *options, mac=mac, has={"yiaddr": at, 54: us}),
        select(ACK, at, *options, mac=mac, us=us, has={"yiaddr": at, 54: us}),
    )


def release(at: str = "@50", *options: Any, us: str = US, **more: Any) -> Say:
    header = {"ciaddr": at} | more.pop("header", {})
    return Say(kind=RELEASE, options=(("server_id", us), *options), header=header, **more)


def decline(at: str = "@50", *options: Any, us: str = US, **more: Any) -> Say:
    chosen = (("server_id", us), ("requested_addr", at), *options)
    return Say(kind=DECLINE, options=chosen, **more)


def inform(reply: int | None = ACK, *options: Any, **more: Any) -> Say:
    header = {"ciaddr": "@200"} | more.pop("header", {})
    return Say(kind=INFORM, reply=reply, options=options, header=header, **more)


def ask(*codes: int) -> tuple[str, list[int]]:
    return ("param_req_list", list(codes))


def cid(text: str) -> tuple[str, bytes]:
    return ("client_id", bytes.fromhex(text))


def vendor(text: str) -> tuple[str, str]:
    return ("vendor_class_id", text)


ALL_STATES = (
    Case(name="a client is given the only address, with mask and server", says=bound()),
    Case(
        name="three pools of one address each, in order",
        subnet='pool = ["@1-@1", "@5-@5", "@9-@9"]\n',
        says=(*bound("A", "@1"), *bound("B", "@5"), *bound("C", "@9"), discover(None, mac="D")),
    ),
    Case(
        name="a pool whose first and last host addresses are lent",
        subnet='pool = "@254-@254"\n',
        says=bound("A", "@254"),
    ),
    Case(name="the pool is empty", says=(*bound(), discover(None, mac="B"))),
    Case(
        name="a hardware address of zeros with a client-id",
        says=(
            *bound(NO_MAC, "@50", cid("00010203040506")),
            discover(None, cid("00020304050607"), mac=NO_MAC),
            discover(None, cid("11020304050607"), mac="B"),
        ),
    ),
    Case(name="a hardware address of zeros without one", says=bound(NO_MAC)),
    Case(name="a hardware address with the group bit", says=bound(FORGE)),
    Case(name="another client's address", says=(*bound(), select(NAK, mac="B", has={54: US}))),
    Case(
        name="REQUEST without DISCOVER, to us, without an address",
        says=(request(ACK, ("server_id", US), has={"yiaddr": "@50"}),),
    ),
    Case(
        name="REQUEST without DISCOVER, to us, with a free address",
        says=(select(ACK, has={"yiaddr": "@50"}),),
    ),
    Case(name="REQUEST to another server", says=(discover(), select(None, us="10.99.0.77"))),
    Case(
        name="the offer is free again when its client takes another server",
        says=(discover(), select(None, us="10.99.0.77"), discover(mac="B", has={"yiaddr": "@50"})),
    ),
    Case(name="an offered address is nobody else's", says=(discover(), discover(None, mac="B"))),
    Case(name="an address outside every pool", says=(discover(), select(NAK, "@99"))),
    Case(
        name="reboot with its own address",
        says=(*bound(), request(ACK, ("requested_addr", "@50"), has={54: US, "yiaddr": "@50"})),
    ),
    Case(
        name="reboot with a wrong address",
        says=(*bound(), request(NAK, ("requested_addr", "185.0.50.0"), has={54: US})),
    ),
    Case(
        name="reboot with a wrong address of this network",
        says=(*bound(), request(NAK, ("requested_addr", "@77"))),
    ),
    Case(name="reboot without an address: silence", says=(request(None), *bound())),
    Case(name="reboot of an unknown: silence", says=(request(None, ("requested_addr", "@50")),)),
    Case(
        name="reboot of an unknown in a network that is not ours to speak for",
        subnet="authoritative = false\n",
        says=(request(None, ("requested_addr", "185.0.50.0")),),
    ),
    Case(
        name="renewing and rebinding",
        says=(
            *bound(),
            request(ACK, header={"ciaddr": "@50"}, has={"yiaddr": "@50", "ciaddr": "@50", 54: US}),
            request(NAK, mac="B", header={"ciaddr": "@50"}, has={"ciaddr": "0.0.0.0"}),
        ),
    ),
    Case(
        name="a renewal that names its address twice, as dhcping does",
        says=(
            *bound(),
            request(
                ACK, ("requested_addr", "@50"), header={"ciaddr": "@50"}, has={"ciaddr": "@50"}
            ),
            request(NAK, ("requested_addr", "@50"), header={"ciaddr": "@50"}, mac="B"),
            request(None, ("requested_addr", "@51"), header={"ciaddr": "@50"}, mac="B"),
        ),
    ),
    Case(
        name="a renewal of an unknown client with a free address of a pool is granted",
        says=(request(ACK, header={"ciaddr": "@50"}, has={"yiaddr": "@50"}),),
    ),
    Case(
        name="a lease runs out and the address goes to another",
        subnet='lease = "1s"\n',
        says=(*bound(), discover(OFFER, mac="B", eventually=True, has={"yiaddr": "@50"})),
    ),
    Case(
        name="the address that is asked for, where it is free",
        subnet='pool = "@50-@60"\n',
        says=(
            discover(OFFER, ("requested_addr", "@57"), has={"yiaddr": "@57"}),
            discover(OFFER, ("requested_addr", "@57"), mac="B", has={"yiaddr": "@50"}),
            discover(OFFER, ("requested_addr", "@200"), mac="C", has={"yiaddr": "@51"}),
        ),
    ),
    Case(
        name="one xid is not another's",
        says=(
            discover(header={"xid": 7}, has={"xid": 7}),
            select(ACK, header={"xid": 0xFFFFFFFF}, has={"xid": 0xFFFFFFFF}),
        ),
    ),
)

RELEASING = (
    Case(name="released, and the next has it", says=(*bound(), release(), *bound("B"))),
    Case(
        name="released, and a client with the zero address has it",
        says=(*bound(), release(), *bound(NO_MAC, "@50", cid("00010203040111"))),
    ),
    *(
        Case(
            name=f"not released: {why}",
            says=(*bound("A", "@50", cid("01aa01")), said, discover(None, mac="D")),
        )
        for why, said in (
            ("other hardware and client-id", release("@50", cid("01bb"), mac="B")),
            ("another client-id", release("@50", cid("01bb"))),
            ("no client-id", release("@50")),
            ("no server-id", Say(kind=RELEASE, options=(cid("01aa01"),), header={"ciaddr": "@50"})),
            ("another server", release("@50", cid("01aa01"), us="10.9.9.9")),
            ("ciaddr 0", release("0.0.0.0", cid("01aa01"))),
            ("ciaddr of elsewhere", release("192.0.2.1", cid("01aa01"))),
        )
    ),
    Case(
        name="the same client-id releases from other hardware",
        says=(
            *bound("A", "@50", cid("01aa01")),
            release("@50", cid("01aa01"), mac="B"),
            *bound("D"),
        ),
    ),
    Case(name="a release twice is harmless", says=(*bound(), release(), release(), *bound("B"))),
)

DECLINING = (
    Case(
        name="declined: nobody gets it, and after the quarantine everybody",
        says=(
            *bound(),
            decline(),
            discover(None, mac="B"),
            discover(None),
            discover(OFFER, mac="B", eventually=True, has={"yiaddr": "@50"}),
        ),
    ),
    Case(
        name="an offer may be declined too", says=(discover(), decline(), discover(None, mac="B"))
    ),
    *(
        Case(
            name=f"not declined: {why}",
            says=(*bound("A", "@50", cid("01aa01")), said, select(ACK, "@50", cid("01aa01"))),
        )
        for why, said in (
            ("no server-id", Say(kind=DECLINE, options=(("requested_addr", "@50"), cid("01aa01")))),
            ("no address", Say(kind=DECLINE, options=(("server_id", US), cid("01aa01")))),
            ("another client-id", decline("@50", cid("01bb"))),
            ("other hardware", decline("@50", mac="B")),
            ("another address", decline("@51", cid("01aa01"))),
        )
    ),
    Case(
        name="a reserved address that is declined: its client gets another of the pool",
        subnet='pool = "@50-@51"\n',
        site='[[reservation]]\nmac = "%A"\naddress = "@50"\n',
        says=(*bound(), decline(), discover(has={"yiaddr": "@51"})),
    ),
)

INFORMING = (
    Case(
        name="INFORM: settings, no lease, to ciaddr",
        direct=True,
        subnet='options = { time-offset = 50, routers = "100.100.100.10,50.50.50.5" }\n',
        says=(
            inform(
                ACK,
                ask(1, 2, 3),
                header={"from": "@200"},
                has={
                    "yiaddr": "0.0.0.0",
                    "ciaddr": "@200",
                    1: "255.255.255.0",
                    2: b"\0\0\0\x32",
                    3: "100.100.100.10 50.50.50.5",
                    "to": ("@200", 68),
                },
                lacks=(51, 58, 59),
            ),
            inform(
                ACK, ask(1), header={"from": "@200", "ciaddr": "0.0.0.0"}, has={"yiaddr": "0.0.0.0"}
            ),
        ),
        far=("@200/24",),
    ),
    Case(
        name="INFORM in a network without a pool",
        subnet="pool = []\n",
        says=(inform(has={54: US}),),
    ),
    Case(
        name="INFORM through a relay goes back through it", says=(inform(has={"to": ("@1", 67)}),)
    ),
    Case(name="INFORM takes no address", says=(inform(header={"ciaddr": "@50"}), *bound("B"))),
    Case(
        name="INFORM for another server: silence", says=(inform(None, ("server_id", "10.9.9.9")),)
    ),
)

HEADER = (
    Case(
        name="what is the client's comes back, what is the relay's does not grow",
        says=(
            discover(
                header={"xid": 0xDEADBEEF, "flags": 0x8000, "secs": 3, "hops": 4},
                has={"xid": 0xDEADBEEF, "flags": 0x8000, "htype": 1, "hlen": 6, "giaddr": "@1"},
            ),
        ),
    ),
    *(
        Case(
            name=f"ciaddr and siaddr {text} of a client do not come back",
            says=(
                discover(
                    header={"ciaddr": text, "siaddr": text, "sname": b"x", "file": b"boot.scr"},
                    has={"ciaddr": "0.0.0.0", "siaddr": "0.0.0.0", "sname": b"", "file": b""},
                ),
                select(ACK),
                select(
                    NAK,
                    mac=NO_MAC,
                    header={"ciaddr": text, "siaddr": text},
                    has={"ciaddr": "0.0.0.0", "siaddr": "0.0.0.0"},
                ),
            ),
        )
        for text in ("@10", "255.255.255.255")
    ),
    Case(
        name="next-server, server-hostname, boot-file-name of a subnet",
        subnet='next_server = "192.0.2.234"\nserver_name = "hal9000"\nboot_file = "/dev/null"\n',
        says=(
            discover(has={"siaddr": "192.0.2.234", "sname": b"hal9000", "file": b"/dev/null"}),
            select(ACK, has={"siaddr": "192.0.2.234", "sname": b"hal9000", "file": b"/dev/null"}),
            select(NAK, mac="B", has={"siaddr": "0.0.0.0", "sname": b"", "file": b""}),
        ),
    ),
    Case(
        name="of a reservation before those of the subnet",
        subnet='next_server = "192.0.2.1"\nboot_file = "a"\n',
        site='[[reservation]]\nmac = "%A"\n'
        'next_server = "192.0.2.2"\nserver_name = "b"\nboot_file = "b"\n',
        says=(
            discover(has={"siaddr": "192.0.2.2", "sname": b"b", "file": b"b"}),
            discover(None, mac="B"),
        ),
    ),
    Case(
        name="hlen 16, hlen 0 and other media",
        subnet='pool = "@50-@60"\n',
        says=(
            discover(header={"hlen": 16, "chaddr": bytes(range(16))}, has={"hlen": 16}),
            discover(OFFER, cid("01aa"), header={"htype": 32, "hlen": 0, "chaddr": b""}),
            discover(None, header={"htype": 32, "hlen": 0, "chaddr": b""}),
            discover(header={"htype": 6}, has={"htype": 6}),
            discover(None, header={"hlen": 17}),
        ),
    ),
    Case(
        name="a NAK has 53, 54, and what is the client's own",
        says=(
            discover(),
            select(
                NAK,
                "@99",
                cid("01aa"),
                ("relay_agent_information", b"\x01\x01x"),
                ask(1, 3, 6, 15, 51),
                has={61: b"\x01\xaa", 82: b"\x01\x01x", "flags": 0x8000, "last": 82},
                lacks=(1, 3, 6, 15, 51, 58, 59),
            ),
        ),
    ),
)

CASES = (*ALL_STATES, *RELEASING, *DECLINING, *INFORMING, *HEADER)
