"""The table: packets that are large, split, odd or wrong, and how replies leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outside_cases import (
    FORGE,
    NO_MAC,
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
)
from outside_lab import ACK, DISCOVER, EVERYBODY, NAK, OFFER, REQUEST


def cut(size: int) -> Callable[[Any], Any]:
    return lambda payload: bytes(payload)[:size]


def put(at: int, data: bytes) -> Callable[[Any], Any]:
    def change(payload: Any) -> bytes:
        raw = bytes(payload)
        return raw[:at] + data + raw[at + len(data) :]

    return change


def tail(data: bytes) -> Callable[[Any], Any]:
    """Put other options in the place of all of them."""
    return lambda payload: bytes(payload)[:240] + data


_DISCOVER = b"\x35\x01\x01"
_BIG = "".join(f'{code} = "{"abcdefghijklmnop"[code % 16] * 50}"\n' for code in range(224, 240))
_MANY = [1, 3, 6, *range(224, 240)]
_OPTIONS = "[subnet.options]\n" + _BIG
SIZES = (
    Case(
        name="a reply is at least 300 bytes, and 548 where the client says nothing",
        subnet=_OPTIONS,
        says=(
            discover(has={"size": 300}),
            discover(OFFER, ask(*_MANY), has={"fits": 548, 52: b"\x03", 224: b"a" * 50}),
        ),
    ),
    Case(
        name="maximum message size: 576, 1000, 1472, 1500, 65535, and what is too small",
        subnet=_OPTIONS,
        says=(
            discover(
                OFFER, ("max_dhcp_size", 1500), ask(*_MANY), has={239: b"p" * 50}, lacks=(52,)
            ),
            discover(
                OFFER, ("max_dhcp_size", 65535), ask(*_MANY), has={239: b"p" * 50}, lacks=(52,)
            ),
            discover(
                OFFER, ("max_dhcp_size", 1472), ask(*_MANY), has={239: b"p" * 50}, lacks=(52,)
            ),
            discover(
                OFFER, ("max_dhcp_size", 576), ask(*_MANY), has={52: b"\x03", 1: "255.255.255.0"}
            ),
            discover(OFFER, ("max_dhcp_size", 0), ask(*_MANY), has={52: b"\x03"}),
            discover(OFFER, ("max_dhcp_size", 300), ask(*_MANY), has={52: b"\x03"}),
        ),
    ),
    Case(
        name="file and sname are the plan's: options go elsewhere",
        subnet='boot_file = "loader.efi"\nserver_name = "files"\n' + _OPTIONS,
        says=(
            discover(
                OFFER, ask(*_MANY), has={"file": b"loader.efi", "sname": b"files"}, lacks=(52,)
            ),
        ),
    ),
    Case(
        name="one option of 600 bytes goes out in pieces and is whole again",
        subnet='[subnet.options]\n230 = "%s"\n' % ("z" * 600),
        says=(discover(OFFER, ("max_dhcp_size", 1472), ask(230), has={230: b"z" * 600}),),
    ),
    Case(
        name="a request's option in pieces, around others, in file and sname",
        says=(
            Say(
                kind=DISCOVER,
                reply=OFFER,
                raw=tail(_DISCOVER + b"\x3d\x02\x01\xaa\x0c\x01x\x3d\x02\xbb\xcc\xff"),
                has={61: b"\x01\xaa\xbb\xcc"},
            ),
            Say(
                kind=DISCOVER,
                reply=OFFER,
                header={"file": b"\x3d\x02\xbb\xcc\xff", "sname": b"\x3d\x01\xdd\xff"},
                raw=tail(_DISCOVER + b"\x34\x01\x03\x3d\x02\x01\xaa\xff"),
                has={61: b"\x01\xaa\xbb\xcc\xdd"},
            ),
            Say(
                kind=DISCOVER,
                reply=OFFER,
                header={"sname": b"\x35\x01\x01\x3d\x01\x07\xff"},
                raw=tail(b"\x34\x01\x02\xff"),
                has={61: b"\x07"},
            ),
        ),
    ),
    Case(
        name="pads between options, bytes after END, no END, and a message of 241 bytes",
        says=(
            Say(
                kind=DISCOVER, reply=OFFER, raw=tail(b"\0\0" + _DISCOVER + b"\0\0\0\x0c\x01x\0\xff")
            ),
            Say(kind=DISCOVER, reply=OFFER, raw=tail(_DISCOVER + b"\xff\x36\x04\1\2\3\4")),
            Say(kind=DISCOVER, reply=OFFER, raw=tail(_DISCOVER)),
            Say(kind=DISCOVER, raw=tail(b"\xff")),
        ),
    ),
    Case(
        name="a message of 1400 bytes",
        says=(discover(OFFER, *((224 + number, b"x" * 200) for number in range(5))),),
    ),
)

_BAD = (
    ("nothing at all", lambda payload: b""),
    ("one byte", cut(1)),
    ("a header cut in the middle", cut(200)),
    ("no cookie", cut(236)),
    ("a wrong cookie", put(236, b"\1\2\3\4")),
    ("a BOOTREPLY", put(0, b"\2")),
    ("op 0", put(0, b"\0")),
    ("op 255", put(0, b"\xff")),
    ("hlen 255", put(2, b"\xff")),
    ("no message type", tail(b"\x0c\x01x\xff")),
    ("message type of no bytes", tail(b"\x35\0\xff")),
    ("message type of two bytes", tail(b"\x35\x02\1\1\xff")),
    ("message type twice", tail(_DISCOVER * 2 + b"\xff")),
    ("message type 0", tail(b"\x35\1\0\xff")),
    ("an OFFER", tail(b"\x35\1\2\xff")),
    ("an ACK", tail(b"\x35\1\5\xff")),
    ("a NAK", tail(b"\x35\1\6\xff")),
    ("message type 9", tail(b"\x35\1\x09\xff")),
    ("message type 255", tail(b"\x35\1\xff\xff")),
    ("an option that runs past the end", tail(_DISCOVER + b"\x0c\xc8xx")),
    ("a length that is not there", tail(_DISCOVER + b"\x0c")),
    ("option 50 of three bytes", tail(_DISCOVER + b"\x32\3\1\2\3\xff")),
    ("option 54 of no bytes", tail(_DISCOVER + b"\x36\0\xff")),
    ("option 52 of value 7", tail(_DISCOVER + b"\x34\1\7\xff")),
    ("a DISCOVER with a server", tail(_DISCOVER + b"\x36\4\x0a\x63\0\1\xff")),
)
WRONG = (
    *(
        Case(
            name=f"silence: {what}",
            subnet='pool = "@50-@60"\n',
            says=(Say(kind=DISCOVER, raw=change), discover()),
        )
        for what, change in _BAD
    ),
    Case(
        name="odd but harmless: options of wrong sizes that nobody needs",
        says=(
            discover(
                OFFER,
                (57, b"\1"),
                (51, b"\1\2"),
                (93, b"\0\7"),
                (97, b"\1"),
                (77, b"\xff\1"),
                (81, b"\1"),
            ),
            discover(OFFER, (61, b""), (60, b""), (12, b""), (82, b"\1")),
        ),
    ),
)

_EIGHT = 'pool = "@50-@58"\n'
WAYS = (
    Case(
        name="to the hardware address without the broadcast flag, to everybody with it",
        direct=True,
        subnet=_EIGHT,
        says=(
            discover(has={"to": ("@50", 68), "frame": "%A", "source": "@2", 54: "@2"}),
            discover(
                header={"flags": 0x8000},
                has={"to": (EVERYBODY, 68), "frame": b"\xff" * 6, "flags": 0x8000},
            ),
            select(ACK, us="@2", has={"to": ("@50", 68), "frame": "%A"}),
            select(ACK, us="@2", header={"flags": 0x8000}, has={"to": (EVERYBODY, 68)}),
            select(NAK, "@99", us="@2", mac="B", has={"to": (EVERYBODY, 68), "frame": b"\xff" * 6}),
            request(NAK, mac="B", header={"ciaddr": "@50"}, has={"to": (EVERYBODY, 68)}),
        ),
    ),
    Case(
        name="to ciaddr when renewing, by unicast and by broadcast",
        direct=True,
        far=("@10/24",),
        subnet=_EIGHT,
        site='[[reservation]]\nmac = "%A"\naddress = "@10"\n',
        says=(
            *bound("A", "@10", us="@2"),
            request(
                header={"ciaddr": "@10", "from": "@10", "to": "@2"},
                has={"to": ("@10", 68), "source": "@2"},
            ),
            request(header={"ciaddr": "@10", "from": "@10"}, has={"to": ("@10", 68)}),
            request(
                header={"ciaddr": "@10", "from": "@10", "flags": 0x8000}, has={"to": ("@10", 68)}
            ),
            release("@10", us="@2", header={"from": "@10", "to": "@2"}),
            request(ACK, ("requested_addr", "@10"), has={"to": ("@10", 68), "frame": "%A"}),
        ),
    ),
    Case(
        name="as suites have it: addresses of zeros and of groups on a wire",
        direct=True,
        subnet=_EIGHT,
        says=(
            *bound(NO_MAC, "@50", us="@2"),
            *bound(FORGE, "@51", us="@2"),
            select(NAK, "@99", us="@2", mac=NO_MAC),
            decline("@51", us="@2", mac=FORGE),
            discover(mac=FORGE, has={"yiaddr": "@52"}),
        ),
    ),
    Case(
        name="ciaddr of a DISCOVER on a wire",
        direct=True,
        subnet=_EIGHT,
        says=(
            discover(
                header={"ciaddr": "@57"}, has={"ciaddr": "0.0.0.0", "yiaddr": "@50", "frame": "%A"}
            ),
            discover(header={"ciaddr": EVERYBODY}, has={"ciaddr": "0.0.0.0"}),
        ),
    ),
    Case(
        name="a relay on the clients' own wire",
        direct=True,
        subnet=_EIGHT,
        says=(
            discover(
                header={"giaddr": "@200", "from": "@200"}, has={"yiaddr": "@50", "to": ("@200", 67)}
            ),
            discover(header={"giaddr": "@200", "flags": 0x8000}, has={"to": ("@200", 67)}),
            Say(
                kind=REQUEST,
                reply=NAK,
                options=(("requested_addr", "10.9.9.9"),),
                header={"giaddr": "@200"},
                has={"to": ("@200", 67), "flags": 0x8000},
            ),
            inform(header={"giaddr": "@200"}, has={"to": ("@200", 67)}),
        ),
        far=("@200/24",),
    ),
    Case(
        name="one hardware address with changing client-ids keeps its address",
        direct=True,
        subnet=_EIGHT,
        says=(
            *bound("A", "@50", us="@2"),
            *bound("A", "@50", cid("01aabb"), us="@2"),
            *bound("A", "@50", cid("ff" + "00" * 20), us="@2"),
            *bound("B", "@51", cid("01aabb"), us="@2"),
        ),
    ),
)

CASES = (*SIZES, *WRONG, *WAYS)
