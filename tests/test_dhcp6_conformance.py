"""A table of what DHCPv6 suites ask of a server, with scapy as a codec that is not ours.

RFC 8415, 16 to 19 and 21; 3646, 4580, 4649, 4704, 6939, 7083. One network, fd00:41:7::/64, we are
fd00:41:7::2; the pool has one address, ONE, unless said. Clients are on one wire and of one NIC, as
suites send them: their DUIDs alone tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from dhcp6_lab import NOW, SERVER_DUID, US, config6, subnet6
from scapy.layers import dhcp6 as six
from scapy.packet import NoPayload

from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_config import Dhcp6Config
from netboot.dhcp6_message import Kind6
from netboot.dhcp6_reply import Arrival6
from netboot.network import OptionValue, Reservation6, Subnet6Plan

ONE, TWO = "fd00:41:7::50", "fd00:41:7::51"
ELSEWHERE = "fd00:99::1"
WIRE = IPv6Address("fe80::9:ff:fe09:909")
NONE, NO_ADDRESS, NO_BINDING, NOT_ON_LINK, MULTICAST, NO_PREFIX = 0, 2, 3, 4, 5, 6


def plan(first: str = ONE, last: str | None = None, **changes: Any) -> Subnet6Plan:
    pools = ((IPv6Address(first), IPv6Address(last or first)),)
    seconds = {"lease": timedelta(seconds=4000), "preferred": timedelta(seconds=3000)}
    return subnet6(**({"pools": pools, "boot": False, "enrols": False} | seconds | changes))


def site(*subnets: Subnet6Plan, **changes: Any) -> Dhcp6Config:
    return config6(*(subnets or (plan(),)), boot=None, **changes)


def duid(number: int) -> Any:
    return six.DUID_LLT(timeval=number, lladdr=f"02:00:00:00:00:{number:02x}")


def ia(number: int = 1, *addresses: str) -> Any:
    inside = [six.DHCP6OptIAAddress(addr=one) for one in addresses]
    return six.DHCP6OptIA_NA(iaid=number, ianaopts=inside)


def ask(*codes: int) -> Any:
    return six.DHCP6OptOptReq(reqopts=list(codes))


KINDS = {
    Kind6.SOLICIT: six.DHCP6_Solicit,
    Kind6.REQUEST: six.DHCP6_Request,
    Kind6.CONFIRM: six.DHCP6_Confirm,
    Kind6.RENEW: six.DHCP6_Renew,
    Kind6.REBIND: six.DHCP6_Rebind,
    Kind6.RELEASE: six.DHCP6_Release,
    Kind6.DECLINE: six.DHCP6_Decline,
    Kind6.INFORMATION_REQUEST: six.DHCP6_InfoRequest,
}
TO_US = (Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE)
ADVERTISE, REPLY = six.DHCP6_Advertise, six.DHCP6_Reply


@dataclass(frozen=True)
class Say:
    """One message, and the reply that must come; `reply` None: none may come.

    `ias` are what each IA of the reply holds: an address, or the number of a status.
    """

    kind: Kind6
    reply: Any
    options: tuple[Any, ...] = ()
    ias: tuple[str | int, ...] | None = None
    status: int | None = None
    client: int | None = 1
    server: bytes | None = None
    multicast: bool = True
    after: float = 0.0
    check: Callable[[Any], bool] = field(default=lambda reply: True)


def solicit(*options: Any, **more: Any) -> Say:
    return Say(Kind6.SOLICIT, more.pop("reply", ADVERTISE), options or (ia(),), **more)


def told(kind: Kind6, *options: Any, **more: Any) -> Say:
    """Say something that must name us, or must not."""
    server = SERVER_DUID if kind in TO_US else None
    return Say(kind, more.pop("reply", REPLY), options or (ia(),), **({"server": server} | more))


def request(*options: Any, **more: Any) -> Say:
    return told(Kind6.REQUEST, *options, **more)


def inside(reply: Any, code: int) -> Any:
    """Find an option of a reply as scapy reads it; None when it is absent."""
    return next((one for one in options_of(reply) if one.optcode == code), None)


def options_of(reply: Any) -> Iterator[Any]:
    """Walk the layers after the head, which answers for its payload's fields too."""
    layer = reply.payload
    while not isinstance(layer, NoPayload):
        yield layer
        layer = layer.payload


