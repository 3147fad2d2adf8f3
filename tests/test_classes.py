"""Classes of both families: what is asked, from the site file to who is in them."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import pytest
from dhcp6_lab import (
    FIRST,
    LAST,
    SERVER_DUID,
    US,
    Server6,
    config6,
    duid_ll,
    firmware,
    given,
    ia,
    link_local,
    message6,
    oro,
    subnet6,
)
from dhcp_lab import ADDRESS, Server, config, mac, message, pxe

from bootstrap.check_network import check_network
from bootstrap.planning_network import client_class, options
from bootstrap.planning_network import subnet6 as plan_subnet6
from bootstrap.site import SiteFileError, decode_netboot_site
from bootstrap.site_netboot import NetbootSite
from netboot.classes import classify, matches
from netboot.client import Facts, facts_of
from netboot.dhcp6_boot import facts_of6
from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import Code6, Options6, VendorClass
from netboot.dhcp6_request import client_of6
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.network import ClientClass, Conditions, Match, OptionValue, Parameters, Reservation6
from netboot.plan_form import decode, encode

HEAD = """
[site]
id = "lab"
domain = "lab.example.net"
[[subnet]]
name = "boxes"
interface = "eth1"
network = "10.46.0.0/24"
appliance = "10.46.0.1"
pool = "10.46.0.100-10.46.0.150"
"""
A, B = duid_ll(mac(1)), duid_ll(mac(2))


def site(text: str) -> NetbootSite:
    return decode_netboot_site((HEAD + text).encode())


def classes(text: str) -> tuple[ClientClass, ...]:
    return tuple(map(client_class, site(text).classes))


def said4(*options: tuple[int, bytes], client: bytes = mac(1), **header: Any) -> Facts:
    return facts_of(Message.decode(message(MessageType.DISCOVER, client, *options, **header)))


def relay(*options: tuple[int, bytes], link: IPv6Address = US) -> Relay6:
    return Relay6(
        kind=Kind6.RELAY_FORWARD,
        hops=0,
        link=link,
        peer=link_local(mac(1)),
        options=Options6(items=options),
    )


def said6(*options: tuple[int, bytes], relays: tuple[Relay6, ...] = ()) -> Facts:
    message = Packet6.decode(message6(Kind6.SOLICIT, A, *options)).message
    packet = Packet6(message=message, relays=relays)
    return facts_of6(packet, client_of6(packet, link_local(mac(1))))


def vendor(*names: bytes) -> tuple[int, bytes]:
    return Code6.VENDOR_CLASS, VendorClass(enterprise=343, classes=names).encode()


AGENT = (Code.RELAY_AGENT, b"\1\2p7\2\3sw1\3\1\1\x0c\3far")
CIRCUIT, REMOTE = (18, b"p7"), (37, b"\0\0\0\x09sw1")
QUESTIONS = [
    # TOML, who is in it, who is not
    ('vendor_class = "PXEClient"', [said4(*pxe()), said6(vendor(b"PXEClient:x"))], [said4()]),
    ('vendor_class = "two"', [said6(vendor(b"one", b"two"))], [said6(vendor(b"one"))]),
    ('user_class = "till"', [said4((77, b"\4till")), said6((15, b"\0\4till"))], [said6()]),
    ("architecture = 7", [said4(*pxe(7)), said6((61, b"\0\7"))], [said6((61, b"\0\6"))]),
    ('mac = "02:01"', [said4(), said6()], [said4(client=b"\x0a" * 6)]),
    (
        'circuit_id = "p7"',
        [said4(AGENT), said6(relays=(relay(CIRCUIT),))],
        [said4(), said6(), said6(relays=(relay((18, b"p8")),))],
    ),
    (
        'remote_id = "sw1"',
        [said4(AGENT), said6(relays=(relay(REMOTE),))],
        [said6(relays=(relay((37, b"sw1")),))],
    ),
    (
        'relay = ["10.0.0.1", "fd00::1"]',
        [
            said4(giaddr=ADDRESS("10.0.0.1")),
            said6(relays=(relay(link=IPv6Address("fd00::1")),)),
        ],
        [said4(), said6(), said6(relays=(relay(),))],
    ),
    ("relay_option = { 3 = true }", [said4(AGENT)], [said4(), said6()]),
    ('relay_option = { 12 = "far" }', [said4(AGENT)], [said4((82, b"\x0c\3fax"))]),
    ('relay_option = { 38 = "who" }', [said6(relays=(relay((38, b"who")),))], [said4(AGENT)]),
    (
        'option = { vendor-class-identifier = { at = 3, is = "Client" } }',
        [said4(*pxe())],
        [said4((60, b"Client")), said4((60, b"PXEclient")), said4((60, b"PXEClien")), said6()],
    ),
    ('option = { 61 = { is = "hex:ff01" } }', [said4((61, b"\xff\x01\2"))], [said4((61, b"\xff"))]),
    ("option = { 61 = true, 77 = true }", [said4((61, b"x"), (77, b"\1y"))], [said4((61, b"x"))]),
    ("option6 = { 16 = true }", [said6(vendor(b"x"))], [said6(), said4(*pxe())]),
    (
        'option6 = { 39 = { at = 1, is = "hex:0374696c" } }',
        [said6((39, b"\0\3til\0"))],
        [said6((39, b"\3til\0"))],
    ),
    ("option6 = { sol-max-rt = 60 }", [said6((82, b"\0\0\0\x3c"))], [said6((82, b"\0\0\0\x3d"))]),
    (
        'vendor_class = "PXE"\nnot = { mac = "02:01:00:00:00:02" }',
        [said4(*pxe())],
        [said4(*pxe(), client=mac(2)), said4()],
    ),
    (
        'not = { vendor_class = "PXE", architecture = 7 }',
        [said4(), said4(*pxe(6)), said6()],
        [said4(*pxe(7)), said6(vendor(b"PXE"), (61, b"\0\7"))],
    ),
    ("not = { option = { 61 = true } }", [said4()], [said4((61, b"x"))]),
]


@pytest.mark.parametrize(("text", "those", "others"), QUESTIONS, ids=[one[0] for one in QUESTIONS])
def test_who_is_in_a_class(text: str, those: list[Facts], others: list[Facts]) -> None:
    (asked,) = classes(f'[[class]]\nname = "x"\n{text}\n')
    assert [matches(asked.match, facts) for facts in those] == [True] * len(those)
    assert [matches(asked.match, facts) for facts in others] == [False] * len(others)
    assert decode(ClientClass, encode(asked)) == asked


MEMBERS = """
[[class]]
name = "firmware"
vendor_class = ["PXEClient", "HTTPClient"]
[[class]]
name = "ours"
mac = "02:01"
[[class]]
name = "ours-booting"
member = "firmware"
not = { mac = "02:01:00:00:00:02" }
[[class]]
name = "others"
not = { member = ["firmware", "ours"] }
"""


def test_a_class_may_ask_for_members_of_those_before_it() -> None:
    known = classes(MEMBERS)

    def names(facts: Facts) -> list[str]:
        return [one.name for one in classify(facts, known)]

    assert names(said4(*pxe())) == ["firmware", "ours", "ours-booting"]
    assert names(said4(*pxe(), client=mac(2))) == ["firmware", "ours"]
    assert names(said4(client=b"\x0a" * 6)) == ["others"]
    assert names(said6(*firmware())) == ["firmware", "ours", "ours-booting"]


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ('option = { 60 = { at = -1, is = "x" } }', "class.x.option.60", "expected { at = 0"),
        ('option = { 60 = { at = 1, si = "x" } }', "class.x.option.60", "expected"),
        ("option = { clas = true }", "class.x.option.clas", "there is no option clas"),
        ("option6 = { vendor-classs = true }", "class.x.option6.vendor-classs", "no DHCPv6 option"),
        ('relay_option = { circuit = "x" }', "class.x.relay_option.circuit", "write its number"),
        ('not = { macc = "02" }', "class.x.not.macc", "did you mean mac"),
        ('relay = "10.0.0"', "class.x.relay", ""),
    ],
)
def test_a_mistake_is_named_with_what_to_do(text: str, key: str, said: str) -> None:
    with pytest.raises(SiteFileError) as caught:
        site(f'[[class]]\nname = "x"\n{text}\n')
    (problem,) = caught.value.problems
    assert problem.key.startswith(key)
    assert said in f"{problem.what}: {problem.remedy}"


def test_a_class_that_is_not_there_or_comes_later_is_named() -> None:
    text = """
