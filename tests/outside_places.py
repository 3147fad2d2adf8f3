"""The table: who gets which address, by reservations, classes, relays and shared networks."""

from __future__ import annotations

from typing import Any

from outside_cases import (
    FORGE,
    Case,
    Say,
    ask,
    bound,
    cid,
    decline,
    discover,
    inform,
    release,
    request,
    select,
    vendor,
)
from outside_lab import ACK, DISCOVER, NAK, OFFER, US

UUID = bytes(range(16))


def agent(data: bytes) -> tuple[str, bytes]:
    return ("relay_agent_information", data)


_RESERVED = '[[reservation]]\n%s\naddress = "@%d"\n'
_CIRCUIT = agent(b"\x01\x06port 7\x02\x03rem")
RESERVING = (
    *(
        Case(
            name=f"a reservation {where} the pool by {how}",
            subnet='pool = "@50-@60"\n',
            site=_RESERVED % (by, at),
            says=(
                *bound("A", f"@{at}", *options),
                request(ACK, *options, header={"ciaddr": f"@{at}"}, has={"yiaddr": f"@{at}"}),
                discover(mac="C", has={"yiaddr": "@50"}),
                select(NAK, f"@{at}", mac="C"),
                release(f"@{at}", *options),
                discover(OFFER, ("requested_addr", f"@{at}"), mac="D", has={"yiaddr": "@51"}),
            ),
        )
        for where, at in (("inside", 55), ("outside", 10))
        for how, by, options in (
            ("hardware address", 'mac = "%A"', ()),
            ("client-id in pairs", 'client_id = "01:0a:0b"', (cid("010a0b"),)),
            (
                "client-id in hex",
                'client_id = "hex:0a0b%n"'.replace("%n", f"{at:02x}"),
                (cid(f"0a0b{at:02x}"),),
            ),
            ("UUID", f'uuid = "hex:{UUID.hex()}"', ((97, b"\0" + UUID),)),
            ("circuit-id", 'circuit_id = "port 7"', (_CIRCUIT,)),
        )
    ),
    Case(
        name="the same hardware address in two subnets",
        site=_RESERVED % (f'mac = "{FORGE.hex(":")}"', 20),
        subnet='pool = "@50-@60"\n',
        says=bound(FORGE, "@20"),
    ),
    Case(
        name="and in the other",
        site=_RESERVED % (f'mac = "{FORGE.hex(":")}"', 21),
        subnet='pool = "@50-@60"\n',
        says=bound(FORGE, "@21"),
    ),
    Case(
        name="a reservation without a pool",
        subnet="pool = []\n",
        site=_RESERVED % ('mac = "%A"', 20),
        says=(*bound("A", "@20"), discover(None, mac="B")),
    ),
    Case(
        name="a host name alone, and one with an address",
        site='[[reservation]]\nmac = "%A"\nname = "host-a%n"\n'
        + '[[reservation]]\nmac = "%B"\nname = "host-b%n"\naddress = "@9"\n',
        says=(
            discover(OFFER, ask(12), has={12: b"host-a" + b"%n", "yiaddr": "@50"}),
            discover(OFFER, ("hostname", b"mine"), mac="B", has={12: b"host-b" + b"%n"}),
        ),
    ),
    Case(
        name="a host name of the client is not echoed, and a fully qualified one is answered",
        site='[[reservation]]\nmac = "%B"\nname = "host-c%n"\naddress = "@9"\n',
        says=(
            discover(OFFER, ("hostname", b"mine"), ask(12), lacks=(12,)),
            discover(
                OFFER,
                (81, b"\x01\0\0mine.local"),
                mac="B",
                has={81: b"\x01\xff\xffhost-c%n.lab.example.net"},
            ),
            discover(OFFER, (81, b"\x00\0\0"), has={81: b"\x08\xff\xff"}),
        ),
    ),
    Case(
        name="a reboot into another's reservation: silence, or NAK to a known one",
        subnet='pool = "@50-@60"\n',
        site=_RESERVED % ('mac = "%B"', 50),
        says=(
            request(None, ("requested_addr", "@50")),
            *bound("A", "@51"),
            request(NAK, ("requested_addr", "@50")),
        ),
    ),
    Case(
        name="a reservation's client asks for an address of the pool and is sent to its own",
        subnet='pool = "@50-@60"\n',
        site=_RESERVED % ('mac = "%A"', 10),
        says=(
            discover(OFFER, ("requested_addr", "@55"), has={"yiaddr": "@10"}),
            select(NAK, "@55"),
            request(NAK, header={"ciaddr": "@55"}),
            request(NAK, ("requested_addr", "@55")),
            select(ACK, "@10"),
        ),
    ),
    Case(
        name="by hardware address before UUID, circuit and client-id",
        site="".join(
            _RESERVED % entry
            for entry in (
                ('mac = "%A"', 10),
                (f'uuid = "hex:{UUID[::-1].hex()}"', 11),
                ('circuit_id = "c1"', 12),
                ('client_id = "hex:7701"', 13),
            )
        ),
        says=(
            discover(
                OFFER,
                cid("7701"),
                agent(b"\x01\x02c1"),
                (97, b"\0" + UUID[::-1]),
                has={"yiaddr": "@10"},
            ),
            discover(
                OFFER,
                cid("7701"),
                agent(b"\x01\x02c1"),
                (97, b"\0" + UUID[::-1]),
                mac="B",
                has={"yiaddr": "@11"},
            ),
            discover(OFFER, cid("7701"), agent(b"\x01\x02c1"), mac="C", has={"yiaddr": "@12"}),
            discover(OFFER, cid("7701"), mac="D", has={"yiaddr": "@13"}),
        ),
    ),
)