def nothing_but_identities(reply: Any) -> bool:
    return [one.optcode for one in options_of(reply)] == [7, 3, 1, 2]


def lent(reply: Any) -> list[tuple[str, int, int]]:
    found = inside(reply, 3).ianaopts
    return [(one.addr, one.preflft, one.validlft) for one in found if one.optcode == 5]


BOUND = (solicit(ias=(ONE,)), request(ia(1, ONE), ias=(ONE,)))
CASES: dict[str, tuple[Dhcp6Config, tuple[Say, ...]]] = {
    "four messages": (site(), BOUND),
    "lifetimes, T1 and T2": (
        site(),
        (
            request(
                check=lambda reply: (
                    (inside(reply, 3).T1, inside(reply, 3).T2) == (1500, 2400)
                    and lent(reply) == [(ONE, 3000, 4000)]
                )
            ),
        ),
    ),
    "timers of the plan": (
        site(plan(renewal=timedelta(seconds=111), rebinding=timedelta(seconds=222))),
        (solicit(check=lambda reply: (inside(reply, 3).T1, inside(reply, 3).T2) == (111, 222)),),
    ),
    "another client finds an empty pool": (
        site(),
        (*BOUND, solicit(client=2, ias=(NO_ADDRESS,)), request(client=2, ias=(NO_ADDRESS,))),
    ),
    "another IA of the same client too": (
        site(),
        (*BOUND, solicit(ia(2), ias=(NO_ADDRESS,)), request(ia(2, ONE), ias=(NO_ADDRESS,))),
    ),
    "three IAs in one REQUEST that name one address": (
        site(plan(ONE, "fd00:41:7::52")),
        (
            request(
                ia(1, ONE),
                ia(2, ONE),
                ia(3, ONE),
                check=lambda reply: len(set(addresses(reply))) == 3,
            ),
        ),
    ),
    "the address that a client asks for, where it is free": (
        site(plan(ONE, "fd00:41:7::5f")),
        (
            solicit(ia(1, "fd00:41:7::57"), ias=("fd00:41:7::57",)),
            request(ia(1, "fd00:41:7::57"), ias=("fd00:41:7::57",)),
            request(
                ia(1, "fd00:41:7::57"),
                client=2,
                check=lambda reply: addresses(reply) != ["fd00:41:7::57"],
            ),
        ),
    ),
    "a REQUEST for an address of elsewhere": (
        site(),
        (request(ia(1, ELSEWHERE), ias=(NOT_ON_LINK,)),),
    ),
    "CONFIRM": (
        site(),
        (
            *BOUND,
            told(Kind6.CONFIRM, ia(1, ONE), status=NONE),
            told(Kind6.CONFIRM, ia(1, ELSEWHERE), status=NOT_ON_LINK),
            told(Kind6.CONFIRM, reply=None),
        ),
    ),
    "RENEW and REBIND lengthen": (
        site(),
        tuple(
            say
            for kind in (Kind6.RENEW, Kind6.REBIND)
            for say in (*BOUND, told(kind, ia(1, ONE), ias=(ONE,), after=3900))
        ),
    ),
    "RENEW of what another has": (
        site(plan(ONE, TWO)),
        (
            request(ia(1, ONE), ias=(ONE,)),
            request(ia(1, TWO), client=2, ias=(TWO,)),
            told(
                Kind6.RENEW,
                ia(1, TWO),
                check=lambda reply: lent(reply) == [(ONE, 3000, 4000), (TWO, 0, 0)],
            ),
            told(
                Kind6.RENEW,
                ia(1, TWO),
                client=2,
                check=lambda reply: lent(reply) == [(TWO, 3000, 4000)],
            ),
        ),
    ),
    "RENEW and REBIND of what nobody gave": (
        site(plan(ONE, TWO)),
        (
            told(Kind6.RENEW, ia(1, TWO), ias=(TWO,)),
            told(Kind6.REBIND, ia(1, ONE), client=2, ias=(ONE,)),
            told(Kind6.REBIND, ia(1, ONE), client=3, ias=(NO_BINDING,)),
        ),
    ),
    "REBIND with an address of a network that is no more": (
        site(),
        (
            told(
                Kind6.REBIND,
                ia(1, ELSEWHERE),
                check=lambda reply: lent(reply) == [(ONE, 3000, 4000), (ELSEWHERE, 0, 0)],
            ),
        ),
    ),
    "RELEASE": (
        site(),
        (
            *BOUND,
            told(Kind6.RELEASE, ia(2, ONE), status=NONE, ias=(NO_BINDING,)),
            told(Kind6.RELEASE, ia(1, ONE), client=2, status=NONE, ias=(NO_BINDING,)),
            solicit(client=3, ias=(NO_ADDRESS,)),
            told(Kind6.RELEASE, ia(1, ONE), status=NONE, ias=(NONE,)),
            told(Kind6.RELEASE, ia(1, ONE), status=NONE, ias=(NO_BINDING,)),
            solicit(client=3, ias=(ONE,)),
        ),
    ),
    "RELEASE of several IAs, one of them gone": (
        site(plan(ONE, TWO)),
        (
            request(ia(1, ONE), ia(2, TWO), ias=(ONE, TWO)),
            told(Kind6.RELEASE, ia(1, ONE), ias=(NONE,)),
            told(Kind6.RELEASE, ia(1, ONE), ia(2, TWO), status=NONE, ias=(NO_BINDING, NONE)),
        ),
    ),
    "DECLINE": (
        site(quarantine=timedelta(seconds=60)),
        (
            *BOUND,
            told(Kind6.DECLINE, ia(1, ONE), client=2, ias=(NO_BINDING,)),
            told(Kind6.DECLINE, ia(1, ONE), status=NONE, ias=(NONE,)),
            solicit(client=2, ias=(NO_ADDRESS,)),
            solicit(ias=(NO_ADDRESS,)),
            solicit(client=2, ias=(ONE,), after=61),
        ),
    ),
    "a lease that ended": (
        site(),
        (*BOUND, solicit(client=2, ias=(NO_ADDRESS,)), solicit(client=2, ias=(ONE,), after=4001)),
    ),
    "rapid commit": (
        site(plan(rapid_commit=True)),
        (
            solicit(
                ia(),
                six.DHCP6OptRapidCommit(),
                reply=REPLY,
                ias=(ONE,),
                check=lambda reply: inside(reply, 14) is not None,
            ),
            solicit(client=2, ias=(NO_ADDRESS,), check=lambda reply: inside(reply, 14) is None),
        ),
    ),
    "rapid commit where the plan has none": (
        site(),
        (solicit(ia(), six.DHCP6OptRapidCommit(), check=lambda reply: inside(reply, 14) is None),),
    ),
    "prefixes and temporary addresses": (
        site(),
        (
            solicit(
                six.DHCP6OptIA_PD(iaid=7),
                six.DHCP6OptIA_TA(iaid=8),
                check=lambda reply: (
                    inside(reply, 25).iapdopt[0].statuscode == NO_PREFIX
                    and inside(reply, 4).iataopts[0].statuscode == NO_ADDRESS
                    and inside(reply, 3) is None
                ),
            ),
        ),
    ),
    "settings without an address": (
        site(options=(OptionValue(code=7, data=b"\x7b"),)),
        (
            told(
                Kind6.INFORMATION_REQUEST,
                ask(7, 23, 24, 32, 82, 83),
                client=None,
                check=lambda reply: (
                    inside(reply, 1) is None
                    and inside(reply, 7).prefval == 123
                    and inside(reply, 23).dnsservers == [str(US)]
                    and inside(reply, 24).dnsdomains == ["shop.example.net."]
                    and inside(reply, 32).reftime == 4000
                    and bytes(inside(reply, 82)).startswith(b"\0\x52\0\4\0\0\x02\x58")
                    and bytes(inside(reply, 83)).startswith(b"\0\x53\0\4\0\0\x02\x58")
                ),
            ),
            told(Kind6.INFORMATION_REQUEST, ask(23), check=lambda reply: inside(reply, 1)),
            told(Kind6.INFORMATION_REQUEST, ia(), reply=None),
            told(Kind6.INFORMATION_REQUEST, ask(23), multicast=False, reply=None),
        ),
    ),
    "no option that was not asked for": (
        site(options=(OptionValue(code=31, data=bytes(16)),)),
        (
            solicit(check=nothing_but_identities),
            solicit(ia(), ask(31), check=lambda reply: inside(reply, 31).sntpservers == ["::"]),
        ),
    ),
    "unicast": (
        site(),
        (
            *(told(kind, ia(1, ONE), multicast=False, status=MULTICAST, ias=()) for kind in TO_US),
            solicit(multicast=False, reply=None),
            told(Kind6.CONFIRM, ia(1, ONE), multicast=False, reply=None),
            told(Kind6.REBIND, ia(1, ONE), multicast=False, reply=None),
            *BOUND,
        ),
    ),
    "who is named, and who is not": (
        site(),
        (
            *(told(kind, ia(1, ONE), server=None, reply=None) for kind in TO_US),
            *(told(kind, ia(1, ONE), server=b"\0\4" + bytes(16), reply=None) for kind in TO_US),
            *(told(kind, ia(1, ONE), client=None, reply=None) for kind in TO_US),
            solicit(server=SERVER_DUID, reply=None),
            solicit(client=None, reply=None),
            told(Kind6.CONFIRM, ia(1, ONE), server=SERVER_DUID, reply=None),
            told(Kind6.REBIND, ia(1, ONE), server=SERVER_DUID, reply=None),
        ),
    ),
    "a reserved address is its client's alone": (
        site(
            plan(ONE, TWO),
            reservations=(
                Reservation6(duid=bytes(duid(5)), address=IPv6Address(TWO), name="till-5"),
            ),
        ),
        (
            request(ia(1, TWO), ias=(ONE,)),
            request(ia(1, TWO), client=2, ias=(NO_ADDRESS,)),
            request(client=5, ias=(TWO,)),
        ),
    ),
    "reconfigure is accepted by the client and never used": (
        site(),
        (solicit(ia(), six.DHCP6OptReconfAccept(), check=lambda reply: inside(reply, 20) is None),),
    ),
    "two networks on one wire": (
        site(
            plan(shared="hall"),
            plan(
                "fd00:42::50",
                name="two",
                network=IPv6Network("fd00:42::/64"),
                appliance=IPv6Address("fd00:42::2"),
                shared="hall",
            ),
        ),
        (
            *BOUND,
            request(client=2, ias=("fd00:42::50",)),
            request(client=3, ias=(NO_ADDRESS,)),
            told(Kind6.CONFIRM, ia(1, "fd00:42::50"), client=2, status=NONE),
        ),
    ),
}