[[class]]
name = "a"
member = "b"
[[class]]
name = "b"
not = { member = "c" }
[[boot.rule]]
name = "r"
member = ["a", "d"]
file = "http://elsewhere.example/x"
[[subnet6]]
name = "six"
interface = "eth1"
network = "fd00::/64"
appliance = "fd00::1"
pool = "fd00::10-fd00::20"
classes = ["a", "e"]
"""
    found = {problem.key: problem.what for problem in check_network(site(text))}
    assert found["class.a.member"] == "there is no [[class]] b before it"
    assert found["class.b.not.member"] == "there is no [[class]] c before it"
    assert found["boot.rule.r.member"] == "there is no [[class]] d before it"
    assert found["subnet6.six.classes"] == "there is no [[class]] e"


def test_an_ignored_class_gets_no_answer_in_either_family() -> None:
    phones = ClientClass(name="phones", match=Match(mac=(mac(1),)), ignored=True)
    server, six = Server(config(classes=(phones,))), Server6(config6(classes=(phones,)))
    assert server.send(message(MessageType.DISCOVER, mac(1))).sends == ()
    assert server.send(message(MessageType.DISCOVER, mac(2))).sends != ()
    assert six.send(message6(Kind6.SOLICIT, A, ia())).sends == ()
    assert six.send(message6(Kind6.SOLICIT, B, ia()), link_local(mac(2))).sends != ()


# IPv6: what a class is given


TILLS = ClientClass(
    name="tills",
    match=Match(user_class=(b"till",)),
    parameters=Parameters(),
    options6=(OptionValue(code=31, data=b"class"), OptionValue(code=23, data=b"c" * 16)),
)
TILL = (int(Code6.USER_CLASS), b"\0\4till")


def test_options_of_a_class_go_before_the_subnet_s_and_after_the_reservation_s() -> None:
    own = Reservation6(
        duid=A, address=FIRST, name=None, options=(OptionValue(code=23, data=b"r" * 16),)
    )
    plan = subnet6(options=(OptionValue(code=31, data=b"net"),))
    server = Server6(config6(plan, classes=(TILLS,), reservations=(own,)))
    mine = server.solicit(A, ia(), oro(23, 31), TILL).options
    assert (mine.get(31), mine.get(23)) == (b"class", b"r" * 16)
    assert server.solicit(A, ia(), oro(31)).options.get(31) == b"net"


def test_a_subnet_for_a_class_lends_to_nobody_else() -> None:
    server = Server6(config6(subnet6(classes=frozenset({"tills"})), classes=(TILLS,)))
    assert given(server.solicit(A, ia())) == ()
    assert server.solicit(A, ia(), oro(23)).options.get(23) == US.packed
    (lent,) = given(server.request(A, ia(), TILL))
    # the system that asks next says nothing of a till, and keeps what the box has
    renewed = server.ask(message6(Kind6.RENEW, A, ia(1, lent.address), server=SERVER_DUID))
    assert [one.address for one in given(renewed)] == [lent.address]


def test_a_boot_rule_may_ask_for_a_class() -> None:
    text = (
        MEMBERS
        + '[[boot.rule]]\nname = "r"\nmember = "ours-booting"\nfile = "http://x.example/b"\n'
    )
    rule = site(text).boot.rules[0]
    assert rule.member == ("ours-booting",)


def relayed(server: Server6, *told: tuple[int, bytes], duid: bytes = A) -> tuple[IPv6Address, ...]:
    asked = message6(Kind6.REQUEST, duid, ia(), server=SERVER_DUID)
    link = IPv6Address("fd00:77::1")
    packet = Packet6(message=Packet6.decode(asked).message, relays=(relay(*told, link=link),))
    sends = server.send(packet.encode(), IPv6Address("fd00:77::1"), multicast=False).sends
    replies: list[Message6] = [Packet6.decode(sent.data).message for sent in sends]
    return tuple(lent.address for reply in replies for lent in given(reply))


def test_a_relay_s_interface_id_names_the_subnet() -> None:
    one = subnet6(circuits=(b"hall",), relayed=True)
    two = subnet6(
        name="two",
        network=plan_subnet6(TWO, enrols=False).network,
        pools=((IPv6Address("fd00:42::10"), IPv6Address("fd00:42::20")),),
        relayed=True,
        circuits=(b"yard",),
        relays=(IPv6Address("fd00:77::1"),),
    )
    server = Server6(config6(one, two))
    (here,) = relayed(server, (18, b"hall"))
    (there,) = relayed(server, (18, b"yard"), duid=B)
    assert here in one.network
    assert there in two.network
    (third,) = relayed(server, (18, b"unknown"), duid=duid_ll(mac(3)))
    assert third in two.network  # the link address says


(TWO,) = site("""
[[subnet6]]
name = "two"
interface = "eth1"
network = "fd00:42::/64"
appliance = "fd00:42::1"
pool = "fd00:42::10-fd00:42::20"
circuits = ["yard", "hex:00ff"]
renewal = "100s"
rebinding = "200s"
""").subnets6


def test_the_site_file_says_circuits_and_timers() -> None:
    plan = plan_subnet6(TWO, enrols=False)
    assert plan.circuits == (b"yard", b"\x00\xff")
    assert (plan.renewal, plan.rebinding) == (TWO.renewal, TWO.rebinding)
    assert plan.renewal is not None
    assert plan.renewal.total_seconds() == 100


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"circuit_id": b"p7"}, CIRCUIT),
        ({"remote_id": b"sw1"}, REMOTE),
        ({"mac": mac(9)}, (79, b"\0\1" + mac(9))),
    ],
)
def test_a_reservation_by_what_the_relay_says(known: dict[str, Any], told: Any) -> None:
    wanted = IPv6Address("fd00:41:7::77")
    entry = Reservation6(address=wanted, name="till-7", **known)
    link = (IPv6Address("fd00:77::1"),)
    server = Server6(config6(subnet6(relays=link), reservations=(entry,)))
    assert relayed(server, told) == (wanted,)
    (other,) = relayed(server, duid=B)
    assert other != wanted


def test_a_reservation_without_an_address_says_name_and_options() -> None:
    own = (OptionValue(code=31, data=b"own", always=True),)
    entry = Reservation6(duid=A, address=None, name="till-1", options=own)
    server = Server6(config6(reservations=(entry,)))
    reply = server.request(A)
    (lent,) = given(reply)
    assert FIRST <= lent.address <= LAST
    assert reply.options.get(31) == b"own"
    assert [lease.name for lease in server.engine.leases(server.now)] == ["till-1"]
    assert server.request(B, source=link_local(mac(2))).options.get(31) is None


def test_options_that_are_always_sent_are_read_and_need_a_value() -> None:
    text = """
[dhcp]
options6 = { sntp-servers = "fd00::7" }
always6 = "sntp-servers"
[[subnet6]]
name = "six"
interface = "eth1"
network = "fd00::/64"
appliance = "fd00::1"
pool = "fd00::10-fd00::20"
lease = "8s"
options = { 200 = "x" }
always = [200, "preference"]
[[reservation6]]
name = "till-1"
remote_id = "sw1"
always = "bootfile-url"
"""
    read = site(text)
    assert [one.always for one in options(read.dhcp.options6, read.dhcp.always6)] == [True]
    assert [one.always for one in plan_subnet6(read.subnets6[0], enrols=False).options] == [True]
    found = {problem.key: problem.what for problem in check_network(read)}
    assert found["subnet6.six.always"] == "DHCPv6 option 7 is not among the options here"
    assert found["reservation6.till-1.always"] == "DHCPv6 option 59 is not among the options here"
    assert "dhcp.always6" not in found


def test_conditions_are_flat_and_their_defaults_ask_nothing() -> None:
    assert matches(Match(), said4())
    assert not matches(Match(excluded=Conditions()), said4())