_CLASSES = """pool = [
  { range = "@50-@50", classes = "c%n" },
  { range = "@60-@69" },
]
"""


def classed(how: str, condition: str, options: tuple[Any, ...], without: Any = None) -> Case:
    """A class with a pool of its own; with `without` a client is not in it."""
    outside = []
    if without is not None:
        outside = [discover(OFFER, *without, mac="B", has={"yiaddr": "@60"}, lacks=(17,))]
    return Case(
        name=f"a class by {how}",
        subnet=_CLASSES,
        site='[[class]]\nname = "c%n"\nmac = "%M"\n'
        + condition
        + '\noptions = { root-path = "/c" }\nalways = "root-path"\n',
        says=(
            *outside,
            discover(OFFER, *options, has={"yiaddr": "@50", 17: b"/c"}),
            select(ACK, "@50", *options, has={17: b"/c"}),
        ),
    )


CLASSIFYING = (
    classed(
        "the start of option 60",
        'vendor_class = "PXEClinet"',
        (vendor("PXEClinet:Arch:00007"),),
        (vendor("PXEClien"),),
    ),
    classed(
        "option 60 whole",
        'option = { vendor-class-identifier = "whole" }',
        (vendor("whole"),),
        (vendor("wholes"),),
    ),
    classed(
        "option 61 in hex",
        'option = { 61 = "hex:ff010203ff041122" }',
        (cid("ff010203ff041122"),),
        (cid("ff0102"),),
    ),
    classed("option 61 being there", "option = { 61 = true }", (cid("01"),), ()),
    classed(
        "option 12 as text",
        'option = { host-name = "sinister" }',
        (("hostname", b"sinister"),),
        (("hostname", b"x"),),
    ),
    classed("option 93", "architecture = [7, 9]", ((93, b"\0\x09"),), ((93, b"\0\x06"),)),
    classed(
        "two conditions at once",
        'vendor_class = "both"\noption = { 12 = "b" }',
        (vendor("both"), ("hostname", b"b")),
        (vendor("both"),),
    ),
    classed(
        "two options at once",
        'option = { 60 = "both", 12 = "b" }',
        (vendor("both"), ("hostname", b"b")),
        (vendor("both"),),
    ),
    classed("option 77, bare", 'user_class = "bare%n"', ((77, b"bare%n"),), ((77, b"bar"),)),
    classed(
        "option 77, counted", 'user_class = "two"', ((77, b"\x03one\x03two"),), ((77, b"\x03one"),)
    ),
    classed("circuit-id", 'circuit_id = "c77"', (agent(b"\x01\x03c77"),), (agent(b"\x01\x03c78"),)),
    classed(
        "remote-id",
        'remote_id = "hex:0102"',
        (agent(b"\x02\x02\x01\x02"),),
        (agent(b"\x01\x02\x01\x02"),),
    ),
    classed("the relay", 'relay = "@1"', ()),
    classed(
        "option 97",
        f'uuid = "hex:{UUID.hex()}"',
        ((97, b"\0" + UUID),),
        ((97, b"\0" + UUID[::-1]),),
    ),
    classed("option 82 being there", "option = { 82 = true }", (agent(b"\x03\x01\x01"),), ()),
    classed(
        "an option in pieces",
        f'option = {{ 12 = "{"y" * 300}" }}',
        ((12, b"y" * 255), (12, b"y" * 45)),
        ((12, b"y" * 255),),
    ),
    classed("not being known", "known = false", ()),
    Case(
        name="known and unknown clients in pools of their own",
        subnet='pool = [{ range = "@50-@50", classes = "un%n" }, '
        '{ range = "@55-@55", classes = "kn%n" }]\n',
        site='[[class]]\nname = "un%n"\nknown = false\n[[class]]\nname = "kn%n"\nknown = true\n'
        + '[[reservation]]\nmac = "%B"\n',
        says=(*bound("A", "@50"), *bound("B", "@55"), discover(None, mac="C")),
    ),
    Case(
        name="names of classes, subnets and rules as Kea has them",
        subnet='pool = [{ range = "@50-@50", classes = "Client_Class_%n" }]\n',
        site='[[class]]\nname = "Client_Class_%n"\nvendor_class = "ccc"\n',
        says=(discover(None), discover(OFFER, vendor("ccc"), has={"yiaddr": "@50"})),
    ),
    Case(
        name="next-server, server name and boot file of a class",
        site='[[class]]\nname = "b%n"\nvendor_class = "bbb%n"\nnext_server = "192.0.2.7"\n'
        + 'server_name = "hal9000"\nboot_file = "/boot/b"\n',
        says=(
            discover(
                OFFER,
                vendor("bbb%n"),
                has={"siaddr": "192.0.2.7", "sname": b"hal9000", "file": b"/boot/b"},
            ),
            discover(has={"siaddr": "0.0.0.0", "sname": b"", "file": b""}),
        ),
    ),
    Case(
        name="two classes at once: the first of the file says",
        site='[[class]]\nname = "p%n"\nvendor_class = "pq%n"\noptions = { root-path = "p" }\n'
        + '[[class]]\nname = "q%n"\nvendor_class = "pq%n"\n'
        + 'options = { root-path = "q", nis-domain = "q" }\n',
        says=(discover(OFFER, vendor("pq%n"), ask(17, 40), has={17: b"p", 40: b"q"}),),
    ),
)