def addresses(reply: Any) -> list[str]:
    return [one for one in states(reply) if isinstance(one, str)]


def states(reply: Any) -> list[str | int]:
    """Say of each IA of a reply which address it has, or which status."""
    found: list[str | int] = []
    for inner in (one.ianaopts for one in options_of(reply) if one.optcode == 3):
        usable = [one.addr for one in inner if one.optcode == 5 and one.validlft]
        found += usable or [one.statuscode for one in inner if one.optcode == 13]
    return found


def packet(say: Say) -> bytes:
    message = KINDS[say.kind](trid=0x123456)
    if say.client is not None:
        message /= six.DHCP6OptClientId(duid=duid(say.client))
    if say.server is not None:
        message /= six.DHCP6OptServerId(duid=say.server)
    for option in say.options:
        message /= option
    return bytes(message)


@pytest.mark.parametrize("name", CASES)
def test_a_conversation_goes_as_the_standards_say(name: str) -> None:
    config, says = CASES[name]
    engine, now = Dhcp6Engine(config, (), SERVER_DUID), NOW
    for number, say in enumerate(says):
        now += say.after
        arrival = Arrival6(interface="eth1", source=WIRE, multicast=say.multicast)
        sends = engine.receive(packet(say), arrival, now).sends
        where = f"{name}, message {number}: {say.kind.name}"
        if say.reply is None:
            assert sends == (), where
            continue
        (sent,) = sends
        reply = say.reply(sent.data)
        assert (reply.msgtype, reply.trid) == (say.reply().msgtype, 0x123456), where
        assert bytes(inside(reply, 2).duid) == SERVER_DUID, where
        if say.client is not None:
            assert bytes(inside(reply, 1).duid) == bytes(duid(say.client)), where
        if say.status is not None:
            assert inside(reply, 13).statuscode == say.status, where
        if say.ias is not None:
            assert states(reply) == list(say.ias), where
        assert say.check(reply), f"{where}: {reply.show(dump=True)}"