RELAYING = (
    Case(
        name="option 82 comes back whole and last, in OFFER, ACK and NAK",
        says=(
            discover(
                OFFER,
                agent(b"\x01\x02ab\x02\x01z\x97\x05vpnid"),
                cid("01aa"),
                ask(82, 1),
                has={82: b"\x01\x02ab\x02\x01z\x97\x05vpnid", "last": 82, "to": ("@1", 67)},
            ),
            select(
                ACK,
                "@50",
                agent(b"\x01\x02ab"),
                has={82: b"\x01\x02ab", "last": 82, "giaddr": "@1"},
            ),
            select(NAK, "@99", agent(b"\x01\x02ab"), has={82: b"\x01\x02ab", "last": 82}),
        ),
    ),
    Case(
        name="option 82 of 255 bytes, of none, and one that is broken",
        says=(
            discover(OFFER, agent(b"\x01\xfd" + b"x" * 253), has={82: b"\x01\xfd" + b"x" * 253}),
            discover(OFFER, agent(b""), has={82: b""}),
            discover(OFFER, agent(b"\x01\xff\x01"), has={82: b"\x01\xff\x01"}),
        ),
    ),
    Case(
        name="link selection before giaddr",
        says=(
            discover(
                OFFER,
                ("relay_agent_information", "%link"),
                header={"giaddr": "10.99.0.2"},
                has={"yiaddr": "@50", "giaddr": "10.99.0.2", "to": ("10.99.0.2", 67)},
            ),
            request(
                ACK,
                ("server_id", US),
                ("relay_agent_information", "%link"),
                header={"giaddr": "10.99.0.2"},
                has={"yiaddr": "@50"},
            ),
        ),
    ),
    Case(
        name="a relay whose address is elsewhere",
        subnet='relays = ["10.77.240.%n", "10.77.241.%n"]\n',
        says=(
            discover(
                header={"giaddr": "10.77.241.%n"}, has={"yiaddr": "@50", "to": ("10.77.241.%n", 67)}
            ),
            select(ACK, header={"giaddr": "10.77.240.%n"}, has={"yiaddr": "@50"}),
        ),
    ),
    Case(
        name="a relay of a network that nobody serves: silence, and NAK to a REQUEST that names us",
        says=(
            discover(None, header={"giaddr": "10.77.239.1"}),
            request(None, ("requested_addr", "10.77.239.5"), header={"giaddr": "10.77.239.1"}),
            select(
                NAK, "10.77.239.5", header={"giaddr": "10.77.239.1"}, has={54: US, "flags": 0x8000}
            ),
        ),
    ),
    Case(
        name="the relay's server identifier stands for ours",
        says=(
            discover(OFFER, agent(b"\x0b\x04\x0a\x63\x00\x63"), has={54: "10.99.0.99"}),
            select(None, us="10.99.0.99"),
            select(
                ACK,
                "@50",
                agent(b"\x0b\x04\x0a\x63\x00\x63"),
                us="10.99.0.99",
                has={54: "10.99.0.99"},
            ),
            release("@50", agent(b"\x0b\x04\x0a\x63\x00\x63"), us="10.99.0.99"),
            *bound("B"),
        ),
    ),
    Case(
        name="subnet selection by a relay",
        says=(
            discover(
                OFFER,
                (118, "%network"),
                header={"giaddr": "10.99.0.2"},
                has={"yiaddr": "@50", 118: "%network"},
            ),
        ),
    ),
    Case(
        name="a relay with two hops",
        says=(discover(header={"hops": 16}, has={"yiaddr": "@50", "hops": 0}),),
    ),
    Case(
        name="decline and release through a relay",
        says=(*bound(), decline(), discover(None, mac="B")),
    ),
)

SHARING = (
    Case(
        name="two subnets on one wire",
        direct=True,
        subnet='shared = "sh%n"\npool = "@50-@50"\n',
        site="""[[shared_network]]
name = "sh%n"
[[subnet]]
name = "second%n"
interface = "%dev"
network = "10.78.%n.0/24"
appliance = "10.78.%n.2"
shared = "sh%n"
lease = "600s"
pool = "10.78.%n.50-10.78.%n.50"
""",
        more=("10.78.%n.2/24",),
        far=("10.78.%n.9/24",),
        says=(
            *bound("A", "@50", us="@2"),
            *bound("B", "10.78.%n.50", us="10.78.%n.2"),
            discover(None, mac="C"),
            discover(OFFER, mac="B", has={51: 600}),
            request(ACK, ("requested_addr", "10.78.%n.50"), mac="B"),
            release("10.78.%n.50", us="10.78.%n.2", mac="B"),
            *bound("C", "10.78.%n.50", us="10.78.%n.2"),
            inform(
                ACK, header={"ciaddr": "10.78.%n.9"}, has={54: "10.78.%n.2", 1: "255.255.255.0"}
            ),
        ),
    ),
    Case(
        name="a class chooses the subnet of a shared network",
        direct=True,
        subnet='shared = "sk%n"\npool = [{ range = "@50-@51", classes = "not%n" }]\n',
        site="""[[shared_network]]
name = "sk%n"
[[subnet]]
name = "other%n"
interface = "%dev"
network = "10.78.%n.0/24"
appliance = "10.78.%n.2"
shared = "sk%n"
pool = [{ range = "10.78.%n.50-10.78.%n.51", classes = "spec%n" }]
[[class]]
name = "spec%n"
mac = "%A"
[[class]]
name = "not%n"
mac = "%B"
[[reservation]]
mac = "%D"
address = "10.78.%n.200"
""",
        more=("10.78.%n.2/24",),
        says=(
            *bound("A", "10.78.%n.50", us="10.78.%n.2"),
            *bound("B", "@50", us="@2"),
            *bound("D", "10.78.%n.200", us="10.78.%n.2"),
            discover(None, mac="C"),
        ),
    ),
)

RAPID = (
    Case(
        name="rapid commit",
        subnet="rapid_commit = true\n",
        says=(
            Say(
                kind=DISCOVER,
                reply=ACK,
                options=((80, b""),),
                has={"yiaddr": "@50", 80: b"", 51: 4000},
            ),
            discover(None, (80, b""), mac="B"),
            request(ACK, header={"ciaddr": "@50"}, lacks=(80,)),
            discover(OFFER, lacks=(80,)),
        ),
    ),
    Case(
        name="no rapid commit where it is not set", says=(discover(OFFER, (80, b""), lacks=(80,)),)
    ),
)

CASES = (*RESERVING, *CLASSIFYING, *RELAYING, *SHARING, *RAPID)
